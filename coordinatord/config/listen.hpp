// Addresses to listen at: texts taken apart, and what a door's listeners must not be.
//
// Safety: pure functions.
//
// Errors: kInvalid, naming the address and what to write.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "config/door.hpp"
#include "modelpool/result.hpp"

namespace modelpool::config {

// "127.0.0.1:8080", "localhost:8080", "[::1]:8080", "unix:/run/x.sock". Port 0: any that is free.
struct ListenAddress {
  std::string unix_path;  // absolute; empty: a number and the port
  std::string host;       // the number, without brackets
  bool is_v6 = false;
  std::uint16_t port = 0;
  bool is_local = false;  // only processes of this host reach it
};
Result<ListenAddress> parse_listen(std::string_view text);

// Where a door listens if neither file nor flags say.
Listener default_listener(const Serve& serve);

inline constexpr std::size_t kListenersMax = 64;  // all of them go to the next poolserve at once

struct ListenerProblem {
  std::uint32_t line = 0;  // of the listener; 0: none
  std::string reason;
};
// Of all listeners together: too many, one that cannot be told apart from another, one for others
// without a check of who asks. Also for those that flags name.
std::vector<ListenerProblem> find_listener_problems(const Serve& serve);
// The first of them, as an error of its own.
Result<> check_listeners(const Serve& serve);

}  // namespace modelpool::config
