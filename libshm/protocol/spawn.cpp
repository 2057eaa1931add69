#include "protocol/spawn.hpp"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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

#include "segment/layout.hpp"
#include "segment/segment.hpp"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

namespace modelpool {
namespace {

constexpr std::size_t kChildStack_bytes = 64 * 1024;
constexpr std::size_t kReaperStack_bytes = 64 * 1024;

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

// What passes between the two, in the memory they share. `gate`: 0 shut, 1 open. `progress`: 1 while
// the child is in our memory; the kernel clears and wakes it when the child has left that, by exec
// or by its end (CLONE_CHILD_CLEARTID); kFailed + errno if it could not execute the program. Neither
// is a descriptor: another thread's fork could keep one of those open for ever.
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
  const char* cwd;    // null: stay
  char* const* argv;
  char* const* envp;
  const char* const* programs;  // candidates in the order of PATH, null-terminated
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

// Shares the parent's memory, so it writes nothing there but the handshake.
MODELPOOL_IN_CHILD int run_child(void* argument) {
  const Child& child = *static_cast<const Child*>(argument);
  volatile std::uint32_t* gate = reinterpret_cast<volatile std::uint32_t*>(&child.handshake->gate);
  volatile std::uint32_t* progress = reinterpret_cast<volatile std::uint32_t*>(&child.handshake->progress);

  raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
  if (raw_syscall(SYS_getppid) != child.parent) exit_child();
  raw_syscall(SYS_setsid);
  // All signals are blocked since before the clone: no handler of the parent's runs here.
  const KernelSigaction default_action{};
  for (int signal = 1; signal <= 64; ++signal) {
    raw_syscall(SYS_rt_sigaction, signal, address_of(&default_action), 0, 8);
  }
  raw_syscall(SYS_dup3, child.input, 0, 0);
  raw_syscall(SYS_dup3, child.output, 1, 0);
  raw_syscall(SYS_dup3, child.error_output, 2, 0);
  std::uint32_t failed = Handshake::kFailedExec;
  long error = 0;
  if (child.cwd != nullptr) {
    error = raw_syscall(SYS_chdir, address_of(child.cwd));
    if (error != 0) failed = Handshake::kFailedCwd;
  }
  raw_syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);

  while (*gate == 0) raw_syscall(SYS_futex, address_of(&child.handshake->gate), FUTEX_WAIT, 0, 0);

  if (error == 0) {
    raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, 0);
    const std::uint64_t none = 0;
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, address_of(&none), 0, 8);
    error = -ENOENT;
    for (const char* const* program = child.programs; *program != nullptr; ++program) {
      const long result =
          raw_syscall(SYS_execve, address_of(*program), address_of(child.argv), address_of(child.envp));
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

// Opens a file for the child, above the descriptors that it will be moved to.
Result<Fd> open_for_child(const std::string& path, int flags) {
  Fd fd(open(path.c_str(), flags | O_CLOEXEC | O_NOCTTY, 0600));
  if (!fd) return fail_errno(errno, "open " + escape(path));
  Fd high(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!high) return fail_errno(errno, "open " + escape(path));
  return high;
}

std::uint32_t packed_exit(const siginfo_t& info) {
  return info.si_code == CLD_EXITED ? pack_exit(ExitKind::kExited, static_cast<std::uint32_t>(info.si_status))
                                    : pack_exit(ExitKind::kSignalled, static_cast<std::uint32_t>(info.si_status));
}

// Does the child run the new program, with its environment in place?
bool has_executed(pid_t pid) {
  constexpr unsigned long kForkedNotExecuted = 0x40;  // PF_FORKNOEXEC, in the flags of proc(5) stat
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  const std::string text{std::istreambuf_iterator<char>(stat), {}};
  unsigned long flags = 0;
  const std::size_t end_of_name = text.rfind(')');
  if (end_of_name == std::string::npos ||
      std::sscanf(text.c_str() + end_of_name + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) != 1) {
    return true;  // not to be seen: then nobody else sees it either
  }
  if (flags & kForkedNotExecuted) return false;
  std::ifstream environment("/proc/" + std::to_string(pid) + "/environ");
  return !environment || environment.peek() != std::ifstream::traits_type::eof();
}

void end_child(pid_t pid) {
  kill(pid, SIGKILL);  // our own child, not reaped yet: the PID is its
  siginfo_t info;
  while (waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED) != 0 && errno == EINTR) {
  }
}

}  // namespace

