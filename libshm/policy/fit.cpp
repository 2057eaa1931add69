#include "policy/fit.hpp"

namespace modelpool {

std::uint32_t count_live(std::span<const Resident> residents) {
  return static_cast<std::uint32_t>(
      std::count_if(residents.begin(), residents.end(),
                    [](const Resident& resident) { return resident.live(); }));
}

std::uint32_t places_now(std::span<const Resident> residents, Limits limits) {
  if (limits.max_backends == 0) return kPlacesUnlimited;
  const std::uint32_t live = count_live(residents);
  return live < limits.max_backends ? limits.max_backends - live : 0;
}

bool all_are_pinned(std::span<const Resident> residents) {
  return std::all_of(residents.begin(), residents.end(), [](const Resident& resident) {
    return !resident.live() || (resident.can_be_closed() && resident.pinned());
  });
}

}  // namespace modelpool
