// P1, P3, P5: one limit for everyone, who goes is the one that `eviction` says, room is made
// without cutting leases.
#include <signal.h>

#include <chrono>

#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using namespace std::chrono_literals;  // NOLINT: literals

class LimitTest : public PoolTest {
 protected:
  // `poolctl lease MODEL --start demo_backend... -- COMMAND...`, running.
  Program shell(const std::string& model, const std::vector<std::string>& command,
                const std::vector<std::string>& flags = {}) {
    std::vector<std::string> argv{
        MODELPOOL_POOLCTL,
        "--dir",
        scratch_.dir(),
        "lease",
        model,
        "--start",
        std::string(MODELPOOL_DEMO_BACKEND) + " --port {port} --name " + model,
        "--tag",
        "shell-" + model};
    argv.insert(argv.end(), flags.begin(), flags.end());
    argv.push_back("--");
    argv.insert(argv.end(), command.begin(), command.end());
    return Program(argv);
  }
  int lease_once(const std::string& model) { return shell(model, {"true"}).wait(); }
};

TEST_F(LimitTest, P3ThreeShellsOnThreeModelsWithALimitOfTwoNeverRunThreeBackends) {
  start({"--max-backends", "2"});
  Observer observer(token());
  std::vector<Program> shells;
  const std::string again =
      "for i in 1 2 3 4; do " + std::string(MODELPOOL_POOLCTL) + " --dir " + scratch_.dir() +
      " lease $1 --start \"" + MODELPOOL_DEMO_BACKEND +
      " --port {port} --name $1 --stop-time 30ms\" -- sleep 0.02 || exit 1; done";
  for (const char* model : {"alpha", "beta", "gamma"}) {
    shells.emplace_back(std::vector<std::string>{"sh", "-c", again, "sh", model});
  }
  for (Program& shell : shells) EXPECT_EQ(shell.wait(), 0) << shell.err();
  observer.stop();
  EXPECT_LE(observer.most(), 2u);
  EXPECT_GE(observer.most(), 1u) << "the observer saw nothing in " << observer.looks() << " looks";
  EXPECT_GE(count_events("evicted"), 1u) << "no room was made: the test showed nothing";
  EXPECT_TRUE(settles());
}

TEST_F(LimitTest, P1TheVictimIsTheLeastRecentlyUsedAcrossTheShells) {
  start({"--max-backends", "2", "--eviction", "lru"});
  ASSERT_EQ(lease_once("alpha"), 0);
  ASSERT_EQ(lease_once("beta"), 0);
  ASSERT_EQ(lease_once("alpha"), 0);  // another shell's use: beta is the older one now
  ASSERT_EQ(lease_once("gamma"), 0);
  EXPECT_EQ(state("alpha"), "ready");
  EXPECT_EQ(state("beta"), "");
  EXPECT_EQ(wait_event("evicted")["model"], "beta");
  ASSERT_EQ(lease_once("beta"), 0);
  EXPECT_EQ(state("alpha"), "");
}

TEST_F(LimitTest, TheOneWhoseLossCostsLeastGoesAlsoWhenItWasUsedLast) {
  start({"--max-backends", "2"});
  RemoteWorker worker(scratch_);
  worker.load_idle("dear", {"--load-time", "1500ms"});
  worker.load_idle("cheap");
  // Until then each millisecond of its load counts.
  ASSERT_TRUE(eventually([&] { return entry("cheap")["idle_ms"].get<int>() >= 1000; }));
  worker.load_idle("next");
  EXPECT_EQ(state("dear"), "ready");
  EXPECT_EQ(state("cheap"), "");
  EXPECT_EQ(poolctl(scratch_, {"set", "eviction=lru"}).code, 0);
  worker.load_idle("another");
  EXPECT_EQ(state("dear"), "") << "the setting is read at each decision";
}

