// The cheapest of several backends that together give back all that is missing, and nobody more: no
// member of the set could be spared.
//
// Safety: pure function of values; allocates.
//
// Errors: none.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "policy/order.hpp"

namespace modelpool {

// One that may go.
struct Choice {
  const Resident& resident;
  bool is_open_and_busy = false;  // in use, and not closed for room yet
};

// So many sets are looked at in a scan, all heads together; then the better of two greedy ones is
// taken. Up to ten choices it is the cheapest, as long as earlier heads left that many.
inline constexpr std::size_t kCoverBudget = 2048;

// Positions in `choices`, which are sorted by `order`; none if all together do not suffice. Under
// `cost` the least by: how many are in use, how many of them would have to be closed, priorities
// from the highest, the sum of what they cost, how many. Under `lru` and `size` one after the other
// by that order until it suffices, less those that are not needed.
std::optional<std::vector<std::size_t>> cheapest_cover(std::span<const Choice> choices,
                                                       const Amounts& missing, const Order& order,
                                                       std::size_t* budget);

// Of two such sets, for devices that one may be put on: does the first cost less?
bool costs_less(std::span<const Choice> a, std::span<const Choice> b, const Order& order);

}  // namespace modelpool
