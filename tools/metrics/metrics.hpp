// What Prometheus reads of a pool, in its text format: totals of the segment's meters, and what a
// snapshot shows. Each series has the label pool.
//
// Totals are over all workers and coordinators that ever were: they never fall while the pool
// exists. A name beyond the first 256 models counts as "other". README.md lists them all.
//
// Safety: any thread. Of the pool it is a pure function; of processes it asks the kernel.
//
// Errors: none; a process that cannot be seen has no series.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "modelpool/pool.hpp"

namespace modelpool::metrics {

inline constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";

// `connections`: those of a front end; nullopt: there is none.
std::string text_of(const PoolSnapshot& seen, const Capacities& capacities,
                    const std::string& version, std::optional<std::uint64_t> connections = {});

}  // namespace modelpool::metrics
