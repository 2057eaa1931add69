// The waits of event loops: all of a process's waits on one pool are served by one thread, which
// polls those that were woken and hands results over through an eventfd for each event loop.
//
// Safety: any thread; no Python here, so the thread never needs the GIL and may run while the
// interpreter ends. It exists only while somebody waits. After fork both kinds of object are dead:
// the owner makes new ones (the mutex may have been held).
//
// Crash: as any waiter's.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "base/guarded.hpp"
#include "pool/inside.hpp"

namespace modelpool::python {

using Answer = Result<Grant>;

// Results for one event loop.
class Inbox {
 public:
  Inbox();
  ~Inbox();                                // gives back what nobody took
  int fd() const { return event_.get(); }  // readable when there is something to take
  void put(std::uint64_t id, Answer answer);
  std::vector<std::pair<std::uint64_t, Answer>> take();
  void drop(std::uint64_t id);  // nobody wants it any more: gives it back

 private:
  Fd event_;
  Mutex mutex_;
  std::vector<std::pair<std::uint64_t, Answer>> answers_ MODELPOOL_GUARDED_BY(mutex_);
};

// Ends a grant that nobody asked for any more; a ticket goes to the next waiter.
void give_back(Answer answer);

class Waits : public std::enable_shared_from_this<Waits> {
 public:
  explicit Waits(HalfWord& wake) : wake_(&wake) {}  // of the own worker row
  // The row is another since the pool has moved on to the next one of its name.
  void watch(HalfWord& wake);
  // The answer if there is one at once, else it comes to the inbox.
  Result<std::optional<Grant>> begin(std::uint64_t id, PendingAcquire pending,
                                     std::uint64_t deadline_ns, std::shared_ptr<Inbox> inbox);
  void cancel(std::uint64_t id);
  // Every wait is answered with kClosed.
  void close();

 private:
  struct Wait {
    PendingAcquire pending;
    std::uint64_t deadline_ns;
    std::uint64_t due_ns;  // of the next poll, woken or not
    std::shared_ptr<Inbox> inbox;
  };
  void serve();
  void wake_server();

  std::atomic<HalfWord*> wake_;  // words of a writable segment outlive everyone
  Mutex mutex_;
  std::map<std::uint64_t, Wait> waits_ MODELPOOL_GUARDED_BY(mutex_);
  bool closed_ MODELPOOL_GUARDED_BY(mutex_) = false;
  bool serving_ MODELPOOL_GUARDED_BY(mutex_) = false;
};

}  // namespace modelpool::python
