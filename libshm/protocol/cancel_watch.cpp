#include "protocol/cancel_watch.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "base/thread.hpp"
#include "base/time.hpp"
#include "policy/line.hpp"
#include "segment/futex.hpp"

namespace modelpool {
namespace {

constexpr std::size_t kStack_bytes = 256 * 1024;  // callbacks run on it

}  // namespace

CancelWatch& CancelWatch::of(Worker& worker) {
  std::atomic<CancelWatch*>& place = worker.cancel_watch();
  // acquire: pairs with the release below, by whoever made it
  CancelWatch* found = place.load(std::memory_order_acquire);
  if (found != nullptr) return *found;
  auto* const fresh = new CancelWatch(worker);
  if (place.compare_exchange_strong(found, fresh, std::memory_order_acq_rel)) return *fresh;
  delete fresh;
  return *found;
}

Result<> CancelWatch::call(const LeaseRef& lease, std::function<void()> callback) {
  return add({lease, std::make_shared<const std::function<void()>>(std::move(callback))});
}

Result<> CancelWatch::write_to(const LeaseRef& lease, int fd, std::uint64_t number) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY || (flags & O_NONBLOCK) == 0) {
    return fail(Errc::kInvalid, "unable to tell descriptor " + std::to_string(fd) +
                                    " of a cancellation: it must be open for writing, and "
                                    "O_NONBLOCK; an eventfd with EFD_NONBLOCK is meant");
  }
  return add({lease, nullptr, fd, number});
}

Result<> CancelWatch::add(Watched watched) {
  const LeaseRef lease = watched.lease;
  {
    const MutexLock lock(mutex_);
    const auto at = watched_.emplace(lease.cell, std::move(watched));
    if (!serving_) {
      if (auto started = start_detached_thread(kStack_bytes, [this] { serve(); }); !started) {
        watched_.erase(at);
        return started;
      }
      serving_ = true;
    }
  }
  say_cancellable(lease);
  // Asked before the thread knew of it: whoever asks later bumps the words after this look.
  if (!is_asked(lease)) return {};
  WorkerRecord& row = worker_.record();
  row.cancels.fetch_add(1, std::memory_order_seq_cst);
  row.wake.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(row.wake);
  return {};
}

void CancelWatch::forget(const LeaseRef& lease) {
  bool was_told = false;
  {
    const MutexLock lock(mutex_);
    const auto [first, last] = watched_.equal_range(lease.cell);
    for (auto at = first; at != last; ++at) was_told |= at->second.is_told && at->second.callback;
    watched_.erase(first, last);
  }
  // Its callback may run right now, on another thread.
  if (was_told) const std::lock_guard<std::recursive_mutex> done(calling_);
}

void CancelWatch::serve() {
  const WorkerRecord& row = worker_.record();
  // Before the first look: whoever asks after that bumps it.
  std::uint32_t told = row.cancels.load(std::memory_order_seq_cst);
  tell();
  std::uint64_t look_at_ns = now_ns() + kLookEvery_ns;
  for (;;) {
    // The word, then what it stands for: whoever asks after these loads bumps it.
    const std::uint32_t seen = row.wake.load(std::memory_order_seq_cst);
    const std::uint32_t cancels = row.cancels.load(std::memory_order_seq_cst);
    const bool is_due = now_ns() >= look_at_ns;  // whoever asked may have died before the bump
    if (cancels != told || is_due) {
      told = cancels;
      tell();
      look_at_ns = now_ns() + kLookEvery_ns;
    }
    if (is_due) {
      const MutexLock lock(mutex_);
      if (watched_.empty()) {
        serving_ = false;
        return;
      }
    }
    futex_wait(row.wake, seen, look_at_ns);
  }
}

void CancelWatch::tell() {
  {
    const MutexLock lock(mutex_);
    write_all();
  }
  while (call_next()) {
  }
}

void CancelWatch::write_all() {
  for (auto& [cell, watched] : watched_) {
    if (watched.fd < 0 || watched.is_told || !is_asked(watched.lease)) continue;
    const ssize_t written = write(watched.fd, &watched.number, sizeof watched.number);
    watched.is_told = written >= 0 || errno != EAGAIN;  // what is full is tried again
  }
}

// The first callback of a lease that is asked, and that was not made yet; false if there is none.
bool CancelWatch::call_next() {
  // Before the other mutex, which a callback takes that releases its lease.
  const std::lock_guard<std::recursive_mutex> calling(calling_);
  std::shared_ptr<const std::function<void()>> callback;
  {
    const MutexLock lock(mutex_);
    auto at = watched_.begin();
    while (at != watched_.end() &&
           (!at->second.callback || at->second.is_told || !is_asked(at->second.lease)))
      ++at;
    if (at == watched_.end()) return false;
    at->second.is_told = true;
    callback = at->second.callback;
  }
  (*callback)();
  callback.reset();  // what it holds goes before its lease may
  return true;
}

}  // namespace modelpool
