// The rules of a pool: one table of settings that flags, the config file, `poolctl set`, JSON and
// the deciding code all read. A new setting is a line in kSettings and its use in decide.
//
// Safety: plain values and pure functions.
//
// Errors: kInvalid, naming the setting and what it takes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "modelpool/result.hpp"

namespace modelpool {

enum class Setting : std::uint32_t {
  kMaxBackends,
  kBusyTimeout,
  kStallTimeout,
  kIdleTimeout,
  kLoadTimeout,
  kDrainTimeout,
  kStopSignal,
  kStopGrace,
  kMinResident,
  kWhenBusy,
  kMaxWaiters,
  kLoadCooldown,
};
inline constexpr std::size_t kSettingCount = 12;
inline constexpr std::size_t kSettingCapacity = 32;  // words kept in the segment: room to grow
inline constexpr std::size_t kRuleCapacity = 64;     // [[model]] tables of a config

enum class WhenBusy : std::uint64_t { kDrain, kWait, kForce };

enum class SettingKind {
  kCount,     // a number
  kDuration,  // nanoseconds, 0 = off
  kSignal,    // a signal number
  kWhenBusy,  // a WhenBusy
  kCooldown,  // first in the high, longest in the low 32 bits, milliseconds; 0 = off
};

struct SettingInfo {
  Setting id;
  std::string_view name;  // with underscores; dashes on command lines
  SettingKind kind;
  bool per_model;  // may a [[model]] table or `ready` override it?
  std::uint64_t default_value;
  std::string_view placeholder;  // "N", "DURATION"
  std::string_view help;
};
extern const std::array<SettingInfo, kSettingCount> kSettings;

const SettingInfo& setting_info(Setting id);
const SettingInfo* find_setting(std::string_view name);  // dashes or underscores; null if unknown

Result<std::uint64_t> parse_setting(const SettingInfo& info, std::string_view text);
std::string format_setting(const SettingInfo& info, std::uint64_t value);

// A cool-down range travels as one word, so that a value is always 64 bits.
constexpr std::uint64_t pack_cooldown(std::uint64_t first_ms, std::uint64_t longest_ms) {
  return first_ms << 32 | longest_ms;
}
// How long a model cools down after its `failures`th failure in a row, in nanoseconds.
std::uint64_t cooldown_ns(std::uint64_t packed, std::uint32_t failures);

enum class OriginKind : std::uint32_t { kDefault, kConfig, kFlag, kSet, kReady };

struct Origin {
  OriginKind kind = OriginKind::kDefault;
  std::uint32_t line = 0;  // of the config file, with kConfig
};

// A set of overrides: value[i] counts if bit i of `given` is set. Lives in the segment as it is.
struct Overrides {
  std::uint64_t given = 0;
  std::array<std::uint64_t, kSettingCapacity> value{};
  std::array<Origin, kSettingCapacity> origin{};

  bool has(Setting id) const { return given >> static_cast<unsigned>(id) & 1; }
  std::uint64_t get(Setting id) const { return value[static_cast<std::size_t>(id)]; }
  void set(Setting id, std::uint64_t v, Origin from = {}) {
    given |= std::uint64_t{1} << static_cast<unsigned>(id);
    value[static_cast<std::size_t>(id)] = v;
    origin[static_cast<std::size_t>(id)] = from;
  }
};

// One [[model]] table: overrides for the models its glob matches. Later rules win over earlier.
struct Rule {
  std::array<char, 192> glob{};  // NUL-terminated
  Overrides overrides;

  std::string_view glob_text() const;
};

// All settings of a pool, as both published copies in the segment hold them.
struct Settings {
  Overrides pool;
  std::uint64_t config_hash = 0;  // of the file and flags last applied; 0 = none
  std::uint64_t rule_count = 0;
  std::array<char, 256> config_path{};  // NUL-terminated
  std::array<Rule, kRuleCapacity> rules{};

  std::size_t rules_in_use() const {
    return rule_count < kRuleCapacity ? rule_count : kRuleCapacity;
  }
  std::uint64_t get(Setting id) const;  // the pool's value, or the default
};

// What applies to one model, and why: default < pool < rules in order < what `ready` gave.
struct Effective {
  std::array<std::uint64_t, kSettingCount> value{};
  std::array<Origin, kSettingCount> origin{};
  std::array<int, kSettingCount> rule{};  // index of the rule that decided, or -1

  std::uint64_t get(Setting id) const { return value[static_cast<std::size_t>(id)]; }
};
Effective effective_settings(const Settings& settings, std::string_view model,
                             const Overrides* given_at_ready);
// Where a value came from: "default", "config.toml:12", "flag", "set", "ready".
std::string origin_text(const Settings& settings, Origin origin);

// Values that came from shared memory, forced into their ranges (bytes are input).
std::uint64_t clamp_setting(const SettingInfo& info, std::uint64_t value);

int parse_signal(std::string_view text);  // "SIGTERM", "term", "15", "RTMIN+1"; 0 if there is none
std::string signal_text(int signal);      // "SIGTERM", "SIGRTMIN+1"; "signal 99" for what is none

// How many rows each table of a pool has: chosen by whoever creates it, then fixed.
struct Capacities {
  std::uint32_t backends = 256;
  std::uint32_t workers = 64;
  std::uint32_t leases = 1024;  // per worker
  std::uint32_t waiters = 512;
  std::uint32_t events = 4096;
  std::uint32_t models = 512;

  bool operator==(const Capacities&) const = default;
};

}  // namespace modelpool
