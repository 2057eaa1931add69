// Names of the Unix sockets that backends with {socket} listen on: POOL.PID-NUMBER.sock beside the
// pool's segment, after the worker that loads. No two loads share one, so that a process which ends
// late cannot take the name of the next.
//
// Safety: the loop's thread.
//
// Crash: a name that nobody has any more stays until the next call of any worker of the pool.
//
// Errors: none; what cannot be looked at or removed stays.
#pragma once

#include <string>

#include "modelpool/pool.hpp"

namespace modelpool::serve {

// REQUIRES: a ticket of this process, as the loads that are under way are known by theirs.
std::string new_socket_path(const std::string& segment_path, unsigned number);
// Removes those of backends that have ended and of loads that came to nothing.
void remove_unused_sockets(const std::string& segment_path, Pool& pool);

}  // namespace modelpool::serve
