// P3, P7, P9, P11: all of a backend is ended, nobody else is, and whoever cannot be ended is named.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sstream>

#include "base/proc.hpp"
#include "pool/inside.hpp"
#include "pool_test.hpp"
#include "protocol/slots.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kNobody = "65534";

class EndingTest : public PoolTest {
 protected:
  void TearDown() override {
    for (const pid_t pid : left_) kill(pid, SIGKILL);
    PoolTest::TearDown();
  }

  // A line of a shell that starts COMMAND in the background and writes its PID to a file named
  // `name`.
  std::string start_line(const std::string& name, const std::string& command) {
    const std::string file = scratch_.path(name);
    return command + " & echo $! > " + file + ".tmp; mv " + file + ".tmp " + file + "; ";
  }
  // The same in a process of COMMAND itself: it writes its own PID.
  std::string own_line(const std::string& name, const std::string& command) {
    const std::string file = scratch_.path(name);
    return "/bin/sh -c 'echo $$ > " + file + ".tmp; /bin/mv " + file + ".tmp " + file + "; exec " +
           command + "'";
  }
  std::string wait_line(const std::string& name) {
    return "while [ ! -e " + scratch_.path(name) + " ]; do sleep 0.01; done; ";
  }
  pid_t pid_in(const std::string& name) {
    EXPECT_TRUE(eventually([&] { return !read_file(scratch_.path(name)).empty(); })) << name;
    const pid_t pid = std::stoi(read_file(scratch_.path(name)));
    left_.push_back(pid);
    return pid;
  }
  void allow(const std::string& name) { write_file(scratch_.path(name), "go"); }
  // Runs `script` as the leader of a session, as a child of this test: reaped when the test says
  // so.
  std::unique_ptr<Program> leader(const std::string& script) {
    auto program =
        std::make_unique<Program>(std::vector<std::string>{"setsid", "sh", "-c", script});
    eventually([&] { return getsid(program->pid()) == program->pid(); });
    return program;
  }
  // Registers the process, and leaves it ready and not in use.
  void serve(Pool& pool, const std::string& model, pid_t pid,
             const std::string& address = "127.0.0.1:1") {
    LoadTicket ticket = ticket_for(pool, model);
    const auto started = ticket.started(pid);
    ASSERT_TRUE(started) << text_of(started);
    auto lease = ticket.ready(address);
    ASSERT_TRUE(lease) << text_of(lease);
    lease->release();
  }
  // The same with a program that the pool spawns; returns its PID.
  pid_t spawn(Pool& pool, const std::string& model, const std::string& script,
              const std::string& address = "127.0.0.1:1", const std::string& wait_for = {}) {
    LoadTicket ticket = ticket_for(pool, model);
    EXPECT_TRUE(ticket.spawn({"sh", "-c", script}));
    const pid_t pid = ticket.pid();
    if (!wait_for.empty()) pid_in(wait_for);
    auto lease = ticket.ready(address);
    EXPECT_TRUE(lease) << text_of(lease);
    return pid;
  }
  bool has_left(const std::string& model, pid_t pid, const std::string& why) {
    return eventually([&] {
      const auto m = entry(model);
      if (m.is_null() || !m["left"].is_array()) return false;
      for (const auto& left : m["left"]) {
        if (left["pid"] == pid && left["why"].get<std::string>().find(why) != std::string::npos)
          return true;
      }
      return false;
    });
  }

  // A demo backend that writes its PID down as "server".
  std::string server_line(int* port) {
    std::string line;
    for (const auto& word : backend_argv(port)) line += (line.empty() ? "" : " ") + word;
    return own_line("server", line);
  }

  // Is somebody but the first process known to the next coordinator, too?
  bool members_are_known() {
    const auto segment = Segment::open_read_only("default", scratch_.dir());
    return segment && eventually([&] {
             for (std::uint32_t i = 0; i < (*segment)->backends_reached(); ++i) {
               if ((*segment)->backend(i).known.load().count > 0) return true;
             }
             return false;
           });
  }

  std::vector<pid_t> left_;
};

// --- A1: the first process is gone before anybody looks ------------------------------------------

