// NVIDIA's devices, as its management library tells: libnvidia-ml.so.1, loaded while this runs. A
// host without it has none. A device in MIG mode is its instances, by their own UUIDs.
//
// Safety: one thread. Any call may take for ever, also after SIGKILL: nobody waits for this
// program.
//
// Errors: told as notes; a device that cannot be read is left out.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sample_text.hpp"

namespace modelpool::sample {

using Device = coordinator::SampleAnswer::Device;
using Notes = std::vector<std::pair<std::string, std::string>>;

class Nvml {
 public:
  Nvml();
  ~Nvml();
  // Adds what can be read. Whose the processes are is told by the numbers of these (PIDs).
  void measure(const std::vector<pid_t>& of_backends, std::vector<Device>* devices, Notes* notes);

 private:
  struct Library;
  bool load(Notes* notes);
  int read(void* handle, Device* device) const;  // NVML's code
  void find_processes(void* handle, const std::vector<pid_t>& of_backends, Device* device);

  std::unique_ptr<Library> library_;
  std::map<std::string, bool> is_proved_;  // by UUID: it names processes by the numbers used here
  std::uint64_t try_again_ns_ = 0;
};

// Can the processes that a device names be told from each other? In a container their numbers are
// another namespace's, or there are none: then only what all together take is known.
bool knows_processes(const Device& device, const std::vector<pid_t>& of_backends,
                     bool sees_all_processes);

}  // namespace modelpool::sample
