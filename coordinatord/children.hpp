// Children that the coordinator did not start: as PID 1 of a container, or as a subreaper, it gets
// the orphans of others, and whoever became it by exec may have had some.
//
// Safety: one thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <set>

namespace modelpool::coordinator {

// Reaps every child that has ended, except `keep`: while the first process of a backend is a zombie
// its number is taken, and every process in its group is known to be the backend's. Of those
// `ended(pid, packed exit)` is told how they ended, at each call. Returns whether any was kept.
bool reap_children(const std::set<pid_t>& keep,
                   const std::function<void(pid_t, std::uint32_t)>& ended);

}  // namespace modelpool::coordinator
