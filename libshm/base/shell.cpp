#include "base/shell.hpp"

#include <algorithm>
#include <cctype>
#include <string_view>

#include "base/text.hpp"

namespace modelpool {

std::string shell_word(const std::string& text) {
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("/._-+,:@%").find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (plain) return text;
  if (!is_printable_utf8(text)) {  // $'...' with every byte as \xNN
    std::string bytes = "$'";
    for (const unsigned char c : text) {
      constexpr std::string_view kDigits = "0123456789abcdef";
      if (c > ' ' && c < 0x7f && c != '\'' && c != '\\') {
        bytes += static_cast<char>(c);
      } else {
        bytes += "\\x";
        bytes += kDigits[c >> 4];
        bytes += kDigits[c & 15];
      }
    }
    return bytes + "'";
  }
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace modelpool
