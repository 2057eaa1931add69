// The waits of one Pool in this process that others poll, and one descriptor that tells when: a
// helper thread waits on the worker's wake word, which every waker of such a wait bumps, and makes
// an eventfd readable then, and when a wait is due.
//
// Safety: any thread. The helper thread is detached, takes no signals, and lets go of the
// descriptor itself, so that its number is not written to after it became another's. It does not
// exist in a child of fork, which uses an object of its own: there this one is not owned(), and is
// only kept.
//
// Errors: kSystem.
//
// Invariants:
//  1. Between two looks of the thread lies at most kLookEvery_ns while anyone waits: a waker may
//  die.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>

#include "base/guarded.hpp"
#include "protocol/worker.hpp"

namespace modelpool {

class WaitFd : public std::enable_shared_from_this<WaitFd> {
 public:
  explicit WaitFd(const Worker& worker) : maker_(worker), wake_word_(&worker.record().wake) {}
  bool owned() const { return maker_.owned(); }

  // The descriptor. The first call makes it, and the thread.
  Result<int> open();
  // The pool has moved on: wakers bump the word of another row.
  void watch(const Worker& worker);
  void stop();  // the descriptor is closed soon after

  // When the wait is to be polled though nobody wakes it; kNever_ns: it has ended.
  using Wait = std::list<std::uint64_t>::iterator;
  Wait add(std::uint64_t due_ns);
  void set_due(Wait wait, std::uint64_t due_ns);
  void call(Wait wait);  // it is due now, unless it has ended
  void remove(Wait wait);

 private:
  // What the thread has to do at this time.
  struct Look {
    bool is_due = false;  // somebody is to be told
    bool any = false;     // somebody waits
    std::uint64_t next_ns = kNever_ns;
  };
  void run(int fd);
  Look look(std::uint64_t now) MODELPOOL_REQUIRES(mutex_);
  void set(Wait wait, std::uint64_t due_ns) MODELPOOL_REQUIRES(mutex_);
  void kick();

  const Worker& maker_;  // tells a child of fork
  // Words of a writable segment outlive everyone.
  std::atomic<HalfWord*> wake_word_;
  std::atomic<std::uint32_t> kicks_{0};  // bumps of the word that are our own
  std::atomic<bool> stopped_{false};
  Mutex mutex_;
  std::list<std::uint64_t> due_ns_ MODELPOOL_GUARDED_BY(mutex_);
  std::uint64_t asleep_until_ns_ MODELPOOL_GUARDED_BY(mutex_) = 0;  // the thread, if there is one
  int fd_ MODELPOOL_GUARDED_BY(mutex_) = -1;
};

}  // namespace modelpool
