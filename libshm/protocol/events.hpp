// The ring of decisions, read.
//
// Safety: any thread; reads only, takes no lock, works on read-only maps and copied files (P12).
//
// Crash: an event that its writer left half done is passed over.
//
// Errors: none; what was overwritten before it was read is missing.
#pragma once

#include <cstdint>
#include <vector>

#include "segment/segment.hpp"

namespace modelpool {

struct EventView {
  std::uint64_t sequence = 0;
  EventData data;
};
// Events with sequence numbers from `first` on that are still in the ring, oldest first.
std::vector<EventView> read_events(const Segment& segment, std::uint64_t first);

}  // namespace modelpool
