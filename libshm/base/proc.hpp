// The one reader of /proc: nobody else names a file in it.
//
// Safety: no shared state; every function may be called from any thread. Not async-signal-safe.
// A number may be another process's by the time it is looked up: a pidfd tells (process.hpp).
//
// Errors: nullopt, with errno: ENOENT or ESRCH where there is no such process, EIO for what is not
// as proc(5) says.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace modelpool {

// --- Files: for callers that open them

std::string proc_path(pid_t pid, std::string_view file = {});  // /proc/PID/FILE
std::string own_proc_path(std::string_view file = {});         // /proc/self/FILE
std::string sysctl_path(std::string_view name);  // of "fs.file-max": /proc/sys/fs/file-max
std::string host_memory_path();                  // /proc/meminfo

std::optional<std::string> read_proc(pid_t pid, std::string_view file);  // the whole of it
std::optional<std::string> read_own_proc(std::string_view file);
std::optional<std::string> read_sysctl(std::string_view name);

// How many processes the kernel has killed for memory since it started; nullopt: it does not say.
std::optional<std::uint64_t> read_memory_kills();
// "NAME VALUE" in a line of its own, as counters of the kernel stand in a file.
std::optional<std::uint64_t> find_counter(std::string_view text, std::string_view name);

// --- Processes

std::optional<std::vector<pid_t>> list_pids();  // in the order of their numbers
// The number that the newest process or thread got: later ones get higher numbers, until these
// begin anew. nullopt where the kernel does not say.
std::optional<pid_t> read_last_pid();
std::optional<pid_t> read_own_pid();  // under which this process is shown
std::string hidden_processes();       // by hidepid, from this process, as a sentence; "" if none

// The inode of its directory: as long as that is the same, so is the process. 0: it cannot be seen.
std::uint64_t proc_inode(pid_t pid);

// What /proc/PID/stat says.
struct ProcessStat {
  pid_t pid = 0;
  char state = '?';  // 'Z' zombie, 'X' dead
  pid_t parent = 0;
  pid_t group = 0;
  pid_t session = 0;
  std::uint64_t start_ticks = 0;
  std::uint64_t threads = 0;
  std::uint64_t cpu_ticks = 0;  // of all its threads, in user mode and in the kernel
  std::uint64_t virtual_bytes = 0;
  std::uint64_t rss_bytes = 0;
  bool has_executed = true;      // false: forked, and still runs the program of its parent
  bool is_of_kernel = false;     // a thread of the kernel's own: no signal ends it
  bool has_environment = false;  // perhaps an empty one; not while it is executing a program
  std::string command;

  bool is_zombie() const { return state == 'Z' || state == 'X'; }
  bool has_ended() const {
    return is_zombie() && threads <= 1;
  }  // a zombie whose threads run lives
};
std::optional<ProcessStat> read_stat(pid_t pid);
std::uint64_t boot_ticks();  // now, in the clock of start_ticks
// When the host was started, in seconds since 1970, as it says itself.
std::optional<std::uint64_t> read_boot_time_s();

std::optional<uid_t> read_uid(pid_t pid);     // the real one: whose process it is, setuid or not
std::optional<pid_t> read_leader(pid_t pid);  // the process that this is a thread of
// What a thread of a process does, as far as that may be read.
struct ThreadView {
  char state = '?';   // as in ProcessStat
  std::string wchan;  // where it waits in the kernel; "": nowhere, or not shown
  std::string call;   // the number of the system call it is in, or "running"; "": not shown
};
// Of the first `max` threads; empty: it cannot be seen.
std::vector<ThreadView> read_threads(pid_t pid, std::size_t max);

// Is it in a PID namespace below that of this process?
std::optional<bool> is_in_inner_namespace(pid_t pid);

// The inode that names its namespace of this kind: "pid", "net", "time".
std::optional<std::uint64_t> read_namespace(pid_t pid, std::string_view kind);
std::optional<std::uint64_t> own_namespace(std::string_view kind);
std::optional<std::uint64_t> namespace_of(pid_t pid, std::string_view kind);
// Are this thread's children put into another PID namespace (unshare)? The first is its init, and
// sees no parent.
bool has_children_elsewhere();

// --- Environments, as processes were started with them: NAME=VALUE, each with a NUL

std::optional<std::string> read_environment(pid_t pid, std::string_view name);
// All of it. A process whose first thread has left shows it through the others.
std::optional<std::string> read_environment(pid_t pid);
std::optional<std::string_view> find_in_environment(std::string_view all, std::string_view name);

// --- What it maps and has open

// Is this file mapped? nullopt also for a list that is empty, as it is for a zombie: its pidfd says
// whether that is dead.
std::optional<bool> maps_file(pid_t pid, dev_t device, ino_t inode);
// Programs and libraries that it runs and whose files were removed or replaced since: their paths.
// nullopt: it cannot be seen.
std::optional<std::vector<std::string>> list_removed_programs(pid_t pid);
std::optional<std::vector<int>> list_descriptors(pid_t pid);
// Visits the inode of each socket until `visit` returns false. False: no descriptors can be seen.
bool visit_sockets(pid_t pid, const std::function<bool(std::uint64_t)>& visit);

}  // namespace modelpool
