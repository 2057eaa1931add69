// Pools that have lost their name, and backends that have lost their pool. A file that was removed
// or moved, or that something was mounted over, lives on in the processes that have it open: its
// backends run, its coordinator ends them. Until the last of them has gone no other pool may begin
// under that name, or there would be two limits.
//
// They are found in /proc: every process that uses a pool keeps its segment open, the segment says
// where its name was (HomeRecord), and a backend carries that path in its environment. The same
// path may be another place in a container or a chroot: what is there is not ours (P7).
//
// Safety: any thread. Reads /proc of this user's processes, tens of milliseconds where there are
// thousands: for who creates a pool or has lost one, not for a request.
//
// Errors: none. A process that may not be looked at is passed over.
#pragma once

#include <string>
#include <vector>

#include "base/fd.hpp"
#include "segment/frozen.hpp"

namespace modelpool {

// In the environment of a spawned backend: the path of its pool.
inline constexpr const char* kHomeVariable = "MODELPOOL_BACKEND_HOME";

// The path as HomeRecord has it: without symbolic links, whether it exists or not.
std::string home_of(const std::string& path);

struct LostPool {
  pid_t holder = 0;        // a process that has it open
  std::string found_at;    // where its file is now, as that process sees it: "/dev/shm/old/default"
  Fd file;                 // its segment, read and write
  bool is_judged = false;  // a coordinator holds its lock
  pid_t judge = 0;         // that one's PID, 0 if unknown
  std::size_t live = 0;    // backends
};
// Those whose name was one of `homes`, in the directory that is here, and does not lead to them any
// more, as their holders see it.
std::vector<LostPool> find_lost_pools(const std::vector<std::string>& homes);

// Processes that a pool of one of these homes has started here. Once no process has such a pool
// open, nobody can use them.
std::vector<ProcessHandle> find_orphans(const std::vector<std::string>& homes);

}  // namespace modelpool