TEST_F(EndingTest, P9ChildrenOfAFirstProcessThatWasReapedAtOnceAreEnded) {
  start();
  Pool pool = attach(scratch_);
  auto first = leader(start_line("child", "env -i /bin/sleep 600") + "exec sleep 601");
  const pid_t child = pid_in("child");
  serve(pool, "m", first->pid());
  first->signal(SIGKILL);
  first->wait();  // as Popen.wait does: no zombie keeps its number
  EXPECT_TRUE(eventually([&] { return !is_running(child); }));
  EXPECT_EQ(wait_event("exited", "m")["reason"], "crashed");
  EXPECT_TRUE(settles());
}

// As Python's Popen(..., shell=True) starts it: neither a group nor a session of its own.
TEST_F(EndingTest, P9WhatARegisteredProcessHasStartedEndsWithItThoughItLeadsNoGroup) {
  start({"--stop-grace", "5s"});
  Pool pool = attach(scratch_);
  Program sibling({"sleep", "600"});
  Program shell({"sh", "-c", start_line("server", "sh -c 'sleep 600; true'") + "wait"});
  const pid_t server = pid_in("server");
  ASSERT_NE(getpgid(server), server);
  serve(pool, "m", shell.pid());
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_FALSE(is_running(server));
  EXPECT_EQ(shell.wait(), 128 + SIGTERM);
  EXPECT_TRUE(sibling.running()) << "it is in the same group, and none of the backend's";
  EXPECT_TRUE(settles());
}

TEST_F(EndingTest, P9AlsoThoseThatWereForkedAfterItsMembersWereLearned) {
  start();
  Pool pool = attach(scratch_);
  auto first =
      leader(wait_line("go") + start_line("child", "env -i /bin/sleep 600") + "exec sleep 601");
  serve(pool, "m", first->pid());
  ASSERT_FALSE(wait_event("loaded", "m").is_null());
  allow("go");
  const pid_t child = pid_in("child");
  ASSERT_TRUE(eventually([&] { return read_stat(first->pid())->command == "sleep"; }));
  first->signal(SIGKILL);
  first->wait();
  EXPECT_TRUE(eventually([&] { return !is_running(child); }));
  EXPECT_TRUE(settles());
}

TEST_F(EndingTest, P9P10AlsoByACoordinatorThatCameLater) {
  start();
  Pool pool = attach(scratch_);
  auto first = leader(start_line("child", "env -i /bin/sleep 600") + "exec sleep 601");
  const pid_t child = pid_in("child");
  serve(pool, "m", first->pid());
  ASSERT_TRUE(members_are_known());
  daemon().kill_now();
  first->signal(SIGKILL);
  first->wait();
  daemon().start();
  EXPECT_TRUE(eventually([&] { return !is_running(child); }));
  EXPECT_TRUE(wait_state("m", ""));
  EXPECT_TRUE(settles());
}

TEST_F(EndingTest, P9AlsoByRemoveWithoutACoordinator) {
  start();
  auto first = leader(start_line("child", "env -i /bin/sleep 600") + "exec sleep 601");
  const pid_t child = pid_in("child");
  Forked worker([&](Forked::Child& parent) {
    Pool pool = attach(scratch_);
    serve(pool, "m", first->pid());
    parent.say("ready");
    parent.hear();
  });
  ASSERT_EQ(worker.hear(), "ready");
  ASSERT_TRUE(members_are_known());
  daemon().kill_now();
  worker.kill_now();
  first->signal(SIGKILL);
  first->wait();
  const Finished removed = poolctl(scratch_, {"remove", "--stop"});
  EXPECT_EQ(removed.code, 0) << removed.err;
  EXPECT_FALSE(is_running(child));
}