Result<ProcessHandle> spawn_gated(const std::vector<std::string>& argv, const SpawnOptions& options,
                                  const std::function<Result<>(const ProcessIdentity&)>& at_gate,
                                  const std::function<void()>& on_failed_exec) {
  if (argv.empty() || argv[0].empty()) {
    return fail(Errc::kInvalid, "unable to start a backend: no program is named");
  }
  for (const std::string& entry : options.env) {
    const std::size_t equals = entry.find('=');
    if (equals == 0 || equals == std::string::npos || entry.find('\0') != std::string::npos) {
      return fail(Errc::kInvalid, "unable to start a backend: " + quote(entry) +
                                      " in its environment is not NAME=VALUE");
    }
  }
  const std::vector<std::string> programs = candidates(argv[0]);
  const std::vector<std::string> env = environment(options.env);
  const auto program_pointers = pointers<const char*>(programs);
  const auto argv_pointers = pointers<char*>(argv);
  const auto env_pointers = pointers<char*>(env);

  auto input = open_for_child("/dev/null", O_RDONLY);
  if (!input) return fail(input.error());
  const int append = O_WRONLY | O_APPEND | O_CREAT;
  auto output = options.output.empty() ? open_for_child("/dev/null", O_WRONLY) : open_for_child(options.output, append);
  if (!output) return fail(output.error());
  Fd error_output;
  if (!options.error_output.empty()) {
    auto opened = open_for_child(options.error_output, append);
    if (!opened) return fail(opened.error());
    error_output = std::move(*opened);
  }

  Handshake handshake;
  Child child{&handshake, input->get(), output->get(), error_output ? error_output.get() : output->get(),
              getpid(), options.cwd.empty() ? nullptr : options.cwd.c_str(),
              argv_pointers.data(), env_pointers.data(), program_pointers.data()};
  void* stack = mmap(nullptr, kChildStack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return fail_errno(errno, "allocate a stack");
  int pid;
  int clone_error;
  {
    const BlockedSignals blocked;
    pid = clone(run_child, static_cast<char*>(stack) + kChildStack_bytes, CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD,
                &child, nullptr, nullptr, &handshake.progress);
    clone_error = errno;
  }
  // Unmapped only when the child is out of it.
  const auto free_stack = [&] { munmap(stack, kChildStack_bytes); };
  if (pid < 0) {
    free_stack();
    return fail_errno(clone_error, "start a process");
  }

  auto handle = ProcessHandle::open(pid);
  Result<> recorded = handle ? at_gate(handle->identity()) : fail(handle.error());
  if (!recorded) {
    end_child(pid);
    free_stack();
    return fail(recorded.error());
  }
  handshake.gate.store(1, std::memory_order_seq_cst);
  futex_wake_all(handshake.gate);
  std::uint32_t progress;
  while ((progress = handshake.progress.load(std::memory_order_seq_cst)) == Handshake::kHere) {
    futex_wait(handshake.progress, Handshake::kHere, kNever_ns);
  }
  if (progress != 0) {
    on_failed_exec();
    end_child(pid);
    free_stack();
    const int error = static_cast<int>(progress & 0xffff);
    Error failure = progress & Handshake::kFailedCwd
                        ? fail_errno(error, "start " + escape(argv[0]) + " in " + escape(options.cwd)).value()
                        : fail_errno(error, "execute " + escape(argv[0])).value();
    failure.code = Errc::kSpawnFailed;
    return fail(std::move(failure));
  }
  free_stack();
  // It has left our memory; a moment later the new program carries its environment, by which others
  // know whose it is.
  while (!env.empty() && handle->liveness() == Liveness::kAlive && !has_executed(pid)) {
    const timespec moment{0, 50'000};
    nanosleep(&moment, nullptr);
  }
  return std::move(*handle);
}

void reap_when_exited(ProcessHandle child, std::function<void(std::uint32_t)> on_exit) {
  struct Job {
    ProcessHandle child;
    std::function<void(std::uint32_t)> on_exit;
  };
  auto job = std::make_unique<Job>(Job{std::move(child), std::move(on_exit)});
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kReaperStack_bytes);
  const BlockedSignals blocked;  // inherited: the thread takes no signals from the application
  pthread_t thread;
  const int error = pthread_create(
      &thread, &attributes,
      [](void* argument) -> void* {
        const std::unique_ptr<Job> mine(static_cast<Job*>(argument));
        siginfo_t info{};
        int result;
        do {
          result = waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(mine->child.fd()), &info, WEXITED | WNOWAIT);
        } while (result != 0 && errno == EINTR);
        // The application may reap children itself: then how it ended stays unknown.
        if (result != 0) return nullptr;
        mine->on_exit(packed_exit(info));
        while (waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(mine->child.fd()), &info, WEXITED) != 0 &&
               errno == EINTR) {
        }
        return nullptr;
      },
      job.get());
  pthread_attr_destroy(&attributes);
  // The thread's now. Without a thread a zombie stays, which is not live.
  if (error == 0) static_cast<void>(job.release());
}

}  // namespace modelpool
