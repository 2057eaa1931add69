// The segment as the rules see it: rows of backends and waiters as values (policy/values.hpp).
// Workers read them here, the judge takes them from its snapshot.
//
// Safety: any thread, lock-free; under the mutex nothing of it changes to a taker's disadvantage.
// What a thread reads is valid until its next read. Allocates in prepare_outlook only: at a
// thread's first use, for settings or models that are new to it, and for devices.
//
// Crash: rows of the dead are read as they are.
//
// Errors: none.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "policy/fit.hpp"
#include "policy/line.hpp"
#include "policy/rules.hpp"
#include "policy/victims.hpp"
#include "protocol/snapshot.hpp"

namespace modelpool {

// Backends, and whose turn it is.
struct Outlook {
  std::span<const Resident> residents;
  std::span<const Waiting> heads;
  Limits limits;
  bool has_settings = false;  // the pool was given its limits
  std::uint64_t unknown_settings =
      0;  // bits of those that must be known to take a place, and are not
  // Else somebody came, or the settings changed, since it was prepared: what their texts say is not
  // known here.
  bool is_complete = true;

  Room room() const { return Room(limits, residents); }
};

// Allocates and reads what read_outlook needs in this thread, `model` among those it may meet: to
// be called before the mutex is taken.
void prepare_outlook(const Segment& segment, std::string_view model = {});
Outlook read_outlook(const Segment& segment, std::uint64_t now_ns);

// The groups of a model; valid until the next prepare_outlook of this thread, which knew it.
std::span<const std::uint64_t> prepared_groups(std::uint64_t model);
// One that takes this.
Waiting waiting_for(const Need& need);

// As Resident has it; of BackendView::keep_alive.
std::optional<std::uint64_t> keep_alive_of(std::uint32_t packed);
// Of a resident: what it was last seen to take.
void take_measured(Resident* resident, const Bytes& measured);
Resident resident_of(const BackendView& backend);
// Those of all its backends, in their order.
std::vector<Resident> residents_of(const Snapshot& snapshot);
LeaseInFlight lease_in_flight(const LeaseView& lease);
Waiting waiting_of(const WaiterView& waiter);
Limits limits_of(const Snapshot& snapshot);
Limits limits_of(const Segment& segment);
RoomRules room_rules(const Snapshot& snapshot, std::uint64_t now_ns);

}  // namespace modelpool
