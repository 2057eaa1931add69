// Who a process is. A PID alone names nobody: it is reused. An identity is PID, start time and,
// where pidfds carry one (Linux 6.9), the inode of the pidfd.
//
// Safety: no shared state; every function may be called from any thread. Not async-signal-safe.
//
// Invariants (P7):
//  1. Open first, compare after: a verified handle refers to the compared process for ever.
//  2. Only ESRCH, a readable pidfd or a mismatch proves death; other errors prove nothing.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <utility>

#include "base/fd.hpp"
#include "modelpool/result.hpp"

namespace modelpool {

struct ProcessIdentity {
  pid_t pid = 0;
  std::uint64_t start_ticks = 0;  // since boot, field 22 of /proc/PID/stat
  std::uint64_t pidfd_inode = 0;  // 0 where the kernel has none

  // An inode of 0 on either side is unknown and does not tell them apart.
  bool is(const ProcessIdentity& other) const {
    return pid == other.pid && start_ticks == other.start_ticks &&
           (pidfd_inode == 0 || other.pidfd_inode == 0 || pidfd_inode == other.pidfd_inode);
  }
};

bool leads_threads(pid_t pid);  // is it the number of a process, and not of one of its threads?

enum class Liveness { kAlive, kDead, kUnknown };

// A process, held by pidfd: it cannot turn into another one.
class ProcessHandle {
 public:
  ProcessHandle() = default;

  // The process that has this PID now. Errors: kInvalid for pid <= 1, kSystem (ESRCH, EMFILE...).
  static Result<ProcessHandle> open(pid_t pid);

  struct Verified;
  // The process of that identity, or the proof that it is dead, or neither (invariant 2). Neither
  // also for pid <= 0, which names no process whose death could be proved. Where /proc hides the
  // process, the inode of its pidfd is identity enough.
  static Verified open(const ProcessIdentity& expected);
  // The same, of a process that has ended and that its parent has not reaped: while it is held, its
  // group can be signalled. Without a process if there is no such zombie.
  static ProcessHandle open_zombie(const ProcessIdentity& expected);
  // A child that nobody has reaped, ended or not: its PID is its own until then.
  static Result<ProcessHandle> open_child(pid_t pid);
  ProcessHandle duplicate() const;  // without a process if there are no descriptors

  const ProcessIdentity& identity() const { return identity_; }
  int fd() const { return fd_.get(); }
  explicit operator bool() const { return static_cast<bool>(fd_); }

  Liveness liveness() const;  // a pidfd is readable when the whole thread group is gone
  // Errors: kSystem, ESRCH when it is gone already; kInvalid without a process or for PID 1 (P7).
  Result<> signal(int signal) const;
  // To everyone in the process group that this process leads or led, at once: no fork escapes it.
  // Exact also when the process has ended and its number is used again. Signal 0 only asks whether
  // the group has members (zombies count). Errors: kSystem, ESRCH for an empty group, EINVAL before
  // Linux 6.9.
  Result<> signal_group(int signal) const;

 private:
  ProcessHandle(Fd fd, ProcessIdentity identity) : fd_(std::move(fd)), identity_(identity) {}
  Fd fd_;
  ProcessIdentity identity_;
};

struct ProcessHandle::Verified {
  Liveness liveness = Liveness::kUnknown;
  ProcessHandle handle;  // set if alive
};

Liveness process_liveness(const ProcessIdentity& identity);

// Of the calling process; renewed after fork, without a lock that fork could leave held. In a child
// that shares its parent's memory (vfork) it is the parent's. start_ticks is 0 if /proc cannot be
// read: such an identity cannot be verified and should not be published.
ProcessIdentity own_identity();

// Can processes be followed and signalled here? Errors: kPermission or kSystem, naming what stands
// in the way (pidfds refused by seccomp, /proc not mounted or another namespace's) and what to do.
Result<> check_process_access();

// Differs between any two programs a process executes one after the other (AT_RANDOM): the library
// loaded twice in one image agrees on it, an image replaced by exec does not. Folded, because the C
// library makes its stack and pointer guards of the same bytes and this number is published.
std::uint64_t image_id();

}  // namespace modelpool
