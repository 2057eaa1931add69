// What the settings say as texts that rules need at each look: the groups of models, the limits of
// devices. Each thread reads groups once for each publication and keeps them, devices whenever it
// prepares: texts cannot be read under the mutex, where nothing allocates.
//
// Safety: of one thread.
//
// Crash: of its process alone.
//
// Errors: none. A text that cannot be read says nothing.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "policy/values.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {

// Hashes of the names, sorted, each once.
std::vector<std::uint64_t> group_hashes(std::string_view groups);

// What a pool says of its devices: at their positions, as many as are known by now.
void read_device_limits(const Segment& segment, std::string_view gpu_memory, Limits* limits);

class LocalRules {
 public:
  // Reads what is new: of the settings, and of models that are live, wait or are `model`.
  // Allocates: not under the mutex.
  void prepare(const Segment& segment, std::string_view model);
  // Was all of it read of this publication? What came since is not known.
  bool is_of(const Segment& segment, std::uint64_t generation) const;

  bool has_groups() const { return has_groups_; }
  // Of a model that was prepared; else nullptr.
  const std::vector<std::uint64_t>* groups_of(std::uint64_t model) const;
  const Limits& devices() const { return devices_; }  // of its limits those of devices

 private:
  void learn(const Segment& segment, std::string_view model, std::uint64_t hash);

  std::uint64_t device_ = 0;  // of the segment's file
  std::uint64_t inode_ = 0;
  std::uint64_t generation_ = 0;
  bool has_groups_ = false;
  bool limits_devices_ = false;
  std::string gpu_memory_;
  Limits devices_;
  std::unordered_map<std::uint64_t, std::vector<std::uint64_t>> groups_;
};

}  // namespace modelpool
