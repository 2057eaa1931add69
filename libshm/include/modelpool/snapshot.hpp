// What a look at a pool shows (Pool::snapshot, Pool::events): plain rows, as they were at one
// moment.
//
// poolctl's JSON, Python, C and Go show the same rows with the same names. Ages and times left are
// milliseconds, rounded down.
//
// P11: every decision leaves a record, and unknown reads as unknown. What is unknown or does not
// apply is an empty optional or text, or 0 for a PID, a signal or a time.
//
// Safety: plain values. A text is printable UTF-8 whatever the pool holds.
//
// Errors: none.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace modelpool {

// Why, and how far, a backend is being ended.
struct StopRow {
  std::string reason;  // as of an event
  std::optional<std::uint64_t> decided_ms;
  std::optional<std::uint64_t>
      stopping_ms;  // since it was certain; empty: it may still go back to ready
  int signal = 0;   // the last one sent
  std::optional<std::uint64_t> signalled_ms;
  std::optional<std::uint64_t> killed_ms;  // since SIGKILL
  std::optional<std::uint64_t> age_ms;     // measured, and the rule's limit
  std::optional<std::uint64_t> limit_ms;
  std::string text;
  std::optional<std::uint64_t> ended_ms;  // since its processes are gone: it settles
};

// A process that is still there of a backend that is being stopped.
struct LeftRow {
  pid_t pid = 0;
  std::string command;
  std::string user;
  int signal = 0;   // the last one that reached it
  std::string why;  // it is still there
};

// What a backend takes of one device.
struct DeviceUseRow {
  std::uint64_t device = 0;  // its position, as in DeviceRow
  std::optional<std::uint64_t> expected_bytes;
  std::optional<std::uint64_t> measured_bytes;
  std::optional<std::uint64_t> peak_bytes;
};

// One process that serves one model, or will, or did.
struct BackendRow {
  std::string model;
  std::string state;  // reserved, starting, ready, evicting, stopping
  pid_t pid = 0;
  std::string address;                   // empty before ready
  std::uint64_t in_flight = 0;           // leases of all workers of the host
  std::optional<std::uint64_t> busy_ms;  // age of the oldest lease
  std::optional<std::uint64_t> idle_ms;
  std::optional<std::uint64_t> ready_ms;
  bool pinned = false;
  std::optional<std::uint64_t> size_bytes;
  std::uint64_t generation = 0;  // with slot, names this backend and no other
  pid_t owner_pid = 0;           // the worker that loaded it
  std::uint64_t slot = 0;
  pid_t group = 0;
  bool external = false;  // without a process of the pool's
  std::string label;
  std::optional<std::uint64_t> device_mask;
  std::optional<std::uint64_t> reserved_ms;  // since its ticket was granted
  std::optional<std::uint64_t> started_ms;   // since its process was started
  bool evict_requested = false;
  std::string exit;  // "exit status 1", "signal SIGKILL"; empty: it runs, or that is unknown
  std::optional<StopRow> stop;               // while it is evicting or stopping
  std::optional<std::uint64_t> interval_ms;  // between ends of its requests, smoothed
  std::string keep_alive;  // how long it may be idle, as an acquire asked; empty: nobody did
  std::optional<std::uint64_t> parallel;        // requests at once; empty: no limit
  std::optional<std::uint64_t> expected_bytes;  // of the host's memory
  std::optional<std::uint64_t> measured_bytes;
  std::optional<std::uint64_t> peak_bytes;
  std::string log;                   // the file its output goes to; empty: none of the pool's
  std::string log_missing;           // why its output is not kept; empty: it is, or was not to be
  std::vector<LeftRow> left;         // while it is stopping, if that is not as usual
  std::uint64_t probe_failures = 0;  // in a row
  std::optional<std::uint64_t> measured_device_bytes;  // of all its devices together
  std::optional<std::uint64_t> peak_device_bytes;
  bool tenant = false;  // a foreign program, which serves nobody and ends with owner_pid
  std::vector<DeviceUseRow> device_use;  // of each device of which it takes, or is to
};

