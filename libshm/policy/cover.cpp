#include "policy/cover.hpp"

#include <functional>
#include <tuple>

namespace modelpool {
namespace {

// Behind those that are equal.
template <class Priorities>
auto place_of(std::uint64_t priority, Priorities& priorities) {
  return std::upper_bound(priorities.begin(), priorities.end(), priority, std::greater<>());
}

}  // namespace

Choice::Choice(const Resident& one, bool open_and_busy, std::uint64_t now_ns)
    : resident(one), is_open_and_busy(open_and_busy) {
  const Worth worth = worth_of(one, now_ns);  // both between 2^19 and 2^56
  cost = (Cost{worth.load_ns} << 56) / worth.wait_ns + 1;
}

void CoverCost::add(const Choice& choice) {
  busy_ += choice.resident.in_flight > 0;
  to_close_ += choice.is_open_and_busy;
  const std::uint64_t priority = choice.resident.priority;
  if (priority > lowest_priority_) priorities_.insert(place_of(priority, priorities_), priority);
  cost_ += choice.cost;
  ++count_;
}

void CoverCost::remove(const Choice& choice) {
  busy_ -= choice.resident.in_flight > 0;
  to_close_ -= choice.is_open_and_busy;
  const std::uint64_t priority = choice.resident.priority;
  if (priority > lowest_priority_) priorities_.erase(place_of(priority, priorities_) - 1);
  cost_ -= choice.cost;
  --count_;
}

bool CoverCost::less_than(const CoverCost& other) const {
  return std::tie(busy_, to_close_, priorities_, cost_, count_) <
         std::tie(other.busy_, other.to_close_, other.priorities_, other.cost_, other.count_);
}

void CoverSearch::begin(const Amounts& missing) {
  resources_.clear();
  missing_.clear();
  for (std::size_t i = 0; i < kResourceCount; ++i) {
    if (missing[i] <= 0) continue;
    resources_.push_back(i);
    missing_.push_back(missing[i]);
  }
  left_ = missing_;
  const std::size_t width = left_.size();
  gives_.resize(positions_.size() * width);
  rest_.assign((positions_.size() + 1) * width, 0);
  for (std::size_t i = positions_.size(); i > 0; --i) {
    const Amounts& holds = choice(i - 1).resident.holds;
    for (std::size_t k = 0; k < width; ++k) {
      const std::size_t at = (i - 1) * width + k;
      gives_[at] = std::min(holds[resources_[k]], missing_[k]);
      rest_[at] = std::min(rest_[at + width] + gives_[at], 32 * Amounts::kMost);  // as Amounts
    }
  }
}

std::optional<std::vector<std::size_t>> CoverSearch::find(std::span<const std::size_t> positions,
                                                          const Amounts& missing) {
  positions_ = positions;
  begin(missing);
  if (!rest_suffices(0)) return std::nullopt;
  lowest_priority_ = lowest_priority(positions);
  best_.reset();
  take_if_better(first_by_order());
  // Nobody costs less than the first, if that is idle.
  const bool is_first_alone = best_->size() == 1 && best_->front() == 0 && !is_busy(0);
  if (order_.by == Eviction::kCost && !is_first_alone) {
    take_if_better(first_by_density());
    chosen_.clear();
    chosen_cost_ = CoverCost(lowest_priority_);
    explore(0);
  }
  for (std::size_t& member : *best_) member = positions[member];
  return std::move(best_);
}

void CoverSearch::go(std::size_t i) {
  for (std::size_t k = 0; k < left_.size(); ++k) left_[k] -= gives(i, k);
}
void CoverSearch::stay(std::size_t i) {
  for (std::size_t k = 0; k < left_.size(); ++k) left_[k] += gives(i, k);
}

bool CoverSearch::suffices() const {
  return std::all_of(left_.begin(), left_.end(), [](std::int64_t left) { return left <= 0; });
}
bool CoverSearch::rest_suffices(std::size_t from) const {
  for (std::size_t k = 0; k < left_.size(); ++k) {
    if (rest_[from * left_.size() + k] < left_[k]) return false;
  }
  return true;
}

CoverSearch::Set CoverSearch::first_by_order() {
  Set set;
  for (std::size_t i = 0; !suffices(); ++i) {
    set.push_back(i);
    go(i);
  }
  set = spared(std::move(set));
  left_ = missing_;
  return set;
}

// By cost for each part of what is missing that one gives back. In floating point, by divisions
// alone, which are the same everywhere: it only finds a set, what that costs is said exactly.
CoverSearch::Set CoverSearch::first_by_density() {
  by_density_.clear();
  for (std::size_t i = 0; i < positions_.size(); ++i) {
    double useful = 1e-9;
    for (std::size_t k = 0; k < missing_.size(); ++k)
      useful += static_cast<double>(gives(i, k)) / static_cast<double>(missing_[k]);
    by_density_.push_back({is_busy(i), static_cast<double>(choice(i).cost) / useful, i});
  }
  const auto goes_after = std::greater<>();  // the heap's first is the one that goes first
  std::make_heap(by_density_.begin(), by_density_.end(), goes_after);
  Set set;
  while (!suffices()) {
    std::pop_heap(by_density_.begin(), by_density_.end(), goes_after);
    set.push_back(std::get<std::size_t>(by_density_.back()));
    by_density_.pop_back();
    go(set.back());
  }
  set = spared(std::move(set));
  std::sort(set.begin(), set.end());
  left_ = missing_;
  return set;
}

// Less those that are not needed, the last first. REQUIRES: they are those who are chosen.
CoverSearch::Set CoverSearch::spared(Set set) {
  for (std::size_t at = set.size(); at > 0; --at) {
    const std::size_t i = set[at - 1];
    stay(i);
    if (suffices()) {
      set.erase(set.begin() + static_cast<std::ptrdiff_t>(at - 1));
    } else {
      go(i);
    }
  }
  return set;
}

void CoverSearch::take_if_better(Set set) {
  CoverCost cost(lowest_priority_);
  for (const std::size_t i : set) cost.add(choice(i));
  if (best_ && !cost.less_than(best_cost_)) return;
  best_ = std::move(set);
  best_cost_ = std::move(cost);
}

// Each set that begins with those chosen, in the order of the choices.
void CoverSearch::explore(std::size_t from) {
  if (budget_ == 0) return;
  --budget_;
  if (!chosen_cost_.less_than(best_cost_)) return;
  if (suffices()) {
    const std::vector<std::int64_t> before = left_;
    take_if_better(spared(chosen_));
    left_ = before;
    return;
  }
  if (from == positions_.size() || !rest_suffices(from)) return;
  chosen_.push_back(from);
  chosen_cost_.add(choice(from));
  go(from);
  explore(from + 1);
  stay(from);
  chosen_cost_.remove(choice(from));
  chosen_.pop_back();
  explore(from + 1);
}

std::uint64_t CoverSearch::lowest_priority(std::span<const std::size_t> positions) const {
  std::uint64_t lowest = UINT64_MAX;
  for (const std::size_t i : positions) lowest = std::min(lowest, all_[i].resident.priority);
  return lowest;
}

CoverCost CoverSearch::cost_of(std::span<const std::size_t> positions, std::uint64_t lowest) const {
  CoverCost cost(lowest);
  for (const std::size_t i : positions) cost.add(all_[i]);
  return cost;
}

bool CoverSearch::costs_less(std::span<const std::size_t> a, std::span<const std::size_t> b) const {
  if (order_.by == Eviction::kCost) {
    const std::uint64_t lowest = std::min(lowest_priority(a), lowest_priority(b));
    return cost_of(a, lowest).less_than(cost_of(b, lowest));
  }
  // By use and by size it is the last of each that counts.
  const auto last_of = [&](std::span<const std::size_t> set) -> const Resident* {
    const Resident* last = nullptr;
    for (const std::size_t i : set) {
      if (last == nullptr || order_.goes_before(*last, all_[i].resident)) last = &all_[i].resident;
    }
    return last;
  };
  const Resident* const last_a = last_of(a);
  const Resident* const last_b = last_of(b);
  if (last_a == nullptr || last_b == nullptr) return last_a == nullptr && last_b != nullptr;
  if (last_a->ref != last_b->ref) return order_.goes_before(*last_a, *last_b);
  return a.size() < b.size();
}

}  // namespace modelpool
