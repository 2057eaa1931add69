// The rows of a look as JSON, the text that `poolctl -o json` prints: snake_case, units in the
// names, unknown is null, fields are only ever added. Of the library modelpool::json; this header
// needs no JSON library.
//
//   auto pool = modelpool::Pool::attach("default");
//   std::string text = modelpool::to_json(pool->snapshot()->backends);
//
// Safety: pure functions.
//
// Errors: none. A text that is not UTF-8 is repaired, so that the JSON is valid.
#pragma once

#include <string>
#include <vector>

#include "modelpool/snapshot.hpp"

namespace modelpool {

// Several lines, indented by 2, or one. Never with an end of the last line.
enum class JsonLayout { kIndented, kLine };

std::string to_json(const StatusRow& row, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const CoordinatorRow& row, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const BackendRow& row, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const LeaseRow& row, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const WorkerRow& row, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const WaiterRow& row, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const ModelRow& row, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const DeviceRow& row, JsonLayout layout = JsonLayout::kIndented);
// As `poolctl -o json explain` prints it.
std::string to_json(const Explanation& row, JsonLayout layout = JsonLayout::kIndented);
// As `poolctl -o json events` prints it.
std::string to_json(const EventRow& row, JsonLayout layout = JsonLayout::kLine);

// Arrays, as `list`, `leases`, `workers` and `waiters` print them.
std::string to_json(const std::vector<BackendRow>& rows, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const std::vector<LeaseRow>& rows, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const std::vector<WorkerRow>& rows, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const std::vector<WaiterRow>& rows, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const std::vector<ModelRow>& rows, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const std::vector<DeviceRow>& rows, JsonLayout layout = JsonLayout::kIndented);
std::string to_json(const std::vector<EventRow>& rows, JsonLayout layout = JsonLayout::kIndented);

}  // namespace modelpool
