#include "json/event_json.hpp"

namespace modelpool {
namespace {

// The members of one object, in the order they are added.
class ObjectWriter {
 public:
  void number(std::string_view key, std::uint64_t value) { add(key, std::to_string(value)); }
  void text(std::string_view key, std::string_view value) { add(key, json_quoted(value)); }
  void unknown(std::string_view key) { add(key, "null"); }
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

// key=value pairs behind the event's kind.
class PairWriter {
 public:
  explicit PairWriter(EventKind kind) : line_(event_kind_name(kind)) {}

  void number(std::string_view key, std::uint64_t value) { add(key, std::to_string(value)); }
  void text(std::string_view key, std::string_view value) {
    if (key == "time" || key == "level" || key == "kind") return;
    const bool plain =
        value.find_first_of(" \"\\=") == std::string_view::npos && is_printable_utf8(value);
    add(key, plain ? std::string(value) : json_quoted(value));
  }
  void unknown(std::string_view) {}
  std::string finish() && { return std::move(line_); }

 private:
  void add(std::string_view key, const std::string& value) {
    line_ += ' ';
    line_ += key;
    line_ += '=';
    line_ += value;
  }

  std::string line_;
};

template <class Writer>
std::string write(Writer writer, std::uint64_t sequence, const EventData& event) {
  const auto text = [&writer](std::string_view key, std::string_view value) {
    if (value.empty()) {
      writer.unknown(key);
    } else {
      writer.text(key, value);
    }
  };
  const auto number = [&writer](std::string_view key, std::uint64_t value, std::uint64_t unknown) {
    if (value == unknown) {
      writer.unknown(key);
    } else {
      writer.number(key, value);
    }
  };
  const auto milliseconds = [&](std::string_view key, std::uint64_t ns) {
    number(key, ns == kNever_ns ? kNever_ns : ns / kMillisecond_ns, kNever_ns);
  };
  writer.number("seq", sequence);
  text("time", event.time_ns == 0 ? "" : format_wall_clock(event.time_ns));
  text("level", is_warning(event.kind) ? "warn" : "info");
  text("kind", event_kind_name(event.kind));
  text("reason", reason_name(event.reason));
  text("model", field_text(event.model));
  number("pid", event.pid, 0);
  number("worker_pid", event.worker_pid, 0);
  milliseconds("age_ms", event.age_ns);
  milliseconds("limit_ms", event.limit_ns);
  text("signal", event.signal == 0 ? "" : signal_text(static_cast<int>(event.signal)));
  milliseconds("exit_ms", event.exit_ns);
  text("exit", exit_text(event.exit_status));
  milliseconds("load_ms", event.load_ns);
  text("tag", field_text(event.tag));
  number("count", event.count, kNever_ns);
  text("text", field_text(event.text));
  return std::move(writer).finish();
}

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
  return write(ObjectWriter(), sequence, event);
}

std::string event_text(std::uint64_t sequence, const EventData& event) {
  return write(PairWriter(event.kind), sequence, event);
}

bool is_warning(EventKind kind) {
  return kind == EventKind::kKilled || kind == EventKind::kLoadFailed ||
         kind == EventKind::kWorkerDied;
}

}  // namespace modelpool