TEST_F(LimitTest, TheLowerPriorityGoesFirst) {
  const std::string config = scratch_.path("pool.toml");
  write_file(config, "[[model]]\nmatch = \"first\"\npriority = 51\n");
  start({"--max-backends", "2", "--eviction", "lru", "--config", config});
  RemoteWorker worker(scratch_);
  worker.load_idle("first");
  worker.load_idle("second");
  worker.load_idle("third");
  EXPECT_EQ(state("first"), "ready");
  EXPECT_EQ(state("second"), "");
}

TEST_F(LimitTest, P5AModelInUseKeepsItsPlaceForMaxWait) {
  start({"--max-backends", "1", "--max-wait", "400ms"});
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  waiter.load_idle("beta");  // so that it is known how long its load takes
  const pid_t pid = holder.load("alpha");
  const auto began = std::chrono::steady_clock::now();
  waiter.begin_acquire("beta");
  ASSERT_TRUE(wait_state("alpha", "evicting"));
  EXPECT_GE(std::chrono::steady_clock::now() - began, 400ms);
  EXPECT_TRUE(is_running(pid));
  holder.release("alpha");
  EXPECT_EQ(waiter.hear(), "ticket");
}

TEST_F(LimitTest, CollectHoldsAModelBack) {
  start({"--max-backends", "1", "--collect", "400ms"});
  RemoteWorker worker(scratch_);
  worker.load_idle("beta");
  worker.load_idle("alpha");
  const auto began = std::chrono::steady_clock::now();
  worker.load_idle("beta");
  EXPECT_GE(std::chrono::steady_clock::now() - began, 400ms);
}

TEST_F(LimitTest, P1ATouchCountsAsAUse) {
  start({"--max-backends", "2", "--eviction", "lru"});
  RemoteWorker worker(scratch_);
  worker.load_idle("alpha");
  worker.load_idle("beta");
  EXPECT_EQ(poolctl(scratch_, {"touch", "alpha"}).code, 0);
  worker.load_idle("gamma");
  EXPECT_EQ(state("alpha"), "ready");
  EXPECT_EQ(state("beta"), "");
}

TEST_F(LimitTest, P3APlaceIsGrantedOnlyWhenTheWholeGroupIsGone) {
  start({"--max-backends", "1", "--stop-grace", "300ms"});
  const std::string carried = token();
  RemoteWorker worker(scratch_);
  worker.load_idle("stubborn", {"--ignore-sigterm", "--grandchildren", "3"});
  EXPECT_EQ(processes_with_environment(carried).size(), 4u);
  ASSERT_EQ(worker.acquire("next"), "ticket");
  EXPECT_EQ(processes_with_environment(carried).size(), 0u)
      << "the place was granted before it was free";
  const auto evicted = wait_event("evicted", "stubborn");
  EXPECT_EQ(evicted["reason"], "lru");
  EXPECT_EQ(evicted["signal"], "SIGKILL");
  EXPECT_GE(evicted["exit_ms"].get<int>(), 300) << "killed before its grace was over";
}

TEST_F(LimitTest, P9ManyBackendsAreStoppedAtOnce) {
  start({"--max-backends", "8", "--stop-grace", "1s"});
  RemoteWorker worker(scratch_);
  for (int i = 0; i < 6; ++i) worker.load_idle("m" + std::to_string(i), {"--ignore-sigterm"});
  EXPECT_EQ(poolctl(scratch_, {"set", "max-backends=1"}).code, 0);
  EXPECT_TRUE(eventually([&] {
    int stopping = 0;
    for (const auto& backend : list()) stopping += backend["state"] == "stopping";
    return stopping == 5;
  })) << "one is stopped after the other";
  EXPECT_TRUE(eventually([&] { return list().size() == 1; }));
}

TEST_F(LimitTest, P9ALeaderThatEndsAtOnceDoesNotHideItsGrandchildren) {
  start({"--stop-grace", "300ms"});
  const std::string carried = token();
  RemoteWorker worker(scratch_);
  // The leader dies of SIGTERM, its child does not.
  ASSERT_EQ(worker.acquire("m"), "ticket");
  ASSERT_THAT(
      worker.spawn_program(
          "m",
          {"bash", "-c",
           "(trap '' TERM; exec sleep 60) & trap 'exit 0' TERM; while :; do sleep 0.05; done"}),
      HasSubstr("pid "));
  ASSERT_EQ(worker.ready("m"), "lease");
  worker.release("m");
  EXPECT_TRUE(eventually([&] { return processes_with_environment(carried).size() >= 2; }));
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_EQ(processes_with_environment(carried).size(), 0u);
}

