// P2, P7: what a record says of a process is not believed where the process itself contradicts it.
#include "protocol/members.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "base/proc.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

namespace modelpool::test {
namespace {

class MembersTest : public ::testing::Test {
 protected:
  // Leads a session and a group, in which it has a child.
  Program leader(const std::vector<std::string>& before = {},
                 const Program::Options& options = {}) {
    std::vector<std::string> argv = before;
    argv.insert(argv.end(), {"setsid", "sh", "-c", "sleep 600 & exec sleep 600"});
    Program program(argv, options);
    EXPECT_TRUE(eventually([&] { return child_of(program.pid()) != 0; }));
    return program;
  }
  static pid_t child_of(pid_t parent) {
    for (const pid_t pid : list_pids().value_or(std::vector<pid_t>())) {
      const auto stat = read_stat(pid);
      if (stat && stat->parent == parent && stat->group == parent) return pid;
    }
    return 0;
  }
  static ProcessIdentity identity_of(pid_t pid) {
    return ProcessHandle::open(pid).value().identity();  // throws if it has left
  }
  static Target target_at(pid_t pid) {
    Target target;
    target.first = identity_of(pid);
    target.group = pid;
    return target;
  }
  bool is_gone(Members& members, const Spared& spared) {
    return eventually([&] { return members.look(table_, spared).is_gone; });
  }
  void end(Members& members, const Spared& spared) {
    for (int i = 0; i < 3; ++i) static_cast<void>(members.look(table_, spared));
    static_cast<void>(members.signal(SIGTERM, spared));
  }
  // A READY or STOPPING slot that names this process.
  static BackendRef name(const Segment& segment, std::uint32_t slot, pid_t pid,
                         BackendState state) {
    BackendRecord& record = segment.backend(slot);
    const ProcessIdentity process = identity_of(pid);
    record.pid.store(static_cast<std::uint32_t>(pid));
    record.group.store(static_cast<std::uint32_t>(pid));
    record.start_ticks.store(process.start_ticks);
    record.pidfd_inode.store(process.pidfd_inode);
    record.state.store(StateWord{1, 0, state}.pack());
    return {slot, 1};
  }

