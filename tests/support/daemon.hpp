// The real coordinatord, poolctl and demo_backend on a pool of the test's own.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "pool/inside.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

namespace modelpool::test {

class Daemon {
 public:
  // Starts coordinatord on scratch.dir() and waits until it serves.
  explicit Daemon(const Scratch& scratch, std::vector<std::string> flags = {},
                  Program::Options options = {});
  ~Daemon();  // SIGTERM, waits; the segment stays in the scratch directory

  pid_t pid() { return program_->pid(); }
  Program& program() { return *program_; }
  void kill_now();  // SIGKILL, reaped
  void start();     // again, with the same flags; waits until it serves
  std::string log() const { return program_->err(); }

 private:
  std::string dir_;
  std::vector<std::string> flags_;
  Program::Options options_;
  std::unique_ptr<Program> program_;
};

// Ends every process that carries the token of a pool in this directory, by PID, when it goes: what
// a failing test left. Declare it before the Daemon.
class BackendsEnd {
 public:
  explicit BackendsEnd(const Scratch& scratch) : dir_(scratch.dir()) {}
  ~BackendsEnd();

 private:
  std::string dir_;
};

// `poolctl ARGS...` on that pool.
Finished poolctl(const Scratch& scratch, std::vector<std::string> args);
nlohmann::json poolctl_json(const Scratch& scratch, std::vector<std::string> args);  // -o json
// Events so far, oldest first.
std::vector<nlohmann::json> events(const Scratch& scratch);
std::optional<nlohmann::json> find_event(const Scratch& scratch, const std::string& kind,
                                         const std::string& model);

Pool attach(const Scratch& scratch);  // fails the test by throwing if it cannot
// argv of a demo_backend that listens on a free port; *port is set.
std::vector<std::string> backend_argv(int* port, std::vector<std::string> flags = {});
int free_port();

}  // namespace modelpool::test
