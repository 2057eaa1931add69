// What fork and exec do to a process that is attached, holds leases, tickets and waits.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/proc.hpp"
#include "support/daemon.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

std::uint32_t in_flight(const Pool& pool, std::string_view model) {
  const Snapshot snapshot = look(pool);
  const BackendView* found = snapshot.find_model(model);
  return found == nullptr ? 0 : found->in_flight;
}

// Replaces this process by a program; its descriptors to the test close with exec.
[[noreturn]] void exec(const std::vector<std::string>& argv) {
  std::vector<char*> args;
  for (const auto& arg : argv) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);
  execvp(args[0], args.data());
  _exit(71);
}

TEST(Fork, ALeaseDestroyedInAForkedChildEndsNothing) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  Lease lease = load_external(pool, "m");
  Forked child([&](Forked::Child&) {
    EXPECT_EQ(code_of(lease.progress()), Errc::kClosed);
    { const Lease moved = std::move(lease); }
    EXPECT_FALSE(lease);  // NOLINT(bugprone-use-after-move): that is what is looked at
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(in_flight(pool, "m"), 1u);
  EXPECT_TRUE(lease.progress());
  lease.release();
  EXPECT_EQ(in_flight(pool, "m"), 0u);
}

TEST(Fork, ATicketDestroyedInAForkedChildStaysTheParents) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  Forked child([&](Forked::Child&) {
    EXPECT_EQ(code_of(ticket.spawn({"sleep", "60"})), Errc::kClosed);
    EXPECT_EQ(code_of(ticket.started(getppid())), Errc::kClosed);
    EXPECT_EQ(code_of(ticket.ready("127.0.0.1:1")), Errc::kClosed);
    { const LoadTicket moved = std::move(ticket); }
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(state_of(pool, "m"), "reserved");
  ReadyOptions external;
  external.external = true;
  EXPECT_TRUE(ticket.ready("127.0.0.1:1", external));
}

TEST(Fork, AWaitInheritedByAForkedChildIsClosedThereAndGoesOnHere) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  auto pending = pool.begin_acquire("m", std::chrono::seconds(60));
  ASSERT_TRUE(pending);
  auto polled = pending->poll();
  ASSERT_TRUE(polled);
  ASSERT_FALSE(*polled);
  ASSERT_EQ(look(pool).waiters.size(), 1u);
  Forked child([&](Forked::Child&) {
    EXPECT_EQ(code_of(pending->poll()), Errc::kClosed);
    { const PendingAcquire moved = std::move(*pending); }
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(look(pool).waiters.size(), 1u);
  ReadyOptions external;
  external.external = true;
  Lease loaders = ticket.ready("127.0.0.1:1", external).value();
  polled = pending->poll();
  ASSERT_TRUE(polled);
  EXPECT_TRUE(*polled && std::holds_alternative<Lease>(**polled));
}

// gunicorn with preload: attach once, fork the workers, serve in them.
TEST(Fork, ChildrenOfAPreloadedPoolAttachByThemselves) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  load_external(pool, "m").release();
  std::vector<std::unique_ptr<Forked>> children;
  for (int i = 0; i < 4; ++i) {
    children.push_back(std::make_unique<Forked>([&](Forked::Child& parent) {
      std::vector<Lease> leases;
      for (int n = 0; n < 10; ++n) leases.push_back(lease_on(pool, "m"));
      parent.say("leased");
      parent.hear();
      leases.clear();
      pool.close();
    }));
  }
  for (auto& child : children) ASSERT_EQ(child->hear(), "leased");
  Snapshot snapshot = look(pool);
  EXPECT_EQ(in_flight(pool, "m"), 40u);
  ASSERT_EQ(snapshot.workers.size(), 5u);
  std::set<pid_t> pids;
  for (const WorkerView& worker : snapshot.workers) {
    pids.insert(worker.process.pid);
    EXPECT_EQ(worker.leases, worker.process.pid == getpid() ? 0u : 10u);
  }
  EXPECT_EQ(pids.size(), 5u);
  for (auto& child : children) child->say("end");
  for (auto& child : children) EXPECT_EQ(child->wait(), 0);
  EXPECT_TRUE(nothing_left_but(pool, {getpid()}));
}

TEST(Fork, AGrandchildAttachesAnewToo) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  load_external(pool, "m").release();
  Forked child([&](Forked::Child&) {
    Lease of_child = lease_on(pool, "m");
    Forked grandchild([&](Forked::Child&) {
      of_child.release();
      Lease of_grandchild = lease_on(pool, "m");
      EXPECT_EQ(in_flight(pool, "m"), 2u);
    });
    EXPECT_EQ(grandchild.wait(), 0);
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST(Fork, AChildOfAThreadThatHoldsTheMutexInheritsNoLock) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  std::atomic<bool> locked{false};
  std::atomic<bool> let_go{false};
  std::thread holder([&] {
    const auto lock = segment_of(pool).lock_structure();
    locked = lock.has_value();
    EXPECT_TRUE(eventually([&] { return let_go.load(); }));
  });
  ASSERT_TRUE(eventually([&] { return locked.load(); }));
  Forked child([&](Forked::Child& parent) {
    parent.say("trying");
    const LoadTicket ticket = ticket_for(pool, "m");  // attaches and reserves: both lock
    parent.say("granted");
    parent.hear();
  });
  EXPECT_EQ(child.hear(), "trying");
  let_go = true;
  EXPECT_EQ(child.hear(), "granted");
  holder.join();
}

TEST(Fork, ManyThreadsMayUseThePoolWhileItIsForked) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  load_external(pool, "m").release();
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        lease_on(pool, "m").release();
        EXPECT_TRUE(pool.set_limit(0));  // takes the mutex
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    Forked child([&](Forked::Child&) {
      Lease lease = lease_on(pool, "m");
      EXPECT_TRUE(pool.set_limit(0));
      lease.release();
      pool.close();
    });
    EXPECT_EQ(child.wait(), 0) << "fork " << i;
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(nothing_left_but(pool, {getpid()}));
}

// --- exec ----------------------------------------------------------------------------------------

TEST(Exec, ABusyKillSparesTheBackendAndReapsTheWorkerThatExeced) {
  const Orphans orphans;
  const Scratch scratch;
  const Daemon daemon(scratch, {"--busy-timeout", "300ms"});
  Pool pool = attach(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket.spawn({"sleep", "60"}));
  const pid_t backend = ticket.pid();
  ticket.ready("127.0.0.1:1").value().release();
  Forked worker([&](Forked::Child&) {
    Pool mine = attach(scratch);
    const Lease lease = lease_on(mine, "m");
    exec({"sleep", "60"});
  });
  ASSERT_TRUE(eventually([&] { return in_flight(pool, "m") == 1; }));
  EXPECT_TRUE(eventually([&] { return nothing_left_but(pool, {getpid()}); }));
  EXPECT_TRUE(is_running(worker.pid()));
  EXPECT_TRUE(is_running(backend));
  EXPECT_EQ(state_of(pool, "m"), "ready");
}

TEST(Exec, ARestartedCoordinatorReapsTheWorkerThatExeced) {
  const Orphans orphans;
  const Scratch scratch;
  Daemon daemon(scratch);
  Pool pool = attach(scratch);
  load_external(pool, "m").release();
  Forked worker([&](Forked::Child&) {
    Pool mine = attach(scratch);
    const Lease lease = lease_on(mine, "m");
    exec({"sleep", "60"});
  });
  ASSERT_TRUE(eventually([&] {
    const auto stat = read_stat(worker.pid());
    return stat && stat->command == "sleep";
  }));
  EXPECT_EQ(in_flight(pool, "m"), 1u);
  daemon.kill_now();
  daemon.start();
  EXPECT_TRUE(eventually([&] { return nothing_left_but(pool, {getpid()}); }));
  EXPECT_TRUE(is_running(worker.pid()));
}

TEST(Exec, AStalledDrainReapsTheWorkerThatExecedAndEvicts) {
  const Orphans orphans;
  const Scratch scratch;
  const Daemon daemon(scratch, {"--drain-timeout", "100ms"});
  Pool pool = attach(scratch);
  load_external(pool, "m").release();
  Forked worker([&](Forked::Child&) {
    Pool mine = attach(scratch);
    const Lease lease = lease_on(mine, "m");
    exec({"sleep", "60"});
  });
  ASSERT_TRUE(eventually([&] {
    const auto stat = read_stat(worker.pid());
    return stat && stat->command == "sleep";
  }));
  ASSERT_TRUE(pool.evict("m"));
  EXPECT_TRUE(eventually([&] { return state_of(pool, "m") == "none"; }));
  EXPECT_TRUE(eventually([&] { return nothing_left_but(pool, {getpid()}); }));
}

TEST(Exec, ATicketOfAWorkerThatExecedIsLostAndGrantedAgain) {
  const Orphans orphans;
  const Scratch scratch;
  const Daemon daemon(scratch, {"--load-timeout", "300ms", "--stop-grace", "1s"});
  Pool pool = attach(scratch);
  Forked worker([&](Forked::Child&) {
    Pool mine = attach(scratch);
    LoadTicket ticket = ticket_for(mine, "m");
    if (!ticket.spawn({"sleep", "60"})) throw std::runtime_error("spawn failed");
    exec({"sleep", "60"});
  });
  ASSERT_TRUE(eventually([&] { return state_of(pool, "m") == "starting"; }));
  const pid_t started = look(pool).find_model("m")->process.pid;
  const LoadTicket mine = ticket_for(pool, "m");  // not load_failed: the ticket was lost
  EXPECT_FALSE(is_running(started));
  EXPECT_TRUE(is_running(worker.pid()));
}

TEST(ExecedProgram, DISABLED_AttachesAndLeases) {
  PoolOptions options;
  options.dir = std::getenv("MODELPOOL_TEST_DIR");
  auto pool = Pool::attach("default", options);
  ASSERT_TRUE(pool) << pool.error().text;
  AcquireOptions tagged;
  tagged.tag = "after exec";
  const auto granted = pool->acquire("m", std::chrono::seconds(30), tagged);
  ASSERT_TRUE(granted) << granted.error().text;
  pause();
}

// A uWSGI reload: the same pid, another image.
TEST(Exec, AttachReclaimsTheRowThisProcessHadBeforeExec) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  load_external(pool, "m").release();
  setenv("MODELPOOL_TEST_DIR", scratch.dir().c_str(), 1);
  Forked worker([&](Forked::Child&) {
    Pool mine = attach(scratch);
    std::vector<Lease> leases;
    for (int i = 0; i < 5; ++i) leases.push_back(lease_on(mine, "m"));
    const auto pending = mine.begin_acquire("waited for", std::chrono::seconds(0));
    exec(own_argv("ExecedProgram.DISABLED_AttachesAndLeases"));
  });
  const auto is_tagged = [&] {
    const Snapshot s = look(pool);
    return s.leases.size() == 1 && s.leases[0].tag == "after exec";
  };
  ASSERT_TRUE(eventually(is_tagged));
  const Snapshot s = look(pool);
  EXPECT_EQ(s.workers.size(), 2u);
  EXPECT_EQ(in_flight(pool, "m"), 1u);
  EXPECT_EQ(s.workers[s.leases[0].worker].process.pid, worker.pid());
}

TEST(Exec, AttachReclaimsTheWaitThisProcessHadBeforeExec) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  load_external(pool, "m").release();
  const LoadTicket ticket = ticket_for(pool, "waited for");
  setenv("MODELPOOL_TEST_DIR", scratch.dir().c_str(), 1);
  Forked worker([&](Forked::Child& parent) {
    Pool mine = attach(scratch);
    auto pending = mine.begin_acquire("waited for", std::chrono::seconds(60));
    static_cast<void>(pending->poll());
    parent.say("waiting");
    parent.hear();
    exec(own_argv("ExecedProgram.DISABLED_AttachesAndLeases"));
  });
  ASSERT_EQ(worker.hear(), "waiting");
  EXPECT_EQ(look(pool).waiters.size(), 1u);
  worker.say("exec");
  ASSERT_TRUE(eventually([&] { return look(pool).leases.size() == 1; }));
  EXPECT_EQ(look(pool).waiters.size(), 0u);
  EXPECT_EQ(look(pool).workers.size(), 2u);
}

}  // namespace
