// Where backends listen whose command says {socket}: a folder beside the pool, in which each socket
// is named after the life of its backend, so that any worker sees which ones are left behind.
//
// Safety: called from any thread.
//
// Crash: what is left of a killed worker's backends the others remove, or the next poolserve.
//
// Errors: none; a file that cannot be removed stays.
#pragma once

#include <string>

#include "modelpool/pool.hpp"

namespace modelpool::serve {

// Makes the folder where there is none.
std::string socket_of(const std::string& folder, const BackendId& life);
void remove_old_sockets(const std::string& folder, Pool& pool);

}  // namespace modelpool::serve
