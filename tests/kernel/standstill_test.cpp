// A pause of everything is nobody's busy time; a judge that slept alone misses nothing (P8).
#include <signal.h>

#include "base/time.hpp"
#include "daemon/pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Standstill : public PoolTest {
 protected:
  void pass(std::uint64_t ns) {
    const std::uint64_t until = now_ns() + ns;
    eventually([&] { return now_ns() > until; });
  }
};

TEST_F(Standstill, OfAllCountsAgainstNoRequestAndTheRequestThatHangsIsStillEnded) {
  start({"--busy-timeout", "2s"});
  RemoteWorker worker(scratch_);
  const pid_t backend = worker.load("m");
  ASSERT_FALSE(wait_event("loaded", "m").empty());
  const std::vector<pid_t> all{worker.pid(), backend, daemon().pid()};
  for (const pid_t pid : all) kill(pid, SIGSTOP);
  for (const pid_t pid : all) ASSERT_TRUE(has_stopped(pid));
  pass(3500 * kMillisecond_ns);
  for (const pid_t pid : all) kill(pid, SIGCONT);
  ASSERT_TRUE(eventually([&] {
    return daemon().log().find("everything stood still") != std::string::npos;
  })) << daemon().log();
  EXPECT_EQ(worker.progress("m"), "ok") << "it was killed for a time in which it could do nothing";
  EXPECT_TRUE(is_running(backend));
  const auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "busy");
  EXPECT_GE(killed["age_ms"], 3500 + 2000);
}

// Others worked on: what the judge slept through it does at once.
TEST_F(Standstill, OfTheJudgeAloneIsNoPause) {
  start({"--busy-timeout", "1s"});
  RemoteWorker hangs(scratch_);
  RemoteWorker works(scratch_);
  hangs.load("m");
  for (int i = 0; i < 20; ++i) {
    const std::string model = "used" + std::to_string(i);
    ASSERT_EQ(works.acquire(model), "ticket");
    ASSERT_EQ(works.ready_external(model), "lease");
    works.release(model);
  }
  ASSERT_FALSE(wait_event("loaded", "used19").empty());
  daemon().program().signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(daemon().pid()));
  const std::uint64_t until = now_ns() + 4 * kSecond_ns;
  for (int i = 0; now_ns() < until; i = (i + 1) % 20) {
    ASSERT_EQ(works.touch("used" + std::to_string(i)), "ok");
    pass(20 * kMillisecond_ns);
  }
  daemon().program().signal(SIGCONT);
  const auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "busy");
  EXPECT_THAT(daemon().log(), Not(HasSubstr("everything stood still")));
}

TEST_F(Standstill, OfAllCountsAgainstNoLoadAndNoGrace) {
  start({"--load-timeout", "1500ms", "--stop-grace", "1500ms"});
  RemoteWorker loader(scratch_);
  RemoteWorker other(scratch_);
  const pid_t stubborn = other.load_idle("stubborn", {"--ignore-sigterm"});
  ASSERT_EQ(loader.acquire("m"), "ticket");
  ASSERT_THAT(loader.spawn_program("m", {"sleep", "600"}), HasSubstr("pid "));
  ASSERT_EQ(poolctl(scratch_, {"evict", "stubborn", "--timeout", "0"}).code, 0);
  ASSERT_TRUE(wait_state("stubborn", "stopping"));
  const std::vector<pid_t> all{loader.pid(), other.pid(), stubborn, daemon().pid()};
  for (const pid_t pid : all) kill(pid, SIGSTOP);
  for (const pid_t pid : all) ASSERT_TRUE(has_stopped(pid));
  pass(3 * kSecond_ns);
  for (const pid_t pid : all) kill(pid, SIGCONT);
  ASSERT_TRUE(eventually(
      [&] { return daemon().log().find("everything stood still") != std::string::npos; }));
  EXPECT_EQ(loader.ready("m"), "lease")
      << "its load was ended for a time in which it could do nothing";
  const auto ended = wait_event("evicted", "stubborn");
  EXPECT_GE(ended["exit_ms"], 3000 + 1000) << "SIGKILL came before its grace had passed";
}

}  // namespace
}  // namespace modelpool::test
