// Tells a judge that slept alone from a pause of everything: SIGSTOP for all, a frozen control
// group, a suspended machine. What nobody could do anything in must not end a request (P8); what
// only the judge slept through must.
//
// The rule: the judge woke much later than it had planned. Had others run, some stamp of a worker
// (a lease, a use, a look of a waiter, a load) would lie between that plan and the waking. If none
// does, everything stood still, and the time since the judge last looked is not counted. A pause
// that ends before the next deadline is not noticed. Where nobody had anything to stamp, a judge
// that slept alone looks the same: then what it missed ends that much later, never earlier.
//
// Safety: one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "policy/values.hpp"
#include "protocol/snapshot.hpp"

namespace modelpool::coordinator {

class StandstillWatch {
 public:
  // After a scan that looked at `scanned_ns`: it plans to look again at `planned_ns`.
  void sleeps(std::uint64_t scanned_ns, std::uint64_t planned_ns);
  void wakes(std::uint64_t now_ns);
  // With the first look after that. Returns whether everything had stood still.
  bool examine(const Segment& segment, const Snapshot& snapshot);

  // The latest of them, oldest first.
  const std::vector<Standstill>& found() const { return found_; }

 private:
  std::uint64_t scanned_ns_ = 0;
  std::uint64_t planned_ns_ = kNever_ns;
  Standstill suspected_;         // ended_ns 0: none
  std::uint64_t missed_ns_ = 0;  // what was planned for it
  std::vector<Standstill> found_;
};

}  // namespace modelpool::coordinator
