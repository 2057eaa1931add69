// A segment of another PID namespace: a tmpfs may outlive the container whose processes used it.
// Its PIDs name nobody here, so what is left in it is judged by what can be proved without them.
//
// Safety: reads the file and /proc.
#pragma once

#include "base/fd.hpp"
#include "segment/layout.hpp"

namespace modelpool {

// Is it proved that nothing of this pool lives? True if it has no live backend; if its coordinator
// was the first process of its namespace, with which a namespace ends; or if this process can see
// every process of the host, and none is in that namespace. REQUIRES: the caller holds the locks of
// its files, so that no worker and no coordinator uses it.
bool is_abandoned(const Fd& file, const Header& header);

}  // namespace modelpool
