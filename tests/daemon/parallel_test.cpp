// parallel: a backend serves at most so many requests at once, first come, first served.
#include <signal.h>

#include <optional>

#include "base/time.hpp"
#include "policy/line.hpp"
#include "pool_test.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ParallelTest : public PoolTest {
 protected:
  // One holds m, the others stand in line for it in their order.
  void stand_in_line(RemoteWorker& holder, const std::vector<RemoteWorker*>& line) {
    ASSERT_GT(holder.load("m"), 0);
    for (RemoteWorker* worker : line) wait_behind(*worker);
  }
  void wait_behind(RemoteWorker& worker) {
    const std::size_t before = waiting();
    worker.begin_acquire("m");
    ASSERT_TRUE(eventually([&] { return waiting() == before + 1; }));
  }
  std::size_t waiting() {
    if (!pool_) pool_ = attach(scratch_);
    return look(*pool_).waiters.size();
  }
  int in_flight() { return entry("m")["in_flight"].get<int>(); }
  std::string explain() { return poolctl(scratch_, {"explain", "m"}).out; }

  const std::string path_ = scratch_.path("config.toml");
  std::optional<Pool> pool_;
};

struct Count {
  std::atomic<int> now;
  std::atomic<int> most;
  std::atomic<int> served;
};

TEST_F(ParallelTest, NeverTwoAtOnceOfEightContenders) {
  constexpr int kContenders = 8;
  constexpr int kEach = 150;
  const SharedMemory<Count> count;
  std::vector<std::unique_ptr<Forked>> contenders;
  start({"--parallel", "1"});
  RemoteWorker loader(scratch_);
  ASSERT_GT(loader.load_idle("m"), 0);
  for (int i = 0; i < kContenders; ++i) {
    contenders.push_back(std::make_unique<Forked>([&](Forked::Child&) {
      Pool pool = attach(scratch_);
      for (int request = 0; request < kEach; ++request) {
        const Lease lease = lease_on(pool, "m", kPatience);
        const int now = ++count->now;
        for (int seen = count->most; seen < now && !count->most.compare_exchange_weak(seen, now);) {
        }
        if (request % 8 == 0) std::this_thread::yield();
        --count->now;
        ++count->served;
      }
    }));
  }
  for (auto& contender : contenders) EXPECT_EQ(contender->wait(), 0);
  EXPECT_EQ(count->most, 1);
  EXPECT_EQ(count->served, kContenders * kEach);
  EXPECT_TRUE(settles());
}

TEST_F(ParallelTest, P5FirstComeIsFirstServedAcrossWorkers) {
  RemoteWorker holder(scratch_), first(scratch_), second(scratch_), third(scratch_);
  start({"--parallel", "1"});
  stand_in_line(holder, {&first, &second, &third});
  EXPECT_EQ(holder.release("m"), "ok");
  EXPECT_EQ(first.hear(), "lease");
  EXPECT_EQ(holder.acquire("m", 0), "timeout") << "whoever comes now is behind them";
  first.release("m");
  EXPECT_EQ(second.hear(), "lease");
  second.release("m");
  EXPECT_EQ(third.hear(), "lease");
  EXPECT_EQ(waiting(), 0u);
}

TEST_F(ParallelTest, RaisingItLetsWaitersInAndLoweringCutsNone) {
  RemoteWorker holder(scratch_), first(scratch_), second(scratch_);
  start({"--parallel", "1"});
  stand_in_line(holder, {&first, &second});
  ASSERT_EQ(poolctl(scratch_, {"set", "parallel=2"}).code, 0);
  EXPECT_EQ(first.hear(), "lease");
  EXPECT_EQ(waiting(), 1u);
  ASSERT_EQ(poolctl(scratch_, {"set", "parallel=1"}).code, 0);
  EXPECT_EQ(in_flight(), 2);
  EXPECT_EQ(holder.progress("m"), "ok");
  EXPECT_EQ(first.progress("m"), "ok");
  holder.release("m");
  EXPECT_EQ(holder.acquire("m", 0), "timeout") << "one is served still";
  ASSERT_EQ(poolctl(scratch_, {"set", "parallel=0"}).code, 0);
  EXPECT_EQ(second.hear(), "lease") << "no limit any more";
  EXPECT_EQ(entry("m")["parallel"], nullptr);
  ASSERT_EQ(poolctl(scratch_, {"set", "parallel=2"}).code, 0);
  EXPECT_EQ(holder.acquire("m", 0), "timeout") << "those of before it counted are counted";
}

TEST_F(ParallelTest, P6TheLeaseOfAKilledWorkerGoesToTheNext) {
  RemoteWorker holder(scratch_), first(scratch_), second(scratch_);
  start({"--parallel", "1"});
  stand_in_line(holder, {&first, &second});
  first.kill_now();  // it stands before the second
  holder.kill_now();
  EXPECT_EQ(second.hear(), "lease");
  EXPECT_TRUE(settles());
}

TEST_F(ParallelTest, P5AStoppedWaiterIsPassedOver) {
  RemoteWorker holder(scratch_), first(scratch_), second(scratch_);
  start({"--parallel", "1"});
  stand_in_line(holder, {&first, &second});
  first.signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(first.pid()));
  holder.release("m");
  EXPECT_EQ(second.hear(), "lease");
  first.signal(SIGCONT);
  second.release("m");
  EXPECT_EQ(first.hear(), "lease");
}

