#include "crash/trace.hpp"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

// Where a system call is made in the victim's name. It was forked from us: the same address there.
extern "C" void modelpool_test_syscall();
asm(".text\n.globl modelpool_test_syscall\nmodelpool_test_syscall: syscall\nint3\n");

namespace modelpool::test {
namespace {

constexpr int kSystemCallStop = SIGTRAP | 0x80;  // PTRACE_O_TRACESYSGOOD

[[noreturn]] void give_up(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

user_regs_struct registers(pid_t thread) {
  user_regs_struct regs;
  if (ptrace(PTRACE_GETREGS, thread, nullptr, &regs) != 0) give_up("PTRACE_GETREGS");
  return regs;
}

bool reaches_another_process(std::uint64_t call) {
  return call == SYS_pidfd_send_signal || call == SYS_kill || call == SYS_write;
}

// Nobody else can tell whether such a call was made; an openat only if it neither creates nor
// truncates. (What they read from is a file: the coordinator's other reads stand alone.)
constexpr std::array kLooks{SYS_read,       SYS_pread64,    SYS_close,      SYS_stat,
                            SYS_fstat,      SYS_newfstatat, SYS_getdents64, SYS_readlink,
                            SYS_readlinkat, SYS_getpid,     SYS_geteuid};

bool only_looks(const user_regs_struct& call) {
  if (call.orig_rax == SYS_openat) return (call.rdx & (O_CREAT | O_TRUNC)) == 0;
  return std::ranges::find(kLooks, static_cast<long>(call.orig_rax)) != kLooks.end();
}

// From here on only calls that do more than look stop for the tracer: half of the time of a sweep
// goes into stops. Whatever the caller starts needs a tracer, too. mprotect is what the tracer
// calls itself.
void let_looks_pass() {
  constexpr auto nr = static_cast<unsigned>(offsetof(seccomp_data, nr));
  constexpr auto flags = static_cast<unsigned>(offsetof(seccomp_data, args[2]));  // of openat
  std::vector<sock_filter> filter{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, nr)};
  const auto pass_if = [&](long call) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  };
  for (const long call : kLooks) pass_if(call);
  pass_if(SYS_mprotect);
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 3));
  filter.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, flags));
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_CREAT | O_TRUNC, 1, 0));
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE));
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    give_up("filter the victim's calls");
  }
}

void wait_for_signal(std::chrono::nanoseconds patience) {
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  const timespec limit{static_cast<time_t>(patience.count() / 1'000'000'000),
                       static_cast<long>(patience.count() % 1'000'000'000)};
  sigtimedwait(&child, nullptr, &limit);
}

}  // namespace

void mark() { raise(SIGSTOP); }

Victim::Victim(const std::string& segment_path, const std::function<void()>& body,
               PlacesOf places_of, bool starts_processes)
    : segment_path_(segment_path),
      of_child_(places_of != PlacesOf::kVictim),
      child_first_(places_of == PlacesOf::kItsChildFirst),
      looks_pass_(!starts_processes && !of_child_) {
  sigset_t child;  // waited for by sigtimedwait
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, nullptr);
  std::fflush(nullptr);
  pid_ = fork();
  if (pid_ < 0) give_up("fork");
  if (pid_ == 0) {
    setpgid(0, 0);  // so that its threads, and nobody else, can be waited for together
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigprocmask(SIG_UNBLOCK, &child, nullptr);
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    mark();
    try {
      if (looks_pass_) let_looks_pass();
      body();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "victim: %s\n", e.what());
      _exit(70);
    }
    _exit(0);
  }
  setpgid(pid_, pid_);
  if (waitpid(pid_, &status_, __WALL) != pid_ || !WIFSTOPPED(status_)) give_up("trace the victim");
  long options =
      PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACESECCOMP;
  if (of_child_) options |= PTRACE_O_TRACEFORK | PTRACE_O_TRACEEXEC;
  if (ptrace(PTRACE_SETOPTIONS, pid_, nullptr, options) != 0) give_up("PTRACE_SETOPTIONS");
  threads_[pid_] = 0;
  here_ = pid_;
}

Victim::~Victim() { kill_here(); }

Victim::Stop Victim::run_to_mark() { return run_on(std::chrono::seconds(60)); }

