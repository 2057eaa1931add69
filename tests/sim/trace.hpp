// What a pool is asked for: so many places, models with their load times, and requests with their
// service times.
//
//   # a note
//   k PLACES
//   m LOAD_S SIZE_GB PARALLEL RARE     a model, numbered from 0 in the order of these lines
//   T MODEL SERVICE_S                  a request, in the order of their times
//
// Errors: kInvalid, with the line.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "modelpool/result.hpp"

namespace modelpool::sim {

struct TraceModel {
  std::uint64_t load_ns = 0;
  std::uint64_t size_bytes = 0;
  std::uint32_t parallel = 1;  // requests that its backend serves at once; the others wait there
  bool rare = false;
};

struct TraceRequest {
  std::uint64_t at_ns = 0;
  std::uint32_t model = 0;
  std::uint64_t service_ns = 0;
};

// Whose next step waits for the one before: an agent, a batch, a chat. Not in files.
struct TraceSession {
  struct Call {
    std::uint32_t model = 0;
    std::uint64_t service_ns = 0;
  };
  struct Step {
    std::vector<Call> calls;     // at once
    std::uint64_t pause_ns = 0;  // after the last of them has ended
  };
  std::uint64_t start_ns = 0;
  std::vector<Step> steps;
};

struct Trace {
  std::uint32_t places = 0;        // 0 = no limit
  std::uint64_t memory_bytes = 0;  // 0 = no limit. Not in files
  std::vector<TraceModel> models;
  std::vector<TraceRequest> requests;
  std::vector<TraceSession> sessions;
};

Result<Trace> parse_trace(std::string_view text);
Result<Trace> read_trace(const std::string& path);

}  // namespace modelpool::sim
