// A copy of everything in the segment, as values. The one reader path: coordinator, tools, tests
// and what applications see (rows/rows.hpp) look through it (P12: looking changes nothing).
//
// Safety: reads only, takes no lock, works on read-only maps and copied files. One thread per
// reader.
//
// Crash: records of the dead are shown as they are; a torn or corrupt record is skipped and named
// in `damage`.
//
// Errors: none; what cannot be believed is reported, never asserted on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "policy/values.hpp"
#include "protocol/slots.hpp"
#include "segment/devices.hpp"

namespace modelpool {

struct LeaseView {
  BackendRef backend;
  std::uint32_t worker = 0;  // row
  std::uint32_t cell = 0;
  std::uint64_t word = 0;
  std::uint64_t start_ns = 0;
  std::uint64_t progress_ns = 0;
  bool progressed = false;  // at least once
  std::uint64_t limit_ns = 0;
  std::uint64_t first_byte_limit_ns = 0;
  std::uint64_t flags = 0;        // kLeaseCancellable
  std::uint64_t cancel_word = 0;  // of the lease that was last asked to end here, with its start,
  std::uint64_t cancel_start_ns = 0;
  std::uint64_t cancel_at_ns = 0;  // and when
  std::string tag;

  bool cancelled() const { return is_cancelled(word, start_ns, cancel_word, cancel_start_ns); }
  bool cancellable() const { return (flags & kLeaseCancellable) != 0; }
};

struct BackendView {
  BackendRef ref;
  StateWord state;
  std::string model;
  std::string address;
  std::string label;
  ProcessIdentity process;  // pid 0: none known
  pid_t group = 0;
  std::uint32_t control = 0;
  std::uint32_t exit_status = 0;
  std::uint32_t traits = 0;
  std::uint64_t reserved_ns = 0;
  std::uint64_t started_ns = 0;
  std::uint64_t ready_ns = 0;
  std::uint64_t size_bytes = 0;  // declared of the host's memory
  std::uint64_t device_mask = 0;
  std::uint32_t owner_pid = 0;
  std::uint64_t holder = 0;  // pack_worker: whose ticket it is, while state.owner is not 0
  Overrides overrides;       // what `ready` gave
  std::shared_ptr<const Effective> effective;  // null: the defaults
  std::uint64_t own_group = 0;                 // a tenant's, in place of its model's; 0 = none
  std::vector<std::uint64_t> groups;           // its own or its model's, hashes, sorted
  std::string log;                             // the file its output goes to
  std::string log_missing;                     // or why it is not kept
  std::uint32_t devices = 0;                   // assigned: a bit for each in Snapshot::devices
  bool size_unknown = false;                   // expected of the host is a guess
  bool device_size_unknown = false;            // that of devices is
  Bytes expected;
  Bytes declared;
  Bytes measured;
  Bytes peak;
  std::uint32_t parallel = 0;        // requests at once, 0 = no limit
  std::uint32_t keep_alive = 0;      // pack_keep_alive
  std::uint64_t permit_ms = 0;       // CLOCK_BOOTTIME, 0 = none
  std::uint32_t probe_failures = 0;  // in a row
  StopRecord stop;
  std::uint64_t noted = 0;
  std::uint64_t drain_failed_ns = 0;
  std::uint64_t alive_ticks = 0;
  LeftRecord left;       // while it is stopping
  bool overdue = false;  // would not die; no longer blocks its model
  bool damaged = false;  // in no known state; shown as stopping
  // Derived.
  std::uint32_t in_flight = 0;
  std::uint64_t oldest_start_ns = kNever_ns;  // of its leases
  std::uint64_t newest_start_ns = 0;
  std::uint64_t last_used_ns = 0;  // at least ready_ns
  // Between ends of its requests, as of its last use; before there were two of them in this life,
  // that of its lives before. 0 = not known.
  std::uint64_t interval_ns = 0;

