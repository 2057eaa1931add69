// One descriptor that tells an event loop when to poll: a helper thread waits on the worker's wake
// word, which every waker of an asynchronous waiter bumps, and makes an eventfd readable.
//
// Safety: kick() from any thread. The thread is detached, takes no signals, and lets go of the
// descriptor itself, so that its number is not written to after it became another's. It does not
// exist in a child of fork; nor may a child use this object.
//
// Errors: kSystem.
//
// Invariants:
//  1. Between two looks of the thread lies at most kLookEvery_ns while anyone waits: a waker may
//  die.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "protocol/acquisition.hpp"

namespace modelpool::c {

// Of the waits to serve: is there one, and the earliest deadline that is still to come.
struct WaitsAhead {
  bool any = false;
  std::uint64_t deadline_ns = kNever_ns;
};

class WaitFd {
 public:
  // The word must outlive the thread; words of a writable segment do.
  static Result<std::shared_ptr<WaitFd>> start(const HalfWord& wake_word,
                                               std::function<WaitsAhead()> outlook);
  int fd() const { return fd_; }
  // There is something new to look at. The word is another one since the pool has moved on.
  void kick(const HalfWord& wake_word);
  void stop();  // the descriptor is closed soon after

 private:
  WaitFd(const HalfWord& wake_word, std::function<WaitsAhead()> outlook)
      : wake_word_(&wake_word), outlook_(std::move(outlook)) {}
  void run();

  std::atomic<const HalfWord*> wake_word_;
  std::function<WaitsAhead()> outlook_;
  int fd_ = -1;
  std::atomic<bool> stopped_{false};
};

}  // namespace modelpool::c
