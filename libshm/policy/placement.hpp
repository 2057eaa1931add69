// On which devices a model may be put, and what it takes there.
//
// Safety: pure functions of values.
//
// Errors: none. A wish for more devices than there are has no placement.
#pragma once

#include <bit>

#include "policy/values.hpp"

namespace modelpool {

struct Placement {
  std::uint32_t devices = 0;  // a bit for each
  Amounts takes;              // with what it takes wherever it is put
};

// So many are tried; more are there only for a model that is spread over many of many devices.
inline constexpr int kPlacementsMax = 256;

// On exactly these.
inline Placement placed_on(const Waiting& waiter, std::uint32_t devices) {
  Placement placement{devices, waiter.takes};
  std::size_t chosen = 0;
  for (std::uint32_t d = 0; d < kDevicesMax; ++d) {
    if ((devices >> d & 1) == 0) continue;
    const std::size_t at = waiter.devices.which != 0 ? d : chosen;
    ++chosen;
    placement.takes.set_bytes(index_of_device(d), waiter.devices.bytes[at]);
  }
  return placement;
}

// Calls visit(placement) for each, those on the first devices first.
template <class Visit>
void for_each_placement(const Waiting& waiter, std::uint32_t known_devices, Visit visit) {
  const DevicesAsked& asked = waiter.devices;
  if (asked.count == 0) return visit(Placement{0, waiter.takes});
  if (asked.which != 0) {
    // Named by its settings: they are in the table, whoever else knows them.
    return visit(placed_on(waiter, asked.which));
  }
  const auto known = static_cast<std::uint32_t>(std::popcount(known_devices));
  if (asked.count > known) return;
  // Each choice of so many of the known ones, as bits of their order (Gosper).
  std::uint32_t choice = (1u << asked.count) - 1;
  for (int tried = 0; tried < kPlacementsMax && choice >> known == 0; ++tried) {
    std::uint32_t devices = 0;
    std::uint32_t nth = 0;
    for (std::uint32_t d = 0; d < kDevicesMax; ++d) {
      if ((known_devices >> d & 1) == 0) continue;
      if ((choice >> nth++ & 1) != 0) devices |= 1u << d;
    }
    visit(placed_on(waiter, devices));
    const std::uint32_t lowest = choice & -choice;
    const std::uint32_t ripple = choice + lowest;
    choice = ripple | (((choice ^ ripple) >> 2) / lowest);
  }
}

// It asks for devices that the pool does not know, or for more of them.
inline bool lacks_devices(const Waiting& waiter, const Limits& limits) {
  bool any = false;
  for_each_placement(waiter, limits.devices, [&any](const Placement&) { any = true; });
  return !any;
}

}  // namespace modelpool