// A request in flight, of any worker.
struct LeaseRow {
  std::string model;  // empty if its backend has just changed
  pid_t worker_pid = 0;
  std::optional<std::uint64_t> age_ms;
  std::optional<std::uint64_t> progress_ms;  // since its last progress
  std::string tag;
  std::optional<std::uint64_t> limit_ms;  // its own busy timeout
  pid_t backend_pid = 0;
  std::uint64_t slot = 0;  // with generation, its backend
  std::uint64_t generation = 0;
  std::optional<std::uint64_t> first_byte_limit_ms;  // its own; empty: as the settings say
  bool cancellable = false;
  std::optional<std::uint64_t> cancelled_ms;  // since its holder was asked to end it
};

// A process that is attached.
struct WorkerRow {
  pid_t pid = 0;
  std::string command;
  std::uint64_t leases = 0;
  std::optional<std::uint64_t> attached_ms;
  std::optional<bool> alive;
  std::uint64_t row = 0;
  std::uint64_t generation = 0;
};

// An acquire that waits, in any worker.
struct WaiterRow {
  std::string model;
  pid_t worker_pid = 0;
  std::optional<std::uint64_t> waiting_ms;
  std::optional<std::uint64_t> left_ms;  // until its deadline
  std::uint64_t arrival = 0;             // its place in line
  std::optional<std::uint64_t> expected_bytes;
  std::uint64_t priority = 0;
  std::string tag;
  std::optional<std::uint64_t> model_since_ms;  // since somebody waits for this model
  std::optional<std::uint64_t> room_device;     // on which room is made for it
  std::optional<std::uint64_t> looked_ms;       // since it last looked whether it may go on
};

// What is known of a model beyond its backends' lives.
struct ModelRow {
  std::string model;
  std::uint64_t loads = 0;
  std::uint64_t failures_in_a_row = 0;
  std::optional<std::uint64_t> failed_ms;
  std::optional<std::uint64_t> cooling_down_ms;  // until it may be loaded again
  std::string last_error;
  std::string exit;                      // of the last failed load
  std::optional<std::uint64_t> load_ms;  // how long the last load took
  std::optional<std::uint64_t> size_bytes;
  std::optional<std::uint64_t> peak_bytes;   // of the host's memory
  std::optional<std::uint64_t> interval_ms;  // between ends of its requests, smoothed
  std::optional<std::uint64_t> last_use_ms;
  std::optional<std::uint64_t> last_end_ms;
};

// A decision of the coordinator.
struct EventRow {
  std::uint64_t seq = 0;  // from 1, without gaps, as long as the pool remembers
  std::chrono::system_clock::time_point time;  // the epoch: unknown
  std::string level;                           // info or warn
  std::string kind;    // loaded, load_failed, evicted, killed, exited, worker_died...
  std::string reason;  // lru, idle, busy, stall, load_timeout, requested...
  std::string model;
  pid_t pid = 0;
  pid_t worker_pid = 0;
  std::optional<std::uint64_t> age_ms;  // measured, and the rule's limit
  std::optional<std::uint64_t> limit_ms;
  int signal = 0;
  std::optional<std::uint64_t> exit_ms;  // from the stop signal until it was gone
  std::string exit;
  std::optional<std::uint64_t> load_ms;
  std::string tag;
  std::optional<std::uint64_t> count;  // of what, the kind says
  std::string text;
};

// The kinds that this library knows; a newer coordinator may write others.
std::vector<std::string> event_kinds();

// A device of the host, as the coordinator last measured it.
struct DeviceRow {
  std::uint64_t device = 0;  // its position, by which other rows name it
  std::string uuid;
  std::optional<std::uint64_t> total_bytes;
  std::optional<std::uint64_t> free_bytes;
  std::optional<std::uint64_t> pool_bytes;     // of this pool's backends
  std::optional<std::uint64_t> foreign_bytes;  // of everybody else
  std::optional<std::uint64_t> measured_ms;
  std::optional<std::uint64_t> limit_bytes;  // of this pool's backends; empty: none
};

