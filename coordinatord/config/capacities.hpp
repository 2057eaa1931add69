// How large the tables of a pool that is created are: [capacity], or a flag each.
//
// Safety: plain values and pure functions.
//
// Errors: none.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "segment/layout.hpp"

namespace modelpool::config {

// The capacities by name: a key of [capacity], and with dashes before it a flag.
struct CapacityInfo {
  std::string_view name;
  std::uint32_t Capacities::*member;
  std::uint64_t max;
  std::string_view help;
};
inline constexpr std::array<CapacityInfo, 7> kCapacities = {{
    {"backends", &Capacities::backends, kBackendsMax, "backend slots"},
    {"workers", &Capacities::workers, kWorkersMax, "workers attached at once"},
    {"leases", &Capacities::leases, 65'536, "leases of one worker at once"},
    {"waiters", &Capacities::waiters, 65'536, "requests waiting at once"},
    {"events", &Capacities::events, 1 << 20, "events kept"},
    {"models", &Capacities::models, 65'536, "models whose load history is kept"},
    {"rules", &Capacities::rules, 65'536, "[[model]] tables of a usual size"},
}};
constexpr const CapacityInfo* find_capacity(std::string_view name) {  // null if unknown
  for (const CapacityInfo& info : kCapacities) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

// Some capacities; those that were not given have their defaults.
struct GivenCapacities {
  Capacities values;
  std::uint32_t given = 0;  // a bit for each of kCapacities

  bool has(const CapacityInfo& info) const {
    return (given >> (&info - kCapacities.data()) & 1) != 0;
  }
  void set(const CapacityInfo& info, std::uint32_t value) {
    values.*info.member = value;
    given |= 1u << (&info - kCapacities.data());
  }
};

}  // namespace modelpool::config
