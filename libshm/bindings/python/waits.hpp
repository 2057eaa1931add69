// The waits of event loops: all of a process's waits on one pool are watched by one thread, which
// calls an event loop, through an eventfd, when one of its waits was woken or is due. The loop
// polls then. So a loop that is blocked is granted nothing: the line passes its waits over (P5).
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
#include <optional>
#include <utility>
#include <vector>

#include "base/guarded.hpp"
#include "pool/inside.hpp"

namespace modelpool::python {

using Answer = Result<Grant>;

class Waits;

// What one event loop is to look at.
class Inbox {
 public:
  Inbox();
  int fd() const { return event_.get(); }  // readable when there is something to take
  void call(std::uint64_t id, std::weak_ptr<Waits> waits);  // that wait is to be polled
  void put(std::uint64_t id, Error end);                    // that wait has ended
  // Polls the waits it was called for, and returns those that have come to their end. Never blocks.
  std::vector<std::pair<std::uint64_t, Answer>> take();

 private:
  struct Call {
    std::uint64_t id;
    std::weak_ptr<Waits> waits;
  };
  Fd event_;
  Mutex mutex_;
  std::vector<Call> calls_ MODELPOOL_GUARDED_BY(mutex_);
  std::vector<std::pair<std::uint64_t, Error>> ends_ MODELPOOL_GUARDED_BY(mutex_);
};

class Waits : public std::enable_shared_from_this<Waits> {
 public:
  explicit Waits(HalfWord& wake) : wake_(&wake) {}  // of the own worker row
  // The row is another since the pool has moved on to the next one of its name.
  void watch(HalfWord& wake);
  // The answer if there is one at once, else the inbox is called when there may be one.
  Result<std::optional<Grant>> begin(std::uint64_t id, PendingAcquire pending,
                                     std::uint64_t deadline_ns, std::shared_ptr<Inbox> inbox);
  std::optional<Answer> poll(std::uint64_t id);  // nothing yet, or no such wait: nullopt
  void cancel(std::uint64_t id);
  // Every wait is answered with kClosed.
  void close();

 private:
  struct Wait {
    PendingAcquire pending;
    std::uint64_t deadline_ns;
    std::uint64_t due_ns;    // of the next poll, woken or not
    bool is_called = false;  // its loop is, and has not polled yet
    std::shared_ptr<Inbox> inbox;
  };
  void serve();
  void wake_server();
  void wake_server_by(std::uint64_t due_ns) MODELPOOL_REQUIRES(mutex_);

  std::atomic<HalfWord*> wake_;  // words of a writable segment outlive everyone
  Mutex mutex_;
  std::map<std::uint64_t, Wait> waits_ MODELPOOL_GUARDED_BY(mutex_);
  bool closed_ MODELPOOL_GUARDED_BY(mutex_) = false;
  bool serving_ MODELPOOL_GUARDED_BY(mutex_) = false;
  std::uint64_t asleep_until_ns_ MODELPOOL_GUARDED_BY(mutex_) = 0;  // the thread
};

}  // namespace modelpool::python
