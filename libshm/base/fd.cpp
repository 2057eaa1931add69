#include "base/fd.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace modelpool {
namespace {

constexpr int kFirstAbove = STDERR_FILENO + 1;

// /dev/null, or where there is no /dev a descriptor that nothing can be read from or written to.
int open_nothing() {
  const int fd = open("/dev/null", O_RDWR);  // NOLINT: programs inherit it
  return fd >= 0 ? fd : open("/", O_PATH);   // NOLINT
}

}  // namespace

void Fd::reset(int fd) {
  if (fd_ >= 0 && fd_ != fd) {
    const int saved = errno;  // a destructor runs between a failure and the look at its cause
    ::close(fd_);             // not again after EINTR: Linux has closed it by then
    errno = saved;
  }
  fd_ = fd;
}

Fd above_stdio(Fd fd) {
  if (!fd || fd.get() >= kFirstAbove) return fd;
  return Fd(fcntl(fd.get(), F_DUPFD_CLOEXEC, kFirstAbove));
}

Fd open_above_stdio(int dir, const char* path, int flags, mode_t mode) {
  int fd;
  do {
    fd = openat(dir, path, flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return above_stdio(Fd(fd));
}

void fill_stdio() {
  for (int wanted = 0; wanted < kFirstAbove; ++wanted) {
    if (fcntl(wanted, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest free number is the wanted one.
    if (open_nothing() < 0) return;
  }
}

}  // namespace modelpool
