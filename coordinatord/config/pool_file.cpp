#include "config/pool_file.hpp"

#include <filesystem>
#include <utility>
#include <vector>

#include "base/glob.hpp"
#include "base/nearest.hpp"
#include "base/text.hpp"
#include "config/check.hpp"
#include "config/document.hpp"
#include "config/files.hpp"
#include "config/models_reader.hpp"
#include "config/serve_reader.hpp"
#include "config/settings_reader.hpp"
#include "segment/layout.hpp"

namespace modelpool::config {
namespace {

constexpr std::string_view kTables =
    "there are [pool], [[model]], [capacity], [serve] and [models.\"NAME\"]";

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

// Hands each table to its reader.
class Reader {
 public:
  Reader(const std::string& path, Variables variables, PoolFile& file, Problems& problems)
      : path_(path), variables_(variables), file_(file), problems_(problems) {}

  void read(const Node& document) {
    const Member* models = nullptr;
    for (const Member& member : document.members) {
      if (member.key == "pool") {
        if (is_one_table(member)) read_settings(member.value, {}, file_.settings.pool, problems_);
      } else if (member.key == "model") {
        read_rules(member);
      } else if (member.key == "capacity") {
        if (is_one_table(member)) read_capacities(member.value);
      } else if (member.key == "serve") {
        if (is_one_table(member)) read_serve(member.value, path_, file_.door.serve, problems_);
      } else if (member.key == "models" && is_container(member)) {
        models = &member;
      } else {
        problems_.add(member.at,
                      is_container(member) ? unknown_table(member.key) : misplaced_key(member.key));
      }
    }
    // Last: what they say of a model wins over what globs do.
    if (models != nullptr) read_models_table(*models);
    check_number_of_globs();
  }

 private:
  static bool is_container(const Member& member) {
    return member.value.is(Node::Kind::kTable) || member.value.is(Node::Kind::kArray);
  }

  static std::string unknown_table(std::string_view name) {
    const std::string hint = did_you_mean(name, {"pool", "model", "capacity", "serve", "models"});
    return "unknown table " + quote(name) + (hint.empty() ? "; " + std::string(kTables) : hint);
  }

  static std::string misplaced_key(std::string_view name) {
    const std::string stands = std::string(name) + " stands outside of a table; write ";
    if (find_setting(name) != nullptr) return stands + "[pool] above it";
    if (find_capacity(name) != nullptr) return stands + "[capacity] above it";
    return "unknown key " + quote(name) + "; " + std::string(kTables);
  }

  bool is_one_table(const Member& member) {
    if (member.value.is(Node::Kind::kTable)) return true;
    problems_.add(member.at,
                  member.key + " is " +
                      std::string(member.value.is(Node::Kind::kArray) ? "given more than once"
                                                                      : kind_name(member.value)) +
                      "; write it as one table, [" + member.key + "]");
    return false;
  }

  void read_capacities(const Node& table) {
    for (const Member& member : table.members) {
      const CapacityInfo* const info = find_capacity(member.key);
      if (info == nullptr) {
        std::vector<std::string_view> known;
        for (const CapacityInfo& one : kCapacities) known.push_back(one.name);
        const std::string hint = did_you_mean(member.key, known);
        problems_.add(member.at, "unknown capacity " + quote(member.key) +
                                     (hint.empty() ? "; there are " + listed(known) : hint));
        continue;
      }
      const Node& number = member.value;
      if (!number.is(Node::Kind::kInteger) || number.integer < 1 ||
          static_cast<std::uint64_t>(number.integer) > info->max) {
        problems_.add(number.at, std::string(info->name) + " takes a number from 1 to " +
                                     std::to_string(info->max));
        continue;
      }
      file_.capacities.set(*info, static_cast<std::uint32_t>(number.integer));
    }
  }

  void read_rules(const Member& member) {
    if (!member.value.is(Node::Kind::kArray)) {
      problems_.add(member.at, "model is " + std::string(kind_name(member.value)) +
                                   "; write each rule as [[model]], with two brackets");
      return;
    }
    for (const Node& table : member.value.items) {
      if (table.is(Node::Kind::kTable)) {
        read_rule(table);
      } else {
        problems_.add(table.at, "model has " + std::string(kind_name(table)) +
                                    " in it; write each rule as a table, [[model]]");
      }
    }
  }

  void read_rule(const Node& table) {
    Rule rule;
    const Node* const match = table.find("match");
    if (match == nullptr) {
      problems_.add(table.at, "a [[model]] table without match; add match = \"GLOB\"");
    } else if (!match->is(Node::Kind::kString)) {
      problems_.add(match->at, "match is " + std::string(kind_name(*match)) +
                                   "; write a glob in quotes, such as \"llama-*\"");
    } else if (const Result<> valid = check_glob(match->text); !valid) {
      problems_.add(match->at, as_reason(valid.error().text));
    } else {
      rule.pattern = match->text;
      if (rule.is_glob()) globs_.push_back(match->at);
    }
    read_settings(table, {true, {"match"}}, rule.overrides, problems_);
    file_.settings.rules.push_back(std::move(rule));
  }

  void read_models_table(const Member& member) {
    if (!member.value.is(Node::Kind::kTable)) {
      problems_.add(
          member.at,
          "models is given as a list; write each model as [models.\"NAME\"], or each rule "
          "as [[model]]");
      return;
    }
    const std::size_t first = file_.settings.rules.size();
    read_models(member.value, SecretReader(path_, variables_), file_.door.models,
                file_.settings.rules, problems_);
    // A name with a wildcard in it is compared as a glob, too.
    for (std::size_t i = first; i < file_.settings.rules.size(); ++i) {
      const Rule& rule = file_.settings.rules[i];
      if (rule.is_glob()) globs_.push_back({rule.overrides.entries().front().origin.line, 0});
    }
  }

  void check_number_of_globs() {
    if (globs_.size() <= kGlobsMax) return;
    problems_.add(globs_[kGlobsMax], "there are more than " + std::to_string(kGlobsMax) +
                                         " [[model]] tables with wildcards; merge some into wider "
                                         "globs");
  }

  const std::string& path_;
  Variables variables_;
  PoolFile& file_;
  Problems& problems_;
  std::vector<Position> globs_;
};

}  // namespace

Result<PoolFile> load_pool_file(const std::string& path, const Overrides& flags,
                                Variables variables) {
  std::string text;
  if (!path.empty()) {
    auto read = read_regular_file(path, "config " + escape(path), kConfigMax_bytes);
    if (!read) return fail(std::move(read.error()));
    text = std::move(*read);
  }
  return read_pool_file(path, std::move(text), flags, variables);
}

Result<PoolFile> read_pool_file(const std::string& path, std::string text, const Overrides& flags,
                                Variables variables) {
  PoolFile file;
  file.text = std::move(text);
  Problems problems;
  Reader(path, variables, file, problems).read(parse_document(file.text, problems));
  if (Result<> read = problems.result(path); !read) return fail(read.error());
  Settings& settings = file.settings;
  if (!path.empty()) settings.config_path = path_to_show(path);
  for (const SettingInfo& info : kSettings) {
    const SettingEntry* const flag = flags.find(info.id);
    if (flag == nullptr) continue;
    SettingEntry entry = *flag;
    entry.origin = {OriginKind::kFlag, 0};
    settings.pool.set(std::move(entry));
  }
  if (Result<> possible = check_together(path, settings); !possible) return fail(possible.error());
  settings.config_hash = hash_of(file.text, flags);
  return file;
}

}  // namespace modelpool::config
