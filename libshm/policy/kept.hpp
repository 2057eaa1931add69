// Which backends idle eviction leaves, however long they are idle: the setting `keep`.
#pragma once

#include <vector>

#include "policy/values.hpp"

namespace modelpool {

// Is a worth more than b? Here: in use, or used later. The one place to say otherwise.
bool is_worth_more(const Resident& a, const Resident& b);

// By position: is it one of the `keep` that are worth most, of those that are open? Allocates; only
// the judge and those who explain ask.
std::vector<bool> find_kept(std::span<const Resident> residents, std::uint32_t keep);

}  // namespace modelpool
