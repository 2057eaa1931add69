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
//               last-used      [workers + 1][backends]   the last row is the coordinator's
//               LeaseRecord    [workers][leases]         the busy table
// Each table starts on a page. Offsets, strides and counts stand in the header; nothing is a pointer.
//
// Safety: shared words are 32- or 64-bit std::atomic, lock-free and address-free. Text and records
// longer than a word are arrays of such words (SharedText, SharedCopy, Published).
//
// Crash: every mutation is one store of a word, or is prepared where nobody reads and committed by
// one. There is no count, list or index to repair: all of them are derived by scanning. (How far rows
// were ever taken only grows, and is stored before the first of them is.)
//
// Errors: none here. Shared bytes are input: readers clamp what they read and never assert on it.
//
// Invariants:
//  1. A lease word is not 0 only between begin and end of a request, and names (backend, generation).
//  2. A backend's payload does not change while its state word keeps one generation and READY.
//  3. EVICTING may return to READY; STOPPING goes to GONE only, GONE to FREE of the next generation.
//  4. A last-used cell only grows.
#pragma once

#include <pthread.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

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
};
inline constexpr std::size_t kTableCount = 11;

// Immutable after creation; read by everyone, once, at attach. Magic, version, sizes and the tables'
// offsets keep their places in every later layout, so that a newer tool can list and stop an older
// pool.
struct Header {
  std::uint64_t magic = 0;
  std::uint32_t layout_version = 0;
  std::uint32_t header_bytes = 0;
  std::uint64_t total_bytes = 0;
  std::uint64_t abi_fingerprint = 0;  // of sizes, offsets, the mutex's size and the C library
  std::array<TableInfo, 16> tables{};
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

// Where the pool's name is: the path by which its coordinator last served it, "" if that is longer than
// the field. Written by the creator, then by the coordinator; read by who wants to create a pool there,
// to find one that has lost the name (lost.hpp). Behind the header on its page, in every layout.
inline constexpr std::size_t kHomeOffset = 2048;
inline constexpr std::size_t kHomeCapacity_bytes = 2048;
using HomeRecord = SharedText<kHomeCapacity_bytes>;

// The mutex. `holder` is a note for messages: written by the holder after locking and before
// unlocking, read by who waits in vain.
struct alignas(kCacheLine_bytes) LockRecord {
  pthread_mutex_t mutex;
  alignas(kCacheLine_bytes) HalfWord holder_pid;
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
  return sizeof(SettingsHead) + capacities.rules * kRoomOfRule_bytes;
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

inline constexpr std::uint32_t kLeavingForGood = 2;

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
  std::array<std::array<Word, kReasonCapacity>, kEventKindCapacity> counters;
};

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
  std::array<char, 256> error{};  // NUL-terminated
};

// Written under the mutex. `in_use` is set after the name and cleared before it.
struct alignas(kCacheLine_bytes) ModelRecord {
  Word in_use;
  SharedText<192> name;
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
};

// Low half of BackendRecord::traits.
inline constexpr std::uint32_t kTraitExternal =
    1;                                           // has no process of ours: counted, never signalled
inline constexpr std::uint32_t kTraitToken = 2;  // carries MODELPOOL_BACKEND in its environment
inline constexpr std::uint32_t kTraitUnproved = 4;  // whose listener answers could not be told

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
  Word started_ns;
  Word ready_ns;
  Word size_bytes;  // 0 = unknown
  Word device_mask;
  HalfWord owner_pid;  // the worker that loaded it
  HalfWord spare;
  alignas(kCacheLine_bytes) SharedText<192> model;  // written under the mutex, before RESERVED
  SharedText<256> address;
  SharedText<32> label;
  SharedCopy<GivenSettings> given;  // its own settings
  // The coordinator's.
  Published<StopRecord> stop;
  Word noted;            // generation, BackendState: the last state an event was written for
  Word drain_failed_ns;  // when a drain of this generation last gave up
};

enum class WaiterState : std::uint32_t { kFree = 0, kWaiting = 1 };
inline constexpr std::uint32_t kWaiterAsync = 1;  // also bump the worker's wake word

// Written by the owner; set to waiting under the mutex, last; freed by the owner, or by the
// coordinator after it proved the owner dead. Wake word by anyone.
struct alignas(kCacheLine_bytes) WaiterRecord {
  Word state;  // generation, WaiterState
  HalfWord flags;
  HalfWord owner;  // StateWord::owner_of(worker)
  Word arrival;
  Word since_ns;
  Word deadline_ns;
  Word expected_bytes;
  Word priority;
  Word model_hash;
  HalfWord pid;
  HalfWord spare;
  // When its owner last looked whether it may go on: one that has not for long is stopped, and holds
  // nobody up (policy/line.hpp). Written by the owner at each look.
  Word looked_ns;
  alignas(kCacheLine_bytes) HalfWord wake;
  SharedText<32> tag;
  SharedText<192> model;
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
  std::uint64_t count = kNever_ns;  // leases cleared, settings generation: by kind
  std::array<char, 32> tag{};
  std::array<char, 192> model{};
  std::array<char, 512> text{};
};

// Written by the coordinator: sequence 0, data, sequence; a reader checks it before and after.
struct alignas(kCacheLine_bytes) EventRecord {
  Word sequence;
  SharedCopy<EventData> data;
};

// One request in flight. Written by the row's owner: fields, then the word, seq_cst (leases.hpp).
struct alignas(kCacheLine_bytes) LeaseRecord {
  Word word;
  Word start_ns;
  Word progress_ns;
  Word limit_ns;  // the request's own busy timeout; 0 = none
  SharedText<32> tag;
};

static_assert(sizeof(LeaseRecord) == 64);
static_assert(offsetof(BackendRecord, state) == 0 && offsetof(BackendRecord, pid) == 8 &&
              offsetof(BackendRecord, group) == 12 && offsetof(BackendRecord, start_ticks) == 16 &&
              offsetof(BackendRecord, pidfd_inode) == 24);
static_assert(offsetof(Header, total_bytes) == 16 && offsetof(Header, tables) == 32);
static_assert(sizeof(Header) <= kHomeOffset && kHomeOffset + sizeof(HomeRecord) == kPage_bytes);
static_assert(sizeof(SettingsHead) % kCacheLine_bytes == 0 &&
              kRoomOfRule_bytes % kCacheLine_bytes == 0 && sizeof(RuleRecord) == 32 &&
              sizeof(EntryRecord) == 16);
static_assert(sizeof(EventData) % 8 == 0 && sizeof(StopRecord) % 8 == 0);

}  // namespace modelpool
