// poolctl explain: which settings apply to a model and why, and what would happen to it.
#include <algorithm>

#include "base/duration.hpp"
#include "base/exit_words.hpp"
#include "base/probe_target.hpp"
#include "base/proc.hpp"
#include "base/size.hpp"
#include "base/time.hpp"
#include "json.hpp"
#include "json/event_json.hpp"
#include "policy/fit.hpp"
#include "policy/kept.hpp"
#include "policy/line.hpp"
#include "policy/order.hpp"
#include "policy/rules.hpp"
#include "policy/turns.hpp"
#include "protocol/events.hpp"
#include "protocol/histories.hpp"
#include "protocol/local_rules.hpp"
#include "protocol/members.hpp"
#include "protocol/needs.hpp"
#include "protocol/outlook.hpp"
#include "segment/settings_block.hpp"
#include "what_if.hpp"

namespace modelpool::poolctl {
namespace {

constexpr std::size_t kPlacesShown = 8;
constexpr std::size_t kWaitersShown = 4;

// What one rule says about the model as things stand.
struct Verdict {
  std::string rule;
  std::string text;
  std::uint64_t due_ns = kNever_ns;  // from now; kNever_ns: not as things stand
};

struct Subject {
  const Segment& segment;
  const Snapshot& snapshot;
  std::string model;
  const BackendView* backend;  // null: not loaded
  std::optional<LoadHistory> history;
  Effective effective;
  JudgeState judge;
  bool is_copy;  // of a segment: its processes are not looked at
  std::vector<std::uint64_t> groups = group_hashes(effective.text(Setting::kGroups));

