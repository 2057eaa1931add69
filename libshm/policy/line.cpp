#include "policy/line.hpp"

namespace modelpool {
namespace {

bool is_served(std::span<const Resident> residents, std::uint64_t model) {
  return std::any_of(residents.begin(), residents.end(), [model](const Resident& resident) {
    return resident.serves() && resident.model == model;
  });
}

}  // namespace

std::size_t find_heads(std::span<Waiting> waiting, std::span<const Resident> residents,
                       std::uint64_t now_ns, std::span<Waiting> heads) {
  std::sort(waiting.begin(), waiting.end(),
            [](const Waiting& a, const Waiting& b) { return a.arrival < b.arrival; });
  std::size_t count = 0;
  for (const Waiting& waiter : waiting) {
    if (count == heads.size()) break;
    if (!is_present(waiter, now_ns)) continue;
    const auto earlier = heads.first(count);
    const bool is_behind = std::any_of(earlier.begin(), earlier.end(), [&](const Waiting& head) {
      return head.model == waiter.model;
    });
    if (is_behind || is_served(residents, waiter.model)) continue;
    heads[count++] = waiter;
  }
  return count;
}

const Waiting* first_waiter_for(std::span<const Waiting> waiting, std::uint64_t model,
                                std::uint64_t now_ns) {
  const auto found = std::find_if(waiting.begin(), waiting.end(), [&](const Waiting& waiter) {
    return waiter.model == model && is_present(waiter, now_ns);
  });
  return found == waiting.end() ? nullptr : &*found;
}

std::optional<Placement> find_turn(std::span<const Waiting> heads, const Waiting& one, Room room,
                                   std::span<const Resident> residents) {
  if (is_kept_out(one, residents)) return std::nullopt;
  std::size_t before = 0;
  for (const Waiting& head : heads) {
    if (head.model == one.model || head.arrival > one.arrival) break;
    if (share_a_group(head.groups, one.groups)) return std::nullopt;
    room.take(head);
    ++before;
  }
  return before < kLineWidth ? room.place(one) : std::nullopt;
}

}  // namespace modelpool
