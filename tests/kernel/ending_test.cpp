// Backends whose processes do what makes them hard to end: fork and leave without end, hide
// themselves, run as another user. They are ended all the same, or named (P3, P7, P9, P11).
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/pool_test.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// --- Programs ------------------------------------------------------------------------------------

// The file that successors have locked while one of them lives.
constexpr const char* kLockVariable = "MODELPOOL_TEST_LOCK";

// Each process forks the next one and leaves; nobody of them is there for long. A time limit ends
// the last.
[[noreturn]] void fork_and_leave_for_ever() {
  signal(SIGTERM, SIG_IGN);
  if (flock(open(getenv(kLockVariable), O_RDWR | O_CREAT, 0600), LOCK_EX) != 0) _exit(1);
  const time_t until = time(nullptr) + 60;
  for (;;) {
    const pid_t child = fork();
    if (child > 0 || time(nullptr) > until) _exit(0);
    usleep(200);
  }
}

TEST(EndingInAProgram, DISABLED_ForksSuccessors) {
  if (fork() == 0) fork_and_leave_for_ever();
  for (;;) pause();
}
TEST(EndingInAProgram, DISABLED_ForksSuccessorsInASessionOfTheirOwn) {
  if (fork() == 0) {
    setsid();
    fork_and_leave_for_ever();
  }
  for (;;) pause();
}
TEST(EndingInAProgram, DISABLED_HidesFromTheOthers) {
  prctl(PR_SET_DUMPABLE, 0);
  alarm(60);
  for (;;) pause();
}

// --- Successors ----------------------------------------------------------------------------------

class Successors : public PoolTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(Successors, ThatForkAndLeaveAgainAndAgainAreEndedBeforeTheirPlaceIsFree) {
  start({"--stop-grace", "20ms"});
  const std::string lock = scratch_.path("lock");
  setenv(kLockVariable, lock.c_str(), 1);
  RemoteWorker worker(scratch_);
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(worker.acquire("m"), "ticket");
    ASSERT_THAT(
        worker.spawn_program("m", own_argv(std::string("EndingInAProgram.DISABLED_") + GetParam())),
        HasSubstr("pid "));
    ASSERT_TRUE(eventually([&] { return is_locked(lock); }));
    ASSERT_EQ(worker.ready("m"), "lease");
    worker.release("m");
    EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
    EXPECT_FALSE(is_locked(lock));
    EXPECT_THAT(processes_with_environment(token()), IsEmpty());
  }
  EXPECT_TRUE(settles());
}

INSTANTIATE_TEST_SUITE_P(Of, Successors,
                         ::testing::Values("ForksSuccessors",
                                           "ForksSuccessorsInASessionOfTheirOwn"));

// --- What /proc hides ----------------------------------------------------------------------------

// A pool of another user than root, whose /proc hides what is not dumpable, as hardened hosts have
// it.
class HiddenProcesses : public PoolTest {
 protected:
  static constexpr uid_t kNobody = 65534;
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "only root can mount /proc";
    if (run({"unshare", "-m", "mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"}).code !=
        0) {
      GTEST_SKIP() << "/proc with hidepid cannot be mounted here";
    }
    ASSERT_EQ(chown(scratch_.dir().c_str(), kNobody, kNobody), 0);
    coordinator_ = std::make_unique<Program>(std::vector<std::string>{
        "unshare", "-m", "sh", "-c",
        "mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid=65534 --regid=65534 "
        "--clear-groups " +
            std::string(MODELPOOL_COORDINATORD) + " --dir " + scratch_.dir()});
    ASSERT_TRUE(eventually([&] {
      return !coordinator_->running() ||
             coordinator_->err().find("serving pool") != std::string::npos;
    }));
    ASSERT_TRUE(coordinator_->running()) << coordinator_->err();
  }
  void TearDown() override {
    if (!coordinator_) return;
    coordinator_->signal(SIGTERM);
    coordinator_->wait();
  }
  std::unique_ptr<Program> coordinator_;
};

TEST_F(HiddenProcesses, AreSpokenOfAtTheStart) {
  EXPECT_THAT(coordinator_->err(), HasSubstr("hidepid=2"));
}

TEST_F(HiddenProcesses, ABackendThatIsNotDumpableIsEndedAllTheSame) {
  if (own_identity().pidfd_inode == 0) GTEST_SKIP() << "pidfds have no inode before Linux 6.9";
  Forked worker([&](Forked::Child& parent) {
    if (setgid(kNobody) != 0 || setuid(kNobody) != 0) throw std::runtime_error("still root");
    prctl(PR_SET_DUMPABLE, 1);  // changing users took it away
    Pool pool = attach(scratch_);
    LoadTicket ticket = ticket_for(pool, "m");
    if (!ticket.spawn(own_argv("EndingInAProgram.DISABLED_HidesFromTheOthers")))
      parent.say("no process");
    const pid_t pid = ticket.pid();
    // The files in its directory, not that itself, become root's.
    struct stat file {};
    const std::string path = "/proc/" + std::to_string(pid) + "/environ";
    if (!eventually([&] { return stat(path.c_str(), &file) == 0 && file.st_uid == 0; }))
      parent.say("it can be dumped");
    auto lease = ticket.ready("127.0.0.1:1");
    lease->release();
    parent.say(std::to_string(pid));
    parent.hear();
    static_cast<void>(pool.evict("m"));
    parent.say(eventually([&] { return state_of(pool, "m") == "none"; }) ? "gone"
                                                                         : state_of(pool, "m"));
    parent.hear();
  });
  const pid_t pid = std::stoi(worker.hear());
  EXPECT_TRUE(is_running(pid));
  worker.say("evict");
  EXPECT_EQ(worker.hear(), "gone") << coordinator_->err();
  EXPECT_FALSE(is_running(pid));
}

}  // namespace
}  // namespace modelpool::test
