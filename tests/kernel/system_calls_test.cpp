// The coordinator's system calls fail: out of descriptors or memory, forbidden, interrupted. It
// never dies of that, takes nobody for dead (only ESRCH, a readable pidfd or another identity prove
// death), and when it is over the pool is as if nothing had been.
//
// strace attaches to the running coordinator, makes one call fail, and detaches again.
#include <signal.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

#include "base/proc.hpp"
#include "daemon/pool_test.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::HasSubstr;

struct Failure {
  const char* call;
  const char* injected;
};
std::string name_of(const ::testing::TestParamInfo<Failure>& info) {
  std::string name = std::string(info.param.call) + "_" + info.param.injected;
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}
void PrintTo(const Failure& failure, std::ostream* out) {
  *out << failure.call << " " << failure.injected;
}

bool may_trace() {
  static const bool may = run({"sh", "-c", "strace -o /dev/null true"}).code == 0;
  return may;
}

class SystemCalls : public PoolTest, public ::testing::WithParamInterface<Failure> {
 protected:
  void SetUp() override {
    if (!may_trace()) GTEST_SKIP() << "strace is not installed or may not trace here";
  }
};

TEST_P(SystemCalls, ThatFailHarmNobodyAndNothingIsForgotten) {
  start({"--idle-timeout", "300ms", "--stop-grace", "300ms", "--max-backends", "3"});
  RemoteWorker worker(scratch_);
  RemoteWorker dying(scratch_);
  const pid_t held = worker.load("held");
  const pid_t idle = worker.load("idle");
  ASSERT_EQ(dying.acquire("held"), "lease");
  const auto segment = make_segment(scratch_);  // no worker: it looks and rings
  const auto scans = [&] { return segment->coordinator().scans.load(); };
  {
    Program strace({"strace", "-f", "-q", "-o", scratch_.path("calls"), "-e",
                    std::string("trace=") + GetParam().call, "-e",
                    std::string("inject=") + GetParam().call + ":" + GetParam().injected, "-p",
                    std::to_string(daemon().pid())});
    // In force once a call has failed, or the coordinator has looked again without making one.
    std::uint64_t before = scans();
    ASSERT_TRUE(eventually([&] {
      ring(*segment);
      return read_file(scratch_.path("calls")).find("INJECTED") != std::string::npos ||
             (status_number(daemon().pid(), "TracerPid") != 0 && scans() > before + 5) ||
             !strace.running();
    })) << strace.err();
    ASSERT_TRUE(strace.running()) << strace.err();
    // Work for it: a worker to reap, a backend to stop, another one to come.
    dying.kill_now();
    worker.release("idle");
    worker.begin_acquire("new");
    before = scans();
    eventually([&] { return scans() > before + 5 || state("idle").empty(); },
               std::chrono::milliseconds(700));
    EXPECT_TRUE(daemon().program().running()) << daemon().log();
    EXPECT_TRUE(is_running(held));
    EXPECT_EQ(state("held"), "ready");
    EXPECT_GE(status()["workers"], 1) << "a living worker was taken for dead";
    EXPECT_GE(entry("held")["in_flight"], 1) << "a living worker's lease was cleared";
    strace.signal(SIGINT);  // detaches
    strace.wait();
  }
  ASSERT_EQ(status_number(daemon().pid(), "TracerPid"), 0u);
  worker.hear();  // the answer for "new"
  EXPECT_TRUE(daemon().program().running()) << daemon().log();
  EXPECT_TRUE(eventually([&] { return status()["workers"] == 1; })) << "the dead one stays";
  EXPECT_TRUE(eventually([&] { return !is_running(idle); }));
  EXPECT_EQ(worker.progress("held"), "ok");
  EXPECT_TRUE(is_running(held));
  EXPECT_GT(worker.load("after"), 0);
  worker.release("new");
  worker.release("after");
  EXPECT_TRUE(settles());
}

