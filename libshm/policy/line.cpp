#include "policy/line.hpp"

namespace modelpool {
namespace {

bool is_served(std::span<const Resident> residents, std::uint64_t model) {
  return std::any_of(residents.begin(), residents.end(), [model](const Resident& resident) {
    return resident.serves() && resident.model == model;
  });
}

// A set of hashes, its size a power of two, of which half is never used. True: it is new.
bool insert(std::span<std::uint64_t> set, std::uint64_t hash) {
  constexpr std::uint64_t kFree = 0;
  if (hash == kFree) hash = 1;
  for (std::size_t i = hash;; ++i) {
    std::uint64_t& cell = set[i & (set.size() - 1)];
    if (cell == hash) return false;
    if (cell != kFree) continue;
    cell = hash;
    return true;
  }
}

}  // namespace

std::size_t find_heads(std::span<Waiting> waiting, std::span<const Resident> residents,
                       std::uint64_t now_ns, std::span<Waiting> heads,
                       std::span<std::uint64_t> seen) {
  const auto models = seen.first(seen_for(waiting.size()));
  std::fill(models.begin(), models.end(), 0);
  std::sort(waiting.begin(), waiting.end(),
            [](const Waiting& a, const Waiting& b) { return a.arrival < b.arrival; });
  std::size_t count = 0;
  for (const Waiting& waiter : waiting) {
    if (count == heads.size()) break;
    if (!is_present(waiter, now_ns)) continue;
    if (!insert(models, waiter.model) || is_served(residents, waiter.model)) continue;
    heads[count++] = waiter;
  }
  return count;
}

std::vector<Waiting> find_heads(std::span<Waiting> waiting, std::span<const Resident> residents,
                                std::uint64_t now_ns) {
  std::vector<Waiting> heads(waiting.size());
  std::vector<std::uint64_t> seen(seen_for(waiting.size()));
  heads.resize(find_heads(waiting, residents, now_ns, heads, seen));
  return heads;
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
  // What does not fit now does so even less behind others: most who wait need not go down the line.
  if (is_kept_out(one, residents) || !room.fits(one)) return std::nullopt;
  for (const Waiting& head : heads) {
    if (head.model == one.model || head.arrival > one.arrival) break;
    if (share_a_group(head.groups, one.groups)) return std::nullopt;
    room.take(head);
  }
  return room.place(one);
}

}  // namespace modelpool
