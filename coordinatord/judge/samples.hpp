// One measure of all that is loaded, and of the devices.
//
// Safety: plain values.
//
// Errors: none. What could not be measured is not in it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "base/kinds.hpp"
#include "base/need.hpp"

namespace modelpool::coordinator {

struct DeviceSample {
  std::uint32_t device = 0;  // its position in the pool's table of devices (segment/devices.hpp)
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;
  // Else whose its bytes are cannot be told, as in a container, and there are no processes here.
  bool knows_processes = false;
  std::vector<std::pair<pid_t, std::uint64_t>> processes;  // what each takes of it, also foreign
};

struct Sample {
  std::uint64_t taken_ns = 0;  // when it was begun: what ended before is not in it
  std::vector<std::pair<BackendRef, Bytes>> backends;  // those that could be measured
  std::vector<DeviceSample> devices;                   // empty: none was found, or none answered
};

}  // namespace modelpool::coordinator
