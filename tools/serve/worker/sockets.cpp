#include "worker/sockets.hpp"

#include <charconv>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace modelpool::serve {
namespace {

namespace fs = std::filesystem;

// "3.12.sock", and what a server puts beside it: "3.12.sock.lock".
std::optional<BackendId> life_of(std::string_view name) {
  BackendId life;
  const char* at = name.data();
  const char* const end = at + name.size();
  for (std::uint32_t* number : {&life.slot, &life.generation}) {
    const auto [next, error] = std::from_chars(at, end, *number);
    if (error != std::errc() || next == end || *next != '.') return std::nullopt;
    at = next + 1;
  }
  return life;
}

}  // namespace

std::string socket_of(const std::string& folder, const BackendId& life) {
  std::error_code ignored;
  // With the rights of the pool's own.
  fs::create_directory(folder, fs::path(folder).parent_path(), ignored);
  return folder + "/" + std::to_string(life.slot) + "." + std::to_string(life.generation) + ".sock";
}

void remove_old_sockets(const std::string& folder, Pool& pool) {
  std::error_code error;
  std::vector<std::pair<BackendId, fs::path>> found;
  for (fs::directory_iterator one(folder, error), end; !error && one != end; one.increment(error)) {
    if (const auto life = life_of(one->path().filename().native()))
      found.emplace_back(*life, one->path());
  }
  if (found.empty()) return;
  // Looked at last: a life that has a socket is in the pool before, until it is over.
  const auto seen = pool.snapshot();
  if (!seen) return;
  for (const BackendRow& row : seen->backends) {
    std::erase_if(found, [&](const auto& one) {
      return one.first.slot == row.slot && one.first.generation == row.generation;
    });
  }
  for (const auto& [life, path] : found) fs::remove(path, error);
}

}  // namespace modelpool::serve
