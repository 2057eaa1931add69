// P10, P13: the coordinator as a program: one a pool, its config, its signals, its ends.
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>

#include "base/proc.hpp"
#include "pool_test.hpp"
#include "protocol/settings_change.hpp"
#include "segment/settings_block.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class CoordinatorTest : public PoolTest {
 protected:
  Finished coordinatord(std::vector<std::string> args) {
    std::vector<std::string> argv{MODELPOOL_COORDINATORD, "--dir", scratch_.dir()};
    argv.insert(argv.end(), args.begin(), args.end());
    return run(argv);
  }
  // The line of `poolctl set` about this setting.
  std::string line_of(const std::string& name) {
    std::istringstream lines(poolctl(scratch_, {"set"}).out);
    for (std::string line; std::getline(lines, line);) {
      if (line.find(name) != std::string::npos) return line;
    }
    return "";
  }
  bool wait_line(const std::string& name, const std::string& part) {
    return eventually([&] { return line_of(name).find(part) != std::string::npos; });
  }
};

TEST_F(CoordinatorTest, P10ASecondCoordinatorIsRefusedAndToldThePidOfTheFirst) {
  start();
  const Finished second = coordinatord({});
  EXPECT_EQ(second.code, 1);
  EXPECT_THAT(second.err, AllOf(HasSubstr("process " + std::to_string(daemon().pid()) +
                                          " is its coordinator already"),
                                HasSubstr("stop that one first")));
  EXPECT_EQ(status()["coordinator"]["pid"], daemon().pid());
  EXPECT_EQ(status()["coordinator"]["epoch"], 1) << "the refused one has left traces";
  daemon().kill_now();
  daemon().start();
  EXPECT_EQ(status()["coordinator"]["epoch"], 2);
}

TEST_F(CoordinatorTest, P8ItsDeadlinesGoBeforeOtherProgramsWhereThatIsPermitted) {
  if (geteuid() != 0) GTEST_SKIP() << "only root is sure to be permitted";
  start();
  for (const auto& thread :
       std::filesystem::directory_iterator("/proc/" + std::to_string(daemon().pid()) + "/task")) {
    const auto id = static_cast<id_t>(std::stoul(thread.path().filename()));
    EXPECT_EQ(getpriority(PRIO_PROCESS, id), -10);
  }
  daemon().kill_now();
  ASSERT_EQ(setpriority(PRIO_PROCESS, 0, 5), 0);
  daemon().start();
  EXPECT_EQ(getpriority(PRIO_PROCESS, static_cast<id_t>(daemon().pid())), 5)
      << "who started it has chosen";
  ASSERT_EQ(setpriority(PRIO_PROCESS, 0, 0), 0);
}

TEST_F(CoordinatorTest, P10ACoordinatorThatLeavesInOrderLeavesBackendsAndWorkersRunning) {
  start();
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load("m");
  daemon().program().signal(SIGTERM);
  EXPECT_EQ(daemon().program().wait(), 0);
  EXPECT_TRUE(is_running(pid));
  EXPECT_EQ(worker.progress("m"), "ok");
  EXPECT_FALSE(status()["coordinator"]["alive"].get<bool>());
  daemon().start();
  EXPECT_EQ(entry("m")["in_flight"], 1);
}

TEST_F(CoordinatorTest, P10ACoordinatorThatLeavesOpensWhatItHadClosed) {
  start({"--max-backends", "1"});
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  holder.load("m");
  waiter.begin_acquire("other");
  ASSERT_TRUE(wait_state("m", "evicting"));
  daemon().program().signal(SIGINT);
  EXPECT_EQ(daemon().program().wait(), 0);
  EXPECT_EQ(state("m"), "ready");
}

TEST_F(CoordinatorTest, OnExitStopEndsEveryBackendBeforeItLeaves) {
  start({"--on-exit", "stop", "--stop-grace", "300ms"});
  const std::string carried = token();
  RemoteWorker worker(scratch_);
  worker.load_idle("a");
  worker.load_idle("b", {"--ignore-sigterm", "--grandchildren", "2"});
  ASSERT_EQ(worker.acquire("c"), "ticket");
  ASSERT_THAT(worker.spawn("c"), HasSubstr("pid "));
  daemon().program().signal(SIGTERM);
  EXPECT_EQ(daemon().program().wait(), 0);
  EXPECT_EQ(processes_with_environment(carried).size(), 0u);
  EXPECT_EQ(worker.ready("c"), "ticket_lost");
  EXPECT_EQ(event("evicted", "a")["reason"], "shutdown");
  EXPECT_EQ(event("evicted", "b")["signal"], "SIGKILL");
}

