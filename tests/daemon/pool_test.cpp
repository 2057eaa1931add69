#include "pool_test.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <filesystem>
#include <sstream>

#include "base/time.hpp"

namespace modelpool::test {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string line;
  for (const auto& word : words) line += (line.empty() ? "" : "\t") + word;
  return line;
}

std::vector<std::string> split(const std::string& line) {
  std::vector<std::string> words;
  std::istringstream stream(line);
  for (std::string word; std::getline(stream, word, '\t');) words.push_back(word);
  return words;
}

// The worker's side.
class Servant {
 public:
  explicit Servant(Pool pool) : pool_(std::move(pool)) {}

  std::string obey(std::vector<std::string> words) {
    const std::string verb = words.at(0);
    if (verb == "error") return last_error_;
    const std::string& model = words.at(1);
    if (verb == "acquire") return acquire(words);
    if (verb == "spawn") return spawn(model, {words.begin() + 2, words.end()});
    if (verb == "program") return spawn_program(model, {words.begin() + 2, words.end()});
    if (verb == "ready") return ready(model, false);
    if (verb == "external") return ready(model, true);
    if (verb == "fail") return answer(tickets_.at(model).fail(words.at(2)));
    if (verb == "started") return answer(tickets_.at(model).started(std::stoi(words.at(2))));
    if (verb == "progress") return answer(leases_.at(model).progress());
    if (verb == "touch") return answer(pool_.touch(model));
    if (verb == "release") {
      leases_.erase(model);
      tickets_.erase(model);
      return "ok";
    }
    return "?";
  }

 private:
  std::string error(const Error& error) {
    last_error_ = error.text;
    return std::string(errc_name(error.code));
  }
  std::string answer(const Result<>& result) { return result ? "ok" : error(result.error()); }

  std::string acquire(const std::vector<std::string>& words) {
    AcquireOptions options;
    if (words.size() > 3) options.tag = words[3];
    if (words.size() > 4) options.busy_timeout = std::chrono::milliseconds(std::stoi(words[4]));
    auto grant = pool_.acquire(words[1], std::chrono::milliseconds(std::stoi(words[2])), options);
    if (!grant) return error(grant.error());
    if (auto* lease = std::get_if<Lease>(&*grant)) {
      leases_[words[1]] = std::move(*lease);
      return "lease";
    }
    tickets_[words[1]] = std::move(std::get<LoadTicket>(*grant));
    return "ticket";
  }
  std::string spawn(const std::string& model, const std::vector<std::string>& flags) {
    int port = 0;
    auto argv = backend_argv(&port, flags);
    argv.insert(argv.end(), {"--name", model});
    const std::string pid = spawn_program(model, argv);
    addresses_[model] = "127.0.0.1:" + std::to_string(port);
    if (pid.starts_with("pid "))
      eventually([&] { return listens(port) || !is_running(tickets_.at(model).pid()); });
    return pid;
  }
  std::string spawn_program(const std::string& model, const std::vector<std::string>& argv) {
    addresses_[model] = "unix:/" + model;  // of its own, where nobody listens
    if (auto ok = tickets_.at(model).spawn(argv); !ok) return error(ok.error());
    return "pid " + std::to_string(tickets_.at(model).pid());
  }
  std::string ready(const std::string& model, bool external) {
    ReadyOptions options;
    options.external = external;
    std::string address = addresses_[model];
    if (address.empty()) address = "127.0.0.1:1";
    auto lease = tickets_.at(model).ready(address, options);
    if (!lease) return error(lease.error());
    tickets_.erase(model);
    leases_[model] = std::move(*lease);
    return "lease";
  }

  Pool pool_;
  std::map<std::string, Lease> leases_;
  std::map<std::string, LoadTicket> tickets_;
  std::map<std::string, std::string> addresses_;
  std::string last_error_;
};

}  // namespace

RemoteWorker::RemoteWorker(const Scratch& scratch)
    : process_([dir = &scratch](Forked::Child& child) {
        Servant servant(attach(*dir));
        child.say("attached");
        for (std::string line = child.hear(); !line.empty(); line = child.hear()) {
          child.say(servant.obey(split(line)));
        }
      }) {
  if (process_.hear() != "attached") throw std::runtime_error("a worker did not attach");
}

std::string RemoteWorker::ask(const std::string& line) {
  process_.say(line);
  return process_.hear();
}

