// HTTP/1.1 messages out of bytes, stricter than Beast, which does the parsing: what two programs
// may read differently is refused (request smuggling).
//
// Safety: sans-io: no clock, no descriptor; one thread. Bytes are a stranger's.
//
// Crash: holds nothing.
//
// Errors: a Refusal, 400 or 431 with `close` set for a request; of an answer 502.
//
// Invariants:
//  1. A message that is accepted has one framing, and no field that could be read as another.
#pragma once

#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/buffer_body.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "wire/refusal.hpp"

namespace modelpool::serve {

namespace http = boost::beast::http;

inline constexpr std::size_t kHeadMax_bytes = 32 * 1024;

enum class Framing {
  kNone,        // no body
  kLength,      // so many bytes
  kChunked,     // chunks
  kUntilClose,  // an answer that ends with its connection
};

// One message, read piece by piece: first its head, then its body without the chunking.
template <bool is_request>
class MessageReader {
 public:
  using Head = http::header<is_request>;

  MessageReader();
  // Of an answer: to what request method; HEAD has no body.
  explicit MessageReader(std::string_view request_method);

  // Looks for a whole head at the front of `bytes` and takes it: how many bytes it had, 0 if more
  // are needed. Empty lines before a request's head are skipped as part of it.
  Checked<std::size_t> read_head(std::string_view bytes);
  // After read_head took one.
  const Head& head() const;
  Framing framing() const { return framing_; }
  std::uint64_t length() const { return length_; }  // with kLength
  bool keeps_open() const;   // may another message follow on the connection?
  bool expects_continue() const { return expects_continue_; }
  // The token of Upgrade where Connection names it; empty: none.
  std::string_view upgrade() const { return upgrade_; }

  struct Taken {
    std::size_t in = 0;   // bytes taken from the front of `bytes`
    std::size_t out = 0;  // bytes of body put into `room`
  };
  // REQUIRES: a head was read. Takes nothing once the body is whole.
  Checked<Taken> read_body(std::string_view bytes, std::span<char> room);
  bool is_whole() const;  // head and body were read
  // The connection has ended. Errors: the message is cut off.
  Checked<> end_of_input();

 private:
  Framing framing_ = Framing::kNone;
  std::uint64_t length_ = 0;
  bool expects_continue_ = false;
  std::string upgrade_;
  std::string method_;  // of the request that this answers
  std::unique_ptr<http::parser<is_request, http::buffer_body>> parser_;
};

using RequestReader = MessageReader<true>;
using AnswerReader = MessageReader<false>;

}  // namespace modelpool::serve
