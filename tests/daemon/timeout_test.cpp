// P2, P8: what ends for its age ends on time, never early, and never with a lease that keeps its
// rules.
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#include "base/time.hpp"
#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

double to_ms(std::int64_t duration_ns) { return static_cast<double>(duration_ns) / 1e6; }

void sleep_until_ns(std::uint64_t at_ns) {
  const timespec at{static_cast<time_t>(at_ns / kSecond_ns), static_cast<long>(at_ns % kSecond_ns)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) != 0) {
  }
}

// When the process ended, seen from outside.
std::uint64_t ended_ns(const ProcessHandle& process) {
  pollfd wait{process.fd(), POLLIN, 0};
  poll(&wait, 1, 20'000);
  return now_ns();
}

void report(const char* what, std::vector<std::int64_t> lateness_ns) {
  std::sort(lateness_ns.begin(), lateness_ns.end());
  std::printf("[ MEASURE  ] %s: late by %.2f ms in the median of %zu, %.2f ms at most\n", what,
              to_ms(lateness_ns[lateness_ns.size() / 2]), lateness_ns.size(),
              to_ms(lateness_ns.back()));
}

class TimeoutTest : public PoolTest {
 protected:
  // In this process: loads `sleep`, which SIGTERM ends at once.
  static Lease load(Pool& pool, const std::string& model, const std::string& tag = "") {
    AcquireOptions options;
    options.tag = tag;
    auto grant = pool.acquire(model, kPatience, options);
    if (!grant) throw std::runtime_error(grant.error().text);
    if (auto* lease = std::get_if<Lease>(&*grant)) return std::move(*lease);
    auto& ticket = std::get<LoadTicket>(*grant);
    if (auto ok = ticket.spawn({"sleep", "600"}); !ok) throw std::runtime_error(ok.error().text);
    auto lease = ticket.ready("of:" + model);
    if (!lease) throw std::runtime_error(lease.error().text);
    return std::move(*lease);
  }
};

TEST_F(TimeoutTest, P1AModelThatAnotherWorkerLeasesIsNotIdleAndItsClockStartsWhenThatLeaseEnds) {
  start({"--idle-timeout", "150ms"});
  RemoteWorker a(scratch_);
  RemoteWorker b(scratch_);
  const pid_t pid = b.load_idle("m");
  ASSERT_EQ(a.acquire("m"), "lease");
  EXPECT_TRUE(eventually([&] { return entry("m")["busy_ms"].get<int>() > 600; }));
  EXPECT_EQ(b.acquire("m"), "lease");  // and whatever B does meanwhile
  b.release("m");
  EXPECT_TRUE(is_running(pid));
  EXPECT_EQ(count_events("evicted"), 0u);
  EXPECT_EQ(a.progress("m"), "ok");

  const std::uint64_t before_release = now_ns();
  a.release("m");
  EXPECT_TRUE(eventually([&] { return !is_running(pid); }));
  EXPECT_GE(now_ns() - before_release, 150 * kMillisecond_ns)
      << "its idle clock did not start anew";
  const auto evicted = wait_event("evicted", "m");
  EXPECT_EQ(evicted["reason"], "idle");
  EXPECT_GE(evicted["age_ms"].get<int>(), 150);
  EXPECT_EQ(evicted["limit_ms"], 150);
}

TEST_F(TimeoutTest, P1AModelThatAnotherWorkerLeasesIsNoVictimOfTheLimit) {
  start({"--max-backends", "1", "--when-busy", "wait"});
  RemoteWorker a(scratch_);
  RemoteWorker b(scratch_);
  b.load_idle("m");
  ASSERT_EQ(a.acquire("m"), "lease");
  b.begin_acquire("other");
  EXPECT_TRUE(eventually(
      [&] { return entry("m")["busy_ms"].get<int>() > 300 && status()["waiting"] == 1; }));
  EXPECT_EQ(a.progress("m"), "ok");
  EXPECT_EQ(count_events("evicted"), 0u);
  a.release("m");
  EXPECT_EQ(b.hear(), "ticket");
}

TEST_F(TimeoutTest, P8IdleEnforcementIsNeverEarly) {
  constexpr std::uint64_t kLimit_ns = 40 * kMillisecond_ns;
  start({"--idle-timeout", "40ms"});
  Pool pool = attach(scratch_);
  std::vector<std::int64_t> lateness;
  for (int i = 0; i < 25; ++i) {
    Lease lease = load(pool, "m");
    auto process = ProcessHandle::open(lease.pid());
    ASSERT_TRUE(process);
    // The end of the lease falls anywhere between two looks of the coordinator.
    sleep_until_ns(now_ns() + static_cast<std::uint64_t>(i) * 3 * kMillisecond_ns);
    const std::uint64_t before = now_ns();
    lease.release();
    const std::uint64_t after = now_ns();
    const std::uint64_t ended = ended_ns(*process);
    EXPECT_GE(ended, before + kLimit_ns)
        << "early by " << to_ms(static_cast<std::int64_t>(before + kLimit_ns - ended));
    lateness.push_back(static_cast<std::int64_t>(ended - after - kLimit_ns));
  }
  report("idle_timeout", lateness);
}

TEST_F(TimeoutTest, P8BusyEnforcementIsNeverEarly) {
  constexpr std::uint64_t kLimit_ns = 40 * kMillisecond_ns;
  start({"--busy-timeout", "40ms"});
  Pool pool = attach(scratch_);
  std::vector<std::int64_t> lateness;
  for (int i = 0; i < 25; ++i) {
    load(pool, "m").release();
    sleep_until_ns(now_ns() + static_cast<std::uint64_t>(i) * 3 * kMillisecond_ns);
    const std::uint64_t before = now_ns();
    Lease lease = load(pool, "m");
    const std::uint64_t after = now_ns();
    auto process = ProcessHandle::open(lease.pid());
    ASSERT_TRUE(process);
    const std::uint64_t ended = ended_ns(*process);
    EXPECT_GE(ended, before + kLimit_ns);
    lateness.push_back(static_cast<std::int64_t>(ended - after - kLimit_ns));
    const auto lost = lease.progress();
    EXPECT_FALSE(lost);
    EXPECT_EQ(lost.error().code, Errc::kLeaseLost);
  }
  report("busy_timeout", lateness);
}

TEST_F(TimeoutTest, P11ABusyKillNamesTheRequestAndShowsWhatItsProcessWasDoing) {
  start({"--busy-timeout", "150ms"});
  RemoteWorker worker(scratch_);
  RemoteWorker other(scratch_);
  const pid_t pid = worker.load_idle("m");
  ASSERT_EQ(worker.acquire("m", 1000, "hung-request"), "lease");
  ASSERT_EQ(other.acquire("m", 1000, "young"), "lease");
  const auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "busy");
  EXPECT_EQ(killed["tag"], "hung-request");
  EXPECT_EQ(killed["worker_pid"], worker.pid());
  EXPECT_EQ(killed["pid"], pid);
  EXPECT_GE(killed["age_ms"].get<int>(), 150);
  EXPECT_EQ(killed["limit_ms"], 150);
  EXPECT_EQ(killed["signal"], "SIGTERM");
  EXPECT_TRUE(killed["exit_ms"].is_number()) << killed;
  for (const char* part : {"state ", " threads", "RSS "})
    EXPECT_THAT(killed["text"].get<std::string>(), HasSubstr(part));
  EXPECT_THAT(daemon().log(), HasSubstr("hung-request"));
  EXPECT_EQ(worker.progress("m"), "lease_lost");
  EXPECT_THAT(worker.last_error(), HasSubstr("busy"));
  EXPECT_EQ(other.progress("m"), "lease_lost");
}

