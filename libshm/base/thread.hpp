// A detached thread of the library in somebody else's process: it takes none of its signals, and
// its stack is small.
//
// Safety: any thread. fork: it does not exist in the child.
//
// Errors: kSystem, naming what is used up.
#pragma once

#include <cstddef>
#include <functional>

#include "modelpool/result.hpp"

namespace modelpool {

// `stack_bytes` are for the body: what the process's thread-local storage takes of a stack comes on
// top.
Result<> start_detached_thread(std::size_t stack_bytes, std::function<void()> body);

}  // namespace modelpool
