// P11: who is in the way, who is passed over, and who ends what is being stopped.
#include <signal.h>

#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class ExplainTest : public PoolTest {
 protected:
  std::string explain(const std::string& model) {
    const Finished done = poolctl(scratch_, {"explain", model});
    EXPECT_EQ(done.code, 0) << done.err;
    return done.out;
  }
  std::vector<nlohmann::json> verdicts(const std::string& model, const std::string& rule) {
    std::vector<nlohmann::json> found;
    const nlohmann::json explained = poolctl_json(scratch_, {"explain", model});
    for (const auto& verdict : explained["verdicts"]) {
      if (verdict["rule"] == rule) found.push_back(verdict);
    }
    return found;
  }
  bool wait_in_line(const std::string& model) {
    return eventually([&] {
      for (const auto& waiter : poolctl_json(scratch_, {"waiters"})) {
        if (waiter["model"] == model) return true;
      }
      return false;
    });
  }
};

TEST_F(ExplainTest, AWaiterLearnsWhoIsInTheWayWhyAndUntilWhen) {
  start({"--max-backends", "3", "--min-resident", "1h", "--when-busy", "wait"});
  RemoteWorker worker(scratch_);
  RemoteWorker waiter(scratch_);
  worker.load_idle("fresh");
  worker.load_idle("pinned");
  EXPECT_EQ(poolctl(scratch_, {"pin", "pinned"}).code, 0);
  ASSERT_EQ(worker.acquire("loading"), "ticket");
  waiter.begin_acquire("next");
  ASSERT_TRUE(wait_in_line("next"));
  EXPECT_THAT(explain("next"),
              AllOf(HasSubstr("waits in line"), HasSubstr("(min_resident)"),
                    HasSubstr("pinned: exempt: pinned"), HasSubstr("loading: loading for ")));
  for (const auto& place : verdicts("next", "place")) {
    const auto text = place["text"].get<std::string>();
    EXPECT_EQ(place["due_in_ms"].is_number(), !text.starts_with("pinned")) << place;
  }
  EXPECT_EQ(verdicts("next", "place").size(), 3u);
  EXPECT_TRUE(verdicts("fresh", "place").empty()) << "it waits for nobody";
  EXPECT_EQ(worker.acquire("fresh"), "lease");
  EXPECT_EQ(poolctl(scratch_, {"set", "min-resident=0", "busy-timeout=1h"}).code, 0);
  EXPECT_THAT(explain("next"), AllOf(HasSubstr("fresh: 1 lease in flight; when_busy is wait"),
                                     HasSubstr("killed in ")));
}

TEST_F(ExplainTest, WhoSharesAGroupIsInTheWayThoughPlacesAreFree) {
  write_file(scratch_.path("pool.toml"),
             "[pool]\nmax_backends = 5\nwhen_busy = \"wait\"\ncollect = \"5s\"\n"
             "[[model]]\nmatch = \"heavy-*\"\ngroups = \"heavy\"\n");
  start({"--config", scratch_.path("pool.toml")});
  RemoteWorker worker(scratch_);
  RemoteWorker waiter(scratch_);
  worker.load("heavy-1");
  worker.load_idle("other");
  waiter.begin_acquire("heavy-2");
  ASSERT_TRUE(wait_in_line("heavy-2"));
  const auto places = verdicts("heavy-2", "place");
  ASSERT_EQ(places.size(), 1u) << "the others are not in its way";
  EXPECT_THAT(std::string(places[0]["text"]), HasSubstr("heavy-1: "));
  EXPECT_EQ(poolctl(scratch_, {"set", "when-busy=drain"}).code, 0);
  EXPECT_THAT(explain("other"), HasSubstr("for nobody before he has waited 5s (collect)"));
}

