// A descriptor by which a thread wakes another's poll: readable from ring() until drain().
//
// Safety: from any thread.
//
// Errors: kSystem without an eventfd.
#pragma once

#include <utility>

#include "base/fd.hpp"
#include "modelpool/result.hpp"

namespace modelpool::coordinator {

class Bell {
 public:
  static Result<Bell> make();

  int fd() const { return fd_.get(); }
  void ring() const;  // a system call that fails for the moment is made again
  void drain() const;

 private:
  explicit Bell(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace modelpool::coordinator
