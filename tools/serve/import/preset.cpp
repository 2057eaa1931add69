// llama.cpp's --models-preset: a section a model, keys are options of llama-server.
#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <set>
#include <sstream>

#include "import/sources.hpp"

namespace modelpool::serve {
namespace {

struct Option {
  std::string key;
  std::string value;
  std::size_t line = 0;
};
struct Section {
  std::string name;
  std::vector<Option> options;
};

// Options that take no value, and have a twin with "no-" before them.
constexpr std::string_view kSwitches[] = {"perf",
                                          "escape",
                                          "kv-offload",
                                          "repack",
                                          "op-offload",
                                          "log-jsonl",
                                          "log-prefix",
                                          "log-timestamps",
                                          "kv-unified",
                                          "cache-idle-slots",
                                          "context-shift",
                                          "warmup",
                                          "cont-batching",
                                          "mmproj-auto",
                                          "mmproj-offload",
                                          "cache-prompt",
                                          "slots",
                                          "jinja",
                                          "mmap",
                                          "cors-credentials",
                                          "ui-mcp-proxy",
                                          "webui-mcp-proxy",
                                          "agent",
                                          "ui",
                                          "webui",
                                          "direct-io",
                                          "prefill-assistant",
                                          "reasoning-preserve"};
// And those that have none.
constexpr std::string_view kFlags[] = {"swa-full",
                                       "cpu-moe",
                                       "check-tensors",
                                       "log-disable",
                                       "verbose",
                                       "log-verbose",
                                       "offline",
                                       "ignore-eos",
                                       "special",
                                       "spm-infill",
                                       "embedding",
                                       "embeddings",
                                       "rerank",
                                       "reranking",
                                       "metrics",
                                       "props",
                                       "backend-sampling",
                                       "mlock",
                                       "reuse-port",
                                       "no-host",
                                       "spec-default",
                                       "lora-init-without-apply",
                                       "v",
                                       "cmoe",
                                       "sp",
                                       "bs"};
// Names with one dash.
constexpr std::string_view kShort[] = {
    "a",     "b",   "bs",    "c",   "cb",   "cmoe",   "cram", "ctk", "ctkd", "ctv", "ctvd",
    "ctxcp", "dev", "dr",    "e",   "fa",   "hf",     "hff",  "hfr", "hft",  "j",   "jf",
    "kvo",   "kvu", "l",     "lcd", "lcs",  "lv",     "m",    "md",  "mg",   "mm",  "mmu",
    "mu",    "n",   "ncmoe", "ngl", "nkvo", "no-kvu", "nocb", "np",  "nr",   "ot",  "r",
    "s",     "sm",  "sp",    "t",   "tb",   "to",     "ts",   "ub",  "v"};

template <std::size_t kCount>
bool is_one_of(std::string_view key, const std::string_view (&names)[kCount]) {
  return std::find(std::begin(names), std::end(names), key) != std::end(names);
}

std::string trimmed(std::string_view text) {
  const std::size_t first = std::min(text.find_first_not_of(" \t\r"), text.size());
  text.remove_prefix(first);
  return std::string(text.substr(0, text.find_last_not_of(" \t\r") + 1));
}

std::optional<bool> truth_of(std::string_view value) {
  for (const std::string_view word : {"true", "on", "1", "enabled", "yes"})
    if (value == word) return true;
  for (const std::string_view word : {"false", "off", "0", "disabled", "no"})
    if (value == word) return false;
  return std::nullopt;
}

Result<std::vector<Section>> parse(const std::string& path, const std::string& text) {
  std::vector<Section> sections = {{"", {}}};
  std::istringstream lines(text);
  std::size_t number = 0;
  for (std::string raw; std::getline(lines, raw);) {
    ++number;
    const std::string line = trimmed(raw);
    if (line.empty() || line.front() == ';' || line.front() == '#') continue;
    const std::string where = path + ":" + std::to_string(number);
    if (line.front() == '[') {
      const std::size_t end = line.find(']');
      const std::string name = end == std::string::npos ? "" : trimmed(line.substr(1, end - 1));
      if (name.empty()) return cannot_import(where, "a section has no name; write [NAME]");
      // The later one of a name is the one that counts.
      std::erase_if(sections, [&](const Section& known) { return known.name == name; });
      sections.push_back({name, {}});
      continue;
    }
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos || equals == 0)
      return cannot_import(where, "it is neither a section nor KEY = VALUE; correct the line");
    // A comment begins with ; or #, wherever it stands.
    const std::string value = line.substr(equals + 1);
    sections.back().options.push_back({trimmed(line.substr(0, equals)),
                                       trimmed(value.substr(0, value.find_first_of(";#"))),
                                       number});
  }
  return sections;
}

bool is_variable(std::string_view key) {
  return key.size() > 1 && key.find_first_of("abcdefghijklmnopqrstuvwxyz") == std::string::npos;
}

// What the router decides, and here the pool.
std::string why_left(std::string_view key) {
  if (key == "host" || key == "port" || key == "LLAMA_ARG_HOST" || key == "LLAMA_ARG_PORT")
    return "the pool picks a port for each backend";
  if (key == "api-key" || key == "api-key-file" || key == "LLAMA_API_KEY" ||
      key == "LLAMA_ARG_API_KEY_FILE")
    return "clients' keys stand in the file that `keys` of [serve] names; a backend's own is "
           "backend_key";
  if (key.starts_with("models-") || key.starts_with("LLAMA_ARG_MODELS_"))
    return "it is of llama-server's router; poolserve is in its place";
  if (key == "dedup-cache-models") return "it is of llama-server's list of models";
  return "";
}

class PresetReader {
 public:
  explicit PresetReader(Draft& draft) : draft_(draft) {}

