#include "world.hpp"

#include <algorithm>
#include <cmath>

#include "policy/fit.hpp"
#include "policy/interval.hpp"
#include "policy/line.hpp"
#include "policy/rules.hpp"
#include "protocol/outlook.hpp"

namespace modelpool::sim {
namespace {

using coordinator::Action;
using coordinator::ActionKind;
using coordinator::Facts;

constexpr std::uint64_t kReapWait_ns = 50 * kMillisecond_ns;
constexpr std::uint64_t kJudgeGrace_ns = 10 * kSecond_ns;
constexpr std::uint64_t kHour_ns = 3600 * kSecond_ns;
constexpr Span kScanAfterRing{10 * kMicrosecond_ns, 2 * kMillisecond_ns};
constexpr Span kWake{10 * kMicrosecond_ns, 5 * kMillisecond_ns};
constexpr int kRoundsMax = 64;
constexpr int kSigkill = 9;

void set_state(Slot& slot, BackendState state, std::uint32_t owner) {
  slot.view.state = {slot.view.ref.generation, owner, state};
}

}  // namespace

World::World(const Workload& workload, std::uint64_t seed, Policy policy)
    : workload_(workload), policy_(std::move(policy)), random_(seed), oracle_(truth_, workload_) {
  truth_.now_ns = kStart_ns;
  publish(workload.settings);
  truth_.slots.resize(kSlots);
  for (std::uint32_t i = 0; i < kSlots; ++i) {
    truth_.slots[i].view.ref = {i, 1};
    set_state(truth_.slots[i], BackendState::kFree, 0);
  }
  truth_.rows.resize(workload.workers);
  truth_.cooling.resize(workload.models);
  truth_.load_ns.resize(workload.models);
  for (std::uint32_t model = 0; model < workload.models; ++model)
    groups_.push_back(model_groups(workload, model));
  truth_.judge.since_ns = kStart_ns;
  next_scan_ns_ = kStart_ns;
  again(workload_.between_requests, What::kArrive);
  again(workload_.between_crashes, What::kCrash);
  again(workload_.between_worker_deaths, What::kWorkerDies);
  again(workload_.between_judge_deaths, What::kJudgeDies);
  again(workload_.between_settings, What::kSettings);
  again(workload_.between_controls, What::kControl);
}

void World::run(std::uint64_t time_ns, std::uint64_t decisions) {
  const std::uint64_t until = add_ns(truth_.now_ns, time_ns);
  const std::uint64_t most = add_ns(counters_.decisions, decisions);
  while (truth_.now_ns < until && counters_.decisions < most && violations().empty()) {
    const bool scans = truth_.judge.alive && next_scan_ns_ <= events_.top().at_ns;
    truth_.now_ns = std::max(truth_.now_ns, scans ? next_scan_ns_ : events_.top().at_ns);
    if (scans) {
      scan();
      continue;
    }
    const Event event = events_.top();
    events_.pop();
    if (event.what == What::kArrive) oracle_.waking();
    happen(event);
    fingerprint_ =
        (fingerprint_ ^ event.at_ns ^ static_cast<std::uint64_t>(event.what)) * 0x100000001b3;
  }
}

// --- Chance and time -----------------------------------------------------------------------------

double World::uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

std::uint64_t World::draw(const Span& span) {
  const double low = std::log(static_cast<double>(std::max<std::uint64_t>(span.least_ns, 1)));
  const double high = std::log(static_cast<double>(std::max<std::uint64_t>(span.most_ns, 1)));
  return static_cast<std::uint64_t>(std::exp(low + (high - low) * uniform()));
}

void World::at(std::uint64_t delay_ns, What what, std::uint64_t id, std::uint64_t check) {
  events_.push({truth_.now_ns + delay_ns, next_order_++, what, id, check});
}

void World::again(const Span& span, What what) {
  if (span.most_ns != 0) at(draw(span), what);
}

void World::ring() {
  next_scan_ns_ = std::min(next_scan_ns_, truth_.now_ns + draw(kScanAfterRing));
}

void World::happen(const Event& event) {
  const auto request = truth_.requests.find(event.id);
  const bool here = request != truth_.requests.end() && !request->second.dead;
  Slot* slot = event.id < kSlots && truth_.slots[event.id].view.ref.generation == event.check
                   ? &truth_.slots[event.id]
                   : nullptr;
  switch (event.what) {
    case What::kArrive:
      again(workload_.between_requests, What::kArrive);
      if (Request* r = arrive()) look(*r);
      break;
    case What::kLook:
      if (here && request->second.looks == event.check) look(request->second);
      break;
    case What::kEnd:
      if (here && request->second.sequence == event.check) finish(event.id);
      break;
    case What::kProgress:
      if (here && request->second.sequence == event.check) {
        request->second.progressed_ns = truth_.now_ns;
        request->second.progressed = true;
        request->second.progress_stamp_ns =
            truth_.now_ns - draw({1, workload_.stamp_resolution_ns}) + 1;
        at(draw(workload_.between_progress), What::kProgress, event.id, event.check);
      }
      break;
    case What::kStarted:
      if (slot != nullptr && truth_.requests.contains(slot->loader)) {
        start_process(*slot, truth_.requests.at(slot->loader));
      }
      break;
    case What::kLoaded:
      if (slot != nullptr) loaded(*slot);
      break;
    case What::kExits:
      if (slot != nullptr && slot->process) {
        slot->process = false;
        process_ended(*slot);
      }
      break;
    case What::kChildExits:
      if (slot != nullptr && slot->child) {
        slot->child = false;
        process_ended(*slot);
      }
      break;
    case What::kExitRecorded:
      if (slot != nullptr) {
        slot->view.exit_status = pack_exit(ExitKind::kExited, 1);
        ring();
      }
      break;
    case What::kCrash: {
      again(workload_.between_crashes, What::kCrash);
      Slot& victim = truth_.slots[pick(kSlots)];
      if (victim.process && !victim.unkillable) {
        victim.process = false;
        process_ended(victim);
      }
      break;
    }
    case What::kWorkerDies:
      again(workload_.between_worker_deaths, What::kWorkerDies);
      worker_dies(pick(workload_.workers));
      break;
    case What::kWorkerAttaches: {
      Row& row = truth_.rows[event.id];
      ++row.generation;
      row.attached = row.alive = true;
      ring();
      break;
    }
    case What::kJudgeDies:
      truth_.judge.alive = false;
      at(draw(workload_.judge_away), What::kJudgeStarts);
      break;
    case What::kJudgeStarts:
      judge_starts();
      again(workload_.between_judge_deaths, What::kJudgeDies);
      break;
    case What::kSettings:
      again(workload_.between_settings, What::kSettings);
      change_settings();
      break;
    case What::kControl:
      again(workload_.between_controls, What::kControl);
      change_control();
      break;
  }
}

// --- Requests: acquisition.cpp -------------------------------------------------------------------

Request* World::arrive() {
  const std::uint32_t worker = pick(workload_.workers);
  if (!truth_.rows[worker].alive || truth_.requests.size() >= workload_.requests_most)
    return nullptr;
  Request r;
  r.id = kSlots + next_request_++;  // numbers of slots and requests do not meet
  r.worker = worker;
  const double favourite = uniform();
  r.model = static_cast<std::uint32_t>(favourite * favourite * workload_.models);
  r.since_ns = truth_.now_ns;
  r.deadline_ns = truth_.now_ns + draw(workload_.patience);
  if (chance(workload_.own_limit)) r.limit_ns = draw({kSecond_ns, 60 * kSecond_ns});
  ++counters_.requests;
  return &truth_.requests.emplace(r.id, r).first->second;
}

void World::look(Request& r) {
  if (r.phase != Request::Phase::kWaiting) return;
  r.looked_ns = truth_.now_ns;
  Slot* slot = truth_.serving(r.model);
  if (slot == nullptr) return ask_for_place(r);
  switch (slot->view.state.state) {
    case BackendState::kReady:
      return begin(r, *slot);
    case BackendState::kReserved:
    case BackendState::kStarting:
      if (r.awaited && *r.awaited != slot->view.ref && answer_failure(r)) return;
      r.awaited = slot->view.ref;
      return keep_waiting(r, false);
    case BackendState::kEvicting:
      // Who proves the judge dead that closed it opens it again.
      if (!truth_.judge.alive || slot->view.state.owner != truth_.judge.epoch) {
        set_state(*slot, BackendState::kReady, 0);
        wake(slot->model);
        return begin(r, *slot);
      }
      return keep_waiting(r, true);
    default:
      if (answer_failure(r)) return;
      return keep_waiting(r, true);
  }
}

void World::look_later(Request& r, std::uint64_t delay_ns) {
  at(delay_ns, What::kLook, r.id, ++r.looks);
}

bool World::answer_failure(Request& r) {
  const Cooling& history = truth_.cooling[r.model];
  const bool of_awaited = r.awaited && history.failed_backend == pack_ref(*r.awaited);
  r.awaited.reset();
  if (!of_awaited && (history.failures == 0 || history.until_ns <= truth_.now_ns)) return false;
  leave_line(r, false);
  truth_.requests.erase(r.id);
  return true;
}

void World::ask_for_place(Request& r) {
  if (answer_failure(r)) return;
  const std::vector<Resident> there = residents();
  const Room room(limits(), there);
  const Waiting self = waiting_of(r);
  const bool needs_room = !room.fits(self) || is_kept_out(self, there);
  if (needs_room && is_blocked_by_pins(self, there, limits())) {
    leave_line(r, false);
    truth_.requests.erase(r.id);
    return;
  }
  if (const auto placement = find_turn(heads(there), self, room, there))
    return reserve(r, *placement);
  keep_waiting(r, needs_room);
}

Limits World::limits() const {
  Limits limits;
  limits.max_backends = static_cast<std::uint32_t>(truth_.settings->get(Setting::kMaxBackends));
  limits.max_memory = truth_.settings->get(Setting::kMaxMemory);
  limits.max_loads = static_cast<std::uint32_t>(truth_.settings->get(Setting::kMaxLoads));
  for (std::uint32_t d = 0; d < workload_.devices; ++d) {
    limits.devices |= 1u << d;
    limits.device[d].bytes = workload_.device_bytes;
  }
  return limits;
}

Waiting World::waiting_of(const Request& r) const {
  Waiting waiting;
  waiting.arrival = r.arrival == 0 ? kNever_ns : r.arrival;
  waiting.deadline_ns = r.deadline_ns;
  waiting.looked_ns = r.looked_ns;
  waiting.model = hash_name(model_name(r.model));
  waiting.takes = Amounts(1, model_bytes(r.model));
  waiting.takes.set(index_of(Resource::kLoads), 1);
  waiting.devices = model_devices(workload_, r.model);
  waiting.promised = r.promised;
  waiting.groups = groups_[r.model];
  return waiting;
}

std::vector<Resident> World::residents() const {
  std::vector<Resident> residents;
  for (const Slot& slot : truth_.slots) {
    if (slot.view.live()) residents.push_back(resident_of(slot.view));
  }
  return residents;
}

std::vector<Waiting> World::heads(const std::vector<Resident>& residents) const {
  std::vector<Waiting> waiting;
  for (const auto& [id, r] : truth_.requests) {
    if (r.arrival == 0) continue;
    waiting.push_back(waiting_of(r));
  }
  return find_heads(waiting, residents, truth_.now_ns);
}

void World::keep_waiting(Request& r, bool needs_judge) {
  if (!needs_judge || truth_.judge.alive) r.judge_away_ns = 0;
  if (needs_judge && !truth_.judge.alive && r.judge_away_ns == 0) r.judge_away_ns = truth_.now_ns;
  const bool no_judge = r.judge_away_ns != 0 && truth_.now_ns - r.judge_away_ns >= kJudgeGrace_ns;
  if (no_judge || truth_.now_ns >= r.deadline_ns) {
    ++counters_.timeouts;
    leave_line(r, false);
    truth_.requests.erase(r.id);
    return;
  }
  if (r.arrival == 0) {
    r.model_since_ns = truth_.now_ns;
    for (const auto& [id, other] : truth_.requests) {
      if (other.arrival != 0 && other.model == r.model)
        r.model_since_ns = std::min(r.model_since_ns, other.model_since_ns);
    }
    r.arrival = ++next_arrival_;
    ring();
    look_later(r, draw(kWake));  // its row was published just now: it looks again
  } else {
    look_later(r, std::min(kLookEvery_ns, r.deadline_ns - truth_.now_ns));
  }
}

void World::leave_line(Request& r, bool granted) {
  if (r.arrival == 0) return;
  r.arrival = 0;
  if (granted) return;
  wake_line();
  ring();
}

// Wakes are hints: some get lost, the waiter's own slice comes anyway.
void World::wake(std::uint32_t model) {
  for (auto& [id, r] : truth_.requests) {
    if (r.arrival != 0 && r.model == model && !chance(0.02)) look_later(r, draw(kWake));
  }
}

void World::wake_line() {
  for (auto& [id, r] : truth_.requests) {
    if (r.arrival != 0 && truth_.serving(r.model) == nullptr && !chance(0.02)) {
      look_later(r, draw(kWake));
    }
  }
}

void World::begin(Request& r, Slot& slot) {
  leave_line(r, true);
  r.phase = Request::Phase::kLeased;
  r.backend = slot.view.ref;
  r.sequence = static_cast<std::uint32_t>(++counters_.leases);
  r.begun_ns = r.progressed_ns = truth_.now_ns;
  r.begun_stamp_ns = r.progress_stamp_ns =
      truth_.now_ns - draw({1, workload_.stamp_resolution_ns}) + 1;
  // Not drawn: histories of seeds that are kept stay what they are up to the first ask.
  r.progressed = false;
  r.asked_ns = 0;
  r.cancellable = r.sequence % 3 != 0;
  r.deaf = r.sequence % 4 == 0;
  if (!chance(workload_.hangs)) at(draw(workload_.service), What::kEnd, r.id, r.sequence);
  if (workload_.between_progress.most_ns != 0 && !chance(workload_.stalls)) {
    const bool reads_first = workload_.first_progress.most_ns != 0;
    at(draw(reads_first ? workload_.first_progress : workload_.between_progress), What::kProgress,
       r.id, r.sequence);
  }
  if (r.limit_ns != 0 && truth_.now_ns + r.limit_ns < truth_.judge.horizon_ns) ring();
}

void World::end_lease(Request& r) {
  Slot* slot = truth_.find(r.backend);
  if (slot != nullptr) {
    slot->view.interval_ns =
        smooth_interval(slot->view.interval_ns, truth_.now_ns - slot->used_ns + 1);
    slot->used_ns = truth_.now_ns;
    // A cell may lag behind the latest use by the resolution.
    const std::uint64_t stamp = truth_.now_ns - draw({1, workload_.stamp_resolution_ns}) + 1;
    slot->view.last_used_ns = std::max(slot->view.last_used_ns, stamp);
  }
  r.phase = Request::Phase::kWaiting;
  if (truth_.judge.wanted >> (r.backend.index & 63) & 1) ring();
}

void World::finish(std::uint64_t id) {
  end_lease(truth_.requests.at(id));
  truth_.requests.erase(id);
}

// --- Loads: slots.cpp ----------------------------------------------------------------------------

void World::reserve(Request& r, const Placement& placement) {
  const auto free = std::find_if(truth_.slots.begin(), truth_.slots.end(), [](const Slot& slot) {
    return slot.view.state.state == BackendState::kFree;
  });
  if (free == truth_.slots.end()) {  // all slots are taken: refused
    leave_line(r, false);
    truth_.requests.erase(r.id);
    return;
  }
  oracle_.reserving(r, placement);
  leave_line(r, true);
  r.phase = Request::Phase::kLoading;
  Slot& slot = *free;
  const BackendRef ref = slot.view.ref;
  slot = Slot{};
  slot.view.ref = ref;
  slot.view.model = model_name(r.model);
  slot.view.expected.host = model_bytes(r.model);
  slot.view.groups = groups_[r.model];
  slot.view.devices = placement.devices;
  for (std::uint32_t d = 0; d < kDevicesMax; ++d) {
    slot.view.expected.device[d] = static_cast<std::uint64_t>(placement.takes[index_of_device(d)]);
  }
  r.promised = 0;
  resolve(slot);
  slot.view.reserved_ns = truth_.now_ns;
  slot.view.owner_pid = 1000 + r.worker;
  slot.view.holder = pack_worker(truth_.rows[r.worker].ref(r.worker));
  slot.model = r.model;
  slot.loader = r.id;
  set_state(slot, BackendState::kReserved,
            StateWord::owner_of(truth_.rows[r.worker].ref(r.worker)));
  r.awaited.reset();
  r.backend = ref;
  ++counters_.loads;
  ring();
  if (chance(workload_.external)) {
    slot.view.traits = kTraitExternal;
    at(draw(workload_.load), What::kLoaded, ref.index, ref.generation);
  } else {
    at(draw({kMillisecond_ns, 50 * kMillisecond_ns}), What::kStarted, ref.index, ref.generation);
  }
}

void World::start_process(Slot& slot, Request& r) {
  if (r.dead) return;
  const BackendRef ref = slot.view.ref;
  if (slot.view.state.state != BackendState::kReserved) return give_up(slot, r);
  slot.process = true;
  slot.child = chance(workload_.leaves_child);
  slot.ignores_stop = chance(workload_.ignores_stop);
  slot.unkillable = chance(workload_.unkillable);
  slot.view.process.pid = static_cast<pid_t>(2000 + counters_.loads % 1'000'000);
  slot.view.group = slot.view.process.pid;
  slot.view.traits = kTraitToken;
  slot.view.started_ns = truth_.now_ns;
  set_state(slot, BackendState::kStarting, slot.view.state.owner);
  oracle_.starting();
  ring();
  if (chance(workload_.load_exits))
    at(draw(workload_.load), What::kExits, ref.index, ref.generation);
  // A load that hangs notices that its ticket is lost much later.
  const bool hangs = chance(workload_.load_hangs);
  at(hangs ? draw({kHour_ns, 24 * kHour_ns}) : draw(workload_.load), What::kLoaded, ref.index,
     ref.generation);
}

void World::loaded(Slot& slot) {
  const auto found = truth_.requests.find(slot.loader);
  if (found == truth_.requests.end() || found->second.dead) return;
  Request& r = found->second;
  const BackendState state = slot.view.state.state;
  if (state != BackendState::kStarting &&
      !(slot.view.external() && state == BackendState::kReserved)) {
    return give_up(slot, r);  // ticket_lost
  }
  if (!slot.view.external() && (!slot.process || chance(workload_.load_gives_up))) {
    write_failure(slot);
    return give_up(slot, r);
  }
  slot.view.ready_ns = slot.view.last_used_ns = slot.used_ns = truth_.now_ns;
  slot.view.address = "127.0.0.1:1";
  if (chance(workload_.own_settings)) {
    slot.view.overrides.set(Setting::kIdleTimeout, draw({kSecond_ns, kHour_ns}));
    resolve(slot);
  }
  set_state(slot, BackendState::kReady, 0);
  begin(r, slot);
  wake(slot.model);
  ring();
}

void World::give_up(Slot& slot, Request& r) {
  const BackendState state = slot.view.state.state;
  if (state == BackendState::kReserved) set_state(slot, BackendState::kGone, 0);
  if (state == BackendState::kStarting) set_state(slot, BackendState::kStopping, 0);
  if (state == BackendState::kStopping || state == BackendState::kGone) set_state(slot, state, 0);
  truth_.requests.erase(r.id);
  wake(slot.model);
  wake_line();
  ring();
}

void World::write_failure(Slot& slot) {
  ++counters_.failed_loads;
  Cooling& history = truth_.cooling[slot.model];
  ++history.failures;
  history.failed_backend = pack_ref(slot.view.ref);
  const std::uint64_t range = slot.view.settings().get(Setting::kLoadCooldown);
  history.until_ns =
      truth_.now_ns +
      cooldown_ns(range, static_cast<std::uint32_t>(std::min<std::uint64_t>(history.failures, 64)));
}

// --- Processes -----------------------------------------------------------------------------------

void World::process_ended(Slot& slot) {
  if (!slot.process && slot.exited_ns == 0) {
    slot.exited_ns = truth_.now_ns;
    const auto loader = truth_.requests.find(slot.loader);
    const bool parent_lives = loader == truth_.requests.end() || !loader->second.dead;
    if (parent_lives)
      at(draw({kMillisecond_ns, 100 * kMillisecond_ns}), What::kExitRecorded, slot.view.ref.index,
         slot.view.ref.generation);
  }
  ring();  // its pidfd
}

void World::kill_processes(Slot& slot, int signal) {
  const BackendRef ref = slot.view.ref;
  if (signal == kSigkill) {
    const Span dies = slot.unkillable ? Span{kHour_ns, 24 * kHour_ns}
                                      : Span{kMillisecond_ns, 50 * kMillisecond_ns};
    at(draw(dies), What::kExits, ref.index, ref.generation);
    at(draw(dies), What::kChildExits, ref.index, ref.generation);
  } else if (!slot.ignores_stop && !slot.unkillable) {
    at(draw(workload_.stops_in), What::kExits, ref.index, ref.generation);
    at(draw(workload_.stops_in), What::kChildExits, ref.index, ref.generation);
  }
}

void World::worker_dies(std::uint32_t index) {
  Row& row = truth_.rows[index];
  if (!row.alive) return;
  row.alive = false;
  ++counters_.worker_deaths;
  for (auto& [id, r] : truth_.requests) {
    if (r.worker == index) r.dead = true;
  }
  std::erase_if(truth_.requests, [&](const auto& entry) {  // those that left no trace
    const Request& r = entry.second;
    return r.dead && r.worker == index && r.phase == Request::Phase::kWaiting && r.arrival == 0;
  });
  ring();  // its pidfd
}

void World::publish(const Settings& settings) {
  truth_.settings = std::make_shared<const Settings>(settings);
  truth_.published =
      std::make_shared<const SettingsImage>(std::move(*SettingsImage::make(settings, SIZE_MAX)));
  for (Slot& slot : truth_.slots) resolve(slot);
}

void World::resolve(Slot& slot) {
  slot.view.effective = std::make_shared<const Effective>(
      resolve_settings(*truth_.published, slot.view.model, &slot.view.overrides));
}

void World::change_settings() {
  Settings next = *truth_.settings;
  switch (pick(10)) {
    case 0:
      next.pool.set(Setting::kMaxBackends, pick(6));
      break;  // 0: no limit
    case 1:
      next.pool.set(Setting::kIdleTimeout, chance(0.2) ? 0 : draw({kSecond_ns, kHour_ns}));
      break;
    case 2:
      next.pool.set(Setting::kBusyTimeout, chance(0.2) ? 0 : draw({kSecond_ns, kHour_ns}));
      break;
    case 3:
      next.pool.set(Setting::kWhenBusy, pick(3));
      break;
    case 4:
      next.pool.set(Setting::kMinResident, draw({1, 60 * kSecond_ns}));
      break;
    case 5:
      next.pool.set(Setting::kEviction, pick(3));
      break;
    case 6:
      next.pool.set(Setting::kMaxWait, chance(0.2) ? 0 : draw({kSecond_ns, 2 * 60 * kSecond_ns}));
      break;
    case 7:
      next.pool.set(Setting::kCollect, chance(0.5) ? 0 : draw({kSecond_ns, 60 * kSecond_ns}));
      break;
    default:
      next.pool.set(Setting::kDrainTimeout, draw({kSecond_ns, 60 * kSecond_ns}));
      break;
  }
  publish(next);
  truth_.settings_ns = truth_.now_ns;
  wake_line();
  ring();
}

void World::change_control() {
  Slot& slot = truth_.slots[pick(kSlots)];
  if (!slot.view.live()) return;
  switch (pick(4)) {
    case 0:
      slot.view.control |= kControlPinned;
      break;
    case 1:
      slot.view.control &= ~kControlPinned;
      break;
    case 2:
      slot.view.control |= kControlEvict;
      break;
    default:
      slot.view.control |= kControlEvict | kControlForce;
      break;
  }
  ring();
}

// --- The coordinator: loop.cpp and enforce.cpp ---------------------------------------------------

void World::judge_starts() {
  ++counters_.restarts;
  truth_.judge = {.alive = true, .epoch = truth_.judge.epoch + 1, .since_ns = truth_.now_ns};
  next_scan_ns_ = truth_.now_ns;
  for (Slot& slot : truth_.slots) slot.ordered = false;
  for (auto& [id, r] : truth_.requests) {
    if (r.arrival != 0) look_later(r, draw(kWake));
  }
}

void World::take_snapshot() {
  snapshot_.now_ns = truth_.now_ns;
  snapshot_.settings = truth_.settings;
  snapshot_.device_limits = limits();
  snapshot_.backends.clear();
  snapshot_.workers.clear();
  snapshot_.waiters.clear();
  snapshot_.leases.clear();
  for (const Slot& slot : truth_.slots) {
    if (slot.view.state.state == BackendState::kFree) continue;
    snapshot_.backends.push_back(slot.view);
    BackendView& b = snapshot_.backends.back();
    if (b.stop.generation != b.ref.generation) b.stop = StopRecord{};
    b.last_used_ns = std::max(b.last_used_ns, b.ready_ns);
  }
  for (std::uint32_t i = 0; i < truth_.rows.size(); ++i) {
    if (!truth_.rows[i].attached) continue;
    WorkerView worker;
    worker.ref = truth_.rows[i].ref(i);
    worker.process.pid = static_cast<pid_t>(1000 + i);
    snapshot_.workers.push_back(worker);
  }
  for (const auto& [id, r] : truth_.requests) {
    if (r.arrival != 0) {
      WaiterView waiter;
      waiter.row = static_cast<std::uint32_t>(r.arrival);
      waiter.owner = pack_worker(truth_.rows[r.worker].ref(r.worker));
      waiter.model = model_name(r.model);
      waiter.arrival = r.arrival;
      waiter.since_ns = r.since_ns;
      waiter.model_since_ns = r.model_since_ns;
      waiter.load_ns = truth_.load_ns[r.model];
      waiter.need.bytes.host = model_bytes(r.model);
      waiter.need.devices = model_devices(workload_, r.model).count;
      waiter.need.bytes.device = model_devices(workload_, r.model).bytes;
      waiter.room_devices = r.promised;
      waiter.groups = groups_[r.model];
      waiter.deadline_ns = r.deadline_ns;
      waiter.looked_ns = r.looked_ns;
      snapshot_.waiters.push_back(std::move(waiter));
    }
    if (r.phase != Request::Phase::kLeased) continue;
    LeaseView lease;
    lease.backend = r.backend;
    lease.worker = r.worker;
    lease.cell = static_cast<std::uint32_t>(id % 1024);
    lease.word = r.id;
    lease.start_ns = r.begun_stamp_ns;
    lease.progress_ns = r.progress_stamp_ns;
    lease.progressed = r.progressed;
    lease.limit_ns = r.limit_ns;
    if (r.cancellable) lease.flags = kLeaseCancellable;
    if (r.asked_ns != 0) {
      lease.cancel_word = lease.word;
      lease.cancel_start_ns = lease.start_ns;
      lease.cancel_at_ns = r.asked_ns;
    }
    for (BackendView& b : snapshot_.backends) {
      if (b.ref != r.backend) continue;
      ++b.in_flight;
      b.oldest_start_ns = std::min(b.oldest_start_ns, lease.start_ns);
      b.newest_start_ns = std::max(b.newest_start_ns, lease.start_ns);
    }
    snapshot_.leases.push_back(std::move(lease));
  }
  std::sort(snapshot_.waiters.begin(), snapshot_.waiters.end(),
            [](const WaiterView& a, const WaiterView& b) { return a.arrival < b.arrival; });
}

Facts World::facts() const {
  Facts facts;
  facts.stamp_resolution_ns = workload_.stamp_resolution_ns;
  facts.epoch = truth_.judge.epoch;
  for (const Slot& slot : truth_.slots) {
    const BackendState state = slot.view.state.state;
    if (state < BackendState::kStarting || state > BackendState::kStopping ||
        slot.view.process.pid == 0)
      continue;
    if (!slot.process) {
      facts.exited.push_back(slot.view.ref);
      const std::uint64_t noticed = std::max(slot.exited_ns, truth_.judge.since_ns);
      if (slot.view.exit_status == 0)
        facts.unreaped.emplace_back(slot.view.ref, noticed + kReapWait_ns);
    }
    if (slot.ordered && slot.ended()) facts.vanished.push_back(slot.view.ref);
  }
  for (std::uint32_t i = 0; i < truth_.rows.size(); ++i) {
    if (truth_.rows[i].attached && !truth_.rows[i].alive)
      facts.dead_workers.push_back(truth_.rows[i].ref(i));
  }
  return facts;
}

void World::scan() {
  oracle_.waking();
  next_scan_ns_ = kNever_ns;
  for (int round = 0; round < kRoundsMax; ++round) {
    truth_.judge.horizon_ns = kNever_ns;
    take_snapshot();
    live_at_scan_ = static_cast<std::uint32_t>(truth_.places_taken());
    for (Slot& slot : truth_.slots) {  // stops that an earlier coordinator began
      if (slot.view.state.state == BackendState::kStopping && slot.view.stop.signalled_ns != 0 &&
          !slot.ordered) {
        slot.ordered = true;
        if (slot.view.stop.killed_ns != 0) kill_processes(slot, kSigkill);
      }
    }
    const coordinator::Decision decision = policy_(snapshot_, facts());
    ++counters_.decisions;
    fingerprint_ = (fingerprint_ ^ decision.wake_ns ^ decision.actions.size()) * 0x100000001b3;
    oracle_.decided(decision);
    if (!violations().empty()) return;
    const bool wants_more = (decision.wanted & ~truth_.judge.wanted) != 0;
    truth_.judge.wanted = decision.wanted;
    const bool interrupted = chance(workload_.bursts);
    if (interrupted) {
      if (Request* r = arrive()) look(*r);
    }
    bool changed = false;
    for (const RoomPromise& promise : decision.promises) {
      for (auto& [id, r] : truth_.requests) {
        if (r.arrival != 0 && r.arrival == promise.arrival) r.promised = promise.devices;
      }
    }
    for (const Action& action : decision.actions) changed |= carry_out(action);
    for (const Action& action : decision.actions) {
      if (action.kind == ActionKind::kReapWorker) changed |= reap(action.worker);
    }
    if (!violations().empty()) return;
    if (changed || wants_more) continue;
    truth_.judge.horizon_ns = decision.wake_ns;
    next_scan_ns_ = std::min(next_scan_ns_, decision.wake_ns);
    if (!interrupted) oracle_.resting(decision);  // else the next scan sees who came
    return;
  }
  oracle_.violated("P8: the scan does not come to rest");
}

bool World::any_lease_names(const Slot& slot) const {
  return std::any_of(truth_.requests.begin(), truth_.requests.end(), [&](const auto& entry) {
    return entry.second.phase == Request::Phase::kLeased && entry.second.backend == slot.view.ref;
  });
}

bool World::still_true(const Action& action, const Slot& slot) const {
  const StopRecord& why = action.stop;
  const BackendView* seen = snapshot_.find(action.backend);
  Evidence evidence;
  evidence.reason = why.reason;
  evidence.forced = why.forced != 0;
  evidence.was_idle = action.kind == ActionKind::kClose && seen->in_flight == 0;
  evidence.last_used_ns = seen->last_used_ns;
  evidence.lease_word = why.lease_word;
  evidence.lease_stamp_ns = why.lease_stamp_ns;
  evidence.for_arrival = why.for_arrival;
  evidence.live = live_at_scan_;
  Fresh fresh;
  fresh.control = slot.view.control;
  fresh.last_used_ns = std::max(slot.view.last_used_ns, slot.view.ready_ns);
  const auto blamed = truth_.requests.find(why.lease_word);
  if (blamed != truth_.requests.end() && blamed->second.phase == Request::Phase::kLeased) {
    fresh.lease_word = blamed->first;
    fresh.start_ns = blamed->second.begun_stamp_ns;
    fresh.progress_ns = blamed->second.progress_stamp_ns;
    fresh.progressed = blamed->second.progressed;
  }
  fresh.live = static_cast<std::uint32_t>(truth_.places_taken());
  fresh.limits = limits();
  fresh.is_above_limits = Room(fresh.limits, residents()).excess() != Amounts();
  fresh.shares_a_group =
      std::any_of(truth_.requests.begin(), truth_.requests.end(), [&](const auto& entry) {
        return entry.second.arrival != 0 && entry.second.arrival == why.for_arrival &&
               share_a_group(groups_[entry.second.model], groups_[slot.model]);
      });
  fresh.waiter_is_there =
      std::any_of(truth_.requests.begin(), truth_.requests.end(), [&](const auto& entry) {
        const Request& r = entry.second;
        return !r.dead && r.arrival != 0 && r.arrival == why.for_arrival &&
               r.deadline_ns > truth_.now_ns;
      });
  return reason_row(why.reason).still_true(evidence, fresh);
}

bool World::stop_or_take_back(const Action& action, Slot& slot, bool was_ready) {
  const bool is_leased = action.stop.forced == 0 && any_lease_names(slot);
  if (!still_true(action, slot) || (is_leased && was_ready && !action.hold)) {
    set_state(slot, BackendState::kReady, 0);
    wake(slot.model);
    return true;
  }
  if (is_leased || action.only_hold) {
    counters_.drains += was_ready;
    return was_ready;
  }
  StopRecord stop = action.stop;
  stop.stopping_ns = truth_.now_ns;
  oracle_.stopping(slot, stop);
  slot.view.stop = stop;
  ++(reason_row(stop.reason).lease_rule != nullptr ? counters_.kills : counters_.evictions);
  set_state(slot, BackendState::kStopping, 0);
  wake(slot.model);
  return true;
}

bool World::carry_out(const Action& action) {
  if (action.kind == ActionKind::kClearWaiter) return false;  // rows go with their worker here
  if (action.kind == ActionKind::kReapWorker) return false;   // last, see scan
  Slot* found = truth_.find(action.backend);
  if (found == nullptr) return false;
  Slot& slot = *found;
  const StateWord state = slot.view.state;
  switch (action.kind) {
    case ActionKind::kClose:
      slot.view.stop = action.stop;
      if (state.state != BackendState::kReady) return false;
      set_state(slot, BackendState::kEvicting, truth_.judge.epoch);
      return stop_or_take_back(action, slot, true);
    case ActionKind::kCommit:
      if (state.state != BackendState::kEvicting) return false;
      return stop_or_take_back(action, slot, false);
    case ActionKind::kReopen:
      if (state.state != BackendState::kEvicting) return false;
      if (action.drain_failed) slot.view.drain_failed_ns = truth_.now_ns;
      set_state(slot, BackendState::kReady, 0);
      wake(slot.model);
      return true;
    case ActionKind::kLoseTicket:
      if (state != action.seen) return false;
      if (action.stop.failed == kLoadFailed) write_failure(slot);
      slot.view.stop = action.stop;
      slot.view.stop.stopping_ns = truth_.now_ns;
      set_state(
          slot,
          state.state == BackendState::kReserved ? BackendState::kGone : BackendState::kStopping,
          state.owner);
      wake(slot.model);
      wake_line();
      return true;
    case ActionKind::kSignal: {
      const bool first = action.stop.signalled_ns == 0;
      slot.view.stop = action.stop;
      (first ? slot.view.stop.signalled_ns : slot.view.stop.killed_ns) = truth_.now_ns;
      slot.view.stop.signal = static_cast<std::uint32_t>(action.signal);
      slot.ordered = true;
      kill_processes(slot, action.signal);
      return true;
    }
    case ActionKind::kMarkOverdue:
      slot.view.overdue = true;
      wake(slot.model);
      return true;
    case ActionKind::kSettle:  // no devices here
      return false;
    case ActionKind::kMarkGone:
      slot.view.noted =
          pack_half(slot.view.ref.generation, static_cast<std::uint32_t>(BackendState::kGone));
      set_state(slot, BackendState::kGone, state.owner);
      slot.view.overdue = false;
      wake(slot.model);
      wake_line();
      return true;
    case ActionKind::kDisown:
      set_state(slot, state.state, 0);
      return true;
    case ActionKind::kFree: {
      if (any_lease_names(slot) || state.state != BackendState::kGone || state.owner != 0)
        return false;
      const BackendRef next{slot.view.ref.index, slot.view.ref.generation + 1};
      slot = Slot{};
      slot.view.ref = next;
      set_state(slot, BackendState::kFree, 0);
      wake_line();
      return true;
    }
    case ActionKind::kRecordLoad:
      truth_.cooling[slot.model].failures = 0;
      truth_.cooling[slot.model].until_ns = 0;
      truth_.load_ns[slot.model] = slot.view.ready_ns - slot.view.reserved_ns;
      slot.view.noted =
          pack_half(slot.view.ref.generation, static_cast<std::uint32_t>(state.state));
      return true;
    case ActionKind::kRecordEnd:
      slot.view.noted =
          pack_half(slot.view.ref.generation, static_cast<std::uint32_t>(BackendState::kGone));
      return true;
    case ActionKind::kRefuseEvict:
      slot.view.control &= ~(kControlEvict | kControlForce);
      return true;
    case ActionKind::kAskToEnd: {
      if (!still_true(action, slot)) return true;
      Request& r = truth_.requests.at(action.stop.lease_word);
      r.asked_ns = truth_.now_ns;
      ++counters_.asked;
      if (!r.deaf) at(draw({kMillisecond_ns, 5 * kSecond_ns}), What::kEnd, r.id, r.sequence);
      return true;
    }
    case ActionKind::kReapWorker:
    case ActionKind::kClearWaiter:
      return false;
  }
  return false;
}

bool World::reap(WorkerRef worker) {
  const std::uint64_t holder = pack_worker(worker);
  for (const Slot& slot : truth_.slots) {
    const StateWord state = slot.view.state;
    const bool loading =
        state.state == BackendState::kReserved || state.state == BackendState::kStarting;
    if (loading && slot.view.holder == holder) return false;
  }
  for (auto& [id, r] : truth_.requests) {
    if (!r.dead || r.worker != worker.index) continue;
    Slot* slot = r.phase == Request::Phase::kLeased ? truth_.find(r.backend) : nullptr;
    if (slot != nullptr) slot->view.last_used_ns = slot->used_ns = truth_.now_ns;
  }
  std::erase_if(truth_.requests, [&](const auto& entry) {
    return entry.second.dead && entry.second.worker == worker.index;
  });
  truth_.rows[worker.index].attached = false;
  at(draw({kMillisecond_ns, 10 * kSecond_ns}), What::kWorkerAttaches, worker.index);
  wake_line();
  return true;
}

}  // namespace modelpool::sim
