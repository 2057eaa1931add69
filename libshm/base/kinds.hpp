// The kinds of things that rules, records and messages speak of, and references to rows of tables.
//
// Safety: plain values.
//
// Errors: none. A value that came from the segment may be out of range: its name says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace modelpool {

enum class BackendState : std::uint8_t {
  kFree = 0,
  kReserved,  // a ticket is out, no process yet
  kStarting,  // its process is known
  kReady,     // leases are granted
  kEvicting,  // closed to new leases; may return to kReady
  kStopping,  // irreversible; its processes are being ended
  kGone,      // its processes are gone; a lease word or a ticket holder may still name it
};
inline constexpr std::uint8_t kBackendStateCount = 7;

// A reference to a worker row that goes stale with the row's next owner.
struct WorkerRef {
  std::uint32_t index = 0;
  std::uint32_t generation = 0;

  bool operator==(const WorkerRef&) const = default;
};

constexpr bool is_live(BackendState state) {
  return state != BackendState::kFree && state != BackendState::kGone;
}

// A reference to a backend slot that goes stale with the slot's next life.
struct BackendRef {
  std::uint32_t index = 0;
  std::uint32_t generation = 0;

  bool operator==(const BackendRef&) const = default;
};

// What was asked of a backend: the low half of its control word.
inline constexpr std::uint32_t kControlPinned = 1;
inline constexpr std::uint32_t kControlEvict = 2;
inline constexpr std::uint32_t kControlForce = 4;
// Its model's settings pin it. The coordinator keeps this in step with them, for those who read no
// settings; it is told apart so that neither takes the other's pin away.
inline constexpr std::uint32_t kControlPinnedBySettings = 8;
inline constexpr std::uint32_t kControlPinnedAny = kControlPinned | kControlPinnedBySettings;

enum class EventKind : std::uint32_t {
  kLoaded = 1,
  kLoadFailed,
  kEvicted,
  kKilled,
  kExited,
  kWorkerDied,
  kCoordinatorStarted,
  kSettingsChanged,
  kRecovered,
  kCancelRequested,  // the holder of an overdue lease is asked to end it
  kProbeFailed,      // a backend does not answer its probe, the first of a row
};
inline constexpr std::size_t kEventKindCount = 12;
inline constexpr std::size_t kEventKindCapacity = 32;  // room in the segment's counters
enum class Reason : std::uint32_t {
  kNone = 0,
  kLru,
  kIdle,
  kGroup,
  kMemory,
  kBusy,
  kStall,
  kLoadTimeout,
  kRequested,
  kCrashed,
  kShutdown,
  kFirstByte,
  kWedged,
  kOverLimit,  // it was measured to take more than the pool may, by itself
};
inline constexpr std::size_t kReasonCount = 14;
inline constexpr std::size_t kReasonCapacity =
    64;  // so, too: how many there are is no part of the layout
std::string_view event_kind_name(EventKind kind);  // "load_failed"; "unknown" for other values
// killed, load_failed, worker_died, cancel_requested, probe_failed; all others are information
bool is_warning(EventKind kind);
std::string reason_name(Reason reason);  // "lru"; "" for kNone; "reason 27" for a newer program's
std::string_view backend_state_name(BackendState state);

// Why a process of a backend that is being stopped is still there.
enum class LeftWhy : std::uint32_t {
  kNone = 0,
  kUnsignalled,  // no signal has reached it yet
  kSignalled,    // one has, and it has not ended
  kForbidden,    // the system refuses to signal it
  kOtherUser,    // it is another user's, and nothing proves that spawn started it (P7)
  kWorker,       // it is attached to the pool
  kJudge,        // it is who ends backends, or who started that
  kUnproved,     // its group or session may be somebody else's by now
  kUnreadable,   // it cannot be examined
  kListens,      // it is not known to belong, but has the socket at which the backend served
  kOutlived,     // an earlier coordinator signalled its backend, and it has not ended
};
inline constexpr std::size_t kLeftWhyCount = 11;
std::string_view left_why_text(LeftWhy why);  // "the system refuses to signal it"
// No signal of ours will end it: its backend stays until it ends, or a person ends it.
constexpr bool stands_in_the_way(LeftWhy why) {
  return why != LeftWhy::kNone && why != LeftWhy::kUnsignalled && why != LeftWhy::kSignalled &&
         why != LeftWhy::kOutlived;
}

// How a process ended, in a word of its generation's low half: 0 not known.
enum class ExitKind : std::uint32_t { kUnknown = 0, kExited = 1, kSignalled = 2 };
constexpr std::uint32_t pack_exit(ExitKind kind, std::uint32_t status) {
  return static_cast<std::uint32_t>(kind) << 16 | (status & 0xffff);
}
std::string exit_text(std::uint32_t packed);  // "exit status 1", "signal SIGKILL", "" if unknown

}  // namespace modelpool
