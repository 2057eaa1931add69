#include "bell.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/shortage.hpp"

namespace modelpool::coordinator {
namespace {

constexpr int kTriesMax = 4;

}  // namespace

Result<Bell> Bell::make() {
  Fd fd = above_stdio(Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
  if (fd) return Bell(std::move(fd));
  return fail_errno(errno, "create an eventfd", shortage_advice(Needs::kDescriptor, errno));
}

void Bell::ring() const {
  const std::uint64_t one = 1;
  for (int i = 0; i < kTriesMax; ++i) {
    if (write(fd_.get(), &one, sizeof one) == sizeof one) return;
  }
}

void Bell::drain() const {
  std::uint64_t count;
  static_cast<void>(!read(fd_.get(), &count, sizeof count));
}

}  // namespace modelpool::coordinator
