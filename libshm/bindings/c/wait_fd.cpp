#include "wait_fd.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/fd.hpp"
#include "base/thread.hpp"
#include "base/time.hpp"

namespace modelpool::c {
namespace {

constexpr std::size_t kStack_bytes = 256 * 1024;

}  // namespace

Result<std::shared_ptr<WaitFd>> WaitFd::start(const HalfWord& wake_word,
                                              std::function<WaitsAhead()> outlook) {
  const std::shared_ptr<WaitFd> started(new WaitFd(wake_word, std::move(outlook)));
  Fd fd = above_stdio(Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)));
  if (!fd) return fail_errno(errno, "create an eventfd");
  started->fd_ = fd.get();

  if (auto running = start_detached_thread(kStack_bytes, [started] { started->run(); }); !running) {
    return fail(running.error());
  }
  static_cast<void>(fd.release());
  return started;
}

void WaitFd::kick(const HalfWord& wake_word) {
  // The thread sleeps on the one before.
  const HalfWord& before = *wake_word_.exchange(&wake_word, std::memory_order_acq_rel);
  // The word lies in the worker's own row, which is mapped for writing.
  const_cast<HalfWord&>(before).fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(before);
}

void WaitFd::stop() {
  stopped_.store(true, std::memory_order_seq_cst);
  kick(*wake_word_.load(std::memory_order_acquire));
}

void WaitFd::run() {
  for (;;) {
    // seq_cst: who changes something after this load bumps the word, and the wait returns at once
    const HalfWord& wake_word = *wake_word_.load(std::memory_order_acquire);
    const std::uint32_t seen = wake_word.load(std::memory_order_seq_cst);
    if (stopped_.load(std::memory_order_seq_cst)) break;
    const WaitsAhead outlook = outlook_();
    if (outlook.any) static_cast<void>(eventfd_write(fd_, 1));  // full is readable too
    futex_wait(wake_word, seen,
               outlook.any ? std::min(outlook.deadline_ns, now_ns() + kLookEvery_ns) : kNever_ns);
  }
  close(fd_);
}

}  // namespace modelpool::c