// Forked after everybody who could have seen it: its group may be anybody's. It is not signalled,
// not gone, and named everywhere; and nothing is said to have been sent.
TEST_F(EndingTest, P3P7P11WhoCannotBeProvedIsNamedAndNotSaidToBeSignalled) {
  start({"--stop-grace", "100ms"});
  auto first =
      leader(wait_line("go") + start_line("child", "env -i /bin/sleep 600") + "exec sleep 601");
  Forked worker([&](Forked::Child& parent) {
    Pool pool = attach(scratch_);
    serve(pool, "m", first->pid());
    parent.say("ready");
    parent.hear();
  });
  ASSERT_EQ(worker.hear(), "ready");
  ASSERT_FALSE(wait_event("loaded", "m").is_null());
  daemon().kill_now();
  worker.kill_now();
  allow("go");
  const pid_t child = pid_in("child");
  ASSERT_TRUE(eventually([&] { return read_stat(first->pid())->command == "sleep"; }));
  first->signal(SIGKILL);
  first->wait();

  const Finished removed = poolctl(scratch_, {"remove", "--stop", "--timeout", "200ms"});
  EXPECT_EQ(removed.code, 1) << "it left what it could not end";
  EXPECT_THAT(removed.err, HasSubstr("process " + std::to_string(child)));

  daemon().start();
  EXPECT_TRUE(has_left("m", child, "may be somebody else's")) << list();
  const auto m = entry("m");
  EXPECT_EQ(m["state"], "stopping");
  EXPECT_EQ(m["left"][0]["command"], "sleep");
  EXPECT_FALSE(m["left"][0]["user"].get<std::string>().empty());
  EXPECT_TRUE(m["stop"]["signal"].is_null()) << m;
  EXPECT_TRUE(m["stop"]["signalled_ms"].is_null()) << m;
  EXPECT_TRUE(m["stop"]["killed_ms"].is_null()) << m;
  EXPECT_THAT(poolctl(scratch_, {"list"}).out, Not(HasSubstr("sent SIG")));
  EXPECT_THAT(poolctl(scratch_, {"list"}).out, HasSubstr("process " + std::to_string(child)));
  EXPECT_THAT(poolctl(scratch_, {"explain", "m"}).out,
              HasSubstr("process " + std::to_string(child)));
  EXPECT_TRUE(eventually([&] {
    return daemon().log().find("process " + std::to_string(child) + " (sleep)") !=
           std::string::npos;
  })) << daemon().log();
  const Finished evicted = poolctl(scratch_, {"evict", "m", "--force", "--timeout", "100ms"});
  EXPECT_EQ(evicted.code, 1);
  EXPECT_THAT(evicted.err, HasSubstr("process " + std::to_string(child)));
  EXPECT_TRUE(is_running(child)) << "a process was signalled that nobody proved";

  kill(child, SIGKILL);
  EXPECT_TRUE(wait_state("m", "")) << "its end was not noticed";
  EXPECT_TRUE(settles());
}

// --- A2: descendants in sessions of their own, without the token ---------------------------------

TEST_F(EndingTest, P3P9DescendantsInSessionsOfTheirOwnWithoutTheTokenEndWithTheirBackend) {
  start();
  Pool pool = attach(scratch_);
  const std::string server = "env -i setsid -w " + own_line("server", "/bin/sleep 600");
  spawn(pool, "m", server + " & exec sleep 601", "127.0.0.1:1", "server");
  const pid_t pid = pid_in("server");
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_FALSE(is_running(pid)) << "its backend is gone and it is not";
  EXPECT_TRUE(settles());
}

// Its parent is gone, but it shares a session with one whose parent is not.
TEST_F(EndingTest, P3P9AnOrphanEndsWithTheSessionThatAMemberBegan) {
  start();
  Pool pool = attach(scratch_);
  const std::string inner =
      "(" + own_line("orphan", "/bin/sleep 600") + " &); " + own_line("stays", "/bin/sleep 602");
  write_file(scratch_.path("inner.sh"), inner);
  spawn(pool, "m", "env -i setsid -w /bin/sh " + scratch_.path("inner.sh") + " & exec sleep 601",
        "127.0.0.1:1", "stays");
  const pid_t orphan = pid_in("orphan");
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_FALSE(is_running(orphan));
  EXPECT_TRUE(settles());
}

TEST_F(EndingTest, P3P9TheyAreKnownAlsoWhenTheFirstProcessCrashes) {
  start();
  Pool pool = attach(scratch_);
  const std::string server = "env -i setsid -w " + own_line("server", "/bin/sleep 600");
  const pid_t first = spawn(pool, "m", server + " & exec sleep 601", "127.0.0.1:1", "server");
  const pid_t pid = pid_in("server");
  const BackendRef ref = look(pool).find_model("m")->ref;
  ASSERT_TRUE(
      eventually([&] { return segment_of(pool).backend(ref.index).known.load().count > 0; }));
  kill(first, SIGKILL);
  EXPECT_EQ(wait_event("exited", "m")["reason"], "crashed");
  EXPECT_TRUE(eventually([&] { return !is_running(pid); }));
  EXPECT_TRUE(settles());
}

