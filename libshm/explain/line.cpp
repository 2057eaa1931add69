// Whether a model that is not loaded may be, who is before it, and who has its place.
#include <algorithm>

#include "base/duration.hpp"
#include "base/proc.hpp"
#include "base/size.hpp"
#include "explain/subject.hpp"
#include "policy/fit.hpp"
#include "policy/order.hpp"
#include "protocol/needs.hpp"
#include "protocol/outlook.hpp"

namespace modelpool::explain {
namespace {

constexpr std::size_t kPlacesShown = 8;
constexpr std::size_t kWaitersShown = 4;

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

std::uint64_t since_ns(const Snapshot& snapshot, std::uint32_t row) {
  for (const WaiterView& waiter : snapshot.waiters) {
    if (waiter.row == row) return waiter.since_ns;
  }
  return 0;
}

// Why a backend keeps its place, and until when, as far as that is known.
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

}  // namespace

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
  const std::vector<Resident> there = live_residents(snapshot);
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
  std::vector<Waiting> waiting = all_waiting(snapshot);
  const std::vector<Waiting> heads = find_heads(waiting, there, subject.now());
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

std::vector<Verdict> explain_places(const Subject& subject) {
  const Snapshot& snapshot = subject.snapshot;
  const std::vector<Resident> there = live_residents(snapshot);
  const Waiting self = as_waiting(subject);
  const bool is_short = !Room(limits_of(snapshot), there).fits(self);
  if (!snapshot.settings || (!is_short && !is_kept_out(self, there))) return {};
  const std::vector<Resident> all = residents_of(snapshot);
  const Order order = room_rules(snapshot, snapshot.now_ns).order;
  std::vector<std::size_t> holders;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool keeps_it_out =
        all[i].serves() && share_a_group(all[i].groups, self.groups) && all[i].model != self.model;
    if (all[i].live() && (is_short || keeps_it_out)) holders.push_back(i);
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

}  // namespace modelpool::explain
