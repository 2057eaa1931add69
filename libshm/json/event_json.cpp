#include "json/event_json.hpp"

#include "base/duration.hpp"
#include "json/table_json.hpp"

namespace modelpool {
namespace {

class FieldWriter {
 public:
  void null(const Field&) {}
  void number(const Field& field, std::uint64_t value) { text(field, std::to_string(value)); }
  void signal(const Field& field, int value) { text(field, signal_text(value)); }
  void time(const Field& field, std::uint64_t value) { text(field, format_wall_clock(value)); }
  void text(const Field& field, std::string_view value) { fields_.emplace_back(field.name, value); }
  std::vector<std::pair<std::string, std::string>> finish() && { return std::move(fields_); }

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

}  // namespace

std::string event_json(std::uint64_t sequence, const EventData& event) {
  return json_line(row_json(event_row(sequence, event)));
}

std::vector<std::pair<std::string, std::string>> event_fields(std::uint64_t sequence,
                                                              const EventData& event) {
  FieldWriter writer;
  write_row(event_row(sequence, event), writer);
  return std::move(writer).finish();
}

// What is unknown is left out.
std::string event_text(std::uint64_t sequence, const EventData& event) {
  std::string line(event_kind_name(event.kind));
  for (const auto& [name, value] : event_fields(sequence, event)) {
    if (name == "kind" || name == "time" || name == "level") continue;  // stand at its start
    const bool is_plain = value.find_first_of(" \"\\=") == std::string::npos;
    line.append(" ").append(name).append("=").append(is_plain ? value : json_line(value));
  }
  return line;
}

std::string message_json(std::string_view time, std::string_view level, std::string_view message) {
  return json_line(
      {{"time", std::string(time)}, {"level", std::string(level)}, {"message", shown(message)}});
}

}  // namespace modelpool
