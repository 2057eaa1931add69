#include "policy/fit.hpp"

namespace modelpool {
namespace {

// What others take of devices may be given back.
Limits without_others(Limits limits) {
  for (DeviceLimit& device : limits.device) device.foreign = 0;
  return limits;
}

}  // namespace

std::uint32_t count_live(std::span<const Resident> residents) {
  return static_cast<std::uint32_t>(
      std::count_if(residents.begin(), residents.end(),
                    [](const Resident& resident) { return resident.live(); }));
}

Room::Room(const Limits& limits)
    : devices_(limits.devices), left_(limits.max_backends, limits.max_memory) {
  const auto limit = [this](std::size_t resource, std::uint64_t most) {
    if (most != 0) limited_ |= 1u << resource;
  };
  limit(index_of(Resource::kPlaces), limits.max_backends);
  limit(index_of(Resource::kHostBytes), limits.max_memory);
  limit(index_of(Resource::kLoads), limits.max_loads);
  left_.set(index_of(Resource::kLoads), limits.max_loads);
  for (std::uint32_t d = 0; d < kDevicesMax; ++d) {
    const DeviceLimit& device = limits.device[d];
    limit(index_of_device(d), device.bytes);
    left_.set_bytes(index_of_device(d), device.bytes);
    foreign_.set_bytes(index_of_device(d), device.foreign);
  }
  left_ -= foreign_;
}

Room::Room(const Limits& limits, std::span<const Resident> residents) : Room(limits) {
  for (const Resident& resident : residents) {
    if (resident.live()) take(resident);
  }
}

std::uint32_t Room::guessed_of(const Amounts& takes, bool size_known,
                               bool device_size_known) const {
  std::uint32_t guessed = 0;
  const auto add = [&](std::size_t resource) {
    if (is_limited(resource) && takes[resource] > 0) guessed |= 1u << resource;
  };
  if (!size_known) add(index_of(Resource::kHostBytes));
  for (std::uint32_t d = 0; d < kDevicesMax && !device_size_known; ++d) add(index_of_device(d));
  return guessed;
}

void Room::take(const Resident& resident) {
  left_ -= resident.holds;
  if (resident.loading())
    guessed_ |= guessed_of(resident.holds, resident.size_known, resident.device_size_known);
  for (std::uint32_t d = 0; d < kDevicesMax; ++d) on_device_[d] += resident.devices >> d & 1;
}

void Room::give_back(const Resident& resident) {
  left_ += resident.holds;
  for (std::uint32_t d = 0; d < kDevicesMax; ++d) on_device_[d] -= resident.devices >> d & 1;
}

void Room::take(const Waiting& waiter, const Placement& placement) {
  left_ -= placement.takes;
  guessed_ |= guessed_of(placement.takes, waiter.size_known, waiter.device_size_known);
  for (std::uint32_t d = 0; d < kDevicesMax; ++d) on_device_[d] += placement.devices >> d & 1;
}

void Room::take(const Waiting& waiter) {
  if (waiter.promised != 0) return take(waiter, placed_on(waiter, waiter.promised));
  if (const auto placement = place(waiter)) return take(waiter, *placement);
  Placement everywhere{0, waiter.takes};
  for_each_placement(waiter, devices_, [&](const Placement& placement) {
    everywhere.devices |= placement.devices;
    for (std::size_t i = 0; i < kResourceCount; ++i)
      everywhere.takes.set(i, std::max(everywhere.takes[i], placement.takes[i]));
  });
  take(waiter, everywhere);
}

std::int64_t Room::missing(std::size_t resource, std::int64_t takes) const {
  if (!is_limited(resource) || takes == 0) return 0;
  return std::max<std::int64_t>(0, takes - left_[resource]);
}

Amounts Room::missing_for(const Placement& placement) const {
  Amounts amounts;
  for (std::size_t i = 0; i < kResourceCount; ++i) amounts.set(i, missing(i, placement.takes[i]));
  return amounts;
}

std::uint32_t Room::devices_with_room(const Waiting& waiter) const {
  const DevicesAsked& asked = waiter.devices;
  if (asked.which != 0) return devices_;
  std::uint64_t least = UINT64_MAX;
  for (std::size_t nth = 0; nth < asked.count; ++nth) least = std::min(least, asked.bytes[nth]);
  Amounts takes;
  std::uint32_t devices = 0;
  for (std::uint32_t d = 0; d < kDevicesMax; ++d) {
    takes.set_bytes(index_of_device(d), least);
    const bool has_room = missing(index_of_device(d), takes[index_of_device(d)]) == 0;
    devices |= static_cast<std::uint32_t>(has_room) << d;
  }
  return devices & devices_;
}

Amounts Room::missing_for(const Waiting& waiter) const {
  std::optional<Amounts> least;
  const auto sum = [](const Amounts& amounts) {
    std::int64_t bytes = 0;
    for (std::size_t i = index_of_device(0); i < kResourceCount; ++i) bytes += amounts[i];
    return bytes;
  };
  const auto look = [&](const Placement& placement) {
    const Amounts missing = missing_for(placement);
    if (!least || sum(missing) < sum(*least)) least = missing;
  };
  // First where it may lack nothing: not all placements are tried where there are very many.
  for_each_placement(waiter, devices_with_room(waiter), look);
  for_each_placement(waiter, devices_, look);
  return least.value_or(missing_for(Placement{0, waiter.takes}));
}

std::int64_t Room::left_beside(const Placement& placement) const {
  // Where no bytes are counted, devices with few backends before others.
  constexpr std::int64_t kUncounted = Amounts::kMost;
  std::int64_t left = 0;
  for (std::uint32_t d = 0; d < kDevicesMax; ++d) {
    if ((placement.devices >> d & 1) == 0) continue;
    const std::size_t i = index_of_device(d);
    const bool is_counted = is_limited(i) && placement.takes[i] > 0;
    left += is_counted ? left_[i] - placement.takes[i] : kUncounted + on_device_[d];
  }
  return left;
}

std::optional<Placement> Room::place(const Waiting& waiter) const {
  // What it takes wherever it is put need not be looked at for each placement.
  for (std::size_t i = 0; i < index_of_device(0); ++i) {
    if (missing(i, waiter.takes[i]) > 0) return std::nullopt;
  }
  std::optional<Placement> best;
  const auto try_on = [&](const Placement& placement) {
    const std::uint32_t guessed =
        guessed_of(placement.takes, waiter.size_known, waiter.device_size_known);
    if ((guessed & guessed_) != 0) return;
    if (missing_for(placement) != Amounts()) return;
    if (!best || left_beside(placement) < left_beside(*best)) best = placement;
  };
  if (waiter.promised != 0) try_on(placed_on(waiter, waiter.promised));
  if (!best) for_each_placement(waiter, devices_with_room(waiter), try_on);
  return best;
}

Amounts Room::excess() const {
  Amounts amounts;
  for (std::size_t i = 0; i < kResourceCount; ++i) {
    if (is_limited(i)) amounts.set(i, std::max<std::int64_t>(0, -left_[i] - foreign_[i]));
  }
  return amounts;
}

bool is_too_large(const Waiting& waiter, const Limits& limits) {
  if (lacks_devices(waiter, limits)) return false;  // not for its size
  return Room(without_others(limits)).missing_for(waiter) != Amounts();
}

bool is_alone_above(const Amounts& measured, const Limits& limits) {
  Resident alone;
  alone.holds = measured;
  Room room(limits);
  room.take(alone);
  return room.excess() != Amounts();
}

bool is_kept_out(const Waiting& waiter, std::span<const Resident> residents) {
  if (waiter.groups.empty()) return false;
  return std::any_of(residents.begin(), residents.end(), [&](const Resident& resident) {
    return resident.serves() && share_a_group(resident.groups, waiter.groups);
  });
}

bool is_blocked_by_pins(const Waiting& waiter, std::span<const Resident> residents,
                        const Limits& limits) {
  Room room(without_others(limits));
  for (const Resident& resident : residents) {
    if (!resident.live() || !resident.pinned() || !resident.can_be_closed()) continue;
    if (share_a_group(resident.groups, waiter.groups)) return true;
    room.take(resident);
  }
  return !lacks_devices(waiter, limits) && room.missing_for(waiter) != Amounts();
}

}  // namespace modelpool
