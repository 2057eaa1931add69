// A coordinator that does not look though work is due counts as hung, wherever it is asked about.
#include <signal.h>

#include "pool_test.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class HungJudge : public PoolTest {
 protected:
  void stop_judge() {
    daemon().program().signal(SIGSTOP);
    ASSERT_TRUE(has_stopped(daemon().pid()));
  }
  nlohmann::json coordinator() { return status()["coordinator"]; }
  bool hangs() { return !coordinator()["hung_ms"].is_null(); }
  std::string pid() { return "pid " + std::to_string(daemon().pid()); }
};

TEST_F(HungJudge, IsShownByStatusUntilItLooksAgain) {
  start();
  RemoteWorker worker(scratch_);
  worker.load("m");
  EXPECT_EQ(poolctl(scratch_, {"status"}).code, 0);
  EXPECT_FALSE(hangs());
  stop_judge();
  ASSERT_EQ(worker.acquire("other"), "ticket");  // rings
  EXPECT_TRUE(eventually([&] { return hangs(); }));
  EXPECT_GE(coordinator()["hung_ms"], 2000);
  EXPECT_EQ(coordinator()["alive"], true) << "its process lives";
  const Finished shown = poolctl(scratch_, {"status"});
  EXPECT_EQ(shown.code, 1);
  EXPECT_THAT(shown.out, HasSubstr("hung for"));
  EXPECT_THAT(shown.err,
              AllOf(HasSubstr(pid()), HasSubstr("kill -CONT " + std::to_string(daemon().pid()))));
  const Finished checked = poolctl(scratch_, {"check"});
  EXPECT_EQ(checked.code, 1);
  EXPECT_THAT(checked.out, HasSubstr("coordinator: the coordinator (" + pid() + ") has hung for"));
  daemon().program().signal(SIGCONT);
  EXPECT_TRUE(eventually([&] { return poolctl(scratch_, {"status"}).code == 0; }));
  EXPECT_FALSE(hangs());
}

TEST_F(HungJudge, ThatSleepsThroughADeadlineIsShownThoughNobodyRang) {
  start({"--idle-timeout", "300ms"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_FALSE(wait_event("loaded", "m").empty());
  stop_judge();
  EXPECT_TRUE(eventually([&] { return hangs(); }));
  daemon().program().signal(SIGCONT);
  EXPECT_FALSE(wait_event("evicted", "m").empty());
  EXPECT_TRUE(eventually([&] { return !hangs(); }));
}

TEST_F(HungJudge, IsNamedToWhoWouldTakeItsPlace) {
  start();
  RemoteWorker worker(scratch_);
  stop_judge();
  ASSERT_EQ(worker.acquire("m"), "ticket");  // rings
  ASSERT_TRUE(eventually([&] { return hangs(); }));
  const std::string first = std::to_string(daemon().pid());
  const Finished second = run({MODELPOOL_COORDINATORD, "--dir", scratch_.dir()});
  EXPECT_EQ(second.code, 1);
  EXPECT_THAT(second.err, AllOf(HasSubstr("process " + first + " is its coordinator already"),
                                HasSubstr("hangs"), HasSubstr("kill -CONT " + first)));
  daemon().program().signal(SIGCONT);
}

TEST_F(HungJudge, WithNothingDueIsNotCalledHung) {
  start();
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_FALSE(wait_event("loaded", "m").empty());
  ASSERT_TRUE(eventually([&] { return coordinator()["last_scan_ms"] > 2500; }))
      << "it has long had nothing to do";
  EXPECT_FALSE(hangs());
  EXPECT_EQ(poolctl(scratch_, {"status"}).code, 0);
}

TEST_F(HungJudge, EndsTheWaitOfWhoNeedsItAndSaysSo) {
  start({"--max-backends", "1"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  stop_judge();
  PoolOptions options;
  options.dir = scratch_.dir();
  options.coordinator_grace = std::chrono::seconds(3);
  auto pool = Pool::attach("default", options);
  ASSERT_TRUE(pool);
  const auto refused = pool->acquire("other", std::chrono::seconds(60));
  EXPECT_EQ(code_of(refused), Errc::kNoCoordinator) << text_of(refused);
  EXPECT_THAT(text_of(refused), AllOf(HasSubstr("hung for"), HasSubstr(pid())));
  daemon().program().signal(SIGCONT);
  const auto granted = pool->acquire("other", std::chrono::seconds(30));
  EXPECT_TRUE(granted) << text_of(granted);
}

TEST_F(HungJudge, IsTheReasonThatEvictGivesAndNotAdviceToWait) {
  start();
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  stop_judge();
  const Finished refused = poolctl(scratch_, {"evict", "m"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("hung for"), HasSubstr(pid())));
  EXPECT_THAT(refused.err, ::testing::Not(HasSubstr("wait longer")));
}

TEST_F(HungJudge, ThatIsDeadIsAFindingToo) {
  start();
  daemon().kill_now();
  const Finished shown = poolctl(scratch_, {"status"});
  EXPECT_EQ(shown.code, 1);
  EXPECT_THAT(shown.err,
              AllOf(HasSubstr("no coordinator is running"), HasSubstr("--dir " + scratch_.dir())));
  EXPECT_EQ(poolctl(scratch_, {"check"}).code, 1);
}

}  // namespace
}  // namespace modelpool::test
