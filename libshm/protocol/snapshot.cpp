#include "protocol/snapshot.hpp"

#include <algorithm>
#include <unordered_map>

#include "base/model_log.hpp"
#include "base/time.hpp"
#include "policy/interval.hpp"
#include "protocol/histories.hpp"
#include "protocol/local_rules.hpp"
#include "segment/devices.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

constexpr int kReadAttempts = 16;  // of one record that its writer keeps changing

std::string slot_name(std::uint32_t index) { return "backend slot " + std::to_string(index); }

// The parts that are fixed once the state has been reached, then those that move.
void read_backend(const BackendRecord& record, std::uint32_t generation, BackendView* view) {
  std::string model = record.model.load();
  Overrides given = unpack_given(record.given.load());
  const std::uint64_t own_group = record.own_group.load(generation);
  if (model != view->model || given != view->overrides || own_group != view->own_group)
    view->effective = nullptr;
  view->own_group = own_group;
  view->model = std::move(model);
  view->overrides = std::move(given);
  view->address = record.address.load();
  view->label = record.label.load();
  view->process = {static_cast<pid_t>(record.pid.load(std::memory_order_acquire)),
                   record.start_ticks.load(std::memory_order_acquire),
                   record.pidfd_inode.load(std::memory_order_acquire)};
  view->group = static_cast<pid_t>(record.group.load(std::memory_order_acquire));
  view->traits = low_half(record.traits.load(std::memory_order_acquire));
  view->reserved_ns = record.reserved_ns.load(std::memory_order_acquire);
  view->started_ns = record.started_ns.load(std::memory_order_acquire);
  view->ready_ns = record.ready_ns.load(std::memory_order_acquire);
  view->holder = record.holder.load(std::memory_order_acquire);
  LogNote log = read_log_note(record.log.load());
  view->log = std::move(log.path);
  view->log_missing = std::move(log.missing);
  view->devices = record.devices.load(std::memory_order_acquire) & ((1u << kDevicesMax) - 1);
  const std::uint32_t size_flags = record.size_flags.load(std::memory_order_acquire);
  view->size_unknown = (size_flags & kBackendSizeUnknown) != 0;
  view->device_size_unknown = (size_flags & kBackendDeviceSizeUnknown) != 0;
  view->expected = record.expected.load();
  view->declared = record.declared.load();
  view->size_bytes = view->declared.host;
  view->device_mask = record.device_mask.load(std::memory_order_acquire);
  view->owner_pid = record.owner_pid.load(std::memory_order_acquire);
}

// Of a word that belongs to one generation: 0 in any other.
std::uint32_t value_in(const Word& word, std::uint32_t generation) {
  const std::uint64_t value = word.load(std::memory_order_acquire);
  return high_half(value) == generation ? low_half(value) : 0;
}

// Bytes of the segment: what it names is clamped.
LeftRecord read_left(const BackendRecord& record, std::uint32_t generation) {
  LeftRecord left = record.left.load();
  if (left.generation != generation) return LeftRecord{};
  for (LeftProcess& process : left.named) process.command.back() = 0;
  return left;
}

// The parts that move while the state stays, and nothing yet of what is derived. Its `ref`, `state`
// and payload are known.
void read_what_moves(const Segment& segment, BackendView* view) {
  const BackendRecord& record = segment.backend(view->ref.index);
  view->control = load_control(segment, view->ref);
  view->exit_status = low_half(record.exit_status.load(std::memory_order_acquire));
  view->parallel = value_in(record.parallel, view->ref.generation);
  view->keep_alive = value_in(record.keep_alive, view->ref.generation);
  view->probe_failures = value_in(record.probe_failures, view->ref.generation);
  view->permit_ms =
      PermitWord::deadline_of(record.permit.load(std::memory_order_acquire), view->ref.generation);
  view->measured = record.measured.load();
  view->peak = record.peak.load();
  view->stop = record.stop.load();
  if (view->stop.generation != view->ref.generation) view->stop = StopRecord{};
  view->noted = record.noted.load(std::memory_order_acquire);
  view->drain_failed_ns = record.drain_failed_ns.load(std::memory_order_acquire);
  view->alive_ticks = record.alive_ticks.load(std::memory_order_acquire);
  view->left = LeftRecord{};
  if (view->state.state == BackendState::kStopping)
    view->left = read_left(record, view->ref.generation);
  view->overdue = view->state.state == BackendState::kStopping &&
                  record.model_hash.load(std::memory_order_acquire) == kHashOverdue;
  view->damaged = !StateWord::is_known(record.state.load(std::memory_order_seq_cst));
  view->in_flight = 0;
  view->oldest_start_ns = kNever_ns;
  view->newest_start_ns = 0;
  view->last_used_ns = view->ready_ns;
}

}  // namespace