void Victim::choose(Places places) {
  places_ = places;
  counting_ = true;
  changed_ = true;
  if (places != Places::kEveryInstruction && !of_child_) {
    find_mapping();
    protect(true);
  }
}

Victim::Stop Victim::next_place(std::chrono::nanoseconds patience) {
  if (here_ != 0) {
    if (at_ == At::kStore) {
      step_over_store(here_);
      if (places_ == Places::kBothSidesOfStores) return place(here_, At::kStored);
    }
    resume(here_);
  }
  return wait(patience);
}

Victim::Stop Victim::run_on(std::chrono::nanoseconds patience) {
  for (;;) {
    if (here_ != 0) {
      if (read_only_ && at_ != At::kEnterCall) protect(false);
      counting_ = read_only_;  // a call that has begun is left first
      resume(here_);
    }
    const Stop stop = wait(patience);
    if (stop != Stop::kPlace) return stop;
  }
}

// Lets a stopped thread go on, to its next place if places count.
void Victim::resume(pid_t thread) {
  if (executed_ && thread == child_) return let_child_go();
  if (held_ != 0 && thread == child_ && registers(thread).orig_rax == SYS_futex)
    resume(std::exchange(held_, 0));
  auto request = PTRACE_CONT;
  if (counting_ && (!of_child_ || thread == child_)) {
    // After the filter has stopped a call, its end stops too.
    if (places_ == Places::kStoresAndSystemCalls && (!looks_pass_ || in_call_.contains(thread)))
      request = PTRACE_SYSCALL;
    if (places_ == Places::kEveryInstruction && is_main(thread)) request = PTRACE_SINGLESTEP;
  }
  if (thread == here_) here_ = 0;
  in_call_.erase(thread);
  ptrace(request, thread, nullptr, std::exchange(threads_[thread], 0));
}

Victim::Stop Victim::wait(std::chrono::nanoseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  for (;;) {
    int status = 0;
    pid_t thread = waitpid(-pid_, &status, WNOHANG | __WALL);
    // It leaves the group.
    if (thread == 0 && child_ != 0) thread = waitpid(child_, &status, WNOHANG | __WALL);
    if (thread < 0) {
      ended_ = true;
      return Stop::kEnded;
    }
    if (thread > 0) {
      if (const auto stop = meaning_of(thread, status)) return *stop;
      continue;
    }
    const auto left = until - std::chrono::steady_clock::now();
    if (left <= std::chrono::nanoseconds(0)) return Stop::kQuiet;
    wait_for_signal(left);
  }
}

// What a thread's stop means; nothing if it goes on at once.
std::optional<Victim::Stop> Victim::meaning_of(pid_t thread, int status) {
  if (!WIFSTOPPED(status)) {
    threads_.erase(thread);
    if (thread == child_) child_ = 0;
    if (thread != pid_) return std::nullopt;
    ended_ = true;
    status_ = status;
    return Stop::kEnded;
  }
  const bool is_new = threads_.emplace(thread, 0).second;
  const int signal = WSTOPSIG(status);
  if (of_child_ && is_new && !is_thread(thread)) {
    child_ = thread;
    return place(thread, At::kInstruction);
  }
  const int event = status >> 16;
  if (child_first_ && (event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK)) {
    unsigned long born = 0;
    ptrace(PTRACE_GETEVENTMSG, thread, nullptr, &born);
    if (!is_thread(static_cast<pid_t>(born))) {
      held_ = thread;
      return std::nullopt;
    }
  }
  if (event == PTRACE_EVENT_EXEC && thread == child_) {
    executed_ = true;
    return place(thread, At::kLeaveCall);
  }
  const bool by_filter = status >> 8 == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8);
  if ((signal == kSystemCallStop || by_filter) && counting_) {
    if (by_filter) in_call_.insert(thread);
    if (!is_main(thread) && !reaches_another_process(registers(thread).orig_rax)) {
      resume(thread);
      return std::nullopt;
    }
    if (is_one_look_more(thread)) {
      resume(thread);
      return std::nullopt;
    }
    __ptrace_syscall_info call{};
    ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof call, &call);
    if (by_filter || call.op == PTRACE_SYSCALL_INFO_ENTRY) {
      if (changed_) return place(thread, At::kEnterCall);
      resume(thread);
      return std::nullopt;
    }
    const Stop left = place(thread, At::kLeaveCall);
    if (begin_ == 0 && !of_child_ && registers(thread).orig_rax == SYS_mmap) {
      find_mapping();
      protect(true);
    }
    return left;
  }
  if (signal == SIGSTOP && !is_new) {
    place(thread, At::kNothing);
    return Stop::kMark;
  }
  if (signal == SIGTRAP && status >> 16 == 0 && counting_) return place(thread, At::kInstruction);
  if (signal == SIGSEGV) {
    siginfo_t info;
    ptrace(PTRACE_GETSIGINFO, thread, nullptr, &info);
    const auto address = reinterpret_cast<std::uint64_t>(info.si_addr);
    if (address >= begin_ && address < begin_ + size_) {
      if (read_only_) {
        const bool counts = !is_one_round_more(thread) && changed_;
        stores_to_ = address;
        place(thread, At::kStore);
        if (counts) return Stop::kPlace;
        step_over_store(thread);
      }  // else it faulted before the mapping became writable
      resume(thread);
      return std::nullopt;
    }
  }
  // A signal of its own; else the birth of a thread, or a system call that does not count.
  if (signal != SIGTRAP && signal != SIGSTOP && signal != kSystemCallStop) {
    threads_[thread] = signal;
  }
  resume(thread);
  return std::nullopt;
}

