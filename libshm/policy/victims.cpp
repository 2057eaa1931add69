#include "policy/victims.hpp"

namespace modelpool {
namespace {

class RoomMaker {
 public:
  RoomMaker(std::span<const Holding> holdings, std::span<const Head> heads, const RoomRules& rules,
            Alarm& alarm)
      : holdings_(holdings),
        heads_(heads),
        rules_(rules),
        limit_(rules.limits.max_backends),
        alarm_(alarm) {}

  RoomPlan plan() {
    std::uint64_t leaving = 0;
    for (std::size_t i = 0; i < holdings_.size(); ++i) {
      leaving += holdings_[i].role == Holding::Role::kLeaving;
      if (holdings_[i].role == Holding::Role::kDraining) draining_.push_back(i);
      if (holdings_[i].role == Holding::Role::kCandidate) candidates_.push_back(i);
    }
    const auto first = [this](std::size_t a, std::size_t b) {
      return rules_.order.goes_before(holdings_[a].resident, holdings_[b].resident);
    };
    std::sort(draining_.begin(), draining_.end(), first);
    std::sort(candidates_.begin(), candidates_.end(), first);

    const std::uint64_t staying = holdings_.size() - leaving;
    const std::uint64_t demand = staying + heads_.size();
    const std::uint64_t needed =
        limit_ == 0 || demand <= limit_ ? 0 : std::min(demand - limit_, holdings_.size());
    // The first to go bring the pool down to its limit, the others make room for the line.
    const std::uint64_t over = staying > limit_ ? staying - limit_ : 0;
    const std::uint64_t free_places = staying < limit_ ? limit_ - staying : 0;
    std::size_t next_draining = 0;
    for (std::uint64_t i = 0; i < needed; ++i) {
      const std::uint64_t position = free_places + (i - over);
      const Head* head = i >= over && position < heads_.size() ? &heads_[position] : nullptr;
      if (next_draining == draining_.size()) {
        close_one(head, false);
        continue;
      }
      // One that has fallen idle meanwhile goes before one that is still being drained.
      const std::size_t drained = draining_[next_draining];
      if (holdings_[drained].resident.in_flight > 0 && close_one(head, true)) continue;
      ++next_draining;
      keep_draining(drained, head);
    }
    if (!draining_.empty()) {  // the drains may be for nobody by then
      for (const Head& head : heads_) alarm_.wake_at(head.present_until_ns);
    }
    for (; next_draining < draining_.size(); ++next_draining) {
      add(RoomStep::Kind::kReopen, draining_[next_draining]);
    }
    return std::move(plan_);
  }

 private:
  RoomStep& add(RoomStep::Kind kind, std::size_t holding) {
    RoomStep step;
    step.kind = kind;
    step.holding = holding;
    plan_.steps.push_back(step);
    return plan_.steps.back();
  }

  void keep_draining(std::size_t i, const Head* head) {
    const Holding& holding = holdings_[i];
    const bool force = head != nullptr && holding.when_busy == WhenBusy::kForce;
    plan_.awaited_ends.push_back(i);
    if (holding.resident.in_flight == 0 || force) {
      RoomStep& step = add(RoomStep::Kind::kCommit, i);
      step.forced = force;
      step.for_arrival = head != nullptr ? head->arrival : 0;
      return;
    }
    const std::uint64_t limit = holding.drain_timeout_ns;
    if (limit != 0 && alarm_.passed_or_wakes(add_ns(holding.closed_ns, limit))) {
      add(RoomStep::Kind::kReopen, i).drain_failed = true;
    }
  }

  // Closes the first candidate that may go for this head. False if none may.
  bool close_one(const Head* head, bool only_idle) {
    for (auto it = candidates_.begin(); it != candidates_.end(); ++it) {
      const Holding& holding = holdings_[*it];
      const bool is_busy = holding.resident.in_flight > 0;
      if (is_busy && only_idle) {
        plan_.awaited_ends.push_back(*it);
        continue;
      }
      if (head != nullptr && holding.awaited_arrival < head->arrival) {
        alarm_.wake_at(holding.awaited_until_ns);
        continue;
      }
      const std::uint64_t resident_until =
          add_ns(holding.resident.ready_ns, holding.min_resident_ns);
      if (holding.min_resident_ns != 0 && !alarm_.passed_or_wakes(resident_until)) continue;
      if (head != nullptr && !alarm_.passed_or_wakes(closable_from_ns(holding, *head))) {
        if (is_busy) plan_.awaited_ends.push_back(*it);
        continue;
      }
      if (is_busy && !may_close_busy(holding, head)) {
        plan_.awaited_ends.push_back(*it);
        continue;
      }
      RoomStep& step = add(RoomStep::Kind::kClose, *it);
      // Lowering the limit cuts no lease, whatever when_busy says.
      step.forced = is_busy && head != nullptr && holding.when_busy == WhenBusy::kForce;
      step.hold = holding.when_busy != WhenBusy::kWait;
      step.for_arrival = head != nullptr ? head->arrival : 0;
      candidates_.erase(it);
      return true;
    }
    return false;
  }

  // The head has waited for it long enough then.
  std::uint64_t closable_from_ns(const Holding& holding, const Head& head) const {
    const Resident& resident = holding.resident;
    const std::uint64_t turn = turn_begins_ns(head, holding.max_wait_ns);
    if (resident.in_flight > 0) return turn;
    const std::uint64_t collected = std::min(add_ns(head.since_ns, rules_.collect_ns), turn);
    return std::max(collected, pause_ends_ns(resident, head, holding.max_wait_ns));
  }

  bool may_close_busy(const Holding& holding, const Head* head) {
    if (holding.when_busy == WhenBusy::kWait) return false;
    if (holding.when_busy == WhenBusy::kForce && head != nullptr) return true;
    // After a failed drain it is open for as long as it was closed.
    const std::uint64_t failed = holding.resident.drain_failed_ns;
    const std::uint64_t limit = holding.drain_timeout_ns;
    return failed == 0 || limit == 0 || alarm_.passed_or_wakes(add_ns(failed, limit));
  }

  std::span<const Holding> holdings_;
  std::span<const Head> heads_;
  const RoomRules& rules_;
  const std::uint64_t limit_;
  Alarm& alarm_;
  std::vector<std::size_t> draining_;  // positions, in the order in which they go
  std::vector<std::size_t> candidates_;
  RoomPlan plan_;
};

}  // namespace

RoomPlan make_room(std::span<const Holding> holdings, std::span<const Head> heads,
                   const RoomRules& rules, Alarm& alarm) {
  return RoomMaker(holdings, heads, rules, alarm).plan();
}

}  // namespace modelpool