  std::uint64_t get(Setting id) const { return effective.get(id); }
  std::uint64_t now() const { return snapshot.now_ns; }
};

std::string limit_text(std::uint64_t limit) { return format_duration(limit); }

// "killed in 3.2s", as the judge would; without a judge nothing is ended.
std::string outcome(const Subject& subject, std::string_view what, std::uint64_t due,
                    std::string_view condition = "") {
  std::string text =
      std::string(what) + (due == 0 ? " now" : " in " + format_age(due)) + std::string(condition);
  if (subject.backend->external()) text += "; it is external: no process is signalled";
  if (subject.judge == JudgeState::kAnswers) return text;
  return text + (subject.judge == JudgeState::kDead
                     ? "; but no coordinator is running: nothing is ended until one is"
                     : "; but the coordinator hangs: nothing is ended until it looks again");
}

// The leases of the backend, and the same as the rules see them.
std::vector<const LeaseView*> leases_on(const Subject& subject) {
  std::vector<const LeaseView*> leases;
  for (const LeaseView& lease : subject.snapshot.leases) {
    if (lease.backend == subject.backend->ref) leases.push_back(&lease);
  }
  return leases;
}

std::vector<Waiting> waiting_for_all(const Snapshot& snapshot) {
  std::vector<Waiting> waiting;
  for (const WaiterView& waiter : snapshot.waiters) waiting.push_back(waiting_of(waiter));
  return waiting;
}

std::vector<Resident> residents(const Snapshot& snapshot) {
  std::vector<Resident> residents;
  for (const BackendView& backend : snapshot.backends) {
    if (backend.live()) residents.push_back(resident_of(backend));
  }
  return residents;
}

// Of its backend in the snapshot.
std::size_t position_of(const Subject& subject) {
  return static_cast<std::size_t>(subject.backend - subject.snapshot.backends.data());
}

// Does idle eviction leave it (keep)?
bool is_kept(const Subject& subject) {
  const std::vector<Resident> all = residents_of(subject.snapshot);
  return find_kept(all, subject.snapshot.keep(),
                   room_rules(subject.snapshot, subject.now()).order)[position_of(subject)];
}

// The finding of the rule's own row (libshm/policy/rules.hpp).
Finding find(const Subject& subject, Reason reason, const std::vector<const LeaseView*>& views) {
  std::vector<LeaseInFlight> leases;
  for (const LeaseView* view : views) {
    leases.push_back(lease_in_flight(*view));
  }
  const Resident resident = resident_of(*subject.backend);
  const std::vector<Waiting> waiting = waiting_for_all(subject.snapshot);
  Case one{resident, subject.effective, leases};
  const Waiting* const waiter = first_waiter_for(waiting, resident.model, subject.now());
  if (waiter != nullptr) one.awaited_until_ns = present_until_ns(*waiter);
  one.kept = is_kept(subject);
  one.limits = limits_of(subject.snapshot);
  return reason_row(reason).judge(one, subject.now());
}

// The lease that comes first: whose holder is asked to end it, or for which the backend is killed.
Verdict explain_leases(const Subject& subject, Reason reason) {
  const LeaseRule& rule = *reason_row(reason).lease_rule;
  const std::vector<const LeaseView*> leases = leases_on(subject);
  const Finding finding = find(subject, reason, leases);
  Verdict verdict{reason_name(reason), "off", kNever_ns};
  if (subject.get(rule.setting) != 0) verdict.text = "no lease";
  const bool asks = finding.ask_ns < finding.at_ns;
  const std::uint64_t at = asks ? finding.ask_ns : finding.at_ns;
  if (at == kNever_ns) return verdict;
  verdict.due_ns = age_ns(at, subject.now());
  const LeaseView& lease = *leases[asks ? finding.asked_lease : finding.lease];
  const LeaseLimit limit = rule.limit_of(subject.effective, lease_in_flight(lease));
  verdict.text = age_text(subject.now(), limit.since_ns) + " of " + limit_text(limit.limit_ns) +
                 (lease.tag.empty() ? "" : ", tag " + escape(lease.tag));
  if (lease.cancelled())
    verdict.text += ", asked to end " + age_text(subject.now(), lease.cancel_at_ns) + " ago";
  const char* const end = asks                          ? "its holder is asked to end it"
                          : subject.backend->external() ? "dropped"
                                                        : "killed";
  verdict.text += ": " + outcome(subject, end, verdict.due_ns,
                                 reason == Reason::kBusy ? " unless the lease ends"
                                                         : " unless it makes progress");
  return verdict;
}

// Who pinned it: either is enough.
std::string pin_text(const Subject& subject) {
  const BackendView& backend = *subject.backend;
  if (!backend.pinned_by_settings()) return "exempt: pinned";
  return "exempt: pinned by its settings (" +
         origin_text(settings_of(subject.snapshot).config_path,
                     subject.effective.origin(Setting::kPinned)) +
         ")" + (backend.pinned_by_hand() ? ", and by poolctl pin or its loader" : "");
}

Verdict explain_idle(const Subject& subject) {
  const BackendView& backend = *subject.backend;
  const std::string rule = reason_name(Reason::kIdle);
  const auto asked = keep_alive_of(backend.keep_alive);
  const std::string from = asked ? " (keep_alive, as an acquire asked)" : "";
  if (idle_limit_ns(resident_of(backend), subject.effective) == kNever_ns) {
    return {rule, "off" + from, kNever_ns};
  }
  if (backend.pinned()) return {rule, pin_text(subject), kNever_ns};
  if (backend.in_flight > 0) {
    const std::string limit =
        asked ? "; then it may be so for " + format_keep_alive(*asked) + from : "";
    return {rule, "not idle: " + count_text(backend.in_flight, "lease") + " in flight" + limit,
            kNever_ns};
  }
  const Finding finding = find(subject, Reason::kIdle, {});
  if (is_kept(subject) && asked != std::uint64_t{0}) {
    const std::uint32_t keep = subject.snapshot.keep();
    return {rule,
            keep == 1
                ? "kept: it would make room last (keep is 1)"
                : "kept: one of the " + std::to_string(keep) + " that would make room last (keep)",
            kNever_ns};
  }
  if (finding.at_ns == kNever_ns) return {rule, "not idle: a waiter is about to use it", kNever_ns};
  const std::uint64_t due = age_ns(finding.at_ns, subject.now());
  return {rule,
          "idle for " + age_text(subject.now(), finding.since_ns) + " of " +
              (asked ? format_keep_alive(*asked) : limit_text(finding.limit_ns)) + from + ": " +
              outcome(subject, "evicted", due, " unless used"),
          due};
}

// How long min_resident still keeps it; kNever_ns: it does not.
std::uint64_t kept_for_ns(const Subject& subject) {
  const std::uint64_t until = add_ns(subject.backend->ready_ns, subject.get(Setting::kMinResident));
  return until > subject.now() ? until - subject.now() : kNever_ns;
}

std::uint64_t bytes_of(const Waiting& waiter) {
  return static_cast<std::uint64_t>(waiter.takes[Resource::kHostBytes]);
}

// The model as one that asks for it next.
Waiting as_waiting(const Subject& subject) {
  Waiting waiting =
      waiting_for(derive_need(subject.segment, subject.model, 0, limits_of(subject.snapshot)).need);
  waiting.model = hash_name(subject.model);
  waiting.arrival = kNever_ns;
  waiting.groups = subject.groups;
  return waiting;
}

// "2 of 3 places taken, and 40GiB of 64GiB"
std::string taken_text(const Snapshot& snapshot, const std::vector<Resident>& there) {
  const Limits limits = limits_of(snapshot);
  Amounts held;
  for (const Resident& resident : there) held += resident.holds;
  const auto size = [&held](std::size_t resource) {
    return format_size(static_cast<std::uint64_t>(held[resource]));
  };
  std::string text =
      std::to_string(count_live(there)) +
      (limits.max_backends == 0 ? "" : " of " + std::to_string(limits.max_backends)) +
      " places taken";
  if (limits.max_memory != 0)
    text +=
        ", and " + size(index_of(Resource::kHostBytes)) + " of " + format_size(limits.max_memory);
  if (limits.max_loads != 0)
    text += ", " + std::to_string(held[Resource::kLoads]) + " of " +
            std::to_string(limits.max_loads) + " loads under way";
  for (std::uint32_t d = 0; d < snapshot.devices.size(); ++d) {
    const DeviceLimit& device = limits.device[d];
    if (device.bytes == 0) continue;
    text += ", " + size(index_of_device(d)) + " of " + format_size(device.bytes) + " on " +
            escape(snapshot.devices[d]);
    if (device.foreign != 0) text += " (and others " + format_size(device.foreign) + ")";
  }
  return text;
}

// Who keeps the model out, because their groups are one: "vision-7b"; "" = nobody.
std::string kept_out_by(const Subject& subject) {
  for (const BackendView& backend : subject.snapshot.backends) {
    if (resident_of(backend).serves() && backend.model != subject.model &&
        share_a_group(backend.groups, subject.groups)) {
      return escape(backend.model);
    }
  }
  return {};
}

// The model whose turn it is to be loaded, if it waits for a place.
std::optional<Head> head_without_place(const Snapshot& snapshot) {
  const std::vector<Resident> there = residents(snapshot);
  std::vector<Waiting> waiting = waiting_for_all(snapshot);
  std::vector<Waiting> heads(waiting.size());
  heads.resize(find_heads(waiting, there, snapshot.now_ns, heads));
  Room room(limits_of(snapshot), there);
  for (const Waiting& head : heads) {
    if (!room.fits(head)) return head_of(head, waiting, snapshot.now_ns);
    room.take(head);
  }
  return std::nullopt;
}

std::string model_text(const Snapshot& snapshot, const Head& head) {
  for (const WaiterView& waiter : snapshot.waiters) {
    if (waiter.arrival == head.first.arrival) return escape(waiter.model);
  }
  return "a model";
}

// " keeps its place ...": until whose turn it is.
Verdict explain_turn(const Subject& subject, const Resident& self, const std::string& in_use) {
  const std::uint64_t max_wait = subject.get(Setting::kMaxWait);
  const std::string rule = reason_name(Reason::kLru);
  const std::optional<Head> head = head_without_place(subject.snapshot);
  if (!head) {
    return {rule,
            in_use + (max_wait == 0 ? "with no idle victim it may be closed at once"
                                    : "it keeps its place until somebody has waited " +
                                          limit_text(max_wait) + " for it (max_wait)"),
            kNever_ns};
  }
  const std::uint64_t until =
      self.in_flight > 0 ? turn_begins_ns(*head, max_wait) : pause_ends_ns(self, *head, max_wait);
  const std::uint64_t due = age_ns(until, subject.now());
  return {rule,
          in_use + model_text(subject.snapshot, *head) + " has waited for " +
              age_text(subject.now(), head->since_ns) + ": " +
              outcome(subject, "it may be closed", due, " (max_wait)"),
          due};
}

// Whether it goes because the host has too little memory left.
std::optional<Verdict> explain_pressure(const Subject& subject) {
  const std::uint64_t least = settings_of(subject.snapshot).get(Setting::kMinAvailable);
  if (least == 0) return std::nullopt;
  const std::string limit = "min_available is " + format_size(least) + ": ";
  if (subject.backend->pinned())
    return Verdict{reason_name(Reason::kMemory), pin_text(subject), kNever_ns};
  const std::uint64_t left_ns =
      age_ns(subject.snapshot.coordinator.pressure_until_ns, subject.now());
  if (left_ns != 0) {
    return Verdict{reason_name(Reason::kMemory),
                   limit + "the last eviction for it did not bring its memory back; none for " +
                       "another " + format_age(left_ns),
                   left_ns};
  }
  return Verdict{reason_name(Reason::kMemory),
                 limit + "when less is left, idle backends go one by one, the first in the order " +
                     "below first",
                 kNever_ns};
}

// Why it stands where it does in the order.
std::string order_text(const Order& order, const Resident& self) {
  switch (order.by) {
    case Eviction::kLru:
      return "least recently used first";
    case Eviction::kSize:
      return "the largest first, by what they said at ready";
    case Eviction::kCost:
      break;
  }
  const Worth worth = worth_of(self, order.now_ns);
  return "the least costly loss first: its load takes " + format_age(worth.load_ns) +
         ", it is wanted every " + format_age(worth.wait_ns);
}

Verdict explain_room(const Subject& subject) {
  const BackendView& backend = *subject.backend;
  const std::string rule = reason_name(Reason::kLru);
  if (!limits_of(subject.snapshot).any())
    return {rule, "no limit: nothing is evicted for room", kNever_ns};
  if (backend.pinned()) return {rule, pin_text(subject), kNever_ns};
  if (const std::uint64_t kept_for = kept_for_ns(subject); kept_for != kNever_ns) {
    return {rule, "not for another " + format_age(kept_for) + " (min_resident)", kNever_ns};
  }
  const std::vector<Resident> all = residents_of(subject.snapshot);
  const Order order = room_rules(subject.snapshot, subject.now()).order;
  const Resident& self = all[position_of(subject)];
  if (self.in_flight > 0) {
    const std::string busy = count_text(backend.in_flight, "lease") + " in flight; when_busy is ";
    switch (static_cast<WhenBusy>(subject.get(Setting::kWhenBusy))) {
      case WhenBusy::kWait:
        return {rule, busy + "wait: not while busy", kNever_ns};
      case WhenBusy::kForce:
        return explain_turn(subject, self, busy + "force: its leases may be cut for room; ");
      case WhenBusy::kDrain:
        break;
    }
    return explain_turn(subject, self,
                        busy + "drain: they may finish for " +
                            limit_text(subject.get(Setting::kDrainTimeout)) + "; ");
  }
  if (const auto head = head_without_place(subject.snapshot);
      head && pause_ends_ns(self, *head, subject.get(Setting::kMaxWait)) > subject.now()) {
    return explain_turn(
        subject, self,
        "pauses between two requests, as it does every " + format_age(self.interval_ns) + "; ");
  }
  std::size_t before = 0;
  std::size_t idle = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const BackendView& other = subject.snapshot.backends[i];
    const bool is_kept =
        add_ns(other.ready_ns, other.settings().get(Setting::kMinResident)) > subject.now();
    const bool is_ready = other.live() && other.state.state == BackendState::kReady;
    if (!is_ready || other.in_flight > 0 || other.pinned() || is_kept) continue;
    ++idle;
    before += order.goes_before(all[i], self);
  }
  return {rule,
          taken_text(subject.snapshot, residents(subject.snapshot)) + "; number " +
              std::to_string(before + 1) + " of " + std::to_string(idle) +
              " to go when one is needed, " + order_text(order, self) +
              (subject.judge == JudgeState::kDead ? "; but no coordinator is running: nobody goes"
               : subject.judge == JudgeState::kHangs ? "; but the coordinator hangs: nobody goes"
                                                     : ""),
          kNever_ns};
}

std::uint64_t since_ns(const Snapshot& snapshot, std::uint32_t row) {
  for (const WaiterView& waiter : snapshot.waiters) {
    if (waiter.row == row) return waiter.since_ns;
  }
  return 0;
}

// Whether, and when, somebody who acquires the model may load it.
Verdict explain_admission(const Subject& subject) {
  const Snapshot& snapshot = subject.snapshot;
  if (!snapshot.settings) {
    return {"load", "no: the pool has no settings yet; start " + start_command(subject.segment),
            kNever_ns};
  }
  const std::uint64_t cooling =
      subject.history ? age_ns(subject.history->cooldown_until_ns, subject.now()) : 0;
  if (cooling > 0) {
    return {"load",
            "cooling down for another " + format_age(cooling) + "; poolctl reset " +
                escape(subject.model) + " ends that",
            cooling};
  }
  const std::vector<Resident> there = residents(snapshot);
  const Limits limits = limits_of(snapshot);
  const Room room(limits, there);
  const Waiting self = as_waiting(subject);
  std::string taken = taken_text(snapshot, there);
  if (is_too_large(self, limits)) {
    const bool by_host = limits.max_memory != 0 && bytes_of(self) > limits.max_memory;
    return {"load",
            by_host ? "no: it takes " + format_size(bytes_of(self)) + ", and max_memory is " +
                          format_size(limits.max_memory)
                    : "no: it takes " + format_size(largest_of(self.devices.bytes)) +
                          " of a device, and none has so much (gpu_memory)",
            kNever_ns};
  }
  const std::string keeper = kept_out_by(subject);
  const bool needs_room = !room.fits(self) || !keeper.empty();
  if (needs_room && is_blocked_by_pins(self, there, limits)) {
    return {"load", "no: " + taken + ", too much by pinned backends; unpin one or raise the limit",
            kNever_ns};
  }
  if (!keeper.empty()) taken += ", and " + keeper + " shares a group with it";
  if (lacks_devices(self, limits)) taken += ", and it asks for devices that are not known";
  std::vector<Waiting> waiting = waiting_for_all(snapshot);
  std::vector<Waiting> heads(waiting.size());
  heads.resize(find_heads(waiting, there, subject.now(), heads));
  const std::uint64_t model = hash_name(subject.model);
  const auto in_line = std::find_if(heads.begin(), heads.end(),
                                    [model](const Waiting& head) { return head.model == model; });
  const std::string without_judge =
      subject.judge == JudgeState::kDead    ? "; no coordinator is running, so nobody makes room"
      : subject.judge == JudgeState::kHangs ? "; the coordinator hangs, so nobody makes room"
                                            : "";
  if (in_line != heads.end()) {
    const auto waiters = std::count_if(waiting.begin(), waiting.end(),
                                       [model](const Waiting& w) { return w.model == model; });
    return {"load",
            "waits in line for " + age_text(subject.now(), since_ns(snapshot, in_line->row)) +
                ", number " + std::to_string(in_line - heads.begin() + 1) + " of " +
                count_text(heads.size(), "model") + ", with " +
                count_text(static_cast<std::uint64_t>(waiters), "request") + "; " + taken +
                (needs_room ? without_judge : ""),
            kNever_ns};
  }
  const std::uint64_t most = subject.snapshot.settings->get(Setting::kMaxWaiters);
  if (waiting.size() >= most) {
    return {"load", "no: " + count_text(waiting.size(), "request") + " wait already (max_waiters)",
            kNever_ns};
  }
  if (has_turn(heads, self, room, there)) {
    return {"load", "the next acquire may load it", kNever_ns};
  }
  return {"load",
          "the next acquire waits for room: " + taken + ", " + count_text(heads.size(), "model") +
              " in line" + without_judge,
          kNever_ns};
}

// Why a backend keeps its place, and until when, as far as that is known.
Verdict explain_stay(const Subject& holder);

// Who has the places that a model waits for, in the order in which they would go.
std::vector<Verdict> explain_places(const Subject& subject) {
  const Snapshot& snapshot = subject.snapshot;
  const std::vector<Resident> there = residents(snapshot);
  if (!snapshot.settings || Room(limits_of(snapshot), there).fits(as_waiting(subject))) return {};
  const std::vector<Resident> all = residents_of(snapshot);
  const Order order = room_rules(snapshot, snapshot.now_ns).order;
  std::vector<std::size_t> holders;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i].live()) holders.push_back(i);
  }
  std::sort(holders.begin(), holders.end(),
            [&](std::size_t a, std::size_t b) { return order.goes_before(all[a], all[b]); });
  std::vector<Verdict> verdicts;
  for (std::size_t i = 0; i < std::min(holders.size(), kPlacesShown); ++i) {
    const BackendView& backend = snapshot.backends[holders[i]];
    Verdict stay = explain_stay({subject.segment, snapshot, backend.model, &backend, std::nullopt,
                                 backend.settings(), subject.judge, subject.is_copy});
    verdicts.push_back({"place", escape(backend.model) + ": " + stay.text, stay.due_ns});
  }
  if (holders.size() > kPlacesShown) {
    verdicts.push_back(
        {"place",
         "and " + std::to_string(holders.size() - kPlacesShown) + " more; poolctl list shows them",
         kNever_ns});
  }
  return verdicts;
}

