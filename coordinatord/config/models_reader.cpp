#include "config/models_reader.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "base/address.hpp"
#include "base/name.hpp"
#include "base/nearest.hpp"
#include "base/text.hpp"
#include "base/text_values.hpp"
#include "config/files.hpp"
#include "config/keys.hpp"
#include "config/settings_reader.hpp"
#include "config/values.hpp"
#include "config/words.hpp"

namespace modelpool::config {
namespace {

constexpr std::string_view kPort = "{port}";
constexpr std::string_view kSocket = "{socket}";
constexpr std::string_view kCommandLike = "\"llama-server -m tiny.gguf --port {port}\"";
constexpr std::string_view kAddressLike = "\"127.0.0.1:8081\"";

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// Is the backend told it: by a word of its command, or by its environment?
bool is_told(const Model& model, std::string_view part) {
  return std::any_of(model.command.begin(), model.command.end(),
                     [&](const std::string& word) { return has(word, part); }) ||
         std::any_of(model.env.begin(), model.env.end(),
                     [&](const auto& one) { return has(one.second, part); });
}

// What is wrong with how the model is started and found, or "".
std::string start_problem(const Model& model) {
  const std::string name = quote(model.name);
  const bool has_port = is_told(model, kPort);
  const bool has_socket = is_told(model, kSocket);
  if (model.command.empty()) {
    if (model.address.empty())
      return name + " has neither command nor address; add command = " + std::string(kCommandLike);
    if (has(model.address, kPort) || has(model.address, kSocket))
      return name + " has no command, so nobody takes the {port} of its address; write the port";
  } else if (model.address.empty()) {
    if (!has_port && !has_socket) {
      return "where " + name +
             " answers is not said; write {port} or {socket} for it in command, or add address = " +
             std::string(kAddressLike);
    }
    if (has_port && has_socket) {
      return name +
             " gets a {port} and a {socket}; say where it answers: address = \"127.0.0.1:{port}\"";
    }
    return "";
  }
  for (const std::string_view part : {kPort, kSocket}) {
    if (has(model.address, part) && !is_told(model, part)) {
      return "the address of " + name + " has " + std::string(part) +
             " in it and its command has not; write it there, too";
    }
  }
  std::string address = model.address;
  if (const std::size_t at = address.find(kPort); at != std::string::npos)
    address.replace(at, kPort.size(), "1");
  if (const std::size_t at = address.find(kSocket); at != std::string::npos)
    address.replace(at, kSocket.size(), "/s");
  if (const auto usable = parse_address(address); !usable) return as_reason(usable.error().text);
  return "";
}

bool is_variable(std::string_view name) {
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !name.empty() && is_letter(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
}

class ModelReader {
 public:
  ModelReader(const SecretReader& secrets, Problems& problems)
      : secrets_(secrets), problems_(problems) {}

  Model read(const Member& named) {
    Model model;
    model.name = named.key;
    model.line = named.at.line;
    if (const Result<> valid = check_model_name(model.name); !valid)
      problems_.add(named.at, as_reason(valid.error().text));
    bool is_whole = true;
    for (const Member& member : named.value.members) {
      if (member.key == "command") {
        is_whole = read_command(member, model) && is_whole;
      } else if (member.key == "ready") {
        read_ready(member, model);
      } else if (member.key == "address") {
        if (auto text = read_text(member, kAddressLike, problems_)) {
          if (const Result<> valid = check_address(*text); !valid)
            problems_.add(member.value.at, as_reason(valid.error().text));
          model.address = std::move(*text);
        } else {
          is_whole = false;
        }
      } else if (member.key == "aliases") {
        read_aliases(member, model);
      } else if (member.key == "env") {
        read_env(member, model);
      } else if (member.key == "cwd") {
        read_path(member, "\"/srv/models\"", model.cwd);
      } else if (member.key == "log") {
        read_path(member, "\"/var/log/tiny.log\"", model.log);
      } else if (member.key == "weights") {
        read_path(member, "\"tiny.gguf\"", model.weights);
      } else if (member.key == kPreload) {
        if (!member.value.is(Node::Kind::kBoolean))
          problems_.add(member.value.at, "preload is " + std::string(kind_name(member.value)) +
                                             "; write true or false, without quotes");
        model.preload = member.value.truth;
      } else if (member.key == "backend_key") {
        if (auto key = secrets_.read(member, problems_)) model.backend_key = std::move(*key);
        if (model.backend_key.find_first_of("\r\n") != std::string::npos)
          problems_.add(member.value.at, "backend_key has more than one line; keep one");
      }
    }
    if (!is_whole) return model;
    if (std::string problem = start_problem(model); !problem.empty())
      problems_.add(named.at, std::move(problem));
    return model;
  }

 private:
  bool read_command(const Member& member, Model& model) {
    if (member.value.is(Node::Kind::kArray)) {
      for (const Node& word : member.value.items) {
        if (!word.is(Node::Kind::kString)) {
          problems_.add(word.at, "command has " + std::string(kind_name(word)) +
                                     " in it; write each word between quotes");
          return false;
        }
        model.command.push_back(word.text);
      }
    } else if (auto text = member.value.is(Node::Kind::kString)
                               ? std::optional(member.value.text)
                               : read_text(member, kCommandLike, problems_)) {
      auto words = split_words(*text);
      if (!words) {
        problems_.add(member.value.at, "command cannot be split: " + words.error().text);
        return false;
      }
      model.command = std::move(*words);
    } else {
      return false;
    }
    if (model.command.empty() || model.command.front().empty()) {
      problems_.add(member.value.at,
                    "command names no program; write it like " + std::string(kCommandLike));
      return false;
    }
    for (const std::string& word : model.command) {
      if (!has(word, std::string_view("\0", 1))) continue;
      problems_.add(member.value.at, "command has a zero byte in it; remove that");
      return false;
    }
    return true;
  }

  void read_ready(const Member& member, Model& model) {
    constexpr std::string_view kLike = "\"GET /health\" or \"tcp\"";
    const auto text = read_text(member, kLike, problems_);
    if (!text) return;
    const auto request = parse_probe(*text);
    if (!request) {
      problems_.add(member.value.at,
                    "ready is " + quote(*text) + "; write it like " + std::string(kLike));
      return;
    }
    model.ready.kind = request->path.empty() ? ReadyCheck::Kind::kTcp : ReadyCheck::Kind::kHttp;
    model.ready.path = request->path;
  }

  void read_aliases(const Member& member, Model& model) {
    auto names = read_texts(member, "[\"gpt-4o-mini\"]", problems_);
    if (!names) return;
    for (const std::string& name : *names) {
      if (const Result<> valid = check_model_name(name); !valid)
        problems_.add(member.value.at, as_reason(valid.error().text));
    }
    model.aliases = std::move(*names);
  }

  void read_env(const Member& member, Model& model) {
    if (!member.value.is(Node::Kind::kTable)) {
      problems_.add(member.value.at, "env is " + std::string(kind_name(member.value)) +
                                         "; write it like { HF_HOME = \"/srv/hf\" }");
      return;
    }
    for (const Member& variable : member.value.members) {
      if (!is_variable(variable.key)) {
        problems_.add(variable.at, quote(variable.key) +
                                       " is no name of a variable; it takes letters, digits and _");
      } else if (auto value = secrets_.read(variable, problems_)) {
        model.env.emplace_back(variable.key, std::move(*value));
      }
    }
  }

  void read_path(const Member& member, std::string_view like, std::string& to) {
    if (const auto name = read_text(member, like, problems_))
      to = beside(secrets_.config_path(), *name);
  }

  const SecretReader& secrets_;
  Problems& problems_;
};

}  // namespace

std::string pattern_of_name(std::string_view name) {
  if (name.find_first_of("*?[\\") == std::string_view::npos) return std::string(name);
  std::string pattern;
  for (const char c : name) {
    if (c == '*' || c == '?' || c == '[' || c == '\\') pattern += '\\';
    pattern += c;
  }
  return pattern;
}

std::vector<NameProblem> find_name_problems(const std::vector<Model>& models) {
  std::vector<NameProblem> problems;
  std::map<std::string_view, const Model*> taken;
  const auto where = [](const Model& model) {
    return model.line == 0 ? std::string() : " (line " + std::to_string(model.line) + ")";
  };
  for (const Model& model : models) {
    const auto [found, is_new] = taken.emplace(model.name, &model);
    if (is_new) continue;
    problems.push_back({model.line, "there are two models " + quote(model.name) +
                                        where(*found->second) + "; rename one"});
  }
  for (const Model& model : models) {
    for (const std::string& alias : model.aliases) {
      const auto [found, is_new] = taken.emplace(alias, &model);
      if (is_new) continue;
      const bool is_name = found->second->name == alias;
      problems.push_back({model.line, "the alias " + quote(alias) + " of " + quote(model.name) +
                                          (is_name ? " is the name of a model" : " is one of ") +
                                          (is_name ? "" : quote(found->second->name)) +
                                          where(*found->second) + "; remove one"});
    }
  }
  return problems;
}

void read_models(const Node& table, const SecretReader& secrets, std::vector<Model>& models,
                 std::vector<Rule>& rules, Problems& problems) {
  OtherKeys keys{true, {kModelKeys.begin(), kModelKeys.end()}};
  for (const Member& named : table.members) {
    if (!named.value.is(Node::Kind::kTable)) {
      problems.add(named.at, "models has " + quote(named.key) + " = " +
                                 std::string(kind_name(named.value)) +
                                 " in it; write each model as a table, [models.\"NAME\"]");
      continue;
    }
    // [models.Qwen3.5-4B] is a table in a table.
    const auto dotted =
        std::find_if(named.value.members.begin(), named.value.members.end(), [&](const Member& m) {
          return m.value.is(Node::Kind::kTable) && !keys.has(m.key) &&
                 find_setting(m.key) == nullptr;
        });
    if (dotted != named.value.members.end()) {
      problems.add(dotted->at, "a name with a dot in it stands between quotes; write [models." +
                                   quote(named.key + "." + dotted->key) + "]");
      continue;
    }
    models.push_back(ModelReader(secrets, problems).read(named));
    Rule rule{pattern_of_name(named.key), {}};
    read_settings(named.value, keys, rule.overrides, problems);
    if (!rule.overrides.entries().empty()) rules.push_back(std::move(rule));
  }
  for (auto& [line, reason] : find_name_problems(models))
    problems.add({line, 0}, std::move(reason));
  std::sort(models.begin(), models.end(),
            [](const Model& a, const Model& b) { return a.name < b.name; });
}

}  // namespace modelpool::config
