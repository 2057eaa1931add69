// Workers killed while they hold things, and anywhere at all.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/daemon.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

TEST(P6AnyProcessMayDie, AWorkerKilledWithLeasesLeavesNoneAndCountsAsAUse) {
  const Scratch scratch;
  const Daemon daemon(scratch);
  Pool pool = attach(scratch);
  load_external(pool, "m").release();
  const std::uint64_t before = look(pool).find_model("m")->last_used_ns;
  Forked worker([&](Forked::Child& parent) {
    Pool mine = attach(scratch);
    std::vector<Lease> leases;
    for (int i = 0; i < 20; ++i) leases.push_back(lease_on(mine, "m"));
    parent.say("leased");
    parent.hear();
  });
  ASSERT_EQ(worker.hear(), "leased");
  ASSERT_EQ(look(pool).find_model("m")->in_flight, 20u);
  worker.kill_now();
  EXPECT_TRUE(eventually([&] { return nothing_left_but(pool, {getpid()}); }));
  EXPECT_EQ(state_of(pool, "m"), "ready");
  EXPECT_GT(look(pool).find_model("m")->last_used_ns, before);
  EXPECT_EQ(findings(shared_segment_of(pool), true), "");
}

TEST(P6AnyProcessMayDie, LeasesOfADeadWorkerStillPinUntilTheCoordinatorHasProvedIt) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  load_external(pool, "m").release();
  Forked worker([&](Forked::Child& parent) {
    Pool mine = attach(scratch);
    const Lease lease = lease_on(mine, "m");
    parent.say("leased");
    parent.hear();
  });
  ASSERT_EQ(worker.hear(), "leased");
  worker.kill_now();
  EXPECT_EQ(look(pool).find_model("m")->in_flight, 1u);
  const Daemon daemon(scratch);
  EXPECT_TRUE(eventually([&] { return nothing_left_but(pool, {getpid()}); }));
}

TEST(P6AnyProcessMayDie, TheRowOfADeadWorkerServesTheNext) {
  const Scratch scratch;
  Capacities capacities = small_capacities();
  capacities.workers = 2;
  Pool pool = make_pool(scratch, {}, capacities);
  const Daemon daemon(scratch);
  for (int i = 0; i < 5; ++i) {
    Forked worker([&](Forked::Child& parent) {
      const Pool mine = attach(scratch);
      parent.say("attached");
      parent.hear();
    });
    ASSERT_EQ(worker.hear(), "attached");
    worker.kill_now();
    ASSERT_TRUE(eventually([&] { return nothing_left_but(pool, {getpid()}); }));
  }
  EXPECT_EQ(look(pool).workers.size(), 1u);
}

// 64 dead workers filled the table for ever.
TEST(P6AnyProcessMayDie, WithoutACoordinatorTheRowsOfTheDeadServeTheNextAndTheirLeasesCountAsUses) {
  const Scratch scratch;
  Capacities capacities = small_capacities();
  capacities.workers = 3;
  Pool pool = make_pool(scratch, {}, capacities);
  load_external(pool, "m").release();
  const std::uint64_t before = look(pool).find_model("m")->last_used_ns;
  for (int i = 0; i < 4; ++i) {
    Forked worker([&](Forked::Child& parent) {
      auto mine = Pool::attach("default", {.dir = scratch.dir()});
      if (!mine) return parent.say(mine.error().text);
      const Lease lease = lease_on(*mine, "m");
      parent.say("attached");
      parent.hear();
    });
    ASSERT_EQ(worker.hear(), "attached") << i;
    worker.kill_now();
  }
  EXPECT_LE(look(pool).workers.size(), 3u);
  EXPECT_GT(look(pool).find_model("m")->last_used_ns, before);
  EXPECT_EQ(findings(shared_segment_of(pool)), "");
}

// What it started is the coordinator's to end, and the row says whose it is.
TEST(P6AnyProcessMayDie, TheRowOfADeadTicketHolderIsLeftToTheCoordinator) {
  const Orphans orphans;
  const Scratch scratch;
  Capacities capacities = small_capacities();
  capacities.workers = 2;
  Pool pool = make_pool(scratch, {}, capacities);
  pid_t started = 0;
  {
    Forked loader([&](Forked::Child& parent) {
      Pool mine = attach(scratch);
      LoadTicket ticket = ticket_for(mine, "m");
      parent.say(ticket.spawn({"sleep", "600"}) ? std::to_string(ticket.pid()) : "0");
      parent.hear();
    });
    started = std::stoi(loader.hear());
    loader.kill_now();
  }
  ASSERT_GT(started, 0);
  Forked next([&](Forked::Child& parent) {
    parent.say(std::string(errc_name(code_of(Pool::attach("default", {.dir = scratch.dir()})))));
  });
  EXPECT_EQ(next.hear(), "table_full");
  EXPECT_EQ(state_of(pool, "m"), "starting");
  const Daemon daemon(scratch, {"--stop-grace", "100ms"});
  EXPECT_TRUE(
      eventually([&] { return !is_running(started) && nothing_left_but(pool, {getpid()}); }));
}

