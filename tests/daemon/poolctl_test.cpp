// P11, P12, P13: poolctl: looking, asking, and what it answers.
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

#include "base/time.hpp"
#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

class PoolctlTest : public PoolTest {
 protected:
  Finished ctl(std::vector<std::string> args) { return poolctl(scratch_, std::move(args)); }
};

// Every command that only looks.
const std::vector<std::vector<std::string>> kLooks = {
    {"status"},       {"list"},     {"workers"}, {"leases"}, {"waiters"}, {"events"},
    {"explain", "m"}, {"why", "m"}, {"dump"},    {"check"},  {"set"},     {"doctor"}};

const std::vector<const char*> kCommands = {
    "status", "list",  "top",   "workers", "leases", "waiters", "events", "explain",
    "why",    "dump",  "check", "set",     "touch",  "pin",     "unpin",  "evict",
    "wait",   "lease", "load",  "run",     "remove", "reset",   "logs",   "doctor"};

TEST_F(PoolctlTest, P12LookingChangesNotAByteAndWorksWithTheCoordinatorDead) {
  start({"--max-backends", "1"});
  {
    RemoteWorker worker(scratch_);
    RemoteWorker waiter(scratch_);
    worker.load("m");
    waiter.begin_acquire("other");
    ASSERT_TRUE(wait_state("m", "evicting"));
    daemon().kill_now();
  }
  // Nobody is left but the backend: whatever changes now, the looking changed.
  const std::string path = scratch_.path("default");
  const std::string before = read_file(path);
  const auto written_before = std::filesystem::last_write_time(path);
  for (const auto& look : kLooks) {
    for (const bool json : {false, true}) {
      auto args = look;
      if (json) args.insert(args.begin(), {"-o", "json"});
      const Finished done = ctl(args);
      const bool asks_for_judge = look[0] == "status" || look[0] == "check" || look[0] == "doctor";
      EXPECT_EQ(done.code, asks_for_judge ? 1 : 0) << look[0] << done.err;
      EXPECT_NE(done.out, "") << look[0];
      EXPECT_TRUE(read_file(path) == before) << look[0] << " changed the segment";
    }
  }
  EXPECT_EQ(std::filesystem::last_write_time(path), written_before);
  EXPECT_EQ(status()["coordinator"]["alive"], false);
  EXPECT_EQ(status()["leases"], 1);
  EXPECT_EQ(status()["waiting"], 1);
}

// Both said 0.
TEST_F(PoolctlTest, StatusAndCheckOfAPoolThatNobodyJudgesSayNo) {
  start();
  EXPECT_EQ(ctl({"status"}).code, 0);
  EXPECT_EQ(ctl({"check"}).code, 0);
  const std::string copy = scratch_.path("copy-of-it");
  const auto expect_no = [&](const std::string& why) {
    for (const char* command : {"status", "check"}) {
      const Finished done = ctl({command});
      EXPECT_EQ(done.code, 1) << command << done.out;
      EXPECT_THAT(done.out + done.err,
                  AllOf(HasSubstr(why), HasSubstr("start coordinatord --dir " + scratch_.dir())));
      const Finished json = ctl({"-o", "json", command});
      EXPECT_EQ(json.code, 1) << command << json.out;
      const auto object = nlohmann::json::parse(json.out);
      EXPECT_EQ(object.value("ok", false), false) << object;
    }
    // What a copy shows was so; nobody is to judge it.
    std::filesystem::copy_file(scratch_.path("default"), copy,
                               std::filesystem::copy_options::overwrite_existing);
    EXPECT_EQ(ctl({"status", "--file", copy}).code, 0);
    EXPECT_EQ(ctl({"check", "--file", copy}).code, 0);
  };
  RemoteWorker worker(scratch_);
  daemon().program().signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(daemon().pid()));
  EXPECT_EQ(ctl({"set", "max-backends=3"}).code, 0);  // rings
  EXPECT_TRUE(eventually([&] { return status()["coordinator"]["hung_ms"].is_number(); }));
  expect_no("has hung for");
  daemon().kill_now();
  expect_no("no coordinator is running");
}

// `coordinatord & poolctl status` lost 7 of 15 races.
TEST_F(PoolctlTest, WithWaitACommandFindsThePoolThatIsBeingMade) {
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"status"}, {"list"}, {"set", "max-backends=2"}, {"check"}}) {
    std::vector<std::string> argv{MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "--wait", "60s"};
    argv.insert(argv.end(), command.begin(), command.end());
    Program waiting(argv);
    start();
    EXPECT_EQ(waiting.wait(), 0) << command[0] << waiting.err();
    EXPECT_EQ(ctl({"remove", "--stop"}).code, 0);
    daemon_.reset();
  }
}

