// P4, P6, P10: SIGKILL of anybody at any time; the others continue, nothing leaks, nothing is left.
#include <signal.h>

#include <algorithm>

#include "base/time.hpp"
#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::HasSubstr;

class CrashTest : public PoolTest {
 protected:
  bool wait_in_line(RemoteWorker& worker, const std::string& model) {
    const int before = status()["waiting"].get<int>();
    worker.begin_acquire(model);
    return eventually([&] { return status()["waiting"] == before + 1; });
  }
  std::size_t count_lines(const std::string& file, const std::string& part) {
    std::size_t count = 0;
    const std::string text = read_file(file);
    for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++count;
    return count;
  }
};

// --- The coordinator -----------------------------------------------------------------------------

TEST_F(CrashTest, P10AStopGoesOnAfterTheCoordinatorWasKilledInTheMiddleOfIt) {
  start({"--stop-grace", "1s"});
  const std::string carried = token();
  RemoteWorker worker(scratch_);
  const std::string signals = scratch_.path("signals");
  worker.load_idle("m", {"--ignore-sigterm", "--grandchildren", "3", "--report", signals});
  EXPECT_EQ(poolctl(scratch_, {"evict", "m", "--timeout", "0"}).code, 0);
  ASSERT_TRUE(eventually([&] {
    const auto m = entry("m");
    return !m.is_null() && m["stop"].is_object() && !m["stop"]["signalled_ms"].is_null();
  }));
  daemon().kill_now();
  EXPECT_EQ(state("m"), "stopping");
  EXPECT_EQ(processes_with_environment(carried).size(), 4u);
  daemon().start();
  const auto evicted = wait_event("evicted", "m");
  EXPECT_EQ(evicted["reason"], "requested") << "the next one does not know why";
  EXPECT_EQ(evicted["signal"], "SIGKILL");
  EXPECT_GE(evicted["exit_ms"].get<int>(), 1000) << "the grace began anew or was cut short";
  EXPECT_EQ(processes_with_environment(carried).size(), 0u);
  EXPECT_EQ(count_lines(signals, "signal=SIGTERM"), 1u);
  EXPECT_EQ(wait_event("recovered")["count"], 1);
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, P10AStopWhoseProcessesEndedWhileThereWasNoCoordinatorIsFinished) {
  start({"--stop-grace", "10s"});
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load_idle("m", {"--ignore-sigterm"});
  EXPECT_EQ(poolctl(scratch_, {"evict", "m", "--timeout", "0"}).code, 0);
  ASSERT_TRUE(eventually([&] {
    const auto m = entry("m");
    return !m.is_null() && m["stop"].is_object() && !m["stop"]["signalled_ms"].is_null();
  }));
  daemon().kill_now();
  kill(pid, SIGKILL);
  EXPECT_TRUE(eventually([&] { return !is_running(pid); }));
  daemon().start();
  EXPECT_EQ(wait_event("evicted", "m")["reason"], "requested");
  EXPECT_TRUE(wait_state("m", ""));
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, P10ADrainWhoseCoordinatorDiesIsOpenAgainAndTheNextOneMakesTheRoom) {
  start({"--max-backends", "1"});
  RemoteWorker holder(scratch_);
  RemoteWorker other(scratch_);
  RemoteWorker waiter(scratch_);
  const pid_t pid = holder.load("resident");
  waiter.begin_acquire("wanted");
  ASSERT_TRUE(wait_state("resident", "evicting"));
  daemon().kill_now();
  EXPECT_EQ(other.acquire("resident", 5000), "lease") << "a healthy model hangs on a dead judge";
  EXPECT_EQ(state("resident"), "ready");
  daemon().start();
  EXPECT_TRUE(wait_state("resident", "evicting")) << "the waiter is still there";
  EXPECT_EQ(holder.progress("resident"), "ok");
  holder.release("resident");
  EXPECT_EQ(other.progress("resident"), "ok");
  EXPECT_TRUE(is_running(pid));
  other.release("resident");
  EXPECT_EQ(waiter.hear(), "ticket");
  EXPECT_EQ(wait_event("evicted", "resident")["reason"], "lru");
}