struct SnapshotReader::Cache {
  Snapshot snapshot;
  std::vector<BackendView> slots;      // what was read last, by slot
  std::vector<std::int32_t> position;  // of a slot in snapshot.backends, -1 if not there
  std::vector<StateWord> seen;         // of each slot, as this read began with it
  // What the last-used table says of intervals.
  struct Use {
    std::size_t backend;  // its position in snapshot.backends
    std::uint64_t stamp_ns;
    std::uint64_t interval_ns;
  };
  std::vector<Use> uses;
  std::vector<PoolInterval> intervals;  // of each of snapshot.backends
  // What the histories said when they were last asked: of the model of a slot, by what an event was
  // written for, and of that of a row of the line.
  struct Remembered {
    std::uint64_t of[2] = {0, 0};
    std::uint64_t ns = 0;
  };
  std::vector<Remembered> interval_of_slot;
  std::vector<Remembered> load_of_row;
  std::unordered_map<std::string, std::vector<std::uint64_t>> groups;  // of models in line
  bool settings_damaged = false;

  void read_settings_of_pool(const Segment& segment);
  void read_use(const Segment& segment, std::uint32_t row);
  void find_intervals(const Segment& segment);
  std::uint64_t last_interval_ns(const Segment& segment, const BackendView& backend);
  std::uint64_t last_load_ns(const Segment& segment, const WaiterView& waiter);
  const std::vector<std::uint64_t>& groups_of(const Segment& segment, const std::string& model);
  void read_backends(const Segment& segment);
  bool states_hold(const Segment& segment) const;
};

SnapshotReader::SnapshotReader(std::shared_ptr<const Segment> segment)
    : segment_(std::move(segment)), cache_(std::make_unique<Cache>()) {
  cache_->slots.resize(segment_->capacities().backends);
  cache_->position.resize(segment_->capacities().backends, -1);
  cache_->seen.resize(segment_->capacities().backends);
  cache_->interval_of_slot.resize(segment_->capacities().backends);
  cache_->load_of_row.resize(segment_->capacities().waiters);
}

SnapshotReader::~SnapshotReader() = default;

void SnapshotReader::Cache::read_settings_of_pool(const Segment& segment) {
  Snapshot& s = snapshot;
  if (segment.settings().generation.load(std::memory_order_seq_cst) == s.settings_generation)
    return;
  PoolSettings settings;
  settings_damaged = false;
  groups.clear();
  s.settings_generation = read_settings(segment, [&](const SettingsView& view) {
    settings = view.pool();
    s.rules_hash = view.rules_hash();
    s.rule_count = view.rule_count();
    settings_damaged = view.damaged();
    s.uses_groups = view.uses(Setting::kGroups);
  });
  s.settings = s.settings_generation == 0
                   ? nullptr
                   : std::make_shared<const PoolSettings>(std::move(settings));
}

void SnapshotReader::Cache::read_backends(const Segment& segment) {
  Snapshot& s = snapshot;
  s.backends.clear();
  std::fill(position.begin(), position.end(), -1);
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    const BackendRecord& record = segment.backend(i);
    BackendView& slot = slots[i];
    StateWord state = load_state(segment, i);
    seen[i] = state;
    if (state.state == BackendState::kFree) continue;
    for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
      // While a ticket is out its holder may write: a second process after a failed exec.
      const bool loading =
          state.state == BackendState::kReserved || state.state == BackendState::kStarting;
      const bool known =
          !loading && slot.ref.generation == state.generation && slot.state.state == state.state;
      if (!known) read_backend(record, state.generation, &slot);
      const StateWord again = load_state(segment, i);
      slot.ref = {i, state.generation};
      slot.state = state;
      if (again == state) break;
      slot.state.state = BackendState::kFree;  // not known: read anew
      state = again;
    }
    if (slot.state.state == BackendState::kFree) continue;
    if (!slot.effective || slot.effective->generation() != s.settings_generation) {
      slot.effective =
          std::make_shared<const Effective>(resolve_settings(segment, slot.model, &slot.overrides));
      slot.groups = slot.own_group != 0 ? std::vector<std::uint64_t>{slot.own_group}
                                        : group_hashes(slot.effective->text(Setting::kGroups));
    }
    read_what_moves(segment, &slot);
    position[i] = static_cast<std::int32_t>(s.backends.size());
    s.backends.push_back(slot);
    if (slot.damaged) s.damage.push_back(slot_name(i) + ": in no known state");
    if (!is_printable_utf8(slot.model) || slot.model.empty()) {
      s.damage.push_back(slot_name(i) + ": no valid model name");
      s.backends.back().model =
          "(" + slot_name(i) + ")";  // it has a place, and must come to an end
    }
  }
}