TEST_F(PoolctlTest, WithWaitACommandFindsTheCoordinatorThatIsBeingStarted) {
  start();
  daemon().kill_now();
  Program waiting(std::vector<std::string>{MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "--wait",
                                           "60s", "status"});
  daemon().start();
  EXPECT_EQ(waiting.wait(), 0) << waiting.out() << waiting.err();
}

TEST_F(PoolctlTest, AWaitThatIsOverSaysWhatIsMissing) {
  const Finished no_pool = ctl({"--wait", "50ms", "list"});
  EXPECT_EQ(no_pool.code, 3);
  EXPECT_THAT(no_pool.err, HasSubstr("there is no " + scratch_.path("default")));
  start();
  daemon().kill_now();
  EXPECT_EQ(ctl({"--wait", "0", "list"}).code, 0) << "0 is not to wait";
  const Finished no_judge = ctl({"list", "--wait", "50ms"});
  EXPECT_EQ(no_judge.code, 1);
  EXPECT_THAT(no_judge.err, AllOf(HasSubstr("within 50ms: no coordinator is running"),
                                  HasSubstr("start coordinatord")));
  EXPECT_EQ(ctl({"--wait", "50ms", "lease", "m", "--", "true"}).code, 124);
  EXPECT_EQ(ctl({"--wait", "off", "list"}).code, 2);
  EXPECT_EQ(ctl({"--wait", "soon", "list"}).code, 2);
}

TEST_F(PoolctlTest, P12ACopiedSegmentIsSeenAsThePoolWas) {
  start();
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load("m");
  ASSERT_FALSE(wait_event("loaded", "m").empty());
  const std::string copy = scratch_.path("copy-of-it");
  std::filesystem::copy_file(scratch_.path("default"), copy);
  chmod(copy.c_str(), 0400);
  const Finished dumped = run({MODELPOOL_POOLCTL, "dump", "--file", copy});
  ASSERT_EQ(dumped.code, 0) << dumped.err;
  const auto dump = nlohmann::json::parse(dumped.out);
  EXPECT_EQ(dump["backends"][0]["model"], "m");
  EXPECT_EQ(dump["backends"][0]["pid"], pid);
  EXPECT_EQ(dump["lease_cells"].size(), 1u);
  EXPECT_GE(dump["events"].size(), 2u);
  EXPECT_EQ(run({MODELPOOL_POOLCTL, "list", "--file", copy}).code, 0);
  EXPECT_EQ(run({MODELPOOL_POOLCTL, "events", "--file", copy}).code, 0);
  EXPECT_EQ(run({MODELPOOL_POOLCTL, "set", "max-backends=1", "--file", copy}).code, 2)
      << "a copy is only looked at";
  EXPECT_EQ(run({MODELPOOL_POOLCTL, "dump", "--file", scratch_.path("nothing")}).code, 3);
}

