#include "log.hpp"

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

#include "json/event_json.hpp"
#include "base/text.hpp"
#include "base/time.hpp"

namespace modelpool::coordinator {
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

// "2026-03-01T12:00:00.000Z info  message"
class TextFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& line) override {
    const std::string_view level = level_name(message.level);
    append(line, time_of(message));
    append(line, " ");
    append(line, level);
    append(line, std::string_view("      ").substr(level.size()));
    append(line, {message.payload.data(), message.payload.size()});
    append(line, "\n");
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<TextFormatter>();
  }
};

// {"time":"2026-03-01T12:00:00.000Z","level":"info","message":"..."}
class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& line) override {
    append(line, "{\"time\":\"");
    append(line, time_of(message));
    append(line, "\",\"level\":\"");
    append(line, level_name(message.level));
    append(line, "\",\"message\":");
    append(line, json_quoted({message.payload.data(), message.payload.size()}));
    append(line, "}\n");
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

// The payload is the line.
class BareFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& line) override {
    append(line, {message.payload.data(), message.payload.size()});
    append(line, "\n");
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<BareFormatter>();
  }
};

// Standard error, as far as somebody reads it: a logger that has stopped, a terminal after Ctrl-S
// or a journal that hangs must not stop the judge. The descriptor itself stays blocking, it is not
// only ours.
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

std::shared_ptr<spdlog::logger> make_logger(const std::string& name, LogLevel level,
                                            std::unique_ptr<spdlog::formatter> formatter) {
  auto logger = std::make_shared<spdlog::logger>(name, std::make_shared<PatientSink>());
  logger->set_formatter(std::move(formatter));
  logger->set_level(kLevels[static_cast<std::size_t>(level)]);
  logger->flush_on(spdlog::level::trace);
  logger->set_error_handler([](const std::string&) {});  // it would write to the same stderr
  return logger;
}

// Null: events are messages of the default logger, as text.
std::shared_ptr<spdlog::logger>& event_logger() {
  static std::shared_ptr<spdlog::logger> logger;
  return logger;
}

spdlog::level::level_enum level_of(EventKind kind) {
  switch (kind) {
    case EventKind::kKilled:
    case EventKind::kLoadFailed:
    case EventKind::kWorkerDied:
      return spdlog::level::warn;
    default:
      return spdlog::level::info;
  }
}

// key=value pairs behind the event's kind; unknown values are not added.
class PairWriter {
 public:
  explicit PairWriter(std::string_view kind) : line_(kind) {}

  void text(std::string_view key, std::string_view value) {
    if (value.empty()) return;
    line_ += ' ';
    line_ += key;
    line_ += '=';
    line_ += value.find_first_of(" \"\\") == std::string_view::npos && is_printable_utf8(value)
                 ? std::string(value)
                 : json_quoted(value);
  }
  void number(std::string_view key, std::uint64_t value, std::uint64_t unknown) {
    if (value != unknown) text(key, std::to_string(value));
  }
  void age(std::string_view key, std::uint64_t age_ns) {
    if (age_ns != kNever_ns) text(key, format_age(age_ns));
  }
  std::string finish() && { return std::move(line_); }

 private:
  std::string line_;
};

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

void set_up_log(LogLevel level, LogFormat format) {
  if (format == LogFormat::kJson) {
    spdlog::set_default_logger(
        make_logger("coordinatord", level, std::make_unique<JsonFormatter>()));
    event_logger() = make_logger("events", level, std::make_unique<BareFormatter>());
  } else {
    spdlog::set_default_logger(
        make_logger("coordinatord", level, std::make_unique<TextFormatter>()));
    event_logger() = nullptr;
  }
}

void log_event(std::uint64_t sequence, const EventData& event) {
  const spdlog::level::level_enum level = level_of(event.kind);
  if (event_logger() != nullptr) {
    if (event_logger()->should_log(level)) event_logger()->log(level, event_json(sequence, event));
  } else if (spdlog::should_log(level)) {
    spdlog::default_logger_raw()->log(level, event_text(event));
  }
}

std::string event_text(const EventData& event) {
  PairWriter pairs(event_kind_name(event.kind));
  pairs.text("model", field_text(event.model));
  pairs.number("pid", event.pid, 0);
  pairs.text("reason", reason_name(event.reason));
  pairs.age("age", event.age_ns);
  if (event.limit_ns != kNever_ns) pairs.text("limit", format_duration(event.limit_ns));
  if (event.signal != 0) pairs.text("signal", signal_text(static_cast<int>(event.signal)));
  pairs.age("exit", event.exit_ns);
  pairs.text("ended", exit_text(event.exit_status));
  pairs.age("load", event.load_ns);
  pairs.number("worker", event.worker_pid, 0);
  pairs.text("tag", field_text(event.tag));
  pairs.number("count", event.count, kNever_ns);
  pairs.text("text", field_text(event.text));
  return std::move(pairs).finish();
}

}  // namespace modelpool::coordinator
