// Every byte of the segment: what it is, who writes it, who reads it, what a crash leaves.
//
//   byte 0      Header         written once by the creator, then immutable
//               LockRecord     the mutex, alone on its cache lines
//               LineRecord     arrival numbers; how far rows were ever taken
//               SettingsRecord limits and rules, a generation and two copies
//               CoordinatorRecord
//               ModelRecord    [models]             histories that outlive backends
//               WorkerRecord   [workers]
//               BackendRecord  [backends]
//               WaiterRecord   [waiters]
//               EventRecord    [events]             ring
//               UsedCell       [workers + 1][backends]   last-used; the last row is the coordinator's
//               LeaseRecord    [workers][leases]         the busy table
//               DeviceRecord   [16]                 which devices there are; only grows
//               MeterInfo      [64]                 what the cells of meters mean; as the creator wrote it
//               MeterModelRecord [256]              models that meters tell apart; only grows
//               WorkerMeters   [workers]            counters; only grow
//               JudgeMeters                         the coordinator's
// Each table starts on a page. Offsets, strides and counts stand in the header; nothing is a
// pointer.
//
// Safety: shared words are 32- or 64-bit std::atomic, lock-free and address-free. Text and records
// longer than a word are arrays of such words (SharedText, SharedCopy, Published).
//
// Crash: every mutation is one store of a word, or is prepared where nobody reads and committed by
// one. There is no count, list or index to repair: all of them are derived by scanning. (How far
// rows were ever taken only grows, and is stored before the first of them is.)
//
// Errors: none here. Shared bytes are input: readers clamp what they read and never assert on it.
//
// Invariants:
//  1. A lease word is not 0 only between begin and end of a request, and names (backend, generation).
//  2. A backend's payload does not change while its state word keeps one generation and READY.
//  3. EVICTING may return to READY; STOPPING goes to GONE only, GONE to FREE of the next generation.
//  4. A last-used stamp only grows, and so does a meter's cell.
//
// Without a writer yet: words that a rule to come needs, so that the layout need not change for it.
// They are cleared with their row, read into snapshots and shown once they hold something:
// BackendRecord's permit; LeaseRecord's first_byte_limit_ns.
//
// Frozen: the first word of Header, WorkerRecord, LeaseRecord, BackendRecord, WaiterRecord and
// StopRecord keeps its place and its fields in every later layout, so that a newer judge can drain
// an older pool: it finds the tables (Header), who is there, what is in flight, and what is ending
// why.
#pragma once

#include <pthread.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/need.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "modelpool/settings.hpp"
#include "segment/words.hpp"

namespace modelpool {

inline constexpr std::uint64_t kSegmentMagic = 0x314c4f4f504c444d;  // "MDLPOOL1"
inline constexpr std::uint32_t kLayoutVersion = 3;

// --- Records -------------------------------------------------------------------------------------

struct TableInfo {
  std::uint64_t offset = 0;
  std::uint64_t stride = 0;
  std::uint64_t count = 0;

