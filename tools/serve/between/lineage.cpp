#include "between/lineage.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

namespace modelpool::serve {

Result<std::shared_ptr<Lineage>> Lineage::make() {
  Fd fd(memfd_create("poolserve-lineage", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ftruncate(fd.get(), sizeof(Words)) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno(errno, "make memory for workers to share");
  }
  return join(std::move(fd));
}

Result<std::shared_ptr<Lineage>> Lineage::join(Fd fd) {
  void* const page = mmap(nullptr, sizeof(Words), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (page == MAP_FAILED) return fail_errno(errno, "map the memory that workers share");
  return std::shared_ptr<Lineage>(new Lineage(std::move(fd), static_cast<Words*>(page)));
}

Lineage::~Lineage() { munmap(words_, sizeof(Words)); }

void Lineage::serves(std::uint32_t number) {
  std::uint32_t seen = words_->serving.load();
  while (seen < number && !words_->serving.compare_exchange_weak(seen, number)) {
  }
}

}  // namespace modelpool::serve
