#include "judge/settling.hpp"

#include <algorithm>

#include "policy/settle.hpp"

namespace modelpool::coordinator {
namespace {

// A sample tells what was free before a signal if it is no older.
constexpr std::uint64_t kBaselineFresh_ns = 10 * kSecond_ns;

bool is_process_of(const BackendView& b, const KnownRecord& known, pid_t pid) {
  const std::size_t count = std::min<std::size_t>(known.count, known.members.size());
  return b.process.pid == pid ||
         (known.generation == b.ref.generation &&
          std::any_of(known.members.begin(),
                      known.members.begin() + static_cast<std::ptrdiff_t>(count),
                      [pid](const KnownMember& member) {
                        return member.pid == static_cast<std::uint32_t>(pid);
                      }));
}

}  // namespace

std::uint64_t most_held(const BackendView& b, std::size_t device) {
  const std::uint64_t most = std::max({b.expected.device[device], b.declared.device[device],
                                       b.measured.device[device], b.peak.device[device]});
  const bool is_on_it = (b.devices >> device & 1) != 0;
  return most == 0 && is_on_it ? kNever_ns : most;
}

std::uint64_t settles_until_ns(const Snapshot& snapshot) {
  std::uint64_t until_ns = 0;
  for (const BackendView& b : snapshot.backends) {
    if (!b.settling()) continue;
    until_ns = std::max(until_ns, add_ns(b.stop.ended_ns, b.settings().get(Setting::kSettle)));
  }
  return until_ns;
}

bool raise_baseline(const BackendView& gone, StopRecord* stop) {
  if (gone.reserved_ns > stop->stopping_ns) return false;  // it never was among them
  bool changes = false;
  for (std::size_t i = 0; i < kDevicesMax; ++i) {
    const std::uint64_t raised = add_ns(stop->baseline[i], most_held(gone, i));
    changes |= raised != stop->baseline[i];
    stop->baseline[i] = raised;
  }
  return changes;
}

std::vector<ListedDevices> find_listed(const Segment& segment, const Snapshot& snapshot,
                                       const Sample* sample) {
  std::vector<ListedDevices> all;
  if (sample == nullptr) return all;
  for (const BackendView& b : snapshot.backends) {
    if (b.state.state != BackendState::kStopping) continue;
    const KnownRecord known = segment.backend(b.ref.index).known.load();
    ListedDevices listed{b.ref, 0};
    for (const DeviceSample& device : sample->devices) {
      const bool is_on_it =
          std::any_of(device.processes.begin(), device.processes.end(),
                      [&](const auto& process) { return is_process_of(b, known, process.first); });
      if (is_on_it && device.device < kDevicesMax) listed.devices |= 1u << device.device;
    }
    if (listed.devices != 0) all.push_back(listed);
  }
  return all;
}

const DeviceSample* DeviceReturns::find_device(std::size_t device) const {
  if (facts_.sample == nullptr) return nullptr;
  for (const DeviceSample& one : facts_.sample->devices) {
    if (one.device == device) return &one;
  }
  return nullptr;
}

bool DeviceReturns::is_measured(const BackendView& b, std::size_t device) const {
  return find_device(device) != nullptr || b.stop.baseline[device] != kNever_ns ||
         b.measured.device[device] != 0 || b.peak.device[device] != 0;
}

bool DeviceReturns::must_settle(const BackendView& b) const {
  const bool has_record = b.stop.generation == b.ref.generation;
  if (!has_record || b.external() || b.process.pid == 0) return false;
  if (b.settings().get(Setting::kSettle) == 0) return false;
  for (std::size_t i = 0; i < kDevicesMax; ++i) {
    if (most_held(b, i) != 0 && is_measured(b, i)) return true;
  }
  return false;
}

bool DeviceReturns::is_ending(const BackendView& b) const {
  return b.state.state == BackendState::kStopping ||
         std::find(exited_.begin(), exited_.end(), b.ref) != exited_.end();
}

// By the same sample that says what is free.
std::uint64_t DeviceReturns::measured_now(const BackendView& b, std::size_t device) const {
  if (facts_.sample == nullptr) return 0;
  for (const auto& [ref, bytes] : facts_.sample->backends) {
    if (ref == b.ref) return bytes.device[device];
  }
  return 0;
}

// Who was let in after its stop began takes of what the others give back; what he gives back
// himself adds nothing to that.
Settling DeviceReturns::settling_of(const BackendView& b, std::size_t device) const {
  Settling settling;
  const std::uint64_t measured = b.measured.device[device];
  const std::uint64_t most = most_held(b, device);
  settling.held_bytes = measured != 0 ? measured : most == kNever_ns ? 0 : most;
  settling.baseline_bytes = b.stop.baseline[device];
  for (const BackendView& other : s_.backends) {
    if (&other == &b || !other.live()) continue;
    const bool came_later = other.reserved_ns > b.stop.stopping_ns;
    if (is_ending(other) && !came_later) {
      settling.others_bytes = add_ns(settling.others_bytes, most_held(other, device));
    } else if (!is_ending(other) && came_later) {
      settling.taken_bytes = add_ns(settling.taken_bytes, measured_now(other, device));
    }
  }
  const DeviceSample* const look = find_device(device);
  if (look == nullptr) return settling;
  settling.free_bytes = look->free_bytes;
  if (!look->knows_processes) return settling;
  settling.listed = Listed::kNo;
  for (const ListedDevices& listed : facts_.listed) {
    if (listed.backend == b.ref && (listed.devices >> device & 1) != 0)
      settling.listed = Listed::kYes;
  }
  return settling;
}

bool DeviceReturns::is_back(const BackendView& b) const {
  // A sample is of when it was begun: what ended then at the earliest is not in it.
  if (facts_.sample == nullptr || facts_.sample->taken_ns < b.stop.ended_ns) return false;
  for (std::size_t i = 0; i < kDevicesMax; ++i) {
    if (most_held(b, i) == 0 || !is_measured(b, i)) continue;
    if (!modelpool::is_back(settling_of(b, i))) return false;
  }
  return true;
}

void DeviceReturns::note_baseline(const BackendView& b, StopRecord* stop) const {
  stop->baseline = StopRecord::unmeasured();
  if (facts_.sample == nullptr || stop->reason == Reason::kCrashed) return;
  const std::uint64_t taken_ns = facts_.sample->taken_ns;
  if (taken_ns < facts_.baselines_from_ns || age_ns(s_.now_ns, taken_ns) > kBaselineFresh_ns)
    return;
  for (std::size_t i = 0; i < kDevicesMax; ++i) {
    const DeviceSample* const look = find_device(i);
    if (look != nullptr && most_held(b, i) != 0) stop->baseline[i] = look->free_bytes;
  }
}

}  // namespace modelpool::coordinator
