#include "policy/kept.hpp"

namespace modelpool {

std::vector<bool> find_kept(std::span<const Resident> residents, std::uint32_t keep, Order order) {
  std::vector<bool> kept(residents.size());
  if (keep == 0) return kept;
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < residents.size(); ++i) {
    if (residents[i].state == BackendState::kReady) open.push_back(i);
  }
  const auto end =
      open.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(keep, open.size()));
  std::partial_sort(open.begin(), end, open.end(), [&](std::size_t a, std::size_t b) {
    return order.goes_before(residents[b], residents[a]);
  });
  for (auto i = open.begin(); i != end; ++i) kept[*i] = true;
  return kept;
}

}  // namespace modelpool
