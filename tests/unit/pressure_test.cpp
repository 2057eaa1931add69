// Host pressure: the rule as a table, who goes, and what the coordinator makes of it.
#include "pressure.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/time.hpp"
#include "judge/host_limit.hpp"
#include "policy/pressure.hpp"
#include "policy/rules.hpp"
#include "support/pool.hpp"

namespace modelpool::coordinator {
namespace {

using test::look;
using test::make_pool;
using test::Scratch;

constexpr std::uint64_t kNow_ns = 1000 * kSecond_ns;
constexpr std::uint64_t kMin_bytes = 1000;

// --- The rule ------------------------------------------------------------------------------------

PressureStep judged(const Pressure& pressure, std::uint64_t available,
                    std::uint64_t now = kNow_ns) {
  return judge_pressure(pressure, {now, available, kMin_bytes});
}

TEST(PressureRule, OneMayGoBelowTheLimitAndUntilATenthAboveIt) {
  Pressure pressure;
  EXPECT_FALSE(judged(pressure, 1000).may_evict);
  const PressureStep low = judged(pressure, 999);
  EXPECT_TRUE(low.may_evict);
  EXPECT_EQ(low.look_ns, kNow_ns + kSecond_ns);
  EXPECT_TRUE(judged(low.next, 1099).may_evict);
  EXPECT_FALSE(judged(low.next, 1100).may_evict);
  EXPECT_FALSE(judged(judged(low.next, 1100).next, 1000).may_evict) << "it is over";
}

TEST(PressureRule, WithoutALimitNothingIsMeasured) {
  Pressure pressure;
  pressure.is_low = true;
  pressure.pause_ns = kSecond_ns;
  const PressureStep step = judge_pressure(pressure, {kNow_ns, 0, 0});
  EXPECT_FALSE(step.may_evict);
  EXPECT_EQ(step.look_ns, kNever_ns);
  EXPECT_EQ(step.next.pause_ns, 0u);
}

TEST(PressureRule, ALimitThatTheHostCannotKeepIsNamedBesideWhatItHas) {
  const auto fault = find_host_fault(2048, 1024);
  ASSERT_TRUE(fault);
  EXPECT_THAT(*fault, ::testing::AllOf(::testing::HasSubstr("min_available is 2KiB"),
                                       ::testing::HasSubstr("has only 1KiB in all")));
  EXPECT_TRUE(find_host_fault(1024, 1024)) << "never is all of it left";
  EXPECT_FALSE(find_host_fault(1023, 1024));
  EXPECT_FALSE(find_host_fault(0, 0)) << "no limit";
  EXPECT_FALSE(find_host_fault(2048, std::nullopt)) << "it is not known";
}

Pressure on_trial(std::uint64_t held, std::uint64_t gone_ns, std::uint64_t pause_ns = 0) {
  Pressure pressure;
  pressure.is_low = true;
  pressure.pause_ns = pause_ns;
  pressure.trial = PressureTrial{held, 500, gone_ns};
  return pressure;
}

TEST(PressureRule, TheNextMayGoASecondAfterTheLastIsGoneIfThatHasHelped) {
  EXPECT_FALSE(judged(on_trial(100, kNever_ns), 525).may_evict) << "it is not gone";
  EXPECT_EQ(judged(on_trial(100, kNever_ns), 525).look_ns, kNever_ns) << "which is told";
  const PressureStep early = judged(on_trial(100, kNow_ns - kSecond_ns + 1), 525);
  EXPECT_FALSE(early.may_evict);
  EXPECT_EQ(early.look_ns, kNow_ns + 1);
  EXPECT_TRUE(early.next.trial);
  const PressureStep helped = judged(on_trial(100, kNow_ns - kSecond_ns), 525);
  EXPECT_TRUE(helped.may_evict);
  EXPECT_FALSE(helped.was_in_vain);
  EXPECT_FALSE(helped.next.trial);
}

TEST(PressureRule, AnEvictionThatDoesNotBringAQuarterBackStopsThemForAMinuteThenForTwo) {
  const std::uint64_t gone_ns = kNow_ns - kSecond_ns;
  const PressureStep vain = judged(on_trial(100, gone_ns), 524);
  EXPECT_TRUE(vain.was_in_vain);
  EXPECT_FALSE(vain.may_evict);
  EXPECT_EQ(vain.next.until_ns, kNow_ns + 60 * kSecond_ns);
  EXPECT_EQ(vain.look_ns, vain.next.until_ns);
  EXPECT_FALSE(judged(vain.next, 0, vain.next.until_ns - 1).may_evict);
  EXPECT_FALSE(judged(vain.next, 0, vain.next.until_ns - 1).was_in_vain) << "said once";
  EXPECT_TRUE(judged(vain.next, 0, vain.next.until_ns).may_evict);
  EXPECT_EQ(judged(on_trial(100, gone_ns, 60 * kSecond_ns), 524).next.pause_ns, 120 * kSecond_ns);
  EXPECT_EQ(judged(on_trial(100, gone_ns, 600 * kSecond_ns), 524).next.pause_ns, 900 * kSecond_ns);
  EXPECT_EQ(judged(on_trial(100, gone_ns, 600 * kSecond_ns), 525).next.pause_ns, 0u);
}

TEST(PressureRule, ThePauseHoldsThoughMemoryComesBackMeanwhileAndIsForgottenAfterIt) {
  Pressure pressure;
  pressure.until_ns = kNow_ns + kSecond_ns;
  pressure.pause_ns = 60 * kSecond_ns;
  EXPECT_EQ(judged(pressure, 5000).next.pause_ns, 60 * kSecond_ns);
  EXPECT_EQ(judged(pressure, 5000, pressure.until_ns).next.pause_ns, 0u);
  EXPECT_EQ(judged(pressure, 0, pressure.until_ns).next.pause_ns, 60 * kSecond_ns);
}

TEST(PressureRule, OfAnUnknownSizeAnyRiseWillDo) {
  EXPECT_TRUE(judged(on_trial(0, 0), 500).was_in_vain);
  EXPECT_FALSE(judged(on_trial(0, 0), 501).was_in_vain);
}

// --- Who goes ------------------------------------------------------------------------------------

class PressureVictim : public ::testing::Test {
 protected:
  PressureVictim() {
    for (std::uint32_t i = 0; i < 3; ++i) {
      Holding holding;
      holding.role = Holding::Role::kCandidate;
      holding.resident.ref = {i, 1};
      holding.resident.state = BackendState::kReady;
      holding.resident.ready_ns = holding.resident.last_used_ns = kNow_ns - (100 + i) * kSecond_ns;
      holdings.push_back(holding);
    }
    order.by = Eviction::kLru;
    order.now_ns = kNow_ns;
  }
  std::optional<std::size_t> victim() const { return find_pressure_victim(holdings, order); }

