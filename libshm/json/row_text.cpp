#include "json/table_json.hpp"
#include "modelpool/json.hpp"

namespace modelpool {
namespace {

template <class Row>
std::string text_of(const Row& row, JsonLayout layout) {
  return layout == JsonLayout::kLine ? json_line(row_json(row)) : json_page(row_json(row));
}

template <class Row>
std::string text_of(const std::vector<Row>& rows, JsonLayout layout) {
  return layout == JsonLayout::kLine ? json_line(rows_json(rows)) : json_page(rows_json(rows));
}

}  // namespace

std::string to_json(const StatusRow& row, JsonLayout layout) { return text_of(row, layout); }
std::string to_json(const CoordinatorRow& row, JsonLayout layout) { return text_of(row, layout); }
std::string to_json(const BackendRow& row, JsonLayout layout) { return text_of(row, layout); }
std::string to_json(const LeaseRow& row, JsonLayout layout) { return text_of(row, layout); }
std::string to_json(const WorkerRow& row, JsonLayout layout) { return text_of(row, layout); }
std::string to_json(const WaiterRow& row, JsonLayout layout) { return text_of(row, layout); }
std::string to_json(const ModelRow& row, JsonLayout layout) { return text_of(row, layout); }
std::string to_json(const DeviceRow& row, JsonLayout layout) { return text_of(row, layout); }
std::string to_json(const EventRow& row, JsonLayout layout) { return text_of(row, layout); }
std::string to_json(const Explanation& row, JsonLayout layout) { return text_of(row, layout); }

std::string to_json(const std::vector<BackendRow>& rows, JsonLayout layout) {
  return text_of(rows, layout);
}
std::string to_json(const std::vector<LeaseRow>& rows, JsonLayout layout) {
  return text_of(rows, layout);
}
std::string to_json(const std::vector<WorkerRow>& rows, JsonLayout layout) {
  return text_of(rows, layout);
}
std::string to_json(const std::vector<WaiterRow>& rows, JsonLayout layout) {
  return text_of(rows, layout);
}
std::string to_json(const std::vector<ModelRow>& rows, JsonLayout layout) {
  return text_of(rows, layout);
}
std::string to_json(const std::vector<DeviceRow>& rows, JsonLayout layout) {
  return text_of(rows, layout);
}
std::string to_json(const std::vector<EventRow>& rows, JsonLayout layout) {
  return text_of(rows, layout);
}

}  // namespace modelpool
