// What a worker is started with: all that its master made before the fork.
//
// Safety: plain values; one thread.
//
// Errors: none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "between/balance.hpp"
#include "between/fd.hpp"
#include "between/lineage.hpp"
#include "between/shared_text.hpp"
#include "config/door.hpp"

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
  Fd retire;   // an eventfd of its generation that nobody reads: readable = finish
  std::shared_ptr<Lineage> lineage;
  std::uint32_t generation = 0;  // in it
  // SOCK_SEQPACKET to the master (control.hpp). From the worker: "ready" once it accepts, "door"
  // once a new config is in force. To it: that config. Its end: the master has gone;
  // finish_takeover, and the worker goes on.
  Fd control;
  std::shared_ptr<Balance> balance;             // made before the fork; null: none
  std::shared_ptr<SharedText> backend_metrics;  // made before the fork
  unsigned index = 0;                           // of this worker in it
  bool preloads = false;                        // it loads the models whose config says preload
  std::uint64_t backend_files = 0;  // SpawnOptions::open_files: what poolserve was started with
};

}  // namespace modelpool::serve
