#include "base/process.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "base/host.hpp"
#include "base/proc.hpp"

using namespace modelpool;  // NOLINT(google-build-using-namespace)

namespace {

// A process that waits until it is told to end, and is reaped.
class Child {
 public:
  Child()
      : Child([] {
          pause();
          return 0;
        }) {}
  template <class Body>
  explicit Child(Body body) {
    pid_ = fork();
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    _exit(body());
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { end(); }

  pid_t pid() const { return pid_; }
  // Dead, but not reaped: a zombie.
  void kill() {
    ::kill(pid_, SIGKILL);
    siginfo_t info{};
    waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
  }
  int wait() {
    int status = -1;
    waitpid(pid_, &status, 0);
    reaped_ = true;
    return status;
  }
  void end() {
    if (reaped_) return;
    kill();
    wait();
  }

 private:
  pid_t pid_ = -1;
  bool reaped_ = false;
};

// The exit code of `body` run in a forked child.
template <class Body>
int in_child(Body body) {
  Child child(body);
  const int status = child.wait();
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST(Fd, ClosesOnceAndMoves) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Fd write_end(ends[1]);
  Fd read_end(ends[0]);
  Fd moved(std::move(write_end));
  EXPECT_EQ(moved.get(), ends[1]);
  EXPECT_FALSE(static_cast<bool>(write_end));  // NOLINT(bugprone-use-after-move)
  errno = EAGAIN;
  moved.reset();
  EXPECT_EQ(errno, EAGAIN);
  char byte;
  EXPECT_EQ(read(read_end.get(), &byte, 1), 0);  // end of file: the write end is closed
  read_end = Fd();
  EXPECT_EQ(fcntl(ends[0], F_GETFD), -1);
}

TEST(ProcessStat, TellsAboutThisProcess) {
  const std::optional<ProcessStat> stat = read_stat(getpid());
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->pid, getpid());
  EXPECT_EQ(stat->parent, getppid());
  EXPECT_EQ(stat->group, getpgrp());
  EXPECT_EQ(stat->session, getsid(0));
  EXPECT_EQ(stat->state, 'R');
  EXPECT_GE(stat->threads, 1u);
  EXPECT_GT(stat->start_ticks, 0u);
  EXPECT_GT(stat->rss_bytes, 100'000u);
  EXPECT_GE(stat->virtual_bytes, stat->rss_bytes);
  EXPECT_FALSE(stat->is_zombie());
}

TEST(ProcessStat, CountsTheTimeOfItsThreads) {
  const auto ticks = [] { return read_stat(getpid())->cpu_ticks; };
  std::thread([&, before = ticks()] {
    while (ticks() == before) continue;
  }).join();
}

TEST(ProcessStat, ACommandMayLookLikeFields) {
  char old_name[16] = {};
  prctl(PR_GET_NAME, old_name);
  prctl(PR_SET_NAME, "a) Z 1 (2) 3");
  const std::optional<ProcessStat> stat = read_stat(getpid());
  prctl(PR_SET_NAME, old_name);
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->command, "a) Z 1 (2) 3");
  EXPECT_EQ(stat->parent, getppid());
  EXPECT_EQ(stat->state, 'R');
}

TEST(ProcessStat, KnowsAZombie) {
  Child child;
  child.kill();
  const std::optional<ProcessStat> stat = read_stat(child.pid());
  ASSERT_TRUE(stat);
  EXPECT_TRUE(stat->is_zombie());
  EXPECT_EQ(stat->parent, getpid());
  child.end();
  EXPECT_FALSE(read_stat(child.pid()));
}

TEST(ProcessStat, NobodyHasNone) {
  for (const pid_t pid : {0, -1, INT32_MAX}) {
    EXPECT_FALSE(read_stat(pid)) << pid;
    EXPECT_FALSE(read_uid(pid)) << pid;
    EXPECT_FALSE(read_environment(pid, "PATH")) << pid;
    EXPECT_FALSE(maps_file(pid, 1, 1)) << pid;
  }
}

TEST(ProcessUid, IsTheRealOne) {
  EXPECT_EQ(read_uid(getpid()), getuid());
  if (getuid() != 0) GTEST_SKIP() << "needs root to change a uid";
  EXPECT_EQ(in_child([] {
              if (setresuid(1234, 0, 0) != 0) return 2;
              return read_uid(getpid()) == uid_t{1234} ? 0 : 1;
            }),
            0);
}

TEST(ProcessEnvironment, IsTheOneTheProcessWasStartedWith) {
  Fd gate[2];
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  gate[0] = Fd(ends[0]);
  gate[1] = Fd(ends[1]);
  Child child([] {
    const char* const argv[] = {"sleep", "1000", nullptr};
    const char* const envp[] = {
        "TOKENS=no", "TOKEN=a=b", "EMPTY=", "TOKEN=second", "BARE", nullptr};
    execve("/bin/sleep", const_cast<char* const*>(argv), const_cast<char* const*>(envp));
    return 127;
  });
  gate[1].reset();
  char byte;
  ASSERT_EQ(read(gate[0].get(), &byte, 1), 0);  // ends when exec has closed the child's copy
  EXPECT_EQ(read_environment(child.pid(), "TOKEN"), "a=b");
  EXPECT_EQ(read_environment(child.pid(), "EMPTY"), "");
  EXPECT_FALSE(read_environment(child.pid(), "TOK"));
  EXPECT_FALSE(read_environment(child.pid(), "BARE"));
  EXPECT_FALSE(read_environment(child.pid(), ""));
  child.end();
  EXPECT_FALSE(read_environment(child.pid(), "TOKEN"));
}

TEST(ProcessList, HoldsThisProcessAndItsChildren) {
  const Child child;
  const std::vector<pid_t> pids = list_pids().value_or(std::vector<pid_t>());
  EXPECT_EQ(std::count(pids.begin(), pids.end(), getpid()), 1);
  EXPECT_EQ(std::count(pids.begin(), pids.end(), child.pid()), 1);
}

TEST(ProcessMaps, ShowAFileWhileItIsMapped) {
  const Fd file(memfd_create("modelpool-test", MFD_CLOEXEC));
  ASSERT_TRUE(file);
  ASSERT_EQ(ftruncate(file.get(), 4096), 0);
  struct stat info {};
  ASSERT_EQ(fstat(file.get(), &info), 0);
  EXPECT_EQ(maps_file(getpid(), info.st_dev, info.st_ino), false);
  void* const memory = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file.get(), 0);
  ASSERT_NE(memory, MAP_FAILED);
  EXPECT_EQ(maps_file(getpid(), info.st_dev, info.st_ino), true);
  EXPECT_EQ(maps_file(getpid(), info.st_dev + 1, info.st_ino), false);
  munmap(memory, 4096);
  EXPECT_EQ(maps_file(getpid(), info.st_dev, info.st_ino), false);
}

