#include "segment/lost.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <map>
#include <utility>

#include "base/proc.hpp"
#include "segment/header.hpp"

namespace modelpool {
namespace {

using FileId = std::pair<dev_t, ino_t>;

FileId id_of(const struct stat& info) { return {info.st_dev, info.st_ino}; }

std::string read_link(const std::string& path) {
  std::error_code error;
  const std::string target = std::filesystem::read_symlink(path, error);
  return error ? std::string() : target;
}

// A regular file of this user on a tmpfs, as large as a segment at least.
bool may_be_segment(const std::string& link, struct stat* info) {
  struct statfs fs;
  return stat(link.c_str(), info) == 0 && S_ISREG(info->st_mode) && info->st_uid == geteuid() &&
         info->st_size >= static_cast<off_t>(kPage_bytes) && statfs(link.c_str(), &fs) == 0 &&
         fs.f_type == TMPFS_MAGIC;
}

bool leads_to(const std::string& path, const FileId& file) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && id_of(info) == file;
}

// Is the directory of this home, as the process sees it, another one than here? Where it sees none
// (the pool took it along, a sandbox hides it), who has our PID namespace is of here.
bool is_elsewhere(pid_t pid, const std::string& home) {
  const std::string dir = std::filesystem::path(home).parent_path();
  struct stat theirs;
  struct stat ours;
  if (stat(proc_path(pid, "root" + dir).c_str(), &theirs) != 0)
    return namespace_of(pid, "pid") != own_namespace("pid");
  return stat(dir.c_str(), &ours) != 0 || id_of(theirs) != id_of(ours);
}

bool is_locked(const Fd& file) {
  if (flock(file.get(), LOCK_SH | LOCK_NB) == 0) {
    flock(file.get(), LOCK_UN);
    return false;
  }
  return errno == EWOULDBLOCK;
}

pid_t judge_of(const Fd& file, const Header& header) {
  if (header.layout_version != kLayoutVersion) return 0;
  const TableInfo& table = header.tables[static_cast<std::size_t>(Table::kCoordinator)];
  std::uint32_t pid = 0;
  const auto at = static_cast<off_t>(table.offset + offsetof(CoordinatorRecord, pid));
  return pread(file.get(), &pid, sizeof pid, at) == sizeof pid ? static_cast<pid_t>(pid) : 0;
}

// Every segment with one of these homes, and whether its name leads to it for somebody.
class Search {
 public:
  explicit Search(const std::vector<std::string>& homes) : homes_(homes) {}

  void look_into(pid_t pid) {
    for (const int fd : list_descriptors(pid).value_or(std::vector<int>())) {
      examine(pid, proc_path(pid, "fd/" + std::to_string(fd)));
    }
  }
  std::vector<LostPool> lost() && {
    std::vector<LostPool> result;
    for (auto& [id, candidate] : candidates_) {
      if (candidate.pool.holder != 0 && !candidate.has_name)
        result.push_back(std::move(candidate.pool));
    }
    return result;
  }

 private:
  struct Candidate {
    std::string home;  // "": it is none of those looked for
    bool has_name = false;
    LostPool pool;
  };

  void examine(pid_t pid, const std::string& link) {
    struct stat info;
    if (!may_be_segment(link, &info)) return;
    const FileId id = id_of(info);
    const auto [at, is_new] = candidates_.try_emplace(id);
    Candidate& candidate = at->second;
    if (is_new) candidate = read(link, id);
    if (candidate.home.empty() || candidate.has_name || is_elsewhere(pid, candidate.home)) return;
    if (candidate.pool.holder == 0) candidate.pool.holder = pid;
    // In the mount namespace and under the root of its holder, and here.
    candidate.has_name =
        leads_to(proc_path(pid, "root" + candidate.home), id) || leads_to(candidate.home, id);
  }

  Candidate read(const std::string& link, const FileId& id) const {
    Candidate candidate;
    LostPool& pool = candidate.pool;
    pool.file = open_above_stdio(AT_FDCWD, link.c_str(), O_RDWR | O_APPEND | O_NOCTTY | O_NONBLOCK);
    struct stat opened;
    if (!pool.file || fstat(pool.file.get(), &opened) != 0 || id_of(opened) != id) return {};
    const std::string home = is_segment(pool.file.get()) ? read_home(pool.file.get()) : "";
    if (std::find(homes_.begin(), homes_.end(), home) == homes_.end()) return {};
    const auto frozen = read_frozen(pool.file.get(), home);
    if (!frozen) return {};
    pool.found_at = read_link(link);
    pool.is_judged = is_locked(pool.file);
    pool.judge = pool.is_judged ? judge_of(pool.file, frozen->header) : 0;
    pool.live = frozen->live.size();
    candidate.home = home;
    return candidate;
  }

  const std::vector<std::string>& homes_;
  std::map<FileId, Candidate> candidates_;
};

}  // namespace

std::string home_of(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error) return path;
  const std::string resolved = std::filesystem::weakly_canonical(absolute, error);
  return error ? absolute.lexically_normal().string() : resolved;
}

std::vector<LostPool> find_lost_pools(const std::vector<std::string>& homes) {
  Search search(homes);
  for (const pid_t pid : list_pids().value_or(std::vector<pid_t>())) {
    if (read_uid(pid) == geteuid()) search.look_into(pid);
  }
  return std::move(search).lost();
}

std::vector<ProcessHandle> find_orphans(const std::vector<std::string>& homes) {
  std::vector<ProcessHandle> orphans;
  const auto is_orphan = [&](pid_t pid) {
    const auto home = read_environment(pid, kHomeVariable);
    return home && std::find(homes.begin(), homes.end(), *home) != homes.end() &&
           !is_elsewhere(pid, *home);
  };
  for (const pid_t pid : list_pids().value_or(std::vector<pid_t>())) {
    if (pid <= 1 || pid == getpid() || !is_orphan(pid)) continue;
    const auto stat = read_stat(pid);
    if (!stat || stat->is_zombie()) continue;
    // Opened first, looked at again after: what was looked at is what is held (P7).
    auto handle = ProcessHandle::open(pid);
    if (handle && is_orphan(pid)) orphans.push_back(std::move(*handle));
  }
  return orphans;
}

}  // namespace modelpool
