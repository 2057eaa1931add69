// Which processes may be registered as backends, because they will be signalled one day (P7, P9).
//
// Safety: any thread. register_process takes the mutex for a moment.
//
// Crash: nothing is done before the one CAS of record_start.
//
// Errors: kInvalid, naming what stands against it; kTicketLost, and those of the mutex.
#pragma once

#include "protocol/slots.hpp"

namespace modelpool {

// RESERVED -> STARTING, by the ticket's `owner`. The process is one that the caller, or somebody of
// the same user, started: no worker, no coordinator, none that belongs to another backend. If it
// does not lead its own group, or a worker or another backend is in that, it is registered alone.
Result<> register_process(const Segment& segment, BackendRef ticket, std::uint32_t owner,
                          pid_t pid);

// May the pool end the process of this ticket? It may have become another user's since it was
// started.
Result<> check_endable(const Segment& segment, BackendRef ticket);

}  // namespace modelpool
