#include "log.hpp"

#include <spdlog/spdlog.h>

#include <cctype>
#include <chrono>
#include <memory>
#include <string>

#include "base/journal.hpp"
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

// "MODELPOOL_LOAD_MS".
std::string field_name(const std::string& key) {
  std::string name = "MODELPOOL_" + key;
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

// With fields to select by, `journalctl MODELPOOL_MODEL=llama`. False: as a line, like all else.
bool journal_takes(const std::string& line, std::uint64_t sequence, const EventData& event) {
  if (!stderr_is_journal()) return false;
  JournalFields fields = {{"MESSAGE", line},
                          {"PRIORITY", is_warning(event.kind) ? "4" : "6"},
                          {"SYSLOG_IDENTIFIER", "coordinatord"}};
  for (const auto& [key, value] : event_fields(sequence, event))
    fields.emplace_back(field_name(key), value);
  return send_to_journal(journal_entry(fields));
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
  const std::string line =
      format == LogFormat::kJson ? event_json(sequence, event) : event_text(sequence, event);
  if (journal_takes(line, sequence, event)) return;
  // At the event's own time: its line says when it was in either format.
  const spdlog::log_clock::time_point at{std::chrono::duration_cast<spdlog::log_clock::duration>(
      std::chrono::nanoseconds(event.time_ns))};
  logger->log(at, spdlog::source_loc{}, level, line);
}

}  // namespace modelpool::coordinator
