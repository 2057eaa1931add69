// Waking the line: rows of those who wait, and whose turn a free place makes it.
//
// Safety: any thread, lock-free.
//
// Crash: a waker killed before it wakes leaves waiters asleep until their own slice of 1 s ends.
//
// Errors: none.
#pragma once

#include "protocol/slots.hpp"

namespace modelpool {

// Wakes who waits for this model.
void wake_waiters(const Segment& segment, std::uint64_t model_hash);
// Wakes the head of the line, as many models as there are free places.
void wake_line(const Segment& segment);
void wake_everyone(const Segment& segment);

}  // namespace modelpool
