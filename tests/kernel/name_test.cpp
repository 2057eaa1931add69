// The file under a running pool: replaced, on a tmpfs that is full or tiny, seen from another PID
// or time namespace. (Unlinked: tests/daemon. Refused by a header that only says so: tests/unit.)
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "daemon/pool_test.hpp"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Name : public PoolTest {};

TEST_F(Name, GivenToAnotherPoolDrainsTheFirstAndNeverMixesTheTwo) {
  start();
  RemoteWorker worker(scratch_);
  const pid_t leased = worker.load("leased");
  const pid_t idle = worker.load_idle("idle");
  const Scratch other;
  { const Daemon creates(other); }
  std::filesystem::rename(other.path("default"), scratch_.path("default"));
  EXPECT_TRUE(eventually([&] { return !is_running(idle); }));
  EXPECT_EQ(worker.acquire("another", 5000), "replaced");
  EXPECT_EQ(worker.progress("leased"), "ok") << "a lease was cut";
  EXPECT_TRUE(is_running(leased));
  // Who comes now comes to the other one, which knows of none of this.
  EXPECT_EQ(list(), nlohmann::json::array());
  EXPECT_EQ(status()["workers"], 0);
  worker.release("leased");
  EXPECT_EQ(daemon().program().wait(), 3);
  EXPECT_FALSE(is_running(leased));
  start();
  RemoteWorker next(scratch_);
  EXPECT_GT(next.load("leased"), 0);
}

// --- A tmpfs of the test's own, in a mount namespace of a process of its own ---------------------

// Runs the body with a tmpfs of that size in scratch.dir(). What it says first is why it could not.
std::string on_tmpfs(const Scratch& scratch, const std::string& size,
                     const std::function<void(Forked::Child&)>& body) {
  Forked mounted([&](Forked::Child& parent) {
    const std::string data = "size=" + size + ",mode=700";
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", scratch.dir().c_str(), "tmpfs", 0, data.c_str()) != 0) {
      parent.say("this user may not mount a tmpfs");
      return;
    }
    parent.say("mounted");
    body(parent);
  });
  const std::string answer = mounted.hear();
  EXPECT_EQ(mounted.wait(), 0);
  return answer == "mounted" ? "" : answer;
}

TEST(Tmpfs, Of64KiBIsRefusedByNameAndNothingIsLeftOnIt) {
  const Scratch scratch;
  const std::string missing = on_tmpfs(scratch, "64k", [&](Forked::Child&) {
    const Finished refused = run({MODELPOOL_COORDINATORD, "--dir", scratch.dir()});
    EXPECT_EQ(refused.code, 1) << "a supervisor may try again";
    EXPECT_THAT(refused.err, AllOf(HasSubstr("No space left"), HasSubstr("smaller capacities")));
    EXPECT_FALSE(std::filesystem::exists(scratch.path("default")));
    EXPECT_FALSE(std::filesystem::exists(scratch.path("default.tmp")));
    EXPECT_EQ(poolctl(scratch, {"status"}).code, 3);
  });
  if (!missing.empty()) GTEST_SKIP() << missing;
}

TEST(Tmpfs, FilledToTheLastPageHarmsNoPoolOnIt) {
  const Scratch scratch;
  const std::string missing = on_tmpfs(scratch, "16m", [&](Forked::Child&) {
    const BackendsEnd backends_end(scratch);
    Daemon daemon(scratch, {"--max-backends", "1", "--leases", "64"});
    {
      const Fd file(open(scratch.path("filler").c_str(), O_WRONLY | O_CREAT, 0600));
      const std::string chunk(4096, 'x');
      while (write(file.get(), chunk.data(), chunk.size()) > 0) {
      }
      ASSERT_EQ(errno, ENOSPC);
    }
    // Every page of the segment was there before: attaching, leases, loads and events go on.
    RemoteWorker worker(scratch);
    EXPECT_GT(worker.load_idle("a"), 0);
    EXPECT_GT(worker.load_idle("b"), 0);
    EXPECT_EQ(worker.acquire("b"), "lease");
    EXPECT_TRUE(find_event(scratch, "evicted", "a"));
    EXPECT_EQ(poolctl(scratch, {"dump"}).code, 0);
    daemon.kill_now();
    daemon.start();
    EXPECT_EQ(worker.acquire("a", 100), "timeout");
  });
  if (!missing.empty()) GTEST_SKIP() << missing;
}

// --- Other namespaces ----------------------------------------------------------------------------

// The programs that may only look and those that would act, run in a namespace of that kind.
void is_refused_in(int kind, const std::string& named) {
  const Scratch scratch;
  const BackendsEnd backends_end(scratch);
  Daemon daemon(scratch);
  RemoteWorker worker(scratch);
  const pid_t pid = worker.load("m");
  Forked outside([&](Forked::Child& parent) {
    if (unshare(kind) != 0) {
      parent.say("missing");
      return;
    }
    parent.say("unshared");
    // Its first child is the first process of the namespace. PIDs and times of the pool mean
    // nothing there, or somebody else.
    Forked inside([&](Forked::Child&) {
      for (const std::string command : {"list", "status", "check", "dump"}) {
        const Finished refused = poolctl(scratch, {command});
        EXPECT_EQ(refused.code, 3) << command << refused.out;
        EXPECT_THAT(refused.err, HasSubstr(named)) << command;
      }
      const Finished removal = poolctl(scratch, {"remove", "--stop", "--timeout", "1s"});
      EXPECT_EQ(removal.code, 3);
      EXPECT_THAT(removal.err, HasSubstr(named));
      EXPECT_EQ(run({MODELPOOL_COORDINATORD, "--dir", scratch.dir()}).code, 3);
      EXPECT_EQ(poolctl(scratch, {"lease", "m", "--", "true"}).code, 125);
    });
    EXPECT_EQ(inside.wait(), 0);
  });
  const std::string answer = outside.hear();
  EXPECT_EQ(outside.wait(), 0);
  if (answer == "missing") GTEST_SKIP() << "this user may not unshare it";
  EXPECT_EQ(worker.progress("m"), "ok");
  EXPECT_TRUE(is_running(pid));
  EXPECT_TRUE(daemon.program().running());
}

TEST(Namespace, OfOtherPidsIsRefusedByName) { is_refused_in(CLONE_NEWPID, "PID namespace"); }
TEST(Namespace, OfAnotherTimeIsRefusedByName) { is_refused_in(CLONE_NEWTIME, "time namespace"); }

}  // namespace
}  // namespace modelpool::test
