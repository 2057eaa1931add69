// One generation of workers: forked by the master, started again when they die, told of a new
// config. They accept from the same sockets and are retired together.
//
// Safety: one thread.
//
// Crash: of a worker, another takes its place, at once or, if it lived less than a second, after a
// pause. Of the master, they go on.
//
// Errors: kSystem where none can be forked; it is tried again.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "between/balance.hpp"
#include "between/fd.hpp"
#include "config/door.hpp"
#include "master/clock.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

class Workers {
 public:
  struct One {
    pid_t pid = 0;  // 0: to be started at start_ns
    Fd control;
    std::uint64_t started_ns = 0;
    std::uint64_t start_ns = 0;
    Backoff backoff;
    bool is_ready = false;
    bool has_failed = false;  // ended before it was ready; until it is
    bool owes_door = false;   // has not yet said that the new config is in force
  };
  // One that lives: of a program that was executed before, in this process.
  struct Process {
    pid_t pid = 0;
    Fd control;
  };
  // Runs in the forked child, with its place among all, and returns its exit code.
  using Serve = std::function<int(std::uint32_t index, Fd control)>;

  Workers(std::uint32_t count, Serve serve)
      : all_(count), serve_(std::move(serve)), balance_(std::make_shared<Balance>(count)) {}
  Workers(std::uint32_t count, Fd balance)
      : all_(count), balance_(std::make_shared<Balance>(count, std::move(balance))) {}

  // Those of the program before: they serve, are not replaced, and are told of no config, whose
  // text may be another.
  static Workers adopt(std::vector<Process> processes, Fd balance);
  // All places, with copies that an executed program has, too; PID 0: nobody is there.
  std::vector<Process> processes() const;
  bool had(pid_t pid) const;  // when they were adopted

  void start_due();
  std::uint64_t due_ns() const;
  // A child ended; false: it is none of these.
  bool ended(pid_t pid, int status);
  // Reads what they say; true: something changed.
  bool hear();
  void send_door(const config::Door& door);
  void signal(int number) const;
  // After all have failed, where something has changed since.
  void try_again();
  void start_no_more() { starts_ = false; }
  // Or those that die at once are replaced at once.
  void pause_between_tries(bool pauses) { pauses_ = pauses; }
  std::size_t alive() const;
  bool are_adopted() const { return is_adopted_; }
  std::uint32_t deaths() const { return deaths_; }

  const std::shared_ptr<Balance>& balance() const { return balance_; }
  const std::vector<One>& all() const { return all_; }
  bool all_ready() const;
  bool owe_door() const;
  bool any_alive() const;
  // None lives and none ever was ready: how the last one ended.
  bool is_hopeless() const { return !was_ready_ && !last_end_.empty() && !any_alive(); }
  // Each had a try, and some cannot begin though others may serve.
  bool has_failed() const;
  const std::string& last_end() const { return last_end_; }

 private:
  Result<> start(One& one);

  std::vector<One> all_;
  Serve serve_;
  std::shared_ptr<Balance> balance_;
  bool starts_ = true;
  bool is_adopted_ = false;
  std::vector<pid_t> adopted_;
  bool pauses_ = true;
  std::uint32_t deaths_ = 0;
  bool was_ready_ = false;
  std::string last_end_;
};

}  // namespace modelpool::serve
