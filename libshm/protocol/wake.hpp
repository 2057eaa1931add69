// Waking those who wait, by their rows.
//
// Safety: any thread, lock-free.
//
// Crash: a waker killed before it wakes leaves waiters asleep until their own slice of 1 s ends.
//
// Errors: none.
#pragma once

#include "segment/segment.hpp"

namespace modelpool {

void wake_row(const Segment& segment, WaiterRecord& row);
// Wakes the first of those who wait for this model and look whether they may go on.
void wake_first(const Segment& segment, std::uint64_t model_hash);
// Wakes who waits for this model.
void wake_waiters(const Segment& segment, std::uint64_t model_hash);
void wake_everyone(const Segment& segment);

}  // namespace modelpool
