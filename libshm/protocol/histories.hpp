// What is known of a model beyond its backends' lives: loads, failures in a row, cool-down, what it
// takes and how often it is used.
//
// A history is found by its model's hash: it stands within kHistoryProbes rows of where that points
// to, and the name is compared in full. When these are all taken, the longest untouched of them
// makes room.
//
// Safety: reading any thread, lock-free; writing under the mutex.
//
// Crash: a history is published by one store; a record that changes hands is out of use meanwhile.
// Killed between a failure's record and its transition, the record stands: whoever decides the same
// again does not count it again, and a load that becomes ready after all forgets it.
//
// Errors: none, but for resetting. A model may have no history.
#pragma once

#include <optional>
#include <string_view>

#include "protocol/slots.hpp"

namespace modelpool {

inline constexpr std::uint32_t kHistoryProbes = 32;

std::optional<LoadHistory> find_history(const Segment& segment, std::string_view model);
// The caller holds the mutex.
void write_history(const Segment& segment, const LockGuard& guard, std::string_view model,
                   const LoadHistory& history);
// A failed load.
struct LoadFailure {
  BackendRef backend;
  std::string_view error;
  std::uint64_t cooldown = 0;  // the model's load_cooldown, resolved before the mutex was taken
  std::uint32_t packed_exit = 0;
};
// Counts it, starts the cool-down, keeps the text. A backend's load fails once: a second report of
// the same slot and generation changes nothing.
void write_failure(const Segment& segment, const LockGuard& guard, std::string_view model,
                   const LoadFailure& failure, std::uint64_t now);

// The record of a failed load and the transition that ends it, as one: under one hold of the mutex
// the record is written, where waiters look when they see the transition, and then `take` is the
// transition. If it does not take place (the load was over before), the record is taken back.
// Returns whether it took place.
template <class Take>
bool fail_load(const Segment& segment, const LockGuard& guard, std::string_view model,
               LoadFailure failure, std::uint64_t now, const Take& take) {
  const std::optional<LoadHistory> before = find_history(segment, model);
  // acquire: written by whoever reaped the process
  failure.packed_exit =
      low_half(segment.backend(failure.backend.index).exit_status.load(std::memory_order_acquire));
  write_failure(segment, guard, model, failure, now);
  if (take()) return true;
  write_history(segment, guard, model, before.value_or(LoadHistory{}));
  return false;
}

// Forgets that the model failed to load, ends its cool-down, and forgets what it was seen to take:
// it may take less now. Loads stay known.
// Returns what was forgotten. Takes the mutex. Errors: kInvalid for no model's name, kBusy.
Result<LoadHistory> reset_failures(const Segment& segment, std::string_view model);
void forget_failures(LoadHistory* history, std::uint64_t now);

// The most that any model is known to have taken.
Bytes largest_peak(const Segment& segment, const Bytes& at_most);

// A backend that was ready is gone: what of its life is worth knowing for the next.
struct BackendEnd {
  std::uint64_t ended_ns = 0;
  std::uint64_t last_use_ns = 0;
  std::uint64_t interval_ns = 0;  // 0 = not known
  bool evicted = false;           // for room or idleness
  Bytes peak;
};
void note_end(LoadHistory* history, const BackendEnd& end);
// It is loaded again: the time away is one more observation of its interval.
void note_return(LoadHistory* history, std::uint64_t ready_ns);

}  // namespace modelpool
