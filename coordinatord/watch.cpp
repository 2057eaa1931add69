#include "watch.hpp"

#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/proc.hpp"
#include "base/time.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kBackends = 0;
constexpr std::uint64_t kWorkers = 1;
constexpr std::uint64_t kRetry_ns = kSecond_ns;
constexpr std::uint64_t kNamedAfter_ns = 5 * kSecond_ns;

bool is_stopped(pid_t pid) {
  const auto stat = read_stat(pid);
  return stat && (stat->state == 'T' || stat->state == 't');
}

}  // namespace

Result<Watch> Watch::make() {
  Fd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll)
    return fail_errno(errno, "create an epoll set", shortage_advice(Needs::kDescriptor, errno));
  return Watch(std::move(epoll));
}

void Watch::look(const Key& key, const ProcessIdentity& process, std::uint64_t now) {
  Entry& entry = entries_[key];
  entry.seen = true;
  if (!entry.process.is(process)) {
    // A ticket whose program could not be executed may start another process.
    by_token_.erase(entry.token);
    entry = Entry{};
    entry.process = process;
    entry.seen = true;
  }
  if (entry.ended_ns != 0 || entry.handle) return;
  auto verified = ProcessHandle::open(process);
  if (verified.liveness == Liveness::kDead) {
    entry.ended_ns = now;
  } else if (verified.liveness == Liveness::kUnknown) {
    const auto again = ProcessHandle::open(process.pid);
    if (!again && again.error().system != ESRCH) {
      complain(process.pid, Needs::kDescriptor, again.error().system);
    } else {
      name_unknown(&entry, now);
    }
    retry_ns_ = std::min(retry_ns_, now + kRetry_ns);
  } else {
    const std::uint64_t token = next_token_++;
    epoll_event event{};
    event.events =
        EPOLLIN | EPOLLONESHOT;  // others hold the same descriptor: closing ours ends nothing
    event.data.u64 = token;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, verified.handle.fd(), &event) != 0) {
      complain(process.pid, Needs::kEpollWatch, errno);
      retry_ns_ = std::min(retry_ns_, now + kRetry_ns);
      return;
    }
    // It lives after its user was read: that was its own.
    entry.was_own =
        read_uid(process.pid) == geteuid() && verified.handle.liveness() == Liveness::kAlive;
    by_token_[token] = key;
    entry.token = token;
    entry.handle = std::move(verified.handle);
  }
}

// Once, till all can be watched again: it is tried every second.
void Watch::complain(pid_t pid, Needs needed, int error) {
  is_short_ = true;
  if (has_complained_) return;
  has_complained_ = true;
  const std::string advice = shortage_advice(needed, error);
  spdlog::error(
      "unable to watch process {}: {}{}; until it can be, its end is not seen and it may get no "
      "signal",
      pid, std::strerror(error), advice.empty() ? "" : "; " + advice);
}

// Neither alive nor dead though nothing is short: /proc hides it.
void Watch::name_unknown(Entry* entry, std::uint64_t now) {
  if (entry->unknown_since_ns == 0) entry->unknown_since_ns = now;
  if (entry->was_named || now < entry->unknown_since_ns + kNamedAfter_ns) return;
  entry->was_named = true;
  const std::string hidden = hidden_processes();
  spdlog::error("unable to watch process {}: {}; its end will not be noticed", entry->process.pid,
                hidden.empty() ? "it cannot be examined" : hidden);
}

void Watch::take_ended(std::uint64_t now) {
  std::array<epoll_event, 64> events;
  for (int count = 64; count == 64;) {
    count = epoll_wait(epoll_.get(), events.data(), 64, 0);
    for (int i = 0; i < count; ++i) {
      const auto at = by_token_.find(events[static_cast<std::size_t>(i)].data.u64);
      if (at == by_token_.end()) continue;
      if (const auto entry = entries_.find(at->second); entry != entries_.end()) {
        entry->second.ended_ns = now;  // and it stays open: by it the group is known that it led
      }
      by_token_.erase(at);
    }
  }
}

void Watch::refresh(const Snapshot& snapshot) {
  retry_ns_ = kNever_ns;
  is_short_ = false;
  for (auto& [key, entry] : entries_) entry.seen = false;
  for (const WorkerView& worker : snapshot.workers) {
    look({kWorkers, pack_half(worker.ref.generation, worker.ref.index)}, worker.process,
         snapshot.now_ns);
  }
  for (const BackendView& b : snapshot.backends) {
    const bool has_process =
        b.state.state >= BackendState::kStarting && b.state.state <= BackendState::kStopping;
    if (has_process && b.process.pid > 1)
      look({kBackends, pack_ref(b.ref)}, b.process, snapshot.now_ns);
  }
  std::erase_if(stopped_workers_, [&](WorkerRef stopped) {
    const WorkerView* const worker = snapshot.find_worker(pack_worker(stopped));
    return worker == nullptr || !is_stopped(worker->process.pid);
  });
  has_complained_ &= is_short_;
  take_ended(snapshot.now_ns);
  exited_.clear();
  dead_workers_.clear();
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (!it->second.seen) {
      by_token_.erase(it->second.token);
      it = entries_.erase(it);
      continue;
    }
    if (it->second.ended_ns != 0) {
      const std::uint64_t packed = it->first.second;
      if (it->first.first == kBackends) {
        exited_.push_back({low_half(packed), high_half(packed)});
      } else {
        dead_workers_.push_back({low_half(packed), high_half(packed)});
      }
    }
    ++it;
  }
}

bool Watch::note_if_stopped(const WorkerView& worker) {
  const bool is_known = std::find(stopped_workers_.begin(), stopped_workers_.end(), worker.ref) !=
                        stopped_workers_.end();
  if (is_known || !is_stopped(worker.process.pid)) return false;
  stopped_workers_.push_back(worker.ref);
  return true;
}

void Watch::declare_dead(WorkerRef worker) {
  const auto it = entries_.find({kWorkers, pack_half(worker.generation, worker.index)});
  if (it == entries_.end()) return;
  by_token_.erase(it->second.token);
  it->second.ended_ns = now_ns();
  it->second.handle = ProcessHandle();
}

std::uint64_t Watch::ended_ns(BackendRef ref) const {
  const auto it = entries_.find({kBackends, pack_ref(ref)});
  return it == entries_.end() ? 0 : it->second.ended_ns;
}

const ProcessHandle* Watch::backend(BackendRef ref) const {
  return handle({kBackends, pack_ref(ref)});
}

const ProcessHandle* Watch::worker(WorkerRef ref) const {
  return handle({kWorkers, pack_half(ref.generation, ref.index)});
}

const ProcessHandle* Watch::handle(const Key& key) const {
  const auto it = entries_.find(key);
  const bool lives = it != entries_.end() && it->second.ended_ns == 0 && it->second.handle;
  return lives ? &it->second.handle : nullptr;
}

ProcessHandle Watch::duplicate(BackendRef ref) const {
  const auto it = entries_.find({kBackends, pack_ref(ref)});
  return it == entries_.end() ? ProcessHandle() : it->second.handle.duplicate();
}

bool Watch::was_own(BackendRef ref) const {
  const auto it = entries_.find({kBackends, pack_ref(ref)});
  return it != entries_.end() && it->second.was_own;
}

bool Watch::has_seen(BackendRef ref) const {
  const auto it = entries_.find({kBackends, pack_ref(ref)});
  return it != entries_.end() && it->second.handle;
}

}  // namespace modelpool::coordinator
