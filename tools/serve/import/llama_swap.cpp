// llama-swap's config.yaml: commands with macros, groups that swap.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <sstream>

#include "config/words.hpp"
#include "import/sources.hpp"
#include "import/yaml.hpp"

namespace modelpool::serve {
namespace {

constexpr std::size_t kMacroDepthMax = 8;
constexpr std::size_t kExpandedMax_bytes = 64 << 10;
constexpr const char* kNoSeconds = "it is no number of seconds";

using Macros = std::map<std::string, std::string>;

// Whole seconds as a duration; "" if it is no such number.
std::string seconds(const YAML::Node& node) {
  const std::string text = scalar(node);
  const bool is_number = !text.empty() && text.size() <= 8 &&
                         text.find_first_not_of("0123456789") == std::string::npos;
  return is_number ? text + "s" : "";
}

std::string without_comments(const std::string& text) {
  std::istringstream lines(text);
  std::string all;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find_first_not_of(" \t");
    if (first != std::string::npos && line[first] != '#') all += line + "\n";
  }
  return all;
}

// Replaces ${NAME}. What it does not know stays, and is noted.
class Expander {
 public:
  Expander(const Macros& macros, std::string model) : macros_(macros), model_(std::move(model)) {}

  std::string expand(const std::string& text, bool is_env, std::size_t depth = 0) {
    std::string all;
    std::size_t at = 0;
    while (all.size() < kExpandedMax_bytes) {
      const std::size_t begin = text.find("${", at);
      const std::size_t end = begin == std::string::npos ? begin : text.find('}', begin);
      all += text.substr(at, end == std::string::npos ? std::string::npos : begin - at);
      if (end == std::string::npos) return all;
      all += value_of(text.substr(begin + 2, end - begin - 2), is_env, depth);
      at = end + 1;
    }
    unknown = "more than 64 KiB";
    return all;
  }

  std::string unknown;  // empty: all were known

 private:
  std::string value_of(const std::string& name, bool is_env, std::size_t depth) {
    if (name == "PORT") return "{port}";
    if (name == "MODEL_ID") return model_;
    constexpr std::string_view kEnv = "env.";
    if (name.starts_with(kEnv)) {
      const std::string variable = name.substr(kEnv.size());
      if (is_env) return "${" + variable + "}";  // the pool's file has the same
      if (const char* const value = std::getenv(variable.c_str())) return value;
    } else if (const auto found = macros_.find(name);
               found != macros_.end() && depth < kMacroDepthMax) {
      return expand(found->second, is_env, depth + 1);
    }
    unknown = "${" + name + "}";
    return unknown;
  }

  const Macros& macros_;
  std::string model_;
};

class SwapReader {
 public:
  explicit SwapReader(Draft& draft) : draft_(draft) {}

  Result<> read(const std::string& path, const YAML::Node& root) {
    const YAML::Node models = root["models"];
    if (!models.IsDefined() || !models.IsMap() || models.size() == 0)
      return cannot_import(path, "it has no models; is it a config of llama-swap?");
    if (const YAML::Node macros = root["macros"]; macros.IsDefined() && macros.IsMap())
      read_macros(macros, macros_);
    if (const YAML::Node ttl = root["globalTTL"]; ttl.IsDefined()) ttl_.reset(ttl);
    for (const auto& entry : root) read_key(scalar(entry.first), entry.second);
    if (const YAML::Node hooks = root["hooks"]; hooks.IsDefined()) read_hooks(hooks);
    const YAML::Node groups = root["groups"];
    if (groups.IsDefined() && groups.IsMap() && !root["matrix"].IsDefined()) {
      read_groups(groups);
    } else {
      draft_.pool.emplace_back("max_backends", "1");  // without groups one at a time is loaded
    }
    return {};
  }

 private:
  static void read_macros(const YAML::Node& node, Macros& macros) {
    for (const auto& entry : node) macros[scalar(entry.first)] = scalar(entry.second);
  }

  void read_key(const std::string& key, const YAML::Node& value) {
    if (key == "models") {
      for (const auto& model : value) read_model(scalar(model.first), model.second);
    } else if (key == "macros" || key == "globalTTL") {
      draft_.carry(key);
    } else if (key == "healthCheckTimeout" || key == "unloadTimeout") {
      const std::string time = seconds(value);
      if (time.empty() || time == "0s") return draft_.leave(key, kNoSeconds);
      draft_.pool.emplace_back(key == "unloadTimeout" ? "stop_grace" : "load_timeout",
                               toml_text(time));
      draft_.carry(key);
    } else if (key == "sendLoadingState") {
      draft_.serve.emplace_back("loading",
                                toml_text(truth(value).value_or(false) ? "comments" : "off"));
      draft_.carry(key);
    } else if (key == "groups" || key == "hooks") {
      return;  // they name models, so they come last
    } else if (key == "startPort") {
      draft_.leave(key, "the pool picks a port for each backend");
    } else if (key == "apiKeys") {
      draft_.leave(key, "keys stand in a file of their own; name it with `keys` in [serve]");
    } else if (key == "logLevel") {
      draft_.leave(key, "it is a flag, --log-level");
    } else if (key == "matrix") {
      draft_.leave(key,
                   "which models fit together is said by memory, gpu_memory and groups; until then "
                   "max_backends = 1 loads one at a time");
    } else if (key == "peers") {
      draft_.leave(key, "other hosts are not served from here");
    } else {
      draft_.leave(key, "there is nothing like it");
    }
  }