  Orphans orphans_;
  Scratch scratch_;
  ProcessTable table_;
  const Spared nobody_ = spared_without_pool();
  // Of this test alone: others run beside it.
  const std::string token_ = "00000000-0000-0000-0000-000000000000/0/" + std::to_string(getpid());
};

TEST_F(MembersTest, P7TheHandleOfAProcessThatWasRegisteredBeforeSignalsNobody) {
  Program before = leader();
  Program now = leader();
  Members members(target_at(before.pid()));
  members.update(target_at(before.pid()), ProcessHandle::open(before.pid()).value());
  static_cast<void>(members.look(table_, nobody_));
  members.update(target_at(now.pid()), ProcessHandle::open(before.pid()).value());
  end(members, nobody_);
  EXPECT_EQ(now.wait(), 128 + SIGTERM);
  EXPECT_TRUE(is_gone(members, nobody_));
  EXPECT_TRUE(before.running());
  EXPECT_NE(child_of(before.pid()), 0) << "what was found with the one before is not its";
}

// A tenant's: it stays in the terminal's session, and may end before anybody has looked.
TEST_F(MembersTest, P7TheSessionInWhichATenantWasStartedIsNotItsOwn) {
  for (const bool in_session : {true, false}) {
    Program first({"sleep", "600"});
    Target target = target_at(first.pid());
    first.signal(SIGKILL);
    ASSERT_EQ(first.wait(), 128 + SIGKILL);
    target.is_spawned = true;
    target.in_session = in_session;
    target.token = token_;
    // The session of who runs the tests may be one that began in no namespace that is seen here.
    const Program session(
        {"setsid", "sh", "-c",
         std::string("MODELPOOL_BACKEND=") + token_ + " sleep 600 & exec sleep 600"});
    pid_t child = 0;
    ASSERT_TRUE(eventually([&] {
      child = child_of(session.pid());
      return child != 0 && read_environment(child, "MODELPOOL_BACKEND") == token_;
    }));
    Members members(target);
    static_cast<void>(members.look(table_, nobody_));
    static_cast<void>(members.look(table_, nobody_));
    const auto known = members.known();  // and signals nobody
    const auto knows = [&](pid_t pid) {
      return std::any_of(known.begin(), known.end(),
                         [pid](const ProcessIdentity& one) { return one.pid == pid; });
    };
    EXPECT_TRUE(knows(child));
    // Of one that was spawned in a session of its own, theirs would be one that it began.
    EXPECT_EQ(knows(session.pid()), !in_session);
  }
}

// What has left group, session and environment is told by its parent alone.
TEST_F(MembersTest, P7OnlyTheChildrenOfItsOwnAdopterAreATenants) {
  for (const bool is_adopted : {true, false}) {
    Program first({"sleep", "600"});
    Target target = target_at(first.pid());
    first.signal(SIGKILL);
    ASSERT_EQ(first.wait(), 128 + SIGKILL);
    target.is_spawned = target.in_session = true;
    target.token = token_;
    const Program adopter({"setsid", "sh", "-c", "setsid sleep 600 & exec sleep 600"});
    if (is_adopted) target.adopter = identity_of(adopter.pid());
    pid_t child = 0;
    ASSERT_TRUE(eventually([&] {
      for (const pid_t pid : list_pids().value_or(std::vector<pid_t>())) {
        const auto stat = read_stat(pid);
        if (stat && stat->parent == adopter.pid() && stat->session == pid) child = pid;
      }
      return child != 0;
    }));
    Members members(target);
    static_cast<void>(members.look(table_, nobody_));
    const auto known = members.known();
    EXPECT_EQ(known.size(), is_adopted ? 1u : 0u) << "who adopts is none of it";
    EXPECT_TRUE(known.empty() || known[0].pid == child);
    kill(child, SIGKILL);
  }
}

TEST_F(MembersTest, P2P7OfAProcessThatIsAnotherBackendsNeitherItNorItsGroupIsSignalled) {
  Program program = leader();
  const auto segment = make_segment(scratch_);
  segment->line().backends_reached.store(2);
  name(*segment, 0, program.pid(), BackendState::kReady);
  const BackendRef second = name(*segment, 1, program.pid(), BackendState::kStopping);
  const Spared spared = spared_beside(*segment, second);
  Target target = target_at(program.pid());
  target.alive_ticks = UINT64_MAX;  // all that is in its group is older than its end
  Members members(target);
  end(members, spared);
  EXPECT_TRUE(is_gone(members, spared)) << "it is the other slot that counts it";
  EXPECT_TRUE(program.running());
  EXPECT_NE(child_of(program.pid()), 0);
  // Of two that end the same process the first does.
  EXPECT_FALSE(spared_beside(*segment, {0, 1}).is_other(program.pid()));
}

TEST_F(MembersTest, P7ThatThePoolHasSpawnedAnotherUsersProcessIsNotBelievedOfARecord) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can start another user's process";
  const std::vector<std::string> as_nobody{"setpriv", "--reuid=65534", "--clear-groups"};
  Program stranger = leader(as_nobody);
  Target target = target_at(stranger.pid());
  target.is_spawned = true;
  target.token = token_;
  Members members(target);
  end(members, nobody_);
  EXPECT_EQ(why_not_signalled(target, stranger.pid(), nobody_, false), LeftWhy::kOtherUser);
  EXPECT_NE(child_of(stranger.pid()), 0);
  EXPECT_TRUE(stranger.running());
  ASSERT_EQ(members.left().size(), 1u);
  EXPECT_EQ(members.left()[0].why, LeftWhy::kOtherUser);

  Program spawned = leader(as_nobody, {{{"MODELPOOL_BACKEND", token_}}, {}});
  target.first = identity_of(spawned.pid());
  target.group = spawned.pid();
  Members proved(target);
  end(proved, nobody_);
  EXPECT_EQ(spawned.wait(), 128 + SIGTERM);
  EXPECT_TRUE(is_gone(proved, nobody_));