struct CoordinatorRow {
  std::optional<bool> alive;
  pid_t pid = 0;
  std::optional<std::uint64_t> epoch;
  std::optional<std::uint64_t> up_ms;
  std::optional<std::uint64_t> last_scan_ms;
  std::uint64_t scans = 0;
  bool left = false;  // in order
  std::optional<std::uint64_t> hung_ms;
  std::optional<std::uint64_t> last_progress_ms;
  std::optional<std::uint64_t> pressure_pause_ms;  // left of it; empty: no pause
  // Since it refused the config that it was last told to read; empty: it took it.
  std::optional<std::uint64_t> reload_refused_ms;
};

// How many events of a kind and reason there have been.
struct CounterRow {
  std::string kind;
  std::string reason;
  std::uint64_t count = 0;
};

// One series of a meter, over all workers that ever were. It only grows.
struct MeterSample {
  std::string name;  // as Prometheus takes it: modelpool_acquires_total
  std::string unit;  // "seconds"; empty of a counter
  std::string help;
  bool is_histogram = false;
  std::uint64_t per_unit = 1;  // bounds and sum are in parts of a unit
  std::vector<std::pair<std::string, std::string>> labels;
  std::uint64_t value = 0;             // of a counter; of a histogram how many observations
  std::vector<std::uint64_t> bounds;   // of a histogram: of all buckets but the last
  std::vector<std::uint64_t> buckets;  // each by itself
  std::uint64_t sum = 0;
};

struct StatusRow {
  std::string pool;
  std::optional<std::uint64_t> max_backends;  // 0: no limit; empty: the pool never had settings
  std::uint64_t live = 0;
  std::uint64_t ready = 0;
  std::uint64_t waiting = 0;
  std::uint64_t workers = 0;
  std::uint64_t leases = 0;
  CoordinatorRow coordinator;
  std::string path;
  std::string uuid;
  std::uint64_t layout_version = 0;
  std::optional<std::uint64_t> settings_generation;
  std::vector<CounterRow> counters;
  std::vector<std::string> damage;  // records that could not be believed
  std::vector<MeterSample> meters;
  std::vector<DeviceRow> devices;
  std::optional<std::uint64_t> max_memory_bytes;  // as max_backends
};

// What is known of one model.
struct ModelLook {
  std::optional<BackendRow> backend;  // its live one
  std::optional<ModelRow> history;
  std::uint64_t waiting = 0;      // acquires, of all workers
  std::uint64_t max_waiters = 0;  // the pool's setting: how many may, for all models
};

// A setting as it applies to one model.
struct SettingRow {
  std::string name;
  std::string value;   // as `set` takes it
  std::string origin;  // "default", "poolctl set", "/etc/pool.toml:12"
  std::string rule;    // the pattern that gave it; empty: none
};

// What one rule says of a model as things stand.
struct VerdictRow {
  std::string rule;  // busy, idle, lru...
  std::string text;
  std::optional<std::uint64_t> due_in_ms;  // empty: not as things stand
};

// Which settings apply to a model and why, and what would happen to it.
struct Explanation {
  std::string model;
  bool is_loaded = false;
  std::optional<BackendRow> backend;
  std::vector<SettingRow> settings;
  std::vector<VerdictRow> verdicts;
  std::optional<ModelRow> history;
};

struct PoolSnapshot {
  StatusRow status;
  std::vector<BackendRow> backends;  // the live ones, by slot
  std::vector<LeaseRow> leases;
  std::vector<WorkerRow> workers;
  std::vector<WaiterRow> waiters;  // by arrival
  std::vector<ModelRow> models;
};

// What a process takes of its host.
struct ProcessUse {
  double cpu_s = 0;
  double started_s = 0;  // since 1970
  std::uint64_t virtual_bytes = 0;
  std::uint64_t resident_bytes = 0;
  std::uint64_t threads = 0;
  std::optional<std::uint64_t> open_files;  // empty: of another user
  std::optional<std::uint64_t> open_files_limit;
};
// Empty: there is none, or it cannot be seen.
std::optional<ProcessUse> process_use(pid_t pid);

}  // namespace modelpool
