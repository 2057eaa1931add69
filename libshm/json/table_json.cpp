#include "json/table_json.hpp"

#include "base/time.hpp"

namespace modelpool {

pid_t worker_pid(const Snapshot& snapshot, std::uint32_t row) {
  for (const WorkerView& worker : snapshot.workers) {
    if (worker.ref.index == row) return worker.process.pid;
  }
  return 0;
}

Json json_text(std::string_view text) {
  if (text.empty()) return nullptr;
  return is_printable_utf8(text) ? std::string(text) : escape(text);
}

Json json_ms(std::uint64_t duration_ns) {
  if (duration_ns == kNever_ns) return nullptr;
  return duration_ns / kMillisecond_ns;
}

Json json_age_ms(std::uint64_t now, std::uint64_t stamp) {
  if (stamp == 0 || stamp == kNever_ns) return nullptr;
  return json_ms(age_ns(now, stamp));
}

Json json_unless_zero(std::uint64_t value) {
  if (value == 0) return nullptr;
  return value;
}

Json json_pid(pid_t pid) {
  if (pid <= 0) return nullptr;
  return pid;
}

Json json_alive(Liveness liveness) {
  if (liveness == Liveness::kUnknown) return nullptr;
  return liveness == Liveness::kAlive;
}

Json status_json(const Segment& segment, const Snapshot& snapshot) {
  CoordinatorIdentity coordinator;
  const Liveness alive = coordinator_liveness(segment, &coordinator);
  Json json;
  json["pool"] = json_text(segment.name());
  json["max_backends"] = snapshot.settings ? Json(snapshot.max_backends()) : Json(nullptr);
  json["live"] = snapshot.live();
  json["ready"] = snapshot.ready();
  json["waiting"] = snapshot.waiters.size();
  json["workers"] = snapshot.workers.size();
  json["leases"] = snapshot.leases.size();
  json["coordinator"] = {
      {"alive", json_alive(alive)},
      {"pid", alive == Liveness::kDead ? Json(nullptr) : json_pid(coordinator.process.pid)},
      {"epoch", json_unless_zero(coordinator.epoch)},
      {"up_ms", alive == Liveness::kAlive
                    ? json_age_ms(snapshot.now_ns, snapshot.coordinator.started_ns)
                    : Json(nullptr)},
      {"last_scan_ms", json_age_ms(snapshot.now_ns, snapshot.coordinator.last_scan_ns)},
      {"scans", snapshot.coordinator.scans},
      {"left", snapshot.coordinator.left}};
  json["path"] = json_text(segment.path());
  json["uuid"] = segment.uuid_text();
  json["layout_version"] = segment.header().layout_version;
  json["settings_generation"] = json_unless_zero(snapshot.settings_generation);
  json["counters"] = counters_json(segment);
  Json damage = Json::array();
  for (const std::string& what : snapshot.damage) damage.push_back(json_text(what));
  json["damage"] = std::move(damage);
  return json;
}

Json backend_json(const Snapshot& snapshot, const BackendView& backend) {
  const std::uint64_t now = snapshot.now_ns;
  const bool idle = backend.state.state == BackendState::kReady && backend.in_flight == 0;
  Json json;
  json["model"] = json_text(backend.model);
  json["state"] = backend_state_name(backend.state.state);
  json["pid"] = json_pid(backend.process.pid);
  json["address"] = json_text(backend.address);
  json["in_flight"] = backend.in_flight;
  json["busy_ms"] =
      backend.in_flight > 0 ? json_age_ms(now, backend.oldest_start_ns) : Json(nullptr);
  json["idle_ms"] = idle ? json_age_ms(now, backend.last_used_ns) : Json(nullptr);
  json["ready_ms"] = json_age_ms(now, backend.ready_ns);
  json["pinned"] = backend.pinned();
  json["size_bytes"] = json_unless_zero(backend.size_bytes);
  json["generation"] = backend.ref.generation;
  json["owner_pid"] = json_unless_zero(backend.owner_pid);
  json["slot"] = backend.ref.index;
  json["group"] = json_pid(backend.group);
  json["external"] = backend.external();
  json["label"] = json_text(backend.label);
  json["device_mask"] = json_unless_zero(backend.device_mask);
  json["reserved_ms"] = json_age_ms(now, backend.reserved_ns);
  json["started_ms"] = json_age_ms(now, backend.started_ns);
  json["evict_requested"] = (backend.control & kControlEvict) != 0;
  json["exit"] = json_text(exit_text(backend.exit_status));
  Json stop = nullptr;
  if (backend.stop.generation == backend.ref.generation &&
      (backend.state.state == BackendState::kEvicting ||
       backend.state.state == BackendState::kStopping)) {
    stop = {{"reason", json_text(reason_name(backend.stop.reason))},
            {"decided_ms", json_age_ms(now, backend.stop.decided_ns)},
            {"stopping_ms", json_age_ms(now, backend.stop.stopping_ns)},
            {"signal", json_unless_zero(backend.stop.signal)},
            {"signalled_ms", json_age_ms(now, backend.stop.signalled_ns)},
            {"killed_ms", json_age_ms(now, backend.stop.killed_ns)},
            {"age_ms", json_ms(backend.stop.age_ns)},
            {"limit_ms", json_ms(backend.stop.limit_ns)},
            {"text", json_text(backend.stop.text.data())}};
  }
  json["stop"] = std::move(stop);
  return json;
}

Json list_json(const Snapshot& snapshot) {
  Json json = Json::array();
  for (const BackendView& backend : snapshot.backends) {
    if (backend.live()) json.push_back(backend_json(snapshot, backend));
  }
  return json;
}

Json workers_json(const Snapshot& snapshot) {
  Json json = Json::array();
  for (const WorkerView& worker : snapshot.workers) {
    const Liveness alive = process_liveness(worker.process);
    json.push_back({{"pid", json_pid(worker.process.pid)},
                    {"command", json_text(worker.command)},
                    {"leases", worker.leases},
                    {"attached_ms", json_age_ms(snapshot.now_ns, worker.attached_ns)},
                    {"alive", json_alive(alive)},
                    {"row", worker.ref.index},
                    {"generation", worker.ref.generation}});
  }
  return json;
}

Json leases_json(const Snapshot& snapshot) {
  Json json = Json::array();
  for (const LeaseView& lease : snapshot.leases) {
    const BackendView* backend = snapshot.find(lease.backend);
    json.push_back(
        {{"model", backend != nullptr ? json_text(backend->model) : Json(nullptr)},
         {"worker_pid", json_pid(worker_pid(snapshot, lease.worker))},
         {"age_ms", json_age_ms(snapshot.now_ns, lease.start_ns)},
         {"progress_ms", json_age_ms(snapshot.now_ns, lease.progress_ns)},
         {"tag", json_text(lease.tag)},
         {"limit_ms", lease.limit_ns == 0 ? Json(nullptr) : json_ms(lease.limit_ns)},
         {"backend_pid", backend != nullptr ? json_pid(backend->process.pid) : Json(nullptr)},
         {"slot", lease.backend.index},
         {"generation", lease.backend.generation}});
  }
  return json;
}

Json waiters_json(const Snapshot& snapshot) {
  Json json = Json::array();
  for (const WaiterView& waiter : snapshot.waiters) {
    const std::uint64_t left =
        waiter.deadline_ns == kNever_ns ? kNever_ns : age_ns(waiter.deadline_ns, snapshot.now_ns);
    json.push_back({{"model", json_text(waiter.model)},
                    {"worker_pid", json_pid(waiter.pid)},
                    {"waiting_ms", json_age_ms(snapshot.now_ns, waiter.since_ns)},
                    {"left_ms", json_ms(left)},
                    {"arrival", waiter.arrival},
                    {"expected_bytes", json_unless_zero(waiter.expected_bytes)},
                    {"priority", waiter.priority},
                    {"tag", json_text(waiter.tag)}});
  }
  return json;
}

Json history_json(std::uint64_t now, const LoadHistory& history) {
  const std::uint64_t left = age_ns(history.cooldown_until_ns, now);
  return {{"loads", history.loads},
          {"failures_in_a_row", history.failures},
          {"failed_ms", json_age_ms(now, history.failed_ns)},
          {"cooling_down_ms", left == 0 ? Json(nullptr) : json_ms(left)},
          {"last_error", json_text(history.error.data())},
          {"exit", json_text(exit_text(static_cast<std::uint32_t>(history.exit_status)))},
          {"load_ms", history.load_ns == 0 ? Json(nullptr) : json_ms(history.load_ns)},
          {"size_bytes", json_unless_zero(history.size_bytes)}};
}

Json counters_json(const Segment& segment) {
  Json json = Json::object();
  const auto& counters = segment.coordinator().counters;
  for (std::size_t kind = 1; kind < counters.size(); ++kind) {
    Json reasons = Json::object();
    for (std::size_t reason = 0; reason < counters[kind].size(); ++reason) {
      // relaxed: counters stand for themselves
      const std::uint64_t count = counters[kind][reason].load(std::memory_order_relaxed);
      if (count == 0) continue;
      const std::string_view name = reason_name(static_cast<Reason>(reason));
      reasons[name.empty() ? "none" : std::string(name)] = count;
    }
    if (!reasons.empty())
      json[std::string(event_kind_name(static_cast<EventKind>(kind)))] = std::move(reasons);
  }
  return json;
}

Json settings_json(const Settings& settings) {
  Json json = Json::object();
  for (const SettingInfo& info : kSettings) {
    const bool given = settings.pool.has(info.id);
    const Origin origin =
        given ? settings.pool.origin[static_cast<std::size_t>(info.id)] : Origin{};
    json[std::string(info.name)] = {{"value", format_setting(info, settings.get(info.id))},
                                    {"origin", json_text(origin_text(settings, origin))}};
  }
  return json;
}

}  // namespace modelpool
