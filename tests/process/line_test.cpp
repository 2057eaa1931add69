// The waiting line across processes: who comes first is served first, who dies or stops in it harms
// nobody behind.
#include "policy/line.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/proc.hpp"
#include "protocol/outlook.hpp"
#include "support/daemon.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

// A process that waits for a model, says what it got, and gives it back when told.
std::unique_ptr<Forked> waiter_for(const Scratch& scratch, const std::string& model,
                                   std::chrono::nanoseconds timeout = std::chrono::seconds(60)) {
  return std::make_unique<Forked>([&scratch, model, timeout](Forked::Child& parent) {
    Pool pool = attach(scratch);
    auto granted = pool.acquire(model, timeout);
    if (!granted) {
      parent.say(std::string(errc_name(granted.error().code)));
      return;
    }
    if (auto* ticket = std::get_if<LoadTicket>(&*granted)) {
      ReadyOptions external;
      external.external = true;
      Lease lease = ticket->ready("127.0.0.1:1", external).value();
      parent.say("loaded");
      parent.hear();
    } else {
      parent.say("leased");
      parent.hear();
    }
    granted = Grant(Lease());
    pool.close();
  });
}

bool are_waiting(const Pool& pool, std::size_t count) {
  return eventually([&] { return look(pool).waiters.size() == count; });
}

TEST(P5Fair, WaitersOfSeveralProcessesAreServedInTheOrderTheyCame) {
  constexpr int kWaiters = 6;
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  const Daemon daemon(scratch, {"--max-backends", "1"});
  Lease resident = load_external(pool, "resident");
  std::vector<std::unique_ptr<Forked>> waiters;
  for (int i = 0; i < kWaiters; ++i) {
    waiters.push_back(waiter_for(scratch, "m" + std::to_string(i)));
    ASSERT_TRUE(are_waiting(pool, static_cast<std::size_t>(i) + 1));
  }
  resident.release();
  for (int i = 0; i < kWaiters; ++i) {
    ASSERT_EQ(waiters[static_cast<std::size_t>(i)]->hear(), "loaded");
    const Snapshot s = look(pool);
    EXPECT_EQ(s.waiters.size(), static_cast<std::size_t>(kWaiters - 1 - i));
    for (const WaiterView& waiter : s.waiters) EXPECT_GT(waiter.model, "m" + std::to_string(i));
    waiters[static_cast<std::size_t>(i)]->say("give it back");
    EXPECT_EQ(waiters[static_cast<std::size_t>(i)]->wait(), 0);
  }
}

TEST(P5Fair, WaitersForOneModelTakeOnePlaceTogether) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "2"}});
  const Daemon daemon(scratch, {"--max-backends", "2", "--when-busy", "wait"});
  Lease first = load_external(pool, "first");
  Lease second = load_external(pool, "second");
  const auto a = waiter_for(scratch, "a");
  ASSERT_TRUE(are_waiting(pool, 1));
  const auto also_a = waiter_for(scratch, "a");
  ASSERT_TRUE(are_waiting(pool, 2));
  const auto b = waiter_for(scratch, "b");
  ASSERT_TRUE(are_waiting(pool, 3));
  first.release();
  second.release();
  EXPECT_EQ(a->hear(), "loaded");
  EXPECT_EQ(also_a->hear(), "leased");
  EXPECT_EQ(b->hear(), "loaded");
  EXPECT_EQ(look(pool).live(), 2u);
}

// Without that, a client with a short timeout begins to wait anew with each try, and a model in use
// keeps its place for ever.
TEST(P5Fair, AClientThatTriesAgainHasWaitedAllTheTimeUntilItIsServed) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  const Daemon daemon(scratch, {"--max-backends", "1", "--when-busy", "wait"});
  Lease resident = load_external(pool, "resident");
  const auto since = [&] { return look(pool).waiters.at(0).model_since_ns; };
  const auto first = waiter_for(scratch, "wanted", std::chrono::milliseconds(500));
  ASSERT_TRUE(are_waiting(pool, 1));
  const std::uint64_t began = since();
  ASSERT_EQ(first->hear(), "timeout");
  const auto again = waiter_for(scratch, "wanted");
  ASSERT_TRUE(are_waiting(pool, 1));
  EXPECT_EQ(since(), began);
  resident.release();
  ASSERT_EQ(again->hear(), "loaded");
  again->say("give it back");
  ASSERT_EQ(again->wait(), 0);
  resident = load_external(pool, "resident");
  const auto later = waiter_for(scratch, "wanted");
  ASSERT_TRUE(are_waiting(pool, 1));
  EXPECT_GT(since(), began) << "it was served meanwhile";
}

