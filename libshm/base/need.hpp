// Bytes of a host and its devices, and what a model takes that wants in.
//
// Safety: plain values, whole 64-bit words: records of the segment hold them as they are.
//
// Errors: none. Values that came from the segment are input: sums stay at the largest number.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace modelpool {

inline constexpr std::size_t kDevicesMax = 16;

// By the position of a device in the pool's table of devices; 0 = none, or not known.
struct Bytes {
  std::uint64_t host = 0;
  std::array<std::uint64_t, kDevicesMax> device{};

  bool operator==(const Bytes&) const = default;
};

// Of each place the larger.
constexpr Bytes larger_of(Bytes a, const Bytes& b) {
  if (b.host > a.host) a.host = b.host;
  for (std::size_t i = 0; i < kDevicesMax; ++i) {
    if (b.device[i] > a.device[i]) a.device[i] = b.device[i];
  }
  return a;
}

// What a model takes while it is loaded.
struct Need {
  std::uint32_t places = 1;
  std::uint32_t devices = 0;        // how many it is spread over; 0 = none
  std::uint32_t which_devices = 0;  // a bit for each it may be put on; 0 = any
  std::uint32_t flags = 0;          // kNeedSizeUnknown, kNeedDeviceSizeUnknown
  std::uint64_t settings = 0;       // generation of the settings it was derived from
  Bytes bytes;

  bool operator==(const Need&) const = default;
};
inline constexpr std::uint32_t kNeedSizeUnknown = 1;        // the host's bytes are a guess
inline constexpr std::uint32_t kNeedDeviceSizeUnknown = 2;  // those of devices are

}  // namespace modelpool
