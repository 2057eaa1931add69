#include "modelpool/settings.hpp"

#include <signal.h>
#include <string.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "base/text.hpp"
#include "base/time.hpp"

namespace modelpool {
namespace {

constexpr std::uint64_t kMinute_ns = 60 * kSecond_ns;

// The largest numbers of the settings that count. A lease word names a backend in 12 bits, of which
// all ones is none (layout.hpp).
constexpr std::uint64_t kMaxBackendsMax = 4095;
constexpr std::uint64_t kMaxWaitersMax = 65'535;

constexpr std::uint64_t kCooldownMax_ms = UINT32_MAX;  // half a word, 49 days

constexpr std::array<std::string_view, 3> kWhenBusyNames = {"drain", "wait", "force"};

}  // namespace

constexpr std::array<SettingInfo, kSettingCount> kSettings = {{
    {Setting::kMaxBackends, "max_backends", SettingKind::kCount, false, 0, "N",
     "backends live at once; 0 is no limit"},
    {Setting::kBusyTimeout, "busy_timeout", SettingKind::kDuration, true, 0, "DURATION",
     "kill a backend whose oldest lease is older"},
    {Setting::kStallTimeout, "stall_timeout", SettingKind::kDuration, true, 0, "DURATION",
     "kill a backend with a lease that made no progress for so long"},
    {Setting::kIdleTimeout, "idle_timeout", SettingKind::kDuration, true, 0, "DURATION",
     "evict a backend that was without a lease for so long"},
    {Setting::kLoadTimeout, "load_timeout", SettingKind::kDuration, true, 10 * kMinute_ns,
     "DURATION", "fail a load that is not ready in time and kill what it started"},
    {Setting::kDrainTimeout, "drain_timeout", SettingKind::kDuration, true, 30 * kSecond_ns,
     "DURATION", "how long a victim is closed to new leases while running ones finish"},
    {Setting::kStopSignal, "stop_signal", SettingKind::kSignal, true, SIGTERM, "SIGNAL",
     "what asks a backend to end"},
    {Setting::kStopGrace, "stop_grace", SettingKind::kDuration, true, 15 * kSecond_ns, "DURATION",
     "from the stop signal to SIGKILL for the whole group"},
    {Setting::kMinResident, "min_resident", SettingKind::kDuration, true, 0, "DURATION",
     "no LRU victim sooner than this after ready"},
    {Setting::kWhenBusy, "when_busy", SettingKind::kWhenBusy, true,
     static_cast<std::uint64_t>(WhenBusy::kDrain), "drain|wait|force",
     "room from victims with leases: let them finish, take only idle ones, or cut"},
    {Setting::kMaxWaiters, "max_waiters", SettingKind::kCount, false, 512, "N",
     "requests that may wait in line; more are answered queue_full"},
    {Setting::kLoadCooldown, "load_cooldown", SettingKind::kCooldown, true,
     pack_cooldown(10'000, 300'000), "FIRST..LONGEST",
     "no new load after a failed one; doubles with each failure in a row"},
}};

namespace {

// The table is indexed by the enumeration.
constexpr bool in_order() {
  for (std::size_t i = 0; i < kSettingCount; ++i) {
    if (kSettings[i].id != static_cast<Setting>(i)) return false;
  }
  return true;
}
static_assert(in_order());
static_assert(kSettingCount <= kSettingCapacity && kSettingCapacity <= 64);

std::uint64_t count_max(const SettingInfo& info) {
  return info.id == Setting::kMaxBackends ? kMaxBackendsMax : kMaxWaitersMax;
}

std::string takes(const SettingInfo& info) {
  switch (info.kind) {
    case SettingKind::kCount:
      return "a number from 0 to " + std::to_string(count_max(info));
    case SettingKind::kDuration:
      return "a duration of at most 10 years such as 500ms, 30s, 15m, 2h, or off";
    case SettingKind::kSignal:
      return "a signal that ends a process, such as SIGTERM, SIGINT, SIGQUIT or SIGKILL";
    case SettingKind::kWhenBusy:
      return "drain, wait or force";
    case SettingKind::kCooldown:
      return "the first and the longest wait, such as 10s..5m, one duration for both, or off; "
             "at most 49 days";
  }
  return {};
}

// Does the signal end a process that does nothing about it? 32 and 33 are the C library's own.
bool ends_a_process(std::uint64_t signal) {
  switch (signal) {
    case SIGCHLD:
    case SIGCONT:
    case SIGSTOP:
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU:
    case SIGURG:
    case SIGWINCH:
    case 32:
    case 33:
      return false;
    default:
      return signal >= 1 && signal <= 64;
  }
}

// The part of a packed cool-down that means something: first <= longest, and neither without the
// other.
struct Cooldown {
  std::uint64_t first_ms;
  std::uint64_t longest_ms;
};
Cooldown unpack_cooldown(std::uint64_t packed) {
  const std::uint64_t first = packed >> 32;
  const std::uint64_t longest = packed & UINT32_MAX;
  if (first == 0) return {0, 0};
  return {first, std::max(first, longest)};
}

std::optional<std::uint64_t> parse_cooldown(std::string_view text) {
  const std::size_t dots = text.find("..");
  const std::string_view first_text = text.substr(0, dots);
  const std::string_view longest_text =
      dots == std::string_view::npos ? first_text : text.substr(dots + 2);
  const Result<std::uint64_t> first = parse_duration(first_text);
  const Result<std::uint64_t> longest = parse_duration(longest_text);
  if (!first || !longest || *first > *longest) return std::nullopt;
  // "off..5m" would double nothing for ever.
  if (*first == 0 && dots != std::string_view::npos) return std::nullopt;
  const auto to_ms = [](std::uint64_t ns) {  // rounded up: a cool-down never ends early (P8)
    return ns / kMillisecond_ns + (ns % kMillisecond_ns != 0 ? 1 : 0);
  };
  if (to_ms(*longest) > kCooldownMax_ms) return std::nullopt;
  return pack_cooldown(to_ms(*first), to_ms(*longest));
}

std::optional<std::uint64_t> parse_value(const SettingInfo& info, std::string_view text) {
  const auto value_of = [](const Result<std::uint64_t>& result) {
    return result ? std::optional<std::uint64_t>(*result) : std::nullopt;
  };
  switch (info.kind) {
    case SettingKind::kCount:
      return value_of(parse_count(text, count_max(info)));
    case SettingKind::kDuration:
      return value_of(parse_duration(text));
    case SettingKind::kSignal: {
      const auto signal = static_cast<std::uint64_t>(parse_signal(text));
      return ends_a_process(signal) ? std::optional(signal) : std::nullopt;
    }
    case SettingKind::kWhenBusy:
      for (std::size_t i = 0; i < kWhenBusyNames.size(); ++i) {
        if (text == kWhenBusyNames[i]) return i;
      }
      return std::nullopt;
    case SettingKind::kCooldown:
      return parse_cooldown(text);
  }
  return std::nullopt;
}

// The text before the first NUL of an array that may have none.
template <std::size_t Bytes>
std::string_view bounded_text(const std::array<char, Bytes>& text) {
  return {text.data(), strnlen(text.data(), Bytes)};
}

}  // namespace

const SettingInfo& setting_info(Setting id) {
  const auto index = static_cast<std::size_t>(id);
  if (index >= kSettingCount) std::abort();  // our own mistake: no Setting is read from the segment
  return kSettings[index];
}

const SettingInfo* find_setting(std::string_view name) {
  const auto same = [](char given, char own) { return (given == '-' ? '_' : given) == own; };
  for (const SettingInfo& info : kSettings) {
    if (std::equal(name.begin(), name.end(), info.name.begin(), info.name.end(), same)) {
      return &info;
    }
  }
  return nullptr;
}

Result<std::uint64_t> parse_setting(const SettingInfo& info, std::string_view text) {
  if (const std::optional<std::uint64_t> value = parse_value(info, text)) return *value;
  std::string message = "unable to set ";
  message += info.name;
  message += " to " + quote(text) + ": it takes " + takes(info);
  return fail(Errc::kInvalid, std::move(message));
}

std::string format_setting(const SettingInfo& info, std::uint64_t value) {
  switch (info.kind) {
    case SettingKind::kCount:
      return std::to_string(value);
    case SettingKind::kDuration:
      return format_duration(value);
    case SettingKind::kSignal:
      return signal_text(static_cast<int>(std::min<std::uint64_t>(value, INT32_MAX)));
    case SettingKind::kWhenBusy:
      return std::string(value < kWhenBusyNames.size() ? kWhenBusyNames[value] : "unknown");
    case SettingKind::kCooldown: {
      const Cooldown cooldown = unpack_cooldown(value);
      std::string text = format_duration(cooldown.first_ms * kMillisecond_ns);
      if (cooldown.first_ms != cooldown.longest_ms) {
        text += ".." + format_duration(cooldown.longest_ms * kMillisecond_ns);
      }
      return text;
    }
  }
  return {};
}

std::uint64_t cooldown_ns(std::uint64_t packed, std::uint32_t failures) {
  const Cooldown cooldown = unpack_cooldown(packed);
  if (failures == 0) return 0;
  // 32 bits doubled less than 32 times fit a word; from then on any first has passed any longest.
  if (failures > 32) return cooldown.longest_ms * kMillisecond_ns;
  return std::min(cooldown.first_ms << (failures - 1), cooldown.longest_ms) * kMillisecond_ns;
}

std::string_view Rule::glob_text() const { return bounded_text(glob); }

std::uint64_t Settings::get(Setting id) const {
  const SettingInfo& info = setting_info(id);
  return pool.has(id) ? clamp_setting(info, pool.get(id)) : info.default_value;
}

Effective effective_settings(const Settings& settings, std::string_view model,
                             const Overrides* given_at_ready) {
  Effective effective;
  for (const SettingInfo& info : kSettings) {
    const auto index = static_cast<std::size_t>(info.id);
    effective.value[index] = settings.get(info.id);
    effective.origin[index] = settings.pool.has(info.id) ? settings.pool.origin[index] : Origin{};
    effective.rule[index] = -1;
  }
  const auto apply = [&effective](const Overrides& overrides, int rule) {
    for (const SettingInfo& info : kSettings) {
      if (!info.per_model || !overrides.has(info.id)) continue;
      const auto index = static_cast<std::size_t>(info.id);
      effective.value[index] = clamp_setting(info, overrides.get(info.id));
      effective.origin[index] = rule < 0 ? Origin{OriginKind::kReady, 0} : overrides.origin[index];
      effective.rule[index] = rule;
    }
  };
  for (std::size_t i = 0; i < settings.rules_in_use(); ++i) {
    const Rule& rule = settings.rules[i];
    if (glob_matches(rule.glob_text(), model)) apply(rule.overrides, static_cast<int>(i));
  }
  if (given_at_ready != nullptr) apply(*given_at_ready, -1);
  return effective;
}

std::string origin_text(const Settings& settings, Origin origin) {
  switch (origin.kind) {
    case OriginKind::kDefault:
      return "default";
    case OriginKind::kConfig: {
      const std::string_view path = bounded_text(settings.config_path);
      std::string text = path.empty() ? "config" : escape(path);
      if (origin.line != 0) text += ":" + std::to_string(origin.line);
      return text;
    }
    case OriginKind::kFlag:
      return "flag";
    case OriginKind::kSet:
      return "set";
    case OriginKind::kReady:
      return "ready";
  }
  return "unknown";  // bytes of the segment
}

std::uint64_t clamp_setting(const SettingInfo& info, std::uint64_t value) {
  switch (info.kind) {
    case SettingKind::kCount:
      return std::min(value, count_max(info));
    case SettingKind::kDuration:
      return std::min(value, kDurationMax_ns);
    case SettingKind::kSignal:
      return ends_a_process(value) ? value : info.default_value;
    case SettingKind::kWhenBusy:
      return value < kWhenBusyNames.size() ? value : info.default_value;
    case SettingKind::kCooldown: {
      const Cooldown cooldown = unpack_cooldown(value);
      return pack_cooldown(cooldown.first_ms, cooldown.longest_ms);
    }
  }
  return info.default_value;
}

int parse_signal(std::string_view text) {
  if (const Result<std::uint64_t> number = parse_count(text, 64)) {
    const int signal = static_cast<int>(*number);
    return signal < 32 || signal >= SIGRTMIN ? signal : 0;  // those between are libc's own
  }
  std::string name(text);
  for (char& c : name) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  if (name.starts_with("SIG")) name.erase(0, 3);
  for (int signal = 1; signal <= 64; ++signal) {
    if (signal_text(signal) == "SIG" + name) return signal;
  }
  // Second names of the same signals.
  if (name == "IO") return SIGIO;
  if (name == "IOT") return SIGIOT;
  if (name == "RTMAX") return SIGRTMAX;
  return 0;
}

std::string signal_text(int signal) {
  if (const char* name = sigabbrev_np(signal)) return std::string("SIG") + name;
  if (signal == SIGRTMIN) return "SIGRTMIN";
  if (signal > SIGRTMIN && signal <= SIGRTMAX) {
    return "SIGRTMIN+" + std::to_string(signal - SIGRTMIN);
  }
  return "signal " + std::to_string(signal);
}

}  // namespace modelpool
