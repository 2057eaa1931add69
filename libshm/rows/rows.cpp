#include "rows/rows.hpp"

#include <algorithm>
#include <bit>

#include "base/duration.hpp"
#include "base/time.hpp"
#include "base/user.hpp"
#include "modelpool/settings.hpp"
#include "protocol/histories.hpp"
#include "segment/meters.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

using Maybe = std::optional<std::uint64_t>;

std::vector<std::string> shown_each(const std::vector<std::string>& texts) {
  std::vector<std::string> result;
  for (const std::string& text : texts) result.push_back(shown(text));
  return result;
}

Maybe ms(std::uint64_t duration_ns) {
  if (duration_ns == kNever_ns) return std::nullopt;
  return duration_ns / kMillisecond_ns;
}

Maybe since(std::uint64_t now_ns, std::uint64_t stamp_ns) {
  if (stamp_ns == 0 || stamp_ns == kNever_ns) return std::nullopt;
  return ms(age_ns(now_ns, stamp_ns));
}
Maybe since(const Snapshot& s, std::uint64_t stamp_ns) { return since(s.now_ns, stamp_ns); }

Maybe left(const Snapshot& s, std::uint64_t deadline_ns) {
  if (deadline_ns == kNever_ns) return std::nullopt;
  return ms(age_ns(deadline_ns, s.now_ns));
}

Maybe unless_zero(std::uint64_t value) {
  if (value == 0) return std::nullopt;
  return value;
}

std::optional<bool> truth(Liveness liveness) {
  if (liveness == Liveness::kUnknown) return std::nullopt;
  return liveness == Liveness::kAlive;
}

std::chrono::system_clock::time_point wall_clock(std::uint64_t time_ns) {
  const auto ns = static_cast<std::int64_t>(std::min<std::uint64_t>(time_ns, INT64_MAX));
  return std::chrono::system_clock::time_point(std::chrono::nanoseconds(ns));
}

bool is_idle(const BackendView& b) {
  return b.state.state == BackendState::kReady && b.in_flight == 0;
}

Maybe cooling_down(std::uint64_t now_ns, const LoadHistory& h) {
  const std::uint64_t left = age_ns(h.cooldown_until_ns, now_ns);
  return left == 0 ? std::nullopt : ms(left);
}

std::uint64_t of_devices(const Bytes& bytes) {
  std::uint64_t sum = 0;
  for (const std::uint64_t of_one : bytes.device) sum = add_ns(sum, of_one);  // saturates
  return sum;
}

std::vector<CounterRow> counters(const Segment& segment) {
  std::vector<CounterRow> rows;
  const auto& counters = segment.coordinator().counters;
  for (std::size_t kind = 1; kind < counters.size(); ++kind) {
    for (std::size_t reason = 0; reason < counters[kind].size(); ++reason) {
      // relaxed: counters stand for themselves
      const std::uint64_t count = counters[kind][reason].load(std::memory_order_relaxed);
      if (count == 0) continue;
      rows.push_back({std::string(event_kind_name(static_cast<EventKind>(kind))),
                      std::string(reason_name(static_cast<Reason>(reason))), count});
    }
  }
  return rows;
}

std::vector<MeterSample> meters(const Segment& segment) {
  std::vector<MeterSample> samples;
  for (MeterSeries series : read_meters(segment)) {
    for (auto& [label, value] : series.labels) value = shown(value);
    samples.push_back({std::move(series.name), std::move(series.unit), std::move(series.help),
                       series.is_histogram, series.per_unit, std::move(series.labels), series.value,
                       std::move(series.bounds), std::move(series.buckets), series.sum});
  }
  return samples;
}

#define TAKE(name, kind, doc, value) row.name = value;

std::optional<StopRow> stop_row(const Snapshot& s, const BackendView& b) {
  const bool ending =
      b.state.state == BackendState::kEvicting || b.state.state == BackendState::kStopping;
  if (!ending || b.stop.generation != b.ref.generation) return std::nullopt;
  const StopRecord& r = b.stop;
  StopRow row;
#define STOP TAKE
#include "rows/rows.def"
  return row;
}

