#include "base/process.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <string_view>

#include "base/shortage.hpp"

namespace modelpool {
namespace {

constexpr long kPidfsMagic = 0x50494446;              // PID_FS_MAGIC, Linux 6.9
constexpr std::size_t kProcFileMax_bytes = 64 << 20;  // maps of the largest process and then some
constexpr int kOpenAttempts = 8;
constexpr const char* kLastPid = "/proc/sys/kernel/ns_last_pid";
constexpr const char* kBootId = "/proc/sys/kernel/random/boot_id";
constexpr unsigned kSignalProcessGroup = 1U << 2;  // PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9

template <class Call>
auto retry_eintr(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

std::string proc_path(pid_t pid, std::string_view file) {
  std::string path = "/proc/" + std::to_string(pid) + "/";
  path += file;
  return path;
}

// Returns 0 or an errno; `content` is whole or of no use.
int read_file(const std::string& path, std::string& content) {
  const Fd file(retry_eintr([&path] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
  if (!file) return errno;
  content.clear();
  std::array<char, 16384> chunk;
  for (;;) {
    const ssize_t got = retry_eintr([&] { return ::read(file.get(), chunk.data(), chunk.size()); });
    if (got < 0) return errno;
    if (got == 0) return 0;
    content.append(chunk.data(), static_cast<std::size_t>(got));
    if (content.size() > kProcFileMax_bytes) return EFBIG;
  }
}

// The first word of `text`, which it leaves.
std::string_view take_word(std::string_view& text) {
  const std::size_t start = text.find_first_not_of(" \t\n");
  text.remove_prefix(start == std::string_view::npos ? text.size() : start);
  const std::string_view word = text.substr(0, text.find_first_of(" \t\n"));
  text.remove_prefix(word.size());
  return word;
}

template <class T>
bool parse_number(std::string_view text, T& value, int base = 10) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size();
}

// "pid (command) state parent ...": the command may hold blanks and brackets, so its end is the
// last bracket of the file.
std::optional<ProcessStat> parse_stat(std::string_view text) {
  const std::size_t open = text.find('(');
  const std::size_t close = text.rfind(')');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) {
    return std::nullopt;
  }
  ProcessStat stat;
  std::string_view head = text.substr(0, open);
  if (!parse_number(take_word(head), stat.pid)) return std::nullopt;
  stat.command = text.substr(open + 1, close - open - 1);

  std::string_view rest = text.substr(close + 1);
  std::array<std::string_view, 49> fields;  // numbers 3 to 51 of proc(5)
  for (std::string_view& field : fields) field = take_word(rest);
  const auto field = [&fields](std::size_t number) { return fields[number - 3]; };
  constexpr std::uint32_t kOfKernel = 0x00200000;  // PF_KTHREAD
  std::int64_t rss_pages = 0;
  std::uint32_t flags = 0;
  if (field(3).size() != 1 || !parse_number(field(4), stat.parent) ||
      !parse_number(field(5), stat.group) || !parse_number(field(6), stat.session) ||
      !parse_number(field(9), flags) || !parse_number(field(20), stat.threads) ||
      !parse_number(field(22), stat.start_ticks) || !parse_number(field(24), rss_pages)) {
    return std::nullopt;
  }
  stat.state = field(3)[0];
  stat.is_of_kernel = (flags & kOfKernel) != 0;
  stat.has_environment = !field(51).empty() && field(51) != "0";
  if (rss_pages > 0) {
    stat.rss_bytes =
        static_cast<std::uint64_t>(rss_pages) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  }
  return stat;
}

// "start-end rights offset major:minor inode path", of /proc/PID/maps: does it map this file?
std::optional<bool> maps_line_is(std::string_view line, dev_t device, ino_t inode) {
  for (int i = 0; i < 3; ++i) take_word(line);
  const std::string_view numbers = take_word(line);
  const std::size_t colon = numbers.find(':');
  unsigned major_number = 0;
  unsigned minor_number = 0;
  std::uint64_t mapped = 0;
  if (colon == std::string_view::npos ||
      !parse_number(numbers.substr(0, colon), major_number, 16) ||
      !parse_number(numbers.substr(colon + 1), minor_number, 16) ||
      !parse_number(take_word(line), mapped)) {
    return std::nullopt;
  }
  return mapped == inode && makedev(major_number, minor_number) == device;
}

// The rest of the line of /proc/PID/status that starts with `name`.
std::optional<std::string> read_status_line(pid_t pid, std::string_view name) {
  std::string status;
  if (read_file(proc_path(pid, "status"), status) != 0) return std::nullopt;
  // Every field starts a line, and the one free text in it, the name, has its newlines escaped.
  const std::string start = "\n" + std::string(name) + ":";
  const std::size_t at = status.find(start);
  if (at == std::string::npos) return std::nullopt;
  const std::size_t value = at + start.size();
  return status.substr(value, status.find('\n', value) - value);
}

// Is the PID now the id of a thread that does not lead its process?
bool is_other_thread(pid_t pid) {
  const std::optional<std::string> line = read_status_line(pid, "Tgid");
  if (!line) return false;
  std::string_view rest = *line;
  pid_t leader = 0;
  return parse_number(take_word(rest), leader) && leader != pid;
}

// Sets errno. ESRCH here, as everywhere, proves that no process has the PID.
Fd open_pidfd(pid_t pid) {
  for (int attempt = 0;; ++attempt) {
    Fd fd = above_stdio(Fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0U))));
    // EINVAL, or ENOENT from newer kernels, is a PID that no process has but a thread: the one that
    // had it is gone. It is also what a process reaped during the call looks like, so look again.
    if (fd || (errno != EINVAL && errno != ENOENT)) return fd;
    const int error = errno;
    if (is_other_thread(pid)) {
      errno = ESRCH;
      return fd;
    }
    if (attempt == kOpenAttempts) {
      errno = error;
      return fd;
    }
  }
}

