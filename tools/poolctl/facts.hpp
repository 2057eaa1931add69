// Reads what `poolctl doctor` examines (findings.hpp): files, /proc, the segment.
//
// Safety: one thread. Takes no lock, leaves no trace (P12); tens of milliseconds where there are
// thousands of processes.
//
// Crash: nothing to leave behind.
//
// Errors: none. What cannot be seen is not among the facts.
#pragma once

#include "common.hpp"
#include "findings.hpp"

namespace modelpool::poolctl {

PlaceFacts read_place(const Context& context);

// Processes that a pool of this path has started, and the token by which each knows its backend.
// To be read before the snapshot: whoever is started in between is not among them.
struct Marked {
  pid_t pid = 0;
  std::string token;
};
std::vector<Marked> find_marked(const Context& context);

PoolFacts read_pool(const Segment& segment, const Snapshot& snapshot, bool is_copy,
                    const std::vector<Marked>& marked);

}  // namespace modelpool::poolctl
