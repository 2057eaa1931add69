#include "config/models_folder.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "base/name.hpp"
#include "base/text.hpp"
#include "config/models_reader.hpp"
#include "config/problems.hpp"

namespace modelpool::config {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEnding = ".gguf";
constexpr std::size_t kShardDigits = 5;

struct File {
  fs::path path;
  std::uint64_t size_bytes = 0;
};

// "NAME-00002-of-00005", without the ending.
struct Shard {
  std::string name;
  std::uint32_t number = 0;
  std::uint32_t count = 0;
};
std::optional<Shard> shard_of(std::string_view stem) {
  constexpr std::string_view kOf = "-of-";
  constexpr std::size_t kTail = 1 + kShardDigits + kOf.size() + kShardDigits;
  if (stem.size() <= kTail) return std::nullopt;
  const std::string_view tail = stem.substr(stem.size() - kTail);
  const auto number = [](std::string_view digits) -> std::uint32_t {
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc{} && end == digits.data() + digits.size() ? value : 0;
  };
  Shard shard{std::string(stem.substr(0, stem.size() - kTail)),
              number(tail.substr(1, kShardDigits)), number(tail.substr(kTail - kShardDigits))};
  const bool is_one = tail.front() == '-' && tail.substr(1 + kShardDigits, kOf.size()) == kOf &&
                      shard.number != 0 && shard.number <= shard.count;
  if (!is_one) return std::nullopt;
  return shard;
}

std::string lower_case(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

Result<> unreadable(const fs::path& folder, const std::error_code& error) {
  return fail_errno(error.value(), "read the folder " + escape(folder.string()));
}

// Every *.gguf below. A folder that is reached by a link is looked at once.
class Search {
 public:
  Result<> look_into(const fs::path& folder, std::size_t depth) {
    std::error_code error;
    const fs::path real = fs::canonical(folder, error);
    if (error) return unreadable(folder, error);
    if (!seen_.insert(real).second) return {};
    fs::directory_iterator entries(folder, error);
    if (error) return unreadable(folder, error);
    for (const fs::directory_iterator end; entries != end; entries.increment(error)) {
      if (Result<> ok = look_at(*entries, depth); !ok) return ok;
    }
    if (error) return unreadable(folder, error);
    return {};
  }
  const std::map<fs::path, std::vector<File>>& by_folder() const { return by_folder_; }

 private:
  Result<> look_at(const fs::directory_entry& entry, std::size_t depth) {
    if (++looked_at_ > kFolderFilesMax) {
      return fail(Errc::kInvalid, "unable to look for models: there are more than " +
                                      std::to_string(kFolderFilesMax) +
                                      " files; name a folder of models alone");
    }
    const std::string name = entry.path().filename().string();
    if (name.starts_with('.')) return {};  // as those that are being downloaded
    std::error_code error;
    if (entry.is_directory(error)) {
      return depth == kFolderDepthMax ? Result<>{} : look_into(entry.path(), depth + 1);
    }
    if (!lower_case(name).ends_with(kEnding) || !entry.is_regular_file(error)) return {};
    const std::uintmax_t size = entry.file_size(error);
    by_folder_[entry.path().parent_path()].push_back({entry.path(), error ? 0 : size});
    return {};
  }

  std::set<fs::path> seen_;
  std::map<fs::path, std::vector<File>> by_folder_;
  std::size_t looked_at_ = 0;
};

// The models of one folder.
class Folder {
 public:
  Folder(const std::vector<File>& files, const std::vector<std::string>& program)
      : program_(program) {
    for (const File& file : files) {
      const std::string name = file.path.filename().string();
      std::string stem = name.substr(0, name.size() - kEnding.size());
      if (lower_case(stem).starts_with("mmproj")) {
        projectors_.push_back(file.path.string());
      } else if (const auto shard = shard_of(stem)) {
        shards_[{shard->name, shard->count}][shard->number] = file;
      } else {
        models_.push_back(model_of(stem, file.path, file.size_bytes));
      }
    }
  }

  Result<> add_to(std::vector<Model>& models) {
    for (const auto& [of, parts] : shards_) {
      if (Result<> whole = check_whole(of.first, of.second, parts); !whole) return whole;
      std::uint64_t size_bytes = 0;
      for (const auto& [number, file] : parts) size_bytes += file.size_bytes;
      models_.push_back(model_of(of.first, parts.at(1).path, size_bytes));
    }
    for (Model& model : models_) {
      if (projectors_.size() == 1) {
        model.command.insert(model.command.end(), {"--mmproj", projectors_.front()});
      }
      models.push_back(std::move(model));
    }
    return {};
  }

 private:
  Model model_of(const std::string& name, const fs::path& file, std::uint64_t size_bytes) const {
    Model model;
    model.name = name;
    model.command = program_;
    model.command.insert(model.command.end(),
                         {"-m", file.string(), "--port", "{port}", "--host", "127.0.0.1"});
    model.weights = file.string();
    model.size_bytes = size_bytes;
    return model;
  }

  static Result<> check_whole(const std::string& name, std::uint32_t count,
                              const std::map<std::uint32_t, File>& parts) {
    if (parts.size() == count) return {};
    constexpr std::size_t kNamedMax = 5;
    const fs::path folder = parts.begin()->second.path.parent_path();
    std::vector<std::string> missing;
    for (std::uint32_t number = 1; number <= count && missing.size() <= kNamedMax; ++number) {
      if (parts.contains(number)) continue;
      char tail[32];
      std::snprintf(tail, sizeof tail, "-%05u-of-%05u", number, count);
      missing.push_back(escape(name + tail + std::string(kEnding)));
    }
    std::string names;
    for (std::size_t i = 0; i < std::min(missing.size(), kNamedMax); ++i)
      names += (i == 0 ? "" : ", ") + missing[i];
    if (missing.size() > kNamedMax) names += " and more";
    return fail(Errc::kInvalid, "unable to use the model " + quote(name) + " in " +
                                    escape(folder.string()) + ": " + names + " missing; add " +
                                    (missing.size() == 1 ? "it" : "them") +
                                    ", or move the others away");
  }

  const std::vector<std::string>& program_;
  std::vector<std::string> projectors_;
  std::vector<Model> models_;
  std::map<std::pair<std::string, std::uint32_t>, std::map<std::uint32_t, File>> shards_;
};

Result<> check_program(const std::string& name) {
  const auto is_program = [](const std::string& path) {
    std::error_code ignored;
    return access(path.c_str(), X_OK) == 0 && !fs::is_directory(path, ignored);
  };
  const std::string what = "unable to start models with " + quote(name) + ": ";
  if (name.find('/') != std::string::npos) {
    if (is_program(name)) return {};
    return fail(Errc::kInvalid, what + "there is no such program; correct the path");
  }
  const char* const path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : path;
  while (!rest.empty()) {
    const std::size_t colon = std::min(rest.find(':'), rest.size());
    const std::string folder(rest.substr(0, colon));
    if (is_program((folder.empty() ? "." : folder) + "/" + name)) return {};
    rest.remove_prefix(std::min(colon + 1, rest.size()));
  }
  return fail(Errc::kInvalid, what + "it is in no folder of PATH; install it, or add its folder");
}

// Which file a model is, for messages: a name alone would not tell two of them apart.
std::string file_of(const Model& model) {
  return model.weights.empty() ? "line " + std::to_string(model.line) : escape(model.weights);
}

Result<> check_names(const std::vector<Model>& models) {
  for (std::size_t i = 0; i < models.size(); ++i) {
    if (Result<> valid = check_model_name(models[i].name); !valid) {
      return fail(Errc::kInvalid, "unable to use " + file_of(models[i]) + " as a model: " +
                                      as_reason(valid.error().text) + "; rename it");
    }
    if (i == 0 || models[i].name != models[i - 1].name) continue;
    return fail(Errc::kInvalid, "unable to use two models " + quote(models[i].name) + ": " +
                                    file_of(models[i - 1]) + " and " + file_of(models[i]) +
                                    "; rename or move one");
  }
  return {};
}

bool is_before(const Model& a, const Model& b) {
  return a.name != b.name ? a.name < b.name : a.weights < b.weights;
}

}  // namespace

Result<std::vector<Model>> find_models(const std::string& folder,
                                       const std::vector<std::string>& program) {
  if (Result<> there = check_program(program.front()); !there) return fail(there.error());
  std::error_code error;
  Search search;
  if (Result<> ok = search.look_into(fs::absolute(folder, error), 0); !ok) return fail(ok.error());
  std::vector<Model> models;
  for (const auto& [path, files] : search.by_folder()) {
    if (Result<> ok = Folder(files, program).add_to(models); !ok) return fail(ok.error());
  }
  if (models.empty()) {
    return fail(Errc::kInvalid, "unable to find a model in " + escape(folder) +
                                    ": there is no *.gguf; add one, or name another folder");
  }
  if (models.size() > kFolderModelsMax) {
    return fail(Errc::kInvalid, "unable to use " + escape(folder) + ": it has more than " +
                                    std::to_string(kFolderModelsMax) +
                                    " models; name a smaller folder");
  }
  std::sort(models.begin(), models.end(), is_before);
  if (Result<> unique = check_names(models); !unique) return fail(unique.error());
  return models;
}

Result<> add_models(std::vector<Model> found, Door& door) {
  std::move(found.begin(), found.end(), std::back_inserter(door.models));
  std::sort(door.models.begin(), door.models.end(), is_before);
  if (Result<> unique = check_names(door.models); !unique) return unique;
  const auto problems = find_name_problems(door.models);
  if (problems.empty()) return {};
  return fail(Errc::kInvalid, "unable to use these models: " + problems.front().reason);
}

}  // namespace modelpool::config
