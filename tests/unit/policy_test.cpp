// The rules as tables: what must still be true before a backend ends, which rule gives the reason,
// whose turn it is, what fits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "policy/fit.hpp"
#include "policy/line.hpp"
#include "policy/rules.hpp"
#include "policy/victims.hpp"

namespace modelpool {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

constexpr std::uint64_t kNow_ns = 1'000'000 * kSecond_ns;

// --- Evidence ------------------------------------------------------------------------------------

struct Scene {
  Evidence seen;
  Fresh fresh;
  bool still_true() const { return reason_row(seen.reason).still_true(seen, fresh); }
};

Scene lease_scene(Reason reason) {
  Scene scene;
  scene.seen.reason = reason;
  scene.seen.lease_word = scene.fresh.lease_word = 77;
  scene.seen.lease_stamp_ns = 5;
  scene.fresh.start_ns = scene.fresh.progress_ns = 5;
  return scene;
}

TEST(Evidence, P2ABusyLeaseMustBeTheSameAndOfTheSameStart) {
  EXPECT_TRUE(lease_scene(Reason::kBusy).still_true());
  Scene ended = lease_scene(Reason::kBusy);
  ended.fresh.lease_word = 0;
  EXPECT_FALSE(ended.still_true());
  Scene another = lease_scene(Reason::kBusy);
  another.fresh.start_ns = 6;
  EXPECT_FALSE(another.still_true());
  Scene progress = lease_scene(Reason::kBusy);
  progress.fresh.progress_ns = 6;
  EXPECT_TRUE(progress.still_true()) << "progress does not make it less busy";
}

TEST(Evidence, P2AStalledLeaseMustNotHaveMadeProgress) {
  EXPECT_TRUE(lease_scene(Reason::kStall).still_true());
  Scene progress = lease_scene(Reason::kStall);
  progress.fresh.progress_ns = 6;
  EXPECT_FALSE(progress.still_true());
}

TEST(Evidence, P2AnIdleBackendMustNotHaveBeenUsedOrPinned) {
  Scene idle;
  idle.seen.reason = Reason::kIdle;
  idle.seen.last_used_ns = idle.fresh.last_used_ns = 9;
  EXPECT_TRUE(idle.still_true());
  Scene used = idle;
  used.fresh.last_used_ns = 10;
  EXPECT_FALSE(used.still_true());
  Scene pinned = idle;
  pinned.fresh.control = kControlPinned;
  EXPECT_FALSE(pinned.still_true());
}

TEST(Evidence, P2AnIdleBackendMustNotHaveBeenAskedToStayLongerMeanwhile) {
  Scene scene;
  scene.seen.reason = Reason::kIdle;
  scene.fresh.keep_alive_ns = 300 * kSecond_ns;
  EXPECT_FALSE(scene.still_true());
  scene.seen.keep_alive_ns = 0;
  EXPECT_FALSE(scene.still_true());
  scene.seen.keep_alive_ns = scene.fresh.keep_alive_ns;
  EXPECT_TRUE(scene.still_true());
}

TEST(Evidence, AnIdleBackendStaysIfWithoutItTooFewWouldBeLeft) {
  Scene scene;
  scene.seen.reason = Reason::kIdle;
  scene.fresh.limits.keep = 2;
  scene.fresh.others_ready = 2;
  EXPECT_TRUE(scene.still_true());
  scene.fresh.others_ready = 1;
  EXPECT_FALSE(scene.still_true());
  scene.seen.keep_alive_ns = scene.fresh.keep_alive_ns = 0;
  EXPECT_TRUE(scene.still_true()) << "its end was asked for";
}

Scene room_scene() {
  Scene scene;
  scene.seen.reason = Reason::kLru;
  scene.seen.was_idle = true;
  scene.seen.last_used_ns = scene.fresh.last_used_ns = 9;
  scene.seen.for_arrival = 3;
  scene.seen.live = scene.fresh.live = 2;
  scene.fresh.limits.max_backends = 2;
  scene.fresh.waiter_is_there = true;
  return scene;
}

TEST(Evidence, P2P5RoomMustStillBeNeededBySomebodyWhoIsThere) {
  EXPECT_TRUE(room_scene().still_true());
  Scene left = room_scene();
  left.fresh.waiter_is_there = false;
  EXPECT_FALSE(left.still_true());
  Scene used = room_scene();
  used.fresh.last_used_ns = 10;
  EXPECT_FALSE(used.still_true());
  Scene drained = used;  // it had leases when it was closed: that they ended is no surprise
  drained.seen.was_idle = false;
  EXPECT_TRUE(drained.still_true());
  Scene forced = used;
  forced.seen.forced = true;
  EXPECT_TRUE(forced.still_true());
  Scene pinned = room_scene();
  pinned.fresh.control = kControlPinned;
  EXPECT_FALSE(pinned.still_true());
  Scene somebody_went = room_scene();
  somebody_went.fresh.live = 1;
  EXPECT_FALSE(somebody_went.still_true());
  Scene unlimited = room_scene();
  unlimited.fresh.limits.max_backends = 0;
  EXPECT_FALSE(unlimited.still_true());
}

TEST(Evidence, P3RoomForALoweredLimitIsNeededWhileThePoolIsAboveIt) {
  Scene scene = room_scene();
  scene.seen.for_arrival = 0;
  scene.fresh.waiter_is_there = false;
  EXPECT_FALSE(scene.still_true()) << "two of two";
  scene.fresh.is_above_limits = true;
  EXPECT_TRUE(scene.still_true());
}

TEST(Evidence, ARequestMustNotHaveBeenTakenBack) {
  Scene scene;
  scene.seen.reason = Reason::kRequested;
  scene.fresh.control = kControlEvict;
  EXPECT_TRUE(scene.still_true());
  scene.fresh.control = kControlPinned;
  EXPECT_FALSE(scene.still_true());
}

TEST(Evidence, P2WhatAloneIsAboveTheLimitMustStillBe) {
  Scene scene;
  scene.seen.reason = Reason::kOverLimit;
  scene.seen.forced = true;
  EXPECT_FALSE(scene.still_true());
  scene.fresh.is_above_limits = true;
  EXPECT_FALSE(scene.still_true()) << "with others it is: that is another rule's";
  scene.fresh.is_alone_above = true;
  EXPECT_TRUE(scene.still_true());
}

TEST(Evidence, AReasonThatIsNoneOfOursEndsNothing) {
  for (const auto reason :
       {Reason::kNone, Reason::kGroup, Reason::kMemory, static_cast<Reason>(99)}) {
    EXPECT_FALSE(reason_row(reason).still_true({}, {})) << static_cast<int>(reason);
  }
}

// --- Rows ----------------------------------------------------------------------------------------

TEST(ReasonRows, SayWhatAnEndIsRecordedAs) {
  EXPECT_EQ(event_of_end(Reason::kLru, true, false), EventKind::kEvicted);
  EXPECT_EQ(event_of_end(Reason::kLru, true, true), EventKind::kEvicted);
  EXPECT_EQ(event_of_end(Reason::kIdle, true, false), EventKind::kEvicted);
  EXPECT_EQ(event_of_end(Reason::kBusy, true, true), EventKind::kKilled);
  EXPECT_EQ(event_of_end(Reason::kStall, true, true), EventKind::kKilled);
  EXPECT_EQ(event_of_end(Reason::kWedged, true, false), EventKind::kKilled);
  EXPECT_EQ(event_of_end(Reason::kRequested, true, false), EventKind::kEvicted);
  EXPECT_EQ(event_of_end(Reason::kRequested, true, true), EventKind::kKilled);
  EXPECT_EQ(event_of_end(Reason::kCrashed, true, true), EventKind::kExited);
  EXPECT_EQ(event_of_end(Reason::kShutdown, true, false), EventKind::kEvicted);
  EXPECT_EQ(event_of_end(Reason::kRequested, false, false), EventKind::kEvicted);
  EXPECT_EQ(event_of_end(Reason::kShutdown, false, false), EventKind::kEvicted);
  EXPECT_EQ(event_of_end(Reason::kLoadTimeout, false, false), EventKind::kLoadFailed);
}

TEST(ReasonRows, P2OnlyBrokenLeasesAndCrashesCutWithoutBeingForced) {
  std::vector<Reason> always;
  for (const ReasonRow& row : kReasonRows) {
    if (row.cuts == Cuts::kAlways) always.push_back(row.reason);
  }
  EXPECT_THAT(always, ElementsAre(Reason::kBusy, Reason::kStall, Reason::kCrashed,
                                  Reason::kFirstByte, Reason::kOverLimit));
  EXPECT_EQ(reason_row(Reason::kWedged).cuts, Cuts::kForALease);
}

struct Backend {
  Resident resident;
  Effective settings;
  std::vector<LeaseInFlight> leases;
  Backend() {
    resident.state = BackendState::kReady;
    resident.reserved_ns = resident.ready_ns = resident.last_used_ns = kNow_ns - 100 * kSecond_ns;
  }
  void set(Setting id, std::uint64_t value) { settings.set(id, value); }
  Case subject() const { return {resident, settings, leases}; }
  Reason broken(Finding* finding = nullptr) const {
    Finding unused;
    Alarm alarm(kNow_ns);
    return find_broken_rule(subject(), alarm, finding == nullptr ? &unused : finding);
  }
};

TEST(ReasonRows, OfTwoBrokenRulesTheOneThatWasDueFirstGivesTheReason) {
  Backend backend;
  backend.set(Setting::kBusyTimeout, 10 * kSecond_ns);
  backend.set(Setting::kStallTimeout, 2 * kSecond_ns);
  backend.leases = {{kNow_ns - 11 * kSecond_ns, kNow_ns - 5 * kSecond_ns, 0}};
  Finding finding;
  EXPECT_EQ(backend.broken(&finding), Reason::kStall) << "due 3 s ago, the other 1 s";
  EXPECT_EQ(finding.limit_ns, 2 * kSecond_ns);
  backend.leases[0].progress_ns = kNow_ns - 2 * kSecond_ns;
  EXPECT_EQ(backend.broken(), Reason::kBusy);
}

TEST(ReasonRows, ABusyTimeoutOfThePoolDoesNotCountForALeaseWithoutEnd) {
  Backend backend;
  backend.set(Setting::kBusyTimeout, 10 * kSecond_ns);
  backend.leases = {{kNow_ns - 11 * kSecond_ns, kNow_ns, kNever_ns}};
  EXPECT_EQ(backend.broken(), Reason::kNone);
  backend.leases[0].limit_ns = 20 * kSecond_ns;
  EXPECT_EQ(backend.broken(), Reason::kBusy) << "a longer one of its own does not count either";
}

TEST(ReasonRows, OneThatAloneTakesMoreThanTheLimitIsKilledAndNoOther) {
  Backend backend;
  Case subject = backend.subject();
  subject.limits.max_memory = 100;
  const auto broken = [&subject](std::uint64_t measured) {
    Resident resident;
    resident.state = subject.resident.state;
    resident.measured = Amounts(0, measured);
    Case now{resident, subject.settings, {}};
    now.limits = subject.limits;
    Alarm alarm(kNow_ns);
    Finding finding;
    return find_broken_rule(now, alarm, &finding);
  };
  EXPECT_EQ(broken(100), Reason::kNone);
  EXPECT_EQ(broken(101), Reason::kOverLimit);
  subject.limits.max_memory = 0;
  EXPECT_EQ(broken(101), Reason::kNone) << "there is no limit";
  subject.limits.max_memory = 100;
  for (const BackendState state : {BackendState::kStarting, BackendState::kEvicting}) {
    backend.resident.state = state;
    EXPECT_EQ(broken(101), Reason::kOverLimit);
  }
  backend.resident.state = BackendState::kStopping;
  EXPECT_EQ(broken(101), Reason::kNone) << "it is ending";
}

TEST(ReasonRows, WhatWasExpectedOrDeclaredKillsNobody) {
  Backend backend;
  backend.resident.holds = Amounts(1, 500);
  Case subject = backend.subject();
  subject.limits.max_memory = 100;
  Alarm alarm(kNow_ns);
  Finding finding;
  EXPECT_EQ(find_broken_rule(subject, alarm, &finding), Reason::kNone);
}

// --- Asking first --------------------------------------------------------------------------------

Backend overdue_backend(std::uint64_t for_ns) {
  Backend backend;
  backend.set(Setting::kBusyTimeout, 10 * kSecond_ns);
  LeaseInFlight lease;
  lease.start_ns = lease.progress_ns = kNow_ns - 10 * kSecond_ns - for_ns;
  lease.cancellable = true;
  backend.leases = {lease};
  return backend;
}
std::vector<Reason> asked_for(const Backend& backend) {
  std::vector<Reason> reasons;
  for (const CancelRequest& request : find_cancel_requests(backend.subject(), Alarm(kNow_ns)))
    reasons.push_back(request.reason);
  return reasons;
}

TEST(OnOverdue, AHolderWhoCanBeAskedIsAskedFirstAndHasTheGraceFromThenOn) {
  Backend backend = overdue_backend(0);
  EXPECT_THAT(asked_for(backend), ElementsAre(Reason::kBusy));
  EXPECT_EQ(backend.broken(), Reason::kNone);
  backend.leases[0].asked_ns = kNow_ns;
  EXPECT_THAT(asked_for(backend), ElementsAre()) << "once";
  EXPECT_EQ(backend.broken(), Reason::kNone);
  Alarm alarm(kNow_ns);
  Finding finding;
  find_broken_rule(backend.subject(), alarm, &finding);
  EXPECT_EQ(alarm.wake_ns(), kNow_ns + 10 * kSecond_ns);
  backend = overdue_backend(11 * kSecond_ns);
  backend.leases[0].asked_ns = kNow_ns - 10 * kSecond_ns;
  EXPECT_EQ(backend.broken(&finding), Reason::kBusy);
  EXPECT_EQ(finding.at_ns, kNow_ns);
  backend.leases[0].asked_ns += 1;
  EXPECT_EQ(backend.broken(), Reason::kNone);
}

TEST(OnOverdue, WhoCannotBeAskedIsKilledForAtOnce) {
  Backend backend = overdue_backend(0);
  backend.leases[0].cancellable = false;
  EXPECT_EQ(backend.broken(), Reason::kBusy);
  EXPECT_THAT(asked_for(backend), ElementsAre());
  backend = overdue_backend(0);
  backend.set(Setting::kOnOverdue, 0);
  EXPECT_EQ(backend.broken(), Reason::kBusy);
  EXPECT_THAT(asked_for(backend), ElementsAre());
}

TEST(OnOverdue, OneWhoIsAskedHidesNobodyWhoIsNot) {
  Backend backend = overdue_backend(5 * kSecond_ns);
  LeaseInFlight silent = backend.leases[0];
  silent.start_ns += kSecond_ns;
  silent.cancellable = false;
  backend.leases.push_back(silent);
  Finding finding;
  EXPECT_EQ(backend.broken(&finding), Reason::kBusy);
  EXPECT_EQ(finding.lease, 1u);
}

TEST(OnOverdue, AStreamThatGotOnAfterItWasAskedIsAskedAgainWhenItStallsAgain) {
  Backend backend;
  backend.set(Setting::kStallTimeout, 2 * kSecond_ns);
  LeaseInFlight stream;
  stream.start_ns = kNow_ns - 100 * kSecond_ns;
  stream.progress_ns = kNow_ns - kSecond_ns;
  stream.progressed = stream.cancellable = true;
  stream.asked_ns = kNow_ns - 50 * kSecond_ns;
  backend.leases = {stream};
  EXPECT_EQ(backend.broken(), Reason::kNone);
  EXPECT_THAT(asked_for(backend), ElementsAre());
  backend.leases[0].progress_ns = kNow_ns - 2 * kSecond_ns;
  EXPECT_EQ(backend.broken(), Reason::kNone) << "that ask was about another stall";
  EXPECT_THAT(asked_for(backend), ElementsAre(Reason::kStall));
}

// Else a stream that stalls again and again would put off the end of its busy_timeout for ever.
TEST(OnOverdue, NobodyIsAskedAgainWhileAnAskForAnotherRuleRuns) {
  Backend backend = overdue_backend(5 * kSecond_ns);
  backend.set(Setting::kStallTimeout, kSecond_ns);
  backend.leases[0].asked_ns = kNow_ns - 5 * kSecond_ns;
  backend.leases[0].progressed = true;
  backend.leases[0].progress_ns = kNow_ns - 2 * kSecond_ns;  // stalled after the ask
  EXPECT_THAT(asked_for(backend), ElementsAre());
  backend.leases[0].asked_ns = kNow_ns - 5 * kSecond_ns - 1;  // before busy_timeout had passed
  EXPECT_THAT(asked_for(backend), ElementsAre(Reason::kBusy));
}

TEST(OnOverdue, TheGraceIsNotOfATimeInWhichEverythingStoodStill) {
  Backend backend = overdue_backend(11 * kSecond_ns);
  backend.leases[0].asked_ns = kNow_ns - 10 * kSecond_ns;
  Case subject = backend.subject();
  const Standstill still{kNow_ns - 5 * kSecond_ns, kNow_ns - 4 * kSecond_ns};
  subject.standstills = {&still, 1};
  Alarm alarm(kNow_ns);
  Finding finding;
  EXPECT_EQ(find_broken_rule(subject, alarm, &finding), Reason::kNone);
  EXPECT_EQ(alarm.wake_ns(), kNow_ns + kSecond_ns);
}

TEST(FirstByte, HasItsOwnLimitUntilTheFirstProgressAndStallsCountFromThen) {
  Backend backend;
  backend.set(Setting::kFirstByteTimeout, 30 * kSecond_ns);
  backend.set(Setting::kStallTimeout, 2 * kSecond_ns);
  backend.leases = {{kNow_ns - 29 * kSecond_ns, kNow_ns - 29 * kSecond_ns, 0}};
  EXPECT_EQ(backend.broken(), Reason::kNone) << "a long prompt is no stall";
  backend.leases[0].start_ns -= kSecond_ns;
  EXPECT_EQ(backend.broken(), Reason::kFirstByte);
  backend.leases[0].progressed = true;
  EXPECT_EQ(backend.broken(), Reason::kStall);
  backend.leases[0].progress_ns = kNow_ns;
  EXPECT_EQ(backend.broken(), Reason::kNone);
  backend.leases[0] = {kNow_ns - 3 * kSecond_ns, kNow_ns - 3 * kSecond_ns, 0};
  backend.set(Setting::kFirstByteTimeout, 0);
  EXPECT_EQ(backend.broken(), Reason::kStall) << "off: stall_timeout has to do";
}

TEST(FirstByte, MustStillBeOutstanding) {
  Scene scene = lease_scene(Reason::kFirstByte);
  EXPECT_TRUE(scene.still_true());
  scene.fresh.progressed = true;
  EXPECT_FALSE(scene.still_true());
  scene = lease_scene(Reason::kFirstByte);
  scene.fresh.start_ns += 1;
  EXPECT_FALSE(scene.still_true()) << "another lease";
}

// --- Probes --------------------------------------------------------------------------------------

class Wedged : public ::testing::Test {
 protected:
  // The last probes that failed, by how long ago each began.
  Case subject(const std::vector<std::uint64_t>& ages_s) {
    failed_.clear();
    for (const std::uint64_t age : ages_s) failed_.push_back(kNow_ns - age * kSecond_ns);
    Case subject = backend_.subject();
    subject.unanswered_ns = failed_;
    return subject;
  }
  static Reason broken(const Case& subject, Finding* finding = nullptr) {
    Finding unused;
    Alarm alarm(kNow_ns);
    return find_broken_rule(subject, alarm, finding == nullptr ? &unused : finding);
  }
  LeaseInFlight lease(std::uint64_t age_s) const {
    LeaseInFlight lease;
    lease.start_ns = lease.progress_ns = kNow_ns - age_s * kSecond_ns;
    return lease;
  }
  void put(const LeaseInFlight& lease) {
    backend_.leases.push_back(lease);
    ++backend_.resident.in_flight;
  }