  std::vector<Holding> holdings;
  Order order;
};

TEST_F(PressureVictim, TheFirstInOrderGoesAndNobodyWhileAnotherIsOnHisWay) {
  EXPECT_EQ(victim(), 2u);
  holdings[0].role = Holding::Role::kLeaving;
  EXPECT_EQ(victim(), std::nullopt);
  holdings[0].role = Holding::Role::kStays;
  EXPECT_EQ(victim(), 2u);
}

TEST_F(PressureVictim, P2NobodyGoesWhoIsInUsePinnedAwaitedKeptOrNotOurs) {
  Holding& oldest = holdings[2];
  const Holding before = oldest;
  oldest.resident.in_flight = 1;
  EXPECT_EQ(victim(), 1u);
  for (Holding& holding : holdings) holding.resident.in_flight = 1;
  EXPECT_EQ(victim(), std::nullopt);
  for (Holding& holding : holdings) holding.resident.in_flight = 0;
  oldest = before;
  oldest.role = Holding::Role::kStays;  // pinned, or another rule acts on it
  EXPECT_EQ(victim(), 1u);
  oldest = before;
  oldest.awaited_arrival = 7;
  EXPECT_EQ(victim(), 1u);
  oldest = before;
  oldest.min_resident_ns = 200 * kSecond_ns;
  EXPECT_EQ(victim(), 1u);
  oldest = before;
  oldest.resident.external = true;
  EXPECT_EQ(victim(), 1u);
  oldest = before;
  oldest.resident.state = BackendState::kEvicting;
  EXPECT_EQ(victim(), 1u);
}

TEST(Evidence, P2WhoGoesForTheHostMustBeUnusedSinceAndTheHostStillShort) {
  Evidence seen;
  seen.reason = Reason::kMemory;
  seen.was_idle = seen.for_host = true;
  seen.last_used_ns = 7;
  seen.live = 3;
  Fresh fresh;
  fresh.last_used_ns = 7;
  fresh.live = 2;
  fresh.host_is_low = true;
  const auto holds = [&] { return reason_row(Reason::kMemory).still_true(seen, fresh); };
  EXPECT_TRUE(holds()) << "there need be no limit of the pool's";
  fresh.host_is_low = false;
  EXPECT_FALSE(holds());
  fresh.host_is_low = true;
  fresh.last_used_ns = 8;
  EXPECT_FALSE(holds());
  fresh.last_used_ns = 7;
  fresh.control = kControlPinned;
  EXPECT_FALSE(holds());
}

// --- The coordinator -----------------------------------------------------------------------------

class PressureWatchTest : public ::testing::Test {
 protected:
  PressureWatch watch() {
    return PressureWatch(
        shared_segment_of(pool_),
        [this] {
          ++reads_;
          return available_;
        },
        [] { return std::nullopt; });
  }
  // One look and its decision, at that time. True: somebody goes.
  bool scan(PressureWatch& watch, std::uint64_t now_ns) {
    snapshot_.now_ns = now_ns;
    snapshot_.settings = look(pool_).settings;
    Facts facts;
    facts.epoch = 1;
    facts.host = watch.look(snapshot_);
    const Decision decision = decide(snapshot_, facts);
    wake_ns_ = decision.wake_ns;
    watch.follow(decision, snapshot_);
    for (const Action& action : decision.actions) {
      if (!action.for_host) continue;
      text_ = field_text(action.stop.text);
      return true;
    }
    return false;
  }
  CoordinatorRecord& record() { return segment_of(pool_).coordinator(); }

