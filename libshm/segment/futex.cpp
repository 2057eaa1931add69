#include "segment/futex.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

#include "base/time.hpp"

namespace modelpool {

void futex_wake_all(const HalfWord& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void futex_wait(const HalfWord& word, std::uint32_t seen, std::uint64_t until_ns) {
  const timespec until{static_cast<time_t>(until_ns / kSecond_ns),
                       static_cast<long>(until_ns % kSecond_ns)};
  // FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time.
  syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, seen, until_ns == kNever_ns ? nullptr : &until,
          nullptr, FUTEX_BITSET_MATCH_ANY);
}

}  // namespace modelpool