TEST_F(PoolctlTest, P12LookingIsNoUse) {
  start({"--idle-timeout", "300ms"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  // Looked at all the time until it is gone.
  EXPECT_TRUE(eventually([&] {
    for (const auto& look : kLooks) ctl(look);
    return state("m").empty();
  }));
  EXPECT_EQ(wait_event("evicted", "m")["reason"], "idle");
}

TEST_F(PoolctlTest, P12LookingTakesNoLockAndGoesOnWhileItsHolderIsStopped) {
  start();
  Forked holder([&](Forked::Child& child) {
    Pool pool = attach(scratch_);
    auto lock = segment_of(pool).lock_structure();
    EXPECT_TRUE(lock);
    child.say("locked");
    child.hear();
  });
  ASSERT_EQ(holder.hear(), "locked");
  holder.signal(SIGSTOP);
  for (const auto& look : kLooks) {
    // A model never heard of; that very holder.
    const bool says_no = look[0] == "why" || look[0] == "doctor";
    EXPECT_EQ(ctl(look).code, says_no ? 1 : 0) << look[0];
  }
  const Finished change = ctl({"set", "max-backends=3"});
  EXPECT_EQ(change.code, 3);
  EXPECT_THAT(change.err, HasSubstr(std::to_string(holder.pid()))) << "who holds it is not named";
  holder.kill_now();
  EXPECT_EQ(ctl({"set", "max-backends=3"}).code, 0) << "the mutex of a dead holder is stuck";
}

TEST_F(PoolctlTest, TheJsonOfListStatusAndLeasesIsAsDesigned) {
  start({"--max-backends", "2"});
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load_idle("m");
  ASSERT_EQ(worker.acquire("m", 1000, "req-1"), "lease");
  const auto m = entry("m");
  for (const char* key : {"model", "state", "pid", "address", "in_flight", "busy_ms", "idle_ms",
                          "ready_ms", "pinned", "size_bytes", "generation", "owner_pid"}) {
    EXPECT_TRUE(m.contains(key)) << key;
  }
  EXPECT_EQ(m["pid"], pid);
  EXPECT_EQ(m["owner_pid"], worker.pid());
  EXPECT_TRUE(m["busy_ms"].is_number());
  EXPECT_TRUE(m["idle_ms"].is_null()) << "busy is not idle for 0 ms";
  EXPECT_TRUE(m["size_bytes"].is_null()) << "unknown is not 0";
  const auto s = status();
  EXPECT_EQ(s["pool"], "default");
  EXPECT_EQ(s["max_backends"], 2);
  EXPECT_EQ(s["live"], 1);
  EXPECT_EQ(s["ready"], 1);
  EXPECT_EQ(s["waiting"], 0);
  EXPECT_EQ(s["workers"], 1);
  EXPECT_EQ(s["leases"], 1);
  EXPECT_EQ(s["coordinator"]["alive"], true);
  EXPECT_EQ(s["coordinator"]["pid"], daemon().pid());
  EXPECT_EQ(s["coordinator"]["epoch"], 1);
  const auto leases = poolctl_json(scratch_, {"leases"});
  ASSERT_EQ(leases.size(), 1u);
  for (const char* key : {"model", "worker_pid", "age_ms", "progress_ms", "tag"})
    EXPECT_TRUE(leases[0].contains(key)) << key;
  EXPECT_EQ(leases[0]["tag"], "req-1");
}

TEST_F(PoolctlTest, ExplainSaysWhichRuleApplies) {
  const std::string config = scratch_.path("pool.toml");
  write_file(
      config,
      "[pool]\nidle_timeout = \"15m\"\n\n[[model]]\nmatch = \"llama*\"\nbusy_timeout = \"90s\"\n");
  start({"--config", config, "--stop-grace", "3s"});
  EXPECT_EQ(ctl({"set", "drain-timeout=8s"}).code, 0);
  const std::string llama = ctl({"explain", "llama-3"}).out;
  for (const char* part : {"15m", "pool.toml:2", "1m30s", "pool.toml:6", "3s", "flag", "8s", "set"})
    EXPECT_THAT(llama, HasSubstr(part));
  EXPECT_THAT(ctl({"explain", "whisper"}).out, Not(HasSubstr("pool.toml:6")));
}

TEST_F(PoolctlTest, ExplainPromisesNothingThatADeadCoordinatorWouldHaveToDo) {
  start({"--drain-timeout", "30s", "--max-backends", "3"});
  RemoteWorker worker(scratch_);
  worker.load("busy");
  worker.load_idle("asked");
  worker.load_idle("idle");
  EXPECT_EQ(ctl({"evict", "busy", "--timeout", "0"}).code, 0);
  ASSERT_TRUE(wait_state("busy", "evicting"));
  EXPECT_THAT(ctl({"explain", "busy"}).out, HasSubstr("it opens again in "));
  daemon().kill_now();
  EXPECT_EQ(ctl({"evict", "asked", "--timeout", "0"}).code, 0);
  for (const char* model : {"busy", "asked", "idle"})
    EXPECT_THAT(ctl({"explain", model}).out, HasSubstr("no coordinator is running")) << model;
  EXPECT_THAT(ctl({"explain", "asked"}).out, HasSubstr("asked for by `poolctl evict`"));
  // Only those that may go are counted.
  EXPECT_EQ(ctl({"set", "min-resident=1h"}).code, 0);
  EXPECT_THAT(ctl({"explain", "idle"}).out, HasSubstr("(min_resident)"));
}

// --- Events --------------------------------------------------------------------------------------

TEST_F(PoolctlTest, P11EveryEndIsExplained) {
  start({"--max-backends", "1", "--load-cooldown", "off"});
  RemoteWorker worker(scratch_);
  const pid_t first = worker.load_idle("first");
  const pid_t second = worker.load_idle("second");
  EXPECT_EQ(ctl({"evict", "second"}).code, 0);
  const pid_t third = worker.load("third");
  EXPECT_EQ(ctl({"evict", "third", "--force"}).code, 0);
  const auto lru = wait_event("evicted", "first");
  EXPECT_EQ(lru["reason"], "lru");
  EXPECT_EQ(lru["pid"], first);
  EXPECT_EQ(lru["signal"], "SIGTERM");
  EXPECT_TRUE(lru["exit_ms"].is_number());
  EXPECT_TRUE(lru["age_ms"].is_number()) << "how long was it unused?";
  EXPECT_TRUE(lru["limit_ms"].is_null()) << "there is no limit on that: unknown is not 0";
  const auto requested = wait_event("evicted", "second");
  EXPECT_EQ(requested["reason"], "requested");
  EXPECT_EQ(requested["pid"], second);
  EXPECT_TRUE(requested["age_ms"].is_null());
  const auto forced = wait_event("killed", "third");
  EXPECT_EQ(forced["reason"], "requested");
  EXPECT_EQ(forced["pid"], third);
  const auto loaded = wait_event("loaded", "first");
  EXPECT_EQ(loaded["worker_pid"], worker.pid());
  EXPECT_TRUE(loaded["load_ms"].is_number());
  EXPECT_TRUE(loaded["reason"].is_null());
  std::uint64_t sequence = 0;
  const std::set<std::string> kinds{
      "loaded",      "load_failed",         "evicted",          "killed",    "exited",
      "worker_died", "coordinator_started", "settings_changed", "recovered", "cancel_requested"};
  for (const auto& e : events(scratch_)) {
    EXPECT_EQ(e["seq"].get<std::uint64_t>(), ++sequence);
    EXPECT_TRUE(kinds.contains(e["kind"].get<std::string>())) << e;
    EXPECT_THAT(e["time"].get<std::string>(),
                MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]+Z"));
  }
}

TEST_F(PoolctlTest, P11EventsFollowIsWokenByEachEventAndDoesNotPoll) {
  start();
  RemoteWorker worker(scratch_);
  Program follower(std::vector<std::string>{MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "-o",
                                            "json", "events", "--follow"});
  ASSERT_TRUE(
      eventually([&] { return follower.out().find("coordinator_started") != std::string::npos; }));
  for (int i = 0; i < 3; ++i) {
    const std::string model = "m" + std::to_string(i);
    worker.load_idle(model);
    EXPECT_TRUE(eventually([&] {
      return follower.out().find("\"" + model + "\"") != std::string::npos;
    })) << model;
  }
  // At rest it wakes at most once a second, to see whether anybody still reads it.
  std::uint64_t looks = voluntary_switches(follower.pid());
  const std::uint64_t since = now_ns();
  EXPECT_TRUE(eventually([&] { return now_ns() - since > 1500 * kMillisecond_ns; }));
  EXPECT_LE(voluntary_switches(follower.pid()) - looks, 8u);
  follower.signal(SIGTERM);
  EXPECT_EQ(follower.wait(), 0);
  std::istringstream lines(follower.out());
  for (std::string line; std::getline(lines, line);)
    EXPECT_TRUE(nlohmann::json::parse(line, nullptr, false).is_object()) << line;
}

TEST_F(PoolctlTest, P10FollowersSeeTheEventsOfTheNextCoordinator) {
  start();
  Program follower(std::vector<std::string>{MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "-o",
                                            "json", "events", "--follow"});
  ASSERT_TRUE(
      eventually([&] { return follower.out().find("coordinator_started") != std::string::npos; }));
  daemon().kill_now();
  daemon().start();
  EXPECT_TRUE(eventually([&] { return follower.out().find("recovered") != std::string::npos; }));
}

TEST_F(PoolctlTest, P11WhatEventsSayIsLabelled) {
  start({"--max-backends", "1", "--idle-timeout", "1h"});
  EXPECT_THAT(wait_event("settings_changed")["text"].get<std::string>(),
              AllOf(HasSubstr("max_backends 0 -> 1 (flag)"), HasSubstr("idle_timeout off -> 1h")));
  RemoteWorker worker(scratch_);
  worker.load_idle("a");
  worker.load_idle("b");
  ASSERT_FALSE(wait_event("evicted", "a").empty());
  EXPECT_THAT(ctl({"events", "--kind", "evicted"}).out, HasSubstr("unused for "));
}

TEST_F(PoolctlTest, EventsCanBeSelected) {
  start();
  RemoteWorker worker(scratch_);
  worker.load_idle("a");
  worker.load_idle("b");
  ASSERT_FALSE(wait_event("loaded", "b").empty());
  const auto lines = [&](std::vector<std::string> args) {
    args.insert(args.begin(), {"-o", "json", "events"});
    const std::string out = ctl(args).out;
    return std::count(out.begin(), out.end(), '\n');
  };
  EXPECT_EQ(lines({"--kind", "loaded"}), 2);
  EXPECT_EQ(lines({"--model", "b"}), 1);
  EXPECT_EQ(lines({"--count", "1"}), 1);
  EXPECT_EQ(lines({"--since", "1000"}), 0);
  const auto all = lines({});
  EXPECT_EQ(lines({"--since", "1h"}), all);
  EXPECT_EQ(lines({"--since", "1h", "--count", "1"}), 1);
  // By the time that they carry: a moment later all of these are older than that moment.
  const auto last = events(scratch_).back()["time"];
  EXPECT_TRUE(eventually([&] { return lines({"--since", "1ms"}) == 0; })) << last;
  EXPECT_EQ(ctl({"events", "--since", "off"}).code, 2);
  EXPECT_EQ(ctl({"events", "--kind", "nonsense"}).code, 2);
}

TEST_F(PoolctlTest, TheRingOfEventsKeepsTheNewest) {
  start({"--events", "8", "--load-cooldown", "off"});
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(ctl({"set", "max-backends=" + std::to_string(i + 1)}).code, 0);
  EXPECT_TRUE(eventually([&] {
    const auto all = events(scratch_);
    return all.size() == 8 && all.back()["count"] == 21;
  })) << ctl({"events"}).out;
}

// --- Evict, wait, touch, pin, remove -------------------------------------------------------------

TEST_F(PoolctlTest, EvictReturnsWhenTheBackendIsGone) {
  start({"--stop-grace", "200ms"});
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load_idle("m", {"--ignore-sigterm"});
  const Finished done = ctl({"evict", "m"});
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_FALSE(is_running(pid));
  const Finished again = ctl({"evict", "m"});
  EXPECT_EQ(again.code, 1);
  EXPECT_THAT(again.err, HasSubstr("no backend serves it"));
}

TEST_F(PoolctlTest, P2EvictDoesNotCutALeaseAndSaysWhy) {
  start({"--drain-timeout", "200ms"});
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load("m");
  const Finished refused = ctl({"evict", "m"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err,
              AllOf(HasSubstr("unable to evict m"), HasSubstr("1 lease"), HasSubstr("--force")));
  EXPECT_EQ(worker.progress("m"), "ok");
  EXPECT_EQ(state("m"), "ready");
  EXPECT_FALSE(entry("m")["evict_requested"].get<bool>());
  const Finished forced = ctl({"evict", "m", "--force"});
  EXPECT_EQ(forced.code, 0) << forced.err;
  EXPECT_FALSE(is_running(pid));
  EXPECT_EQ(worker.progress("m"), "lease_lost");
}

TEST_F(PoolctlTest, EvictWaitsForALeaseThatEndsInTime) {
  start({"--drain-timeout", "20s"});
  RemoteWorker worker(scratch_);
  worker.load("m");
  Program evict(std::vector<std::string>{MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "evict", "m"});
  ASSERT_TRUE(wait_state("m", "evicting"));
  worker.release("m");
  EXPECT_EQ(evict.wait(), 0) << evict.err();
}

TEST_F(PoolctlTest, EvictThatTimesOutWithdrawsItsRequest) {
  start({"--drain-timeout", "20s"});
  RemoteWorker worker(scratch_);
  worker.load("m");
  const Finished refused = ctl({"evict", "m", "--timeout", "150ms"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("withdrawn"));
  EXPECT_TRUE(wait_state("m", "ready"));
  worker.release("m");
  EXPECT_EQ(worker.acquire("m"), "lease");
}

// The second one withdrew the request of the first.
TEST_F(PoolctlTest, EvictWithdrawsOnlyWhatItHasAskedFor) {
  start({"--drain-timeout", "off"});
  RemoteWorker worker(scratch_);
  worker.load("m");
  Program first(std::vector<std::string>{MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "evict", "m"});
  ASSERT_TRUE(wait_state("m", "evicting"));
  const Finished second = ctl({"evict", "m", "--timeout", "100ms"});
  EXPECT_EQ(second.code, 1);
  EXPECT_THAT(second.err, HasSubstr("the request of another evict stays"));
  EXPECT_EQ(state("m"), "evicting");
  EXPECT_TRUE(entry("m")["evict_requested"].get<bool>());
  worker.release("m");
  EXPECT_EQ(first.wait(), 0) << first.err();
}

// It said that no backend serves it, which is true and no help.
TEST_F(PoolctlTest, EvictOfABackendThatDoesNotDieSaysSo) {
  start();
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load_idle("m");
  daemon().kill_now();  // what follows is the coordinator's part
  const Pool pool = attach(scratch_);
  const BackendRef ref = find_backend(segment_of(pool), "m")->ref;
  const std::uint32_t epoch = 77;
  ASSERT_TRUE(close_to_leases(segment_of(pool), ref, epoch) &&
              commit_stop(segment_of(pool), ref, epoch));
  Word& hash = segment_of(pool).backend(ref.index).model_hash;
  const std::uint64_t before = hash.exchange(kHashOverdue);
  const Finished refused = ctl({"evict", "m"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err,
              AllOf(HasSubstr("process " + std::to_string(pid)),
                    HasSubstr("does not die of SIGKILL"), HasSubstr("keeps its place")));
  hash.store(before);
  daemon().start();
  EXPECT_TRUE(wait_state("m", ""));
}

TEST_F(PoolctlTest, ANarrowTerminalShowsTheWholeMeaningOfEachSetting) {
  start();
  const Finished shown = run(
      {"script", "-qec",
       "stty cols 60; exec " MODELPOOL_POOLCTL " --dir " + scratch_.dir() + " set", "/dev/null"});
  EXPECT_EQ(shown.code, 0) << shown.err;
  std::string words;  // of all lines, one space between two
  std::istringstream lines(shown.out);
  for (std::string word; lines >> word;) words += word + " ";
  EXPECT_THAT(words, HasSubstr("what asks a backend to end stop_grace"));
  EXPECT_THAT(words, HasSubstr("a lease that made no progress for so long idle_timeout"));
  EXPECT_THAT(words, Not(HasSubstr("…")));
}

TEST_F(PoolctlTest, ListWatchPrintsAnewWithEveryEventUntilItIsInterrupted) {
  start();
  RemoteWorker worker(scratch_);
  // By time alone it would print once in ten minutes.
  Program watch(std::vector<std::string>{MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "-o", "json",
                                         "list", "--watch", "10m"});
  const auto last = [&] {
    const std::string out = watch.out();
    const std::size_t end = out.rfind('\n');
    if (end == std::string::npos) return nlohmann::json();
    const std::size_t begin = end == 0 ? end : out.rfind('\n', end - 1);
    return nlohmann::json::parse(out.substr(begin == std::string::npos ? 0 : begin + 1,
                                            end - (begin == std::string::npos ? 0 : begin + 1)));
  };
  EXPECT_TRUE(eventually([&] { return last().is_array() && last().empty(); }));
  worker.load_idle("m");
  EXPECT_TRUE(eventually([&] { return last().size() == 1 && last()[0]["model"] == "m"; }));
  EXPECT_EQ(ctl({"evict", "m"}).code, 0);
  EXPECT_TRUE(eventually([&] { return last().empty(); }));
  EXPECT_TRUE(watch.running());
  watch.signal(SIGINT);
  EXPECT_EQ(watch.wait(), 0);
  EXPECT_EQ(watch.err(), "");
}

TEST_F(PoolctlTest, WaitSeesAStateOrSaysWhatItSawInstead) {
  start();
  RemoteWorker worker(scratch_);
  Program ready(std::vector<std::string>{MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "wait", "m",
                                         "--state", "ready"});
  worker.load("m");
  EXPECT_EQ(ready.wait(), 0);
  EXPECT_EQ(ctl({"wait", "m", "--state", "busy", "--timeout", "0"}).code, 0);
  const Finished no = ctl({"wait", "m", "--state", "idle", "--timeout", "50ms"});
  EXPECT_EQ(no.code, 1);
  EXPECT_THAT(no.err, HasSubstr("ready with 1 lease"));
  EXPECT_EQ(ctl({"wait", "m", "--state", "dancing"}).code, 2);
  EXPECT_EQ(ctl({"wait", "other", "--state", "gone", "--timeout", "0"}).code, 0);
}

TEST_F(PoolctlTest, RemoveTakesAPoolAwayOnlyWhenNobodyIsInItUnlessToldToStopIt) {
  start({"--stop-grace", "200ms"});
  pid_t pid = 0;
  {
    RemoteWorker worker(scratch_);
    pid = worker.load_idle("m", {"--ignore-sigterm"});
    const Finished refused = ctl({"remove"});
    EXPECT_EQ(refused.code, 1);
    EXPECT_THAT(refused.err, AllOf(HasSubstr("unable to"), HasSubstr("--stop")));
    EXPECT_TRUE(is_running(pid));
    EXPECT_EQ(worker.acquire("m"), "lease");
  }
  const Finished removed = ctl({"remove", "--stop"});
  EXPECT_EQ(removed.code, 0) << removed.err;
  EXPECT_FALSE(is_running(pid));
  EXPECT_TRUE(eventually([&] { return !daemon().program().running(); }));
  EXPECT_NE(access(scratch_.path("default").c_str(), F_OK), 0);
  EXPECT_EQ(ctl({"status"}).code, 3);
}

// It ended every backend, and then said that processes were attached, but not which.
TEST_F(PoolctlTest, RemoveNamesWhoHoldsThePoolBeforeItStopsAnything) {
  start();
  pid_t pid = 0;
  {
    RemoteWorker worker(scratch_);
    pid = worker.load_idle("m");
  }
  ASSERT_TRUE(eventually([&] { return status()["workers"] == 0; }));
  Forked holder([&](Forked::Child& child) {
    const Fd users(open((scratch_.path("default") + ".users").c_str(), O_RDWR | O_CLOEXEC));
    flock(users.get(), LOCK_SH);
    child.say("held");
    child.hear();
  });
  ASSERT_EQ(holder.hear(), "held");
  for (const std::vector<std::string>& remove :
       {std::vector<std::string>{"remove", "--stop"}, {"remove"}}) {
    const Finished refused = ctl(remove);
    EXPECT_EQ(refused.code, 1);
    EXPECT_THAT(refused.err,
                HasSubstr("process " + std::to_string(holder.pid()) + " (daemon_tests"))
        << remove.back();
    EXPECT_TRUE(is_running(pid));
    EXPECT_TRUE(daemon().program().running());
  }
  holder.kill_now();
  EXPECT_EQ(ctl({"remove", "--stop"}).code, 0);
}

// --- Bad input -----------------------------------------------------------------------------------

TEST_F(PoolctlTest, P13EachWrongLineHasItsExitCodeAndItsReason) {
  start();
  RemoteWorker worker(scratch_);
  worker.load("m");
  ASSERT_EQ(worker.acquire("llama-3"), "ticket");
  EXPECT_EQ(worker.fail("llama-3", "no such file"), "ok");
  EXPECT_THAT(ctl({"explain", "llama-4"}).out, HasSubstr("not loaded; did you mean llama-3?"));
  EXPECT_THAT(ctl({"explain", "llama-3"}).out, Not(HasSubstr("did you mean")));
  EXPECT_THAT(ctl({"reset", "llama-4"}).out,
              HasSubstr("no failed load of llama-4 to forget; did you mean llama-3?"));
  struct Row {
    std::vector<std::string> args;
    int code;
    const char* reason;
  };
  const Row rows[] = {
      {{}, 2, "no command"},
      {{"frobnicate"}, 2, "frobnicate: there is no such command; poolctl --help"},
      {{"stauts"}, 2, "no such command; did you mean status?"},
      {{"events", "--folow"}, 2, "--folow; did you mean --follow?"},
      {{"events", "--last", "0"}, 2, "not expected: --last 0; see poolctl events --help"},
      {{"list", "--dri", "/x"}, 2, "did you mean --dir?"},
      {{"set", "idle-timout=5m"}, 2, "did you mean idle_timeout?"},
      {{"list", "--no-such-flag"}, 2, "no-such-flag"},
      {{"-o", "xml", "list"}, 2, "table and json"},
      {{"--pool", "Not A Name", "status"}, 2, "Not A Name"},
      {{"--pool", "", "status"}, 2, "pool"},
      {{"--dir", "", "status"}, 2, "--dir"},
      {{"--pool", "nobody-made-this", "status"}, 3, "nobody-made-this"},
      {{"set", "idle-timeout"}, 2, "KEY=VALUE"},
      {{"set", "idle-timeout=soon"}, 2, "idle_timeout"},
      {{"set", "idle-timeout=-5s"}, 2, "idle_timeout"},
      {{"set", "no-such-setting=1"}, 2, "no-such-setting"},
      {{"set", "max-backends=many"}, 2, "max_backends"},
      {{"set", "max-backends=99999999999999999999"}, 2, "max_backends"},
      {{"set", "when-busy=perhaps"}, 2, "when_busy"},
      {{"set", "when-busy=wiat"}, 2, "drain, wait or force; did you mean wait?"},
      {{"set", "max-backends=2", "max_backends=3"}, 2, "max_backends twice"},
      {{"ls"}, 2, "did you mean list?"},
      {{"ps"}, 2, "did you mean list?"},
      {{"kill", "m"}, 2, "did you mean evict?"},
      {{"help"}, 2, "did you mean --help?"},
      {{"--file", "x", "status"}, 2, "write --file behind the command; see poolctl status --help"},
      {{"evict", "llama-4"}, 1, "no backend serves it; did you mean llama-3?"},
      {{"touch", "llama-4"}, 1, "did you mean llama-3?"},
      {{"pin", "llama-4"}, 1, "did you mean llama-3?"},
      {{"wait", "llama-4", "--state", "ready", "--timeout", "0"}, 1, "did you mean llama-3?"},
      {{"set", "stop-signal=SIGNOT"}, 2, "stop_signal"},
      {{"set", "max-backends=2", "idle-timeout=soon"}, 2, "idle_timeout"},
      {{"touch", "nobody"}, 1, "no backend serves it"},
      {{"pin", "nobody"}, 1, "no backend serves it"},
      {{"unpin", "nobody"}, 1, "no backend serves it"},
      {{"evict", "nobody"}, 1, "no backend serves it"},
      {{"evict"}, 2, "MODEL"},
      {{"touch", ""}, 2, "model"},
      {{"touch", std::string(256, 'x')}, 2, "255"},
      {{"touch", "new\nline"}, 2, "printable"},
      {{"evict", "m", "--timeout", "later"}, 2, "later"},
      {{"events", "--since", "yesterday"}, 2, "yesterday"},
      {{"dump", "--file", "/etc/passwd"}, 3, "/etc/passwd"},
      {{"dump", "--file", "/nowhere/at/all"}, 3, "/nowhere/at/all"},
  };
  for (const Row& row : rows) {
    const Finished done = ctl(row.args);
    EXPECT_EQ(done.code, row.code) << ::testing::PrintToString(row.args) << done.err;
    EXPECT_THAT(done.err, AllOf(HasSubstr("poolctl: unable to"), HasSubstr(row.reason)))
        << ::testing::PrintToString(row.args);
    EXPECT_EQ(done.out, "") << ::testing::PrintToString(row.args);
  }
  EXPECT_EQ(status()["max_backends"], 0) << "half of a wrong `set` was done";
  EXPECT_EQ(worker.progress("m"), "ok");
  EXPECT_TRUE(settles());
}

TEST_F(PoolctlTest, P13ADirectoryWithoutAPoolIsNamed) {
  for (const std::string& dir : {std::string("/"), scratch_.path("nothing-here"), scratch_.dir()}) {
    const Finished done = run({MODELPOOL_POOLCTL, "--dir", dir, "status"});
    EXPECT_EQ(done.code, 3);
    EXPECT_THAT(done.err, AllOf(HasSubstr("unable to"), HasSubstr(dir)));
  }
}

TEST_F(PoolctlTest, WhatPeopleSeeIsEscaped) {
  start();
  RemoteWorker worker(scratch_);
  ASSERT_EQ(worker.acquire("plain"), "ticket");
  EXPECT_EQ(worker.fail("plain", "red \x1b[31m alert"), "ok");
  EXPECT_EQ(worker.acquire("plain"), "cooling_down");
  EXPECT_THAT(worker.last_error(), Not(HasSubstr("\x1b")));
  EXPECT_THAT(ctl({"explain", "plain"}).out, AllOf(HasSubstr("alert"), Not(HasSubstr("\x1b"))));
}

TEST_F(PoolctlTest, HelpAndVersionAreNoErrors) {
  EXPECT_EQ(ctl({"-v"}).out, ctl({"--version"}).out);
  for (const char* flag : {"--help", "--version"}) {
    const Finished done = ctl({flag});
    EXPECT_EQ(done.code, 0);
    EXPECT_NE(done.out, "");
    EXPECT_EQ(run({MODELPOOL_COORDINATORD, flag}).code, 0);
  }
  for (const char* command : kCommands) {
    const Finished done = ctl({command, "--help"});
    EXPECT_EQ(done.code, 0) << command;
    EXPECT_THAT(done.out, HasSubstr("Example")) << command;
  }
}

// CLI11 2.3 took "KEY=VALUE" as the name of a positional; with 2.4 every command aborted.
TEST_F(PoolctlTest, NamesAreThoseThatNewerVersionsOfCLI11TakeAsWell) {
  std::size_t names = 0;
  for (const char* command : kCommands) {
    std::istringstream lines(ctl({command, "--help"}).out);
    for (std::string line; std::getline(lines, line) && line != "Positionals:";) {
    }
    for (std::string line; std::getline(lines, line) && line.starts_with("  ");) {
      const std::string name = line.substr(2, line.find(' ', 2) - 2);
      if (name.empty()) continue;  // a text that goes on
      ++names;
      EXPECT_THAT(name, Not(::testing::ContainsRegex("[=:{!]"))) << command;
    }
  }
  EXPECT_GE(names, 8u) << "this test looks in the wrong way";
}

}  // namespace
}  // namespace modelpool::test
