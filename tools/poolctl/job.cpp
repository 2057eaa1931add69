#include "job.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <initializer_list>
#include <utility>

namespace modelpool::poolctl {
namespace {

sigset_t set_of(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  return set;
}

}  // namespace

Job::Job(SignalInbox& inbox)
    : inbox_(inbox), terminal_(open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)) {
  // SIGTTOU: to hand the foreground over from the background.
  const sigset_t blocked = set_of({SIGCHLD, SIGCONT, SIGTSTP, SIGWINCH, SIGTTOU});
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  const sigset_t read = set_of({SIGCHLD, SIGCONT, SIGTSTP, SIGWINCH});
  signals_.reset(signalfd(-1, &read, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!terminal_) return;
  has_modes_ = tcgetattr(terminal_.get(), &modes_) == 0;
  starts_in_front_ = is_in_front();
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    starts_in_front_ = starts_in_front_ && tcgetsid(fd) == getsid(0);
  }
  is_given_ = wants_it_ = starts_in_front_;
}

bool Job::is_in_front() const { return terminal_ && tcgetpgrp(terminal_.get()) == getpgrp(); }

void Job::give(pid_t child) { is_given_ = tcsetpgrp(terminal_.get(), child) == 0; }

void Job::take_back() {
  if (is_given_) tcsetpgrp(terminal_.get(), getpgrp());
  is_given_ = false;
}

// What COMMAND's processes have left to poolctl, as their subreaper.
void Job::reap_others(pid_t child) {
  siginfo_t end{};
  while (waitid(P_ALL, 0, &end, WEXITED | WNOHANG | WNOWAIT) == 0 && end.si_pid != 0 &&
         end.si_pid != child) {
    static_cast<void>(waitid(P_PID, static_cast<id_t>(end.si_pid), nullptr, WEXITED | WNOHANG));
    end = {};
  }
}

std::optional<int> Job::wait_for(pid_t child) {
  const Fd ended(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  while (ended) {
    pollfd watched[] = {
        {ended.get(), POLLIN, 0}, {inbox_.fd(), POLLIN, 0}, {signals_.get(), POLLIN, 0}};
    if (poll(watched, 3, -1) < 0 && errno != EINTR) break;
    if (watched[0].revents != 0) break;
    while (const auto taken = inbox_.take()) {
      // From the terminal it came to poolctl's whole group, so COMMAND's gets it, too.
      kill(taken->from_terminal ? -child : child, taken->number);
    }
    take_signals(child);
  }
  take_back();
  // Its end stays to be reaped: until the pool has seen it gone its number is nobody else's.
  siginfo_t end{};
  while (waitid(P_PID, static_cast<id_t>(child), &end, WEXITED | WNOWAIT) != 0) {
    if (errno != EINTR) return std::nullopt;
  }
  if (end.si_code == CLD_EXITED) return end.si_status;
  // It could not put the terminal right.
  if (has_modes_ && is_in_front()) tcsetattr(terminal_.get(), TCSADRAIN, &modes_);
  return kSignalBase + end.si_status;
}

void Job::take_signals(pid_t child) {
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof info) == sizeof info) {
    switch (info.ssi_signo) {
      case SIGCONT:
        go_on(child);
        break;
      case SIGTSTP:
      case SIGWINCH:
        kill(-child, static_cast<int>(info.ssi_signo));
        break;
      default: {
        siginfo_t stopped{};
        while (waitid(P_PID, static_cast<id_t>(child), &stopped, WSTOPPED | WNOHANG) == 0 &&
               stopped.si_pid == child)
          follow_stop(child, std::exchange(stopped, {}).si_status);
        reap_others(child);
      }
    }
  }
}

// Ctrl-Z, or it wants the terminal. Stopped by SIGSTOP, it alone was meant.
void Job::follow_stop(pid_t child, int signal) {
  const bool wants_it = signal == SIGTTIN || signal == SIGTTOU;
  if (signal != SIGTSTP && !wants_it) return;
  wants_it_ |= wants_it;
  if (wants_it && is_in_front()) return go_on(child);
  take_back();
  // Where no shell would go on with it, Ctrl-Z stops nothing.
  if (stop_with_it() || signal == SIGTSTP) go_on(child);
}

// Stops poolctl's whole group, as the terminal does; goes on when a shell says so. False: nobody
// could say so, and the system stopped nothing.
bool Job::stop_with_it() {
  const sigset_t stop = set_of({SIGTSTP});
  pthread_sigmask(SIG_UNBLOCK, &stop, nullptr);
  kill(0, SIGTSTP);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  bool was_continued = false;
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof info) == sizeof info) {
    was_continued |= info.ssi_signo == SIGCONT;
  }
  return was_continued;
}

void Job::go_on(pid_t child) {
  if (wants_it_ && is_in_front()) give(child);
  kill(-child, SIGCONT);
}

}  // namespace modelpool::poolctl