TEST_F(EndingTest, P9P10TheyAreKnownAlsoToACoordinatorThatCameLater) {
  start();
  Pool pool = attach(scratch_);
  const std::string server = "env -i setsid -w " + own_line("server", "/bin/sleep 600");
  const pid_t first = spawn(pool, "m", server + " & exec sleep 601", "127.0.0.1:1", "server");
  const pid_t pid = pid_in("server");
  const BackendRef ref = look(pool).find_model("m")->ref;
  ASSERT_TRUE(
      eventually([&] { return segment_of(pool).backend(ref.index).known.load().count > 0; }));
  daemon().kill_now();
  kill(first, SIGKILL);
  daemon().start();
  EXPECT_TRUE(eventually([&] { return !is_running(pid); }));
  EXPECT_EQ(wait_event("exited", "m")["reason"], "crashed");
  EXPECT_TRUE(settles());
}

// Once their parent has ended, only what the coordinator before wrote down tells whose they are.
TEST_F(EndingTest, P9P10SixtyOfThemAreKnownToACoordinatorThatCameLater) {
  constexpr std::uint32_t kServers = 60;
  static_assert(kServers <= kKnownMembersMax);
  start();
  Pool pool = attach(scratch_);
  LoadTicket ticket = ticket_for(pool, "m");
  std::string script;
  for (std::uint32_t i = 0; i < kServers; ++i) {
    script += "env -i setsid " + own_line("server" + std::to_string(i), "/bin/sleep 600") + " & ";
  }
  ASSERT_TRUE(ticket.spawn({"sh", "-c", script + "exec sleep 601"}));
  const pid_t first = ticket.pid();
  std::vector<pid_t> servers;
  for (std::uint32_t i = 0; i < kServers; ++i)
    servers.push_back(pid_in("server" + std::to_string(i)));
  auto lease = ticket.ready("127.0.0.1:1");
  ASSERT_TRUE(lease) << text_of(lease);
  lease->release();
  const BackendRef ref = look(pool).find_model("m")->ref;
  ASSERT_TRUE(eventually(
      [&] { return segment_of(pool).backend(ref.index).known.load().count == kServers; }));
  daemon().kill_now();
  kill(first, SIGKILL);
  daemon().start();
  for (const pid_t pid : servers) EXPECT_TRUE(eventually([&] { return !is_running(pid); })) << pid;
  EXPECT_TRUE(settles());
}

TEST_F(EndingTest, P9P10AStopGoesOnToTheLastOfThemAfterTheCoordinatorWasKilledInIt) {
  start({"--stop-grace", "10m"});
  Pool pool = attach(scratch_);
  const std::string file = scratch_.path("server");
  write_file(file + ".sh", "trap : TERM; echo $$ > " + file + ".tmp; /bin/mv " + file + ".tmp " +
                               file + "; while :; do /bin/sleep 0.05; done");
  const std::string server = "env -i setsid -w /bin/sh " + file + ".sh";
  const pid_t first = spawn(pool, "m", server + " & exec sleep 601", "127.0.0.1:1", "server");
  const pid_t pid = pid_in("server");
  EXPECT_EQ(poolctl(scratch_, {"evict", "m", "--timeout", "0"}).code, 0);
  ASSERT_TRUE(eventually([&] { return !is_running(first); }));
  daemon().kill_now();
  daemon().start();
  EXPECT_TRUE(has_left("m", pid, "has not ended"));
  EXPECT_EQ(state("m"), "stopping");
  EXPECT_EQ(poolctl(scratch_, {"set", "stop-grace=50ms"}).code, 0);
  EXPECT_EQ(wait_event("evicted", "m")["signal"], "SIGKILL");
  EXPECT_FALSE(is_running(pid));
  EXPECT_TRUE(settles());
}

