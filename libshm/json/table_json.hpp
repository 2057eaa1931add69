// The tables as JSON: a contract (snake_case, units in names, unknown is null, additive only). Rows
// have the fields of rows/rows.def; what only one command shows has its shape there.
//
// Safety: pure functions of a snapshot, except that the liveness of processes is looked up.
//
// Errors: none; text that is not printable UTF-8 is escaped.
#pragma once

#include <nlohmann/json.hpp>

#include "rows/rows.hpp"

namespace modelpool {

using Json = nlohmann::ordered_json;

Json json_text(std::string_view text);    // null if empty
Json json_ms(std::uint64_t duration_ns);  // null for kNever_ns
Json json_pid(pid_t pid);                 // null if there is none

Json row_json(const BackendRow& row);
Json row_json(const LeaseRow& row);
Json row_json(const WorkerRow& row);
Json row_json(const WaiterRow& row);
Json row_json(const ModelRow& row);
Json row_json(const EventRow& row);
Json row_json(const StatusRow& row);
Json row_json(const CoordinatorRow& row);
Json row_json(const DeviceRow& row);
Json row_json(const Explanation& row);
Json row_json(const BackendDetail& row);
template <class Row>
Json rows_json(const std::vector<Row>& rows) {
  Json json = Json::array();
  for (const Row& row : rows) json.push_back(row_json(row));
  return json;
}

// On one line, or on several; without the end of the last.
std::string json_line(const Json& json);
std::string json_page(const Json& json);

Json status_json(const Segment& segment, const Snapshot& snapshot);
Json backend_json(const Snapshot& snapshot, const BackendView& backend);
Json list_json(const Snapshot& snapshot);
Json workers_json(const Snapshot& snapshot);
Json leases_json(const Snapshot& snapshot);
Json waiters_json(const Snapshot& snapshot);
Json bytes_json(const Bytes& bytes);
// {name: {value, origin}}, values as `set` takes them.
Json settings_json(const PoolSettings& settings);

}  // namespace modelpool
