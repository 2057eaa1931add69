// The pool's coordinator, as the master keeps it: there is one. Whoever started it, it is watched;
// when there is none, one is started, and again when it dies (1 s, doubling to 30 s), unless others
// are to do that. It has a session of its own and outlives us.
//
// Safety: one thread. It owns the master's Pool.
//
// Crash: of the coordinator, leaves the pool as it is (P10); of the master, leaves the coordinator.
//
// Errors: of start(), with what ended it; later they are logged, and it tries again.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "between/fd.hpp"
#include "master/clock.hpp"
#include "modelpool/pool.hpp"

namespace modelpool::serve {

class CoordinatorWatch {
 public:
  // `command` without the program, nullopt: others start one; `files` is the limit that it starts
  // with.
  CoordinatorWatch(std::string pool, std::string dir,
                   std::optional<std::vector<std::string>> command, rlimit files);

  // Attaches to the pool, if there is one. Errors: those of Pool::attach but kNoSuchPool.
  Result<> look();
  // A child that the program before, in this process, had started; 0: there is none.
  void adopt(pid_t own) { own_ = own; }
  pid_t own() const { return own_; }
  // Until one serves the pool. Errors: kNoCoordinator with what ended it.
  Result<> start();

  // The loop's part: wait for this descriptor (-1: none) or time, then step().
  int fd() const;
  std::uint64_t due_ns() const;
  void step();
  // A child of this process ended; true: it was ours.
  bool ended(pid_t pid, int status);

  Pool* pool() { return pool_ ? &*pool_ : nullptr; }
  pid_t pid() const { return state_ == State::kWatching ? pid_ : 0; }  // 0: there is none now
  bool is_own() const { return pid() != 0 && pid_ == own_; }           // this process started it
  bool runs_with(const std::string& config_path) const;
  void signal(int number) const;
  void forget();                                // in a forked child, which has copies of all this
  int exit_code() const { return exit_code_; }  // of the last one of ours that ended; 0: none

 private:
  enum class State {
    kUnknown,   // look now
    kStarting,  // ours runs, and has not said that it is ready
    kWatching,
    kPausing,  // none is there; look again later
  };

  void look_for_one();
  bool watch_if_alive();
  Result<> execute();
  void pause(const std::string& why);

  std::string name_, dir_;
  std::optional<std::vector<std::string>> command_;
  rlimit files_;
  std::optional<Pool> pool_;
  State state_ = State::kUnknown;
  pid_t pid_ = 0;
  pid_t own_ = 0;  // that we started last; 0: it has ended
  int exit_code_ = 0;
  Fd pidfd_;
  Fd ready_;  // readable: it serves, or has ended
  std::uint64_t since_ns_ = 0;
  std::uint64_t due_ns_ = 0;
  Backoff backoff_;
};

}  // namespace modelpool::serve
