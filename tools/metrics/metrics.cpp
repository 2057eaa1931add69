#include "metrics/metrics.hpp"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace modelpool::metrics {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<std::pair<std::string, std::string>>;

constexpr std::size_t kModelsMax = 256;
constexpr std::size_t kProcessesMax = 256;
constexpr const char* kHost = "host";
constexpr const char* kStates[] = {"reserved", "starting", "ready", "evicting", "stopping"};

double seconds(std::uint64_t ms) { return static_cast<double>(ms) / 1000; }

class Families {
 public:
  explicit Families(std::string pool) : pool_(std::move(pool)) {}

  void gauge(const std::string& name, const std::string& help, const Labels& labels, double value) {
    add(name, help, MetricType::Gauge, labels).gauge.value += value;
  }
  void counter(const std::string& name, const std::string& help, const Labels& labels,
               double value) {
    add(name, help, MetricType::Counter, labels).counter.value += value;
  }
  void add(const MeterSample& meter) {
    const auto per_unit = static_cast<double>(meter.per_unit);
    if (!meter.is_histogram) {
      return counter(meter.name, meter.help, meter.labels,
                     static_cast<double>(meter.value) / per_unit);
    }
    auto& histogram = add(meter.name, meter.help, MetricType::Histogram, meter.labels).histogram;
    histogram = {};
    histogram.sample_count = meter.value;
    histogram.sample_sum = static_cast<double>(meter.sum) / per_unit;
    std::uint64_t so_far = 0;
    for (std::size_t i = 0; i < meter.bounds.size(); ++i) {
      so_far += meter.buckets[i];
      histogram.bucket.push_back({so_far, static_cast<double>(meter.bounds[i]) / per_unit});
    }
    // The serializer adds the bucket of all.
  }
  std::string text() const {
    std::vector<MetricFamily> all;
    for (const auto& [name, family] : families_) {
      MetricFamily& one = all.emplace_back(MetricFamily{name, family.help, family.type, {}});
      for (const auto& [labels, metric] : family.series) one.metric.push_back(metric);
    }
    return prometheus::TextSerializer().Serialize(all);
  }

 private:
  struct Family {
    std::string help;
    MetricType type = MetricType::Untyped;
    std::map<Labels, ClientMetric> series;
  };

  // That of these labels, which may be there: of models beyond kModelsMax, and of one that is named
  // "other".
  ClientMetric& add(const std::string& name, const std::string& help, MetricType type,
                    const Labels& labels) {
    Family& family = families_[name];
    family.help = help;
    family.type = type;
    const auto [found, is_new] = family.series.try_emplace(labels);
    ClientMetric& metric = found->second;
    if (!is_new) return metric;
    metric.label.push_back({"pool", pool_});
    for (const auto& [label, value] : labels) metric.label.push_back({label, value});
    return metric;
  }

  const std::string pool_;
  std::map<std::string, Family> families_;
};

// What a model has of each, or "other" of those beyond kModelsMax.
class ByModel {
 public:
  explicit ByModel(const PoolSnapshot& seen) {
    for (const BackendRow& one : seen.backends) name(one.model);
    for (const WaiterRow& one : seen.waiters) name(one.model);
    for (const LeaseRow& one : seen.leases) name(one.model);
    for (const ModelRow& one : seen.models) {
      if (one.cooling_down_ms) name(one.model);
    }
  }
  std::string of(const std::string& model) const {
    return names_.contains(model) ? model : "other";
  }
  const std::set<std::string>& names() const { return names_; }

 private:
  void name(const std::string& model) {
    if (!model.empty() && names_.size() < kModelsMax) names_.insert(model);
  }

  std::set<std::string> names_;
};

void add_backends(Families& families, const PoolSnapshot& seen, const ByModel& models) {
  std::map<std::string, std::uint64_t> count;
  for (const char* state : kStates) count[state] = 0;
  std::uint64_t pinned = 0;
  std::map<std::string, std::uint64_t> killed_ms;
  for (const BackendRow& one : seen.backends) {
    ++count[one.state];
    pinned += one.pinned ? 1 : 0;
    if (one.stop && one.stop->killed_ms && !one.stop->ended_ms) {
      auto& longest = killed_ms[models.of(one.model)];
      longest = std::max(longest, *one.stop->killed_ms);
    }
    if (models.names().contains(one.model)) {
      families.gauge("modelpool_model_state", "The state of a model's backend, as a label",
                     {{"model", one.model}, {"state", one.state}}, 1);
    }
  }
  for (const auto& [state, backends] : count) {
    families.gauge("modelpool_backends", "Backends, by state", {{"state", state}},
                   static_cast<double>(backends));
  }
  families.gauge("modelpool_backends_pinned", "Backends that are exempt from eviction", {},
                 static_cast<double>(pinned));
  for (const auto& [model, since_ms] : killed_ms) {
    families.gauge("modelpool_killed_seconds",
                   "Time since SIGKILL was sent to a backend that is still there",
                   {{"model", model}}, seconds(since_ms));
  }
  if (seen.status.max_backends && *seen.status.max_backends != 0) {
    families.gauge("modelpool_backends_limit", "max_backends; absent without a limit", {},
                   static_cast<double>(*seen.status.max_backends));
  }
}