Victim::Stop Victim::place(pid_t thread, At at) {
  here_ = thread;
  at_ = at;
  changed_ = places_ == Places::kBothSidesOfStores;
  return Stop::kPlace;
}

void Victim::find_mapping() {
  std::ifstream maps("/proc/" + std::to_string(pid_) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    char access[8] = {};
    if (!line.ends_with(segment_path_) ||
        std::sscanf(line.c_str(), "%lx-%lx %7s", &begin, &end, access) != 3 || access[1] != 'w') {
      continue;
    }
    begin_ = begin;
    size_ = end - begin;
  }
}

// One instruction of a stopped thread. A signal that comes first is kept.
void Victim::single_step(pid_t thread) {
  for (;;) {
    int status = 0;
    if (ptrace(PTRACE_SINGLESTEP, thread, nullptr, 0) != 0 ||
        waitpid(thread, &status, __WALL) != thread || !WIFSTOPPED(status)) {
      give_up("step the victim");
    }
    if (WSTOPSIG(status) == SIGTRAP) return;
    threads_[thread] = WSTOPSIG(status);
  }
}

// Only where it stores becomes writable: of a mapping of thousands of pages each would cost time.
void Victim::step_over_store(pid_t thread) {
  constexpr std::uint64_t kPage = 4096;
  const std::uint64_t first = std::max(begin_, stores_to_ / kPage * kPage);
  const std::uint64_t size =
      std::min(2 * kPage, begin_ + size_ - first);  // it may reach into the next
  protect(first, size, false);
  single_step(thread);
  protect(first, size, true);
  changed_ = true;
  looks_ = 0;
}

// Of a loop that stores; not a place.
bool Victim::is_one_round_more(pid_t thread) {
  const std::uint64_t counted = places_ == Places::kBothSidesOfStores ? 1 : 8;
  const std::uint64_t at = registers(thread).rip;
  rounds_ = at == stored_at_ ? rounds_ + 1 : 1;
  stored_at_ = at;
  return rounds_ > counted && !std::has_single_bit(rounds_);
}

// Of calls that only look; not a place. Stops come before and after each.
bool Victim::is_one_look_more(pid_t thread) {
  looks_ = only_looks(registers(thread)) ? looks_ + 1 : 0;
  return looks_ > 16 && !std::has_single_bit(looks_);
}

void Victim::protect(bool read_only) {
  if (begin_ == 0) return;
  protect(begin_, size_, read_only);
  read_only_ = read_only;
}

// Calls mprotect in the victim's name, in the thread that has stopped.
void Victim::protect(std::uint64_t begin, std::uint64_t size, bool read_only) {
  const user_regs_struct before = registers(here_);
  user_regs_struct call = before;
  call.rip = reinterpret_cast<std::uint64_t>(&modelpool_test_syscall);
  call.rax = SYS_mprotect;
  call.orig_rax = ~0ull;  // no system call to be restarted
  call.rdi = begin;
  call.rsi = size;
  call.rdx = read_only ? PROT_READ : PROT_READ | PROT_WRITE;
  ptrace(PTRACE_SETREGS, here_, nullptr, &call);
  single_step(here_);
  if (registers(here_).rax != 0) give_up("mprotect in the victim");
  ptrace(PTRACE_SETREGS, here_, nullptr, &before);
}

