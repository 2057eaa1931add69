#include "segment/devices.hpp"

#include <algorithm>

#include "base/text.hpp"

namespace modelpool {
namespace {

constexpr std::size_t kUuidMax_bytes = 95;

bool is_known(const Segment& segment, std::uint32_t device) {
  // acquire: the text was written before it
  return segment.device_row(device).known.load(std::memory_order_acquire) != 0;
}

}  // namespace

std::optional<std::uint32_t> find_device(const Segment& segment, std::string_view uuid) {
  for (std::uint32_t i = 0; i < kDevicesMax && is_known(segment, i); ++i) {
    if (segment.device_row(i).uuid.equals(uuid)) return i;
  }
  return std::nullopt;
}

std::optional<std::uint32_t> register_device(const Segment& segment, const LockGuard&,
                                             std::string_view uuid) {
  if (uuid.empty() || uuid.size() > kUuidMax_bytes || !is_printable_utf8(uuid)) return std::nullopt;
  if (const auto known = find_device(segment, uuid)) return known;
  for (std::uint32_t i = 0; i < kDevicesMax; ++i) {
    if (is_known(segment, i)) continue;
    DeviceRecord& row = segment.device_row(i);
    row.uuid.store(uuid);
    row.known.store(1, std::memory_order_release);
    return i;
  }
  return std::nullopt;
}

// relaxed, all: numbers that stand for themselves
void store_device_memory(const Segment& segment, std::uint32_t device, const DeviceMemory& memory) {
  if (device >= kDevicesMax) return;
  DeviceRecord& row = segment.device_row(device);
  row.free_bytes.store(memory.free_bytes, std::memory_order_relaxed);
  row.total_bytes.store(memory.total_bytes, std::memory_order_relaxed);
}

DeviceMemory load_device_memory(const Segment& segment, std::uint32_t device) {
  if (device >= kDevicesMax) return {};
  const DeviceRecord& row = segment.device_row(device);
  DeviceMemory memory;
  memory.total_bytes = row.total_bytes.load(std::memory_order_relaxed);
  memory.free_bytes = std::min(memory.total_bytes, row.free_bytes.load(std::memory_order_relaxed));
  return memory;
}

std::string device_name(const Segment& segment, std::uint32_t device) {
  return escape(segment.device_row(device).uuid.load());
}

std::uint64_t device_bytes(const Segment& segment, std::uint32_t device) {
  return segment.device_row(device).total_bytes.load(std::memory_order_acquire);
}

std::vector<std::string> read_devices(const Segment& segment) {
  std::vector<std::string> devices;
  for (std::uint32_t i = 0; i < kDevicesMax && is_known(segment, i); ++i) {
    std::string uuid = segment.device_row(i).uuid.load();
    if (!is_printable_utf8(uuid)) uuid.clear();
    devices.push_back(std::move(uuid));
  }
  return devices;
}

}  // namespace modelpool
