#include "config/summary.hpp"

#include <algorithm>

#include "base/duration.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "config/keys.hpp"
#include "config/listen.hpp"
#include "config/words.hpp"

namespace modelpool::config {
namespace {

// Columns.
constexpr std::size_t kNameWidth = 20;
constexpr std::size_t kValueWidth = 12;

constexpr std::string_view kMask = "***";

std::string padded(std::string_view column, std::size_t width) {
  std::string cell(column);
  cell.resize(std::max(width, cell.size()), ' ');
  return cell;
}

void append_line(std::string& text, std::string_view name, std::string_view value,
                 std::string_view origin) {
  text += "  " + padded(name, kNameWidth) + padded(value, kValueWidth) + " " + std::string(origin);
  text += '\n';
}

void append_pair(std::string& text, std::string_view name, std::string_view value) {
  if (!value.empty()) text += "  " + padded(name, kNameWidth) + escape(value) + "\n";
}

std::string joined(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) all += (all.empty() ? "" : ", ") + text;
  return all;
}

std::string_view auth_name(Auth auth) {
  switch (auth) {
    case Auth::kNone:
      return "none";
    case Auth::kKeys:
      return "keys";
    case Auth::kPeer:
      return "peer";
    case Auth::kDefault:
      break;
  }
  return "";
}

std::string listener_text(const Listener& listener) {
  std::string text = listener.address;
  if (listener.auth != Auth::kDefault) text += ", auth " + std::string(auth_name(listener.auth));
  if (!listener.tls_cert.empty()) text += ", tls";
  if (!listener.group.empty()) text += ", group " + listener.group;
  if (listener.line != 0) text += " (line " + std::to_string(listener.line) + ")";
  return text;
}

void append_serve(std::string& text, const Serve& serve) {
  text += "[serve]\n";
  for (const Listener& listener : serve.listeners)
    append_pair(text, "listen", listener_text(listener));
  if (serve.listeners.empty()) append_pair(text, "listen", listener_text(default_listener(serve)));
  for (const auto& info : kServeCounts) {
    const std::uint32_t value = serve.*info.member;
    append_pair(text, info.name, value == 0 ? "one a core, at least 2" : std::to_string(value));
  }
  for (const auto& info : kServeSizes)
    append_pair(text, info.name, format_size_exactly(serve.*info.member));
  append_pair(text, "body_dir", serve.body_dir);
  for (const auto& info : kServeTimes)
    append_pair(text, info.name, format_duration(serve.*info.member));
  append_pair(text, "loading", serve.loading_comments ? "comments" : "off");
  for (const auto& info : kServeLists) append_pair(text, info.name, joined(serve.*info.member));
  append_pair(text, "keys", serve.keys_file);
  append_pair(text, "access_log", serve.access_log.empty() ? "off" : serve.access_log);
  if (!serve.access_log.empty())
    append_pair(text, "access_log_format", serve.access_log_json ? "json" : "text");
}

// Does a word like "--api-key" say that the next one is a secret?
bool names_secret(std::string_view flag) {
  if (!flag.starts_with('-')) return false;
  for (const std::string_view end : {"key", "token", "secret", "password"}) {
    if (flag.ends_with(end)) return true;
  }
  return false;
}

std::string command_text(const std::vector<std::string>& command) {
  std::string text;
  bool is_secret = false;
  for (const std::string& word : command) {
    const std::size_t equals = word.find('=');
    const bool has_secret = equals != std::string::npos && names_secret(word.substr(0, equals));
    const std::string shown = is_secret    ? std::string(kMask)
                              : has_secret ? word.substr(0, equals + 1) + std::string(kMask)
                                           : quote_word(word);
    is_secret = names_secret(word);
    text += (text.empty() ? "" : " ") + shown;
  }
  return text;
}

void append_model(std::string& text, const Model& model) {
  text += "[models." + quote(model.name) + "]\n";
  append_pair(text, "command", command_text(model.command));
  append_pair(text, "address", model.address);
  append_pair(text, "ready",
              model.ready.kind == ReadyCheck::Kind::kTcp    ? "tcp"
              : model.ready.kind == ReadyCheck::Kind::kHttp ? "GET " + model.ready.path
                                                            : "");
  append_pair(text, "aliases", joined(model.aliases));
  for (const auto& [name, value] : model.env)
    append_pair(text, "env", name + "=" + std::string(kMask));
  append_pair(text, "cwd", model.cwd);
  append_pair(text, "log", model.log);
  append_pair(text, "weights", model.weights);
  append_pair(text, kPreload, model.preload ? "true" : "");
  append_pair(text, "backend_key", model.backend_key.empty() ? "" : kMask);
}

}  // namespace

std::string config_summary(const Settings& settings, const GivenCapacities& capacities,
                           const Door& door) {
  const auto origin_of = [&settings](const Overrides& overrides, Setting id) {
    const Origin origin = overrides.origin(id);
    if (origin.kind == OriginKind::kConfig) return "line " + std::to_string(origin.line);
    return origin_text(settings.config_path, origin);
  };
  std::string text = "[pool]\n";
  for (const SettingInfo& info : kSettings) {
    append_line(text, info.name, settings.shown(info.id), origin_of(settings.pool, info.id));
  }
  for (const Rule& rule : settings.rules) {
    text += "[[model]] " + quote(rule.pattern) + "\n";
    for (const SettingInfo& info : kSettings) {
      if (!rule.overrides.has(info.id)) continue;
      append_line(text, info.name, format_entry(info, rule.overrides.find(info.id)),
                  origin_of(rule.overrides, info.id));
    }
  }
  if (capacities.given != 0) text += "[capacity] of a pool that is created\n";
  for (const CapacityInfo& info : kCapacities) {
    if (capacities.has(info))
      text += "  " + std::string(info.name) + " " + std::to_string(capacities.values.*info.member) +
              "\n";
  }
  if (door != Door{}) append_serve(text, door.serve);
  for (const Model& model : door.models) append_model(text, model);
  return text;
}

}  // namespace modelpool::config
