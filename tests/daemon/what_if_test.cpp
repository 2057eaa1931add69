// P11: what would happen under other settings is known before they hold, and is then what happens.
#include <signal.h>

#include <filesystem>

#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

class WhatIfTest : public PoolTest {
 protected:
  // A model takes as many MiB as its name ends with.
  std::string config(const std::string& pool, const std::string& models = "") {
    std::string text = "[pool]\neviction = \"lru\"\n" + pool + "\n";
    for (const char* size : {"10", "30", "40", "60"}) {
      text += "[[model]]\nmatch = \"*-" + std::string(size) + "\"\nmemory = \"" + size + "MiB\"\n";
    }
    const std::string path = scratch_.path("pool" + std::to_string(++configs_) + ".toml");
    write_file(path, text + models);
    return path;
  }
  void start_with(const std::string& pool, const std::string& models = "") {
    // What is declared counts, not what the stand-ins take.
    daemon_ = std::make_unique<Daemon>(
        scratch_, std::vector<std::string>{"--config", config(pool, models), "--max-wait", "off"},
        Program::Options{{{"MODELPOOL_SAMPLE", "/dev/null/none"}}, ""});
  }
  nlohmann::json what_if(const std::string& settings) {
    return poolctl_json(scratch_, {"explain", "--what-if", settings})["what_if"]["consequences"];
  }
  std::vector<std::string> who_goes(const std::string& settings) {
    std::vector<std::string> models;
    for (const auto& one : what_if(settings)) models.push_back(one["model"]);
    return models;
  }
  // "0 llama": at once, "1 llama": when those have gone.
  std::vector<std::string> who_goes_when(const std::string& settings) {
    std::vector<std::string> goes;
    for (const auto& one : what_if(settings))
      goes.push_back(one["after"].dump() + " " + std::string(one["model"]));
    return goes;
  }
  Finished against(const std::string& config, const std::string& pool = "default") {
    return run({MODELPOOL_COORDINATORD, "--check-config", "--config", config, "--dir",
                scratch_.dir(), "--against", pool});
  }

  int configs_ = 0;
};

TEST_F(WhatIfTest, WhoWouldGoIsWhoGoes) {
  start_with("max_memory = \"100MiB\"");
  RemoteWorker worker(scratch_);
  for (const char* model : {"a-30", "b-10", "c-40"}) worker.load_idle(model);
  EXPECT_THAT(who_goes("max_memory=80MiB"), IsEmpty());
  EXPECT_THAT(who_goes("max_memory=60MiB"), ElementsAre("a-30"));
  EXPECT_THAT(who_goes("max-backends=1"), ElementsAre("a-30", "b-10"));
  EXPECT_THAT(who_goes("idle_timeout=1ms"), ElementsAre("a-30", "b-10", "c-40"));
  EXPECT_EQ(what_if("max_memory=60MiB")[0]["reason"], "memory");
  EXPECT_EQ(count_events("evicted"), 0u) << "to ask changes nothing";
  EXPECT_EQ(poolctl_json(scratch_, {"explain", "a-30"})["settings"]["max_memory"]["value"],
            "100MiB");

  EXPECT_EQ(poolctl(scratch_, {"set", "max-memory=60MiB"}).code, 0);
  EXPECT_EQ(wait_event("evicted", "a-30")["reason"], "memory");
  EXPECT_THAT(who_goes("max_memory=60MiB"), IsEmpty());
  EXPECT_EQ(state("b-10") + state("c-40"), "readyready");
}

TEST_F(WhatIfTest, RequestsInFlightAreCounted) {
  start_with("max_backends = 3");
  RemoteWorker worker(scratch_);
  worker.load("a-30");
  const Finished said =
      poolctl(scratch_, {"explain", "--what-if", "max-backends=0,busy_timeout=1ms"});
  EXPECT_THAT(said.out,
              AllOf(HasSubstr("If max_backends is 0, busy_timeout is 1ms"),
                    HasSubstr("it would be killed, and 1 lease cut"), HasSubstr("busy for ")));
  EXPECT_EQ(what_if("busy-timeout=1ms")[0]["cuts"], true);
  EXPECT_THAT(poolctl(scratch_, {"explain", "--what-if", "busy_timeout=1h"}).out,
              HasSubstr("Nobody would go"));
  EXPECT_EQ(worker.release("a-30"), "ok");
}