// What helps who cannot read in /proc.
std::string proc_advice(int error) {
  std::string shortage = shortage_advice(Needs::kDescriptor, error);
  return shortage.empty() ? "mount /proc" : shortage;
}

// 0 where pidfds have no inode of their own: all of them share one there.
std::uint64_t pidfd_inode(int fd) {
  struct statfs filesystem {};
  struct stat file {};
  if (retry_eintr([&] { return fstatfs(fd, &filesystem); }) != 0) return 0;
  if (static_cast<long>(filesystem.f_type) != kPidfsMagic) return 0;
  if (fstat(fd, &file) != 0) return 0;
  return file.st_ino;
}

Liveness pidfd_liveness(int fd) {
  if (fd < 0) return Liveness::kUnknown;
  pollfd poll_fd{fd, POLLIN, 0};
  const int ready = retry_eintr([&poll_fd] { return ::poll(&poll_fd, 1, 0); });
  if (ready < 0) return Liveness::kUnknown;
  if (ready == 0) return Liveness::kAlive;
  return (poll_fd.revents & (POLLIN | POLLHUP)) != 0 ? Liveness::kDead : Liveness::kUnknown;
}

// Opened first, read after (invariant 1). What was read belongs to the opened process if that still
// lives afterwards, for until then nobody else can have its PID.
struct Observed {
  Liveness liveness = Liveness::kUnknown;
  Fd fd;
  ProcessIdentity identity;
  int error = 0;  // an errno, unless alive
};

Observed observe(pid_t pid) {
  Observed seen;
  seen.fd = open_pidfd(pid);
  if (!seen.fd) {
    seen.error = errno;
    if (seen.error == ESRCH) seen.liveness = Liveness::kDead;
    return seen;
  }
  seen.identity.pid = pid;
  seen.identity.pidfd_inode = pidfd_inode(seen.fd.get());
  std::string text;
  const int error = read_file(proc_path(pid, "stat"), text);
  const std::optional<ProcessStat> stat = error == 0 ? parse_stat(text) : std::nullopt;
  if (stat) seen.identity.start_ticks = stat->start_ticks;
  const Liveness after = pidfd_liveness(seen.fd.get());
  if (after == Liveness::kDead) {
    seen.liveness = Liveness::kDead;
    seen.error = ESRCH;
  } else if (after == Liveness::kAlive && stat) {
    seen.liveness = Liveness::kAlive;
  } else {
    // Without the file but alive: /proc is hidden or descriptors ran out. EIO: not what proc(5)
    // says.
    seen.error = error != 0 ? error : EIO;
  }
  return seen;
}

