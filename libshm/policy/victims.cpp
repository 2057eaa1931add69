#include "policy/victims.hpp"

#include "policy/fit.hpp"
#include "policy/line.hpp"

namespace modelpool {
namespace {

class RoomMaker {
 public:
  RoomMaker(std::span<const Holding> holdings, std::span<const Head> heads, const RoomRules& rules,
            Alarm& alarm)
      : holdings_(holdings),
        heads_(heads),
        rules_(rules),
        alarm_(alarm),
        room_(rules.limits),
        goes_(holdings.size()) {}

  RoomPlan plan() {
    for (std::size_t i = 0; i < holdings_.size(); ++i) {
      if (holdings_[i].role != Holding::Role::kLeaving) room_.take(holdings_[i].resident);
      const bool may_go = holdings_[i].role == Holding::Role::kDraining ||
                          holdings_[i].role == Holding::Role::kCandidate;
      if (may_go) in_order_.push_back(i);
    }
    std::sort(in_order_.begin(), in_order_.end(), [this](std::size_t a, std::size_t b) {
      const bool a_drains = is_drained_in_use(a);
      const bool b_drains = is_drained_in_use(b);
      const bool both_busy = is_busy(a) && is_busy(b);
      if (both_busy && a_drains != b_drains) return a_drains;
      return rules_.order.goes_before(holdings_[a].resident, holdings_[b].resident);
    });
    if (const Amounts excess = room_.excess(); excess != Amounts()) go_down_to_limit(excess);
    for (const Head& head : heads_) make_room_for(head);
    finish_drains();
    return std::move(plan_);
  }

 private:
  bool is_draining(std::size_t i) const { return holdings_[i].role == Holding::Role::kDraining; }
  bool is_busy(std::size_t i) const { return holdings_[i].resident.in_flight > 0; }
  bool is_drained_in_use(std::size_t i) const { return is_draining(i) && is_busy(i); }

  RoomStep& add(RoomStep::Kind kind, std::size_t holding) {
    RoomStep step;
    step.kind = kind;
    step.holding = holding;
    plan_.steps.push_back(step);
    return plan_.steps.back();
  }

  // The pool's own limits: nothing is cut, and as much goes as can.
  void go_down_to_limit(const Amounts& excess) {
    missing_ = excess;
    std::vector<std::size_t> all = choices_for(nullptr, excess);
    end_together(cover(all, excess).value_or(all), nullptr);
  }

  // Makes room for the head, if those that may go suffice. What it takes is no longer there for
  // those behind it, also while it waits.
  void make_room_for(const Head& head) {
    if (is_too_large(head.first, rules_.limits)) return;
    const Amounts missing = room_.missing_for(head.first);
    if (missing != Amounts()) {
      missing_ = missing;
      const std::vector<std::size_t> all = choices_for(&head, missing);
      if (const auto set = cover(all, missing)) end_together(*set, &head);
      // Who falls idle goes instead of one that is still being drained.
      for (const std::size_t i : all) {
        if (is_busy(i)) plan_.awaited_ends.push_back(i);
      }
    }
    room_.take(head.first);
  }

  // Those that may go for this head now and give back something that is missing.
  std::vector<std::size_t> choices_for(const Head* head, const Amounts& missing) {
    std::vector<std::size_t> choices;
    for (const std::size_t i : in_order_) {
      if (goes_[i] || !gives_some(i, missing)) continue;
      if (head == nullptr && missing[Resource::kPlaces] == 0 && is_just_loaded(i)) continue;
      if (is_draining(i) || may_close(i, head)) choices.push_back(i);
    }
    return choices;
  }

  // And is not itself what is too large.
  bool is_just_loaded(std::size_t i) {
    const Resident& resident = holdings_[i].resident;
    const bool is_newest = std::none_of(
        holdings_.begin(), holdings_.end(),
        [&](const Holding& other) { return other.resident.ready_ns > resident.ready_ns; });
    if (!is_newest || is_alone_above(resident.holds, rules_.limits)) return false;
    return !alarm_.passed_or_wakes(add_ns(resident.ready_ns, kJustLoaded_ns));
  }

  bool gives_some(std::size_t i, const Amounts& missing) const {
    for (std::size_t r = 0; r < kResourceCount; ++r) {
      if (missing[r] > 0 && holdings_[i].resident.holds[r] > 0) return true;
    }
    return false;
  }

  std::optional<std::vector<std::size_t>> cover(const std::vector<std::size_t>& all,
                                                const Amounts& missing) {
    std::vector<Choice> choices;
    for (const std::size_t i : all)
      choices.push_back({holdings_[i].resident, is_busy(i) && !is_draining(i)});
    auto set = cheapest_cover(choices, missing, rules_.order, &budget_);
    if (set) {
      for (std::size_t& position : *set) position = all[position];
    }
    return set;
  }