// --- Making room for the line --------------------------------------------------------------------

TEST_F(LimitTest, P2ADrainLetsTheRunningLeaseFinishAndClosesItsBackendToNewOnes) {
  start({"--max-backends", "1"});
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  const pid_t pid = holder.load("alpha");
  waiter.begin_acquire("beta");
  ASSERT_TRUE(wait_state("alpha", "evicting"));
  EXPECT_TRUE(is_running(pid));
  EXPECT_EQ(holder.progress("alpha"), "ok");
  EXPECT_EQ(poolctl(scratch_, {"lease", "alpha", "--timeout", "100ms", "--", "true"}).code, 124);
  EXPECT_TRUE(is_running(pid));
  holder.release("alpha");
  EXPECT_EQ(waiter.hear(), "ticket");
  EXPECT_FALSE(is_running(pid));
}

TEST_F(LimitTest, ADrainThatTakesTooLongIsTakenBack) {
  start({"--max-backends", "1", "--drain-timeout", "200ms"});
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  const pid_t pid = holder.load("alpha");
  waiter.begin_acquire("beta");
  ASSERT_TRUE(wait_state("alpha", "evicting"));
  ASSERT_TRUE(wait_state("alpha", "ready"));
  EXPECT_EQ(holder.progress("alpha"), "ok");
  EXPECT_TRUE(is_running(pid));
  holder.release("alpha");
  EXPECT_EQ(waiter.hear(), "ticket");
}

TEST_F(LimitTest, P5ADrainIsTakenBackWhenItsWaiterLeaves) {
  start({"--max-backends", "1"});
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  holder.load("alpha");
  waiter.begin_acquire("beta");
  ASSERT_TRUE(wait_state("alpha", "evicting"));
  waiter.kill_now();
  EXPECT_TRUE(wait_state("alpha", "ready"));
  EXPECT_EQ(holder.progress("alpha"), "ok");
  EXPECT_TRUE(settles());
}

TEST_F(LimitTest, UnderWaitABusyResidentStaysOpenUntilItIsIdle) {
  start({"--max-backends", "1", "--when-busy", "wait"});
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  holder.load("alpha");
  waiter.begin_acquire("beta");
  EXPECT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  EXPECT_EQ(poolctl(scratch_, {"lease", "alpha", "--", "true"}).code, 0) << "others still get it";
  EXPECT_EQ(state("alpha"), "ready");
  holder.release("alpha");
  EXPECT_EQ(waiter.hear(), "ticket");
}

TEST_F(LimitTest, P5UnderForceAWaiterIsServedThoughTheResidentsAreBusy) {
  start({"--max-backends", "1", "--when-busy", "force"});
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  const pid_t pid = holder.load("alpha");
  EXPECT_EQ(waiter.acquire("beta"), "ticket");
  EXPECT_FALSE(is_running(pid));
  EXPECT_EQ(holder.progress("alpha"), "lease_lost");
  EXPECT_THAT(holder.last_error(), HasSubstr("lru"));
  holder.release("alpha");
  EXPECT_EQ(wait_event("evicted", "alpha")["reason"], "lru");
}

TEST_F(LimitTest, P5UnderDrainShortRequestsOnTheResidentDoNotStarveAWaiter) {
  start({"--max-backends", "1"});
  RemoteWorker loader(scratch_);
  RemoteWorker other(scratch_);
  RemoteWorker waiter(scratch_);
  loader.load_idle("alpha");
  // Overlapping: at any time at least one of the two has a lease, until the drain closes it.
  ASSERT_EQ(loader.acquire("alpha"), "lease");
  waiter.begin_acquire("beta");
  for (int i = 0; i < 5; ++i) {
    const std::string second = other.acquire("alpha", 50);
    loader.release("alpha");
    if (second != "lease") break;
    const std::string first = loader.acquire("alpha", 50);
    other.release("alpha");
    if (first != "lease") break;
  }
  loader.release("alpha");
  other.release("alpha");
  EXPECT_EQ(waiter.hear(), "ticket");
}

