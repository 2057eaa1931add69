// poolctl dump: everything in the segment, as one JSON object.
#include "base/duration.hpp"
#include "base/time.hpp"
#include "json.hpp"
#include "json/event_json.hpp"
#include "segment/settings_block.hpp"

namespace modelpool::poolctl {
namespace {

Json header_json(const Segment& segment) {
  const Header& header = segment.header();
  const Capacities& capacities = segment.capacities();
  return {{"layout_version", header.layout_version},
          {"abi_fingerprint", header.abi_fingerprint},
          {"total_bytes", header.total_bytes},
          {"created", format_wall_clock(header.created_ns)},
          {"uid", header.uid},
          {"libc", json_text(field_text(header.libc))},
          {"pid_namespace", header.pid_namespace},
          {"time_namespace", header.time_namespace},
          {"capacities",
           {{"backends", capacities.backends},
            {"workers", capacities.workers},
            {"leases_per_worker", capacities.leases},
            {"waiters", capacities.waiters},
            {"events", capacities.events},
            {"models", capacities.models},
            {"rules", capacities.rules}}}};
}

Json overrides_json(const PoolSettings& settings, const Overrides& overrides) {
  Json json = Json::object();
  for (const SettingInfo& info : kSettings) {
    if (!overrides.has(info.id)) continue;
    json[std::string(info.name)] = {
        {"value", json_text(format_entry(info, overrides.find(info.id)))},
        {"origin", json_text(origin_text(settings.config_path, overrides.origin(info.id)))}};
  }
  return json;
}

Json rules_json(const Settings& settings) {
  Json json = Json::array();
  for (const Rule& rule : settings.rules) {
    json.push_back({{"match", json_text(rule.pattern)},
                    {"settings", overrides_json(settings, rule.overrides)}});
  }
  return json;
}

void add_sizes(Json* entry, const BackendView& backend) {
  (*entry)["expected"] = bytes_json(backend.expected);
  (*entry)["declared"] = bytes_json(backend.declared);
  (*entry)["measured"] = bytes_json(backend.measured);
  (*entry)["peak"] = bytes_json(backend.peak);
}

Json waiter_rows_json(const Snapshot& snapshot) {
  Json json = waiters_json(snapshot);
  for (std::size_t i = 0; i < snapshot.waiters.size(); ++i) {
    const Need& need = snapshot.waiters[i].need;
    Json& entry = json[i]["need"] = bytes_json(need.bytes);
    entry["places"] = need.places;
    entry["devices_asked"] = need.devices;
    entry["settings_generation"] = need.settings;
  }
  return json;
}

Json judge_json(const Snapshot& snapshot) {
  const CoordinatorView& judge = snapshot.coordinator;
  Json json = {{"foreign", bytes_json(judge.foreign.bytes)}};
  json["foreign"]["measured_ms"] =
      judge.foreign.measured_ns == 0 ? Json(nullptr)
                                     : json_ms(age_ns(snapshot.now_ns, judge.foreign.measured_ns));
  const std::uint64_t left = age_ns(judge.pressure_until_ns, snapshot.now_ns);
  json["pressure_pause_ms"] = left == 0 ? Json(nullptr) : json_ms(left);
  json["features"] = {
      {"compat", judge.features[0]}, {"judge", judge.features[1]}, {"admit", judge.features[2]}};
  return json;
}

Json dump_json(const Segment& segment, const Snapshot& snapshot) {
  const Settings settings = load_settings(segment);
  Json json = status_json(segment, snapshot);
  json["now_ns"] = snapshot.now_ns;
  json["header"] = header_json(segment);
  json["settings"] = snapshot.settings ? settings_json(settings) : Json(nullptr);
  json["config_path"] = json_text(settings.config_path);
  json["rules"] = rules_json(settings);
  Json backends = Json::array();
  for (const BackendView& backend : snapshot.backends) {  // also those that are gone
    Json entry = backend_json(snapshot, backend);
    entry.update(row_json(backend_detail(snapshot, backend)));
    entry["settings"] = overrides_json(settings, backend.overrides);
    add_sizes(&entry, backend);
    backends.push_back(std::move(entry));
  }
  json["backends"] = std::move(backends);
  json["worker_rows"] = workers_json(snapshot);
  json["lease_cells"] = leases_json(snapshot);
  json["waiter_rows"] = waiter_rows_json(snapshot);
  json["coordinator"].update(judge_json(snapshot));
  json["models"] = rows_json(model_rows(segment, snapshot));
  json["events"] = rows_json(event_rows(segment, 1));
  return json;
}

}  // namespace

void add_dump(CLI::App& root, Context& context) {
  const auto file = std::make_shared<std::string>();
  CLI::App* command = add_command(
      root, context, "dump", "Everything in the segment, as one JSON object",
      "It begins with the keys of status; the tables follow. Enough to file a report with.\n\n"
      "Examples:\n"
      "  poolctl dump > pool.json\n"
      "  cp /dev/shm/modelpool-1000/default /tmp/copy && poolctl dump --file /tmp/copy\n",
      [&context, file] {
        const auto seen = look(context, *file);
        if (!seen) return report(seen.error());
        print_json(dump_json(*seen->segment, seen->snapshot));
        return kDone;
      });
  add_file(command, file.get());
}

}  // namespace modelpool::poolctl