TEST_F(WhatIfTest, ThoseWhoWaitAreCounted) {
  start_with("max_backends = 2\nwhen_busy = \"wait\"");
  RemoteWorker worker(scratch_);
  RemoteWorker waiter(scratch_);
  worker.load("a-30");
  worker.load("b-10");
  waiter.begin_acquire("c-40");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  EXPECT_THAT(what_if("max_backends=3"), IsEmpty());
  const nlohmann::json drained = what_if("when_busy=drain");
  ASSERT_EQ(drained.size(), 1u) << drained;
  EXPECT_EQ(drained[0]["in_flight"], 1);
  EXPECT_EQ(drained[0]["cuts"], false);
  EXPECT_THAT(std::string(drained[0]["text"]), HasSubstr("room for c-40"));
  const std::string victim = drained[0]["model"];
  EXPECT_EQ(poolctl(scratch_, {"set", "when-busy=drain"}).code, 0);
  EXPECT_TRUE(wait_state(victim, "evicting"));
}

TEST_F(WhatIfTest, WhoGoesTogetherAndWhoIsOnTheWayIsNamed) {
  start_with("max_memory = \"70MiB\"");
  RemoteWorker worker(scratch_);
  RemoteWorker waiter(scratch_);
  EXPECT_EQ(poolctl(scratch_, {"set", "max-wait=1h"}).code, 0);
  worker.load_idle("d-60");  // so that it is known how long it takes
  worker.load_idle("a-30");
  worker.load("c-40");
  waiter.begin_acquire("d-60", 600'000);
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  EXPECT_THAT(who_goes_when("max_wait=1h"), IsEmpty());
  EXPECT_THAT(who_goes_when("max_wait=0"), UnorderedElementsAre("0 a-30", "0 c-40"));
  EXPECT_EQ(poolctl(scratch_, {"set", "max-wait=0"}).code, 0);
  ASSERT_TRUE(wait_state("c-40", "evicting"));
  EXPECT_THAT(who_goes_when("max_wait=0"), UnorderedElementsAre("0 a-30", "0 c-40"))
      << "what is under way counts";
  EXPECT_THAT(poolctl(scratch_, {"explain", "--what-if", "max_wait=0"}).out,
              HasSubstr("it is closed; evicted when 1 lease has ended"));
}

TEST_F(WhatIfTest, WhoGoesOnlyWhenAnotherHasGoneIsNamedToo) {
  start_with("max_memory = \"70MiB\"", "[[model]]\nmatch = \"a-30\"\nmax_wait = \"1h\"\n");
  RemoteWorker worker(scratch_);
  RemoteWorker waiter(scratch_);
  worker.load_idle("d-60");  // so that it is known how long it takes
  worker.load_idle("a-30");
  worker.load("c-40");
  waiter.begin_acquire("d-60", 600'000);
  ASSERT_TRUE(wait_state("c-40", "evicting"));
  EXPECT_EQ(state("a-30"), "ready") << "it serves until the other has drained";
  EXPECT_THAT(who_goes_when("max_backends=9"), ElementsAre("0 c-40", "1 a-30"));
}

TEST_F(WhatIfTest, WhatTheHostHasLeftIsLookedAt) {
  start_with("max_backends = 3");
  RemoteWorker worker(scratch_);
  worker.load_idle("a-30");
  worker.load_idle("b-10");
  EXPECT_THAT(what_if("min_available=1KiB"), IsEmpty());
  const nlohmann::json one = what_if("min_available=1000GiB");
  ASSERT_EQ(one.size(), 1u) << one;
  EXPECT_EQ(one[0]["reason"], "memory");
  EXPECT_THAT(std::string(one[0]["text"]), HasSubstr("min_available is 1000GiB"));
}

TEST_F(WhatIfTest, WhatHappensAnywayIsToldApart) {
  start_with("max_backends = 3");
  RemoteWorker worker(scratch_);
  worker.load_idle("a-30");
  daemon_->program().signal(SIGSTOP);
  EXPECT_EQ(poolctl(scratch_, {"set", "idle-timeout=1ms"}).code, 0);
  EXPECT_EQ(what_if("max_backends=2")[0]["anyway"], true);
  EXPECT_EQ(what_if("idle_timeout=1h"), nlohmann::json::array());
  daemon_->program().signal(SIGCONT);
  EXPECT_TRUE(wait_state("a-30", ""));
}

TEST_F(WhatIfTest, AModelIsShownAsItWouldBe) {
  start_with("max_memory = \"100MiB\"");
  RemoteWorker worker(scratch_);
  worker.load_idle("a-30");
  const nlohmann::json then =
      poolctl_json(scratch_, {"explain", "c-40", "--what-if", "max_memory=20MiB"});
  EXPECT_EQ(then["settings"]["max_memory"]["value"], "20MiB");
  EXPECT_THAT(then["verdicts"].dump(), HasSubstr("no: it takes 40MiB, and max_memory is 20MiB"));
  EXPECT_EQ(then["what_if"]["settings"]["max_memory"], "20MiB");
}

TEST_F(WhatIfTest, ACommaMayBelongToAValue) {
  start_with("max_backends = 3");
  const nlohmann::json then =
      poolctl_json(scratch_, {"explain", "m", "--what-if", "on_overdue=cancel,5s,kill,keep=1"});
  EXPECT_EQ(then["settings"]["on_overdue"]["value"], "cancel, 5s, kill");
  EXPECT_EQ(then["settings"]["keep"]["value"], "1");
}

TEST_F(WhatIfTest, WhatIsNoSettingIsRefused) {
  start_with("max_backends = 3");
  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& why) {
    const Finished done = poolctl(scratch_, arguments);
    EXPECT_EQ(done.code, 2) << done.out;
    EXPECT_THAT(done.err, HasSubstr(why));
  };
  refused({"explain", "--what-if", "max_memoy=1GiB"}, "did you mean max_memory");
  refused({"explain", "--what-if", "max_memory"}, "it is not KEY=VALUE");
  refused({"explain", "--what-if", "max_memory=lots"}, "max_memory");
  refused({"explain", "--what-if", "keep=1,keep=2"}, "twice");
  refused({"explain"}, "no model is named; add MODEL, or --what-if");
}

TEST_F(WhatIfTest, ACopiedSegmentIsAskedToo) {
  start_with("max_memory = \"100MiB\"");
  RemoteWorker worker(scratch_);
  worker.load_idle("a-30");
  const std::string copy = scratch_.path("copy");
  std::filesystem::copy_file(scratch_.path("default"), copy);
  const nlohmann::json then = poolctl_json(
      scratch_, {"explain", "--file", copy, "--what-if", "max_memory=20MiB"})["what_if"];
  ASSERT_EQ(then["consequences"].size(), 1u) << then;
  EXPECT_EQ(then["consequences"][0]["model"], "a-30");
}

TEST_F(WhatIfTest, AConfigIsCheckedAgainstAPool) {
  start_with("max_memory = \"100MiB\"");
  RemoteWorker worker(scratch_);
  for (const char* model : {"a-30", "b-10", "c-40"}) worker.load_idle(model);
  const std::string smaller = config("max_memory = \"60MiB\"");
  const Finished checked = against(smaller);
  EXPECT_EQ(checked.code, 0) << checked.err;
  EXPECT_THAT(checked.out, AllOf(HasSubstr(smaller + ": ok"), HasSubstr("in pool default now:"),
                                 HasSubstr("a-30 (pid "), HasSubstr("it would be evicted; memory"),
                                 Not(HasSubstr("b-10 (pid "))));
  EXPECT_THAT(against(config("max_memory = \"90MiB\"")).out, HasSubstr("nobody would go"));
  EXPECT_EQ(count_events("evicted"), 0u);
  EXPECT_EQ(against(smaller, "absent").code, 3);
  EXPECT_EQ(against(smaller, "no/name").code, 2);
  EXPECT_EQ(against(config("max_memory = \"5MiB\"")).code, 2) << "a-30 could never be loaded";
  EXPECT_EQ(run({MODELPOOL_COORDINATORD, "--against", "default"}).code, 2);
}

TEST_F(WhatIfTest, ThoseWhoWaitNeedWhatTheNewConfigSays) {
  start_with("max_memory = \"100MiB\"\nwhen_busy = \"wait\"");
  RemoteWorker worker(scratch_);
  RemoteWorker waiter(scratch_);
  worker.load("a-30");
  worker.load("b-10");
  worker.load("c-40");
  waiter.begin_acquire("d-60");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  const std::string fits = config("max_memory = \"100MiB\"\nwhen_busy = \"drain\"",
                                  "[[model]]\nmatch = \"d-60\"\nmemory = \"20MiB\"\n");
  EXPECT_THAT(against(fits).out, HasSubstr("nobody would go"));
  EXPECT_THAT(against(config("max_memory = \"100MiB\"\nwhen_busy = \"drain\"")).out,
              HasSubstr("room for d-60"));
}

}  // namespace
}  // namespace modelpool::test
