// One worker: an event loop that accepts from the shared sockets and serves. It outlives its master.
//
// Safety: one thread runs the loop; spawning and publishing a backend, which may wait, are on one
// more. run_worker is called in a forked child without threads.
//
// Crash: SIGKILL cuts its own connections; what it held in the pool the coordinator clears (P6);
// backends stay.
//
// Errors: run_worker returns an exit code, after a message on stderr.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "balance.hpp"
#include "config/door.hpp"
#include "fd.hpp"

namespace modelpool::serve {

// A listening socket, and what the config says of it.
struct OpenListener {
  config::Listener where;
  Fd fd;
};

struct WorkerStart {
  std::string pool;
  std::string dir;  // empty: the library looks for it
  std::shared_ptr<const config::Door> door;
  std::vector<OpenListener> listeners;
  Fd meeting;  // NAME.door, listening: a poolserve that comes later is answered here
  Fd retire;   // an eventfd that is never read by workers: readable = finish, empty = serve
  // SOCK_SEQPACKET to the master. From the worker: "ready" once it accepts. To it: "door" with a
  // memfd of the new config's text (path and models as write_door says). Its end: the master has
  // gone, and the worker goes on.
  Fd control;
  std::shared_ptr<Balance> balance;  // made before the fork; null: none
  unsigned index = 0;                // of this worker in it
};

// Serves until it is told to finish and has. SIGTERM to a worker is the same as `retire`, with
// shutdown_timeout.
int run_worker(WorkerStart start);

}  // namespace modelpool::serve
