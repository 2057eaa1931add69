#include "modelpool/settings.hpp"

#include <signal.h>
#include <string.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "base/duration.hpp"
#include "base/nearest.hpp"
#include "base/number.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "base/text_values.hpp"
#include "base/time.hpp"

namespace modelpool {
namespace {

constexpr std::uint64_t kCooldownMax_ms = UINT32_MAX;  // half a word, 49 days

// The words that a kChoice may be, in the order of their numbers.
std::vector<std::string_view> choices_of(const SettingInfo& info) {
  std::vector<std::string_view> words;
  std::string_view left = info.placeholder;
  for (std::size_t bar = left.find('|'); bar != left.npos; bar = left.find('|')) {
    words.push_back(left.substr(0, bar));
    left.remove_prefix(bar + 1);
  }
  words.push_back(left);
  return words;
}

constexpr bool is_complete() {
  for (std::size_t i = 0; i < kSettingCount; ++i) {
    const SettingInfo& info = kSettings[i];
    if (info.id != static_cast<Setting>(i) || info.name.size() > kSettingNameMax_bytes)
      return false;
    const bool is_bounded = info.kind == SettingKind::kCount || info.kind == SettingKind::kSize;
    if (is_bounded != (info.max != 0)) return false;
  }
  return true;
}
static_assert(is_complete(),
              "a row for each number, in their order; a count or a size says how far it goes");
static_assert(kSettingCount <= kSettingCapacity);

std::string takes(const SettingInfo& info) {
  switch (info.kind) {
    case SettingKind::kCount:
      return "a number from 0 to " + std::to_string(info.max);
    case SettingKind::kDuration:
      return "a duration of at most 10 years such as 500ms, 30s, 15m, 2h, or off";
    case SettingKind::kSignal:
      return "a signal that ends a process, such as SIGTERM, SIGINT, SIGQUIT or SIGKILL";
    case SettingKind::kChoice: {
      std::string text;
      const std::vector<std::string_view> words = choices_of(info);
      for (std::size_t i = 0; i < words.size(); ++i) {
        text += i == 0 ? "" : i + 1 == words.size() ? " or " : ", ";
        text += words[i];
      }
      return text;
    }
    case SettingKind::kSwitch:
      return "true or false";
    case SettingKind::kCooldown:
      return "the first and the longest wait, such as 10s..5m, one duration for both, or off; "
             "at most 49 days";
    case SettingKind::kSize:
      return "a size of at most " + format_size_exactly(info.max) +
             " such as 8MiB or 1.5GiB, or off";
    case SettingKind::kPath:
      return "an absolute path of at most 255 bytes, off, or default";
    case SettingKind::kOnOverdue:
      return "kill, or cancel, a duration above 0 and kill, such as \"cancel, 10s, kill\"";
    case SettingKind::kGroups:
      return "names of at most 63 bytes without blanks, with commas between, or off";
    case SettingKind::kDevices:
      return "a number from 0 to 16, or UUIDs with commas between, or off";
    case SettingKind::kGpuMemory:
      return "of a model a size such as 20GiB, or one for each device with commas between; of the "
             "pool a part such as 90%, or a size for each device, as in GPU-1f=22GiB; or off";
    case SettingKind::kProbe:
      return "GET and a path such as \"GET /health\", tcp, or off";
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

constexpr std::string_view kPathDefault = "default";
constexpr std::string_view kTextOff = "off";

// The value of a kPath, where empty is the default. Also of what stood in the segment.
bool is_path_value(std::string_view text) {
  return text.empty() || text == kPathOff ||
         (text.starts_with('/') && text.size() <= kPathSettingMax_bytes && is_printable_utf8(text));
}

// What a text may be as a value, where empty is the default.
bool is_text_value(SettingKind kind, std::string_view text) {
  if (text.size() > kSettingTextMax_bytes) return false;
  switch (kind) {
    case SettingKind::kGroups:
      return parse_groups(text).has_value();
    case SettingKind::kDevices:
      return parse_devices(text).has_value();
    case SettingKind::kGpuMemory:
      return parse_gpu_memory(text).has_value();
    case SettingKind::kProbe:
      return parse_probe(text).has_value();
    default:
      return is_path_value(text);
  }
}

// How its default is written.
std::string_view default_text(SettingKind kind) {
  return kind == SettingKind::kPath ? kPathDefault : kTextOff;
}

std::string_view without_blanks(std::string_view text) {
  const std::size_t first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(' ') - first + 1);
}

// "kill", or "cancel, 10s, kill".
std::optional<std::uint64_t> parse_on_overdue(std::string_view text) {
  if (text == "kill") return 0;
  const std::size_t first = text.find(',');
  const std::size_t last = text.rfind(',');
  if (first == last || without_blanks(text.substr(0, first)) != "cancel" ||
      without_blanks(text.substr(last + 1)) != "kill") {
    return std::nullopt;
  }
  const auto grace = parse_duration(without_blanks(text.substr(first + 1, last - first - 1)));
  return grace && *grace != 0 ? std::optional(*grace) : std::nullopt;
}

std::optional<std::uint64_t> parse_value(const SettingInfo& info, std::string_view text) {
  const auto value_of = [](const Result<std::uint64_t>& result) {
    return result ? std::optional<std::uint64_t>(*result) : std::nullopt;
  };
  switch (info.kind) {
    case SettingKind::kCount:
      return value_of(parse_count(text, info.max));
    case SettingKind::kDuration:
      return value_of(parse_duration(text));
    case SettingKind::kSize: {
      if (text == "off") return 0;
      const std::optional<std::uint64_t> bytes = value_of(parse_size(text));
      return bytes && *bytes <= info.max ? bytes : std::nullopt;
    }
    case SettingKind::kSignal: {
      const auto signal = static_cast<std::uint64_t>(parse_signal(text));
      return ends_a_process(signal) ? std::optional(signal) : std::nullopt;
    }
    case SettingKind::kChoice: {
      const std::vector<std::string_view> words = choices_of(info);
      const auto found = std::find(words.begin(), words.end(), text);
      if (found == words.end()) return std::nullopt;
      return static_cast<std::uint64_t>(found - words.begin());
    }
    case SettingKind::kSwitch:
      if (text == "true" || text == "on") return 1;
      return text == "false" || text == "off" ? std::optional<std::uint64_t>(0) : std::nullopt;
    case SettingKind::kCooldown:
      return parse_cooldown(text);
    case SettingKind::kPath:
    case SettingKind::kGroups:
    case SettingKind::kDevices:
    case SettingKind::kGpuMemory:
    case SettingKind::kProbe:
      if (text.empty() || (text != default_text(info.kind) && !is_text_value(info.kind, text)))
        return std::nullopt;
      return 0;
    case SettingKind::kOnOverdue:
      return parse_on_overdue(text);
  }
  return std::nullopt;
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
  if (info.kind == SettingKind::kChoice) message += did_you_mean(text, choices_of(info));
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
    case SettingKind::kChoice: {
      const std::vector<std::string_view> words = choices_of(info);
      return std::string(value < words.size() ? words[value] : "unknown");
    }
    case SettingKind::kSwitch:
      return value == 0 ? "false" : "true";
    case SettingKind::kCooldown: {
      const Cooldown cooldown = unpack_cooldown(value);
      std::string text = format_duration(cooldown.first_ms * kMillisecond_ns);
      if (cooldown.first_ms != cooldown.longest_ms) {
        text += ".." + format_duration(cooldown.longest_ms * kMillisecond_ns);
      }
      return text;
    }
    case SettingKind::kSize:
      return value == 0 ? "off" : format_size_exactly(value);
    case SettingKind::kPath:
    case SettingKind::kGroups:
    case SettingKind::kDevices:
    case SettingKind::kGpuMemory:
    case SettingKind::kProbe:
      return std::string(default_text(info.kind));
    case SettingKind::kOnOverdue:
      return value == 0 ? "kill" : "cancel, " + format_duration(value) + ", kill";
  }
  return {};
}

Result<SettingEntry> parse_entry(const SettingInfo& info, std::string_view text, Origin from) {
  const Result<std::uint64_t> number = parse_setting(info, text);
  if (!number) return fail(number.error());
  SettingEntry entry{info.id, from, *number, {}, is_text(info.kind)};
  if (entry.is_text && text != default_text(info.kind)) entry.text = text;
  return entry;
}

std::string format_entry(const SettingInfo& info, const SettingEntry* entry) {
  if (!is_text(info.kind)) {
    const bool is_given = entry != nullptr && !entry->is_text;
    return format_setting(info, is_given ? clamp_setting(info, entry->number) : info.default_value);
  }
  const bool is_given = entry != nullptr && entry->is_text && !entry->text.empty() &&
                        is_text_value(info.kind, entry->text);
  return is_given ? entry->text : format_setting(info, 0);
}

std::uint64_t cooldown_ns(std::uint64_t packed, std::uint32_t failures) {
  const Cooldown cooldown = unpack_cooldown(packed);
  if (failures == 0) return 0;
  // 32 bits doubled less than 32 times fit a word; from then on any first has passed any longest.
  if (failures > 32) return cooldown.longest_ms * kMillisecond_ns;
  return std::min(cooldown.first_ms << (failures - 1), cooldown.longest_ms) * kMillisecond_ns;
}

// --- Values --------------------------------------------------------------------------------------

const SettingEntry* Overrides::find(Setting id) const {
  for (const SettingEntry& entry : entries_) {
    if (entry.id == id) return &entry;
  }
  return nullptr;
}

std::uint64_t Overrides::get(Setting id) const {
  const SettingEntry* const entry = find(id);
  return entry == nullptr ? 0 : entry->number;
}

Origin Overrides::origin(Setting id) const {
  const SettingEntry* const entry = find(id);
  return entry == nullptr ? Origin{} : entry->origin;
}

void Overrides::set(SettingEntry entry) {
  const auto at = std::lower_bound(
      entries_.begin(), entries_.end(), entry.id,
      [](const SettingEntry& there, Setting id) { return index_of(there.id) < index_of(id); });
  if (at != entries_.end() && at->id == entry.id) {
    *at = std::move(entry);
  } else {
    entries_.insert(at, std::move(entry));
  }
}

std::uint64_t PoolSettings::get(Setting id) const {
  const SettingInfo& info = setting_info(id);
  return pool.has(id) ? clamp_setting(info, pool.get(id)) : info.default_value;
}

std::string PoolSettings::text(Setting id) const {
  const SettingEntry* const entry = pool.find(id);
  const bool is_given =
      entry != nullptr && entry->is_text && is_text_value(setting_info(id).kind, entry->text);
  return is_given ? entry->text : "";
}

std::string PoolSettings::shown(Setting id) const {
  return format_entry(setting_info(id), pool.find(id));
}

std::uint64_t PoolSettings::unknown_to_judge() const {
  std::uint64_t bits = 0;
  for (const ForeignSetting& setting : foreign) {
    if (setting.needed_by_judge) bits |= bit_of(setting.id);
  }
  return bits;
}

std::string settings_text(std::uint64_t bits, const PoolSettings& settings) {
  std::string text;
  int count = 0;
  for (std::size_t number = 0; number < kSettingCapacity; ++number) {
    if ((bits >> number & 1) == 0) continue;
    text += (count++ == 0 ? " " : ", ") + std::to_string(number);
    for (const ForeignSetting& foreign : settings.foreign) {
      if (index_of(foreign.id) == number && !foreign.name.empty())
        text += " (" + escape(foreign.name) + ")";
    }
  }
  return (count == 1 ? "setting" : "settings") + text;
}

Effective::Effective() {
  for (const SettingInfo& info : kSettings) number_[index_of(info.id)] = info.default_value;
  rule_.fill(-1);
}

std::string_view Effective::text(Setting id) const {
  for (const SettingEntry& entry : texts_) {
    if (entry.id == id) return entry.text;
  }
  return {};
}

std::string Effective::shown(Setting id) const {
  const SettingInfo& info = setting_info(id);
  if (!is_text(info.kind)) return format_setting(info, get(id));
  const SettingEntry entry{id, {}, 0, std::string(text(id)), true};
  return format_entry(info, &entry);
}

std::string_view Effective::rule(Setting id) const {
  const std::int32_t rule = rule_[index_of(id)];
  return rule < 0 ? std::string_view() : rules_[static_cast<std::size_t>(rule)];
}

void Effective::take_of_rule(const SettingEntry& entry, std::string_view pattern) {
  if (is_known(entry.id) && !setting_info(entry.id).per_model) return;
  if (rules_.empty() || rules_.back() != pattern) rules_.emplace_back(pattern);
  take(entry, static_cast<std::int32_t>(rules_.size() - 1));
}

void Effective::take_of_ready(const Overrides& given) {
  for (SettingEntry entry : given.entries()) {
    if (!is_known(entry.id) || !setting_info(entry.id).per_model) continue;
    entry.origin = {OriginKind::kReady, 0};
    take(entry, -1);
  }
}

void Effective::take(const SettingEntry& entry, std::int32_t rule) {
  const std::size_t index = index_of(entry.id);
  if (index >= kSettingCapacity) return;
  if (is_known(entry.id)) {
    if (entry.is_text != is_text(setting_info(entry.id).kind)) return;
    if (entry.is_text && !is_text_value(setting_info(entry.id).kind, entry.text)) return;
  }
  number_[index] =
      is_known(entry.id) ? clamp_setting(setting_info(entry.id), entry.number) : entry.number;
  origin_[index] = entry.origin;
  rule_[index] = rule;
  if (!entry.is_text) return;
  std::erase_if(texts_, [&](const SettingEntry& other) { return other.id == entry.id; });
  texts_.push_back(entry);
}

std::string origin_text(std::string_view config_path, Origin origin) {
  switch (origin.kind) {
    case OriginKind::kDefault:
      return "default";
    case OriginKind::kConfig: {
      std::string text = config_path.empty() ? "config" : escape(config_path);
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
    case SettingKind::kSize:
      return std::min(value, info.max);
    case SettingKind::kDuration:
    case SettingKind::kOnOverdue:
      return std::min(value, kDurationMax_ns);
    case SettingKind::kSignal:
      return ends_a_process(value) ? value : info.default_value;
    case SettingKind::kChoice: {  // without allocating: under the mutex
      const auto last = std::count(info.placeholder.begin(), info.placeholder.end(), '|');
      return value <= static_cast<std::uint64_t>(last) ? value : info.default_value;
    }
    case SettingKind::kSwitch:
      return value <= 1 ? value : info.default_value;
    case SettingKind::kCooldown: {
      const Cooldown cooldown = unpack_cooldown(value);
      return pack_cooldown(cooldown.first_ms, cooldown.longest_ms);
    }
    case SettingKind::kPath:
    case SettingKind::kGroups:
    case SettingKind::kDevices:
    case SettingKind::kGpuMemory:
    case SettingKind::kProbe:
      return 0;
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
