#include "protocol/needs.hpp"

#include <algorithm>

#include "base/text_values.hpp"
#include "protocol/histories.hpp"
#include "segment/devices.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

class Deriving {
 public:
  Deriving(const Segment& segment, std::string_view model, const Limits& limits)
      : segment_(segment), limits_(limits), settings_(resolve_settings(segment, model)) {
    if (const auto history = find_history(segment, model)) peak_ = history->peak;
  }

  DerivedNeed run(std::uint64_t expected_bytes, const TenantSize& tenant) {
    if (tenant.host_bytes != 0) peak_.host = tenant.host_bytes;
    if (tenant.device_bytes != 0) peak_.device.fill(tenant.device_bytes);
    take_host(expected_bytes);
    take_devices(tenant);
    return std::move(derived_);
  }

 private:
  void take_host(std::uint64_t expected_bytes) {
    std::uint64_t& host = derived_.need.bytes.host;
    host = peak_.host != 0 ? peak_.host : expected_bytes;
    // What is known counts for a load from before there was a limit, too.
    if (host == 0) host = settings_.get(Setting::kMemory);
    if (limits_.max_memory == 0 || host != 0) return;
    derived_.need.flags |= kNeedSizeUnknown;
    host = guess(largest_peak(segment_, believable()).host, limits_.max_memory);
  }

  void take_devices(const TenantSize& tenant) {
    auto wish = parse_devices(settings_.text(Setting::kDevices)).value_or(DeviceWish());
    if (tenant.devices != 0) wish = {tenant.devices, {}};
    const auto memory = parse_gpu_memory(settings_.text(Setting::kGpuMemory)).value_or(GpuMemory());
    std::size_t count = wish.count != 0 ? wish.count : memory.sizes.size();
    if (count == 0 && tenant.device_bytes != 0) count = 1;
    if (count == 0) return;
    Need& need = derived_.need;
    std::vector<std::uint32_t> named;  // their positions
    for (const std::string& uuid : wish.uuids) {
      const auto position = find_device(segment_, uuid);
      if (!position) {
        derived_.unknown_devices.push_back(uuid);
        continue;
      }
      named.push_back(*position);
      need.which_devices |= 1u << *position;
    }
    if (!derived_.unknown_devices.empty()) return;
    need.devices = static_cast<std::uint32_t>(count);
    for (std::size_t nth = 0; nth < count; ++nth) {
      const std::size_t at = named.empty() ? nth : named[nth];
      std::uint64_t bytes = named.empty() ? largest_of(peak_.device) : peak_.device[at];
      if (bytes == 0 && !memory.sizes.empty())
        bytes = memory.sizes[std::min(nth, memory.sizes.size() - 1)];
      need.bytes.device[at] = bytes != 0 ? bytes : guess_of_device();
    }
  }

  // Of the smallest device that has a limit; without one nothing is counted.
  std::uint64_t guess_of_device() {
    std::uint64_t smallest = 0;
    for (const DeviceLimit& device : limits_.device) {
      if (device.bytes != 0 && (smallest == 0 || device.bytes < smallest)) smallest = device.bytes;
    }
    if (smallest == 0) return 0;
    derived_.need.flags |= kNeedDeviceSizeUnknown;
    return guess(largest_of(largest_peak(segment_, believable()).device), smallest);
  }

  // More than there is was never taken: it was said.
  Bytes believable() const {
    Bytes most;
    most.host = limits_.max_memory == 0 ? UINT64_MAX : limits_.max_memory;
    for (std::size_t d = 0; d < kDevicesMax; ++d) {
      const std::uint64_t limit = limits_.device[d].bytes;
      most.device[d] = limit == 0 ? UINT64_MAX : limit;
    }
    return most;
  }

  static std::uint64_t guess(std::uint64_t largest_seen, std::uint64_t limit) {
    return std::min(limit, std::max(largest_seen, limit / 2));
  }

  const Segment& segment_;
  const Limits& limits_;
  const Effective settings_;
  Bytes peak_;
  DerivedNeed derived_;
};

}  // namespace

DerivedNeed derive_need(const Segment& segment, std::string_view model,
                        std::uint64_t expected_bytes, const Limits& limits,
                        const TenantSize& tenant) {
  return Deriving(segment, model, limits).run(expected_bytes, tenant);
}

std::uint64_t largest_of(const std::array<std::uint64_t, kDevicesMax>& bytes) {
  return *std::max_element(bytes.begin(), bytes.end());
}

}  // namespace modelpool
