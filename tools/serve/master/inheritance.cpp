#include "master/inheritance.hpp"

#include <fcntl.h>

#include <cerrno>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "between/memory_file.hpp"

namespace modelpool::serve {
namespace {

using Json = nlohmann::json;

constexpr const char* kVariable = "POOLSERVE_INHERITS";
constexpr const char* kAsked = "POOLSERVE_WOULD_INHERIT";
constexpr int kVersion = 1;

tl::unexpected<Error> of_another_version() {
  return fail(Errc::kInvalid,
              "unable to take the place of the poolserve that runs: it is of another version, and "
              "hands on what this one does not know; end that one, and start this one");
}

Json json_of(const std::vector<OpenSocket>& sockets) {
  Json all = Json::array();
  for (const OpenSocket& one : sockets) all.push_back({one.address, one.fd.get()});
  return all;
}

Json json_of(const Inheritance::Generation& generation) {
  Json workers = Json::array();
  for (const Workers::Process& one : generation.workers)
    workers.push_back({one.pid, one.control.get()});
  return {{"number", generation.number},
          {"retire", generation.retire.get()},
          {"listeners", json_of(generation.listeners)},
          {"workers", std::move(workers)},
          {"balance", generation.balance.get()}};
}

Fd taken(const Json& number) {
  Fd fd(number.get<int>());
  if (fd) fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
  return fd;
}

Inheritance::Generation generation_of(const Json& json) {
  Inheritance::Generation generation;
  generation.number = json.at("number");
  generation.retire = taken(json.at("retire"));
  for (const Json& one : json.at("listeners"))
    generation.listeners.push_back({one.at(0), taken(one.at(1))});
  for (const Json& one : json.at("workers"))
    generation.workers.push_back({one.at(0), taken(one.at(1))});
  generation.balance = taken(json.at("balance"));
  return generation;
}

Inheritance inheritance_of(const Json& json) {
  Inheritance all;
  all.lock = taken(json.at("lock"));
  all.meeting = taken(json.at("meeting"));
  all.lineage = taken(json.at("lineage"));
  all.coordinator = json.at("coordinator");
  all.of_systemd = json.at("of_systemd");
  all.models = json.at("models");
  all.serving = generation_of(json.at("serving"));
  for (const Json& one : json.at("leaving")) all.leaving.push_back(generation_of(one));
  return all;
}

}  // namespace

Result<Fd> bequeath(const Inheritance& all) {
  Json leaving = Json::array();
  for (const Inheritance::Generation& one : all.leaving) leaving.push_back(json_of(one));
  const Json json = {{"version", kVersion},
                     {"lock", all.lock.get()},
                     {"meeting", all.meeting.get()},
                     {"lineage", all.lineage.get()},
                     {"coordinator", all.coordinator},
                     {"of_systemd", all.of_systemd},
                     {"models", all.models},
                     {"serving", json_of(all.serving)},
                     {"leaving", std::move(leaving)}};
  std::string text;
  Json::to_msgpack(json, text);  // names may hold any bytes
  auto file = make_memory_file("poolserve inheritance", text);
  if (!file) return fail(file.error());
  Fd stays = passed(*file);
  if (!stays || setenv(kVariable, std::to_string(stays.get()).c_str(), 1) != 0)
    return fail_errno(errno, "hand on what this process holds");
  return stays;
}

void take_back() { unsetenv(kVariable); }

Result<std::optional<Inheritance>> inherit() {
  const char* const text = std::getenv(kVariable);
  const int number = text != nullptr ? std::atoi(text) : 0;
  unsetenv(kVariable);
  // Nothing but a file in memory was ever handed on.
  if (number <= STDERR_FILENO || fcntl(number, F_GET_SEALS) < 0)
    return std::optional<Inheritance>();
  const Fd file(number);
  try {
    const Json json = Json::from_msgpack(read_memory_file(file));
    if (json.at("version") == kVersion) return inheritance_of(json);
  } catch (const Json::exception&) {
  }
  return of_another_version();
}

void announce_version() { setenv(kAsked, std::to_string(kVersion).c_str(), 1); }

Result<> check_version() {
  const char* const version = std::getenv(kAsked);
  if (version == nullptr || version == std::to_string(kVersion)) return {};
  return of_another_version();
}

}  // namespace modelpool::serve
