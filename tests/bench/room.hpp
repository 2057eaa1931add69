// What it costs the judge to choose who goes: in one scan, for all heads of the line.
#pragma once

#include "measure.hpp"

namespace modelpool::bench {

// Adds make_room/RESIDENTSxDEVICESxHEADS: each sample is a pool of its own, and the fastest of five
// looks at it, so that the samples differ by what is in the pool and not by what else runs.
void measure_room(Report& report, std::size_t samples);

}  // namespace modelpool::bench
