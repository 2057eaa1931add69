// The pool's devices: a position for each UUID, the same for everyone and for as long as the pool
// lives. Records keep bytes and assignments by it.
//
// Safety: reading any thread, lock-free; registering under the mutex. What of it is free is another
// word than what it has in all: read one after the other they may be of two measures.
//
// Crash: a row is taken by one store, after its text.
//
// Errors: none. A text that is damaged names no device.
#pragma once

#include <cstdint>
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
// What a device has, and how much of it nobody takes, as last measured; 0 = never.
struct DeviceMemory {
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;
};
// The coordinator alone.
void store_device_memory(const Segment& segment, std::uint32_t device, const DeviceMemory& memory);
DeviceMemory load_device_memory(const Segment& segment, std::uint32_t device);

// By position. "" for a damaged one, so that the others keep theirs.
std::vector<std::string> read_devices(const Segment& segment);

}  // namespace modelpool