  void read_model(const std::string& name, const YAML::Node& node) {
    DraftModel model;
    model.name = name;
    const std::string prefix = "models." + name + ".";
    if (!node.IsMap()) return draft_.leave("models." + name, "it is no table");
    Macros macros = macros_;
    if (const YAML::Node own = node["macros"]; own.IsDefined() && own.IsMap())
      read_macros(own, macros);
    Expander expander(macros, name);
    bool has_ttl = false;
    for (const auto& entry : node) {
      const std::string key = scalar(entry.first);
      const YAML::Node& value = entry.second;
      expander.unknown.clear();
      const std::string why = read_key_of_model(key, value, expander, model);
      has_ttl |= key == "ttl";
      if (!expander.unknown.empty()) {
        model.is_usable = false;
        draft_.leave(prefix + key, expander.unknown + " is not known here; write its value");
      } else if (why.empty()) {
        draft_.carry(prefix + key);
      } else {
        draft_.leave(prefix + key, why);
      }
    }
    if (!has_ttl) set_ttl(ttl_, model);
    check_start(prefix, model);
    draft_.models.push_back(std::move(model));
  }

  // Why the key is not carried over, or "".
  std::string read_key_of_model(const std::string& key, const YAML::Node& value, Expander& expander,
                                DraftModel& model) {
    if (key == "cmd")
      return read_command(expander.expand(without_comments(scalar(value)), false), model);
    if (key == "proxy") return read_proxy(expander.expand(scalar(value), false), model);
    if (key == "checkEndpoint") {
      const std::string path = expander.expand(scalar(value), false);
      model.ready = path == "none" ? "tcp" : path.starts_with('/') ? "GET " + path : "";
      return model.ready.empty() ? "it is no path" : "";
    }
    if (key == "ttl") return set_ttl(scalar(value) == "-1" ? ttl_ : value, model);
    if (key == "aliases") return read_aliases(value, model);
    if (key == "env") return read_env(value, expander, model);
    if (key == "unloadTimeout") {
      const std::string time = seconds(value);
      if (time.empty() || time == "0s") return kNoSeconds;
      model.settings.emplace_back("stop_grace", toml_text(time));
      return "";
    }
    if (key == "macros") return "";
    if (key == "concurrencyLimit") {
      const std::string number = scalar(value);
      const bool is_number = !number.empty() && number.size() <= 5 &&
                             number.find_first_not_of("0123456789") == std::string::npos;
      if (!is_number) return "it is no number";
      if (number != "0") model.settings.emplace_back("parallel", number);
      return "";
    }
    if (key == "cmdStop") return "a backend is ended with stop_signal, SIGTERM if not said";
    if (key == "useModelName")
      return "a backend is asked by the name of its model; tell it that one (llama-server --alias)";
    if (key == "filters") return "bodies are not changed; give the server these as its defaults";
    if (key == "unlisted") return "every model is listed";
    if (key == "name" || key == "description" || key == "metadata")
      return "the list of models has names, aliases and states alone";
    if (key == "timeouts") return "see first_byte_timeout and stall_timeout";
    if (key == "sendLoadingState") return "it is for all models: loading in [serve]";
    return "there is nothing like it";
  }

  static std::string read_command(const std::string& text, DraftModel& model) {
    auto words = config::split_words(without_comments(text));
    if (!words || words->empty()) {
      model.is_usable = false;
      return words ? "it is empty" : words.error().text;
    }
    model.command = std::move(*words);
    return "";
  }

  static std::string read_proxy(std::string url, DraftModel& model) {
    constexpr std::string_view kHttp = "http://";
    while (url.ends_with('/')) url.pop_back();
    if (!url.starts_with(kHttp)) {
      model.is_usable = false;
      return "backends are asked by http://HOST:PORT";
    }
    const std::string place = url.substr(kHttp.size());
    if (place == "localhost:{port}" || place == "127.0.0.1:{port}") return "";
    model.address = place.find('/') == std::string::npos ? place : url;
    // A port of HTTP that is not said.
    if (place.find(':') == std::string::npos && place.find('/') == std::string::npos)
      model.address += ":80";
    return "";
  }

  static std::string set_ttl(const YAML::Node& value, DraftModel& model) {
    if (!value.IsDefined()) return "";
    const std::string time = seconds(value);
    if (time.empty()) return kNoSeconds;
    model.settings.emplace_back("idle_timeout", toml_text(time == "0s" ? "off" : time));
    return "";
  }

  static std::string read_aliases(const YAML::Node& value, DraftModel& model) {
    if (!value.IsSequence()) return "it is no list";
    for (const YAML::Node& alias : value) {
      const std::string name = alias.IsMap() ? scalar(alias["id"]) : scalar(alias);
      if (!name.empty() && name != model.name) model.aliases.push_back(name);
    }
    return "";
  }

