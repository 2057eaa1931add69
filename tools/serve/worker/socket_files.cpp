#include "worker/socket_files.hpp"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

namespace modelpool::serve {
namespace {

constexpr std::string_view kEnding = ".sock";
constexpr std::string_view kDigits = "0123456789";
constexpr std::size_t kPidDigitsMax = 9;

// PID of "POOL.PID-NUMBER.sock"; 0: a file of another kind.
pid_t loader_of(std::string_view name, std::string_view pool) {
  if (!name.starts_with(pool) || !name.ends_with(kEnding)) return 0;
  name.remove_prefix(pool.size());
  name.remove_suffix(std::min(kEnding.size(), name.size()));
  if (!name.starts_with('.')) return 0;
  name.remove_prefix(1);
  const std::size_t dash = name.find('-');
  if (dash == 0 || dash == std::string_view::npos || dash + 1 == name.size()) return 0;
  const std::string pid(name.substr(0, dash));
  if (pid.size() > kPidDigitsMax || pid.find_first_not_of(kDigits) != std::string::npos) return 0;
  if (name.substr(dash + 1).find_first_not_of(kDigits) != std::string_view::npos) return 0;
  return static_cast<pid_t>(std::stoi(pid));
}

// By a backend that answers there, or one of this loader that has no such address, or none yet.
bool is_used(const std::string& path, pid_t loader, const std::string& segment_path,
             const std::vector<BackendRow>& backends) {
  return std::any_of(backends.begin(), backends.end(), [&](const BackendRow& backend) {
    if (backend.address.starts_with("unix:" + segment_path + "."))
      return backend.address == "unix:" + path;
    return backend.owner_pid == loader;
  });
}

}  // namespace

std::string new_socket_path(const std::string& segment_path, unsigned number) {
  std::string path = segment_path + "." + std::to_string(getpid()) + "-" + std::to_string(number);
  path += kEnding;
  unlink(path.c_str());  // of an earlier process with this PID
  return path;
}

void remove_unused_sockets(const std::string& segment_path, Pool& pool) {
  const std::filesystem::path segment(segment_path);
  const std::string name = segment.filename().string();
  std::vector<std::pair<std::string, pid_t>> found;
  std::error_code error;
  for (std::filesystem::directory_iterator at(segment.parent_path(), error), end;
       !error && at != end; at.increment(error)) {
    const std::string file = at->path().filename().string();
    if (const pid_t loader = loader_of(file, name); loader != 0)
      found.emplace_back(at->path().string(), loader);
  }
  if (found.empty()) return;
  // Looked at afterwards: whoever has made one of these has a ticket or a backend by now, if ever.
  const auto seen = pool.snapshot();
  if (!seen) return;
  for (const auto& [path, loader] : found) {
    if (!is_used(path, loader, segment_path, seen->backends)) unlink(path.c_str());
  }
}

}  // namespace modelpool::serve