// Those who wait for the model and do not look: the line passes them over.
std::vector<Verdict> explain_absent_waiters(const Subject& subject) {
  std::vector<Verdict> verdicts;
  for (const WaiterView& waiter : subject.snapshot.waiters) {
    if (waiter.model != subject.model || !is_absent(waiter, subject.now())) continue;
    if (verdicts.size() == kWaitersShown) break;
    const auto stat = subject.is_copy ? std::nullopt : read_stat(waiter.pid);
    const bool is_stopped = stat && (stat->state == 'T' || stat->state == 't');
    verdicts.push_back(
        {"waiter",
         "process " + std::to_string(waiter.pid) + " has not looked for " +
             age_text(subject.now(), waiter.looked_ns) +
             (is_stopped ? ": it is stopped; kill -CONT " + std::to_string(waiter.pid) +
                               " lets it go on; until then it is passed over"
                         : ": it is passed over until it looks again"),
         kNever_ns});
  }
  return verdicts;
}

// Why it is not loaded any more: the last event about its end that the pool remembers.
std::optional<Verdict> explain_last_end(const Subject& subject) {
  std::optional<EventView> last;
  for (const EventView& event : read_events(subject.segment, 1)) {
    const bool is_end =
        event.data.kind == EventKind::kEvicted || event.data.kind == EventKind::kKilled ||
        event.data.kind == EventKind::kExited || event.data.kind == EventKind::kLoadFailed;
    if (is_end && field_text(event.data.model) == subject.model) last = event;
  }
  if (!last) return std::nullopt;
  const EventData& data = last->data;
  std::string text =
      std::string(event_kind_name(data.kind)) + " at " + format_wall_clock(data.time_ns);
  if (data.reason != Reason::kNone) text += " (" + reason_name(data.reason) + ")";
  if (data.age_ns != kNever_ns) text += ", measured " + format_age(data.age_ns);
  if (data.limit_ns != kNever_ns) text += ", limit " + format_duration(data.limit_ns);
  if (const auto tag = field_text(data.tag); !tag.empty()) text += ", tag " + escape(tag);
  if (const auto why = field_text(data.text); !why.empty()) text += ": " + escape(why);
  return Verdict{"ended", text, kNever_ns};
}

