// Time as the segment keeps it: unsigned nanoseconds of CLOCK_MONOTONIC (P8: no suspend, no steps).
//
// Safety: the clock functions are async-signal-safe and make no system call (vDSO).
//
// What a request stamps (its start, progress and end) comes from the coarse clock, which costs a
// quarter of the precise one. It lags: it shows the last tick that was processed. Judges therefore
// add stamp_lag_max_ns() to a limit, and are never early (P8).
#pragma once

#include <time.h>

#include <cstdint>

namespace modelpool {

inline constexpr std::uint64_t kMicrosecond_ns = 1'000;
inline constexpr std::uint64_t kMillisecond_ns = 1'000'000;
inline constexpr std::uint64_t kSecond_ns = 1'000'000'000;
inline constexpr std::uint64_t kNever_ns = UINT64_MAX;  // a deadline that does not come

std::uint64_t now_ns();         // CLOCK_MONOTONIC
std::uint64_t wall_clock_ns();  // CLOCK_REALTIME, for records that people read

// CLOCK_MONOTONIC_COARSE: never ahead of now_ns(), behind it by at most stamp_lag_max_ns().
inline std::uint64_t stamp_now_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &time);  // cannot fail
  return static_cast<std::uint64_t>(time.tv_sec) * kSecond_ns +
         static_cast<std::uint64_t>(time.tv_nsec);
}
// Eight ticks, 32 ms at 250 Hz. One for the tick under way, one for the part of a tick the clock
// leaves out; and when the CPU that keeps time is late, a CPU that runs takes over after its fifth
// tick without news (Linux 5.17, MAX_STALLED_JIFFIES), which it may itself get one late.
std::uint64_t stamp_lag_max_ns();

// a + b that stays at kNever_ns instead of wrapping: stamps are input (P7, P8).
constexpr std::uint64_t add_ns(std::uint64_t a, std::uint64_t b) {
  return a > kNever_ns - b ? kNever_ns : a + b;
}
// How long ago `stamp` was; 0 for a stamp from the future.
constexpr std::uint64_t age_ns(std::uint64_t now, std::uint64_t stamp) {
  return now > stamp ? now - stamp : 0;
}

}  // namespace modelpool
