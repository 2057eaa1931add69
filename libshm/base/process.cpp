#include "base/process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>

#include "base/proc.hpp"
#include "base/shortage.hpp"

namespace modelpool {
namespace {

constexpr long kPidfsMagic = 0x50494446;  // PID_FS_MAGIC, Linux 6.9
constexpr int kOpenAttempts = 8;
constexpr unsigned kSignalProcessGroup = 1U << 2;  // PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9

// Sets errno. ESRCH here, as everywhere, proves that no process has the PID.
Fd open_pidfd(pid_t pid) {
  for (int attempt = 0;; ++attempt) {
    Fd fd = above_stdio(Fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0U))));
    // EINVAL, or ENOENT from newer kernels, is a PID that no process has but a thread: the one that
    // had it is gone. It is also what a process reaped during the call looks like, so look again.
    if (fd || (errno != EINVAL && errno != ENOENT)) return fd;
    const int error = errno;
    // The PID is the id of a thread that does not lead its process.
    if (const auto leader = read_leader(pid); leader && *leader != pid) {
      errno = ESRCH;
      return fd;
    }
    if (attempt == kOpenAttempts) {
      errno = error;
      return fd;
    }
  }
}

// 0 where pidfds have no inode of their own: all of them share one there.
std::uint64_t pidfd_inode(int fd) {
  struct statfs filesystem {};
  struct stat file {};
  if (retry_eintr([&] { return fstatfs(fd, &filesystem); }) != 0) return 0;
  if (static_cast<long>(filesystem.f_type) != kPidfsMagic) return 0;
  if (fstat(fd, &file) != 0) return 0;
  return file.st_ino;
}

Liveness pidfd_liveness(int fd) {
  if (fd < 0) return Liveness::kUnknown;
  pollfd poll_fd{fd, POLLIN, 0};
  const int ready = retry_eintr([&poll_fd] { return ::poll(&poll_fd, 1, 0); });
  if (ready < 0) return Liveness::kUnknown;
  if (ready == 0) return Liveness::kAlive;
  return (poll_fd.revents & (POLLIN | POLLHUP)) != 0 ? Liveness::kDead : Liveness::kUnknown;
}

// Opened first, read after (invariant 1). What was read belongs to the opened process if that still
// lives afterwards, for until then nobody else can have its PID.
struct Observed {
  Liveness liveness = Liveness::kUnknown;
  Fd fd;
  ProcessIdentity identity;
  int error = 0;  // an errno, unless alive
};

Observed observe(pid_t pid) {
  Observed seen;
  seen.fd = open_pidfd(pid);
  if (!seen.fd) {
    seen.error = errno;
    if (seen.error == ESRCH) seen.liveness = Liveness::kDead;
    return seen;
  }
  seen.identity.pid = pid;
  seen.identity.pidfd_inode = pidfd_inode(seen.fd.get());
  const std::optional<ProcessStat> stat = read_stat(pid);
  const int error = errno;
  if (stat) seen.identity.start_ticks = stat->start_ticks;
  const Liveness after = pidfd_liveness(seen.fd.get());
  if (after == Liveness::kDead) {
    seen.liveness = Liveness::kDead;
    seen.error = ESRCH;
  } else if (after == Liveness::kAlive && stat) {
    seen.liveness = Liveness::kAlive;
  } else {
    seen.error = error;  // alive, but not to be read: /proc is hidden or descriptors ran out
  }
  return seen;
}

// The identity of this process, in a page that reads as zeros in a forked child: there is no moment
// at which fork could copy an identity that is not the child's, nor a lock in the wrong state.
struct OwnPage {
  std::atomic<std::uint64_t> pid;  // 0: not known yet. Stored last, release; loaded first, acquire.
  std::atomic<std::uint64_t> start_ticks;
  std::atomic<std::uint64_t> pidfd_inode;
};