// What its probes say: how often they failed in a row is in its record, why the first did in an
// event.
Verdict explain_probe(const Subject& subject) {
  const std::string rule = reason_name(Reason::kWedged);
  const BackendView& backend = *subject.backend;
  const std::string_view probe = subject.effective.text(Setting::kProbe);
  const std::uint64_t interval = subject.get(Setting::kProbeInterval);
  const std::uint64_t timeout = subject.get(Setting::kProbeTimeout);
  if (probe.empty()) return {rule, "off: probe is not set", kNever_ns};
  if (interval == 0 || timeout == 0)
    return {rule, "off: probe_interval or probe_timeout is", kNever_ns};
  if (const auto target = probe_target(backend.address, probe); !target)
    return {rule, "not probed: " + target.error().text, kNever_ns};
  const std::string asked =
      escape(probe) + " every " + limit_text(interval) + ", within " + limit_text(timeout) + ": ";
  const std::uint64_t needed = subject.get(Setting::kProbeFailures);
  if (backend.probe_failures == 0) return {rule, asked + "no failure", kNever_ns};
  std::string text = asked + std::to_string(backend.probe_failures) + " failed in a row";
  std::string why;
  for (const EventView& event : read_events(subject.segment, 1)) {
    const bool is_its = event.data.kind == EventKind::kProbeFailed &&
                        event.data.backend == backend.ref.index &&
                        event.data.generation == backend.ref.generation;
    if (is_its) why = field_text(event.data.text);
  }
  if (!why.empty()) text += ", the first: " + escape(why);
  if (needed == 0) return {rule, text + "; it only says so (probe_failures is 0)", kNever_ns};
  text += "; killed at " + std::to_string(needed);
  text += backend.in_flight == 0 ? " since it was last used"
                                 : " only if a lease breaks first_byte_timeout or stall_timeout, "
                                   "or when none is in flight";
  return {rule, text, kNever_ns};
}