// Recorded is what was sent; whether everyone had it then, nobody knows any more.
TEST_F(EndingTest, P9P10SigkillIsSentAgainByTheNextCoordinator) {
  start({"--stop-grace", "10m"});
  Pool pool = attach(scratch_);
  const pid_t pid = spawn(pool, "m", "trap : TERM; while :; do sleep 0.05; done");
  const BackendRef ref = look(pool).find_model("m")->ref;
  EXPECT_EQ(poolctl(scratch_, {"evict", "m", "--timeout", "0"}).code, 0);
  auto& record = segment_of(pool).backend(ref.index).stop;
  ASSERT_TRUE(eventually([&] { return record.load().signalled_ns != 0; }));
  daemon().kill_now();
  StopRecord stop = record.load();
  stop.signal = SIGKILL;
  stop.killed_ns = stop.signalled_ns + 1;
  record.publish(stop);
  daemon().start();
  EXPECT_TRUE(eventually([&] { return !is_running(pid); }));
  EXPECT_TRUE(settles());
}

TEST_F(EndingTest, P3P9AlsoByRemoveWithoutACoordinatorTheyEnd) {
  start();
  Forked worker([&](Forked::Child& parent) {
    Pool pool = attach(scratch_);
    const std::string server = "env -i setsid -w " + own_line("server", "/bin/sleep 600");
    spawn(pool, "m", server + " & exec sleep 601", "127.0.0.1:1", "server");
    parent.say("ready");
    parent.hear();
  });
  ASSERT_EQ(worker.hear(), "ready");
  const pid_t pid = pid_in("server");
  ASSERT_TRUE(members_are_known());
  daemon().kill_now();
  worker.kill_now();
  const Finished removed = poolctl(scratch_, {"remove", "--stop"});
  EXPECT_EQ(removed.code, 0) << removed.err;
  EXPECT_FALSE(is_running(pid));
}

// Nothing tells that it belongs, but that it serves at the backend's address.
TEST_F(EndingTest, P3P11ABackendWhoseListenerLivesIsNotGone) {
  start({"--stop-grace", "100ms"});
  Pool pool = attach(scratch_);
  int port = 0;
  const std::string server = server_line(&port);
  const std::string daemonised = "(env -i setsid " + server + " &); exec sleep 601";
  LoadTicket ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket.spawn({"sh", "-c", daemonised}));
  const pid_t pid = pid_in("server");
  ASSERT_TRUE(eventually([&] { return listens(port); }));
  ReadyOptions options;
  options.any_listener = true;
  auto lease = ticket.ready("127.0.0.1:" + std::to_string(port), options);
  ASSERT_TRUE(lease) << text_of(lease);
  lease->release();
  const Finished evicted = poolctl(scratch_, {"evict", "m", "--timeout", "1500ms"});
  EXPECT_EQ(evicted.code, 1) << "it answers still";
  EXPECT_TRUE(has_left("m", pid, "listens at the backend's address"));
  EXPECT_TRUE(is_running(pid)) << "a process was signalled that nobody proved";
  EXPECT_EQ(state("m"), "stopping");
  kill(pid, SIGKILL);
  EXPECT_TRUE(wait_state("m", ""));
  EXPECT_EQ(wait_event("evicted", "m")["signal"], "SIGTERM");
  EXPECT_TRUE(settles());
}

// It begins to listen a second after its backend is ready, in a session of its own and without the
// token.
TEST_F(EndingTest, P3P4ABackendWhoseListenerCameLateIsNotGone) {
  start();
  Pool pool = attach(scratch_);
  int port = 0;
  const std::string server = server_line(&port);
  const std::string late = "sleep 1; env -i setsid " + server + " & wait";
  LoadTicket ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket.spawn({"sh", "-c", late}));
  const pid_t first = ticket.pid();
  auto lease = ticket.ready("127.0.0.1:" + std::to_string(port));
  ASSERT_TRUE(lease) << text_of(lease);
  lease->release();
  const pid_t pid = pid_in("server");
  ASSERT_TRUE(eventually([&] { return listens(port); }));
  kill(first, SIGKILL);
  // If the judge learned its processes no sooner than that, it is ended.
  EXPECT_TRUE(eventually([&] { return !is_running(pid) || entry("m")["left"].size() == 1; }));
  EXPECT_TRUE(!is_running(pid) || state("m") == "stopping");
  kill(pid, SIGKILL);
  EXPECT_TRUE(wait_state("m", ""));
  EXPECT_TRUE(settles());
}

