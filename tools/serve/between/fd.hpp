// A descriptor that is closed with its owner.
//
// Safety: one thread.
//
// Errors: none.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <utility>

namespace modelpool::serve {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~Fd() { reset(); }

  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  void reset() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// A copy that an executed program has, too.
inline Fd passed(const Fd& fd) { return fd ? Fd(fcntl(fd.get(), F_DUPFD, 3)) : Fd(); }

}  // namespace modelpool::serve
