// What the coordinator says: lines on stderr, as text for people or as one JSON object a line. Both
// have one schema: time and level, then a message, or an event with the keys that `poolctl events`
// prints (event_json.hpp). Where stderr is systemd's journal, each line begins with its priority.
//
// Messages go through spdlog's default logger (spdlog::info and so on) once set_up_log ran; events
// through log_event.
//
// Safety: set_up_log from one thread, before others log; the rest from any thread. A closed stderr
// loses lines and nothing else, provided the process ignores SIGPIPE; so does one that nobody
// reads.
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

void log_event(std::uint64_t sequence, const EventData& event);

}  // namespace modelpool::coordinator
