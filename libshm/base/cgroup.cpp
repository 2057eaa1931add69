#include "base/cgroup.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/fd.hpp"
#include "base/proc.hpp"

namespace modelpool {
namespace {

// Where the whole tree of version 2 is mounted; "" if it is not.
std::string mount_point() {
  std::ifstream mounts(own_proc_path("mountinfo"));
  for (std::string line; std::getline(mounts, line);) {
    if (line.find(" - cgroup2 ") == std::string::npos) continue;
    std::istringstream fields(line);
    std::string id, parent, device, root, path;
    fields >> id >> parent >> device >> root >> path;
    if (root == "/") return path;
  }
  return {};
}

// Adds what stands in cgroup.procs of `directory` and of all below. False: not to be read.
bool add_processes(const std::filesystem::path& directory, std::vector<pid_t>* into) {
  std::ifstream list(directory / "cgroup.procs");
  std::error_code error;
  if (!list) return !std::filesystem::exists(directory, error) && !error;
  for (pid_t pid = 0; list >> pid;) {
    if (pid == 0) return false;  // of another PID namespace
    into->push_back(pid);
  }
  if (!list.eof()) return false;  // a cgroup of threads lists no processes
  std::filesystem::directory_iterator below(directory, error);
  for (; !error && below != end(below); below.increment(error)) {
    if (below->is_directory(error) && !error && !add_processes(below->path(), into)) return false;
  }
  return true;
}

std::uint64_t inode_of(const std::string& path) {
  struct stat directory {};
  return stat(path.c_str(), &directory) == 0 ? directory.st_ino : 0;
}

}  // namespace

std::optional<Cgroup> Cgroup::of(pid_t pid) {
  constexpr std::string_view kVersion2 = "0::/";
  std::ifstream file(proc_path(pid, "cgroup"));
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(kVersion2) || line.size() == kVersion2.size()) continue;
    if (line.starts_with("0::/..")) return std::nullopt;  // not below what is seen from here
    const std::string mounted = mount_point();
    if (mounted.empty()) return std::nullopt;
    std::string path = mounted + line.substr(kVersion2.size() - 1);
    const std::uint64_t inode = inode_of(path);
    if (inode == 0) return std::nullopt;
    return Cgroup(std::move(path), inode);
  }
  return std::nullopt;
}

bool Cgroup::is_there() const { return inode_of(path_) == inode_; }

std::optional<std::vector<pid_t>> Cgroup::processes() const {
  std::vector<pid_t> found;
  if (!is_there()) return found;
  if (!add_processes(path_, &found)) return std::nullopt;
  return found;
}

std::optional<std::uint64_t> Cgroup::memory_kills() const {
  const auto text = read("memory.events");
  return text ? find_counter(*text, "oom_kill") : std::nullopt;
}

std::optional<std::string> Cgroup::read(std::string_view name) const {
  std::ifstream file(path_ + "/" + std::string(name));
  std::ostringstream text;
  if (!file || !(text << file.rdbuf()) || !is_there()) return std::nullopt;
  return text.str();
}

std::uint64_t Cgroup::huge_pages_bytes() const {
  std::uint64_t sum = 0;
  std::error_code error;
  std::filesystem::directory_iterator files(path_, error);
  for (; !error && files != end(files); files.increment(error)) {
    const std::string name = files->path().filename();
    if (!name.starts_with("hugetlb.") || !name.ends_with("B.current")) continue;
    std::uint64_t bytes = 0;
    if (std::ifstream(files->path()) >> bytes) sum += bytes;
  }
  return sum;
}

bool Cgroup::kill() const {
  if (!is_there()) return false;
  const Fd file(open((path_ + "/cgroup.kill").c_str(), O_WRONLY | O_CLOEXEC));
  return file && write(file.get(), "1", 1) == 1;
}

}  // namespace modelpool
