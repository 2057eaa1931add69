#include "decide.hpp"

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "protocol/acquisition.hpp"
#include "base/time.hpp"

namespace modelpool::coordinator {
namespace {

// A model that waits for a place, with the arrival of its first waiter.
struct Head {
  std::uint64_t arrival;
  std::uint64_t deadline;
  const std::string* model;
};

class Judge {
 public:
  Judge(const Snapshot& snapshot, const Facts& facts)
      : s_(snapshot), facts_(facts), now_(add_ns(snapshot.now_ns, facts.ahead_ns)) {
    static const Settings kDefaults;
    const Settings& settings = s_.settings ? *s_.settings : kDefaults;
    rules_.reserve(s_.backends.size());
    for (const BackendView& b : s_.backends) {
      rules_.push_back(effective_settings(settings, b.model, &b.overrides));
    }
    acted_.resize(s_.backends.size());
    sort_leases();
    for (const WaiterView& w : s_.waiters) {  // by arrival: the first of each model stays
      if (w.deadline_ns <= now_) continue;
      first_waiter_.emplace(w.model, &w);
      if (add_ns(w.since_ns, kHeadPatience_ns) > now_) first_fresh_waiter_.emplace(w.model, &w);
    }
  }

  Decision decide() {
    reap_workers();
    for (std::size_t i = 0; i < s_.backends.size(); ++i) judge(s_.backends[i], rules_[i]);
    if (!facts_.ending) make_room();
    return std::move(decision_);
  }

 private:
  // --- Helpers -------------------------------------------------------------------------------

  // Is it due? If not, the coordinator wakes when it is.
  bool due(std::uint64_t at_ns) {
    if (at_ns <= now_) return true;
    decision_.wake_ns = std::min(decision_.wake_ns, at_ns);
    return false;
  }
  Action& act(ActionKind kind, const BackendView& b) {
    Action action;
    action.kind = kind;
    action.backend = b.ref;
    action.seen = b.state;
    if (kind != ActionKind::kNoteLoaded) acted_[position(b)] = true;
    decision_.actions.push_back(std::move(action));
    return decision_.actions.back();
  }
  std::size_t position(const BackendView& b) const {
    return static_cast<std::size_t>(&b - s_.backends.data());
  }
  StopRecord why(const BackendView& b, Reason reason) const {
    StopRecord stop;
    stop.generation = b.ref.generation;
    stop.reason = reason;
    stop.decided_ns = now_;
    return stop;
  }
  StopRecord why(const BackendView& b, Reason reason, std::uint64_t age,
                 std::uint64_t limit) const {
    StopRecord stop = why(b, reason);
    stop.age_ns = age;
    stop.limit_ns = limit;
    return stop;
  }
  void want(const BackendView& b) { decision_.wanted |= std::uint64_t{1} << (b.ref.index & 63); }

  bool owner_is_dead(std::uint32_t owner) const {
    const WorkerView* worker = s_.find_worker(owner);
    return worker == nullptr || facts_.is_dead(worker->ref);
  }
  // Who waits for a backend that is open has it in a moment; who has not by now is stopped, and
  // keeps nobody's place (P5).
  bool is_awaited(const BackendView& b, std::uint64_t before_arrival = kNever_ns) {
    const auto first = first_waiter_.find(b.model);
    if (first == first_waiter_.end() || first->second->arrival >= before_arrival) return false;
    if (!due(add_ns(facts_.open_since_ns(b), kHeadPatience_ns))) return true;
    const auto fresh = first_fresh_waiter_.find(b.model);
    if (fresh == first_fresh_waiter_.end() || fresh->second->arrival >= before_arrival)
      return false;
    return !due(add_ns(fresh->second->since_ns, kHeadPatience_ns));
  }
  // Its leases are a list: first_lease_ of the backend, then next_lease_ of each.
  void sort_leases() {
    std::vector<std::size_t> position_of_slot;
    for (std::size_t i = 0; i < s_.backends.size(); ++i) {
      position_of_slot.resize(s_.backends[i].ref.index + 1, kNone);
      position_of_slot[s_.backends[i].ref.index] = i;
    }
    first_lease_.assign(s_.backends.size(), kNone);
    next_lease_.assign(s_.leases.size(), kNone);
    for (std::size_t i = s_.leases.size(); i-- > 0;) {
      const BackendRef ref = s_.leases[i].backend;
      const std::size_t at =
          ref.index < position_of_slot.size() ? position_of_slot[ref.index] : kNone;
      if (at == kNone || s_.backends[at].ref != ref) continue;
      next_lease_[i] = first_lease_[at];
      first_lease_[at] = i;
    }
  }

