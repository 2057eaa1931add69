// The rules as tables: what must still be true before a backend ends, which rule gives the reason,
// whose turn it is, what fits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "policy/fit.hpp"
#include "policy/line.hpp"
#include "policy/rules.hpp"
#include "policy/victims.hpp"

namespace modelpool {
namespace {

using ::testing::ElementsAre;
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
  scene.fresh.limits.max_backends = 1;
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
  EXPECT_THAT(always, ElementsAre(Reason::kBusy, Reason::kStall, Reason::kCrashed));
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
  found.resize(find_heads(waiting, residents, kNow_ns, found));
  std::vector<std::uint64_t> arrivals;
  for (const Waiting& head : found) arrivals.push_back(head.arrival);
  return arrivals;
}

TEST(Line, P5AModelStandsWhereItsFirstWaiterCame) {
  EXPECT_THAT(heads({waiter(3, 1), waiter(1, 2), waiter(2, 1)}), ElementsAre(1, 2));
  EXPECT_THAT(heads({waiter(3, 1), waiter(1, 2), waiter(2, 1)}, {}, 1), ElementsAre(1));
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
  EXPECT_TRUE(has_turn(line, 1, 4, 1));
  EXPECT_TRUE(has_turn(line, 1, 9, 1)) << "the waiters of a model share its turn";
  EXPECT_FALSE(has_turn(line, 2, 7, 1));
  EXPECT_TRUE(has_turn(line, 2, 7, 2));
  EXPECT_FALSE(has_turn(line, 3, kNever_ns, 2)) << "a newcomer comes after them";
  EXPECT_TRUE(has_turn(line, 3, kNever_ns, 3));
  EXPECT_TRUE(has_turn(line, 3, 3, 1)) << "it came before those that are counted";
  EXPECT_FALSE(has_turn(line, 1, 4, 0));
  EXPECT_TRUE(has_turn({}, 1, kNever_ns, kPlacesUnlimited));
}

// --- What fits -----------------------------------------------------------------------------------

TEST(Fit, P3PlacesAreTakenUntilTheProcessesAreGone) {
  const std::vector<Resident> residents{resident(1, BackendState::kReserved), resident(2),
                                        resident(3, BackendState::kStopping),
                                        resident(4, BackendState::kGone)};
  EXPECT_EQ(count_live(residents), 3u);
  EXPECT_EQ(places_now(residents, {4}), 1u);
  EXPECT_EQ(places_now(residents, {2}), 0u);
  EXPECT_EQ(places_now(residents, {0}), kPlacesUnlimited);
}

TEST(Fit, AllArePinnedOnlyIfNothingCanLeaveByItself) {
  Resident pinned = resident(1);
  pinned.control = kControlPinned;
  Resident by_settings = resident(3);
  by_settings.control = kControlPinnedBySettings;
  EXPECT_TRUE(all_are_pinned(std::vector{pinned, by_settings}));
  EXPECT_TRUE(all_are_pinned(std::vector{pinned, resident(2, BackendState::kGone)}));
  EXPECT_FALSE(all_are_pinned(std::vector{pinned, resident(2)}));
  Resident loading = resident(3, BackendState::kStarting);
  loading.control = kControlPinned;
  EXPECT_FALSE(all_are_pinned(std::vector{pinned, loading})) << "a load may fail";
}

}  // namespace
}  // namespace modelpool
