// A pool in virtual time that serves a trace by the real rules: the judge's decide, the line, what
// fits. For comparing rules, by what requests wait and how much is loaded; whether promises are
// kept is World's business. Nobody dies here, no evidence is stale, and whoever is rung looks at
// once.
//
// Requests come from four workers, as their last-used cells tell them apart. What is known of load
// times may be made wrong, to see what rules make of that.
//
// Safety: one thread. The same trace and settings give the same figures on every machine.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <queue>
#include <vector>

#include "judge/decide.hpp"
#include "modelpool/settings.hpp"
#include "trace.hpp"

namespace modelpool::sim {

struct PolicyFigures {
  std::uint64_t requests = 0;
  std::uint64_t loads = 0;
  std::uint64_t timeouts = 0;  // requests whose patience ended before they were served
  std::uint64_t cut = 0;       // requests whose backend was stopped under them (when_busy = force)
  std::uint64_t rare_requests = 0;  // those for rare models,
  std::uint64_t rare_timeouts = 0;  // and of them those whose patience ended
  std::uint64_t load_ns = 0;        // of all loads
  std::uint64_t sets = 0;    // of backends that were to go for a model, looked at in each decision;
  std::uint64_t wasted = 0;  // and of them those too small, or with one that could have been spared
  // From its arrival until a request was served, or gave up.
  double mean_wait_ns = 0;
  std::uint64_t p99_wait_ns = 0;
  std::uint64_t max_wait_ns = 0;
};

class PolicyPool {
 public:
  // patience_ns: how long a request waits for its model; kNever_ns: for ever. The settings' limits
  // hold, not the trace's.
  PolicyPool(const Trace& trace, const PoolSettings& settings, std::uint64_t patience_ns);
  // What the rules believe of a model's load time is off by a factor of exp(N(0, by)).
  void doubt_load_times(double by, std::uint64_t seed);
  // As rules that spare nobody: one after the other goes, by the order, until it fits. What others
  // are compared with.
  void spare_nobody() { spares_ = false; }

  PolicyFigures run();

 private:
  static constexpr std::uint64_t kStart_ns = 1000 * kSecond_ns;
  static constexpr std::uint64_t kStop_ns = kSecond_ns;  // from the stop signal to the end

  static constexpr std::size_t kWorkers = 4;
  struct Use {  // a last-used cell
    std::uint64_t stamp_ns = 0;
    std::uint32_t generation = 0;
    std::uint64_t interval_ns = 0;
  };
  // One model, and the backend that it has or could have.
  struct Slot {
    BackendView view;
    std::uint32_t stops = 0;            // who was served before the last one is not any more
    std::deque<std::size_t> waiting;    // requests for a backend that is not there
    std::deque<std::size_t> queued;     // for their turn at it
    std::vector<std::size_t> served;    // by it, now
    std::deque<std::uint64_t> started;  // of its leases, the oldest first
    std::array<Use, kWorkers> uses;     // by the workers
    LoadHistory history;
    double believed = 1;  // what is thought of a load takes so many times as long
  };
  static constexpr std::size_t kNoSession = SIZE_MAX;
  struct Request {
    std::uint64_t at_ns = 0;  // kStart_ns later than in the trace, as all times
    std::uint64_t service_ns = 0;
    std::uint64_t served_ns = 0;
    std::uint32_t model = 0;
    std::size_t session = kNoSession;
  };
  struct Progress {  // of a session
    std::size_t next_step = 0;
    std::size_t open_calls = 0;
  };
  enum class What { kServed, kLoaded, kStopped, kGivesUp, kLook, kStep };
  struct Event {
    std::uint64_t at_ns;
    std::uint64_t order;
    What what;
    std::size_t id;       // of a request, model or session
    std::uint32_t stops;  // kServed: the slot's, or the event is stale
    bool operator>(const Event& o) const {
      return at_ns != o.at_ns ? at_ns > o.at_ns : order > o.order;
    }
  };

  void at(std::uint64_t when_ns, What what, std::size_t id, std::uint32_t stops = 0);
  void happen(const Event& event);
  void begin_step(std::size_t session);
  void go_on_after(std::size_t id);
  void arrive(std::size_t id);
  void lease(std::size_t id);
  void serve(std::size_t id);
  void end(std::size_t id);
  void give_up(std::size_t id);
  void let_in(Slot& slot);
  void load(std::size_t model);
  void become_ready(std::size_t model);
  void stop(std::size_t model);

  void decide();
  bool take_free_places();
  bool carry_out(const coordinator::Action& action);
  void check_sets(const Snapshot& seen, const coordinator::Decision& decision);
  std::vector<std::size_t> idle_before(const Snapshot& seen,
                                       const coordinator::RoomMade& room) const;
  std::uint64_t interval_ns(const Slot& slot) const;
  void see_waiters(std::uint32_t model, Snapshot* seen) const;
  Snapshot look() const;
  PolicyFigures figures() const;

  const Trace& trace_;
  const std::uint64_t patience_ns_;
  Snapshot empty_;  // the settings and the worker
  bool spares_ = true;
  std::vector<Slot> slots_;
  std::vector<Request> requests_;
  std::vector<Progress> sessions_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t order_ = 0;
  std::uint64_t now_ns_ = kStart_ns;
  std::uint64_t next_look_ns_ = kNever_ns;
  PolicyFigures figures_;
};

}  // namespace modelpool::sim
