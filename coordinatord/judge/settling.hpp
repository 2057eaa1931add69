// Places whose processes have gone and whose device memory may not be back (policy/settle.hpp):
// who waits, for which devices, and what was free there before.
//
// A backend's *ended* time stands in its stop record from when its processes were seen to be gone;
// until it is GONE it settles. Its place, bytes, group and model stay taken: nobody is told that
// they are free.
//
// Safety: pure functions of values, except find_listed, which reads the segment. Any thread.
//
// Crash: baseline and ended time stand in the stop record; the next coordinator goes on with them.
//
// Errors: none. A device that nobody measures is not waited for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "policy/settle.hpp"
#include "protocol/snapshot.hpp"
#include "judge/samples.hpp"

namespace modelpool::coordinator {

// Devices whose driver has a process of the backend in its list: a bit each.
struct ListedDevices {
  BackendRef backend;
  std::uint32_t devices = 0;
};

// What is measured, and the segment does not say.
struct DeviceFacts {
  const Sample* sample = nullptr;     // the newest, null: nothing is measured
  std::vector<ListedDevices> listed;  // by that sample, of those that are ending
  // Samples from before that do not tell what was free before a signal: memory of one whose place
  // was given on by time may have come back since.
  std::uint64_t baselines_from_ns = 0;
};

// The most that it may give back of a device: the largest that was expected, declared or measured
// in this life. 0: it is not on it; kNever_ns: not known.
std::uint64_t most_held(const BackendView& b, std::size_t device);
// Until when the settings let the last of those that settle do so; 0: none does.
std::uint64_t settles_until_ns(const Snapshot& snapshot);

// Before `gone` is GONE, for every other that is STOPPING: what it held counts no longer among what
// settles and must not count as theirs; it is back, or comes later. Returns whether that changes
// their record. Done twice they settle for longer, not for less.
bool raise_baseline(const BackendView& gone, StopRecord* stop);

// Those that are ending, and on which devices the driver still has a process of theirs in its list,
// where it has one. Processes are those that were known before the first signal.
std::vector<ListedDevices> find_listed(const Segment& segment, const Snapshot& snapshot,
                                       const Sample* sample);

class DeviceReturns {
 public:
  // `exited`: whose first process has ended.
  DeviceReturns(const Snapshot& snapshot, const DeviceFacts& facts,
                std::span<const BackendRef> exited)
      : s_(snapshot), facts_(facts), exited_(exited) {}

  // Does it hold memory of a device that somebody measures? If not it is gone with its processes.
  bool must_settle(const BackendView& b) const;
  // All of it is free again, as of a sample that was taken after its processes had gone.
  bool is_back(const BackendView& b) const;
  // What is free now of the devices that it holds, for its stop record. Not of one that has ended
  // by itself: what it held may be back already.
  void note_baseline(const BackendView& b, StopRecord* stop) const;

 private:
  const DeviceSample* find_device(std::size_t device) const;
  bool is_measured(const BackendView& b, std::size_t device) const;
  bool is_ending(const BackendView& b) const;
  std::uint64_t measured_now(const BackendView& b, std::size_t device) const;
  Settling settling_of(const BackendView& b, std::size_t device) const;

  const Snapshot& s_;
  const DeviceFacts& facts_;
  std::span<const BackendRef> exited_;
};

}  // namespace modelpool::coordinator
