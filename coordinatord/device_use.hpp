// Whose the bytes of devices are, from one sample to the next.
//
// Where a driver names processes, a backend has what its processes take. Where they cannot be told
// apart, it has what its device rose by while it was loaded, as far as it was the only load then:
// between two samples nothing else began, ended or was loading. What it takes more later is
// nobody's to know.
//
// Safety: one thread. Pure but for what it remembers of the sample before.
//
// Errors: none. What is not known is taken to be others': rather too little room than too much.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/kinds.hpp"
#include "base/need.hpp"
#include "judge/samples.hpp"

namespace modelpool::coordinator {

// A live backend, as it was when the sample was begun.
struct DeviceUser {
  BackendRef ref;
  std::vector<pid_t> processes;
  bool is_loading = false;
  bool is_ending = false;
  Bytes before;   // what was known of it: an earlier coordinator's measure
  Bytes assumed;  // what it was declared or expected to take
};

class DeviceUse {
 public:
  struct Told {
    std::vector<std::pair<BackendRef, Bytes>> backends;  // devices only
    Bytes foreign;                                       // of each device: everybody else's
  };
  Told tell(const std::vector<DeviceSample>& devices, const std::vector<DeviceUser>& users);

 private:
  struct Before {
    bool is_loading = false;
    bool is_ending = false;
    Bytes risen;  // by its load
  };
  using Key = std::pair<std::uint32_t, std::uint32_t>;  // slot and generation
  static Key key_of(BackendRef ref) { return {ref.index, ref.generation}; }
  const DeviceUser* only_load(const std::vector<DeviceUser>& users) const;

  bool has_before_ = false;
  std::map<Key, Before> before_;
  std::map<std::uint32_t, std::uint64_t> used_before_;  // by device
};

}  // namespace modelpool::coordinator