// Null if there is no such page to be had; the identity is then found anew each time.
OwnPage* own_page() {
  static std::atomic<OwnPage*> published{nullptr};
  // Acquire and release: a thread that sees the pointer sees a page that is set up.
  if (OwnPage* page = published.load(std::memory_order_acquire)) return page;
  void* memory =
      mmap(nullptr, sizeof(OwnPage), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  OwnPage* page = nullptr;
  if (madvise(memory, sizeof(OwnPage), MADV_WIPEONFORK) == 0) {
    OwnPage* const fresh = new (memory) OwnPage{};
    if (published.compare_exchange_strong(page, fresh, std::memory_order_acq_rel)) return fresh;
  }
  munmap(memory, sizeof(OwnPage));
  return page;  // another thread's, or null
}

}  // namespace

bool leads_threads(pid_t pid) { return syscall(SYS_tgkill, pid, pid, 0) == 0 || errno != ESRCH; }

Result<ProcessHandle> ProcessHandle::open(pid_t pid) {
  if (pid <= 1) {
    return fail(Errc::kInvalid, "unable to open process " + std::to_string(pid) +
                                    ": PIDs from 2 on name one; check where this one came from");
  }
  Observed seen = observe(pid);
  if (seen.liveness != Liveness::kAlive) {
    return fail_errno(seen.error, "open process " + std::to_string(pid));
  }
  return ProcessHandle(std::move(seen.fd), seen.identity);
}

ProcessHandle::Verified ProcessHandle::open(const ProcessIdentity& expected) {
  if (expected.pid <= 0) return {};
  Observed seen = observe(expected.pid);
  const bool is_hidden = seen.liveness == Liveness::kUnknown && seen.fd &&
                         expected.pidfd_inode != 0 &&
                         pidfd_liveness(seen.fd.get()) == Liveness::kAlive;
  if (is_hidden && seen.identity.pidfd_inode == expected.pidfd_inode) {
    return {Liveness::kAlive, ProcessHandle(std::move(seen.fd), expected)};
  }
  if (seen.liveness != Liveness::kAlive) return {seen.liveness, {}};
  if (!seen.identity.is(expected)) {
    // A start time of 0 was never known (own_identity) and contradicts nothing.
    const bool unknown =
        expected.start_ticks == 0 && (expected.pidfd_inode == 0 || seen.identity.pidfd_inode == 0 ||
                                      expected.pidfd_inode == seen.identity.pidfd_inode);
    return {unknown ? Liveness::kUnknown : Liveness::kDead, {}};
  }
  return {Liveness::kAlive, ProcessHandle(std::move(seen.fd), seen.identity)};
}

ProcessHandle ProcessHandle::open_zombie(const ProcessIdentity& expected) {
  if (expected.pid <= 1) return {};
  Fd fd = open_pidfd(expected.pid);
  if (!fd) return {};
  // A zombie that is reaped after this leaves a number that may be another's: read before that, its
  // start time belongs to the one that is held, and the inode in any case.
  const auto stat = read_stat(expected.pid);
  const ProcessIdentity found{expected.pid, stat ? stat->start_ticks : 0, pidfd_inode(fd.get())};
  if (!stat || !found.is(expected)) return {};
  return ProcessHandle(std::move(fd), found);
}

Result<ProcessHandle> ProcessHandle::open_child(pid_t pid) {
  Fd fd = open_pidfd(pid);
  if (!fd) return fail_errno(errno, "open process " + std::to_string(pid));
  const auto stat = read_stat(pid);
  const ProcessIdentity found{pid, stat ? stat->start_ticks : 0, pidfd_inode(fd.get())};
  return ProcessHandle(std::move(fd), found);
}

ProcessHandle ProcessHandle::duplicate() const {
  Fd copy(fd_ ? fcntl(fd_.get(), F_DUPFD_CLOEXEC, 3) : -1);
  if (!copy) return {};
  return ProcessHandle(std::move(copy), identity_);
}

Liveness ProcessHandle::liveness() const { return pidfd_liveness(fd_.get()); }

