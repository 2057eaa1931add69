#include "policy/rules.hpp"

#include <algorithm>

#include "policy/fit.hpp"

namespace modelpool {
namespace {

// --- When each rule ends a backend ---------------------------------------------------------------

Finding judge_never(const Case&, std::uint64_t) { return {}; }

// Room is made by victims.hpp, which compares backends with each other.
Finding judge_for_room(const Case&, std::uint64_t) { return {}; }

bool is_loading(const Case& subject) {
  return subject.resident.state == BackendState::kReserved ||
         subject.resident.state == BackendState::kStarting;
}

LeaseLimit busy_limit_of(const Effective& settings, const LeaseInFlight& lease) {
  if (lease.limit_ns == kNever_ns) return {};
  std::uint64_t limit = settings.get(Setting::kBusyTimeout);
  if (lease.limit_ns != 0 && (limit == 0 || lease.limit_ns < limit)) limit = lease.limit_ns;
  return {lease.start_ns, limit};
}

LeaseLimit first_byte_limit_of(const Effective& settings, const LeaseInFlight& lease) {
  if (lease.progressed) return {};
  return {lease.start_ns, settings.get(Setting::kFirstByteTimeout)};
}

// Before its first progress a lease has first_byte_timeout; where that is off, this rule has to do.
LeaseLimit stall_limit_of(const Effective& settings, const LeaseInFlight& lease) {
  if (!lease.progressed && settings.get(Setting::kFirstByteTimeout) != 0) return {};
  return {lease.progress_ns, settings.get(Setting::kStallTimeout)};
}

constexpr LeaseRule kBusyRule{Setting::kBusyTimeout, busy_limit_of};
constexpr LeaseRule kFirstByteRule{Setting::kFirstByteTimeout, first_byte_limit_of};
constexpr LeaseRule kStallRule{Setting::kStallTimeout, stall_limit_of};

// By every clock, so a little late.
std::uint64_t broken_at_ns(const Case& subject, const LeaseLimit& limit) {
  if (limit.limit_ns == 0) return kNever_ns;
  return subject.end_of(limit.since_ns, add_ns(limit.limit_ns, subject.stamp_lag_ns));
}

// Was its holder asked to end it after this limit had passed?
bool is_asked(const LeaseInFlight& lease, const LeaseLimit& limit) {
  return lease.asked_ns != 0 && limit.limit_ns != 0 &&
         lease.asked_ns >= add_ns(limit.since_ns, limit.limit_ns);
}

bool must_be_asked(const Case& subject, const LeaseInFlight& lease, const LeaseLimit& limit) {
  return lease.cancellable && subject.settings.get(Setting::kOnOverdue) != 0 &&
         !is_asked(lease, limit);
}

// When its backend is killed for it, by this rule.
std::uint64_t kill_at_ns(const Case& subject, const LeaseInFlight& lease, const LeaseLimit& limit) {
  const std::uint64_t broken = broken_at_ns(subject, limit);
  const std::uint64_t grace = subject.settings.get(Setting::kOnOverdue);
  if (!lease.cancellable || grace == 0) return broken;
  if (!is_asked(lease, limit)) return kNever_ns;
  return std::max(broken, subject.end_of(lease.asked_ns, grace));
}

// Of its leases the one for which the backend is ended first, and the one whose holder is asked
// first. One that begins after this look breaks the rule a full limit from now at the earliest.
Finding judge_leases(const Case& subject, std::uint64_t now_ns, const LeaseRule& rule) {
  Finding finding;
  if (!subject.resident.can_be_closed()) return finding;
  if (const std::uint64_t limit = subject.settings.get(rule.setting); limit != 0)
    finding.look_ns = add_ns(now_ns, limit);
  for (std::size_t i = 0; i < subject.leases.size(); ++i) {
    const LeaseInFlight& lease = subject.leases[i];
    const LeaseLimit limit = rule.limit_of(subject.settings, lease);
    if (must_be_asked(subject, lease, limit)) {
      const std::uint64_t ask_at = broken_at_ns(subject, limit);
      if (ask_at >= finding.ask_ns) continue;
      finding.ask_ns = ask_at;
      finding.asked_lease = i;
      continue;
    }
    const std::uint64_t at = kill_at_ns(subject, lease, limit);
    if (at >= finding.at_ns) continue;
    finding.at_ns = at;
    finding.since_ns = limit.since_ns;
    finding.limit_ns = limit.limit_ns;
    finding.lease = i;
  }
  return finding;
}

Finding judge_busy(const Case& subject, std::uint64_t now_ns) {
  return judge_leases(subject, now_ns, kBusyRule);
}

Finding judge_first_byte(const Case& subject, std::uint64_t now_ns) {
  return judge_leases(subject, now_ns, kFirstByteRule);
}

Finding judge_stall(const Case& subject, std::uint64_t now_ns) {
  return judge_leases(subject, now_ns, kStallRule);
}

Finding judge_idle(const Case& subject, std::uint64_t now_ns) {
  Finding finding;
  const Resident& resident = subject.resident;
  const std::uint64_t limit = idle_limit_ns(resident, subject.settings);
  if (limit == kNever_ns || resident.pinned() || resident.state != BackendState::kReady)
    return finding;
  if (resident.in_flight > 0) {
    // A lease ends without telling, unless it is waited for.
    if (limit != 0) finding.look_ns = add_ns(now_ns, limit);
    return finding;
  }
  if (subject.awaited_until_ns > now_ns) {
    finding.look_ns = subject.awaited_until_ns;
    return finding;
  }
  // Without a limit no stamp is measured by: it is idle, that is all.
  const std::uint64_t lag = limit == 0 ? 0 : subject.stamp_lag_ns;
  finding.at_ns = subject.end_of(resident.last_used_ns, add_ns(limit, lag));
  // Others come before it once they are used, and that tells nobody. An acquire that asked for its
  // end is no timeout.
  if (subject.kept && limit != 0) {
    const std::uint64_t look_ns = std::max(finding.at_ns, add_ns(now_ns, limit));
    finding = Finding{};
    finding.look_ns = look_ns;
    return finding;
  }
  finding.since_ns = resident.last_used_ns;
  finding.limit_ns = limit;
  return finding;
}

// As many probes in a row as probe_failures says, the first of them since it was last used: a long
// request may keep a server from answering, and is not held against it when it is over.
Finding judge_wedged(const Case& subject, std::uint64_t now_ns) {
  Finding finding;
  const std::uint64_t needed = subject.settings.get(Setting::kProbeFailures);
  const std::size_t count = subject.unanswered_ns.size();
  if (!subject.resident.can_be_closed() || needed == 0 || count < needed) return finding;
  const std::uint64_t since_ns = subject.unanswered_ns[count - needed];
  if (still_since_ns(subject.standstills, since_ns) != 0) return finding;
  if (subject.resident.in_flight == 0 && subject.leases.empty()) {
    if (since_ns < add_ns(subject.resident.last_used_ns, subject.stamp_lag_ns)) return finding;
    finding.at_ns = finding.since_ns = since_ns;
    return finding;
  }
  // With requests in flight it only says why one of them hangs. Asking is left to those rules.
  for (const LeaseRule& rule : {kFirstByteRule, kStallRule}) {
    const Finding hung = judge_leases(subject, now_ns, rule);
    if (hung.at_ns >= finding.at_ns) continue;
    finding = hung;
    finding.look_ns = finding.ask_ns = kNever_ns;
    finding.asked_lease = kNoLease;
  }
  return finding;
}

Finding judge_load_timeout(const Case& subject, std::uint64_t) {
  Finding finding;
  const std::uint64_t limit = subject.settings.get(Setting::kLoadTimeout);
  if (limit == 0 || !is_loading(subject)) return finding;
  finding.at_ns = subject.end_of(subject.resident.reserved_ns, limit);
  finding.since_ns = subject.resident.reserved_ns;
  finding.limit_ns = limit;
  return finding;
}

Finding judge_requested(const Case& subject, std::uint64_t) {
  Finding finding;
  const bool can_be_ended = subject.resident.state == BackendState::kReady || is_loading(subject);
  if (can_be_ended && (subject.resident.control & kControlEvict)) finding.at_ns = 0;
  return finding;
}

// While it is loading, too: it will take no less.
Finding judge_over_limit(const Case& subject, std::uint64_t) {
  Finding finding;
  const bool can_be_ended = subject.resident.can_be_closed() || is_loading(subject);
  if (can_be_ended && is_alone_above(subject.resident.measured, subject.limits)) finding.at_ns = 0;
  return finding;
}

Finding judge_crashed(const Case& subject, std::uint64_t) {
  Finding finding;
  finding.at_ns = subject.ended_ns;
  return finding;
}

Finding judge_shutdown(const Case& subject, std::uint64_t) {
  Finding finding;
  if (subject.pool_ends && subject.resident.state == BackendState::kReady) finding.at_ns = 0;
  return finding;
}

// --- Whether it is still true --------------------------------------------------------------------

bool never(const Evidence&, const Fresh&) { return false; }
bool always(const Evidence&, const Fresh&) { return true; }

bool same_lease(const Evidence& seen, const Fresh& fresh, std::uint64_t stamp_ns) {
  return fresh.lease_word == seen.lease_word && stamp_ns == seen.lease_stamp_ns;
}
bool still_busy(const Evidence& seen, const Fresh& fresh) {
  return same_lease(seen, fresh, fresh.start_ns);
}
bool still_without_a_byte(const Evidence& seen, const Fresh& fresh) {
  return same_lease(seen, fresh, fresh.start_ns) && !fresh.progressed;
}
bool still_stalled(const Evidence& seen, const Fresh& fresh) {
  return same_lease(seen, fresh, fresh.progress_ns);
}

bool still_wedged(const Evidence& seen, const Fresh& fresh) {
  if (fresh.answers) return false;
  if (seen.lease_word == 0) return fresh.last_used_ns == seen.last_used_ns;
  return still_stalled(seen, fresh) || still_without_a_byte(seen, fresh);
}

bool is_pinned(const Fresh& fresh) { return (fresh.control & kControlPinnedAny) != 0; }

bool still_idle(const Evidence& seen, const Fresh& fresh) {
  const bool is_timeout = seen.keep_alive_ns != std::uint64_t{0};
  if (is_timeout && fresh.others_ready < fresh.limits.keep) return false;  // too few would stay
  return !is_pinned(fresh) && fresh.last_used_ns == seen.last_used_ns &&
         fresh.keep_alive_ns == seen.keep_alive_ns;
}

bool is_free_to_go(const Evidence& seen, const Fresh& fresh) {
  if (is_pinned(fresh)) return false;
  return !seen.was_idle || seen.forced || fresh.last_used_ns == seen.last_used_ns;
}
// Where somebody has left meanwhile it is decided anew.
bool may_still_make_room(const Evidence& seen, const Fresh& fresh) {
  return is_free_to_go(seen, fresh) && fresh.live >= seen.live;
}

bool still_in_the_way(const Evidence& seen, const Fresh& fresh) {
  if (seen.for_short_load) return fresh.last_used_ns == seen.last_used_ns && !is_pinned(fresh);
  if (seen.for_host) return is_free_to_go(seen, fresh) && fresh.host_is_low;
  if (!may_still_make_room(seen, fresh) || !fresh.limits.any()) return false;
  return seen.for_arrival == 0 ? fresh.is_above_limits : fresh.waiter_is_there;
}
bool still_beside_its_group(const Evidence& seen, const Fresh& fresh) {
  if (!may_still_make_room(seen, fresh) || !fresh.shares_a_group) return false;
  return seen.for_arrival == 0 || fresh.waiter_is_there;
}

bool still_over_limit(const Evidence&, const Fresh& fresh) { return fresh.is_alone_above; }

bool still_requested(const Evidence&, const Fresh& fresh) {
  return (fresh.control & kControlEvict) != 0;
}

}  // namespace

constexpr std::array<ReasonRow, kReasonCount> kReasonRows = {{
    {.reason = Reason::kNone,
     .event = EventKind::kExited,
     .judge = judge_never,
     .still_true = never},
    {.reason = Reason::kLru,
     .event = EventKind::kEvicted,
     .cuts = Cuts::kWhenForced,
     .spares_pinned = true,
     .holds_closed = true,
     .makes_room = true,
     .judge = judge_for_room,
     .still_true = still_in_the_way},
    {.reason = Reason::kIdle,
     .event = EventKind::kEvicted,
     .spares_pinned = true,
     .rank = 4,
     .judge = judge_idle,
     .still_true = still_idle},
    {.reason = Reason::kGroup,
     .event = EventKind::kEvicted,
     .cuts = Cuts::kWhenForced,
     .spares_pinned = true,
     .holds_closed = true,
     .makes_room = true,
     .judge = judge_for_room,
     .still_true = still_beside_its_group},
    {.reason = Reason::kMemory,
     .event = EventKind::kEvicted,
     .cuts = Cuts::kWhenForced,
     .spares_pinned = true,
     .holds_closed = true,
     .makes_room = true,
     .judge = judge_for_room,
     .still_true = still_in_the_way},
    {.reason = Reason::kBusy,
     .event = EventKind::kKilled,
     .cuts = Cuts::kAlways,
     .lease_rule = &kBusyRule,
     .rank = 3,
     .judge = judge_busy,
     .still_true = still_busy},
    {.reason = Reason::kStall,
     .event = EventKind::kKilled,
     .cuts = Cuts::kAlways,
     .lease_rule = &kStallRule,
     .rank = 3,
     .judge = judge_stall,
     .still_true = still_stalled},
    {.reason =
         Reason::kLoadTimeout,  // a load is no lease: its ticket is lost, no evidence is weighed
     .event = EventKind::kKilled,
     .rank = 3,
     .judge = judge_load_timeout,
     .still_true = never},
    {.reason = Reason::kRequested,
     .event = EventKind::kEvicted,
     .forced_event = EventKind::kKilled,
     .cuts = Cuts::kWhenForced,
     .holds_closed = true,
     .rank = 2,
     .judge = judge_requested,
     .still_true = still_requested},
    {.reason = Reason::kCrashed,
     .event = EventKind::kExited,
     .cuts = Cuts::kAlways,
     .rank = 0,
     .judge = judge_crashed,
     .still_true = always},
    {.reason = Reason::kShutdown,
     .event = EventKind::kEvicted,
     .cuts = Cuts::kWhenForced,
     .holds_closed = true,
     .rank = 1,
     .judge = judge_shutdown,
     .still_true = always},
    {.reason = Reason::kFirstByte,
     .event = EventKind::kKilled,
     .cuts = Cuts::kAlways,
     .lease_rule = &kFirstByteRule,
     .rank = 3,
     .judge = judge_first_byte,
     .still_true = still_without_a_byte},
    // Goes before a stall: of a request that hangs it says whose fault that is.
    {.reason = Reason::kWedged,
     .event = EventKind::kKilled,
     .cuts = Cuts::kForALease,
     .rank = 2,
     .judge = judge_wedged,
     .still_true = still_wedged},
    {.reason = Reason::kOverLimit,
     .event = EventKind::kKilled,
     .cuts = Cuts::kAlways,
     .rank = 3,
     .judge = judge_over_limit,
     .still_true = still_over_limit},
}};

namespace {

constexpr bool is_complete() {
  for (std::size_t i = 0; i < kReasonCount; ++i) {
    const ReasonRow& row = kReasonRows[i];
    if (row.reason != static_cast<Reason>(i) || row.judge == nullptr || row.still_true == nullptr) {
      return false;
    }
  }
  return true;
}
static_assert(is_complete(), "a row for each Reason, in their order");

}  // namespace

std::uint64_t idle_limit_ns(const Resident& resident, const Effective& settings) {
  if (resident.keep_alive_ns) return *resident.keep_alive_ns;
  const std::uint64_t limit = settings.get(Setting::kIdleTimeout);
  return limit == 0 ? kNever_ns : limit;
}

bool goes_when_unused(const Resident& resident, const Effective& settings) {
  return resident.state == BackendState::kReady && !resident.pinned() &&
         idle_limit_ns(resident, settings) == 0;
}

const ReasonRow& reason_row(Reason reason) {
  const auto index = static_cast<std::size_t>(reason);
  return kReasonRows[index < kReasonCount ? index : 0];
}

Reason find_broken_rule(const Case& subject, Alarm& alarm, Finding* finding) {
  Reason broken = Reason::kNone;
  const auto goes_first = [&](const ReasonRow& row, const Finding& found) {
    if (broken == Reason::kNone) return true;
    const int rank = reason_row(broken).rank;
    return row.rank != rank ? row.rank < rank : found.at_ns < finding->at_ns;
  };
  for (const ReasonRow& row : kReasonRows) {
    // Its process has ended: nothing else can be said of it any more.
    if (subject.ended_ns != kNever_ns && row.reason != Reason::kCrashed) continue;
    const Finding found = row.judge(subject, alarm.now_ns());
    alarm.wake_at(found.at_ns);
    alarm.wake_at(found.look_ns);
    alarm.wake_at(found.ask_ns);
    if (!alarm.passed(found.at_ns) || !goes_first(row, found)) continue;
    broken = row.reason;
    *finding = found;
  }
  return broken;
}

std::vector<CancelRequest> find_cancel_requests(const Case& subject, const Alarm& alarm) {
  std::vector<CancelRequest> requests;
  if (!subject.resident.can_be_closed() || subject.ended_ns != kNever_ns) return requests;
  for (std::size_t i = 0; i < subject.leases.size(); ++i) {
    const LeaseInFlight& lease = subject.leases[i];
    CancelRequest first;
    bool is_asked_already = false;
    for (const ReasonRow& row : kReasonRows) {
      if (row.lease_rule == nullptr) continue;
      const LeaseLimit limit = row.lease_rule->limit_of(subject.settings, lease);
      const std::uint64_t broken = broken_at_ns(subject, limit);
      if (!alarm.passed(broken)) continue;
      // By one rule is enough: asked again for another, its grace would begin anew.
      if (!must_be_asked(subject, lease, limit)) is_asked_already = true;
      if (broken >= first.finding.ask_ns) continue;
      first.reason = row.reason;
      first.finding.ask_ns = broken;
      first.finding.since_ns = limit.since_ns;
      first.finding.limit_ns = limit.limit_ns;
      first.finding.lease = first.finding.asked_lease = i;
    }
    if (first.reason != Reason::kNone && !is_asked_already) requests.push_back(first);
  }
  return requests;
}

Reason rule_of_ask(const Effective& settings, const LeaseInFlight& lease, std::uint64_t asked_ns,
                   LeaseLimit* limit) {
  Reason reason = Reason::kNone;
  std::uint64_t first_ns = kNever_ns;
  for (const ReasonRow& row : kReasonRows) {
    if (row.lease_rule == nullptr) continue;
    const LeaseLimit found = row.lease_rule->limit_of(settings, lease);
    const std::uint64_t passed_ns = add_ns(found.since_ns, found.limit_ns);
    if (found.limit_ns == 0 || passed_ns > asked_ns || passed_ns >= first_ns) continue;
    reason = row.reason;
    first_ns = passed_ns;
    *limit = found;
  }
  return reason;
}

EventKind event_of_end(Reason reason, bool was_loaded, bool forced) {
  // A load that was asked to end, or ended with the pool, has not failed.
  const bool failed = reason != Reason::kRequested && reason != Reason::kShutdown;
  if (!was_loaded) return failed ? EventKind::kLoadFailed : EventKind::kEvicted;
  const ReasonRow& row = reason_row(reason);
  return forced ? row.forced_event : row.event;
}

}  // namespace modelpool
