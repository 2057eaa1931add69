// What would happen if other settings held: `poolctl explain --what-if` and `coordinatord
// --check-config --against`.
//
// A copy of the segment gets the settings as the pool itself would, and decide judges a snapshot of
// it. What only the effects know is not known here: who has exited, whose holder is stopped, what
// devices measure, which probes failed.
//
// Safety: any thread. The pool is only read (P12).
//
// Crash: nothing is left; the copy has no name.
//
// Errors: kInvalid if the settings do not fit into the pool, kSystem without memory for a copy.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "judge/decide.hpp"
#include "modelpool/settings.hpp"
#include "protocol/snapshot.hpp"

namespace modelpool::coordinator {

struct Supposed {
  std::shared_ptr<const Segment> segment;  // a copy with the settings in force
  Snapshot snapshot;                       // of it
};
Result<Supposed> suppose(const Segment& segment, const std::function<void(Settings&)>& change);

// What the judge would do to a backend, or ask of who uses it.
struct Consequence {
  Action action;
  std::size_t after = 0;  // so many decisions: each was carried out, as if nobody used it any more
};
// What the host has left, as the coordinator would measure it now; reads some small files.
HostPressure measure_host(const Snapshot& snapshot);
// From now on until nothing follows, as if time stood still. For the host one idle backend goes at
// a time; who would be next depends on what that brings.
std::vector<Consequence> find_consequences(const Snapshot& snapshot, const HostPressure& host);

// Is it its end, as soon as its leases allow?
bool is_an_end(const Action& action);
// "it would be evicted", "it would be closed until 2 leases have ended, then evicted"
std::string consequence_text(const Action& action, const Snapshot& snapshot);
// "memory: room for llama, asked for by process 81"
std::string cause_text(const Action& action);

}  // namespace modelpool::coordinator