TEST(ProcessMaps, OfAZombieAreUnknown) {
  Child child;
  child.kill();
  EXPECT_FALSE(maps_file(child.pid(), 1, 1));
}

TEST(ProcessHandle, RefusesPidsThatNameNobodyOrInit) {
  for (const pid_t pid : {-1, 0, 1}) {
    const Result<ProcessHandle> handle = ProcessHandle::open(pid);
    ASSERT_FALSE(handle);
    EXPECT_EQ(handle.error().code, Errc::kInvalid);
  }
}

TEST(ProcessHandle, OpensALivingProcess) {
  Child child;
  const Result<ProcessHandle> handle = ProcessHandle::open(child.pid());
  ASSERT_TRUE(handle) << handle.error().text;
  EXPECT_EQ(handle->identity().pid, child.pid());
  EXPECT_EQ(handle->identity().start_ticks, read_stat(child.pid())->start_ticks);
  EXPECT_EQ(handle->liveness(), Liveness::kAlive);
  EXPECT_NE(fcntl(handle->fd(), F_GETFD) & FD_CLOEXEC, 0);
  child.kill();
  EXPECT_EQ(handle->liveness(), Liveness::kDead);  // a zombie is dead
  child.end();
  EXPECT_EQ(handle->liveness(), Liveness::kDead);
}

TEST(ProcessHandle, DoesNotOpenAZombieOrNobody) {
  Child child;
  child.kill();
  Result<ProcessHandle> handle = ProcessHandle::open(child.pid());
  ASSERT_FALSE(handle);
  EXPECT_EQ(handle.error().system, ESRCH);
  child.end();
  handle = ProcessHandle::open(child.pid());
  ASSERT_FALSE(handle);
  EXPECT_EQ(handle.error().system, ESRCH);
  EXPECT_EQ(handle.error().text,
            "unable to open process " + std::to_string(child.pid()) + ": No such process");
}

TEST(ProcessHandle, OpensAChildThatHasEnded) {
  Child child;
  child.kill();
  const Result<ProcessHandle> handle = ProcessHandle::open_child(child.pid());
  ASSERT_TRUE(handle) << handle.error().text;
  EXPECT_EQ(handle->liveness(), Liveness::kDead);
  EXPECT_EQ(handle->identity().start_ticks, read_stat(child.pid())->start_ticks);
  child.end();
  EXPECT_EQ(ProcessHandle::open_child(child.pid()).error().system, ESRCH);
}

