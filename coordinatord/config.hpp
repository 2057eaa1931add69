// The config file: TOML in, checked Settings out. [pool] sets the pool's rules, each [[model]]
// table those of the models its glob matches; flags override what [pool] says.
//
// Safety: reads one regular file; no shared state.
//
// Crash: changes nothing; who applies the result publishes it with one store.
//
// Errors: kInvalid with "unable to read config FILE:LINE:COLUMN: reason", the first one in the
// file; kSystem if the file cannot be opened or read.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "modelpool/result.hpp"
#include "modelpool/settings.hpp"

namespace modelpool::coordinator {

inline constexpr std::size_t kConfigMax_bytes = 1 << 20;

// The settings of the file at `path`, none if that is empty, under `flags`. Each value knows where
// it came from; config_hash differs when file or flags do, and is never 0. `flags` count as kFlag
// whatever origin they carry.
Result<Settings> load_config(const std::string& path, const Overrides& flags);

// What holds, for people: every setting of the pool and what each rule changes, with origins.
std::string config_summary(const Settings& settings);

// The entry of `known` that was probably meant, or "" if none is near.
std::string_view nearest_name(std::string_view given, const std::vector<std::string_view>& known);

}  // namespace modelpool::coordinator
