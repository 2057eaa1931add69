// Which sockets listen at an address, and who holds them. By what the kernel shows: nobody is connected to.
//
// Safety: any thread.
//
// Errors: none. What cannot be seen (another network namespace, descriptors of other users) is absent.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace modelpool {

using SocketInodes = std::vector<std::uint64_t>;  // sorted

// "HOST:PORT", also behind "http://" and before "/path": whatever listens at that port of this host.
// "unix:/PATH". Empty for an address that names neither.
SocketInodes listening_sockets(std::string_view address);

bool holds_any_socket(pid_t pid, const SocketInodes& sockets);

}  // namespace modelpool