std::vector<LeftRow> left_rows(const BackendView& b) {
  std::vector<LeftRow> rows;
  const std::size_t named = std::min<std::size_t>(b.left.count, b.left.named.size());
  for (std::size_t i = 0; i < named; ++i) {
    const LeftProcess& p = b.left.named[i];
    LeftRow row;
#define LEFT TAKE
#include "rows/rows.def"
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<DeviceUseRow> device_use_rows(const BackendView& b) {
  std::vector<DeviceUseRow> rows;
  for (std::size_t i = 0; i < kDevicesMax; ++i) {
    DeviceUseRow row;
#define DEVICE_USE TAKE
#include "rows/rows.def"
    if (row.expected_bytes || row.measured_bytes || row.peak_bytes) rows.push_back(row);
  }
  return rows;
}

CoordinatorRow coordinator_row(const Segment& segment, const Snapshot& s) {
  const JudgeView judge = look_at_judge(segment, s.now_ns);
  const CoordinatorIdentity& found = judge.identity;
  const Liveness alive = judge.liveness;
  CoordinatorRow row;
#define COORDINATOR TAKE
#include "rows/rows.def"
  return row;
}

}  // namespace

std::string shown(std::string_view text) {
  return is_printable_utf8(text) ? std::string(text) : escape(text);
}

pid_t worker_pid(const Snapshot& snapshot, std::uint32_t row) {
  const auto found =
      std::find_if(snapshot.workers.begin(), snapshot.workers.end(),
                   [row](const WorkerView& worker) { return worker.ref.index == row; });
  return found == snapshot.workers.end() ? 0 : found->process.pid;
}

BackendRow backend_row(const Snapshot& s, const BackendView& b) {
  BackendRow row;
#define BACKEND TAKE
#include "rows/rows.def"
  return row;
}

BackendDetail backend_detail(const Snapshot& s, const BackendView& b) {
  BackendDetail row;
#define BACKEND_DETAIL TAKE
#include "rows/rows.def"
  return row;
}

LeaseRow lease_row(const Snapshot& s, const LeaseView& l) {
  const BackendView* const backend = s.find(l.backend);
  LeaseRow row;
#define LEASE TAKE
#include "rows/rows.def"
  return row;
}

WorkerRow worker_row(const Snapshot& s, const WorkerView& w) {
  WorkerRow row;
#define WORKER TAKE
#include "rows/rows.def"
  return row;
}

WaiterRow waiter_row(const Snapshot& s, const WaiterView& a) {
  WaiterRow row;
#define WAITER TAKE
#include "rows/rows.def"
  return row;
}

ModelRow model_row(std::uint64_t now, std::string_view name_of_model, const LoadHistory& h) {
  ModelRow row;
#define MODEL TAKE
#include "rows/rows.def"
  return row;
}

EventRow event_row(std::uint64_t sequence, const EventData& e) {
  EventRow row;
#define EVENT TAKE
#include "rows/rows.def"
  return row;
}

StatusRow status_row(const Segment& segment, const Snapshot& s) {
  StatusRow row;
#define STATUS TAKE
#include "rows/rows.def"
  return row;
}

#undef TAKE

std::vector<BackendRow> backend_rows(const Snapshot& snapshot) {
  std::vector<BackendRow> rows;
  for (const BackendView& backend : snapshot.backends) {
    if (backend.live()) rows.push_back(backend_row(snapshot, backend));
  }
  return rows;
}

std::vector<LeaseRow> lease_rows(const Snapshot& snapshot) {
  std::vector<LeaseRow> rows;
  for (const LeaseView& lease : snapshot.leases) rows.push_back(lease_row(snapshot, lease));
  return rows;
}

std::vector<WorkerRow> worker_rows(const Snapshot& snapshot) {
  std::vector<WorkerRow> rows;
  for (const WorkerView& worker : snapshot.workers) rows.push_back(worker_row(snapshot, worker));
  return rows;
}

std::vector<WaiterRow> waiter_rows(const Snapshot& snapshot) {
  std::vector<WaiterRow> rows;
  for (const WaiterView& waiter : snapshot.waiters) rows.push_back(waiter_row(snapshot, waiter));
  return rows;
}

std::vector<DeviceRow> device_rows(const Snapshot& s) {
  std::vector<DeviceRow> rows;
  for (std::size_t i = 0; i < std::min(s.devices.size(), s.device_memory.size()); ++i) {
    const DeviceMemory& memory = s.device_memory[i];
    const bool is_measured = memory.total_bytes != 0;
    std::uint64_t of_pool = 0;
    for (const BackendView& b : s.backends) {
      if (b.live()) of_pool = add_ns(of_pool, b.measured.device[i]);
    }
    DeviceRow row;
#define DEVICE(name, kind, doc, value) row.name = value;
#include "rows/rows.def"
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<ModelRow> model_rows(const Segment& segment, const Snapshot& snapshot) {
  std::vector<ModelRow> rows;
  for (const HistoryView& view : read_histories(segment)) {
    rows.push_back(model_row(snapshot.now_ns, view.model, view.history));
  }
  return rows;
}

std::vector<std::string> event_kinds() {
  std::vector<std::string> kinds;
  for (std::uint32_t i = 1; i < kEventKindCount; ++i)
    kinds.emplace_back(event_kind_name(static_cast<EventKind>(i)));
  return kinds;
}

std::vector<EventRow> event_rows(const Segment& segment, std::uint64_t first) {
  std::vector<EventRow> rows;
  for (const EventView& event : read_events(segment, first)) {
    rows.push_back(event_row(event.sequence, event.data));
  }
  return rows;
}

ModelLook model_look(const Segment& segment, std::string_view model) {
  const Snapshot s = look_at_model(segment, model);
  ModelLook look;
  if (!s.backends.empty()) look.backend = backend_row(s, s.backends.front());
  if (const auto history = find_history(segment, model))
    look.history = model_row(s.now_ns, model, *history);
  look.max_waiters = pool_setting(segment, Setting::kMaxWaiters);
  const std::uint64_t hash = hash_name(model);
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    const WaiterRecord& row = segment.waiter(i);
    const std::uint64_t state = row.state.load(std::memory_order_seq_cst);
    look.waiting += low_half(state) == static_cast<std::uint32_t>(WaiterState::kWaiting) &&
                    row.model_hash.load(std::memory_order_acquire) == hash &&
                    row.model.equals(model);
  }
  return look;
}

PoolSnapshot pool_snapshot(const Segment& segment, const Snapshot& snapshot) {
  PoolSnapshot result;
  result.status = status_row(segment, snapshot);
  result.backends = backend_rows(snapshot);
  result.leases = lease_rows(snapshot);
  result.workers = worker_rows(snapshot);
  result.waiters = waiter_rows(snapshot);
  result.models = model_rows(segment, snapshot);
  return result;
}

}  // namespace modelpool
