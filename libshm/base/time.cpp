#include "base/time.hpp"

#include <time.h>

namespace modelpool {
namespace {

std::uint64_t to_ns(const timespec& time) {
  return static_cast<std::uint64_t>(time.tv_sec) * kSecond_ns +
         static_cast<std::uint64_t>(time.tv_nsec);
}

// Cannot fail: the clocks exist on every Linux this builds for, and the address is ours.
std::uint64_t read_clock(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return to_ns(time);
}

}  // namespace

std::uint64_t now_ns() { return read_clock(CLOCK_MONOTONIC); }

std::uint64_t stamp_lag_max_ns() {
  constexpr std::uint64_t kTicks = 8;
  timespec tick{};
  clock_getres(CLOCK_MONOTONIC_COARSE, &tick);
  return kTicks * to_ns(tick);
}

std::uint64_t wall_clock_ns() { return read_clock(CLOCK_REALTIME); }

}  // namespace modelpool