Verdict explain_load(const Subject& subject) {
  const std::string rule = reason_name(Reason::kLoadTimeout);
  const Finding finding = find(subject, Reason::kLoadTimeout, {});
  if (finding.at_ns == kNever_ns) return {rule, "off", kNever_ns};
  const std::uint64_t due = age_ns(finding.at_ns, subject.now());
  return {rule,
          "loading for " + age_text(subject.now(), finding.since_ns) + " of " +
              limit_text(finding.limit_ns) + ": " +
              outcome(subject, "ended", due, " unless it is ready"),
          due};
}

// Of what waits for the coordinator, where none answers.
std::string nobody_ends_it(const Subject& subject) {
  if (subject.judge == JudgeState::kAnswers) return {};
  return "; nobody goes on with that: " +
         explain_absence(subject.segment, look_at_judge(subject.segment, now_ns()), now_ns());
}

Verdict explain_end(const Subject& subject) {
  const BackendView& backend = *subject.backend;
  const StopRecord& stop = backend.stop;
  std::string text(backend_state_name(backend.state.state));
  if (stop.generation != backend.ref.generation) {
    const auto failure = load_failure(subject.segment, backend);
    text += failure ? ": its load failed: " + *failure : ": its load was given back";
    return {"stop", text + nobody_ends_it(subject), kNever_ns};
  }
  text += " for " + age_text(subject.now(), stop.decided_ns);
  if (stop.signal != 0) text += ", sent " + signal_text(static_cast<int>(stop.signal));
  if (const auto why = field_text(stop.text); !why.empty()) text += ": " + escape(why);
  std::uint64_t due = kNever_ns;
  const std::uint64_t grace = subject.get(Setting::kStopGrace);
  if (backend.settling()) {
    due = age_ns(add_ns(stop.ended_ns, subject.get(Setting::kSettle)), subject.now());
    text += "; its processes are gone; " +
            outcome(subject, "its place is free", due, " (settle), or when its device memory is");
    return {reason_name(stop.reason), text, due};
  }
  const bool is_stopping = backend.state.state == BackendState::kStopping;
  if (is_stopping && stop.signalled_ns != 0 && stop.killed_ns == 0 && grace != 0) {
    due = age_ns(add_ns(stop.signalled_ns, grace), subject.now());
    text += "; " + outcome(subject, "SIGKILL", due, " unless it ends");
  }
  if (backend.left.count != 0) {
    text += "; left: " + left_text(backend.left);
  } else if (backend.overdue) {
    text += "; it does not die of SIGKILL";
  }
  if (backend.overdue) text += "; it keeps its place, but its model may be loaded again";
  if (backend.state.state == BackendState::kEvicting && backend.in_flight > 0) {
    const std::uint64_t limit = subject.get(Setting::kDrainTimeout);
    text += "; " + count_text(backend.in_flight, "lease") + " may finish";
    if (limit != 0) {
      due = age_ns(add_ns(stop.decided_ns, limit), subject.now());
      text += "; " + outcome(subject, "it opens again", due, " (drain_timeout) unless they end");
    }
  }
  if (is_spared_sigkill(backend)) {
    text += "; SIGKILL does not follow, stop_grace is off: end process " +
            std::to_string(backend.process.pid) + ", or set stop_grace";
  }
  if (due == kNever_ns) text += nobody_ends_it(subject);
  return {reason_name(stop.reason), text, due};
}

