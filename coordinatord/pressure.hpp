// Host pressure (policy/pressure.hpp) as the coordinator sees it: what is left of the memory, what
// the last eviction for it has brought, and since when such evictions pause.
//
// Safety: one thread, the loop's.
//
// Crash: the pause stands in the segment and outlives the coordinator. An eviction whose effect was
// not measured yet is forgotten: the next coordinator may evict one more before it knows.
//
// Errors: where the host does not say what is left, nobody goes, and the log says so.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "judge/decide.hpp"
#include "policy/pressure.hpp"

namespace modelpool::coordinator {

class PressureWatch {
 public:
  using Read = std::function<std::optional<std::uint64_t>()>;  // bytes
  PressureWatch(std::shared_ptr<Segment> segment, Read available, Read total);

  // Before a decision. Measures if that is due.
  HostPressure look(const Snapshot& snapshot);
  // After a decision was carried out: whom it closed.
  void follow(const Decision& decision, const Snapshot& snapshot);
  // Measures again: is it still so low that one may go?
  bool is_low() const;

 private:
  void follow_victim(const Snapshot& snapshot);
  void store(const Pressure& pressure);

  std::shared_ptr<Segment> segment_;
  Read available_;
  Read total_;
  Pressure pressure_;
  BackendRef victim_;  // of the trial
  std::uint64_t look_ns_ = 0;
  std::uint64_t min_bytes_ = 0;  // as of the last look
  std::uint64_t available_bytes_ = 0;
};

}  // namespace modelpool::coordinator
