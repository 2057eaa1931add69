#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "world.hpp"

namespace modelpool::sim {
namespace {

using coordinator::Action;
using coordinator::ActionKind;
using coordinator::Decision;
using coordinator::Facts;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint64_t kYear_ns = 365 * 86'400 * kSecond_ns;

// What failed once is run for ever. A line: the workload, its seed, and what it found.
struct Seed {
  const char* workload;
  std::uint64_t seed;
};
constexpr Seed kFailedOnce[] = {
    // All of them defects of the simulation itself: the line, whose waiters of one model share a
    // turn,
    {"busy", 2},
    {"force", 2},
    // a request that came after the look was held against that look,
    {"quiet", 101},
    {"quiet", 103},
    // and the deadline of a dead worker's request counted for those who live.
    {"memory", 101},
};

std::vector<std::string> run(const Workload& workload, std::uint64_t seed, std::uint64_t decisions,
                             const Policy& policy = coordinator::decide) {
  World world(workload, seed, policy);
  world.run(100 * kYear_ns, decisions);
  return world.violations();
}

// One of these each day, the next one each day; all with MODELPOOL_TEST_EVERY_SEED.
std::vector<std::uint64_t> todays(std::vector<std::uint64_t> seeds) {
  if (std::getenv("MODELPOOL_TEST_EVERY_SEED") != nullptr) return seeds;
  const auto today = std::chrono::floor<std::chrono::days>(std::chrono::system_clock::now());
  return {seeds[static_cast<std::size_t>(today.time_since_epoch().count()) % seeds.size()]};
}

TEST(Simulation, KeepsThePromisesOfEveryWorkload) {
  for (const Workload& workload : workloads()) {
    for (const std::uint64_t seed : todays({100, 101, 102})) {
      EXPECT_THAT(run(workload, seed, 15'000), IsEmpty())
          << "sim_run --workload " << workload.name << " --seed " << seed;
    }
  }
}

TEST(Simulation, KeepsThePromisesWhereTheyOnceFailed) {
  for (const auto& [name, seed] : kFailedOnce) {
    EXPECT_THAT(run(workload(name), seed, 30'000), IsEmpty()) << name << " " << seed;
  }
}

TEST(Simulation, KeepsThePromisesForYears) {
  World world(workload("quiet"), 1);
  world.run(2 * kYear_ns);
  EXPECT_THAT(world.violations(), IsEmpty());
  EXPECT_GE(world.passed_ns(), 2 * kYear_ns);
}

TEST(Simulation, KeepsThePromisesWithCoarseStamps) {
  Workload workload = sim::workload("busy");
  workload.stamp_resolution_ns = 50 * kMillisecond_ns;
  EXPECT_THAT(run(workload, 1, 20'000), IsEmpty());
}

TEST(Simulation, RepeatsItselfFromItsSeed) {
  const auto fingerprint = [](std::uint64_t seed) {
    World world(workload("busy"), seed);
    world.run(kYear_ns, 5'000);
    return world.fingerprint();
  };
  EXPECT_EQ(fingerprint(7), fingerprint(7));
  EXPECT_NE(fingerprint(7), fingerprint(8));
}

// Nothing that is not lived through is tested.
TEST(Simulation, LivesThroughEverythingItHasRulesFor) {
  World world(workload("busy"), 3);
  world.run(kYear_ns, 60'000);
  const Counters& c = world.counters();
  for (const std::uint64_t count : {c.leases, c.loads, c.failed_loads, c.evictions, c.kills,
                                    c.asked, c.drains, c.timeouts, c.restarts, c.worker_deaths}) {
    EXPECT_GT(count, 0u);
  }
}

// A server that computes answers no probe, and for some time after it.
void answer_no_probe_beside_requests(const Snapshot& snapshot, Facts* facts) {
  constexpr std::uint64_t kInterval_ns = 10 * kSecond_ns;
  for (const BackendView& b : snapshot.backends) {
    const bool was_used = b.in_flight > 0 || snapshot.now_ns < b.last_used_ns + kInterval_ns;
    if (b.state.state != BackendState::kReady || !was_used) continue;
    const std::uint64_t last_ns = b.in_flight > 0 ? snapshot.now_ns : b.last_used_ns - 1;
    if (last_ns < 3 * kInterval_ns) continue;
    facts->unanswered.push_back({b.ref,
                                 {last_ns - 2 * kInterval_ns, last_ns - kInterval_ns, last_ns},
                                 "no answer within 5s"});
  }
}

struct Harm {
  std::uint64_t asked = 0;
  std::uint64_t ended = 0;  // for what a request or a probe did
};
Harm harm_of(const Workload& workload, std::uint64_t seed, std::uint64_t decisions) {
  Harm harm;
  World world(workload, seed, [&harm](const Snapshot& snapshot, Facts facts) {
    answer_no_probe_beside_requests(snapshot, &facts);
    Decision decision = coordinator::decide(snapshot, facts);
    for (const Action& action : decision.actions) {
      harm.asked += action.kind == ActionKind::kAskToEnd;
      const bool ends = action.kind == ActionKind::kClose || action.kind == ActionKind::kCommit;
      const Reason reason = action.stop.reason;
      harm.ended += ends && (reason_row(reason).lease_rule != nullptr || reason == Reason::kWedged);
    }
    return decision;
  });
  world.run(100 * kYear_ns, decisions);
  EXPECT_GT(world.counters().leases, 100u);
  return harm;
}

// P2: prompts of ten minutes, a minute between two tokens, deaf while they compute.
TEST(Simulation, P2WhatIsSlowButAliveIsNeverAskedToEndAndNeverKilled) {
  for (const std::uint64_t seed : todays({1, 2})) {
    const Harm harm = harm_of(workload("slow"), seed, 15'000);
    EXPECT_EQ(harm.asked, 0u) << seed;
    EXPECT_EQ(harm.ended, 0u) << seed;
  }
  Workload impatient = workload("slow");
  impatient.settings.pool.set(Setting::kFirstByteTimeout, 300 * kSecond_ns);
  const Harm harm = harm_of(impatient, 1, 15'000);
  EXPECT_GT(harm.asked + harm.ended, 0u) << "or nothing took so long";
}

// --- A decide that is wrong on purpose -----------------------------------------------------------

struct Broken {
  const char* name;
  const char* workload;
  const char* caught;  // part of what the oracle says
  Policy decide;

  friend void PrintTo(const Broken& broken, std::ostream* out) { *out << broken.name; }
};

// The real one, with a snapshot or facts that are not true.
Policy misled(const std::function<void(Snapshot&, Facts&)>& mislead) {
  return [mislead](const Snapshot& snapshot, const Facts& facts) {
    Snapshot s = snapshot;
    Facts f = facts;
    mislead(s, f);
    return coordinator::decide(s, f);
  };
}
// The real one, and then something is done to its answer.
Policy altered(const std::function<void(Decision&)>& alter) {
  return [alter](const Snapshot& snapshot, const Facts& facts) {
    Decision decision = coordinator::decide(snapshot, facts);
    alter(decision);
    return decision;
  };
}
Policy without(const std::function<bool(const Action&)>& forgets) {
  return altered([forgets](Decision& d) { std::erase_if(d.actions, forgets); });
}

std::vector<Broken> broken_ones() {
  std::vector<Broken> all;
  all.push_back({"SeesNoLeases", "lru", "is in use", misled([](Snapshot& s, Facts&) {
                   s.leases.clear();
                   for (BackendView& b : s.backends) b.in_flight = 0;
                 })});
  all.push_back({"CutsLeasesForRoom", "drain", "P2", altered([](Decision& d) {
                   for (Action& a : d.actions) a.stop.forced |= a.stop.reason == Reason::kLru;
                 })});
  all.push_back({"CallsTheSignalledGone", "busy", "P3", misled([](Snapshot& s, Facts& f) {
                   for (const BackendView& b : s.backends) {
                     if (b.stop.signalled_ns != 0) f.vanished.push_back(b.ref);
                   }
                 })});
  all.push_back({"TakesTheFirstProcessForAll", "busy", "P3",
                 misled([](Snapshot&, Facts& f) { f.vanished = f.exited; })});
  all.push_back({"TakesLostForFailed", "busy", "P4", altered([](Decision& d) {
                   for (Action& a : d.actions)
                     a.stop.failed = a.stop.failed == kLoadLost ? kLoadFailed : a.stop.failed;
                 })});
  all.push_back({"TakesEvictedForFailed", "busy", "P4", altered([](Decision& d) {
                   for (Action& a : d.actions)
                     a.stop.failed = a.stop.failed == kLoadEnded ? kLoadFailed : a.stop.failed;
                 })});
  all.push_back({"MakesNoRoom", "drain", "P5",
                 without([](const Action& a) { return a.stop.reason == Reason::kLru; })});
  all.push_back(
      {"MakesRoomForNobody", "busy", "P5", [](const Snapshot& snapshot, const Facts& facts) {
         Decision d = coordinator::decide(snapshot, facts);
         for (const BackendView& b : snapshot.backends) {
           if (b.state.state != BackendState::kReady || !d.actions.empty() || b.pinned()) continue;
           Action& a = d.actions.emplace_back();
           a.backend = b.ref;
           a.stop.reason = Reason::kLru;
         }
         return d;
       }});
  all.push_back({"TakesTheMostRecentlyUsed", "lru", "order", misled([](Snapshot& s, Facts&) {
                   for (BackendView& b : s.backends) {
                     b.last_used_ns =
                         s.now_ns -
                         std::min(s.now_ns, b.last_used_ns - std::min(b.last_used_ns, b.ready_ns));
                   }
                   for (BackendView& b : s.backends) {
                     Effective never_idle = b.settings();
                     never_idle.set(Setting::kIdleTimeout, 0);
                     b.effective = std::make_shared<const Effective>(never_idle);
                   }
                 })});
  const auto with_max_wait = [](std::uint64_t limit_ns) {
    return misled([limit_ns](Snapshot& s, Facts&) {
      for (BackendView& b : s.backends) {
        Effective other = b.settings();
        other.set(Setting::kMaxWait, limit_ns);
        b.effective = std::make_shared<const Effective>(other);
      }
    });
  };
  all.push_back({"TakesThoseInUseAtOnce", "drain", "waited long enough", with_max_wait(0)});
  all.push_back({"KeepsThoseInUseTooLong", "lru", "could make room", with_max_wait(kYear_ns)});
  all.push_back({"LooksAtAFastClock", "busy", "P8",
                 misled([](Snapshot& s, Facts&) { s.now_ns += kSecond_ns; })});
  all.push_back({"ForgetsTheResolutionOfStamps", "busy", "P8",
                 misled([](Snapshot&, Facts& f) { f.stamp_resolution_ns = 0; })});
  all.push_back({"OversleepsByASecond", "busy", "P8",
                 altered([](Decision& d) { d.wake_ns = add_ns(d.wake_ns, kSecond_ns); })});
  all.push_back(
      {"SleepsForEver", "busy", "P8", altered([](Decision& d) { d.wake_ns = kNever_ns; })});
  all.push_back({"IgnoresLimitsOfRequests", "busy", "P8", misled([](Snapshot& s, Facts&) {
                   for (LeaseView& l : s.leases) l.limit_ns = 0;
                 })});
  all.push_back({"WantsNothing", "drain", "P8", altered([](Decision& d) { d.wanted = 0; })});
  all.push_back({"NeverSendsSigkill", "busy", "P8", without([](const Action& a) {
                   return a.kind == ActionKind::kSignal && a.signal == 9;
                 })});
  all.push_back({"SendsSigkillAtOnce", "busy", "P9", altered([](Decision& d) {
                   for (Action& a : d.actions) {
                     if (a.kind == ActionKind::kSignal) a.signal = 9;
                   }
                 })});
  all.push_back({"LeavesSlotsBehind", "busy", "P6",
                 without([](const Action& a) { return a.kind == ActionKind::kFree; })});
  all.push_back({"LeavesTheDead", "busy", "P6",
                 without([](const Action& a) { return a.kind == ActionKind::kReapWorker; })});
  all.push_back({"ReapsTheLiving", "busy", "P6", misled([](Snapshot& s, Facts& f) {
                   if (!s.workers.empty()) f.dead_workers = {s.workers.front().ref};
                 })});
  all.push_back({"TrustsTheDeadJudge", "busy", "P10", misled([](Snapshot& s, Facts& f) {
                   for (BackendView& b : s.backends) {
                     if (b.state.state == BackendState::kEvicting) b.state.owner = f.epoch;
                   }
                 })});
  all.push_back({"TakesBackWhatItCloses", "drain", "come to rest",
                 [](const Snapshot& snapshot, const Facts& facts) {
                   Decision d = coordinator::decide(snapshot, facts);
                   for (const BackendView& b : snapshot.backends) {
                     if (b.state.state != BackendState::kEvicting) continue;
                     Action& a = d.actions.emplace_back();
                     a.kind = ActionKind::kReopen;
                     a.backend = b.ref;
                   }
                   return d;
                 }});
  all.push_back({"AsksNobody", "busy", "P8",
                 without([](const Action& a) { return a.kind == ActionKind::kAskToEnd; })});
  all.push_back({"KillsForThoseItCouldAsk", "busy", "P8", misled([](Snapshot& s, Facts&) {
                   for (LeaseView& l : s.leases) l.flags = 0;
                 })});
  all.push_back({"TakesEveryAskForOld", "busy", "P8", misled([](Snapshot& s, Facts&) {
                   for (LeaseView& l : s.leases)
                     l.cancel_at_ns -= std::min(l.cancel_at_ns, kSecond_ns);
                 })});
  all.push_back({"HoldsADrainForEver", "busy", "P8",
                 without([](const Action& a) { return a.drain_failed; })});
  return all;
}

class BrokenDecide : public ::testing::TestWithParam<Broken> {};

TEST_P(BrokenDecide, IsCaught) {
  std::vector<std::string> found;
  for (std::uint64_t seed = 1; seed <= 20 && found.empty(); ++seed) {
    found = run(workload(GetParam().workload), seed, 20'000, GetParam().decide);
  }
  ASSERT_FALSE(found.empty());
  EXPECT_THAT(found.front(), HasSubstr(GetParam().caught));
}

INSTANTIATE_TEST_SUITE_P(All, BrokenDecide, ::testing::ValuesIn(broken_ones()),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace modelpool::sim
