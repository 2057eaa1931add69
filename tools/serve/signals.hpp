// Signals as a descriptor, and as they have to be in a child.
//
// Safety: one thread.
//
// Errors: kSystem.
#pragma once

#include "fd.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

// Blocks those that the master handles, and returns the descriptor that they are read from.
Result<Fd> take_signals();
int next_signal(const Fd& signals);  // 0: none

// In a forked worker: Ctrl-C in a terminal reaches the whole process group, but only the master
// decides what it means.
void leave_signals_to_master();
// In a child that is about to execute another program.
void reset_signals();

}  // namespace modelpool::serve
