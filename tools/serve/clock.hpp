// The master's time: monotonic, in nanoseconds.
//
// Safety: any thread.
//
// Errors: none.
#pragma once

#include <time.h>

#include <cstdint>

namespace modelpool::serve {

inline constexpr std::uint64_t kNever_ns = UINT64_MAX;
inline constexpr std::uint64_t kMillisecond_ns = 1'000'000;

inline std::uint64_t clock_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

// For poll: whole milliseconds, never too short.
inline int poll_timeout_ms(std::uint64_t at_ns) {
  constexpr std::uint64_t kLongest_ms = 60'000;
  const std::uint64_t now = clock_ns();
  if (at_ns <= now) return 0;
  const std::uint64_t ms = (at_ns - now - 1) / kMillisecond_ns + 1;
  return static_cast<int>(ms < kLongest_ms ? ms : kLongest_ms);
}

// Between tries: 1 s, doubling to 30 s.
class Backoff {
 public:
  std::uint64_t next() {
    const std::uint64_t pause = pause_ns_;
    pause_ns_ = pause * 2 < kLongest_ns ? pause * 2 : kLongest_ns;
    return pause;
  }
  void reset() { pause_ns_ = kFirst_ns; }

 private:
  static constexpr std::uint64_t kFirst_ns = 1'000 * kMillisecond_ns;
  static constexpr std::uint64_t kLongest_ns = 30 * kFirst_ns;
  std::uint64_t pause_ns_ = kFirst_ns;
};

}  // namespace modelpool::serve
