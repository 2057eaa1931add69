// Which backends must go for the heads of the line to get their places, and no others (P2, P5).
// Only the judge asks.
#pragma once

#include <span>
#include <vector>

#include "modelpool/settings.hpp"
#include "policy/values.hpp"

namespace modelpool {

// A backend that takes a place, as somebody who looks for room sees it.
struct Holding {
  enum class Role {
    kStays,      // it may not be closed, or another rule acts on it
    kLeaving,    // it is ending already
    kDraining,   // closed for room; leases may be running out
    kCandidate,  // open
  };
  Resident resident;
  Role role = Role::kStays;
  WhenBusy when_busy = WhenBusy::kDrain;
  std::uint64_t min_resident_ns = 0;
  std::uint64_t drain_timeout_ns = 0;
  std::uint64_t closed_ns = 0;                // kDraining
  std::uint64_t awaited_arrival = kNever_ns;  // of the first who waits for it and is there
  std::uint64_t awaited_until_ns = 0;         // or would not be any more
};

struct RoomStep {
  enum class Kind { kClose, kCommit, kReopen };
  Kind kind = Kind::kClose;
  std::size_t holding = 0;  // its position
  bool forced = false;      // leases may be cut
  bool hold = false;        // kClose: it stays closed while leases finish
  bool drain_failed = false;
  std::uint64_t for_arrival = 0;  // the head that room is made for; 0: for the limit itself
};

struct RoomPlan {
  std::vector<RoomStep> steps;
  std::vector<std::size_t> awaited_ends;  // holdings whose next end of a lease is worth a ring
};

// The last use, where a lease in flight is one.
std::uint64_t last_use_ns(const Resident& resident);
// Least recently used first: idle before busy, of the busy whose drain failed longest ago; ties by
// age and slot, so that every reader sees the same order.
bool goes_before(const Resident& a, const Resident& b);

RoomPlan make_room(std::span<const Holding> holdings, std::span<const Waiting> heads, Limits limits,
                   Alarm& alarm);

}  // namespace modelpool
