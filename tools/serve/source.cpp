#include "source.hpp"

#include <unistd.h>

#include <algorithm>
#include <thread>

#include "config/around.hpp"
#include "config/effective.hpp"
#if __has_include("config/pool_file.hpp")
#include "config/pool_file.hpp"
#define HAVE_FILE 1
#else
#define HAVE_FILE 0
#endif
#if __has_include("config/models_folder.hpp")
#include "config/models_folder.hpp"
#define HAVE_FOLDER 1
#else
#define HAVE_FOLDER 0
#endif

namespace modelpool::serve {
namespace {

constexpr const char* kDefaultListener = "127.0.0.1:8080";
constexpr std::uint32_t kWorkersLeast = 2;
constexpr std::uint32_t kTableMax = 65'536;

// Enough for two generations of workers, of which one may have half as much again as its part.
std::vector<std::string> capacity_flags(const config::Door& door) {
  const Capacities least;
  const std::uint32_t workers = worker_count(door);
  const std::uint32_t leases = door.serve.max_connections / workers * 3 / 2;
  const auto waiters = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(kTableMax, std::uint64_t{2} * workers * door.models.size()));
  const auto flag = [](std::uint32_t value, std::uint32_t least_value) {
    return std::to_string(std::clamp(value, least_value, kTableMax));
  };
  return {"--leases",  flag(leases, least.leases),
          "--waiters", flag(waiters, least.waiters),
          "--workers", flag(2 * workers + 8, least.workers)};
}

// Without a config nobody said how much may be used: what is there, but for some.
std::vector<std::string> memory_flags() {
  const std::uint64_t total = config::total_memory_bytes();
  if (total == 0) return {};
  return {"--max-memory", std::to_string(total / 8 * 7), "--min-available",
          std::to_string(total / 16)};
}

void add_log_flags(const Options& options, std::vector<std::string>& flags) {
  constexpr const char* kLevels[] = {"trace", "debug", "info", "warn", "error"};
  flags.insert(flags.end(),
               {"--log-level", kLevels[static_cast<int>(options.log_level)], "--log-format",
                options.log_format == config::LogFormat::kJson ? "json" : "text"});
}

}  // namespace

Result<Source> load_source(const Options& options) {
  Source source;
  config::Door door;
#if HAVE_FILE
  config::GivenCapacities capacities;
  if (!options.config_path.empty()) {
    auto file = config::load_pool_file(options.config_path);
    if (!file) return fail(file.error());
    door = std::move(file->door);
    source.settings = std::move(file->settings);
    capacities = file->capacities;
  }
#endif
  if (!options.listen.empty()) {
    door.serve.listeners.clear();
    for (const std::string& address : options.listen) {
      config::Listener listener;
      listener.address = address;
      door.serve.listeners.push_back(std::move(listener));
    }
  }
  if (door.serve.listeners.empty()) door.serve.listeners.emplace_back().address = kDefaultListener;
  if (options.workers != 0) door.serve.workers = options.workers;
  std::sort(door.models.begin(), door.models.end(),
            [](const config::Model& a, const config::Model& b) { return a.name < b.name; });
  if (!options.config_path.empty()) source.coordinator = {"--config", options.config_path};
  if (options.config_path.empty()) source.coordinator = memory_flags();
  const std::vector<std::string> tables = capacity_flags(door);
  source.coordinator.insert(source.coordinator.end(), tables.begin(), tables.end());
  add_log_flags(options, source.coordinator);
  source.door = std::make_shared<const config::Door>(std::move(door));
  return source;
}

std::uint32_t worker_count(const config::Door& door) {
  if (door.serve.workers != 0) return door.serve.workers;
  return std::max(kWorkersLeast, std::thread::hardware_concurrency());
}

std::vector<std::string> changed_models(const Source& before, const Source& after) {
  const auto devices = [](const Source& source, const std::string& model) {
    return config::effective_text(source.settings, model, Setting::kDevices);
  };
  std::vector<std::string> changed;
  for (const config::Model& old : before.door->models) {
    const auto& models = after.door->models;
    const auto now = std::find_if(models.begin(), models.end(), [&](const config::Model& model) {
      return model.name == old.name;
    });
    if (now == models.end() || now->command != old.command || now->env != old.env ||
        now->cwd != old.cwd || now->address != old.address ||
        devices(before, old.name) != devices(after, old.name)) {
      changed.push_back(old.name);
    }
  }
  return changed;
}

std::string summary(const Options& options, const Source& source) {
  const config::Door& door = *source.door;
  std::string text =
      (options.config_path.empty() ? options.models_dir : options.config_path) + ": ok\n";
  for (const config::Listener& listener : door.serve.listeners)
    text += "listen " + listener.address + "\n";
  text += "workers " + std::to_string(worker_count(door)) + "\n";
  for (const config::Model& model : door.models) {
    text += "model " + config::quoted(model.name);
    for (const std::string& alias : model.aliases) text += ", " + config::quoted(alias);
    text += "\n";
  }
  return text;
}

}  // namespace modelpool::serve
