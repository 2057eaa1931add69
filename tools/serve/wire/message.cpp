#include "wire/message.hpp"

#include <algorithm>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "wire/tokens.hpp"

namespace modelpool::serve {
namespace {

constexpr unsigned kSizeDigitsMax = 15;  // of a chunk; 16 would not fit into a signed number

// What may stand in Host and in the authority of a target, which has no user here.
bool is_host(std::string_view text) {
  const auto fits = [](char c) {
    return is_token_char(c) ? std::string_view("#^`|").find(c) == std::string_view::npos
                            : std::string_view("()=:;[]").find(c) != std::string_view::npos;
  };
  if (text.empty() || !std::all_of(text.begin(), text.end(), fits)) return false;
  std::string_view port;
  if (text.front() == '[') {
    const std::size_t end = text.find(']');
    if (end == std::string_view::npos) return false;
    port = text.substr(end + 1);
  } else {
    if (text.find_first_of("[]") != std::string_view::npos) return false;
    const std::size_t colon = text.find(':');
    if (colon == 0) return false;
    if (colon != std::string_view::npos) port = text.substr(colon);
  }
  if (port.empty()) return true;
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  return port.front() == ':' && std::all_of(port.begin() + 1, port.end(), is_digit);
}

}  // namespace

template <bool is_request>
tl::unexpected<Refusal> MessageReader<is_request>::bad(const std::string& reason, int status,
                                                       const char* code) {
  at_ = At::kRefused;
  auto refusal = is_request
                     ? refuse(status, code, "unable to read the request: " + reason)
                     : refuse(502, "bad_answer", "unable to read the backend's answer: " + reason);
  refusal.value().close = true;
  return refusal;
}

template <bool is_request>
Checked<std::size_t> MessageReader<is_request>::read_head(std::string_view bytes) {
  if (at_ == At::kWhole) *this = MessageReader(method_);
  if (at_ != At::kHead) return bad("its bytes cannot be understood any more; connect again");
  const auto end = find_end(bytes);
  if (!end || *end == 0) return end;
  const auto parsed = parse(bytes.substr(start_, *end - start_));
  if (!parsed) return tl::unexpected(parsed.error());
  return *end;
}

// The bytes that Beast lets pass, and the end of the head; 0: it has not come.
template <bool is_request>
Checked<std::size_t> MessageReader<is_request>::find_end(std::string_view bytes) {
  for (; scanned_ < std::min(bytes.size(), kHeadMax_bytes); ++scanned_) {
    const std::size_t at = scanned_;
    const char c = bytes[at];
    const bool behind_cr = at > 0 && bytes[at - 1] == '\r';
    if (behind_cr != (c == '\n')) {
      return bad(behind_cr ? "a CR without LF"
                           : "a line that ends without CR; end lines with CR LF");
    }
    if (c == '\n') {
      const bool is_empty = at - line_start_ == 1;
      line_start_ = at + 1;
      if (!is_empty) {
        if (++lines_ > kFieldsMax + 1) {
          return bad("more than 256 fields; send fewer", 431, "head_too_large");
        }
      } else if (is_request && lines_ == 0) {
        start_ = at + 1;
      } else {
        return scanned_ = at + 1;
      }
    } else if (is_control(c) && c != '\t' && c != '\r') {
      return bad(is_request && at == 0 && c == 0x16
                     ? "it looks like TLS, which is not spoken here; use http://"
                     : "a control character in its head");
    } else if ((c == ' ' || c == '\t') && at == line_start_ && lines_ > 0) {
      return bad("a line of its head begins with a blank; send each field on one line");
    }
  }
  if (scanned_ < kHeadMax_bytes) return 0;
  return lines_ == 0 ? bad("its first line has more than 32 KiB", 414, "target_too_long")
                     : bad("its head has more than 32 KiB; send fewer or shorter fields", 431,
                           "head_too_large");
}

template <bool is_request>
Checked<> MessageReader<is_request>::parse(std::string_view head) {
  if constexpr (is_request) {
    const std::string_view line = head.substr(0, head.find('\r'));
    const std::string_view version = line.substr(std::min(line.rfind(' '), line.size() - 1) + 1);
    if (version.size() >= 6 && version.substr(0, 5) == "HTTP/" && version[5] >= '2' &&
        version[5] <= '9') {
      return bad("it is " + std::string(version.substr(0, 8)) + "; use HTTP/1.1", 505,
                 "http_version");
    }
  }
  http::parser<is_request, http::empty_body> parser;
  parser.header_limit(static_cast<std::uint32_t>(kHeadMax_bytes));
  parser.body_limit(boost::none);
  parser.skip(true);
  boost::beast::error_code error;
  const std::size_t taken = parser.put(boost::asio::buffer(head.data(), head.size()), error);
  if (error) return bad(error.message());
  if (!parser.is_header_done() || taken != head.size()) return bad("its head has no end");
  head_ = std::move(parser.get().base());
  if (const auto checked = check_start(); !checked) return checked;
  return check_fields();
}

template <bool is_request>
Checked<> MessageReader<is_request>::check_start() {
  if constexpr (is_request) {
    const std::string_view method = view(head_.method_string());
    for (const std::string_view refused : {"CONNECT", "TRACE"}) {
      if (same_word(method, refused)) return bad("the method " + std::string(refused));
    }
  } else if (head_.result_int() < 100 || head_.result_int() > 599) {
    return bad("a status that is none");
  }
  return {};
}

template <bool is_request>
Checked<> MessageReader<is_request>::check_fields() {
  int lengths = 0, codings = 0, hosts = 0, upgrades = 0;
  bool closes = false, keeps_alive = false, upgrade_named = false, continues = false;
  std::string_view length, coding, host, upgrade;
  const bool is_11 = head_.version() >= 11;
  for (const auto& field : head_) {
    const std::string_view value = view(field.value());
    switch (field.name()) {
      case http::field::content_length:
        ++lengths;
        length = value;
        break;
      case http::field::transfer_encoding:
        ++codings;
        coding = value;
        break;
      case http::field::host:
        ++hosts;
        host = value;
        break;
      case http::field::upgrade:
        ++upgrades;
        upgrade = value;
        break;
      case http::field::connection:
        for (const std::string_view word : members(value)) {
          closes |= same_word(word, "close");
          keeps_alive |= same_word(word, "keep-alive");
          upgrade_named |= same_word(word, "upgrade");
        }
        break;
      case http::field::expect:
        if (!is_request || !is_11) break;
        if (!same_word(value, "100-continue")) {
          return bad("an Expect that is not 100-continue; leave it out", 417, "expectation_failed");
        }
        continues = true;
        break;
      default:
        break;
    }
  }
  keeps_open_ = !closes && (is_11 || keeps_alive);
  if constexpr (is_request) {
    if (hosts > 1) return bad("several Host fields; send one");
    if (hosts == 0 && is_11) return bad("no Host field; send one");
    if (hosts == 1 && !is_host(host)) return bad("a Host that is none");
    if (const auto checked = check_target(); !checked) return checked;
  }
  if (const auto begun = begin_body(lengths, codings, length, coding); !begun) return begun;
  const bool has_body =
      framing_ == Framing::kChunked || (framing_ == Framing::kLength && left_ > 0);
  expects_continue_ = continues && has_body;
  if (is_11 && !has_body && upgrade_named && upgrades == 1 && is_token(upgrade)) upgrade_ = upgrade;
  if constexpr (!is_request) {
    if (head_.result_int() == 101) {
      keeps_open_ = false;
      if (upgrade_.empty()) return bad("it switches protocols without saying to which");
    }
  }
  return {};
}

template <bool is_request>
Checked<> MessageReader<is_request>::check_target() {
  if constexpr (is_request) {
    const std::string target(head_.target());
    if (target.find('#') != std::string::npos)
      return bad("a target with #; leave the fragment out");
    if (target.front() == '/') return {};
    const bool is_options = head_.method() == http::verb::options;
    if (target == "*" && is_options) return {};
    const std::size_t scheme = begins_with_word(target, "http://")    ? 7
                               : begins_with_word(target, "https://") ? 8
                                                                      : 0;
    if (scheme == 0) return bad("a target that is no path; begin it with /");
    const std::size_t end = std::min(target.find_first_of("/?", scheme), target.size());
    const std::string authority = target.substr(scheme, end - scheme);
    if (!is_host(authority)) return bad("a target whose host is none");
    const auto host = head_.find(http::field::host);
    if (host == head_.end()) {
      head_.set(http::field::host, authority);
    } else if (!same_word(view(host->value()), authority)) {
      return bad("a target for another host than its Host field says");
    }
    std::string path = target.substr(end);
    if (path.empty() && is_options) {
      path = "*";
    } else if (path.empty() || path.front() == '?') {
      path.insert(0, 1, '/');
    }
    head_.target(path);
  }
  return {};
}

template <bool is_request>
Checked<> MessageReader<is_request>::begin_body(int lengths, int codings, std::string_view length,
                                                std::string_view coding) {
  if (codings > 0) {
    if (head_.version() < 11) return bad("Transfer-Encoding in HTTP/1.0; use HTTP/1.1");
    if (lengths > 0) return bad("both Transfer-Encoding and Content-Length; send one");
    if (codings > 1) return bad("several Transfer-Encoding fields; send one");
    if (!same_word(coding, "chunked")) return bad("a Transfer-Encoding other than chunked");
    framing_ = Framing::kChunked;
    at_ = At::kSize;
  } else if (lengths > 0) {
    if (lengths > 1) return bad("several Content-Length fields; send one");
    const auto number = plain_number(length);
    if (!number || *number > INT64_MAX) return bad("a Content-Length that is no number");
    framing_ = Framing::kLength;
    length_ = left_ = *number;
    at_ = left_ > 0 ? At::kLength : At::kWhole;
  } else {
    framing_ = is_request ? Framing::kNone : Framing::kUntilClose;
    at_ = is_request ? At::kWhole : At::kUntilClose;
  }
  if constexpr (!is_request) {
    const unsigned status = head_.result_int();
    const bool says_body = codings > 0 || left_ > 0;
    if (status < 200 && says_body) return bad("a body with status " + std::to_string(status));
    // Whoever sends one all the same: its bytes are not taken for the next answer.
    if (status == 204 && says_body) keeps_open_ = false;
    if (status < 200 || status == 204 || status == 304 || method_ == "HEAD") {
      framing_ = Framing::kNone;
      length_ = left_ = 0;
      at_ = At::kWhole;
    }
    if (framing_ == Framing::kUntilClose) keeps_open_ = false;
  }
  return {};
}

template <bool is_request>
auto MessageReader<is_request>::read_body(std::string_view bytes, std::span<char> room)
    -> Checked<Taken> {
  Taken taken;
  while (at_ != At::kWhole) {
    if (at_ == At::kHead || at_ == At::kRefused)
      return bad("its body is asked for before its head");
    if (at_ == At::kLength || at_ == At::kChunk || at_ == At::kUntilClose) {
      std::size_t count = std::min(bytes.size() - taken.in, room.size() - taken.out);
      if (at_ != At::kUntilClose) {
        count = static_cast<std::size_t>(std::min<std::uint64_t>(count, left_));
        left_ -= count;
      }
      if (count == 0) break;
      std::memcpy(room.data() + taken.out, bytes.data() + taken.in, count);
      taken.in += count;
      taken.out += count;
      if (at_ != At::kUntilClose && left_ == 0) {
        at_ = at_ == At::kChunk ? At::kChunkCr : At::kWhole;
      }
    } else {
      if (taken.in == bytes.size()) break;
      if (const auto took = take_framing(bytes[taken.in++]); !took) {
        return tl::unexpected(took.error());
      }
    }
  }
  return taken;
}

// One byte that is not of the body.
template <bool is_request>
Checked<> MessageReader<is_request>::take_framing(char c) {
  const auto need = [&](char needed, At next) -> Checked<> {
    if (c != needed) return bad("a chunk that does not end with CR LF");
    at_ = next;
    return {};
  };
  switch (at_) {
    case At::kSize:
      return take_size(c);
    case At::kExtension:
      return take_extra(c, At::kSizeEnd);
    case At::kSizeEnd:
      size_digits_ = 0;
      return need('\n', left_ > 0 ? At::kChunk : At::kTrailerStart);
    case At::kChunkCr:
      return need('\r', At::kChunkEnd);
    case At::kChunkEnd:
      return need('\n', At::kSize);
    case At::kTrailerStart:
      if (c == '\r') {
        at_ = At::kLastEnd;
        return {};
      }
      if (!is_token_char(c)) return bad("a trailer that is no field");
      at_ = At::kTrailer;
      return take_extra(c, At::kTrailerEnd);
    case At::kTrailer:
      return take_extra(c, At::kTrailerEnd);
    case At::kTrailerEnd:
      return need('\n', At::kTrailerStart);
    default:  // kLastEnd
      return need('\n', At::kWhole);
  }
}

template <bool is_request>
Checked<> MessageReader<is_request>::take_size(char c) {
  const bool is_digit = c >= '0' && c <= '9';
  if (is_digit || (lower(c) >= 'a' && lower(c) <= 'f')) {
    if (++size_digits_ > kSizeDigitsMax) return bad("a chunk whose size has too many digits");
    const int digit = is_digit ? c - '0' : lower(c) - 'a' + 10;
    left_ = left_ * 16 + static_cast<std::uint64_t>(digit);
    return {};
  }
  if (size_digits_ == 0 || (c != ';' && c != '\r')) return bad("a chunk whose size is no number");
  at_ = c == ';' ? At::kExtension : At::kSizeEnd;
  return {};
}

// Of an extension or a trailer, up to its CR. They go no further.
template <bool is_request>
Checked<> MessageReader<is_request>::take_extra(char c, At end) {
  if (++extras_ > kChunkExtrasMax_bytes) {
    return bad("more than 8 KiB of chunk extensions and trailers");
  }
  if (c == '\r') {
    at_ = end;
    return {};
  }
  if (is_control(c) && c != '\t') return bad("a control character in a chunk's line");
  return {};
}

template <bool is_request>
Checked<> MessageReader<is_request>::end_of_input() {
  if (at_ == At::kUntilClose) at_ = At::kWhole;
  if (at_ == At::kWhole) return {};
  return bad("it is cut off");
}

template class MessageReader<true>;
template class MessageReader<false>;

}  // namespace modelpool::serve
