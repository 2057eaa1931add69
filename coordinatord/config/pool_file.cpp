#include "config/pool_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "base/glob.hpp"
#include "base/nearest.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "config/check.hpp"

namespace modelpool::config {
namespace {

constexpr std::size_t kProblemsMax = 20;  // told at once

// Columns of the summary.
constexpr std::size_t kNameWidth = 20;
constexpr std::size_t kValueWidth = 12;

constexpr std::string_view kUnable = "unable to ";

struct Position {
  std::uint32_t line = 0;  // 0: no place in the file
  std::uint32_t column = 0;

  bool operator<(const Position& other) const {
    return std::tie(line, column) < std::tie(other.line, other.column);
  }
};

Position position_of(const toml::source_region& source) {
  return {source.begin.line, source.begin.column};
}

std::string listed(const std::vector<std::string_view>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i != 0) text += i + 1 == names.size() ? " and " : ", ";
    text += names[i];
  }
  return text;
}

std::string_view type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a number with a fraction";
    case toml::node_type::boolean:
      return "a boolean";
    case toml::node_type::date:
    case toml::node_type::time:
    case toml::node_type::date_time:
      return "a date or time";
    case toml::node_type::none:
      break;
  }
  return "nothing";
}

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

// "cannot set x to y: it takes z": the reason inside another message.
std::string as_reason(std::string text) {
  if (text.starts_with(kUnable)) text.replace(0, kUnable.size(), "cannot ");
  return text;
}

// toml++ writes one line, but repeats bytes of the file in it.
std::string one_line(std::string_view text) {
  return is_printable_utf8(text) ? std::string(text) : escape(text);
}

Result<std::string> read_file(const std::string& path) {
  const auto what = [&path] { return "read config " + escape(path); };
  // Without O_NONBLOCK a FIFO would wait for its writer, and the coordinator with it.
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file) return fail_errno(errno, what());
  struct stat status {};
  if (fstat(file.get(), &status) != 0) return fail_errno(errno, what());
  if (!S_ISREG(status.st_mode)) {
    return fail(Errc::kInvalid, "unable to " + what() + ": it is not a regular file");
  }
  std::string bytes;
  char chunk[16384];
  for (;;) {
    const ssize_t count = read(file.get(), chunk, sizeof chunk);
    if (count == 0) return bytes;
    if (count < 0) {
      if (errno == EINTR) continue;
      return fail_errno(errno, what());
    }
    bytes.append(chunk, static_cast<std::size_t>(count));
    if (bytes.size() > kConfigMax_bytes) {
      return fail(Errc::kInvalid, "unable to " + what() + ": it is larger than " +
                                      format_size(kConfigMax_bytes) + "; is it a config?");
    }
  }
}

// Over the file and, where they mean something, over the flags. 0 stands for "none".
std::uint64_t hash_of(std::string_view file, const Overrides& flags) {
  std::string all(file);
  for (const SettingInfo& info : kSettings) {
    if (!flags.has(info.id)) continue;
    all += '\0';
    all += info.name;
    all += '=';
    all += format_entry(info, flags.find(info.id));
  }
  const std::uint64_t hash = hash_name(all);
  return hash == 0 ? 1 : hash;
}

// The file's absolute path. One that does not fit is cut at its start.
std::string path_to_show(const std::string& path) {
  std::error_code ignored;
  std::string absolute = std::filesystem::absolute(path, ignored).lexically_normal().string();
  if (absolute.empty()) absolute = path;
  if (absolute.size() <= kConfigPathMax_bytes) return absolute;
  return "..." + absolute.substr(absolute.size() - (kConfigPathMax_bytes - 3));
}

// What is wrong with a file: every problem, in the file's order, whatever order they are found in.
class Problems {
 public:
  void add(Position at, std::string reason) { found_.emplace(at, std::move(reason)); }
  // Of a line that cannot be read nothing else is told: it would follow from that.
  void add_unreadable(Position at, const std::string& reason) {
    unreadable_.try_emplace(at.line, at, reason);
  }
  bool is_unreadable(std::uint32_t line) const { return unreadable_.contains(line); }