TEST_F(CrashTest, P10WhatADeadCoordinatorLeftClosedIsOpenedByTheNextThoughNobodyAsksForIt) {
  start({"--max-backends", "1"});
  RemoteWorker holder(scratch_);
  holder.load("resident");
  {
    RemoteWorker waiter(scratch_);
    waiter.begin_acquire("wanted");
    ASSERT_TRUE(wait_state("resident", "evicting"));
    daemon().kill_now();
  }
  EXPECT_EQ(state("resident"), "evicting");
  daemon().start();
  EXPECT_TRUE(wait_state("resident", "ready"));
  EXPECT_EQ(holder.progress("resident"), "ok");
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, P10LeasesAndLoadsGoOnWithoutACoordinator) {
  start({"--max-backends", "3"});
  RemoteWorker worker(scratch_);
  worker.load_idle("before");
  daemon().kill_now();
  EXPECT_EQ(worker.acquire("before"), "lease");
  const pid_t pid = worker.load("while-dead");
  EXPECT_TRUE(is_running(pid));
  EXPECT_FALSE(status()["coordinator"]["alive"].get<bool>());
  daemon().start();
  EXPECT_EQ(worker.progress("before"), "ok");
  EXPECT_EQ(wait_event("loaded", "while-dead")["pid"], pid);
  EXPECT_EQ(status()["coordinator"]["epoch"], 2);
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, P6WhatDiedWhileThereWasNoCoordinatorIsClearedByTheNext) {
  start({"--max-backends", "4"});
  RemoteWorker dying(scratch_);
  RemoteWorker other(scratch_);
  const pid_t loaded = dying.load("leased");
  ASSERT_EQ(dying.acquire("loading"), "ticket");
  ASSERT_THAT(dying.spawn("loading"), HasSubstr("pid "));
  const pid_t crashed = other.load_idle("crashed");
  daemon().kill_now();
  dying.kill_now();
  kill(crashed, SIGKILL);
  EXPECT_TRUE(eventually([&] { return !is_running(crashed); }));
  daemon().start();
  EXPECT_TRUE(eventually([&] { return state("loading").empty() && state("crashed").empty(); }));
  EXPECT_EQ(entry("leased")["in_flight"], 0);
  EXPECT_EQ(entry("leased")["pid"], loaded);
  EXPECT_EQ(processes_with_environment(token()).size(), 1u);
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, P3P6TheLimitHoldsWhileTheCoordinatorIsKilledAgainAndAgain) {
  start({"--max-backends", "2", "--stop-grace", "200ms"});
  Observer observer(token());
  std::vector<Program> shells;
  const std::string enough = scratch_.path("enough");
  const std::string again =
      "while [ ! -e " + enough + " ]; do " + std::string(MODELPOOL_POOLCTL) + " --dir " +
      scratch_.dir() + " lease $1 --start \"" + MODELPOOL_DEMO_BACKEND +
      " --port {port} --name $1 --stop-time 10ms\" -- sleep 0.03 || exit 1; done";
  for (const char* model : {"alpha", "beta", "gamma"}) {
    shells.emplace_back(std::vector<std::string>{"sh", "-c", again, "sh", model});
  }
  for (int kills = 0; kills < 5; ++kills) {
    const std::size_t decisions = count_events("evicted") + count_events("loaded");
    // In the middle of the work: after the next decision, or a little later than that.
    ASSERT_TRUE(
        eventually([&] { return count_events("evicted") + count_events("loaded") > decisions; }));
    daemon().kill_now();
    daemon().start();
  }
  write_file(enough, "");
  for (Program& shell : shells) EXPECT_EQ(shell.wait(), 0) << shell.err();
  observer.stop();
  EXPECT_LE(observer.most(), 2u);
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, AStoppedCoordinatorDelaysDecisionsAndLosesNone) {
  start({"--idle-timeout", "100ms"});
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load("m");
  daemon().program().signal(SIGSTOP);
  worker.release("m");
  EXPECT_EQ(worker.acquire("m"), "lease") << "leases need no coordinator";
  worker.release("m");
  EXPECT_TRUE(eventually([&] { return entry("m")["idle_ms"].get<int>() > 300; }));
  EXPECT_TRUE(is_running(pid));
  daemon().program().signal(SIGCONT);
  EXPECT_EQ(wait_event("evicted", "m")["reason"], "idle");
}