Verdict explain_request(const Subject& subject) {
  const bool is_forced = (subject.backend->control & kControlForce) != 0;
  return {reason_name(Reason::kRequested),
          "asked for by `poolctl evict`" + std::string(is_forced ? ", leases may be cut: " : ": ") +
              outcome(subject, "evicted", 0, is_forced ? "" : " when its leases end"),
          subject.judge == JudgeState::kAnswers ? 0 : kNever_ns};
}

Verdict explain_stay(const Subject& holder) {
  const BackendView& backend = *holder.backend;
  switch (backend.state.state) {
    case BackendState::kReserved:
    case BackendState::kStarting: {
      Verdict load = explain_load(holder);
      if (load.text == "off") load.text = "loading";
      return load;
    }
    case BackendState::kReady:
      break;
    case BackendState::kFree:
    case BackendState::kEvicting:
    case BackendState::kStopping:
    case BackendState::kGone:
      return explain_end(holder);
  }
  if ((backend.control & kControlEvict) != 0) return explain_request(holder);
  Verdict stay = explain_room(holder);
  if (!backend.pinned()) stay.due_ns = kept_for_ns(holder);
  // What ends its leases, where something does.
  const Verdict busy = explain_leases(holder, Reason::kBusy);
  if (busy.due_ns == kNever_ns) return stay;
  stay.text += "; its oldest lease: " + busy.text;
  stay.due_ns = std::min(stay.due_ns, busy.due_ns);
  return stay;
}

