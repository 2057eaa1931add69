#include "log.hpp"

#include <spdlog/spdlog.h>

#include <chrono>
#include <memory>

#include "json/event_json.hpp"

namespace modelpool::coordinator {
namespace {

struct EventLog {
  std::shared_ptr<spdlog::logger> logger;  // null before set_up_log
  LogFormat format = LogFormat::kText;
};
EventLog& event_log() {
  static EventLog log;
  return log;
}

}  // namespace

void set_up_log(LogLevel level, LogFormat format) {
  config::set_up_log("coordinatord", level, format);
  event_log() = {config::make_line_logger("events", level, format), format};
}

void log_event(std::uint64_t sequence, const EventData& event) {
  const auto& [logger, format] = event_log();
  const auto level = is_warning(event.kind) ? spdlog::level::warn : spdlog::level::info;
  if (logger == nullptr || !logger->should_log(level)) return;
  // At the event's own time: its line says when it was in either format.
  const spdlog::log_clock::time_point at{std::chrono::duration_cast<spdlog::log_clock::duration>(
      std::chrono::nanoseconds(event.time_ns))};
  logger->log(
      at, spdlog::source_loc{}, level,
      format == LogFormat::kJson ? event_json(sequence, event) : event_text(sequence, event));
}

}  // namespace modelpool::coordinator