TEST_F(TimeoutTest, ARequestsOwnBusyTimeoutHoldsWithoutAPoolRule) {
  start();
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_EQ(worker.acquire("m", 1000, "own", 150), "lease");
  const auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["tag"], "own");
  EXPECT_EQ(killed["limit_ms"], 150);
  EXPECT_GE(killed["age_ms"].get<int>(), 150);
}

// Requests that end around the instant at which the coordinator decides. A kill is right exactly if
// the lease was still there when its limit, and the resolution of its stamps, had passed.
AcquireOptions keeping(Duration keep_alive) {
  AcquireOptions options;
  options.keep_alive = keep_alive;
  return options;
}

TEST_F(TimeoutTest, AKeepAliveOfNoTimeEndsTheBackendWhenItsLastLeaseEnds) {
  start();  // no timeout at all: nobody looks by the clock
  Pool pool = attach(scratch_);
  Lease loaders = load(pool, "m");
  const pid_t pid = loaders.pid();
  auto first = pool.acquire("m", kPatience, keeping(std::chrono::seconds(0)));
  auto second = pool.acquire("m", kPatience);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(entry("m")["keep_alive"], "0");
  std::get<Lease>(*first).release();
  loaders.release();
  // Whoever asks later is answered later: the coordinator has looked, and left it alone.
  const int scans = status()["coordinator"]["scans"];
  load(pool, "another").release();
  EXPECT_TRUE(eventually([&] { return status()["coordinator"]["scans"].get<int>() > scans; }));
  EXPECT_TRUE(is_running(pid)) << "one lease is left";
  EXPECT_TRUE(std::get<Lease>(*second).progress());
  std::get<Lease>(*second).release();
  EXPECT_TRUE(eventually([&] { return !is_running(pid); }));
  const auto evicted = wait_event("evicted", "m");
  EXPECT_EQ(evicted["reason"], "idle");
  EXPECT_EQ(evicted["limit_ms"], 0);
  EXPECT_EQ(state("another"), "ready");
}

