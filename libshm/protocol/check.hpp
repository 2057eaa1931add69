// The invariants of a pool, checked on a snapshot: one list for `poolctl check`, tests and fuzzers.
//
// Safety: a pure function.
//
// Errors: none; findings are sentences.
#pragma once

#include <string>
#include <vector>

#include "protocol/snapshot.hpp"

namespace modelpool {

// What is wrong with it, one sentence each; empty if nothing. `settled`: no operation is in
// progress and a coordinator has run, so transitional states are findings too.
std::vector<std::string> check_invariants(const Snapshot& snapshot, bool settled);

}  // namespace modelpool
