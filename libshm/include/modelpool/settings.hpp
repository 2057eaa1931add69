// The settings of a pool: one table that flags, the config file, `poolctl set`, JSON and the
// deciding code all read. A new setting takes four files: this one (its number and its row), the
// rule that reads it, the README and example.toml.
//
// Safety: plain values and pure functions.
//
// Errors: kInvalid, naming the setting and what it takes.
#pragma once

#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "modelpool/result.hpp"

namespace modelpool {

// The numbers are part of the segment's layout: each is given once, for ever, without a gap. A
// newer program may have set one that is not known here.
enum class Setting : std::uint32_t {
  kMaxBackends = 0,
  kBusyTimeout = 1,
  kStallTimeout = 2,
  kIdleTimeout = 3,
  kLoadTimeout = 4,
  kDrainTimeout = 5,
  kStopSignal = 6,
  kStopGrace = 7,
  kMinResident = 8,
  kWhenBusy = 9,
  kMaxWaiters = 10,
  kLoadCooldown = 11,
  kEviction = 12,
  kMaxWait = 13,
  kCollect = 14,
  kPriority = 15,
  kMaxMemory = 16,
  kMemory = 17,
  kLogDir = 18,
  kLogMax = 19,
  kOnOverdue = 20,
  kFirstByteTimeout = 21,
  kPinned = 22,
  kKeep = 23,
  kParallel = 24,
  kMaxLoads = 25,
  kGroups = 26,
  kDevices = 27,
  kGpuMemory = 28,
  kSettle = 29,
  kMinAvailable = 30,
  kProbe = 31,
  kProbeInterval = 32,
  kProbeTimeout = 33,
  kProbeFailures = 34,
};
inline constexpr std::size_t kSettingCount = 35;     // those known here
inline constexpr std::size_t kSettingCapacity = 64;  // all that there will ever be

inline constexpr std::size_t kGlobsMax = 256;  // rules with wildcards: each model tries all
inline constexpr std::size_t kSettingNameMax_bytes = 31;
inline constexpr std::size_t kSettingTextMax_bytes =
    1023;  // a value that is a text, a rule's pattern
inline constexpr std::size_t kConfigPathMax_bytes = 255;

constexpr std::size_t index_of(Setting id) { return static_cast<std::size_t>(id); }
constexpr std::uint64_t bit_of(Setting id) { return std::uint64_t{1} << (index_of(id) & 63); }
constexpr bool is_known(Setting id) { return index_of(id) < kSettingCount; }
inline constexpr std::uint64_t kKnownSettings = UINT64_MAX >>
                                                (kSettingCapacity - kSettingCount);  // bits

// Who must know a setting that is in use. Whoever does not is told so and does no harm.
enum class SettingClass {
  kCompat,  // nobody
  kJudge,   // the coordinator: one that does not know it refuses to serve
  kAdmit,   // also each worker that asks for a place: one that does not know it gets leases only
};

enum class WhenBusy : std::uint64_t { kDrain, kWait, kForce };
enum class Eviction : std::uint64_t { kCost, kLru, kSize };

enum class SettingKind {
  kCount,      // a number
  kDuration,   // nanoseconds, 0 = off
  kSignal,     // a signal number
  kChoice,     // the position of a word among those that the placeholder lists
  kSwitch,     // 1 or 0
  kCooldown,   // first in the high, longest in the low 32 bits, milliseconds; 0 = off
  kSize,       // bytes, 0 = off
  kPath,       // a text: an absolute path, kPathOff, or empty for the default
  kOnOverdue,  // nanoseconds between asking a request to end and killing its backend; 0 = kill
  // Texts (base/text_values.hpp); empty = none.
  kGroups,
  kDevices,
  kGpuMemory,
  kProbe,
};

// Is its value a text? Then its number is 0 and means nothing.
constexpr bool is_text(SettingKind kind) {
  return kind == SettingKind::kPath || kind >= SettingKind::kGroups;
}

inline constexpr std::string_view kPathOff = "off";
inline constexpr std::size_t kPathSettingMax_bytes = 255;

struct SettingInfo {
  Setting id;
  std::string_view name;  // with underscores; dashes on command lines
  SettingKind kind;
  SettingClass needed = SettingClass::kCompat;
  bool per_model = true;  // may a [[model]] table or `ready` override it?
  std::uint64_t default_value = 0;
  std::uint64_t max = 0;         // of a kCount or kSize
  std::string_view placeholder;  // "N", "DURATION", "drain|wait|force"
  std::string_view help;
};

// A loader may give it for the one backend that it makes ready: what is decided before a model is
// loaded, and texts, belong to the model.
constexpr bool may_be_given_at_ready(const SettingInfo& info) {
  return info.per_model && !is_text(info.kind) && info.id != Setting::kMemory;
}

// A cool-down range travels as one word, so that a value is always 64 bits.
constexpr std::uint64_t pack_cooldown(std::uint64_t first_ms, std::uint64_t longest_ms) {
  return first_ms << 32 | longest_ms;
}

// A lease word names a backend in 12 bits, of which all ones is none (segment/words.hpp).
inline constexpr std::uint64_t kMaxBackendsMax = 4095;
inline constexpr std::uint64_t kMaxWaitersMax = 65'535;
inline constexpr std::uint64_t kPriorityMax = 100;
inline constexpr std::uint64_t kParallelMax = 65'535;
inline constexpr std::uint64_t kProbeFailuresMax = 100;
inline constexpr std::uint64_t kSizeMax_bytes = std::uint64_t{1} << 56;  // what sums are made of

constexpr std::uint64_t seconds_in_ns(std::uint64_t seconds) { return seconds * 1'000'000'000; }

inline constexpr std::array<SettingInfo, kSettingCount> kSettings = {{
    {.id = Setting::kMaxBackends,
     .name = "max_backends",
     .kind = SettingKind::kCount,
     .per_model = false,
     .max = kMaxBackendsMax,
     .placeholder = "N",
     .help = "backends live at once; 0 is no limit"},
    {.id = Setting::kBusyTimeout,
     .name = "busy_timeout",
     .kind = SettingKind::kDuration,
     .placeholder = "DURATION",
     .help = "kill a backend whose oldest lease is older"},
    {.id = Setting::kStallTimeout,
     .name = "stall_timeout",
     .kind = SettingKind::kDuration,
     .placeholder = "DURATION",
     .help = "kill a backend with a lease that made no progress for so long"},
    {.id = Setting::kIdleTimeout,
     .name = "idle_timeout",
     .kind = SettingKind::kDuration,
     .placeholder = "DURATION",
     .help = "evict a backend that was without a lease for so long"},
    {.id = Setting::kLoadTimeout,
     .name = "load_timeout",
     .kind = SettingKind::kDuration,
     .default_value = seconds_in_ns(600),
     .placeholder = "DURATION",
     .help = "fail a load that is not ready in time and kill what it started"},
    {.id = Setting::kDrainTimeout,
     .name = "drain_timeout",
     .kind = SettingKind::kDuration,
     .default_value = seconds_in_ns(30),
     .placeholder = "DURATION",
     .help = "how long a victim is closed to new leases while running ones finish"},
    {.id = Setting::kStopSignal,
     .name = "stop_signal",
     .kind = SettingKind::kSignal,
     .default_value = SIGTERM,
     .placeholder = "SIGNAL",
     .help = "what asks a backend to end"},
    {.id = Setting::kStopGrace,
     .name = "stop_grace",
     .kind = SettingKind::kDuration,
     .default_value = seconds_in_ns(15),
     .placeholder = "DURATION",
     .help = "from the stop signal to SIGKILL for the whole group"},
    {.id = Setting::kMinResident,
     .name = "min_resident",
     .kind = SettingKind::kDuration,
     .placeholder = "DURATION",
     .help = "no victim sooner than this after ready"},
    {.id = Setting::kWhenBusy,
     .name = "when_busy",
     .kind = SettingKind::kChoice,
     .default_value = static_cast<std::uint64_t>(WhenBusy::kDrain),
     .placeholder = "drain|wait|force",
     .help = "room from victims with leases: let them finish, take only idle ones, or cut"},
    {.id = Setting::kMaxWaiters,
     .name = "max_waiters",
     .kind = SettingKind::kCount,
     .per_model = false,
     .default_value = 512,
     .max = kMaxWaitersMax,
     .placeholder = "N",
     .help = "requests that may wait in line; more are answered queue_full"},
    {.id = Setting::kLoadCooldown,
     .name = "load_cooldown",
     .kind = SettingKind::kCooldown,
     .default_value = pack_cooldown(10'000, 300'000),
     .placeholder = "FIRST..LONGEST",
     .help = "no new load after a failed one; doubles with each failure in a row"},
    {.id = Setting::kEviction,
     .name = "eviction",
     .kind = SettingKind::kChoice,
     .needed = SettingClass::kJudge,
     .per_model = false,
     .default_value = static_cast<std::uint64_t>(Eviction::kCost),
     .placeholder = "cost|lru|size",
     .help = "who makes room: whose loss costs least, the least recently used, or the largest"},
    {.id = Setting::kMaxWait,
     .name = "max_wait",
     .kind = SettingKind::kDuration,
     .needed = SettingClass::kJudge,
     .default_value = seconds_in_ns(60),
     .placeholder = "DURATION",
     .help = "a model in use keeps its place until somebody has waited for it so long"},
    {.id = Setting::kCollect,
     .name = "collect",
     .kind = SettingKind::kDuration,
     .needed = SettingClass::kJudge,
     .per_model = false,
     .placeholder = "DURATION",
     .help = "evict nobody for a model before its first request has waited so long, or max_wait "
             "has passed"},
    {.id = Setting::kPriority,
     .name = "priority",
     .kind = SettingKind::kCount,
     .needed = SettingClass::kJudge,
     .default_value = 50,
     .max = kPriorityMax,
     .placeholder = "N",
     .help = "of victims the lower goes first"},
    {.id = Setting::kMaxMemory,
     .name = "max_memory",
     .kind = SettingKind::kSize,
     .needed = SettingClass::kAdmit,
     .per_model = false,
     .max = kSizeMax_bytes,
     .placeholder = "SIZE",
     .help = "bytes of the host's memory for all backends; off is no limit"},
    {.id = Setting::kMemory,
     .name = "memory",
     .kind = SettingKind::kSize,
     .needed = SettingClass::kAdmit,
     .max = kSizeMax_bytes,
     .placeholder = "SIZE",
     .help = "what a backend takes of it, until it is known better"},
    {.id = Setting::kLogDir,
     .name = "log_dir",
     .kind = SettingKind::kPath,
     .per_model = false,
     .placeholder = "DIR|off",
     .help = "where the output of backends is kept: a path, off, or the default"},
    {.id = Setting::kLogMax,
     .name = "log_max",
     .kind = SettingKind::kSize,
     .per_model = false,
     .default_value = std::uint64_t{8} << 20,
     .max = kSizeMax_bytes,
     .placeholder = "SIZE",
     .help = "a model's output is cut when it is larger, and so much before it kept; off is "
             "no limit"},
    {.id = Setting::kOnOverdue,
     .name = "on_overdue",
     .kind = SettingKind::kOnOverdue,
     .needed = SettingClass::kJudge,
     .default_value = seconds_in_ns(10),
     .placeholder = "'cancel, 10s, kill'|kill",
     .help = "what ends an overdue request: ask its holder first, where that is possible, or not"},
    {.id = Setting::kFirstByteTimeout,
     .name = "first_byte_timeout",
     .kind = SettingKind::kDuration,
     .needed = SettingClass::kJudge,
     .placeholder = "DURATION",
     .help = "kill a backend with a lease that has made no progress at all for so long"},
    {.id = Setting::kPinned,
     .name = "pinned",
     .kind = SettingKind::kSwitch,
     .needed = SettingClass::kJudge,
     .placeholder = "true|false",
     .help = "exempt the backend from idle eviction and from making room, as poolctl pin does"},
    {.id = Setting::kKeep,
     .name = "keep",
     .kind = SettingKind::kCount,
     .needed = SettingClass::kJudge,
     .per_model = false,
     .max = kMaxBackendsMax,
     .placeholder = "N",
     .help = "idle eviction leaves this many backends, those that would make room last"},
    {.id = Setting::kParallel,
     .name = "parallel",
     .kind = SettingKind::kCount,
     .needed = SettingClass::kAdmit,
     .max = kParallelMax,
     .placeholder = "N",
     .help = "requests at once on a backend, more wait in line; 0 is no limit"},
    {.id = Setting::kMaxLoads,
     .name = "max_loads",
     .kind = SettingKind::kCount,
     .needed = SettingClass::kAdmit,
     .per_model = false,
     .max = kMaxBackendsMax,
     .placeholder = "N",
     .help = "backends that load at once; 0 is no limit"},
    {.id = Setting::kGroups,
     .name = "groups",
     .kind = SettingKind::kGroups,
     .needed = SettingClass::kAdmit,
     .placeholder = "NAME[,NAME...]",
     .help = "models that share a group are never loaded together"},
    {.id = Setting::kDevices,
     .name = "devices",
     .kind = SettingKind::kDevices,
     .needed = SettingClass::kAdmit,
     .placeholder = "N|UUID[,UUID...]",
     .help = "devices a backend is put on: how many, or which"},
    {.id = Setting::kGpuMemory,
     .name = "gpu_memory",
     .kind = SettingKind::kGpuMemory,
     .needed = SettingClass::kAdmit,
     .placeholder = "SIZE[,SIZE...]|N%|UUID=SIZE[,...]",
     .help = "of a model, what it takes of each of its devices; of the pool, what there is: a part "
             "of each device, or a size for each UUID"},
    {.id = Setting::kSettle,
     .name = "settle",
     .kind = SettingKind::kDuration,
     .needed = SettingClass::kJudge,
     .per_model = false,
     .default_value = seconds_in_ns(2),
     .placeholder = "DURATION",
     .help = "how long a place is kept after its processes have gone while a device's driver has "
             "not given their memory back"},
    {.id = Setting::kMinAvailable,
     .name = "min_available",
     .kind = SettingKind::kSize,
     .needed = SettingClass::kJudge,
     .per_model = false,
     .max = kSizeMax_bytes,
     .placeholder = "SIZE",
     .help = "evict an idle backend while the host, or the cgroup, has less memory left"},
    {.id = Setting::kProbe,
     .name = "probe",
     .kind = SettingKind::kProbe,
     .needed = SettingClass::kJudge,
     .placeholder = "'GET /PATH'|tcp|off",
     .help = "ask a backend at its address whether it is well"},
    {.id = Setting::kProbeInterval,
     .name = "probe_interval",
     .kind = SettingKind::kDuration,
     .needed = SettingClass::kJudge,
     .default_value = seconds_in_ns(10),
     .placeholder = "DURATION",
     .help = "how often it is asked"},
    {.id = Setting::kProbeTimeout,
     .name = "probe_timeout",
     .kind = SettingKind::kDuration,
     .needed = SettingClass::kJudge,
     .default_value = seconds_in_ns(5),
     .placeholder = "DURATION",
     .help = "how long it may take to answer"},
    {.id = Setting::kProbeFailures,
     .name = "probe_failures",
     .kind = SettingKind::kCount,
     .needed = SettingClass::kJudge,
     .default_value = 3,
     .max = kProbeFailuresMax,
     .placeholder = "N",
     .help = "end a backend without requests that failed to answer so often in a row; 0 is never"},
}};

const SettingInfo& setting_info(Setting id);
const SettingInfo* find_setting(std::string_view name);  // dashes or underscores; null if unknown

// Its number; of a setting that takes a text 0, after the same checks.
Result<std::uint64_t> parse_setting(const SettingInfo& info, std::string_view text);
// As parse_setting reads it; of a setting that takes a text its default.
std::string format_setting(const SettingInfo& info, std::uint64_t value);

// How long a model cools down after its `failures`th failure in a row, in nanoseconds.
std::uint64_t cooldown_ns(std::uint64_t packed, std::uint32_t failures);

enum class OriginKind : std::uint32_t { kDefault, kConfig, kFlag, kSet, kReady };

struct Origin {
  OriginKind kind = OriginKind::kDefault;
  std::uint32_t line = 0;  // of the config file, with kConfig

  bool operator==(const Origin&) const = default;
};

// One value and where it came from: a number, or a text for a setting that takes one.
struct SettingEntry {
  Setting id{};
  Origin origin;
  std::uint64_t number = 0;
  std::string text;
  bool is_text = false;

  bool operator==(const SettingEntry&) const = default;
};

// One value as people write it, whatever its kind.
Result<SettingEntry> parse_entry(const SettingInfo& info, std::string_view text, Origin from = {});
// As parse_entry reads it; null: the default. A text out of range shows as the default, which is
// what holds then.
std::string format_entry(const SettingInfo& info, const SettingEntry* entry);

// Values of some settings.
class Overrides {
 public:
  bool has(Setting id) const { return find(id) != nullptr; }
  std::uint64_t get(Setting id) const;  // 0 if it is not given
  Origin origin(Setting id) const;      // kDefault if it is not given
  void set(Setting id, std::uint64_t number, Origin from = {}) {
    set({id, from, number, {}, false});
  }
  void set(SettingEntry entry);
  const SettingEntry* find(Setting id) const;
  const std::vector<SettingEntry>& entries() const { return entries_; }  // by number

  bool operator==(const Overrides&) const = default;

 private:
  std::vector<SettingEntry> entries_;
};

// One [[model]] table: values for the models that its pattern matches. Later rules win.
struct Rule {
  std::string pattern;  // a model's name, or a glob
  Overrides overrides;

  bool is_glob() const { return pattern.find_first_of("*?[\\") != std::string::npos; }
};

// A setting that is not known here, as whoever set it describes it.
struct ForeignSetting {
  Setting id{};
  std::string name;  // empty: not said
  bool needed_by_judge = false;
  bool needed_by_workers = false;
};

// What holds for the pool as a whole.
struct PoolSettings {
  Overrides pool;
  std::uint64_t config_hash = 0;  // of the file and flags last applied; 0 = none
  std::string config_path;
  std::vector<ForeignSetting> foreign;

  std::uint64_t get(Setting id) const;     // the pool's value, or the default
  std::string text(Setting id) const;      // of a setting that takes a text; empty: the default
  std::string shown(Setting id) const;     // as people write it
  std::uint64_t unknown_to_judge() const;  // bits of those in use that a coordinator must know
};

// "setting 40 (max_power)": those of `bits`, by number and, where it is said, by name.
std::string settings_text(std::uint64_t bits, const PoolSettings& settings);

// All settings of a pool, for whoever makes or changes them. The published ones are read in place
// (segment/settings_block.hpp).
struct Settings : PoolSettings {
  std::vector<Rule> rules;
};

// What applies to one model, and why: default < pool < rules in order < what `ready` gave. Each
// known value is in its range, whatever stood in the segment.
class Effective {
 public:
  Effective();  // the defaults

  std::uint64_t get(Setting id) const { return number_[index_of(id)]; }
  std::string_view text(Setting id) const;  // of a setting that takes a text
  std::string shown(Setting id) const;      // as people write it
  Origin origin(Setting id) const { return origin_[index_of(id)]; }
  std::string_view rule(Setting id) const;  // the pattern of the rule that decided, or empty
  std::uint64_t generation() const { return generation_; }  // of the settings it comes from

  void set(Setting id, std::uint64_t number) { take({id, {}, number, {}, false}, -1); }
  void set_generation(std::uint64_t generation) { generation_ = generation; }
  void take_of_pool(const SettingEntry& entry) { take(entry, -1); }
  void take_of_rule(const SettingEntry& entry, std::string_view pattern);
  void take_of_ready(const Overrides& given);

 private:
  void take(const SettingEntry& entry, std::int32_t rule);

  std::uint64_t generation_ = 0;
  std::array<std::uint64_t, kSettingCapacity> number_{};
  std::array<Origin, kSettingCapacity> origin_{};
  std::array<std::int32_t, kSettingCapacity> rule_;  // its place in rules_, or -1
  std::vector<std::string> rules_;
  std::vector<SettingEntry> texts_;
};

// Where a value came from: "default", "config.toml:12", "flag", "set", "ready".
std::string origin_text(std::string_view config_path, Origin origin);

// Values that came from shared memory, forced into their ranges (bytes are input).
std::uint64_t clamp_setting(const SettingInfo& info, std::uint64_t value);

// In nanoseconds: "500ms", "30s", "1.5s", "15m", "2h", "1h30m", "1d", "off". Off and 0 are 0; what
// is finer than a nanosecond is rounded up, so that only off is 0. Durations end at 10 years.
// Errors: kInvalid.
Result<std::uint64_t> parse_duration(std::string_view text);

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
  std::uint32_t rules = 4096;  // the settings have room for about so many [[model]] tables

  bool operator==(const Capacities&) const = default;
};

}  // namespace modelpool
