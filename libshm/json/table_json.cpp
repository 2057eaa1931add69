#include "json/table_json.hpp"

#include <algorithm>

#include "base/duration.hpp"
#include "base/time.hpp"

namespace modelpool {
namespace {

Json meter_json(const MeterSample& sample) {
  Json labels = Json::object();
  for (const auto& [name, value] : sample.labels) labels[name] = value;
  Json json = {{"name", sample.name}, {"labels", std::move(labels)}, {"value", sample.value}};
  if (sample.is_histogram) {
    json["unit"] = sample.unit;
    json["per_unit"] = sample.per_unit;
    json["bounds"] = sample.bounds;
    json["buckets"] = sample.buckets;
    json["sum"] = sample.sum;
  }
  return json;
}

class JsonWriter {
 public:
  void null(const Field& field) { set(field, nullptr); }
  void text(const Field& field, std::string_view value) { set(field, std::string(value)); }
  void flag(const Field& field, bool value) { set(field, value); }
  void number(const Field& field, std::uint64_t value) { set(field, value); }
  void signal(const Field& field, int value) { set(field, signal_text(value)); }
  void time(const Field& field, std::uint64_t wall_ns) { set(field, format_wall_clock(wall_ns)); }
  void texts(const Field& field, const std::vector<std::string>& values) {
    Json list = Json::array();
    for (const std::string& value : values) list.push_back(value);
    set(field, std::move(list));
  }
  // {kind: {reason or "none": count}}
  void counters(const Field& field, const std::vector<CounterRow>& values) {
    Json kinds = Json::object();
    for (const CounterRow& value : values) {
      kinds[value.kind][value.reason.empty() ? "none" : value.reason] = value.count;
    }
    set(field, std::move(kinds));
  }
  void meters(const Field& field, const std::vector<MeterSample>& samples) {
    Json list = Json::array();
    for (const MeterSample& sample : samples) list.push_back(meter_json(sample));
    set(field, std::move(list));
  }
  template <class Row>
  void part(const Field& field, const Row& row) {
    JsonWriter writer;
    write_row(row, writer);
    set(field, std::move(writer.json_));
  }
  template <class Row>
  void rows(const Field& field, const std::vector<Row>& rows) {
    Json list = Json::array();
    for (const Row& row : rows) list.push_back(of(row));
    set(field, std::move(list));
  }
  template <class Row>
  static Json of(const Row& row) {
    JsonWriter writer;
    write_row(row, writer);
    return std::move(writer.json_);
  }

 private:
  // Appended unseen: no two fields of a row have one name.
  void set(const Field& field, Json value) {
    json_.get_ref<Json::object_t&>().emplace_back(std::string(field.name), std::move(value));
  }

  Json json_ = Json::object();
};

}  // namespace

Json json_text(std::string_view text) {
  if (text.empty()) return nullptr;
  return shown(text);
}

Json json_ms(std::uint64_t duration_ns) {
  if (duration_ns == kNever_ns) return nullptr;
  return duration_ns / kMillisecond_ns;
}

Json json_pid(pid_t pid) {
  if (pid <= 0) return nullptr;
  return pid;
}

Json row_json(const BackendRow& row) { return JsonWriter::of(row); }
Json row_json(const LeaseRow& row) { return JsonWriter::of(row); }
Json row_json(const WorkerRow& row) { return JsonWriter::of(row); }
Json row_json(const WaiterRow& row) { return JsonWriter::of(row); }
Json row_json(const ModelRow& row) { return JsonWriter::of(row); }
Json row_json(const EventRow& row) { return JsonWriter::of(row); }
Json row_json(const StatusRow& row) { return JsonWriter::of(row); }
Json row_json(const CoordinatorRow& row) { return JsonWriter::of(row); }
Json row_json(const DeviceRow& row) { return JsonWriter::of(row); }
Json row_json(const BackendDetail& row) { return JsonWriter::of(row); }

std::string json_line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string json_page(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

Json status_json(const Segment& segment, const Snapshot& snapshot) {
  return row_json(status_row(segment, snapshot));
}
Json backend_json(const Snapshot& snapshot, const BackendView& backend) {
  return row_json(backend_row(snapshot, backend));
}
Json list_json(const Snapshot& snapshot) { return rows_json(backend_rows(snapshot)); }
Json workers_json(const Snapshot& snapshot) { return rows_json(worker_rows(snapshot)); }
Json leases_json(const Snapshot& snapshot) { return rows_json(lease_rows(snapshot)); }
Json waiters_json(const Snapshot& snapshot) { return rows_json(waiter_rows(snapshot)); }

Json row_json(const Explanation& row) {
  Json settings = Json::object();
  for (const SettingRow& one : row.settings) {
    settings[one.name] = {{"value", json_text(one.value)},
                          {"origin", json_text(one.origin)},
                          {"rule", json_text(one.rule)}};
  }
  Json verdicts = Json::array();
  for (const VerdictRow& one : row.verdicts) {
    verdicts.push_back({{"rule", json_text(one.rule)},
                        {"text", json_text(one.text)},
                        {"due_in_ms", one.due_in_ms ? Json(*one.due_in_ms) : Json(nullptr)}});
  }
  Json history = row.history ? row_json(*row.history) : Json(nullptr);
  if (row.history) history.erase("model");
  return {{"model", json_text(row.model)},
          {"loaded", row.is_loaded},
          {"state", row.backend ? Json(row.backend->state) : Json(nullptr)},
          {"backend", row.backend ? row_json(*row.backend) : Json(nullptr)},
          {"settings", std::move(settings)},
          {"verdicts", std::move(verdicts)},
          {"history", std::move(history)}};
}

Json bytes_json(const Bytes& bytes) {
  Json devices = Json::array();
  for (std::size_t i = 0; i < kDevicesMax; ++i) {
    if (bytes.device[i] != 0) devices.push_back({{"device", i}, {"bytes", bytes.device[i]}});
  }
  return {{"host_bytes", bytes.host == 0 ? Json(nullptr) : Json(bytes.host)},
          {"devices", std::move(devices)}};
}

Json settings_json(const PoolSettings& settings) {
  Json json = Json::object();
  for (const SettingInfo& info : kSettings) {
    const Origin origin = settings.pool.origin(info.id);
    json[std::string(info.name)] = {
        {"value", json_text(settings.shown(info.id))},
        {"origin", json_text(origin_text(settings.config_path, origin))}};
  }
  return json;
}

}  // namespace modelpool
