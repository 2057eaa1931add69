#include "command.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/shortage.hpp"

namespace modelpool::poolctl {
namespace {

constexpr std::array<int, 6> kPassedOn = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (const std::string& s : strings) result.push_back(const_cast<char*>(s.c_str()));
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> merged_environment(const std::vector<std::string>& added) {
  std::vector<std::string> merged;
  const auto name_of = [](std::string_view entry) { return entry.substr(0, entry.find('=')); };
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::none_of(added.begin(), added.end(),
                     [&](const std::string& other) { return name_of(other) == name_of(*entry); })) {
      merged.emplace_back(*entry);
    }
  }
  merged.insert(merged.end(), added.begin(), added.end());
  return merged;
}

// After fork in a process with threads: async-signal-safe calls only.
[[noreturn]] void become(char* const* argv, char* const* envp, pid_t parent,
                         const SignalInbox& inbox, int report_fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kLeaseFailed);
  inbox.restore();
  execvpe(argv[0], argv, envp);
  const int error = errno;
  if (write(report_fd, &error, sizeof error) < 0) _exit(kLeaseFailed);
  _exit(kCannotRun);
}

// Ctrl-C reaches the whole foreground group, COMMAND included: passing it on would make it two.
bool has_it_already(const SignalInbox::Taken& taken, pid_t child) {
  return taken.from_terminal && getpgid(child) == getpgrp();
}

// "/bin/sh" of a script that begins with "#!/bin/sh"; "" of anything else.
std::string interpreter_of(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (file.get() != '#' || file.get() != '!' || !std::getline(file, line)) return {};
  const std::size_t start = std::min(line.find_first_not_of(" \t"), line.size());
  return line.substr(start, line.find_first_of(" \t", start) - start);
}

std::optional<NotRunnable> examine(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return NotRunnable{errno, {}};
  if (!S_ISREG(info.st_mode)) return NotRunnable{EACCES, {}};
  if (access(path.c_str(), X_OK) != 0) return NotRunnable{errno, {}};
  const std::string interpreter = interpreter_of(path);
  if (interpreter.empty() || access(interpreter.c_str(), X_OK) == 0) return std::nullopt;
  return NotRunnable{errno, interpreter};
}

int end_of(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return kLeaseFailed;
  }
  return WIFSIGNALED(status) ? kSignalBase + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

SignalInbox::SignalInbox() {
  sigset_t wanted;
  sigemptyset(&wanted);
  for (const int number : kPassedOn) {
    struct sigaction action {};
    sigaction(number, nullptr, &action);
    if (action.sa_handler != SIG_IGN) sigaddset(&wanted, number);
  }
  pthread_sigmask(SIG_BLOCK, &wanted, &mask_before_);
  fd_.reset(signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, &pipe_before_);
  // Inherited as ignored it would take COMMAND's exit status away.
  signal(SIGCHLD, SIG_DFL);
}

void SignalInbox::restore() const {
  sigaction(SIGPIPE, &pipe_before_, nullptr);
  signal(SIGXFSZ, SIG_DFL);  // run_program
  sigprocmask(SIG_SETMASK, &mask_before_, nullptr);
}

std::optional<SignalInbox::Taken> SignalInbox::take() {
  signalfd_siginfo info;
  if (read(fd_.get(), &info, sizeof info) != sizeof info) return std::nullopt;
  return Taken{static_cast<int>(info.ssi_signo), info.ssi_code == SI_KERNEL};
}

StopOnSignal::StopOnSignal(const SignalInbox& inbox) : end_(eventfd(0, EFD_CLOEXEC)) {
  thread_ = std::thread([this, signals = inbox.fd()] {
    pollfd watched[] = {{signals, POLLIN, 0}, {end_.get(), POLLIN, 0}};
    while (poll(watched, 2, -1) < 0 && errno == EINTR) {
    }
    if (watched[0].revents != 0) source_.request_stop();
  });
}

StopOnSignal::~StopOnSignal() {
  eventfd_write(end_.get(), 1);
  thread_.join();
}

std::string NotRunnable::reason() const {
  if (is_empty) return "its name is empty";
  return (interpreter.empty() ? "" : "its interpreter " + escape(interpreter) + ": ") +
         std::strerror(error);
}

std::string NotRunnable::advice() const {
  if (!interpreter.empty()) return "mend its first line";
  return is_missing() ? "give its path, or look at PATH" : "make it an executable file";
}

std::optional<NotRunnable> why_not_runnable(const std::string& program) {
  if (program.empty()) return NotRunnable{ENOENT, {}, true};
  if (program.find('/') != std::string::npos) return examine(program);
  const char* path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/bin:/usr/bin";
  NotRunnable why{ENOENT, {}};
  for (;;) {
    const std::size_t colon = rest.find(':');
    const std::string dir(rest.substr(0, colon));
    const auto found = examine((dir.empty() ? "." : dir) + "/" + program);
    if (!found) return std::nullopt;
    if (found->error == EACCES || !found->interpreter.empty()) why = *found;
    if (colon == std::string_view::npos) return why;
    rest.remove_prefix(colon + 1);
  }
}

int complain_not_run(const std::string& program, const NotRunnable& why) {
  complain("unable to run " + (program.empty() ? "COMMAND" : escape(program)) + ": " +
           why.reason() + "; " + why.advice());
  return why.is_missing() ? kNotFound : kCannotRun;
}

int run_command(const std::vector<std::string>& argv, const std::vector<std::string>& environment,
                SignalInbox& inbox, int asked_fd, const std::function<void()>& asked) {
  const std::vector<std::string> merged = merged_environment(environment);
  const std::vector<char*> argv_pointers = pointers(argv);
  const std::vector<char*> env_pointers = pointers(merged);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    complain(fail_errno(errno, "create a pipe", shortage_advice(Needs::kDescriptor, errno))
                 .value()
                 .text);
    return kLeaseFailed;
  }
  Fd failed(ends[0]);
  Fd report_end(ends[1]);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) {
    complain(fail_errno(errno, "start " + escape(argv[0]), shortage_advice(Needs::kThread, errno))
                 .value()
                 .text);
    return kLeaseFailed;
  }
  if (child == 0) {
    become(argv_pointers.data(), env_pointers.data(), parent, inbox, report_end.get());
  }
  report_end.reset();
  int error = 0;
  ssize_t got;
  while ((got = read(failed.get(), &error, sizeof error)) < 0 && errno == EINTR) {
  }
  if (got == static_cast<ssize_t>(sizeof error)) {
    end_of(child);
    return complain_not_run(argv[0], why_not_runnable(argv[0]).value_or(NotRunnable{error, {}}));
  }
  // Not reaped yet, so the PID is its.
  const Fd ended(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  if (!ended) {
    complain(fail_errno(errno, "watch " + escape(argv[0])).value().text);
    kill(child, SIGKILL);
    end_of(child);
    return kLeaseFailed;
  }
  for (;;) {
    pollfd watched[] = {{ended.get(), POLLIN, 0}, {inbox.fd(), POLLIN, 0}, {asked_fd, POLLIN, 0}};
    if (poll(watched, 3, -1) < 0 && errno != EINTR) break;
    if (watched[0].revents != 0) break;
    if (eventfd_t count; watched[2].revents != 0 && eventfd_read(asked_fd, &count) == 0) {
      asked();
      kill(child, SIGTERM);
    }
    while (const auto taken = inbox.take()) {
      if (!has_it_already(*taken, child)) kill(child, taken->number);
    }
  }
  return end_of(child);
}

}  // namespace modelpool::poolctl
