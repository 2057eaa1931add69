// What the tests of this folder share: a pool of their own, workers in processes of their own, and
// an observer that counts from outside.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/daemon.hpp"

namespace modelpool::test {

// A worker process that does as it is told, a line a command. It holds at most one lease or ticket
// a model. Start it before the test has threads.
class RemoteWorker {
 public:
  explicit RemoteWorker(const Scratch& scratch);

  pid_t pid() const { return process_.pid(); }
  void signal(int signal) { process_.signal(signal); }
  void kill_now() { process_.kill_now(); }

  // The answers are "lease", "ticket", or the name of the error, as in "timeout".
  std::string acquire(const std::string& model, int timeout_ms = 20'000,
                      const std::string& tag = "", int busy_ms = 0);
  void begin_acquire(const std::string& model,
                     int timeout_ms = 20'000);  // its answer comes by hear()
  // A demo_backend with these flags, listening. "pid N" or the name of the error.
  std::string spawn(const std::string& model, const std::vector<std::string>& flags = {});
  std::string spawn_program(const std::string& model, const std::vector<std::string>& argv);
  std::string ready(const std::string& model);
  std::string ready_external(const std::string& model);
  std::string fail(const std::string& model, const std::string& reason);
  std::string progress(const std::string& model);
  std::string release(const std::string& model);
  std::string touch(const std::string& model);
  std::string started(const std::string& model, pid_t pid);
  // acquire, spawn, ready; the lease is kept. Returns the PID, 0 if it did not work.
  pid_t load(const std::string& model, const std::vector<std::string>& flags = {});
  // The same, and the lease is released.
  pid_t load_idle(const std::string& model, const std::vector<std::string>& flags = {});

  void say(const std::string& line) { process_.say(line); }
  std::string hear() { return process_.hear(); }
  std::string last_error() { return ask("error"); }  // the text of the last error

 private:
  std::string ask(const std::string& line);
  Forked process_;
};

class PoolTest : public ::testing::Test {
 protected:
  Daemon& start(std::vector<std::string> flags = {});
  Daemon& daemon() { return *daemon_; }

  nlohmann::json list() { return poolctl_json(scratch_, {"list"}); }
  nlohmann::json status() { return poolctl_json(scratch_, {"status"}); }
  // The model's entry of `list`, null if it is not live.
  nlohmann::json entry(const std::string& model);
  std::string state(const std::string& model);  // "" if it is not live
  bool wait_state(const std::string& model, const std::string& wanted);
  nlohmann::json event(const std::string& kind,
                       const std::string& model = "");  // null if there is none yet
  nlohmann::json wait_event(const std::string& kind, const std::string& model = "");
  std::size_t count_events(const std::string& kind, const std::string& model = "");
  // Everything at rest: nothing in transition, no finding.
  ::testing::AssertionResult settles();
  std::string token();  // what all backends of the pool carry in their environment

  Scratch scratch_;
  BackendsEnd backends_end_{scratch_};
  std::unique_ptr<Daemon> daemon_;
};

// Counts the processes that carry the pool's token, again and again, without the library.
class Observer {
 public:
  explicit Observer(std::string token);
  ~Observer() { stop(); }
  void stop();
  std::size_t most() const { return most_.load(); }
  std::size_t looks() const { return looks_.load(); }

 private:
  std::atomic<std::size_t> most_{0};
  std::atomic<std::size_t> looks_{0};
  std::jthread thread_;
};

bool listens(int port);
// The number in a line of /proc/PID/status.
std::uint64_t status_number(pid_t pid, const std::string& name);
std::uint64_t voluntary_switches(pid_t pid);  // of all its threads

}  // namespace modelpool::test
