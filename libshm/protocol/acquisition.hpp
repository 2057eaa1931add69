// The waiting line: how an acquire finds its backend, waits for it, or gets the ticket to load it.
//
// An Acquisition is one acquire in progress. poll() looks at everything once; between polls its
// owner waits on the wake word it read before (blocking callers through wait(), others through
// their worker's wake word).
//
// One that only tries the mutex (AcquisitionOptions::only_tries) and finds it taken has done
// nothing yet: it is pending, tries again at due_ns(), and is not in the line before it had the
// mutex once. Whoever joined meanwhile came before it; the first in line takes places as ever.
//
// Safety: one thread at a time per Acquisition. In a forked child it does nothing.
//
// Crash: a dead waiter's row is cleared by the coordinator; without one those behind it pass it
// over when it has not looked for 2 s (policy/line.hpp).
//
// Invariants:
//  1. A free place goes to the first in line, who takes it itself under the mutex; nobody reserves
//     for another (P5, P6).
//  2. A ticket is granted only if no live backend serves the model, what it takes fits into all
//     limits and none of its group lives, all checked in the hold that reserves (P3, P4).
//
// Errors: kTimeout, kQueueFull, kTableFull, kAllPinned, kTooLarge, kCoolingDown, kLoadFailed,
// kNoCoordinator, kNotLoaded, kReplaced, kIncompatible (a setting of a newer version), kCancelled,
// kClosed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "policy/line.hpp"
#include "protocol/leases.hpp"
#include "protocol/needs.hpp"
#include "protocol/waiters.hpp"

namespace modelpool {

struct AcquisitionOptions {
  std::string tag;
  std::uint64_t deadline_ns = 0;    // monotonic
  std::uint64_t busy_limit_ns = 0;  // the lease's own busy timeout, 0 = none
  std::uint32_t keep_alive = 0;     // pack_keep_alive, for the backend it is granted
  std::uint64_t expected_bytes = 0;
  std::uint64_t priority = 0;
  std::uint64_t coordinator_grace_ns = 10 * kSecond_ns;
  bool is_tenant = false;  // a ticket or nothing: it shares its name with nobody
  TenantSize tenant{};
  std::uint64_t own_group = 0;  // its group (hash), in place of those of its name; 0: those
  bool may_load = true;         // false: kNotLoaded instead of a ticket
  bool wake_worker = false;     // also bump the worker's wake word
  bool is_a_try = false;    // another acquire follows if it comes to nothing: that one is counted
  bool only_tries = false;  // never waits for the mutex
};

struct CountedAnswer;
struct Outlook;
struct Pending {};
struct TicketRef {
  Worker* worker = nullptr;
  BackendRef backend;
};
using Granted = std::variant<Pending, LeaseRef, TicketRef>;

class Acquisition {
 public:
  Acquisition(Worker& worker, std::string model, AcquisitionOptions options);
  ~Acquisition();  // leaves the line
  Acquisition(const Acquisition&) = delete;
  Acquisition& operator=(const Acquisition&) = delete;

  // One look. After anything but Pending the acquisition is over.
  Result<Granted> poll();
  // Waits until something may have changed since the last poll began, at most a slice.
  void wait(std::uint64_t at_most_ns = kLookEvery_ns);
  // Has somebody woken it since the last poll began? If not, a poll is due after a slice.
  bool was_woken() const;
  // When the next poll is due if nobody wakes it.
  std::uint64_t due_ns() const { return std::min(due_ns_, options_.deadline_ns); }
  // The deadline from now on; its place in the line stays.
  void set_deadline(std::uint64_t deadline_ns);
  // Of what is granted; the waiter's row keeps its own.
  void set_tag(std::string_view tag) { options_.tag = tag; }
  // From any thread: makes the current or next wait return and poll say kCancelled.
  void cancel();

 private:
  // What came of trying to take a place or to join the line, as a value: under the mutex nothing
  // allocates.
  struct Taken {
    enum Answer { kNoPlace, kTicket, kNoSlot, kJoined, kQueueFull, kNoRow, kLookAgain };
    Answer answer = kNoPlace;
    BackendRef ticket;
  };

  Result<Granted> look();
  Result<Granted> look_or_try_again();
  Result<Granted> look_at_backend(const FoundBackend& found, std::uint64_t now);
  Result<Granted> ask_for_place(std::uint64_t now, int attempt = 0);
  Result<Granted> keep_waiting(std::uint64_t now, bool needs_coordinator,
                               const std::string& for_what);
  void note_look();
  void note_answer(const Result<Granted>& result);
  void count(AcquireOutcome outcome) const;
  Bytes known_peak() const;              // what its history says that the model takes
  Result<> renew(const Limits& limits);  // its need
  Waiting as_waiting() const;
  void renew_need();
  void publish_need(const LockGuard& guard);
  Result<CountedAnswer> begin_counted(BackendRef backend, LeaseRef* lease);
  Result<LockGuard> lock_line() const;
  Taken take_place(const LockGuard& guard, std::uint64_t now);
  Taken::Answer join_line(const LockGuard& guard, std::uint64_t now);
  std::string lack_text(const Outlook& outlook, const Waiting& self) const;
  Error name_refusal(BackendRef backend, std::uint64_t now) const;
  Error size_refusal(const Limits& limits) const;
  Error pin_refusal(const Outlook& outlook) const;
  Error line_refusal(Taken::Answer answer) const;
  Error settings_refusal(std::uint64_t unknown) const;
  std::optional<Error> failure_of_awaited(std::uint64_t now);
  void leave(bool granted);
  void free_row(bool granted);
  void free_granted_row(BackendRef backend);
  void forget_row();
  Error refusal(Errc code, const std::string& why) const;

  Worker& worker_;
  const Segment& segment_;
  std::string model_;
  std::uint64_t hash_;
  AcquisitionOptions options_;
  std::uint64_t begun_ns_;
  bool has_waited_ = false;          // stood in line
  bool is_over_ = false;             // answered, and counted
  bool is_counted_ = false;          // what it was granted is no hit that its thread counts
  Need need_;                        // of need_.settings; 0: not derived yet
  Bytes need_peak_;                  // that need_ is derived from
  std::uint64_t need_settings_ = 0;  // generation of the settings its row's need is derived from
  std::optional<std::uint32_t> row_;
  std::uint32_t row_generation_ = 0;
  std::uint64_t arrival_ = kNever_ns;
  std::optional<BackendRef> awaited_;
  std::uint64_t due_ns_ = 0;
  std::uint32_t tries_in_vain_ = 0;  // of the mutex, in a row
  std::uint32_t seen_wake_ = 0;
  HalfWord own_wake_{0};  // waited on while there is no row
  std::atomic<HalfWord*> wake_word_{&own_wake_};
  std::atomic<bool> cancelled_{false};
  std::uint64_t absent_since_ns_ = 0;
};

}  // namespace modelpool
