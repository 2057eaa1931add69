// What an earlier pool of this name has left behind: a segment that lost the name, with backends
// that nobody ends; backends of a segment that is in no process any more. They are ended before
// another pool begins, so that there are never two limits (lost.hpp).
//
// Safety: one thread, before the coordinator serves.
//
// Crash: whatever was not ended is found again by the next start.
//
// Errors: kBusy while another coordinator ends them.
#pragma once

#include <memory>
#include <optional>

#include "options.hpp"
#include "segment/segment.hpp"

namespace modelpool::coordinator {

struct Predecessor {
  std::shared_ptr<Segment> segment;
  Fd singleton;  // locked
};
// One that has live backends, to be served to its end.
Result<std::optional<Predecessor>> find_predecessor(const Options& options);

// stop_signal, stop_grace, SIGKILL, gone. Does nothing if the pool is there.
Result<> end_orphans(const Options& options, const Settings& settings);

}  // namespace modelpool::coordinator
