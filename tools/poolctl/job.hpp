// A child as a job of the terminal, in a process group of its own: what a shell does for a command,
// done once more one step below. The shell's job is poolctl; who reads the keyboard, Ctrl-C, Ctrl-Z
// and fg are COMMAND's.
//
// COMMAND has the foreground from its start where poolctl has it and stdin, stdout and stderr are
// all this terminal. In a pipeline others of poolctl's group may read the keyboard, so COMMAND gets
// the foreground only when it stops for want of it; until then Ctrl-C and Ctrl-Z are passed on.
//
// Safety: the main thread only, before it starts others: signals are blocked in it and in those.
//
// Crash: killed, the terminal's foreground is a group without poolctl; the shell takes it back.
//
// Errors: without a terminal everything but the signals is left out.
#pragma once

#include <sys/types.h>
#include <termios.h>

#include <optional>

#include "command.hpp"

namespace modelpool::poolctl {

class Job {
 public:
  explicit Job(SignalInbox& inbox);
  ~Job() { take_back(); }

  // The terminal in whose foreground COMMAND is to be started; -1: in none.
  int terminal() const { return starts_in_front_ ? terminal_.get() : -1; }
  // Until it has ended. Passes on signals, stops and goes on with it. Returns its exit code;
  // nothing if somebody else has reaped it.
  std::optional<int> wait_for(pid_t child);
  void take_back();

 private:
  bool is_in_front() const;  // is poolctl's group?
  void give(pid_t child);
  void take_signals(pid_t child);
  static void reap_others(pid_t child);
  void follow_stop(pid_t child, int signal);
  bool stop_with_it();
  void go_on(pid_t child);

  SignalInbox& inbox_;
  Fd terminal_;  // none: there is none
  Fd signals_;   // those of jobs
  termios modes_{};
  bool has_modes_ = false;
  bool starts_in_front_ = false;
  bool is_given_ = false;  // the foreground, as far as is known
  bool wants_it_ = false;
};

}  // namespace modelpool::poolctl
