// An event as one JSON object on one line: what `poolctl events -o json` prints and what the
// coordinator logs with --log-format json.
//
// The keys are a contract, additive only, in this order: seq, time (RFC 3339, UTC), kind, reason,
// model, pid, worker_pid, age_ms, limit_ms, signal (its name), exit_ms, exit, load_ms, tag, count,
// text. Milliseconds are whole and rounded down.
//
// Safety: pure functions.
//
// Errors: none; what is not printable UTF-8 is escaped.
//
// Invariants:
//  1. Unknown is null, never 0 (P11).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "segment/layout.hpp"

namespace modelpool {

// Without a line end.
std::string event_json(std::uint64_t sequence, const EventData& event);

// The text as a JSON string with its quotes. What is not printable UTF-8 goes through escape(), so
// that it is harmless on a terminal also after it was decoded.
std::string json_quoted(std::string_view text);

}  // namespace modelpool