TEST_F(LimitTest, P5FirstComeFirstServed) {
  start({"--max-backends", "1"});
  RemoteWorker holder(scratch_);
  std::vector<std::unique_ptr<RemoteWorker>> line;
  for (int i = 0; i < 3; ++i) line.push_back(std::make_unique<RemoteWorker>(scratch_));
  holder.load("resident");
  for (int i = 0; i < 3; ++i) {
    line[static_cast<std::size_t>(i)]->begin_acquire("m" + std::to_string(i));
    ASSERT_TRUE(eventually([&] { return status()["waiting"] == i + 1; }));
  }
  holder.release("resident");
  for (int i = 0; i < 3; ++i) {
    RemoteWorker& first = *line[static_cast<std::size_t>(i)];
    EXPECT_EQ(first.hear(), "ticket") << i;
    EXPECT_EQ(status()["waiting"], 2 - i) << "somebody was served out of turn";
    const std::string model = "m" + std::to_string(i);
    EXPECT_THAT(first.spawn(model), HasSubstr("pid "));
    EXPECT_EQ(first.ready(model), "lease");
    first.release(model);
  }
}

TEST_F(LimitTest, AFreshBackendStaysForMinResident) {
  start({"--max-backends", "1", "--min-resident", "400ms"});
  RemoteWorker worker(scratch_);
  worker.load_idle("alpha");
  const auto ready = std::chrono::steady_clock::now();
  EXPECT_EQ(worker.acquire("beta"), "ticket");
  // From the moment it was ready, which was before the answer to `load_idle` came.
  EXPECT_GE(std::chrono::steady_clock::now() - ready + 300ms, 400ms);
  const auto evicted = wait_event("evicted", "alpha");
  EXPECT_EQ(evicted["reason"], "lru");
}

TEST_F(LimitTest, PinnedBackendsStayAndWhenAllArePinnedTheAnswerComesAtOnce) {
  start({"--max-backends", "2"});
  RemoteWorker worker(scratch_);
  worker.load_idle("alpha");
  worker.load_idle("beta");
  EXPECT_EQ(poolctl(scratch_, {"pin", "alpha"}).code, 0);
  worker.load_idle("gamma");  // takes beta's place, though alpha was used longer ago
  EXPECT_EQ(state("alpha"), "ready");
  EXPECT_EQ(state("beta"), "");
  EXPECT_EQ(poolctl(scratch_, {"pin", "gamma"}).code, 0);
  EXPECT_EQ(worker.acquire("beta"), "all_pinned");
  EXPECT_THAT(worker.last_error(), HasSubstr("unpin one or raise max_backends"));
  EXPECT_EQ(poolctl(scratch_, {"unpin", "alpha"}).code, 0);
  EXPECT_EQ(worker.acquire("beta"), "ticket");
}

TEST_F(LimitTest, P3LoweringTheLimitConvergesWithoutCuttingLeasesAndAdmitsNobodyMeanwhile) {
  start({"--max-backends", "3", "--when-busy", "force", "--drain-timeout", "200ms"});
  RemoteWorker worker(scratch_);
  RemoteWorker other(scratch_);
  const pid_t busy = worker.load("busy");
  worker.load_idle("a");
  worker.load_idle("b");
  EXPECT_EQ(poolctl(scratch_, {"set", "max-backends=1"}).code, 0);
  EXPECT_TRUE(eventually([&] { return list().size() == 1; }));
  EXPECT_EQ(state("busy"), "ready");
  EXPECT_TRUE(is_running(busy));
  EXPECT_EQ(worker.progress("busy"), "ok");
  EXPECT_EQ(poolctl(scratch_, {"set", "when-busy=wait"}).code, 0);
  EXPECT_EQ(other.acquire("c", 100), "timeout");
  worker.release("busy");
  EXPECT_EQ(other.acquire("c"), "ticket");
}

