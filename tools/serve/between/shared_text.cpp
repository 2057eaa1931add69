#include "between/shared_text.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include "between/memory_file.hpp"

namespace modelpool::serve {
namespace {

using std::chrono::nanoseconds;

constexpr std::size_t kHead_bytes = 4096;

}  // namespace

SharedText::SharedText() : fd_(open_memory_file("poolserve shared text")) {
  if (!fd_ || ftruncate(fd_.get(), kHead_bytes) != 0) return;
  void* const page = mmap(nullptr, kHead_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (page != MAP_FAILED) head_ = static_cast<Head*>(page);
}

SharedText::~SharedText() {
  if (head_ != nullptr) munmap(head_, kHead_bytes);
}

// Of the process, not of the file as it is open: of all that have it from the same fork one has it.
bool SharedText::lock(short kind) {
  struct flock whole {};
  whole.l_type = kind;
  whole.l_whence = SEEK_SET;
  return fcntl(fd_.get(), F_SETLK, &whole) == 0;
}

bool SharedText::begin() { return head_ == nullptr || lock(F_WRLCK); }

void SharedText::end() {
  if (head_ != nullptr) lock(F_UNLCK);
}

// seq_cst, all: a reader sees by the number, before and after, that nobody wrote meanwhile
bool SharedText::is_newer(TimePoint than) const {
  return head_ != nullptr && head_->sequence.load() % 2 == 0 && head_->since_ns.load() != 0 &&
         TimePoint(nanoseconds(head_->since_ns.load())) > than;
}

std::optional<SharedText::Made> SharedText::read() const {
  if (head_ == nullptr) return std::nullopt;
  const std::uint64_t before = head_->sequence.load();
  const std::int64_t since_ns = head_->since_ns.load();
  if (before % 2 != 0 || since_ns == 0) return std::nullopt;
  Made made{std::string(head_->bytes.load(), '\0'), TimePoint(nanoseconds(since_ns))};
  for (std::size_t at = 0; at < made.text.size();) {
    const ssize_t bytes = pread(fd_.get(), made.text.data() + at, made.text.size() - at,
                                static_cast<off_t>(kHead_bytes + at));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) return std::nullopt;
    at += static_cast<std::size_t>(bytes);
  }
  if (head_->sequence.load() != before) return std::nullopt;
  return made;
}

void SharedText::write(const Made& made) {
  if (head_ == nullptr) return;
  const std::uint64_t odd = head_->sequence.load() | 1;  // as it is where a writer died
  head_->sequence.store(odd);
  for (std::size_t at = 0; at < made.text.size();) {
    const ssize_t bytes = pwrite(fd_.get(), made.text.data() + at, made.text.size() - at,
                                 static_cast<off_t>(kHead_bytes + at));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) return;  // for want of memory: it stays odd, and each makes its own
    at += static_cast<std::size_t>(bytes);
  }
  head_->bytes.store(made.text.size());
  head_->since_ns.store(nanoseconds(made.since.time_since_epoch()).count());
  head_->sequence.store(odd + 1);
}

}  // namespace modelpool::serve