  Backend backend_;
  std::vector<std::uint64_t> failed_;
};

TEST_F(Wedged, IsWhoAnswersSoManyProbesInARowNot) {
  EXPECT_EQ(broken(subject({20, 10})), Reason::kNone);
  Finding finding;
  EXPECT_EQ(broken(subject({20, 10, 0}), &finding), Reason::kWedged);
  EXPECT_EQ(finding.since_ns, kNow_ns - 20 * kSecond_ns);
  backend_.set(Setting::kProbeFailures, 0);
  EXPECT_EQ(broken(subject({20, 10, 0})), Reason::kNone) << "0 is never";
  backend_.set(Setting::kProbeFailures, 1);
  EXPECT_EQ(broken(subject({0})), Reason::kWedged);
}

TEST_F(Wedged, NoFailureFromBeforeItsLastUseCounts) {
  backend_.resident.last_used_ns = kNow_ns - 15 * kSecond_ns;
  EXPECT_EQ(broken(subject({20, 10, 0})), Reason::kNone) << "a long request may have been why";
  EXPECT_EQ(broken(subject({20, 15, 10, 0})), Reason::kWedged);
}

TEST_F(Wedged, ATimeInWhichEverythingStoodStillBeginsTheCountAnew) {
  const Standstill still{kNow_ns - 12 * kSecond_ns, kNow_ns - 11 * kSecond_ns};
  Case one = subject({20, 10, 0});
  one.standstills = {&still, 1};
  EXPECT_EQ(broken(one), Reason::kNone);
  Case later = subject({20, 10, 5, 0});
  later.standstills = {&still, 1};
  EXPECT_EQ(broken(later), Reason::kWedged);
}

TEST_F(Wedged, P2WithLeasesInFlightProbesOnlyInform) {
  put(lease(50));
  EXPECT_EQ(broken(subject({20, 10, 0})), Reason::kNone);
  backend_.set(Setting::kStallTimeout, 60 * kSecond_ns);
  EXPECT_EQ(broken(subject({20, 10, 0})), Reason::kNone) << "its stall limit has not passed";
  backend_.set(Setting::kStallTimeout, 40 * kSecond_ns);
  Finding finding;
  EXPECT_EQ(broken(subject({20, 10, 0}), &finding), Reason::kWedged);
  EXPECT_EQ(finding.lease, 0u);
  EXPECT_EQ(finding.limit_ns, 40 * kSecond_ns);
  EXPECT_EQ(broken(subject({20, 10})), Reason::kStall) << "by that rule alone";
  backend_.set(Setting::kStallTimeout, 0);
  backend_.set(Setting::kFirstByteTimeout, 40 * kSecond_ns);
  EXPECT_EQ(broken(subject({20, 10, 0})), Reason::kWedged);
}

TEST_F(Wedged, BusyTimeoutAloneDoesNotMakeARequestHung) {
  put(lease(50));
  backend_.set(Setting::kBusyTimeout, 40 * kSecond_ns);
  EXPECT_EQ(broken(subject({20, 10, 0})), Reason::kBusy);
}

TEST_F(Wedged, AHolderWhoCanBeAskedIsAskedFirst) {
  LeaseInFlight able = lease(50);
  able.cancellable = true;
  put(able);
  backend_.set(Setting::kStallTimeout, 40 * kSecond_ns);
  EXPECT_EQ(broken(subject({20, 10, 0})), Reason::kNone);
  EXPECT_THAT(asked_for(backend_), ElementsAre(Reason::kStall));
  backend_.leases[0].asked_ns = kNow_ns - 10 * kSecond_ns;
  EXPECT_EQ(broken(subject({20, 10, 0})), Reason::kWedged);
}

TEST_F(Wedged, WhatIsLoadingIsNot) {
  backend_.resident.state = BackendState::kStarting;
  EXPECT_EQ(broken(subject({20, 10, 0})), Reason::kNone);
}

TEST_F(Wedged, P2MustStillBeUnansweredAndUnused) {
  Scene idle;
  idle.seen.reason = Reason::kWedged;
  idle.seen.last_used_ns = idle.fresh.last_used_ns = 9;
  EXPECT_TRUE(idle.still_true());
  Scene answers = idle;
  answers.fresh.answers = true;
  EXPECT_FALSE(answers.still_true());
  Scene used = idle;
  used.fresh.last_used_ns = 10;
  EXPECT_FALSE(used.still_true());

  Scene hung = lease_scene(Reason::kWedged);
  hung.fresh.last_used_ns = 10;  // another lease has ended on it
  EXPECT_TRUE(hung.still_true());
  hung.fresh.answers = true;
  EXPECT_FALSE(hung.still_true());
  Scene progress = lease_scene(Reason::kWedged);
  progress.fresh.progress_ns = 6;
  progress.fresh.progressed = true;
  EXPECT_FALSE(progress.still_true());
  Scene ended = lease_scene(Reason::kWedged);
  ended.fresh.lease_word = 0;
  EXPECT_FALSE(ended.still_true());
}

TEST(Evidence, WhoGoesForALoadThatRanOutOfMemoryMustStillBeUnused) {
  Scene scene;
  scene.seen.reason = Reason::kMemory;
  scene.seen.for_short_load = true;
  scene.seen.last_used_ns = scene.fresh.last_used_ns = 9;
  EXPECT_TRUE(scene.still_true()) << "without any limit";
  scene.fresh.control = kControlPinned;
  EXPECT_FALSE(scene.still_true());
  scene.fresh.control = 0;
  scene.fresh.last_used_ns = 10;
  EXPECT_FALSE(scene.still_true());
}

TEST(ReasonRows, ACrashHidesEveryOtherRuleEvenWhileItsExitStatusIsAwaited) {
  Backend backend;
  backend.set(Setting::kIdleTimeout, kSecond_ns);
  EXPECT_EQ(backend.broken(), Reason::kIdle);
  Case subject = backend.subject();
  subject.ended_ns = kNow_ns + 5;
  Alarm alarm(kNow_ns);
  Finding finding;
  EXPECT_EQ(find_broken_rule(subject, alarm, &finding), Reason::kNone);
  EXPECT_EQ(alarm.wake_ns(), kNow_ns + 5);
  subject.ended_ns = kNow_ns;
  EXPECT_EQ(find_broken_rule(subject, alarm, &finding), Reason::kCrashed);
}

// --- The line ------------------------------------------------------------------------------------

Waiting waiter(std::uint64_t arrival, std::uint64_t model) {
  return {arrival, kNow_ns + 30 * kSecond_ns, kNow_ns, model, static_cast<std::uint32_t>(arrival)};
}
Resident resident(std::uint64_t model, BackendState state = BackendState::kReady) {
  Resident result;
  result.model = model;
  result.state = state;
  return result;
}
std::vector<std::uint64_t> heads(std::vector<Waiting> waiting, std::vector<Resident> residents = {},
                                 std::size_t most = 64) {
  std::vector<Waiting> found(most);
  std::vector<std::uint64_t> seen(seen_for(waiting.size()), 12345);
  found.resize(find_heads(waiting, residents, kNow_ns, found, seen));
  std::vector<std::uint64_t> arrivals;
  for (const Waiting& head : found) arrivals.push_back(head.arrival);
  return arrivals;
}

TEST(Line, P5AModelStandsWhereItsFirstWaiterCame) {
  EXPECT_THAT(heads({waiter(3, 1), waiter(1, 2), waiter(2, 1)}), ElementsAre(1, 2));
  EXPECT_THAT(heads({waiter(3, 1), waiter(1, 2), waiter(2, 1)}, {}, 1), ElementsAre(1));
}

TEST(Line, P5OfManyModelsEachStandsOnce) {
  std::mt19937_64 chance(7);
  std::vector<Waiting> waiting;
  std::map<std::uint64_t, std::uint64_t> first;  // of each model: its arrival
  for (std::uint64_t arrival = 1; arrival <= 600; ++arrival) {
    const std::uint64_t model = chance() % 400 << 48;  // hashes that differ in high bits alone
    waiting.push_back(waiter(arrival, model));
    if (model != 0) first.emplace(model, arrival);
  }
  std::set<std::uint64_t> expected;
  for (const auto& [model, arrival] : first) expected.insert(arrival);
  std::shuffle(waiting.begin(), waiting.end(), chance);
  EXPECT_THAT(heads(waiting, {resident(0)}, waiting.size()), ElementsAreArray(expected));
  const std::vector<Waiting> all = find_heads(waiting, std::vector{resident(0)}, kNow_ns);
  EXPECT_EQ(all.size(), expected.size());
}

TEST(Line, AModelThatIsServedIsNotInLineUnlessItsBackendDoesNotDie) {
  Resident stuck = resident(1, BackendState::kStopping);
  EXPECT_THAT(heads({waiter(1, 1)}, {stuck}), IsEmpty());
  stuck.overdue = true;
  EXPECT_THAT(heads({waiter(1, 1)}, {stuck}), ElementsAre(1));
  EXPECT_THAT(heads({waiter(1, 1)}, {resident(1, BackendState::kGone)}), ElementsAre(1));
}

TEST(Line, P5WhoIsLateOrHasNotLookedForTwoSecondsIsNotCounted) {
  Waiting late = waiter(1, 1);
  late.deadline_ns = kNow_ns;
  Waiting stopped = waiter(2, 2);
  stopped.looked_ns = kNow_ns - kAbsentAfter_ns;
  Waiting slow = waiter(3, 3);
  slow.looked_ns = stopped.looked_ns + 1;
  EXPECT_THAT(heads({late, stopped, slow}), ElementsAre(3));
  EXPECT_EQ(present_until_ns(slow), kNow_ns + 1);
}

TEST(Line, P5APlaceGoesToAsManyHeadsAsThereArePlaces) {
  const std::vector<Waiting> line{waiter(4, 1), waiter(7, 2)};
  const std::vector<Resident> one{resident(9)};
  const auto turn = [&](std::uint64_t model, std::uint64_t arrival, std::uint32_t places) {
    return has_turn(line, waiter(arrival, model), Room({places + 1, 0}, one), one);
  };
  EXPECT_TRUE(turn(1, 4, 1));
  EXPECT_TRUE(turn(1, 9, 1)) << "the waiters of a model share its turn";
  EXPECT_FALSE(turn(2, 7, 1));
  EXPECT_TRUE(turn(2, 7, 2));
  EXPECT_FALSE(turn(3, kNever_ns, 2)) << "a newcomer comes after them";
  EXPECT_TRUE(turn(3, kNever_ns, 3));
  EXPECT_TRUE(turn(3, 3, 1)) << "it came before those that are counted";
  EXPECT_FALSE(turn(1, 4, 0));
  EXPECT_TRUE(has_turn({}, waiter(kNever_ns, 1), Room({0, 0}, one), one)) << "without a limit";
}

// --- What fits -----------------------------------------------------------------------------------

TEST(Fit, P3PlacesAreTakenUntilTheProcessesAreGone) {
  const std::vector<Resident> residents{resident(1, BackendState::kReserved), resident(2),
                                        resident(3, BackendState::kStopping),
                                        resident(4, BackendState::kGone)};
  EXPECT_EQ(count_live(residents), 3u);
  Waiting one;
  one.takes.set(index_of(Resource::kPlaces), 1);
  EXPECT_TRUE(Room({4, 0}, residents).fits(one));
  EXPECT_FALSE(Room({3, 0}, residents).fits(one));
  EXPECT_TRUE(Room({0, 0}, residents).fits(one)) << "there is no limit";
}

TEST(Fit, PinsBlockOnlyIfTheyLeaveTooLittleAndNothingCanLeaveByItself) {
  Resident pinned = resident(1);
  pinned.control = kControlPinned;
  Resident by_settings = resident(3);
  by_settings.control = kControlPinnedBySettings;
  const Limits one{1, 0};
  const Limits two{2, 0};
  const Waiting w = waiter(1, 9);
  EXPECT_TRUE(is_blocked_by_pins(w, std::vector{pinned, by_settings}, two));
  EXPECT_TRUE(is_blocked_by_pins(w, std::vector{pinned, resident(2, BackendState::kGone)}, one));
  EXPECT_FALSE(is_blocked_by_pins(w, std::vector{pinned, resident(2)}, two));
  EXPECT_TRUE(is_blocked_by_pins(w, std::vector{pinned, resident(2)}, one))
      << "2 is above the limit";
  Resident loading = resident(3, BackendState::kStarting);
  loading.control = kControlPinned;
  EXPECT_FALSE(is_blocked_by_pins(w, std::vector{pinned, loading}, two)) << "a load may fail";
}

// --- Bytes ---------------------------------------------------------------------------------------

Resident sized(std::uint64_t model, std::uint64_t bytes) {
  Resident r = resident(model);
  r.holds = Amounts(1, bytes);
  return r;
}
Waiting wants(std::uint64_t arrival, std::uint64_t model, std::uint64_t bytes) {
  Waiting w = waiter(arrival, model);
  w.takes = Amounts(1, bytes);
  return w;
}

TEST(Fit, BytesAreTakenAsPlacesAre) {
  const std::vector<Resident> residents{sized(1, 30), sized(2, 20)};
  const Room room({0, 64}, residents);
  EXPECT_TRUE(room.fits(wants(1, 3, 14)));
  EXPECT_FALSE(room.fits(wants(1, 3, 15)));
  EXPECT_EQ(room.missing_for(wants(1, 3, 20)), Amounts(0, 6));
  EXPECT_TRUE(is_too_large(wants(1, 3, 65), {0, 64}));
  EXPECT_FALSE(is_too_large(wants(1, 3, 64), {0, 64}));
  EXPECT_EQ(Room({0, 40}, residents).excess(), Amounts(0, 10));
  EXPECT_TRUE(Room({0, 40}, residents).fits(wants(1, 3, 0))) << "what takes nothing lacks nothing";
}

TEST(Fit, ASizeOfWhateverALoaderSaysBreaksNothing) {
  std::vector<Resident> residents;
  for (int i = 0; i < 4095; ++i) residents.push_back(sized(1, UINT64_MAX));
  const Room room({4095, 64}, residents);
  EXPECT_FALSE(room.fits(wants(1, 3, 1)));
  EXPECT_FALSE(room.fits(wants(1, 3, 0))) << "every place is taken";
  EXPECT_TRUE(is_too_large(wants(1, 3, UINT64_MAX), {0, 64}));
}

TEST(Fit, OneLoadOfUnknownSizeAtATime) {
  Resident loading = sized(1, 10);
  loading.state = BackendState::kStarting;
  loading.size_known = false;
  Waiting unknown = wants(1, 3, 10);
  unknown.size_known = false;
  EXPECT_FALSE(Room({0, 64}, std::vector{loading}).fits(unknown));
  EXPECT_TRUE(Room({0, 64}, std::vector{loading}).fits(wants(1, 3, 10)));
  EXPECT_TRUE(Room({2, 0}, std::vector{loading}).fits(unknown)) << "nobody counts bytes";
  loading.state = BackendState::kReady;
  EXPECT_TRUE(Room({0, 64}, std::vector{loading}).fits(unknown));
}

TEST(Line, ALaterOnePassesAnEarlierOnlyIfItTakesNothingThatOneLacksOrIsPromised) {
  const std::vector<Waiting> line{wants(1, 1, 50), wants(2, 2, 10)};
  const std::vector<Resident> residents{sized(9, 20)};
  // 44 are free: the first lacks 6 bytes.
  const Room room({4, 64}, residents);
  EXPECT_FALSE(has_turn(line, line[0], room, residents));
  EXPECT_FALSE(has_turn(line, line[1], room, residents))
      << "it would take bytes that the first waits for";
  EXPECT_TRUE(has_turn(line, wants(3, 3, 0), room, residents));
  EXPECT_FALSE(has_turn(line, wants(3, 3, 0), Room({3, 64}, residents), residents))
      << "both have their places";
}

}  // namespace
}  // namespace modelpool