TEST_F(CoordinatorTest, OnExitStopLetsLeasesFinishWithinDrainTimeoutAndGrantsNothingMore) {
  start({"--on-exit", "stop", "--drain-timeout", "20s"});
  RemoteWorker holder(scratch_);
  RemoteWorker other(scratch_);
  const pid_t pid = holder.load("m");
  daemon().program().signal(SIGTERM);
  ASSERT_TRUE(wait_state("m", "evicting"));
  EXPECT_EQ(other.acquire("x", 200), "no_coordinator");
  EXPECT_EQ(holder.progress("m"), "ok");
  EXPECT_TRUE(is_running(pid));
  holder.release("m");
  EXPECT_EQ(daemon().program().wait(), 0);
  EXPECT_FALSE(is_running(pid));
}

// It waited for ever: see DecideTest.WhenThePoolEndsADrainForAWaiterGoesOnToItsEnd.
TEST_F(CoordinatorTest, OnExitStopEndsThoughABackendIsBeingDrainedForAWaiter) {
  start({"--on-exit", "stop", "--max-backends", "1", "--drain-timeout", "2s"});
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  const pid_t pid = holder.load("m");
  waiter.begin_acquire("other");
  ASSERT_TRUE(wait_state("m", "evicting"));
  daemon().program().signal(SIGTERM);
  EXPECT_EQ(waiter.hear(), "no_coordinator") << "who waits is not told";
  EXPECT_THAT(waiter.last_error(), HasSubstr("shut down"));
  EXPECT_EQ(daemon().program().wait(), 0);
  EXPECT_FALSE(is_running(pid));
  EXPECT_EQ(holder.progress("m"), "lease_lost");
}

// It left with 0, and what ran went on without a judge.
TEST_F(CoordinatorTest, ASecondSignalWaitsForNoRequestAndStillEndsWhatRuns) {
  start({"--on-exit", "stop", "--drain-timeout", "1h", "--stop-grace", "100ms"});
  RemoteWorker holder(scratch_);
  const pid_t pid = holder.load("m");
  daemon().program().signal(SIGINT);
  ASSERT_TRUE(wait_state("m", "evicting"));
  daemon().program().signal(SIGINT);
  EXPECT_EQ(daemon().program().wait(), 0);
  EXPECT_FALSE(is_running(pid)) << "0 says that everything has ended";
  EXPECT_EQ(holder.progress("m"), "lease_lost");
}

TEST_F(CoordinatorTest, AThirdSignalLeavesAndItsExitCodeSaysThatSomethingRunsOn) {
  start({"--on-exit", "stop", "--stop-grace", "1h"});
  RemoteWorker holder(scratch_);
  const pid_t pid = holder.load("m", {"--ignore-sigterm"});
  for (int i = 0; i < 3; ++i) {
    daemon().program().signal(SIGINT);
    ASSERT_TRUE(eventually([&] {
      const std::string log = daemon().log();
      return log.find(i == 0   ? "stopping all"
                      : i == 1 ? "not waited for"
                               : "abandoning m") != std::string::npos;
    })) << i
        << daemon().log();
  }
  EXPECT_EQ(daemon().program().wait(), 1);
  EXPECT_TRUE(is_running(pid));
  EXPECT_THAT(daemon().log(), HasSubstr("abandoning m (pid " + std::to_string(pid) + ")"));
}

TEST_F(CoordinatorTest,
       WhenTheSegmentIsUnlinkedTheCoordinatorDrainsAndExitsAsItsUnitStartsItAgain) {
  start();
  RemoteWorker holder(scratch_);
  RemoteWorker other(scratch_);
  const pid_t leased = holder.load("leased");
  const pid_t idle = other.load_idle("idle");
  ASSERT_EQ(unlink(scratch_.path("default").c_str()), 0);
  EXPECT_TRUE(eventually([&] { return !is_running(idle); }));
  EXPECT_EQ(other.acquire("another", 5000), "replaced");
  EXPECT_EQ(holder.progress("leased"), "ok") << "a lease was cut";
  EXPECT_TRUE(is_running(leased));
  EXPECT_TRUE(daemon().program().running());
  holder.release("leased");
  EXPECT_EQ(daemon().program().wait(), 1);
  EXPECT_FALSE(is_running(leased));
  EXPECT_THAT(daemon().log(), HasSubstr("was removed or given to another"));
}