  const Effective& settings() const;  // what applies to it
  // Its processes are gone; its place waits until what it held of devices is back.
  bool settling() const {
    return state.state == BackendState::kStopping && stop.generation == ref.generation &&
           stop.ended_ns != 0;
  }
  bool counted() const {
    return state.state == BackendState::kReady && (state.owner & StateWord::kCounted) != 0;
  }
  bool pinned() const { return pinned_by_hand() || pinned_by_settings(); }
  bool pinned_by_hand() const { return (control & kControlPinned) != 0; }
  bool pinned_by_settings() const { return settings().get(Setting::kPinned) != 0; }
  bool external() const { return traits & kTraitExternal; }
  bool tenant() const { return traits & kTraitTenant; }
  bool live() const { return is_live(state.state); }
};

struct WorkerView {
  WorkerRef ref;
  ProcessIdentity process;
  std::uint64_t attached_ns = 0;
  std::string command;
  std::uint32_t cancels = 0;
  std::uint32_t leases = 0;
};

struct WaiterView {
  std::uint32_t row = 0;
  std::uint32_t generation = 0;
  std::uint64_t owner = 0;  // pack_worker
  pid_t pid = 0;
  std::string model;
  std::uint64_t arrival = 0;
  std::uint64_t since_ns = 0;
  std::uint64_t deadline_ns = 0;
  std::uint64_t looked_ns = 0;       // when it last looked whether it may go on
  std::uint64_t model_since_ns = 0;  // since when somebody waits for this model
  std::uint64_t load_ns = 0;         // how long its last load took, 0 = not known
  std::uint64_t expected_bytes = 0;  // of the host's memory
  Need need;
  std::uint32_t room_devices = 0;     // where room is made for it, a bit for each; 0 = nowhere
  std::vector<std::uint64_t> groups;  // its own or its model's, hashes, sorted
  std::uint64_t priority = 0;
  std::string tag;
};

// A waiter row that nobody knows as his: in no known state, or of no model and no attached worker.
struct StrayWaiter {
  std::uint32_t row = 0;
  std::uint64_t word = 0;
  std::uint64_t owner = 0;
};

struct CoordinatorView {
  CoordinatorIdentity identity;
  std::uint64_t started_ns = 0;
  std::uint64_t reload_refused_ns = 0;  // the config it was last told to read; 0: it took it
  std::uint64_t last_scan_ns = 0;
  std::uint64_t scans = 0;
  std::uint64_t last_progress_ns = 0;  // when its loop last came round
  std::uint64_t pressure_until_ns = 0;
  std::uint64_t pressure_pause_ns = 0;
  std::array<std::uint64_t, 3> features{};  // compat, judge, admit
  ForeignUse foreign;
  bool left = false;
};

struct Snapshot {
  std::uint64_t now_ns = 0;
  std::shared_ptr<const PoolSettings> settings;  // null: the pool never had any
  std::uint64_t settings_generation = 0;
  std::uint64_t rules_hash = 0;  // differs when a rule does
  std::uint64_t rule_count = 0;
  std::vector<BackendView> backends;  // not FREE, by slot
  std::vector<WorkerView> workers;    // attached, by row
  std::vector<WaiterView> waiters;    // by arrival
  std::vector<StrayWaiter> stray_waiters;
  std::vector<LeaseView> leases;            // by worker row, cell
  std::vector<std::string> devices;         // their UUIDs, by position
  std::vector<DeviceMemory> device_memory;  // of the same
  Limits device_limits;                     // of its limits those of devices
  bool uses_groups = false;                 // some model has groups
  CoordinatorView coordinator;
  std::vector<std::string> damage;

  std::uint32_t live() const;
  std::uint32_t ready() const;
  const BackendView* find(BackendRef ref) const;
  const BackendView* find_model(std::string_view model) const;  // its live backend
  const WorkerView* find_worker(std::uint64_t worker) const;    // pack_worker
  std::uint32_t max_backends() const;                           // 0 = no limit
  std::uint32_t keep() const;                                   // that idle eviction leaves
};

// Keeps what it read: a payload is copied again only when its slot changed, and settings are
// resolved again only when they or the slot did.
class SnapshotReader {
 public:
  explicit SnapshotReader(std::shared_ptr<const Segment> segment);
  ~SnapshotReader();
  // The copy is valid until the next call.
  const Snapshot& read();

 private:
  struct Cache;
  std::shared_ptr<const Segment> segment_;
  std::unique_ptr<Cache> cache_;
};

// The live backend of one model as a snapshot has it, in a snapshot of nothing else (but for its
// groups, and who waits); without a backend if there is none. Reads its slot, and words of others.
Snapshot look_at_model(const Segment& segment, std::string_view model);

struct HistoryView {
  std::string model;
  LoadHistory history;
};
std::vector<HistoryView> read_histories(const Segment& segment);

}  // namespace modelpool
