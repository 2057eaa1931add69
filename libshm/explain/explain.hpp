// Which settings apply to a model and why, and what would happen to it as things stand: what
// `poolctl explain` prints and Pool::explain answers.
//
// Safety: any thread; the pool is only read (P12).
//
// Errors: none; what is not known is said so.
#pragma once

#include <string_view>

#include "modelpool/snapshot.hpp"
#include "protocol/snapshot.hpp"
#include "segment/judge.hpp"

namespace modelpool {

// `is_copy`: of a segment that is no pool's, whose processes are not looked at.
Explanation explain_model(const Segment& segment, const Snapshot& snapshot, std::string_view model,
                          JudgeState judge, bool is_copy);

}  // namespace modelpool