// --- Settings ------------------------------------------------------------------------------------

TEST_F(CoordinatorTest, P10WhatPoolctlSetChangedSurvivesARestartWithTheSameConfig) {
  const std::string config = scratch_.path("pool.toml");
  write_file(config, "[pool]\nidle_timeout = \"15m\"\n");
  start({"--config", config, "--max-backends", "3"});
  EXPECT_THAT(line_of("idle"), HasSubstr("15m"));
  EXPECT_EQ(poolctl(scratch_, {"set", "idle-timeout=7m"}).code, 0);
  daemon().kill_now();
  daemon().start();
  EXPECT_THAT(line_of("idle"), AllOf(HasSubstr("7m"), HasSubstr("set")));
  EXPECT_EQ(status()["max_backends"], 3);

  write_file(config, "[pool]\nidle_timeout = \"20m\"\n");
  daemon().kill_now();
  daemon().start();
  EXPECT_THAT(line_of("idle"), AllOf(HasSubstr("20m"), HasSubstr("pool.toml:2")))
      << "the new config wins";
}

TEST_F(CoordinatorTest, ARuleUnderAModelOfTheDoorIsInForceAndReloaded) {
  const std::string config = scratch_.path("pool.toml");
  const std::string rest =
      "[serve]\nlisten = \"127.0.0.1:1\"\n"
      "[models.\"Qwen/Qwen3[8B]:Q4\"]\ncommand = \"s {port}\"\n"
      "env = { TOKEN = \"${NOT_IN_THIS_ENVIRONMENT}\" }\n";
  write_file(config, "[[model]]\nmatch = \"*\"\nidle_timeout = \"1h\"\n" + rest +
                         "idle_timeout = \"15m\"\n");
  start({"--config", config});
  const auto explain = [this] { return poolctl(scratch_, {"explain", "Qwen/Qwen3[8B]:Q4"}).out; };
  EXPECT_THAT(explain(), ::testing::ContainsRegex("idle_timeout +15m +.*pool.toml:9"));
  write_file(config, rest + "idle_timeout = \"20m\"\n");
  daemon().program().signal(SIGHUP);
  EXPECT_TRUE(eventually([&] { return explain().find("20m") != std::string::npos; })) << explain();
}

// The config waits for the mutex; it overwrote what was set meanwhile.
TEST_F(CoordinatorTest, WhatIsSetWhileACoordinatorStartsIsNewerThanItsConfig) {
  start({"--max-backends", "4", "--idle-timeout", "1h"});
  ASSERT_EQ(poolctl(scratch_, {"set", "max-waiters=7"}).code, 0);
  daemon_.reset();
  const Pool pool = attach(scratch_);
  const Segment& segment = segment_of(pool);
  {
    auto lock = segment.lock_structure();
    ASSERT_TRUE(lock);
    start({"--max-backends", "5", "--idle-timeout", "2h"});
    Settings settings = load_settings(segment);
    settings.pool.set(Setting::kMaxBackends, 3, {OriginKind::kSet, 0});
    const auto image = SettingsImage::make(settings, segment.settings_copy_words());
    ASSERT_TRUE(image);
    publish_settings(segment, *lock, *image);
  }
  EXPECT_TRUE(eventually(
      [&] { return pool_setting(segment, Setting::kIdleTimeout) == 2 * 3600 * kSecond_ns; }));
  EXPECT_EQ(pool_setting(segment, Setting::kMaxBackends), 3u);
  EXPECT_NE(pool_setting(segment, Setting::kMaxWaiters), 7u) << "a new config takes back old sets";
}

TEST_F(CoordinatorTest, P11AChangeOfSettingsSaysWhatChangedAndWhere) {
  start({"--idle-timeout", "15m"});
  EXPECT_EQ(poolctl(scratch_, {"set", "idle_timeout=2s", "max_backends=3"}).code, 0);
  ASSERT_TRUE(eventually([&] {
    const auto all = events(scratch_);
    return !all.empty() && all.back()["kind"] == "settings_changed" &&
           all.back()["text"].get<std::string>().ends_with("(set)");
  }));
  EXPECT_EQ(events(scratch_).back()["text"],
            "max_backends 0 -> 3 (set), idle_timeout 15m -> 2s (set)");
}