// What it takes is measured against the whole limit.
Verdict explain_over_limit(const Subject& subject) {
  const Limits limits = limits_of(subject.snapshot);
  const BackendView& backend = *subject.backend;
  Verdict verdict{reason_name(Reason::kOverLimit), "off: there is no max_memory", kNever_ns};
  if (limits.max_memory == 0) return verdict;
  verdict.text = "not measured";
  if (backend.measured.host == 0) return verdict;
  verdict.text = "takes " + format_size(backend.measured.host);
  if (backend.peak.host > backend.measured.host)
    verdict.text += ", at most " + format_size(backend.peak.host) + " so far";
  verdict.text += ", of max_memory " + format_size(limits.max_memory) +
                  ": killed if it takes more than that by itself";
  if (find(subject, Reason::kOverLimit, {}).at_ns != kNever_ns) verdict.due_ns = 0;
  return verdict;
}

// "20GiB of memory, 18GiB on GPU-1f; no other of heavy is loaded beside it"
std::optional<Verdict> explain_holding(const Subject& subject) {
  std::string text;
  const auto add = [&text](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  if (subject.backend != nullptr) {
    const Resident self = resident_of(*subject.backend);
    const auto size = [&self](std::size_t resource) {
      return format_size(static_cast<std::uint64_t>(self.holds[resource]));
    };
    if (self.holds[Resource::kHostBytes] > 0)
      add(size(index_of(Resource::kHostBytes)) + " of memory");
    for (std::uint32_t d = 0; d < subject.snapshot.devices.size(); ++d) {
      if ((self.devices >> d & 1) == 0) continue;
      const std::string uuid = escape(subject.snapshot.devices[d]);
      add(self.holds[index_of_device(d)] > 0 ? size(index_of_device(d)) + " on " + uuid
                                             : "on " + uuid);
    }
    if (!text.empty() && !(self.size_known && self.device_size_known)) text += " (a guess)";
  }
  if (const std::string_view groups = subject.effective.text(Setting::kGroups); !groups.empty()) {
    text += (text.empty() ? "" : "; ") + ("no other model of " + escape(groups)) +
            " is loaded beside it";
  }
  if (text.empty()) return std::nullopt;
  return Verdict{"holds", text, kNever_ns};
}

Verdict explain_parallel(const Subject& subject) {
  const std::string rule = "parallel";
  if (subject.get(Setting::kParallel) == 0) return {rule, "no limit", kNever_ns};
  return {rule,
          load_text(subject.snapshot, *subject.backend) +
              (is_full(*subject.backend) ? ": full, the next waits in line for it" : ""),
          kNever_ns};
}

std::vector<Verdict> explain_ready(const Subject& subject) {
  std::vector<Verdict> verdicts{explain_leases(subject, Reason::kBusy),
                                explain_leases(subject, Reason::kFirstByte),
                                explain_leases(subject, Reason::kStall),
                                explain_probe(subject),
                                explain_over_limit(subject),
                                explain_idle(subject)};
  if (const auto pressure = explain_pressure(subject)) verdicts.push_back(*pressure);
  verdicts.push_back(explain_room(subject));
  verdicts.push_back(explain_parallel(subject));
  return verdicts;
}

std::vector<Verdict> judge_state(const Subject& subject) {
  if (subject.backend == nullptr) {
    std::vector<Verdict> verdicts{explain_admission(subject)};
    for (Verdict& place : explain_places(subject)) verdicts.push_back(std::move(place));
    if (const auto end = explain_last_end(subject)) verdicts.push_back(*end);
    return verdicts;
  }
  switch (subject.backend->state.state) {
    case BackendState::kReserved:
    case BackendState::kStarting:
      return {explain_load(subject)};
    case BackendState::kReady:
      // Somebody asked for its end: no rule says more.
      if ((subject.backend->control & kControlEvict) != 0) return {explain_request(subject)};
      return explain_ready(subject);
    case BackendState::kFree:
    case BackendState::kEvicting:
    case BackendState::kStopping:
    case BackendState::kGone:
      break;
  }
  return {explain_end(subject)};
}

std::vector<Verdict> judge(const Subject& subject) {
  std::vector<Verdict> verdicts = judge_state(subject);
  if (const auto holds = explain_holding(subject)) verdicts.push_back(*holds);
  for (Verdict& waiter : explain_absent_waiters(subject)) verdicts.push_back(std::move(waiter));
  return verdicts;
}

std::string rule_text(const Subject& subject, const SettingInfo& info) {
  return std::string(subject.effective.rule(info.id));
}

std::string origin_of(const Subject& subject, const SettingInfo& info) {
  return origin_text(settings_of(subject.snapshot).config_path, subject.effective.origin(info.id));
}

Json explain_json(const Subject& subject) {
  Json json;
  json["model"] = json_text(subject.model);
  const bool is_loaded =
      subject.backend != nullptr && resident_of(*subject.backend).can_be_closed();
  json["loaded"] = is_loaded;
  json["state"] = subject.backend != nullptr
                      ? Json(backend_state_name(subject.backend->state.state))
                      : Json(nullptr);
  json["backend"] =
      subject.backend != nullptr ? backend_json(subject.snapshot, *subject.backend) : Json(nullptr);
  Json values = Json::object();
  for (const SettingInfo& info : kSettings) {
    values[std::string(info.name)] = {{"value", json_text(subject.effective.shown(info.id))},
                                      {"origin", json_text(origin_of(subject, info))},
                                      {"rule", json_text(rule_text(subject, info))}};
  }
  json["settings"] = std::move(values);
  Json verdicts = Json::array();
  for (const Verdict& verdict : judge(subject)) {
    verdicts.push_back({{"rule", json_text(verdict.rule)},
                        {"text", json_text(verdict.text)},
                        {"due_in_ms", json_ms(verdict.due_ns)}});
  }
  json["verdicts"] = std::move(verdicts);
  json["history"] = subject.history ? history_json(subject.now(), *subject.history) : Json(nullptr);
  return json;
}

std::string history_text(const LoadHistory& history) {
  std::string text = "loaded " + count_text(history.loads, "time");
  if (history.load_ns != 0) text += ", last in " + format_age(history.load_ns);
  if (history.failures > 0) {
    text += "; " + count_text(history.failures, "failed load") + " in a row, the last: " +
            escape(with_exit(field_text(history.error),
                             static_cast<std::uint32_t>(history.exit_status)));
  }
  return text;
}

void print_explanation(const Subject& subject, const std::string& hint) {
  std::string head = escape(subject.model) + ": ";
  if (subject.backend == nullptr) {
    head += "not loaded" + hint;
  } else {
    const BackendView& backend = *subject.backend;
    head += std::string(backend_state_name(backend.state.state));
    if (backend.process.pid != 0) head += ", pid " + std::to_string(backend.process.pid);
    if (!backend.address.empty()) head += " at " + escape(backend.address);
    if (backend.pinned()) head += ", pinned";
    head += ", " + count_text(backend.in_flight, "lease");
  }
  print(head + "\n");
  if (subject.history) print(history_text(*subject.history) + "\n");
  print("\n");

  const std::size_t width = terminal_width();
  TextTable verdicts({{"RULE"}, {"AS THINGS STAND"}});
  for (const Verdict& verdict : judge(subject)) verdicts.add({verdict.rule, verdict.text});
  print(verdicts.text(0) + "\n");

  TextTable table({{"SETTING"},
                   {"VALUE"},
                   {"ORIGIN", TextTable::Align::kLeft, true},
                   {"MATCHED BY", TextTable::Align::kLeft, true}});
  for (const SettingInfo& info : kSettings) {
    table.add({std::string(info.name), escape(subject.effective.shown(info.id)),
               escape(origin_of(subject, info)), text_or_dash(rule_text(subject, info))});
  }
  print(table.text(width));
}

struct Options {
  std::string file;
  std::string model;
  WhatIf what_if;
};

// One model in the pool as it is, or as it would be.
Subject subject_of(const Options& options, const Seen& seen, JudgeState judge) {
  const BackendView* const backend = seen.snapshot.find_model(options.model);
  return {*seen.segment,
          seen.snapshot,
          options.model,
          backend,
          find_history(*seen.segment, options.model),
          resolve_settings(*seen.segment, options.model,
                           backend != nullptr ? &backend->overrides : nullptr),
          judge,
          !options.file.empty()};
}

int explain(const Context& context, const Options& options) {
  if (options.model.empty() && options.what_if.values.empty()) {
    complain("unable to explain: no model is named; add MODEL, or --what-if NAME=VALUE");
    return kWrongUsage;
  }
  const auto seen = look(context, options.file);
  if (!seen) return report(seen.error());
  const JudgeState judge =
      options.file.empty() ? look_at_judge(*seen->segment, now_ns()).state : JudgeState::kAnswers;
  std::optional<Forecast> supposed;
  if (!options.what_if.values.empty()) {
    auto result = forecast(options.what_if, *seen);
    if (!result) return report(result.error());
    supposed = std::move(*result);
  }
  const Seen& shown = supposed ? supposed->then : *seen;
  if (context.json) {
    Json json =
        options.model.empty() ? Json::object() : explain_json(subject_of(options, shown, judge));
    if (supposed) json["what_if"] = forecast_json(options.what_if, *supposed);
    print_json(json);
    return kDone;
  }
  if (supposed) print_forecast(*supposed, find_judge_fault(*seen->segment, options.file));
  if (supposed && !options.model.empty()) print("\n");
  if (!options.model.empty()) {
    print_explanation(subject_of(options, shown, judge),
                      hint_at_model(seen->segment, options.model));
  }
  return kDone;
}

}  // namespace

void add_explain(CLI::App& root, Context& context) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      add_command(root, context, "explain",
                  "Which settings apply to a model, from where, and what they mean for it now",
                  "Works for models that are not loaded, too. With --what-if it first says whom "
                  "the judge would "
                  "end\n"
                  "now, and why, if settings of the pool were others, and then shows MODEL, if one "
                  "is named, as "
                  "it\n"
                  "would be. Nothing is changed.\n\n"
                  "Examples:\n"
                  "  poolctl explain llama-3-8b\n"
                  "  poolctl explain --what-if max_memory=40GiB,eviction=lru\n",
                  [&context, options] { return explain(context, *options); });
  add_model(command, &options->model, false);
  add_texts(
      command, "--what-if", "NAME=VALUE,...",
      [options](const std::vector<std::string>& texts) {
        for (const std::string& text : texts) options->what_if.add(text);
      },
      "Suppose that these settings of the pool hold, see poolctl set");
  add_file(command, &options->file);
}

}  // namespace modelpool::poolctl