// A listener that somebody else holds as well is no sign of life.
TEST_F(EndingTest, P3ASocketThatWasInheritedFromAnOlderProcessKeepsNoPlace) {
  start();
  Pool pool = attach(scratch_);
  const int port = free_port();
  const std::string file = scratch_.path("activated.py");
  write_file(file,
             "import os, socket, sys, time\n"
             "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
             "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); s.set_inheritable(True)\n"
             "child = os.fork()\n"
             "if child == 0:\n"
             "    os.setsid()\n"
             "    os.execv('/bin/sleep', ['sleep', '600'])\n"
             "open(sys.argv[2] + '.tmp', 'w').write(str(child)); os.rename(sys.argv[2] + '.tmp', "
             "sys.argv[2])\n"
             "time.sleep(600)\n");
  Program owner({"python3", file, std::to_string(port), scratch_.path("backend")});
  const pid_t backend = pid_in("backend");
  ASSERT_TRUE(eventually([&] { return getsid(backend) == backend; }));
  LoadTicket ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket.started(backend));
  ASSERT_TRUE(ticket.ready("127.0.0.1:" + std::to_string(port)));
  const Finished evicted = poolctl(scratch_, {"evict", "m", "--force"});
  EXPECT_EQ(evicted.code, 0) << evicted.err;
  EXPECT_TRUE(owner.running());
  EXPECT_TRUE(settles());
}

// In a cgroup of its own nobody escapes: not even who is orphaned, in a session of its own, without
// the token.
class CgroupTest : public EndingTest {
 protected:
  void SetUp() override {
    const std::string mounts = read_file("/proc/self/mountinfo");
    std::istringstream lines(mounts);
    for (std::string line; std::getline(lines, line);) {
      if (line.find(" - cgroup2 ") == std::string::npos) continue;
      std::istringstream fields(line);
      std::string field;
      for (int i = 0; i < 5; ++i) fields >> field;
      cgroup_ = field + "/modelpool-test-" + std::to_string(getpid());
    }
    if (cgroup_.empty() || mkdir(cgroup_.c_str(), 0755) != 0) {
      cgroup_.clear();
      GTEST_SKIP() << "no cgroup can be made here";
    }
  }
  void TearDown() override {
    EndingTest::TearDown();
    if (!cgroup_.empty()) eventually([&] { return rmdir(cgroup_.c_str()) == 0; });
  }
  bool has_learned(Pool& pool) {
    const BackendRef ref = look(pool).find_model("m")->ref;
    return eventually([&] { return segment_of(pool).backend(ref.index).known.load().count > 0; });
  }
  std::string enter_line() { return "echo $$ > " + cgroup_ + "/cgroup.procs; "; }
  std::string orphan_line() {
    return "(" + wait_line("go") + "env -i setsid " + own_line("orphan", "/bin/sleep 600") +
           " &) & ";
  }
  std::string cgroup_;
};

TEST_F(CgroupTest, P3P9OfTheBackendAloneIsEndedToTheLast) {
  start();
  Pool pool = attach(scratch_);
  spawn(pool, "m",
        enter_line() + orphan_line() + start_line("child", "sleep 602") + "exec sleep 601",
        "127.0.0.1:1", "child");
  ASSERT_TRUE(has_learned(pool));
  allow("go");
  const pid_t orphan = pid_in("orphan");
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_FALSE(is_running(orphan));
  EXPECT_TRUE(settles());
}

TEST_F(CgroupTest, P7ThatHoldsAStrangerTellsNothing) {
  start();
  Pool pool = attach(scratch_);
  Program stranger(
      {"sh", "-c", enter_line() + start_line("inside", "sleep 603") + "exec sleep 604"});
  pid_in("inside");
  spawn(pool, "m", enter_line() + start_line("child", "sleep 602") + "exec sleep 601",
        "127.0.0.1:1", "child");
  ASSERT_TRUE(has_learned(pool));
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_TRUE(stranger.running());
}

// --- A3: other users -----------------------------------------------------------------------------

class OtherUser : public EndingTest {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "only root can start another user's process";
  }
  static std::string as_nobody(const std::string& command) {
    return std::string("setpriv --reuid=") + kNobody + " --clear-groups " + command;
  }
};

TEST_F(OtherUser, P9WhatThePoolsSpawnStartedIsEndedThoughItBecameAnotherUsers) {
  start();
  Pool pool = attach(scratch_);
  const pid_t pid = spawn(pool, "m", "exec " + as_nobody("sleep 600"));
  ASSERT_TRUE(eventually([&] { return read_uid(pid) == 65534u; }));
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_FALSE(is_running(pid));
  EXPECT_EQ(wait_event("evicted", "m")["signal"], "SIGTERM");
  EXPECT_TRUE(settles());
}

