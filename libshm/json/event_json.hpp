// An event on one line, in one schema: as the JSON object that `poolctl events -o json` prints and
// the coordinator logs with --log-format json, and as the text that it logs otherwise. Its fields
// are those of rows/rows.def. This header does not include the JSON library.
//
// Safety: pure functions.
//
// Errors: none; what is not printable UTF-8 is escaped.
//
// Invariants:
//  1. Unknown is null in JSON and left out of the text, never 0 (P11).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "segment/layout.hpp"

namespace modelpool {

// Without a line end.
std::string event_json(std::uint64_t sequence, const EventData& event);

// "evicted seq=42 reason=idle model=llama age_ms=900000": the kind, then all other keys except time
// and level, which stand at the start of a line of the log. Values with blanks or quotes are
// quoted.
std::string event_text(std::uint64_t sequence, const EventData& event);

// All of its fields that are known, by the names that JSON has: {"model", "llama"}.
std::vector<std::pair<std::string, std::string>> event_fields(std::uint64_t sequence,
                                                              const EventData& event);

// {"time":"...","level":"...","message":"..."}: a line of the log that is no event. What is not
// printable UTF-8 goes through escape(), so that it is harmless on a terminal also after it was
// decoded.
std::string message_json(std::string_view time, std::string_view level, std::string_view message);

}  // namespace modelpool
