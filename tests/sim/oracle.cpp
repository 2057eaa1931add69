#include "oracle.hpp"

#include <algorithm>
#include <bit>
#include <set>

#include "policy/line.hpp"
#include "policy/rules.hpp"
#include "protocol/outlook.hpp"

namespace modelpool::sim {
namespace {

using coordinator::Action;
using coordinator::ActionKind;
using coordinator::Decision;

// From the moment something is due until the scan that sees it: the time a ring takes.
constexpr std::uint64_t kSlack_ns = 5 * kMillisecond_ns;
constexpr std::uint64_t kReapWait_ns = 60 * kMillisecond_ns;
constexpr int kSigkill = 9;

bool is_open(const Slot& slot) { return slot.view.state.state == BackendState::kReady; }

}  // namespace

std::string model_name(std::uint32_t model) { return "m" + std::to_string(model); }
std::uint64_t model_bytes(std::uint32_t model) { return std::uint64_t{1 + model * 37 % 60} << 30; }

std::vector<std::uint64_t> model_groups(const Workload& workload, std::uint32_t model) {
  if (workload.groups == 0) return {};
  std::vector<std::uint64_t> groups{model % workload.groups};
  if (model % 3 == 0) groups.push_back((model + 1) % workload.groups);
  std::sort(groups.begin(), groups.end());
  return groups;
}

DevicesAsked model_devices(const Workload& workload, std::uint32_t model) {
  DevicesAsked asked;
  if (workload.devices == 0) return asked;
  asked.count = model % 4 == 3 ? 2 : 1;
  asked.bytes.fill(model_bytes(model));
  return asked;
}

// --- The truth -----------------------------------------------------------------------------------

Slot* Truth::find(BackendRef ref) {
  const bool here = ref.index < slots.size() && slots[ref.index].view.ref == ref &&
                    slots[ref.index].view.state.state != BackendState::kFree;
  return here ? &slots[ref.index] : nullptr;
}

Slot* Truth::serving(std::uint32_t model) {
  for (Slot& slot : slots) {
    if (slot.view.live() && slot.model == model && !slot.view.overdue) return &slot;
  }
  return nullptr;
}

std::uint64_t Truth::places_taken() const {
  return static_cast<std::uint64_t>(
      std::count_if(slots.begin(), slots.end(), [](const Slot& slot) { return slot.view.live(); }));
}

std::uint64_t Truth::setting(Setting id, const Slot* slot) const {
  if (slot == nullptr) return settings->get(id);
  return slot->view.settings().get(id);
}

bool Truth::is_leased(const Slot& slot) const {
  return std::any_of(requests.begin(), requests.end(), [&](const auto& entry) {
    const Request& r = entry.second;
    return !r.dead && r.phase == Request::Phase::kLeased && r.backend == slot.view.ref;
  });
}

// --- The oracle ----------------------------------------------------------------------------------

void Oracle::violated(const std::string& what) {
  const std::uint64_t ms = truth_.now_ns / kMillisecond_ns;
  violations_.push_back(what + " (at " + std::to_string(ms / 1000) + "." +
                        std::to_string(ms % 1000) + " s)");
}

// The first waiter of each model that needs a place, by arrival.
std::vector<const Request*> Oracle::line() const {
  std::vector<const Request*> first;
  for (const auto& [id, r] : truth_.requests) {
    if (r.arrival == 0 || r.dead || r.deadline_ns <= truth_.now_ns ||
        truth_.serving(r.model) != nullptr)
      continue;
    const auto same = std::find_if(first.begin(), first.end(), [model = r.model](const Request* o) {
      return o->model == model;
    });
    if (same == first.end()) {
      first.push_back(&r);
    } else if (r.arrival < (*same)->arrival) {
      *same = &r;
    }
  }
  std::sort(first.begin(), first.end(),
            [](const Request* a, const Request* b) { return a->arrival < b->arrival; });
  return first;
}

LeaseInFlight truth_of(const Request& r) {
  return {r.begun_ns, r.progressed_ns, r.limit_ns, r.progressed, r.cancellable, r.asked_ns};
}

// The backend as the rules see it, with true times instead of stamps.
Oracle::Subject Oracle::subject_of(const Slot& slot) const {
  Subject subject;
  subject.resident = resident_of(slot.view);
  subject.resident.last_used_ns = slot.used_ns;
  subject.resident.in_flight = 0;
  subject.settings = &slot.view.settings();
  for (const auto& [id, r] : truth_.requests) {
    if (r.arrival != 0 && r.model == slot.model) subject.awaited = true;
    if (r.phase != Request::Phase::kLeased || r.backend != slot.view.ref) continue;
    ++subject.resident.in_flight;
    if (!r.dead) subject.leases.push_back(truth_of(r));
  }
  return subject;
}

Finding Oracle::judge(Reason reason, const Subject& subject) const {
  Case truth{subject.resident, *subject.settings, subject.leases};
  if (subject.awaited) truth.awaited_until_ns = kNever_ns;
  return reason_row(reason).judge(truth, truth_.now_ns);
}

// When its holder is to be asked to end it, or its backend is to be killed for it.
std::uint64_t Oracle::due_ns(const Effective& settings, const LeaseInFlight& lease) const {
  const std::uint64_t grace = settings.get(Setting::kOnOverdue);
  std::uint64_t ask = kNever_ns;
  std::uint64_t kill = kNever_ns;
  for (const ReasonRow& row : kReasonRows) {
    if (row.lease_rule == nullptr) continue;
    const LeaseLimit limit = row.lease_rule->limit_of(settings, lease);
    if (limit.limit_ns == 0) continue;
    const std::uint64_t broken = add_ns(limit.since_ns, limit.limit_ns);
    if (!lease.cancellable || grace == 0) {
      kill = std::min(kill, broken);
    } else if (lease.asked_ns < broken) {
      ask = std::min(ask, broken);
    } else {
      kill = std::min(kill, add_ns(lease.asked_ns, grace));
    }
  }
  const bool is_being_asked = kill != kNever_ns && ask <= truth_.now_ns;
  return is_being_asked ? kill : std::min(ask, kill);
}

// The latest moment at which a rule is to end it, or to take its next step.
std::uint64_t Oracle::due_ns(const Slot& slot) const {
  const BackendView& b = slot.view;
  std::uint64_t due = kNever_ns;
  const auto consider = [&](std::uint64_t from, std::uint64_t limit) {
    if (limit != 0) due = std::min(due, add_ns(from, limit + workload_.stamp_resolution_ns));
  };
  const Subject subject = subject_of(slot);
  if (subject.resident.can_be_closed()) {
    for (const LeaseInFlight& lease : subject.leases)
      consider(due_ns(*subject.settings, lease), workload_.stamp_resolution_ns);
  }
  for (const ReasonRow& row : kReasonRows) {
    if (row.lease_rule != nullptr) continue;
    const Finding finding = judge(row.reason, subject);
    if (finding.since_ns != kNever_ns) consider(finding.since_ns, finding.limit_ns);
  }
  const BackendState state = b.state.state;
  if (state >= BackendState::kStarting && state <= BackendState::kEvicting && slot.exited_ns != 0) {
    consider(std::max(slot.exited_ns, truth_.judge.since_ns), kReapWait_ns);
  }
  if (state == BackendState::kEvicting && subject.resident.in_flight > 0) {
    consider(b.stop.decided_ns, truth_.setting(Setting::kDrainTimeout, &slot));
  }
  if (state == BackendState::kStopping && !slot.ended() && b.stop.signalled_ns != 0 &&
      b.stop.killed_ns == 0) {
    consider(b.stop.signalled_ns, truth_.setting(Setting::kStopGrace, &slot));
  }
  return due;
}

void Oracle::waking() {
  if (!truth_.judge.alive) return;
  const std::uint64_t known_ns = std::max(truth_.judge.since_ns, truth_.settings_ns);
  for (const Slot& slot : truth_.slots) {
    if (slot.view.state.state == BackendState::kFree) continue;
    const std::uint64_t due = std::max(due_ns(slot), known_ns);
    if (add_ns(due, kSlack_ns) < truth_.now_ns) {
      violated("P8: slept through what was due for " + slot.view.model + " (" +
               std::string(backend_state_name(slot.view.state.state)) + ")");
    }
  }
}

void Oracle::decided(const Decision& decision) {
  std::set<std::uint32_t> ended;
  for (const Action& action : decision.actions) {
    if (action.kind == ActionKind::kReapWorker) {
      if (truth_.rows[action.worker.index].alive) violated("P6: a living worker is reaped");
      continue;
    }
    if (action.kind == ActionKind::kClearWaiter) continue;
    const Slot* found = truth_.find(action.backend);
    if (found == nullptr) {
      violated("an action names no backend");
      continue;
    }
    const Slot& slot = *found;
    const BackendView& b = slot.view;
    const StopRecord& why = action.stop;
    const std::uint64_t now = truth_.now_ns;
    switch (action.kind) {
      case ActionKind::kClose:
      case ActionKind::kCommit:
        if (!ended.insert(b.ref.index).second) violated("two ends at once for " + b.model);
        check_close(action, slot);
        break;
      case ActionKind::kReopen:
        if (action.drain_failed &&
            now < b.stop.decided_ns + truth_.setting(Setting::kDrainTimeout, &slot)) {
          violated("P8: the drain of " + b.model + " was given up before its time");
        }
        break;
      case ActionKind::kLoseTicket: {
        const auto loader = truth_.requests.find(slot.loader);
        const bool died = loader == truth_.requests.end() || loader->second.dead;
        if ((why.failed == kLoadLost) != died)
          violated("P4: a lost ticket and a failed load are mixed up: " + b.model);
        if (why.reason == Reason::kLoadTimeout &&
            now < b.reserved_ns + truth_.setting(Setting::kLoadTimeout, &slot)) {
          violated("P8: load_timeout of " + b.model + " came early");
        }
        if (why.reason == Reason::kRequested) {
          if ((b.control & kControlEvict) == 0) violated("nobody asked for the end of " + b.model);
          if (why.failed == kLoadFailed)
            violated("P4: a load that was asked to end is called failed: " + b.model);
        }
        if (!died && why.reason == Reason::kCrashed && slot.process)
          violated("the process of " + b.model + " lives");
        break;
      }
      case ActionKind::kSignal:
        if (b.state.state != BackendState::kStopping)
          violated("P2: a signal to one that is not stopping: " + b.model);
        if (b.stop.signalled_ns == 0 && static_cast<std::uint64_t>(action.signal) !=
                                            truth_.setting(Setting::kStopSignal, &slot)) {
          violated("P9: the first signal to " + b.model + " is not stop_signal");
        }
        if (action.signal == kSigkill && b.stop.signalled_ns != 0 &&
            now < b.stop.signalled_ns + truth_.setting(Setting::kStopGrace, &slot)) {
          violated("P8: SIGKILL for " + b.model + " before its grace was over");
        }
        break;
      case ActionKind::kMarkOverdue:
        if (b.stop.killed_ns == 0) violated("P9: " + b.model + " is overdue without SIGKILL");
        if (now < b.stop.killed_ns + kUnkillable_ns) {
          violated("P4: " + b.model + " is overdue while SIGKILL is still fresh");
        }
        break;
      case ActionKind::kSettle:
      case ActionKind::kMarkGone:
        if (!slot.ended()) violated("P3: " + b.model + " is called gone, but its processes live");
        break;
      case ActionKind::kFree:
        if (truth_.is_leased(slot))
          violated("P2: the slot of " + b.model + " is freed under a lease");
        break;
      case ActionKind::kDisown: {
        const auto loader = truth_.requests.find(slot.loader);
        if (loader != truth_.requests.end() && !loader->second.dead)
          violated("P6: a living loader is disowned");
        break;
      }
      case ActionKind::kAskToEnd:
        check_ask(why, slot);
        break;
      default:
        break;
    }
  }
}

void Oracle::check_ask(const StopRecord& why, const Slot& slot) {
  const auto blamed = truth_.requests.find(why.lease_word);
  if (blamed == truth_.requests.end() || blamed->second.backend != slot.view.ref)
    return violated("a request that is not on " + slot.view.model + " is asked to end");
  const LeaseInFlight lease = truth_of(blamed->second);
  const LeaseLimit limit = reason_row(why.reason).lease_rule->limit_of(slot.view.settings(), lease);
  if (limit.limit_ns == 0 || add_ns(limit.since_ns, limit.limit_ns) > truth_.now_ns)
    violated("P8: a request on " + slot.view.model + " is asked to end early");
  if (!lease.cancellable) violated("a request that cannot be asked to end is");
}

void Oracle::check_close(const Action& action, const Slot& slot) {
  const StopRecord& why = action.stop;
  const bool asked_to_cut =
      (why.reason == Reason::kRequested && (slot.view.control & kControlForce)) ||
      (reason_row(why.reason).makes_room && why.for_arrival != 0 &&
       truth_.setting(Setting::kWhenBusy, &slot) == static_cast<std::uint64_t>(WhenBusy::kForce));
  const Cuts cuts = reason_row(why.reason).cuts;
  const bool may_cut = cuts == Cuts::kAlways || (cuts == Cuts::kWhenForced && asked_to_cut);
  if (why.forced != 0 && !may_cut) violated("P2: leases on " + slot.view.model + " would be cut");
  check_rule(why, slot);
  if (reason_row(why.reason).makes_room && action.kind == ActionKind::kClose)
    check_victim(slot, why.for_arrival);
}

void Oracle::check_rule(const StopRecord& why, const Slot& slot) {
  const std::string& name = slot.view.model;
  const Finding finding = judge(why.reason, subject_of(slot));
  if (reason_row(why.reason).spares_pinned && slot.view.pinned()) {
    violated(name + " is pinned, yet it ends (" + reason_name(why.reason) + ")");
  }
  switch (why.reason) {
    case Reason::kBusy:
    case Reason::kStall:
    case Reason::kFirstByte: {
      if (finding.at_ns > truth_.now_ns)
        violated("P8: no request on " + name + " has broken a rule");
      const std::uint64_t grace = truth_.setting(Setting::kOnOverdue, &slot);
      const auto blamed = truth_.requests.find(why.lease_word);
      if (grace == 0 || blamed == truth_.requests.end() || !blamed->second.cancellable) break;
      if (blamed->second.asked_ns == 0 || truth_.now_ns < blamed->second.asked_ns + grace)
        violated("P8: the holder of a request on " + name + " had no time to end it");
      break;
    }
    case Reason::kIdle:
      if (truth_.is_leased(slot)) violated("P2: " + name + " is not idle, it has a lease");
      if (finding.at_ns > truth_.now_ns) {
        violated("P8: " + name + " has not been idle for that long");
      }
      break;
    case Reason::kCrashed:
      if (slot.process) violated("P7: " + name + " has not crashed");
      break;
    case Reason::kRequested:
      if ((slot.view.control & kControlEvict) == 0) violated("nobody asked to evict " + name);
      break;
    case Reason::kOverLimit:
      if (finding.at_ns > truth_.now_ns) violated("P2: " + name + " takes no more than it may");
      break;
    case Reason::kLru:
    case Reason::kMemory:
    case Reason::kGroup:
      break;  // check_victim
    case Reason::kNone:
    case Reason::kLoadTimeout:
    case Reason::kShutdown:
    case Reason::kWedged:  // nothing is probed here
      violated("no such reason to end " + name);
      break;
  }
}

// As the rules see it. Whether they know already who is dead cannot be told.
Head Oracle::head_of(const Request& first, bool with_dead) const {
  std::vector<Waiting> waiting;
  for (const auto& [id, r] : truth_.requests) {
    if (r.arrival == 0 || r.model != first.model || (r.dead && !with_dead && &r != &first))
      continue;
    Waiting one;
    one.arrival = r.arrival;
    one.deadline_ns = r.deadline_ns;
    one.looked_ns = r.looked_ns;
    one.model = r.model;
    one.model_since_ns = r.model_since_ns;
    one.load_ns = truth_.load_ns[r.model];
    waiting.push_back(one);
    if (&r == &first) std::swap(waiting.front(), waiting.back());
  }
  return modelpool::head_of(waiting.front(), waiting, truth_.now_ns);
}

// What a resident in use may be kept for: never beyond max_wait, whatever the waiter can spare.
std::uint64_t Oracle::closable_ns(const Slot& slot, const Head& head) const {
  const std::uint64_t max_wait = truth_.setting(Setting::kMaxWait, &slot);
  Resident resident = subject_of(slot).resident;
  resident.load_ns = load_ns(slot);
  const std::uint64_t collect = truth_.setting(Setting::kCollect, nullptr);
  const std::uint64_t turn = turn_begins_ns(head, max_wait);
  if (resident.in_flight > 0) return turn;
  return std::max(std::min(turn, add_ns(head.since_ns, collect)),
                  pause_ends_ns(resident, head, max_wait));
}

std::uint64_t Oracle::load_ns(const Slot& slot) const {
  std::vector<Resident> residents{resident_of(slot.view)};
  for (const Slot& other : truth_.slots) {
    if (&other != &slot && other.view.state.state != BackendState::kFree)
      residents.push_back(resident_of(other.view));
  }
  assume_usual_loads(residents);
  return residents.front().load_ns;
}

Order Oracle::order() const {
  return {static_cast<Eviction>(truth_.setting(Setting::kEviction, nullptr)), truth_.now_ns};
}

// An open backend that may make room now, for this head; null: for the limit, idle ones only.
bool Oracle::is_victim(const Slot& slot, const Head* head) const {
  if (!is_open(slot) || slot.view.pinned() || (slot.view.control & kControlEvict) ||
      slot.exited_ns != 0)
    return false;
  const std::uint64_t resident = truth_.setting(Setting::kMinResident, &slot);
  if (slot.view.ready_ns + resident > truth_.now_ns) return false;
  const bool awaited =
      std::any_of(truth_.requests.begin(), truth_.requests.end(), [&](const auto& entry) {
        return entry.second.arrival != 0 && entry.second.model == slot.model;
      });
  if (awaited || due_ns(slot) <= truth_.now_ns + kSlack_ns)
    return false;  // ends for another reason
  if (head != nullptr && closable_ns(slot, *head) > truth_.now_ns) return false;
  if (subject_of(slot).resident.in_flight == 0) return true;
  const auto when_busy = static_cast<WhenBusy>(truth_.setting(Setting::kWhenBusy, &slot));
  return head != nullptr && (when_busy == WhenBusy::kForce ||
                             (when_busy == WhenBusy::kDrain && slot.view.drain_failed_ns == 0));
}

void Oracle::check_victim(const Slot& slot, std::uint64_t for_arrival) {
  const std::uint64_t limit = truth_.setting(Setting::kMaxBackends, nullptr);
  const bool for_memory = truth_.setting(Setting::kMaxMemory, nullptr) != 0;
  const bool is_placed = workload_.groups != 0 || workload_.devices != 0;
  if (!for_memory && !is_placed && (limit == 0 || truth_.places_taken() + line().size() <= limit)) {
    violated("P5: " + slot.view.model + " loses its place for nobody");
  }
  if (slot.view.ready_ns + truth_.setting(Setting::kMinResident, &slot) > truth_.now_ns) {
    violated("P8: " + slot.view.model + " has not been resident for min_resident");
  }
  std::optional<Head> head;
  std::uint64_t closable = 0;
  for (const Request* first : line()) {
    if (first->arrival != for_arrival) continue;
    head = head_of(*first, false);
    closable = std::min(closable_ns(slot, *head), closable_ns(slot, head_of(*first, true)));
  }
  if (truth_.is_leased(slot) && closable > truth_.now_ns)
    violated("P5: " + slot.view.model + " is in use, and nobody has waited long enough for it");
  // Who could have gone instead? Several may go at once: they are compared with all that stay.
  if (for_memory || is_placed) return;  // which of them suffice is for cover_test
  const bool busy = truth_.is_leased(slot);
  const bool by_use = order().by == Eviction::kLru;
  for (const Slot& other : truth_.slots) {
    if (&other == &slot || !is_victim(other, head ? &*head : nullptr)) continue;
    if (subject_of(other).resident.in_flight > 0) continue;
    // Stamps lie up to a tick before what they stamp.
    const bool before =
        busy || (by_use && add_ns(other.used_ns, 2 * workload_.stamp_resolution_ns) < slot.used_ns);
    if (before) chosen_before_.push_back({other.view.ref, slot.view.ref});
  }
}

void Oracle::stopping(const Slot& slot, const StopRecord& why) {
  if (why.forced == 0 && truth_.is_leased(slot))
    violated("P2: " + slot.view.model + " is stopped under a lease");
}

// P3 of everything but places and the host's bytes.
void Oracle::check_placement(std::uint32_t model, const Placement& placement) {
  const std::vector<std::uint64_t> groups = model_groups(workload_, model);
  const std::uint64_t most_loads = truth_.setting(Setting::kMaxLoads, nullptr);
  std::uint64_t loads = 1;
  std::array<std::uint64_t, kDevicesMax> bytes{};
  for (const Slot& slot : truth_.slots) {
    if (!slot.view.live()) continue;
    loads += slot.view.state.state == BackendState::kReserved ||
             slot.view.state.state == BackendState::kStarting;
    for (std::size_t d = 0; d < kDevicesMax; ++d) bytes[d] += slot.view.expected.device[d];
    if (!slot.view.overdue && share_a_group(model_groups(workload_, slot.model), groups))
      violated("P3: " + model_name(model) + " is loaded beside one of its group");
  }
  if (most_loads != 0 && loads > most_loads) violated("P3: more loads at once than max_loads");
  for (std::uint32_t d = 0; d < workload_.devices; ++d) {
    const bool is_on = (placement.devices >> d & 1) != 0;
    if (is_on && bytes[d] + model_bytes(model) > workload_.device_bytes)
      violated("P3: more is put on a device than it has");
  }
  if (static_cast<std::uint32_t>(std::popcount(placement.devices)) !=
      model_devices(workload_, model).count)
    violated("P3: " + model_name(model) + " is on fewer devices than it asks for");
}

void Oracle::reserving(const Request& request, const Placement& placement) {
  check_placement(request.model, placement);
  const std::string name = model_name(request.model);
  const Cooling& history = truth_.cooling[request.model];
  if (history.failures > 0 && history.until_ns > truth_.now_ns)
    violated("P4: " + name + " is loaded while it cools down");
  if (request.awaited && pack_ref(*request.awaited) == history.failed_backend) {
    violated("P4: a waiter of a failed load of " + name + " gets a ticket instead of an answer");
  }
  if (truth_.serving(request.model) != nullptr) violated("P4: " + name + " is loaded twice");
  const std::uint64_t limit = truth_.setting(Setting::kMaxBackends, nullptr);
  const std::uint64_t taken = truth_.places_taken();
  if (limit != 0 && taken + 1 > limit) violated("P3: more tickets than places");
  const std::uint64_t memory = truth_.setting(Setting::kMaxMemory, nullptr);
  std::uint64_t bytes = model_bytes(request.model);
  for (const Slot& slot : truth_.slots) {
    if (slot.view.live()) bytes += slot.view.expected.host;
  }
  if (memory != 0 && bytes > memory) violated("P3: more is loaded than max_memory");
  if (memory != 0 || workload_.groups != 0) return;  // a later one may pass
  std::uint64_t ahead = 0;
  for (const Request* r : line()) {
    if (r->model == request.model) break;  // waiters of one model share their turn
    ahead += request.arrival == 0 || r->arrival < request.arrival;
  }
  if (limit != 0 && ahead >= limit - std::min(limit, taken))
    violated("P5: a place goes past the head of the line");
}

// Counts processes, as somebody outside would.
void Oracle::starting() {
  const std::uint64_t limit = truth_.setting(Setting::kMaxBackends, nullptr);
  const auto groups = static_cast<std::uint64_t>(std::count_if(
      truth_.slots.begin(), truth_.slots.end(), [](const Slot& slot) { return !slot.ended(); }));
  // A ticket that was out when the limit was lowered may still start its backend.
  if (limit != 0 && groups > limit && truth_.settings_ns == 0)
    violated("P3: more backends run than max_backends");
  std::set<std::uint32_t> models;
  for (const Slot& slot : truth_.slots) {
    const BackendState state = slot.view.state.state;
    const bool serves = state >= BackendState::kReserved && state <= BackendState::kEvicting;
    if (serves && !models.insert(slot.model).second)
      violated("P4: two backends of " + slot.view.model);
  }
}

// What has not been decided although nothing more will come to change that.
// Closed for one who still waits, by a judge that died when another of the set had been stopped:
// the next one goes on with that.
bool Oracle::is_left_of_a_set(const Slot& slot) const {
  const std::uint64_t arrival = slot.view.stop.for_arrival;
  const auto is_mate = [&](const Slot& other) {
    const BackendState state = other.view.state.state;
    return (state == BackendState::kStopping || state == BackendState::kGone) &&
           other.view.stop.for_arrival == arrival;
  };
  const auto waits = [&](const auto& entry) {
    return !entry.second.dead && entry.second.arrival == arrival;
  };
  return arrival != 0 && std::any_of(truth_.slots.begin(), truth_.slots.end(), is_mate) &&
         std::any_of(truth_.requests.begin(), truth_.requests.end(), waits);
}

void Oracle::resting(const Decision& decision) {
  const std::uint64_t now = truth_.now_ns;
  bool leaving = false;
  for (const Slot& slot : truth_.slots) {
    const BackendState state = slot.view.state.state;
    const std::string& name = slot.view.model;
    if (state == BackendState::kStopping) {
      leaving |= !slot.view.overdue;
      if (slot.view.stop.signalled_ns == 0) violated("P9: nobody ends " + name);
      if (slot.ended() && slot.ordered) violated("P9: the end of " + name + " goes unnoticed");
    }
    if (state == BackendState::kEvicting) {
      leaving = true;
      if (slot.view.state.owner != truth_.judge.epoch && !is_left_of_a_set(slot))
        violated("P10: " + name + " stays closed by a dead judge");
      const bool wanted = decision.wanted >> (slot.view.ref.index & 63) & 1;
      if (!wanted) violated("P8: nobody tells when the last lease on " + name + " ends");
    }
    if (state == BackendState::kGone && slot.view.state.owner == 0 && !truth_.is_leased(slot)) {
      const bool named =
          std::any_of(truth_.requests.begin(), truth_.requests.end(), [&](const auto& entry) {
            return entry.second.phase == Request::Phase::kLeased &&
                   entry.second.backend == slot.view.ref;
          });
      if (!named) violated("P6: the slot of " + name + " is not freed");
    }
    if (state == BackendState::kReady && (slot.view.control & kControlEvict))
      violated("P11: an eviction is forgotten");
  }
  for (std::size_t i = 0; i < truth_.rows.size(); ++i) {
    if (truth_.rows[i].attached && !truth_.rows[i].alive)
      violated("P6: a dead worker is not reaped");
  }
  for (const auto& [stays, went] : chosen_before_) {
    const Slot* slot = truth_.find(stays);
    const Slot* victim = truth_.find(went);
    const bool gone_for_it = victim == nullptr || !is_open(*victim);
    if (slot != nullptr && is_victim(*slot, nullptr) && gone_for_it) {
      violated("order: " + slot->view.model + " stays, who should have gone first");
    }
  }
  chosen_before_.clear();

  const std::uint64_t limit = truth_.setting(Setting::kMaxBackends, nullptr);
  const std::vector<const Request*> waiting = line();
  const std::uint64_t taken = truth_.places_taken();
  const bool needs_room = limit != 0 && (taken > limit || (!waiting.empty() && taken >= limit));
  if (needs_room && !leaving) {
    std::optional<Head> head;
    if (!waiting.empty()) head = head_of(*waiting.front(), false);
    for (const Slot& slot : truth_.slots) {
      // Under the limit only idle ones are certain: lowering it cuts no lease.
      if (is_victim(slot, head ? &*head : nullptr)) {
        violated("P5: " + slot.view.model + " could make room, and nothing happens");
      }
    }
  }
  if (workload_.head_waits_most_ns == 0 || waiting.empty()) {
    head_ = 0;
    return;
  }
  if (head_ != waiting.front()->arrival || head_epoch_ != truth_.judge.epoch) {
    head_ = waiting.front()->arrival;
    head_epoch_ = truth_.judge.epoch;
    head_since_ns_ = now;
  }
  if (now - head_since_ns_ > workload_.head_waits_most_ns)
    violated("P5: the head of the line starves");
}

}  // namespace modelpool::sim
