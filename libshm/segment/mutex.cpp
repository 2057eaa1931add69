#include "segment/mutex.hpp"

#include <unistd.h>

#include <cerrno>
#include <ctime>

#include "base/time.hpp"

namespace modelpool {

Result<> init_mutex(LockRecord& record) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
  const int error = pthread_mutex_init(&record.mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);
  if (error != 0) return fail_errno(error, "create the pool's mutex");
  return {};
}

Result<LockGuard> lock_for(LockRecord& record, std::uint64_t wait_ns) {
  // Before it is held: a process is stopped most easily as a system call returns.
  const auto self = static_cast<std::uint32_t>(getpid());
  int error = pthread_mutex_trylock(&record.mutex);
  if (error == EBUSY && wait_ns > 0) {
    const std::uint64_t until = now_ns() + wait_ns;
    const timespec deadline{static_cast<time_t>(until / kSecond_ns),
                            static_cast<long>(until % kSecond_ns)};
    error = pthread_mutex_clocklock(&record.mutex, CLOCK_MONOTONIC, &deadline);
  }
  if (error == 0 || error == EOWNERDEAD) {
    if (error == EOWNERDEAD) pthread_mutex_consistent(&record.mutex);
    // relaxed: notes for messages, they order nothing
    record.held_since_ns.store(now_ns(), std::memory_order_relaxed);
    record.holder_pid.store(self, std::memory_order_relaxed);
    return LockGuard(&record, error == EOWNERDEAD);
  }
  if (error == EBUSY || error == ETIMEDOUT) {
    const std::uint32_t holder = record.holder_pid.load(std::memory_order_relaxed);
    return fail(Errc::kBusy,
                "unable to lock the pool: process " +
                    (holder == 0 ? std::string("(unknown)") : std::to_string(holder)) +
                    " holds it and does not let go; is that process stopped (SIGSTOP)?");
  }
  return fail_errno(error, "lock the pool", "its mutex is damaged: remove the pool and start anew");
}

LockHolder read_holder(const LockRecord& record) {
  // relaxed: notes for messages, they order nothing
  return {static_cast<pid_t>(record.holder_pid.load(std::memory_order_relaxed)),
          record.held_since_ns.load(std::memory_order_relaxed)};
}

LockGuard::~LockGuard() {
  if (record_ == nullptr) return;
  record_->holder_pid.store(0, std::memory_order_relaxed);
  record_->held_since_ns.store(0, std::memory_order_relaxed);
  pthread_mutex_unlock(&record_->mutex);
}

}  // namespace modelpool
