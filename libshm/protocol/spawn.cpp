#include "protocol/spawn.hpp"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <utility>

#include "base/duration.hpp"
#include "base/proc.hpp"
#include "base/shortage.hpp"
#include "base/thread.hpp"
#include "base/time.hpp"
#include "modelpool/pool.hpp"
#include "segment/layout.hpp"
#include "segment/segment.hpp"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

namespace modelpool {
namespace {

constexpr std::size_t kChildStack_bytes = 64 * 1024;
constexpr std::size_t kReaperStack_bytes = 64 * 1024;
// A working directory or a program in a file system that does not answer: then the child is ended.
constexpr std::uint64_t kExecuteMax_ns = 10 * kSecond_ns;
constexpr std::uint64_t kEndMax_ns = 2 * kSecond_ns;  // from SIGKILL to a dead child
// For the kernel to put the new program's environment in place, which takes it microseconds.
constexpr std::uint64_t kEnvironmentMax_ns = kSecond_ns;
constexpr std::uint64_t kPauseFirst_ns = 50 * kMicrosecond_ns;
constexpr std::uint64_t kPauseMax_ns = 10 * kMillisecond_ns;

// The child shares our memory and our thread pointer while this thread runs on: a library call
// that sets errno would set the caller's. So it makes system calls itself.
#if defined(__x86_64__)
inline long raw_syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0) {
  long result;
  register long r10 asm("r10") = d;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
               : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
inline long raw_syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0) {
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
  return x0;
}
#else
#error "spawn.cpp: write raw_syscall for this architecture"
#endif

// What passes between the two, in the memory they share. `gate`: 0 shut, 1 open. `progress`: 1
// while the child is in our memory; the kernel clears and wakes it when the child has left that, by
// exec or by its end (CLONE_CHILD_CLEARTID); kFailedExec or kFailedCwd + errno if that is what
// failed. Neither is a descriptor: another thread's fork could keep one of those open for ever.
struct Handshake {
  HalfWord gate{0};
  HalfWord progress{kHere};

