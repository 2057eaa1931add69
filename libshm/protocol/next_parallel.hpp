// Numbers and flags of the backends there are, as the next settings give them (parallel.hpp).
//
// Safety: one thread. Allocates when it is made: before the mutex is taken.
//
// Crash: in `settle` it leaves what parallel.hpp says.
//
// Errors: none.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "protocol/parallel.hpp"
#include "segment/settings_image.hpp"

namespace modelpool {

// What the next settings give the backends there are: found out before the mutex is taken.
class NextParallel {
 public:
  NextParallel(const Segment& segment, const SettingsImage& next);
  // In the hold that published them. Whoever waits is woken by the caller.
  void settle(const Segment& segment, const LockGuard& guard) const;

 private:
  struct Judged {
    BackendRef backend;
    std::uint32_t number = 0;
  };
  std::optional<std::uint32_t> number_of(const Segment& segment, BackendRef backend) const;

  bool may_differ_ = true;
  std::uint64_t before_ = 0;    // generation of the settings in force until then
  std::vector<Judged> judged_;  // by slot; none if no number can have changed
};

}  // namespace modelpool