// Whoever reads the file alone expected its value.
TEST_F(CoordinatorTest, AValueThatWasSetAndSurvivesARestartIsTold) {
  start({"--idle-timeout", "15m", "--max-backends", "3"});
  EXPECT_EQ(poolctl(scratch_, {"set", "idle-timeout=2h"}).code, 0);
  daemon().kill_now();
  daemon().start();
  EXPECT_THAT(daemon().log(),
              HasSubstr("idle_timeout is 2h by `poolctl set`, not 15m as file and flags say"));
  EXPECT_THAT(daemon().log(), Not(HasSubstr("max_backends is")));
}

TEST_F(CoordinatorTest, SighupReadsTheConfigAgain) {
  const std::string config = scratch_.path("pool.toml");
  write_file(config, "[pool]\nmax_backends = 2\n");
  start({"--config", config});
  EXPECT_EQ(poolctl(scratch_, {"set", "max-backends=9"}).code, 0);
  write_file(config,
             "[pool]\nmax_backends = 5\n\n[[model]]\nmatch = \"llama*\"\nidle_timeout = \"42m\"\n");
  daemon().program().signal(SIGHUP);
  EXPECT_TRUE(eventually([&] { return status()["max_backends"] == 5; }));
  EXPECT_THAT(poolctl(scratch_, {"explain", "llama-3"}).out,
              AllOf(HasSubstr("42m"), HasSubstr("pool.toml:6")));
  EXPECT_THAT(poolctl(scratch_, {"explain", "whisper"}).out, Not(HasSubstr("42m")));
  EXPECT_GE(count_events("settings_changed"), 2u);
}

TEST_F(CoordinatorTest, P13ABadConfigAtSighupIsRefusedAndTheOldOneStays) {
  const std::string config = scratch_.path("pool.toml");
  write_file(config, "[pool]\nmax_backends = 2\n");
  start({"--config", config});
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load("m");
  write_file(config, "[pool]\nmax_backends = 1\nidle_timeout = \"soon\"\n");
  daemon().program().signal(SIGHUP);
  EXPECT_TRUE(eventually(
      [&] { return daemon().log().find("the settings in force stay") != std::string::npos; }));
  EXPECT_THAT(daemon().log(), HasSubstr("pool.toml:3:"));
  EXPECT_EQ(status()["max_backends"], 2);
  EXPECT_TRUE(daemon().program().running());
  EXPECT_TRUE(is_running(pid));
}

TEST_F(CoordinatorTest, ThatAConfigWasRefusedIsShownUntilOneIsTaken) {
  const std::string config = scratch_.path("pool.toml");
  const auto refused_ms = [this] { return status()["coordinator"]["reload_refused_ms"]; };
  const auto reload = [&](const std::string& text) {
    write_file(config, text);
    daemon().program().signal(SIGHUP);
  };
  write_file(config, "[pool]\nmax_backends = 2\n");
  start({"--config", config});
  EXPECT_TRUE(refused_ms().is_null());
  reload("[pool]\nmax_backends = 3\nidle_timeout = \"soon\"\n");
  EXPECT_TRUE(eventually([&] { return refused_ms().is_number(); }));
  reload("[pool]\nmax_backends = 4\n");
  EXPECT_TRUE(eventually([&] { return refused_ms().is_null(); }));
  EXPECT_EQ(status()["max_backends"], 4);
  // A coordinator that comes after it has read the file as it is then.
  reload("nonsense");
  EXPECT_TRUE(eventually([&] { return refused_ms().is_number(); }));
  daemon().kill_now();
  write_file(config, "[pool]\nmax_backends = 5\n");
  daemon().start();
  EXPECT_TRUE(refused_ms().is_null());
}

TEST_F(CoordinatorTest, FourThousandModelsHaveRulesOfTheirOwn) {
  std::string config = "[pool]\nidle_timeout = \"1h\"\n";
  for (int i = 0; i < 4096; ++i) {
    config += "[[model]]\nmatch = \"model-" + std::to_string(i) + "\"\nstop_grace = \"" +
              std::to_string(1 + i) + "s\"\n";
  }
  config += "[[model]]\nmatch = \"*-4095\"\nidle_timeout = \"2h\"\n";
  write_file(scratch_.path("pool.toml"), config);
  start({"--config", scratch_.path("pool.toml")});
  const auto last = poolctl_json(scratch_, {"explain", "model-4095"})["settings"];
  EXPECT_EQ(last["stop_grace"]["value"], "1h8m16s");
  EXPECT_EQ(last["stop_grace"]["rule"], "model-4095");
  EXPECT_EQ(last["idle_timeout"]["value"], "2h");
  EXPECT_EQ(last["idle_timeout"]["rule"], "*-4095");
  EXPECT_EQ(poolctl_json(scratch_, {"dump"})["rules"].size(), 4097u);
  ASSERT_EQ(poolctl(scratch_, {"set", "max-backends=7"}).code, 0);
  EXPECT_EQ(poolctl_json(scratch_, {"explain", "model-17"})["settings"]["stop_grace"]["value"],
            "18s");
}

