// What happened, for people and scripts: the ring of events in the segment and the log (P11).
//
// Safety: one thread, the coordinator's.
//
// Crash: an event is written with its number 0, then numbered, then counted in next_event: a reader
// sees it whole or not at all.
//
// Errors: none.
#pragma once

#include <memory>
#include <string>

#include "protocol/snapshot.hpp"

namespace modelpool::coordinator {

class Recorder {
 public:
  explicit Recorder(std::shared_ptr<Segment> segment) : segment_(std::move(segment)) {}
  void write(EventData event);

 private:
  std::shared_ptr<Segment> segment_;
};

// An event about this backend, filled with what its slot and stop record say.
EventData event_about(const BackendView& b, EventKind kind);

// What a hung process looks like from /proc: state, wchan, syscall, threads, RSS.
std::string evidence_of(pid_t pid);

}  // namespace modelpool::coordinator
