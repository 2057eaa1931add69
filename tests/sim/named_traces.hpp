// Traces made by chance, each of a kind of use that was seen somewhere. The same name and seed give
// the same trace.
//
// Errors: kInvalid, naming those that there are.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "trace.hpp"

namespace modelpool::sim {

std::vector<std::string_view> trace_names();
Result<Trace> make_trace(std::string_view name, std::uint64_t seed);

}  // namespace modelpool::sim
