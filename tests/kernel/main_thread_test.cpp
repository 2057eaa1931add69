// A process whose main thread has ended looks like a zombie in /proc while its other threads go on:
// it is alive, counts, and can be stopped (P3, P9).
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "base/proc.hpp"
#include "daemon/pool_test.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

// Leaves its main thread; the other waits for a signal. The kernel ends it with the process.
[[noreturn]] void leave_main_thread() {
  alarm(60);  // nobody finds it by its environment
  std::thread([] {
    for (;;) pause();
  }).detach();
  for (;;) syscall(SYS_exit, 0);  // this thread only
}

bool is_headless(pid_t pid) {
  const auto stat = read_stat(pid);
  return stat && stat->is_zombie() && stat->threads > 1;
}

bool is_gone(pid_t pid) {
  const auto stat = read_stat(pid);
  return !stat || (stat->is_zombie() && stat->threads <= 1);
}

TEST(MainThreadInAProgram, DISABLED_LeavesAndIgnoresNothing) { leave_main_thread(); }
TEST(MainThreadInAProgram, DISABLED_LeavesInASessionOfItsOwn) {
  if (fork() > 0) {
    for (;;) pause();
  }
  setsid();
  signal(SIGTERM, SIG_IGN);
  leave_main_thread();
}
TEST(MainThreadInAProgram, DISABLED_LeavesAndIgnoresSigterm) {
  signal(SIGTERM, SIG_IGN);
  leave_main_thread();
}

class MainThread : public PoolTest {
 protected:
  void TearDown() override {
    for (const pid_t pid : headless_) kill(pid, SIGKILL);
    PoolTest::TearDown();
  }
  // A ready backend without a main thread, not in use.
  pid_t load_headless(RemoteWorker* worker, const std::string& model, const std::string& program) {
    EXPECT_EQ(worker->acquire(model), "ticket");
    const std::string spawned =
        worker->spawn_program(model, own_argv("MainThreadInAProgram.DISABLED_" + program));
    EXPECT_TRUE(spawned.starts_with("pid ")) << spawned;
    const pid_t pid = std::stoi(spawned.substr(4));
    headless_.push_back(pid);
    EXPECT_TRUE(eventually([pid] { return is_headless(pid); }));
    EXPECT_EQ(worker->ready(model), "lease");
    worker->release(model);
    return pid;
  }
  std::vector<pid_t> headless_;
};

TEST_F(MainThread, OfABackendMayEndAndItStaysReadyAndCounts) {
  start({"--max-backends", "1"});
  RemoteWorker worker(scratch_);
  const pid_t pid = load_headless(&worker, "m", "LeavesAndIgnoresNothing");
  daemon().kill_now();
  daemon().start();  // this one has never seen it otherwise
  EXPECT_TRUE(wait_event("recovered").is_object());
  EXPECT_EQ(worker.acquire("m"), "lease");
  EXPECT_EQ(worker.acquire("other", 200), "timeout") << "its place was given away";
  EXPECT_EQ(state("m"), "ready");
  EXPECT_TRUE(is_headless(pid));
  EXPECT_TRUE(event("exited", "m").is_null());
}

TEST_F(MainThread, OfABackendMayEndAndItIsStoppedBeforeItsPlaceIsFree) {
  start({"--max-backends", "1", "--stop-grace", "300ms"});
  RemoteWorker worker(scratch_);
  const pid_t polite = load_headless(&worker, "polite", "LeavesAndIgnoresNothing");
  EXPECT_EQ(worker.acquire("deaf"), "ticket");
  EXPECT_TRUE(is_gone(polite));
  EXPECT_EQ(wait_event("evicted", "polite")["signal"], "SIGTERM");
  worker.release("deaf");
  const pid_t deaf = load_headless(&worker, "stubborn", "LeavesAndIgnoresSigterm");
  EXPECT_EQ(worker.acquire("next"), "ticket");
  EXPECT_TRUE(is_gone(deaf));
  EXPECT_EQ(wait_event("evicted", "stubborn")["signal"], "SIGKILL");
}

TEST_F(MainThread, OfAStrangerMayEndAndHoldsUpNoPlace) {
  start({"--max-backends", "1"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  Program stranger(
      own_argv("MainThreadInAProgram.DISABLED_LeavesAndIgnoresNothing"));  // younger than m
  ASSERT_TRUE(eventually([&] { return is_headless(stranger.pid()); }));
  EXPECT_EQ(worker.acquire("next"), "ticket");
}

TEST_F(MainThread, OfADescendantInASessionOfItsOwnMayEndAndItIsEnded) {
  start({"--stop-grace", "100ms"});
  RemoteWorker worker(scratch_);
  ASSERT_EQ(worker.acquire("m"), "ticket");
  ASSERT_THAT(
      worker.spawn_program("m", own_argv("MainThreadInAProgram.DISABLED_LeavesInASessionOfItsOwn")),
      ::testing::HasSubstr("pid "));
  const pid_t first = entry("m")["pid"];
  const auto find = [&]() -> pid_t {
    const std::string children = read_file("/proc/" + std::to_string(first) + "/task/" +
                                           std::to_string(first) + "/children");
    return children.empty() ? 0 : std::stoi(children);
  };
  ASSERT_TRUE(eventually([&] { return find() != 0 && is_headless(find()); }));
  const pid_t descendant = find();
  headless_.push_back(descendant);
  ASSERT_EQ(worker.ready("m"), "lease");
  worker.release("m");
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_TRUE(is_gone(descendant)) << "its backend is gone and it is not";
}

TEST_F(MainThread, OfAWorkerMayEndAndItsLeasePins) {
  start({"--idle-timeout", "100ms", "--max-backends", "1"});
  RemoteWorker loader(scratch_);
  const pid_t backend = loader.load("m");
  Forked worker([&](Forked::Child& parent) {
    Pool pool = attach(scratch_);
    Lease lease = lease_on(pool, "m");
    parent.say("leased");
    leave_main_thread();
  });
  ASSERT_EQ(worker.hear(), "leased");
  ASSERT_TRUE(eventually([&] { return is_headless(worker.pid()); }));
  loader.release("m");
  daemon().kill_now();
  daemon().start();  // which examines every worker there is
  EXPECT_EQ(loader.acquire("other", 500), "timeout");
  EXPECT_EQ(state("m"), "ready");
  EXPECT_EQ(status()["leases"], 1);
  EXPECT_TRUE(is_running(backend));
  worker.kill_now();
  EXPECT_EQ(loader.acquire("other"), "ticket");
}

}  // namespace
}  // namespace modelpool::test
