// Watches a simulated pool and knows the truth about it: which requests really run, which processes
// really live, when a backend was really used last. It judges decisions by that and by the
// settings, never by what decide or the snapshot derived.
//
//   P2  a running request is cut by busy, stall, force or a crash only
//   P3  never more than max_backends groups of processes and tickets; gone means gone
//   P4  one backend of a model starts or serves; a failed load answers its waiters, and the model
//       cools down
//   P5  places go to the first of the line; under force, or drain with short requests, it moves
//   P8  nothing before its limit, and nothing that is due is slept through
//   P10 a restart forgets nothing: all of the above holds across it
//
// And: eviction takes who was used least recently, never somebody for nobody, and a scan comes to
// rest.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "judge/decide.hpp"
#include "policy/order.hpp"
#include "policy/placement.hpp"
#include "policy/rules.hpp"
#include "policy/turns.hpp"
#include "segment/settings_block.hpp"
#include "workload.hpp"

namespace modelpool::sim {

// One call of acquire and what came of it.
struct Request {
  enum class Phase { kWaiting, kLoading, kLeased };
  std::uint64_t id = 0;
  std::uint32_t worker = 0;
  std::uint32_t model = 0;
  Phase phase = Phase::kWaiting;
  bool dead = false;          // its worker died; what it left is still in the segment
  std::uint64_t arrival = 0;  // in line, 0 = not
  std::uint64_t since_ns = 0;
  std::uint64_t model_since_ns = 0;  // in line: since when somebody waits for its model
  std::uint64_t deadline_ns = 0;
  std::uint64_t looked_ns = 0;
  std::uint32_t looks = 0;          // only the look planned last takes place
  std::uint64_t judge_away_ns = 0;  // since when it has met no coordinator
  std::optional<BackendRef> awaited;
  BackendRef backend;          // kLoading, kLeased
  std::uint32_t sequence = 0;  // tells two leases apart
  std::uint64_t begun_ns = 0;  // the truth; stamps lie up to a resolution before it
  std::uint64_t progressed_ns = 0;
  std::uint64_t begun_stamp_ns = 0;
  std::uint64_t progress_stamp_ns = 0;
  std::uint64_t limit_ns = 0;
  bool progressed = false;
  bool cancellable = false;
  bool deaf = false;           // does not end when it is asked to
  std::uint64_t asked_ns = 0;  // 0 = not
  std::uint32_t promised = 0;  // devices, in line
};

struct Slot {
  BackendView view;  // as it stands in the segment
  std::uint32_t model = 0;
  std::uint64_t loader = 0;  // request
  bool process = false;      // the first one lives
  bool child = false;        // another of its group lives
  bool ordered = false;      // this coordinator watches its end
  bool unkillable = false;
  bool ignores_stop = false;
  std::uint64_t exited_ns = 0;  // of the first process
  std::uint64_t used_ns = 0;    // the truth
  bool ended() const { return !process && !child; }
};

struct Row {  // of a worker
  std::uint32_t generation = 1;
  bool attached = true;
  bool alive = true;
  WorkerRef ref(std::uint32_t index) const { return {index, generation}; }
};

struct Cooling {  // of a model, kept by the oracle's own count
  std::uint64_t failures = 0;
  std::uint64_t until_ns = 0;
  std::uint64_t failed_backend = 0;
};

// Everything there is.
struct Truth {
  std::uint64_t now_ns = 0;
  std::shared_ptr<const Settings> settings;
  std::shared_ptr<const SettingsImage> published;  // the same, to resolve from
  std::uint64_t settings_ns = 0;                   // when they changed last
  std::vector<Slot> slots;
  std::vector<Row> rows;
  std::map<std::uint64_t, Request> requests;
  std::vector<Cooling> cooling;
  std::vector<std::uint64_t> load_ns;  // how long a model's last load took, 0 = none yet
  struct {
    bool alive = true;
    std::uint32_t epoch = 1;
    std::uint64_t since_ns = 0;
    std::uint64_t wanted = 0;
    std::uint64_t horizon_ns = kNever_ns;
  } judge;

  Slot* find(BackendRef ref);
  const Slot* find(BackendRef ref) const { return const_cast<Truth*>(this)->find(ref); }
  Slot* serving(std::uint32_t model);  // its live backend that is not overdue
  const Slot* serving(std::uint32_t model) const {
    return const_cast<Truth*>(this)->serving(model);
  }
  std::uint64_t places_taken() const;
  std::uint64_t setting(Setting id, const Slot* slot) const;
  bool is_leased(const Slot& slot) const;  // by a request of a living worker
};

std::string model_name(std::uint32_t model);
std::uint64_t model_bytes(std::uint32_t model);  // of memory, or of each of its devices
std::vector<std::uint64_t> model_groups(const Workload& workload, std::uint32_t model);
DevicesAsked model_devices(const Workload& workload, std::uint32_t model);

class Oracle {
 public:
  Oracle(const Truth& truth, const Workload& workload) : truth_(truth), workload_(workload) {}

  void waking();                                           // a scan begins, or time passes
  void decided(const coordinator::Decision& decision);     // before it is carried out
  void stopping(const Slot& slot, const StopRecord& why);  // EVICTING -> STOPPING
  void reserving(const Request& request, const Placement& placement);
  void starting();                                      // a process was started
  void resting(const coordinator::Decision& decision);  // a scan has ended
  void violated(const std::string& what);

  const std::vector<std::string>& violations() const { return violations_; }

 private:
  bool is_left_of_a_set(const Slot& slot) const;
  struct Subject {
    Resident resident;
    const Effective* settings = nullptr;
    std::vector<LeaseInFlight> leases;
    bool awaited = false;
  };
  Subject subject_of(const Slot& slot) const;
  Finding judge(Reason reason, const Subject& subject) const;
  void check_close(const coordinator::Action& action, const Slot& slot);
  void check_ask(const StopRecord& why, const Slot& slot);
  void check_victim(const Slot& slot, std::uint64_t for_arrival);
  void check_rule(const StopRecord& why, const Slot& slot);
  void check_placement(std::uint32_t model, const Placement& placement);
  std::vector<const Request*> line() const;  // the first waiter of each model that needs a place
  std::uint64_t due_ns(const Effective& settings, const LeaseInFlight& lease) const;
  std::uint64_t due_ns(const Slot& slot) const;  // when a rule ends it; kNever_ns
  Head head_of(const Request& first, bool with_dead) const;
  std::uint64_t closable_ns(const Slot& slot, const Head& head) const;  // by its turn
  std::uint64_t load_ns(const Slot& slot) const;  // what the rules take its load for
  Order order() const;
  bool is_victim(const Slot& slot, const Head* head) const;

  const Truth& truth_;
  const Workload& workload_;
  std::vector<std::string> violations_;
  // Who should have gone before whom: looked at again when the scan rests.
  std::vector<std::pair<BackendRef, BackendRef>> chosen_before_;
  std::uint64_t head_ = 0;  // arrival of the first of the line
  std::uint64_t head_since_ns_ = 0;
  std::uint32_t head_epoch_ = 0;
};

}  // namespace modelpool::sim