TEST(P5Fair, ANewcomerDoesNotOvertakeTheHeadOfTheLine) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}, {"load_cooldown", "off"}});
  LoadTicket ticket = ticket_for(pool, "resident");
  const auto head = waiter_for(scratch, "head");
  ASSERT_TRUE(are_waiting(pool, 1));
  head->signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(head->pid()));
  ASSERT_TRUE(ticket.fail("makes room"));
  ASSERT_EQ(count_live(segment_of(pool)), 0u);
  const auto refused = pool.acquire("newcomer", std::chrono::seconds(0));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::kTimeout);
  head->signal(SIGCONT);
  EXPECT_EQ(head->hear(), "loaded");
}

TEST(P5Fair, AHeadThatDoesNotTakeItsPlaceIsPassedOver) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}, {"load_cooldown", "off"}});
  LoadTicket ticket = ticket_for(pool, "resident");
  const auto head = waiter_for(scratch, "head");
  ASSERT_TRUE(are_waiting(pool, 1));
  const auto next = waiter_for(scratch, "next");
  ASSERT_TRUE(are_waiting(pool, 2));
  head->signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(head->pid()));
  ASSERT_TRUE(ticket.fail("makes room"));
  EXPECT_EQ(next->hear(), "loaded");
  // Only once: the head is still the head.
  EXPECT_EQ(look(pool).waiters.size(), 1u);
  EXPECT_EQ(look(pool).waiters[0].model, "head");
}

// Until the waiters have not looked for so long that nobody counts on them.
bool are_absent(const Pool& pool) {
  return eventually([&] {
    const Snapshot s = look(pool);
    return std::none_of(s.waiters.begin(), s.waiters.end(), [&](const WaiterView& waiter) {
      return is_present(waiting_of(waiter), s.now_ns);
    });
  });
}

// Each stopped waiter kept a free place for a second, one after the other.
TEST(P5Fair, AStoppedWorkerWithManyWaitsIsPassedOverOnce) {
  constexpr std::size_t kThreads = 12;
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}, {"load_cooldown", "off"}});
  LoadTicket ticket = ticket_for(pool, "resident");
  Forked stopped([&scratch](Forked::Child&) {
    Pool mine = attach(scratch);
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([&mine, i] {
        static_cast<void>(mine.acquire("m" + std::to_string(i), std::chrono::seconds(60)));
      });
    }
  });
  ASSERT_TRUE(are_waiting(pool, kThreads));
  const auto next = waiter_for(scratch, "next", std::chrono::seconds(9));
  ASSERT_TRUE(are_waiting(pool, kThreads + 1));
  stopped.signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(stopped.pid()));
  ASSERT_TRUE(ticket.fail("makes room"));
  EXPECT_EQ(next->hear(), "loaded");
}

class RoomForNobody : public ::testing::Test {
 protected:
  RoomForNobody() {
    Lease resident = load_external(pool_, "resident");
    EXPECT_TRUE(eventually([&] { return look(pool_).coordinator.scans > 0; }));
    daemon_.program().signal(SIGSTOP);
    EXPECT_TRUE(has_stopped(daemon_.pid()));
    resident.release();
  }
  // The judge goes on, and has cleared up after the waiter.
  void judge() {
    daemon_.program().signal(SIGCONT);
    EXPECT_TRUE(eventually([&] { return look(pool_).waiters.empty(); }));
  }
  void expect_that_nobody_was_evicted() {
    EXPECT_EQ(state_of(pool_, "resident"), "ready");
    EXPECT_FALSE(find_event(scratch_, "evicted", "resident"));
  }

  Scratch scratch_;
  Pool pool_ = make_pool(scratch_, {{"max_backends", "1"}});
  Daemon daemon_{scratch_, {"--max-backends", "1"}};
};

TEST_F(RoomForNobody, P5IsNotMadeWhenTheWaiterDiedUnseen) {
  const auto waiter = waiter_for(scratch_, "wanted");
  ASSERT_TRUE(are_waiting(pool_, 1));
  waiter->kill_now();
  judge();
  expect_that_nobody_was_evicted();
}

TEST_F(RoomForNobody, P5IsNotMadeWhenTheWaiterDiedWithoutAJudge) {
  daemon_.kill_now();
  const auto waiter = waiter_for(scratch_, "wanted");
  ASSERT_TRUE(are_waiting(pool_, 1));
  waiter->kill_now();
  daemon_.start();
  judge();
  expect_that_nobody_was_evicted();
}

TEST_F(RoomForNobody, P5IsNotMadeWhenTheWaiterHasExecutedAnotherProgram) {
  Forked waiter([this](Forked::Child& parent) {
    Pool mine = attach(scratch_);
    auto pending = mine.begin_acquire("wanted", std::chrono::seconds(60));
    static_cast<void>(pending->poll());
    parent.say("waits");
    parent.hear();
    execlp("sleep", "sleep", "60", nullptr);
  });
  ASSERT_EQ(waiter.hear(), "waits");
  waiter.say("go");
  ASSERT_TRUE(eventually([&] { return read_stat(waiter.pid())->command == "sleep"; }));
  judge();
  expect_that_nobody_was_evicted();
}

