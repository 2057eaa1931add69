// What is known of a model beyond its backends' lives: loads, failures in a row, cool-down.
//
// Safety: reading any thread, lock-free; writing under the mutex.
//
// Crash: a history is published by one store; a record that changes hands is out of use meanwhile.
//
// Errors: none. A model may have no history.
#pragma once

#include <optional>
#include <string_view>

#include "protocol/slots.hpp"

namespace modelpool {

std::optional<LoadHistory> find_history(const Segment& segment, std::string_view model);
// The caller holds the mutex. Takes the place of the longest untouched history when all are in use.
void write_history(const Segment& segment, const LockGuard& guard, std::string_view model,
                   const LoadHistory& history);
// A failed load: counts it, starts the cool-down, keeps the text. Under the mutex, before the
// transition that tells the waiters.
void write_failure(const Segment& segment, const LockGuard& guard, std::string_view model,
                   BackendRef ref, std::string_view error, std::uint32_t packed_exit,
                   std::uint64_t now);
}  // namespace modelpool
