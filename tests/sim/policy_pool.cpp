#include "policy_pool.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <random>

#include "base/time.hpp"
#include "policy/fit.hpp"
#include "policy/interval.hpp"
#include "policy/line.hpp"
#include "protocol/histories.hpp"
#include "protocol/outlook.hpp"

namespace modelpool::sim {
namespace {

using coordinator::Action;
using coordinator::ActionKind;

constexpr std::uint32_t kEpoch = 1;
constexpr WorkerRef kWorker{0, 1};

}  // namespace

PolicyPool::PolicyPool(const Trace& trace, const PoolSettings& settings, std::uint64_t patience_ns)
    : trace_(trace), patience_ns_(patience_ns) {
  empty_.settings = std::make_shared<const PoolSettings>(settings);
  WorkerView worker;
  worker.ref = kWorker;
  worker.process.pid = 1000;
  empty_.workers.push_back(worker);
  const auto effective = std::make_shared<Effective>();
  for (const SettingEntry& entry : settings.pool.entries()) effective->take_of_pool(entry);
  slots_.resize(trace.models.size());
  for (std::uint32_t i = 0; i < slots_.size(); ++i) {
    BackendView& view = slots_[i].view;
    view.ref = {i, 0};
    view.model = std::to_string(i);
    view.expected.host = view.size_bytes = trace.models[i].size_bytes;
    view.process.pid = static_cast<pid_t>(5000 + i);
    view.effective = effective;
  }
  for (const TraceRequest& request : trace.requests) {
    Request own;
    own.at_ns = kStart_ns + request.at_ns;
    own.service_ns = request.service_ns;
    own.model = request.model;
    requests_.push_back(own);
  }
  sessions_.resize(trace.sessions.size());
}

void PolicyPool::doubt_load_times(double by, std::uint64_t seed) {
  std::mt19937_64 chance(seed);
  std::normal_distribution<double> normal(0, 1);
  for (Slot& slot : slots_) slot.believed = std::exp(by * normal(chance));
}

PolicyFigures PolicyPool::run() {
  for (std::size_t i = 0; i < sessions_.size(); ++i)
    at(kStart_ns + trace_.sessions[i].start_ns, What::kStep, i);
  const std::size_t count = requests_.size();  // those of sessions come behind
  std::size_t next = 0;
  while (next < count || !events_.empty()) {
    if (next < count && (events_.empty() || requests_[next].at_ns <= events_.top().at_ns)) {
      now_ns_ = requests_[next].at_ns;
      arrive(next++);
      continue;
    }
    const Event event = events_.top();
    events_.pop();
    now_ns_ = event.at_ns;
    happen(event);
  }
  return figures();
}

void PolicyPool::at(std::uint64_t when_ns, What what, std::size_t id, std::uint32_t stops) {
  events_.push({when_ns, order_++, what, id, stops});
}

void PolicyPool::happen(const Event& event) {
  switch (event.what) {
    case What::kServed:
      if (slots_[requests_[event.id].model].stops == event.stops) end(event.id);
      return;
    case What::kLoaded:
      return become_ready(event.id);
    case What::kStopped:
      slots_[event.id].view.state.state = BackendState::kFree;
      return decide();
    case What::kGivesUp:
      return give_up(event.id);
    case What::kStep:
      return begin_step(event.id);
    case What::kLook:
      if (event.at_ns == next_look_ns_) next_look_ns_ = kNever_ns;
      return decide();
  }
}

// --- Requests ------------------------------------------------------------------------------------

void PolicyPool::begin_step(std::size_t session) {
  const TraceSession& all = trace_.sessions[session];
  Progress& progress = sessions_[session];
  if (progress.next_step == all.steps.size()) return;
  const TraceSession::Step& step = all.steps[progress.next_step++];
  progress.open_calls = step.calls.size();
  for (const TraceSession::Call& call : step.calls) {
    requests_.push_back({now_ns_, call.service_ns, 0, call.model, session});
    arrive(requests_.size() - 1);
  }
}

// It has ended, in whatever way.
void PolicyPool::go_on_after(std::size_t id) {
  const std::size_t session = requests_[id].session;
  if (session == kNoSession || --sessions_[session].open_calls > 0) return;
  const std::size_t step = sessions_[session].next_step - 1;
  at(now_ns_ + trace_.sessions[session].steps[step].pause_ns, What::kStep, session);
}

void PolicyPool::arrive(std::size_t id) {
  Slot& slot = slots_[requests_[id].model];
  if (slot.view.state.state == BackendState::kReady) return lease(id);
  slot.waiting.push_back(id);
  if (patience_ns_ != kNever_ns) at(now_ns_ + patience_ns_, What::kGivesUp, id);
  decide();
}

void PolicyPool::lease(std::size_t id) {
  Slot& slot = slots_[requests_[id].model];
  ++slot.view.in_flight;
  slot.started.push_back(now_ns_);
  slot.view.newest_start_ns = now_ns_;
  if (slot.served.size() < trace_.models[requests_[id].model].parallel) return serve(id);
  slot.queued.push_back(id);
}

void PolicyPool::serve(std::size_t id) {
  Slot& slot = slots_[requests_[id].model];
  slot.served.push_back(id);
  requests_[id].served_ns = now_ns_;
  at(now_ns_ + requests_[id].service_ns, What::kServed, id, slot.stops);
}

void PolicyPool::end(std::size_t id) {
  Slot& slot = slots_[requests_[id].model];
  std::erase(slot.served, id);
  --slot.view.in_flight;
  slot.started.pop_front();
  slot.view.last_used_ns = now_ns_;
  Use& use = slot.uses[(id * 2654435761u >> 7) % kWorkers];
  const bool is_first = use.generation != slot.view.ref.generation;
  const std::uint64_t observed_ns = std::max(kIntervalMin_ns, now_ns_ - use.stamp_ns);
  use = {now_ns_, slot.view.ref.generation,
         is_first ? 0 : smooth_interval(use.interval_ns, observed_ns)};
  if (!slot.queued.empty()) {
    const std::size_t next = slot.queued.front();
    slot.queued.pop_front();
    serve(next);
  }
  go_on_after(id);
  if (slot.view.in_flight == 0) decide();
}

void PolicyPool::give_up(std::size_t id) {
  std::deque<std::size_t>& waiting = slots_[requests_[id].model].waiting;
  const auto found = std::find(waiting.begin(), waiting.end(), id);
  if (found == waiting.end()) return;
  waiting.erase(found);
  requests_[id].served_ns = now_ns_;
  ++figures_.timeouts;
  figures_.rare_timeouts += trace_.models[requests_[id].model].rare;
  go_on_after(id);
  decide();
}

void PolicyPool::let_in(Slot& slot) {
  while (!slot.waiting.empty()) {
    const std::size_t id = slot.waiting.front();
    slot.waiting.pop_front();
    lease(id);
  }
}

// --- Backends ------------------------------------------------------------------------------------

void PolicyPool::load(std::size_t model) {
  BackendView& view = slots_[model].view;
  view.ref.generation += 1;
  view.state = {view.ref.generation, StateWord::owner_of(kWorker), BackendState::kStarting};
  view.holder = pack_worker(kWorker);
  view.reserved_ns = view.started_ns = now_ns_;
  view.ready_ns = view.last_used_ns = view.newest_start_ns = view.drain_failed_ns = 0;
  view.noted = pack_half(view.ref.generation, static_cast<std::uint32_t>(BackendState::kReady));
  ++figures_.loads;
  figures_.load_ns += trace_.models[model].load_ns;
  at(now_ns_ + trace_.models[model].load_ns, What::kLoaded, model);
}

void PolicyPool::become_ready(std::size_t model) {
  Slot& slot = slots_[model];
  slot.view.state = {slot.view.ref.generation, 0, BackendState::kReady};
  slot.view.holder = 0;
  slot.view.ready_ns = slot.view.last_used_ns = now_ns_;
  const auto load_ns = static_cast<double>(trace_.models[model].load_ns) * slot.believed;
  slot.view.reserved_ns = now_ns_ - std::min(now_ns_, static_cast<std::uint64_t>(load_ns));
  slot.history.load_ns = now_ns_ - slot.view.reserved_ns;
  note_return(&slot.history, now_ns_);
  let_in(slot);
  decide();
}

// Requests that are cut are not served any more.
void PolicyPool::stop(std::size_t model) {
  Slot& slot = slots_[model];
  figures_.cut += slot.view.in_flight;
  for (const std::size_t id : slot.served) go_on_after(id);
  for (const std::size_t id : slot.queued) go_on_after(id);
  slot.served.clear();
  slot.queued.clear();
  slot.started.clear();
  slot.view.in_flight = 0;
  ++slot.stops;
  note_end(&slot.history, {now_ns_, slot.view.last_used_ns, interval_ns(slot), true, {}});
  slot.view.state = {slot.view.ref.generation, 0, BackendState::kStopping};
  slot.view.stop.signalled_ns = slot.view.stop.killed_ns = now_ns_;
  at(now_ns_ + kStop_ns, What::kStopped, model);
}

// --- The judge and the line ----------------------------------------------------------------------

// As SnapshotReader finds it.
std::uint64_t PolicyPool::interval_ns(const Slot& slot) const {
  PoolInterval interval;
  for (const Use& use : slot.uses) {
    if (use.generation != slot.view.ref.generation || use.interval_ns == 0) continue;
    interval.add(use.interval_ns, age_ns(slot.view.last_used_ns, use.stamp_ns));
  }
  return interval.interval_ns() != 0 ? interval.interval_ns() : slot.history.interval_ns;
}

// The first of the model, and the first of those that a load can still meet: the rules ask for no
// others.
void PolicyPool::see_waiters(std::uint32_t model, Snapshot* seen) const {
  const Slot& slot = slots_[model];
  const auto deadline = [&](std::size_t id) { return add_ns(requests_[id].at_ns, patience_ns_); };
  const auto see = [&](std::size_t id) {
    WaiterView waiter;
    waiter.row = model;
    waiter.owner = pack_worker(kWorker);
    waiter.model = slot.view.model;
    waiter.arrival = id + 1;
    waiter.since_ns = requests_[id].at_ns;
    waiter.model_since_ns = requests_[slot.waiting.front()].at_ns;
    waiter.load_ns = slot.history.load_ns;
    waiter.need.bytes = slot.view.expected;
    waiter.deadline_ns = deadline(id);
    waiter.looked_ns = kNever_ns;  // it will always have looked just now
    seen->waiters.push_back(std::move(waiter));
  };
  see(slot.waiting.front());
  const auto met = std::partition_point(
      slot.waiting.begin(), slot.waiting.end(),
      [&](std::size_t id) { return deadline(id) < add_ns(now_ns_, slot.history.load_ns); });
  if (met != slot.waiting.end() && met != slot.waiting.begin()) see(*met);
}

Snapshot PolicyPool::look() const {
  Snapshot seen = empty_;
  seen.now_ns = now_ns_;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    if (slot.view.state.state != BackendState::kFree) {
      seen.backends.push_back(slot.view);
      seen.backends.back().interval_ns = interval_ns(slot);
      if (!slot.started.empty()) seen.backends.back().oldest_start_ns = slot.started.front();
    }
    if (!slot.waiting.empty()) see_waiters(static_cast<std::uint32_t>(i), &seen);
  }
  std::sort(seen.waiters.begin(), seen.waiters.end(),
            [](const WaiterView& a, const WaiterView& b) { return a.arrival < b.arrival; });
  return seen;
}