TEST_F(TimeoutTest, AKeepAliveIsTheIdleTimeoutFromThenOnAndTheLastOneWins) {
  start({"--idle-timeout", "1h"});
  Pool pool = attach(scratch_);
  load(pool, "m").release();
  EXPECT_EQ(entry("m")["keep_alive"], nullptr);
  const auto ask = [&](Duration keep_alive) {
    auto lease = pool.acquire("m", kPatience, keeping(keep_alive));
    ASSERT_TRUE(lease) << lease.error().text;
  };
  ask(std::chrono::seconds(-1));
  EXPECT_EQ(entry("m")["keep_alive"], "off");
  EXPECT_THAT(poolctl(scratch_, {"explain", "m"}).out, HasSubstr("off (keep_alive, as an acquire"));
  ask(std::chrono::hours(2));
  EXPECT_THAT(poolctl(scratch_, {"explain", "m"}).out,
              HasSubstr("of 2h (keep_alive, as an acquire asked): evicted in 1h59m"));
  load(pool, "m").release();
  EXPECT_EQ(entry("m")["keep_alive"], "2h") << "who asks for nothing changes nothing";
  // From a plan for hours ahead: the coordinator is told.
  const std::uint64_t before = now_ns();
  ask(std::chrono::milliseconds(150));
  EXPECT_EQ(wait_event("evicted", "m")["limit_ms"], 150);
  EXPECT_GE(now_ns() - before, 150 * kMillisecond_ns);
  load(pool, "m").release();
  EXPECT_EQ(entry("m")["keep_alive"], nullptr) << "it ended with its backend";
}

TEST_F(TimeoutTest, AKeepAliveOfTheRequestThatLoadsHoldsForWhatItLoads) {
  start();
  Pool pool = attach(scratch_);
  auto grant = pool.acquire("m", kPatience, keeping(std::chrono::seconds(0)));
  ASSERT_TRUE(grant);
  auto& ticket = std::get<LoadTicket>(*grant);
  ASSERT_TRUE(ticket.spawn({"sleep", "600"}));
  auto lease = ticket.ready("of:m");
  ASSERT_TRUE(lease);
  EXPECT_EQ(entry("m")["keep_alive"], "0");
  // One that waited for the load asks for more than its loader did, and is the last.
  auto other = pool.begin_acquire("m", kPatience, keeping(std::chrono::hours(1)));
  ASSERT_TRUE(other);
  auto polled = other->poll();
  ASSERT_TRUE(polled && *polled);
  std::get<Lease>(**polled).release();
  lease->release();
  EXPECT_EQ(entry("m")["keep_alive"], "1h");
  load(pool, "m").release();
  EXPECT_EQ(count_events("evicted"), 0u);
}

TEST_F(TimeoutTest, P2APinGoesBeforeAKeepAliveUntilItIsTakenAway) {
  start();
  Pool pool = attach(scratch_);
  load(pool, "m").release();
  ASSERT_TRUE(pool.pin("m"));
  ASSERT_TRUE(pool.acquire("m", kPatience, keeping(std::chrono::seconds(0))));
  load(pool, "another").release();
  EXPECT_EQ(wait_event("loaded", "another")["model"], "another");
  EXPECT_EQ(state("m"), "ready");
  ASSERT_TRUE(pool.unpin("m"));
  EXPECT_EQ(wait_event("evicted", "m")["reason"], "idle");
}

