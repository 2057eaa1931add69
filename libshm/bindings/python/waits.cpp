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

void Inbox::call(std::uint64_t id, std::weak_ptr<Waits> waits) {
  const MutexLock lock(mutex_);
  calls_.push_back({id, std::move(waits)});
  static_cast<void>(eventfd_write(event_.get(), 1));
}

void Inbox::put(std::uint64_t id, Error end) {
  const MutexLock lock(mutex_);
  ends_.emplace_back(id, std::move(end));
  static_cast<void>(eventfd_write(event_.get(), 1));
}

std::vector<std::pair<std::uint64_t, Answer>> Inbox::take() {
  std::vector<Call> calls;
  std::vector<std::pair<std::uint64_t, Answer>> taken;
  {
    const MutexLock lock(mutex_);
    eventfd_t count = 0;
    static_cast<void>(eventfd_read(event_.get(), &count));
    calls = std::exchange(calls_, {});
    for (auto& [id, end] : std::exchange(ends_, {})) taken.emplace_back(id, fail(std::move(end)));
  }
  for (const Call& call : calls) {
    const std::shared_ptr<Waits> waits = call.waits.lock();
    auto answer = waits ? waits->poll(call.id) : std::nullopt;
    if (answer) taken.emplace_back(call.id, std::move(*answer));
  }
  return taken;
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
  waits_.emplace(id, Wait{std::move(pending), deadline_ns, due, false, std::move(inbox)});
  if (serving_) {
    wake_server_by(due);
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

std::optional<Answer> Waits::poll(std::uint64_t id) {
  const MutexLock lock(mutex_);
  const auto at = waits_.find(id);
  if (at == waits_.end()) return std::nullopt;
  Wait& wait = at->second;
  auto polled = wait.pending.poll();
  if (!polled || *polled) {
    Answer answer = polled ? Answer(std::move(**polled)) : fail(polled.error());
    waits_.erase(at);
    if (waits_.empty()) wake_server();  // it ends
    return answer;
  }
  wait.is_called = false;
  wait.due_ns = std::min(now_ns() + kLookEvery_ns, wait.deadline_ns);
  wake_server_by(wait.due_ns);
  return std::nullopt;
}

void Waits::cancel(std::uint64_t id) {
  const MutexLock lock(mutex_);
  waits_.erase(id);
  if (waits_.empty()) wake_server();
}

void Waits::close() {
  const MutexLock lock(mutex_);
  for (auto& [id, wait] : waits_) {
    wait.inbox->put(id, {Errc::kClosed, "unable to go on waiting: the pool was closed", 0, 0});
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

// Its sleep may be too long for that.
void Waits::wake_server_by(std::uint64_t due_ns) {
  if (due_ns >= asleep_until_ns_) return;
  asleep_until_ns_ = due_ns;
  wake_server();
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
      for (auto& [id, wait] : waits_) {
        if (wait.is_called) continue;
        if (now_ns() >= wait.due_ns || wait.pending.was_woken()) {
          wait.is_called = true;
          wait.inbox->call(id, weak_from_this());
        } else {
          next = std::min(next, wait.due_ns);
        }
      }
      if (waits_.empty()) {
        serving_ = false;
        return;
      }
      asleep_until_ns_ = next;
    }
    futex_wait(wake, seen, next);
  }
}

}  // namespace modelpool::python