class NewerSettings : public CoordinatorTest {
 protected:
  static constexpr auto kPower = static_cast<Setting>(40);
};

TEST_F(NewerSettings, ThatTheJudgeMustKnowAreRefusedAtTheStartByNumberAndName) {
  const Pool pool = make_pool(scratch_);
  publish_foreign(segment_of(pool), {kPower, "max_power", true, false});
  const Finished refused = run({MODELPOOL_COORDINATORD, "--dir", scratch_.dir()});
  EXPECT_EQ(refused.code, 3);
  EXPECT_THAT(refused.err, HasSubstr("setting 40 (max_power)"));
  withdraw_foreign(segment_of(pool), kPower);
  start();
  EXPECT_EQ(status()["coordinator"]["alive"], true);
}

TEST_F(NewerSettings, ThatTheJudgeMustKnowMakeARunningOneLeaveItsBackendsRunOn) {
  start();
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load("m");
  const Pool pool = attach(scratch_);
  publish_foreign(segment_of(pool), {kPower, "max_power", true, false});
  EXPECT_EQ(daemon().program().wait(), 3);
  EXPECT_THAT(daemon().log(), HasSubstr("setting 40 (max_power)"));
  EXPECT_TRUE(is_running(pid));
  EXPECT_EQ(worker.progress("m"), "ok");
  EXPECT_EQ(read_pool_settings(segment_of(pool)).unknown_to_judge(), bit_of(kPower));
}

TEST_F(NewerSettings, ThatOnlyOthersMustKnowAreServedAndShown) {
  start();
  const Pool pool = attach(scratch_);
  publish_foreign(segment_of(pool), {kPower, "max_power", false, false});
  EXPECT_EQ(poolctl(scratch_, {"set", "max-backends=2"}).code, 0);
  EXPECT_TRUE(eventually([&] { return status()["max_backends"] == 2; }));
  EXPECT_THAT(poolctl(scratch_, {"set"}).out, HasSubstr("setting 40 (max_power)"));
  EXPECT_TRUE(daemon().program().running());
}

TEST_F(NewerSettings, ThatARuleGivesAreShownToo) {
  start();
  const Pool pool = attach(scratch_);
  const auto changed = edit_settings(segment_of(pool), kLockWaitMax_ns, [](Settings& settings) {
    settings.foreign.push_back({kPower, "max_power", false, true});
    settings.rules.emplace_back().pattern = "big-*";
    settings.rules.back().overrides.set(kPower, 1, {OriginKind::kSet, 0});
  });
  ASSERT_TRUE(changed);
  EXPECT_THAT(poolctl(scratch_, {"set"}).out, HasSubstr("setting 40 (max_power)"));
}

// As a newer coordinator left it that was killed while it stopped a backend.
TEST_F(CoordinatorTest, P10AReasonOfANewerOneIsToldByItsNumberAndItsEndIsFinished) {
  start();
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load_idle("m");
  ASSERT_EQ(wait_event("loaded", "m")["model"], "m");
  daemon().kill_now();
  const Pool pool = attach(scratch_);
  const BackendView b = *look(pool).find_model("m");
  StopRecord stop;
  stop.generation = b.ref.generation;
  stop.reason = static_cast<Reason>(27);
  stop.decided_ns = stop.stopping_ns = now_ns();
  BackendRecord& record = segment_of(pool).backend(b.ref.index);
  record.stop.publish(stop);
  record.state.store(StateWord{b.ref.generation, 0, BackendState::kStopping}.pack());
  EXPECT_THAT(poolctl(scratch_, {"list"}).out, HasSubstr("reason 27"));
  EXPECT_EQ(poolctl_json(scratch_, {"list"})[0]["stop"]["reason"], "reason 27");
  daemon().start();
  EXPECT_TRUE(eventually([&] { return !is_running(pid); }));
  EXPECT_EQ(wait_event("exited", "m")["reason"], "reason 27");
  EXPECT_THAT(poolctl(scratch_, {"events"}).out, HasSubstr("reason 27"));
  EXPECT_EQ(status()["counters"]["exited"]["reason 27"], 1);
}

