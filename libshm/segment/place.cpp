#include "segment/place.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "base/name.hpp"
#include "base/nearest.hpp"
#include "base/proc.hpp"
#include "base/shell.hpp"
#include "base/shortage.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "base/user.hpp"
#include "segment/abandoned.hpp"
#include "segment/frozen.hpp"
#include "segment/lost.hpp"

namespace modelpool {
namespace {

namespace fs = std::filesystem;

constexpr timespec kRetryPause{0, 2'000'000};
constexpr timespec kLostPause{0, 50'000'000};  // between two searches of /proc
constexpr const char* kRunDir = "/run/modelpool";
constexpr const char* kShmDir = "/dev/shm";
constexpr const char* kShmPrefix = "modelpool-";
constexpr int kFileFlags = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;

std::string shm_dir(uid_t uid) {
  return std::string(kShmDir) + "/" + kShmPrefix + std::to_string(uid);
}

// A process may change its directory after it has attached.
std::string absolute(const std::string& path) {
  std::error_code error;
  std::string result = fs::absolute(path, error).lexically_normal();
  if (error) return path;
  while (result.size() > 1 && result.ends_with('/')) result.pop_back();
  return result;
}

// Why no file could be made: an empty one takes no more of a tmpfs than an inode.
std::string making_advice(int error) {
  return error == ENOSPC ? "its tmpfs has no inodes left; remove files, or mount it again with a "
                           "larger nr_inodes"
                         : shortage_advice(Needs::kDescriptor, error);
}

// What only a person can mend is kPermission, what may work later kSystem.
tl::unexpected<Error> refuse_errno(int error, const std::string& what,
                                   const std::string& advice = {}) {
  Error refusal = fail_errno(error, what, advice).value();
  if (!is_shortage(error)) refusal.code = Errc::kPermission;
  return tl::unexpected<Error>(std::move(refusal));
}

// --- Commands in messages ------------------------------------------------------------------------

std::string environment_or(const char* name, const std::string& otherwise) {
  const char* const value = std::getenv(name);
  return value != nullptr && *value != 0 ? value : otherwise;
}

// "it belongs to user modelpool and this is root; run it as that user, as in: sudo -u modelpool
// ..."
std::string sudo_as(uid_t owner) {
  const std::string name = user_name(owner);
  return "sudo -u " + (name == std::to_string(owner) ? "'#" + name + "'" : name) + " ";
}
std::string as_owner(uid_t owner) {
  return "it belongs to user " + user_name(owner) + ", and this is user " + user_name(geteuid()) +
         "; run it as that user, as in: " + sudo_as(owner) + program_invocation_short_name + " ...";
}

// A directory that this user may make and that nobody else can move or remove: inside `path`, or in
// shared memory.
std::string folder_of_own(const std::string& path) {
  struct stat info;
  struct statfs fs;
  const bool is_kept = stat(path.c_str(), &info) == 0 &&
                       (info.st_uid == geteuid() || (info.st_uid == 0 && (info.st_mode & S_ISVTX)));
  const bool fits = is_kept && access(path.c_str(), W_OK | X_OK) == 0 &&
                    statfs(path.c_str(), &fs) == 0 && fs.f_type == TMPFS_MAGIC;
  const std::string inside =
      (path == "/" ? "" : path) + "/" + kShmPrefix + std::to_string(geteuid());
  return shell_word(fits ? inside : shm_dir(geteuid()));
}

// --- Which directory -----------------------------------------------------------------------------

bool exists(const std::string& path) {
  return faccessat(AT_FDCWD, path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

// The host's directory, /run/modelpool: its owner, or nullopt if there is none that could hold a
// pool.
std::optional<uid_t> owner_of_run_dir() {
  struct stat info;
  struct statfs fs;
  if (lstat(kRunDir, &info) != 0 || !S_ISDIR(info.st_mode)) return std::nullopt;
  if (statfs(kRunDir, &fs) != 0 || fs.f_type != TMPFS_MAGIC) return std::nullopt;
  return info.st_uid;
}

// Pools of that name in the shared memory of other users, as far as this one may see them.
std::vector<std::string> dirs_of_others(const std::string& name) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(kShmDir, error)) {
    const std::string dir = entry.path();
    struct stat info;
    if (lstat(dir.c_str(), &info) != 0 || dir != shm_dir(info.st_uid) || info.st_uid == geteuid())
      continue;
    if (exists(dir + "/" + name)) found.push_back(dir);
  }
  std::sort(found.begin(), found.end());
  return found;
}

tl::unexpected<Error> in_several(const std::string& name, const std::vector<std::string>& dirs) {
  std::string paths;
  for (const std::string& dir : dirs) paths += (paths.empty() ? "" : " and ") + dir + "/" + name;
  return fail(Errc::kInvalid, "unable to choose pool " + name + ": it exists as " + paths +
                                  "; name one with --dir");
}

// Root, who has no pool of that name, looks for one of somebody else.
Result<std::string> find_for_root(const std::string& name) {
  const std::vector<std::string> others = dirs_of_others(name);
  if (others.size() > 1) return in_several(name, others);
  return others.empty() ? shm_dir(geteuid()) : others.front();
}

Result<std::string> find_default_dir(const std::string& name, Purpose purpose) {
  const std::string run = kRunDir;
  const std::string shm = shm_dir(geteuid());
  const std::optional<uid_t> run_owner = owner_of_run_dir();
  const bool in_shm = exists(shm + "/" + name);
  const bool in_run = run_owner && exists(run + "/" + name);
  if (in_run && in_shm) return in_several(name, {run, shm});
  if (in_shm) return shm;
  if (in_run || run_owner == geteuid()) return run;
  const bool looks_as_root = purpose == Purpose::kLook && geteuid() == 0;
  if (!run_owner) return looks_as_root ? find_for_root(name) : Result<std::string>(shm);
  if (looks_as_root) {
    const auto found = find_for_root(name);
    return !found || *found != shm ? found : Result<std::string>(run);
  }
  if (purpose == Purpose::kUse && geteuid() == 0)
    return run;  // there is none, and that is the answer
  // A user who may not look inside sees only that it is there: a pool beside it would be a second
  // limit.
  return fail(
      Errc::kPermission,
      "unable to " + std::string(purpose == Purpose::kCreate ? "create" : "find") + " pool " +
          name + ": " + run +
          " is this host's place for pools, and only its owner may look inside or add one; " +
          as_owner(*run_owner) + "; for a pool of your own beside it, name its directory: --dir " +
          shm);
}

// --- A directory ---------------------------------------------------------------------------------

bool is_tmpfs(int fd) {
  struct statfs fs;
  return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

// Made by or for this library? A default place, or one that holds nothing but pools.
bool is_made_for_pools(const std::string& path) {
  if (path == kRunDir || path == shm_dir(geteuid())) return true;
  bool any = false;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    const std::string name = entry.path().filename();
    const std::string stem = name.substr(0, name.rfind('.'));
    if (stem != name && (name.ends_with(".users") || name.ends_with(".tmp")) &&
        check_pool_name(stem))
      continue;
    if (!fs::is_regular_file(entry.symlink_status())) return false;
    const Fd file = open_above_stdio(AT_FDCWD, entry.path().c_str(),
                                     O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (!file || !is_segment(file.get())) return false;
    any = true;
  }
  return any && !error;
}

tl::unexpected<Error> refuse_dir(const std::string& path, const std::string& why) {
  return fail(Errc::kPermission, "unable to use directory " + escape(path) + ": " + why);
}

tl::unexpected<Error> explain_unopened_dir(const std::string& path, int error) {
  if (error == ENOENT) {
    return fail(Errc::kNoSuchPool,
                "unable to open pool directory " + escape(path) + ": there is none");
  }
  if (error == ELOOP || error == ENOTDIR) {
    return refuse_dir(path, "it is a symbolic link or no directory; name a directory");
  }
  struct stat info;
  if (error == EACCES && lstat(path.c_str(), &info) == 0 && info.st_uid != geteuid()) {
    return refuse_dir(path, "only its owner may look inside; " + as_owner(info.st_uid));
  }
  return refuse_errno(error, "open directory " + escape(path),
                      shortage_advice(Needs::kDescriptor, error));
}

Result<> check_dir(const Fd& dir, const std::string& path, Purpose purpose) {
  struct stat info;
  if (fstat(dir.get(), &info) != 0) return refuse_errno(errno, "examine directory " + escape(path));
  if (purpose == Purpose::kLook && geteuid() == 0) return {};
  if (info.st_uid != geteuid()) {
    const bool may_create = purpose == Purpose::kCreate;
    return refuse_dir(
        path, as_owner(info.st_uid) +
                  (may_create ? "; for a pool of your own: --dir " + folder_of_own(path) : ""));
  }
  if (purpose != Purpose::kLook && !is_tmpfs(dir.get())) {
    return fail(Errc::kIncompatible,
                "unable to use directory " + escape(path) +
                    ": it is not on a tmpfs; use one in shared memory, as in --dir " +
                    folder_of_own(path));
  }
  if ((info.st_mode & 077) != 0) {
    return refuse_dir(path,
                      "it is open to other users; " +
                          (is_made_for_pools(path)
                               ? "chmod 700 " + shell_word(path)
                               : "name a folder inside it, which is made for you alone: --dir " +
                                     folder_of_own(path)));
  }
  return {};
}

// Opens the pool's directory and refuses one that others may get into.
Result<Fd> open_dir(const std::string& path, Purpose purpose) {
  const bool made = purpose == Purpose::kCreate && mkdir(path.c_str(), 0700) == 0;
  if (purpose == Purpose::kCreate && !made && errno != EEXIST) {
    const int error = errno;
    return refuse_errno(
        error, "create directory " + escape(path),
        is_shortage(error) ? making_advice(error)
                           : "name one that this user may make, as in --dir " + shm_dir(geteuid()));
  }
  Fd dir = open_above_stdio(AT_FDCWD, path.c_str(), O_DIRECTORY | O_NOFOLLOW | O_RDONLY);
  if (!dir) return explain_unopened_dir(path, errno);
  if (auto ok = check_dir(dir, path, purpose); !ok) {
    if (made) rmdir(path.c_str());
    return fail(ok.error());
  }
  return dir;
}

// --- Locks on files ------------------------------------------------------------------------------

Result<> flock_within(int fd, int operation, std::uint64_t wait_ns, const std::string& what) {
  const std::uint64_t until = add_ns(now_ns(), wait_ns);
  while (flock(fd, operation | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return fail_errno(errno, "lock " + escape(what));
    if (now_ns() >= until) {
      return fail(Errc::kBusy, "unable to lock " + escape(what) +
                                   ": another process holds it and does not let go; is one that is "
                                   "starting or removing it "
                                   "stopped (SIGSTOP)?");
    }
    nanosleep(&kRetryPause, nullptr);
  }
  return {};
}

// Creators and removers take turns.
Result<Fd> take_turn(int dir, std::uint64_t wait_ns, const std::string& path) {
  Fd turn = open_above_stdio(dir, ".", O_DIRECTORY | O_RDONLY);
  if (!turn) return fail_errno(errno, "open directory " + escape(path));
  if (auto ok = flock_within(turn.get(), LOCK_EX, wait_ns, path); !ok) return fail(ok.error());
  return turn;
}

Result<Fd> open_users(int dir, const std::string& name) {
  const std::string file = name + ".users";
  Fd users = open_above_stdio(dir, file.c_str(), O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW, 0600);
  if (!users) return refuse_errno(errno, "open " + file, making_advice(errno));
  return users;
}

bool same_file(int dir, const std::string& name, int fd) {
  struct stat by_name;
  struct stat by_fd;
  return fstatat(dir, name.c_str(), &by_name, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &by_fd) == 0 &&
         by_name.st_dev == by_fd.st_dev && by_name.st_ino == by_fd.st_ino;
}

// --- A segment's file ----------------------------------------------------------------------------

// The pools of a directory, as far as this user may see them.
std::vector<std::string> pools_in(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(dir, error)) {
    const std::string name = entry.path().filename();
    if (!check_pool_name(name) || name.ends_with(".users") || name.ends_with(".tmp")) continue;
    const Fd file = open_above_stdio(AT_FDCWD, entry.path().c_str(), O_RDONLY | kFileFlags);
    if (file && is_segment(file.get())) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// "; did you mean NAME?", or which there are. A name with a slip in it, with a coordinator started
// for it as the message says, would be a second pool.
std::string pools_there(const std::string& name, const std::string& dir) {
  constexpr std::size_t kNamedMax = 8;
  const std::vector<std::string> names = pools_in(dir);
  const std::string hint = did_you_mean(name, {names.begin(), names.end()});
  if (names.empty() || !hint.empty()) return hint;
  std::string text = "; there are ";
  for (std::size_t i = 0; i < std::min(names.size(), kNamedMax); ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  return text + (names.size() > kNamedMax ? ", ..." : "") + ": name one with --pool";
}

tl::unexpected<Error> no_pool(const std::string& name, const std::string& dir) {
  const std::vector<LostPool> lost = find_lost_pools(homes_of_pool(name, dir));
  struct stat info;
  const bool is_other = stat(dir.c_str(), &info) == 0 && info.st_uid != geteuid();
  const std::string start =
      (is_other ? sudo_as(info.st_uid) : "") + command_on_pool("coordinatord", name, dir);
  std::string what_next = pools_there(name, dir) + "; ";
  what_next += (what_next.size() > 2 ? "for a new pool start " : "start ") + start;
  what_next += ", or name the pool's --dir";
  if (!lost.empty()) {
    what_next = "; the pool that was here has lost its name (it was removed, moved or covered)";
    what_next += lost.front().is_judged
                     ? "; its coordinator ends what still runs in it, and the next one begins anew"
                     : "; start " + start + ": it ends what still runs in it and begins anew";
  }
  return fail(Errc::kNoSuchPool, "unable to find pool " + name + ": there is no " +
                                     escape(dir + "/" + name) + what_next);
}

tl::unexpected<Error> explain_unopened(const std::string& path, int error) {
  if (error == ELOOP)
    return fail(Errc::kPermission, "unable to use " + escape(path) + ": it is a symbolic link");
  struct stat info;
  if (error == EACCES && lstat(path.c_str(), &info) == 0 && info.st_uid != geteuid()) {
    return fail(Errc::kPermission, "unable to use " + escape(path) + ": " + as_owner(info.st_uid));
  }
  return refuse_errno(error, "open " + escape(path), shortage_advice(Needs::kDescriptor, error));
}

// O_APPEND: nothing that is written through the descriptor by mistake reaches what is mapped.
Fd open_file(int dir, const std::string& name, Purpose purpose) {
  return open_above_stdio(dir, name.c_str(),
                          (purpose == Purpose::kLook ? O_RDONLY : O_RDWR | O_APPEND) | kFileFlags);
}

Result<> check_file(const Fd& file, const std::string& path, Purpose purpose) {
  struct stat info;
  if (fstat(file.get(), &info) != 0) return refuse_errno(errno, "examine " + escape(path));
  const auto refuse = [&](Errc code, const std::string& why) {
    return fail(code, "unable to use " + escape(path) + ": " + why);
  };
  if (!S_ISREG(info.st_mode)) return refuse(Errc::kIncompatible, "it is not a regular file");
  if (purpose == Purpose::kLook) return {};
  if (info.st_uid != geteuid()) return refuse(Errc::kPermission, as_owner(info.st_uid));
  if (!is_segment(file.get())) return refuse(Errc::kIncompatible, std::string(kNoSegment));
  if ((info.st_mode & 077) != 0) {
    return refuse(Errc::kPermission, "other users may open it; chmod 600 " + shell_word(path));
  }
  if (!is_tmpfs(file.get())) return refuse(Errc::kIncompatible, "it is not on a tmpfs");
  return {};
}

std::string removal_advice(const std::string& name, const std::string& dir) {
  return "stop its coordinator and workers, then " +
         command_on_pool("poolctl", name, dir, "remove --stop");
}

// --- Creating ------------------------------------------------------------------------------------

// Nothing begins under a name while what had it before still runs.
Result<> check_predecessor(const std::string& name, const std::string& dir) {
  const std::vector<std::string> homes = homes_of_pool(name, dir);
  const auto wait_for = [&](const std::string& what) {
    return fail(Errc::kBusy, "unable to create pool " + name + " in " + escape(dir) + ": " + what);
  };
  const std::string start = command_on_pool("coordinatord", name, dir);
  for (const LostPool& lost : find_lost_pools(homes)) {
    const std::string what =
        "the pool that was here has lost its name (it was removed, moved or covered; now " +
        escape(lost.found_at) + ") and ";
    if (lost.is_judged) {
      return wait_for(what + "its coordinator" +
                      (lost.judge > 0 ? " (pid " + std::to_string(lost.judge) + ")" : "") +
                      " is ending its " + std::to_string(lost.live) +
                      " backends; a new pool can begin when it has left");
    }
    if (lost.live > 0) {
      return wait_for(what + std::to_string(lost.live) + " of its backends still run; " + start +
                      " ends them, then a new pool can begin");
    }
  }
  if (const auto orphans = find_orphans(homes); !orphans.empty()) {
    return wait_for("process " + std::to_string(orphans.front().identity().pid) + " and " +
                    std::to_string(orphans.size() - 1) +
                    " others of the pool that was here still run; " + start +
                    " ends them, then a new pool can begin");
  }
  return {};
}

// Builds NAME.tmp and renames it to NAME.
Result<> create(int dir_fd, const std::string& dir, const std::string& name,
                const SegmentOptions& options) {
  if (auto ok = check_capacities(options.capacities); !ok) return ok;
  const auto turn = take_turn(dir_fd, options.wait_ns, dir);
  if (!turn) return fail(turn.error());
  if (faccessat(dir_fd, name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0) return {};
  if (auto ok = check_predecessor(name, dir); !ok) return ok;

  const std::string temporary = name + ".tmp";
  unlinkat(dir_fd, temporary.c_str(), 0);
  const Fd file =
      open_above_stdio(dir_fd, temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  if (!file) return refuse_errno(errno, "create pool " + name, making_advice(errno));
  auto built = build_segment(
      file.get(), {name, home_of(dir + "/" + name), options.capacities, options.settings});
  if (built && renameat2(dir_fd, temporary.c_str(), dir_fd, name.c_str(), RENAME_NOREPLACE) != 0 &&
      errno != EEXIST) {
    built = fail_errno(errno, "name pool " + name);
  }
  if (!built) unlinkat(dir_fd, temporary.c_str(), 0);
  return built;
}

// --- Removing ------------------------------------------------------------------------------------

// A pool's files, held so that nobody comes or goes meanwhile.
struct Held {
  Fd turn;
  Fd file;
  Fd users;
};

// Errors: kBusy if a process uses the pool.
Result<Held> hold_alone(int dir_fd, const std::string& dir, const std::string& name,
                        std::uint64_t wait_ns) {
  Held held;
  auto turn = take_turn(dir_fd, wait_ns, dir);
  if (!turn) return fail(turn.error());
  held.turn = std::move(*turn);
  const std::string path = dir + "/" + name;
  held.file = open_file(dir_fd, name, Purpose::kUse);
  if (!held.file) return errno == ENOENT ? no_pool(name, dir) : explain_unopened(path, errno);
  if (auto ok = check_file(held.file, path, Purpose::kUse); !ok) return fail(ok.error());
  auto users = open_users(dir_fd, name);
  if (!users) return fail(users.error());
  held.users = std::move(*users);
  const auto is_free = [](const Fd& file) { return flock(file.get(), LOCK_EX | LOCK_NB) == 0; };
  // The coordinator's own lock, too: somebody may have removed the other file under it.
  if (!is_free(held.users) || !is_free(held.file)) {
    return fail(Errc::kBusy, "unable to remove pool " + name +
                                 ": processes are attached; fuser -v " + shell_word(path) + " " +
                                 shell_word(path + ".users") + " names them");
  }
  return held;
}

// What was examined, or nothing: not what has taken its name since.
Result<> unlink_held(int dir_fd, const std::string& name, const std::string& path,
                     const Held& held) {
  if (!same_file(dir_fd, name, held.file.get()) ||
      !same_file(dir_fd, name + ".users", held.users.get())) {
    return fail(Errc::kNoSuchPool,
                "unable to remove pool " + name + ": it was removed or replaced just now");
  }
  if (unlinkat(dir_fd, name.c_str(), 0) != 0) return refuse_errno(errno, "remove " + escape(path));
  unlinkat(dir_fd, (name + ".users").c_str(), 0);
  return {};
}

struct WorkerHead {
  std::uint64_t state;
  std::uint64_t start_ticks;
  std::uint64_t pidfd_inode;
  std::uint32_t pid;
};

// A daemonising server may have closed the descriptor that speaks for it: its row does. 0: there is
// none.
pid_t find_worker(const Fd& file, const Header& header) {
  const TableInfo& table = header.tables[static_cast<std::size_t>(Table::kWorkers)];
  for (std::uint64_t i = 0; i < table.count; ++i) {
    const auto read = [&](std::size_t offset, auto* value) {
      return pread(file.get(), value, sizeof *value,
                   static_cast<off_t>(table.offset + i * table.stride + offset)) ==
             static_cast<ssize_t>(sizeof *value);
    };
    WorkerHead row{};
    if (!read(offsetof(WorkerRecord, state), &row.state) || low_half(row.state) == 0) continue;
    read(offsetof(WorkerRecord, start_ticks), &row.start_ticks);
    read(offsetof(WorkerRecord, pidfd_inode), &row.pidfd_inode);
    read(offsetof(WorkerRecord, pid), &row.pid);
    const ProcessIdentity worker{static_cast<pid_t>(row.pid), row.start_ticks, row.pidfd_inode};
    if (process_liveness(worker) != Liveness::kDead) return worker.pid;
  }
  return 0;
}

// PIDs of another namespace name nobody here.
tl::unexpected<Error> explain_elsewhere(Error error, const std::string& name,
                                        const std::string& dir) {
  error.text += "; if that container has ended, " +
                command_on_pool("poolctl", name, dir, "remove --container-ended") +
                " takes away what it left";
  return tl::unexpected<Error>(std::move(error));
}

// May this pool be forgotten? Nothing of it may live, as far as its layout is known here.
Result<> check_nothing_lives(const Fd& file, const std::string& name, const std::string& dir,
                             const RemoveOptions& options) {
  const std::string path = dir + "/" + name;
  const auto refuse = [&](const std::string& why) {
    return fail(Errc::kBusy, "unable to remove pool " + name + ": " + why);
  };
  // What a damaged file does not name, or names elsewhere, carries the pool's place with it.
  const auto check_orphans = [&]() -> Result<> {
    const auto orphans = find_orphans(homes_of_pool(name, dir));
    if (orphans.empty()) return {};
    const pid_t pid = orphans.front().identity().pid;
    const auto stat = read_stat(pid);
    return refuse("process " + std::to_string(pid) +
                  (stat ? " (" + escape(stat->command) + ")" : "") +
                  " was started by it and still runs; end it first");
  };
  const auto pool = read_frozen(file.get(), path);
  if (!pool) return check_orphans();  // too short to name anybody
  const std::string stop =
      command_on_pool("poolctl", name, dir, "remove --stop") + " ends them first";
  const auto header = read_header(file.get(), path, "");
  if (header) {
    const auto this_boot = is_of_this_boot(*header);
    if (!this_boot) return fail(this_boot.error());
    if (!*this_boot) return {};
    if (auto here = check_host(*header, path); !here) {
      if (options.container_ended || is_abandoned(file, *header)) return {};
      return explain_elsewhere(here.error(), name, dir);
    }
    if (const pid_t worker = find_worker(file, *header); worker != 0) {
      return refuse("worker " + std::to_string(worker) + " is attached; stop it first");
    }
  }
  for (const FrozenBackend& backend : pool->live) {
    const auto pid = find_survivor(backend);
    if (!pid) continue;
    const std::string process = "process " + std::to_string(*pid);
    return refuse(options.stopped ? process +
                                        " is left of its backends, or may be: it is in their "
                                        "process group; see to it that it ends"
                                  : "it has live backends, " + process + " among them; " + stop);
  }
  if (!pool->live.empty() && !options.stopped) return refuse("it has live backends; " + stop);
  return header ? Result<>() : check_orphans();
}

// Left by a container or a boot that has ended? Then its name is free.
Result<> replace_abandoned(int dir_fd, const std::string& dir, const std::string& name,
                           std::uint64_t wait_ns) {
  auto held = hold_alone(dir_fd, dir, name, wait_ns);
  if (!held) return fail(held.error());
  if (auto ok = check_nothing_lives(held->file, name, dir, {}); !ok) return ok;
  return unlink_held(dir_fd, name, dir + "/" + name, *held);
}

// What a caller of open_to_use knows from one try to the next.
struct Tries {
  bool is_last = false;
  bool saw_older = false;  // a pool of an older layout had the name
};

// One try at it. An empty answer: the name is being given or taken away, look again.
Result<std::optional<OpenSegment>> try_open(int dir_fd, const std::string& dir,
                                            const std::string& name, const SegmentOptions& options,
                                            Tries* tries) {
  const std::string path = dir + "/" + name;
  OpenSegment opened;
  opened.path = path;
  opened.file = open_file(dir_fd, name, Purpose::kUse);
  if (!opened.file) {
    if (errno != ENOENT) return explain_unopened(path, errno);
    // Whoever has ended the older pool starts a coordinator, which knows how large it should be.
    if (tries->saw_older && !tries->is_last) {
      return fail(Errc::kBusy, "unable to attach to " + escape(path) + ": it is being upgraded");
    }
    if (!options.create) return no_pool(name, dir);
    if (auto ok = create(dir_fd, dir, name, options); !ok) return fail(ok.error());
    return std::optional<OpenSegment>();
  }
  if (auto ok = check_file(opened.file, path, Purpose::kUse); !ok) return fail(ok.error());
  if (const std::uint32_t layout = layout_of(opened.file.get());
      layout != 0 && layout < kLayoutVersion) {
    tries->saw_older = true;
    if (!tries->is_last) {
      return fail(Errc::kBusy,
                  "unable to attach to " + escape(path) + ": its layout is an older one");
    }
  }
  auto users = open_users(dir_fd, name);
  if (!users) return fail(users.error());
  opened.users = std::move(*users);
  if (auto ok = flock_within(opened.users.get(), LOCK_SH, options.wait_ns, path + ".users"); !ok)
    return fail(ok.error());
  // A removal may have come between open and lock, and the directory itself may have been moved.
  if (!same_file(dir_fd, name + ".users", opened.users.get()) ||
      !same_file(dir_fd, name, opened.file.get()) ||
      !same_file(AT_FDCWD, path, opened.file.get())) {
    return std::optional<OpenSegment>();
  }
  const auto header = read_header(opened.file.get(), path, removal_advice(name, dir));
  if (!header) return fail(header.error());
  opened.header = *header;
  const auto this_boot = is_of_this_boot(*header);
  if (!this_boot) return fail(this_boot.error());
  const auto here = check_host(*header, path);
  if (*this_boot && here) return std::optional<OpenSegment>(std::move(opened));
  opened.users.reset();
  const auto replaced = replace_abandoned(dir_fd, dir, name, options.wait_ns);
  if (!replaced && replaced.error().code != Errc::kNoSuchPool) {
    // Busy: its processes live, or somebody else looks at it at this moment.
    const bool is_used = *this_boot && replaced.error().code == Errc::kBusy;
    return is_used && tries->is_last ? explain_elsewhere(here.error(), name, dir)
                                     : fail(replaced.error());
  }
  if (options.create) return std::optional<OpenSegment>();
  return fail(Errc::kNoSuchPool,
              "unable to use " + escape(path) + ": it was left by " +
                  (*this_boot ? "a container that has ended" : "an earlier boot") +
                  " and nothing of it runs; start " + command_on_pool("coordinatord", name, dir));
}

}  // namespace

// --- Public --------------------------------------------------------------------------------------

Result<std::string> find_pool_dir(std::string_view name, const std::string& dir, Purpose purpose) {
  if (!dir.empty()) return absolute(dir);
  if (const std::string given = environment_or("MODELPOOL_DIR", ""); !given.empty())
    return absolute(given);
  return find_default_dir(std::string(name), purpose);
}

std::vector<std::string> homes_of_pool(std::string_view name, const std::string& dir) {
  std::vector<std::string> dirs{dir};
  if (dir == kRunDir || dir == shm_dir(geteuid())) dirs = {kRunDir, shm_dir(geteuid())};
  std::vector<std::string> homes;
  for (const std::string& one : dirs) homes.push_back(home_of(one + "/" + std::string(name)));
  return homes;
}

std::string command_on_pool(std::string_view program, std::string_view name, const std::string& dir,
                            std::string_view rest) {
  std::string command(program);
  const auto found_without = find_pool_dir(name, "", Purpose::kCreate);
  if (!found_without || *found_without != dir) command += " --dir " + shell_word(dir);
  if (name != environment_or("MODELPOOL_POOL", "default"))
    command += " --pool " + std::string(name);
  if (!rest.empty()) command += " " + std::string(rest);
  return command;
}

Result<OpenSegment> open_to_use(std::string_view name_view, const SegmentOptions& options) {
  if (auto ok = check_pool_name(name_view); !ok) return fail(ok.error());
  const std::string name(name_view);
  const Purpose purpose = options.create ? Purpose::kCreate : Purpose::kUse;
  const auto place = find_pool_dir(name, options.dir, purpose);
  if (!place) return fail(place.error());
  std::uint64_t until = add_ns(now_ns(), options.wait_ns);
  Tries tries;
  for (;;) {
    tries.is_last = now_ns() >= until;
    const auto dir = open_dir(*place, purpose);
    if (!dir)
      return dir.error().code == Errc::kNoSuchPool ? no_pool(name, *place) : fail(dir.error());
    const std::uint64_t tried_ns = now_ns();
    auto opened = try_open(dir->get(), *place, name, options, &tries);
    if (opened && opened->has_value()) return std::move(**opened);
    const bool is_busy = !opened && opened.error().code == Errc::kBusy;
    // What it made itself, which takes long if it is large, it did not wait for.
    if (opened) until = add_ns(until, age_ns(now_ns(), tried_ns));
    if (!opened && (!is_busy || tries.is_last)) return fail(opened.error());
    if (now_ns() >= add_ns(until, kAttachWaitMax_ns)) break;
    nanosleep(is_busy ? &kLostPause : &kRetryPause, nullptr);
  }
  return fail(Errc::kBusy, "unable to attach to " + escape(*place + "/" + name) +
                               ": it is being created and removed; try again");
}

Result<OpenSegment> open_to_look(std::string_view name_view, const std::string& dir_name) {
  if (auto ok = check_pool_name(name_view); !ok) return fail(ok.error());
  const std::string name(name_view);
  const auto place = find_pool_dir(name, dir_name, Purpose::kLook);
  if (!place) return fail(place.error());
  const auto dir = open_dir(*place, Purpose::kLook);
  if (!dir)
    return dir.error().code == Errc::kNoSuchPool ? no_pool(name, *place) : fail(dir.error());
  OpenSegment opened;
  opened.path = *place + "/" + name;
  opened.file = open_file(dir->get(), name, Purpose::kLook);
  if (!opened.file)
    return errno == ENOENT ? no_pool(name, *place) : explain_unopened(opened.path, errno);
  if (auto ok = check_file(opened.file, opened.path, Purpose::kLook); !ok) return fail(ok.error());
  const auto header = read_header(opened.file.get(), opened.path, removal_advice(name, *place));
  if (!header) return fail(header.error());
  opened.header = *header;
  const auto this_boot = is_of_this_boot(*header);
  if (!this_boot) return fail(this_boot.error());
  if (!*this_boot) {
    return fail(Errc::kNoSuchPool,
                "unable to use " + escape(opened.path) +
                    ": it was left by an earlier boot, and nothing of it runs; " +
                    command_on_pool("coordinatord", name, *place) +
                    " replaces it; to see what it held: poolctl status --file " +
                    shell_word(opened.path));
  }
  if (auto ok = check_host(*header, opened.path); !ok)
    return explain_elsewhere(ok.error(), name, *place);
  return opened;
}

Result<OpenSegment> open_copy(const std::string& path) {
  OpenSegment opened;
  opened.path = path;
  opened.file = open_file(AT_FDCWD, path, Purpose::kLook);
  if (!opened.file && errno == ENOENT) {
    return fail(Errc::kNoSuchPool, "unable to open " + escape(path) + ": there is no such file");
  }
  if (!opened.file) return explain_unopened(path, errno);
  if (auto ok = check_file(opened.file, path, Purpose::kLook); !ok) return fail(ok.error());
  const auto header =
      read_header(opened.file.get(), path, "look at it with the poolctl it was made with");
  if (!header) return fail(header.error());
  opened.header = *header;
  return opened;
}

Result<NamedFile> open_named(std::string_view name_view, const std::string& dir_name,
                             Purpose purpose) {
  if (auto ok = check_pool_name(name_view); !ok) return fail(ok.error());
  const std::string name(name_view);
  const auto place = find_pool_dir(name, dir_name, purpose);
  if (!place) return fail(place.error());
  const auto dir = open_dir(*place, purpose);
  if (!dir)
    return dir.error().code == Errc::kNoSuchPool ? no_pool(name, *place) : fail(dir.error());
  NamedFile named{open_file(dir->get(), name, purpose), *place + "/" + name};
  if (!named.file)
    return errno == ENOENT ? no_pool(name, *place) : explain_unopened(named.path, errno);
  if (auto ok = check_file(named.file, named.path, purpose); !ok) return fail(ok.error());
  return named;
}

Result<> remove_pool(std::string_view name_view, const std::string& dir_name,
                     const RemoveOptions& options) {
  if (auto ok = check_pool_name(name_view); !ok) return ok;
  const std::string name(name_view);
  const auto place = find_pool_dir(name, dir_name, Purpose::kUse);
  if (!place) return fail(place.error());
  const auto dir = open_dir(*place, Purpose::kUse);
  if (!dir)
    return dir.error().code == Errc::kNoSuchPool ? no_pool(name, *place)
                                                 : Result<>(fail(dir.error()));
  auto held = hold_alone(dir->get(), *place, name, kAttachWaitMax_ns);
  if (!held) return fail(held.error());
  if (options.only != nullptr && !same_file(dir->get(), name, options.only->file.get())) {
    return fail(Errc::kNoSuchPool, "unable to remove pool " + name +
                                       ": it was removed just now, and another has its name");
  }
  if (auto ok = check_nothing_lives(held->file, name, *place, options); !ok) return ok;
  return unlink_held(dir->get(), name, *place + "/" + name, *held);
}

}  // namespace modelpool
