// The waiting line: whose turn it is. The one implementation, for workers and judge (P5).
//
// Models stand in line, not requests: the waiters of one model share the turn of its first. A model
// that a backend serves or will serve is not in line: its waiters wait for that backend.
//
// A waiter looks at least once in kLookEvery_ns whether it may go on. One that has not looked for
// kAbsentAfter_ns is stopped (SIGSTOP, a debugger, a frozen cgroup) or dead. It keeps its number,
// but holds nobody up until it looks again: a free place passes it by, no room is made for it, and
// it protects no backend.
#pragma once

#include <bit>
#include <span>
#include <vector>

#include "policy/fit.hpp"

namespace modelpool {

inline constexpr std::uint64_t kLookEvery_ns = kSecond_ns;
inline constexpr std::uint64_t kAbsentAfter_ns = 2 * kSecond_ns;

// Does it wait, and would it notice its turn?
constexpr bool is_present(const Waiting& waiter, std::uint64_t now_ns) {
  return waiter.deadline_ns > now_ns && add_ns(waiter.looked_ns, kAbsentAfter_ns) > now_ns;
}
// The time at which it counts no more, if it does not look again.
constexpr std::uint64_t present_until_ns(const Waiting& waiter) {
  return std::min(waiter.deadline_ns, add_ns(waiter.looked_ns, kAbsentAfter_ns));
}

// The first waiter of each model in line, by arrival, as many as `heads` has room for. Returns how
// many there are. Sorts `waiting` by arrival. `seen` is room to remember models: at least
// seen_for(waiting.size()) words, whatever they hold.
constexpr std::size_t seen_for(std::size_t waiting) { return std::bit_ceil(2 * waiting + 1); }
std::size_t find_heads(std::span<Waiting> waiting, std::span<const Resident> residents,
                       std::uint64_t now_ns, std::span<Waiting> heads,
                       std::span<std::uint64_t> seen);
// The same, all of them; allocates.
std::vector<Waiting> find_heads(std::span<Waiting> waiting, std::span<const Resident> residents,
                                std::uint64_t now_ns);

// The earliest waiter for a backend that serves this model, or null. REQUIRES: `waiting` is sorted.
const Waiting* first_waiter_for(std::span<const Waiting> waiting, std::uint64_t model,
                                std::uint64_t now_ns);

// May this one take what it needs, when so much is free and those before it are to have theirs, and
// where? Its arrival is kNever_ns before it stands in line.
std::optional<Placement> find_turn(std::span<const Waiting> heads, const Waiting& one, Room room,
                                   std::span<const Resident> residents);
inline bool has_turn(std::span<const Waiting> heads, const Waiting& one, const Room& room,
                     std::span<const Resident> residents) {
  return find_turn(heads, one, room, residents).has_value();
}

}  // namespace modelpool