  // All or none, where there are several: those in use are drained first, and the idle ones stay
  // open meanwhile, unless the head has waited long enough for any.
  void end_together(const std::vector<std::size_t>& set, const Head* head) {
    const bool is_together = head != nullptr && set.size() > 1;
    const bool waits = std::any_of(set.begin(), set.end(),
                                   [&](std::size_t i) { return is_busy(i) && !is_cut(i, head); });
    if (is_together) ++sets_;
    for (const std::size_t i : set) {
      goes_[i] = true;
      room_.give_back(holdings_[i].resident);
      const std::size_t first_step = plan_.steps.size();
      if (is_draining(i)) {
        keep_draining(i, head, is_together && waits);
      } else {
        close(i, head, is_together && waits);
      }
      if (is_together && !waits && plan_.steps.size() > first_step) plan_.steps.back().set = sets_;
    }
  }

  // May its leases be cut for this head? Lowering the limit cuts none, whatever when_busy says.
  bool is_cut(std::size_t i, const Head* head) const {
    return head != nullptr && holdings_[i].when_busy == WhenBusy::kForce;
  }

  void keep_draining(std::size_t i, const Head* head, bool waits_for_others) {
    const Holding& holding = holdings_[i];
    plan_.awaited_ends.push_back(i);
    if (!is_busy(i) || is_cut(i, head)) {
      if (waits_for_others) return;
      RoomStep& step = add(RoomStep::Kind::kCommit, i);
      step.forced = is_cut(i, head);
      step.for_arrival = head != nullptr ? head->first.arrival : 0;
      return;
    }
    const std::uint64_t limit = holding.drain_timeout_ns;
    if (limit != 0 && alarm_.passed_or_wakes(add_ns(holding.closed_ns, limit))) {
      add(RoomStep::Kind::kReopen, i).drain_failed = true;
    }
  }

  // A place runs short, or only memory does.
  Reason reason() const { return missing_[Resource::kPlaces] > 0 ? Reason::kLru : Reason::kMemory; }

  void close(std::size_t i, const Head* head, bool waits_for_others) {
    const Holding& holding = holdings_[i];
    const bool stays_open = waits_for_others && !is_busy(i);
    if (stays_open && !alarm_.passed_or_wakes(turn_begins_ns(*head, holding.max_wait_ns))) return;
    RoomStep& step = add(RoomStep::Kind::kClose, i);
    step.reason = reason();
    step.forced = is_busy(i) && is_cut(i, head) && !waits_for_others;
    step.hold = holding.when_busy != WhenBusy::kWait || waits_for_others;
    step.only_hold = waits_for_others;
    step.for_arrival = head != nullptr ? head->first.arrival : 0;
  }

  void finish_drains() {
    bool any = false;
    for (const std::size_t i : in_order_) {
      if (!is_draining(i)) continue;
      any = true;
      if (!goes_[i]) add(RoomStep::Kind::kReopen, i);
    }
    if (!any) return;  // else they may be for nobody by then
    for (const Head& head : heads_) alarm_.wake_at(present_until_ns(head.first));
  }

  bool may_close(std::size_t i, const Head* head) {
    const Holding& holding = holdings_[i];
    if (head != nullptr && holding.awaited_arrival < head->first.arrival) {
      alarm_.wake_at(holding.awaited_until_ns);
      return false;
    }
    const std::uint64_t resident_until = add_ns(holding.resident.ready_ns, holding.min_resident_ns);
    if (holding.min_resident_ns != 0 && !alarm_.passed_or_wakes(resident_until)) return false;
    const bool has_turn =
        head == nullptr || alarm_.passed_or_wakes(closable_from_ns(holding, *head));
    if (has_turn && (!is_busy(i) || may_close_busy(holding, head))) return true;
    if (is_busy(i)) plan_.awaited_ends.push_back(i);
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
  Alarm& alarm_;
  Room room_;        // once what is leaving has gone
  Amounts missing_;  // at the head that is looked at
  std::vector<bool> goes_;
  std::vector<std::size_t> in_order_;  // those that may go: positions
  std::size_t budget_ = kCoverBudget;
  std::size_t sets_ = 0;
  RoomPlan plan_;
};

}  // namespace

RoomPlan make_room(std::span<const Holding> holdings, std::span<const Head> heads,
                   const RoomRules& rules, Alarm& alarm) {
  return RoomMaker(holdings, heads, rules, alarm).plan();
}

}  // namespace modelpool