TEST_F(TimeoutTest, P2ARequestThatEndsAtTheLastMomentIsNotKilled) {
  constexpr std::uint64_t kLimit_ns = 20 * kMillisecond_ns;
  start({"--busy-timeout", "20ms"});
  Pool pool = attach(scratch_);
  struct Round {
    std::uint64_t due_ns = 0;
    std::uint64_t ended_after_ns = 0;
    pid_t pid = 0;
    bool leased_again = false;
    bool killed = false;
  };
  std::vector<Round> rounds;
  for (int i = 0; i < 160; ++i) {
    load(pool, "m").release();
    Round round;
    Lease lease = load(pool, "m", "round-" + std::to_string(i));
    round.pid = lease.pid();
    const Snapshot snapshot = look_inside(pool).value();
    ASSERT_EQ(snapshot.leases.size(), 1u);
    round.due_ns = snapshot.leases[0].start_ns + kLimit_ns + stamp_lag_max_ns();
    // From 1.5 ms before it is due to 1.7 ms after, in steps of 20 us.
    sleep_until_ns(round.due_ns - 3 * kMillisecond_ns / 2 + static_cast<std::uint64_t>(i) * 20'000);
    lease.release();
    round.ended_after_ns = now_ns();
    // Who gets the backend after that request has nothing to do with it.
    AcquireOptions only_leased;
    only_leased.may_load = false;
    if (auto again = pool.acquire("m", std::chrono::seconds(0), only_leased); again) {
      Lease& next = std::get<Lease>(*again);
      round.leased_again = next.pid() == round.pid;
      if (round.leased_again) sleep_until_ns(now_ns() + 2 * kMillisecond_ns);
      EXPECT_TRUE(next.progress())
          << "round " << i << ": a new request was cut for one that had ended";
    }
    rounds.push_back(round);
  }
  load(pool, "m").release();  // whatever was decided about the last round is carried out now
  for (const auto& event : events(scratch_)) {
    if (event["kind"] != "killed") continue;
    const int number = std::stoi(event["tag"].get<std::string>().substr(6));
    Round& round = rounds.at(static_cast<std::size_t>(number));
    round.killed = true;
    EXPECT_EQ(event["pid"], round.pid);
    EXPECT_GE(event["age_ms"].get<int>(), 20);
  }
  std::size_t kills = 0;
  std::size_t spared = 0;
  for (std::size_t i = 0; i < rounds.size(); ++i) {
    const Round& round = rounds[i];
    kills += round.killed;
    spared += !round.killed;
    EXPECT_FALSE(round.killed && round.leased_again) << "round " << i;
    if (round.ended_after_ns >= round.due_ns) continue;
    EXPECT_FALSE(round.killed) << "round " << i << " was over "
                               << to_ms(static_cast<std::int64_t>(round.due_ns -
                                                                  round.ended_after_ns))
                               << " ms before it was due";
  }
  std::printf("[ MEASURE  ] last moment: %zu killed, %zu spared\n", kills, spared);
  EXPECT_GT(spared, 0u);
}

// Requests that begin and end around the instant at which the idle clock runs out. Whoever got the
// backend then has used it: its idle clock starts anew.
TEST_F(TimeoutTest, P2ARequestThatComesAtTheLastMomentKeepsItsBackend) {
  constexpr std::uint64_t kLimit_ns = 20 * kMillisecond_ns;
  start({"--idle-timeout", "20ms"});
  Pool pool = attach(scratch_);
  int granted = 0;
  int evicted = 0;
  for (int i = 0; i < 120; ++i) {
    Lease lease = load(pool, "m");
    const pid_t pid = lease.pid();
    auto process = ProcessHandle::open(pid);
    ASSERT_TRUE(process);
    lease.release();
    // From 0.6 ms before it is due to 0.6 ms after, in steps of 10 us.
    const std::uint64_t due_ns =
        look_inside(pool)->backends.at(0).last_used_ns + kLimit_ns + stamp_lag_max_ns();
    sleep_until_ns(due_ns - 600'000 + static_cast<std::uint64_t>(i) * 10'000);
    AcquireOptions only_leased;
    only_leased.may_load = false;
    std::uint64_t ended_before_ns = 0;
    {
      auto late = pool.acquire("m", std::chrono::seconds(0), only_leased);
      if (!late) {
        ++evicted;
        continue;
      }
      ++granted;
      ended_before_ns = now_ns();
    }
    const std::uint64_t ended = ended_ns(*process);
    EXPECT_GE(ended, ended_before_ns + kLimit_ns)
        << "round " << i << ": evicted though it had just been used";
  }
  std::printf("[ MEASURE  ] last moment of an idle backend: %d granted, %d too late\n", granted,
              evicted);
  EXPECT_GT(granted, 0);
}

TEST_F(TimeoutTest, AStreamThatMakesProgressIsNotStalledAndOneThatStopsIs) {
  start({"--stall-timeout", "600ms"});
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load("m");
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(worker.progress("m"), "ok");
    return entry("m")["busy_ms"].get<int>() > 1500;
  }));
  EXPECT_TRUE(is_running(pid));
  const auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "stall");
  EXPECT_EQ(killed["limit_ms"], 600);
  EXPECT_GE(killed["age_ms"].get<int>(), 600);
  EXPECT_THAT(killed["text"].get<std::string>(), HasSubstr("threads"));
  EXPECT_EQ(worker.progress("m"), "lease_lost");
}

