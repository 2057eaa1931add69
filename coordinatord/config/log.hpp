// What a program says on stderr: lines as text for people, or one JSON object a line. Both have one
// schema: time and level, then a message. Where stderr is systemd's journal, each line begins with
// its priority. Messages go through spdlog's default logger (spdlog::info and so on).
//
// Safety: set_up_log from one thread, before others log; the rest from any thread. A closed stderr
// loses lines and nothing else, provided the process ignores SIGPIPE; so does one that nobody
// reads.
//
// Errors: none.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

namespace spdlog {
class logger;
}

namespace modelpool::config {

enum class LogLevel { kTrace, kDebug, kInfo, kWarn, kError };
enum class LogFormat { kText, kJson };

std::optional<LogLevel> parse_log_level(std::string_view name);    // trace debug info warn error
std::optional<LogFormat> parse_log_format(std::string_view name);  // text json

void set_up_log(const char* program, LogLevel level, LogFormat format);

// A logger of its own, whose messages in JSON are lines already.
std::shared_ptr<spdlog::logger> make_line_logger(const char* name, LogLevel level,
                                                 LogFormat format);

}  // namespace modelpool::config