// --- Workers -------------------------------------------------------------------------------------

TEST_F(CrashTest, P6AWorkerKilledWithLeasesATicketAndAPlaceInTheLineLeavesNothing) {
  start({"--max-backends", "2", "--when-busy", "wait"});
  RemoteWorker dying(scratch_);
  RemoteWorker coalesced(scratch_);
  dying.load("leased");
  ASSERT_EQ(dying.acquire("loading"), "ticket");
  const std::string spawned = dying.spawn("loading", {"--grandchildren", "2"});
  ASSERT_THAT(spawned, HasSubstr("pid "));
  dying.begin_acquire("queued");
  coalesced.begin_acquire("loading");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 2; }));
  dying.kill_now();

  EXPECT_EQ(coalesced.hear(), "ticket") << "a lost ticket goes to one who waited for it";
  EXPECT_FALSE(is_running(std::stoi(spawned.substr(4))))
      << "what the lost ticket started is still there";
  const auto died = wait_event("worker_died");
  EXPECT_EQ(died["worker_pid"], dying.pid());
  EXPECT_EQ(died["count"], 1) << "leases cleared";
  EXPECT_EQ(entry("leased")["in_flight"], 0);
  EXPECT_EQ(entry("leased")["state"], "ready") << "what it loaded stays";
  EXPECT_EQ(status()["waiting"], 0);
  EXPECT_EQ(status()["workers"], 1);
  EXPECT_EQ(processes_with_environment(token()).size(), 1u) << "an orphan is left";
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, P4OfSeveralWaitersExactlyOneGetsTheLostTicket) {
  start();
  RemoteWorker dying(scratch_);
  std::vector<std::unique_ptr<RemoteWorker>> waiters;
  for (int i = 0; i < 3; ++i) waiters.push_back(std::make_unique<RemoteWorker>(scratch_));
  ASSERT_EQ(dying.acquire("m"), "ticket");
  for (auto& waiter : waiters) waiter->begin_acquire("m");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 3; }));
  dying.kill_now();
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 2; }));
  EXPECT_TRUE(wait_state("m", "reserved"));
  const pid_t holder = entry("m")["owner_pid"].get<pid_t>();
  for (auto& waiter : waiters) {
    if (waiter->pid() != holder) continue;
    EXPECT_EQ(waiter->hear(), "ticket");
    EXPECT_THAT(waiter->spawn("m"), HasSubstr("pid "));
    EXPECT_EQ(waiter->ready("m"), "lease");
  }
  for (auto& waiter : waiters) {
    if (waiter->pid() != holder) {
      EXPECT_EQ(waiter->hear(), "lease");
    }
  }
  EXPECT_EQ(entry("m")["in_flight"], 3);
}