void add_memory(Families& families, const PoolSnapshot& seen, const ByModel& models) {
  const auto& devices = seen.status.devices;
  const auto taken = [&](const std::string& model, const std::string& device, const char* source,
                         const std::optional<std::uint64_t>& bytes) {
    if (!bytes) return;
    families.gauge("modelpool_memory_bytes",
                   "Memory of the host or of a device that a model's backend takes: as expected, "
                   "as measured, and the most of it",
                   {{"model", models.of(model)}, {"device", device}, {"source", source}},
                   static_cast<double>(*bytes));
  };
  for (const BackendRow& one : seen.backends) {
    taken(one.model, kHost, "expected", one.expected_bytes);
    taken(one.model, kHost, "measured", one.measured_bytes);
    taken(one.model, kHost, "peak", one.peak_bytes);
    for (const DeviceUseRow& use : one.device_use) {
      if (use.device >= devices.size()) continue;
      const std::string& device = devices[use.device].uuid;
      taken(one.model, device, "expected", use.expected_bytes);
      taken(one.model, device, "measured", use.measured_bytes);
      taken(one.model, device, "peak", use.peak_bytes);
    }
  }
  const auto limit = [&](const std::string& device, const std::optional<std::uint64_t>& bytes) {
    if (bytes.value_or(0) == 0) return;
    families.gauge("modelpool_memory_limit_bytes",
                   "Memory of the host or of a device that all backends together may take; absent "
                   "without a limit",
                   {{"device", device}}, static_cast<double>(*bytes));
  };
  limit(kHost, seen.status.max_memory_bytes);
  for (const DeviceRow& one : devices) limit(one.uuid, one.limit_bytes);
}

void add_requests(Families& families, const PoolSnapshot& seen, const ByModel& models) {
  std::map<std::string, std::uint64_t> leases;
  std::map<std::string, std::uint64_t> oldest_ms;
  std::map<std::string, std::uint64_t> waiters;
  std::map<std::string, std::uint64_t> waiting_ms;
  for (const std::string& model : models.names()) leases[model] = waiters[model] = 0;
  for (const BackendRow& one : seen.backends) {
    leases[models.of(one.model)] += one.in_flight;
    auto& oldest = oldest_ms[models.of(one.model)];
    oldest = std::max(oldest, one.busy_ms.value_or(0));
  }
  for (const WaiterRow& one : seen.waiters) {
    ++waiters[models.of(one.model)];
    auto& longest = waiting_ms[models.of(one.model)];
    longest = std::max(longest, one.waiting_ms.value_or(0));
  }
  for (const auto& [model, count] : leases) {
    families.gauge("modelpool_leases", "Requests in flight", {{"model", model}},
                   static_cast<double>(count));
  }
  for (const auto& [model, age_ms] : oldest_ms) {
    families.gauge("modelpool_oldest_lease_seconds", "Age of the oldest request in flight",
                   {{"model", model}}, seconds(age_ms));
  }
  for (const auto& [model, count] : waiters) {
    families.gauge("modelpool_waiters", "Requests that wait for a place", {{"model", model}},
                   static_cast<double>(count));
  }
  for (const auto& [model, age_ms] : waiting_ms) {
    families.gauge("modelpool_oldest_waiter_seconds", "For how long the first of those waits",
                   {{"model", model}}, seconds(age_ms));
  }
  std::map<std::string, std::uint64_t> cooling_ms;
  for (const ModelRow& one : seen.models) {
    if (!one.cooling_down_ms) continue;
    auto& longest = cooling_ms[models.of(one.model)];
    longest = std::max(longest, *one.cooling_down_ms);
  }
  for (const auto& [model, left_ms] : cooling_ms) {
    families.gauge("modelpool_cooling", "Seconds until a model that failed may be loaded again",
                   {{"model", model}}, seconds(left_ms));
  }
}