  bool operator==(const TableInfo&) const = default;
};

enum class Table : std::uint32_t {
  kLock,
  kLine,
  kSettingsBlock,
  kCoordinator,
  kModels,
  kWorkers,
  kBackends,
  kWaiters,
  kEvents,
  kLastUsed,
  kLeases,
  kDevices,
  kMeterInfos,
  kMeterModels,
  kWorkerMeters,
  kJudgeMeters,
};
inline constexpr std::size_t kTableCount = 16;
inline constexpr std::size_t kTableCapacity = 32;
using Tables = std::array<TableInfo, kTableCapacity>;

// Immutable after creation; read by everyone, once, at attach. Magic, version, sizes and the
// tables' offsets keep their places in every later layout, so that a newer tool can list and stop
// an older pool.
struct Header {
  std::uint64_t magic = 0;
  std::uint32_t layout_version = 0;
  std::uint32_t header_bytes = 0;
  std::uint64_t total_bytes = 0;
  std::uint64_t abi_fingerprint = 0;  // of sizes, offsets, the mutex's size and the C library
  Tables tables{};
  std::uint64_t boot_id[2] = {0, 0};
  std::uint64_t pid_namespace = 0;
  std::uint64_t time_namespace = 0;
  std::uint64_t uuid[2] = {0, 0};  // of this instance of the pool
  std::uint64_t created_ns = 0;    // wall clock
  std::uint32_t uid = 0;
  std::uint32_t mutex_bytes = 0;
  std::array<char, 72> name{};  // NUL-terminated
  std::array<char, 32> libc{};  // for messages
};

// Where the pool's name is: the path by which its coordinator last served it, "" if that is longer
// than the field. Written by the creator, then by the coordinator; read by who wants to create a
// pool there, to find one that has lost the name (lost.hpp). Behind the header on its page, in
// every layout.
inline constexpr std::size_t kHomeOffset = 2048;
inline constexpr std::size_t kHomeCapacity_bytes = 2048;
using HomeRecord = SharedText<kHomeCapacity_bytes>;

// The mutex. `holder_pid` and `held_since_ns` are notes for messages: written by the holder after
// locking and before unlocking, read by who waits in vain and by who looks. One that is killed
// leaves them until the next one locks. The first programs of this layout wrote no time: nothing
// was there.
struct alignas(kCacheLine_bytes) LockRecord {
  pthread_mutex_t mutex;
  alignas(kCacheLine_bytes) HalfWord holder_pid;  // 0: nobody
  Word held_since_ns;                             // 0: not known
};

struct alignas(kCacheLine_bytes) LineRecord {
  Word next_arrival;  // Written under the mutex; a crash after it leaves a gap, which harms nobody.
  HalfWord
      replaced;  // 1: the segment's name is lost. Written by the coordinator; read before a grant.
  // Rows from here on were never taken: a scan may stop there. Raised under the mutex, seq_cst,
  // before the first such row is taken; a crash in between leaves a row more to look at.
  HalfWord workers_reached;
  HalfWord backends_reached;
  HalfWord waiters_reached;
};

// --- Settings ------------------------------------------------------------------------------------
//
//   generation | copy 0: head, rules, entries, texts | copy 1: the same
//
// Written under the mutex, all at once: first the copy that the next generation selects (its lowest
// bit), then the generation. Read by everyone in place, between two equal reads of the generation
// (settings_block.hpp). Settings are named by their numbers, also those of newer programs.
//
// Rules of exact names stand first, by hash and order, then globs, by order. The entries of a rule
// stand together. A text begins a word. Where a comment says "a, b", a is the high half of the word
// and b the low half. The place of a text: its first word (counted from the first text), its bytes.

struct RuleRecord {
  Word hash;     // of an exact name; 0 of a glob
  Word order;    // of the rule among all: later ones win
  Word entries;  // its first, how many
  Word pattern;  // place of the text
};

//   63            32 31        16 15       8 7        0
//  | line of config | origin kind | is a text | setting |
struct EntryRecord {
  Word what;
  Word value;  // a number, or a text's place
};

struct SettingsHead {
  Word config_hash;  // of the file and flags last applied; 0 = none
  Word rules_hash;   // of all rules: equal rules, equal hash
  // Bit N is setting N.
  Word given;        // the pool has a value for it
  Word texts;        // and that is a text
  Word judge;        // in use, and a coordinator must know it
  Word admit;        // in use, and whoever asks for a place must know it
  Word needed_hash;  // of judge and admit: damage does not make a coordinator leave
  Word rule_count;   // globs, exact names
  Word entry_count;  // words of text, entries
  // By number: the pool's value, where it came from (line, kind), and the names of those that the
  // writer knows.
  std::array<Word, kSettingCapacity> value;
  std::array<Word, kSettingCapacity> origin;
  std::array<SharedText<kSettingNameMax_bytes + 1>, kSettingCapacity> name;
  SharedText<kConfigPathMax_bytes + 1> config_path;
};

inline constexpr std::size_t kRoomOfRule_bytes = 256;  // a name, a few values

constexpr std::size_t settings_copy_bytes(const Capacities& capacities) {
  const std::size_t bytes = sizeof(SettingsHead) + capacities.rules * kRoomOfRule_bytes;
  return (bytes + kCacheLine_bytes - 1) / kCacheLine_bytes * kCacheLine_bytes;
}

// Generation 0: the pool never had settings. The copies follow (Segment::settings_copy).
struct alignas(kCacheLine_bytes) SettingsRecord {
  Word generation;
};

// What `ready` gave a backend: bit N of `given` is setting N, the numbers stand in this order.
inline constexpr std::size_t kGivenMax = 31;
struct GivenSettings {
  std::uint64_t given = 0;
  std::array<std::uint64_t, kGivenMax> number{};
};

// A device by its UUID, as the driver names it. Written under the mutex: the text, then `known`. A
// row is never changed or reordered, so its position names the device for as long as the pool
// lives.
struct alignas(kCacheLine_bytes) DeviceRecord {
  Word known;  // 0: this row and all after it are free
  SharedText<96> uuid;
  // As last measured, by the coordinator alone; 0 = never. What others than this pool take stands
  // in CoordinatorRecord::foreign, with the time.
  Word total_bytes;
  Word free_bytes;
};
static_assert(sizeof(DeviceRecord) == 2 * kCacheLine_bytes);

// Bytes as words that are read one by one: each is a number of its own.
struct SharedBytes {
  Word host;
  std::array<Word, kDevicesMax> device;

