// How many files a worker may open: what max_connections needs.
//
// Safety: of the whole process; one thread.
//
// Errors: none; the limit stays where it cannot be raised.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <cstdint>

namespace modelpool::serve {

inline rlim_t wanted_files(std::uint32_t connections) {
  constexpr std::uint64_t kPerConnection = 2;  // the client's and the backend's
  constexpr std::uint64_t kBeside = 1024;
  return kPerConnection * connections + kBeside;
}

// Never lower, and up to the hard limit.
inline void raise_open_files(std::uint32_t connections) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = std::clamp(wanted_files(connections), limit.rlim_cur, limit.rlim_max);
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace modelpool::serve
