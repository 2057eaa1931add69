#include "base/proc.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <memory>

#include "base/fd.hpp"

namespace modelpool {
namespace {

constexpr std::size_t kProcFileMax_bytes = 64 << 20;  // maps of the largest process and then some

std::nullopt_t nothing(int error) {
  errno = error;
  return std::nullopt;
}

std::optional<std::string> read_file(const std::string& path) {
  const Fd file(retry_eintr([&path] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
  if (!file) return std::nullopt;
  std::string content;
  std::array<char, 16384> chunk;
  for (;;) {
    const ssize_t got = retry_eintr([&] { return ::read(file.get(), chunk.data(), chunk.size()); });
    if (got < 0) return std::nullopt;
    if (got == 0) return content;
    content.append(chunk.data(), static_cast<std::size_t>(got));
    if (content.size() > kProcFileMax_bytes) return nothing(EFBIG);
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
  constexpr std::uint32_t kOfKernel = 0x00200000;     // PF_KTHREAD
  constexpr std::uint32_t kForkedNotExecuted = 0x40;  // PF_FORKNOEXEC
  std::int64_t rss_pages = 0;
  std::uint64_t user_ticks = 0;
  std::uint64_t kernel_ticks = 0;
  std::uint32_t flags = 0;
  if (field(3).size() != 1 || !parse_number(field(4), stat.parent) ||
      !parse_number(field(5), stat.group) || !parse_number(field(6), stat.session) ||
      !parse_number(field(9), flags) || !parse_number(field(14), user_ticks) ||
      !parse_number(field(15), kernel_ticks) || !parse_number(field(20), stat.threads) ||
      !parse_number(field(22), stat.start_ticks) || !parse_number(field(23), stat.virtual_bytes) ||
      !parse_number(field(24), rss_pages)) {
    return std::nullopt;
  }
  stat.state = field(3)[0];
  stat.cpu_ticks = user_ticks + kernel_ticks;
  stat.has_executed = (flags & kForkedNotExecuted) == 0;
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
  const std::optional<std::string> status = read_proc(pid, "status");
  if (!status) return std::nullopt;
  // Every field starts a line, and the one free text in it, the name, has its newlines escaped.
  const std::string start = "\n" + std::string(name) + ":";
  const std::size_t at = status->find(start);
  if (at == std::string::npos) return nothing(EIO);
  const std::size_t value = at + start.size();
  return status->substr(value, status->find('\n', value) - value);
}

// The inodes of namespaces tell them apart.
std::optional<std::uint64_t> inode_at(const std::string& path) {
  struct stat file {};
  if (retry_eintr([&] { return ::stat(path.c_str(), &file); }) != 0) return std::nullopt;
  return file.st_ino;
}

// Visits the numbers among the names in a directory, until `visit(directory, name, number)` returns
// false. False: it cannot be listed.
template <class Visit>
bool visit_numbers(const std::string& path, const Visit& visit) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), closedir);
  if (!directory) return false;
  while (const dirent* entry = readdir(directory.get())) {
    int number = 0;
    if (!parse_number(entry->d_name, number)) continue;
    if (!visit(dirfd(directory.get()), entry->d_name, number)) break;
  }
  return true;
}

std::optional<std::vector<int>> list_numbers(const std::string& path) {
  std::vector<int> numbers;
  const bool is_listed = visit_numbers(path, [&numbers](int, const char*, int number) {
    numbers.push_back(number);
    return true;
  });
  return is_listed ? std::optional(std::move(numbers)) : std::nullopt;
}

bool shows_no_environment(const std::optional<std::string>& environment) {
  return environment ? environment->empty() : errno == ESRCH;
}

}  // namespace

std::string proc_path(pid_t pid, std::string_view file) {
  std::string path = "/proc/" + std::to_string(pid);
  if (!file.empty()) path += '/';
  path += file;
  return path;
}

std::string own_proc_path(std::string_view file) {
  std::string path = "/proc/self";
  if (!file.empty()) path += '/';
  path += file;
  return path;
}

std::string sysctl_path(std::string_view name) {
  std::string file(name);
  std::replace(file.begin(), file.end(), '.', '/');
  return "/proc/sys/" + file;
}

std::optional<std::string> read_proc(pid_t pid, std::string_view file) {
  return pid > 0 ? read_file(proc_path(pid, file)) : nothing(ESRCH);
}

std::optional<std::string> read_own_proc(std::string_view file) {
  return read_file(own_proc_path(file));
}

std::optional<std::uint64_t> find_counter(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (!line.starts_with(name) || line.size() <= name.size() || line[name.size()] != ' ') continue;
    std::uint64_t value = 0;
    if (parse_number(line.substr(name.size() + 1), value)) return value;
  }
  return std::nullopt;
}

