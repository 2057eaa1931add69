// UTF-8, a character at a time.
//
// Safety: pure functions.
#pragma once

#include <cstddef>
#include <string_view>

namespace modelpool {

// One character of UTF-8. `bytes` is 0 where none stands: a byte that starts nothing, a sequence
// that is cut short, longer than needed, a surrogate, or beyond U+10FFFF.
struct Character {
  char32_t code = 0;
  std::size_t bytes = 0;
};
Character decode(std::string_view text, std::size_t at);
// A byte that belongs to no character counts as one, so that every position moves on.
Character decode_any(std::string_view text, std::size_t at);

// May it reach a terminal? Controls move the cursor, separators break lines, and the controls of
// writing direction make a name read as another one.
bool is_printable(char32_t code);

}  // namespace modelpool
