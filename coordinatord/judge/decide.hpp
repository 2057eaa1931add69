// What to do now: a pure function from a snapshot, and what is known besides it, to actions.
//
// The rules themselves, whose turn it is and who makes room are libshm/policy's. Here they are
// applied to every backend in its state: loads, drains, stops, clearing up after the dead. Nothing
// here reads a clock, a file or a shared word, so the same code is tested as a table, simulated
// over years, and run.
//
// Safety: pure; any thread.
//
// Crash: none of its business. Actions are carried out by enforce, which re-reads the evidence.
//
// Errors: none. Values that make no sense (stamps from the future, ages beyond the clock) lead to
// no action (P8: never early).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "judge/settling.hpp"
#include "policy/values.hpp"
#include "policy/victims.hpp"
#include "protocol/snapshot.hpp"

namespace modelpool::coordinator {

// Probes in a row that a backend has not answered.
struct Unanswered {
  BackendRef backend;
  std::vector<std::uint64_t> began_ns;  // each of them
  std::string last;                     // why the last one failed
};

// What is left of the host's memory (pressure.hpp).
struct HostPressure {
  bool may_evict = false;  // one idle backend
  std::uint64_t available_bytes = 0;
  std::uint64_t min_bytes = 0;
  std::uint64_t look_ns = kNever_ns;  // when it is to be measured again
};

// What the effects know and the segment does not say.
struct Facts {
  std::uint64_t ahead_ns = 0;             // decide as if it were that much later: a rehearsal
  std::uint64_t stamp_resolution_ns = 0;  // how far a stamp may lie before what it stamps
  std::uint32_t epoch = 0;                // this coordinator's
  bool ending = false;                    // every backend is to be stopped (on-exit stop, replaced)
  std::vector<BackendRef> exited;         // the registered process has ended
  // Of those exited: whose exit status is not recorded yet, and until when it is worth waiting for.
  std::vector<std::pair<BackendRef, std::uint64_t>> unreaped;
  std::vector<BackendRef> vanished;        // no process of the backend is left
  std::vector<WorkerRef> dead_workers;     // proved
  std::vector<WorkerRef> stopped_workers;  // by SIGSTOP or a debugger: they end no request if asked
  std::vector<Standstill> standstills;     // times that count against nobody
  std::vector<Unanswered> unanswered;      // only of those that do not answer
  std::vector<std::string> short_loads;    // models whose load has just run out of memory
  DeviceFacts devices;
  HostPressure host;

  bool has_exited(BackendRef ref) const;
  bool has_vanished(BackendRef ref) const;
  bool is_dead(WorkerRef worker) const;
  bool is_stopped(std::uint32_t worker_row) const;
  const Unanswered* unanswered_of(BackendRef ref) const;  // null: it answers, or nobody asked
};

enum class ActionKind {
  kClose,        // READY -> EVICTING for stop.reason; at once STOPPING if nothing speaks against it
  kCommit,       // EVICTING -> STOPPING: drained, or a rule was broken meanwhile
  kReopen,       // EVICTING -> READY
  kLoseTicket,   // RESERVED -> GONE, STARTING -> STOPPING
  kSignal,       // to the processes of a STOPPING backend
  kMarkOverdue,  // it would not die: it no longer blocks its model
  kSettle,       // STOPPING: its processes are gone, its device memory may not be back
  kMarkGone,     // STOPPING -> GONE
  kDisown,       // GONE or STOPPING: its ticket's holder is dead
  kFree,         // GONE -> FREE
  kRecordLoad,   // a backend has become ready
  kRecordEnd,    // GONE without an event: a load that ended before anything was started
  kRefuseEvict,  // a requested eviction that its leases do not allow
  kAskToEnd,     // the holder of the overdue lease that stop names
  kReapWorker,   // clear a dead worker's row
  kClearWaiter,  // a waiter row whose worker is not there
};

struct Action {
  ActionKind kind = ActionKind::kClose;
  BackendRef backend;
  StateWord seen;                // the state the decision rests on
  StopRecord stop;               // kClose, kCommit, kLoseTicket, kSignal, kAskToEnd: why
  bool hold = false;             // kClose: keep it closed while leases finish
  bool only_hold = false;        // kClose: also without a lease, for others of its set
  std::size_t set = 0;           // kClose, kCommit: those of one number end all or none; 0: alone
  std::string short_load;        // kClose: the model whose load ran out of memory beside it
  bool for_host = false;         // kClose: the host has too little memory left
  bool by_time = false;          // kMarkGone: no sample says that its device memory is back
  bool drain_failed = false;     // kReopen
  int signal = 0;                // kSignal
  WorkerRef worker;              // kReapWorker
  std::uint32_t waiter_row = 0;  // kClearWaiter
  std::uint32_t waiter_generation = 0;
};

// All who go so that one model can be loaded, also those that stay open until others have drained.
struct RoomMade {
  std::uint64_t for_arrival = 0;
  std::vector<BackendRef> go;
};

struct Decision {
  std::vector<Action> actions;
  std::uint64_t wake_ns = kNever_ns;  // the next time something may be due
  std::uint64_t wanted = 0;           // CoordinatorRecord::wanted
  std::vector<RoomPromise> promises;  // to be written into rows of the line
  std::vector<RoomMade> rooms;        // by arrival
};

// Why a tenant is ended whose holder is not there any more.
inline constexpr std::string_view kHolderLeft = "the process that ran it has died or left the pool";

Decision decide(const Snapshot& snapshot, const Facts& facts);

// DeviceFacts::baselines_from_ns after this decision was carried out.
std::uint64_t baselines_from_ns(std::uint64_t before_ns, const Decision& decision,
                                const Snapshot& snapshot);

}  // namespace modelpool::coordinator