// What one row of the last-used table says of each backend.
void SnapshotReader::Cache::read_use(const Segment& segment, std::uint32_t row) {
  for (std::size_t i = 0; i < snapshot.backends.size(); ++i) {
    BackendView& backend = snapshot.backends[i];
    const UsedCell& cell = segment.used_cell(row, backend.ref.index);
    const std::uint64_t stamp = cell.stamp_ns.load(std::memory_order_seq_cst);
    backend.last_used_ns = std::max(backend.last_used_ns, stamp);
    // relaxed: advisory
    const std::uint64_t interval = cell.interval.load(std::memory_order_relaxed);
    if (high_half(interval) != backend.ref.generation || low_half(interval) == 0) continue;
    uses.push_back({i, stamp, low_half(interval) * kMillisecond_ns});
  }
}

// As of the last use: how long nobody has asked since is for the rules to weigh.
void SnapshotReader::Cache::find_intervals(const Segment& segment) {
  intervals.assign(snapshot.backends.size(), PoolInterval{});
  for (const Use& use : uses) {
    const std::uint64_t last_ns = snapshot.backends[use.backend].last_used_ns;
    intervals[use.backend].add(use.interval_ns, age_ns(last_ns, use.stamp_ns));
  }
  for (std::size_t i = 0; i < intervals.size(); ++i) {
    BackendView& backend = snapshot.backends[i];
    backend.interval_ns = intervals[i].interval_ns();
    if (backend.interval_ns == 0) backend.interval_ns = last_interval_ns(segment, backend);
  }
}

std::uint64_t SnapshotReader::Cache::last_interval_ns(const Segment& segment,
                                                      const BackendView& backend) {
  Remembered& known = interval_of_slot[backend.ref.index];
  if (known.of[0] != backend.ref.generation || known.of[1] != backend.noted) {
    const auto history = find_history(segment, backend.model);
    known = {{backend.ref.generation, backend.noted}, history ? history->interval_ns : 0};
  }
  return known.ns;
}

std::uint64_t SnapshotReader::Cache::last_load_ns(const Segment& segment,
                                                  const WaiterView& waiter) {
  Remembered& known = load_of_row[waiter.row];
  if (known.of[0] != waiter.generation || known.of[1] != waiter.arrival) {
    const auto history = find_history(segment, waiter.model);
    known = {{waiter.generation, waiter.arrival}, history ? history->load_ns : 0};
  }
  return known.ns;
}

const std::vector<std::uint64_t>& SnapshotReader::Cache::groups_of(const Segment& segment,
                                                                   const std::string& model) {
  constexpr std::size_t kModelsMax = 16384;
  if (groups.size() > kModelsMax) groups.clear();
  const auto [at, is_new] = groups.try_emplace(model);
  if (is_new) at->second = group_hashes(resolve_settings(segment, model).text(Setting::kGroups));
  return at->second;
}

bool SnapshotReader::Cache::states_hold(const Segment& segment) const {
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    if (load_state(segment, i) != seen[i]) return false;
  }
  return true;
}

