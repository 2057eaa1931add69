// What it costs the judge to choose who goes: in one scan, for all heads of the line.
#pragma once

#include "measure.hpp"

namespace modelpool::bench {

// Adds make_room/RESIDENTSxDEVICESxHEADS, each sample a pool of its own.
void measure_room(Report& report, std::size_t samples);

}  // namespace modelpool::bench
