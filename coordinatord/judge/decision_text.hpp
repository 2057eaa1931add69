// A decision in words, with what it rests on, for --log-level debug.
//
// Safety: pure; any thread.
//
// Errors: none.
#pragma once

#include <string>

#include "judge/decide.hpp"

namespace modelpool::coordinator {

// "close llama (pid 71, ready): idle for 15m3s, limit 15m"
std::string decision_text(const Action& action, const Snapshot& snapshot);

}  // namespace modelpool::coordinator