TEST_F(TimeoutTest, ALoadThatIsNotReadyInTimeIsEndedAndFails) {
  start({"--load-timeout", "150ms", "--load-cooldown", "off"});
  RemoteWorker loader(scratch_);
  RemoteWorker waiter(scratch_);
  ASSERT_EQ(loader.acquire("m"), "ticket");
  ASSERT_THAT(loader.spawn("m"), HasSubstr("pid "));
  waiter.begin_acquire("m");
  EXPECT_EQ(waiter.hear(), "load_failed");
  EXPECT_THAT(waiter.last_error(), HasSubstr("not ready within 150ms"));
  EXPECT_EQ(loader.ready("m"), "ticket_lost");
  EXPECT_THAT(loader.last_error(), HasSubstr("load_timeout"));
  const auto failed = wait_event("load_failed", "m");
  EXPECT_EQ(failed["reason"], "load_timeout");
  EXPECT_GE(failed["age_ms"].get<int>(), 150);
  EXPECT_EQ(failed["worker_pid"], loader.pid());
  EXPECT_EQ(processes_with_environment(token()).size(), 0u);
  EXPECT_TRUE(settles());
}

TEST_F(TimeoutTest, P6ALoaderStoppedOnItsWayIntoReadyCannotWriteIntoTheNextLifeOfItsSlot) {
  start({"--load-timeout", "100ms", "--load-cooldown", "off"});
  RemoteWorker loader(scratch_);
  RemoteWorker next(scratch_);
  ASSERT_EQ(loader.acquire("m"), "ticket");
  ASSERT_THAT(loader.spawn("m"), HasSubstr("pid "));
  loader.signal(SIGSTOP);
  loader.say("ready\tm");
  EXPECT_FALSE(wait_event("load_failed", "m").empty());
  const pid_t fresh = next.load("m");
  const auto before = entry("m");
  loader.signal(SIGCONT);
  EXPECT_EQ(loader.hear(), "ticket_lost");
  const auto after = entry("m");
  EXPECT_EQ(after["pid"], fresh);
  EXPECT_EQ(after["address"], before["address"]);
  EXPECT_EQ(after["generation"], before["generation"]);
  EXPECT_EQ(after["state"], "ready");
  EXPECT_EQ(next.progress("m"), "ok");
  EXPECT_TRUE(settles());
}

