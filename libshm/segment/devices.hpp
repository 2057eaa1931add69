// The pool's devices: a position for each UUID, the same for everyone and for as long as the pool
// lives. Records keep bytes and assignments by it.
//
// Safety: reading any thread, lock-free; registering under the mutex.
//
// Crash: a row is taken by one store, after its text.
//
// Errors: none. A text that is damaged names no device.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "segment/segment.hpp"

namespace modelpool {

std::optional<std::uint32_t> find_device(const Segment& segment, std::string_view uuid);
// Nullopt when there is no room for one more, or the UUID is not one. The caller holds the mutex.
std::optional<std::uint32_t> register_device(const Segment& segment, const LockGuard& guard,
                                             std::string_view uuid);
// For people: its UUID.
std::string device_name(const Segment& segment, std::uint32_t device);
// How many bytes it has, as the coordinator measured; 0 = not known.
std::uint64_t device_bytes(const Segment& segment, std::uint32_t device);
void note_device_bytes(const Segment& segment, std::uint32_t device, std::uint64_t bytes);
// By position. "" for a damaged one, so that the others keep theirs.
std::vector<std::string> read_devices(const Segment& segment);

}  // namespace modelpool
