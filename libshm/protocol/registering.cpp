#include "protocol/registering.hpp"

#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "base/proc.hpp"
#include "base/user.hpp"
#include "protocol/backend_of.hpp"
#include "protocol/worker.hpp"

namespace modelpool {
namespace {

tl::unexpected<Error> refuse_process(pid_t pid, const std::string& why) {
  return fail(Errc::kInvalid, "unable to register process " + std::to_string(pid) + ": " + why);
}

// Rows that name this process. Of those left by a program that it has executed another one since.
struct WorkerRows {
  std::vector<std::pair<std::uint32_t, std::uint64_t>> left;  // row, its state word
  bool is_worker = false;
};

WorkerRows find_worker_rows(const Segment& segment, pid_t pid) {
  WorkerRows rows;
  for (std::uint32_t i = 0; i < segment.workers_reached(); ++i) {
    const WorkerRecord& row = segment.worker(i);
    const std::uint64_t state = row.state.load(std::memory_order_seq_cst);
    if (low_half(state) == 0) continue;
    if (row.pid.load(std::memory_order_acquire) != static_cast<std::uint32_t>(pid)) continue;
    if (worker_liveness(segment, i, true) == Liveness::kDead) {
      rows.left.emplace_back(i, state);
    } else {
      rows.is_worker = true;
    }
  }
  return rows;
}

// Has it attached since? Only compares words: the caller holds the mutex.
bool has_attached_since(const Segment& segment, pid_t pid, const WorkerRows& rows) {
  for (std::uint32_t i = 0; i < segment.workers_reached(); ++i) {
    const WorkerRecord& row = segment.worker(i);
    const std::uint64_t state = row.state.load(std::memory_order_seq_cst);
    if (low_half(state) == 0) continue;
    if (row.pid.load(std::memory_order_acquire) != static_cast<std::uint32_t>(pid)) continue;
    const std::pair<std::uint32_t, std::uint64_t> seen(i, state);
    if (std::find(rows.left.begin(), rows.left.end(), seen) == rows.left.end()) return true;
  }
  return false;
}

// Bounded: a parent is read at a time, and they may change.
constexpr int kAncestorsMax = 64;

bool leads_group(const Segment& segment, BackendRef backend) {
  return segment.backend(backend.index).group.load(std::memory_order_acquire) != 0;
}

// The backend to which it belongs, itself or by an ancestor: to end that would end this one, too
// (P2).
std::optional<BackendRef> find_backend_above(const Segment& segment, const ProcessStat& stat) {
  std::optional<ProcessStat> at = stat;
  for (int depth = 0; at && at->pid > 1 && depth < kAncestorsMax; ++depth) {
    const ProcessIdentity process{at->pid, at->start_ticks, 0};
    const auto backend = find_backend_of(segment, process, at->group, at->session);
    // One that was registered alone is no end of its children.
    if (backend && (depth == 0 || leads_group(segment, *backend))) return backend;
    at = read_stat(at->parent);
  }
  return std::nullopt;
}

tl::unexpected<Error> refuse_member(const Segment& segment, pid_t pid, BackendRef backend) {
  return refuse_process(pid, "it belongs to the backend of " +
                                 escape(segment.backend(backend.index).model.load()) +
                                 ", and would end with it; start one for each model");
}

// P7: what may never be registered, because it would be signalled one day.
Result<> check_startable(const Segment& segment, pid_t pid) {
  if (pid <= 1) return refuse_process(pid, "a backend's PID is greater than 1");
  if (pid == getpid()) return refuse_process(pid, "it is the calling process itself");
  const auto uid = read_uid(pid);
  if (!uid) {
    // Hidden, or not there: that is for the system to say.
    if (getpgid(pid) < 0) return refuse_process(pid, "there is no such process");
    const std::string hidden = hidden_processes();
    return refuse_process(pid, hidden.empty() ? "it cannot be examined" : hidden);
  }
  if (const auto stat = read_stat(pid); stat && stat->is_of_kernel)
    return refuse_process(pid, "it is a thread of the kernel's, which no signal ends");
  std::optional<ProcessStat> ancestor = read_stat(getpid());
  for (int depth = 0; ancestor && ancestor->parent > 1 && depth < kAncestorsMax; ++depth) {
    if (ancestor->parent == pid) return refuse_process(pid, "the calling process runs under it");
    ancestor = read_stat(ancestor->parent);
  }
  if (*uid != geteuid()) {
    return refuse_process(pid, "it belongs to " + user_name(*uid) + " (user " +
                                   std::to_string(*uid) + "), not to " + user_name(geteuid()));
  }
  if (static_cast<std::uint32_t>(pid) ==
          segment.coordinator().pid.load(std::memory_order_acquire) &&
      coordinator_liveness(segment) == Liveness::kAlive) {
    return refuse_process(pid, "it is the pool's coordinator");
  }
  return {};
}

// With somebody in its group or session who must live on, it is registered alone: a worker, or
// another backend.
bool is_shared_group(const Segment& segment, pid_t group) {
  const auto is_in_group = [group](const HalfWord& pid) {
    const auto process = static_cast<pid_t>(pid.load(std::memory_order_acquire));
    return process > 1 && (getpgid(process) == group || getsid(process) == group);
  };
  for (std::uint32_t i = 0; i < segment.workers_reached(); ++i) {
    const WorkerRecord& row = segment.worker(i);
    if (low_half(row.state.load(std::memory_order_seq_cst)) != 0 && is_in_group(row.pid))
      return true;
  }
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    const BackendState state = load_state(segment, i).state;
    if (state < BackendState::kStarting || !is_live(state)) continue;
    if (is_in_group(segment.backend(i).pid)) return true;
  }
  return false;
}

}  // namespace

