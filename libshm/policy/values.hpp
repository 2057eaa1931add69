// What a rule may look at: plain values, read from the segment by the caller (protocol/outlook.hpp
// for workers, the snapshot for the judge), or made up by a test or the simulator.
//
// Safety: values and pure functions. Nothing on this floor reads a clock, a file or a shared word,
// takes a lock or allocates, except the plans that only the judge asks for (victims.hpp).
//
// Errors: none. Values come from shared memory: times may lie in the future and hashes may collide.
#pragma once

#include <algorithm>
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
  bool size_known = true;  // else what it holds is a guess
  Amounts measured;        // what it was last seen to take

  bool live() const { return is_live(state); }
  bool serves() const { return live() && !overdue; }  // or will: nobody else may load its model
  bool pinned() const { return (control & kControlPinnedAny) != 0; }
  bool can_be_closed() const {
    return state == BackendState::kReady || state == BackendState::kEvicting;
  }
};

// A request that waits.
struct Waiting {
  std::uint64_t arrival = 0;  // its number in the line; lower came earlier
  std::uint64_t deadline_ns = 0;
  std::uint64_t looked_ns = 0;  // when it last looked whether it may go on
  std::uint64_t model = 0;      // hash of the name it waits for
  std::uint32_t row = 0;        // where it stands in the table of waiters
  Amounts takes{1, 0};
  bool size_known = true;  // else the bytes are a guess
  // The judge's to know:
  std::uint64_t model_since_ns = 0;  // since when somebody waits for the model
  std::uint64_t load_ns = 0;         // how long its last load took, 0 = not known
};

// The pool's limits; 0 = none.
struct Limits {
  std::uint32_t max_backends = 0;
  std::uint64_t max_memory = 0;
  std::uint32_t keep = 0;  // no limit: so many stay, however idle

  bool any() const { return max_backends != 0 || max_memory != 0; }
};

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
