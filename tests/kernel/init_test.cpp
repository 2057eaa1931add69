// coordinatord as the first process of a container: it gets everybody's orphans.
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>

#include "base/proc.hpp"
#include "daemon/pool_test.hpp"

namespace modelpool::test {
namespace {

class Init : public PoolTest {
 protected:
  std::size_t zombies_of(pid_t parent) {
    std::size_t count = 0;
    for (const pid_t pid : list_pids().value_or(std::vector<pid_t>())) {
      const auto stat = read_stat(pid);
      count += stat && stat->parent == parent && stat->is_zombie();
    }
    return count;
  }
};

// Of the program that it replaced, as `sh -c "a & b & exec coordinatord"`.
TEST_F(Init, ChildrenThatItNeverStartedAreReaped) {
  Program judge({"sh", "-c",
                 "for i in 1 2 3 4 5; do sleep 0.0$i & done; exec " MODELPOOL_COORDINATORD
                 " --dir " +
                     scratch_.dir()});
  ASSERT_TRUE(eventually([&] { return poolctl(scratch_, {"status"}).code == 0; }));
  EXPECT_TRUE(eventually([&] { return zombies_of(judge.pid()) == 0; }));
  judge.signal(SIGTERM);
  EXPECT_EQ(judge.wait(), 0);
}

// In a PID namespace: the judge is PID 1, and a backend whose loader has died becomes its child.
TEST_F(Init, OrphanedBackendsAreReapedWhenTheyAreGoneAndTheirExitStatusIsKnown) {
  Forked outside([&](Forked::Child& parent) {
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) {
      parent.say("missing");
      return;
    }
    Forked first([&](Forked::Child&) {
      // The first process mounts its own /proc, starts the test's second one, and becomes the
      // judge.
      if (run({"mount", "-t", "proc", "proc", "/proc"}).code != 0) _exit(71);
      if (fork() == 0) {
        eventually([&] { return poolctl(scratch_, {"status"}).code == 0; });
        {
          Forked loader([&](Forked::Child& child) {
            Pool pool = attach(scratch_);
            auto grant = pool.acquire("m");
            auto& ticket = std::get<LoadTicket>(*grant);
            const bool spawned = ticket.spawn({"sh", "-c", "sleep 600 & wait; exit 7"}).has_value();
            auto lease = ticket.ready("127.0.0.1:1");
            child.say(spawned && lease ? std::to_string(ticket.pid()) : "0");
            child.hear();
          });
          const pid_t backend = std::stoi(loader.hear());
          loader.kill_now();
          const bool adopted =
              eventually([&] { return read_stat(backend) && read_stat(backend)->parent == 1; });
          kill(backend, SIGTERM);
          const bool reaped = eventually([&] { return !read_stat(backend); });
          const auto event = find_event(scratch_, "exited", "m");
          write_file(scratch_.path("answer"),
                     std::string(adopted ? "adopted " : "") + (reaped ? "reaped " : "") +
                         (event ? event->value("exit", "unknown") : "no event"));
        }
        kill(1, SIGTERM);
        _exit(0);
      }
      execl(MODELPOOL_COORDINATORD, "coordinatord", "--dir", scratch_.dir().c_str(), nullptr);
      _exit(72);
    });
    parent.say("first");
    parent.say(std::to_string(first.wait()));
  });
  if (outside.hear() == "missing") GTEST_SKIP() << "this user may not unshare PIDs";
  EXPECT_EQ(outside.hear(), "0");
  EXPECT_EQ(read_file(scratch_.path("answer")), "adopted reaped signal SIGTERM");
}

}  // namespace
}  // namespace modelpool::test