TEST(ProcessHandle, WithoutAProcessKnowsNothing) {
  const ProcessHandle handle;
  EXPECT_FALSE(static_cast<bool>(handle));
  EXPECT_EQ(handle.liveness(), Liveness::kUnknown);
  ASSERT_FALSE(handle.signal(0));
  EXPECT_EQ(handle.signal(0).error().code, Errc::kInvalid);
}

TEST(ProcessHandle, SignalsTheProcessItHolds) {
  Child child;
  const ProcessHandle handle = ProcessHandle::open(child.pid()).value();
  EXPECT_TRUE(handle.signal(0));
  EXPECT_TRUE(handle.signal(SIGTERM));
  const int status = child.wait();
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGTERM);
  const Result<> late = handle.signal(SIGTERM);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().system, ESRCH);
}

TEST(ProcessHandle, InitMayBeLookedAtButNotSignalled) {
  const std::optional<ProcessStat> init = read_stat(1);
  if (!init) GTEST_SKIP() << "/proc hides PID 1";
  const ProcessHandle::Verified verified = ProcessHandle::open({1, init->start_ticks, 0});
  if (verified.liveness != Liveness::kAlive) GTEST_SKIP() << "PID 1 cannot be opened";
  EXPECT_EQ(verified.handle.signal(0).error().code, Errc::kInvalid);
}

TEST(Identity, IsPidAndStartTimeAndInodeWhereBothKnowIt) {
  const ProcessIdentity a{7, 100, 5};
  EXPECT_TRUE(a.is({7, 100, 5}));
  EXPECT_TRUE(a.is({7, 100, 0}));
  EXPECT_TRUE((ProcessIdentity{7, 100, 0}).is(a));
  EXPECT_FALSE(a.is({7, 100, 6}));
  EXPECT_FALSE(a.is({7, 101, 5}));
  EXPECT_FALSE(a.is({8, 100, 5}));
}

TEST(Identity, OfALivingProcessIsVerified) {
  const Child child;
  const ProcessIdentity identity = ProcessHandle::open(child.pid()).value().identity();
  ProcessHandle::Verified verified = ProcessHandle::open(identity);
  EXPECT_EQ(verified.liveness, Liveness::kAlive);
  ASSERT_TRUE(static_cast<bool>(verified.handle));
  EXPECT_TRUE(verified.handle.identity().is(identity));
  EXPECT_EQ(process_liveness({identity.pid, identity.start_ticks, 0}), Liveness::kAlive);
}

TEST(Identity, AReusedPidIsAnotherProcess) {
  const Child child;
  const ProcessIdentity now = ProcessHandle::open(child.pid()).value().identity();
  ProcessIdentity before = now;
  --before.start_ticks;
  EXPECT_EQ(process_liveness(before), Liveness::kDead);
  EXPECT_FALSE(static_cast<bool>(ProcessHandle::open(before).handle));
  if (now.pidfd_inode == 0) GTEST_SKIP() << "pidfds have no inode before Linux 6.9";
  before = now;
  --before.pidfd_inode;  // within the same 10 ms tick
  EXPECT_EQ(process_liveness(before), Liveness::kDead);
}

TEST(Identity, DiesWithItsProcess) {
  Child child;
  const ProcessIdentity identity = ProcessHandle::open(child.pid()).value().identity();
  child.kill();
  EXPECT_EQ(process_liveness(identity), Liveness::kDead);
  child.end();
  EXPECT_EQ(process_liveness(identity), Liveness::kDead);
}

TEST(Identity, ThatWasNeverKnownProvesNothing) {
  const Child child;
  EXPECT_EQ(process_liveness({}), Liveness::kUnknown);
  EXPECT_EQ(process_liveness({-5, 1, 1}), Liveness::kUnknown);
  EXPECT_EQ(process_liveness({child.pid(), 0, 0}), Liveness::kUnknown);
  EXPECT_EQ(process_liveness({INT32_MAX, 1, 1}), Liveness::kDead);
}

TEST(Identity, ALeaderThatEndedBeforeItsThreadsIsAlive) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  Child child([&read_end, &write_end] {
    read_end.reset();
    std::thread([&write_end] {
      // Until the leader is a zombie; the kernel's own view, without guessing how long it takes.
      while (!read_stat(getpid()) || !read_stat(getpid())->is_zombie()) std::this_thread::yield();
      write_end.reset();
      pause();
    }).detach();
    syscall(SYS_exit, 0);  // this thread only
    return 0;
  });
  write_end.reset();
  char byte;
  ASSERT_EQ(read(read_end.get(), &byte, 1), 0);
  ASSERT_TRUE(read_stat(child.pid())->is_zombie());
  const Result<ProcessHandle> handle = ProcessHandle::open(child.pid());
  ASSERT_TRUE(handle) << handle.error().text;
  EXPECT_EQ(handle->liveness(), Liveness::kAlive);
  EXPECT_EQ(process_liveness(handle->identity()), Liveness::kAlive);
}