TEST_F(ExplainTest, AWaiterThatIsStoppedIsNamed) {
  start({"--max-backends", "1"});
  RemoteWorker worker(scratch_);
  RemoteWorker waiter(scratch_);
  worker.load("m");
  waiter.begin_acquire("next");
  ASSERT_TRUE(wait_in_line("next"));
  EXPECT_TRUE(verdicts("next", "waiter").empty());
  waiter.signal(SIGSTOP);
  EXPECT_TRUE(eventually([&] { return !verdicts("next", "waiter").empty(); }));
  EXPECT_THAT(explain("next"), AllOf(HasSubstr("process " + std::to_string(waiter.pid())),
                                     HasSubstr("it is stopped; kill -CONT ")));
  EXPECT_THAT(poolctl(scratch_, {"waiters"}).out, HasSubstr("passed over: has not looked for"));
  EXPECT_GE(poolctl_json(scratch_, {"waiters"})[0]["looked_ms"], 2000);
  waiter.signal(SIGCONT);
  EXPECT_TRUE(eventually([&] { return verdicts("next", "waiter").empty(); }));
}

TEST_F(ExplainTest, AFailedLoadThatNobodyFinishesSaysHowItFailed) {
  start();
  RemoteWorker worker(scratch_);
  ASSERT_EQ(worker.acquire("m"), "ticket");
  ASSERT_THAT(worker.spawn("m"), HasSubstr("pid"));
  daemon().kill_now();
  EXPECT_EQ(worker.fail("m", "no such weights"), "ok");
  EXPECT_THAT(explain("m"), AllOf(HasSubstr("its load failed: no such weights"),
                                  HasSubstr("nobody goes on with that"),
                                  HasSubstr("start coordinatord --dir " + scratch_.dir())));
  EXPECT_THAT(poolctl(scratch_, {"list"}).out,
              HasSubstr("load failed: no such weights, waits for a coordinator"));
  daemon().start();
  EXPECT_TRUE(wait_state("m", ""));
}

TEST_F(ExplainTest, WithoutAStopGraceItIsSaidThatSigkillDoesNotCome) {
  start({"--stop-grace", "off"});
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load_idle("m", {"--ignore-sigterm"});
  const Finished refused = poolctl(scratch_, {"evict", "m", "--timeout", "200ms"});
  EXPECT_EQ(refused.code, 1);
  const std::string advice = "SIGKILL does not follow, stop_grace is off; end process ";
  EXPECT_THAT(refused.err, HasSubstr(advice + std::to_string(pid)));
  EXPECT_THAT(refused.err, Not(HasSubstr("wait longer")));
  EXPECT_THAT(explain("m"), HasSubstr("SIGKILL does not follow, stop_grace is off"));
  EXPECT_THAT(poolctl(scratch_, {"list"}).out, HasSubstr("no SIGKILL (stop_grace is off)"));
  // It is no longer loaded, whatever state it is in.
  const auto json = poolctl_json(scratch_, {"explain", "m"});
  EXPECT_EQ(json["loaded"], false);
  EXPECT_EQ(json["state"], "stopping");
  // They said nothing and ended with 0.
  for (const char* command : {"touch", "pin", "unpin"}) {
    const Finished done = poolctl(scratch_, {command, "m"});
    EXPECT_EQ(done.code, 1) << command;
    EXPECT_THAT(done.err, HasSubstr("its backend is being stopped")) << command;
  }
  EXPECT_EQ(worker.touch("m"), "not_loaded");
  EXPECT_EQ(poolctl(scratch_, {"set", "stop-grace=100ms"}).code, 0);
  EXPECT_TRUE(wait_state("m", ""));
}

TEST_F(ExplainTest, AnExternalBackendIsNotSaidToBeKilled) {
  start();
  RemoteWorker worker(scratch_);
  ASSERT_EQ(worker.acquire("m"), "ticket");
  ASSERT_EQ(worker.ready_external("m"), "lease");
  EXPECT_EQ(poolctl(scratch_, {"set", "busy-timeout=1h"}).code, 0);
  EXPECT_THAT(explain("m"), AllOf(HasSubstr("dropped in "), HasSubstr("no process is signalled"),
                                  Not(HasSubstr("killed"))));
  EXPECT_EQ(poolctl(scratch_, {"set", "busy-timeout=100ms"}).code, 0);
  EXPECT_EQ(wait_event("killed", "m")["text"], "it is external: no process is signalled");
}

}  // namespace
}  // namespace modelpool::test
