// Tells which process has ended: one pidfd for each attached worker and each registered process of
// a backend.
//
// Safety: one thread.
//
// Crash: holds nothing but descriptors; the next coordinator opens them anew.
//
// Errors: a process that cannot be opened for want of descriptors or memory, or that /proc hides,
// is neither alive nor dead (P7): it is looked at again by retry_ns(). The log names it: a shortage
// at once, a hidden one if that lasts.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/shortage.hpp"
#include "protocol/snapshot.hpp"

namespace modelpool::coordinator {

class Watch {
 public:
  static Result<Watch> make();

  // Opens what the snapshot has and this does not watch yet, drops what is not there any more, and
  // takes in what has ended.
  void refresh(const Snapshot& snapshot);

  int fd() const { return epoll_.get(); }  // readable when a process has ended
  const std::vector<BackendRef>& exited() const { return exited_; }
  // When the end of a backend's process was noticed; 0 if it was not.
  std::uint64_t ended_ns(BackendRef ref) const;
  const std::vector<WorkerRef>& dead_workers() const { return dead_workers_; }
  // Workers that were found stopped and still are (SIGSTOP, a debugger).
  const std::vector<WorkerRef>& stopped_workers() const { return stopped_workers_; }
  // Looks whether it is; returns true if it is and was not known to be.
  bool note_if_stopped(const WorkerView& worker);
  // A worker found dead by other evidence: its process has executed another program.
  void declare_dead(WorkerRef worker);
  // The verified handle of a backend's registered process; null if it has ended or is not known.
  const ProcessHandle* backend(BackendRef ref) const;
  const ProcessHandle* worker(WorkerRef ref) const;  // the same of a worker
  // A descriptor of one's own to a backend's registered process, also when it has ended; none if
  // this has never seen it alive.
  ProcessHandle duplicate(BackendRef ref) const;
  bool has_seen(BackendRef ref) const;  // alive
  bool was_own(BackendRef ref) const;   // it ran as this user when it was first seen
  std::uint64_t retry_ns() const { return retry_ns_; }

 private:
  using Key = std::pair<std::uint64_t, std::uint64_t>;  // kind, packed reference
  struct Entry {
    ProcessIdentity process;
    ProcessHandle handle;
    std::uint64_t token = 0;             // of its epoll events
    std::uint64_t ended_ns = 0;          // when that was noticed; 0 = it has not
    std::uint64_t unknown_since_ns = 0;  // can be neither opened nor proved dead
    bool was_named = false;              // in the log, for that
    bool was_own = false;
    bool seen = false;
  };

  explicit Watch(Fd epoll) : epoll_(std::move(epoll)) {}
  void look(const Key& key, const ProcessIdentity& process, std::uint64_t now);
  void complain(pid_t pid, Needs needed, int error);
  void take_ended(std::uint64_t now);
  const ProcessHandle* handle(const Key& key) const;
  void name_unknown(Entry* entry, std::uint64_t now);

  Fd epoll_;
  std::map<Key, Entry> entries_;
  std::map<std::uint64_t, Key> by_token_;  // of epoll events
  std::uint64_t next_token_ = 1;
  std::uint64_t retry_ns_ = kNever_ns;
  bool is_short_ = false;  // of descriptors or watches, in this look
  bool has_complained_ = false;
  std::vector<BackendRef> exited_;
  std::vector<WorkerRef> dead_workers_;
  std::vector<WorkerRef> stopped_workers_;
};

}  // namespace modelpool::coordinator