  // --- The dead ------------------------------------------------------------------------------

  void reap_workers() {
    for (const WorkerRef dead : facts_.dead_workers) {
      Action action;
      action.kind = ActionKind::kReapWorker;
      action.worker = dead;
      decision_.actions.push_back(action);
    }
    for (const WaiterView& waiter : s_.waiters) {
      if (s_.find_worker(waiter.owner) != nullptr) continue;
      Action action;
      action.kind = ActionKind::kClearWaiter;
      action.waiter_row = waiter.row;
      action.waiter_generation = waiter.generation;
      decision_.actions.push_back(action);
    }
  }

  // --- One backend ---------------------------------------------------------------------------

  void judge(const BackendView& b, const Effective& rules) {
    switch (b.state.state) {
      case BackendState::kFree:
        return;
      case BackendState::kReserved:
      case BackendState::kStarting:
        return judge_load(b, rules);
      case BackendState::kReady:
        return judge_ready(b, rules);
      case BackendState::kEvicting:
        return judge_closed(b, rules);
      case BackendState::kStopping:
        return judge_stopping(b, rules);
      case BackendState::kGone:
        return judge_gone(b);
    }
  }

  void judge_load(const BackendView& b, const Effective& rules) {
    StopRecord stop;
    const std::uint64_t limit = rules.get(Setting::kLoadTimeout);
    if (owner_is_dead(b.state.owner)) {
      stop = why(b, Reason::kCrashed);
      set_field(&stop.text, "the worker that was loading it died");
      stop.failed = kLoadLost;
    } else if (b.state.state == BackendState::kStarting && facts_.has_exited(b.ref)) {
      if (exit_may_come(b)) return;
      stop = why(b, Reason::kCrashed);
      stop.failed = kLoadFailed;
      set_field(&stop.text, "its process ended before it was ready");
    } else if (limit != 0 && due(add_ns(b.reserved_ns, limit))) {
      stop = why(b, Reason::kLoadTimeout, age_ns(now_, b.reserved_ns), limit);
      stop.failed = kLoadFailed;
      set_field(&stop.text, "not ready within " + format_duration(limit) + " (load_timeout)");
    } else if (facts_.ending) {
      stop = why(b, Reason::kShutdown);
      stop.failed = kLoadFailed;
      set_field(&stop.text, "the pool is being shut down");
    } else {
      return;
    }
    stop.worker_pid = b.owner_pid;
    act(ActionKind::kLoseTicket, b).stop = stop;
  }

  void judge_ready(const BackendView& b, const Effective& rules) {
    note_loaded(b);
    if (facts_.has_exited(b.ref)) return close_crashed(b);
    if (facts_.ending) {
      Action& action = act(ActionKind::kClose, b);
      action.stop = why(b, Reason::kShutdown);
      action.hold = true;
      return;
    }
    if (b.control & kControlEvict) {
      Action& action = act(ActionKind::kClose, b);
      action.stop = why(b, Reason::kRequested);
      action.stop.forced = (b.control & kControlForce) != 0;
      action.hold = true;
      return;
    }
    if (const auto stop = broken_rule(b, rules)) {
      act(ActionKind::kClose, b).stop = *stop;
      return;
    }
    const std::uint64_t idle = rules.get(Setting::kIdleTimeout);
    if (idle == 0 || b.pinned()) return;
    // A waiter is about to use it; a lease may end at any time without telling: look again then.
    if (b.in_flight > 0 || is_awaited(b)) {
      static_cast<void>(due(add_ns(now_, idle)));
      return;
    }
    const std::uint64_t limit = add_ns(idle, facts_.stamp_resolution_ns);
    if (due(add_ns(b.last_used_ns, limit))) {
      act(ActionKind::kClose, b).stop = why(b, Reason::kIdle, age_ns(now_, b.last_used_ns), idle);
    }
  }