TEST_F(OtherUser, P3P9ItsChildrenOfAnotherUserAreEndedAlsoWhenItEndsByItself) {
  start({"--stop-grace", "100ms"});
  Pool pool = attach(scratch_);
  const std::string deaf =
      as_nobody("env -i /bin/sh -c \"trap : TERM; while :; do /bin/sleep 0.05; done\"");
  const pid_t first =
      spawn(pool, "m", start_line("child", deaf) + "exec sleep 601", "127.0.0.1:1", "child");
  const pid_t child = pid_in("child");
  ASSERT_TRUE(eventually([&] { return read_uid(child) == 65534u; }));
  ASSERT_TRUE(members_are_known());
  kill(first, SIGKILL);
  EXPECT_EQ(wait_event("exited", "m")["reason"], "crashed");
  EXPECT_FALSE(is_running(child)) << "its place is free and it is not gone";
  EXPECT_TRUE(settles());
}

TEST_F(OtherUser, P7AProcessThatWasRegisteredAndBecameAnotherUsersIsRefusedByReady) {
  start();
  Pool pool = attach(scratch_);
  auto first = leader(wait_line("go") + "exec " + as_nobody("sleep 600"));
  LoadTicket ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket.started(first->pid()));
  allow("go");
  ASSERT_TRUE(eventually([&] { return read_uid(first->pid()) == 65534u; }));
  const auto lease = ticket.ready("127.0.0.1:1");
  EXPECT_EQ(code_of(lease), Errc::kInvalid);
  EXPECT_THAT(text_of(lease), HasSubstr("belongs to nobody"));
  EXPECT_EQ(state("m"), "starting") << "the ticket is lost though nothing was done";
}

TEST_F(OtherUser, P7P11AProcessThatBecameAnotherUsersAfterReadyIsNotSignalledButNamed) {
  start({"--stop-grace", "100ms"});
  Pool pool = attach(scratch_);
  auto first = leader(wait_line("go") + "exec " + as_nobody("sleep 600"));
  serve(pool, "m", first->pid());
  allow("go");
  ASSERT_TRUE(eventually([&] { return read_uid(first->pid()) == 65534u; }));
  EXPECT_EQ(poolctl(scratch_, {"evict", "m", "--timeout", "500ms"}).code, 1);
  EXPECT_TRUE(has_left("m", first->pid(), "belongs to another user"));
  EXPECT_TRUE(entry("m")["stop"]["signal"].is_null()) << entry("m");
  EXPECT_EQ(entry("m")["left"][0]["user"], "nobody");
  EXPECT_TRUE(first->running());
  first->signal(SIGKILL);
  first->wait();
  EXPECT_TRUE(wait_state("m", ""));
  EXPECT_TRUE(wait_event("evicted", "m")["signal"].is_null());
}

// --- A4: worker or backend, one model or another -------------------------------------------------

TEST_F(EndingTest, P7P9AProcessThatIsRegisteredCannotAttach) {
  start();
  Pool pool = attach(scratch_);
  Forked backend([&](Forked::Child& parent) {
    setsid();
    parent.say("up");
    parent.hear();
    PoolOptions options;
    options.dir = scratch_.dir();
    auto own = Pool::attach("default", options);
    const auto granted = own ? own->acquire("m", std::chrono::seconds(0))
                             : Result<std::variant<Lease, LoadTicket>>(fail(own.error()));
    parent.say(granted ? "attached" : granted.error().text);
    pause();
  });
  ASSERT_EQ(backend.hear(), "up");
  serve(pool, "m", backend.pid());
  backend.say("attach");
  EXPECT_THAT(backend.hear(), HasSubstr("this process belongs to the backend of m"));
  EXPECT_EQ(status()["workers"], 1);
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_FALSE(is_running(backend.pid()));
}

