#include "config/settings_reader.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "base/nearest.hpp"
#include "base/text.hpp"

namespace modelpool::config {
namespace {

std::string example_of(const SettingInfo& info) {
  switch (info.kind) {
    case SettingKind::kCount:
      return "4";
    case SettingKind::kDuration:
      return "\"30s\", \"15m\" or \"off\"";
    case SettingKind::kSize:
      return "\"512MiB\", \"64GiB\" or \"off\"";
    case SettingKind::kSignal:
      return "\"SIGTERM\"";
    case SettingKind::kChoice:
      return "\"" + format_setting(info, info.default_value) + "\"";
    case SettingKind::kSwitch:
      return "true";
    case SettingKind::kCooldown:
      return "\"10s..5m\"";
    case SettingKind::kPath:
      return "\"/var/log/models\" or \"off\"";
    case SettingKind::kOnOverdue:
      return "\"cancel, 10s, kill\" or \"kill\"";
    case SettingKind::kGroups:
      return "[\"heavy\"] or \"heavy\"";
    case SettingKind::kDevices:
      return "1 or [\"GPU-1f\"]";
    case SettingKind::kGpuMemory:
      return "\"20GiB\", [\"20GiB\", \"4GiB\"], \"90%\" or { GPU-1f = \"22GiB\" }";
    case SettingKind::kProbe:
      return "\"GET /health\" or \"tcp\"";
  }
  return "";
}

std::string unknown_setting(std::string_view name, const OtherKeys& others) {
  std::vector<std::string_view> known = others.names;
  for (const SettingInfo& info : kSettings) {
    if (!others.is_of_models || info.per_model) known.push_back(info.name);
  }
  const std::string hint = did_you_mean(name, known);
  return "unknown setting " + quote(name) + (hint.empty() ? "; there are " + listed(known) : hint);
}

// An array or a table of texts as parse_setting reads them: "a, b" or "a=1, b=2".
std::optional<std::string> list_of(const SettingInfo& info, const Node& node) {
  const bool is_list = info.kind == SettingKind::kGroups || info.kind == SettingKind::kDevices ||
                       info.kind == SettingKind::kGpuMemory;
  std::string text;
  const auto append = [&text](std::string_view key, const Node& value) {
    if (!value.is(Node::Kind::kString) || value.text.find_first_of(",=") != std::string::npos)
      return false;
    text += text.empty() ? "" : ", ";
    text += key.empty() ? "" : std::string(key) + "=";
    text += value.text;
    return true;
  };
  if (node.is(Node::Kind::kArray) && is_list) {
    for (const Node& value : node.items) {
      if (!append("", value)) return std::nullopt;
    }
    return text.empty() ? "off" : text;
  }
  if (node.is(Node::Kind::kTable) && info.kind == SettingKind::kGpuMemory) {
    for (const Member& member : node.members) {
      if (!append(member.key, member.value)) return std::nullopt;
    }
    return text.empty() ? "off" : text;
  }
  return std::nullopt;
}

// What parse_setting is to read, or why the value is of no use.
Result<std::string> text_of(const SettingInfo& info, const Node& node) {
  if (node.is(Node::Kind::kString)) return node.text;
  const std::string name(info.name);
  if (node.is(Node::Kind::kBoolean) && info.kind == SettingKind::kSwitch)
    return std::string(node.truth ? "true" : "false");
  if (const std::optional<std::string> list = list_of(info, node)) return *list;
  if (!node.is(Node::Kind::kInteger)) {
    return fail(Errc::kInvalid, name + " is " + std::string(kind_name(node)) + "; write it like " +
                                    example_of(info));
  }
  const std::string text = std::to_string(node.integer);
  const bool is_time = info.kind == SettingKind::kDuration || info.kind == SettingKind::kCooldown;
  if (is_time && node.integer != 0) {
    return fail(Errc::kInvalid,
                name + " = " + text + ": a unit is missing; write it like " + example_of(info));
  }
  const bool is_count = info.kind == SettingKind::kDevices;
  if (info.kind == SettingKind::kChoice || info.kind == SettingKind::kSwitch ||
      info.kind == SettingKind::kOnOverdue || (is_text(info.kind) && !is_count)) {
    return fail(Errc::kInvalid, name + " is an integer; write it like " + example_of(info));
  }
  return text;
}

void read_setting(const SettingInfo& info, const Member& member, Overrides& overrides,
                  Problems& problems) {
  const Result<std::string> text = text_of(info, member.value);
  if (!text) return problems.add(member.value.at, text.error().text);
  Result<SettingEntry> entry = parse_entry(info, *text, {OriginKind::kConfig, member.at.line});
  if (!entry) return problems.add(member.value.at, as_reason(entry.error().text));
  overrides.set(std::move(*entry));
}

}  // namespace

bool OtherKeys::has(std::string_view key) const {
  return std::find(names.begin(), names.end(), key) != names.end();
}

void read_settings(const Node& table, const OtherKeys& others, Overrides& overrides,
                   Problems& problems) {
  std::array<Position, kSettingCount> seen{};
  for (const Member& member : table.members) {
    if (others.has(member.key)) continue;
    const SettingInfo* const info = find_setting(member.key);
    if (info == nullptr) {
      problems.add(member.at, unknown_setting(member.key, others));
      continue;
    }
    if (others.is_of_models && !info->per_model) {
      problems.add(member.at,
                   std::string(info->name) + " is not for single models; move it to [pool]");
      continue;
    }
    Position& first = seen[index_of(info->id)];
    if (first.line != 0) {
      problems.add(member.at, std::string(info->name) + " is set twice, first in line " +
                                  std::to_string(first.line) +
                                  "; dashes and underscores are the same");
    }
    first = member.at;
    read_setting(*info, member, overrides, problems);
  }
}

}  // namespace modelpool::config
