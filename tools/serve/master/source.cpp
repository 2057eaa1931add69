#include "master/source.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "config/around.hpp"
#include "config/effective.hpp"
#include "config/listen.hpp"
#include "config/models_folder.hpp"
#include "config/pool_file.hpp"
#include "config/summary.hpp"
#include "master/certificates.hpp"
#include "worker/service.hpp"

namespace modelpool::serve {
namespace {

constexpr std::uint32_t kWorkersLeast = 2;
constexpr std::uint32_t kWorkersBeside = 16;  // poolserve's master, and other programs

// Tables of a pool that is made by this: enough for two generations of workers, of which one may
// have half as much again as its part. What [capacity] says goes before.
std::vector<std::string> capacity_flags(const config::Door& door,
                                        const config::GivenCapacities& given) {
  const std::uint32_t workers = worker_count(door);
  const std::uint64_t leases = std::uint64_t{door.serve.max_connections} * 3 / 2 / workers;
  const std::uint64_t waiters = std::uint64_t{2} * workers * door.models.size();
  const std::pair<const char*, std::uint64_t> wanted[] = {
      {"leases", leases}, {"waiters", waiters}, {"workers", 2 * workers + kWorkersBeside}};
  std::vector<std::string> flags;
  for (const auto& [name, value] : wanted) {
    const config::CapacityInfo& info = *config::find_capacity(name);
    if (given.has(info)) continue;
    const std::uint64_t least = Capacities().*info.member;
    flags.insert(flags.end(),
                 {"--" + std::string(name), std::to_string(std::clamp(value, least, info.max))});
  }
  return flags;
}

// Without a config nobody said how much may be used: what is there, but for some.
std::vector<std::string> memory_flags() {
  const std::uint64_t total = config::total_memory_bytes();
  if (total == 0) return {};
  return {"--max-memory", std::to_string(total / 8 * 7), "--min-available",
          std::to_string(total / 16)};
}

Result<> add_models_of(const Options& options, config::Door& door) {
  auto found = config::find_models(options.models_dir, {options.server});
  if (!found) return fail(found.error());
  return config::add_models(std::move(*found), door);
}

void add_log_flags(const Options& options, std::vector<std::string>& flags) {
  constexpr const char* kLevels[] = {"trace", "debug", "info", "warn", "error"};
  flags.insert(flags.end(),
               {"--log-level", kLevels[static_cast<int>(options.log_level)], "--log-format",
                options.log_format == config::LogFormat::kJson ? "json" : "text"});
}

}  // namespace

Result<Source> load_source(const Options& options) {
  auto file = config::load_pool_file(options.config_path);
  if (!file) return fail(file.error());
  config::Door& door = file->door;
  if (!options.models_dir.empty()) {
    if (auto added = add_models_of(options, door); !added) return fail(added.error());
  }
  if (!options.listen.empty()) {
    door.serve.listeners.clear();
    for (const std::string& address : options.listen) {
      door.serve.listeners.push_back(config::default_listener(door.serve));
      door.serve.listeners.back().address = address;
    }
  }
  if (door.serve.listeners.empty())
    door.serve.listeners.push_back(config::default_listener(door.serve));
  if (auto ok = config::check_listeners(door.serve); !ok) return fail(ok.error());
  if (options.workers != 0) door.serve.workers = options.workers;

  Source source;
  source.coordinator = options.config_path.empty()
                           ? memory_flags()
                           : std::vector<std::string>{"--config", options.config_path};
  const std::vector<std::string> tables = capacity_flags(door, file->capacities);
  source.coordinator.insert(source.coordinator.end(), tables.begin(), tables.end());
  add_log_flags(options, source.coordinator);
  source.settings = std::move(file->settings);
  source.capacities = file->capacities;
  source.door = std::make_shared<const config::Door>(std::move(door));
  if (const auto usable = InForce::check(source.door); !usable)
    return fail(Errc::kInvalid, usable.error().text);
  warn_of_certificates(*source.door);
  return source;
}

std::uint32_t worker_count(const config::Door& door) {
  if (door.serve.workers != 0) return door.serve.workers;
  return std::max(kWorkersLeast, std::thread::hardware_concurrency());
}

std::map<std::string, std::string> ways_to_start(const Source& source) {
  std::map<std::string, std::string> ways;
  for (const config::Model& model : source.door->models) {
    const std::string devices =
        config::effective_text(source.settings, model.name, Setting::kDevices);
    // Not dumped as JSON: names may hold any bytes.
    nlohmann::json::to_msgpack(
        nlohmann::json::array({model.command, model.env, model.cwd, model.address, devices}),
        ways[model.name]);
  }
  return ways;
}

std::vector<std::string> changed_models(const std::map<std::string, std::string>& before,
                                        const Source& after) {
  const auto now = ways_to_start(after);
  std::vector<std::string> changed;
  for (const auto& [model, way] : before) {
    const auto found = now.find(model);
    if (found == now.end() || found->second != way) changed.push_back(model);
  }
  return changed;
}

std::string summary(const Options& options, const Source& source) {
  return (options.config_path.empty() ? options.models_dir : options.config_path) + ": ok\n" +
         config::config_summary(source.settings, source.capacities, *source.door) +
         certificates_text(*source.door);
}

}  // namespace modelpool::serve
