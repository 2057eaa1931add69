#include "judge/decide.hpp"

#include <algorithm>
#include <optional>
#include <string>

#include "base/duration.hpp"
#include "base/size.hpp"
#include "base/time.hpp"
#include "policy/fit.hpp"
#include "policy/kept.hpp"
#include "policy/line.hpp"
#include "policy/order.hpp"
#include "policy/pressure.hpp"
#include "policy/rules.hpp"
#include "policy/turns.hpp"
#include "policy/victims.hpp"
#include "protocol/outlook.hpp"

namespace modelpool::coordinator {
namespace {

class Judge {
 public:
  Judge(const Snapshot& snapshot, const Facts& facts)
      : s_(snapshot), facts_(facts), now_(add_ns(snapshot.now_ns, facts.ahead_ns)), alarm_(now_) {
    residents_ = residents_of(s_);
    acted_.resize(s_.backends.size());
    kept_ = find_kept(residents_, s_.keep(), room_rules(s_, now_).order);
    sort_leases();
    for (const WaiterView& w : s_.waiters) {
      if (!owner_is_dead(w.owner)) waiting_.push_back(waiting_of(w));
    }
    heads_ = find_heads(waiting_, residents_, now_);
  }

  Decision decide() {
    reap_workers();
    for (const BackendView& b : s_.backends) judge(b);
    // What is being taken back may be what has to go: who makes room is for the next look, at once.
    if (!facts_.ending && !takes_back_) {
      relieve_short_loads();
      make_places();
      relieve_host();
    }
    note_baselines();
    decision_.wake_ns = alarm_.wake_ns();
    return std::move(decision_);
  }

 private:
  // --- Helpers -------------------------------------------------------------------------------

