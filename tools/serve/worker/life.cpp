#include "worker/life.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace modelpool::serve {
namespace {

using std::chrono::milliseconds;

// How long a process may take to end after its connections, and the pool to see it.
constexpr milliseconds kDeath{50};
constexpr milliseconds kDeathSeen{2'000};
constexpr milliseconds kLook{10};

}  // namespace

BackendLife::BackendLife(Lease& lease) : lease_(lease) {
  if (lease.pid() > 0) process_ = Fd(static_cast<int>(syscall(SYS_pidfd_open, lease.pid(), 0)));
}

bool BackendLife::has_ended() const {
  pollfd end{process_.get(), POLLIN, 0};
  if (process_) return ::poll(&end, 1, 0) == 1;
  return lease_.pid() > 0 && kill(lease_.pid(), 0) != 0;
}

Task<bool> BackendLife::is_over(Executor executor) const {
  const TimePoint began = Clock::now();
  for (;;) {
    const auto progress = lease_.progress();
    if (!progress && progress.error().code == Errc::kLeaseLost) co_return true;
    if (Clock::now() - began > (has_ended() ? kDeathSeen : kDeath)) co_return false;
    co_await pause(executor, kLook);
  }
}

}  // namespace modelpool::serve