TEST(Identity, APidThatIsAThreadNowIsDead) {
  std::atomic<pid_t> tid{0};
  std::atomic<bool> done{false};
  std::thread thread([&tid, &done] {
    tid = static_cast<pid_t>(syscall(SYS_gettid));
    tid.notify_one();
    done.wait(false);
  });
  tid.wait(0);
  EXPECT_EQ(process_liveness({tid, 1, 0}), Liveness::kDead);
  const Result<ProcessHandle> handle = ProcessHandle::open(tid);
  ASSERT_FALSE(handle);
  EXPECT_EQ(handle.error().system, ESRCH);
  done = true;
  done.notify_one();
  thread.join();
}

TEST(Identity, WithoutDescriptorsProvesNothing) {
  EXPECT_EQ(in_child([] {
              const ProcessIdentity parent = ProcessHandle::open(getppid()).value().identity();
              const rlimit none{0, 0};
              setrlimit(RLIMIT_NOFILE, &none);
              if (process_liveness(parent) != Liveness::kUnknown) return 1;
              const Result<ProcessHandle> handle = ProcessHandle::open(getppid());
              if (handle || handle.error().system != EMFILE) return 2;
              if (own_identity().pid != getpid()) return 3;
              return 0;
            }),
            0);
}

TEST(OwnIdentity, IsWhatOthersSee) {
  const ProcessIdentity own = own_identity();
  EXPECT_EQ(own.pid, getpid());
  EXPECT_EQ(own.start_ticks, read_stat(getpid())->start_ticks);
  EXPECT_EQ(process_liveness(own), Liveness::kAlive);
  EXPECT_EQ(in_child([own] { return process_liveness(own) == Liveness::kAlive ? 0 : 1; }), 0);
}

TEST(OwnIdentity, IsRenewedInAChildAndAGrandchild) {
  const ProcessIdentity parent = own_identity();
  EXPECT_EQ(in_child([parent] {
              const ProcessIdentity child = own_identity();
              if (child.pid != getpid() || child.is(parent)) return 1;
              if (process_liveness(child) != Liveness::kAlive) return 2;
              return in_child([child] {
                const ProcessIdentity grandchild = own_identity();
                return grandchild.pid == getpid() && !grandchild.is(child) ? 0 : 3;
              });
            }),
            0);
  EXPECT_TRUE(own_identity().is(parent));
}

TEST(OwnIdentity, IsOneForAllThreads) {
  // In a child, where nobody has asked yet: all threads start together on an empty cache.
  EXPECT_EQ(in_child([] {
              std::atomic<int> wrong{0};
              std::vector<std::thread> threads;
              for (int i = 0; i < 8; ++i) {
                threads.emplace_back([&wrong] {
                  for (int round = 0; round < 100; ++round) {
                    const ProcessIdentity own = own_identity();
                    if (own.pid != getpid() || own.start_ticks == 0) ++wrong;
                  }
                });
              }
              for (std::thread& thread : threads) thread.join();
              return wrong.load() == 0 ? 0 : 1;
            }),
            0);
}

TEST(ImageId, StaysInAForkedChild) {
  const std::uint64_t id = image_id();
  EXPECT_NE(id, 0u);
  EXPECT_EQ(image_id(), id);
  EXPECT_EQ(in_child([id] { return image_id() == id ? 0 : 1; }), 0);
}

TEST(ImageId, DiffersAfterExec) {
  const char* const variable = "MODELPOOL_TEST_IMAGE";
  if (const char* parent = std::getenv(variable)) {  // the executed image
    EXPECT_NE(std::to_string(image_id()), parent);
    return;
  }
  const std::string id = std::to_string(image_id());
  EXPECT_EQ(in_child([variable, &id] {
              setenv(variable, id.c_str(), 1);
              const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
              dup2(null, STDOUT_FILENO);
              execl("/proc/self/exe", "image", "--gtest_filter=ImageId.DiffersAfterExec", nullptr);
              return 127;
            }),
            0);
}

TEST(HostIdentity, IsTheSameForAllProcessesHere) {
  const Result<HostIdentity> host = read_host_identity();
  ASSERT_TRUE(host) << host.error().text;
  EXPECT_NE(host->boot_id[0], 0u);
  EXPECT_NE(host->boot_id[1], 0u);
  EXPECT_NE(host->pid_namespace, 0u);
  EXPECT_EQ(in_child([&host] {
              const HostIdentity other = read_host_identity().value();
              return other.boot_id[0] == host->boot_id[0] && other.boot_id[1] == host->boot_id[1] &&
                             other.pid_namespace == host->pid_namespace &&
                             other.time_namespace == host->time_namespace
                         ? 0
                         : 1;
            }),
            0);
}