  // Is it due? If not, the coordinator wakes when it is.
  bool due(std::uint64_t at_ns) { return alarm_.passed_or_wakes(at_ns); }
  Action& act(ActionKind kind, const BackendView& b) {
    Action action;
    action.kind = kind;
    action.backend = b.ref;
    action.seen = b.state;
    // Neither has a say in where it stands.
    const bool is_a_note = kind == ActionKind::kRecordLoad || kind == ActionKind::kAskToEnd;
    if (!is_a_note) acted_[position(b)] = true;
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
  StopRecord why(const BackendView& b, Reason reason, const Finding& finding) const {
    StopRecord stop = why(b, reason);
    if (finding.since_ns != kNever_ns) stop.age_ns = age_ns(now_, finding.since_ns);
    stop.limit_ns = finding.limit_ns;
    return stop;
  }
  void want(const BackendView& b) { decision_.wanted |= std::uint64_t{1} << (b.ref.index & 63); }

  bool owner_is_dead(std::uint64_t owner) const {
    const WorkerView* worker = s_.find_worker(owner);
    return worker == nullptr || facts_.is_dead(worker->ref);
  }
  // A tenant belongs to who runs it: with him it ends.
  bool is_abandoned(const BackendView& b) const {
    return b.tenant() && b.ready_ns != 0 && !facts_.has_exited(b.ref) && owner_is_dead(b.holder);
  }
  // The first of those who wait for it and will take it when they look.
  const Waiting* first_waiter(const BackendView& b) const {
    return first_waiter_for(waiting_, residents_[position(b)].model, now_);
  }
  Case case_of(const BackendView& b) {
    const std::size_t i = position(b);
    Case subject{residents_[i], b.settings(), leases_of(b)};
    subject.stamp_lag_ns = facts_.stamp_resolution_ns;
    subject.kept = kept_[i];
    subject.pool_ends = facts_.ending;
    subject.limits = limits_of(s_);
    subject.standstills = facts_.standstills;
    if (const Unanswered* probes = facts_.unanswered_of(b.ref); probes != nullptr)
      subject.unanswered_ns = probes->began_ns;
    const bool has_process = b.state.state != BackendState::kReserved;
    if (has_process && facts_.has_exited(b.ref)) subject.ended_ns = exit_status_until_ns(b.ref);
    if (is_abandoned(b)) subject.ended_ns = 0;
    if (const Waiting* waiter = first_waiter(b); waiter != nullptr) {
      subject.awaited_until_ns = present_until_ns(*waiter);
    }
    return subject;
  }

  // The leases by backend: those of the backend at position i are leases_[lease_begin_[i]] up to
  // lease_begin_[i + 1]. lease_view_ leads back to the snapshot.
  void sort_leases() {
    constexpr std::size_t kNone = SIZE_MAX;
    std::vector<std::size_t> position_of_slot;
    for (std::size_t i = 0; i < s_.backends.size(); ++i) {
      position_of_slot.resize(s_.backends[i].ref.index + 1, kNone);
      position_of_slot[s_.backends[i].ref.index] = i;
    }
    const auto position_of = [&](const LeaseView& lease) {
      const std::uint32_t slot = lease.backend.index;
      const std::size_t at = slot < position_of_slot.size() ? position_of_slot[slot] : kNone;
      return at == kNone || s_.backends[at].ref != lease.backend ? kNone : at;
    };
    lease_begin_.assign(s_.backends.size() + 1, 0);
    for (const LeaseView& lease : s_.leases) {
      if (const std::size_t at = position_of(lease); at != kNone) ++lease_begin_[at + 1];
    }
    for (std::size_t i = 1; i < lease_begin_.size(); ++i) lease_begin_[i] += lease_begin_[i - 1];
    leases_.resize(lease_begin_.back());
    lease_view_.resize(lease_begin_.back());
    std::vector<std::size_t> next(lease_begin_.begin(), lease_begin_.end());
    for (const LeaseView& lease : s_.leases) {
      const std::size_t at = position_of(lease);
      if (at == kNone) continue;
      const std::size_t place = next[at]++;
      leases_[place] = lease_in_flight(lease);
      if (facts_.is_stopped(lease.worker)) leases_[place].cancellable = false;
      lease_view_[place] = &lease;
    }
  }
  std::span<const LeaseInFlight> leases_of(const BackendView& b) const {
    const std::size_t i = position(b);
    return std::span(leases_).subspan(lease_begin_[i], lease_begin_[i + 1] - lease_begin_[i]);
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

  void judge(const BackendView& b) {
    switch (b.state.state) {
      case BackendState::kFree:
        return;
      case BackendState::kReserved:
      case BackendState::kStarting:
        return judge_load(b);
      case BackendState::kReady:
        return judge_ready(b);
      case BackendState::kEvicting:
        return judge_closed(b);
      case BackendState::kStopping:
        return judge_stopping(b);
      case BackendState::kGone:
        return judge_gone(b);
    }
  }

  void judge_load(const BackendView& b) {
    Finding finding;
    const Reason broken = find_broken_rule(case_of(b), alarm_, &finding);
    StopRecord stop = why(b, broken, finding);
    if (owner_is_dead(b.holder)) {
      stop = why(b, Reason::kCrashed);
      stop.failed = kLoadLost;
      set_field(&stop.text, "the worker that was loading it died");
    } else if (broken == Reason::kRequested) {
      stop.failed = kLoadEnded;
      set_field(&stop.text, "evicted while it was loading");
    } else if (broken == Reason::kCrashed) {
      stop.failed = kLoadFailed;
      set_field(&stop.text, "its process ended before it was ready");
    } else if (broken == Reason::kLoadTimeout) {
      stop.failed = kLoadFailed;
      set_field(&stop.text,
                "not ready within " + format_duration(finding.limit_ns) + " (load_timeout)");
    } else if (broken == Reason::kOverLimit) {
      stop.failed = kLoadFailed;
      set_field(&stop.text, over_limit_text(b));
    } else if (facts_.ending) {
      stop = why(b, Reason::kShutdown);
      stop.failed = kLoadEnded;
      set_field(&stop.text, "the pool is being shut down");
    } else {
      return;
    }
    stop.worker_pid = b.owner_pid;
    act(ActionKind::kLoseTicket, b).stop = stop;
  }

  void judge_ready(const BackendView& b) {
    record_load(b);
    Finding finding;
    const Case subject = case_of(b);
    const Reason broken = find_broken_rule(subject, alarm_, &finding);
    if (broken == Reason::kNone) {
      if (b.in_flight > 0 && goes_when_unused(subject.resident, subject.settings)) want(b);
      return ask_holders(b, subject);
    }
    Action& action = act(ActionKind::kClose, b);
    action.stop = why_broken(b, broken, finding);
    action.hold = reason_row(broken).holds_closed;
  }

  // Before its backend goes for a request that takes too long.
  void ask_holders(const BackendView& b, const Case& subject) {
    for (const CancelRequest& request : find_cancel_requests(subject, alarm_))
      act(ActionKind::kAskToEnd, b).stop = why_broken(b, request.reason, request.finding);
  }

  // The stop record of a broken rule, with the lease that broke it.
  StopRecord why_broken(const BackendView& b, Reason reason, const Finding& finding) const {
    StopRecord stop = why(b, reason, finding);
    const bool asked_to_cut = reason == Reason::kRequested && (b.control & kControlForce) != 0;
    const Cuts cuts = reason_row(reason).cuts;
    stop.forced = cuts == Cuts::kAlways || asked_to_cut ||
                  (cuts == Cuts::kForALease && finding.lease != kNoLease);
    if (reason == Reason::kWedged) set_field(&stop.text, probes_failed(b));
    if (reason == Reason::kCrashed) set_field(&stop.text, "its process ended" + requests_cut(b));
    if (reason == Reason::kCrashed && is_abandoned(b)) set_field(&stop.text, kHolderLeft);
    if (reason == Reason::kIdle && b.keep_alive != 0) set_field(&stop.text, kByKeepAlive);
    if (reason == Reason::kOverLimit) set_field(&stop.text, over_limit_text(b) + requests_cut(b));
    if (finding.lease == kNoLease) return stop;
    const LeaseView& lease = *lease_view_[lease_begin_[position(b)] + finding.lease];
    stop.worker = lease.worker;
    stop.lease = lease.cell;
    stop.lease_word = lease.word;
    stop.lease_stamp_ns = finding.since_ns;
    for (const WorkerView& worker : s_.workers) {
      if (worker.ref.index != lease.worker) continue;
      stop.worker_pid = static_cast<std::uint32_t>(worker.process.pid);
    }
    set_field(&stop.tag, lease.tag);
    if (leases_of(b)[finding.lease].asked_ns != 0) {
      const std::string before(field_text(stop.text));
      set_field(&stop.text, before + (before.empty() ? "" : "; ") +
                                "its holder was asked to end it " +
                                format_age(age_ns(now_, lease.cancel_at_ns)) + " before");
    }
    return stop;
  }

  // "3 probes in a row failed, the last: no answer within 5s"
  std::string probes_failed(const BackendView& b) const {
    const Unanswered* const probes = facts_.unanswered_of(b.ref);
    if (probes == nullptr) return {};
    return std::to_string(probes->began_ns.size()) +
           (probes->began_ns.size() == 1 ? " probe" : " probes in a row") +
           " failed, the last: " + probes->last;
  }

  std::string over_limit_text(const BackendView& b) const {
    const Limits limits = limits_of(s_);
    if (limits.max_memory != 0 && b.measured.host > limits.max_memory) {
      return "by itself it takes " + format_size(b.measured.host) +
             " of memory, and max_memory is " + format_size(limits.max_memory);
    }
    for (std::size_t d = 0; d < std::min(kDevicesMax, s_.devices.size()); ++d) {
      const std::uint64_t limit = limits.device[d].bytes;
      if (limit == 0 || b.measured.device[d] <= limit) continue;
      return "by itself it takes " + format_size(b.measured.device[d]) + " of device " +
             escape(s_.devices[d]) + ", of which the pool may take " + format_size(limit);
    }
    return "by itself it takes more than the pool may";
  }

  // "; 2 requests were cut, tags: a, b": whose they were, as far as they said.
  std::string requests_cut(const BackendView& b) const {
    const std::size_t i = position(b);
    if (lease_begin_[i] == lease_begin_[i + 1]) return {};
    const std::size_t count = lease_begin_[i + 1] - lease_begin_[i];
    std::string text =
        "; " + std::to_string(count) + (count == 1 ? " request was" : " requests were") + " cut";
    std::string tags;
    for (std::size_t at = lease_begin_[i]; at < lease_begin_[i + 1]; ++at) {
      const std::string& tag = lease_view_[at]->tag;
      if (!tag.empty()) tags += (tags.empty() ? "" : ", ") + escape(tag);
    }
    return tags.empty() ? text : text + ", tags: " + tags;
  }

  void record_load(const BackendView& b) {
    const bool noted = high_half(b.noted) == b.ref.generation &&
                       low_half(b.noted) >= static_cast<std::uint32_t>(BackendState::kReady);
    if (!noted) act(ActionKind::kRecordLoad, b);
  }

  // Who spawned it reaps it and records how it ended; that is worth a moment, for those who wait.
  std::uint64_t exit_status_until_ns(BackendRef ref) const {
    for (const auto& [unreaped, until] : facts_.unreaped) {
      if (unreaped == ref) return until;
    }
    return 0;
  }

  bool is_closed_by_us(const BackendView& b) const {
    return b.state.owner == StateWord::owner_of_epoch(facts_.epoch);
  }
  // An earlier coordinator was killed while it ended a set: one of it is STOPPING, and the waiter
  // they make room for is still there. Opened again this one may be used at once, and the other
  // would have gone for nothing. So it is a drain of ours: make_places ends it, or opens it if
  // others are to go.
  bool is_left_of_a_set(const BackendView& b) const {
    const std::uint64_t arrival = b.stop.for_arrival;
    if (b.stop.generation != b.ref.generation) return false;
    const auto is_asker = [&](const Waiting& one) { return one.arrival == arrival; };
    const auto is_its_mate = [&](const BackendView& other) {
      const bool has_gone =
          other.state.state == BackendState::kStopping || other.state.state == BackendState::kGone;
      return has_gone && other.stop.generation == other.ref.generation &&
             other.stop.for_arrival == arrival;
    };
    return std::any_of(waiting_.begin(), waiting_.end(), is_asker) &&
           std::any_of(s_.backends.begin(), s_.backends.end(), is_its_mate);
  }

  // EVICTING: finish what was begun, or take it back.
  void judge_closed(const BackendView& b) {
    if (!is_closed_by_us(b) && !is_left_of_a_set(b)) {
      act(ActionKind::kReopen, b);  // an earlier coordinator's, which did not get to the end
      takes_back_ = true;
      return;
    }
    Finding finding;
    const Case subject = case_of(b);
    if (const Reason broken = find_broken_rule(subject, alarm_, &finding);
        broken != Reason::kNone) {
      act(ActionKind::kCommit, b).stop = why_broken(b, broken, finding);
      return;
    }
    ask_holders(b, subject);
    if (facts_.has_exited(b.ref)) return;  // its exit status may still come
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
    const bool for_room = reason_row(reason).makes_room;
    if (for_room && b.pinned() && !facts_.ending) {
      act(ActionKind::kReopen, b);
      return;
    }
    if (for_room && !facts_.ending) return;  // make_places judges it, with all the others
    if (!reason_row(reason).holds_closed) {
      act(ActionKind::kReopen, b);
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
    if (!drained_long_enough(b)) return;
    if (stop.reason == Reason::kShutdown) {
      stop.forced = 1;  // it ends with the pool, however long its requests
      act(ActionKind::kCommit, b).stop = stop;
      return;
    }
    act(ActionKind::kReopen, b).drain_failed = true;
    if (by_request) act(ActionKind::kRefuseEvict, b);
  }

  void judge_stopping(const BackendView& b) {
    record_load_if_it_served(b);
    if (b.state.owner != 0 && owner_is_dead(b.holder)) act(ActionKind::kDisown, b);
    if (b.settling()) return judge_settling(b);
    if (b.process.pid == 0 || facts_.has_vanished(b.ref)) {
      act(returns_.must_settle(b) ? ActionKind::kSettle : ActionKind::kMarkGone, b).by_time = true;
      return;
    }
    const std::uint64_t grace = b.settings().get(Setting::kStopGrace);
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
        // Its loader gave it back or said that it failed: nothing was decided here.
        action.stop = why(b, Reason::kNone);
        action.stop.failed = kLoadFailed;
        action.stop.worker_pid = b.owner_pid;
      }
    };
    if (b.stop.signalled_ns == 0) {
      send(static_cast<int>(b.settings().get(Setting::kStopSignal)));
      return mark_overdue(b, add_ns(b.stop.stopping_ns, grace));
    }
    const std::uint64_t kill_at = grace == 0 ? kNever_ns : moved(b.stop.signalled_ns, grace);
    if (b.stop.killed_ns == 0) {
      if (due(kill_at)) send(kSigkill);
      return mark_overdue(b, grace == 0 ? b.stop.signalled_ns : kill_at);
    }
    mark_overdue(b, b.stop.killed_ns);
  }

  // No process is left: nothing more is signalled, and nothing is overdue.
  void judge_settling(const BackendView& b) {
    const std::uint64_t until_ns = moved(b.stop.ended_ns, b.settings().get(Setting::kSettle));
    const bool is_back = returns_.is_back(b);
    if (is_back || !returns_.must_settle(b) || due(until_ns))
      act(ActionKind::kMarkGone, b).by_time = !is_back;
  }

  // Before the first signal of each stop: what is free on its devices.
  void note_baselines() {
    for (Action& action : decision_.actions) {
      const BackendView* const b = s_.find(action.backend);
      const bool is_stop = action.kind == ActionKind::kClose ||
                           action.kind == ActionKind::kCommit ||
                           action.kind == ActionKind::kLoseTicket;
      if (b == nullptr) continue;
      const bool is_first_word =
          action.kind == ActionKind::kSignal && b->stop.generation != b->ref.generation;
      if (is_stop || is_first_word) returns_.note_baseline(*b, &action.stop);
    }
  }

  // So long after the stamp; when everything stood still, that does not count.
  std::uint64_t moved(std::uint64_t stamp_ns, std::uint64_t by_ns) const {
    return add_ns(stamp_ns, add_ns(by_ns, still_since_ns(facts_.standstills, stamp_ns)));
  }

  // From SIGKILL on; if that reached nobody, because nobody may be signalled, from when it was due.
  void mark_overdue(const BackendView& b, std::uint64_t since_ns) {
    const bool none_can = b.left.count != 0 && stands_in_the_way(b.left.named[0].why);
    if (b.overdue || (b.stop.killed_ns == 0 && !none_can)) return;
    if (due(moved(since_ns, kUnkillable_ns))) act(ActionKind::kMarkOverdue, b);
  }

  // STOPPING reached from READY before a scan saw it ready: still a load to be recorded.
  void record_load_if_it_served(const BackendView& b) {
    if (b.ready_ns != 0 && b.stop.failed == 0 && b.stop.generation == b.ref.generation)
      record_load(b);
  }

  void judge_gone(const BackendView& b) {
    if (high_half(b.noted) != b.ref.generation ||
        low_half(b.noted) < static_cast<std::uint32_t>(BackendState::kGone)) {
      act(ActionKind::kRecordEnd, b);
    }
    if (b.state.owner != 0) {
      if (owner_is_dead(b.holder)) act(ActionKind::kDisown, b);
      return;
    }
    want(b);  // the slot is free when its last holder has noticed
    if (b.in_flight == 0) act(ActionKind::kFree, b);
  }

  // --- Room -----------------------------------------------------------------------------------

  // Of those that are live, and their positions in s_.backends.
  std::vector<Holding> find_holdings(std::vector<std::size_t>* positions) const {
    std::vector<Holding> holdings;
    for (std::size_t i = 0; i < s_.backends.size(); ++i) {
      if (!s_.backends[i].live()) continue;
      holdings.push_back(holding_of(s_.backends[i]));
      positions->push_back(i);
    }
    return holdings;
  }

  void make_places() {
    std::vector<std::size_t> positions;
    const std::vector<Holding> holdings = find_holdings(&positions);
    std::vector<Head> heads;
    for (const Waiting& first : heads_) heads.push_back(head_of(first, waiting_, now_));
    const RoomPlan plan = make_room(holdings, heads, room_rules(s_, now_), alarm_);
    for (const std::size_t i : plan.awaited_ends) want(s_.backends[positions[i]]);
    for (const RoomPromise& promise : plan.promises) {
      if (!is_promised(promise)) decision_.promises.push_back(promise);
    }
    for (const RoomSet& set : plan.sets) {
      RoomMade& room = decision_.rooms.emplace_back();
      room.for_arrival = set.for_arrival;
      for (const std::size_t i : set.holdings) room.go.push_back(s_.backends[positions[i]].ref);
    }
    for (const RoomStep& step : plan.steps) {
      const BackendView& b = s_.backends[positions[step.holding]];
      switch (step.kind) {
        case RoomStep::Kind::kClose: {
          Action& action = act(ActionKind::kClose, b);
          action.stop = why(b, step.reason);
          action.stop.age_ns = age_ns(now_, last_use_ns(holdings[step.holding].resident));
          action.stop.forced = step.forced;
          action.stop.for_arrival = step.for_arrival;
          set_field(&action.stop.text, room_for(step.for_arrival));
          action.hold = step.hold;
          action.only_hold = step.only_hold;
          action.set = step.set;
          break;
        }
        case RoomStep::Kind::kCommit: {
          Action& action = act(ActionKind::kCommit, b);
          action.stop = b.stop;
          action.stop.forced = step.forced;
          action.stop.for_arrival = step.for_arrival;
          set_field(&action.stop.text, room_for(step.for_arrival));
          action.set = step.set;
          break;
        }
        case RoomStep::Kind::kReopen:
          act(ActionKind::kReopen, b).drain_failed = step.drain_failed;
          break;
      }
    }
  }

  bool is_promised(const RoomPromise& promise) const {
    return std::any_of(waiting_.begin(), waiting_.end(), [&](const Waiting& waiting) {
      return waiting.arrival == promise.arrival && waiting.promised == promise.devices;
    });
  }

  // For a load that the kernel killed for memory beside an idle backend: the least valuable one
  // goes, so that the next load finds more.
  void relieve_short_loads() {
    const Order order = room_rules(s_, now_).order;
    for (const std::string& model : facts_.short_loads) {
      const BackendView* victim = nullptr;
      for (const BackendView& b : s_.backends) {
        if (!is_idle_for_good(b)) continue;
        if (victim == nullptr ||
            order.goes_before(residents_[position(b)], residents_[position(*victim)]))
          victim = &b;
      }
      if (victim == nullptr) return;
      Action& action = act(ActionKind::kClose, *victim);
      action.stop = why(*victim, Reason::kMemory);
      action.stop.age_ns = age_ns(now_, victim->last_used_ns);
      set_field(&action.stop.text, "room for " + escape(model) + ", whose load ran out of memory");
      action.short_load = model;
    }
  }

  bool is_idle_for_good(const BackendView& b) const {
    return b.state.state == BackendState::kReady && b.in_flight == 0 && !b.pinned() &&
           !b.external() && !acted_[position(b)] && first_waiter(b) == nullptr;
  }

  // One idle backend goes when the host has too little memory left.
  void relieve_host() {
    alarm_.wake_at(facts_.host.look_ns);
    if (!facts_.host.may_evict) return;
    std::vector<std::size_t> positions;
    const std::vector<Holding> holdings = find_holdings(&positions);
    const auto victim = find_pressure_victim(holdings, room_rules(s_, now_).order);
    if (!victim) return;
    const BackendView& b = s_.backends[positions[*victim]];
    Action& action = act(ActionKind::kClose, b);
    action.stop = why(b, Reason::kMemory);
    action.stop.age_ns = age_ns(now_, last_use_ns(holdings[*victim].resident));
    set_field(&action.stop.text, "the host has " + format_size(facts_.host.available_bytes) +
                                     " of memory left, and min_available is " +
                                     format_size(facts_.host.min_bytes));
    action.for_host = true;
  }

  // For whom somebody goes: "room for llama, asked for by process 81, tag req-7".
  std::string room_for(std::uint64_t arrival) const {
    for (const WaiterView& waiter : s_.waiters) {
      if (arrival == 0 || waiter.arrival != arrival) continue;
      return "room for " + escape(waiter.model) + ", asked for by process " +
             std::to_string(waiter.pid) + (waiter.tag.empty() ? "" : ", tag " + escape(waiter.tag));
    }
    const Room room(limits_of(s_), residents_);
    if (room.excess()[Resource::kHostBytes] == 0) return "the pool is above its limits";
    return "the pool's backends take " +
           format_size(limits_of(s_).max_memory +
                       static_cast<std::uint64_t>(room.excess()[Resource::kHostBytes])) +
           " of memory, and max_memory is " + format_size(limits_of(s_).max_memory);
  }

  Holding holding_of(const BackendView& b) const {
    const Effective& rules = b.settings();
    Holding holding;
    holding.resident = residents_[position(b)];
    holding.role = role_of(b);
    holding.when_busy = static_cast<WhenBusy>(rules.get(Setting::kWhenBusy));
    holding.min_resident_ns = rules.get(Setting::kMinResident);
    holding.max_wait_ns = rules.get(Setting::kMaxWait);
    holding.drain_timeout_ns = rules.get(Setting::kDrainTimeout);
    holding.closed_ns = b.stop.decided_ns;
    if (const Waiting* waiter = first_waiter(b); waiter != nullptr) {
      holding.awaited_arrival = waiter->arrival;
      holding.awaited_until_ns = present_until_ns(*waiter);
    }
    return holding;
  }

  Holding::Role role_of(const BackendView& b) const {
    using Role = Holding::Role;
    if (b.state.state == BackendState::kStopping) return b.overdue ? Role::kStays : Role::kLeaving;
    if (acted_[position(b)]) return ends_now(b) ? Role::kLeaving : Role::kStays;
    if (b.state.state == BackendState::kReady) return b.pinned() ? Role::kStays : Role::kCandidate;
    if (b.state.state != BackendState::kEvicting) return Role::kStays;
    if (!is_closed_by_us(b) && !is_left_of_a_set(b)) return Role::kStays;
    if (reason_row(b.stop.reason).makes_room) return b.pinned() ? Role::kStays : Role::kDraining;
    return b.in_flight == 0 ? Role::kLeaving : Role::kStays;
  }
  // Another rule ends it in this very decision.
  bool ends_now(const BackendView& b) const {
    return std::any_of(decision_.actions.begin(), decision_.actions.end(), [&](const Action& a) {
      return a.backend == b.ref &&
             (a.kind == ActionKind::kClose || a.kind == ActionKind::kCommit) &&
             (a.stop.forced != 0 || b.in_flight == 0);
    });
  }

  bool drained_long_enough(const BackendView& b) {
    const std::uint64_t limit = b.settings().get(Setting::kDrainTimeout);
    return limit != 0 && due(add_ns(b.stop.decided_ns, limit));
  }

  static constexpr int kSigkill = 9;
  static constexpr std::string_view kByKeepAlive = "by keep_alive, as an acquire asked";
  const Snapshot& s_;
  const Facts& facts_;
  const DeviceReturns returns_{s_, facts_.devices, facts_.exited};
  const std::uint64_t now_;
  Alarm alarm_;
  std::vector<Resident> residents_;  // by position in s_.backends, as the next
  std::vector<bool> acted_;          // more than noted as loaded
  std::vector<bool> kept_;           // idle eviction leaves it
  bool takes_back_ = false;          // what an earlier coordinator closed
  std::vector<Waiting> waiting_;     // by arrival; of workers that live
  std::vector<Waiting> heads_;
  std::vector<LeaseInFlight> leases_;  // see sort_leases
  std::vector<const LeaseView*> lease_view_;
  std::vector<std::size_t> lease_begin_;
  Decision decision_;
};

template <class T>
bool contains(const std::vector<T>& all, const T& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

}  // namespace

bool Facts::has_exited(BackendRef ref) const { return contains(exited, ref); }
bool Facts::has_vanished(BackendRef ref) const { return contains(vanished, ref); }
bool Facts::is_dead(WorkerRef worker) const { return contains(dead_workers, worker); }
bool Facts::is_stopped(std::uint32_t worker_row) const {
  return std::any_of(stopped_workers.begin(), stopped_workers.end(),
                     [&](WorkerRef worker) { return worker.index == worker_row; });
}
const Unanswered* Facts::unanswered_of(BackendRef ref) const {
  for (const Unanswered& one : unanswered) {
    if (one.backend == ref) return &one;
  }
  return nullptr;
}

Decision decide(const Snapshot& snapshot, const Facts& facts) {
  return Judge(snapshot, facts).decide();
}

std::uint64_t baselines_from_ns(std::uint64_t before_ns, const Decision& decision,
                                const Snapshot& snapshot) {
  for (const Action& action : decision.actions) {
    const BackendView* const b = snapshot.find(action.backend);
    if (action.kind != ActionKind::kMarkGone || !action.by_time || b == nullptr) continue;
    for (std::size_t i = 0; i < kDevicesMax; ++i) {
      if (most_held(*b, i) != 0) return std::max(before_ns, snapshot.now_ns);
    }
  }
  return before_ns;
}

}  // namespace modelpool::coordinator