// The identity of this process, in a page that reads as zeros in a forked child: there is no moment
// at which fork could copy an identity that is not the child's, nor a lock in the wrong state.
struct OwnPage {
  std::atomic<std::uint64_t> pid;  // 0: not known yet. Stored last, release; loaded first, acquire.
  std::atomic<std::uint64_t> start_ticks;
  std::atomic<std::uint64_t> pidfd_inode;
};

// Null if there is no such page to be had; the identity is then found anew each time.
OwnPage* own_page() {
  static std::atomic<OwnPage*> published{nullptr};
  // Acquire and release: a thread that sees the pointer sees a page that is set up.
  if (OwnPage* page = published.load(std::memory_order_acquire)) return page;
  void* memory =
      mmap(nullptr, sizeof(OwnPage), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  OwnPage* page = nullptr;
  if (madvise(memory, sizeof(OwnPage), MADV_WIPEONFORK) == 0) {
    OwnPage* const fresh = new (memory) OwnPage{};
    if (published.compare_exchange_strong(page, fresh, std::memory_order_acq_rel)) return fresh;
  }
  munmap(memory, sizeof(OwnPage));
  return page;  // another thread's, or null
}

int parse_hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

bool parse_uuid(std::string_view text, std::uint64_t (&words)[2]) {
  int digits = 0;
  for (const char c : text) {
    if (c == '-' || c == '\n') continue;
    const int digit = parse_hex_digit(c);
    if (digit < 0 || digits == 32) return false;
    std::uint64_t& word = words[digits / 16];
    word = word << 4 | static_cast<std::uint64_t>(digit);
    ++digits;
  }
  return digits == 32;
}

// The inode that names a namespace; 0 where the kernel does not have that kind.
Result<std::uint64_t> read_namespace(const char* path) {
  struct stat file {};
  if (retry_eintr([&] { return ::stat(path, &file); }) == 0) return file.st_ino;
  if (errno == ENOENT) return 0;
  return fail_errno(errno, std::string("read ") + path);
}

}  // namespace

std::optional<ProcessStat> read_stat(pid_t pid) {
  std::string text;
  if (pid <= 0 || read_file(proc_path(pid, "stat"), text) != 0) return std::nullopt;
  return parse_stat(text);
}

std::optional<uid_t> read_uid(pid_t pid) {
  if (pid <= 0) return std::nullopt;
  const std::optional<std::string> line = read_status_line(pid, "Uid");
  if (!line) return std::nullopt;
  std::string_view rest = *line;
  uid_t real = 0;
  if (!parse_number(take_word(rest), real)) return std::nullopt;
  return real;
}

std::optional<bool> is_in_inner_namespace(pid_t pid) {
  // Its numbers, from the namespace that /proc was mounted in to its own.
  const std::optional<std::string> line = read_status_line(pid, "NSpid");
  if (!line) return std::nullopt;
  std::string_view rest = *line;
  const bool has_one = !take_word(rest).empty();
  return has_one ? std::optional(!take_word(rest).empty()) : std::nullopt;
}

std::optional<std::string> read_environment(pid_t pid, std::string_view name) {
  std::string environment;
  if (pid <= 0 || name.empty() || read_file(proc_path(pid, "environ"), environment) != 0) {
    return std::nullopt;
  }
  std::string_view rest = environment;
  while (!rest.empty()) {
    const std::string_view entry = rest.substr(0, rest.find('\0'));
    if (entry.size() > name.size() && entry[name.size()] == '=' && entry.starts_with(name)) {
      return std::string(entry.substr(name.size() + 1));
    }
    rest.remove_prefix(entry.size() < rest.size() ? entry.size() + 1 : rest.size());
  }
  return std::nullopt;
}

