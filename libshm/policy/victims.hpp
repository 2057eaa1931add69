// Which backends must go for the heads of the line to get their places, and no others (P2, P5).
// Only the judge asks.
#pragma once

#include <span>
#include <vector>

#include "policy/cover.hpp"
#include "policy/turns.hpp"

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
  std::uint64_t max_wait_ns = 0;  // so long it keeps its place while it is in use; 0 = not at all
  std::uint64_t drain_timeout_ns = 0;
  std::uint64_t closed_ns = 0;                // kDraining
  std::uint64_t awaited_arrival = kNever_ns;  // of the first who waits for it and is there
  std::uint64_t awaited_until_ns = 0;         // or would not be any more
};

// One that was loaded last is left alone for so long when what others were measured to take brings
// the pool above its limit: somebody has just waited for it.
inline constexpr std::uint64_t kJustLoaded_ns = 60 * kSecond_ns;

struct RoomStep {
  enum class Kind { kClose, kCommit, kReopen };
  Kind kind = Kind::kClose;
  Reason reason =
      Reason::kLru;         // kClose: what runs short, a place or memory, or a group they share
  std::size_t holding = 0;  // its position
  bool forced = false;      // leases may be cut
  bool hold = false;        // kClose: it stays closed while leases finish
  bool only_hold = false;   // kClose: also without a lease, for others of its set
  bool drain_failed = false;
  std::uint64_t for_arrival = 0;  // the head that room is made for; 0: for the limit itself
  std::size_t set = 0;            // those of one number end all or none; 0: it ends alone
};

// All who go for one head, also those that stay open until others have drained.
struct RoomSet {
  std::uint64_t for_arrival = 0;
  std::vector<std::size_t> holdings;  // their positions
};

// Where a head is to go that asked for devices: it takes them if they fit when it looks.
struct RoomPromise {
  std::uint32_t row = 0;
  std::uint64_t arrival = 0;
  std::uint32_t devices = 0;  // a bit for each
};

struct RoomPlan {
  std::vector<RoomStep> steps;
  std::vector<RoomSet> sets;
  std::vector<RoomPromise> promises;
  std::vector<std::size_t> awaited_ends;  // holdings whose next end of a lease is worth a ring
};

struct RoomRules {
  Limits limits;
  Order order;
  std::uint64_t collect_ns = 0;  // a head asks for a place only after that long, or at its turn
};

RoomPlan make_room(std::span<const Holding> holdings, std::span<const Head> heads,
                   const RoomRules& rules, Alarm& alarm);

}  // namespace modelpool
