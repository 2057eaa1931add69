// Running COMMAND while something is held, as flock(1) and timeout(1) do: signals are passed on,
// its end is ours, and it does not outlive us.
//
// Safety: the main thread only. COMMAND is killed when the thread that forked it ends, and the
// signals are blocked in the thread that makes the inbox and in those it starts later.
//
// Crash: COMMAND asks the kernel for SIGKILL at its parent's death, and looks once whether that
// came before it asked.
//
// Errors: a COMMAND that cannot be run is an exit code, 126 or 127, with a message.
#pragma once

#include <signal.h>

#include <cerrno>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "common.hpp"

namespace modelpool::poolctl {

// The signals that end poolctl or are meant for COMMAND, kept until asked for. Signals ignored by
// who started poolctl (nohup) stay ignored. SIGPIPE is ignored: a server may hang up on the
// question whether it is ready.
class SignalInbox {
 public:
  SignalInbox();
  int fd() const { return fd_.get(); }  // readable while a signal waits
  struct Taken {
    int number;
    bool from_terminal;  // the kernel sent it to the whole foreground group
  };
  std::optional<Taken> take();
  // What COMMAND is to find: as if poolctl were not there. Async-signal-safe.
  void restore() const;

 private:
  Fd fd_;
  sigset_t mask_before_;
  struct sigaction pipe_before_;
};

// Requests a stop when a signal waits in the inbox; the signal stays there.
class StopOnSignal {
 public:
  explicit StopOnSignal(const SignalInbox& inbox);
  ~StopOnSignal();
  std::stop_token token() const { return source_.get_token(); }

 private:
  std::stop_source source_;
  Fd end_;
  std::thread thread_;
};

// Why execvp would fail.
struct NotRunnable {
  int error = 0;            // ENOENT, EACCES
  std::string interpreter;  // of a script, where that is what is missing
  bool is_empty = false;    // there is no name

  bool is_missing() const { return error == ENOENT || error == ENOTDIR; }
  std::string reason() const;
  std::string advice() const;
};
// Asked before a model is loaded for nothing.
std::optional<NotRunnable> why_not_runnable(const std::string& program);
// Complains and returns 126 or 127.
int complain_not_run(const std::string& program, const NotRunnable& why);

// Returns COMMAND's exit code, 128 + N when signal N killed it. `environment`: NAME=value, added.
// COMMAND gets SIGTERM, and `asked` is called, when an eventfd that is not -1 becomes readable.
int run_command(const std::vector<std::string>& argv, const std::vector<std::string>& environment,
                SignalInbox& inbox, int asked_fd, const std::function<void()>& asked);

}  // namespace modelpool::poolctl