std::optional<std::vector<pid_t>> list_pids() {
  std::vector<pid_t> pids;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir("/proc"), closedir);
  if (!directory) return std::nullopt;
  while (const dirent* entry = readdir(directory.get())) {
    pid_t pid = 0;
    if (parse_number(entry->d_name, pid) && pid > 0) pids.push_back(pid);
  }
  return pids;
}

std::optional<pid_t> read_last_pid() {
  const Fd file(retry_eintr([] { return ::open(kLastPid, O_RDONLY | O_CLOEXEC); }));
  std::array<char, 32> text;
  const ssize_t got =
      retry_eintr([&] { return file ? ::read(file.get(), text.data(), text.size()) : -1; });
  if (got <= 0) return std::nullopt;
  std::string_view rest(text.data(), static_cast<std::size_t>(got));
  pid_t last = 0;
  if (!parse_number(take_word(rest), last) || last <= 0) return std::nullopt;
  return last;
}

bool leads_threads(pid_t pid) { return syscall(SYS_tgkill, pid, pid, 0) == 0 || errno != ESRCH; }

std::uint64_t boot_ticks() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  const auto a_second = static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK));
  return static_cast<std::uint64_t>(now.tv_sec) * a_second +
         static_cast<std::uint64_t>(now.tv_nsec) * a_second / 1'000'000'000;
}

std::optional<bool> maps_file(pid_t pid, dev_t device, ino_t inode) {
  if (pid <= 0) return std::nullopt;
  const Fd file(
      retry_eintr([&] { return ::open(proc_path(pid, "maps").c_str(), O_RDONLY | O_CLOEXEC); }));
  if (!file) return std::nullopt;
  std::string text;  // lines, the last of them perhaps not whole
  std::array<char, 16384> chunk;
  for (bool is_empty = true;; is_empty = false) {
    const ssize_t got = retry_eintr([&] { return ::read(file.get(), chunk.data(), chunk.size()); });
    if (got < 0 || (got == 0 && (is_empty || !text.empty()))) return std::nullopt;
    if (got == 0) return false;
    text.append(chunk.data(), static_cast<std::size_t>(got));
    std::size_t start = 0;
    for (std::size_t end; (end = text.find('\n', start)) != text.npos; start = end + 1) {
      const auto maps =
          maps_line_is(std::string_view(text).substr(start, end - start), device, inode);
      if (!maps || *maps) return maps;  // the rest, often thousands of lines, is not asked for
    }
    text.erase(0, start);
  }
}

Result<ProcessHandle> ProcessHandle::open(pid_t pid) {
  if (pid <= 1) {
    return fail(Errc::kInvalid, "unable to open process " + std::to_string(pid) +
                                    ": PIDs from 2 on name one; check where this one came from");
  }
  Observed seen = observe(pid);
  if (seen.liveness != Liveness::kAlive) {
    return fail_errno(seen.error, "open process " + std::to_string(pid));
  }
  return ProcessHandle(std::move(seen.fd), seen.identity);
}

ProcessHandle::Verified ProcessHandle::open(const ProcessIdentity& expected) {
  if (expected.pid <= 0) return {};
  Observed seen = observe(expected.pid);
  const bool is_hidden = seen.liveness == Liveness::kUnknown && seen.fd &&
                         expected.pidfd_inode != 0 &&
                         pidfd_liveness(seen.fd.get()) == Liveness::kAlive;
  if (is_hidden && seen.identity.pidfd_inode == expected.pidfd_inode) {
    return {Liveness::kAlive, ProcessHandle(std::move(seen.fd), expected)};
  }
  if (seen.liveness != Liveness::kAlive) return {seen.liveness, {}};
  if (!seen.identity.is(expected)) {
    // A start time of 0 was never known (own_identity) and contradicts nothing.
    const bool unknown =
        expected.start_ticks == 0 && (expected.pidfd_inode == 0 || seen.identity.pidfd_inode == 0 ||
                                      expected.pidfd_inode == seen.identity.pidfd_inode);
    return {unknown ? Liveness::kUnknown : Liveness::kDead, {}};
  }
  return {Liveness::kAlive, ProcessHandle(std::move(seen.fd), seen.identity)};
}

