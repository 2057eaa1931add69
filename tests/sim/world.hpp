// A pool without processes: workers, backends, a coordinator and a clock, all simulated, around the
// real `decide`. The same seed gives the same history, whatever the machine.
//
// What is real: decide, the settings, and all of libshm/policy: whose turn it is, what fits,
// whether evidence is still true. What is modelled, after acquisition.cpp, slots.cpp and
// enforce.cpp: the state words, what is read again before a stop, the rings of the doorbell.
// Nothing happens "at once": a scan comes some time after the ring, requests come between a look
// and its effects, wakes get lost.
//
// Safety: one thread. Errors: what the oracle finds is in `violations`, with the time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "judge/decide.hpp"
#include "oracle.hpp"
#include "policy/placement.hpp"
#include "policy/values.hpp"
#include "workload.hpp"

namespace modelpool::sim {

// What decides: the real one, or one that is wrong on purpose.
using Policy = std::function<coordinator::Decision(const Snapshot&, const coordinator::Facts&)>;

struct Counters {
  std::uint64_t decisions = 0;
  std::uint64_t requests = 0;
  std::uint64_t leases = 0;
  std::uint64_t loads = 0;
  std::uint64_t failed_loads = 0;
  std::uint64_t evictions = 0;  // idle, lru, requested
  std::uint64_t kills = 0;      // busy, stall, first byte
  std::uint64_t asked = 0;      // requests to end
  std::uint64_t drains = 0;     // closed under a lease
  std::uint64_t timeouts = 0;   // waiters that gave up
  std::uint64_t restarts = 0;   // of the coordinator
  std::uint64_t worker_deaths = 0;
};

class World {
 public:
  World(const Workload& workload, std::uint64_t seed, Policy policy = coordinator::decide);

  // Runs until that much time has passed, so many decisions were made, or something was violated.
  void run(std::uint64_t time_ns, std::uint64_t decisions = UINT64_MAX);

  std::uint64_t passed_ns() const { return truth_.now_ns - kStart_ns; }
  const Counters& counters() const { return counters_; }
  const std::vector<std::string>& violations() const { return oracle_.violations(); }
  // Of everything that happened: equal for equal seeds.
  std::uint64_t fingerprint() const { return fingerprint_; }

 private:
  static constexpr std::uint64_t kStart_ns = 1000 * kSecond_ns;
  static constexpr std::uint32_t kSlots = 16;

  enum class What {
    kArrive,
    kLook,
    kEnd,
    kProgress,
    kStarted,
    kLoaded,
    kExits,
    kChildExits,
    kExitRecorded,
    kCrash,
    kWorkerDies,
    kWorkerAttaches,
    kJudgeDies,
    kJudgeStarts,
    kSettings,
    kControl,
  };
  struct Event {
    std::uint64_t at_ns;
    std::uint64_t order;
    What what;
    std::uint64_t id;     // of a request, slot or worker
    std::uint64_t check;  // generation: the event is stale if it differs
    bool operator>(const Event& o) const {
      return at_ns != o.at_ns ? at_ns > o.at_ns : order > o.order;
    }
  };

  // Chance.
  double uniform();
  bool chance(double probability) { return probability > 0 && uniform() < probability; }
  std::uint64_t draw(const Span& span);
  std::uint32_t pick(std::uint32_t count) { return static_cast<std::uint32_t>(uniform() * count); }

  void at(std::uint64_t delay_ns, What what, std::uint64_t id = 0, std::uint64_t check = 0);
  void again(const Span& span, What what);
  void happen(const Event& event);
  void ring();

  // Workers: what acquisition.cpp and slots.cpp do.
  Request* arrive();
  void look(Request& r);
  void look_later(Request& r, std::uint64_t delay_ns);
  void ask_for_place(Request& r);
  Limits limits() const;
  Waiting waiting_of(const Request& r) const;
  std::vector<Resident> residents() const;
  std::vector<Waiting> heads(const std::vector<Resident>& residents) const;
  bool answer_failure(Request& r);
  void keep_waiting(Request& r, bool needs_judge);
  void begin(Request& r, Slot& slot);
  void leave_line(Request& r, bool granted);
  void finish(std::uint64_t id);
  void end_lease(Request& r);
  void reserve(Request& r, const Placement& placement);
  void start_process(Slot& slot, Request& r);
  void loaded(Slot& slot);
  void give_up(Slot& slot, Request& r);
  void write_failure(Slot& slot);
  void wake(std::uint32_t model);
  void wake_line();

  // Processes.
  void kill_processes(Slot& slot, int signal);
  void process_ended(Slot& slot);
  void worker_dies(std::uint32_t index);
  void publish(const Settings& settings);
  void resolve(Slot& slot);
  void change_settings();
  void change_control();

  // The coordinator: what loop.cpp and enforce.cpp do.
  void scan();
  void take_snapshot();
  coordinator::Facts facts() const;
  bool carry_out(const coordinator::Action& action);
  bool stop_or_take_back(const coordinator::Action& action, Slot& slot, bool was_ready);
  bool still_true(const coordinator::Action& action, const Slot& slot) const;
  bool any_lease_names(const Slot& slot) const;
  bool reap(WorkerRef worker);
  void judge_starts();

  Workload workload_;
  std::vector<std::vector<std::uint64_t>> groups_;  // of each model
  Policy policy_;
  std::mt19937_64 random_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t next_order_ = 0;
  std::uint64_t next_scan_ns_ = 0;
  std::uint64_t next_arrival_ = 0;
  std::uint64_t next_request_ = 0;
  std::uint32_t live_at_scan_ = 0;
  std::uint64_t fingerprint_ = 0;
  Truth truth_;
  Snapshot snapshot_;
  Oracle oracle_;
  Counters counters_;
};

}  // namespace modelpool::sim
