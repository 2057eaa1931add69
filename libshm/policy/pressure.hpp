// Host pressure: the host, or the cgroup, has less memory left than `min_available`.
//
// One idle backend goes. When it has been gone for a second it is measured: if what is left has not
// risen by a quarter of what the backend held, somebody else takes the memory, and no more of them
// go for a minute; then for two, up to a quarter of an hour. It begins below the limit and ends
// above 1.1 times it.
//
// Safety: plain values, pure functions.
//
// Errors: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "policy/victims.hpp"

namespace modelpool {

inline constexpr std::uint64_t kPressureLook_ns = kSecond_ns;
inline constexpr std::uint64_t kPressureRise_ns = kSecond_ns;  // so long memory has to come back
inline constexpr std::uint64_t kPressurePause_ns = 60 * kSecond_ns;
inline constexpr std::uint64_t kPressurePauseMax_ns = 900 * kSecond_ns;

// An eviction whose effect is not known yet.
struct PressureTrial {
  std::uint64_t held_bytes = 0;       // by the one who went, 0 = not known
  std::uint64_t available_bytes = 0;  // before
  std::uint64_t gone_ns = kNever_ns;  // kNever_ns: it is not
};

struct Pressure {
  bool is_low = false;
  std::uint64_t until_ns = 0;  // nobody goes before that, 0 = no such time
  std::uint64_t pause_ns = 0;  // the last pause, 0 = none since an eviction helped
  std::optional<PressureTrial> trial{};
};

struct PressureLook {
  std::uint64_t now_ns = 0;
  std::uint64_t available_bytes = 0;
  std::uint64_t min_bytes = 0;  // 0 = no limit
};

struct PressureStep {
  Pressure next;
  bool may_evict = false;             // one idle backend
  bool was_in_vain = false;           // the trial has shown that evictions do not help
  std::uint64_t look_ns = kNever_ns;  // when to look again
};
PressureStep judge_pressure(const Pressure& pressure, const PressureLook& look);

// Is it still so low that one may go?
bool is_low(std::uint64_t available_bytes, std::uint64_t min_bytes, bool was_low);

// Who goes: of the idle ones that no rule protects the first in order; nobody while somebody is on
// his way out.
std::optional<std::size_t> find_pressure_victim(std::span<const Holding> holdings,
                                                const Order& order);

}  // namespace modelpool
