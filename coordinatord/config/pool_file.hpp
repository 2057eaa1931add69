// The config file: TOML in, checked Settings out. [pool] sets the pool's rules, each [[model]]
// table those of the models its glob matches, [capacity] how large the tables of a new pool are;
// flags override what [pool] and [capacity] say.
//
// Safety: reads one regular file; no shared state.
//
// Crash: changes nothing; who applies the result publishes it with one store.
//
// Errors: kInvalid with "unable to read config FILE:LINE:COLUMN: reason", a line for each problem
// of the file; kSystem if the file cannot be opened or read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "modelpool/result.hpp"
#include "modelpool/settings.hpp"
#include "segment/layout.hpp"

namespace modelpool::config {

inline constexpr std::size_t kConfigMax_bytes = 4 << 20;  // some 1000 bytes for each of 4096 models

// The capacities by name: a key of [capacity], and with dashes before it a flag.
struct CapacityInfo {
  std::string_view name;
  std::uint32_t Capacities::*member;
  std::uint64_t max;
  std::string_view help;
};
inline constexpr std::array<CapacityInfo, 7> kCapacities = {{
    {"backends", &Capacities::backends, kBackendsMax, "backend slots"},
    {"workers", &Capacities::workers, kWorkersMax, "workers attached at once"},
    {"leases", &Capacities::leases, 65'536, "leases of one worker at once"},
    {"waiters", &Capacities::waiters, 65'536, "requests waiting at once"},
    {"events", &Capacities::events, 1 << 20, "events kept"},
    {"models", &Capacities::models, 65'536, "models whose load history is kept"},
    {"rules", &Capacities::rules, 65'536, "[[model]] tables of a usual size"},
}};
const CapacityInfo* find_capacity(std::string_view name);  // null if unknown

// Some capacities; those that were not given have their defaults.
struct GivenCapacities {
  Capacities values;
  std::uint32_t given = 0;  // a bit for each of kCapacities

  bool has(const CapacityInfo& info) const {
    return (given >> (&info - kCapacities.data()) & 1) != 0;
  }
  void set(const CapacityInfo& info, std::uint32_t value) {
    values.*info.member = value;
    given |= 1u << (&info - kCapacities.data());
  }
};

// The settings of the file at `path`, none if that is empty, under `flags`. Each value knows where
// it came from; config_hash differs when file or flags do, and is never 0. `flags` count as kFlag
// whatever origin they carry.
Result<Settings> load_config(const std::string& path, const Overrides& flags,
                             GivenCapacities* capacities = nullptr);

// What holds, for people: every setting of the pool and what each rule changes, with origins, and
// the capacities that were given.
std::string config_summary(const Settings& settings, const GivenCapacities& capacities = {});

}  // namespace modelpool::config
