// A number that was a backend's, a worker's or the coordinator's now belongs to somebody else, who
// is never signalled (P7) and keeps nothing alive (P6). Reuse is forced with clone3(set_tid).
#include <linux/sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "daemon/pool_test.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

// A process with exactly this PID, leader of a session of its own: also the number of the group is
// in use again. Every signal it gets ends it.
class Innocent {
 public:
  explicit Innocent(pid_t wanted) {
    clone_args args{};
    args.exit_signal = SIGCHLD;
    args.set_tid = reinterpret_cast<std::uint64_t>(&wanted);
    args.set_tid_size = 1;
    pid_ = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
    if (pid_ < 0) error_ = errno;
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    for (;;) pause();
  }
  Innocent(const Innocent&) = delete;
  Innocent& operator=(const Innocent&) = delete;
  ~Innocent() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  bool exists() const { return pid_ > 0; }
  std::string why_not() const { return std::string("clone3(set_tid): ") + std::strerror(error_); }
  pid_t pid() const { return pid_; }
  bool unharmed() const { return waitpid(pid_, nullptr, WNOHANG) == 0; }

 private:
  pid_t pid_ = -1;
  int error_ = 0;
};

// Of a base, so that it goes after the daemon: it ends every child there is.
struct AdoptsOrphans {
  Orphans orphans;
};

class PidReuse : public AdoptsOrphans, public PoolTest {
 protected:
  PidReuse() {
    Forked child([](Forked::Child&) {});
    child.wait();
    const Innocent probe(child.pid());
    if (!probe.exists()) missing_ = probe.why_not();
  }
  void SetUp() override {
    if (!missing_.empty()) GTEST_SKIP() << "PIDs cannot be chosen here: " << missing_;
  }
  // An orphan of ours: its number is free when this returns.
  static void end(pid_t pid) {
    kill(pid, SIGKILL);
    ASSERT_TRUE(eventually([pid] { return waitpid(pid, nullptr, WNOHANG) == pid; }));
  }

  std::string missing_;
};

TEST_F(PidReuse, OfAReadyBackendWithoutACoordinatorIsNoticedByTheNext) {
  start();
  pid_t pid = 0;
  {
    RemoteWorker worker(scratch_);
    pid = worker.load_idle("m");
  }
  daemon().kill_now();
  end(pid);
  const Innocent innocent(pid);
  ASSERT_TRUE(innocent.exists()) << innocent.why_not();
  daemon().start();
  EXPECT_TRUE(wait_state("m", ""));
  EXPECT_EQ(wait_event("exited", "m")["pid"], pid);
  EXPECT_TRUE(settles());
  EXPECT_TRUE(innocent.unharmed());
}

TEST_F(PidReuse, OfABackendThatWasBeingStoppedEndsTheStopAndKillsNobody) {
  start({"--stop-grace", "10m"});
  pid_t pid = 0;
  {
    RemoteWorker worker(scratch_);
    pid = worker.load_idle("m", {"--ignore-sigterm"});
  }
  ASSERT_TRUE(attach(scratch_).evict("m"));
  ASSERT_TRUE(wait_state("m", "stopping"));
  daemon().kill_now();
  end(pid);
  const Innocent innocent(pid);
  ASSERT_TRUE(innocent.exists()) << innocent.why_not();
  daemon().start();
  EXPECT_TRUE(wait_state("m", ""));
  EXPECT_EQ(wait_event("evicted", "m")["reason"], "requested");
  EXPECT_TRUE(settles());
  EXPECT_TRUE(innocent.unharmed());
}

// The start time has ticks of 10 ms: only the pidfd's inode tells these two apart.
TEST_F(PidReuse, WithinOneTickOfTheClockIsNoticedToo) {
  if (own_identity().pidfd_inode == 0) GTEST_SKIP() << "pidfds have no inode before Linux 6.9";
  start({"--load-cooldown", "off"});
  Pool pool = attach(scratch_);
  for (int round = 0; round < 10; ++round) {
    daemon().program().signal(SIGSTOP);
    ASSERT_TRUE(has_stopped(daemon().pid()));
    LoadTicket ticket = ticket_for(pool, "m");
    Forked backend([](Forked::Child&) { pause(); });
    ASSERT_TRUE(ticket.started(backend.pid()));
    ASSERT_TRUE(ticket.ready("127.0.0.1:1"));
    backend.kill_now();
    const Innocent innocent(backend.pid());
    ASSERT_TRUE(innocent.exists()) << innocent.why_not();
    daemon().program().signal(SIGCONT);
    EXPECT_TRUE(wait_state("m", ""));
    EXPECT_TRUE(innocent.unharmed());
  }
  EXPECT_EQ(count_events("exited", "m"), 10u);
}

TEST_F(PidReuse, OfAWorkerKeepsNoneOfItsLeasesAndTickets) {
  start();
  RemoteWorker loader(scratch_);
  loader.load_idle("leased");
  auto dead = std::make_unique<RemoteWorker>(scratch_);
  ASSERT_EQ(dead->acquire("leased"), "lease");
  ASSERT_EQ(dead->acquire("loading"), "ticket");
  const pid_t pid = dead->pid();
  daemon().kill_now();
  dead->kill_now();
  const Innocent innocent(pid);
  ASSERT_TRUE(innocent.exists()) << innocent.why_not();
  daemon().start();
  EXPECT_TRUE(eventually([&] { return status()["leases"] == 0 && status()["workers"] == 1; }));
  EXPECT_EQ(loader.acquire("loading"), "ticket");
  EXPECT_TRUE(innocent.unharmed());
}

TEST_F(PidReuse, OfTheCoordinatorIsNoCoordinator) {
  start();
  const pid_t pid = daemon().pid();
  daemon().kill_now();
  const Innocent innocent(pid);
  ASSERT_TRUE(innocent.exists()) << innocent.why_not();
  EXPECT_EQ(status()["coordinator"]["alive"], false);
  daemon().start();
  EXPECT_EQ(status()["coordinator"]["alive"], true);
  EXPECT_TRUE(innocent.unharmed());
}

}  // namespace
}  // namespace modelpool::test