// It was evicted and loaded again for each of its own requests.
TEST(P5Fair, AStoppedWaiterCostsNoResidentItsPlaceAndIsServedWhenItGoesOn) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  const Daemon daemon(scratch, {"--max-backends", "1", "--when-busy", "wait"});
  Lease resident = load_external(pool, "resident");
  const auto stopped = waiter_for(scratch, "stopped");
  ASSERT_TRUE(are_waiting(pool, 1));
  stopped->signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(stopped->pid()));
  ASSERT_TRUE(are_absent(pool));
  for (int i = 0; i < 20; ++i) {
    resident.release();
    resident = lease_on(pool, "resident");
  }
  EXPECT_FALSE(find_event(scratch, "evicted", "resident"));
  resident.release();
  EXPECT_EQ(state_of(pool, "resident"), "ready");
  stopped->signal(SIGCONT);
  EXPECT_EQ(stopped->hear(), "loaded");
}

TEST(P6AnyProcessMayDie, AWaiterKilledAtTheHeadOfTheLineMakesWay) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  const Daemon daemon(scratch, {"--max-backends", "1"});
  Lease resident = load_external(pool, "resident");
  const auto head = waiter_for(scratch, "head");
  ASSERT_TRUE(are_waiting(pool, 1));
  const auto next = waiter_for(scratch, "next");
  ASSERT_TRUE(are_waiting(pool, 2));
  head->kill_now();
  EXPECT_TRUE(are_waiting(pool, 1));
  EXPECT_EQ(look(pool).live(), 1u);  // its leaving costs no resident its place
  EXPECT_TRUE(resident.progress());
  resident.release();
  EXPECT_EQ(next->hear(), "loaded");
  next->say("give it back");
  EXPECT_EQ(next->wait(), 0);
  EXPECT_TRUE(eventually([&] { return nothing_left_but(pool, {getpid()}); }));
  EXPECT_EQ(findings(shared_segment_of(pool), true), "");
}

TEST(P6AnyProcessMayDie, AWaiterKilledAtTheHeadIsPassedOverWithoutACoordinatorToo) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}, {"load_cooldown", "off"}});
  LoadTicket ticket = ticket_for(pool, "resident");
  const auto head = waiter_for(scratch, "head");
  ASSERT_TRUE(are_waiting(pool, 1));
  const auto next = waiter_for(scratch, "next");
  ASSERT_TRUE(are_waiting(pool, 2));
  head->kill_now();
  ASSERT_TRUE(ticket.fail("makes room"));
  EXPECT_EQ(next->hear(), "loaded");
}

TEST(P5Fair, AWaiterThatTimesOutCostsNoResidentItsPlace) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  const Daemon daemon(scratch, {"--max-backends", "1", "--when-busy", "wait"});
  Lease resident = load_external(pool, "resident");
  const auto waiter = waiter_for(scratch, "m", std::chrono::milliseconds(200));
  EXPECT_EQ(waiter->hear(), "timeout");
  EXPECT_EQ(waiter->wait(), 0);
  resident.release();
  EXPECT_TRUE(are_waiting(pool, 0));
  Lease again = lease_on(pool, "resident", std::chrono::seconds(0));
  EXPECT_EQ(state_of(pool, "resident"), "ready");
}

// A coordinator's restart goes unnoticed by who waits.
TEST(P10TheJudgeMayRestart, WaitersGoOnWaitingAndAreServedByTheNextOne) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  Daemon daemon(scratch, {"--max-backends", "1"});
  Lease resident = load_external(pool, "resident");
  const auto waiter = waiter_for(scratch, "m");
  ASSERT_TRUE(are_waiting(pool, 1));
  daemon.kill_now();
  resident.release();
  daemon.start();
  EXPECT_EQ(waiter->hear(), "loaded");
}

// It was closed by a judge that died: whoever wants it proves that and opens it again.
TEST(P10TheJudgeMayRestart, AModelClosedByADeadJudgeIsLeasedWithoutTheNextOne) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  Lease lease = load_external(pool, "m");
  {
    Daemon daemon(scratch, {"--drain-timeout", "10m"});
    ASSERT_TRUE(pool.evict("m"));
    ASSERT_TRUE(eventually([&] { return state_of(pool, "m") == "evicting"; }));
    daemon.kill_now();
  }
  EXPECT_EQ(state_of(pool, "m"), "evicting");
  EXPECT_TRUE(lease_on(pool, "m", std::chrono::seconds(0)));
  EXPECT_EQ(state_of(pool, "m"), "ready");
}

}  // namespace
