// Waking the line: whose turn it is with what is free.
//
// Safety: any thread, lock-free.
//
// Crash: a waker killed before it wakes leaves waiters asleep until their own slice of 1 s ends.
//
// Errors: none.
#pragma once

#include "protocol/slots.hpp"
#include "protocol/wake.hpp"

namespace modelpool {

// Wakes the head of the line, as many models as there are free places.
void wake_line(const Segment& segment);

}  // namespace modelpool