ProcessHandle ProcessHandle::open_zombie(const ProcessIdentity& expected) {
  if (expected.pid <= 1) return {};
  Fd fd = open_pidfd(expected.pid);
  if (!fd) return {};
  // A zombie that is reaped after this leaves a number that may be another's: read before that, its
  // start time belongs to the one that is held, and the inode in any case.
  const auto stat = read_stat(expected.pid);
  const ProcessIdentity found{expected.pid, stat ? stat->start_ticks : 0, pidfd_inode(fd.get())};
  if (!stat || !found.is(expected)) return {};
  return ProcessHandle(std::move(fd), found);
}

ProcessHandle ProcessHandle::duplicate() const {
  Fd copy(fd_ ? fcntl(fd_.get(), F_DUPFD_CLOEXEC, 3) : -1);
  if (!copy) return {};
  return ProcessHandle(std::move(copy), identity_);
}

Liveness ProcessHandle::liveness() const { return pidfd_liveness(fd_.get()); }

Result<> ProcessHandle::signal(int signal) const {
  // PID 1 can be looked at, as the coordinator of a container, but never signalled.
  if (!fd_ || identity_.pid <= 1) {
    return fail(Errc::kInvalid, "unable to signal process " + std::to_string(identity_.pid) +
                                    ": it is none that may be signalled; open another");
  }
  if (syscall(SYS_pidfd_send_signal, fd_.get(), signal, nullptr, 0U) == 0) return {};
  return fail_errno(errno, "send signal " + std::to_string(signal) + " to process " +
                               std::to_string(identity_.pid));
}

Result<> ProcessHandle::signal_group(int signal) const {
  if (!fd_ || identity_.pid <= 1) {
    return fail(Errc::kInvalid, "unable to signal process group " + std::to_string(identity_.pid) +
                                    ": it is none that may be signalled; open another");
  }
  if (syscall(SYS_pidfd_send_signal, fd_.get(), signal, nullptr, kSignalProcessGroup) == 0)
    return {};
  return fail_errno(errno, "send signal " + std::to_string(signal) + " to process group " +
                               std::to_string(identity_.pid));
}

Liveness process_liveness(const ProcessIdentity& identity) {
  return ProcessHandle::open(identity).liveness;
}

ProcessIdentity own_identity() {
  OwnPage* const page = own_page();
  if (page != nullptr) {
    // Acquire: pairs with the release below, after which the other two words are there. They may be
    // relaxed since every thread that stores them stores the same.
    if (const std::uint64_t pid = page->pid.load(std::memory_order_acquire); pid != 0) {
      return {static_cast<pid_t>(pid), page->start_ticks.load(std::memory_order_relaxed),
              page->pidfd_inode.load(std::memory_order_relaxed)};
    }
  }
  Observed seen = observe(getpid());
  if (seen.liveness != Liveness::kAlive) {
    // Out of descriptors or /proc: what is known, and another try at the next call.
    seen.identity.pid = getpid();
    return seen.identity;
  }
  if (page != nullptr) {
    page->start_ticks.store(seen.identity.start_ticks, std::memory_order_relaxed);
    page->pidfd_inode.store(seen.identity.pidfd_inode, std::memory_order_relaxed);
    page->pid.store(static_cast<std::uint64_t>(seen.identity.pid), std::memory_order_release);
  }
  return seen.identity;
}

Result<> check_process_access() {
  const auto refused = [](int error, const std::string& what, const std::string& advice) {
    Error failure = fail_errno(error, "follow processes with " + what, advice).value();
    const bool lasts = error == EPERM || error == EACCES || error == ENOSYS || error == ENOENT;
    if (lasts) failure.code = Errc::kPermission;
    return fail(std::move(failure));
  };
  const Fd self = open_pidfd(getpid());
  if (!self) {
    const bool is_full = errno == EMFILE || errno == ENFILE;
    return refused(errno, "pidfd_open",
                   is_full ? shortage_advice(Needs::kDescriptor, errno)
                           : "allow pidfd_open and pidfd_send_signal in the seccomp profile; Linux "
                             "5.4 is the oldest kernel that has them");
  }
  if (syscall(SYS_pidfd_send_signal, self.get(), 0, nullptr, 0U) != 0) {
    return refused(errno, "pidfd_send_signal", "allow it in the seccomp profile");
  }
  std::array<char, 16> link{};
  if (readlink("/proc/self", link.data(), link.size() - 1) < 0) {
    return refused(errno, "/proc/self", proc_advice(errno));
  }
  if (std::string_view(link.data()) != std::to_string(getpid())) {
    return fail(Errc::kPermission,
                "unable to follow processes with /proc: it shows another PID namespace; mount the "
                "one of this namespace");
  }
  std::string text;
  const int error = read_file(proc_path(getpid(), "stat"), text);
  if (error != 0) return refused(error, "/proc/self/stat", proc_advice(error));
  return {};
}

