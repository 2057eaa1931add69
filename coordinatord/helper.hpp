// A thread that works for its owner. Where the kernel has no room for one for now, the owner
// does the work itself, by time, and tries again every second.
//
// Safety: one owner, which tells the body to end before it joins.
//
// Errors: kSystem, why there is no thread.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>

#include "modelpool/result.hpp"

namespace modelpool::coordinator {

class Helper {
 public:
  Result<> start(std::function<void()> body);  // does nothing if it runs
  bool is_running() const { return thread_.joinable(); }
  bool is_to_be_tried(std::uint64_t now_ns) const { return now_ns >= try_again_ns_; }
  void join();

 private:
  std::thread thread_;
  std::uint64_t try_again_ns_ = 0;
};

}  // namespace modelpool::coordinator
