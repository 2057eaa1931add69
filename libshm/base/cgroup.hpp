// The cgroup (version 2) that a process is in: whoever it starts stays in it, whatever they do.
//
// Safety: plain values; any thread.
//
// Errors: where version 2 is not mounted or cannot be read, there is none.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace modelpool {

class Cgroup {
 public:
  // Of that process; nullopt also for the root, in which everyone starts.
  static std::optional<Cgroup> of(pid_t pid);

  // In it and in those below it, zombies apart; nullopt if that cannot be read. Empty once it is
  // gone.
  std::optional<std::vector<pid_t>> processes() const;
  // How many processes in it and below the kernel has killed for memory; nullopt: not to be read.
  std::optional<std::uint64_t> memory_kills() const;
  // One of its files, as "memory.stat"; nullopt: not to be read, or not of this cgroup any more.
  std::optional<std::string> read(std::string_view file) const;
  // What of huge pages its processes take; 0 where that is not counted.
  std::uint64_t huge_pages_bytes() const;
  // SIGKILL to all of them at once. False where that is not allowed, or before Linux 5.14.
  bool kill() const;

 private:
  Cgroup(std::string path, std::uint64_t inode) : path_(std::move(path)), inode_(inode) {}
  bool is_there() const;

  std::string path_;
  std::uint64_t inode_;  // of its directory: a new one may get its path
};

}  // namespace modelpool
