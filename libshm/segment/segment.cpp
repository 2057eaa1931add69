#include "segment/segment.hpp"

#include <fcntl.h>
#include <gnu/libc-version.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/file_mapping.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <new>

#include "base/time.hpp"

namespace modelpool {
namespace {

constexpr std::uint64_t kAttachWaitMax_ns = 2 * kSecond_ns;
constexpr timespec kRetryPause{0, 2'000'000};

std::uint64_t round_up(std::uint64_t bytes, std::uint64_t to) { return (bytes + to - 1) / to * to; }

std::uint64_t fingerprint() {
  const std::uint64_t facts[] = {
      sizeof(Header),         sizeof(LockRecord),        sizeof(LineRecord),
      sizeof(SettingsRecord), sizeof(CoordinatorRecord), sizeof(ModelRecord),
      sizeof(WorkerRecord),   sizeof(BackendRecord),     sizeof(WaiterRecord),
      sizeof(EventRecord),    sizeof(LeaseRecord),       sizeof(pthread_mutex_t),
      sizeof(Settings),       sizeof(StopRecord),        sizeof(EventData),
      sizeof(LoadHistory),    sizeof(void*),             offsetof(LockRecord, holder_pid),
      offsetof(CoordinatorRecord, wanted), offsetof(CoordinatorRecord, doorbell),
      offsetof(WorkerRecord, leases_high), offsetof(BackendRecord, model),
      offsetof(BackendRecord, stop),       offsetof(WaiterRecord, wake), kSettingCount,
      offsetof(CoordinatorRecord, horizon_ns), offsetof(CoordinatorRecord, event_bell),
      offsetof(CoordinatorRecord, last_scan_ns), offsetof(CoordinatorRecord, next_event),
      offsetof(CoordinatorRecord, counters), offsetof(WorkerRecord, wake),
      offsetof(WorkerRecord, command), offsetof(BackendRecord, control),
      offsetof(BackendRecord, exit_status), offsetof(BackendRecord, model_hash),
      offsetof(BackendRecord, address), offsetof(BackendRecord, overrides),
      offsetof(BackendRecord, noted), offsetof(BackendRecord, drain_failed_ns),
      offsetof(WaiterRecord, arrival), offsetof(WaiterRecord, looked_ns), offsetof(WaiterRecord, model_hash), offsetof(WaiterRecord, model),
      offsetof(LeaseRecord, start_ns), offsetof(LeaseRecord, tag), offsetof(StopRecord, decided_ns),
      offsetof(StopRecord, for_arrival), offsetof(StopRecord, text), offsetof(EventData, count),
      offsetof(EventData, model), offsetof(EventData, text), offsetof(LoadHistory, error),
  };
  return hash_name({reinterpret_cast<const char*>(facts), sizeof facts}) ^ hash_name("glibc");
}

// The tables of a pool of these capacities, in order, each on a page of its own.
std::uint64_t place_tables(const Capacities& c, std::array<TableInfo, 16>* tables) {
  const std::uint64_t row = round_up(c.backends * sizeof(Word), kCacheLine_bytes);
  const TableInfo sizes[kTableCount] = {
      {0, sizeof(LockRecord), 1},          {0, sizeof(LineRecord), 1},
      {0, sizeof(SettingsRecord), 1},      {0, sizeof(CoordinatorRecord), 1},
      {0, sizeof(ModelRecord), c.models},  {0, sizeof(WorkerRecord), c.workers},
      {0, sizeof(BackendRecord), c.backends}, {0, sizeof(WaiterRecord), c.waiters},
      {0, sizeof(EventRecord), c.events},  {0, row, std::uint64_t{c.workers} + 1},
      {0, sizeof(LeaseRecord), std::uint64_t{c.workers} * c.leases},
  };
  std::uint64_t offset = kPage_bytes;
  for (std::size_t i = 0; i < kTableCount; ++i) {
    (*tables)[i] = sizes[i];
    (*tables)[i].offset = offset;
    offset = round_up(offset + sizes[i].stride * sizes[i].count, kPage_bytes);
  }
  return offset;
}

Result<> check_capacities(const Capacities& c) {
  const auto in_range = [](std::uint32_t n, std::uint32_t max) { return n >= 1 && n <= max; };
  if (in_range(c.backends, kBackendsMax) && in_range(c.workers, kWorkersMax) &&
      in_range(c.leases, 65536) && in_range(c.waiters, 65536) && in_range(c.events, 1u << 20) &&
      in_range(c.models, 65536)) {
    return {};
  }
  return fail(Errc::kInvalid,
              "unable to create a pool: capacities must be 1 to 4095 backends and workers, 1 to "
              "65536 leases, waiters and models, 1 to 1048576 events");
}

// --- Places --------------------------------------------------------------------------------------

bool is_tmpfs(int fd) {
  struct statfs fs;
  return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

std::string shm_dir() { return "/dev/shm/modelpool-" + std::to_string(geteuid()); }

bool is_usable_run_dir(const char* path) {
  Fd dir(open(path, O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_RDONLY));
  struct stat info;
  return dir && fstat(dir.get(), &info) == 0 && info.st_uid == geteuid() && is_tmpfs(dir.get());
}

constexpr const char* kRunDir = "/run/modelpool";

// Opens the pool's directory and refuses one that others may get into.
Result<Fd> open_dir(const std::string& path, bool create, bool read_only) {
  const bool made = create && mkdir(path.c_str(), 0700) == 0;
  if (create && !made && errno != EEXIST) return fail_errno(errno, "create directory " + escape(path));
  Fd dir(open(path.c_str(), O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_RDONLY));
  if (!dir) {
    const int error = errno;
    if (error == ENOENT) {
      return fail(Errc::kNoSuchPool, "unable to open pool directory " + escape(path) + ": there is none");
    }
    if (error == ELOOP || error == ENOTDIR) {
      return fail(Errc::kPermission, "unable to use " + escape(path) +
                                         ": it is a symbolic link or no directory; name a directory");
    }
    return fail_errno(error, "open directory " + escape(path));
  }
  struct stat info;
  if (fstat(dir.get(), &info) != 0) return fail_errno(errno, "examine directory " + escape(path));
  const bool inspecting_root = read_only && geteuid() == 0;
  if (info.st_uid != geteuid() && !inspecting_root) {
    return fail(Errc::kPermission, "unable to use directory " + escape(path) + ": it belongs to user " +
                                       std::to_string(info.st_uid) + ", not to " +
                                       std::to_string(geteuid()) + "; run as its owner");
  }
  if ((info.st_mode & 077) != 0 && !inspecting_root) {
    return fail(Errc::kPermission, "unable to use directory " + escape(path) +
                                       ": it is open to other users; chmod 700 " + escape(path));
  }
  if (!read_only && !is_tmpfs(dir.get())) {
    if (made) rmdir(path.c_str());
    return fail(Errc::kIncompatible,
                "unable to use directory " + escape(path) + ": it is not on a tmpfs; use one under /dev/shm or /run");
  }
  return dir;
}

// --- Locks on files ------------------------------------------------------------------------------

Result<> flock_within(int fd, int operation, std::uint64_t wait_ns, const std::string& what) {
  const std::uint64_t until = now_ns() + wait_ns;
  while (flock(fd, operation | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return fail_errno(errno, "lock " + escape(what));
    if (now_ns() >= until) {
      return fail(Errc::kBusy, "unable to lock " + escape(what) + ": another process holds it");
    }
    nanosleep(&kRetryPause, nullptr);
  }
  return {};
}

Result<Fd> open_users(int dir, const std::string& name) {
  const std::string file = name + ".users";
  Fd users(openat(dir, file.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!users) return fail_errno(errno, "open " + file);
  return users;
}

bool same_file(int dir, const std::string& name, int fd) {
  struct stat by_name;
  struct stat by_fd;
  return fstatat(dir, name.c_str(), &by_name, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &by_fd) == 0 &&
         by_name.st_dev == by_fd.st_dev && by_name.st_ino == by_fd.st_ino;
}

// --- Building ------------------------------------------------------------------------------------

Result<> build(int fd, const std::string& name, const SegmentOptions& options) {
  const auto host = read_host_identity();
  if (!host) return fail(host.error());
  Header header;
  header.magic = kSegmentMagic;
  header.layout_version = kLayoutVersion;
  header.header_bytes = sizeof(Header);
  header.total_bytes = place_tables(options.capacities, &header.tables);
  header.abi_fingerprint = fingerprint();
  header.boot_id[0] = host->boot_id[0];
  header.boot_id[1] = host->boot_id[1];
  header.pid_namespace = host->pid_namespace;
  header.time_namespace = host->time_namespace;
  if (getrandom(header.uuid, sizeof header.uuid, 0) != sizeof header.uuid) {
    return fail_errno(errno, "draw a random number for pool " + name);
  }
  header.created_ns = wall_clock_ns();
  header.uid = geteuid();
  header.mutex_bytes = sizeof(pthread_mutex_t);
  name.copy(header.name.data(), header.name.size() - 1);
  std::snprintf(header.libc.data(), header.libc.size(), "glibc %s", gnu_get_libc_version());

  int error;
  do {
    error = posix_fallocate(fd, 0, static_cast<off_t>(header.total_bytes));
  } while (error == EINTR);
  if (error != 0) {
    return fail_errno(error, "create pool " + name,
                      "it needs " + format_size(header.total_bytes) +
                          " on its tmpfs; free some, or choose smaller capacities");
  }
  namespace bi = boost::interprocess;
  try {
    const bi::file_mapping file(("/proc/self/fd/" + std::to_string(fd)).c_str(), bi::read_write);
    const bi::mapped_region region(file, bi::read_write, 0, header.total_bytes);
    auto* base = static_cast<std::byte*>(region.get_address());
    std::memcpy(base, &header, sizeof header);
    const auto offset = [&](Table t) { return header.tables[static_cast<std::size_t>(t)].offset; };
    auto* lock = reinterpret_cast<LockRecord*>(base + offset(Table::kLock));
    if (auto made = init_mutex(*lock); !made) return made;
    if (options.settings != nullptr) {
      reinterpret_cast<SettingsRecord*>(base + offset(Table::kSettingsBlock))
          ->settings.publish(*options.settings);
    }
  } catch (const bi::interprocess_exception& e) {
    return fail(Errc::kSystem, "unable to map pool " + name + ": " + e.what());
  }
  return {};
}

// Builds NAME.tmp and renames it to NAME. The directory's lock makes creators take turns.
Result<> create(int dir, const std::string& name, const SegmentOptions& options) {
  if (auto ok = check_capacities(options.capacities); !ok) return ok;
  Fd turn(openat(dir, ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC));
  if (!turn) return fail_errno(errno, "open the pool directory");
  if (auto ok = flock_within(turn.get(), LOCK_EX, kAttachWaitMax_ns, "the pool directory"); !ok) return ok;
  if (faccessat(dir, name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0) return {};

  const std::string temporary = name + ".tmp";
  unlinkat(dir, temporary.c_str(), 0);
  Fd file(openat(dir, temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return fail_errno(errno, "create pool " + name);
  auto built = build(file.get(), name, options);
  if (built && renameat2(dir, temporary.c_str(), dir, name.c_str(), RENAME_NOREPLACE) != 0 &&
      errno != EEXIST) {
    built = fail_errno(errno, "name pool " + name);
  }
  if (!built) unlinkat(dir, temporary.c_str(), 0);
  return built;
}

// --- Checking ------------------------------------------------------------------------------------

Result<Header> read_header(int fd, const std::string& path) {
  const auto refuse = [&](const std::string& why) {
    return fail(Errc::kIncompatible, "unable to use " + escape(path) + ": " + why);
  };
  Header header;
  const ssize_t got = pread(fd, &header, sizeof header, 0);
  if (got < 0) return fail_errno(errno, "read " + escape(path));
  struct stat info;
  if (fstat(fd, &info) != 0) return fail_errno(errno, "examine " + escape(path));
  if (got < static_cast<ssize_t>(offsetof(Header, abi_fingerprint)) || header.magic != kSegmentMagic) {
    return refuse("it is not a modelpool segment");
  }
  if (header.layout_version != kLayoutVersion) {
    return refuse("it has layout version " + std::to_string(header.layout_version) +
                  ", this program knows " + std::to_string(kLayoutVersion) +
                  "; stop its workers, then `poolctl remove --stop` it");
  }
  if (got < static_cast<ssize_t>(sizeof header) ||
      static_cast<std::uint64_t>(info.st_size) < header.total_bytes) {
    return refuse("it is too short (" + std::to_string(info.st_size) + " of " +
                  std::to_string(header.total_bytes) + " bytes)");
  }
  if (header.abi_fingerprint != fingerprint()) {
    header.libc.back() = 0;
    return refuse("it was created by a build with another memory layout (" +
                  escape(header.libc.data()) +
                  "); use one build everywhere, or stop all and `poolctl remove` it");
  }
  Capacities c;
  const auto count = [&](Table t) {
    return static_cast<std::uint32_t>(header.tables[static_cast<std::size_t>(t)].count);
  };
  c.models = count(Table::kModels);
  c.workers = count(Table::kWorkers);
  c.backends = count(Table::kBackends);
  c.waiters = count(Table::kWaiters);
  c.events = count(Table::kEvents);
  c.leases = c.workers == 0 ? 0 : count(Table::kLeases) / c.workers;
  std::array<TableInfo, 16> expected{};
  if (!check_capacities(c) || place_tables(c, &expected) != header.total_bytes ||
      expected != header.tables) {
    return refuse("its table of contents is damaged");
  }
  header.name.back() = 0;
  header.libc.back() = 0;
  return header;
}

Result<> check_host(const Header& header, const std::string& path) {
  const auto host = read_host_identity();
  if (!host) return fail(host.error());
  if (header.pid_namespace != host->pid_namespace || header.time_namespace != host->time_namespace) {
    const bool pid = header.pid_namespace != host->pid_namespace;
    return fail(Errc::kIncompatible,
                "unable to use " + escape(path) + ": it belongs to another " + (pid ? "PID" : "time") +
                    " namespace (" + std::to_string(pid ? header.pid_namespace : header.time_namespace) +
                    ", here " + std::to_string(pid ? host->pid_namespace : host->time_namespace) +
                    "); run all its processes in one container, or share that namespace");
  }
  return {};
}

Result<bool> is_of_this_boot(const Header& header) {
  const auto host = read_host_identity();
  if (!host) return fail(host.error());
  return header.boot_id[0] == host->boot_id[0] && header.boot_id[1] == host->boot_id[1];
}

Result<Fd> open_segment_file(int dir, const std::string& name, const std::string& path, bool read_only) {
  Fd file(openat(dir, name.c_str(),
                 (read_only ? O_RDONLY : O_RDWR) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file) {
    const int error = errno;
    if (error == ENOENT) {
      return fail(Errc::kNoSuchPool, "unable to find pool " + name + ": there is no " + escape(path) +
                                         "; start coordinatord --pool " + name + ", or name its --dir");
    }
    if (error == ELOOP) {
      return fail(Errc::kPermission, "unable to use " + escape(path) + ": it is a symbolic link");
    }
    if (error == EACCES) {
      return fail(Errc::kPermission, "unable to use " + escape(path) + ": permission denied; run as its owner");
    }
    return fail_errno(error, "open " + escape(path));
  }
  struct stat info;
  if (fstat(file.get(), &info) != 0) return fail_errno(errno, "examine " + escape(path));
  if (!S_ISREG(info.st_mode)) {
    return fail(Errc::kIncompatible, "unable to use " + escape(path) + ": it is not a regular file");
  }
  if (read_only) return file;
  if (info.st_uid != geteuid()) {
    return fail(Errc::kPermission, "unable to use " + escape(path) + ": it belongs to user " +
                                       std::to_string(info.st_uid) + ", not to " +
                                       std::to_string(geteuid()) + "; run as its owner");
  }
  if ((info.st_mode & 077) != 0) {
    return fail(Errc::kPermission,
                "unable to use " + escape(path) + ": other users may open it; chmod 600 " + escape(path));
  }
  if (!is_tmpfs(file.get())) {
    return fail(Errc::kIncompatible, "unable to use " + escape(path) + ": it is not on a tmpfs");
  }
  return file;
}

// Writable mappings of this process, so that attaching again finds the same one. Push only.
struct Mapped {
  std::shared_ptr<Segment> segment;
  Mapped* next;
};
std::atomic<Mapped*> g_mapped{nullptr};

std::shared_ptr<Segment> find_mapped(dev_t device, ino_t inode) {
  // acquire: pairs with the release of the push, which published the node
  for (Mapped* m = g_mapped.load(std::memory_order_acquire); m != nullptr; m = m->next) {
    if (m->segment->device() == device && m->segment->inode() == inode) return m->segment;
  }
  return nullptr;
}

void remember_mapped(std::shared_ptr<Segment> segment) {
  auto* node = new Mapped{std::move(segment), g_mapped.load(std::memory_order_relaxed)};
  while (!g_mapped.compare_exchange_weak(node->next, node, std::memory_order_release,
                                         std::memory_order_relaxed)) {
  }
}

// A process may change its directory after it has attached.
std::string absolute(const std::string& path) {
  std::error_code error;
  const std::string result = std::filesystem::absolute(path, error).lexically_normal();
  return error ? path : result;
}

}  // namespace

struct Segment::Opened {
  Fd file;
  Fd users;
  std::string path;
  Header header;
};

Result<std::string> find_pool_dir(std::string_view name, const std::string& dir) {
  if (!dir.empty()) return absolute(dir);
  if (const char* env = std::getenv("MODELPOOL_DIR"); env != nullptr && *env != 0) return absolute(env);
  const std::string shm = shm_dir();
  if (!is_usable_run_dir(kRunDir)) return shm;
  const std::string run = kRunDir;
  const auto exists = [&](const std::string& in) {
    return access((in + "/" + std::string(name)).c_str(), F_OK) == 0;
  };
  if (exists(shm)) {
    if (exists(run)) {
      return fail(Errc::kInvalid, "unable to choose pool " + std::string(name) + ": it exists as " + run +
                                      "/" + std::string(name) + " and " + shm + "/" +
                                      std::string(name) + "; name one with --dir, remove the other");
    }
    return shm;
  }
  return run;
}

Result<std::shared_ptr<Segment>> Segment::map(Opened opened, bool writable) {
  struct stat info;
  if (fstat(opened.file.get(), &info) != 0) return fail_errno(errno, "examine " + escape(opened.path));
  auto segment = std::shared_ptr<Segment>(new Segment());
  namespace bi = boost::interprocess;
  std::byte* base = nullptr;
  try {
    const auto mode = writable ? bi::read_write : bi::read_only;
    const bi::file_mapping file(("/proc/self/fd/" + std::to_string(opened.file.get())).c_str(), mode);
    auto region = std::make_shared<bi::mapped_region>(file, mode, 0, opened.header.total_bytes);
    base = static_cast<std::byte*>(region->get_address());
    segment->mapping_ = std::move(region);
  } catch (const bi::interprocess_exception& e) {
    return fail(Errc::kSystem, "unable to map " + escape(opened.path) + ": " + e.what());
  }
  for (std::size_t i = 0; i < kTableCount; ++i) segment->tables_[i] = base + opened.header.tables[i].offset;
  const auto& tables = opened.header.tables;
  const auto count = [&](Table t) {
    return static_cast<std::uint32_t>(tables[static_cast<std::size_t>(t)].count);
  };
  segment->header_ = opened.header;
  segment->capacities_ = {count(Table::kBackends), count(Table::kWorkers),
                          count(Table::kLeases) / count(Table::kWorkers), count(Table::kWaiters),
                          count(Table::kEvents),   count(Table::kModels)};
  segment->last_used_stride_ = tables[static_cast<std::size_t>(Table::kLastUsed)].stride;
  segment->path_ = std::move(opened.path);
  segment->name_ = opened.header.name.data();
  segment->writable_ = writable;
  segment->device_ = info.st_dev;
  segment->inode_ = info.st_ino;
  segment->users_ = std::move(opened.users);
  if (writable) remember_mapped(segment);
  return segment;
}

Segment::~Segment() = default;

Result<std::shared_ptr<Segment>> Segment::attach(std::string_view name_view, const SegmentOptions& options) {
  if (auto ok = check_pool_name(name_view); !ok) return fail(ok.error());
  const std::string name(name_view);
  const auto place = find_pool_dir(name, options.dir);
  if (!place) return fail(place.error());
  auto dir = open_dir(*place, options.create, false);
  if (!dir) return fail(dir.error());
  const std::string path = *place + "/" + name;

  for (const std::uint64_t until = now_ns() + kAttachWaitMax_ns; now_ns() < until;
       nanosleep(&kRetryPause, nullptr)) {
    auto file = open_segment_file(dir->get(), name, path, false);
    if (!file) {
      if (file.error().code != Errc::kNoSuchPool || !options.create) return fail(file.error());
      if (auto ok = create(dir->get(), name, options); !ok) return fail(ok.error());
      continue;
    }
    auto users = open_users(dir->get(), name);
    if (!users) return fail(users.error());
    if (auto ok = flock_within(users->get(), LOCK_SH, kAttachWaitMax_ns, path + ".users"); !ok) {
      return fail(ok.error());
    }
    // A removal may have come between open and lock: then both names are gone.
    if (!same_file(dir->get(), name + ".users", users->get()) ||
        !same_file(dir->get(), name, file->get())) {
      continue;
    }
    struct stat info;
    if (fstat(file->get(), &info) != 0) return fail_errno(errno, "examine " + escape(path));
    if (auto mapped = find_mapped(info.st_dev, info.st_ino)) return mapped;
    auto header = read_header(file->get(), path);
    if (!header) return fail(header.error());
    const auto this_boot = is_of_this_boot(*header);
    if (!this_boot) return fail(this_boot.error());
    if (!*this_boot) {  // everyone in it is dead
      users->reset();
      if (auto ok = remove(name, *place); !ok && ok.error().code != Errc::kNoSuchPool) {
        return fail(ok.error());
      }
      if (!options.create) {
        return fail(Errc::kNoSuchPool, "unable to use " + escape(path) + ": it was left by an earlier boot");
      }
      continue;
    }
    if (auto ok = check_host(*header, path); !ok) return fail(ok.error());
    return map(Opened{std::move(*file), std::move(*users), path, *header}, true);
  }
  return fail(Errc::kBusy, "unable to attach to " + escape(path) + ": it is being created and removed; try again");
}

Result<std::shared_ptr<Segment>> Segment::open_read_only(std::string_view name_view, const std::string& dir_name) {
  if (auto ok = check_pool_name(name_view); !ok) return fail(ok.error());
  const std::string name(name_view);
  const auto place = find_pool_dir(name, dir_name);
  if (!place) return fail(place.error());
  const std::string path = *place + "/" + name;
  auto dir = open_dir(*place, false, true);
  if (!dir) {
    if (dir.error().code == Errc::kNoSuchPool) {
      return fail(Errc::kNoSuchPool, "unable to find pool " + name + ": there is no " + escape(path) +
                                         "; start coordinatord --pool " + name + ", or name its --dir");
    }
    return fail(dir.error());
  }
  auto file = open_segment_file(dir->get(), name, path, true);
  if (!file) return fail(file.error());
  auto header = read_header(file->get(), path);
  if (!header) return fail(header.error());
  if (auto ok = check_host(*header, path); !ok) return fail(ok.error());
  return map(Opened{std::move(*file), Fd(), path, *header}, false);
}

Result<std::shared_ptr<Segment>> Segment::open_file(const std::string& path) {
  auto file = open_segment_file(AT_FDCWD, path, path, true);
  if (!file) {
    if (file.error().code != Errc::kNoSuchPool) return fail(file.error());
    return fail(Errc::kNoSuchPool, "unable to open " + escape(path) + ": there is no such file");
  }
  auto header = read_header(file->get(), path);
  if (!header) return fail(header.error());
  return map(Opened{std::move(*file), Fd(), path, *header}, false);
}

Result<> Segment::remove(std::string_view name_view, const std::string& dir_name) {
  if (auto ok = check_pool_name(name_view); !ok) return ok;
  const std::string name(name_view);
  const auto place = find_pool_dir(name, dir_name);
  if (!place) return fail(place.error());
  const std::string path = *place + "/" + name;
  auto dir = open_dir(*place, false, false);
  if (!dir) return fail(dir.error());
  auto file = open_segment_file(dir->get(), name, path, false);
  if (!file) return fail(file.error());
  auto users = open_users(dir->get(), name);
  if (!users) return fail(users.error());
  if (flock(users->get(), LOCK_EX | LOCK_NB) != 0) {
    return fail(Errc::kBusy, "unable to remove pool " + name +
                                 ": processes are attached; `poolctl workers` and `status` name them");
  }
  if (!same_file(dir->get(), name + ".users", users->get())) {
    return fail(Errc::kNoSuchPool, "unable to remove pool " + name + ": it was removed just now");
  }
  if (auto header = read_header(file->get(), path); header) {
    const auto this_boot = is_of_this_boot(*header);
    if (this_boot && *this_boot) {
      // A descriptor may have been closed under its owner (daemonising servers do that): count
      // those who say they are here, and whatever may still hold memory.
      auto segment = map(Opened{std::move(*file), Fd(), path, *header}, false);
      if (!segment) return fail(segment.error());
      for (std::uint32_t i = 0; i < (*segment)->capacities().backends; ++i) {
        const auto state = StateWord::unpack((*segment)->backend(i).state.load(std::memory_order_seq_cst));
        if (is_live(state.state)) {
          return fail(Errc::kBusy, "unable to remove pool " + name + ": it has live backends; `poolctl remove --stop` ends them first");
        }
      }
      for (std::uint32_t i = 0; i < (*segment)->capacities().workers; ++i) {
        const WorkerRecord& row = (*segment)->worker(i);
        if (low_half(row.state.load(std::memory_order_seq_cst)) == 0) continue;
        const ProcessIdentity worker{
            static_cast<pid_t>(row.pid.load(std::memory_order_relaxed)),
            row.start_ticks.load(std::memory_order_relaxed), row.pidfd_inode.load(std::memory_order_relaxed)};
        if (process_liveness(worker) != Liveness::kDead) {
          return fail(Errc::kBusy, "unable to remove pool " + name + ": worker " +
                                       std::to_string(worker.pid) + " is attached; stop it first");
        }
      }
    }
  }
  if (unlinkat(dir->get(), name.c_str(), 0) != 0) return fail_errno(errno, "remove " + escape(path));
  unlinkat(dir->get(), (name + ".users").c_str(), 0);
  return {};
}

std::string Segment::uuid_text() const {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(header_.uuid[0]),
                static_cast<unsigned long long>(header_.uuid[1]));
  return text;
}

std::string Segment::token(std::uint32_t backend, std::uint32_t generation) const {
  return uuid_text() + "/" + std::to_string(backend) + "/" + std::to_string(generation);
}

bool Segment::is_replaced() const {
  // relaxed: the word only ever turns from 0 to 1 and guards nothing else
  if (line().replaced.load(std::memory_order_relaxed) != 0) return true;
  struct stat info;
  if (stat(path_.c_str(), &info) == 0) return info.st_dev != device_ || info.st_ino != inode_;
  // The name may be out of sight only for this process (chroot). A coordinator that lives would know.
  return errno == ENOENT && coordinator_liveness(*this) == Liveness::kDead;
}

const Settings* current_settings(const Segment& segment) {
  struct Cached {
    std::uint64_t uuid[2] = {0, 0};
    std::uint64_t generation = 0;
    Settings settings;
  };
  thread_local std::unique_ptr<Cached> cached;
  if (!cached) cached = std::make_unique<Cached>();
  const auto& published = segment.settings().settings;
  const std::uint64_t generation = published.generation();
  if (generation == 0) return nullptr;
  const auto& uuid = segment.header().uuid;
  if (cached->generation != generation || cached->uuid[0] != uuid[0] || cached->uuid[1] != uuid[1]) {
    cached->settings = published.load();
    cached->generation = generation;
    cached->uuid[0] = uuid[0];
    cached->uuid[1] = uuid[1];
  }
  return &cached->settings;
}

void futex_wake_all(const HalfWord& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void futex_wait(const HalfWord& word, std::uint32_t seen, std::uint64_t until_ns) {
  const timespec until{static_cast<time_t>(until_ns / kSecond_ns), static_cast<long>(until_ns % kSecond_ns)};
  // FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time.
  syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, seen, until_ns == kNever_ns ? nullptr : &until, nullptr,
          FUTEX_BITSET_MATCH_ANY);
}

void ring(const Segment& segment) {
  HalfWord& bell = segment.coordinator().doorbell;
  bell.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(bell);
}

CoordinatorIdentity read_coordinator(const Segment& segment) {
  const CoordinatorRecord& record = segment.coordinator();
  CoordinatorIdentity found;
  for (int attempt = 0; attempt < 100; ++attempt) {
    // acquire: pairs with the epoch's seq_cst store, made after the identity
    found.epoch = static_cast<std::uint32_t>(record.epoch.load(std::memory_order_acquire));
    found.process.pid = static_cast<pid_t>(record.pid.load(std::memory_order_acquire));
    found.process.start_ticks = record.start_ticks.load(std::memory_order_acquire);
    found.process.pidfd_inode = record.pidfd_inode.load(std::memory_order_acquire);
    if (record.epoch.load(std::memory_order_acquire) == found.epoch) break;
  }
  return found;
}

Liveness coordinator_liveness(const Segment& segment, CoordinatorIdentity* found) {
  const CoordinatorIdentity now = read_coordinator(segment);
  if (found != nullptr) *found = now;
  if (now.epoch == 0) return Liveness::kDead;
  const Liveness liveness = process_liveness(now.process);
  if (liveness == Liveness::kAlive && segment.coordinator().leaving.load(std::memory_order_acquire) == 1) {
    return Liveness::kDead;  // it has left in order and will not look again
  }
  return liveness;
}

}  // namespace modelpool