Result<> register_process(const Segment& segment, BackendRef ticket, std::uint32_t owner,
                          pid_t pid) {
  // Opened before it is examined: what is examined is what will be signalled (P7).
  auto handle =
      pid > 1 ? ProcessHandle::open(pid) : Result<ProcessHandle>(fail(Errc::kInvalid, ""));
  if (auto ok = check_startable(segment, pid); !ok) return ok;
  const auto stat = read_stat(pid);
  if (!stat || stat->has_ended() || (handle && handle->liveness() != Liveness::kAlive)) {
    return refuse_process(pid, "it has ended");
  }
  if (!handle) return fail(handle.error());
  const WorkerRows rows = find_worker_rows(segment, pid);
  if (rows.is_worker) return refuse_process(pid, "it is a worker attached to this pool");
  if (const auto other = find_backend_above(segment, *stat))
    return refuse_member(segment, pid, *other);
  const bool whole_group = stat->group == pid && !is_shared_group(segment, pid);
  // Under the mutex: nobody registers it twice, and it does not attach meanwhile.
  auto lock = segment.lock_structure();
  if (!lock) return fail(lock.error());
  if (has_attached_since(segment, pid, rows)) {
    return refuse_process(pid, "it is a worker attached to this pool");
  }
  if (const auto other = find_backend_of(segment, handle->identity(), 0, 0)) {
    return refuse_member(segment, pid, *other);
  }
  return record_start(segment, ticket, owner, {handle->identity(), whole_group ? pid : 0, false});
}

// Who is ended by the pool must be one that the pool may end (P7, P9): the process that was started
// may have become another user's since.
Result<> check_endable(const Segment& segment, BackendRef backend) {
  const BackendRecord& record = segment.backend(backend.index);
  const ProcessIdentity process{static_cast<pid_t>(record.pid.load(std::memory_order_acquire)),
                                record.start_ticks.load(std::memory_order_acquire),
                                record.pidfd_inode.load(std::memory_order_acquire)};
  if (process.pid <= 1) return {};
  const auto uid = read_uid(process.pid);
  if (!uid || *uid == geteuid()) return {};
  const auto found = ProcessHandle::open(process);
  const bool is_spawned =
      (low_half(record.traits.load(std::memory_order_acquire)) & kTraitToken) != 0;
  if (found.liveness != Liveness::kAlive || (is_spawned && found.handle.signal(0))) return {};
  return fail(Errc::kInvalid,
              "unable to make " + escape(record.model.load()) + " ready: its process " +
                  std::to_string(process.pid) + " belongs to " + user_name(*uid) +
                  ", and nobody of this pool may end it; " +
                  (is_spawned ? "run it as " + user_name(geteuid())
                              : "let the ticket spawn it, or run it as " + user_name(geteuid())));
}

}  // namespace modelpool