void add_tables(Families& families, const PoolSnapshot& seen, const Capacities& capacities) {
  const auto table = [&](const char* name, std::uint64_t used, std::uint64_t limit) {
    families.gauge("modelpool_table_used", "Rows in use of a table of the segment",
                   {{"table", name}}, static_cast<double>(used));
    families.gauge("modelpool_table_limit", "Rows that a table of the segment has",
                   {{"table", name}}, static_cast<double>(limit));
  };
  table("backends", seen.backends.size(), capacities.backends);
  table("workers", seen.workers.size(), capacities.workers);
  table("waiters", seen.waiters.size(), capacities.waiters);
  std::uint64_t most = 0;
  for (const WorkerRow& one : seen.workers) most = std::max(most, one.leases);
  table("leases_of_a_worker", most, capacities.leases);
}

void add_devices(Families& families, const PoolSnapshot& seen) {
  for (const DeviceRow& one : seen.status.devices) {
    const auto bytes = [&](const char* source, const std::optional<std::uint64_t>& count) {
      if (!count) return;
      families.gauge("modelpool_device_bytes",
                     "A device's memory: all, free, of this pool's backends, and of everybody else",
                     {{"device", one.uuid}, {"source", source}}, static_cast<double>(*count));
    };
    bytes("total", one.total_bytes);
    bytes("free", one.free_bytes);
    bytes("pool", one.pool_bytes);
    bytes("foreign", one.foreign_bytes);
  }
}

void add_coordinator(Families& families, const CoordinatorRow& coordinator) {
  families.gauge("modelpool_coordinator_up", "Does a coordinator serve the pool?", {},
                 coordinator.alive.value_or(false) ? 1 : 0);
  if (coordinator.epoch) {
    families.gauge("modelpool_config_last_reload_successful",
                   "Did a coordinator take the config that it was last told to read?", {},
                   coordinator.reload_refused_ms ? 0 : 1);
  }
  if (!coordinator.last_scan_ms) return;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto now_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  families.gauge("modelpool_last_scan_timestamp_seconds", "When it last looked at everything", {},
                 seconds(static_cast<std::uint64_t>(now_ms) - *coordinator.last_scan_ms));
}

void add_process(Families& families, pid_t pid, const std::string& role,
                 const std::string& command) {
  const auto use = process_use(pid);
  if (!use) return;
  const Labels labels{{"role", role}, {"command", command}, {"pid", std::to_string(pid)}};
  const auto gauge = [&](const char* name, const char* help, double value) {
    families.gauge(name, help, labels, value);
  };
  families.counter("process_cpu_seconds_total", "Time of processors that a process has used",
                   labels, use->cpu_s);
  gauge("process_start_time_seconds", "When a process was started", use->started_s);
  gauge("process_resident_memory_bytes", "Memory of a process that is in RAM",
        static_cast<double>(use->resident_bytes));
  gauge("process_virtual_memory_bytes", "Addresses of a process that are mapped",
        static_cast<double>(use->virtual_bytes));
  gauge("process_threads", "Threads of a process", static_cast<double>(use->threads));
  if (use->open_files)
    gauge("process_open_fds", "Files that a process has open",
          static_cast<double>(*use->open_files));
  if (use->open_files_limit)
    gauge("process_max_fds", "Files that a process may have open",
          static_cast<double>(*use->open_files_limit));
}

// Of the whole pool, that each scrape has the same series, whoever answers.
void add_processes(Families& families, const PoolSnapshot& seen) {
  const CoordinatorRow& coordinator = seen.status.coordinator;
  if (coordinator.alive.value_or(false))
    add_process(families, coordinator.pid, "coordinator", "coordinatord");
  std::set<pid_t> shown;
  for (const WorkerRow& one : seen.workers) {
    if (shown.size() >= kProcessesMax) break;
    if (one.alive.value_or(false) && shown.insert(one.pid).second)
      add_process(families, one.pid, "worker", one.command);
  }
}

}  // namespace

std::string text_of(const PoolSnapshot& seen, const Capacities& capacities,
                    const std::string& version, std::optional<std::uint64_t> connections) {
  Families families(seen.status.pool);
  const ByModel models(seen);
  families.gauge("modelpool_build_info", "The version of what shows this, as a label",
                 {{"version", version}}, 1);
  for (const MeterSample& meter : seen.status.meters) families.add(meter);
  if (connections) {
    families.gauge("modelpool_http_connections", "Connections that clients have open", {},
                   static_cast<double>(*connections));
  }
  add_backends(families, seen, models);
  add_memory(families, seen, models);
  add_requests(families, seen, models);
  add_tables(families, seen, capacities);
  add_devices(families, seen);
  add_coordinator(families, seen.status.coordinator);
  add_processes(families, seen);
  return families.text();
}

}  // namespace modelpool::metrics
