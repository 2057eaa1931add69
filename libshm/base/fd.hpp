// File descriptors that close themselves, and the three that a process may have been started
// without.
//
// A process started with 0, 1 or 2 closed gives these numbers to the next files it opens, and
// whatever prints then writes into them. So programs fill the three first of all, and the library,
// which is a guest in other programs, keeps its own descriptors above them.
//
// Safety: no shared state; any thread.
//
// Errors: an empty Fd, with errno.
#pragma once

#include <sys/types.h>

#include <cerrno>

namespace modelpool {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  ~Fd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }
  void reset(int fd = -1);  // keeps errno

 private:
  int fd_ = -1;
};

// The same file under a number above 2, close-on-exec; `fd` itself if it stands there already.
Fd above_stdio(Fd fd);
// openat(2), close-on-exec, above 2.
Fd open_above_stdio(int dir, const char* path, int flags, mode_t mode = 0);

// A system call, again for as long as a signal interrupts it.
template <class Call>
auto retry_eintr(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

// The first thing a program of ours does: opens /dev/null where 0, 1 or 2 is closed.
void fill_stdio();

}  // namespace modelpool