TEST_F(CrashTest, P6AWorkerKilledBetweenSpawnAndReadyLeavesNoOrphan) {
  start();
  RemoteWorker other(scratch_);
  const std::string carried = token();
  for (int i = 0; i < 3; ++i) {
    RemoteWorker dying(scratch_);
    ASSERT_EQ(dying.acquire("m"), "ticket");
    ASSERT_THAT(dying.spawn("m", {"--grandchildren", "2"}), HasSubstr("pid "));
    EXPECT_EQ(processes_with_environment(carried).size(), 3u);
    dying.kill_now();
    EXPECT_TRUE(
        eventually([&] { return processes_with_environment(carried).empty() && list().empty(); }));
  }
  EXPECT_EQ(other.acquire("m"), "ticket") << "a lost ticket is no failed load";
  other.release("m");
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, P6AWorkerKilledAnywhereAroundSpawnLeavesNoOrphan) {
  start();
  const std::string carried = token();
  for (int i = 0; i < 25; ++i) {
    RemoteWorker dying(scratch_);
    ASSERT_EQ(dying.acquire("m"), "ticket");
    dying.say("program\tm\tsleep\t600");
    for (const std::uint64_t until = now_ns() + static_cast<std::uint64_t>(i) * 60'000;
         now_ns() < until;) {
    }
    dying.kill_now();
    ASSERT_TRUE(eventually([&] { return list().empty() && status()["workers"] == 0; })) << i;
    EXPECT_EQ(processes_with_environment(carried).size(), 0u) << i;
  }
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, P5AWaiterKilledAtTheHeadOfTheLineDoesNotHoldItUp) {
  start({"--max-backends", "1"});
  RemoteWorker holder(scratch_);
  RemoteWorker head(scratch_);
  RemoteWorker second(scratch_);
  holder.load("resident");
  ASSERT_TRUE(wait_in_line(head, "first"));
  ASSERT_TRUE(wait_in_line(second, "second"));
  head.signal(SIGSTOP);
  holder.release("resident");
  head.kill_now();
  EXPECT_EQ(second.hear(), "ticket");
  EXPECT_EQ(status()["waiting"], 0);
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, P5AStoppedHeadOfTheLineIsPassedOver) {
  start({"--max-backends", "1"});
  RemoteWorker holder(scratch_);
  RemoteWorker head(scratch_);
  RemoteWorker second(scratch_);
  holder.load("resident");
  ASSERT_TRUE(wait_in_line(head, "first"));
  ASSERT_TRUE(wait_in_line(second, "second"));
  head.signal(SIGSTOP);
  holder.release("resident");
  EXPECT_EQ(second.hear(), "ticket");
  head.signal(SIGCONT);
  EXPECT_THAT(second.spawn("second"), HasSubstr("pid "));
  EXPECT_EQ(second.ready("second"), "lease");
  second.release("second");
  EXPECT_EQ(head.hear(), "ticket") << "and has its turn when it is back";
}

TEST_F(CrashTest, P6TheIdleClockOfADeadWorkersLeaseStartsWhenItIsCleared) {
  start({"--idle-timeout", "200ms"});
  RemoteWorker dying(scratch_);
  const pid_t pid = dying.load("m");
  EXPECT_TRUE(eventually([&] { return entry("m")["busy_ms"].get<int>() > 400; }));
  const std::uint64_t before = now_ns();
  dying.kill_now();
  EXPECT_TRUE(eventually([&] { return !is_running(pid); }));
  EXPECT_GE(now_ns() - before, 200 * kMillisecond_ns);
  EXPECT_EQ(wait_event("evicted", "m")["reason"], "idle");
}

TEST_F(CrashTest, P6AHungRequestOfADeadWorkerKillsNobody) {
  start({"--busy-timeout", "2s"});
  RemoteWorker dying(scratch_);
  RemoteWorker other(scratch_);
  const pid_t pid = dying.load("m");
  ASSERT_EQ(other.acquire("m"), "lease");
  daemon().program().signal(SIGSTOP);
  EXPECT_TRUE(eventually([&] { return entry("m")["busy_ms"].get<int>() > 1700; }));
  other.release("m");
  ASSERT_EQ(other.acquire("m"), "lease");
  dying.kill_now();
  EXPECT_TRUE(eventually([&] { return entry("m")["busy_ms"].get<int>() > 2100; }));
  daemon().program().signal(SIGCONT);
  EXPECT_FALSE(wait_event("worker_died").empty());
  EXPECT_EQ(other.progress("m"), "ok") << "the other worker's request was young";
  EXPECT_TRUE(is_running(pid));
}

// --- Backends ------------------------------------------------------------------------------------

