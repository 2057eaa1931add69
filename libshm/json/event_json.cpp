#include "json/event_json.hpp"

namespace modelpool {
namespace {

// The members of one object, in the order they are added.
class ObjectWriter {
 public:
  void number(std::string_view key, std::uint64_t value) { add(key, std::to_string(value)); }
  void number_unless(std::uint64_t unknown, std::string_view key, std::uint64_t value) {
    add(key, value == unknown ? "null" : std::to_string(value));
  }
  void milliseconds(std::string_view key, std::uint64_t duration_ns) {
    add(key, duration_ns == kNever_ns ? "null" : std::to_string(duration_ns / kMillisecond_ns));
  }
  void text(std::string_view key, std::string_view value) {
    add(key, value.empty() ? "null" : json_quoted(value));
  }
  std::string finish() && { return std::move(line_) + "}"; }

 private:
  void add(std::string_view key, std::string_view value) {
    line_ += line_.empty() ? "{\"" : ",\"";
    line_ += key;
    line_ += "\":";
    line_ += value;
  }

  std::string line_;
};

}  // namespace

std::string json_quoted(std::string_view text) {
  const std::string safe = is_printable_utf8(text) ? std::string(text) : escape(text);
  std::string quoted = "\"";
  for (const char c : safe) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

std::string event_json(std::uint64_t sequence, const EventData& event) {
  ObjectWriter object;
  object.number("seq", sequence);
  object.text("time", event.time_ns == 0 ? "" : format_wall_clock(event.time_ns));
  object.text("kind", event_kind_name(event.kind));
  object.text("reason", reason_name(event.reason));
  object.text("model", field_text(event.model));
  object.number_unless(0, "pid", event.pid);
  object.number_unless(0, "worker_pid", event.worker_pid);
  object.milliseconds("age_ms", event.age_ns);
  object.milliseconds("limit_ms", event.limit_ns);
  object.text("signal", event.signal == 0 ? "" : signal_text(static_cast<int>(event.signal)));
  object.milliseconds("exit_ms", event.exit_ns);
  object.text("exit", exit_text(event.exit_status));
  object.milliseconds("load_ms", event.load_ns);
  object.text("tag", field_text(event.tag));
  object.number_unless(kNever_ns, "count", event.count);
  object.text("text", field_text(event.text));
  return std::move(object).finish();
}

}  // namespace modelpool