std::string host_memory_path() { return "/proc/meminfo"; }

std::optional<std::uint64_t> read_memory_kills() {
  const auto text = read_file("/proc/vmstat");
  return text ? find_counter(*text, "oom_kill") : std::nullopt;
}

std::optional<std::string> read_sysctl(std::string_view name) {
  return read_file(sysctl_path(name));
}

std::optional<std::vector<pid_t>> list_pids() { return list_numbers("/proc"); }

std::optional<pid_t> read_last_pid() {
  const std::optional<std::string> text = read_sysctl("kernel.ns_last_pid");
  if (!text) return std::nullopt;
  std::string_view rest = *text;
  pid_t last = 0;
  if (!parse_number(take_word(rest), last) || last <= 0) return nothing(EIO);
  return last;
}

std::optional<pid_t> read_own_pid() {
  std::array<char, 16> link;
  const ssize_t length = readlink("/proc/self", link.data(), link.size());
  if (length < 0) return std::nullopt;
  pid_t pid = 0;
  if (!parse_number(std::string_view(link.data(), static_cast<std::size_t>(length)), pid)) {
    return nothing(EIO);
  }
  return pid;
}

std::string hidden_processes() {
  const std::optional<std::string> mounts = read_own_proc("mountinfo");
  if (!mounts) return {};
  std::string_view options;  // of the file system that was mounted on /proc last
  std::string_view rest = *mounts;
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

std::uint64_t proc_inode(pid_t pid) { return inode_at(proc_path(pid)).value_or(0); }

std::optional<ProcessStat> read_stat(pid_t pid) {
  const std::optional<std::string> text = read_proc(pid, "stat");
  if (!text) return std::nullopt;
  std::optional<ProcessStat> stat = parse_stat(*text);
  return stat ? stat : nothing(EIO);
}

std::vector<ThreadView> read_threads(pid_t pid, std::size_t max) {
  std::vector<ThreadView> threads;
  std::vector<int> numbers = list_numbers(proc_path(pid, "task")).value_or(std::vector<int>());
  numbers.resize(std::min(numbers.size(), max));
  for (const int number : numbers) {
    const std::string task = "task/" + std::to_string(number) + "/";
    const auto text = read_proc(pid, task + "stat");
    const auto stat = text ? parse_stat(*text) : std::nullopt;
    if (!stat) continue;
    ThreadView& thread = threads.emplace_back();
    thread.state = stat->state;
    std::string wchan = read_proc(pid, task + "wchan").value_or("");
    if (wchan != "0") thread.wchan = wchan.substr(0, wchan.find('\n'));
    const std::string call = read_proc(pid, task + "syscall").value_or("");
    thread.call = call.substr(0, call.find_first_of(" \n"));
  }
  return threads;
}

std::uint64_t boot_ticks() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  const auto a_second = static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK));
  return static_cast<std::uint64_t>(now.tv_sec) * a_second +
         static_cast<std::uint64_t>(now.tv_nsec) * a_second / 1'000'000'000;
}

std::optional<std::uint64_t> read_boot_time_s() {
  const auto text = read_file("/proc/stat");
  return text ? find_counter(*text, "btime") : std::nullopt;
}

std::optional<uid_t> read_uid(pid_t pid) {
  const std::optional<std::string> line = read_status_line(pid, "Uid");
  if (!line) return std::nullopt;
  std::string_view rest = *line;
  uid_t real = 0;
  if (!parse_number(take_word(rest), real)) return nothing(EIO);
  return real;
}

std::optional<pid_t> read_leader(pid_t pid) {
  const std::optional<std::string> line = read_status_line(pid, "Tgid");
  if (!line) return std::nullopt;
  std::string_view rest = *line;
  pid_t leader = 0;
  if (!parse_number(take_word(rest), leader)) return nothing(EIO);
  return leader;
}

