#include "base/utf8.hpp"

namespace modelpool {

Character decode(std::string_view text, std::size_t at) {
  if (at >= text.size()) return {};
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  if (first < 0x80) return {first, 1};
  // What a lead byte promises: how many bytes, its own bits, and the least code that needs as many.
  std::size_t bytes = 0;
  char32_t code = 0;
  char32_t least = 0;
  if ((first & 0xe0) == 0xc0) {
    bytes = 2, code = first & 0x1f, least = 0x80;
  } else if ((first & 0xf0) == 0xe0) {
    bytes = 3, code = first & 0x0f, least = 0x800;
  } else if ((first & 0xf8) == 0xf0) {
    bytes = 4, code = first & 0x07, least = 0x10000;
  } else {
    return {};
  }
  if (bytes > text.size() - at) return {};
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return {};
    code = code << 6 | (byte(at + i) & 0x3f);
  }
  if (code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return {};
  return {code, bytes};
}

Character decode_any(std::string_view text, std::size_t at) {
  Character character = decode(text, at);
  if (character.bytes == 0 && at < text.size()) {
    // Outside Unicode, where no character of the other side can equal it.
    character = {char32_t{0x110000} + static_cast<unsigned char>(text[at]), 1};
  }
  return character;
}

bool is_printable(char32_t code) {
  if (code < 0x20 || (code >= 0x7f && code <= 0x9f)) return false;
  if (code == 0x2028 || code == 0x2029) return false;
  if (code == 0x061c || code == 0x200e || code == 0x200f) return false;
  if ((code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069)) return false;
  if ((code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) == 0xfffe) return false;
  return true;
}

}  // namespace modelpool
