// LocalAI's files of models: those for llama.cpp become commands of llama-server.
#include <filesystem>

#include "import/sources.hpp"
#include "import/yaml.hpp"

namespace modelpool::serve {
namespace {

namespace fs = std::filesystem;

struct Mapping {
  std::string_view key;
  std::string_view option;
};
constexpr Mapping kOptions[] = {{"context_size", "--ctx-size"},
                                {"threads", "--threads"},
                                {"gpu_layers", "--n-gpu-layers"},
                                {"tensor_split", "--tensor-split"},
                                {"main_gpu", "--main-gpu"},
                                {"n_draft", "--draft-max"},
                                {"cache_type_k", "--cache-type-k"},
                                {"cache_type_v", "--cache-type-v"},
                                {"rope_scaling", "--rope-scaling"},
                                {"yarn_ext_factor", "--yarn-ext-factor"},
                                {"yarn_attn_factor", "--yarn-attn-factor"},
                                {"yarn_beta_fast", "--yarn-beta-fast"},
                                {"yarn_beta_slow", "--yarn-beta-slow"}};
// Of `parameters`.
constexpr Mapping kParameters[] = {{"temperature", "--temp"},
                                   {"top_p", "--top-p"},
                                   {"top_k", "--top-k"},
                                   {"min_p", "--min-p"},
                                   {"max_tokens", "--predict"},
                                   {"seed", "--seed"},
                                   {"repeat_penalty", "--repeat-penalty"},
                                   {"repeat_last_n", "--repeat-last-n"},
                                   {"frequency_penalty", "--frequency-penalty"},
                                   {"presence_penalty", "--presence-penalty"},
                                   {"typical_p", "--typical"},
                                   {"keep", "--keep"},
                                   {"batch", "--batch-size"},
                                   {"rope_freq_base", "--rope-freq-base"},
                                   {"rope_freq_scale", "--rope-freq-scale"}};
// Files, relative to the folder of models.
constexpr Mapping kFiles[] = {
    {"mmproj", "--mmproj"}, {"draft_model", "--model-draft"}, {"lora_adapter", "--lora"}};
// What is added when they have this value.
struct Switch {
  std::string_view key;
  bool value;
  std::string_view words;
};
constexpr Switch kSwitches[] = {{"mmap", false, "--no-mmap"},
                                {"mmlock", true, "--mlock"},
                                {"no_kv_offloading", true, "--no-kv-offload"},
                                {"embeddings", true, "--embeddings"},
                                {"reranking", true, "--reranking"},
                                {"f16", true, ""}};

template <std::size_t kCount>
const Mapping* find(const Mapping (&table)[kCount], std::string_view key) {
  for (const Mapping& one : table) {
    if (one.key == key) return &one;
  }
  return nullptr;
}

bool is_llama_cpp(const std::string& backend, const std::string& model) {
  if (backend.empty()) return model.ends_with(".gguf");
  return backend == "llama" || backend == "llama-stable" || backend == "llama-grpc" ||
         backend.find("llama-cpp") != std::string::npos;
}

class ModelReader {
 public:
  ModelReader(const std::string& folder, Draft& draft) : folder_(folder), draft_(draft) {}

  void read(const YAML::Node& node, const std::string& file_name) {
    DraftModel model;
    model.name = scalar(node["name"]);
    if (model.name.empty()) model.name = file_name;
    const YAML::Node parameters = node["parameters"];
    const std::string weights = parameters.IsDefined() && parameters.IsMap()
                                    ? scalar(parameters["model"])
                                    : scalar(node["model"]);
    const std::string backend = scalar(node["backend"]);
    if (!is_llama_cpp(backend, weights)) {
      draft_.leave(model.name, "its backend is " + (backend.empty() ? "not said" : backend) +
                                   "; write the command that starts such a server");
      return;
    }
    model.command = {"llama-server"};
    if (weights.empty() || weights.find("://") != std::string::npos) {
      model.is_usable = false;
      draft_.leave(model.name + ".parameters.model",
                   "it names no file, and nothing is downloaded; add -m FILE to its command");
    } else {
      model.command.insert(model.command.end(), {"-m", in_folder(weights)});
      draft_.carry(model.name + ".parameters.model");
    }
    for (const auto& entry : node) {
      const std::string key = scalar(entry.first);
      if (key == "parameters" && entry.second.IsMap()) {
        for (const auto& parameter : entry.second)
          read_parameter(scalar(parameter.first), parameter.second, model);
      } else {
        const std::string why = read_key(key, entry.second, model);
        note(model.name + "." + key, why);
      }
    }
    model.command.insert(model.command.end(), {"--host", "127.0.0.1", "--port", "{port}"});
    draft_.models.push_back(std::move(model));
  }