  const Scratch scratch_;
  Pool pool_ = make_pool(scratch_, {{"min_available", "1KiB"}});
  std::optional<std::uint64_t> available_ = 100;
  int reads_ = 0;
  std::uint64_t wake_ns_ = 0;
  std::string text_;
  Snapshot snapshot_ = [] {
    Snapshot snapshot;
    BackendView b;
    b.ref = {0, 3};
    b.state = {3, 0, BackendState::kReady};
    b.model = "m";
    b.process.pid = 1000;
    b.ready_ns = b.last_used_ns = kNow_ns;
    b.noted = pack_half(3, static_cast<std::uint32_t>(BackendState::kReady));
    b.declared.host = 400;
    snapshot.backends.push_back(b);
    return snapshot;
  }();
};

TEST_F(PressureWatchTest, OneGoesAndWhenItHasBeenGoneForASecondItIsMeasured) {
  PressureWatch watched = watch();
  const std::uint64_t now = now_ns();
  ASSERT_TRUE(scan(watched, now));
  EXPECT_EQ(text_, "the host has 100B of memory left, and min_available is 1KiB");
  snapshot_.backends[0].state.state = BackendState::kStopping;
  EXPECT_FALSE(scan(watched, now + kSecond_ns));
  EXPECT_EQ(wake_ns_, kNever_ns) << "its end is told";
  snapshot_.backends.clear();
  EXPECT_FALSE(scan(watched, now + 2 * kSecond_ns));
  EXPECT_EQ(wake_ns_, now + 3 * kSecond_ns);
  available_ = 199;
  EXPECT_FALSE(scan(watched, now + 3 * kSecond_ns));
  EXPECT_EQ(record().pressure_pause_ns.load(), 60 * kSecond_ns);
  EXPECT_EQ(record().pressure_until_ns.load(), now + 63 * kSecond_ns);
  EXPECT_EQ(wake_ns_, now + 63 * kSecond_ns);
}

TEST_F(PressureWatchTest, WhatHelpsHasNoPause) {
  PressureWatch watched = watch();
  const std::uint64_t now = now_ns();
  ASSERT_TRUE(scan(watched, now));
  snapshot_.backends[0].ref.generation = 4;  // gone, and loaded anew
  snapshot_.backends[0].state.generation = 4;
  scan(watched, now + kSecond_ns);
  available_ = 200;
  EXPECT_TRUE(scan(watched, now + 2 * kSecond_ns));
  EXPECT_EQ(record().pressure_until_ns.load(), 0u);
}

TEST_F(PressureWatchTest, OneThatWasUsedMeanwhileAndStaysIsNoTrial) {
  PressureWatch watched = watch();
  const std::uint64_t now = now_ns();
  ASSERT_TRUE(scan(watched, now));
  EXPECT_FALSE(scan(watched, now)) << "at most one a second";
  EXPECT_TRUE(scan(watched, now + kSecond_ns));
}

TEST_F(PressureWatchTest, MemoryIsMeasuredOnceASecondHoweverOftenItLooks) {
  available_ = 1 << 20;
  PressureWatch watched = watch();
  const std::uint64_t now = now_ns();
  for (int i = 0; i < 100; ++i) scan(watched, now + static_cast<std::uint64_t>(i));
  EXPECT_EQ(reads_, 1);
  EXPECT_EQ(wake_ns_, now + kSecond_ns);
}

TEST_F(PressureWatchTest, P8WithNothingLoadedNothingIsMeasured) {
  snapshot_.backends.clear();
  PressureWatch watched = watch();
  EXPECT_FALSE(scan(watched, now_ns()));
  EXPECT_EQ(reads_, 0);
  EXPECT_EQ(wake_ns_, kNever_ns);
}

TEST_F(PressureWatchTest, P10ThePauseOutlivesTheCoordinatorAndNoDamageMakesItLonger) {
  const std::uint64_t now = now_ns();
  record().pressure_until_ns.store(now + 5 * kSecond_ns);
  record().pressure_pause_ns.store(120 * kSecond_ns);
  PressureWatch next = watch();
  EXPECT_FALSE(scan(next, now));
  EXPECT_EQ(wake_ns_, now + 5 * kSecond_ns);
  EXPECT_EQ(record().pressure_pause_ns.load(), 120 * kSecond_ns);
  EXPECT_TRUE(scan(next, now + 5 * kSecond_ns));
  record().pressure_until_ns.store(kNever_ns);
  record().pressure_pause_ns.store(kNever_ns);
  PressureWatch damaged = watch();
  scan(damaged, now);
  EXPECT_LE(wake_ns_, now_ns() + 900 * kSecond_ns);
}

TEST_F(PressureWatchTest, AHostThatDoesNotSayWhatIsLeftEndsNobody) {
  available_.reset();
  PressureWatch watched = watch();
  EXPECT_FALSE(scan(watched, now_ns()));
  EXPECT_FALSE(watched.is_low());
}

TEST_F(PressureWatchTest, TheEvidenceIsMeasuredAnew) {
  PressureWatch watched = watch();
  EXPECT_TRUE(watched.is_low());
  available_ = 1024 + 102;
  EXPECT_FALSE(watched.is_low()) << "a tenth above";
  available_ = 100;
  ASSERT_TRUE(pool_.set("min_available", "0"));
  EXPECT_FALSE(watched.is_low());
}

}  // namespace
}  // namespace modelpool::coordinator
