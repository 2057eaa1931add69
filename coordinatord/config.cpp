#include "config.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <tuple>
#include <utility>

#include "segment/layout.hpp"
#include "base/process.hpp"
#include "base/text.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::size_t kNearestMax_edits = 3;
constexpr std::size_t kNearestGivenMax_bytes = 64;

// Columns of the summary.
constexpr std::size_t kNameWidth = 16;
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

// How many characters must be added, taken or replaced to make `b` of `a`.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({above + 1, row[j - 1] + 1, replaced});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string did_you_mean(std::string_view given, const std::vector<std::string_view>& known) {
  const std::string_view nearest = nearest_name(given, known);
  return nearest.empty() ? std::string() : "; did you mean " + std::string(nearest) + "?";
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

std::string_view example_of(const SettingInfo& info) {
  switch (info.kind) {
    case SettingKind::kCount:
      return "4";
    case SettingKind::kDuration:
      return "\"30s\", \"15m\" or \"off\"";
    case SettingKind::kSignal:
      return "\"SIGTERM\"";
    case SettingKind::kWhenBusy:
      return "\"drain\", \"wait\" or \"force\"";
    case SettingKind::kCooldown:
      return "\"10s..5m\"";
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
    all += std::to_string(flags.get(info.id));
  }
  const std::uint64_t hash = hash_name(all);
  return hash == 0 ? 1 : hash;
}

// Where the file lies, whoever asks. Of a path that does not fit the end is kept.
void store_path(std::array<char, 256>& field, const std::string& path) {
  std::error_code ignored;
  std::string absolute = std::filesystem::absolute(path, ignored).lexically_normal().string();
  if (absolute.empty()) absolute = path;
  if (absolute.size() >= field.size()) {
    absolute = "..." + absolute.substr(absolute.size() - (field.size() - 4));
  }
  set_field(&field, absolute);
}

// Turns the parsed document into settings. toml++ hands out keys in alphabetical order, so all is
// read and the problem that stands first in the file is kept.
class Reader {
 public:
  explicit Reader(Settings& settings) : settings_(settings) {}

  void read(const toml::table& document) {
    for (const auto& [key, node] : document) {
      if (key.str() == "pool") {
        read_pool(key, node);
      } else if (key.str() == "model") {
        read_rules(key, node);
      } else {
        report(key, unknown_table(key.str()));
      }
    }
  }

  struct Problem {
    Position at;
    std::string reason;
  };
  const std::optional<Problem>& problem() const { return problem_; }

 private:
  template <class Located>
  void report(const Located& where, std::string reason) {
    const Position at = position_of(where.source());
    if (!problem_ || at < problem_->at) problem_ = Problem{at, std::move(reason)};
  }

  static std::string unknown_table(std::string_view name) {
    if (find_setting(name) != nullptr) {
      return std::string(name) + " stands outside of a table; write [pool] above it";
    }
    const std::string hint = did_you_mean(name, {"pool", "model"});
    return "unknown table or key " + quote(name) +
           (hint.empty() ? "; there are [pool] and [[model]]" : hint);
  }

  void read_pool(const toml::key& key, const toml::node& node) {
    const toml::table* table = node.as_table();
    if (table == nullptr) {
      report(key, "pool is " +
                      std::string(node.is_array() ? "given more than once" : type_name(node)) +
                      "; write it as one table, [pool]");
      return;
    }
    read_settings(*table, false, settings_.pool);
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
      } else if (settings_.rule_count == kRuleCapacity) {
        report(element, "there are more than " + std::to_string(kRuleCapacity) +
                            " [[model]] tables; merge some into wider globs");
        return;
      } else {
        read_rule(*table, settings_.rules[settings_.rule_count++]);
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
      set_field(&rule.glob, text->get());
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
    if (problem_ && problem_->at < second) return;
    problem_ =
        Problem{second, std::string(info.name) + " is set twice, first in line " +
                            std::to_string(first.line) + "; dashes and underscores are the same"};
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
    const Result<std::uint64_t> value = parse_setting(info, *text);
    if (!value) {
      report(node, as_reason(value.error().text));
      return;
    }
    overrides.set(info.id, *value, {OriginKind::kConfig, key.source().begin.line});
  }

