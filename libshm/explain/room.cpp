// Whether, and after whom, a backend goes for others.
#include <algorithm>

#include "base/duration.hpp"
#include "explain/subject.hpp"
#include "policy/fit.hpp"
#include "policy/order.hpp"
#include "policy/turns.hpp"
#include "protocol/outlook.hpp"

namespace modelpool::explain {
namespace {

// The model whose turn it is to be loaded, if it waits for a place.
std::optional<Head> head_without_place(const Snapshot& snapshot) {
  const std::vector<Resident> there = live_residents(snapshot);
  std::vector<Waiting> waiting = all_waiting(snapshot);
  const std::vector<Waiting> heads = find_heads(waiting, there, snapshot.now_ns);
  Room room(limits_of(snapshot), there);
  for (const Waiting& head : heads) {
    if (!room.fits(head) || is_kept_out(head, there))
      return head_of(head, waiting, snapshot.now_ns);
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

std::string collect_text(const Subject& subject) {
  const std::uint64_t collect = settings_of(subject.snapshot).get(Setting::kCollect);
  return collect == 0 ? ""
                      : "; for nobody before he has waited " + limit_text(collect) +
                            " (collect), or has his turn";
}

}  // namespace

std::uint64_t kept_for_ns(const Subject& subject) {
  const std::uint64_t until = add_ns(subject.backend->ready_ns, subject.get(Setting::kMinResident));
  return until > subject.now() ? until - subject.now() : kNever_ns;
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
          taken_text(subject.snapshot, live_residents(subject.snapshot)) + "; number " +
              std::to_string(before + 1) + " of " + std::to_string(idle) +
              " to go when one is needed, " + order_text(order, self) + collect_text(subject) +
              (subject.judge == JudgeState::kDead ? "; but no coordinator is running: nobody goes"
               : subject.judge == JudgeState::kHangs ? "; but the coordinator hangs: nobody goes"
                                                     : ""),
          kNever_ns};
}

}  // namespace modelpool::explain