  void note_loaded(const BackendView& b) {
    const bool noted = high_half(b.noted) == b.ref.generation &&
                       low_half(b.noted) >= static_cast<std::uint32_t>(BackendState::kReady);
    if (!noted) act(ActionKind::kNoteLoaded, b);
  }

  // Who spawned it reaps it and records how it ended; that is worth a moment, for those who wait.
  bool exit_may_come(const BackendView& b) {
    for (const auto& [ref, until] : facts_.unreaped) {
      if (ref == b.ref) return !due(until);
    }
    return false;
  }

  void close_crashed(const BackendView& b) {
    if (exit_may_come(b)) return;
    Action& action =
        act(b.state.state == BackendState::kReady ? ActionKind::kClose : ActionKind::kCommit, b);
    action.stop = why(b, Reason::kCrashed);
    action.stop.forced = 1;
    set_field(&action.stop.text, "its process ended");
  }

  // The lease that has been too long in flight, or without progress: the one that broke its rule
  // first. A lease that begins after this scan can break it only a full timeout from now.
  std::optional<StopRecord> broken_rule(const BackendView& b, const Effective& rules) {
    const std::uint64_t busy = rules.get(Setting::kBusyTimeout);
    const std::uint64_t stall = rules.get(Setting::kStallTimeout);
    if (busy != 0) static_cast<void>(due(add_ns(now_, busy)));
    if (stall != 0) static_cast<void>(due(add_ns(now_, stall)));
    std::optional<StopRecord> found;
    std::uint64_t first = kNever_ns;
    for (std::size_t i = first_lease_[position(b)]; i != kNone; i = next_lease_[i]) {
      const LeaseView* lease = &s_.leases[i];
      std::uint64_t own = busy;
      if (lease->limit_ns != 0 && (own == 0 || lease->limit_ns < own)) own = lease->limit_ns;
      const auto consider = [&](Reason reason, std::uint64_t limit, std::uint64_t stamp) {
        if (limit == 0) return;
        const std::uint64_t at = add_ns(stamp, add_ns(limit, facts_.stamp_resolution_ns));
        if (!due(at) || at >= first) return;
        first = at;
        StopRecord stop = why(b, reason, age_ns(now_, stamp), limit);
        stop.forced = 1;
        stop.worker = lease->worker;
        stop.lease = lease->cell;
        stop.lease_word = lease->word;
        stop.lease_stamp_ns = stamp;
        for (const WorkerView& worker : s_.workers) {
          if (worker.ref.index == lease->worker)
            stop.worker_pid = static_cast<std::uint32_t>(worker.process.pid);
        }
        set_field(&stop.tag, lease->tag);
        found = stop;
      };
      consider(Reason::kBusy, own, lease->start_ns);
      consider(Reason::kStall, stall, lease->progress_ns);
    }
    return found;
  }

