#include "between/memory_file.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace modelpool::serve {

Fd open_memory_file(const char* title, unsigned flags) {
  // Hosts with vm.memfd_noexec=2 want it; Linux before 6.3 does not know it.
  constexpr unsigned kNoExecSeal = 8;
  Fd fd(memfd_create(title, MFD_CLOEXEC | kNoExecSeal | flags));
  return fd || errno != EINVAL ? std::move(fd) : Fd(memfd_create(title, MFD_CLOEXEC | flags));
}

Result<Fd> make_memory_file(const char* title, const std::string& text) {
  Fd fd = open_memory_file(title);
  if (!fd) return fail_errno(errno, "make a file in memory");
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t bytes = write(fd.get(), text.data() + at, text.size() - at);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) return fail_errno(errno, "write a file in memory");
    at += static_cast<std::size_t>(bytes);
  }
  return fd;
}

std::string read_memory_file(const Fd& fd) {
  std::string text;
  char part[64 * 1024];
  for (;;) {
    const ssize_t bytes = pread(fd.get(), part, sizeof part, static_cast<off_t>(text.size()));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) return text;
    text.append(part, static_cast<std::size_t>(bytes));
  }
}

}  // namespace modelpool::serve