  // What parse_setting is to read, or why the value is of no use.
  static Result<std::string> text_of(const SettingInfo& info, const toml::node& node) {
    if (const toml::value<std::string>* text = node.as_string()) return text->get();
    const std::string name(info.name);
    const toml::value<std::int64_t>* integer = node.as_integer();
    if (integer == nullptr) {
      return fail(Errc::kInvalid, name + " is " + std::string(type_name(node)) +
                                      "; write it like " + std::string(example_of(info)));
    }
    const std::string text = std::to_string(integer->get());
    const bool is_time = info.kind == SettingKind::kDuration || info.kind == SettingKind::kCooldown;
    if (is_time && integer->get() != 0) {
      return fail(Errc::kInvalid, name + " = " + text + ": a unit is missing; write it like " +
                                      std::string(example_of(info)));
    }
    if (info.kind == SettingKind::kWhenBusy) {
      return fail(Errc::kInvalid,
                  name + " is an integer; write it like " + std::string(example_of(info)));
    }
    return text;
  }

  Settings& settings_;
  std::optional<Problem> problem_;
};

tl::unexpected<Error> fail_at(const std::string& path, Position at, const std::string& reason) {
  return fail(Errc::kInvalid, "unable to read config " + escape(path) + ":" +
                                  std::to_string(at.line) + ":" + std::to_string(at.column) + ": " +
                                  reason);
}

Result<> read_document(const std::string& path, std::string_view bytes, Settings& settings) {
  try {
    const toml::table document = toml::parse(bytes);
    Reader reader(settings);
    reader.read(document);
    if (reader.problem()) return fail_at(path, reader.problem()->at, reader.problem()->reason);
  } catch (const toml::parse_error& error) {
    return fail_at(path, position_of(error.source()), one_line(error.description()));
  }
  return {};
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

std::string_view nearest_name(std::string_view given, const std::vector<std::string_view>& known) {
  if (given.size() > kNearestGivenMax_bytes) return {};
  std::string wanted(given);
  for (char& c : wanted) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (c == '-') c = '_';
  }
  // A third of the characters may be wrong: more than that is another word.
  std::size_t least = std::min(kNearestMax_edits, given.size() / 3) + 1;
  std::string_view nearest;
  for (const std::string_view name : known) {
    std::string own(name);
    std::replace(own.begin(), own.end(), '-', '_');
    const std::size_t distance = edit_distance(wanted, own);
    if (distance < least) {
      least = distance;
      nearest = name;
    }
  }
  return nearest;
}

Result<Settings> load_config(const std::string& path, const Overrides& flags) {
  Settings settings;
  std::string bytes;
  if (!path.empty()) {
    Result<std::string> file = read_file(path);
    if (!file) return fail(std::move(file.error()));
    bytes = std::move(*file);
    if (Result<> read = read_document(path, bytes, settings); !read) return fail(read.error());
    store_path(settings.config_path, path);
  }
  for (const SettingInfo& info : kSettings) {
    if (flags.has(info.id)) settings.pool.set(info.id, flags.get(info.id), {OriginKind::kFlag, 0});
  }
  settings.config_hash = hash_of(bytes, flags);
  return settings;
}

std::string config_summary(const Settings& settings) {
  const auto origin_of = [&settings](const Overrides& overrides, Setting id) {
    const Origin origin =
        overrides.has(id) ? overrides.origin[static_cast<std::size_t>(id)] : Origin{};
    if (origin.kind == OriginKind::kConfig) return "line " + std::to_string(origin.line);
    return origin_text(settings, origin);
  };
  std::string text = "[pool]\n";
  for (const SettingInfo& info : kSettings) {
    append_line(text, info.name, format_setting(info, settings.get(info.id)),
                origin_of(settings.pool, info.id));
  }
  for (std::size_t i = 0; i < settings.rules_in_use(); ++i) {
    const Rule& rule = settings.rules[i];
    text += "[[model]] " + quote(rule.glob_text()) + "\n";
    for (const SettingInfo& info : kSettings) {
      if (!rule.overrides.has(info.id)) continue;
      append_line(text, info.name, format_setting(info, rule.overrides.get(info.id)),
                  origin_of(rule.overrides, info.id));
    }
  }
  return text;
}

}  // namespace modelpool::coordinator