  // EVICTING: finish what was begun, or take it back.
  void judge_closed(const BackendView& b, const Effective& rules) {
    if (b.state.owner != StateWord::owner_of_epoch(facts_.epoch)) {
      act(ActionKind::kReopen, b);  // an earlier coordinator's, which did not get to the end
      return;
    }
    if (facts_.has_exited(b.ref)) return close_crashed(b);
    if (const auto stop = broken_rule(b, rules)) {
      act(ActionKind::kCommit, b).stop = *stop;
      return;
    }
    const Reason reason = b.stop.reason;
    const bool by_request = reason == Reason::kRequested;
    if (by_request && (b.control & kControlEvict) == 0) {
      act(ActionKind::kReopen, b);
      return;
    }
    if ((b.control & kControlEvict) && (b.control & kControlForce)) {
      Action& action = act(ActionKind::kCommit, b);
      action.stop = why(b, Reason::kRequested);
      action.stop.forced = 1;
      return;
    }
    if (reason == Reason::kLru && b.pinned() && !facts_.ending) {
      act(ActionKind::kReopen, b);
      return;
    }
    if (reason == Reason::kLru && !facts_.ending)
      return;  // make_room judges it, with all the others
    if (reason == Reason::kNone || reason == Reason::kIdle) {
      act(ActionKind::kReopen, b);  // these are not held closed
      return;
    }
    want(b);  // also for a commit: a publication that is not validated may stand in its way
    StopRecord stop = b.stop;
    if (facts_.ending) {
      stop = why(b, Reason::kShutdown);
      stop.decided_ns = b.stop.decided_ns;
    }
    if (b.in_flight == 0 || stop.forced != 0) {
      act(ActionKind::kCommit, b).stop = stop;
      return;
    }
    if (!drained_long_enough(b, rules)) return;
    if (stop.reason == Reason::kShutdown) {
      stop.forced = 1;  // it ends with the pool, however long its requests
      act(ActionKind::kCommit, b).stop = stop;
      return;
    }
    act(ActionKind::kReopen, b).drain_failed = true;
    if (by_request) act(ActionKind::kRefuseEvict, b);
  }

  void judge_stopping(const BackendView& b, const Effective& rules) {
    note_loaded_if_it_served(b);
    if (b.state.owner != 0 && owner_is_dead(b.state.owner)) act(ActionKind::kDisown, b);
    if (b.process.pid == 0 || facts_.has_vanished(b.ref)) {
      act(ActionKind::kMarkGone, b);
      return;
    }
    const std::uint64_t grace = rules.get(Setting::kStopGrace);
    const auto send = [&](int signal) {
      Action& action = act(ActionKind::kSignal, b);
      action.signal = signal;
      action.stop = b.stop;
      if (b.damaged) {
        action.stop = why(b, Reason::kCrashed);
        action.stop.forced = 1;
        action.stop.failed = b.ready_ns == 0 ? kLoadLost : 0;
        action.stop.worker_pid = b.owner_pid;
        set_field(&action.stop.text, "its slot was damaged");
      } else if (b.stop.generation != b.ref.generation) {
        // Its loader gave it up: nothing was decided here.
        action.stop = why(b, Reason::kNone);
        action.stop.failed = kLoadFailed;
        action.stop.worker_pid = b.owner_pid;
      }
    };
    if (b.stop.signalled_ns == 0) return send(static_cast<int>(rules.get(Setting::kStopSignal)));
    const std::uint64_t kill_at = grace == 0 ? kNever_ns : add_ns(b.stop.signalled_ns, grace);
    if (b.stop.killed_ns == 0) {
      if (due(kill_at)) send(kSigkill);
      return;
    }
    if (due(add_ns(kill_at, kUnkillableAfterGrace_ns)) && !b.overdue)
      act(ActionKind::kMarkOverdue, b);
  }

  // STOPPING reached from READY before a scan saw it ready: still a load to be recorded.
  void note_loaded_if_it_served(const BackendView& b) {
    if (b.ready_ns != 0 && b.stop.failed == 0 && b.stop.generation == b.ref.generation)
      note_loaded(b);
  }

  void judge_gone(const BackendView& b) {
    if (high_half(b.noted) != b.ref.generation ||
        low_half(b.noted) < static_cast<std::uint32_t>(BackendState::kGone)) {
      act(ActionKind::kNoteFailed, b);
    }
    if (b.state.owner != 0) {
      if (owner_is_dead(b.state.owner)) act(ActionKind::kDisown, b);
      return;
    }
    want(b);  // the slot is free when its last holder has noticed
    if (b.in_flight == 0) act(ActionKind::kFree, b);
  }

  // --- Room: the global LRU limit -------------------------------------------------------------

  std::vector<Head> line() const {
    std::vector<Head> heads;
    if (s_.waiters.empty()) return heads;
    std::unordered_set<std::string_view>
        served;  // models with a backend that counts, or in the line
    for (const BackendView& b : s_.backends) {
      if (b.live() && !b.overdue) served.insert(b.model);
    }
    for (const WaiterView& w : s_.waiters) {  // by arrival
      if (w.deadline_ns <= now_ || s_.find_worker(w.owner) == nullptr) continue;
      if (served.insert(w.model).second) heads.push_back({w.arrival, w.deadline_ns, &w.model});
    }
    return heads;
  }

