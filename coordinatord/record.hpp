// What happened, for people and scripts: the ring of events in the segment and the log (P11).
//
// Safety: one thread, the coordinator's.
//
// Crash: an event is written with its number 0, then numbered, then counted in next_event: a reader
// sees it whole or not at all. Then it goes to the meters; one that has not is counted by the next
// coordinator (catch_up).
//
// Errors: none.
#pragma once

#include <memory>
#include <string>

#include "protocol/events.hpp"
#include "protocol/snapshot.hpp"
#include "segment/meters.hpp"

namespace modelpool::coordinator {

class Recorder {
 public:
  explicit Recorder(std::shared_ptr<Segment> segment);
  // Counts what an earlier coordinator wrote, but did not get to count. To be called by the one in
  // office before it writes.
  void catch_up();
  void write(EventData event);
  const MeterRow& meters() const { return meters_; }

 private:
  void count(std::uint64_t sequence, const EventData& event);

  std::shared_ptr<Segment> segment_;
  MeterRow meters_;  // the judge's
};

// An event about this backend, filled with what its slot and stop record say.
EventData event_about(const BackendView& b, EventKind kind);

// What a hung process looks like from /proc: state, wchan and syscall, of each thread, and RSS.
std::string describe_process(const BackendView& b);

}  // namespace modelpool::coordinator