TEST_F(EndingTest, P9AWrapperThatAttachedAndThenExecutedTheServerIsEnded) {
  start();
  Pool pool = attach(scratch_);
  Forked wrapper([&](Forked::Child& parent) {
    setsid();
    Pool own = attach(scratch_);
    parent.say(state_of(own, "m"));
    parent.hear();
    execlp("sleep", "sleep", "600", nullptr);
  });
  ASSERT_EQ(wrapper.hear(), "none");
  wrapper.say("exec");
  ASSERT_TRUE(eventually([&] { return read_stat(wrapper.pid())->command == "sleep"; }));
  serve(pool, "m", wrapper.pid());
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_FALSE(is_running(wrapper.pid())) << "it was spared as a worker";
  EXPECT_TRUE(settles());
}

TEST_F(EndingTest, P2OneProcessServesOneModel) {
  start({"--idle-timeout", "200ms"});
  Pool pool = attach(scratch_);
  auto first = leader(start_line("child", "sleep 600") + "exec sleep 601");
  const pid_t child = pid_in("child");
  LoadTicket ticket = ticket_for(pool, "used");
  ASSERT_TRUE(ticket.started(first->pid()));
  auto lease = ticket.ready("127.0.0.1:1");
  ASSERT_TRUE(lease);
  LoadTicket again = ticket_for(pool, "again");
  for (const pid_t pid : {first->pid(), child}) {
    const auto refused = again.started(pid);
    EXPECT_EQ(code_of(refused), Errc::kInvalid) << pid;
    EXPECT_THAT(text_of(refused), HasSubstr("belongs to the backend of used"));
  }
  EXPECT_EQ(state("again"), "reserved") << "the ticket is lost though nothing was done";
  EXPECT_TRUE(again.give_back());
  EXPECT_TRUE(lease->progress());
  EXPECT_TRUE(first->running());
}

// Both are registered, though one runs under the other: the end of one is not that of the other.
TEST_F(EndingTest, P2ABackendThatRunsUnderAnotherIsNotEndedWithIt) {
  start();
  Pool pool = attach(scratch_);
  auto outer = leader(start_line("inner", "setsid -w " + own_line("inner-self", "sleep 600")) +
                      "exec sleep 601");
  const pid_t inner = pid_in("inner-self");
  ASSERT_TRUE(eventually([&] { return getsid(inner) == inner; }));
  LoadTicket ticket = ticket_for(pool, "inner");
  ASSERT_TRUE(ticket.started(inner));
  auto lease = ticket.ready("127.0.0.1:1");
  ASSERT_TRUE(lease);
  serve(pool, "outer", outer->pid(), "127.0.0.1:2");
  EXPECT_EQ(poolctl(scratch_, {"evict", "outer", "--timeout", "5s"}).code, 0);
  EXPECT_FALSE(outer->running());
  EXPECT_TRUE(is_running(inner));
  EXPECT_TRUE(lease->progress());
}

// --- A8: holders that executed another program ---------------------------------------------------

TEST_F(EndingTest, P6ALeaseOfOneWhoExecutedAnotherProgramKeepsNoBackendFromIdleEviction) {
  start({"--idle-timeout", "200ms"});
  RemoteWorker loader(scratch_);
  const pid_t backend = loader.load_idle("m");
  Forked worker([&](Forked::Child& parent) {
    Pool pool = attach(scratch_);
    Lease lease = lease_on(pool, "m");
    parent.say("leased");
    execlp("sleep", "sleep", "600", nullptr);
  });
  ASSERT_EQ(worker.hear(), "leased");
  EXPECT_TRUE(eventually([&] { return !is_running(backend); }));
  EXPECT_EQ(wait_event("evicted", "m")["reason"], "idle");
  EXPECT_EQ(wait_event("worker_died")["worker_pid"], worker.pid());
  EXPECT_TRUE(is_running(worker.pid()));
}

TEST_F(EndingTest, P4P6ATicketOfOneWhoExecutedAnotherProgramGoesToTheNext) {
  start({"--load-timeout", "10m"});
  RemoteWorker next(scratch_);
  Forked loader([&](Forked::Child& parent) {
    Pool pool = attach(scratch_);
    LoadTicket ticket = ticket_for(pool, "m");
    parent.say("ticket");
    execlp("sleep", "sleep", "600", nullptr);
  });
  ASSERT_EQ(loader.hear(), "ticket");
  EXPECT_EQ(next.acquire("m"), "ticket");
  EXPECT_TRUE(is_running(loader.pid()));
}

}  // namespace
}  // namespace modelpool::test