 private:
  std::string in_folder(const std::string& name) const {
    std::error_code ignored;
    return (fs::absolute(folder_, ignored) / name).lexically_normal().string();
  }

  void note(std::string key, const std::string& why) {
    draft_.keys.push_back({std::move(key), why});
  }

  void read_parameter(const std::string& key, const YAML::Node& value, DraftModel& model) {
    if (key == "model") return;
    const std::string place = model.name + ".parameters." + key;
    const Mapping* const option = find(kParameters, key);
    if (option == nullptr || scalar(value).empty())
      return note(place, "llama-server has no such default; requests say it");
    model.command.insert(model.command.end(), {std::string(option->option), scalar(value)});
    note(place, "");
  }

  // Why the key is not carried over, or "".
  std::string read_key(const std::string& key, const YAML::Node& value, DraftModel& model) {
    const auto add = [&model](std::string_view option, const std::string& word) {
      model.command.insert(model.command.end(), {std::string(option), word});
    };
    if (key == "name" || key == "backend") return "";
    if (const Mapping* const option = find(kOptions, key)) {
      if (scalar(value).empty()) return "it is no number or text";
      add(option->option, scalar(value));
      return "";
    }
    if (const Mapping* const file = find(kFiles, key)) {
      if (scalar(value).empty() || scalar(value).find("://") != std::string::npos)
        return "it names no file, and nothing is downloaded";
      add(file->option, in_folder(scalar(value)));
      return "";
    }
    for (const Switch& one : kSwitches) {
      if (one.key != key) continue;
      const auto is_on = truth(value);
      if (!is_on) return "it takes true or false";
      if (*is_on == one.value && !one.words.empty()) model.command.emplace_back(one.words);
      return "";
    }
    if (key == "flash_attention") {
      const auto is_on = truth(value);
      add("--flash-attn", !is_on ? scalar(value) : *is_on ? "on" : "off");
      return "";
    }
    if (key == "concurrency_groups") {
      std::vector<std::string> groups;
      for (const YAML::Node& group : value) {
        if (!scalar(group).empty()) groups.push_back(group_word(scalar(group)));
      }
      if (groups.empty()) return "it is no list of names";
      model.settings.emplace_back("groups", toml_list(groups));
      return "";
    }
    if (key == "pinned") {
      if (truth(value).value_or(false)) model.settings.emplace_back("pinned", "true");
      return "";
    }
    if (key == "numa") {
      if (truth(value).value_or(false)) add("--numa", "distribute");
      return "";
    }
    if (key == "template" || key == "stopwords" || key == "roles" || key == "system_prompt" ||
        key == "function")
      return "nothing is translated; llama-server takes the model's own template";
    if (key == "download_files") return "nothing is downloaded";
    if (key == "options") return "add the option of llama-server to the command";
    return "there is nothing like it";
  }

  const std::string& folder_;
  Draft& draft_;
};

}  // namespace

Result<> read_localai(const std::string& path, const std::string& text, const std::string& folder,
                      Draft& draft) {
  try {
    const std::string file_name = fs::path(path).stem().string();
    ModelReader reader(folder, draft);
    for (const YAML::Node& root : YAML::LoadAll(text)) {
      if (root.IsMap()) {
        reader.read(root, file_name);
      } else if (root.IsSequence()) {
        for (const YAML::Node& one : root) {
          if (one.IsMap()) reader.read(one, file_name);
        }
      } else if (!root.IsNull()) {
        return cannot_import(path, "it is no file of a model of LocalAI's");
      }
    }
    return {};
  } catch (const YAML::Exception& error) {
    return cannot_import(place(path, error.mark), error.msg);
  }
}

bool is_localai(const std::string& text) {
  try {
    const YAML::Node root = YAML::Load(text);
    return root.IsSequence() || (root.IsMap() && !root["models"].IsDefined() &&
                                 (root["parameters"].IsDefined() || root["backend"].IsDefined()));
  } catch (const YAML::Exception&) {
    return false;
  }
}

}  // namespace modelpool::serve