INSTANTIATE_TEST_SUITE_P(
    OfTheCoordinator, SystemCalls,
    ::testing::Values(
        Failure{"pidfd_open", "error=EMFILE"}, Failure{"pidfd_open", "error=EPERM"},
        Failure{"pidfd_open", "error=ENOMEM"}, Failure{"pidfd_open", "error=EINVAL"},
        Failure{"openat", "error=EMFILE"}, Failure{"openat", "error=ENOMEM"},
        Failure{"openat", "error=EACCES"}, Failure{"openat", "error=EINTR:when=1+2"},
        Failure{"read", "error=EINTR:when=1+2"}, Failure{"read", "error=EIO"},
        Failure{"getdents64", "error=ENOMEM"}, Failure{"poll", "error=ENOMEM"},
        Failure{"poll", "error=EINTR:when=1+2"}, Failure{"ppoll", "error=ENOMEM:when=1+2"},
        Failure{"epoll_wait", "error=EINTR:when=1+2"}, Failure{"epoll_ctl", "error=ENOMEM"},
        Failure{"futex", "error=EINTR:when=1+2"},
        Failure{"timerfd_settime", "error=ENOMEM:when=1+2"}, Failure{"mmap", "error=ENOMEM"},
        Failure{"fstatfs", "error=ENOMEM"}, Failure{"pidfd_send_signal", "error=EPERM"},
        Failure{"write", "error=EAGAIN:when=1+2"}, Failure{"clone3", "error=EAGAIN"}),
    name_of);

// --- Killed as it sends its first signal --------------------------------------------------------

bool is_recorded(const Segment& segment, std::uint32_t slot, pid_t pid) {
  const KnownRecord known = segment.backend(slot).known.load();
  const auto end = known.members.begin() + std::min<std::size_t>(known.count, known.members.size());
  return std::any_of(known.members.begin(), end, [pid](const KnownMember& member) {
    return member.pid == static_cast<std::uint32_t>(pid);
  });
}

// Its parent may end by that signal, and nobody else proves whose it was: in a session of its own,
// without the token. Started after the members were learned.
TEST_F(PoolTest, P9P10WhoIsFoundByTheOrderIsRecordedBeforeTheFirstSignal) {
  if (!may_trace()) GTEST_SKIP() << "strace is not installed or may not trace here";
  start();
  RemoteWorker worker(scratch_);
  const std::string go = scratch_.path("go");
  const std::string server = scratch_.path("server");
  ASSERT_EQ(worker.acquire("m"), "ticket");
  ASSERT_THAT(
      worker.spawn_program("m", {"sh", "-c",
                                 "while [ ! -e " + go +
                                     " ]; do sleep 0.02; done; setsid env -i sleep 600 & "
                                     "echo $! > " +
                                     server + ".new; mv " + server + ".new " + server + "; wait"}),
      HasSubstr("pid "));
  ASSERT_EQ(worker.ready("m"), "lease");
  worker.release("m");
  const auto segment = make_segment(scratch_);
  const auto backend = look(segment).find_model("m")->ref;
  ASSERT_TRUE(eventually([&] { return segment->coordinator().scans.load() > 3; }));
  Program strace({"strace", "-f", "-q", "-o", scratch_.path("calls"), "-e",
                  "trace=pidfd_send_signal,epoll_wait", "-e",
                  "inject=pidfd_send_signal:signal=KILL:when=1", "-p",
                  std::to_string(daemon().pid())});
  ASSERT_TRUE(eventually([&] {
    ring(*segment);
    return read_file(scratch_.path("calls")).find("epoll_wait") != std::string::npos;
  })) << strace.err();
  write_file(go, "");
  ASSERT_TRUE(eventually([&] { return !read_file(server).empty(); }));
  const pid_t pid = std::stoi(read_file(server));
  ASSERT_TRUE(eventually([&] { return read_stat(pid)->command == "sleep"; }));
  ASSERT_FALSE(is_recorded(*segment, backend.index, pid)) << "it was learned before the order";
  ASSERT_TRUE(attach(scratch_).evict("m"));
  ASSERT_TRUE(eventually([&] { return !daemon().program().running(); }));
  EXPECT_TRUE(is_recorded(*segment, backend.index, pid));
  daemon_.reset();
  start();
  EXPECT_TRUE(eventually([&] { return !is_running(pid); }));
  EXPECT_TRUE(settles());
}

