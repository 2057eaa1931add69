#include "json/event_json.hpp"

#include "json/table_json.hpp"

namespace modelpool {
namespace {

// key=value pairs behind the event's kind; what is unknown is left out.
class PairWriter {
 public:
  explicit PairWriter(EventKind kind) : line_(event_kind_name(kind)) {}

  void null(const Field&) {}
  void number(const Field& field, std::uint64_t value) { add(field, std::to_string(value)); }
  void signal(const Field& field, int value) { text(field, signal_text(value)); }
  void time(const Field&, std::uint64_t) {}  // stands at the start of a line
  void text(const Field& field, std::string_view value) {
    if (field.name == "level" || field.name == "kind") return;  // so do these
    const bool plain = value.find_first_of(" \"\\=") == std::string_view::npos;
    add(field, plain ? std::string(value) : json_line(std::string(value)));
  }
  std::string finish() && { return std::move(line_); }

 private:
  void add(const Field& field, const std::string& value) {
    line_ += ' ';
    line_ += field.name;
    line_ += '=';
    line_ += value;
  }

  std::string line_;
};

}  // namespace

std::string event_json(std::uint64_t sequence, const EventData& event) {
  return json_line(row_json(event_row(sequence, event)));
}

std::string event_text(std::uint64_t sequence, const EventData& event) {
  PairWriter writer(event.kind);
  write_row(event_row(sequence, event), writer);
  return std::move(writer).finish();
}

std::string message_json(std::string_view time, std::string_view level, std::string_view message) {
  return json_line(
      {{"time", std::string(time)}, {"level", std::string(level)}, {"message", shown(message)}});
}

}  // namespace modelpool
