// The pool's mutex as the coordinator takes it: it tries, and never waits. Whoever holds it is
// quick, or stopped; one that keeps it for a second is logged.
//
// Safety: one thread.
//
// Errors: none; nothing is returned while another holds it, and the caller tries again later.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "segment/segment.hpp"

namespace modelpool::coordinator {

class LockTry {
 public:
  explicit LockTry(std::shared_ptr<Segment> segment) : segment_(std::move(segment)) {}
  // `purpose` is what waits for it, for the log: "change the settings".
  std::optional<LockGuard> lock(const std::string& purpose);
  // The same of who tries by other means.
  void was_held(const std::string& purpose, const Error& held);
  void was_free() { held_since_ns_ = 0; }

 private:
  std::shared_ptr<Segment> segment_;
  std::uint64_t held_since_ns_ = 0;  // by another; 0: it was free at the last try
};

}  // namespace modelpool::coordinator
