// Connections to backends. Idle ones are kept for a few seconds and belong to one backend, by slot
// and generation: what another process listens to at the same address later is another backend's.
//
// Safety: the loop's thread.
//
// Crash: the kernel closes them.
//
// Errors: an error code of connect; kInvalid for an address that leads nowhere.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "modelpool/pool.hpp"
#include "worker/io.hpp"

namespace modelpool::serve {

inline constexpr std::chrono::seconds kIdleUpstream{5};
inline constexpr std::chrono::seconds kConnect{10};
inline constexpr std::size_t kIdlePerBackendMax = 64;

// "127.0.0.1:4321", "[::1]:4321", "localhost:4321", "unix:/path".
Task<std::pair<error_code, std::optional<Socket>>> connect_to(Executor executor,
                                                              const std::string& address,
                                                              Clock::duration within = kConnect);

// This process, or the host, is out of something: nothing is known of the backend.
bool is_own_trouble(const error_code& error);

class Upstreams {
 public:
  explicit Upstreams(const Executor& executor) : executor_(executor) {}
  // One that is idle and, as far as can be seen, open; or nothing.
  std::optional<Socket> take(const BackendId& backend);
  void give_back(const BackendId& backend, Socket socket);
  void close_old(TimePoint now);

 private:
  struct Idle {
    Socket socket;
    TimePoint since;
  };
  Executor executor_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::vector<Idle>> idle_;
};

}  // namespace modelpool::serve