TEST_F(LimitTest, P3ALimitBelowTwoBusyBackendsIsReachedWhenTheirLeasesEnd) {
  start({"--max-backends", "2", "--drain-timeout", "30s", "--eviction", "lru"});
  RemoteWorker worker(scratch_);
  RemoteWorker other(scratch_);
  worker.load("a");
  other.load("b");
  const Finished lowered = poolctl(scratch_, {"set", "max-backends=1"});
  EXPECT_EQ(lowered.code, 0);
  EXPECT_THAT(lowered.err, AllOf(HasSubstr("2 backends are live, 1 may be"),
                                 HasSubstr("the coordinator makes room")));
  ASSERT_TRUE(wait_state("a", "evicting"));
  EXPECT_EQ(worker.progress("a"), "ok");
  EXPECT_EQ(state("b"), "ready");
  worker.release("a");
  EXPECT_TRUE(wait_state("a", ""));
  EXPECT_EQ(other.progress("b"), "ok");
}

// It promised that room is made, which pinned backends never do.
TEST_F(LimitTest, WhoseLimitIsExceededByPinnedBackendsAloneHearsTheirNames) {
  start({"--max-backends", "3", "--eviction", "lru"});
  RemoteWorker worker(scratch_);
  for (const char* model : {"kept-1", "kept-2"}) worker.load_idle(model);
  worker.load("other");
  for (const char* model : {"kept-1", "kept-2"})
    EXPECT_EQ(poolctl(scratch_, {"pin", model}).code, 0);
  const Finished enough = poolctl(scratch_, {"set", "max-backends=2"});
  EXPECT_THAT(enough.err, AllOf(HasSubstr("3 backends are live, 2 may be"),
                                HasSubstr("the coordinator makes room")));
  worker.release("other");
  EXPECT_TRUE(wait_state("other", ""));
  const Finished lowered = poolctl(scratch_, {"set", "max-backends=1"});
  EXPECT_EQ(lowered.code, 0);
  EXPECT_THAT(lowered.err, AllOf(HasSubstr("2 backends are live, 1 may be"),
                                 HasSubstr("stay: kept-1, kept-2; unpin")));
  EXPECT_THAT(lowered.err, Not(HasSubstr("makes room")));
  EXPECT_THAT(lowered.err, Not(HasSubstr("other")));
}

// --- Single flight, cool-down --------------------------------------------------------------------

TEST_F(LimitTest, P4ConcurrentShellsOnOneModelStartOneProcess) {
  start();
  Observer observer(token());
  std::vector<Program> shells;
  for (int i = 0; i < 6; ++i) shells.push_back(shell("alpha", {"true"}));
  for (Program& shell : shells) EXPECT_EQ(shell.wait(), 0) << shell.err();
  observer.stop();
  EXPECT_EQ(observer.most(), 1u);
  EXPECT_TRUE(eventually([&] { return count_events("loaded", "alpha") == 1; }));
  EXPECT_EQ(list().size(), 1u);
}

TEST_F(LimitTest, P4AFailedLoadAnswersEveryWaiterWithItsTextAndThenTheModelCoolsDown) {
  start({"--load-cooldown", "60s..60s"});
  RemoteWorker loader(scratch_);
  RemoteWorker waiter(scratch_);
  ASSERT_EQ(loader.acquire("bad"), "ticket");
  waiter.begin_acquire("bad");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  EXPECT_EQ(loader.fail("bad", "out of memory: 24 GiB needed"), "ok");
  EXPECT_EQ(waiter.hear(), "load_failed");
  EXPECT_THAT(waiter.last_error(), HasSubstr("out of memory: 24 GiB needed"));
  EXPECT_EQ(waiter.acquire("bad"), "cooling_down");
  EXPECT_THAT(waiter.last_error(), HasSubstr("out of memory: 24 GiB needed"));
  const auto refused = poolctl(scratch_, {"lease", "bad", "--start", "true {port}", "--", "true"});
  EXPECT_EQ(refused.code, 124);
  EXPECT_THAT(refused.err, HasSubstr("cools down for another"));
  EXPECT_EQ(waiter.acquire("good"), "ticket") << "other models do not cool down";
}

