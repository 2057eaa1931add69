#include "policy/fit.hpp"

namespace modelpool {
namespace {

bool is_loading(const Resident& resident) {
  return resident.state == BackendState::kReserved || resident.state == BackendState::kStarting;
}

}  // namespace

std::uint32_t count_live(std::span<const Resident> residents) {
  return static_cast<std::uint32_t>(
      std::count_if(residents.begin(), residents.end(),
                    [](const Resident& resident) { return resident.live(); }));
}

Room::Room(Limits limits)
    : is_limited_{limits.max_backends != 0, limits.max_memory != 0},
      left_(limits.max_backends, limits.max_memory) {}

Room::Room(Limits limits, std::span<const Resident> residents) : Room(limits) {
  for (const Resident& resident : residents) {
    if (resident.live()) take(resident);
  }
}

void Room::take(const Resident& resident) {
  left_ -= resident.holds;
  guesses_load_ |= !resident.size_known && is_loading(resident);
}

void Room::take(const Waiting& waiter) {
  left_ -= waiter.takes;
  guesses_load_ |= !waiter.size_known;
}

void Room::give_back(const Resident& resident) { left_ += resident.holds; }

std::int64_t Room::missing(std::size_t resource, std::int64_t takes) const {
  if (!is_limited_[resource] || takes == 0) return 0;
  return std::max<std::int64_t>(0, takes - left_[resource]);
}

Amounts Room::missing_for(const Waiting& waiter) const {
  Amounts amounts;
  for (std::size_t i = 0; i < kResourceCount; ++i) amounts.set(i, missing(i, waiter.takes[i]));
  return amounts;
}

bool Room::fits(const Waiting& waiter) const {
  const bool is_guess = is_limited_[static_cast<std::size_t>(Resource::kHostBytes)] &&
                        !waiter.size_known && guesses_load_;
  return !is_guess && missing_for(waiter) == Amounts();
}

Amounts Room::excess() const {
  Amounts amounts;
  for (std::size_t i = 0; i < kResourceCount; ++i) {
    if (is_limited_[i]) amounts.set(i, std::max<std::int64_t>(0, -left_[i]));
  }
  return amounts;
}

std::uint32_t Room::places() const {
  if (!is_limited_[static_cast<std::size_t>(Resource::kPlaces)]) return kPlacesUnlimited;
  return static_cast<std::uint32_t>(std::max<std::int64_t>(0, left_[Resource::kPlaces]));
}

bool is_too_large(const Waiting& waiter, Limits limits) {
  return Room(limits).missing_for(waiter) != Amounts();
}

bool is_alone_above(const Amounts& measured, Limits limits) {
  Resident alone;
  alone.holds = measured;
  Room room(limits);
  room.take(alone);
  return room.excess() != Amounts();
}

bool is_blocked_by_pins(const Waiting& waiter, std::span<const Resident> residents, Limits limits) {
  Room room(limits);
  for (const Resident& resident : residents) {
    if (resident.live() && resident.pinned() && resident.can_be_closed()) room.take(resident);
  }
  return room.missing_for(waiter) != Amounts();
}

}  // namespace modelpool