  // release and acquire: they come before the state word, or after it
  void store(const Bytes& bytes) {
    host.store(bytes.host, std::memory_order_release);
    for (std::size_t i = 0; i < kDevicesMax; ++i) {
      device[i].store(bytes.device[i], std::memory_order_release);
    }
  }
  Bytes load() const {
    Bytes bytes;
    bytes.host = host.load(std::memory_order_acquire);
    for (std::size_t i = 0; i < kDevicesMax; ++i) {
      bytes.device[i] = device[i].load(std::memory_order_acquire);
    }
    return bytes;
  }
};

// A group that was given to one backend or waiter alone, and for which life of its row that was.
struct OwnGroup {
  Word hash;
  Word life;

  // release: before the row's state. 0: none.
  void store(std::uint64_t group, std::uint64_t life_of) {
    hash.store(group, std::memory_order_release);
    life.store(life_of, std::memory_order_release);
  }
  std::uint64_t load(std::uint64_t life_of) const {
    const std::uint64_t group = hash.load(std::memory_order_acquire);
    return life.load(std::memory_order_acquire) == life_of ? group : 0;
  }
};

inline constexpr std::uint32_t kLeavingForGood = 2;

// What others than this pool's backends take, as the coordinator measured it.
struct ForeignUse {
  std::uint64_t measured_ns = 0;  // 0 = never
  Bytes bytes;
};

static_assert(kEventKindCount <= kEventKindCapacity && kReasonCount <= kReasonCapacity);

struct alignas(kCacheLine_bytes) CoordinatorRecord {
  // Written by the coordinator that holds the singleton lock: identity first, epoch last. A reader
  // that finds an identity dead between two equal reads of the epoch has proved that epoch dead.
  Word epoch;
  Word start_ticks;
  Word pidfd_inode;
  HalfWord pid;
  HalfWord
      leaving;  // 1: left in order; kLeavingForGood: and stops the backends, grant nothing more
  Word started_ns;
  // When it refused the config that it was last told to read again, 0: it took it. Of an earlier
  // coordinator if that was before this one started. Where nothing was in the first programs of
  // this layout: they write nothing here. Written by the coordinator.
  Word reload_refused_ns;
  // Read at the end of every lease. `wanted` has bit (backend & 63) set while the coordinator waits
  // for a lease on that backend to end. Written by the coordinator before the scan it waits on.
  alignas(kCacheLine_bytes) Word wanted;
  // The latest time of the next scan; a lease with a limit of its own that ends earlier rings.
  // Written by the coordinator: kNever_ns before a scan, the time after it.
  Word horizon_ns;
  // Rung by anyone; waited on by the coordinator's helper thread.
  alignas(kCacheLine_bytes) HalfWord doorbell;
  // Bumped by the coordinator after each event; waited on by readers, also through read-only maps.
  HalfWord event_bell;
  // By these a reader tells a coordinator that hangs from one that has nothing to do (judge.hpp).
  // When the ring it has not answered yet came: written by who rings, if it is 0, before the ring;
  // set to 0 by the coordinator before each scan.
  Word rung_ns;
  // Since when it works without having waited, 0 while it waits; the doorbell as of its last scan.
  // Written by the coordinator.
  Word working_since_ns;
  HalfWord answered;
  alignas(kCacheLine_bytes) Word last_scan_ns;
  Word scans;
  Word settings_noted;  // generation of the settings an event was last written for
  Word next_event;      // sequence number of the next event, from 1
  // Written by the coordinator each time its loop comes round: one that hangs falls behind.
  Word last_progress_ns;
  // Host pressure that evictions do not relieve: no more of them until then, and how long the next
  // pause would be. Written by the coordinator; outlives it. 0 = none.
  Word pressure_until_ns;
  Word pressure_pause_ns;
  // What the coordinator in office knows: bits of compat, judge and admit. Written with its
  // identity.
  std::array<Word, 3> features;
  Published<ForeignUse> foreign;  // by the coordinator; without one the last value holds
  std::array<std::array<Word, kReasonCapacity>, kEventKindCapacity> counters;
  Word last_scan_ticks;  // when the last scan began, in the clock of start_ticks
};

inline constexpr std::size_t kHistoryErrorMax_bytes = 255;
struct LoadHistory {
  std::uint64_t loads = 0;
  std::uint64_t failures = 0;  // in a row
  std::uint64_t failed_ns = 0;
  std::uint64_t cooldown_until_ns = 0;
  std::uint64_t failed_backend = 0;  // slot and generation of the failed load, packed
  std::uint64_t load_ns = 0;         // measured, of the last load
  std::uint64_t size_bytes = 0;      // given at the last ready, 0 = unknown
  std::uint64_t updated_ns = 0;
  std::uint64_t exit_status = 0;  // ExitStatus of the last failed load
  // Of its lives so far; written after the slot of each is gone, so the last may be missing.
  std::uint64_t interval_ns = 0;  // between ends of requests, 0 = not known
  std::uint64_t last_use_ns = 0;  // 0 = never
  std::uint64_t last_end_ns = 0;  // when its last backend was gone, 0 = never
  std::uint64_t evicted_ns = 0;   // when its last backend was gone by an eviction, 0 = never
  Bytes peak;                     // the largest that was declared or measured
  std::array<char, kHistoryErrorMax_bytes + 1> error{};  // NUL-terminated
};

// Found by hash, within kHistoryProbes of where it belongs (histories.hpp). Written under the
// mutex. `hash` is set after the name and history, and cleared before them.
struct alignas(kCacheLine_bytes) ModelRecord {
  Word hash;  // of the name, never 0; 0 = free
  SharedText<256> name;
  Published<LoadHistory> history;
};

enum class WorkerState : std::uint32_t { kFree = 0, kAttached = 1 };

// Written by the row's owner; by the coordinator after it proved the owner dead.
struct alignas(kCacheLine_bytes) WorkerRecord {
  Word state;  // generation, WorkerState. Set to attached under the mutex, last.
  Word start_ticks;
  Word pidfd_inode;
  Word image;  // image_id() of the program that attached
  Word attached_ns;
  HalfWord pid;
  HalfWord spare;
  SharedText<16> command;
  // Lease cells below this index may be in use: stored seq_cst before a first publication above it.
  alignas(kCacheLine_bytes) HalfWord leases_high;
  // Bumped by wakers for waiters without a thread of their own.
  alignas(kCacheLine_bytes) HalfWord wake;
  // Bumped by the coordinator after it wrote a lease's cancel words, before `wake`: the owner looks
  // through its leases when it has changed.
  HalfWord cancels;
};

// One per worker row and backend, in the row's own lines. Written by the row's owner: the stamp by
// a CAS upwards, then `interval` by who won it at the end of a lease. Never cleared: the row's next
// owner goes on with both. The last row is the coordinator's, with stamps for leases of the dead.
struct UsedCell {
  Word stamp_ns;
  // Generation of the slot | milliseconds between ends of leases, smoothed (policy/interval.hpp).
  // Of another generation: none yet. 0 ms: one lease has ended. Advisory, never evidence.
  Word interval;
};

// Low half of BackendRecord::traits.
inline constexpr std::uint32_t kTraitExternal =
    1;                                           // has no process of ours: counted, never signalled
inline constexpr std::uint32_t kTraitToken = 2;  // carries MODELPOOL_BACKEND in its environment
inline constexpr std::uint32_t kTraitUnproved = 4;  // whose listener answers could not be told
// Serves nobody: it has no address, is never leased, and ends when `holder` has left.
inline constexpr std::uint32_t kTraitTenant = 8;
// Was started in the session of who spawned it, not in one of its own.
inline constexpr std::uint32_t kTraitInSession = 16;
// Whoever spawned it is the subreaper of what it leaves behind, and has no other children.
inline constexpr std::uint32_t kTraitAdopted = 32;

inline constexpr std::uint32_t kLoadFailed = 1;  // the text is why; the model cools down
inline constexpr std::uint32_t kLoadLost = 2;    // its loader died
inline constexpr std::uint32_t kLoadEnded = 3;  // ended on request or with the pool: nothing failed

// Why a backend is being closed or stopped, and how far that is. Written by the coordinator only.
struct StopRecord {
  std::uint32_t generation = 0;
  Reason reason = Reason::kNone;
  std::uint32_t forced = 0;  // leases may be cut
  std::uint32_t signal = 0;  // the last one sent
  std::uint64_t decided_ns = 0;
  std::uint64_t stopping_ns = 0;  // 0 while still EVICTING
  std::uint64_t signalled_ns = 0;
  std::uint64_t killed_ns = 0;       // SIGKILL sent
  std::uint64_t age_ns = kNever_ns;  // measured; kNever_ns = does not apply
  std::uint64_t limit_ns = kNever_ns;
  std::uint64_t worker = 0;          // row of the lease that broke the rule
  std::uint64_t lease = 0;           // its cell
  std::uint64_t lease_word = 0;      // its word
  std::uint64_t lease_stamp_ns = 0;  // the start or progress that was too old
  std::uint32_t worker_pid = 0;
  std::uint32_t failed = 0;       // kLoadFailed and its like; 0: it was ready before
  std::uint64_t for_arrival = 0;  // the waiter room is made for, 0 = none
  std::array<char, 32> tag{};     // NUL-terminated
  std::array<char, 320> text{};   // evidence or error, NUL-terminated
  std::uint64_t ended_ns = 0;     // when its processes had gone, 0 = not yet
  // Free bytes of each device before the first signal, kNever_ns = not measured: by how much they
  // rise tells when what it held is back.
  std::array<std::uint64_t, kDevicesMax> baseline = unmeasured();