  struct Candidate {
    const BackendView* backend;
    WhenBusy when_busy;
    bool held;
  };
  static std::uint64_t last_use(const BackendView& b) {
    return std::max(b.last_used_ns, b.newest_start_ns);
  }
  // Idle before busy, then whose last drain failed longest ago, then least recently used; ties by
  // age and slot, so that the order is the same whoever looks.
  static bool goes_before(const Candidate& x, const Candidate& y) {
    const auto key = [](const Candidate& c) {
      const BackendView& b = *c.backend;
      return std::make_tuple(b.in_flight > 0, b.in_flight > 0 ? b.drain_failed_ns : 0, last_use(b),
                             b.ready_ns, b.ref.index);
    };
    return key(x) < key(y);
  }

  void make_room() {
    const std::uint64_t limit = s_.max_backends();
    std::uint64_t live = 0;
    std::uint64_t leaving = 0;
    std::vector<Candidate> held;
    std::vector<Candidate> candidates;
    for (std::size_t i = 0; i < s_.backends.size(); ++i) {
      const BackendView& b = s_.backends[i];
      if (!b.live()) continue;
      ++live;
      const auto when_busy = static_cast<WhenBusy>(rules_[i].get(Setting::kWhenBusy));
      if (b.state.state == BackendState::kStopping) {
        leaving += !b.overdue;
      } else if (ends_now(b)) {
        ++leaving;
      } else if (b.state.state == BackendState::kEvicting && ours(b)) {
        if (b.stop.reason == Reason::kLru) {
          if (!b.pinned()) held.push_back({&b, when_busy, true});
        } else {
          leaving += b.in_flight == 0;
        }
      } else if (b.state.state == BackendState::kReady && !b.pinned() && !acted_on(b)) {
        candidates.push_back({&b, when_busy, false});
      }
    }
    const std::vector<Head> heads = line();
    const std::uint64_t staying = live - std::min(live, leaving);
    const std::uint64_t demand = staying + heads.size();
    std::uint64_t needed = limit == 0 || demand <= limit ? 0 : demand - limit;
    needed = std::min<std::uint64_t>(needed, live);
    // The first evictions bring the pool down to its limit, the others make room for the line.
    const std::uint64_t over = staying > limit ? staying - limit : 0;
    const std::uint64_t free_places = staying < limit ? limit - staying : 0;

    std::sort(held.begin(), held.end(), goes_before);
    std::sort(candidates.begin(), candidates.end(), goes_before);
    std::size_t next_held = 0;
    for (std::uint64_t i = 0; i < needed; ++i) {
      const Head* head = nullptr;
      if (i >= over) {
        const std::uint64_t position = free_places + (i - over);
        if (position < heads.size()) head = &heads[position];
      }
      if (next_held == held.size()) {
        choose_victim(&candidates, head, false);
        continue;
      }
      // Somebody who has fallen idle meanwhile goes before one that is still being drained.
      const bool busy = held[next_held].backend->in_flight > 0;
      if (busy && choose_victim(&candidates, head, true)) continue;
      keep_draining(held[next_held++], head);
    }
    for (const Head& head : heads) {
      if (!held.empty()) static_cast<void>(due(head.deadline));  // it may be for nobody by then
    }
    for (; next_held < held.size(); ++next_held) act(ActionKind::kReopen, *held[next_held].backend);
  }

  bool ours(const BackendView& b) const {
    return b.state.owner == StateWord::owner_of_epoch(facts_.epoch);
  }
  bool acted_on(const BackendView& b) const { return acted_[position(b)]; }
  // Another rule ends it in this very decision.
  bool ends_now(const BackendView& b) const {
    if (!acted_on(b)) return false;
    return std::any_of(decision_.actions.begin(), decision_.actions.end(), [&](const Action& a) {
      return a.backend == b.ref &&
             (a.kind == ActionKind::kClose || a.kind == ActionKind::kCommit) &&
             (a.stop.forced != 0 || b.in_flight == 0);
    });
  }
  const Effective& rules_of(const BackendView& b) const { return rules_[position(b)]; }

