// Who goes first, and when one in use does (policy/order.hpp, policy/turns.hpp).
#include "policy/order.hpp"

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <vector>

#include "policy/interval.hpp"
#include "policy/turns.hpp"

namespace modelpool {
namespace {

constexpr std::uint64_t kNow_ns = 1'000'000 * kSecond_ns;

struct Life {
  std::uint64_t load_s = 10;
  std::uint64_t interval_s = 0;
  std::uint64_t idle_s = 0;
};

Resident resident(std::uint32_t slot, const Life& life) {
  Resident r;
  r.ref = {slot, 1};
  r.state = BackendState::kReady;
  r.ready_ns = kNow_ns - 1000 * kSecond_ns;
  r.last_used_ns = kNow_ns - life.idle_s * kSecond_ns;
  r.load_ns = life.load_s * kSecond_ns;
  r.interval_ns = life.interval_s * kSecond_ns;
  return r;
}

Order order(Eviction by) { return {by, kNow_ns}; }

void expect_first(const Order& by, const Resident& first, const Resident& second) {
  EXPECT_TRUE(by.goes_before(first, second));
  EXPECT_FALSE(by.goes_before(second, first));
}

TEST(OrderByCost, TheOneWhoseLossIsExpectedToCostLeastGoesFirst) {
  const Order by = order(Eviction::kCost);
  // 10 s each minute cost less than 10 s each half minute, whoever was used last.
  expect_first(by, resident(0, {10, 60, 1}), resident(1, {10, 30, 20}));
  // 10 s each minute cost less than 60 s every two minutes.
  expect_first(by, resident(0, {10, 60, 1}), resident(1, {60, 120, 1}));
  // One that was wanted each second, and has not been for an hour.
  expect_first(by, resident(0, {10, 1, 3600}), resident(1, {10, 60, 1}));
}

TEST(OrderByCost, WithoutAnIntervalTheIdleTimeCounts) {
  const Order by = order(Eviction::kCost);
  expect_first(by, resident(0, {10, 0, 40}), resident(1, {10, 30, 5}));
  expect_first(by, resident(1, {10, 30, 5}), resident(0, {10, 0, 20}));
}

TEST(OrderByCost, EqualOnesGoByTheirAgeAndSlot) {
  const Order by = order(Eviction::kCost);
  Resident older = resident(1, {10, 60, 1});
  older.ready_ns -= 1;
  expect_first(by, older, resident(0, {10, 60, 1}));
  expect_first(by, resident(0, {10, 60, 1}), resident(1, {10, 60, 2}));
}

TEST(OrderByUse, OnlyTheLastUseCountsAndALeaseInFlightIsOne) {
  const Order by = order(Eviction::kLru);
  expect_first(by, resident(0, {100, 1, 30}), resident(1, {1, 100, 20}));
  Resident used = resident(0, {10, 0, 30});
  used.newest_start_ns = kNow_ns - 10 * kSecond_ns;
  expect_first(by, resident(1, {10, 0, 20}), used);
}

TEST(OrderBySize, TheLargestGoesFirstThenTheLeastRecentlyUsed) {
  const Order by = order(Eviction::kSize);
  Resident large = resident(0, {100, 1, 1});
  large.size_bytes = 2;
  Resident small = resident(1, {1, 100, 50});
  small.size_bytes = 1;
  expect_first(by, large, small);
  expect_first(by, small, resident(2, {1, 100, 90}));  // a size that is not known is 0
  small.size_bytes = 2;
  expect_first(by, small, large);
}

TEST(OrderOfVictims, IdleBeforeInUseThenThePriorityThenTheDrainThatFailedLongestAgo) {
  for (const Eviction by : {Eviction::kCost, Eviction::kLru, Eviction::kSize}) {
    Resident busy = resident(0, {1, 1000, 900});
    busy.in_flight = 1;
    Resident idle = resident(1, {1000, 1, 0});
    idle.priority = 100;
    expect_first(order(by), idle, busy);
    Resident dear = resident(0, {1000, 1, 0});
    Resident cheap = resident(1, {1, 1000, 900});
    cheap.priority = dear.priority + 1;
    expect_first(order(by), dear, cheap);
    Resident failed_late = busy;
    failed_late.drain_failed_ns = 2;
    Resident failed_early = resident(2, {1000, 1, 0});
    failed_early.in_flight = 1;
    failed_early.drain_failed_ns = 1;
    expect_first(order(by), failed_early, failed_late);
  }
}

// Sorting needs it: values come from shared memory, and may be anything.
TEST(OrderOfVictims, IsAStrictWeakOrderForAnyValues) {
  std::mt19937_64 chance(7);
  const std::array<std::uint64_t, 8> odd{0,       1,         kIntervalMin_ns, kIntervalMax_ns,
                                         kNow_ns, kNever_ns, kNow_ns + 1,     kIntervalMax_ns + 1};
  const auto any = [&] { return odd[chance() % odd.size()]; };
  for (int round = 0; round < 20'000; ++round) {
    std::array<Resident, 3> r;
    for (std::uint32_t i = 0; i < r.size(); ++i) {
      r[i].ref.index = i;
      r[i].in_flight = static_cast<std::uint32_t>(chance() % 2);
      r[i].last_used_ns = any();
      r[i].newest_start_ns = any();
      r[i].ready_ns = chance() % 2;
      r[i].load_ns = any();
      r[i].interval_ns = any();
      r[i].size_bytes = chance() % 2;
      r[i].drain_failed_ns = chance() % 2;
    }
    for (const Eviction by : {Eviction::kCost, Eviction::kLru, Eviction::kSize}) {
      const Order o = order(by);
      ASSERT_FALSE(o.goes_before(r[0], r[0]));
      ASSERT_NE(o.goes_before(r[0], r[1]), o.goes_before(r[1], r[0])) << "slots differ";
      if (o.goes_before(r[0], r[1]) && o.goes_before(r[1], r[2])) {
        ASSERT_TRUE(o.goes_before(r[0], r[2]));
      }
    }
  }
}

// --- Turns ---------------------------------------------------------------------------------------

Head head(std::uint64_t waited_s, std::uint64_t load_s, std::uint64_t left_s = 0) {
  Head h;
  h.first.model = 1;
  h.since_ns = kNow_ns - waited_s * kSecond_ns;
  h.load_ns = load_s * kSecond_ns;
  if (left_s != 0) h.deadline_ns = kNow_ns + left_s * kSecond_ns;
  return h;
}

TEST(Turns, AModelInUseKeepsItsPlaceForMaxWait) {
  EXPECT_EQ(turn_begins_ns(head(5, 10), 60 * kSecond_ns), kNow_ns + 55 * kSecond_ns);
  EXPECT_EQ(turn_begins_ns(head(5, 10), 0), kNow_ns - 5 * kSecond_ns) << "0: not at all";
}

TEST(Turns, ItTakesAQuarterOfTheTimeThatTheWaiterCanSpare) {
  // He came 2 s ago and has 30 s in all; a load of 5 s takes 6: 24 s to spare.
  EXPECT_EQ(turn_begins_ns(head(2, 5, 28), 60 * kSecond_ns), kNow_ns + 4 * kSecond_ns);
  EXPECT_EQ(turn_begins_ns(head(2, 5, 28), 3 * kSecond_ns), kNow_ns + 1 * kSecond_ns);
  EXPECT_EQ(turn_begins_ns(head(2, 40, 28), 60 * kSecond_ns), kNow_ns - 2 * kSecond_ns)
      << "he has nothing to spare";
}

TEST(Turns, AHeadWhoseLoadTimeIsNotKnownIsLetInAtOnce) {
  EXPECT_EQ(turn_begins_ns(head(2, 0), 60 * kSecond_ns), kNow_ns - 2 * kSecond_ns);
}

TEST(Turns, TheDeadlineIsTheEarliestThatALoadCanStillMeet) {
  const auto waiting = [](std::uint64_t arrival, std::uint64_t left_s, std::uint64_t model = 1) {
    Waiting w;
    w.arrival = arrival;
    w.model = model;
    w.deadline_ns = kNow_ns + left_s * kSecond_ns;
    w.looked_ns = kNow_ns;
    w.model_since_ns = kNow_ns - 3 * kSecond_ns;
    w.load_ns = 10 * kSecond_ns;
    return w;
  };
  std::vector<Waiting> all{waiting(1, 9), waiting(2, 50), waiting(3, 30), waiting(4, 11, 2)};
  Head h = head_of(all[0], all, kNow_ns);
  EXPECT_EQ(h.deadline_ns, kNow_ns + 30 * kSecond_ns);
  EXPECT_EQ(h.since_ns, kNow_ns - 3 * kSecond_ns);
  EXPECT_EQ(h.load_ns, 10 * kSecond_ns);
  EXPECT_EQ(h.first.arrival, 1u);
  all[2].looked_ns = kNow_ns - 10 * kSecond_ns;
  EXPECT_EQ(head_of(all[0], all, kNow_ns).deadline_ns, kNow_ns + 50 * kSecond_ns)
      << "one that does not look is not there";
  all.resize(1);
  h = head_of(all[0], all, kNow_ns);
  EXPECT_EQ(turn_begins_ns(h, 60 * kSecond_ns), h.since_ns)
      << "nobody can be met: no time is taken";
}

TEST(Turns, APauseIsShorterThanTwoIntervalsAndNoLongerThanItIsWorth) {
  constexpr std::uint64_t kMaxWait = 60 * kSecond_ns;
  const Resident agent = resident(0, {20, 4, 1});
  EXPECT_EQ(pause_ends_ns(agent, head(0, 20), kMaxWait), kNow_ns + 7 * kSecond_ns);
  EXPECT_EQ(pause_ends_ns(agent, head(0, 4), kMaxWait), kNow_ns + 6 * kSecond_ns)
      << "a quarter of both load times";
  const Resident slow = resident(0, {200, 40, 1});
  EXPECT_EQ(pause_ends_ns(slow, head(0, 200), kMaxWait), kNow_ns + 10 * kSecond_ns);
  EXPECT_EQ(pause_ends_ns(slow, head(0, 200), 5 * kSecond_ns), kNow_ns + 5 * kSecond_ns)
      << "never past its turn";
}

TEST(Turns, WhoIsWantedMoreRarelyThanItLoadsIsNotInAPause) {
  constexpr std::uint64_t kMaxWait = 60 * kSecond_ns;
  EXPECT_EQ(pause_ends_ns(resident(0, {20, 20, 1}), head(0, 20), kMaxWait), 0u);
  EXPECT_EQ(pause_ends_ns(resident(0, {20, 0, 1}), head(0, 20), kMaxWait), 0u);
  Resident busy = resident(0, {20, 4, 1});
  busy.in_flight = 1;
  EXPECT_EQ(pause_ends_ns(busy, head(0, 20), kMaxWait), 0u) << "it is in use";
}

}  // namespace
}  // namespace modelpool