  // Nothing, or a line for each.
  Result<> result(const std::string& path) const {
    std::multimap<Position, std::string> all;
    for (const auto& [at, reason] : found_) {
      if (!is_unreadable(at.line)) all.emplace(at, reason);
    }
    for (const auto& [line, problem] : unreadable_) all.insert(problem);
    if (all.empty()) return {};
    const std::string head = "unable to read config " + escape(path);
    std::string text;
    std::size_t told = 0;
    for (const auto& [at, reason] : all) {
      if (told++ == kProblemsMax) {
        text += "\n" + head + ": " + std::to_string(all.size() - kProblemsMax) + " more errors";
        break;
      }
      text += (text.empty() ? "" : "\n") + head + ":" + std::to_string(at.line) + ":" +
              std::to_string(at.column) + ": " + reason;
    }
    return fail(Errc::kInvalid, text);
  }

 private:
  std::multimap<Position, std::string> found_;
  std::map<std::uint32_t, std::pair<Position, std::string>> unreadable_;  // by line
};

// Turns the parsed document into settings. toml++ hands out keys in alphabetical order.
class Reader {
 public:
  Reader(Settings& settings, GivenCapacities& capacities, Problems& problems)
      : settings_(settings), capacities_(capacities), problems_(problems) {}

  void read(const toml::table& document) {
    for (const auto& [key, node] : document) {
      if (key.str() == "pool") {
        read_pool(key, node);
      } else if (key.str() == "model") {
        read_rules(key, node);
      } else if (key.str() == "capacity") {
        read_capacities(key, node);
      } else {
        report(key, node.is_table() || node.is_array() ? unknown_table(key.str())
                                                       : misplaced_key(key.str()));
      }
    }
  }

 private:
  template <class Located>
  void report(const Located& where, const std::string& reason) {
    problems_.add(position_of(where.source()), reason);
  }

  static std::string unknown_table(std::string_view name) {
    const std::string hint = did_you_mean(name, {"pool", "model", "capacity"});
    return "unknown table " + quote(name) +
           (hint.empty() ? "; there are [pool], [[model]] and [capacity]" : hint);
  }

  static std::string misplaced_key(std::string_view name) {
    const std::string stands = std::string(name) + " stands outside of a table; write ";
    if (find_setting(name) != nullptr) return stands + "[pool] above it";
    if (find_capacity(name) != nullptr) return stands + "[capacity] above it";
    return "unknown key " + quote(name) + "; there are [pool], [[model]] and [capacity]";
  }

  // The one table of that name, or null and a problem.
  const toml::table* one_table(const toml::key& key, const toml::node& node) {
    const toml::table* table = node.as_table();
    if (table == nullptr) {
      const std::string name(key.str());
      report(key, name + " is " +
                      std::string(node.is_array() ? "given more than once" : type_name(node)) +
                      "; write it as one table, [" + name + "]");
    }
    return table;
  }

  void read_pool(const toml::key& key, const toml::node& node) {
    if (const toml::table* table = one_table(key, node))
      read_settings(*table, false, settings_.pool);
  }

  void read_capacities(const toml::key& table_key, const toml::node& table_node) {
    const toml::table* table = one_table(table_key, table_node);
    if (table == nullptr) return;
    for (const auto& [key, node] : *table) {
      const CapacityInfo* info = find_capacity(key.str());
      if (info == nullptr) {
        std::vector<std::string_view> known;
        for (const CapacityInfo& one : kCapacities) known.push_back(one.name);
        const std::string hint = did_you_mean(key.str(), known);
        report(key, "unknown capacity " + quote(key.str()) +
                        (hint.empty() ? "; there are " + listed(known) : hint));
        continue;
      }
      const toml::value<std::int64_t>* number = node.as_integer();
      if (number == nullptr || number->get() < 1 ||
          static_cast<std::uint64_t>(number->get()) > info->max) {
        report(node,
               std::string(info->name) + " takes a number from 1 to " + std::to_string(info->max));
        continue;
      }
      capacities_.set(*info, static_cast<std::uint32_t>(number->get()));
    }
  }

