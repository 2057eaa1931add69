// A command line as the words that a shell would pass to a program: blanks part them, quotes and
// backslashes keep. Nothing is expanded: no variables, no globs, no ~, and no | or && means
// anything.
//
// Safety: pure functions.
//
// Errors: kInvalid, what is not closed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "modelpool/result.hpp"

namespace modelpool::config {

Result<std::vector<std::string>> split_words(std::string_view text);
// As people write it: split_words reads it back.
std::string quote_word(std::string_view word);

}  // namespace modelpool::config
