#include "between/lineage.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "between/memory_file.hpp"

namespace modelpool::serve {

Result<std::shared_ptr<Lineage>> Lineage::make() {
  Fd fd = open_memory_file("poolserve lineage", MFD_ALLOW_SEALING);
  if (!fd || ftruncate(fd.get(), sizeof(Words)) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno(errno, "make memory for workers to share");
  }
  return join(std::move(fd));
}

Result<std::shared_ptr<Lineage>> Lineage::join(Fd fd) {
  struct stat file {};
  if (fstat(fd.get(), &file) != 0 || file.st_size != sizeof(Words))
    return fail(Errc::kIncompatible, "unable to share memory with workers of another version");
  void* const page = mmap(nullptr, sizeof(Words), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (page == MAP_FAILED) return fail_errno(errno, "map the memory that workers share");
  return std::shared_ptr<Lineage>(new Lineage(std::move(fd), static_cast<Words*>(page)));
}

Lineage::~Lineage() { munmap(words_, sizeof(Words)); }

void Lineage::take_back(std::uint32_t number) {
  std::uint32_t seen = words_->serving.load();
  // Not where a later one serves by now: that ends this one, too.
  if (seen > number && !may_end(number)) words_->serving.compare_exchange_strong(seen, number);
}

void Lineage::raise(std::atomic<std::uint32_t>& word, std::uint32_t number) {
  std::uint32_t seen = word.load();
  while (seen < number && !word.compare_exchange_weak(seen, number)) {
  }
}

}  // namespace modelpool::serve
