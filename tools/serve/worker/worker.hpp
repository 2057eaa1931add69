// One worker: an event loop that accepts from the shared sockets and serves. It outlives its
// master.
//
// Safety: one thread runs the loop; spawning and publishing a backend, which may wait, are on a
// few more. run_worker is called in a forked child without threads.
//
// Crash: SIGKILL cuts its own connections; what it held in the pool the coordinator clears (P6);
// backends stay.
//
// Errors: run_worker returns an exit code, after a message on stderr.
#pragma once

#include "between/worker_start.hpp"

namespace modelpool::serve {

// Serves until it is told to finish and has. Retired (meeting.hpp) it accepts nothing more, and
// ends when all has been answered (drain_timeout_serve); SIGTERM is the same with shutdown_timeout.
// It closes its sockets as soon as that is final.
int run_worker(WorkerStart start);

}  // namespace modelpool::serve