std::string RemoteWorker::acquire(const std::string& model, int timeout_ms, const std::string& tag,
                                  int busy_ms) {
  return ask(joined({"acquire", model, std::to_string(timeout_ms), tag, std::to_string(busy_ms)}));
}
void RemoteWorker::begin_acquire(const std::string& model, int timeout_ms) {
  process_.say(joined({"acquire", model, std::to_string(timeout_ms)}));
}
std::string RemoteWorker::spawn(const std::string& model, const std::vector<std::string>& flags) {
  std::vector<std::string> words{"spawn", model};
  words.insert(words.end(), flags.begin(), flags.end());
  return ask(joined(words));
}
std::string RemoteWorker::spawn_program(const std::string& model,
                                        const std::vector<std::string>& argv) {
  std::vector<std::string> words{"program", model};
  words.insert(words.end(), argv.begin(), argv.end());
  return ask(joined(words));
}
std::string RemoteWorker::ready(const std::string& model) { return ask(joined({"ready", model})); }
std::string RemoteWorker::ready_external(const std::string& model) {
  return ask(joined({"external", model}));
}
std::string RemoteWorker::fail(const std::string& model, const std::string& reason) {
  return ask(joined({"fail", model, reason}));
}
std::string RemoteWorker::progress(const std::string& model) {
  return ask(joined({"progress", model}));
}
std::string RemoteWorker::release(const std::string& model) {
  return ask(joined({"release", model}));
}
std::string RemoteWorker::touch(const std::string& model) { return ask(joined({"touch", model})); }
std::string RemoteWorker::started(const std::string& model, pid_t pid) {
  return ask(joined({"started", model, std::to_string(pid)}));
}

pid_t RemoteWorker::load(const std::string& model, const std::vector<std::string>& flags) {
  const std::string granted = acquire(model);
  if (granted != "ticket") {
    ADD_FAILURE() << "acquire " << model << ": " << granted << ": " << last_error();
    return 0;
  }
  const std::string spawned = spawn(model, flags);
  if (!spawned.starts_with("pid ")) {
    ADD_FAILURE() << "spawn " << model << ": " << spawned << ": " << last_error();
    return 0;
  }
  const std::string leased = ready(model);
  if (leased != "lease") {
    ADD_FAILURE() << "ready " << model << ": " << leased << ": " << last_error();
    return 0;
  }
  return std::stoi(spawned.substr(4));
}

pid_t RemoteWorker::load_idle(const std::string& model, const std::vector<std::string>& flags) {
  const pid_t pid = load(model, flags);
  release(model);
  return pid;
}

// --- PoolTest ------------------------------------------------------------------------------------

Daemon& PoolTest::start(std::vector<std::string> flags) {
  daemon_ = std::make_unique<Daemon>(scratch_, std::move(flags));
  return *daemon_;
}

nlohmann::json PoolTest::entry(const std::string& model) {
  for (const auto& backend : list()) {
    if (backend["model"] == model) return backend;
  }
  return nullptr;
}

std::string PoolTest::state(const std::string& model) {
  const auto found = entry(model);
  return found.is_null() ? "" : found["state"].get<std::string>();
}

bool PoolTest::wait_state(const std::string& model, const std::string& wanted) {
  return eventually([&] { return state(model) == wanted; });
}

nlohmann::json PoolTest::event(const std::string& kind, const std::string& model) {
  const auto found = find_event(scratch_, kind, model);
  return found ? *found : nlohmann::json();
}

nlohmann::json PoolTest::wait_event(const std::string& kind, const std::string& model) {
  nlohmann::json found;
  eventually([&] {
    found = event(kind, model);
    return !found.is_null();
  });
  EXPECT_FALSE(found.is_null()) << "no event " << kind << " " << model << "; the log:\n"
                                << (daemon_ ? daemon_->log() : "");
  return found.is_null() ? nlohmann::json::object() : found;
}

std::size_t PoolTest::count_events(const std::string& kind, const std::string& model) {
  std::size_t count = 0;
  for (const auto& e : events(scratch_))
    count += e["kind"] == kind && (model.empty() || e["model"] == model);
  return count;
}

::testing::AssertionResult PoolTest::settles() {
  Finished check;
  const bool sound = eventually([&] {
    check = poolctl(scratch_, {"check", "--settled"});
    return check.code == 0;
  });
  return sound ? ::testing::AssertionSuccess()
               : ::testing::AssertionFailure() << check.out << check.err;
}

std::string PoolTest::token() { return "MODELPOOL_BACKEND=" + status()["uuid"].get<std::string>(); }

// --- Observer ------------------------------------------------------------------------------------

Observer::Observer(std::string token)
    : thread_([this, token = std::move(token)](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
          // A scan is no instant: who was seen must still be there after the last was seen.
          std::size_t count = 0;
          for (const pid_t pid : processes_with_environment(token)) count += is_running(pid);
          if (count > most_.load()) most_.store(count);
          looks_.fetch_add(1);
        }
      }) {}

void Observer::stop() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

// --- Looking -------------------------------------------------------------------------------------

bool listens(int port) {
  const Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
}

std::uint64_t status_number(pid_t pid, const std::string& name) {
  std::istringstream lines(read_file("/proc/" + std::to_string(pid) + "/status"));
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name + ":")) return std::stoull(line.substr(name.size() + 1));
  }
  return 0;
}

std::uint64_t voluntary_switches(pid_t pid) {
  std::uint64_t sum = 0;
  const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    std::istringstream lines(read_file(task.path().string() + "/status"));
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("voluntary_ctxt_switches:")) sum += std::stoull(line.substr(24));
    }
  }
  return sum;
}

}  // namespace modelpool::test
