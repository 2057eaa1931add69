// What fits: two questions, two functions (P3). What a worker may take is what is free *now*; the
// judge makes room by what is free *once what is leaving has gone*.
#pragma once

#include <span>

#include "policy/values.hpp"

namespace modelpool {

inline constexpr std::uint32_t kPlacesUnlimited = UINT32_MAX;

// Backends that take a place: not FREE and not GONE, those that do not die among them.
std::uint32_t count_live(std::span<const Resident> residents);

// How many more backends may be loaded now.
std::uint32_t places_now(std::span<const Resident> residents, Limits limits);

// Can nothing ever make room, as things stand: is every backend that takes a place pinned?
bool all_are_pinned(std::span<const Resident> residents);

}  // namespace modelpool
