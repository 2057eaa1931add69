// HTTP/1.1 messages out of bytes, stricter than Beast, which takes heads apart: what two programs
// may read differently is refused (request smuggling).
//
// Safety: sans-io: no clock, no descriptor; one thread. Bytes are a stranger's.
//
// Crash: holds nothing.
//
// Errors: a Refusal with `close` set. Of a request 400, 414 and 431 (too long), 417 (an Expect that
// is not known), 505 (HTTP/2); of an answer 502.
//
// Invariants:
//  1. A message that is accepted has one framing, and no field that could be read as another.
//  2. How the bytes are cut into pieces changes nothing; each is looked at once.
#pragma once

#include <boost/beast/http/message.hpp>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "wire/refusal.hpp"

namespace modelpool::serve {

namespace http = boost::beast::http;

inline constexpr std::size_t kHeadMax_bytes = 32 * 1024;
inline constexpr std::size_t kFieldsMax = 256;
inline constexpr std::size_t kChunkExtrasMax_bytes = 8 * 1024;  // extensions and trailers together

enum class Framing {
  kNone,        // no body
  kLength,      // so many bytes
  kChunked,     // chunks
  kUntilClose,  // an answer that ends with its connection
};

// One message, read piece by piece: first its head, then its body without the chunking. When it is
// whole, read_head begins the next one of the connection: behind a request the next request, behind
// 1xx (no body: whole with its head) the answer itself. 101 is whole too; what follows it is not
// HTTP.
//
// An HTTP/1.0 request may lack Host (RFC 9112, 3.2); one with an absolute target gets it from
// there.
template <bool is_request>
class MessageReader {
 public:
  using Head = http::header<is_request>;

  MessageReader() = default;
  // Of an answer: to what request method; HEAD has no body.
  explicit MessageReader(std::string_view request_method) : method_(request_method) {}

  // Looks for a whole head at the front of `bytes` and takes it: how many bytes it had, 0 if more
  // are needed; then the next call passes the same bytes and more behind them. Empty lines before a
  // request's head are skipped as part of it.
  Checked<std::size_t> read_head(std::string_view bytes);
  // After read_head took one. The target is in origin form, or * of OPTIONS.
  const Head& head() const { return head_; }
  Framing framing() const { return framing_; }
  std::uint64_t length() const { return length_; }  // with kLength
  bool keeps_open() const { return keeps_open_; }   // may another message follow?
  bool expects_continue() const { return expects_continue_; }
  // The token of Upgrade where Connection names it, of an HTTP/1.1 message without a body; empty:
  // none, or more than one.
  std::string_view upgrade() const { return upgrade_; }

  struct Taken {
    std::size_t in = 0;   // bytes taken from the front of `bytes`
    std::size_t out = 0;  // bytes of body put into `room`
  };
  // REQUIRES: a head was read. Takes all bytes there are, up to the end of the body or until `room`
  // is full; nothing once the body is whole.
  Checked<Taken> read_body(std::string_view bytes, std::span<char> room);
  bool is_whole() const { return at_ == At::kWhole; }  // head and body were read
  // The connection has ended. Errors: the message is cut off.
  Checked<> end_of_input();

 private:
  enum class At {
    kHead,
    kLength,
    kUntilClose,
    kSize,
    kExtension,
    kSizeEnd,
    kChunk,
    kChunkCr,
    kChunkEnd,
    kTrailerStart,
    kTrailer,
    kTrailerEnd,
    kLastEnd,
    kWhole,
    kRefused,
  };

  tl::unexpected<Refusal> bad(const std::string& reason, int status = 400,
                              const char* code = "bad_request");
  Checked<std::size_t> find_end(std::string_view bytes);
  Checked<> parse(std::string_view head);
  Checked<> check_start();
  Checked<> check_fields();
  Checked<> check_target();
  Checked<> begin_body(int lengths, int codings, std::string_view length, std::string_view coding);
  Checked<> take_framing(char c);
  Checked<> take_size(char c);
  Checked<> take_extra(char c, At end);

  At at_ = At::kHead;
  Head head_;
  Framing framing_ = Framing::kNone;
  std::uint64_t length_ = 0;
  bool keeps_open_ = false;
  bool expects_continue_ = false;
  std::string upgrade_;
  std::string method_;  // of the request that this answers

  std::size_t scanned_ = 0;     // bytes of the head that were looked at
  std::size_t line_start_ = 0;  // of the last line of these
  std::size_t start_ = 0;       // behind empty lines
  std::size_t lines_ = 0;
  std::uint64_t left_ = 0;  // of the body or the chunk
  unsigned size_digits_ = 0;
  std::size_t extras_ = 0;
};

using RequestReader = MessageReader<true>;
using AnswerReader = MessageReader<false>;

}  // namespace modelpool::serve
