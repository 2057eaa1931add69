#include "base/text.hpp"

#include <utility>

#include "base/utf8.hpp"

namespace modelpool {
namespace {

constexpr std::size_t kQuoteMax_bytes = 200;
constexpr std::string_view kHexDigits = "0123456789abcdef";

}  // namespace

bool is_printable_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const Character character = decode(text, at);
    if (character.bytes == 0 || !is_printable(character.code)) return false;
    at += character.bytes;
  }
  return true;
}

tl::unexpected<Error> unusable(std::string_view what, std::string_view text,
                               std::string_view reason) {
  std::string message = "unable to use the ";
  message += what;
  message += ' ' + quote(text) + ": ";
  message += reason;
  return fail(Errc::kInvalid, std::move(message));
}

Result<> check_text(std::string_view what, std::string_view text, std::size_t min,
                    std::size_t max) {
  if (text.size() < min) return unusable(what, text, "it is empty; give one");
  if (text.size() > max) {
    return unusable(
        what, text,
        "it has " + std::to_string(text.size()) + " bytes; shorten it to " + std::to_string(max));
  }
  if (!is_printable_utf8(text)) {
    return unusable(what, text, "it is not printable UTF-8; leave out what is shown as \\x");
  }
  return {};
}

std::string escape(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Character character = decode(text, at);
    const std::size_t bytes = character.bytes == 0 ? 1 : character.bytes;
    if (character.code == '\\') {
      escaped += "\\\\";
    } else if (character.bytes != 0 && is_printable(character.code)) {
      escaped += text.substr(at, bytes);
    } else {
      for (const char c : text.substr(at, bytes)) {
        const auto byte = static_cast<unsigned char>(c);
        escaped += "\\x";
        escaped += kHexDigits[byte >> 4];
        escaped += kHexDigits[byte & 15];
      }
    }
    at += bytes;
  }
  return escaped;
}

std::string quote(std::string_view text) {
  std::string quoted = "\"";
  if (text.size() <= kQuoteMax_bytes) {
    quoted += escape(text);
  } else {
    // Cut between characters: half of one would be shown as bytes nobody wrote.
    std::size_t end = 0;
    for (std::size_t next = 0; next <= kQuoteMax_bytes; next += decode_any(text, next).bytes) {
      end = next;
    }
    quoted += escape(text.substr(0, end));
    quoted += "...";
  }
  quoted += '"';
  return quoted;
}

std::string count_text(std::uint64_t count, std::string_view word) {
  return std::to_string(count) + " " + std::string(word) + (count == 1 ? "" : "s");
}

}  // namespace modelpool
