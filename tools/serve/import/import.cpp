#include "import.hpp"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "config/files.hpp"
#include "config/pool_file.hpp"
#include "import/sources.hpp"

namespace modelpool::serve {
namespace {

namespace fs = std::filesystem;

Result<std::string> read_source(const std::string& path) {
  return config::read_regular_file(path, path, config::kConfigMax_bytes);
}

bool is_yaml(const fs::path& path) {
  return path.extension() == ".yaml" || path.extension() == ".yml";
}

Result<Draft> read_folder(const std::string& path) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
    if (is_yaml(at->path()) && at->path().filename().string().front() != '.')
      files.push_back(at->path());
  }
  if (error) return cannot_import(path, error.message() + "; name a folder of LocalAI's models");
  if (files.empty()) {
    return cannot_import(path,
                         "there is no *.yaml in it; name a folder of LocalAI's models (of "
                         "*.gguf, start poolserve with --models-dir)");
  }
  std::sort(files.begin(), files.end());
  Draft draft;
  for (const fs::path& file : files) {
    const auto text = read_source(file.string());
    if (!text) return fail(text.error());
    if (Result<> read = read_localai(file.string(), *text, path, draft); !read)
      return fail(read.error());
  }
  return draft;
}

Result<Draft> read_any(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return read_folder(path);
  const auto text = read_source(path);
  if (!text) return fail(text.error());
  if (fs::path(path).extension() == ".ini") return read_preset(path, *text);
  if (!is_yaml(path)) {
    return cannot_import(path,
                         "it is no kind of file that is known; name a llama-swap .yaml, a "
                         "--models-preset .ini, or a folder of LocalAI's models");
  }
  if (!is_localai(*text)) return read_llama_swap(path, *text);
  Draft draft;
  const std::string folder = fs::absolute(path, ignored).parent_path().string();
  if (Result<> read = read_localai(path, *text, folder, draft); !read) return fail(read.error());
  return draft;
}

}  // namespace

tl::unexpected<Error> cannot_import(const std::string& where, const std::string& why) {
  return fail(Errc::kInvalid, "unable to import " + where + ": " + why);
}

std::string Imported::report() const {
  std::string lines;
  std::size_t carried = 0;
  for (const ImportedKey& key : keys) {
    if (key.reason.empty()) {
      ++carried;
    } else {
      lines += "not carried over: " + key.key + ": " + key.reason + "\n";
    }
  }
  return lines + std::to_string(carried) + " of " + std::to_string(keys.size()) +
         " keys carried over\n";
}

Result<Imported> import_config(const std::string& path) {
  auto draft = read_any(path);
  if (!draft) return fail(draft.error());
  Imported imported{draft->text(path), std::move(draft->keys)};
  // What comes out must be of use.
  const auto checked =
      config::read_pool_file("pool.toml", imported.text, {}, config::Variables::kLeft);
  if (!checked) {
    return cannot_import(path, "what it says cannot stand in a pool.toml; correct the source:\n" +
                                   checked.error().text);
  }
  return imported;
}

}  // namespace modelpool::serve