// As workers do. Has anybody taken one?
bool PolicyPool::take_free_places() {
  const Snapshot seen = look();
  std::vector<Resident> residents;
  for (const BackendView& backend : seen.backends) residents.push_back(resident_of(backend));
  std::vector<Waiting> waiting;
  for (const WaiterView& waiter : seen.waiters) waiting.push_back(waiting_of(waiter));
  const std::vector<Waiting> heads = find_heads(waiting, residents, now_ns_);
  Room room(limits_of(seen), residents);
  bool any = false;
  for (const Waiting& head : heads) {
    if (room.fits(head)) {
      load(head.row);
      any = true;
    }
    room.take(head);
  }
  return any;
}

void PolicyPool::decide() {
  for (bool changed = true; changed;) {
    changed = take_free_places();
    coordinator::Facts facts;
    facts.epoch = kEpoch;
    const Snapshot seen = look();
    const coordinator::Decision decision = coordinator::decide(seen, facts);
    check_sets(seen, decision);
    for (const Action& action : decision.actions) changed |= carry_out(action);
    for (const coordinator::RoomMade& room : decision.rooms) {
      if (spares_) break;
      for (const std::size_t model : idle_before(seen, room)) {
        if (slots_[model].view.state.state != BackendState::kReady) continue;
        stop(model);
        changed = true;
      }
    }
    if (!changed && decision.wake_ns < next_look_ns_) {
      next_look_ns_ = decision.wake_ns;
      at(next_look_ns_, What::kLook, 0);
    }
  }
}

