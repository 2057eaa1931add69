// What the door shows of the pool: what `poolctl -o json` prints, and what front-ends of other
// servers read.
//
// Safety: any thread; with large tables it takes its time. Looking takes no lock, holds no lease
// and counts as no use (P12).
//
// Errors: 400, 503, as answers.
#pragma once

#include <cstdint>
#include <optional>

#include "modelpool/pool.hpp"
#include "wire/api.hpp"
#include "wire/heads.hpp"

namespace modelpool::serve {

// REQUIRES: no order, no events that are to be followed, no metrics of backends. `connections`: of
// all workers.
OwnAnswer look(const ApiAsked& asked, Pool& pool, std::optional<std::uint64_t> connections);

}  // namespace modelpool::serve