const Snapshot& SnapshotReader::read() {
  const Segment& segment = *segment_;
  Snapshot& s = cache_->snapshot;
  s.damage.clear();
  s.now_ns = now_ns();

  cache_->read_settings_of_pool(segment);

  const CoordinatorRecord& coordinator = segment.coordinator();
  s.coordinator.identity = read_coordinator(segment);
  s.coordinator.started_ns = coordinator.started_ns.load(std::memory_order_acquire);
  s.coordinator.last_scan_ns = coordinator.last_scan_ns.load(std::memory_order_acquire);
  s.coordinator.scans = coordinator.scans.load(std::memory_order_acquire);
  s.coordinator.left = coordinator.leaving.load(std::memory_order_acquire) != 0;
  s.coordinator.last_progress_ns = coordinator.last_progress_ns.load(std::memory_order_acquire);
  // The config that an earlier coordinator refused, this one has read as it is now.
  const std::uint64_t refused_ns = coordinator.reload_refused_ns.load(std::memory_order_acquire);
  s.coordinator.reload_refused_ns = refused_ns < s.coordinator.started_ns ? 0 : refused_ns;
  s.coordinator.pressure_until_ns = coordinator.pressure_until_ns.load(std::memory_order_acquire);
  s.coordinator.pressure_pause_ns = coordinator.pressure_pause_ns.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < s.coordinator.features.size(); ++i) {
    s.coordinator.features[i] = coordinator.features[i].load(std::memory_order_acquire);
  }
  s.coordinator.foreign = coordinator.foreign.load();
  s.devices = read_devices(segment);
  s.device_memory.clear();
  for (std::uint32_t i = 0; i < s.devices.size(); ++i)
    s.device_memory.push_back(load_device_memory(segment, i));
  s.device_limits = Limits();
  if (!s.devices.empty() && s.settings)
    read_device_limits(segment, s.settings->text(Setting::kGpuMemory), &s.device_limits);

  // Slots are read one after the other: a model that goes from one to another meanwhile would be
  // seen in both. Read until no state changed while they were read.
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    s.damage.clear();
    if (cache_->settings_damaged)
      s.damage.emplace_back(
          "settings: their rules lead out of their place, or what programs must know of them "
          "contradicts its hash");
    cache_->read_backends(segment);
    if (cache_->states_hold(segment)) break;
  }

  // Before the workers: a waiter whose worker is not among them is one whose worker has gone.
  s.waiters.clear();
  s.stray_waiters.clear();
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    const WaiterRecord& row = segment.waiter(i);
    const std::uint64_t state = row.state.load(std::memory_order_seq_cst);
    if (low_half(state) == 0) continue;
    WaiterView waiter;
    waiter.row = i;
    waiter.generation = high_half(state);
    waiter.owner = row.owner.load(std::memory_order_acquire);
    waiter.pid = static_cast<pid_t>(row.pid.load(std::memory_order_acquire));
    waiter.model = row.model.load();
    waiter.arrival = row.arrival.load(std::memory_order_acquire);
    waiter.since_ns = row.since_ns.load(std::memory_order_acquire);
    waiter.deadline_ns = row.deadline_ns.load(std::memory_order_acquire);
    waiter.looked_ns = row.looked_ns.load(std::memory_order_acquire);
    waiter.model_since_ns = row.model_since_ns.load(std::memory_order_acquire);
    waiter.need = row.need.load();
    waiter.expected_bytes = waiter.need.bytes.host;
    waiter.room_devices =
        promised_devices(row.room.load(std::memory_order_acquire), waiter.arrival);
    waiter.priority = row.priority.load(std::memory_order_acquire);
    waiter.tag = row.tag.load();
    const std::uint64_t own_group = row.own_group.load(waiter.arrival);
    if (row.state.load(std::memory_order_seq_cst) != state) continue;  // it has just left
    const bool waits = low_half(state) == static_cast<std::uint32_t>(WaiterState::kWaiting);
    if (!waits || waiter.model.empty() || !is_printable_utf8(waiter.model)) {
      s.damage.push_back("waiter row " + std::to_string(i) +
                         (waits ? ": no valid model name" : ": in no known state"));
      s.stray_waiters.push_back({i, state, waits ? waiter.owner : 0});
      continue;
    }
    waiter.load_ns = cache_->last_load_ns(segment, waiter);
    if (own_group != 0) {
      waiter.groups = {own_group};
    } else if (s.uses_groups) {
      waiter.groups = cache_->groups_of(segment, waiter.model);
    }
    s.waiters.push_back(std::move(waiter));
  }
  std::sort(s.waiters.begin(), s.waiters.end(),
            [](const WaiterView& a, const WaiterView& b) { return a.arrival < b.arrival; });

  s.workers.clear();
  s.leases.clear();
  cache_->uses.clear();
  int changes = 0;
  for (std::uint32_t w = 0; w < segment.workers_reached(); ++w) {
    const WorkerRecord& row = segment.worker(w);
    const std::uint64_t state = row.state.load(std::memory_order_seq_cst);
    if (state == 0) continue;  // never used: nothing in its last-used row either
    cache_->read_use(segment, w);
    if (low_half(state) == 0) continue;
    WorkerView worker;
    worker.ref = {w, high_half(state)};
    worker.process = {static_cast<pid_t>(row.pid.load(std::memory_order_acquire)),
                      row.start_ticks.load(std::memory_order_acquire),
                      row.pidfd_inode.load(std::memory_order_acquire)};
    worker.attached_ns = row.attached_ns.load(std::memory_order_acquire);
    worker.command = row.command.load();
    worker.cancels = row.cancels.load(std::memory_order_acquire);
    // Its identity must not be put together from two owners: that would look like a death.
    if (row.state.load(std::memory_order_seq_cst) != state) {
      if (++changes < kReadAttempts) --w;
      continue;
    }
    changes = 0;
    const std::uint32_t high =
        std::min(row.leases_high.load(std::memory_order_seq_cst), segment.capacities().leases);
    for (std::uint32_t c = 0; c < high; ++c) {
      const LeaseRecord& record = segment.lease(w, c);
      LeaseView lease;
      for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
        lease.word = record.word.load(std::memory_order_seq_cst);
        if (lease.word == 0) break;
        lease.start_ns = record.start_ns.load(std::memory_order_acquire);
        lease.progress_ns = record.progress_ns.load(std::memory_order_acquire);
        lease.progressed = has_progressed(lease.start_ns, lease.progress_ns);
        lease.limit_ns = record.limit_ns.load(std::memory_order_acquire);
        lease.first_byte_limit_ns = record.first_byte_limit_ns.load(std::memory_order_acquire);
        lease.flags = record.flags.load(std::memory_order_acquire);
        // The word first: the coordinator wrote it last, seq_cst.
        lease.cancel_word = record.cancel_word.load(std::memory_order_seq_cst);
        lease.cancel_start_ns = record.cancel_start_ns.load(std::memory_order_acquire);
        lease.cancel_at_ns = record.cancel_at_ns.load(std::memory_order_acquire);
        lease.tag = record.tag.load();
        if (record.word.load(std::memory_order_seq_cst) == lease.word) break;
        // Changed while it was read: another lease by now. It counts as in flight all the same.
      }
      if (lease.word == 0) continue;
      const LeaseWord word = LeaseWord::unpack(lease.word);
      lease.backend = {word.backend, word.generation};
      lease.worker = w;
      lease.cell = c;
      if (word.backend >= segment.capacities().backends) {
        s.damage.push_back("lease " + std::to_string(w) + "/" + std::to_string(c) +
                           ": names no backend slot");
        continue;
      }
      const std::int32_t at = cache_->position[word.backend];
      if (at >= 0 && s.backends[static_cast<std::size_t>(at)].ref == lease.backend) {
        BackendView& backend = s.backends[static_cast<std::size_t>(at)];
        ++backend.in_flight;
        backend.oldest_start_ns = std::min(backend.oldest_start_ns, lease.start_ns);
        backend.newest_start_ns = std::max(backend.newest_start_ns, lease.start_ns);
      }
      ++worker.leases;
      s.leases.push_back(std::move(lease));
    }
    s.workers.push_back(std::move(worker));
  }
  cache_->read_use(segment, static_cast<std::uint32_t>(segment.coordinator_row()));
  cache_->find_intervals(segment);
  std::erase_if(s.stray_waiters,
                [&](const StrayWaiter& stray) { return s.find_worker(stray.owner) != nullptr; });
  return s;
}

