// A free TCP port for a server that is to be started, held until that server has taken it.
//
// The kernel hands out ports of its own range (net.ipv4.ip_local_port_range) to every connection
// and every bind to port 0, so a port of that range that was free a moment ago may be taken. Ports
// from here lie outside of it. Holding one is a name of this host that nobody else can have
// meanwhile (an abstract Unix socket of the network namespace), not a socket on the port: a server
// binds its port whether it sets SO_REUSEADDR or not. Only a program that names this very port
// itself can still come before it.
//
// Safety: any thread. After fork both processes hold the port until both have let it go.
//
// Crash: the kernel lets go of a dead process's name.
//
// Errors: kSystem: no socket, or no port free.
#pragma once

#include "base/process.hpp"
#include "modelpool/result.hpp"

namespace modelpool {

class HeldPort {
 public:
  HeldPort() = default;
  int number() const { return number_; }  // 0: none

 private:
  friend Result<HeldPort> hold_free_port();
  friend Result<int> free_port();
  HeldPort(int number, Fd name) : number_(number), name_(std::move(name)) {}
  int number_ = 0;
  Fd name_;
};

// Free on all addresses of this host, and nobody else's from this call while the object lives.
Result<HeldPort> hold_free_port();

// The same for callers that keep no object: the process holds the last 64 it asked for. Declared in
// pool.hpp, too.
Result<int> free_port();

}  // namespace modelpool