TEST_F(CoordinatorTest, Sigusr1LogsTheTable) {
  start();
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load("some-model");
  daemon().program().signal(SIGUSR1);
  EXPECT_TRUE(eventually([&] { return daemon().log().find("table: slot") != std::string::npos; }));
  EXPECT_THAT(daemon().log(),
              AllOf(HasSubstr("1 live"), HasSubstr("some-model"), HasSubstr(std::to_string(pid))));
}

TEST_F(CoordinatorTest, WithJsonTheLogIsOneObjectALineAndEventsAreTheSameObjects) {
  start({"--log-format", "json"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  const auto loaded = wait_event("loaded", "m");
  bool found = false;
  std::istringstream lines(daemon().log());
  for (std::string line; std::getline(lines, line);) {
    const auto object = nlohmann::json::parse(line, nullptr, false);
    ASSERT_TRUE(object.is_object()) << line;
    bool same = true;
    for (const auto& [key, value] : loaded.items())
      same = same && object.contains(key) && object[key] == value;
    found = found || same;
  }
  EXPECT_TRUE(found) << loaded << "\n" << daemon().log();
}

TEST_F(CoordinatorTest, CheckConfigSaysWhatHoldsAndTouchesNoPool) {
  const std::string config = scratch_.path("pool.toml");
  write_file(config, "[pool]\nidle_timeout = \"15m\"\n");
  const Finished checked = coordinatord({"--check-config", "--config", config});
  EXPECT_EQ(checked.code, 0) << checked.err;
  EXPECT_THAT(checked.out, AllOf(HasSubstr("ok"), HasSubstr("15m")));
  EXPECT_NE(access(scratch_.path("default").c_str(), F_OK), 0) << "a pool was created";
}

TEST_F(CoordinatorTest, CapacitiesMayStandInTheConfigAndFlagsOverrideThem) {
  const std::string config = scratch_.path("pool.toml");
  write_file(config, "[capacity]\nbackends = 8\nwaiters = 16\n");
  start({"--config", config, "--waiters", "32"});
  const auto found = poolctl_json(scratch_, {"dump"})["header"]["capacities"];
  EXPECT_EQ(found["backends"], 8);
  EXPECT_EQ(found["waiters"], 32);
  EXPECT_EQ(found["workers"], 64);
  EXPECT_EQ(daemon().log().find("was created with"), std::string::npos);
  // What a pool that exists does not have is said, not ignored in silence.
  daemon().kill_now();
  write_file(config, "[capacity]\nbackends = 9\n");
  daemon().start();
  EXPECT_THAT(daemon().log(),
              HasSubstr("the pool was created with 8 backends, not 9: to change that"));
}

// --- Bad input -----------------------------------------------------------------------------------

TEST_F(CoordinatorTest, P13AllErrorsOfABadConfigAreToldALineEach) {
  const std::string config = scratch_.path("pool.toml");
  write_file(config, "[pool]\nidle_timeout = 15m\nmax_backend = 2\n");
  const Finished refused = coordinatord({"--config", config});
  EXPECT_EQ(refused.code, 2);
  const std::string head = "coordinatord: unable to read config " + config;
  EXPECT_EQ(
      refused.err,
      head + ":2:16: idle_timeout = 15m: the quotes are missing; write idle_timeout = \"15m\"\n" +
          head + ":3:1: unknown setting \"max_backend\"; did you mean max_backends?\n");
}

TEST_F(CoordinatorTest, P13ABadConfigIsNamedWithLineAndColumn) {
  struct Row {
    const char* text;
    const char* place;
    const char* reason;
  };
  const Row rows[] = {
      {"[pool]\nidle_timeout = soon\n", ":2:", "pool.toml"},
      {"[pool]\nidle_timeout = \"soon\"\n", ":2:", "idle_timeout"},
      {"[pool]\nidel_timeout = \"5m\"\n", ":2:", "idle_timeout"},
      {"[pool]\nmax_backends = -1\n", ":2:", "max_backends"},
      {"[pool]\nmax_backends = \"many\"\n", ":2:", "max_backends"},
      {"[pool]\n\n\nstop_signal = \"SIGNOT\"\n", ":4:", "stop_signal"},
      {"[pool]\nwhen_busy = \"maybe\"\n", ":2:", "when_busy"},
      {"[[model]]\nidle_timeout = \"5m\"\n", ":1:", "match"},
      {"[[model]]\nmatch = \"[a\"\nidle_timeout = \"5m\"\n", ":2:", "not closed"},
      {"[[model]]\nmatch = \"a\"\nmax_backends = 5\n", ":3:", "max_backends"},
      {"[poool]\n", ":1:", "pool"},
  };
  const std::string config = scratch_.path("pool.toml");
  for (const Row& row : rows) {
    write_file(config, row.text);
    for (const bool check_only : {true, false}) {
      const Finished refused = check_only ? coordinatord({"--check-config", "--config", config})
                                          : coordinatord({"--config", config});
      EXPECT_EQ(refused.code, 2) << row.text;
      EXPECT_THAT(refused.err,
                  AllOf(HasSubstr("unable to"), HasSubstr(std::string("pool.toml") + row.place),
                        HasSubstr(row.reason)))
          << row.text;
    }
  }
  EXPECT_NE(access(scratch_.path("default").c_str(), F_OK), 0) << "half-done: a pool was created";
}

TEST_F(CoordinatorTest, WithUserItBecomesThatUserBeforeItTouchesThePool) {
  if (geteuid() != 0) {
    const Finished refused = coordinatord({"--user", "root"});
    EXPECT_EQ(refused.code, 3);
    EXPECT_THAT(refused.err, HasSubstr("only root can"));
    GTEST_SKIP() << "becoming another user needs root";
  }
  const passwd* nobody = getpwnam("nobody");
  ASSERT_NE(nobody, nullptr);
  const std::string dir = scratch_.path("of-nobody");
  ASSERT_EQ(mkdir(dir.c_str(), 0700), 0);
  ASSERT_EQ(chmod(scratch_.dir().c_str(), 0711), 0);
  ASSERT_EQ(chown(dir.c_str(), nobody->pw_uid, nobody->pw_gid), 0);
  Program program({MODELPOOL_COORDINATORD, "--dir", dir, "--user", "nobody"});
  const auto seen = [&] {
    return run({MODELPOOL_POOLCTL, "--dir", dir, "-o", "json", "status"}).out;  // root may look
  };
  EXPECT_TRUE(eventually([&] { return seen().find("\"alive\": true") != std::string::npos; }))
      << program.err();
  EXPECT_EQ(read_uid(program.pid()), nobody->pw_uid);
  EXPECT_EQ(status_number(program.pid(), "Gid"), nobody->pw_gid);
  struct stat info;
  ASSERT_EQ(stat((dir + "/default").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, nobody->pw_uid);
  program.signal(SIGTERM);
  EXPECT_EQ(program.wait(), 0) << program.err();
}

TEST_F(CoordinatorTest, P13WrongUsageIsNamedAndEndsWithTwo) {
  struct Row {
    std::vector<std::string> args;
    const char* reason;
  };
  const Row rows[] = {
      {{"--pool", "no/slash"}, "no/slash"},
      {{"--pool", "UPPER"}, "UPPER"},
      {{"--pool", ""}, "pool"},
      {{"--pool", std::string(65, 'a')}, "64"},
      {{"--idle-timeout", "5"}, "idle"},
      {{"--idle-timeout", "-5s"}, "idle"},
      {{"--busy-timeout", "5 parsecs"}, "busy"},
      {{"--max-backends", "lots"}, "backends"},
      {{"--max-backends", "1000000"}, "backends"},
      {{"--stop-signal", "SIGNOT"}, "signal"},
      {{"--stop-signal", "SIGSTOP"}, "signal"},
      {{"--when-busy", "never"}, "drain"},
      {{"--on-exit", "explode"}, "leave"},
      {{"--notify-fd", "77"}, "77"},
      {{"--config", "/nowhere/at/all.toml"}, "/nowhere/at/all.toml"},
      {{"--no-such-flag"}, "no-such-flag"},
      {{"stray"}, "stray"},
      {{"--user", "nobody-of-that-name"}, "nobody-of-that-name"},
  };
  for (const Row& row : rows) {
    const Finished refused = coordinatord(row.args);
    EXPECT_EQ(refused.code, 2) << ::testing::PrintToString(row.args) << refused.err;
    EXPECT_THAT(refused.err, AllOf(HasSubstr("unable to"), HasSubstr(row.reason)));
  }
  EXPECT_NE(access(scratch_.path("default").c_str(), F_OK), 0);
}

TEST_F(CoordinatorTest, P13ASegmentThatCannotBeTrustedIsRefusedWithThree) {
  const std::string path = scratch_.path("default");
  {
    start();
    daemon().program().signal(SIGTERM);
    daemon().program().wait();
  }
  const std::string good = read_file(path);
  // Looking is more lenient about who else might look.
  const auto refused_with = [&](const char* part, bool also_to_look = true) {
    const Finished refused = coordinatord({});
    EXPECT_EQ(refused.code, 3) << part;
    EXPECT_THAT(refused.err, AllOf(HasSubstr("unable to"), HasSubstr(part)));
    if (!also_to_look) return;
    const Finished looked = poolctl(scratch_, {"status"});
    EXPECT_EQ(looked.code, 3) << part << looked.out;
    EXPECT_THAT(looked.err, HasSubstr("unable to"));
  };
  const auto rewrite = [&](const std::string& bytes) {
    unlink(path.c_str());
    write_file(path, bytes);
    chmod(path.c_str(), 0600);
  };
  rewrite(good.substr(0, 5000));
  refused_with("default");
  rewrite("this is not a pool");
  refused_with("default");
  std::string other_version = good;
  other_version[8] = 77;
  rewrite(other_version);
  refused_with("version");
  rewrite(good);
  chmod(path.c_str(), 0644);
  refused_with("chmod 600", false);
  unlink(path.c_str());
  ASSERT_EQ(symlink("/dev/null", path.c_str()), 0);
  refused_with("default");
  rewrite(good);
  EXPECT_EQ(poolctl(scratch_, {"list"}).code, 0) << "the untouched bytes are fine";
}

TEST_F(CoordinatorTest, P13ADirectoryThatIsNoTmpfsIsRefused) {
  std::string pattern = "/var/tmp/modelpool-test-XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  const Finished refused = run({MODELPOOL_COORDINATORD, "--dir", pattern});
  EXPECT_EQ(refused.code, 3);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("unable to"), HasSubstr("tmpfs")));
  EXPECT_NE(access((pattern + "/default").c_str(), F_OK), 0);
  unlink((pattern + "/default.users").c_str());
  unlink((pattern + "/default.tmp").c_str());
  rmdir(pattern.c_str());
}

TEST_F(CoordinatorTest, P13ADirectoryOpenToOthersIsRefused) {
  chmod(scratch_.dir().c_str(), 0777);
  const Finished refused = coordinatord({});
  EXPECT_EQ(refused.code, 3);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("unable to"), HasSubstr(scratch_.dir())));
  chmod(scratch_.dir().c_str(), 0700);
}

