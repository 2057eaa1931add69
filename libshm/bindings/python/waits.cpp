#include "waits.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <system_error>
#include <thread>

#include "base/time.hpp"

namespace modelpool::python {

Inbox::Inbox() : event_(above_stdio(Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)))) {
  if (!event_) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Inbox::~Inbox() {
  for (auto& [id, answer] : answers_) give_back(std::move(answer));
}

void Inbox::put(std::uint64_t id, Answer answer) {
  const MutexLock lock(mutex_);
  answers_.emplace_back(id, std::move(answer));
  static_cast<void>(eventfd_write(event_.get(), 1));
}

std::vector<std::pair<std::uint64_t, Answer>> Inbox::take() {
  const MutexLock lock(mutex_);
  eventfd_t count = 0;
  static_cast<void>(eventfd_read(event_.get(), &count));
  return std::exchange(answers_, {});
}

void Inbox::drop(std::uint64_t id) {
  std::optional<Answer> dropped;
  {
    const MutexLock lock(mutex_);
    const auto found = std::find_if(answers_.begin(), answers_.end(),
                                    [&](const auto& answer) { return answer.first == id; });
    if (found == answers_.end()) return;
    dropped = std::move(found->second);
    answers_.erase(found);
  }
  give_back(std::move(*dropped));
}

void give_back(Answer answer) {
  if (!answer) return;
  if (auto* ticket = std::get_if<LoadTicket>(&*answer)) static_cast<void>(ticket->give_back());
}

Result<std::optional<Grant>> Waits::begin(std::uint64_t id, PendingAcquire pending,
                                          std::uint64_t deadline_ns, std::shared_ptr<Inbox> inbox) {
  // From the first poll to its place in the map under the mutex: a call that wakes it after that
  // poll has bumped the word before the thread, which reads the word first, comes to look here.
  const MutexLock lock(mutex_);
  if (closed_) return fail(Errc::kClosed, "unable to wait: the pool was closed");
  auto polled = pending.poll();
  if (!polled || *polled) return polled;
  const std::uint64_t due = std::min(now_ns() + kLookEvery_ns, deadline_ns);
  waits_.emplace(id, Wait{std::move(pending), deadline_ns, due, std::move(inbox)});
  if (serving_) {
    wake_server();  // its sleep may be too long for this deadline
    return std::optional<Grant>();
  }
  // Signals are for the interpreter's threads.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread([self = shared_from_this()] { self->serve(); }).detach();
    serving_ = true;
  } catch (const std::system_error& error) {
    waits_.erase(id);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return fail_errno(error.code().value(), "start the thread that waits");
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return std::optional<Grant>();
}

void Waits::cancel(std::uint64_t id) {
  const MutexLock lock(mutex_);
  waits_.erase(id);
}

void Waits::close() {
  const MutexLock lock(mutex_);
  for (auto& [id, wait] : waits_) {
    wait.inbox->put(id, fail(Errc::kClosed, "unable to go on waiting: the pool was closed"));
  }
  waits_.clear();
  closed_ = true;
  wake_server();
}

void Waits::wake_server() {
  HalfWord& wake = *wake_.load(std::memory_order_acquire);
  wake.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(wake);
}

void Waits::watch(HalfWord& wake) {
  HalfWord* const before = wake_.exchange(&wake, std::memory_order_acq_rel);
  if (before == &wake) return;
  before->fetch_add(1, std::memory_order_seq_cst);  // the server sleeps on this one
  futex_wake_all(*before);
}

void Waits::serve() {
  for (;;) {
    const HalfWord& wake = *wake_.load(std::memory_order_acquire);
    const std::uint32_t seen = wake.load(std::memory_order_seq_cst);
    std::uint64_t next = kNever_ns;
    {
      const MutexLock lock(mutex_);
      for (auto at = waits_.begin(); at != waits_.end();) {
        Wait& wait = at->second;
        const std::uint64_t now = now_ns();
        if (now >= wait.due_ns || wait.pending.was_woken()) {
          auto polled = wait.pending.poll();
          if (!polled || *polled) {
            wait.inbox->put(at->first, polled ? Answer(std::move(**polled)) : fail(polled.error()));
            at = waits_.erase(at);
            continue;
          }
          wait.due_ns = std::min(now + kLookEvery_ns, wait.deadline_ns);
        }
        next = std::min(next, wait.due_ns);
        ++at;
      }
      if (waits_.empty()) {
        serving_ = false;
        return;
      }
    }
    futex_wait(wake, seen, next);
  }
}

}  // namespace modelpool::python
