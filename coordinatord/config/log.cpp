#include "config/log.hpp"

#include <limits.h>
#include <poll.h>
#include <spdlog/formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <memory>
#include <mutex>
#include <utility>

#include "base/duration.hpp"
#include "base/journal.hpp"
#include "json/event_json.hpp"

namespace modelpool::config {
namespace {

constexpr std::array<std::string_view, 5> kLevelNames = {"trace", "debug", "info", "warn", "error"};
constexpr std::array<spdlog::level::level_enum, 5> kLevels = {
    spdlog::level::trace, spdlog::level::debug, spdlog::level::info,
    spdlog::level::warn,  spdlog::level::err,
};

std::string_view level_name(spdlog::level::level_enum level) {
  for (std::size_t i = 0; i < kLevels.size(); ++i) {
    if (kLevels[i] == level) return kLevelNames[i];
  }
  return "error";
}

std::string time_of(const spdlog::details::log_msg& message) {
  const auto since_epoch =
      std::chrono::duration_cast<std::chrono::nanoseconds>(message.time.time_since_epoch());
  return format_wall_clock(static_cast<std::uint64_t>(since_epoch.count()));
}

void append(spdlog::memory_buf_t& line, std::string_view text) {
  line.append(text.data(), text.data() + text.size());
}

// Of syslog, as the journal takes it: "<4>".
std::string priority_of(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::trace:
    case spdlog::level::debug:
      return "<7>";
    case spdlog::level::info:
      return "<6>";
    case spdlog::level::warn:
      return "<4>";
    default:
      return "<3>";
  }
}

// A line, or a line for each of the message's: "2026-03-01T12:00:00.000Z info  message" or
// {"time":"2026-03-01T12:00:00.000Z","level":"info","message":"..."}.
class LineFormatter final : public spdlog::formatter {
 public:
  LineFormatter(LogFormat format, bool are_lines, bool to_journal)
      : format_(format), are_lines_(are_lines), to_journal_(to_journal) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& line) override {
    const std::string_view text{message.payload.data(), message.payload.size()};
    const std::string before = to_journal_ ? priority_of(message.level) : std::string();
    append(line, format_ == LogFormat::kJson ? before + json_line(message, text)
                                             : prefix_lines(before + text_head(message), text));
    append(line, "\n");
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<LineFormatter>(format_, are_lines_, to_journal_);
  }

 private:
  static std::string text_head(const spdlog::details::log_msg& message) {
    std::string level(level_name(message.level));
    level.resize(6, ' ');
    return time_of(message) + " " + level;
  }
  std::string json_line(const spdlog::details::log_msg& message, std::string_view text) const {
    if (are_lines_) return std::string(text);
    return message_json(time_of(message), level_name(message.level), text);
  }

  LogFormat format_;
  bool are_lines_;  // a message in JSON is the object itself
  bool to_journal_;
};

// Standard error, as far as somebody reads it: a logger that has stopped, a terminal after Ctrl-S
// or a journal that hangs must not stop the program. The descriptor itself stays blocking: it is
// not only ours.
class PatientSink final : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    const char* rest = line.data();
    const char* const end = rest + line.size();
    while (rest < end && is_writable()) {
      // A pipe with room takes so much at once.
      const auto bytes = std::min<std::size_t>(static_cast<std::size_t>(end - rest), PIPE_BUF);
      const ssize_t written = write(STDERR_FILENO, rest, bytes);
      if (written < 0 && errno != EINTR) break;
      if (written > 0) rest += written;
    }
    is_read_ = rest == end;
  }
  void flush_() override {}

 private:
  static constexpr int kPatience_ms = 20;  // once; then none, until somebody reads again

  bool is_writable() const {
    pollfd error{STDERR_FILENO, POLLOUT, 0};
    return poll(&error, 1, is_read_ ? kPatience_ms : 0) > 0;
  }

  bool is_read_ = true;
};

std::shared_ptr<spdlog::logger> make_logger(const char* name, LogLevel level, LogFormat format,
                                            bool are_lines) {
  auto logger = std::make_shared<spdlog::logger>(name, std::make_shared<PatientSink>());
  logger->set_formatter(std::make_unique<LineFormatter>(format, are_lines, stderr_is_journal()));
  logger->set_level(kLevels[static_cast<std::size_t>(level)]);
  logger->flush_on(spdlog::level::trace);
  logger->set_error_handler([](const std::string&) {});  // it would write to the same stderr
  return logger;
}

}  // namespace

std::optional<LogLevel> parse_log_level(std::string_view name) {
  for (std::size_t i = 0; i < kLevelNames.size(); ++i) {
    if (kLevelNames[i] == name) return static_cast<LogLevel>(i);
  }
  return std::nullopt;
}

std::optional<LogFormat> parse_log_format(std::string_view name) {
  if (name == "text") return LogFormat::kText;
  if (name == "json") return LogFormat::kJson;
  return std::nullopt;
}

void set_up_log(const char* program, LogLevel level, LogFormat format) {
  spdlog::set_default_logger(make_logger(program, level, format, false));
}

std::shared_ptr<spdlog::logger> make_line_logger(const char* name, LogLevel level,
                                                 LogFormat format) {
  return make_logger(name, level, format, true);
}

}  // namespace modelpool::config
