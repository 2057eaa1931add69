// Which sockets of this network namespace listen, and which of them a process holds. By what the
// kernel shows: nobody is connected to.
//
// Safety: any thread. Asks the kernel only, and waits for nobody else.
//
// Errors: none. What cannot be seen (another network namespace, descriptors of other users) is
// absent, or nullopt where the difference counts.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/address.hpp"

namespace modelpool {

using SocketInodes = std::set<std::uint64_t>;

struct TcpListener {
  Ip ip;
  int port;
  std::uint64_t inode;
};
std::optional<std::vector<TcpListener>> tcp_listeners();

// Of these: those that a connection to `ip` reaches.
SocketInodes reached_by(const std::vector<TcpListener>& listeners, const Ip& ip, int port);

// By the file that they are bound to, or by the name "@..." of an abstract socket.
SocketInodes unix_listeners(const std::string& path);

// Those that a connection to the address reaches; for a host that only a resolver knows, all at its
// port.
SocketInodes listening_sockets(const Address& address);

// Those of `wanted` that the process holds; nullopt: its descriptors cannot be seen.
std::optional<SocketInodes> sockets_held(pid_t pid, const SocketInodes& wanted);

}  // namespace modelpool