// A waiter whose victim was gone while its slot was not free yet heard table_full.
TEST_F(CoordinatorTest, P5WithAsManySlotsAsPlacesAWaiterGetsTheSlotOfItsVictim) {
  start({"--backends", "1", "--max-backends", "1", "--load-cooldown", "off"});
  RemoteWorker a(scratch_);
  RemoteWorker b(scratch_);
  for (int i = 0; i < 10; ++i) {
    ASSERT_NE(a.load("a"), 0);
    b.begin_acquire("b");
    ASSERT_TRUE(wait_state("a", "evicting"));
    a.release("a");
    ASSERT_EQ(b.hear(), "ticket") << i;
    b.release("b");
    ASSERT_TRUE(eventually([&] { return list().empty(); }));
  }
}

TEST_F(CoordinatorTest, P13FullTablesAreNamedAnswersAndTheRestGoesOn) {
  start({"--backends", "2", "--workers", "3", "--leases", "64", "--waiters", "1", "--max-backends",
         "2"});
  RemoteWorker first(scratch_);
  RemoteWorker second(scratch_);
  first.load("a");
  second.load("b");
  RemoteWorker third(scratch_);
  const Finished fourth = poolctl(scratch_, {"lease", "a", "--timeout", "0", "--", "true"});
  EXPECT_EQ(fourth.code, 124) << fourth.err;
  EXPECT_THAT(fourth.err, HasSubstr("worker"));
  third.begin_acquire("c");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  first.begin_acquire("d");
  EXPECT_THAT(first.hear(), ::testing::AnyOf("table_full", "queue_full"));
  EXPECT_THAT(first.last_error(), HasSubstr("waiter"));
  first.release("a");
  EXPECT_EQ(third.hear(), "ticket");
}

}  // namespace
}  // namespace modelpool::test
