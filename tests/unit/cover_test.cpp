// The cheapest set that makes a head fit, and nobody else (policy/cover.hpp, policy/victims.hpp).
#include "policy/cover.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "policy/victims.hpp"

namespace modelpool {
namespace {

using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr std::uint64_t kNow_ns = 1'000'000 * kSecond_ns;

// Its loss costs so many thousandths: a load of that many ms a second.
Resident resident(std::uint32_t slot, std::uint64_t bytes, std::uint64_t cost) {
  Resident r;
  r.ref = {slot, 1};
  r.state = BackendState::kReady;
  r.ready_ns = kNow_ns - 1000 * kSecond_ns;
  r.last_used_ns = kNow_ns - kSecond_ns;
  r.load_ns = cost * kMillisecond_ns;
  r.interval_ns = kSecond_ns;
  r.holds = Amounts(1, bytes);
  return r;
}

std::vector<std::uint32_t> cover(std::vector<Resident> residents, const Amounts& missing,
                                 Eviction by = Eviction::kCost, std::size_t budget = kCoverBudget) {
  const Order order{by, kNow_ns};
  std::sort(residents.begin(), residents.end(),
            [&](const Resident& a, const Resident& b) { return order.goes_before(a, b); });
  std::vector<Choice> choices;
  for (const Resident& r : residents) choices.emplace_back(r, r.in_flight > 0, kNow_ns);
  std::vector<std::size_t> positions(choices.size());
  std::iota(positions.begin(), positions.end(), std::size_t{0});
  std::vector<std::uint32_t> slots;
  if (const auto set = CoverSearch(choices, order, budget).find(positions, missing)) {
    for (const std::size_t i : *set) slots.push_back(choices[i].resident.ref.index);
  }
  return slots;
}
Amounts bytes(std::uint64_t missing) { return Amounts(0, missing); }

// The counterexamples to simple rules, of ../shared/policy/report.md; sizes in GB.
TEST(Cover, OldestFirstUntilItFitsEndsAllThreeWhereOneSuffices) {
  EXPECT_THAT(cover({resident(0, 17, 10), resident(1, 80, 90), resident(2, 170, 200)}, bytes(160)),
              UnorderedElementsAre(2));
}
TEST(Cover, LargestFirstEndsWhatIsInConstantUse) {
  EXPECT_THAT(cover({resident(0, 80, 9000), resident(1, 3, 10)}, bytes(2)),
              UnorderedElementsAre(1));
}
TEST(Cover, LeastCostFirstPaysMoreThanOneDearer) {
  EXPECT_THAT(cover({resident(0, 6, 1000), resident(1, 6, 1100), resident(2, 10, 1500)}, bytes(10)),
              UnorderedElementsAre(2));
}
TEST(Cover, CostPerByteEndsBoth) {
  EXPECT_THAT(cover({resident(0, 1, 50), resident(1, 16, 1000)}, bytes(16)),
              UnorderedElementsAre(1));
  EXPECT_THAT(cover({resident(0, 9, 800), resident(1, 10, 1000), resident(2, 2, 250)}, bytes(10)),
              UnorderedElementsAre(1));
}
TEST(Cover, APlaceAndBytesAreCoveredTogether) {
  EXPECT_THAT(cover({resident(0, 2, 100), resident(1, 12, 500)}, Amounts(1, 10)),
              UnorderedElementsAre(1));
}

TEST(Cover, NobodyGoesIfAllTogetherDoNotSuffice) {
  EXPECT_THAT(cover({resident(0, 2, 100), resident(1, 12, 500)}, bytes(15)), IsEmpty());
}

TEST(Cover, FewerInUseGoBeforeWhatIsCheaper) {
  Resident busy = resident(0, 20, 1);
  busy.in_flight = 1;
  EXPECT_THAT(cover({busy, resident(1, 10, 900), resident(2, 10, 900)}, bytes(20)),
              UnorderedElementsAre(1, 2));
  EXPECT_THAT(cover({busy, resident(1, 10, 900)}, bytes(20)), UnorderedElementsAre(0));
}

TEST(Cover, LowerPrioritiesGoBeforeWhatIsCheaper) {
  Resident dear = resident(0, 20, 9000);
  Resident kept = resident(1, 20, 1);
  kept.priority = 1;
  EXPECT_THAT(cover({dear, kept}, bytes(20)), UnorderedElementsAre(0));
}

// Of one priority, as all have that were given none.
TEST(Cover, SeveralThatCostLessTogetherGoBeforeOneThatIsDearer) {
  for (const std::uint64_t priority : {0u, 50u}) {
    std::vector<Resident> all{resident(0, 20, 9000), resident(1, 10, 100), resident(2, 10, 100)};
    for (Resident& one : all) one.priority = priority;
    EXPECT_THAT(cover(all, bytes(20)), UnorderedElementsAre(1, 2)) << priority;
  }
}

TEST(Cover, OneGoesBeforeTwoOfTheSamePriorityWhereThatIsNotTheLowest) {
  std::vector<Resident> all{resident(0, 20, 9000), resident(1, 10, 100), resident(2, 10, 100),
                            resident(3, 5, 9000)};
  for (Resident& one : all) one.priority = 50;
  all.back().priority = 0;
  EXPECT_THAT(cover(all, bytes(20)), UnorderedElementsAre(0));
}

TEST(Cover, ByUseTheOldestGoUntilItFitsAndWhoIsNotNeededStays) {
  Resident old = resident(0, 2, 1);
  old.last_used_ns -= 100 * kSecond_ns;
  Resident middle = resident(1, 10, 9000);
  middle.last_used_ns -= 50 * kSecond_ns;
  EXPECT_THAT(cover({old, middle, resident(2, 30, 1)}, bytes(10), Eviction::kLru),
              UnorderedElementsAre(1));
}

struct Tried {
  std::vector<Resident> residents;
  Amounts missing;
};
Tried random_case(std::mt19937_64& chance, std::size_t most) {
  Tried tried;
  const std::size_t count = 1 + chance() % most;
  const std::uint32_t devices =
      chance() % 2 == 0 ? 0 : 1 + static_cast<std::uint32_t>(chance() % 3);
  for (std::uint32_t i = 0; i < count; ++i) {
    Resident r = resident(i, 1 + chance() % 80, 1 + chance() % 1000);
    r.in_flight = chance() % 4 == 0;
    r.priority = chance() % 3;
    for (std::uint32_t d = 0; d < devices; ++d)
      r.holds.set_bytes(index_of_device(d), chance() % 2 == 0 ? 0 : chance() % 80);
    tried.residents.push_back(r);
  }
  tried.missing = Amounts(chance() % 3, devices == 0 ? chance() % 160 : chance() % 20);
  for (std::uint32_t d = 0; d < devices; ++d)
    tried.missing.set_bytes(index_of_device(d), chance() % 2 == 0 ? 0 : chance() % 100);
  return tried;
}
Amounts given(const std::vector<Resident>& residents, const std::vector<std::uint32_t>& set) {
  Amounts sum;
  for (const std::uint32_t i : set) sum += residents[i].holds;
  return sum;
}
bool suffices(const Amounts& given, const Amounts& missing) {
  for (std::size_t i = 0; i < kResourceCount; ++i) {
    if (given[i] < missing[i]) return false;
  }
  return true;
}

// With a million cases by hand: MODELPOOL_COVER_CASES.
TEST(Cover, UpToTenChoicesItIsTheCheapestOfAllSets) {
  const char* const asked = std::getenv("MODELPOOL_COVER_CASES");
  const long cases = asked == nullptr ? 3000 : std::atol(asked);
  std::mt19937_64 chance(11);
  for (long n = 0; n < cases; ++n) {
    const Tried tried = random_case(chance, n % 20 == 0 ? 10 : 6);
    const auto set = cover(tried.residents, tried.missing);
    using Key = std::tuple<int, std::vector<std::uint64_t>, std::uint64_t, std::size_t>;
    std::uint64_t lowest = UINT64_MAX;
    for (const Resident& r : tried.residents) lowest = std::min(lowest, r.priority);
    const auto key = [&](const std::vector<std::uint32_t>& members) {
      int busy = 0;
      std::vector<std::uint64_t> priorities;  // above the lowest
      std::uint64_t cost = 0;
      for (const std::uint32_t i : members) {
        const Resident& r = tried.residents[i];
        busy += r.in_flight > 0;
        if (r.priority > lowest) priorities.push_back(r.priority);
        cost += r.load_ns / kMillisecond_ns;
      }
      std::sort(priorities.rbegin(), priorities.rend());
      return Key{busy, priorities, cost, members.size()};
    };
    std::optional<Key> best;
    for (std::uint32_t bits = 0; bits < 1u << tried.residents.size(); ++bits) {
      std::vector<std::uint32_t> members;
      for (std::uint32_t i = 0; i < tried.residents.size(); ++i) {
        if (bits >> i & 1) members.push_back(i);
      }
      if (!suffices(given(tried.residents, members), tried.missing)) continue;
      if (!best || key(members) < *best) best = key(members);
    }
    const bool found = !set.empty() || tried.missing == Amounts();
    ASSERT_EQ(found, best.has_value()) << "case " << n;
    if (best && !set.empty()) {
      ASSERT_EQ(key(set), *best) << "case " << n;
    }
  }
}

TEST(Cover, BeyondTheBudgetTheBetterOfTwoGreedySetsIsTaken) {
  const std::vector<Resident> dear_to_spare{resident(0, 1, 50), resident(1, 16, 1000)};
  EXPECT_THAT(cover(dear_to_spare, bytes(16), Eviction::kCost, 0), UnorderedElementsAre(1));
  const std::vector<Resident> two_for_one{resident(0, 6, 1000), resident(1, 6, 1100),
                                          resident(2, 10, 1500)};
  EXPECT_THAT(cover(two_for_one, bytes(10), Eviction::kCost, 0), UnorderedElementsAre(2));
}

TEST(Cover, BeyondTheBudgetNobodyCouldBeSparedEither) {
  std::mt19937_64 chance(12);
  for (int n = 0; n < 2000; ++n) {
    const Tried tried = random_case(chance, 64);
    const auto set = cover(tried.residents, tried.missing, Eviction::kCost, chance() % 300);
    for (std::size_t spared = 0; spared < set.size(); ++spared) {
      auto others = set;
      others.erase(others.begin() + static_cast<std::ptrdiff_t>(spared));
      ASSERT_FALSE(suffices(given(tried.residents, others), tried.missing)) << "case " << n;
    }
  }
}

// --- What the judge makes of it ------------------------------------------------------------------

struct Pool {
  std::vector<Holding> holdings;
  RoomRules rules;

