#include "device_use.hpp"

#include <algorithm>

namespace modelpool::coordinator {

// Who was the one that loaded since the sample before, with nobody else beginning or ending.
const DeviceUser* DeviceUse::only_load(const std::vector<DeviceUser>& users) const {
  if (!has_before_) return nullptr;
  const DeviceUser* only = nullptr;
  for (const DeviceUser& user : users) {
    const auto before = before_.find(key_of(user.ref));
    const bool is_new = before == before_.end();
    if (user.is_ending || (!is_new && before->second.is_ending)) return nullptr;
    if (!is_new && !before->second.is_loading && !user.is_loading) continue;
    if (only != nullptr) return nullptr;
    only = &user;
  }
  const auto is_there = [&users](const auto& entry) {
    return std::any_of(users.begin(), users.end(), [&entry](const DeviceUser& user) {
      return key_of(user.ref) == entry.first;
    });
  };
  return std::all_of(before_.begin(), before_.end(), is_there) ? only : nullptr;
}

DeviceUse::Told DeviceUse::tell(const std::vector<DeviceSample>& devices,
                                const std::vector<DeviceUser>& users) {
  const DeviceUser* const loaded = only_load(users);
  std::map<Key, Before> now;
  for (const DeviceUser& user : users) {
    const auto before = before_.find(key_of(user.ref));
    now[key_of(user.ref)] = {user.is_loading, user.is_ending,
                             before == before_.end() ? user.before : before->second.risen};
  }
  Told told;
  for (const DeviceUser& user : users) told.backends.emplace_back(user.ref, Bytes{});
  for (const DeviceSample& device : devices) {
    if (device.device >= kDevicesMax || device.free_bytes > device.total_bytes) continue;
    const std::uint64_t used = device.total_bytes - device.free_bytes;
    const auto before = used_before_.find(device.device);
    if (loaded != nullptr && before != used_before_.end()) {
      std::uint64_t& risen = now[key_of(loaded->ref)].risen.device[device.device];
      risen += used;
      risen -= std::min(risen, before->second);
    }
    used_before_[device.device] = used;
    std::uint64_t ours = 0;
    for (std::size_t i = 0; i < users.size(); ++i) {
      std::uint64_t& bytes = told.backends[i].second.device[device.device];
      if (!device.knows_processes) {
        bytes = now[key_of(users[i].ref)].risen.device[device.device];
        // What could not be measured is somewhere all the same, once the load is over.
        const std::uint64_t assumed =
            std::min(users[i].assumed.device[device.device], device.total_bytes);
        ours += users[i].is_loading ? bytes : std::max(bytes, assumed);
        continue;
      }
      for (const auto& [pid, of_process] : device.processes) {
        const auto& own = users[i].processes;
        if (std::find(own.begin(), own.end(), pid) != own.end()) bytes += of_process;
      }
      bytes = std::min(bytes, used);
      ours += bytes;
      now[key_of(users[i].ref)].risen.device[device.device] = bytes;
    }
    told.foreign.device[device.device] = used - std::min(used, ours);
  }
  before_ = std::move(now);
  has_before_ = true;
  return told;
}

}  // namespace modelpool::coordinator
