#include "policy/cover.hpp"

#include <functional>
#include <numeric>
#include <tuple>

namespace modelpool {
namespace {

__extension__ using Wide = unsigned __int128;

// What one costs, as a number that can be summed: seconds of load per second, in fixed point.
Wide cost_of(const Resident& resident, std::uint64_t now_ns) {
  const Worth worth = worth_of(resident, now_ns);  // both between 2^19 and 2^56
  return (Wide{worth.load_ns} << 56) / worth.wait_ns + 1;
}

struct Sum {
  std::size_t busy = 0;
  std::size_t to_close = 0;
  std::vector<std::uint64_t> priorities;  // from the highest
  Wide cost = 0;
  std::size_t count = 0;

  void add(const Choice& choice, Wide costs) {
    busy += choice.resident.in_flight > 0;
    to_close += choice.is_open_and_busy;
    priorities.push_back(choice.resident.priority);
    cost += costs;
    ++count;
  }
  void sort() { std::sort(priorities.begin(), priorities.end(), std::greater<>()); }
  bool less_than(const Sum& other) const {
    return std::tie(busy, to_close, priorities, cost, count) <
           std::tie(other.busy, other.to_close, other.priorities, other.cost, other.count);
  }
};

bool covers(const Amounts& given, const Amounts& missing) {
  for (std::size_t i = 0; i < kResourceCount; ++i) {
    if (missing[i] > 0 && given[i] < missing[i]) return false;
  }
  return true;
}

class Search {
 public:
  Search(std::span<const Choice> choices, const Amounts& missing, const Order& order,
         std::size_t* budget)
      : choices_(choices), missing_(missing), order_(order), budget_(*budget) {
    for (const Choice& choice : choices_) costs_.push_back(cost_of(choice.resident, order.now_ns));
    // What those from here on give back, at most.
    rest_.resize(choices_.size() + 1);
    for (std::size_t i = choices_.size(); i > 0; --i)
      rest_[i - 1] = rest_[i] + choices_[i - 1].resident.holds;
  }

  std::optional<std::vector<std::size_t>> run() {
    if (!covers(rest_[0], missing_)) return std::nullopt;
    std::vector<std::size_t> by_order(choices_.size());
    std::iota(by_order.begin(), by_order.end(), std::size_t{0});
    take_if_better(first_that_cover(by_order));
    if (order_.by != Eviction::kCost) return best_;
    take_if_better(first_that_cover(by_density()));
    std::vector<std::size_t> chosen;
    explore(0, Amounts(), &chosen);
    return best_;
  }

 private:
  std::vector<std::size_t> first_that_cover(const std::vector<std::size_t>& in_order) const {
    std::vector<std::size_t> set;
    Amounts given;
    for (const std::size_t i : in_order) {
      if (covers(given, missing_)) break;
      set.push_back(i);
      given += choices_[i].resident.holds;
    }
    return spared(std::move(set));
  }

  // The last first: whoever is not needed stays.
  std::vector<std::size_t> spared(std::vector<std::size_t> set) const {
    Amounts given;
    for (const std::size_t i : set) given += choices_[i].resident.holds;
    for (std::size_t at = set.size(); at > 0; --at) {
      const Amounts without = given - choices_[set[at - 1]].resident.holds;
      if (!covers(without, missing_)) continue;
      given = without;
      set.erase(set.begin() + static_cast<std::ptrdiff_t>(at - 1));
    }
    return set;
  }

  // Cost for each part of what is missing that one gives back.
  std::vector<std::size_t> by_density() const {
    std::vector<std::size_t> all(choices_.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    const auto useful = [&](std::size_t i) {
      std::uint64_t sum = 1;  // in 2^16ths of what is missing
      for (std::size_t r = 0; r < kResourceCount; ++r) {
        if (missing_[r] <= 0) continue;
        const Wide part = static_cast<Wide>(std::min(choices_[i].resident.holds[r], missing_[r]));
        sum += static_cast<std::uint64_t>((part << 16) / static_cast<Wide>(missing_[r]));
      }
      return sum;
    };
    std::stable_sort(all.begin(), all.end(), [&](std::size_t a, std::size_t b) {
      const bool a_is_busy = choices_[a].resident.in_flight > 0;
      const bool b_is_busy = choices_[b].resident.in_flight > 0;
      if (a_is_busy != b_is_busy) return b_is_busy;
      return costs_[a] / useful(a) < costs_[b] / useful(b);
    });
    return all;
  }

  Sum sum_of(const std::vector<std::size_t>& set) const {
    Sum sum;
    for (const std::size_t i : set) sum.add(choices_[i], costs_[i]);
    sum.sort();
    return sum;
  }

  void take_if_better(std::vector<std::size_t> set) {
    const Sum sum = sum_of(set);
    if (best_ && !sum.less_than(best_sum_)) return;
    best_ = std::move(set);
    best_sum_ = sum;
  }

  // Each set that begins with `chosen`, in the order of the choices.
  void explore(std::size_t from, const Amounts& given, std::vector<std::size_t>* chosen) {
    if (budget_ == 0) return;
    --budget_;
    if (covers(given, missing_)) return take_if_better(spared(*chosen));
    if (from == choices_.size() || !covers(given + rest_[from], missing_)) return;
    // One more makes no set cheaper, but for its priorities.
    const Sum so_far = sum_of(*chosen);
    if (so_far.busy > best_sum_.busy) return;
    if (so_far.busy == best_sum_.busy && so_far.to_close > best_sum_.to_close) return;
    chosen->push_back(from);
    explore(from + 1, given + choices_[from].resident.holds, chosen);
    chosen->pop_back();
    explore(from + 1, given, chosen);
  }

  std::span<const Choice> choices_;
  const Amounts& missing_;
  const Order& order_;
  std::size_t& budget_;
  std::vector<Wide> costs_;
  std::vector<Amounts> rest_;
  std::optional<std::vector<std::size_t>> best_;
  Sum best_sum_;
};

}  // namespace

std::optional<std::vector<std::size_t>> cheapest_cover(std::span<const Choice> choices,
                                                       const Amounts& missing, const Order& order,
                                                       std::size_t* budget) {
  return Search(choices, missing, order, budget).run();
}

bool costs_less(std::span<const Choice> a, std::span<const Choice> b, const Order& order) {
  if (order.by != Eviction::kCost) {
    // By use and by size it is the last of each that counts.
    const auto last_of = [&](std::span<const Choice> set) -> const Choice* {
      const Choice* last = nullptr;
      for (const Choice& one : set) {
        if (last == nullptr || order.goes_before(last->resident, one.resident)) last = &one;
      }
      return last;
    };
    const Choice* const last_a = last_of(a);
    const Choice* const last_b = last_of(b);
    if (last_a == nullptr || last_b == nullptr) return last_a == nullptr && last_b != nullptr;
    if (last_a->resident.ref != last_b->resident.ref)
      return order.goes_before(last_a->resident, last_b->resident);
    return a.size() < b.size();
  }
  const auto sum_of = [&](std::span<const Choice> set) {
    Sum sum;
    for (const Choice& one : set) sum.add(one, cost_of(one.resident, order.now_ns));
    sum.sort();
    return sum;
  };
  return sum_of(a).less_than(sum_of(b));
}

}  // namespace modelpool