const Effective& BackendView::settings() const {
  static const Effective kDefaults;
  return effective ? *effective : kDefaults;
}

std::uint32_t Snapshot::live() const {
  return static_cast<std::uint32_t>(std::count_if(backends.begin(), backends.end(),
                                                  [](const BackendView& b) { return b.live(); }));
}

std::uint32_t Snapshot::ready() const {
  return static_cast<std::uint32_t>(
      std::count_if(backends.begin(), backends.end(),
                    [](const BackendView& b) { return b.state.state == BackendState::kReady; }));
}

const BackendView* Snapshot::find(BackendRef ref) const {
  const auto it = std::lower_bound(
      backends.begin(), backends.end(), ref.index,
      [](const BackendView& b, std::uint32_t index) { return b.ref.index < index; });
  return it != backends.end() && it->ref == ref ? &*it : nullptr;
}

const BackendView* Snapshot::find_model(std::string_view model) const {
  // The one that is not overdue, if an unkillable predecessor is still about.
  const BackendView* found = nullptr;
  for (const BackendView& b : backends) {
    if (!b.live() || b.model != model) continue;
    if (found == nullptr || found->state.state == BackendState::kStopping) found = &b;
  }
  return found;
}

const WorkerView* Snapshot::find_worker(std::uint64_t worker) const {
  for (const WorkerView& w : workers) {
    if (pack_worker(w.ref) == worker) return &w;
  }
  return nullptr;
}

