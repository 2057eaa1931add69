// P7: a signal reaches the process that was registered, or nobody.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>

#include "base/proc.hpp"
#include "pool_test.hpp"
#include "protocol/slots.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ProcessTest : public PoolTest {
 protected:
  // A process this test started, in a session of its own; the second of two, so it leads no group.
  struct Pair {
    std::unique_ptr<Program> leader;
    pid_t member = 0;
  };
  Pair pair() {
    Pair result;
    const std::string file = scratch_.path("member-" + std::to_string(++pairs_));
    result.leader = std::make_unique<Program>(
        std::vector<std::string>{"setsid", "sh", "-c",
                                 "sleep 600 & echo $! > " + file + ".tmp; mv " + file + ".tmp " +
                                     file + "; exec sleep 601"});
    eventually([&] { return !read_file(file).empty(); });
    result.member = std::stoi(read_file(file));
    eventually([&] { return read_stat(result.leader->pid())->command == "sleep"; });
    members_.push_back(result.member);
    return result;
  }
  void TearDown() override {
    for (const pid_t pid : members_) kill(pid, SIGKILL);
  }

  int pairs_ = 0;
  std::vector<pid_t> members_;
};

TEST_F(ProcessTest, P7ProcessesThatMayNotBeSignalledCannotBeRegistered) {
  start();
  RemoteWorker worker(scratch_);
  RemoteWorker other(scratch_);
  ASSERT_EQ(worker.acquire("m"), "ticket");
  Program ended(std::vector<std::string>{"true"});
  const pid_t dead = ended.pid();
  ended.wait();
  for (const pid_t pid : {pid_t{0}, pid_t{1}, pid_t{-1}, pid_t{-2}, worker.pid(), other.pid(),
                          daemon().pid(), dead}) {
    EXPECT_EQ(worker.started("m", pid), "invalid") << pid;
    EXPECT_THAT(worker.last_error(),
                HasSubstr("unable to register process " + std::to_string(pid)));
  }
  EXPECT_EQ(state("m"), "reserved") << "the ticket is lost though nothing was done";
  EXPECT_THAT(worker.spawn("m"), HasSubstr("pid "));
  EXPECT_EQ(worker.ready("m"), "lease");
}

TEST_F(ProcessTest, P7AnExternalBackendIsCountedAndLeasedAndNeverSignalled) {
  start({"--max-backends", "1", "--idle-timeout", "100ms"});
  Program server(std::vector<std::string>{"sleep", "600"});
  RemoteWorker worker(scratch_);
  ASSERT_EQ(worker.acquire("m"), "ticket");
  EXPECT_EQ(worker.ready_external("m"), "lease");
  EXPECT_EQ(entry("m")["external"], true);
  EXPECT_TRUE(entry("m")["pid"].is_null());
  EXPECT_EQ(status()["live"], 1);
  worker.release("m");
  const auto evicted = wait_event("evicted", "m");
  EXPECT_EQ(evicted["reason"], "idle");
  EXPECT_TRUE(evicted["pid"].is_null()) << evicted;
  EXPECT_TRUE(evicted["signal"].is_null()) << evicted;
  EXPECT_TRUE(server.running());
  EXPECT_TRUE(settles());
}

TEST_F(ProcessTest, P7ARegisteredProcessThatLeadsNoGroupIsSignalledAlone) {
  start();
  RemoteWorker worker(scratch_);
  Pair processes = pair();
  ASSERT_EQ(worker.acquire("m"), "ticket");
  ASSERT_EQ(worker.started("m", processes.member), "ok") << worker.last_error();
  ASSERT_EQ(worker.ready("m"), "lease");
  worker.release("m");
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_FALSE(is_running(processes.member));
  EXPECT_TRUE(processes.leader->running()) << "its neighbours in the group were signalled";
}

bool watches_somebody(pid_t pid) {
  std::error_code error;
  for (const auto& fd :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", error)) {
    const auto target = std::filesystem::read_symlink(fd.path(), error);
    if (!error && target.string().find("pidfd") != std::string::npos) return true;
  }
  return false;
}