// --- At its start --------------------------------------------------------------------------------

class SystemCallsAtStart : public SystemCalls {
 protected:
  std::vector<std::string> under_strace() const {
    return {"strace",
            "-f",
            "-q",
            "-o",
            "/dev/null",
            "-e",
            std::string("trace=") + GetParam().call,
            "-e",
            std::string("inject=") + GetParam().call + ":" + GetParam().injected,
            MODELPOOL_COORDINATORD,
            "--dir",
            scratch_.dir()};
  }
};

// What is used up is named, and how it is raised.
TEST_P(SystemCallsAtStart, ThatFailAreNamedAndNothingIsHalfDone) {
  const Finished failed = run(under_strace());
  EXPECT_THAT(failed.code, ::testing::AnyOf(1, 3)) << failed.err;
  EXPECT_THAT(failed.err, HasSubstr("unable to"));
  const std::string injected = GetParam().injected;
  if (injected == "error=EMFILE") {
    rlimit limit{};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);  // coordinatord raises it as far as it may
    EXPECT_THAT(failed.err, HasSubstr("the " + std::to_string(limit.rlim_max) +
                                      " descriptors of this process are used up; raise them with "
                                      "ulimit -n"));
  }
  if (std::string(GetParam().call) == "epoll_ctl") {
    EXPECT_THAT(failed.err, HasSubstr("fs.epoll.max_user_watches"));
  }
  start();
  RemoteWorker worker(scratch_);
  EXPECT_GT(worker.load("m"), 0);
}

INSTANTIATE_TEST_SUITE_P(
    OfTheCoordinator, SystemCallsAtStart,
    ::testing::Values(Failure{"epoll_create1", "error=EMFILE"}, Failure{"eventfd2", "error=EMFILE"},
                      Failure{"signalfd4", "error=ENOMEM"}, Failure{"epoll_ctl", "error=ENOSPC"},
                      Failure{"flock", "error=ENOLCK"}, Failure{"fallocate", "error=ENOSPC"}),
    name_of);

// It serves all the same, looks by time, and says what it does without.
class WithoutAtStart : public SystemCallsAtStart {};

TEST_P(WithoutAtStart, TheCoordinatorServesAllTheSame) {
  std::vector<std::string> argv = under_strace();
  argv.insert(argv.end(),
              {"--idle-timeout", "300ms", "--stop-grace", "200ms", "--max-backends", "2"});
  Program judge(argv);
  ASSERT_TRUE(eventually(
      [&] { return judge.err().find("serving pool") != std::string::npos || !judge.running(); }));
  ASSERT_TRUE(judge.running()) << judge.err();
  EXPECT_THAT(judge.err(), HasSubstr("unable to"));
  EXPECT_THAT(judge.err(), HasSubstr("warn"));
  RemoteWorker worker(scratch_);
  const pid_t stubborn = worker.load_idle("stubborn", {"--ignore-sigterm", "--grandchildren", "1"});
  worker.load_idle("a");
  EXPECT_GT(worker.load("b"), 0) << "room is made";
  EXPECT_TRUE(eventually([&] { return !is_running(stubborn); }));
  EXPECT_TRUE(wait_state("a", "")) << "idle_timeout";
  worker.release("b");
  EXPECT_TRUE(wait_state("b", ""));
  EXPECT_EQ(poolctl(scratch_, {"status"}).code, 0) << "it counts as hung";
  // The name is looked at without an event of it, too.
  ASSERT_EQ(unlink(scratch_.path("default").c_str()), 0);
  EXPECT_TRUE(eventually([&] { return !judge.running(); })) << judge.err();
  EXPECT_EQ(judge.wait(), 1);
}