  static constexpr std::uint32_t kHere = 1;
  static constexpr std::uint32_t kFailedExec = 1u << 16;
  static constexpr std::uint32_t kFailedCwd = 2u << 16;
};

// Everything the child needs, prepared before it exists.
struct Child {
  Handshake* handshake;
  int input;
  int output;
  int error_output;
  pid_t parent;
  const char* cwd;  // null: stay
  char* const* argv;
  char* const* envp;
  const char* const* programs;  // candidates in the order of PATH, null-terminated
  rlimit open_files;            // 0: as they are
  bool is_job;
  int terminal;  // of a job; -1: none
};

struct KernelSigaction {
  void* handler;
  unsigned long flags;
  void* restorer;
  std::uint64_t mask;
};

// Nothing in the child is instrumented: a sanitizer's state belongs to the thread it shares.
#define MODELPOOL_IN_CHILD __attribute__((no_sanitize("address", "undefined", "thread")))

MODELPOOL_IN_CHILD inline __attribute__((always_inline)) void exit_child() {
  for (;;) raw_syscall(SYS_exit_group, 127);
}

MODELPOOL_IN_CHILD inline __attribute__((always_inline)) long address_of(const void* pointer) {
  return reinterpret_cast<long>(pointer);
}

// Ignored for a job by whoever starts it, a shell without job control or nohup.
MODELPOOL_IN_CHILD inline __attribute__((always_inline)) bool is_kept_ignored(int signal) {
  return signal == SIGHUP || signal == SIGINT || signal == SIGQUIT || signal == SIGTSTP ||
         signal == SIGTTIN || signal == SIGTTOU;
}

// Shares the parent's memory, so it writes nothing there but the handshake.
MODELPOOL_IN_CHILD int run_child(void* argument) {
  const Child& child = *static_cast<const Child*>(argument);
  volatile std::uint32_t* gate = reinterpret_cast<volatile std::uint32_t*>(&child.handshake->gate);
  volatile std::uint32_t* progress =
      reinterpret_cast<volatile std::uint32_t*>(&child.handshake->progress);

  raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
  if (raw_syscall(SYS_getppid) != child.parent) exit_child();
  if (child.is_job) {
    raw_syscall(SYS_setpgid, 0, 0);
    const int own = static_cast<int>(raw_syscall(SYS_getpid));
    // From the background too: SIGTTOU is blocked.
    if (child.terminal >= 0) raw_syscall(SYS_ioctl, child.terminal, TIOCSPGRP, address_of(&own));
  } else {
    raw_syscall(SYS_setsid);
  }
  // All signals are blocked since before the clone: no handler of the parent's runs here.
  const KernelSigaction default_action{};
  for (int signal = 1; signal <= 64; ++signal) {
    KernelSigaction before{};
    if (child.is_job && is_kept_ignored(signal)) {
      raw_syscall(SYS_rt_sigaction, signal, 0, address_of(&before), 8);
    }
    if (before.handler == reinterpret_cast<void*>(SIG_IGN)) continue;
    raw_syscall(SYS_rt_sigaction, signal, address_of(&default_action), 0, 8);
  }
  if (!child.is_job) {
    raw_syscall(SYS_dup3, child.input, 0, 0);
    raw_syscall(SYS_dup3, child.output, 1, 0);
    raw_syscall(SYS_dup3, child.error_output, 2, 0);
  }
  std::uint32_t failed = Handshake::kFailedExec;
  long error = 0;
  if (child.cwd != nullptr) {
    error = raw_syscall(SYS_chdir, address_of(child.cwd));
    if (error != 0) failed = Handshake::kFailedCwd;
  }
  if (!child.is_job) raw_syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);
  if (child.open_files.rlim_max != 0) {
    raw_syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, address_of(&child.open_files), 0);
  }

  while (*gate == 0) raw_syscall(SYS_futex, address_of(&child.handshake->gate), FUTEX_WAIT, 0, 0);

  if (error == 0) {
    raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, 0);
    const std::uint64_t none = 0;
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, address_of(&none), 0, 8);
    error = -ENOENT;
    for (const char* const* program = child.programs; *program != nullptr; ++program) {
      const long result = raw_syscall(SYS_execve, address_of(*program), address_of(child.argv),
                                      address_of(child.envp));
      if (result != -ENOENT && result != -ENOTDIR) error = result;
      if (result != -ENOENT && result != -ENOTDIR && result != -EACCES) break;
    }
    raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
    if (raw_syscall(SYS_getppid) != child.parent) exit_child();
  }
  *progress = failed | static_cast<std::uint32_t>(-error);
  raw_syscall(SYS_futex, address_of(&child.handshake->progress), FUTEX_WAKE, 1);
  // Stay until the parent, which has put the ticket back, ends us: a dead process would look like a
  // failed load.
  for (;;) raw_syscall(SYS_ppoll, 0, 0, 0, 0);
  return 0;
}

class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

std::vector<std::string> candidates(const std::string& program) {
  if (program.find('/') != std::string::npos) return {program};
  const char* path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  std::vector<std::string> found;
  for (;;) {
    const std::size_t colon = rest.find(':');
    const std::string_view dir = rest.substr(0, colon);
    found.push_back((dir.empty() ? std::string(".") : std::string(dir)) + "/" + program);
    if (colon == std::string_view::npos) return found;
    rest.remove_prefix(colon + 1);
  }
}

std::vector<std::string> environment(const std::vector<std::string>& changes) {
  std::vector<std::string> result;
  const auto name_of = [](std::string_view entry) { return entry.substr(0, entry.find('=')); };
  // The last one of a name counts: the backend's token above all.
  const auto add = [&](std::string_view entry, auto later) {
    const bool replaced = std::any_of(later, changes.end(), [&](const std::string& change) {
      return name_of(change) == name_of(entry);
    });
    if (!replaced) result.emplace_back(entry);
  };
  for (char** entry = environ; *entry != nullptr; ++entry) add(*entry, changes.begin());
  for (auto change = changes.begin(); change != changes.end(); ++change) {
    add(*change, std::next(change));
  }
  return result;
}

template <class Pointer>
std::vector<Pointer> pointers(const std::vector<std::string>& strings) {
  std::vector<Pointer> result;
  for (const std::string& s : strings) result.push_back(const_cast<Pointer>(s.c_str()));
  result.push_back(nullptr);
  return result;
}