// It served on, and signalled nobody, without a word.
TEST_F(ProcessTest, P11AShortageOfDescriptorsIsNamedAndOverWhenItIsOver) {
  start();
  RemoteWorker worker(scratch_);
  rlimit before{};
  ASSERT_EQ(prlimit(daemon().pid(), RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit none{3, before.rlim_max};  // what is open stays open
  Program process(std::vector<std::string>{"setsid", "sleep", "600"});
  ASSERT_EQ(worker.acquire("m"), "ticket");
  ASSERT_TRUE(eventually([&] { return watches_somebody(daemon().pid()); }));
  ASSERT_EQ(prlimit(daemon().pid(), RLIMIT_NOFILE, &none, nullptr), 0);
  ASSERT_EQ(worker.started("m", process.pid()), "ok") << worker.last_error();
  // Whom it names first, the worker or this process, is a race.
  EXPECT_TRUE(eventually([&] {
    return daemon().log().find("unable to watch process ") != std::string::npos;
  })) << daemon().log();
  EXPECT_THAT(daemon().log(), HasSubstr("the 3 descriptors of this process are used up; raise them "
                                        "with ulimit -n"));
  ASSERT_EQ(prlimit(daemon().pid(), RLIMIT_NOFILE, &before, nullptr), 0);
  ASSERT_EQ(worker.ready("m"), "lease");
  worker.release("m");
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_FALSE(process.running());
}

TEST_F(ProcessTest, P9ARegisteredGroupLeaderEndsWithItsGroup) {
  start();
  RemoteWorker worker(scratch_);
  Pair processes = pair();
  ASSERT_EQ(worker.acquire("m"), "ticket");
  ASSERT_EQ(worker.started("m", processes.leader->pid()), "ok") << worker.last_error();
  ASSERT_EQ(worker.ready("m"), "lease");
  worker.release("m");
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_FALSE(processes.leader->running());
  EXPECT_FALSE(is_running(processes.member));
}

// setproctitle overwrites the environment, and with it the token; the leader is reaped by its
// worker.
TEST_F(ProcessTest, P9ACrashedLeaderDoesNotHideAChildThatLostItsToken) {
  start();
  Pool pool = attach(scratch_);
  const std::string file = scratch_.path("child");
  auto grant = pool.acquire("m");
  ASSERT_TRUE(grant);
  auto& ticket = std::get<LoadTicket>(*grant);
  ASSERT_TRUE(ticket.spawn({"sh", "-c",
                            "env -i /bin/sleep 600 & echo $! > " + file + ".tmp; mv " + file +
                                ".tmp " + file + "; exec sleep 601"}));
  const pid_t leader = ticket.pid();
  ASSERT_TRUE(eventually([&] { return !read_file(file).empty(); }));
  const pid_t child = std::stoi(read_file(file));
  members_.push_back(child);
  ASSERT_TRUE(eventually([&] {
    const auto stat = read_stat(child);
    return stat && stat->command == "sleep" && !read_environment(child, "MODELPOOL_BACKEND");
  }));
  auto lease = ticket.ready("127.0.0.1:1");
  ASSERT_TRUE(lease);
  lease->release();
  kill(leader, SIGKILL);
  EXPECT_TRUE(eventually([&] { return !is_running(child); }));
  EXPECT_EQ(wait_event("exited", "m")["reason"], "crashed");
  EXPECT_TRUE(eventually([&] { return !read_stat(leader); })) << "the zombie is reaped in the end";
  EXPECT_TRUE(settles());
}

// Only its token says whose it is: another group, another session, and its parent is gone.
TEST_F(ProcessTest, P9ADescendantInASessionOfItsOwnEndsWithItsBackend) {
  start({"--stop-grace", "100ms"});
  RemoteWorker worker(scratch_);
  const std::string file = scratch_.path("daemon");
  ASSERT_EQ(worker.acquire("m"), "ticket");
  ASSERT_THAT(
      worker.spawn_program(
          "m", {"sh", "-c",
                "(setsid sh -c 'trap \"\" TERM; echo $$ > $0.tmp; mv $0.tmp $0; exec sleep 600' " +
                    file + " &); exec sleep 601"}),
      HasSubstr("pid "));
  ASSERT_EQ(worker.ready("m"), "lease");
  worker.release("m");
  ASSERT_TRUE(eventually([&] { return !read_file(file).empty(); }));
  const pid_t descendant = std::stoi(read_file(file));
  members_.push_back(descendant);
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_FALSE(is_running(descendant)) << "its backend is gone and it is not";
  EXPECT_EQ(wait_event("evicted", "m")["signal"], "SIGKILL");
}

// While it changes programs its token is not to be read, and its session is its own.
TEST_F(ProcessTest, P3ADaemonThatIsJustExecutingIsNotTakenForGone) {
  // An end takes 2 s, because only time shows that nobody is left: eight take no longer than one.
  const std::vector<std::string> models{"a", "b", "c", "d", "e", "f", "g", "h"};
  start({"--stop-grace", "20ms", "--load-cooldown", "off", "--max-backends", "8"});
  Pool pool = attach(scratch_);
  // From one program to the next without an end; the first one leaves at once.
  const std::string script = scratch_.path("again");
  write_file(script, "trap '' TERM\nexec sh " + script + "\n");
  for (int i = 0; i < 5; ++i) {
    std::vector<LoadTicket> tickets;
    for (const std::string& model : models) {
      tickets.push_back(ticket_for(pool, model));
      ASSERT_TRUE(tickets.back().spawn({"sh", "-c", "setsid sh " + script + " & sleep 0.01"}));
    }
    for (const std::string& model : models)
      ASSERT_TRUE(eventually([&] { return state_of(pool, model) == "none"; })) << model;
    ASSERT_THAT(processes_with_environment(token()), IsEmpty());
  }
}

// Forks and leaves, once more after a moment: whoever was listed has ended before it was asked.
TEST_F(ProcessTest, P3AChildForkedDuringTheLookIsNotMissed) {
  start({"--stop-grace", "20ms", "--load-cooldown", "off"});
  Pool pool = attach(scratch_);
  for (int i = 0; i < 40; ++i) {
    LoadTicket ticket = ticket_for(pool, "m");
    // (Each bracket is a process that forks the next one and ends.)
    ASSERT_TRUE(ticket.spawn({"sh", "-c", "((((((((sleep 600 &) &) &) &) &) &) &) &)"}));
    ASSERT_TRUE(eventually([&] { return state_of(pool, "m") == "none"; }));
    ASSERT_THAT(processes_with_environment(token()), IsEmpty());
  }
}

// A PID that was reused: the segment names a process of that number and another start time.
TEST_F(ProcessTest, P7AProcessThatOnlyHasThePidOfABackendIsNotSignalled) {
  start({"--stop-grace", "100ms"});
  Pool pool = attach(scratch_);
  Program innocent(std::vector<std::string>{"setsid", "sleep", "600"});
  eventually([&] { return read_stat(innocent.pid())->command == "sleep"; });
  for (const bool stopping : {false, true}) {
    if (stopping) {
      daemon().program().signal(SIGSTOP);
      ASSERT_TRUE(has_stopped(daemon().pid()));
    }
    auto grant = pool.acquire("m");
    ASSERT_TRUE(grant);
    auto& ticket = std::get<LoadTicket>(*grant);
    const auto snapshot = look_inside(pool);
    const BackendRef ref = snapshot->find_model("m")->ref;
    ASSERT_TRUE(ticket.started(innocent.pid()));
    auto lease = ticket.ready("127.0.0.1:1");
    ASSERT_TRUE(lease);
    lease->release();
    if (stopping) {
      ASSERT_TRUE(pool.evict("m"));
    }
    BackendRecord& record = segment_of(pool).backend(ref.index);
    record.start_ticks.fetch_sub(1000);
    record.pidfd_inode.store(0);
    if (stopping) {
      daemon().program().signal(SIGCONT);
    } else {
      daemon().kill_now();  // the next one trusts the segment, not what it saw itself
      daemon().start();
    }
    EXPECT_TRUE(wait_state("m", ""));
    EXPECT_TRUE(innocent.running()) << "a process was signalled that nobody registered";
  }
}

TEST_F(ProcessTest, P7TheCoordinatorSurvivesBeingNamedAsABackend) {
  start({"--stop-grace", "100ms"});
  Pool pool = attach(scratch_);
  Program victim(std::vector<std::string>{"sleep", "600"});
  auto grant = pool.acquire("m");
  ASSERT_TRUE(grant);
  auto& ticket = std::get<LoadTicket>(*grant);
  const BackendRef ref = look_inside(pool)->find_model("m")->ref;
  ASSERT_TRUE(ticket.started(victim.pid()));
  auto lease = ticket.ready("127.0.0.1:1");
  ASSERT_TRUE(lease);
  lease->release();
  // Damage, or somebody's mischief.
  daemon().program().signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(daemon().pid()));
  const auto self = read_stat(daemon().pid());
  BackendRecord& record = segment_of(pool).backend(ref.index);
  record.pid.store(static_cast<std::uint32_t>(daemon().pid()));
  record.group.store(static_cast<std::uint32_t>(daemon().pid()));
  record.start_ticks.store(self->start_ticks);
  record.pidfd_inode.store(0);
  ASSERT_TRUE(pool.evict("m"));
  daemon().program().signal(SIGCONT);
  EXPECT_TRUE(wait_state("m", "stopping"));
  EXPECT_TRUE(eventually([&] {
    const auto m = entry("m");
    return m["left"].size() == 1 && m["left"][0]["pid"] == daemon().pid();
  }));
  EXPECT_TRUE(entry("m")["stop"]["signal"].is_null()) << "it says that a signal was sent";
  EXPECT_TRUE(daemon().program().running());
  EXPECT_TRUE(victim.running());
  EXPECT_EQ(poolctl(scratch_, {"set", "idle-timeout=1h"}).code, 0);
}

TEST_F(ProcessTest, P6AWorkerThatExecutedAnotherProgramHasLostItsLeases) {
  start({"--max-backends", "1", "--drain-timeout", "300ms"});
  RemoteWorker waiter(scratch_);
  Forked worker([&](Forked::Child& child) {
    Pool pool = attach(scratch_);
    auto grant = pool.acquire("m");
    auto& ticket = std::get<LoadTicket>(*grant);
    ReadyOptions options;
    options.external = true;
    auto lease = ticket.ready("127.0.0.1:1", options);
    child.say("leased");
    child.hear();
    execlp("sleep", "sleep", "600", nullptr);
  });
  ASSERT_EQ(worker.hear(), "leased");
  EXPECT_EQ(entry("m")["in_flight"], 1);
  worker.say("exec");
  // It lives, but the drain that stalls on it finds that its leases do not.
  EXPECT_EQ(waiter.acquire("other"), "ticket");
  EXPECT_TRUE(is_running(worker.pid()));
  EXPECT_EQ(wait_event("worker_died")["worker_pid"], worker.pid());
}

TEST_F(ProcessTest, P6ALeaseDestroyedInAForkedChildEndsNothing) {
  start();
  RemoteWorker looker(scratch_);
  Forked worker([&](Forked::Child& child) {
    Pool pool = attach(scratch_);
    auto grant = pool.acquire("m");
    ReadyOptions options;
    options.external = true;
    auto lease = std::get<LoadTicket>(*grant).ready("127.0.0.1:1", options);
    Forked inner([&](Forked::Child& grandchild) {
      EXPECT_FALSE(lease->progress());
      lease->release();
      auto own = pool.acquire("m");  // attaches anew
      EXPECT_TRUE(own && std::holds_alternative<Lease>(*own));
      grandchild.say("done");
      grandchild.hear();
    });
    child.say(inner.hear());
    child.hear();
    inner.say("go");
    child.say(std::to_string(inner.wait()));
    child.hear();
    EXPECT_TRUE(lease->progress());
  });
  ASSERT_EQ(worker.hear(), "done");
  EXPECT_EQ(entry("m")["in_flight"], 2);
  EXPECT_EQ(status()["workers"], 3);
  worker.say("go");
  EXPECT_EQ(worker.hear(), "0");
  EXPECT_TRUE(eventually([&] { return entry("m")["in_flight"] == 1; }));
  worker.say("end");
  EXPECT_EQ(worker.wait(), 0);
  EXPECT_TRUE(eventually([&] { return entry("m")["in_flight"] == 0; }));
}

}  // namespace
}  // namespace modelpool::test