// The same with the stop falling anywhere around and inside `ready`.
TEST_F(TimeoutTest, P4AReadyInterruptedAnywhereEndsAsReadyOrAsLostAndNeverAsBoth) {
  start({"--load-timeout", "40ms", "--load-cooldown", "off"});
  RemoteWorker loader(scratch_);
  const Pool pool = attach(scratch_);
  const LockRecord& mutex = segment_of(pool).lock();
  int lost = 0;
  std::uint64_t takes_ns = 0;  // a ready that nothing interrupts
  for (int i = 0; i < 24; ++i) {
    const std::string model = "m" + std::to_string(i);
    ASSERT_EQ(loader.acquire(model), "ticket");
    ASSERT_THAT(loader.spawn_program(model, {"sleep", "600"}), HasSubstr("pid "));
    const std::uint64_t begun = now_ns();
    loader.say("ready\t" + model);
    if (i == 0) {
      EXPECT_EQ(loader.hear(), "lease");
      takes_ns = now_ns() - begun;
      EXPECT_EQ(poolctl(scratch_, {"evict", model, "--force"}).code, 0);
      loader.release(model);
      continue;
    }
    while (now_ns() < begun + static_cast<std::uint64_t>(i) * takes_ns / 16) {
    }
    loader.signal(SIGSTOP);
    // Stopped while it holds the mutex, it is not judged before it goes on.
    const auto holds_mutex = [&] {
      return mutex.holder_pid.load() == static_cast<std::uint32_t>(loader.pid());
    };
    EXPECT_TRUE(eventually([&] {
      return state(model) == "ready" || !event("load_failed", model).is_null() || holds_mutex();
    }));
    const bool is_judged = !holds_mutex();
    bool was_ready = state(model) == "ready";
    loader.signal(SIGCONT);
    const std::string answer = loader.hear();
    if (is_judged) {
      EXPECT_EQ(answer, was_ready ? "lease" : "ticket_lost");
    }
    was_ready = answer == "lease";
    lost += !was_ready;
    if (was_ready) {
      EXPECT_EQ(loader.progress(model), "ok");
      EXPECT_EQ(poolctl(scratch_, {"evict", model, "--force"}).code, 0);
      loader.release(model);
    }
  }
  std::printf("[ MEASURE  ] interrupted ready: %d of 23 lost\n", lost);
  EXPECT_TRUE(eventually([&] { return list().empty(); }));
  EXPECT_TRUE(settles());
}

TEST_F(TimeoutTest, P8WithHundredIdleBackendsAndNothingDueTheCoordinatorDoesNotWakeUp) {
  start({"--idle-timeout", "1h", "--busy-timeout", "1h"});
  Pool pool = attach(scratch_);
  for (int i = 0; i < 100; ++i) {
    auto grant = pool.acquire("m" + std::to_string(i));
    ASSERT_TRUE(grant) << grant.error().text;
    ReadyOptions options;
    options.external = true;
    ASSERT_TRUE(std::get<LoadTicket>(*grant).ready("127.0.0.1:" + std::to_string(1 + i), options));
  }
  // A second pool, where a lease could break a rule after 2 s: a look at most that often.
  const Scratch other_scratch;
  Daemon other(other_scratch, {"--busy-timeout", "2s"});
  Pool other_pool = attach(other_scratch);
  auto grant = other_pool.acquire("m");
  ASSERT_TRUE(grant);
  ReadyOptions options;
  options.external = true;
  ASSERT_TRUE(std::get<LoadTicket>(*grant).ready("127.0.0.1:1", options));

  // At rest: every load is recorded, and nothing has moved for a while.
  ASSERT_TRUE(eventually([&] { return count_events("loaded") == 100; })) << count_events("loaded");
  const auto scans = [](const Pool& p) { return segment_of(p).coordinator().scans.load(); };
  std::uint64_t switches = 0;
  std::uint64_t calm_since = now_ns();
  ASSERT_TRUE(eventually([&] {
    const std::uint64_t now_switches = voluntary_switches(daemon().pid());
    if (now_switches != switches) calm_since = now_ns();
    switches = now_switches;
    return now_ns() - calm_since > 300 * kMillisecond_ns;
  }));
  const std::uint64_t scans_before = scans(pool);
  const std::uint64_t other_before = scans(other_pool);
  std::this_thread::sleep_for(std::chrono::seconds(10));  // the claim is about this time
  EXPECT_EQ(scans(pool), scans_before);
  EXPECT_EQ(voluntary_switches(daemon().pid()), switches) << "one of its threads woke up";
  EXPECT_LE(scans(other_pool) - other_before, 6u);
  EXPECT_GE(scans(other_pool) - other_before, 3u) << "a lease could have become too old unseen";
  EXPECT_EQ(poolctl(scratch_, {"set", "idle-timeout=1ms"}).code, 0)
      << "and it does wake up when there is cause";
  EXPECT_TRUE(eventually([&] { return count_events("evicted") == 100; }));
}

}  // namespace
}  // namespace modelpool::test
