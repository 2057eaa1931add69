#include "protocol/local_rules.hpp"

#include <algorithm>

#include "base/text_values.hpp"
#include "protocol/slots.hpp"
#include "segment/devices.hpp"

namespace modelpool {
namespace {

// More models than a pool knows at a time: those that nobody wants any more are forgotten.
constexpr std::size_t kModelsMax = 16384;

std::uint64_t part_of(std::uint64_t bytes, std::uint32_t percent) {
  return bytes / 100 * percent + bytes % 100 * percent / 100;
}

}  // namespace

std::vector<std::uint64_t> group_hashes(std::string_view groups) {
  std::vector<std::uint64_t> hashes;
  const auto names = parse_groups(groups);
  if (!names) return hashes;
  for (const std::string_view name : *names) hashes.push_back(hash_name(name));
  std::sort(hashes.begin(), hashes.end());
  hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
  return hashes;
}

void read_device_limits(const Segment& segment, std::string_view gpu_memory, Limits* limits) {
  const std::vector<std::string> uuids = read_devices(segment);
  limits->devices = 0;
  limits->device = {};
  const auto memory = parse_gpu_memory(gpu_memory);
  const ForeignUse foreign = segment.coordinator().foreign.load();
  for (std::uint32_t d = 0; d < uuids.size(); ++d) {
    if (uuids[d].empty()) continue;
    // A row stays for ever, its device may not: it was a slip, or has vanished.
    const std::uint64_t measured = device_bytes(segment, d);
    bool is_there = measured != 0;
    DeviceLimit& limit = limits->device[d];
    limit.foreign = foreign.bytes.device[d];
    if (memory && memory->percent != 0) limit.bytes = part_of(measured, memory->percent);
    for (const auto& [uuid, bytes] : memory.value_or(GpuMemory()).limits) {
      if (uuid != uuids[d]) continue;
      limit.bytes = bytes;
      is_there = true;
    }
    if (is_there) limits->devices |= 1u << d;
  }
}

bool LocalRules::is_of(const Segment& segment, std::uint64_t generation) const {
  return segment.device() == device_ && segment.inode() == inode_ && generation == generation_;
}

const std::vector<std::uint64_t>* LocalRules::groups_of(std::uint64_t model) const {
  const auto at = groups_.find(model);
  return at == groups_.end() ? nullptr : &at->second;
}

void LocalRules::prepare(const Segment& segment, std::string_view model) {
  const std::uint64_t now = segment.settings().generation.load(std::memory_order_seq_cst);
  if (now == 0) return;
  if (!is_of(segment, now)) {
    bool uses_devices = false;
    generation_ = read_settings(segment, [&](const SettingsView& settings) {
      has_groups_ = settings.uses(Setting::kGroups);
      uses_devices = settings.uses(Setting::kDevices) || settings.uses(Setting::kGpuMemory);
    });
    device_ = segment.device();
    inode_ = segment.inode();
    groups_.clear();
    limits_devices_ = uses_devices;
    gpu_memory_ = uses_devices ? read_pool_settings(segment).text(Setting::kGpuMemory) : "";
    devices_ = Limits();
  }
  // What others take of devices changes at any time.
  if (limits_devices_) read_device_limits(segment, gpu_memory_, &devices_);
  if (!has_groups_) return;
  if (groups_.size() > kModelsMax) groups_.clear();
  if (!model.empty()) learn(segment, model, hash_name(model));
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    if (!is_live(load_state(segment, i).state)) continue;
    const BackendRecord& record = segment.backend(i);
    const std::uint64_t hash = record.model_hash.load(std::memory_order_acquire);
    if (groups_.contains(hash)) continue;
    const std::string name = record.model.load();
    if (hash_name(name) == hash) learn(segment, name, hash);
  }
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    const WaiterRecord& row = segment.waiter(i);
    if (low_half(row.state.load(std::memory_order_seq_cst)) == 0) continue;
    const std::uint64_t hash = row.model_hash.load(std::memory_order_acquire);
    if (groups_.contains(hash)) continue;
    const std::string name = row.model.load();
    if (hash_name(name) == hash) learn(segment, name, hash);
  }
}

void LocalRules::learn(const Segment& segment, std::string_view model, std::uint64_t hash) {
  if (groups_.contains(hash)) return;
  const Effective settings = resolve_settings(segment, model);
  if (settings.generation() != generation_) return;  // published just now: known with the next look
  groups_[hash] = group_hashes(settings.text(Setting::kGroups));
}

}  // namespace modelpool