std::uint32_t Snapshot::max_backends() const {
  return settings ? static_cast<std::uint32_t>(settings->get(Setting::kMaxBackends)) : 0;
}

std::uint32_t Snapshot::keep() const {
  return settings ? static_cast<std::uint32_t>(settings->get(Setting::kKeep)) : 0;
}

namespace {

// What the workers' rows say of it: when it was used, how often, and by whom it is now.
void read_uses(const Segment& segment, BackendView* view) {
  struct Use {
    std::uint64_t stamp_ns;
    std::uint64_t interval_ns;
  };
  std::vector<Use> uses;
  const auto read_use = [&](std::uint32_t row) {
    const UsedCell& cell = segment.used_cell(row, view->ref.index);
    const std::uint64_t stamp = cell.stamp_ns.load(std::memory_order_seq_cst);
    view->last_used_ns = std::max(view->last_used_ns, stamp);
    // relaxed: advisory
    const std::uint64_t interval = cell.interval.load(std::memory_order_relaxed);
    if (high_half(interval) == view->ref.generation && low_half(interval) != 0)
      uses.push_back({stamp, low_half(interval) * kMillisecond_ns});
  };
  for (std::uint32_t w = 0; w < segment.workers_reached(); ++w) {
    const WorkerRecord& row = segment.worker(w);
    const std::uint64_t state = row.state.load(std::memory_order_seq_cst);
    if (state == 0) continue;
    read_use(w);
    if (low_half(state) == 0) continue;
    const std::uint32_t high =
        std::min(row.leases_high.load(std::memory_order_seq_cst), segment.capacities().leases);
    for (std::uint32_t c = 0; c < high; ++c) {
      const LeaseRecord& record = segment.lease(w, c);
      const std::uint64_t word = record.word.load(std::memory_order_seq_cst);
      const LeaseWord lease = LeaseWord::unpack(word);
      if (lease.generation != view->ref.generation || lease.backend != view->ref.index) continue;
      const std::uint64_t start_ns = record.start_ns.load(std::memory_order_acquire);
      ++view->in_flight;
      // Another lease by now: its start is its own.
      if (record.word.load(std::memory_order_seq_cst) != word) continue;
      view->oldest_start_ns = std::min(view->oldest_start_ns, start_ns);
      view->newest_start_ns = std::max(view->newest_start_ns, start_ns);
    }
  }
  read_use(static_cast<std::uint32_t>(segment.coordinator_row()));
  PoolInterval interval;
  for (const Use& use : uses)
    interval.add(use.interval_ns, age_ns(view->last_used_ns, use.stamp_ns));
  view->interval_ns = interval.interval_ns();
}

}  // namespace

Snapshot look_at_model(const Segment& segment, std::string_view model) {
  Snapshot s;
  s.now_ns = now_ns();
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    const auto found = find_backend(segment, model);
    if (!found) return s;
    BackendView view;
    view.ref = found->ref;
    view.state = found->state;
    read_backend(segment.backend(view.ref.index), view.ref.generation, &view);
    if (load_state(segment, view.ref.index) != view.state)
      continue;  // its payload may be another's
    view.effective =
        std::make_shared<const Effective>(resolve_settings(segment, view.model, &view.overrides));
    read_what_moves(segment, &view);
    read_uses(segment, &view);
    if (view.interval_ns == 0) {
      const auto history = find_history(segment, model);
      view.interval_ns = history ? history->interval_ns : 0;
    }
    s.backends.push_back(std::move(view));
    return s;
  }
  return s;
}

std::vector<HistoryView> read_histories(const Segment& segment) {
  std::vector<HistoryView> result;
  for (std::uint32_t i = 0; i < segment.capacities().models; ++i) {
    const ModelRecord& record = segment.model(i);
    if (record.hash.load(std::memory_order_acquire) == 0) continue;
    result.push_back({record.name.load(), record.history.load()});
  }
  return result;
}

}  // namespace modelpool
