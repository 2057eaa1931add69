// What the coordinator says: lines on stderr, as text for people or as one JSON object a line.
//
// Messages go through spdlog's default logger (spdlog::info and so on) once set_up_log ran; events
// through log_event, so that the JSON line is the object that `poolctl events` prints.
//
// Safety: set_up_log from one thread, before others log; the rest from any thread. A closed stderr
// loses lines and nothing else, provided the process ignores SIGPIPE; so does one that nobody reads.
//
// Errors: none.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "segment/layout.hpp"

namespace modelpool::coordinator {

enum class LogLevel { kTrace, kDebug, kInfo, kWarn, kError };
enum class LogFormat { kText, kJson };

std::optional<LogLevel> parse_log_level(std::string_view name);    // trace debug info warn error
std::optional<LogFormat> parse_log_format(std::string_view name);  // text json

void set_up_log(LogLevel level, LogFormat format);

// killed, load_failed and worker_died are warnings, all others information.
void log_event(std::uint64_t sequence, const EventData& event);

// "evicted model=llama pid=123 reason=idle age=15m0s limit=15m signal=SIGTERM exit=812ms": what is
// unknown is left out (P11). Values with blanks or quotes stand in double quotes.
std::string event_text(const EventData& event);

}  // namespace modelpool::coordinator