TEST_F(LimitTest, P4ABackendThatExitsBeforeReadyFailsItsLoad) {
  start({"--load-cooldown", "60s..60s"});
  RemoteWorker loader(scratch_);
  RemoteWorker waiter(scratch_);
  ASSERT_EQ(loader.acquire("bad"), "ticket");
  ASSERT_THAT(loader.spawn_program("bad", {"sh", "-c", "sleep 0.05; exit 3"}), HasSubstr("pid "));
  waiter.begin_acquire("bad");
  EXPECT_EQ(waiter.hear(), "load_failed");
  EXPECT_EQ(loader.ready("bad"), "ticket_lost");
  const auto failed = wait_event("load_failed", "bad");
  EXPECT_EQ(failed["reason"], "crashed");
  EXPECT_EQ(failed["exit"], "exit status 3");
  EXPECT_TRUE(settles());
}

TEST_F(LimitTest, ACoolDownEndsByItself) {
  start({"--load-cooldown", "100ms..100ms"});
  RemoteWorker worker(scratch_);
  ASSERT_EQ(worker.acquire("bad"), "ticket");
  EXPECT_EQ(worker.fail("bad", "no"), "ok");
  EXPECT_EQ(worker.acquire("bad"), "cooling_down");
  EXPECT_TRUE(eventually([&] { return worker.acquire("bad") == "ticket"; }));
}

// Nothing took back a load under way.
TEST_F(LimitTest, P4EvictEndsALoadWithoutACoolDownAndWhoWaitsLoadsAnew) {
  start({"--load-cooldown", "1h..1h", "--stop-grace", "1s"});
  RemoteWorker loader(scratch_);
  RemoteWorker waiter(scratch_);
  for (const std::string& model : {std::string("reserved"), std::string("starting")}) {
    ASSERT_EQ(loader.acquire(model), "ticket");
    if (model == "starting") {
      ASSERT_THAT(loader.spawn_program(model, {"sleep", "600"}), HasSubstr("pid "));
    }
    waiter.begin_acquire(model);
    ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
    const Finished evicted = poolctl(scratch_, {"evict", model});
    EXPECT_EQ(evicted.code, 0) << evicted.err;
    EXPECT_EQ(waiter.hear(), "ticket");
    EXPECT_EQ(loader.ready(model), "ticket_lost");
    EXPECT_THAT(loader.last_error(), HasSubstr("requested"));
    const auto ended = wait_event("evicted", model);
    EXPECT_EQ(ended["reason"], "requested");
    EXPECT_EQ(ended["worker_pid"], loader.pid());
    EXPECT_EQ(waiter.release(model), "ok");
  }
  EXPECT_EQ(processes_with_environment(token()).size(), 0u);
  EXPECT_EQ(count_events("load_failed"), 0u);
  EXPECT_TRUE(settles());
}

TEST_F(LimitTest, P4ATicketThatIsGivenBackIsNoFailedLoad) {
  start({"--load-cooldown", "1h..1h", "--stop-grace", "1s"});
  RemoteWorker loader(scratch_);
  RemoteWorker waiter(scratch_);
  ASSERT_EQ(loader.acquire("m"), "ticket");
  ASSERT_THAT(loader.spawn_program("m", {"sleep", "600"}), HasSubstr("pid "));
  waiter.begin_acquire("m");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  EXPECT_EQ(loader.release("m"), "ok");
  EXPECT_EQ(waiter.hear(), "ticket");
  const auto ended = wait_event("evicted", "m");
  EXPECT_EQ(ended["text"], "its load was given back");
  EXPECT_EQ(count_events("load_failed"), 0u);
}

