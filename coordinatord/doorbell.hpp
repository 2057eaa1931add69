// Turns the pool's doorbell, a futex word that workers bump, into an event of the loop.
//
// A thread sleeps on the word and writes an eventfd. Where no thread can be had the loop looks at
// the word itself, often, and tries again for one.
//
// Safety: one owner; the thread ends with it.
//
// Errors: kSystem without an eventfd.
#pragma once

#include <atomic>
#include <memory>

#include "bell.hpp"
#include "helper.hpp"
#include "segment/segment.hpp"

namespace modelpool::coordinator {

class Doorbell {
 public:
  static Result<std::unique_ptr<Doorbell>> make(std::shared_ptr<Segment> segment);
  ~Doorbell();

  int fd() const { return event_.fd(); }
  void drain() { event_.drain(); }
  // Errors: why there is no thread. Does nothing if there is one.
  Result<> start();
  // When the loop has to look at it by itself; kNever_ns: it will be told.
  std::uint64_t look_again_ns(std::uint64_t now_ns);

 private:
  Doorbell(std::shared_ptr<Segment> segment, Bell event)
      : segment_(std::move(segment)), event_(std::move(event)) {}
  void listen(std::uint32_t seen);

  std::shared_ptr<Segment> segment_;
  Bell event_;
  Helper helper_;
  std::atomic<bool> stop_{false};
};

}  // namespace modelpool::coordinator