  static constexpr std::array<std::uint64_t, kDevicesMax> unmeasured() {
    std::array<std::uint64_t, kDevicesMax> none{};
    none.fill(kNever_ns);
    return none;
  }
};

inline constexpr std::size_t kLogPathMax_bytes = 512;
inline constexpr std::uint32_t kBackendSizeUnknown = 1;        // `expected` of the host is a guess
inline constexpr std::uint32_t kBackendDeviceSizeUnknown = 2;  // that of devices is
// One process that is left of a backend, and why.
struct LeftProcess {
  std::uint32_t pid = 0;
  std::uint32_t uid = UINT32_MAX;  // of its user; UINT32_MAX = not known
  LeftWhy why = LeftWhy::kNone;
  std::uint32_t signal = 0;        // the last one that reached it
  std::array<char, 16> command{};  // NUL-terminated
};
inline constexpr std::size_t kLeftNamedMax = 8;

// Who is left of a backend that is being stopped. Written by the coordinator only.
struct LeftRecord {
  std::uint32_t generation = 0;
  std::uint32_t count = 0;  // of them the first kLeftNamedMax are named
  std::array<LeftProcess, kLeftNamedMax> named{};
};

// Processes that were found to belong to a backend, but for its first. Nothing else may tell so
// later: not a parent, when that has ended. Whoever has no room here is unknown to the next
// coordinator. Written by the coordinator only.
struct KnownMember {
  std::uint32_t pid = 0;
  std::uint32_t spare = 0;
  std::uint64_t start_ticks = 0;
  std::uint64_t pidfd_inode = 0;
};
inline constexpr std::size_t kKnownMembersMax = 64;
struct KnownRecord {
  std::uint32_t generation = 0;
  std::uint32_t count = 0;
  std::array<KnownMember, kKnownMembersMax> members{};  // those in sessions of their own first
};

// State to group keep their offsets for ever (Header).
struct alignas(kCacheLine_bytes) BackendRecord {
  // Transitions by CAS, see slots.hpp.
  Word state;
  // Payload: written by the ticket holder while RESERVED or STARTING, then immutable until FREE.
  HalfWord pid;    // 0 = none
  HalfWord group;  // process group that is stopped with it; 0 = only the process itself
  Word start_ticks;
  Word pidfd_inode;
  // generation, kControl... bits. CAS by anyone within the generation.
  Word control;
  // generation, packed exit. CAS by whoever reaped the process.
  Word exit_status;
  Word traits;  // generation, kTrait... bits
  Word reserved_ns;
  alignas(kCacheLine_bytes) Word model_hash;  // of the model's name: a quick no
  // pack_worker of the ticket's worker: who holds it, for as long as the state's owner is not 0.
  // Written under the mutex, before RESERVED; stays until the slot's next life.
  Word holder;
  Word started_ns;
  Word ready_ns;
  Word device_mask;      // the application's, not interpreted
  HalfWord owner_pid;    // the worker that loaded it
  HalfWord meter_model;  // which of the meters' models it is; before RESERVED
  // generation, pack_keep_alive. CAS within the generation by whoever has a lease or the ticket and
  // asked for it; the last one wins. It then rings: killed before that, its death is seen.
  Word keep_alive;
  // PermitWord. CAS by anyone, upwards within a generation; 0 from RESERVED on.
  Word permit;
  alignas(kCacheLine_bytes) SharedText<256> model;  // written under the mutex, before RESERVED
  SharedText<256> address;
  SharedText<32> label;
  // The file its output goes to, or why it is not kept, which begins with no slash; "": not to be
  // kept. Before STARTING.
  SharedText<kLogPathMax_bytes> log;
  SharedCopy<GivenSettings> given;  // its own settings
  // Before RESERVED, from the taker's need.
  HalfWord devices;     // assigned to it: a bit for each row of the table of devices
  HalfWord size_flags;  // kBackendSizeUnknown, kBackendDeviceSizeUnknown
  SharedBytes expected;
  // Before READY.
  SharedBytes declared;
  Word parallel;  // generation, requests at once, 0 = no limit; later under the mutex
  // The coordinator's. Of the generation in whose life they were written: cleared before RESERVED.
  alignas(kCacheLine_bytes) SharedBytes measured;
  SharedBytes peak;     // of `measured`, in this life
  Word probe_failures;  // generation, how many in a row
  Published<StopRecord> stop;
  Word noted;            // generation, BackendState: the last state an event was written for
  Word drain_failed_ns;  // when a drain of this generation last gave up
  // Its first process had not been seen to end by then, in the clock of start_ticks; 0: nobody saw
  // it end. Who was in its session by then is the backend's.
  Word alive_ticks;
  Published<LeftRecord> left;  // while STOPPING
  Published<KnownRecord> known;
  // generation, which settings `parallel` is of; written with it (protocol/parallel.hpp). Where
  // nothing was in the first programs of this layout: they write neither, and read `parallel`.
  Word parallel_of;
  // A tenant's group (hash of its name) in place of those of its model, and the generation it is
  // of. Before RESERVED. Nothing was here in the first programs of this layout either.
  OwnGroup own_group;
};

enum class WaiterState : std::uint32_t { kFree = 0, kWaiting = 1 };
inline constexpr std::uint32_t kWaiterAsync = 1;  // also bump the worker's wake word

// Written by the owner; set to waiting under the mutex, last; freed by the owner, or by the
// coordinator after it proved the owner dead. Wake word by anyone.
struct alignas(kCacheLine_bytes) WaiterRecord {
  Word state;  // generation, WaiterState
  Word owner;  // pack_worker
  Word arrival;
  Word since_ns;
  Word deadline_ns;
  Word priority;
  Word model_hash;
  HalfWord flags;
  HalfWord pid;
  // When its owner last looked whether it may go on: one that has not for long is stopped, and
  // holds nobody up (policy/line.hpp). Written by the owner at each look.
  alignas(kCacheLine_bytes) Word looked_ns;
  // Since when somebody waits for this model, without a break: of the first of them.
  Word model_since_ns;
  SharedText<32> tag;
  SharedText<256> model;
  // Written under the mutex: at join, and when the settings it was derived from have changed.
  Published<Need> need;
  alignas(kCacheLine_bytes) HalfWord wake;
  HalfWord spare;
  // pack_room: the device on which room is made for this arrival. Written by the coordinator; of
  // another arrival: none.
  Word room;
  // As BackendRecord::own_group, of this arrival. Before the row's state.
  OwnGroup own_group;
};

struct EventData {
  std::uint64_t time_ns = 0;  // wall clock
  EventKind kind = EventKind::kLoaded;
  Reason reason = Reason::kNone;
  std::uint32_t pid = 0;
  std::uint32_t worker_pid = 0;
  std::uint64_t age_ns = kNever_ns;  // kNever_ns = unknown or does not apply
  std::uint64_t limit_ns = kNever_ns;
  std::uint64_t exit_ns = kNever_ns;  // from the stop signal until gone
  std::uint64_t load_ns = kNever_ns;
  std::uint32_t signal = 0;
  std::uint32_t exit_status = 0;  // packed
  std::uint32_t backend = 0;
  std::uint32_t generation = 0;
  std::uint64_t count = kNever_ns;    // leases cleared, settings generation: by kind
  std::uint64_t away_ns = kNever_ns;  // kLoaded: since the model was last evicted
  std::array<char, 32> tag{};
  std::array<char, 256> model{};
  std::array<char, 512> text{};
};

// Written by the coordinator: sequence 0, data, sequence; a reader checks it before and after.
struct alignas(kCacheLine_bytes) EventRecord {
  Word sequence;
  SharedCopy<EventData> data;
};

// One request in flight. Written by the row's owner: fields, then the word, seq_cst (leases.hpp).
struct alignas(2 * kCacheLine_bytes) LeaseRecord {
  // The owner's line, all that a request writes.
  Word word;
  Word start_ns;
  Word progress_ns;  // the begin's stamp, later that of a progress with kProgressMark_ns added
  Word limit_ns;     // the request's own busy timeout; 0 = the settings', kNever_ns = none at all
  SharedText<32> tag;
  // The other line is not touched on the hot path. First what the owner says of the lease, if
  // anything:
  alignas(kCacheLine_bytes) Word first_byte_limit_ns;  // 0 = the settings'
  // kLeaseCancellable. Stored after the word, while the lease lives; cleared before the word of the
  // cell's next lease (Worker::kSaysMore), whoever has the row by then.
  Word flags;
  // Then the coordinator's, who asks for its end: start, word, the word seq_cst; never cleared. The
  // lease is asked to end if word and start are its own: the word alone comes again (its sequence
  // wraps). The time is kNever_ns from before the start is stored until after the word is: killed
  // in between the coordinator has begun no grace, and the next one asks again.
  Word cancel_start_ns;
  Word cancel_at_ns;
  Word cancel_word;
};
inline constexpr std::uint64_t kLeaseCancellable = 1;  // its holder can end it when asked
// What tells a progress from the begin where both lie in one tick of the clock. Those who do not
// know of it read a time and write one: theirs is not told from the begin's within its tick.
inline constexpr std::uint64_t kProgressMark_ns = 1;
constexpr bool has_progressed(std::uint64_t start_ns, std::uint64_t progress_ns) {
  return progress_ns != start_ns;
}

// Is this lease asked to end?
constexpr bool is_cancelled(std::uint64_t word, std::uint64_t start_ns, std::uint64_t cancel_word,
                            std::uint64_t cancel_start_ns) {
  return word != 0 && word == cancel_word && start_ns == cancel_start_ns;
}

// --- Meters (meters.hpp) -------------------------------------------------------------------------

enum class MeterKind : std::uint32_t { kNone = 0, kCounter = 1, kHistogram = 2 };
enum class MeterRows : std::uint32_t { kWorkers = 0, kJudge = 1 };
inline constexpr std::size_t kMetersMax = 64;
inline constexpr std::size_t kMeterBoundsMax = 24;
inline constexpr std::uint32_t kMeterModelsMax = 256;
inline constexpr std::uint32_t kMeterOther = kMeterModelsMax;  // all models beyond them
inline constexpr std::uint32_t kMeterValuesMax = 64;
inline constexpr std::uint32_t kWorkerMeterCells = 4096;
inline constexpr std::uint32_t kJudgeMeterCells = 32768;

// What some cells of each row mean. Written by the creator, then immutable. Cells of a counter: one
// for each value of `label`, and that for each model if it tells them apart. Of a histogram: one
// for each bound, one for what is above them, the sum.
struct MeterInfo {
  std::uint32_t id = 0;  // the same in every build, never given out again
  MeterKind kind = MeterKind::kNone;
  MeterRows rows = MeterRows::kWorkers;
  std::uint32_t by_model = 0;  // 1: cells for each of the meters' models, and for all others
  std::uint32_t values = 1;
  std::uint32_t first_cell = 0;
  std::uint32_t bounds = 0;
  std::uint32_t spare = 0;
  std::uint64_t per_unit = 1;                          // how many of what is counted are one unit
  std::array<std::uint64_t, kMeterBoundsMax> bound{};  // rising, inclusive
  std::array<char, 64> name{};                         // all texts NUL-terminated
  std::array<char, 16> unit{};
  std::array<char, 32> label{};  // "" = no label but the model
  std::array<char, 512>
      value_names{};  // with blanks between; a value without one goes by its number
  std::array<char, 128> help{};
};
struct alignas(kCacheLine_bytes) MeterInfoRecord {
  SharedCopy<MeterInfo> info;
};

// Written under the mutex: the name, then the hash. Never changed.
struct alignas(kCacheLine_bytes) MeterModelRecord {
  Word hash;  // never 0; 0 = free
  SharedText<256> name;
};

// Written by the row's owner, who adds. Never cleared: the row's next owner adds on, and nothing is
// ever moved from one row to another, so no crash counts twice.
struct alignas(kCacheLine_bytes) WorkerMeters {
  std::array<Word, kWorkerMeterCells> cell;
};

// What one event makes of the cells: their new values, so that it may be done twice.
struct MeterJournal {
  struct Change {
    std::uint64_t cell = 0;
    std::uint64_t value = 0;
  };
  std::uint64_t counted_events = 0;  // this event and all before it
  std::uint64_t count = 0;
  std::array<Change, 8> change{};
};
// Written by the coordinator: journal, then cells. The next one does what the journal says again
// and counts the ring's events after it.
struct alignas(kCacheLine_bytes) JudgeMeters {
  Published<MeterJournal> journal;
  alignas(kCacheLine_bytes) std::array<Word, kJudgeMeterCells> cell;
};

static_assert(sizeof(LeaseRecord) == 2 * kCacheLine_bytes &&
              offsetof(LeaseRecord, first_byte_limit_ns) == kCacheLine_bytes);
static_assert(sizeof(UsedCell) == 16);
// Frozen, see above.
static_assert(offsetof(Header, magic) == 0 && offsetof(WorkerRecord, state) == 0 &&
              offsetof(LeaseRecord, word) == 0 && offsetof(BackendRecord, state) == 0 &&
              offsetof(WaiterRecord, state) == 0 && offsetof(StopRecord, generation) == 0 &&
              offsetof(StopRecord, reason) == 4);
static_assert(offsetof(BackendRecord, pid) == 8 && offsetof(BackendRecord, group) == 12 &&
              offsetof(BackendRecord, start_ticks) == 16 &&
              offsetof(BackendRecord, pidfd_inode) == 24);
static_assert(offsetof(Header, total_bytes) == 16 && offsetof(Header, tables) == 32);
static_assert(sizeof(Header) <= kHomeOffset && kHomeOffset + sizeof(HomeRecord) == kPage_bytes);
static_assert(sizeof(RuleRecord) == 32 && sizeof(EntryRecord) == 16);
static_assert(sizeof(EventData) % 8 == 0 && sizeof(StopRecord) % 8 == 0 &&
              sizeof(LeftRecord) % 8 == 0 && sizeof(KnownRecord) % 8 == 0);

}  // namespace modelpool