TEST_F(ParallelTest, P6WithoutACoordinatorItHoldsAndTheDeadHoldNobodyUp) {
  RemoteWorker holder(scratch_), first(scratch_), second(scratch_);
  start({"--parallel", "1"});
  stand_in_line(holder, {&first});
  daemon().kill_now();
  holder.release("m");
  EXPECT_EQ(first.hear(), "lease");
  EXPECT_EQ(second.acquire("m", 0), "timeout");
  wait_behind(second);
  Pool pool = attach(scratch_);
  ASSERT_TRUE(pool.set("parallel", "2"));
  EXPECT_EQ(second.hear(), "lease") << "whoever changes the setting puts the backends right";
  ASSERT_TRUE(pool.set("parallel", "1"));
  second.release("m");
  wait_behind(second);
  first.kill_now();
  EXPECT_EQ(second.hear(), "lease");
}

TEST_F(ParallelTest, ReadyARuleAndSighupSayHowManyForOneModel) {
  write_file(path_, "[[model]]\nmatch = \"m\"\nparallel = 1\n");
  RemoteWorker worker(scratch_), other(scratch_);
  start({"--config", path_});
  ASSERT_GT(worker.load("m"), 0);
  EXPECT_EQ(other.acquire("m", 0), "timeout");
  EXPECT_EQ(entry("m")["parallel"], 1);
  ASSERT_GT(worker.load("free"), 0);
  EXPECT_EQ(other.acquire("free", 0), "lease");
  wait_behind(other);
  write_file(path_, "[[model]]\nmatch = \"m\"\nparallel = 2\n");
  daemon().program().signal(SIGHUP);
  EXPECT_EQ(other.hear(), "lease");
  EXPECT_EQ(wait_event("settings_changed")["kind"], "settings_changed");
  EXPECT_EQ(entry("m")["parallel"], 2);
  // And what ready gives goes before both.
  Pool pool = attach(scratch_);
  ReadyOptions options;
  options.overrides.set(Setting::kParallel, 1);
  const Lease own = load_external(pool, "own", options);
  EXPECT_EQ(other.acquire("own", 0), "timeout");
  ASSERT_EQ(poolctl(scratch_, {"set", "parallel=5"}).code, 0);
  EXPECT_EQ(other.acquire("own", 0), "timeout");
}

TEST_F(ParallelTest, P5WhoWaitsForAFullBackendKeepsItFromThoseWhoCameLater) {
  RemoteWorker holder(scratch_), first(scratch_), other(scratch_);
  start({"--max-backends", "1", "--parallel", "1", "--max-wait", "off", "--eviction", "lru"});
  stand_in_line(holder, {&first});
  other.begin_acquire("other");
  ASSERT_TRUE(eventually([&] { return waiting() == 2; }));
  holder.release("m");
  EXPECT_EQ(first.hear(), "lease") << "its backend is in use, and it came before";
  EXPECT_EQ(waiting(), 1u);
  first.release("m");
  EXPECT_EQ(other.hear(), "ticket");
}

TEST_F(ParallelTest, P11WhatWaitsIsToldThatItsBackendIsFull) {
  RemoteWorker holder(scratch_), first(scratch_), late(scratch_);
  start({"--parallel", "1"});
  stand_in_line(holder, {&first});
  EXPECT_EQ(late.acquire("m", 0), "timeout");
  EXPECT_THAT(late.last_error(),
              HasSubstr("timed out: its backend is full (1 of 1 requests at once)"));
  EXPECT_THAT(explain(), AllOf(HasSubstr("1 of 1 requests at once, 1 request waits, the first for"),
                               HasSubstr("full, the next waits in line for it")));
  EXPECT_THAT(poolctl(scratch_, {"list"}).out,
              HasSubstr("full: 1 of 1 requests at once, 1 request"));
  EXPECT_THAT(poolctl(scratch_, {"why", "m"}).out, HasSubstr("its backend is full"));
  const Finished refused = poolctl(scratch_, {"lease", "m", "--timeout", "0s", "--", "true"});
  EXPECT_EQ(refused.code, 124);
  EXPECT_THAT(refused.err, HasSubstr("its backend is full (1 of 1 requests at once)"));
  holder.release("m");
  ASSERT_EQ(first.hear(), "lease");
  first.release("m");
  EXPECT_THAT(explain(), HasSubstr("0 of 1 requests at once"));
  EXPECT_EQ(poolctl(scratch_, {"lease", "m", "--timeout", "0s", "--", "true"}).code, 0);
  ASSERT_EQ(poolctl(scratch_, {"set", "parallel=0"}).code, 0);
  EXPECT_THAT(explain(), HasSubstr("no limit"));
}

TEST_F(ParallelTest, ABackendThatWasClosedAndOpenedCountsOn) {
  RemoteWorker holder(scratch_), other(scratch_);
  start({"--parallel", "1", "--drain-timeout", "100ms"});
  ASSERT_GT(holder.load("m"), 0);
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 1) << "its lease does not end";
  EXPECT_TRUE(wait_state("m", "ready"));
  EXPECT_EQ(other.acquire("m", 0), "timeout");
  holder.release("m");
  EXPECT_EQ(other.acquire("m"), "lease");
}

}  // namespace
}  // namespace modelpool::test
