#include "metrics/metrics.hpp"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <chrono>
#include <map>
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
constexpr const char* kStates[] = {"reserved", "starting", "ready", "evicting", "stopping"};

double seconds(std::uint64_t ms) { return static_cast<double>(ms) / 1000; }

class Families {
 public:
  explicit Families(std::string pool) : pool_(std::move(pool)) {}

  void gauge(const std::string& name, const std::string& help, const Labels& labels, double value) {
    add(name, help, MetricType::Gauge, labels).gauge.value = value;
  }
  void add(const MeterSample& meter) {
    const auto per_unit = static_cast<double>(meter.per_unit);
    if (!meter.is_histogram) {
      add(meter.name, meter.help, MetricType::Counter, meter.labels).counter.value =
          static_cast<double>(meter.value) / per_unit;
      return;
    }
    auto& histogram = add(meter.name, meter.help, MetricType::Histogram, meter.labels).histogram;
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
    for (const auto& [name, family] : families_) all.push_back(family);
    return prometheus::TextSerializer().Serialize(all);
  }

 private:
  ClientMetric& add(const std::string& name, const std::string& help, MetricType type,
                    const Labels& labels) {
    MetricFamily& family = families_[name];
    family.name = name;
    family.help = help;
    family.type = type;
    ClientMetric& metric = family.metric.emplace_back();
    metric.label.push_back({"pool", pool_});
    for (const auto& [label, value] : labels) metric.label.push_back({label, value});
    return metric;
  }

  const std::string pool_;
  std::map<std::string, MetricFamily> families_;
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
  for (const BackendRow& one : seen.backends) {
    ++count[one.state];
    if (models.names().contains(one.model)) {
      families.gauge("modelpool_model_state", "The state of a model's backend, as a label",
                     {{"model", one.model}, {"state", one.state}}, 1);
    }
    const auto memory = [&](const char* source, const std::optional<std::uint64_t>& bytes) {
      if (!bytes) return;
      families.gauge("modelpool_memory_bytes",
                     "The host's memory that a backend takes: expected, measured, and at most",
                     {{"model", models.of(one.model)},
                      {"slot", std::to_string(one.slot)},
                      {"device", "host"},
                      {"source", source}},
                     static_cast<double>(*bytes));
    };
    memory("expected", one.expected_bytes);
    memory("measured", one.measured_bytes);
    memory("peak", one.peak_bytes);
  }
  for (const auto& [state, backends] : count) {
    families.gauge("modelpool_backends", "Backends, by state", {{"state", state}},
                   static_cast<double>(backends));
  }
  if (seen.status.max_backends && *seen.status.max_backends != 0) {
    families.gauge("modelpool_backends_limit", "max_backends; absent without a limit", {},
                   static_cast<double>(*seen.status.max_backends));
  }
}

void add_requests(Families& families, const PoolSnapshot& seen, const ByModel& models) {
  std::map<std::string, std::uint64_t> leases;
  std::map<std::string, std::uint64_t> oldest_ms;
  std::map<std::string, std::uint64_t> waiters;
  for (const std::string& model : models.names()) leases[model] = waiters[model] = 0;
  for (const BackendRow& one : seen.backends) {
    leases[models.of(one.model)] += one.in_flight;
    auto& oldest = oldest_ms[models.of(one.model)];
    oldest = std::max(oldest, one.busy_ms.value_or(0));
  }
  for (const WaiterRow& one : seen.waiters) ++waiters[models.of(one.model)];
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
  for (const ModelRow& one : seen.models) {
    if (!one.cooling_down_ms) continue;
    families.gauge("modelpool_cooling", "Seconds until a model that failed may be loaded again",
                   {{"model", models.of(one.model)}}, seconds(*one.cooling_down_ms));
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
  if (!coordinator.last_scan_ms) return;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto now_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  families.gauge("modelpool_last_scan_timestamp_seconds", "When it last looked at everything", {},
                 seconds(static_cast<std::uint64_t>(now_ms) - *coordinator.last_scan_ms));
}

}  // namespace

std::string text_of(const PoolSnapshot& seen, const Capacities& capacities,
                    const std::string& version) {
  Families families(seen.status.pool);
  const ByModel models(seen);
  families.gauge("modelpool_build_info", "The version of what shows this, as a label",
                 {{"version", version}}, 1);
  for (const MeterSample& meter : seen.status.meters) families.add(meter);
  add_backends(families, seen, models);
  add_requests(families, seen, models);
  add_tables(families, seen, capacities);
  add_devices(families, seen);
  add_coordinator(families, seen.status.coordinator);
  return families.text();
}

}  // namespace modelpool::metrics
