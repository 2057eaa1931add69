// Why a backend ends: a row for each Reason, and everything about a rule in its row. Judge,
// evidence, events, `explain` and the simulator's oracle go through these rows, so that they cannot
// disagree. A reason without a row does not compile.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "modelpool/settings.hpp"
#include "policy/values.hpp"

namespace modelpool {

// A lease on a backend.
struct LeaseInFlight {
  std::uint64_t start_ns = 0;
  std::uint64_t progress_ns = 0;
  // The request's own busy timeout; 0 = the settings' alone, kNever_ns = none whatever they say.
  std::uint64_t limit_ns = 0;
  bool progressed = false;     // at least once
  bool cancellable = false;    // its holder can end it when asked to
  std::uint64_t asked_ns = 0;  // when its holder was asked to, 0 = not
};

// What a rule measures of a lease, and how much it allows; 0 = the rule does not apply to it.
struct LeaseLimit {
  std::uint64_t since_ns = 0;
  std::uint64_t limit_ns = 0;
};

// A rule that one request breaks. It is broken from since_ns + limit_ns on. Then its holder is
// asked to end it, if he can be asked, and the backend is killed only if it goes on for the grace
// of on_overdue. An ask counts for the rule if the limit had passed when it was made: a stream that
// has made progress since is asked again.
struct LeaseRule {
  Setting setting;
  LeaseLimit (*limit_of)(const Effective&, const LeaseInFlight&);
};

// One backend, and all that rules ask of it.
struct Case {
  const Resident& resident;
  const Effective& settings;
  std::span<const LeaseInFlight> leases;
  std::uint64_t stamp_lag_ns = 0;  // how far a request's stamp may lie before what it stamps
  std::uint64_t ended_ns =
      kNever_ns;  // from when on the end of its process counts; it lives: never
  std::uint64_t awaited_until_ns = 0;  // somebody is about to use it, or is not there from then on
  bool kept = false;                   // one of those that idle eviction leaves (kept.hpp)
  bool pool_ends = false;              // every backend is to be ended
  Limits limits{};                     // the pool's
  std::span<const Standstill> standstills{};
  // When each of the last probes began, as many in a row as the backend has not answered.
  std::span<const std::uint64_t> unanswered_ns{};

  // When a limit that is measured from this stamp has passed.
  std::uint64_t end_of(std::uint64_t stamp_ns, std::uint64_t limit) const {
    return add_ns(add_ns(stamp_ns, still_since_ns(standstills, stamp_ns)), limit);
  }
};

inline constexpr std::size_t kNoLease = SIZE_MAX;

struct Finding {
  std::uint64_t at_ns = kNever_ns;     // when the rule ends it; kNever_ns: not as things stand
  std::uint64_t look_ns = kNever_ns;   // when something may have begun that tells nobody
  std::uint64_t since_ns = kNever_ns;  // what is measured began then; kNever_ns: nothing is
  std::uint64_t limit_ns = kNever_ns;  // and may take so long
  std::size_t lease = kNoLease;        // which one broke it, or will first
  std::uint64_t ask_ns = kNever_ns;    // when the first holder is asked to end his lease,
  std::size_t asked_lease = kNoLease;  // and which
};

// What the decision to end a backend rests on.
struct Evidence {
  Reason reason = Reason::kNone;
  bool forced = false;    // leases may be cut
  bool was_idle = false;  // open and without a lease
  std::uint64_t last_used_ns = 0;
  std::optional<std::uint64_t> keep_alive_ns{};
  std::uint64_t lease_word = 0;      // of the lease that broke the rule
  std::uint64_t lease_stamp_ns = 0;  // its start or progress
  std::uint64_t for_arrival = 0;     // the waiter that room is made for, 0 = none
  std::uint32_t live = 0;            // backends that took a place
  bool for_short_load = false;       // its bytes are for a load that ran out of memory
  bool for_host = false;             // the host had too little memory left
};

// The same, read again after the backend was closed to new leases: nothing can change to its
// disadvantage any more.
struct Fresh {
  std::uint32_t control = 0;
  std::uint64_t last_used_ns = 0;
  std::optional<std::uint64_t> keep_alive_ns{};
  std::uint64_t lease_word = 0;
  std::uint64_t start_ns = 0;
  std::uint64_t progress_ns = 0;
  bool progressed = false;
  std::uint32_t live = 0;
  std::uint32_t others_ready = 0;  // without this one
  Limits limits;
  bool is_above_limits = false;
  bool is_alone_above = false;   // it takes more than the limits allow, by itself
  bool shares_a_group = false;   // with the waiter, or another that serves
  bool waiter_is_there = false;  // it waits, in time, and its process lives
  bool answers = false;          // the last probe of it, or there was none
  bool host_is_low = false;      // has too little memory left; asked for only if that is why
};

// May an end for this reason cut leases in flight (P2)?
enum class Cuts { kNever, kWhenForced, kForALease, kAlways };  // kForALease: if one broke a rule

struct ReasonRow {
  Reason reason;
  EventKind event;                 // what an end is recorded as,
  EventKind forced_event = event;  // and one that was forced
  Cuts cuts = Cuts::kNever;
  bool spares_pinned = false;  // by its judge and still_true; the oracle holds them to it
  bool holds_closed = false;   // the backend may stay closed while its leases finish
  bool makes_room = false;     // decided by comparing backends (victims.hpp)
  const LeaseRule* lease_rule = nullptr;  // one request is to blame
  int rank = 9;  // of two rules that are due the lower gives the reason; equal: the earlier due
  Finding (*judge)(const Case&, std::uint64_t now_ns) = nullptr;
  bool (*still_true)(const Evidence&, const Fresh&) = nullptr;
};

extern const std::array<ReasonRow, kReasonCount> kReasonRows;  // indexed by Reason

// How long it may be idle: what an acquire asked for goes before its settings. kNever_ns: for ever.
std::uint64_t idle_limit_ns(const Resident& resident, const Effective& settings);
// Does it go as soon as its last lease ends? Then that end is to be told: no later look is planned.
bool goes_when_unused(const Resident& resident, const Effective& settings);

// The row of a reason. An unknown one, read from the segment, has kNone's.
const ReasonRow& reason_row(Reason reason);

// The rule that ends it first, among those that are due; kNone if none is. Wakes the alarm when
// another may be. What `finding` says is the rule's.
Reason find_broken_rule(const Case& subject, Alarm& alarm, Finding* finding);

// A request that has broken a rule, and whose holder is to be asked to end it. Of its findings:
// since when, and the limit.
struct CancelRequest {
  Reason reason = Reason::kNone;
  Finding finding;
};
// All of them. For the judge: allocates. The alarm wakes for those to come by find_broken_rule.
std::vector<CancelRequest> find_cancel_requests(const Case& subject, const Alarm& alarm);
// By which rule the holder of a lease was asked to end it at that time; kNone: by none as things
// stand now.
Reason rule_of_ask(const Effective& settings, const LeaseInFlight& lease, std::uint64_t asked_ns,
                   LeaseLimit* limit);

// What the end of a backend, or of a load, is recorded as.
EventKind event_of_end(Reason reason, bool was_loaded, bool forced);

}  // namespace modelpool