INSTANTIATE_TEST_SUITE_P(OfTheCoordinator, WithoutAtStart,
                         ::testing::Values(Failure{"inotify_init1", "error=EMFILE"},
                                           Failure{"inotify_add_watch", "error=ENOSPC"},
                                           Failure{"timerfd_create", "error=EMFILE"},
                                           Failure{"clone3", "error=EAGAIN"}),
                         name_of);

// Without strace: all inotify instances of this user are taken.
TEST_F(PoolTest, AllInotifyInstancesOfTheUserTakenStopNoCoordinatorFromServing) {
  std::vector<Fd> taken;
  // Another process of the user may give one back just before the coordinator asks.
  for (int attempt = 0; attempt < 20; ++attempt) {
    for (Fd fd; (fd = Fd(inotify_init1(IN_CLOEXEC)));) taken.push_back(std::move(fd));
    if (errno != EMFILE) GTEST_SKIP() << "something else ran out first";
    start();
    if (daemon().log().find("fs.inotify.max_user_instances") != std::string::npos) break;
    daemon_.reset();
  }
  EXPECT_THAT(daemon().log(), HasSubstr("fs.inotify.max_user_instances"));
  taken.clear();
  RemoteWorker worker(scratch_);
  EXPECT_GT(worker.load("m"), 0);
}

// --- Without them it could end nobody: it says so, and does not serve (P9, P13) ------------------

class RefusedAtStart : public SystemCalls {};

TEST_P(RefusedAtStart, IsNamedAndThereIsNoPoolThatNobodyServes) {
  const std::string inject = std::string("inject=") + GetParam().call + ":" + GetParam().injected;
  const Finished failed =
      run({"strace", "-f", "-o", "/dev/null", "-e", std::string("trace=") + GetParam().call, "-e",
           inject, MODELPOOL_COORDINATORD, "--dir", scratch_.dir()});
  EXPECT_EQ(failed.code, 3) << failed.err;
  EXPECT_THAT(failed.err,
              HasSubstr(std::string("unable to follow processes with ") + GetParam().call));
  EXPECT_THAT(failed.err, HasSubstr("seccomp"));
  EXPECT_THAT(failed.err, ::testing::Not(HasSubstr("serving")));
  start();
  if (std::string(GetParam().call) != "pidfd_open") return;
  const Finished leased =
      run({"strace", "-f", "-o", "/dev/null", "-e", "trace=pidfd_open", "-e", inject,
           MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "lease", "m", "--", "true"});
  EXPECT_EQ(leased.code, 125) << leased.err;
  EXPECT_THAT(leased.err, HasSubstr("pidfd_open")) << "workers are told something else";
}

INSTANTIATE_TEST_SUITE_P(OfTheCoordinator, RefusedAtStart,
                         ::testing::Values(Failure{"pidfd_open", "error=EPERM"},
                                           Failure{"pidfd_open", "error=ENOSYS"},
                                           Failure{"pidfd_send_signal", "error=EPERM"}),
                         name_of);

// --- A worker that may start no process ---------------------------------------------------------

TEST_F(PoolTest, P13TheLimitOfProcessesIsNamedAndHowItIsRaised) {
  if (!may_trace()) GTEST_SKIP() << "strace is not installed or may not trace here";
  start();
  const Finished leased =
      run({"strace", "-f", "-o", "/dev/null", "-e", "trace=clone", "-e",
           "inject=clone:error=EAGAIN", MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "lease", "m",
           "--address", "127.0.0.1:1", "--start", "exec sleep 600", "--", "true"});
  EXPECT_EQ(leased.code, 125) << leased.err;
  EXPECT_THAT(leased.err, HasSubstr("start a process"));
  EXPECT_THAT(leased.err, HasSubstr("ulimit -u"));
}

// --- A table of the kernel's: descriptors --------------------------------------------------------