TEST(P6AnyProcessMayDie, ALivingWorkersRowIsNobodyElses) {
  const Scratch scratch;
  Capacities capacities = small_capacities();
  capacities.workers = 2;
  Pool pool = make_pool(scratch, {}, capacities);
  load_external(pool, "m").release();
  Forked stopped([&](Forked::Child& parent) {
    Pool mine = attach(scratch);
    const Lease lease = lease_on(mine, "m");
    parent.say("leased");
    parent.hear();
  });
  ASSERT_EQ(stopped.hear(), "leased");
  stopped.signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(stopped.pid()));
  Forked next([&](Forked::Child& parent) {
    parent.say(std::string(errc_name(code_of(Pool::attach("default", {.dir = scratch.dir()})))));
  });
  EXPECT_EQ(next.hear(), "table_full");
  EXPECT_EQ(look(pool).find_model("m")->in_flight, 1u);
}

TEST(P6AnyProcessMayDie, AProcessKilledUnderTheMutexStopsNobody) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  for (int i = 0; i < 20; ++i) {
    Forked holder([&](Forked::Child& parent) {
      const auto lock = segment_of(pool).lock_structure();
      parent.say(lock ? "locked" : lock.error().text);
      parent.hear();
    });
    ASSERT_EQ(holder.hear(), "locked");
    holder.kill_now();
    const auto lock = segment_of(pool).lock_structure();
    ASSERT_TRUE(lock);
    EXPECT_TRUE(lock->owner_died());
  }
  ticket_for(pool, "m");
}

// Six workers do everything a worker does, on five models in three places, and one after the other
// is killed without warning, the coordinator too now and then. What is left in the end is sound.
TEST(P6AnyProcessMayDie, WorkersAndCoordinatorKilledAnywhereLeaveAPoolThatGoesOn) {
  constexpr int kWorkers = 6;
  constexpr int kKills = 40;
  const Orphans orphans;
  const Scratch scratch;
  Daemon daemon(scratch, {"--max-backends", "3", "--load-cooldown", "off", "--stop-grace", "1s",
                          "--drain-timeout", "100ms", "--load-timeout", "10s"});
  Pool pool = attach(scratch);
  const unsigned seed = std::random_device{}();
  RecordProperty("seed", std::to_string(seed));
  std::mt19937 random(seed);

  const auto work = [&](unsigned own_seed) {
    return std::make_unique<Forked>([&, own_seed](Forked::Child&) {
      std::mt19937 dice(own_seed);
      Pool mine = attach(scratch);
      std::vector<Lease> leases;
      for (;;) {
        const std::string model = "m" + std::to_string(dice() % 5);
        if (leases.size() > 3 || (!leases.empty() && dice() % 3 == 0)) leases.erase(leases.begin());
        if (dice() % 8 == 0) static_cast<void>(mine.touch(model));
        if (dice() % 16 == 0) static_cast<void>(mine.evict(model));
        auto granted = mine.acquire(model, std::chrono::milliseconds(dice() % 200));
        if (!granted) {
          leases.clear();
          continue;
        }
        if (auto* lease = std::get_if<Lease>(&*granted)) {
          leases.push_back(std::move(*lease));
          continue;
        }
        auto& ticket = std::get<LoadTicket>(*granted);
        if (dice() % 8 == 0) continue;  // gives it up
        if (!ticket.spawn({"sleep", "60"})) continue;
        if (dice() % 8 == 0) {
          static_cast<void>(ticket.fail("by the dice"));
          continue;
        }
        auto lease = ticket.ready("of:" + model);
        if (lease) leases.push_back(std::move(*lease));
      }
    });
  };
  std::vector<std::unique_ptr<Forked>> workers;
  for (int i = 0; i < kWorkers; ++i) workers.push_back(work(static_cast<unsigned>(random())));
  const std::string token = "MODELPOOL_BACKEND=" + segment_of(pool).uuid_text();
  for (int i = 0; i < kKills; ++i) {
    // A moment that depends on nothing the pool does.
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::microseconds(random() % 50'000);
    while (std::chrono::steady_clock::now() < until) {
      EXPECT_LE(processes_with_environment(token).size(), 3u) << "seed " << seed;
    }
    if (i % 8 == 7) {
      daemon.kill_now();
      daemon.start();
    }
    auto& victim = workers[random() % workers.size()];
    victim->kill_now();
    victim = work(static_cast<unsigned>(random()));
  }
  workers.clear();
  EXPECT_TRUE(eventually([&] { return nothing_left_but(pool, {getpid()}); })) << "seed " << seed;
  EXPECT_TRUE(eventually([&] { return findings(shared_segment_of(pool), true).empty(); }))
      << findings(shared_segment_of(pool), true) << "seed " << seed;
  // It goes on: every model can still be had, in at most three processes.
  for (int m = 0; m < 5; ++m) {
    auto granted = pool.acquire("m" + std::to_string(m), std::chrono::seconds(30));
    ASSERT_TRUE(granted) << granted.error().text << ", seed " << seed;
    if (auto* ticket = std::get_if<LoadTicket>(&*granted)) {
      ASSERT_TRUE(ticket->spawn({"sleep", "60"}));
      ASSERT_TRUE(ticket->ready("of:m" + std::to_string(m)));
    }
    EXPECT_LE(processes_with_environment(token).size(), 3u);
  }
}

}  // namespace