  void read_rules(const toml::key& key, const toml::node& node) {
    const toml::array* array = node.as_array();
    if (array == nullptr) {
      report(key, "model is " + std::string(type_name(node)) +
                      "; write each rule as [[model]], with two brackets");
      return;
    }
    for (const toml::node& element : *array) {
      const toml::table* table = element.as_table();
      if (table == nullptr) {
        report(element, "model has " + std::string(type_name(element)) +
                            " in it; write each rule as a table, [[model]]");
      } else {
        read_rule(*table, settings_.rules.emplace_back());
      }
    }
  }

  void read_rule(const toml::table& table, Rule& rule) {
    const toml::node* match = table.get("match");
    if (match == nullptr) {
      report(table, "a [[model]] table without match; add match = \"GLOB\"");
    } else if (const toml::value<std::string>* text = match->as_string(); text == nullptr) {
      report(*match, "match is " + std::string(type_name(*match)) +
                         "; write a glob in quotes, such as \"llama-*\"");
    } else if (const Result<> valid = check_glob(text->get()); !valid) {
      report(*match, as_reason(valid.error().text));
    } else {
      rule.pattern = text->get();
      if (rule.is_glob() && ++globs_ == kGlobsMax + 1) {
        report(*match, "there are more than " + std::to_string(kGlobsMax) +
                           " [[model]] tables with wildcards; merge some into wider globs");
      }
    }
    read_settings(table, true, rule.overrides);
  }

  void read_settings(const toml::table& table, bool is_rule, Overrides& overrides) {
    std::array<Position, kSettingCount> seen{};
    for (const auto& [key, node] : table) {
      if (is_rule && key.str() == "match") continue;
      const SettingInfo* info = find_setting(key.str());
      if (info == nullptr) {
        report(key, unknown_setting(key.str(), is_rule));
      } else if (is_rule && !info->per_model) {
        report(key, std::string(info->name) + " is not for single models; move it to [pool]");
      } else {
        Position& before = seen[static_cast<std::size_t>(info->id)];
        if (before.line != 0) report_twice(key, *info, before);
        before = position_of(key.source());
        read_value(*info, key, node, overrides);
      }
    }
  }

  // The later one is the mistake, whichever the table handed out first.
  void report_twice(const toml::key& key, const SettingInfo& info, Position before) {
    const Position here = position_of(key.source());
    const Position first = std::min(here, before);
    const Position second = std::max(here, before);
    problems_.add(second, std::string(info.name) + " is set twice, first in line " +
                              std::to_string(first.line) + "; dashes and underscores are the same");
  }

  static std::string unknown_setting(std::string_view name, bool is_rule) {
    std::vector<std::string_view> known;
    if (is_rule) known.emplace_back("match");
    for (const SettingInfo& info : kSettings) {
      if (!is_rule || info.per_model) known.push_back(info.name);
    }
    std::string reason = "unknown setting " + quote(name);
    const std::string hint = did_you_mean(name, known);
    return reason + (hint.empty() ? "; there are " + listed(known) : hint);
  }

  void read_value(const SettingInfo& info, const toml::key& key, const toml::node& node,
                  Overrides& overrides) {
    const Result<std::string> text = text_of(info, node);
    if (!text) {
      report(node, text.error().text);
      return;
    }
    Result<SettingEntry> entry =
        parse_entry(info, *text, {OriginKind::kConfig, key.source().begin.line});
    if (!entry) {
      report(node, as_reason(entry.error().text));
      return;
    }
    overrides.set(std::move(*entry));
  }