// One that runs, wherever it is.
void Victim::stop() {
  kill(pid_, SIGSTOP);
  for (int status = 0; !ended_;) {
    const pid_t thread = waitpid(-pid_, &status, __WALL);
    if (thread < 0 && errno == EINTR) continue;
    if (thread > 0 && WIFSTOPPED(status)) {
      __ptrace_syscall_info call{};
      const bool by_filter = status >> 8 == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8);
      if (WSTOPSIG(status) == kSystemCallStop) {
        ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof call, &call);
      }
      here_ = thread;
      at_ = by_filter || call.op == PTRACE_SYSCALL_INFO_ENTRY ? At::kEnterCall : At::kNothing;
      return;
    }
    if (thread < 0 || thread == pid_) ended_ = true;
  }
}

void Victim::kill_here() {
  if (pid_ <= 0) return;
  if (child_ != 0) kill_child();
  // The kernel marks the mutexes of the dead only where it can write.
  if (read_only_ && here_ == 0 && !ended_) stop();
  if (read_only_ && here_ != 0 && !ended_) {
    if (at_ == At::kEnterCall) {  // instead of the call it is about to make
      user_regs_struct call = registers(here_);
      call.orig_rax = SYS_mprotect;
      call.rdi = begin_;
      call.rsi = size_;
      call.rdx = PROT_READ | PROT_WRITE;
      ptrace(PTRACE_SETREGS, here_, nullptr, &call);
      int status = 0;
      ptrace(PTRACE_SYSCALL, here_, nullptr, 0);
      waitpid(here_, &status, __WALL);
    } else {
      protect(false);
    }
  }
  kill(pid_, SIGKILL);
  while (waitpid(-pid_, nullptr, __WALL) > 0 || errno == EINTR) {
  }
  ended_ = true;
  pid_ = -1;
}

// A thread, not a child.
bool Victim::is_thread(pid_t id) const {
  return access(("/proc/" + std::to_string(pid_) + "/task/" + std::to_string(id)).c_str(), F_OK) ==
         0;
}

void Victim::let_child_go() {
  if (here_ == child_) here_ = 0;
  threads_.erase(child_);
  ptrace(PTRACE_DETACH, std::exchange(child_, 0), nullptr, 0);
}

void Victim::kill_child() {
  if (here_ == child_) here_ = 0;
  threads_.erase(child_);
  kill(child_, SIGKILL);
  waitpid(child_, nullptr, __WALL);  // so that its parent can
  child_ = 0;
}

void Victim::kill_parent() {
  kill(pid_, SIGKILL);
  // With its threads; a child that has not left the group yet may end too.
  for (pid_t reaped = 0; reaped != pid_;) {
    int status = 0;
    reaped = waitpid(-pid_, &status, WNOHANG | __WALL);
    if (reaped == 0) wait_for_signal(std::chrono::milliseconds(1));
    if (reaped > 0 && reaped == child_ && !WIFSTOPPED(status)) child_ = 0;
  }
  if (child_ != 0) let_child_go();
  ended_ = true;
  pid_ = -1;
}

std::string Victim::where() const {
  if (ended_) {
    if (WIFEXITED(status_)) return "it exited with " + std::to_string(WEXITSTATUS(status_));
    return "it ended by signal " + std::to_string(WTERMSIG(status_));
  }
  if (here_ == 0) return "running";
  const user_regs_struct regs = registers(here_);
  char text[128];
  switch (at_) {
    case At::kEnterCall:
      std::snprintf(text, sizeof text, "before system call %llu", regs.orig_rax);
      break;
    case At::kLeaveCall:
      std::snprintf(text, sizeof text, "after system call %llu", regs.orig_rax);
      break;
    case At::kStore:
      std::snprintf(text, sizeof text, "before the store at %#llx", regs.rip);
      break;
    case At::kStored:
      std::snprintf(text, sizeof text, "after the store before %#llx", regs.rip);
      break;
    case At::kInstruction:
      std::snprintf(text, sizeof text, "at %#llx", regs.rip);
      break;
    case At::kNothing:
      return "at a mark";
  }
  return text;
}

}  // namespace modelpool::test
