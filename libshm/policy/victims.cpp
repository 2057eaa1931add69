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
        goes_(holdings.size()),
        is_forced_(holdings.size()) {}

  RoomPlan plan() {
    for (const Holding& holding : holdings_) {
      if (holding.role != Holding::Role::kLeaving) room_.take(holding.resident);
    }
    if (nobody_has_to_go()) return {};
    for (std::size_t i = 0; i < holdings_.size(); ++i) {
      const bool may_go = holdings_[i].role == Holding::Role::kDraining ||
                          holdings_[i].role == Holding::Role::kCandidate;
      if (may_go) in_order_.push_back(i);
      all_choices_.emplace_back(holdings_[i].resident, is_busy(i) && !is_draining(i),
                                rules_.order.now_ns);
      holds_which_.push_back(which(holdings_[i].resident.holds));
    }
    search_.emplace(all_choices_, rules_.order, kCoverBudget);
    std::sort(in_order_.begin(), in_order_.end(), [this](std::size_t a, std::size_t b) {
      const bool a_drains = is_drained_in_use(a);
      const bool b_drains = is_drained_in_use(b);
      const bool both_busy = is_busy(a) && is_busy(b);
      if (both_busy && a_drains != b_drains) return a_drains;
      return rules_.order.goes_before(holdings_[a].resident, holdings_[b].resident);
    });
    part_groups();
    if (const Amounts excess = room_.excess(); excess != Amounts()) go_down_to_limit(excess);
    for (const Head& head : heads_) make_room_for(head);
    finish_drains();
    return std::move(plan_);
  }

 private:
  bool is_draining(std::size_t i) const { return holdings_[i].role == Holding::Role::kDraining; }
  bool is_busy(std::size_t i) const { return holdings_[i].resident.in_flight > 0; }
  bool is_drained_in_use(std::size_t i) const { return is_draining(i) && is_busy(i); }

  // Nobody waits, the limits are kept, no drain is to be finished, and no group to be parted.
  bool nobody_has_to_go() const {
    return heads_.empty() && room_.excess() == Amounts() &&
           std::none_of(holdings_.begin(), holdings_.end(), [](const Holding& holding) {
             return holding.role == Holding::Role::kDraining || !holding.resident.groups.empty();
           });
  }

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
    end_together(search_->find(all, excess).value_or(all), nullptr);
  }

  // Models of one group that live together, since the settings have changed: all but one go.
  void part_groups() {
    for (const std::size_t i : in_order_) {
      if (goes_[i] || !shares_with_another(i)) continue;
      is_forced_[i] = true;
      if (is_draining(i) || may_close(i, nullptr)) end_together({i}, nullptr);
    }
  }
  bool shares_with_another(std::size_t i) const {
    for (std::size_t j = 0; j < holdings_.size(); ++j) {
      if (j != i && !goes_[j] && excludes(j, holdings_[i].resident.groups)) return true;
    }
    return false;
  }
  // Does it keep out models of these groups, and is it not leaving already?
  bool excludes(std::size_t i, std::span<const std::uint64_t> groups) const {
    return holdings_[i].role != Holding::Role::kLeaving && holdings_[i].resident.serves() &&
           share_a_group(holdings_[i].resident.groups, groups);
  }

  // Makes room for the head, if those that may go suffice. What it takes is no longer there for
  // those behind it, also while it waits.
  void make_room_for(const Head& head) {
    if (is_too_large(head.first, rules_.limits)) return;
    may_close_for_head_.assign(holdings_.size(), std::nullopt);
    const std::optional<Placement> placement = clear_for(head);
    if (!placement) return room_.take(head.first);
    room_.take(head.first, *placement);
    if (placement->devices != 0)
      plan_.promises.push_back({head.first.row, head.first.arrival, placement->devices});
  }

  // Where it is to go once those have gone that end now; nullopt: nobody does.
  std::optional<Placement> clear_for(const Head& head) {
    if (is_behind_its_group(head)) return std::nullopt;
    const std::optional<std::vector<std::size_t>> forced = forced_by(head);
    if (!forced) return std::nullopt;
    Room room = room_;
    for (const std::size_t i : *forced) room.give_back(holdings_[i].resident);
    std::optional<Placement> best = room.place(head.first);
    std::vector<std::size_t> victims;
    std::vector<bool> able(holdings_.size());
    if (!best) best = cheapest_placement(head, room, *forced, &victims, &able);
    if (best) {
      for (const std::size_t i : *forced) is_forced_[i] = true;
      victims.insert(victims.end(), forced->begin(), forced->end());
      end_together(victims, &head);
      if (!victims.empty()) plan_.sets.push_back({head.first.arrival, std::move(victims)});
    }
    // Who falls idle goes instead of one that is still being drained.
    for (std::size_t i = 0; i < able.size(); ++i) {
      if (able[i] && is_busy(i)) plan_.awaited_ends.push_back(i);
    }
    return best;
  }

  // An earlier head's model may not be loaded beside its.
  bool is_behind_its_group(const Head& head) const {
    for (const Head& earlier : heads_) {
      if (&earlier == &head) return false;
      if (share_a_group(earlier.first.groups, head.first.groups)) return true;
    }
    return false;
  }

  // Those of its groups, who go in any case; nullopt if one may not go now.
  std::optional<std::vector<std::size_t>> forced_by(const Head& head) {
    std::vector<std::size_t> forced;
    if (head.first.groups.empty()) return forced;
    for (std::size_t i = 0; i < holdings_.size(); ++i) {
      if (goes_[i] || !excludes(i, head.first.groups)) continue;
      const bool may_go = is_draining(i) || (holdings_[i].role == Holding::Role::kCandidate &&
                                             may_close_for(i, head));
      if (!may_go) return std::nullopt;
      forced.push_back(i);
    }
    return forced;
  }

  // Of all places where it could stand the one for which those go whose loss costs least.
  std::optional<Placement> cheapest_placement(const Head& head, const Room& room,
                                              const std::vector<std::size_t>& forced,
                                              std::vector<std::size_t>* victims,
                                              std::vector<bool>* able) {
    std::optional<Placement> best;
    for_each_placement(head.first, rules_.limits.devices, [&](const Placement& placement) {
      const Amounts missing = room.missing_for(placement);
      if (missing == Amounts())
        return;  // it lacks nothing, but guesses a size as another load does
      missing_ = missing;
      std::vector<std::size_t> all = choices_for(&head, missing);
      if (!forced.empty()) {
        std::erase_if(all, [&](std::size_t i) {
          return std::find(forced.begin(), forced.end(), i) != forced.end();
        });
      }
      for (const std::size_t i : all) (*able)[i] = true;
      const auto set = search_->find(all, missing);
      if (!set) return;
      const bool is_better =
          !best || search_->costs_less(*set, *victims) ||
          (*set == *victims && room.left_beside(placement) < room.left_beside(*best));
      if (!is_better) return;
      best = placement;
      *victims = *set;
    });
    if (best) missing_ = room.missing_for(*best);
    return best;
  }

  // Those that may go for this head now and give back something that is missing.
  std::vector<std::size_t> choices_for(const Head* head, const Amounts& missing) {
    std::vector<std::size_t> able;
    able.reserve(in_order_.size());
    const std::uint32_t runs_short = which(missing);
    for (const std::size_t i : in_order_) {
      if (goes_[i] || (holds_which_[i] & runs_short) == 0) continue;
      if (head == nullptr && missing[Resource::kPlaces] == 0 && is_just_loaded(i)) continue;
      const auto may_go = [&] {
        return head == nullptr ? may_close(i, nullptr) : may_close_for(i, *head);
      };
      if (is_draining(i) || may_go()) able.push_back(i);
    }
    return able;
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

  // Of which resources it is more than none: a bit for each.
  static std::uint32_t which(const Amounts& amounts) {
    std::uint32_t bits = 0;
    for (std::size_t r = 0; r < kResourceCount; ++r) bits |= (amounts[r] > 0 ? 1u : 0u) << r;
    return bits;
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

  // Its group is in the way; or a place runs short, or only memory does.
  Reason reason(std::size_t i) const {
    if (is_forced_[i]) return Reason::kGroup;
    return missing_[Resource::kPlaces] > 0 ? Reason::kLru : Reason::kMemory;
  }

  void close(std::size_t i, const Head* head, bool waits_for_others) {
    const Holding& holding = holdings_[i];
    const bool stays_open = waits_for_others && !is_busy(i);
    if (stays_open && !alarm_.passed_or_wakes(turn_begins_ns(*head, holding.max_wait_ns))) return;
    RoomStep& step = add(RoomStep::Kind::kClose, i);
    step.reason = reason(i);
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

  // The head that is looked at, wherever it is to be put.
  bool may_close_for(std::size_t i, const Head& head) {
    std::optional<bool>& may = may_close_for_head_[i];
    if (!may) may = may_close(i, &head);
    return *may;
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
  std::vector<bool> is_forced_;             // its group is in the way, whatever runs short
  std::vector<std::size_t> in_order_;       // those that may go: positions
  std::vector<Choice> all_choices_;         // by position, as the next
  std::vector<std::uint32_t> holds_which_;  // of the resources, a bit each
  std::optional<CoverSearch> search_;
  std::vector<std::optional<bool>> may_close_for_head_;  // by position, where it was asked
  std::size_t sets_ = 0;
  RoomPlan plan_;
};

}  // namespace

RoomPlan make_room(std::span<const Holding> holdings, std::span<const Head> heads,
                   const RoomRules& rules, Alarm& alarm) {
  return RoomMaker(holdings, heads, rules, alarm).plan();
}

}  // namespace modelpool