  Program seen = leader(as_nobody);
  target.first = identity_of(seen.pid());
  target.group = seen.pid();
  target.was_own = true;  // when the coordinator first saw it
  Members remembered(target);
  end(remembered, nobody_);
  EXPECT_EQ(seen.wait(), 128 + SIGTERM);
  EXPECT_TRUE(is_gone(remembered, nobody_));
}

// It was known by its token while it lived, and nobody reaps it: as under a container's PID 1.
TEST_F(MembersTest, P3AZombieThatCarriesTheTokenHoldsNoPlace) {
  Program first = leader();
  Program other({"setsid", "sleep", "600"}, {{{"MODELPOOL_BACKEND", token_}}, {}});
  ASSERT_TRUE(eventually([&] { return getsid(other.pid()) == other.pid(); }));
  Target target = target_at(first.pid());
  target.is_spawned = true;
  target.token = token_;
  Members members(target);
  static_cast<void>(members.look(table_, nobody_));
  EXPECT_FALSE(members.look(table_, nobody_).is_gone);
  kill(-first.pid(), SIGKILL);
  first.wait();
  kill(other.pid(), SIGKILL);
  ASSERT_TRUE(eventually([&] { return read_stat(other.pid())->is_zombie(); }));
  EXPECT_TRUE(is_gone(members, nobody_));
}

TEST_F(MembersTest, OneLookAtAllProcessesServesManyBackends) {
  std::vector<Program> programs;
  std::vector<Members> all;
  for (int i = 0; i < 3; ++i) {
    programs.push_back(leader());
    all.emplace_back(target_at(programs.back().pid()));
  }
  const auto look_at_all = [&] {
    std::vector<Members::Request> requests;
    for (Members& members : all) requests.push_back({&members, nobody_});
    Members::look_at_all(table_, &requests);
    return requests;
  };
  for (const Members::Request& request : look_at_all()) EXPECT_TRUE(request.look.found_new);
  for (const Members::Request& request : look_at_all()) EXPECT_FALSE(request.look.found_new);
  static_cast<void>(all[1].signal(SIGTERM, nobody_));
  EXPECT_EQ(programs[1].wait(), 128 + SIGTERM);
  EXPECT_TRUE(eventually([&] {
    const auto requests = look_at_all();
    EXPECT_FALSE(requests[0].look.is_gone);
    EXPECT_FALSE(requests[2].look.is_gone);
    return requests[1].look.is_gone;
  }));
  EXPECT_NE(child_of(programs[0].pid()), 0);
  EXPECT_NE(child_of(programs[2].pid()), 0);
}

// Each process forks the next one and leaves, many while /proc is read once.
TEST_F(MembersTest, P3WhoForksAndLeavesIsNotGoneBeforeTheLastHasEnded) {
  const std::string script = scratch_.path("script");
  const std::string lock = scratch_.path("lock");  // held while one of them lives
  write_file(script, "((((((sh " + script + " &) &) &) &) &) &)\n");
  Program::Options options;
  options.env["MODELPOOL_BACKEND"] = token_;
  const std::string go = scratch_.path("go");
  Program first({"setsid", "sh", "-c",
                 "exec 9>" + lock + "; flock 9; while [ ! -e " + go +
                     " ]; do sleep 0.01; done; exec sh " + script},
                options);
  Target target = target_at(first.pid());
  target.token = token_;
  target.is_spawned = true;
  write_file(go, "");
  first.wait();
  for (int i = 0; i < 300; ++i) {
    Members members(target);
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    const bool is_gone = members.look(table_, nobody_).is_gone;
    ASSERT_TRUE(is_locked(lock)) << "the last has ended by itself";
    ASSERT_FALSE(is_gone) << "at look " << i;
  }
  write_file(script, "");
  Members members(target);
  EXPECT_TRUE(is_gone(members, nobody_));
}

TEST_F(MembersTest, P3GoneIsProvedAlsoBesideStrangersWhoForkAllTheTime) {
  const Program crowd[] = {Program({"sh", "-c", "while :; do /bin/true; done"}),
                           Program({"sh", "-c", "while :; do /bin/true; done"})};
  for (int i = 0; i < 20; ++i) {
    Program first = leader();
    Members members(target_at(first.pid()));
    end(members, nobody_);
    first.wait();
    ASSERT_TRUE(is_gone(members, nobody_)) << "at backend " << i;
  }
}

}  // namespace
}  // namespace modelpool::test
