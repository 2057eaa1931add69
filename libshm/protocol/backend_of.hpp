// Whose backend a process is. A process of a backend is no worker, and is registered for no other
// (P2, P7).
//
// Safety: any thread, lock-free. Under the mutex only without group and session: then it compares
// words.
//
// Crash: reads only.
//
// Errors: none. A number that may be somebody else's by now counts as the backend's.
#pragma once

#include <sys/types.h>

#include <optional>

#include "segment/segment.hpp"

namespace modelpool {

// The live backend whose first process this is, or whose group or session it is in: nobody else's
// it can be. `group` and `session` are those of the process; 0: only the process itself is looked
// for.
std::optional<BackendRef> find_backend_of(const Segment& segment, const ProcessIdentity& process,
                                          pid_t group, pid_t session);

}  // namespace modelpool
