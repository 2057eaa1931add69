// What may happen to whoever holds the pool's mutex, besides being killed (tests/process) and
// stopped on the hot path (tests/process): the others go on, or are told who is in the way.

#include <signal.h>
#include <unistd.h>

#include <thread>

#include "daemon/pool_test.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::HasSubstr;

class MutexHolder : public PoolTest {
 protected:
  // Locks the pool's mutex in a process of its own and then does something with it held.
  std::unique_ptr<Forked> hold(const std::function<void(Forked::Child&)>& then) {
    auto holder = std::make_unique<Forked>([&, then](Forked::Child& parent) {
      Pool pool = attach(scratch_);
      const auto lock = segment_of(pool).lock_structure();
      parent.say(lock ? "locked" : lock.error().text);
      then(parent);
    });
    EXPECT_EQ(holder->hear(), "locked");
    return holder;
  }
};

TEST_F(MutexHolder, StoppedIsNamedAndHoldsUpNoEnforcement) {
  start({"--idle-timeout", "100ms", "--busy-timeout", "200ms"});
  RemoteWorker worker(scratch_);
  worker.load("busy");
  worker.load_idle("idle");
  const auto holder = hold([](Forked::Child& parent) { parent.hear(); });
  holder->signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(holder->pid()));
  EXPECT_TRUE(wait_state("idle", ""));
  EXPECT_EQ(wait_event("killed", "busy")["reason"], "busy");
  EXPECT_TRUE(wait_state("busy", ""));
  EXPECT_EQ(worker.acquire("new"), "busy");
  EXPECT_THAT(worker.last_error(),
              ::testing::AllOf(HasSubstr(std::to_string(holder->pid())), HasSubstr("SIGSTOP")));
  holder->signal(SIGCONT);
  holder->say("let go");
  EXPECT_EQ(worker.acquire("new"), "ticket");
}

TEST_F(MutexHolder, StoppedHoldsNobodyUpForLongerThanTheyWouldWait) {
  start();
  RemoteWorker worker(scratch_);
  worker.load_idle("attached");
  const auto holder = hold([](Forked::Child& parent) { parent.hear(); });
  holder->signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(holder->pid()));
  const std::uint64_t before = now_ns();
  EXPECT_EQ(worker.acquire("new", 100), "busy");
  // Beside one that would wait for longer than anybody waits for the mutex.
  const std::uint64_t between = now_ns();
  EXPECT_EQ(worker.acquire("new", 60'000), "busy");
  EXPECT_LT(between - before, now_ns() - between);
  holder->signal(SIGCONT);
  holder->say("let go");
}

// A failed load is written down under the mutex; it is only late.
TEST_F(MutexHolder, StoppedDelaysTheEndOfAFailedLoadAndLosesItNot) {
  start({"--load-timeout", "200ms"});
  RemoteWorker worker(scratch_);
  ASSERT_EQ(worker.acquire("m"), "ticket");
  const auto holder = hold([](Forked::Child& parent) { parent.hear(); });
  holder->signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(holder->pid()));
  const auto scans = [&] { return status()["coordinator"]["scans"].get<std::uint64_t>(); };
  const std::uint64_t before = scans();
  ASSERT_TRUE(eventually([&] { return scans() > before + 20; })) << "it is tried again by timer";
  EXPECT_EQ(state("m"), "reserved");
  EXPECT_TRUE(eventually([&] {
    return daemon().log().find(
               "unable to record the end of a load yet: unable to lock the pool: process " +
               std::to_string(holder->pid())) != std::string::npos;
  })) << daemon().log();
  holder->signal(SIGCONT);
  holder->say("let go");
  EXPECT_EQ(wait_event("load_failed", "m")["reason"], "load_timeout");
}

TEST_F(MutexHolder, WhoseThreadEndsLeavesItToTheNext) {
  start();
  std::unique_ptr<Forked> holder = std::make_unique<Forked>([&](Forked::Child& parent) {
    Pool pool = attach(scratch_);
    std::thread([&] {
      auto* lock = new auto(segment_of(pool).lock_structure());  // never unlocked
      parent.say(*lock ? "locked" : "refused");
    }).join();
    parent.say("ended");
    parent.hear();
  });
  ASSERT_EQ(holder->hear(), "locked");
  ASSERT_EQ(holder->hear(), "ended");
  RemoteWorker worker(scratch_);  // attaches under the mutex
  EXPECT_EQ(worker.acquire("m"), "ticket");
  EXPECT_TRUE(is_running(holder->pid()));
}

TEST_F(MutexHolder, ThatExecsLeavesItToTheNext) {
  start();
  RemoteWorker worker(scratch_);
  const auto holder = hold([](Forked::Child&) { execlp("sleep", "sleep", "60", nullptr); });
  EXPECT_EQ(worker.acquire("m"), "ticket");
  EXPECT_TRUE(is_running(holder->pid()));
}

TEST_F(MutexHolder, ThatForksKeepsItAndItsChildHasNone) {
  start();
  RemoteWorker worker(scratch_);
  const auto holder = hold([](Forked::Child& parent) {
    const pid_t child = fork();
    if (child == 0) _exit(0);  // with a copy of the mapping, the guard and the robust list's head
    parent.say(std::to_string(child));
    parent.hear();
  });
  const pid_t child = std::stoi(holder->hear());
  ASSERT_TRUE(eventually([child] { return !is_running(child); }));
  EXPECT_EQ(worker.acquire("m"), "busy") << "the end of the child unlocked its parent's mutex";
  EXPECT_THAT(worker.last_error(), HasSubstr(std::to_string(holder->pid())));
  holder->say("let go");
  EXPECT_EQ(worker.acquire("m"), "ticket");
}

}  // namespace
}  // namespace modelpool::test