// Who goes for a model suffices, and would not without any one of them: by an account of its own,
// of places and bytes once what is leaving has gone.
void PolicyPool::check_sets(const Snapshot& seen, const coordinator::Decision& decision) {
  if (decision.rooms.empty()) return;
  struct Left {
    std::int64_t places, bytes;
  };
  const Limits limits = limits_of(seen);
  const auto size_of = [&](std::size_t model) {
    return static_cast<std::int64_t>(trace_.models[model].size_bytes);
  };
  Left left{limits.max_backends, static_cast<std::int64_t>(limits.max_memory)};
  for (const BackendView& backend : seen.backends) {
    if (backend.state.state == BackendState::kStopping) continue;
    left.places -= 1;
    left.bytes -= size_of(backend.ref.index);
  }
  std::vector<bool> looked_at(slots_.size());
  for (const WaiterView& waiter : seen.waiters) {
    const bool is_in_line = slots_[waiter.row].view.state.state == BackendState::kFree;
    const std::int64_t size = size_of(waiter.row);
    const bool is_too_large =
        limits.max_memory != 0 && size > static_cast<std::int64_t>(limits.max_memory);
    if (!is_in_line || is_too_large || looked_at[waiter.row]) continue;
    if (waiter.deadline_ns <= now_ns_) continue;  // the next one may stand there
    looked_at[waiter.row] = true;
    const auto fits_with = [&](std::int64_t places, std::int64_t bytes) {
      return (limits.max_backends == 0 || left.places + places >= 1) &&
             (limits.max_memory == 0 || left.bytes + bytes >= size);
    };
    for (const coordinator::RoomMade& room : decision.rooms) {
      if (room.for_arrival != waiter.arrival) continue;
      const auto places = static_cast<std::int64_t>(room.go.size());
      std::int64_t bytes = 0;
      for (const BackendRef& backend : room.go) bytes += size_of(backend.index);
      const bool is_minimal =
          std::none_of(room.go.begin(), room.go.end(), [&](const BackendRef& backend) {
            return fits_with(places - 1, bytes - size_of(backend.index));
          });
      ++figures_.sets;
      figures_.wasted += !is_minimal || !fits_with(places, bytes);
      left.places += places;
      left.bytes += bytes;
    }
    left.places -= 1;
    left.bytes -= size;
  }
}