std::optional<bool> is_in_inner_namespace(pid_t pid) {
  // Its numbers, from the namespace that /proc was mounted in to its own.
  const std::optional<std::string> line = read_status_line(pid, "NSpid");
  if (!line) return std::nullopt;
  std::string_view rest = *line;
  const bool has_one = !take_word(rest).empty();
  return has_one ? std::optional(!take_word(rest).empty()) : nothing(EIO);
}

std::optional<std::uint64_t> read_namespace(pid_t pid, std::string_view kind) {
  return inode_at(proc_path(pid, "ns/" + std::string(kind)));
}

std::optional<std::uint64_t> own_namespace(std::string_view kind) {
  return inode_at(own_proc_path("ns/" + std::string(kind)));
}

std::optional<std::uint64_t> namespace_of(pid_t pid, std::string_view kind) {
  return inode_at(proc_path(pid, "ns/" + std::string(kind)));
}

bool has_children_elsewhere() {
  constexpr const char* kOwn = "/proc/thread-self/ns/pid";
  constexpr const char* kChildrens = "/proc/thread-self/ns/pid_for_children";
  struct stat own {};
  struct stat childrens {};
  if (stat(kOwn, &own) != 0 || lstat(kChildrens, &childrens) != 0) return false;  // not to be told
  if (stat(kChildrens, &childrens) != 0) return errno == ENOENT;  // it has no process yet
  return own.st_ino != childrens.st_ino;
}

std::optional<std::string> read_environment(pid_t pid, std::string_view name) {
  const std::optional<std::string> all = read_proc(pid, "environ");
  if (!all) return std::nullopt;
  const std::optional<std::string_view> value = find_in_environment(*all, name);
  return value ? std::optional(std::string(*value)) : nothing(ENOENT);
}

std::optional<std::string> read_environment(pid_t pid) {
  std::optional<std::string> environment = read_proc(pid, "environ");
  if (!shows_no_environment(environment)) return environment;
  for (const pid_t thread : list_numbers(proc_path(pid, "task")).value_or(std::vector<pid_t>())) {
    environment = read_proc(pid, "task/" + std::to_string(thread) + "/environ");
    if (!shows_no_environment(environment)) return environment;
  }
  return environment ? environment : nothing(ESRCH);
}

std::optional<std::string_view> find_in_environment(std::string_view all, std::string_view name) {
  while (!all.empty()) {
    const std::string_view entry = all.substr(0, all.find('\0'));
    if (!name.empty() && entry.size() > name.size() && entry[name.size()] == '=' &&
        entry.starts_with(name)) {
      return entry.substr(name.size() + 1);
    }
    all.remove_prefix(std::min(all.size(), entry.size() + 1));
  }
  return std::nullopt;
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

std::optional<std::vector<std::string>> list_removed_programs(pid_t pid) {
  const auto maps = read_proc(pid, "maps");
  if (!maps || maps->empty()) return std::nullopt;
  constexpr std::string_view kRemoved = " (deleted)";
  std::vector<std::string> paths;
  for (std::size_t start = 0, end = 0; end != std::string::npos; start = end + 1) {
    end = maps->find('\n', start);
    std::string_view line = std::string_view(*maps).substr(start, end - start);
    if (!line.ends_with(kRemoved)) continue;
    line.remove_suffix(kRemoved.size());
    // address, permissions ("r-xp" of code), offset, device, inode, path
    const std::size_t permissions = line.find(' ');
    const std::size_t path = line.find('/');
    if (permissions == line.npos || path == line.npos || line.substr(permissions, 4) != " r-x")
      continue;
    if (paths.empty() || paths.back() != line.substr(path)) paths.emplace_back(line.substr(path));
  }
  return paths;
}

std::optional<std::vector<int>> list_descriptors(pid_t pid) {
  return list_numbers(proc_path(pid, "fd"));
}

bool visit_sockets(pid_t pid, const std::function<bool(std::uint64_t)>& visit) {
  return visit_numbers(proc_path(pid, "fd"), [&visit](int directory, const char* name, int) {
    constexpr std::string_view kSocket = "socket:[";
    std::array<char, 64> target;
    const ssize_t length = readlinkat(directory, name, target.data(), target.size());
    std::string_view text(target.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
    if (!text.starts_with(kSocket) || !text.ends_with(']')) return true;
    text = text.substr(kSocket.size(), text.size() - kSocket.size() - 1);
    std::uint64_t inode = 0;
    return !parse_number(text, inode) || visit(inode);
  });
}

}  // namespace modelpool
