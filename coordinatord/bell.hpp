// The descriptor by which a thread wakes another's poll.
//
// Safety: from any thread.
#pragma once

#include "base/fd.hpp"

namespace modelpool::coordinator {

// Readable after this, until it is drained. A system call that fails for the moment is made again.
void ring_bell(const Fd& bell);
void drain_bell(const Fd& bell);

}  // namespace modelpool::coordinator
