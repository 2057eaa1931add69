// How a child ended, in words.
//
// Safety: pure functions.
//
// Errors: none.
#pragma once

#include <string>

namespace modelpool::serve {

std::string how_ended(int status);  // of waitpid: "exit status 1", "signal KILL"

}  // namespace modelpool::serve
