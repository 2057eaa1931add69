// The mutex that guards structure: process-shared, robust, error-checking (P6).
//
// Safety: any thread of any attached process; never across fork, never in a signal handler. What
// happens under it neither blocks, allocates, logs nor spawns. Waiting for it is bounded.
//
// Crash: the next locker learns that the owner died together with its guard. Every operation under
// the mutex commits by one store, so there is nothing to repair: recovery marks the mutex
// consistent. A recoverer that dies before that hands the same news to the next.
//
// Errors: kBusy naming the holder, when it did not let go in time (SIGSTOP does that).
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "modelpool/result.hpp"
#include "segment/layout.hpp"

namespace modelpool {

inline constexpr std::uint64_t kLockWaitMin_ns = 50 * kMillisecond_ns;
inline constexpr std::uint64_t kLockWaitMax_ns = 2 * kSecond_ns;

class LockGuard {
 public:
  LockGuard(LockGuard&& other) noexcept : record_(other.record_), owner_died_(other.owner_died_) {
    other.record_ = nullptr;
  }
  LockGuard& operator=(LockGuard&&) = delete;
  ~LockGuard();

  bool owner_died() const { return owner_died_; }

 private:
  friend Result<LockGuard> lock_for(LockRecord&, std::uint64_t);
  LockGuard(LockRecord* record, bool owner_died) : record_(record), owner_died_(owner_died) {}
  LockRecord* record_;
  bool owner_died_;
};

// Creator only, before the segment has a name.
Result<> init_mutex(LockRecord& record);

// Waits at most wait_ns; 0 only tries.
Result<LockGuard> lock_for(LockRecord& record, std::uint64_t wait_ns);

// Who says that it holds it, for people: it may have let go, or been killed, since.
struct LockHolder {
  pid_t pid = 0;               // 0: nobody
  std::uint64_t since_ns = 0;  // 0: not known
};
LockHolder read_holder(const LockRecord& record);

}  // namespace modelpool