TEST_F(LimitTest, ResetAndAChangedSettingEndACoolDown) {
  start({"--load-cooldown", "1h..1h"});
  RemoteWorker worker(scratch_);
  const auto fail = [&] {
    EXPECT_EQ(worker.acquire("bad"), "ticket");
    EXPECT_EQ(worker.fail("bad", "no"), "ok");
    EXPECT_EQ(worker.acquire("bad"), "cooling_down");
    EXPECT_THAT(worker.last_error(), HasSubstr(" reset bad` ends that"));
  };
  fail();
  const auto reset = poolctl_json(scratch_, {"reset", "bad"});
  EXPECT_EQ(reset["failures"], 1);
  EXPECT_GT(reset["cooldown_left_ms"], 3'500'000);
  fail();
  EXPECT_EQ(poolctl(scratch_, {"set", "load-cooldown=2h..2h"}).code, 0);
  fail();
  EXPECT_EQ(poolctl_json(scratch_, {"explain", "bad"})["history"]["failures_in_a_row"], 1);
  // Without a coordinator, too; and of a model that nobody has heard of.
  daemon().kill_now();
  EXPECT_THAT(poolctl(scratch_, {"reset", "bad"}).out, HasSubstr("forgot 1 failed load of bad"));
  EXPECT_EQ(worker.acquire("bad"), "ticket");
  EXPECT_EQ(poolctl(scratch_, {"reset", "never-heard-of"}).code, 0);
  EXPECT_EQ(poolctl(scratch_, {"reset"}).code, 2);
  EXPECT_EQ(poolctl(scratch_, {"reset", std::string(256, 'm')}).code, 2);
}

TEST_F(LimitTest, AChangedConfigEndsTheCoolDownsItIsAbout) {
  const std::string config = scratch_.path("config.toml");
  write_file(config, "[pool]\nload_cooldown = \"1h..1h\"\n");
  start({"--config", config});
  RemoteWorker worker(scratch_);
  for (const char* model : {"big-1", "small-1"}) {
    ASSERT_EQ(worker.acquire(model), "ticket");
    ASSERT_EQ(worker.fail(model, "no"), "ok");
  }
  write_file(config,
             "[pool]\nload_cooldown = \"1h..1h\"\n"
             "[[model]]\nmatch = \"big-*\"\nload_cooldown = \"1m..1m\"\n");
  daemon().program().signal(SIGHUP);
  EXPECT_TRUE(eventually([&] { return worker.acquire("big-1") == "ticket"; }));
  EXPECT_EQ(worker.acquire("small-1"), "cooling_down");
}

// A load that ends with the pool has not failed: the next coordinator lets it begin at once.
TEST_F(LimitTest, ALoadThatEndsWithThePoolDoesNotCoolDown) {
  start({"--load-cooldown", "1h..1h", "--on-exit", "stop", "--stop-grace", "1s"});
  RemoteWorker loader(scratch_);
  ASSERT_EQ(loader.acquire("m"), "ticket");
  ASSERT_THAT(loader.spawn_program("m", {"sleep", "600"}), HasSubstr("pid "));
  daemon().program().signal(SIGTERM);
  EXPECT_EQ(daemon().program().wait(), 0);
  EXPECT_EQ(loader.ready("m"), "ticket_lost");
  daemon().start();
  EXPECT_EQ(loader.acquire("m"), "ticket") << loader.last_error();
}

TEST_F(LimitTest, WhenTooManyWaitTheAnswerComesAtOnce) {
  start({"--max-backends", "1", "--max-waiters", "1"});
  RemoteWorker holder(scratch_);
  RemoteWorker first(scratch_);
  holder.load("alpha");
  first.begin_acquire("beta");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  RemoteWorker second(scratch_);
  EXPECT_EQ(second.acquire("gamma"), "queue_full");
  const auto refused =
      poolctl(scratch_, {"lease", "gamma", "--start", "true {port}", "--", "true"});
  EXPECT_EQ(refused.code, 124);
  EXPECT_THAT(refused.err, HasSubstr("max_waiters"));
}

}  // namespace
}  // namespace modelpool::test
