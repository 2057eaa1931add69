#include "pool/wait_fd.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/fd.hpp"
#include "base/thread.hpp"
#include "base/time.hpp"
#include "policy/line.hpp"
#include "segment/futex.hpp"

namespace modelpool {
namespace {

constexpr std::size_t kStack_bytes = 256 * 1024;

}  // namespace

Result<int> WaitFd::open() {
  const MutexLock lock(mutex_);
  if (fd_ >= 0) return fd_;
  Fd fd = above_stdio(Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)));
  if (!fd) return fail_errno(errno, "create an eventfd");
  const int number = fd.get();
  auto running = start_detached_thread(kStack_bytes,
                                       [self = shared_from_this(), number] { self->run(number); });
  if (!running) return fail(running.error());
  fd_ = fd.release();
  return fd_;
}

void WaitFd::watch(const Worker& worker) {
  HalfWord& word = worker.record().wake;
  HalfWord* const before = wake_word_.exchange(&word, std::memory_order_acq_rel);
  if (before == &word) return;
  before->fetch_add(1, std::memory_order_seq_cst);  // the thread sleeps on this one
  futex_wake_all(*before);
}

void WaitFd::stop() {
  const MutexLock lock(mutex_);
  stopped_.store(true, std::memory_order_seq_cst);
  kick();
}

WaitFd::Wait WaitFd::add(std::uint64_t due_ns) {
  const MutexLock lock(mutex_);
  const Wait wait = due_ns_.insert(due_ns_.end(), kNever_ns);
  set(wait, due_ns);
  return wait;
}

void WaitFd::set_due(Wait wait, std::uint64_t due_ns) {
  const MutexLock lock(mutex_);
  set(wait, due_ns);
}

void WaitFd::call(Wait wait) {
  const MutexLock lock(mutex_);
  if (*wait != kNever_ns) set(wait, 0);
}

void WaitFd::remove(Wait wait) {
  const MutexLock lock(mutex_);
  due_ns_.erase(wait);
}

void WaitFd::set(Wait wait, std::uint64_t due_ns) {
  *wait = due_ns;
  if (fd_ < 0 || due_ns >= asleep_until_ns_) return;
  asleep_until_ns_ = due_ns;
  kick();
}

void WaitFd::kick() {
  // Counted before the bump: one that the thread takes for a waker's costs a look, and no waker's
  // is taken for ours once both are there.
  kicks_.fetch_add(1, std::memory_order_seq_cst);
  HalfWord& word = *wake_word_.load(std::memory_order_acquire);
  word.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(word);
}

WaitFd::Look WaitFd::look(std::uint64_t now) {
  Look found;
  for (const std::uint64_t due_ns : due_ns_) {
    if (due_ns == kNever_ns) continue;
    found.any = true;
    if (due_ns <= now) {
      found.is_due = true;
    } else {
      found.next_ns = std::min(found.next_ns, due_ns);
    }
  }
  // Whoever is due and is not polled is called again.
  if (found.any) found.next_ns = std::min(found.next_ns, now + kLookEvery_ns);
  return found;
}

void WaitFd::run(int fd) {
  const HalfWord* watched = nullptr;
  std::uint32_t seen = 0;
  std::uint32_t kicks = 0;
  for (;;) {
    // seq_cst: who changes something after this load bumps the word, and the wait returns at once
    const HalfWord* const word = wake_word_.load(std::memory_order_acquire);
    const std::uint32_t now_seen = word->load(std::memory_order_seq_cst);
    const std::uint32_t now_kicks = kicks_.load(std::memory_order_seq_cst);
    const bool is_told = word != watched || now_seen - seen != now_kicks - kicks;
    watched = word;
    seen = now_seen;
    kicks = now_kicks;
    if (stopped_.load(std::memory_order_seq_cst)) break;
    std::uint64_t until = 0;
    bool is_news = false;
    {
      const MutexLock lock(mutex_);
      const Look found = look(now_ns());
      is_news = found.is_due || (is_told && found.any);
      asleep_until_ns_ = until = found.next_ns;
    }
    if (is_news) static_cast<void>(eventfd_write(fd, 1));  // full is readable too
    futex_wait(*word, seen, until);
  }
  close(fd);
}

}  // namespace modelpool
