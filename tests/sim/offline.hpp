// What a trace costs at least, for who knows all its requests and serves them in the order of their
// arrival, each by its model, which must be loaded: what the rules are measured by. Loads and
// services take no time.
//
// Between two requests to a model its backend is kept, or it is loaded again. Kept ones take a
// place each, and the model that is asked for takes one: so what is saved is the heaviest set of
// gaps of which at most k - 1 cover any request. That is a flow of k - 1 units along the requests,
// which passes a gap by skipping what it covers; its cheapest one is exact, for loads (Belady) and
// for load times.
//
// Safety: pure function; allocates.
//
// Errors: none. Sessions are left out: when they ask depends on who answers.
#pragma once

#include <cstdint>

#include "trace.hpp"

namespace modelpool::sim {

struct LeastLoads {
  std::uint64_t loads = 0;
  std::uint64_t load_ns = 0;
};
// Without a limit of places each model is loaded once. Memory limits nothing here.
LeastLoads least_loads(const Trace& trace);

}  // namespace modelpool::sim
