#include "wait_fd.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/time.hpp"

namespace modelpool::c {
namespace {

constexpr std::size_t kStack_bytes = 256 * 1024;

}  // namespace

Result<std::shared_ptr<WaitFd>> WaitFd::start(const HalfWord& wake_word,
                                              std::function<Outlook()> outlook) {
  const std::shared_ptr<WaitFd> started(new WaitFd(wake_word, std::move(outlook)));
  Fd fd = above_stdio(Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)));
  if (!fd) return fail_errno(errno, "create an eventfd");
  started->fd_ = fd.get();

  auto mine = std::make_unique<std::shared_ptr<WaitFd>>(started);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kStack_bytes);
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited by the thread
  pthread_t thread;
  const int error = pthread_create(
      &thread, &attributes,
      [](void* argument) -> void* {
        const std::unique_ptr<std::shared_ptr<WaitFd>> self(
            static_cast<std::shared_ptr<WaitFd>*>(argument));
        (*self)->run();
        return nullptr;
      },
      mine.get());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (error != 0) return fail_errno(error, "start the thread that serves the wait fd");
  static_cast<void>(mine.release());  // the thread's now
  static_cast<void>(fd.release());
  return started;
}

void WaitFd::kick() const {
  // The word lies in the worker's own row, which is mapped for writing.
  const_cast<HalfWord&>(wake_word_).fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(wake_word_);
}

void WaitFd::stop() {
  stopped_.store(true, std::memory_order_seq_cst);
  kick();
}

void WaitFd::run() {
  for (;;) {
    // seq_cst: who changes something after this load bumps the word, and the wait returns at once
    const std::uint32_t seen = wake_word_.load(std::memory_order_seq_cst);
    if (stopped_.load(std::memory_order_seq_cst)) break;
    const Outlook outlook = outlook_();
    if (outlook.any) static_cast<void>(eventfd_write(fd_, 1));  // full is readable too
    futex_wait(wake_word_, seen,
               outlook.any ? std::min(outlook.deadline_ns, now_ns() + kLookEvery_ns) : kNever_ns);
  }
  close(fd_);
}

}  // namespace modelpool::c