rlimit open_files_of(const SpawnOptions& options) {
  rlimit limit{};
  if (options.open_files == 0 || getrlimit(RLIMIT_NOFILE, &limit) != 0) return {};
  limit.rlim_cur = std::min<rlim_t>(options.open_files, limit.rlim_max);
  return limit;
}

// Above the descriptors that the child will move it to.
Result<Fd> moved_up(Fd fd, const std::string& path) {
  Fd high(fd ? fcntl(fd.get(), F_DUPFD_CLOEXEC, 3) : -1);
  if (!high) {
    return fail_errno(errno, "open " + escape(path), shortage_advice(Needs::kDescriptor, errno));
  }
  return high;
}

Result<Fd> open_null(int flags) {
  return moved_up(Fd(open("/dev/null", flags | O_CLOEXEC)), "/dev/null");
}

// A file for the child to append to. Opened without waiting: a FIFO would keep us until somebody
// reads it.
Result<Fd> open_output(const std::string& path) {
  const auto refuse = [&](const char* why) {
    return fail(Errc::kInvalid,
                "unable to append a backend's output to " + escape(path) + ": " + why);
  };
  constexpr int kFlags = O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
  Fd fd(open(path.c_str(), kFlags, 0600));
  struct stat file {};
  if (!fd && errno == ENXIO && stat(path.c_str(), &file) == 0) {
    if (S_ISFIFO(file.st_mode)) return refuse("nobody reads this FIFO; start its reader first");
    if (S_ISSOCK(file.st_mode)) return refuse("it is a socket; name a file");
    errno = ENXIO;
  }
  auto output = moved_up(std::move(fd), path);
  if (!output) return output;
  if (fstat(output->get(), &file) != 0) return fail_errno(errno, "look at " + escape(path));
  if (!S_ISREG(file.st_mode) && !S_ISCHR(file.st_mode) && !S_ISFIFO(file.st_mode)) {
    return refuse("it is neither a file nor a terminal nor a FIFO; name a file");
  }
  const int flags = fcntl(output->get(), F_GETFL);
  if (flags < 0 || fcntl(output->get(), F_SETFL, flags & ~O_NONBLOCK) != 0) {
    return fail_errno(errno, "open " + escape(path));
  }
  return output;
}

// What a child reads and writes; nothing for a job, which has its parent's.
struct ChildFiles {
  Fd input;
  Fd output;
  Fd error_output;  // none: as output
};
Result<ChildFiles> open_files(const SpawnOptions& options,
                              const std::function<Fd()>& default_output) {
  ChildFiles files;
  if (options.is_job) return files;
  auto input = open_null(O_RDONLY);
  if (!input) return fail(input.error());
  files.input = std::move(*input);
  if (!options.error_output.empty()) {
    auto opened = open_output(options.error_output);
    if (!opened) return fail(opened.error());
    files.error_output = std::move(*opened);
  }
  Fd kept = options.output.empty() && default_output ? default_output() : Fd();
  auto output = kept                     ? Result<Fd>(std::move(kept))
                : options.output.empty() ? open_null(O_WRONLY)
                                         : open_output(options.output);
  if (!output) return fail(output.error());
  files.output = std::move(*output);
  return files;
}

std::uint32_t packed_exit(const siginfo_t& info) {
  return info.si_code == CLD_EXITED
             ? pack_exit(ExitKind::kExited, static_cast<std::uint32_t>(info.si_status))
             : pack_exit(ExitKind::kSignalled, static_cast<std::uint32_t>(info.si_status));
}

// condition() again and again, with pauses that grow, until it is true or the time is over.
template <class Condition>
bool becomes_true(std::uint64_t within_ns, const Condition& condition) {
  const std::uint64_t until = now_ns() + within_ns;
  for (std::uint64_t pause = kPauseFirst_ns; !condition();
       pause = std::min(2 * pause, kPauseMax_ns)) {
    if (now_ns() >= until) return false;
    const timespec moment{0, static_cast<long>(pause)};
    nanosleep(&moment, nullptr);
  }
  return true;
}

// Does the child run the new program, with its environment in place? An exec replaces the memory
// first and lays the environment out after; until then its end in proc(5) stat is 0. It is not 0
// for a program with an empty environment, and 0 for ever where the first thread has left.
bool shows_its_environment(pid_t pid) {
  const auto stat = read_stat(pid);
  if (!stat || stat->is_zombie()) return true;  // not to be seen: nobody else sees it either
  if (!stat->has_executed) return false;
  return stat->has_environment || !read_proc(pid, "environ");  // hidden: 0 says nothing
}

