// What backends and devices take, as modelpool-sample last measured it (sample/).
//
// Nothing that enters a driver runs in this process: a thread that a driver holds would keep the
// pool's lock after SIGKILL (P10). The program is executed with nothing of ours but a socket, and
// killed and replaced when it does not answer. What it says is input.
//
// Safety: one thread, the loop's.
//
// Crash: the program ends with this process. What was published stays until the next coordinator
// has measured.
//
// Errors: told by warn_of(). Without a measure latest() is the last one, or none.
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

class Sampler {
 public:
  // The newest one that is complete; nullptr before the first. Valid until the next take().
  const Sample* latest() const { return latest_.taken_ns == 0 ? nullptr : &latest_; }

  // Somebody waits for what the next ones say: they follow each other as quickly as they may until
  // then (kHurry_ns), instead of every other second. To be called again for as long as that is so.
  void hurry_until(std::uint64_t until_ns) { hurry_until_ns_ = until_ns; }

 private:
  Sample latest_;
  std::uint64_t hurry_until_ns_ = 0;
};

}  // namespace modelpool::coordinator