TEST_F(PoolTest, MoreProcessesThanDescriptorsToWatchThemIsNotDeath) {
  start({"--max-backends", "20"});
  rlimit enough{};
  ASSERT_EQ(prlimit(daemon().pid(), RLIMIT_NOFILE, nullptr, &enough), 0);
  const rlimit few{20, enough.rlim_max};
  ASSERT_EQ(prlimit(daemon().pid(), RLIMIT_NOFILE, &few, nullptr), 0);
  RemoteWorker worker(scratch_);
  std::vector<pid_t> pids;
  for (int i = 0; i < 16; ++i) {
    const std::string model = "m" + std::to_string(i);
    ASSERT_EQ(worker.acquire(model), "ticket");
    const std::string spawned = worker.spawn_program(model, {"sleep", "600"});
    ASSERT_TRUE(spawned.starts_with("pid ")) << spawned;
    ASSERT_EQ(worker.ready(model), "lease");
    worker.release(model);
    pids.push_back(std::stoi(spawned.substr(4)));
  }
  const auto scans = [&] { return status()["coordinator"]["scans"].get<std::uint64_t>(); };
  const std::uint64_t before = scans();
  ASSERT_TRUE(eventually([&] { return scans() > before; })) << "it does not try again by itself";
  EXPECT_EQ(status()["ready"], 16);
  EXPECT_EQ(count_events("exited"), 0u);
  for (const pid_t pid : pids) EXPECT_TRUE(is_running(pid));
  // The last is not watched: its end is noticed when there are descriptors again.
  kill(pids.back(), SIGKILL);
  ASSERT_EQ(prlimit(daemon().pid(), RLIMIT_NOFILE, &enough, nullptr), 0);
  EXPECT_EQ(wait_event("exited", "m15")["pid"], pids.back());
  for (int i = 0; i < 15; ++i) ASSERT_TRUE(attach(scratch_).evict("m" + std::to_string(i)));
  EXPECT_TRUE(eventually([&] { return status()["live"] == 0; }));
  for (const pid_t pid : pids) EXPECT_FALSE(is_running(pid));
}

// One that was registered, not spawned: whose it is has to be read before root signals it.
TEST_F(PoolTest, P9TheGraceBeginsWithTheSignalNotWithTheWishForIt) {
  start({"--stop-grace", "200ms"});
  RemoteWorker worker(scratch_);
  const std::string seen = scratch_.path("seen");
  const std::string listens = scratch_.path("listens");
  Program server({"bash", "-c",
                  "trap 'echo TERM > " + seen + "; exit' TERM; echo > " + listens +
                      "; while :; do sleep 0.02; done"});
  ASSERT_TRUE(eventually([&] { return !read_file(listens).empty(); }));
  ASSERT_EQ(worker.acquire("m"), "ticket");
  ASSERT_EQ(worker.started("m", server.pid()), "ok") << worker.last_error();
  ASSERT_EQ(worker.ready("m"), "lease");
  worker.release("m");
  rlimit enough{};
  ASSERT_EQ(prlimit(daemon().pid(), RLIMIT_NOFILE, nullptr, &enough), 0);
  const rlimit none{0, enough.rlim_max};
  ASSERT_EQ(prlimit(daemon().pid(), RLIMIT_NOFILE, &none, nullptr), 0);
  ASSERT_TRUE(attach(scratch_).evict("m"));
  ASSERT_TRUE(wait_state("m", "stopping"));
  // Longer than the grace, in which nothing can be sent.
  const std::uint64_t until = now_ns() + 400 * kMillisecond_ns;
  EXPECT_TRUE(eventually([&] { return now_ns() > until; }));
  if (geteuid() == 0) {
    EXPECT_EQ(read_file(seen), "");
  }
  ASSERT_EQ(prlimit(daemon().pid(), RLIMIT_NOFILE, &enough, nullptr), 0);
  EXPECT_EQ(wait_event("evicted", "m")["signal"], "SIGTERM");
  EXPECT_EQ(read_file(seen), "TERM\n");
}

}  // namespace
}  // namespace modelpool::test
