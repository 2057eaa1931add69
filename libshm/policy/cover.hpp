// The cheapest of several backends that together give back all that is missing, and nobody more: no
// member of the set could be spared.
//
// Safety: functions of values; allocates. One thread per search.
//
// Errors: none.
#pragma once

#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include "policy/order.hpp"

namespace modelpool {

// What losing one costs, as a number that can be summed: time of load by time until it is wanted,
// in fixed point.
__extension__ using Cost = unsigned __int128;

// One that may go.
struct Choice {
  Choice(const Resident& one, bool open_and_busy, std::uint64_t now_ns);

  const Resident& resident;
  bool is_open_and_busy;  // in use, and not closed for room yet
  Cost cost;
};

// What a set costs. Another member makes none cheaper.
class CoverCost {
 public:
  // Of the lowest priority however many count as none.
  explicit CoverCost(std::uint64_t lowest_priority) : lowest_priority_(lowest_priority) {}

  void add(const Choice& choice);
  void remove(const Choice& choice);  // REQUIRES: it was added
  bool less_than(const CoverCost& other) const;

 private:
  std::uint64_t lowest_priority_;
  std::size_t busy_ = 0;
  std::size_t to_close_ = 0;
  std::vector<std::uint64_t> priorities_;  // above the lowest, from the highest
  Cost cost_ = 0;
  std::size_t count_ = 0;
};

// So many sets are looked at in a scan, all heads together; then the better of two greedy ones is
// taken. Up to ten choices it is the cheapest, as long as earlier heads left that many.
inline constexpr std::size_t kCoverBudget = 2048;

class CoverSearch {
 public:
  // All that may be chosen from, and how many sets may be looked at.
  CoverSearch(std::span<const Choice> all, const Order& order, std::size_t budget)
      : all_(all), order_(order), budget_(budget) {}

  // Of these positions, which are sorted by the order; none if all together do not suffice. Under
  // `cost` the least by: how many are in use, how many of them would have to be closed, priorities
  // from the highest (of the lowest among them, however many count as none), the sum of what they
  // cost, how many. Under `lru` and `size` one after the other by that order until it suffices,
  // less those that are not needed.
  std::optional<std::vector<std::size_t>> find(std::span<const std::size_t> positions,
                                               const Amounts& missing);

  // Of two such sets, for devices that one may be put on: does the first cost less?
  bool costs_less(std::span<const std::size_t> a, std::span<const std::size_t> b) const;

 private:
  // Of positions_, by their index there.
  using Set = std::vector<std::size_t>;

  void begin(const Amounts& missing);
  const Choice& choice(std::size_t i) const { return all_[positions_[i]]; }
  bool is_busy(std::size_t i) const { return choice(i).resident.in_flight > 0; }
  std::int64_t gives(std::size_t i, std::size_t k) const { return gives_[i * left_.size() + k]; }
  void go(std::size_t i);
  void stay(std::size_t i);
  bool suffices() const;
  bool rest_suffices(std::size_t from) const;
  Set first_by_order();
  Set first_by_density();
  Set spared(Set set);
  void take_if_better(Set set);
  void explore(std::size_t from);
  std::uint64_t lowest_priority(std::span<const std::size_t> positions) const;
  CoverCost cost_of(std::span<const std::size_t> positions, std::uint64_t lowest) const;

  std::span<const Choice> all_;
  const Order& order_;
  std::size_t budget_;
  // Of one call; kept for their memory.
  std::span<const std::size_t> positions_;
  std::uint64_t lowest_priority_ = 0;
  std::vector<std::size_t> resources_;  // that are missing
  std::vector<std::int64_t> missing_;   // by index there, as the next
  std::vector<std::int64_t> left_;      // to be given back, if those chosen go; may be below 0
  std::vector<std::int64_t> gives_;     // by each of positions_, no more than is missing
  std::vector<std::int64_t> rest_;      // by each and those behind it
  std::vector<std::tuple<bool, double, std::size_t>> by_density_;  // busy, density, index
  Set chosen_;
  CoverCost chosen_cost_{0};
  std::optional<Set> best_;
  CoverCost best_cost_{0};
};

}  // namespace modelpool
