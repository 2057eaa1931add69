// Which process accepts connections at an address of this host: one of a backend's, or another?
//
// What the kernel shows decides: the listening sockets of this network namespace, and the
// descriptors of processes. Nobody is connected to.
//
// Safety: any thread. Asks the kernel only, and waits for nobody else.
//
// Errors: none. What cannot be seen is kUnknown, with the reason.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "base/address.hpp"

namespace modelpool {

enum class ListenedBy {
  kUnknown,  // not to be told; `why` says why
  kNobody,   // nobody, at an address of this host
  kBackend,  // the backend's processes and nobody else
  kAnother,  // process `pid` is none of the backend's
};

struct Listener {
  ListenedBy by = ListenedBy::kUnknown;
  std::string why;      // "its host is not a number"
  pid_t pid = 0;        // kAnother
  std::string command;  // kAnother
};

// The processes of a backend: its first one and all below it, its session or group, and whoever
// carries its token.
struct BackendProcesses {
  pid_t first = 0;
  pid_t group = 0;         // 0: it has none of its own
  std::string_view token;  // the value of MODELPOOL_BACKEND; empty: it carries none
};

Listener find_listener(const Address& address, const BackendProcesses& backend);

}  // namespace modelpool
