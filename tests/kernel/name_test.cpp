// The file under a running pool: replaced, on a tmpfs that is full or tiny, seen from another PID
// or time namespace. (Unlinked: tests/daemon. Refused by a header that only says so: tests/unit.)
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "daemon/pool_test.hpp"
#include "pool/inside.hpp"
#include "support/pool.hpp"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

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
  EXPECT_EQ(daemon().program().wait(), 1);
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
    const std::string data = "mode=700,size=" + size;
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

TEST(Tmpfs, WithoutInodesIsNamedAndHowItGetsMore) {
  const Scratch scratch;
  const std::string missing = on_tmpfs(scratch, "16m,nr_inodes=2", [&](Forked::Child&) {
    write_file(scratch.path("last"), "");
    const Finished refused = run({MODELPOOL_COORDINATORD, "--dir", scratch.dir()});
    EXPECT_EQ(refused.code, 1) << "a supervisor may try again";
    EXPECT_THAT(refused.err, HasSubstr("no inodes left"));
    EXPECT_THAT(refused.err, HasSubstr("nr_inodes"));
    const Finished inside = run({MODELPOOL_COORDINATORD, "--dir", scratch.path("inside")});
    EXPECT_EQ(inside.code, 1);
    EXPECT_THAT(inside.err, HasSubstr("nr_inodes"));
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

TEST(Tmpfs, WithoutInodesForOutputHoldsUpNoLoad) {
  const Scratch scratch;
  const Scratch full;
  const std::string missing = on_tmpfs(full, "1m,nr_inodes=2", [&](Forked::Child&) {
    const BackendsEnd backends_end(scratch);
    write_file(full.path("last"), "");
    Daemon daemon(scratch, {"--log-dir", full.dir()});
    RemoteWorker worker(scratch);
    EXPECT_GT(worker.load_idle("m"), 0);
    EXPECT_THAT(poolctl_json(scratch, {"list"})[0]["log_missing"], HasSubstr("No space left"));
    EXPECT_THAT(poolctl(scratch, {"logs", "m"}).err, HasSubstr("No space left"));
  });
  if (!missing.empty()) GTEST_SKIP() << missing;
}

TEST(Tmpfs, FilledByABackendsOutputIsMadeRoomOnAndTheBackendRunsOn) {
  const Scratch scratch;
  const Scratch full;
  const std::string missing = on_tmpfs(full, "1m", [&](Forked::Child&) {
    const BackendsEnd backends_end(scratch);
    write_file(scratch.path("script"),
               "i=0; while :; do i=$((i+1)); echo line $i 2>/dev/null || sleep 0.01; done\n");
    Daemon daemon(scratch, {"--log-dir", full.path("logs"), "--log-max", "768KiB"});
    RemoteWorker worker(scratch);
    ASSERT_EQ(worker.acquire("m"), "ticket");
    const std::string said = worker.spawn_program("m", {"sh", scratch.path("script")});
    ASSERT_THAT(said, StartsWith("pid ")) << worker.last_error();
    EXPECT_TRUE(eventually([&] {
      return daemon.log().find("there is no room to keep") != std::string::npos;
    })) << daemon.log();
    EXPECT_TRUE(eventually([&] { return !read_file(full.path("logs/m.log")).empty(); }));
    EXPECT_TRUE(is_running(std::stoi(said.substr(4))));
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

// A Pool that was inherited through fork into another namespace took the row of "worker 1", and the
// coordinator cleared its leases.
void is_refused_to_a_child_in(int kind, const std::string& named) {
  const Scratch scratch;
  const BackendsEnd backends_end(scratch);
  Daemon daemon(scratch);
  RemoteWorker other(scratch);
  other.load("held");
  Forked worker([&](Forked::Child& parent) {
    Pool pool = attach(scratch);
    const Lease lease = lease_on(pool, "held");
    if (unshare(kind) != 0) {
      parent.say("missing");
      return;
    }
    parent.say("unshared");
    Forked child([&](Forked::Child& answers) {
      const auto tell = [&](const char* what, Errc code) {
        answers.say(std::string(what) + " " + std::string(errc_name(code)));
      };
      const auto acquired = pool.acquire("held", std::chrono::seconds(5));
      answers.say(acquired ? "granted" : acquired.error().text);
      tell("touch", code_of(pool.touch("held")));
      tell("evict", code_of(pool.evict("held")));
      tell("set", code_of(pool.set("max_waiters", "9")));
      tell("snapshot", code_of(pool.snapshot()));
      tell("wake_word", code_of(wake_word_of(pool)));
    });
    for (int i = 0; i < 6; ++i) parent.say(child.hear());
    EXPECT_EQ(child.wait(), 0);
    parent.say(lease && pool.acquire("held") ? "goes on" : "harmed");
    parent.hear();
  });
  if (worker.hear() == "missing") GTEST_SKIP() << "this user may not unshare it";
  EXPECT_THAT(worker.hear(), HasSubstr(named));
  for (const char* const call : {"touch", "evict", "set", "snapshot", "wake_word"}) {
    EXPECT_EQ(worker.hear(), std::string(call) + " incompatible");
  }
  EXPECT_EQ(worker.hear(), "goes on");
  EXPECT_EQ(other.progress("held"), "ok");
  EXPECT_FALSE(find_event(scratch, "worker_died", ""));
  EXPECT_EQ(poolctl_json(scratch, {"status"})["workers"], 2);
}

TEST(Namespace, AChildForkedIntoOtherPidsWithAnInheritedPoolIsRefused) {
  is_refused_to_a_child_in(CLONE_NEWPID, "PID namespace");
}
TEST(Namespace, AChildForkedIntoAnotherTimeWithAnInheritedPoolIsRefused) {
  is_refused_to_a_child_in(CLONE_NEWTIME, "time namespace");
}

// --- A tmpfs that outlives its container ---------------------------------------------------------

// A container: its first process, in namespaces of its own and with a /proc of its own, runs the
// body.
class Container {
 public:
  explicit Container(const std::function<void(Forked::Child&)>& body)
      : outside_([body](Forked::Child& parent) {
          if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) return parent.say("missing");
          Forked first([&](Forked::Child&) {
            if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
                mount("proc", "/proc", "proc", 0, nullptr) != 0) {
              return parent.say("missing");
            }
            parent.say("here");
            body(parent);
          });
          parent.say(first.wait() == 0 ? "ended" : "failed");
          parent.hear();
        }) {
    is_missing_ = outside_.hear() == "missing";
  }
  bool is_missing() const { return is_missing_; }
  std::string hear() { return outside_.hear(); }
  void say(const std::string& line) { outside_.say(line); }

 private:
  Forked outside_;
  bool is_missing_ = false;
};

// What a container that was killed leaves: rows of workers, live backends, no lock.
void leave_a_pool(const Scratch& scratch, bool with_backend) {
  Container first([&](Forked::Child& parent) {
    Forked worker([&](Forked::Child& child) {
      const Settings settings = settings_of({{"max_backends", "2"}});
      PoolOptions options;
      options.dir = scratch.dir();
      options.capacities = small_capacities();
      options.settings = &settings;
      auto pool = Pool::attach("default", options);
      bool loaded = !with_backend;
      if (with_backend) {
        LoadTicket ticket = ticket_for(*pool, "m");
        loaded = ticket.spawn({"sleep", "600"}) && ticket.ready("127.0.0.1:1");
      }
      child.say(loaded ? "loaded" : "not loaded");
      child.hear();
    });
    parent.say(worker.hear());
  });
  if (first.is_missing()) GTEST_SKIP() << "this root may not make a container";
  ASSERT_EQ(first.hear(), "loaded");
  ASSERT_EQ(first.hear(), "ended");
}

std::string attach_in_container(const Scratch& scratch) {
  Container next([&](Forked::Child& parent) {
    const auto pool = Pool::attach("default", {.dir = scratch.dir()});
    parent.say(pool ? "attached"
                    : std::string(errc_name(pool.error().code)) + ": " + pool.error().text);
  });
  return next.is_missing() ? "missing" : next.hear();
}

TEST(Container, ThatHasEndedLeavesAPoolThatTheHostReplaces) {
  const Scratch scratch;
  leave_a_pool(scratch, true);
  if (::testing::Test::IsSkipped()) return;
  const auto pool = Pool::attach("default", {.dir = scratch.dir()});
  ASSERT_TRUE(pool) << text_of(pool);
  EXPECT_EQ(look(*pool).backends.size(), 0u);
}

TEST(Container, ThatHasEndedLeavesAPoolWithoutBackendsThatTheNextReplaces) {
  const Scratch scratch;
  leave_a_pool(scratch, false);
  if (::testing::Test::IsSkipped()) return;
  EXPECT_EQ(attach_in_container(scratch), "attached");
}

// From the next container nobody can see whether the last one's backends live: only a person can.
TEST(Container, WhoseBackendsMayLiveIsNotReplacedByAnotherAndTheAdviceHelps) {
  const Scratch scratch;
  leave_a_pool(scratch, true);
  if (::testing::Test::IsSkipped()) return;
  const std::string refused = attach_in_container(scratch);
  // By chance the numbers of the two are the same: then the processes can be looked for, and are
  // not there.
  if (refused == "attached") GTEST_SKIP() << "its namespace has the number of the last one";
  EXPECT_THAT(refused, AllOf(HasSubstr("incompatible"), HasSubstr("PID namespace"),
                             HasSubstr("remove --container-ended")));
  Container person([&](Forked::Child& parent) {
    parent.say(std::to_string(poolctl(scratch, {"remove"}).code));
    parent.say(std::to_string(poolctl(scratch, {"remove", "--container-ended"}).code));
  });
  EXPECT_EQ(person.hear(), "3");
  EXPECT_EQ(person.hear(), "0");
  EXPECT_EQ(attach_in_container(scratch), "attached");
}

TEST(Container, ThatStillRunsKeepsItsPool) {
  const Scratch scratch;
  Container first([&](Forked::Child& parent) {
    Forked worker([&](Forked::Child& child) {
      const auto pool = Pool::attach("default", {.dir = scratch.dir()});
      child.say(pool ? "attached" : "not attached");
      child.hear();
    });
    parent.say(worker.hear());
    parent.hear();
  });
  if (first.is_missing()) GTEST_SKIP() << "this root may not make a container";
  ASSERT_EQ(first.hear(), "attached");
  const std::string before = read_file(scratch.path("default"));
  EXPECT_THAT(attach_in_container(scratch), HasSubstr("PID namespace"));
  const auto host = Pool::attach("default", {.dir = scratch.dir()});
  EXPECT_EQ(code_of(host), Errc::kIncompatible) << text_of(host);
  EXPECT_EQ(poolctl(scratch, {"remove", "--container-ended"}).code, 1)
      << "its worker holds the lock";
  EXPECT_TRUE(read_file(scratch.path("default")) == before);
}

// The judge was the first process: with it the namespace has ended, and all in it.
TEST(Container, WhoseFirstProcessWasTheJudgeIsKnownToHaveEnded) {
  const Scratch scratch;
  Container first([&](Forked::Child& parent) {
    if (fork() == 0) {
      eventually([&] { return poolctl(scratch, {"status"}).code == 0; });
      Pool pool = attach(scratch);
      LoadTicket ticket = ticket_for(pool, "m");
      parent.say(ticket.spawn({"sleep", "600"}) && ticket.ready("127.0.0.1:1") ? "loaded"
                                                                               : "not loaded");
      kill(1, SIGTERM);
      pause();
    }
    execl(MODELPOOL_COORDINATORD, "coordinatord", "--dir", scratch.dir().c_str(), nullptr);
  });
  if (first.is_missing()) GTEST_SKIP() << "this root may not make a container";
  ASSERT_EQ(first.hear(), "loaded");
  EXPECT_TRUE(eventually([&] { return attach_in_container(scratch) == "attached"; }))
      << attach_in_container(scratch);
}

// --- Something mounted over the directory --------------------------------------------------------

TEST(Cover, MountedOverItDrainsThePoolAndTakenAwayAgainItIsServedOn) {
  const Scratch scratch;
  Forked mounted([&](Forked::Child& parent) {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", scratch.dir().c_str(), "tmpfs", 0, "mode=700") != 0) {
      return parent.say("missing");
    }
    parent.say("mounted");
    const BackendsEnd backends_end(scratch);
    Daemon daemon(scratch, {"--stop-grace", "200ms"});
    RemoteWorker worker(scratch);
    const pid_t held = worker.load("held");
    worker.load_idle("idle");
    ASSERT_EQ(mount("tmpfs", scratch.dir().c_str(), "tmpfs", 0, "mode=700"), 0);
    EXPECT_TRUE(eventually([&] { return daemon.log().find("draining") != std::string::npos; }));
    EXPECT_EQ(worker.acquire("other", 500), "replaced");
    ASSERT_EQ(umount2(scratch.dir().c_str(), MNT_DETACH), 0);
    EXPECT_TRUE(eventually([&] { return daemon.log().find("has its name") != std::string::npos; }))
        << daemon.log();
    EXPECT_EQ(worker.progress("held"), "ok");
    EXPECT_TRUE(is_running(held));
    EXPECT_EQ(worker.acquire("other"), "ticket");
    // Covered for good: it ends what it has, and its successor serves the new place.
    ASSERT_EQ(mount("tmpfs", scratch.dir().c_str(), "tmpfs", 0, "mode=700"), 0);
    worker.release("held");
    worker.release("other");
    EXPECT_EQ(daemon.program().wait(), 1) << daemon.log();
    EXPECT_FALSE(is_running(held));
    daemon.start();
    EXPECT_GT(worker.load("more"), 0);
    parent.say("done");
  });
  const std::string answer = mounted.hear();
  if (answer == "missing") GTEST_SKIP() << "this user may not mount";
  EXPECT_EQ(mounted.hear(), "done");
  EXPECT_EQ(mounted.wait(), 0);
}

// The judge has looked and taken its name back, and does not watch for mounts yet.
TEST(Cover, MountedAgainAtOnceIsNotMissed) {
  const Scratch scratch;
  Forked mounted([&](Forked::Child& parent) {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", scratch.dir().c_str(), "tmpfs", 0, "mode=700") != 0) {
      return parent.say("missing");
    }
    parent.say("mounted");
    const BackendsEnd backends_end(scratch);
    const Daemon daemon(scratch);
    RemoteWorker worker(scratch);
    worker.load("held");
    const auto segment = Segment::open_file(scratch.path("default"));
    ASSERT_TRUE(segment.has_value());
    const auto becomes = [&](std::uint32_t replaced) {
      return eventually([&] { return (*segment)->line().replaced.load() == replaced; });
    };
    const auto cover = [&] { mount("tmpfs", scratch.dir().c_str(), "tmpfs", 0, "mode=700"); };
    const auto uncover = [&] { umount2(scratch.dir().c_str(), MNT_DETACH); };
    for (int i = 0; i < 400; ++i) {
      cover();
      ASSERT_TRUE(becomes(1));
      uncover();
      for (const std::uint64_t until = now_ns() + i * kMicrosecond_ns; now_ns() < until;) {
      }
      cover();
      ASSERT_TRUE(becomes(1)) << "round " << i;
      uncover();
      ASSERT_TRUE(becomes(0)) << "round " << i;
    }
    parent.say("done");
  });
  const std::string answer = mounted.hear();
  if (answer == "missing") GTEST_SKIP() << "this user may not mount";
  EXPECT_EQ(mounted.hear(), "done");
  EXPECT_EQ(mounted.wait(), 0);
}

}  // namespace
}  // namespace modelpool::test
