#include "base/available.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string_view>

#include "base/proc.hpp"

namespace modelpool {
namespace {

constexpr std::uint64_t kNone = UINT64_MAX;

std::string read(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// "NAME VALUE ..." in a line of its own, with any number of blanks.
std::optional<std::uint64_t> find_value(const std::string& text, std::string_view name) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word;
    std::uint64_t value = 0;
    if (words >> word && word == name && words >> value) return value;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> read_number(const std::string& path) {
  std::istringstream text(read(path));
  std::uint64_t number = 0;
  if (text >> number) return number;
  return std::nullopt;  // "max", or no such file
}

// The files of one version of memory's controller.
struct Names {
  bool is_v2;
  const char* limit;
  const char* usage;
  const char* file_pages;  // of memory.stat: those that nobody has used lately
};
constexpr Names kV2{true, "memory.max", "memory.current", "inactive_file"};
constexpr Names kV1{false, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};

bool has_word(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    const std::size_t end = std::min(list.find(','), list.size());
    if (list.substr(0, end) == word) return true;
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return false;
}

// Where a tree of cgroups is mounted, and which of them is the mount's root.
struct Mount {
  std::string point;
  std::string root;
};
std::optional<Mount> find_mount(const std::string& mountinfo, const Names& names) {
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t middle = line.find(" - ");
    if (middle == std::string::npos) continue;
    std::istringstream before(line.substr(0, middle));
    std::istringstream after(line.substr(middle + 3));
    std::string id, parent, device, type, source, options;
    Mount mount;
    before >> id >> parent >> device >> mount.root >> mount.point;
    after >> type >> source >> options;
    const bool is_it =
        names.is_v2 ? type == "cgroup2" : type == "cgroup" && has_word(options, "memory");
    if (is_it) return mount;
  }
  return std::nullopt;
}

// "0::/a/b", or of version 1 "4:memory:/a/b".
std::optional<std::string> find_cgroup(const std::string& cgroups, const Names& names) {
  std::istringstream lines(cgroups);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const auto controllers = std::string_view(line).substr(first + 1, second - first - 1);
    if (names.is_v2 ? controllers.empty() : has_word(controllers, "memory"))
      return line.substr(second + 1);
  }
  return std::nullopt;
}

std::uint64_t limit_of(const std::string& directory, const Names& names) {
  return read_number(directory + "/" + names.limit).value_or(kNone);
}

std::uint64_t left_of(const std::string& directory, const Names& names) {
  const auto limit = read_number(directory + "/" + names.limit);
  const auto usage = read_number(directory + "/" + names.usage);
  if (!limit || !usage) return kNone;
  const std::uint64_t left = *limit - std::min(*limit, *usage);
  const std::uint64_t pages =
      find_value(read(directory + "/memory.stat"), names.file_pages).value_or(0);
  return std::min(*limit, left + std::min(pages, *usage));
}

// Of this process's cgroup and all above it, up to where its tree is mounted: what bytes_of says of
// the one that has least.
using BytesOf = std::uint64_t(const std::string& directory, const Names& names);
std::uint64_t least_of_cgroups(const std::string& root, const Names& names, BytesOf bytes_of) {
  const auto mount = find_mount(read(root + own_proc_path("mountinfo")), names);
  auto path = find_cgroup(read(root + own_proc_path("cgroup")), names);
  if (!mount || !path || path->starts_with("/..")) return kNone;
  // Seen from inside of a container, its cgroup is the root of what is mounted.
  if (mount->root != "/" && path->starts_with(mount->root)) path->erase(0, mount->root.size());
  std::uint64_t least = kNone;
  for (;;) {
    while (!path->empty() && path->back() == '/') path->pop_back();
    least = std::min(least, bytes_of(root + mount->point + *path, names));
    if (path->empty()) return least;
    path->erase(path->rfind('/') == std::string::npos ? 0 : path->rfind('/'));
  }
}

// What the host says in this line of its own, or a cgroup if that has less.
std::optional<std::uint64_t> read_least(const std::string& root, std::string_view line,
                                        BytesOf bytes_of) {
  const auto host_kib = find_value(read(root + host_memory_path()), line);
  if (!host_kib) return std::nullopt;
  const std::uint64_t host = *host_kib > kNone / 1024 ? kNone : *host_kib * 1024;
  return std::min(
      {host, least_of_cgroups(root, kV2, bytes_of), least_of_cgroups(root, kV1, bytes_of)});
}

}  // namespace

std::optional<std::uint64_t> read_available_bytes(const std::string& root) {
  return read_least(root, "MemAvailable:", left_of);
}

std::optional<std::uint64_t> read_total_bytes(const std::string& root) {
  return read_least(root, "MemTotal:", limit_of);
}

}  // namespace modelpool