TEST_F(CrashTest, ABackendThatCrashesIsExplainedAndItsModelCanBeLoadedAgain) {
  start({"--load-cooldown", "60s..60s"});
  RemoteWorker worker(scratch_);
  RemoteWorker other(scratch_);
  const pid_t pid = worker.load("m", {"--grandchildren", "2"});
  kill(pid, SIGKILL);
  const auto exited = wait_event("exited", "m");
  EXPECT_EQ(exited["reason"], "crashed");
  EXPECT_EQ(exited["pid"], pid);
  EXPECT_EQ(exited["exit"], "signal SIGKILL");
  EXPECT_TRUE(exited["signal"].is_null()) << "nobody of ours sent one: " << exited;
  EXPECT_EQ(processes_with_environment(token()).size(), 0u)
      << "its grandchildren hold memory still";
  EXPECT_EQ(worker.progress("m"), "lease_lost");
  EXPECT_EQ(other.acquire("m"), "ticket") << "a crash is no failed load: nothing cools down";
  worker.release("m");
  other.release("m");
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, ASlotIsNotTakenFromUnderASlowLeaseHolder) {
  start({"--max-backends", "1"});
  RemoteWorker slow(scratch_);
  RemoteWorker other(scratch_);
  const pid_t pid = slow.load("m");
  const auto before = entry("m");
  kill(pid, SIGKILL);
  EXPECT_TRUE(wait_state("m", ""));
  other.load("m");  // the place is free, though the slot is not
  EXPECT_NE(entry("m")["slot"], before["slot"]);
  EXPECT_EQ(slow.progress("m"), "lease_lost");
  slow.release("m");
  EXPECT_EQ(other.progress("m"), "ok");
  EXPECT_TRUE(settles()) << "the old slot was not freed";
}

// --- Wild writes ---------------------------------------------------------------------------------
// A slot or row in no known state was never given back: no rule spoke of it, no CAS expected it.

TEST_F(CrashTest, P6ABackendWhoseStateIsNoneOfOursIsEndedAndItsPlaceIsFree) {
  start({"--max-backends", "1"});
  const std::string carried = token();
  RemoteWorker worker(scratch_);
  RemoteWorker other(scratch_);
  const pid_t pid = worker.load("m");
  const Pool pool = attach(scratch_);
  segment_of(pool).backend(0).state.fetch_or(0x80);
  ring(segment_of(pool));
  EXPECT_EQ(other.acquire("n"), "ticket");
  EXPECT_FALSE(is_running(pid)) << "two backends where one may be";
  const auto exited = wait_event("exited", "m");
  EXPECT_EQ(exited["pid"], pid);
  EXPECT_EQ(exited["reason"], "crashed");
  EXPECT_THAT(exited["text"].get<std::string>(), HasSubstr("damaged"));
  worker.release("m");
  other.release("n");
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, P6ATicketWhoseStateIsNoneOfOursIsLostAndItsPlaceIsFree) {
  start({"--max-backends", "1"});
  RemoteWorker worker(scratch_);
  RemoteWorker other(scratch_);
  ASSERT_EQ(worker.acquire("m"), "ticket");
  const Pool pool = attach(scratch_);
  segment_of(pool).backend(0).state.fetch_or(0x80);
  ring(segment_of(pool));
  EXPECT_EQ(other.acquire("m"), "ticket") << "a lost ticket goes to who comes next";
  EXPECT_EQ(worker.spawn("m"), "ticket_lost");
  worker.release("m");
  other.release("m");
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, P6ASlotThatWasNeverUsedAndIsInNoKnownStateIsFreedBeforeItCosts) {
  start({"--max-backends", "2"});
  RemoteWorker worker(scratch_);
  const Pool pool = attach(scratch_);
  segment_of(pool).backend(0).state.store(0x99);
  EXPECT_NE(worker.load("a"), 0);
  EXPECT_NE(worker.load("b"), 0);
  worker.release("a");
  worker.release("b");
  EXPECT_TRUE(
      eventually([&] { return load_state(segment_of(pool), 0).state != BackendState::kStopping; }));
  EXPECT_TRUE(settles());
}

TEST_F(CrashTest, P6AWaiterRowInNoKnownStateIsFreeAgainAndItsWaiterStandsInLineAnew) {
  start({"--max-backends", "1"});
  RemoteWorker holder(scratch_);
  RemoteWorker waiting(scratch_);
  holder.load("m");
  waiting.begin_acquire("n");
  const Pool pool = attach(scratch_);
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  segment_of(pool).waiter(0).state.fetch_or(0x100);
  ring(segment_of(pool));
  EXPECT_TRUE(eventually([&] { return low_half(segment_of(pool).waiter(0).state.load()) <= 1; }));
  holder.release("m");
  EXPECT_EQ(waiting.hear(), "ticket");
  waiting.release("n");
  EXPECT_TRUE(settles());
}

}  // namespace
}  // namespace modelpool::test
