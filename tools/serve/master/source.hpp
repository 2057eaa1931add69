// What poolserve is to serve: config file, models folder and flags together.
//
// Safety: one thread.
//
// Errors: those of load_pool_file, and of find_models; kInvalid where a model is in both, or what
// the config names (keys, certificates, the access log) cannot be used.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config/capacities.hpp"
#include "config/door.hpp"
#include "master/options.hpp"
#include "modelpool/settings.hpp"

namespace modelpool::serve {

struct Source {
  std::shared_ptr<const config::Door> door;
  Settings settings;  // of the file
  config::GivenCapacities capacities;
  // What a coordinator is started with, but for pool and directory.
  std::vector<std::string> coordinator;
};

// Warns of certificates that are not valid, or soon will not be.
Result<Source> load_source(const Options& options);

std::uint32_t worker_count(const config::Door& door);

// By model: all that says how it is started.
std::map<std::string, std::string> ways_to_start(const Source& source);
// Models that have to be started anew: they would be in another way now, or not at all.
std::vector<std::string> changed_models(const std::map<std::string, std::string>& before,
                                        const Source& after);

// "FILE: ok", and what would be served.
std::string summary(const Options& options, const Source& source);

}  // namespace modelpool::serve