  Holding& add(std::uint64_t gigabytes, std::uint64_t cost, std::uint32_t leases = 0) {
    Holding holding;
    holding.resident = resident(static_cast<std::uint32_t>(holdings.size()), gigabytes, cost);
    holding.resident.in_flight = leases;
    holding.role = Holding::Role::kCandidate;
    holding.drain_timeout_ns = 30 * kSecond_ns;
    holdings.push_back(holding);
    return holdings.back();
  }
  static Head head(std::uint64_t arrival, std::uint64_t gigabytes) {
    Head h;
    h.first.arrival = arrival;
    h.first.model = arrival;
    h.first.deadline_ns = kNever_ns;
    h.first.looked_ns = kNow_ns;
    h.first.takes = Amounts(1, gigabytes);
    h.since_ns = kNow_ns;
    return h;
  }
  RoomPlan plan(const std::vector<Head>& heads) {
    rules.order.now_ns = kNow_ns;
    Alarm alarm(kNow_ns);
    return make_room(holdings, heads, rules, alarm);
  }
  // "close 1", "hold 2", "commit 3 of 1", "reopen 4"
  std::vector<std::string> steps(const std::vector<Head>& heads) {
    std::vector<std::string> texts;
    for (const RoomStep& step : plan(heads).steps) {
      const char* const verb = step.kind == RoomStep::Kind::kCommit   ? "commit "
                               : step.kind == RoomStep::Kind::kReopen ? "reopen "
                               : step.only_hold                       ? "hold "
                                                                      : "close ";
      texts.push_back(verb + std::to_string(step.holding) +
                      (step.set == 0 ? "" : " of " + std::to_string(step.set)));
    }
    return texts;
  }
};

using ::testing::ElementsAre;

TEST(RoomForBytes, ThoseWhoMakeRoomTogetherEndTogether) {
  Pool pool;
  pool.rules.limits = {0, 64};
  pool.add(30, 10);
  pool.add(20, 10);
  pool.add(10, 9000);
  EXPECT_THAT(pool.steps({Pool::head(1, 50)}), ElementsAre("close 0 of 1", "close 1 of 1"));
  EXPECT_EQ(pool.plan({Pool::head(1, 50)}).steps[0].reason, Reason::kMemory);
}

TEST(RoomForBytes, ThoseInUseAreDrainedFirstAndTheIdleStayOpenMeanwhile) {
  Pool pool;
  pool.rules.limits = {0, 64};
  pool.add(30, 10, 1);
  Holding& idle = pool.add(30, 10);
  idle.max_wait_ns = 60 * kSecond_ns;
  Head head = Pool::head(1, 60);
  head.load_ns = kSecond_ns;
  head.since_ns = kNow_ns - 10 * kSecond_ns;
  EXPECT_THAT(pool.steps({head}), ElementsAre("hold 0"));
  head.since_ns = kNow_ns - 60 * kSecond_ns;
  EXPECT_THAT(pool.steps({head}), ElementsAre("hold 1", "hold 0")) << "he has waited max_wait";
  pool.holdings[0].role = Holding::Role::kDraining;
  pool.holdings[0].closed_ns = kNow_ns;
  head.since_ns = kNow_ns - 10 * kSecond_ns;
  EXPECT_THAT(pool.steps({head}), IsEmpty()) << "it drains on";
  pool.holdings[0].resident.in_flight = 0;
  EXPECT_THAT(pool.steps({head}), UnorderedElementsAre("close 1 of 1", "commit 0 of 1"));
  idle.role = Holding::Role::kDraining;
  idle.closed_ns = kNow_ns;
  idle.resident.in_flight = 1;
  EXPECT_THAT(pool.steps({head}), IsEmpty()) << "who has drained waits for the last";
}

// Rule 8: over the limit after measuring.
TEST(AboveTheLimit, TheLeastValueGoesAndNeverTheOneJustLoaded) {
  Pool pool;
  pool.rules.limits = {0, 64};
  pool.add(30, 9000);
  pool.add(30, 500);
  Holding& newest = pool.add(30, 1);
  newest.resident.ready_ns = kNow_ns - 5 * kSecond_ns;
  EXPECT_THAT(pool.steps({}), ElementsAre("close 1"));
  newest.resident.ready_ns = kNow_ns - kJustLoaded_ns;
  EXPECT_THAT(pool.steps({}), ElementsAre("close 2")) << "a minute is long enough";
}

TEST(AboveTheLimit, WhileTheOneJustLoadedIsSparedTheJudgeLooksAgainWhenItIsNot) {
  Pool pool;
  pool.rules.limits = {0, 64};
  pool.add(40, 10).role = Holding::Role::kStays;
  pool.add(40, 10).resident.ready_ns = kNow_ns - 5 * kSecond_ns;
  pool.rules.order.now_ns = kNow_ns;
  Alarm alarm(kNow_ns);
  EXPECT_THAT(make_room(pool.holdings, {}, pool.rules, alarm).steps, IsEmpty());
  EXPECT_EQ(alarm.wake_ns(), kNow_ns - 5 * kSecond_ns + kJustLoaded_ns);
}

TEST(AboveTheLimit, TheOneJustLoadedGoesIfItAloneIsTooMuchOrAPlaceIsMissing) {
  Pool pool;
  pool.rules.limits = {0, 64};
  pool.add(80, 10).resident.ready_ns = kNow_ns - 5 * kSecond_ns;
  EXPECT_THAT(pool.steps({}), ElementsAre("close 0"));
  pool.rules.limits = {1, 0};
  pool.add(10, 9000);
  EXPECT_THAT(pool.steps({}), ElementsAre("close 0"));
}

TEST(AboveTheLimit, P2NobodyIsCutForIt) {
  Pool pool;
  pool.rules.limits = {0, 64};
  Holding& busy = pool.add(40, 10, 1);
  busy.when_busy = WhenBusy::kForce;
  pool.add(40, 10).resident.ready_ns = kNow_ns - 5 * kSecond_ns;
  const auto steps = pool.plan({}).steps;
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_EQ(steps[0].holding, 0u);
  EXPECT_FALSE(steps[0].forced);
  EXPECT_TRUE(steps[0].hold) << "it drains";
}

TEST(RoomForBytes, NobodyGoesForAHeadThatDoesNotFitAllTheSame) {
  Pool pool;
  pool.rules.limits = {0, 64};
  pool.add(30, 10);
  Holding& pinned = pool.add(30, 10);
  pinned.role = Holding::Role::kStays;
  EXPECT_THAT(pool.steps({Pool::head(1, 50)}), IsEmpty());
  EXPECT_THAT(pool.steps({Pool::head(1, 50), Pool::head(2, 10)}), IsEmpty())
      << "what it would free is taken by the one before it";
  EXPECT_THAT(pool.steps({Pool::head(1, 65), Pool::head(2, 10)}), ElementsAre("close 0"))
      << "one that is too large is answered, and waits for nothing";
}

TEST(RoomForBytes, OnlyThoseGoThatGiveBackWhatIsMissing) {
  Pool pool;
  pool.rules.limits = {4, 64};
  pool.add(0, 1);
  pool.add(60, 9000);
  EXPECT_THAT(pool.steps({Pool::head(1, 10)}), ElementsAre("close 1"));
  pool.holdings[0].resident.in_flight = 1;
  EXPECT_THAT(pool.plan({Pool::head(1, 10)}).awaited_ends, IsEmpty()) << "nor is their end awaited";
}

TEST(RoomForBytes, AboveALimitThatCannotBeMetOnlyThoseGoThatGiveBackSome) {
  Pool pool;
  pool.rules.limits = {0, 64};
  pool.add(80, 10).role = Holding::Role::kStays;
  pool.add(10, 10);
  pool.add(0, 1);
  EXPECT_THAT(pool.steps({}), ElementsAre("close 1"));
}

TEST(RoomForBytes, WhatIsLeavingAndWhatEarlierHeadsArePromisedCount) {
  Pool pool;
  pool.rules.limits = {0, 64};
  Holding& leaving = pool.add(40, 10);
  leaving.role = Holding::Role::kLeaving;
  pool.add(20, 10);
  EXPECT_THAT(pool.steps({Pool::head(1, 40)}), IsEmpty());
  EXPECT_THAT(pool.steps({Pool::head(1, 40), Pool::head(2, 10)}), ElementsAre("close 1"));
}

TEST(RoomForBytes, AboveALoweredLimitTheCheapestGoThatBringItDown) {
  Pool pool;
  pool.rules.limits = {0, 40};
  pool.add(30, 11);
  pool.add(5, 10);
  pool.add(10, 5000);
  EXPECT_THAT(pool.steps({}), ElementsAre("close 1"));
}

}  // namespace
}  // namespace modelpool