// Ends our own child, which is not reaped yet, so the PID is its. False: it does not die.
bool end_child(pid_t pid) {
  kill(pid, SIGKILL);
  return becomes_true(kEndMax_ns, [pid] {
    siginfo_t info{};
    const int result = waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG);
    return result == 0 ? info.si_pid == pid : errno != EINTR;  // ECHILD: reaped by the application
  });
}

// What parent and child share, and the child's stack. A child that does not die, in a file system
// that does not answer, keeps it.
struct Launch {
  std::vector<std::string> programs, argv, env;
  std::vector<const char*> program_pointers;
  std::vector<char*> argv_pointers, env_pointers;
  std::string cwd;
  Handshake handshake;
  Child child{};
  void* stack = MAP_FAILED;

  ~Launch() {
    if (stack != MAP_FAILED) munmap(stack, kChildStack_bytes);
  }
};

// Ends the child, after which nobody uses what it shares with us.
void end_launch(pid_t pid, std::unique_ptr<Launch> launch) {
  if (!end_child(pid)) static_cast<void>(launch.release());
}

Result<> check_command(const std::vector<std::string>& argv, const SpawnOptions& options) {
  if (argv.empty() || argv[0].empty()) {
    return fail(Errc::kInvalid, "unable to start a backend: no program is named");
  }
  const auto has_nul = [](const std::string& text) { return text.find('\0') != std::string::npos; };
  if (std::any_of(argv.begin(), argv.end(), has_nul) || has_nul(options.cwd) ||
      has_nul(options.output) || has_nul(options.error_output)) {
    return fail(Errc::kInvalid,
                "unable to start a backend: an argument or a path contains a NUL byte");
  }
  for (const std::string& entry : options.env) {
    const std::size_t equals = entry.find('=');
    if (equals == 0 || equals == std::string::npos || has_nul(entry)) {
      return fail(Errc::kInvalid, "unable to start a backend: " + quote(entry) +
                                      " in its environment is not NAME=VALUE");
    }
  }
  return {};
}

Error why_not_executed(const Launch& launch, std::uint32_t progress) {
  const std::string program = escape(launch.argv[0]);
  const std::string there = launch.cwd.empty() ? "" : " in " + escape(launch.cwd);
  if (progress == Handshake::kHere) {
    return {Errc::kSpawnFailed,
            "unable to execute " + program + there + ": it did not begin within " +
                format_duration(kExecuteMax_ns) + "; look at the file system it lies on",
            0, 0};
  }
  const int error = static_cast<int>(progress & 0xffff);
  Error failure = progress & Handshake::kFailedCwd
                      ? fail_errno(error, "start " + program + there).value()
                      : fail_errno(error, "execute " + program).value();
  failure.code = Errc::kSpawnFailed;
  return failure;
}

}  // namespace