  void keep_draining(const Candidate& c, const Head* head) {
    const BackendView& b = *c.backend;
    if (acted_on(b)) return;
    const bool force = head != nullptr && c.when_busy == WhenBusy::kForce;
    want(b);
    if (b.in_flight == 0 || force) {
      Action& action = act(ActionKind::kCommit, b);
      action.stop = b.stop;
      action.stop.forced = force;
      action.stop.for_arrival = head != nullptr ? head->arrival : 0;
      return;
    }
    if (drained_long_enough(b, rules_of(b))) act(ActionKind::kReopen, b).drain_failed = true;
  }

  bool drained_long_enough(const BackendView& b, const Effective& rules) {
    const std::uint64_t limit = rules.get(Setting::kDrainTimeout);
    return limit != 0 && due(add_ns(b.stop.decided_ns, limit));
  }

  bool choose_victim(std::vector<Candidate>* candidates, const Head* head, bool only_idle) {
    for (auto it = candidates->begin(); it != candidates->end(); ++it) {
      const BackendView& b = *it->backend;
      if (only_idle && b.in_flight > 0) {
        want(b);
        continue;
      }
      if (head != nullptr && is_awaited(b, head->arrival)) continue;
      const std::uint64_t resident = rules_of(b).get(Setting::kMinResident);
      if (resident != 0 && !due(add_ns(b.ready_ns, resident))) continue;
      // Lowering the limit cuts no lease, whatever when_busy says.
      const bool force = head != nullptr && it->when_busy == WhenBusy::kForce;
      if (b.in_flight > 0 && it->when_busy == WhenBusy::kWait) {
        want(b);
        continue;
      }
      const std::uint64_t drain = rules_of(b).get(Setting::kDrainTimeout);
      if (b.in_flight > 0 && !force && b.drain_failed_ns != 0 && drain != 0 &&
          !due(add_ns(b.drain_failed_ns, drain))) {
        want(b);  // open again for as long as it was closed
        continue;
      }
      Action& action = act(ActionKind::kClose, b);
      action.stop = why(b, Reason::kLru, age_ns(now_, last_use(b)), kNever_ns);
      action.stop.forced = force && b.in_flight > 0;
      action.stop.for_arrival = head != nullptr ? head->arrival : 0;
      action.hold = it->when_busy != WhenBusy::kWait;
      candidates->erase(it);
      return true;
    }
    return false;
  }

  static constexpr int kSigkill = 9;
  static constexpr std::size_t kNone = SIZE_MAX;
  const Snapshot& s_;
  const Facts& facts_;
  const std::uint64_t now_;
  std::vector<Effective> rules_;
  std::vector<bool> acted_;               // by position in s_.backends: more than noted as loaded
  std::vector<std::size_t> first_lease_;  // by position in s_.backends
  std::vector<std::size_t> next_lease_;   // by position in s_.leases
  // Of those who wait for a model, and of those of them who have not done so for long.
  std::unordered_map<std::string_view, const WaiterView*> first_waiter_, first_fresh_waiter_;
  Decision decision_;
};

template <class T>
bool contains(const std::vector<T>& all, const T& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

}  // namespace

std::uint64_t Facts::open_since_ns(const BackendView& ready) const {
  std::uint64_t since = std::max(ready.ready_ns, began_ns);
  for (const auto& [ref, when] : reopened) {
    if (ref == ready.ref) since = std::max(since, when);
  }
  return since;
}
bool Facts::has_exited(BackendRef ref) const { return contains(exited, ref); }
bool Facts::has_vanished(BackendRef ref) const { return contains(vanished, ref); }
bool Facts::is_dead(WorkerRef worker) const { return contains(dead_workers, worker); }

Decision decide(const Snapshot& snapshot, const Facts& facts) {
  return Judge(snapshot, facts).decide();
}

}  // namespace modelpool::coordinator
