// A mutex of one process, with the rule that clang checks (-Wthread-safety): what is GUARDED_BY it
// is touched only while it is held. std::mutex cannot be checked so: the standard library names no
// capability.
//
// Safety: as std::mutex.
#pragma once

#include <mutex>

#if defined(__clang__)
#define MODELPOOL_CHECKED(attribute) __attribute__((attribute))
#else
#define MODELPOOL_CHECKED(attribute)
#endif
#define MODELPOOL_GUARDED_BY(mutex) MODELPOOL_CHECKED(guarded_by(mutex))
// Of a function: its caller holds it.
#define MODELPOOL_REQUIRES(mutex) MODELPOOL_CHECKED(requires_capability(mutex))

namespace modelpool {

class MODELPOOL_CHECKED(capability("mutex")) Mutex {
 public:
  void lock() MODELPOOL_CHECKED(acquire_capability()) { mutex_.lock(); }
  void unlock() MODELPOOL_CHECKED(release_capability()) { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class MODELPOOL_CHECKED(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) MODELPOOL_CHECKED(acquire_capability(mutex)) : mutex_(mutex) {
    mutex_.lock();
  }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;
  ~MutexLock() MODELPOOL_CHECKED(release_capability()) { mutex_.unlock(); }

 private:
  Mutex& mutex_;
};

}  // namespace modelpool
