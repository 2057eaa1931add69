// Tells the holders of this process that their leases are asked to end: one thread for all leases
// that are watched, which waits on the wake word of the worker's row. It starts with the first of
// them, looks at least once a second while there are any, and ends a second after the last.
//
// Safety: any thread. A watch belongs to one Worker and is never freed, as that. fork: the child
// has neither the thread nor anything that is watched, and must not use it (Worker::owned).
//   A callback runs on the thread, one at a time, and may end leases. Where another thread ends the
//   lease meanwhile, that waits until the callback is done.
//   A descriptor is written to under the mutex, so not after its lease was let go.
//
// Crash: none of its business; what it tells stands in the lease records.
//
// Errors: kSystem (no thread), kInvalid (a descriptor that would block, or is none).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "base/guarded.hpp"
#include "protocol/cancel.hpp"

namespace modelpool {

class CancelWatch {
 public:
  // The worker's, made at its first use.
  static CancelWatch& of(Worker& worker);

  // Both once for each call, at once if the lease was asked already. They end with the lease.
  Result<> call(const LeaseRef& lease, std::function<void()> callback);
  Result<> write_to(const LeaseRef& lease, int fd, std::uint64_t number);
  // Before the lease ends: nothing is told of it from then on.
  void forget(const LeaseRef& lease);

 private:
  struct Watched {
    LeaseRef lease;
    std::shared_ptr<const std::function<void()>> callback;  // or null, and
    int fd = -1;
    std::uint64_t number = 0;
    bool is_told = false;
  };
  explicit CancelWatch(Worker& worker) : worker_(worker) {}
  Result<> add(Watched watched);
  void serve();
  void tell();
  void write_all() MODELPOOL_REQUIRES(mutex_);
  bool call_next();

  Worker& worker_;
  Mutex mutex_;
  std::multimap<std::uint32_t, Watched> watched_ MODELPOOL_GUARDED_BY(mutex_);  // by cell
  bool serving_ MODELPOOL_GUARDED_BY(mutex_) = false;
  // Held while a callback runs. Taken before mutex_, or without it.
  std::recursive_mutex calling_;
};

}  // namespace modelpool
