// What a rule may look at: plain values, read from the segment by the caller (protocol/outlook.hpp
// for workers, the snapshot for the judge), or made up by a test or the simulator.
//
// Safety: values and pure functions. Nothing on this floor reads a clock, a file or a shared word,
// takes a lock, or allocates but for what only the judge asks for (cover, kept, rules, victims).
//
// Errors: none. Values come from shared memory: times may lie in the future and hashes may collide.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "base/kinds.hpp"
#include "base/need.hpp"
#include "base/time.hpp"
#include "policy/amounts.hpp"

namespace modelpool {

// A backend that is not FREE.
struct Resident {
  BackendRef ref;
  BackendState state = BackendState::kFree;
  bool overdue =
      false;  // it does not die of SIGKILL: it keeps its place, but serves its model no more
  std::uint32_t control = 0;    // kControl... bits
  std::uint32_t in_flight = 0;  // leases
  std::uint64_t model = 0;      // hash of its name
  std::uint64_t reserved_ns = 0;
  std::uint64_t ready_ns = 0;
  std::uint64_t last_used_ns = 0;     // end of a lease or touch; at least ready_ns
  std::uint64_t newest_start_ns = 0;  // of its leases
  std::uint64_t drain_failed_ns = 0;  // when a drain of it last gave up, 0 = never
  // How long it may be idle, as the last acquire that cared asked; kNever_ns: for ever.
  std::optional<std::uint64_t> keep_alive_ns{};
  // What its loss would cost; the judge's to know.
  bool external = false;          // its load was somebody else's
  std::uint64_t load_ns = 0;      // how long its load took, 0 = not known
  std::uint64_t interval_ns = 0;  // between ends of its requests, 0 = not known
  std::uint64_t size_bytes = 0;   // 0 = not known
  std::uint64_t priority = 0;

  Amounts holds{1, 0};     // the largest that was expected, declared or measured in this life
  bool size_known = true;  // else what it holds of the host is a guess
  bool device_size_known = true;            // and of devices
  std::uint32_t devices = 0;                // those it is on, a bit for each
  std::span<const std::uint64_t> groups{};  // its model's, hashes, sorted
  Amounts measured;                         // what it was last seen to take: bytes

  bool live() const { return is_live(state); }
  bool serves() const { return live() && !overdue; }  // or will: nobody else may load its model
  bool pinned() const { return (control & kControlPinnedAny) != 0; }
  bool loading() const {
    return state == BackendState::kReserved || state == BackendState::kStarting;
  }
  bool can_be_closed() const {
    return state == BackendState::kReady || state == BackendState::kEvicting;
  }
};

// The devices that a model is spread over.
struct DevicesAsked {
  std::uint32_t count = 0;  // 0 = none
  std::uint32_t which = 0;  // these, a bit for each; 0 = any
  // What it takes: of these by their position, of any in the order in which they are chosen.
  std::array<std::uint64_t, kDevicesMax> bytes{};
};

// A request that waits.
struct Waiting {
  std::uint64_t arrival = 0;  // its number in the line; lower came earlier
  std::uint64_t deadline_ns = 0;
  std::uint64_t looked_ns = 0;    // when it last looked whether it may go on
  std::uint64_t model = 0;        // hash of the name it waits for
  std::uint32_t row = 0;          // where it stands in the table of waiters
  Amounts takes{1, 0};            // wherever it is put
  bool size_known = true;         // else the host's bytes are a guess
  bool device_size_known = true;  // and those of devices
  DevicesAsked devices{};
  std::uint32_t promised = 0;               // the devices on which room is made for it; 0 = none
  std::span<const std::uint64_t> groups{};  // its model's, hashes, sorted
  // The judge's to know:
  std::uint64_t model_since_ns = 0;  // since when somebody waits for the model
  std::uint64_t load_ns = 0;         // how long its last load took, 0 = not known
};

// A device, as the rules see it.
struct DeviceLimit {
  std::uint64_t bytes = 0;    // 0 = no limit, or none is known yet
  std::uint64_t foreign = 0;  // what others than this pool's backends take of it
};

// The pool's limits; 0 = none.
struct Limits {
  std::uint32_t max_backends = 0;
  std::uint64_t max_memory = 0;
  std::uint32_t keep = 0;  // no limit: so many stay, however idle
  std::uint32_t max_loads = 0;
  std::uint32_t devices = 0;  // those that are known, a bit for each
  std::array<DeviceLimit, kDevicesMax> device{};

  bool any() const {
    return max_backends != 0 || max_memory != 0 || max_loads != 0 ||
           std::any_of(device.begin(), device.end(),
                       [](const DeviceLimit& one) { return one.bytes != 0; });
  }
};

// Are there models that neither may be loaded beside: do they share a group? Both are sorted.
inline bool share_a_group(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b) {
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    if (a[i] == b[j]) return true;
    a[i] < b[j] ? ++i : ++j;
  }
  return false;
}

// A time in which everything stood still, judge and workers: it is not counted against anybody.
struct Standstill {
  std::uint64_t began_ns = 0;  // at the latest then; nothing is known of it since
  std::uint64_t ended_ns = 0;
};
// How much of the time since `stamp_ns` it was.
inline std::uint64_t still_since_ns(std::span<const Standstill> all, std::uint64_t stamp_ns) {
  std::uint64_t sum = 0;
  for (const Standstill& one : all)
    sum = add_ns(sum, age_ns(one.ended_ns, std::max(one.began_ns, stamp_ns)));
  return sum;
}

// The time that rules judge by, and the next time at which they may judge otherwise.
class Alarm {
 public:
  explicit Alarm(std::uint64_t now_ns) : now_ns_(now_ns) {}

  std::uint64_t now_ns() const { return now_ns_; }
  std::uint64_t wake_ns() const { return wake_ns_; }  // kNever_ns: nothing is planned
  bool passed(std::uint64_t at_ns) const { return at_ns <= now_ns_; }
  void wake_at(std::uint64_t at_ns) {
    if (!passed(at_ns)) wake_ns_ = std::min(wake_ns_, at_ns);
  }
  // Has it passed? If not, the alarm wakes when it has.
  bool passed_or_wakes(std::uint64_t at_ns) {
    wake_at(at_ns);
    return passed(at_ns);
  }

 private:
  std::uint64_t now_ns_;
  std::uint64_t wake_ns_ = kNever_ns;
};

}  // namespace modelpool
