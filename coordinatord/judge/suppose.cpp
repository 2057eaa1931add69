#include "judge/suppose.hpp"

#include <algorithm>
#include <utility>

#include "base/duration.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "judge/decision_text.hpp"
#include "protocol/needs.hpp"
#include "protocol/outlook.hpp"
#include "protocol/settings_change.hpp"

namespace modelpool::coordinator {
namespace {

// As each waiter would write his need anew when the settings have changed.
void derive_needs(const Segment& before, const Segment& after, Snapshot* snapshot) {
  const Limits limits_before = limits_of(before);
  const Limits limits_after = limits_of(after);
  for (WaiterView& waiter : snapshot->waiters) {
    const Need known = derive_need(before, waiter.model, 0, limits_before).need;
    // His row does not tell what he said himself from what was known anyway.
    const bool said_more = waiter.need.bytes.host != known.bytes.host;
    const std::uint64_t said = said_more ? waiter.need.bytes.host : 0;
    waiter.need = derive_need(after, waiter.model, said, limits_after).need;
  }
}

bool concerns_requests(const Action& action) {
  return is_an_end(action) || action.kind == ActionKind::kAskToEnd ||
         action.kind == ActionKind::kReopen || action.kind == ActionKind::kRefuseEvict;
}

// Those whose end was decided before: they wait for their leases.
void add_draining(const Snapshot& snapshot, std::vector<Consequence>* found) {
  for (const BackendView& b : snapshot.backends) {
    const auto is_of_it = [&](const Consequence& one) { return one.action.backend == b.ref; };
    if (b.state.state != BackendState::kEvicting) continue;
    if (std::any_of(found->begin(), found->end(), is_of_it)) continue;
    Action action;
    action.kind = ActionKind::kCommit;
    action.backend = b.ref;
    action.stop = b.stop;
    found->push_back({std::move(action), 0});
  }
}

void remove(BackendRef backend, Snapshot* snapshot) {
  std::erase_if(snapshot->leases, [&](const LeaseView& lease) { return lease.backend == backend; });
  std::erase_if(snapshot->backends, [&](const BackendView& b) { return b.ref == backend; });
}

}  // namespace

Result<Supposed> suppose(const Segment& segment, const std::function<void(Settings&)>& change) {
  const auto copy = segment.copy();
  if (!copy) return fail(copy.error());
  if (auto edited = edit_settings(**copy, kLockWaitMin_ns, change); !edited)
    return fail(edited.error());
  Supposed supposed{*copy, SnapshotReader(*copy).read()};
  derive_needs(segment, **copy, &supposed.snapshot);
  return supposed;
}

std::vector<Consequence> find_consequences(const Snapshot& snapshot) {
  std::vector<Consequence> found;
  Snapshot left = snapshot;
  for (std::size_t after = 0;; ++after) {
    Facts facts;
    facts.epoch = left.coordinator.identity.epoch;
    for (Action& action : decide(left, facts).actions) {
      const bool ends = is_an_end(action);
      if (!ends && (after > 0 || !concerns_requests(action))) continue;
      found.push_back({std::move(action), after});
    }
    if (after == 0) add_draining(left, &found);
    const std::size_t before = left.backends.size();
    for (const Consequence& one : found) {
      if (one.after == after && is_an_end(one.action)) remove(one.action.backend, &left);
    }
    if (left.backends.size() == before) return found;
  }
}

bool is_an_end(const Action& action) {
  return action.kind == ActionKind::kClose || action.kind == ActionKind::kCommit ||
         action.kind == ActionKind::kLoseTicket;
}

std::string consequence_text(const Action& action, const Snapshot& snapshot) {
  const BackendView* const b = snapshot.find(action.backend);
  const std::uint32_t leases = b == nullptr ? 0 : b->in_flight;
  switch (action.kind) {
    case ActionKind::kLoseTicket:
      return "its load would be ended";
    case ActionKind::kAskToEnd:
      return "the holder of a lease would be asked to end it";
    case ActionKind::kReopen:
      return "it would serve again: it need not go";
    case ActionKind::kRefuseEvict:
      return "its eviction would be refused: its leases do not end";
    default:
      break;
  }
  if (b != nullptr && b->state.state == BackendState::kEvicting && leases != 0)
    return "it is closed; evicted when " + count_text(leases, "lease") +
           (leases == 1 ? " has" : " have") + " ended";
  if (leases == 0) return "it would be evicted";
  if (action.stop.forced != 0)
    return "it would be ended, and " + count_text(leases, "lease") + " cut";
  return "it would be closed until " + count_text(leases, "lease") +
         (leases == 1 ? " has" : " have") + " ended, then evicted";
}

std::string cause_text(const Action& action) {
  const StopRecord& stop = action.stop;
  std::string text(reason_name(stop.reason));
  if (stop.limit_ns != kNever_ns)
    text += " for " + format_age(stop.age_ns) + ", limit " + format_duration(stop.limit_ns);
  if (stop.text[0] != '\0') text += ": " + std::string(field_text(stop.text));
  if (stop.tag[0] != '\0') text += ", tag " + escape(field_text(stop.tag));
  return text;
}

}  // namespace modelpool::coordinator
