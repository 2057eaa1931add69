#include "support/daemon.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sstream>
#include <stdexcept>

#include "protocol/snapshot.hpp"

namespace modelpool::test {

Daemon::Daemon(const Scratch& scratch, std::vector<std::string> flags, Program::Options options)
    : dir_(scratch.dir()), flags_(std::move(flags)), options_(std::move(options)) {
  start();
}

Daemon::~Daemon() {
  if (!program_ || !program_->running()) return;
  program_->signal(SIGCONT);
  program_->signal(SIGTERM);
  if (!eventually([&] { return !program_->running(); })) program_->signal(SIGKILL);
}

void Daemon::start() {
  std::vector<std::string> argv{MODELPOOL_COORDINATORD, "--dir", dir_};
  argv.insert(argv.end(), flags_.begin(), flags_.end());
  program_ = std::make_unique<Program>(argv, options_);
  const bool serves = eventually([&] {
    return !program_->running() || program_->err().find("serving pool") != std::string::npos;
  });
  if (!serves || !program_->running())
    throw std::runtime_error("coordinatord did not start: " + program_->err());
}

void Daemon::kill_now() {
  program_->signal(SIGKILL);
  program_->wait();
}

BackendsEnd::~BackendsEnd() {
  auto segment = Segment::open_read_only("default", dir_);
  if (!segment) return;
  for (const pid_t pid :
       processes_with_environment("MODELPOOL_BACKEND=" + (*segment)->uuid_text())) {
    kill(pid, SIGKILL);
  }
}

Finished poolctl(const Scratch& scratch, std::vector<std::string> args) {
  std::vector<std::string> argv{MODELPOOL_POOLCTL, "--dir", scratch.dir()};
  argv.insert(argv.end(), args.begin(), args.end());
  return run(argv);
}

nlohmann::json poolctl_json(const Scratch& scratch, std::vector<std::string> args) {
  args.insert(args.begin(), {"-o", "json"});
  const Finished finished = poolctl(scratch, std::move(args));
  auto parsed = nlohmann::json::parse(finished.out, nullptr, false);
  if (parsed.is_discarded()) throw std::runtime_error("no JSON: " + finished.out + finished.err);
  return parsed;
}

std::vector<nlohmann::json> events(const Scratch& scratch) {
  std::istringstream lines(poolctl(scratch, {"-o", "json", "events"}).out);
  std::vector<nlohmann::json> result;
  for (std::string line; std::getline(lines, line);) result.push_back(nlohmann::json::parse(line));
  return result;
}

std::optional<nlohmann::json> find_event(const Scratch& scratch, const std::string& kind,
                                         const std::string& model) {
  for (const auto& event : events(scratch)) {
    if (event["kind"] == kind && (model.empty() || event["model"] == model)) return event;
  }
  return std::nullopt;
}

Pool attach(const Scratch& scratch) {
  PoolOptions options;
  options.dir = scratch.dir();
  auto pool = Pool::attach("default", options);
  if (!pool) throw std::runtime_error(pool.error().text);
  return std::move(*pool);
}

int free_port() {
  const auto port = modelpool::free_port();
  if (!port) throw std::runtime_error(port.error().text);
  return *port;
}

std::vector<std::string> backend_argv(int* port, std::vector<std::string> flags) {
  *port = free_port();
  std::vector<std::string> argv{MODELPOOL_DEMO_BACKEND, "--port", std::to_string(*port)};
  argv.insert(argv.end(), flags.begin(), flags.end());
  return argv;
}

}  // namespace modelpool::test