  static std::string read_env(const YAML::Node& value, Expander& expander, DraftModel& model) {
    if (!value.IsSequence()) return "it is no list";
    for (const YAML::Node& one : value) {
      const std::string text = scalar(one);
      const std::size_t equals = text.find('=');
      if (equals == 0 || equals == std::string::npos) return "an entry is not NAME=VALUE";
      const std::string name = text.substr(0, equals);
      std::erase_if(model.env, [&](const auto& known) { return known.first == name; });
      model.env.emplace_back(name, expander.expand(text.substr(equals + 1), true));
    }
    return "";
  }

  void check_start(const std::string& prefix, DraftModel& model) {
    if (model.command.empty()) {
      model.is_usable = false;
      draft_.leave(prefix + "cmd", "there is none, or none that can be read");
      return;
    }
    const bool has_port = std::any_of(
        model.command.begin(), model.command.end(),
        [](const std::string& word) { return word.find("{port}") != std::string::npos; });
    if (has_port || (!model.address.empty() && model.address.find("{port}") == std::string::npos))
      return;
    model.is_usable = false;
    draft_.leave(prefix + "proxy",
                 "where it answers is not said; write {port} in its command, or "
                 "the address");
  }

  void read_hooks(const YAML::Node& hooks) {
    const YAML::Node preload = hooks.IsMap() && hooks["on_startup"].IsMap()
                                   ? hooks["on_startup"]["preload"]
                                   : YAML::Node(YAML::NodeType::Undefined);
    if (!preload.IsDefined() || !preload.IsSequence())
      return draft_.leave("hooks", "there is nothing like it but on_startup.preload, a list");
    std::string unknown;
    for (const YAML::Node& one : preload) {
      const std::string name = scalar(one);
      const auto model =
          std::find_if(draft_.models.begin(), draft_.models.end(), [&](const DraftModel& each) {
            return each.name == name ||
                   std::find(each.aliases.begin(), each.aliases.end(), name) != each.aliases.end();
          });
      if (model != draft_.models.end()) {
        model->preload = true;
      } else {
        unknown += (unknown.empty() ? "" : ", ") + name;
      }
    }
    if (unknown.empty()) return draft_.carry("hooks.on_startup.preload");
    draft_.leave("hooks.on_startup.preload", "there is no model " + unknown);
  }

  struct Group {
    std::string name;
    bool swap = true;
    bool exclusive = true;
    bool persistent = false;
    std::vector<std::string> members;
  };

  void read_groups(const YAML::Node& node) {
    constexpr std::string_view kExclusive = "exclusive";
    std::vector<Group> groups;
    Group rest{.name = "default", .members = {}};
    std::map<std::string, bool> grouped;
    for (const auto& entry : node) {
      const std::string key = "groups." + scalar(entry.first);
      if (!entry.second.IsMap()) {
        draft_.leave(key, "it is no table");
        continue;
      }
      Group group{.name = "group-" + group_word(scalar(entry.first)), .members = {}};
      group.swap = truth(entry.second["swap"]).value_or(true);
      group.exclusive = truth(entry.second["exclusive"]).value_or(true);
      group.persistent = truth(entry.second["persistent"]).value_or(false);
      for (const YAML::Node& member : entry.second["members"]) {
        group.members.push_back(scalar(member));
        grouped[scalar(member)] = true;
      }
      groups.push_back(std::move(group));
      if (groups.back().swap && groups.back().exclusive && !groups.back().persistent) {
        draft_.carry(key);
      } else if (groups.back().swap && !groups.back().exclusive) {
        draft_.carry(key);
      } else if (groups.back().swap) {
        draft_.leave(key,
                     "its models are never loaded together; that it unloads other groups and "
                     "is not unloaded by them has nothing like it");
      } else {
        draft_.leave(key,
                     "its models may be loaded together, as all may; what it unloads is said "
                     "by memory, gpu_memory and groups");
      }
    }
    for (const DraftModel& model : draft_.models) {
      if (!grouped.contains(model.name)) rest.members.push_back(model.name);
    }
    groups.push_back(std::move(rest));
    for (const Group& group : groups) {
      if (!group.swap) continue;
      const bool excludes = group.exclusive && !group.persistent;
      for (DraftModel& model : draft_.models) {
        if (std::find(group.members.begin(), group.members.end(), model.name) ==
            group.members.end()) {
          continue;
        }
        const std::string name = excludes ? std::string(kExclusive) : group.name;
        model.settings.emplace_back("groups", toml_list({name}));
      }
    }
  }

  Draft& draft_;
  Macros macros_;
  YAML::Node ttl_{YAML::NodeType::Undefined};
};

}  // namespace

Result<Draft> read_llama_swap(const std::string& path, const std::string& text) {
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsMap()) return cannot_import(path, "it is no config of llama-swap");
    Draft draft;
    if (Result<> read = SwapReader(draft).read(path, root); !read) return fail(read.error());
    return draft;
  } catch (const YAML::Exception& error) {
    return cannot_import(place(path, error.mark), error.msg);
  }
}

}  // namespace modelpool::serve
