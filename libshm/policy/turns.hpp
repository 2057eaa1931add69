// When a model in use goes for one that waits: it keeps its place until somebody has waited
// `max_wait` for it, or a quarter of the time that he can still spare (P5).
//
// Safety: pure functions of values.
//
// Errors: none. Times in the future lead to a later turn, never beyond `max_wait` from now.
#pragma once

#include "policy/values.hpp"

namespace modelpool {

// A model in line, as those see it who make room.
struct Head {
  Waiting first;                          // its first waiter
  std::uint64_t since_ns = 0;             // since when somebody waits for the model
  std::uint64_t deadline_ns = kNever_ns;  // the earliest of its waiters' that a load can meet
  std::uint64_t load_ns = 0;              // how long a load of it takes, 0 = not known
};

// Of one that find_heads found, and all who wait.
Head head_of(const Waiting& first, std::span<const Waiting> waiting, std::uint64_t now_ns);

// From when on a model in use may be closed for this head. A head whose load time is not known is
// let in at once.
std::uint64_t turn_begins_ns(const Head& head, std::uint64_t max_wait_ns);

// Until when an idle backend counts as in use, because it pauses between two requests of the same
// client; 0 = it does not.
std::uint64_t pause_ends_ns(const Resident& resident, const Head& head, std::uint64_t max_wait_ns);

}  // namespace modelpool