Result<> ProcessHandle::signal(int signal) const {
  // PID 1 can be looked at, as the coordinator of a container, but never signalled.
  if (!fd_ || identity_.pid <= 1) {
    return fail(Errc::kInvalid, "unable to signal process " + std::to_string(identity_.pid) +
                                    ": it is none that may be signalled; open another");
  }
  if (syscall(SYS_pidfd_send_signal, fd_.get(), signal, nullptr, 0U) == 0) return {};
  return fail_errno(errno, "send signal " + std::to_string(signal) + " to process " +
                               std::to_string(identity_.pid));
}

Result<> ProcessHandle::signal_group(int signal) const {
  if (!fd_ || identity_.pid <= 1) {
    return fail(Errc::kInvalid, "unable to signal process group " + std::to_string(identity_.pid) +
                                    ": it is none that may be signalled; open another");
  }
  if (syscall(SYS_pidfd_send_signal, fd_.get(), signal, nullptr, kSignalProcessGroup) == 0)
    return {};
  return fail_errno(errno, "send signal " + std::to_string(signal) + " to process group " +
                               std::to_string(identity_.pid));
}

Liveness process_liveness(const ProcessIdentity& identity) {
  return ProcessHandle::open(identity).liveness;
}

ProcessIdentity own_identity() {
  OwnPage* const page = own_page();
  if (page != nullptr) {
    // Acquire: pairs with the release below, after which the other two words are there. They may be
    // relaxed since every thread that stores them stores the same.
    if (const std::uint64_t pid = page->pid.load(std::memory_order_acquire); pid != 0) {
      return {static_cast<pid_t>(pid), page->start_ticks.load(std::memory_order_relaxed),
              page->pidfd_inode.load(std::memory_order_relaxed)};
    }
  }
  Observed seen = observe(getpid());
  if (seen.liveness != Liveness::kAlive) {
    // Out of descriptors or /proc: what is known, and another try at the next call.
    seen.identity.pid = getpid();
    return seen.identity;
  }
  if (page != nullptr) {
    page->start_ticks.store(seen.identity.start_ticks, std::memory_order_relaxed);
    page->pidfd_inode.store(seen.identity.pidfd_inode, std::memory_order_relaxed);
    page->pid.store(static_cast<std::uint64_t>(seen.identity.pid), std::memory_order_release);
  }
  return seen.identity;
}

Result<> check_process_access() {
  const auto refused = [](int error, const std::string& what, const std::string& advice) {
    Error failure = fail_errno(error, "follow processes with " + what, advice).value();
    const bool lasts = error == EPERM || error == EACCES || error == ENOSYS || error == ENOENT;
    if (lasts) failure.code = Errc::kPermission;
    return fail(std::move(failure));
  };
  const Fd self = open_pidfd(getpid());
  if (!self) {
    const bool is_full = errno == EMFILE || errno == ENFILE;
    return refused(errno, "pidfd_open",
                   is_full ? shortage_advice(Needs::kDescriptor, errno)
                           : "allow pidfd_open and pidfd_send_signal in the seccomp profile; Linux "
                             "5.4 is the oldest kernel that has them");
  }
  if (syscall(SYS_pidfd_send_signal, self.get(), 0, nullptr, 0U) != 0) {
    return refused(errno, "pidfd_send_signal", "allow it in the seccomp profile");
  }
  const std::optional<pid_t> shown = read_own_pid();
  if (!shown) return refused(errno, own_proc_path(), proc_advice(errno));
  if (shown != getpid()) {
    return fail(Errc::kPermission,
                "unable to follow processes with /proc: it shows another PID namespace; mount the "
                "one of this namespace");
  }
  if (read_proc(getpid(), "stat")) return {};
  return refused(errno, own_proc_path("stat"), proc_advice(errno));
}

std::uint64_t image_id() {
  const void* const random = reinterpret_cast<const void*>(getauxval(AT_RANDOM));
  if (random == nullptr) return 0;  // no Linux that this builds for
  std::uint64_t words[2];
  std::memcpy(words, random, sizeof words);
  // The stack guard is made of the first word and the pointer guard is the second: their mixture
  // gives neither away.
  return words[0] ^ words[1] * 0x9e3779b97f4a7c15;
}

}  // namespace modelpool
