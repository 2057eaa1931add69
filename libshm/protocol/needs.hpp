// What a model takes when it is loaded: places, bytes of the host and of devices, as far as that is
// known. In this order: what is said of a tenant, the most that it took before, what its loader
// says, what the settings say, a guess.
//
// Safety: any thread; reading only. Allocates: not under the mutex.
//
// Errors: none. Devices that the pool does not know are named.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "policy/values.hpp"
#include "segment/segment.hpp"

namespace modelpool {

struct DerivedNeed {
  Need need;
  // Named by the settings, and in no row of the table yet: without them the need is for nothing.
  std::vector<std::string> unknown_devices;
};
// What is said of a tenant: that goes before what was seen of its name, which may have been another
// program. 0: nothing is said.
struct TenantSize {
  std::uint64_t host_bytes = 0;
  std::uint32_t devices = 0;
  std::uint64_t device_bytes = 0;  // of each
};
// `expected_bytes` of the host's memory: what the loader says, 0 = nothing.
DerivedNeed derive_need(const Segment& segment, std::string_view model,
                        std::uint64_t expected_bytes, const Limits& limits,
                        const TenantSize& tenant = {});

std::uint64_t largest_of(const std::array<std::uint64_t, kDevicesMax>& bytes);

}  // namespace modelpool
