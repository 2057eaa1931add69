// What a backend takes, or could: a place, bytes of the host and of devices, while it loads one of
// the loads at once. Amounts of them are added and compared component by component; what the pool
// has no limit for counts for nothing.
//
// Safety: plain values, pure functions.
//
// Errors: none. Sums stay within a range in which nothing overflows: sizes come from loaders.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "base/need.hpp"

namespace modelpool {

// What may run short.
enum class Resource : std::uint32_t { kPlaces, kHostBytes, kLoads, kFirstDevice };
constexpr std::size_t index_of(Resource resource) { return static_cast<std::size_t>(resource); }
constexpr std::size_t index_of_device(std::uint32_t device) {
  return index_of(Resource::kFirstDevice) + device;
}
inline constexpr std::size_t kResourceCount = index_of_device(kDevicesMax);

class Amounts {
 public:
  // A number beyond it is as good as that.
  static constexpr std::int64_t kMost = std::int64_t{1} << 56;

  constexpr Amounts() = default;
  constexpr Amounts(std::uint64_t places, std::uint64_t host_bytes)
      : of_{clamped(places), clamped(host_bytes)} {}

  constexpr std::int64_t operator[](Resource resource) const { return of_[index_of(resource)]; }
  constexpr std::int64_t operator[](std::size_t resource) const { return of_[resource]; }
  constexpr void set(std::size_t resource, std::int64_t amount) { of_[resource] = amount; }
  constexpr void set_bytes(std::size_t resource, std::uint64_t bytes) {
    of_[resource] = clamped(bytes);
  }

  constexpr Amounts& operator+=(const Amounts& other) {
    for (std::size_t i = 0; i < kResourceCount; ++i) of_[i] = bounded(of_[i] + other.of_[i]);
    return *this;
  }
  constexpr Amounts& operator-=(const Amounts& other) {
    for (std::size_t i = 0; i < kResourceCount; ++i) of_[i] = bounded(of_[i] - other.of_[i]);
    return *this;
  }
  friend constexpr Amounts operator+(Amounts a, const Amounts& b) { return a += b; }
  friend constexpr Amounts operator-(Amounts a, const Amounts& b) { return a -= b; }
  bool operator==(const Amounts&) const = default;

 private:
  static constexpr std::int64_t clamped(std::uint64_t amount) {
    return static_cast<std::int64_t>(std::min<std::uint64_t>(amount, kMost));
  }
  static constexpr std::int64_t bounded(std::int64_t amount) {
    return std::clamp(amount, -32 * kMost, 32 * kMost);
  }
  std::array<std::int64_t, kResourceCount> of_{};
};

}  // namespace modelpool