// Those that the order puts before the last who goes.
std::vector<std::size_t> PolicyPool::idle_before(const Snapshot& seen,
                                                 const coordinator::RoomMade& room) const {
  const Order order = room_rules(seen, now_ns_).order;
  std::optional<Resident> last;
  for (const BackendRef& backend : room.go) {
    const Resident resident = resident_of(*seen.find(backend));
    if (!last || order.goes_before(*last, resident)) last = resident;
  }
  std::vector<std::size_t> before;
  for (const BackendView& backend : seen.backends) {
    const bool is_idle = backend.state.state == BackendState::kReady && backend.in_flight == 0;
    if (is_idle && order.goes_before(resident_of(backend), *last))
      before.push_back(backend.ref.index);
  }
  return before;
}

bool PolicyPool::carry_out(const Action& action) {
  const std::size_t model = action.backend.index;
  Slot& slot = slots_[model];
  switch (action.kind) {
    case ActionKind::kClose:
    case ActionKind::kCommit:
      if (!action.only_hold && (slot.view.in_flight == 0 || action.stop.forced != 0)) {
        slot.view.stop = action.stop;
        stop(model);
        return true;
      }
      if (action.kind == ActionKind::kCommit || !action.hold) return false;
      slot.view.stop = action.stop;
      slot.view.state = {slot.view.ref.generation, StateWord::owner_of_epoch(kEpoch),
                         BackendState::kEvicting};
      return true;
    case ActionKind::kReopen:
      if (action.drain_failed) slot.view.drain_failed_ns = now_ns_;
      slot.view.state = {slot.view.ref.generation, 0, BackendState::kReady};
      let_in(slot);
      return true;
    default:
      return false;
  }
}

PolicyFigures PolicyPool::figures() const {
  PolicyFigures figures = figures_;
  std::vector<std::uint64_t> waits;
  for (const Request& request : requests_) {
    figures.rare_requests += trace_.models[request.model].rare;
    if (request.served_ns != 0) waits.push_back(request.served_ns - request.at_ns);
  }
  figures.requests = requests_.size();
  if (waits.empty()) return figures;
  std::sort(waits.begin(), waits.end());
  figures.mean_wait_ns =
      std::accumulate(waits.begin(), waits.end(), 0.0) / static_cast<double>(waits.size());
  figures.p99_wait_ns = waits[waits.size() * 99 / 100];
  figures.max_wait_ns = waits.back();
  return figures;
}

}  // namespace modelpool::sim
