// AMD's devices, as the kernel shows them in sysfs, and what each process takes of them, as its
// descriptors say (fdinfo).
//
// Safety: one thread.
//
// Errors: a file that has vanished, or says something else, leaves its device out.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "sample/nvml.hpp"

namespace modelpool::sample {

// Adds the devices below this directory (usually /sys).
void measure_amd(const std::string& sysfs, const std::vector<pid_t>& of_backends,
                 std::vector<Device>* devices);

// What one descriptor says: of which client, on which PCI device, and how much of its memory.
struct DrmUse {
  std::string device;
  std::uint64_t client = 0;
  std::uint64_t bytes = 0;
};
std::optional<DrmUse> parse_fdinfo(std::string_view text);

}  // namespace modelpool::sample
