// Which backends idle eviction leaves, however long they are idle: the setting `keep`.
#pragma once

#include <vector>

#include "policy/order.hpp"

namespace modelpool {

// By position: is it one of the `keep`, of those that are open, that would make room last?
// Allocates; only the judge and those who explain ask.
std::vector<bool> find_kept(std::span<const Resident> residents, std::uint32_t keep, Order order);

}  // namespace modelpool