  void read(const std::vector<Section>& sections) {
    const Section* global = nullptr;
    for (const Section& section : sections) {
      if (section.name == "*") global = &section;
    }
    DraftModel ignored;
    if (global != nullptr) {
      for (const Option& option : global->options) add(option, "*", ignored, false);
    }
    for (const Section& section : sections) {
      if (&section == global) continue;
      if (section.name.empty() && is_only_version(section)) continue;
      DraftModel model;
      model.name = section.name.empty() ? "default" : section.name;
      model.command = {"llama-server"};
      if (global != nullptr) {
        for (const Option& option : global->options) {
          const bool is_overridden =
              std::any_of(section.options.begin(), section.options.end(),
                          [&](const Option& own) { return own.key == option.key; });
          if (!is_overridden) add(option, "*", model, true);
        }
      }
      for (const Option& option : section.options) add(option, model.name, model, false);
      finish(model);
      draft_.models.push_back(std::move(model));
    }
  }

 private:
  bool is_only_version(const Section& section) {
    for (const Option& option : section.options) {
      if (option.key != "version") return false;
    }
    for (const Option& option : section.options) draft_.carry(option.key);
    return true;
  }

  void note(bool is_told, const std::string& key, const std::string& why = "") {
    if (!is_told) draft_.keys.push_back({key, why});
  }

  void add(const Option& option, const std::string& section, DraftModel& model, bool is_told) {
    const std::string& key = option.key;
    const std::string place = section + "." + key;
    if (key == "version") return note(is_told, place);
    if (const std::string why = why_left(key); !why.empty()) return note(is_told, place, why);
    if (key == "alias" || key == "a" || key == "LLAMA_ARG_ALIAS") {
      std::istringstream names(option.value);
      for (std::string name; std::getline(names, name, ',');) {
        if (!trimmed(name).empty()) model.aliases.push_back(trimmed(name));
      }
      return note(is_told, place);
    }
    if (key == "load-on-startup" || key == "LLAMA_ARG_LOAD_ON_STARTUP") {
      const std::optional<bool> is_on = truth_of(option.value);
      if (!is_on) return note(is_told, place, "it takes true or false");
      model.preload = *is_on;
      return note(is_told, place);
    }
    if (key == "stop-timeout") {
      const bool is_number = !option.value.empty() && option.value.size() <= 6 &&
                             option.value.find_first_not_of("0123456789") == std::string::npos;
      if (!is_number) return note(is_told, place, "it is no number of seconds");
      model.settings.emplace_back("stop_grace", toml_text(option.value + "s"));
      return note(is_told, place);
    }
    if (is_variable(key)) {
      if (option.value.find("${") != std::string::npos)
        return note(is_told, place, "\"${\" would name a variable; set it where poolserve starts");
      std::erase_if(model.env, [&](const auto& one) { return one.first == key; });
      model.env.emplace_back(key, option.value);
      return note(is_told, place);
    }
    const std::string dashed = (is_one_of(key, kShort) ? "-" : "--") + key;
    const std::string_view positive =
        key.starts_with("no-") ? std::string_view(key).substr(3) : std::string_view(key);
    const std::optional<bool> truth = truth_of(option.value);
    if (is_one_of(positive, kSwitches)) {
      if (!truth) return note(is_told, place, "it takes true or false");
      const bool is_on = *truth == (positive == key);
      model.command.push_back((is_on ? "--" : "--no-") + std::string(positive));
    } else if (is_one_of(key, kFlags) || option.value == "true" || option.value == "false") {
      if (!truth) return note(is_told, place, "it takes true or false");
      if (*truth) model.command.push_back(dashed);
    } else {
      model.command.push_back(dashed);
      model.command.push_back(option.value);
    }
    note(is_told, place);
  }

  void finish(DraftModel& model) {
    static const std::set<std::string> kModels = {"-m",   "--model",      "-hf", "--hf",
                                                  "-hfr", "--hf-repo",    "-mu", "--model-url",
                                                  "-dr",  "--docker-repo"};
    const bool has_model =
        std::any_of(model.command.begin(), model.command.end(),
                    [](const std::string& word) { return kModels.contains(word); }) ||
        std::any_of(model.env.begin(), model.env.end(), [](const auto& one) {
          return one.first == "LLAMA_ARG_MODEL" || one.first == "LLAMA_ARG_HF_REPO";
        });
    if (!has_model && model.name.find('/') != std::string::npos) {
      model.command.insert(model.command.end(), {"--hf-repo", model.name});
    } else if (!has_model) {
      model.is_usable = false;
      draft_.leave(model.name, "it names no model; add -m FILE to its command");
    }
    model.command.insert(model.command.end(), {"--host", "127.0.0.1", "--port", "{port}"});
  }

  Draft& draft_;
};

}  // namespace

Result<Draft> read_preset(const std::string& path, const std::string& text) {
  const auto sections = parse(path, text);
  if (!sections) return fail(sections.error());
  Draft draft;
  PresetReader(draft).read(*sections);
  if (draft.models.empty()) return cannot_import(path, "it has no section; write [NAME]");
  return draft;
}

}  // namespace modelpool::serve
