#include "modelpool/spawn.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "modelpool/layout.hpp"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

#if defined(__SANITIZE_THREAD__)
#define MODELPOOL_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MODELPOOL_TSAN 1
#endif
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

// Everything the child needs, prepared before it exists.
struct Child {
  int gate;           // its end of the socket
  int gate_of_parent;
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

__attribute__((no_sanitize("address", "undefined", "thread"))) int run_child(void* argument) {
  const Child& child = *static_cast<const Child*>(argument);
  const auto exit_now = [] { raw_syscall(SYS_exit_group, 127); };

  raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
  if (raw_syscall(SYS_getppid) != child.parent) exit_now();
  raw_syscall(SYS_setsid);
  // All signals are blocked since before the clone: no handler of the parent's runs here.
  const KernelSigaction default_action{};
  for (int signal = 1; signal <= 64; ++signal) {
    raw_syscall(SYS_rt_sigaction, signal, reinterpret_cast<long>(&default_action), 0, 8);
  }
  raw_syscall(SYS_close, child.gate_of_parent);
  long error = 0;
  bool in_directory = true;
  raw_syscall(SYS_dup3, child.input, 0, 0);
  raw_syscall(SYS_dup3, child.output, 1, 0);
  raw_syscall(SYS_dup3, child.error_output, 2, 0);
  if (child.cwd != nullptr) {
    error = raw_syscall(SYS_chdir, reinterpret_cast<long>(child.cwd));
    in_directory = error == 0;
  }
  raw_syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);

  char open_gate = 0;
  long got;
  do {
    got = raw_syscall(SYS_read, child.gate, reinterpret_cast<long>(&open_gate), 1);
  } while (got == -EINTR);
  if (got != 1) exit_now();  // the parent is gone, or gave up

  if (error == 0) {
    raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, 0);
    const std::uint64_t none = 0;
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<long>(&none), 0, 8);
    error = -ENOENT;
    for (const char* const* program = child.programs; *program != nullptr; ++program) {
      const long result = raw_syscall(SYS_execve, reinterpret_cast<long>(*program),
                                      reinterpret_cast<long>(child.argv), reinterpret_cast<long>(child.envp));
      if (result != -ENOENT && result != -ENOTDIR) error = result;
      if (result != -ENOENT && result != -ENOTDIR && result != -EACCES) break;
    }
    raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
    if (raw_syscall(SYS_getppid) != child.parent) exit_now();
  }
  const int code = static_cast<int>(in_directory ? -error : error);  // negative: of the directory
  raw_syscall(SYS_write, child.gate, reinterpret_cast<long>(&code), sizeof code);
  // Stay until the parent has put the ticket back: a dead process would look like a failed load.
  raw_syscall(SYS_read, child.gate, reinterpret_cast<long>(&open_gate), 1);
  exit_now();
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
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const bool replaced = std::any_of(changes.begin(), changes.end(), [&](const std::string& change) {
      return name_of(change) == name_of(*entry);
    });
    if (!replaced) result.emplace_back(*entry);
  }
  result.insert(result.end(), changes.begin(), changes.end());
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

Result<std::pair<Fd, Fd>> gate_pair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return fail_errno(errno, "create a socket pair");
  }
  Fd ours(ends[0]);
  Fd low(ends[1]);
  Fd childs(fcntl(low.get(), F_DUPFD_CLOEXEC, 3));
  if (!childs) return fail_errno(errno, "create a socket pair");
  return std::pair<Fd, Fd>(std::move(ours), std::move(childs));
}

std::uint32_t packed_exit(const siginfo_t& info) {
  return info.si_code == CLD_EXITED ? pack_exit(ExitKind::kExited, static_cast<std::uint32_t>(info.si_status))
                                    : pack_exit(ExitKind::kSignalled, static_cast<std::uint32_t>(info.si_status));
}

void end_child(pid_t pid) {
  kill(pid, SIGKILL);  // our own child, not reaped yet: the PID is its
  siginfo_t info;
  while (waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED) != 0 && errno == EINTR) {
  }
}

}  // namespace

Result<ProcessIdentity> spawn_gated(const std::vector<std::string>& argv, const SpawnOptions& options,
                                    const std::function<Result<>(const ProcessIdentity&)>& at_gate,
                                    const std::function<void()>& on_failed_exec) {
  if (argv.empty() || argv[0].empty()) {
    return fail(Errc::kInvalid, "unable to start a backend: no program is named");
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
  auto gate = gate_pair();
  if (!gate) return fail(gate.error());
  auto& [ours, childs] = *gate;

  Child child{childs.get(), ours.get(), input->get(), output->get(),
              error_output ? error_output.get() : output->get(), getpid(),
              options.cwd.empty() ? nullptr : options.cwd.c_str(),
              argv_pointers.data(), env_pointers.data(), program_pointers.data()};

#ifdef MODELPOOL_TSAN
  constexpr int kMemory = 0;  // the sanitizer's own state does not bear a second runner
#else
  constexpr int kMemory = CLONE_VM;
#endif
  void* stack = mmap(nullptr, kChildStack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return fail_errno(errno, "allocate a stack");
  int pid;
  {
    const BlockedSignals blocked;
    pid = clone(run_child, static_cast<char*>(stack) + kChildStack_bytes, kMemory | SIGCHLD, &child);
  }
  const int clone_error = errno;
  childs.reset();
  const auto free_stack = [&] { munmap(stack, kChildStack_bytes); };  // once the child is out of it
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
  const char open_gate = 1;
  int code = 0;
  ssize_t got = 0;
  if (send(ours.get(), &open_gate, 1, MSG_NOSIGNAL) == 1) {
    do {
      got = recv(ours.get(), &code, sizeof code, 0);
    } while (got < 0 && errno == EINTR);
  }
  if (got == static_cast<ssize_t>(sizeof code) && code != 0) {
    on_failed_exec();
    end_child(pid);
    free_stack();
    auto error = code > 0 ? fail_errno(code, "execute " + escape(argv[0])).value()
                          : fail_errno(-code, "start " + escape(argv[0]) + " in " + escape(options.cwd)).value();
    error.code = Errc::kSpawnFailed;
    return fail(std::move(error));
  }
  free_stack();
  return handle->identity();
}

void reap_when_exited(const ProcessIdentity& child, std::function<void(std::uint32_t)> on_exit) {
  auto handle = ProcessHandle::open(child);
  if (!handle.handle) {
    // It has ended already, as a program with a wrong flag does: kernels open no pidfd for a zombie.
    const auto stat = read_stat(child.pid);
    siginfo_t info{};
    if (stat && stat->is_zombie() && stat->start_ticks == child.start_ticks &&
        waitid(P_PID, static_cast<id_t>(child.pid), &info, WEXITED | WNOHANG) == 0 && info.si_pid == child.pid) {
      on_exit(packed_exit(info));
    }
    return;
  }
  struct Job {
    ProcessHandle child;
    std::function<void(std::uint32_t)> on_exit;
  };
  auto job = std::make_unique<Job>(Job{std::move(handle.handle), std::move(on_exit)});
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
          result = waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(mine->child.fd()), &info, WEXITED);
        } while (result != 0 && errno == EINTR);
        // The application may reap children itself: then how it ended stays unknown.
        if (result == 0) mine->on_exit(packed_exit(info));
        return nullptr;
      },
      job.get());
  pthread_attr_destroy(&attributes);
  if (error == 0) job.release();  // the thread's now; without it a zombie stays, which is not live
}

}  // namespace modelpool
