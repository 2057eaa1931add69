// Who goes first when room is made: the one order, for the judge, `explain` and the oracle.
//
//   idle before in use; the lower priority; of those in use whose drain failed longest ago; then
//   what `eviction` says; the one that was ready earlier; the lower slot
//
//   cost   the one whose loss is expected to cost least: its load time divided by its usual time
//          between requests, or by how long it has been idle if that is longer
//   lru    the one whose last use is longest ago
//   size   the largest, by what it said at `ready`; of equal ones the least recently used
//
// Safety: pure functions of values. goes_before is a strict weak order for any values.
//
// Errors: none.
#pragma once

#include "modelpool/settings.hpp"
#include "policy/values.hpp"

namespace modelpool {

// The last use, where a lease in flight is one.
std::uint64_t last_use_ns(const Resident& resident);

// An external backend takes as long to load as is usual here.
void assume_usual_loads(std::span<Resident> residents);

// What the loss of a backend is expected to cost: the time of a load, each time it is wanted again.
struct Worth {
  std::uint64_t load_ns = 0;
  std::uint64_t wait_ns = 0;  // until it is expected to be wanted again
};
Worth worth_of(const Resident& resident, std::uint64_t now_ns);
bool costs_less(const Worth& a, const Worth& b);

struct Order {
  Eviction by = Eviction::kCost;
  std::uint64_t now_ns = 0;

  bool goes_before(const Resident& a, const Resident& b) const;
};

}  // namespace modelpool
