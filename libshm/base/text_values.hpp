// Values of settings that are texts: lists of groups, devices and their memory, a probe. Each is
// kept as it was written and read where it is needed.
//
// Safety: pure functions.
//
// Errors: nullopt for what cannot be read. Texts come from the segment, too.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace modelpool {

// "heavy, vision": the names, within `text`.
std::optional<std::vector<std::string_view>> parse_groups(std::string_view text);

// "2": any that many; "GPU-1f, GPU-2e": these. Neither: none.
struct DeviceWish {
  std::uint32_t count = 0;
  std::vector<std::string> uuids;
};
std::optional<DeviceWish> parse_devices(std::string_view text);

// Of a pool "90%" of each device, or "GPU-1f = 22GiB, GPU-2e = 10GiB"; of a model one size for each
// of its devices, or "20GiB, 4GiB", one each in their order.
struct GpuMemory {
  std::uint32_t percent = 0;
  std::vector<std::pair<std::string, std::uint64_t>> limits;
  std::vector<std::uint64_t> sizes;
};
std::optional<GpuMemory> parse_gpu_memory(std::string_view text);
bool is_pools_gpu_memory(std::string_view text);
inline constexpr std::string_view kPoolsGpuMemory =
    "gpu_memory of the pool is a share of each device, such as \"90%\", or a limit for each UUID; "
    "what a model takes belongs to its [[model]] table";

// "GET /health", or "tcp": that it accepts a connection.
struct ProbeRequest {
  std::string path;  // empty: none is sent
};
std::optional<ProbeRequest> parse_probe(std::string_view text);

}  // namespace modelpool
