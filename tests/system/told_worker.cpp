// A worker that does as it is told, a line a command, its answer a line. Over the public headers
// alone: build_old makes it of an older library, too.
//
//   acquire MODEL MS        lease | ticket
//   spawn MODEL PROGRAM...  the PID
//   ready MODEL ADDRESS, progress MODEL, release MODEL    ok
//
// Each may answer with an error instead: its name, a blank and its text.
#include <chrono>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "modelpool/pool.hpp"

namespace {

using modelpool::Lease;
using modelpool::LoadTicket;
using modelpool::Result;

std::string told(const modelpool::Error& error) {
  return std::string(modelpool::errc_name(error.code)) + " " + error.text;
}

class Worker {
 public:
  explicit Worker(modelpool::Pool pool) : pool_(std::move(pool)) {}

  std::string obey(const std::vector<std::string>& words) {
    const std::string& verb = words.at(0);
    const std::string& model = words.at(1);
    if (verb == "acquire") return acquire(model, std::stoi(words.at(2)));
    if (verb == "spawn") return spawn(model, {words.begin() + 2, words.end()});
    if (verb == "ready") return ready(model, words.at(2));
    if (verb == "progress") {
      const Result<> lives = leases_.at(model).progress();
      return lives ? "ok" : told(lives.error());
    }
    if (verb == "release") {
      leases_.erase(model);
      tickets_.erase(model);
      return "ok";
    }
    return "unknown command " + verb;
  }

 private:
  std::string acquire(const std::string& model, int timeout_ms) {
    auto grant = pool_.acquire(model, std::chrono::milliseconds(timeout_ms));
    if (!grant) return told(grant.error());
    if (auto* lease = std::get_if<Lease>(&*grant)) {
      leases_[model] = std::move(*lease);
      return "lease";
    }
    tickets_[model] = std::move(std::get<LoadTicket>(*grant));
    return "ticket";
  }

  std::string spawn(const std::string& model, const std::vector<std::string>& argv) {
    LoadTicket& ticket = tickets_.at(model);
    modelpool::SpawnOptions options;
    options.output = "/dev/null";
    const Result<> spawned = ticket.spawn(argv, options);
    return spawned ? std::to_string(ticket.pid()) : told(spawned.error());
  }

  std::string ready(const std::string& model, const std::string& address) {
    Result<Lease> lease = tickets_.at(model).ready(address);
    if (!lease) return told(lease.error());
    tickets_.erase(model);
    leases_[model] = std::move(*lease);
    return "ok";
  }

  modelpool::Pool pool_;
  std::map<std::string, Lease> leases_;
  std::map<std::string, LoadTicket> tickets_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: told_worker DIR\n";
    return 2;
  }
  try {
    modelpool::PoolOptions options;
    options.dir = argv[1];
    auto pool = modelpool::Pool::attach("default", options);
    if (!pool) {
      std::cout << told(pool.error()) << std::endl;
      return 1;
    }
    std::cout << "attached" << std::endl;
    Worker worker(std::move(*pool));
    for (std::string line; std::getline(std::cin, line);) {
      std::istringstream stream(line);
      std::vector<std::string> words;
      for (std::string word; stream >> word;) words.push_back(word);
      std::cout << worker.obey(words) << std::endl;
    }
  } catch (const std::exception& error) {
    std::cerr << "told_worker: " << error.what() << '\n';
    return 1;
  }
}
