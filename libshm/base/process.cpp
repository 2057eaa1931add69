#include "base/process.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <string_view>

namespace modelpool {
namespace {

constexpr long kPidfsMagic = 0x50494446;              // PID_FS_MAGIC, Linux 6.9
constexpr std::size_t kProcFileMax_bytes = 64 << 20;  // maps of the largest process and then some
constexpr int kOpenAttempts = 8;
constexpr const char* kBootId = "/proc/sys/kernel/random/boot_id";

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
  std::array<std::string_view, 22> fields;  // numbers 3 to 24 of proc(5)
  for (std::string_view& field : fields) field = take_word(rest);
  const auto field = [&fields](std::size_t number) { return fields[number - 3]; };
  std::int64_t rss_pages = 0;
  if (field(3).size() != 1 || !parse_number(field(4), stat.parent) ||
      !parse_number(field(5), stat.group) || !parse_number(field(6), stat.session) ||
      !parse_number(field(20), stat.threads) || !parse_number(field(22), stat.start_ticks) ||
      !parse_number(field(24), rss_pages)) {
    return std::nullopt;
  }
  stat.state = field(3)[0];
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
    return fail_errno(error, std::string("read ") + kBootId, "mount /proc");
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
