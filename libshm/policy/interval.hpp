// How often a backend is used: the time between ends of its requests. Advisory: it says what losing
// a backend is expected to cost, and is never evidence.
//
// Safety: values and pure functions.
//
// Errors: none. Times that came from shared memory may be anything; they are clamped.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/time.hpp"

namespace modelpool {

// Intervals, idle times and load times are compared between these.
inline constexpr std::uint64_t kIntervalMin_ns = kMillisecond_ns;
inline constexpr std::uint64_t kIntervalMax_ns = std::uint64_t{1} << 56;

// One more observation, which counts for an eighth; 0 = none before. In whatever unit. Each step
// goes at least 1 towards what was observed, so that it gets there.
constexpr std::uint64_t smooth_interval(std::uint64_t before, std::uint64_t observed) {
  if (before == 0) return observed;
  if (observed > before) return before + std::max<std::uint64_t>(1, (observed - before) / 8);
  if (observed < before) return before - std::max<std::uint64_t>(1, (before - observed) / 8);
  return before;
}

// The interval of a backend from those of the workers that use it: 1 / sum of 1 / max(interval,
// idle). A worker that has stopped asking fades as its idle time grows.
class PoolInterval {
 public:
  void add(std::uint64_t interval_ns, std::uint64_t idle_ns) {
    const std::uint64_t each =
        std::clamp(std::max(interval_ns, idle_ns), kIntervalMin_ns, kIntervalMax_ns);
    rate_ += kOne / each;  // of 4095 workers: below 2^55
  }
  // 0: nobody has ended two requests on it.
  std::uint64_t interval_ns() const { return rate_ == 0 ? 0 : kOne / rate_; }

 private:
  static constexpr std::uint64_t kOne = std::uint64_t{1} << 62;
  std::uint64_t rate_ = 0;
};

}  // namespace modelpool