  // An array or a table of texts as parse_setting reads them: "a, b" or "a=1, b=2".
  static std::optional<std::string> list_of(const SettingInfo& info, const toml::node& node) {
    const bool is_list = info.kind == SettingKind::kGroups || info.kind == SettingKind::kDevices ||
                         info.kind == SettingKind::kGpuMemory;
    std::string text;
    const auto append = [&text](std::string_view key, const toml::node& value) {
      const toml::value<std::string>* const word = value.as_string();
      if (word == nullptr || word->get().find_first_of(",=") != std::string::npos) return false;
      text += text.empty() ? "" : ", ";
      text += key.empty() ? "" : std::string(key) + "=";
      text += word->get();
      return true;
    };
    if (const toml::array* array = node.as_array(); array != nullptr && is_list) {
      for (const toml::node& value : *array) {
        if (!append("", value)) return std::nullopt;
      }
      return text.empty() ? "off" : text;
    }
    if (const toml::table* table = node.as_table();
        table != nullptr && info.kind == SettingKind::kGpuMemory) {
      for (const auto& [key, value] : *table) {
        if (!append(key.str(), value)) return std::nullopt;
      }
      return text.empty() ? "off" : text;
    }
    return std::nullopt;
  }

  // What parse_setting is to read, or why the value is of no use.
  static Result<std::string> text_of(const SettingInfo& info, const toml::node& node) {
    if (const toml::value<std::string>* text = node.as_string()) return text->get();
    const std::string name(info.name);
    if (const toml::value<bool>* truth = node.as_boolean();
        truth != nullptr && info.kind == SettingKind::kSwitch) {
      return std::string(truth->get() ? "true" : "false");
    }
    if (const std::optional<std::string> list = list_of(info, node)) return *list;
    const toml::value<std::int64_t>* integer = node.as_integer();
    if (integer == nullptr) {
      return fail(Errc::kInvalid, name + " is " + std::string(type_name(node)) +
                                      "; write it like " + example_of(info));
    }
    const std::string text = std::to_string(integer->get());
    const bool is_time = info.kind == SettingKind::kDuration || info.kind == SettingKind::kCooldown;
    if (is_time && integer->get() != 0) {
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

  Settings& settings_;
  GivenCapacities& capacities_;
  Problems& problems_;
  std::size_t globs_ = 0;
};

// The n-th line, from 1, without its end.
std::string_view line_of(std::string_view text, std::uint32_t n) {
  std::size_t begin = 0;
  for (std::uint32_t i = 1; i < n && begin < text.size(); ++i) {
    begin = std::min(text.find('\n', begin), text.size() - 1) + 1;
  }
  return text.substr(begin, text.find('\n', begin) - begin);
}

// "key = value # comment", told apart by eye: where TOML cannot read it.
struct Assignment {
  std::string key;
  std::string value;
  std::size_t value_at = 0;  // in the line
};
std::optional<Assignment> assignment_in(std::string_view line) {
  constexpr std::string_view kBlank = " \t\r";
  const auto trimmed = [&](std::string_view text) {
    const std::size_t first = std::min(text.find_first_not_of(kBlank), text.size());
    text.remove_prefix(first);
    return text.substr(0, text.find_last_not_of(kBlank) + 1);
  };
  const std::size_t equals = line.find('=');
  if (equals == std::string_view::npos || trimmed(line).starts_with('[')) return std::nullopt;
  Assignment found;
  found.key = trimmed(line.substr(0, equals));
  const std::string_view rest = line.substr(equals + 1);
  found.value = trimmed(rest.substr(0, rest.find('#')));
  found.value_at = equals + 1 + std::min(rest.find_first_not_of(kBlank), rest.size());
  return found;
}

// What toml++ says of a value without quotes is about the digits it hoped for.
std::optional<std::string> missing_quotes(const Assignment& line) {
  if (line.value.empty() || line.value.find_first_of("\"'[]{},") != std::string::npos)
    return std::nullopt;
  const SettingInfo* info = find_setting(line.key);
  const bool is_text = info != nullptr
                           ? info->kind != SettingKind::kCount && info->kind != SettingKind::kSwitch
                           : line.key == "match";
  if (!is_text) return std::nullopt;
  return escape(line.key) + " = " + escape(line.value) + ": the quotes are missing; write " +
         escape(line.key) + " = \"" + escape(line.value) + "\"";
}

// Makes that line readable, so that what follows it is read as well. False: only a guess at what it
// was to be could do that.
bool mend_line(std::string& text, std::uint32_t number, bool again) {
  const std::string_view line = line_of(text, number);
  const auto found = assignment_in(line);
  if (!found) return false;
  const auto begin = static_cast<std::size_t>(line.data() - text.data());
  if (again) {
    text.replace(begin, line.size(), line.size(), ' ');
  } else {
    text.replace(begin + found->value_at, line.size() - found->value_at, "\"\"");
  }
  return true;
}

Result<> read_document(const std::string& path, std::string_view bytes, Settings& settings,
                       GivenCapacities& capacities) {
  Problems problems;
  std::string text(bytes);
  for (std::size_t tries = 0; tries <= 2 * kProblemsMax; ++tries) {
    try {
      Reader(settings, capacities, problems).read(toml::parse(text));
      break;
    } catch (const toml::parse_error& error) {
      const Position at = position_of(error.source());
      const bool again = problems.is_unreadable(at.line);
      const auto line = assignment_in(line_of(text, at.line));
      const auto quotes = line ? missing_quotes(*line) : std::nullopt;
      const Position value{at.line,
                           line ? static_cast<std::uint32_t>(line->value_at + 1) : at.column};
      problems.add_unreadable(quotes ? value : at,
                              quotes ? *quotes : one_line(error.description()));
      // What stands before it is read all the same.
      if (!mend_line(text, at.line, again)) {
        text.resize(static_cast<std::size_t>(line_of(text, at.line).data() - text.data()));
      }
    }
  }
  return problems.result(path);
}

void append_line(std::string& text, std::string_view name, std::string_view value,
                 std::string_view origin) {
  const auto padded = [](std::string_view column, std::size_t width) {
    std::string cell(column);
    cell.resize(std::max(width, cell.size()), ' ');
    return cell;
  };
  text += "  " + padded(name, kNameWidth) + padded(value, kValueWidth) + " " + std::string(origin);
  text += '\n';
}

}  // namespace

const CapacityInfo* find_capacity(std::string_view name) {
  for (const CapacityInfo& info : kCapacities) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

Result<Settings> load_config(const std::string& path, const Overrides& flags,
                             GivenCapacities* capacities) {
  Settings settings;
  GivenCapacities given;
  std::string bytes;
  if (!path.empty()) {
    Result<std::string> file = read_file(path);
    if (!file) return fail(std::move(file.error()));
    bytes = std::move(*file);
    if (Result<> read = read_document(path, bytes, settings, given); !read)
      return fail(read.error());
    settings.config_path = path_to_show(path);
  }
  for (const SettingInfo& info : kSettings) {
    const SettingEntry* const flag = flags.find(info.id);
    if (flag == nullptr) continue;
    SettingEntry entry = *flag;
    entry.origin = {OriginKind::kFlag, 0};
    settings.pool.set(std::move(entry));
  }
  if (Result<> possible = check_together(path, settings); !possible) return fail(possible.error());
  settings.config_hash = hash_of(bytes, flags);
  if (capacities != nullptr) *capacities = given;
  return settings;
}

std::string config_summary(const Settings& settings, const GivenCapacities& capacities) {
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
  return text;
}

}  // namespace modelpool::config