std::string hidden_processes() {
  std::string mounts;
  if (read_file("/proc/self/mountinfo", mounts) != 0) return {};
  std::string_view options;  // of the file system that was mounted on /proc last
  std::string_view rest = mounts;
  while (!rest.empty()) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    const std::size_t type = line.find(" - proc ");
    for (int i = 0; i < 4; ++i) take_word(line);
    if (type == std::string_view::npos || take_word(line) != "/proc") continue;
    options = line.substr(line.rfind(' ') + 1);
  }
  const auto value_of = [&options](std::string_view name) -> std::string_view {
    for (std::string_view left = options; !left.empty();) {
      const std::string_view one = left.substr(0, left.find(','));
      if (one.starts_with(name)) return one.substr(name.size());
      left.remove_prefix(std::min(left.size(), one.size() + 1));
    }
    return {};
  };
  // Newer kernels show names, which mount takes as well as the numbers.
  std::string_view hidden = value_of("hidepid=");
  if (hidden == "noaccess") hidden = "1";
  if (hidden == "invisible") hidden = "2";
  if (hidden == "ptraceable") hidden = "4";
  if (hidden.empty() || hidden == "0" || hidden == "off") return {};
  std::uint64_t effective = 0;
  if (const auto line = read_status_line(getpid(), "CapEff")) {
    std::string_view value = *line;
    if (parse_number(take_word(value), effective, 16) && (effective >> CAP_SYS_PTRACE & 1) != 0) {
      return {};
    }
  }
  gid_t group = 0;
  if (hidden != "4" && parse_number(value_of("gid="), group)) {
    std::array<gid_t, 1024> groups;
    const int count = getgroups(static_cast<int>(groups.size()), groups.data());
    for (int i = 0; i < count; ++i) {
      if (groups[static_cast<std::size_t>(i)] == group) return {};
    }
    if (getegid() == group) return {};
  }
  return "/proc is mounted with hidepid=" + std::string(hidden) +
         ": processes of other users and processes that are not dumpable cannot be seen";
}

std::uint64_t image_id() {
  const void* const random = reinterpret_cast<const void*>(getauxval(AT_RANDOM));
  if (random == nullptr) return 0;  // no Linux that this builds for
  std::uint64_t words[2];
  std::memcpy(words, random, sizeof words);
  // The stack guard is made of the first word and the pointer guard is the second: their mixture
  // gives neither away.
  return words[0] ^ words[1] * 0x9e3779b97f4a7c15;
}

Result<HostIdentity> read_host_identity() {
  HostIdentity host;
  std::string boot_id;
  if (const int error = read_file(kBootId, boot_id); error != 0) {
    return fail_errno(error, std::string("read ") + kBootId, proc_advice(error));
  }
  if (!parse_uuid(boot_id, host.boot_id)) {
    return fail(Errc::kSystem, std::string("unable to read ") + kBootId +
                                   ": it is not a UUID; mount the kernel's own /proc");
  }
  Result<std::uint64_t> pid_namespace = read_namespace("/proc/self/ns/pid");
  if (!pid_namespace) return fail(std::move(pid_namespace.error()));
  Result<std::uint64_t> time_namespace = read_namespace("/proc/self/ns/time");
  if (!time_namespace) return fail(std::move(time_namespace.error()));
  host.pid_namespace = *pid_namespace;
  host.time_namespace = *time_namespace;
  return host;
}

}  // namespace modelpool