Result<ProcessHandle> spawn_gated(const std::vector<std::string>& argv, const SpawnOptions& options,
                                  const std::function<Result<>(const ProcessIdentity&)>& at_gate,
                                  const std::function<void()>& on_failed_exec,
                                  const std::function<Fd()>& default_output) {
  if (auto ok = check_command(argv, options); !ok) return fail(ok.error());
  if (has_children_elsewhere()) {
    return fail(Errc::kSpawnFailed,
                "unable to start a backend: children of this process are put into another PID "
                "namespace; run it inside that namespace, as with unshare --fork");
  }
  auto launch = std::make_unique<Launch>();
  launch->programs = candidates(argv[0]);
  launch->argv = argv;
  launch->env = environment(options.env);
  launch->cwd = options.cwd;
  launch->program_pointers = pointers<const char*>(launch->programs);
  launch->argv_pointers = pointers<char*>(launch->argv);
  launch->env_pointers = pointers<char*>(launch->env);

  auto files = open_files(options, default_output);
  if (!files) return fail(files.error());

  Handshake& handshake = launch->handshake;
  launch->child = {&handshake,
                   files->input.get(),
                   files->output.get(),
                   files->error_output ? files->error_output.get() : files->output.get(),
                   getpid(),
                   launch->cwd.empty() ? nullptr : launch->cwd.c_str(),
                   launch->argv_pointers.data(),
                   launch->env_pointers.data(),
                   launch->program_pointers.data(),
                   open_files_of(options),
                   options.is_job,
                   options.terminal};
  launch->stack = mmap(nullptr, kChildStack_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (launch->stack == MAP_FAILED)
    return fail_errno(errno, "allocate a stack", shortage_advice(Needs::kThread, errno));
  int pid;
  int clone_error;
  {
    const BlockedSignals blocked;
    pid = clone(run_child, static_cast<char*>(launch->stack) + kChildStack_bytes,
                CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD, &launch->child, nullptr, nullptr,
                &handshake.progress);
    clone_error = errno;
  }
  if (pid < 0) {
    return fail_errno(clone_error, "start a process", shortage_advice(Needs::kThread, clone_error));
  }

  auto handle = ProcessHandle::open(pid);
  Result<> recorded = handle ? at_gate(handle->identity()) : fail(handle.error());
  if (!recorded) {
    end_launch(pid, std::move(launch));
    return fail(recorded.error());
  }
  handshake.gate.store(1, std::memory_order_seq_cst);
  futex_wake_all(handshake.gate);
  const std::uint64_t until = now_ns() + kExecuteMax_ns;
  std::uint32_t progress;
  while ((progress = handshake.progress.load(std::memory_order_seq_cst)) == Handshake::kHere &&
         now_ns() < until) {
    futex_wait(handshake.progress, Handshake::kHere, until);
  }
  if (progress != 0) {
    Error failure = why_not_executed(*launch, progress);
    on_failed_exec();
    end_launch(pid, std::move(launch));
    return fail(std::move(failure));
  }
  const bool has_environment = !launch->env.empty();
  launch.reset();
  // It has left our memory; a moment later the new program carries its environment, by which others
  // know whose it is. Without it nothing is lost: they know it by its group.
  if (has_environment) {
    becomes_true(kEnvironmentMax_ns, [&] {
      return handle->liveness() != Liveness::kAlive || shows_its_environment(pid);
    });
  }
  return std::move(*handle);
}

// --- Reaping -------------------------------------------------------------------------------------

namespace {

struct Reaping {
  ProcessHandle child;
  std::function<void(std::uint32_t)> on_exit;
  Reaping* next = nullptr;
};
// Of children for whom there was no thread to be had: tried again when the next one is spawned, a
// zombie till then, which is not live. Push only, but for who takes them all.
std::atomic<Reaping*> g_unreaped{nullptr};

void reap(const Reaping& reaping) {
  const auto wait = [&](int options, siginfo_t* info) {
    int result;
    do {
      result = waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(reaping.child.fd()), info,
                      WEXITED | options);
    } while (result != 0 && errno == EINTR);
    return result == 0;
  };
  siginfo_t info{};
  // The application may reap children itself: then how it ended stays unknown.
  if (!wait(WNOWAIT, &info)) return;
  reaping.on_exit(packed_exit(info));
  wait(0, &info);
}

void keep_for_later(Reaping* reaping) {
  reaping->next = g_unreaped.load(std::memory_order_relaxed);
  // release: pairs with the acquire of whoever takes the list
  while (!g_unreaped.compare_exchange_weak(reaping->next, reaping, std::memory_order_release,
                                           std::memory_order_relaxed)) {
  }
}

void run_reaper(std::unique_ptr<Reaping> reaping) {
  auto* const raw = reaping.release();
  if (start_detached_thread(kReaperStack_bytes, [raw] {
        const std::unique_ptr<Reaping> mine(raw);
        reap(*mine);
      })) {
    return;
  }
  keep_for_later(raw);
}

void reap_the_kept() {
  Reaping* all = g_unreaped.exchange(nullptr, std::memory_order_acquire);
  while (all != nullptr) {
    std::unique_ptr<Reaping> one(std::exchange(all, all->next));
    run_reaper(std::move(one));
  }
}

}  // namespace

void reap_when_exited(ProcessHandle child, std::function<void(std::uint32_t)> on_exit) {
  reap_the_kept();
  run_reaper(std::unique_ptr<Reaping>(new Reaping{std::move(child), std::move(on_exit)}));
}

}  // namespace modelpool
