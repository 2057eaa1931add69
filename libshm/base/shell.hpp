// Texts as words of a shell, for commands in messages.
//
// Safety: pure functions.
//
// Errors: none.
#pragma once

#include <string>

namespace modelpool {

// One word, whatever is in it: as it is, in quotes, or, where a message must not move the cursor,
// as bytes (which bash and zsh read).
std::string shell_word(const std::string& text);

}  // namespace modelpool
