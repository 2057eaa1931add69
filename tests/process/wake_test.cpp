// P5: what a waiter waits for wakes it. The slice after which it looks anyway is for wakers that
// died; a hand-over that needs it is a lost wake-up, and costs a second that no other test notices.
#include <gtest/gtest.h>
#include <signal.h>

#include <memory>
#include <string>

#include "base/proc.hpp"
#include "support/daemon.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

namespace modelpool::test {
namespace {

class WakeTest : public ::testing::Test {
 protected:
  // A process that waits for a model and says when it has it.
  std::unique_ptr<Forked> start_waiter(const std::string& model) {
    const std::size_t before = look(pool_).waiters.size();
    auto waiter = std::make_unique<Forked>([this, model](Forked::Child& parent) {
      Pool mine = attach(scratch_);
      auto granted = mine.acquire(model, std::chrono::seconds(60));
      parent.say(!granted ? std::string(errc_name(granted.error().code))
                 : std::holds_alternative<Lease>(*granted) ? "lease"
                                                           : "ticket");
      parent.hear();
    });
    EXPECT_TRUE(eventually([&] { return look(pool_).waiters.size() == before + 1; }));
    for (const WaiterView& view : look(pool_).waiters) {
      if (view.model == model) row_ = view.row;
    }
    // It sleeps: what it looked at before its row was published can wake it no more.
    EXPECT_TRUE(eventually([&] { return read_stat(waiter->pid())->state == 'S'; }));
    woken_ = wakes();
    return waiter;
  }
  std::uint32_t wakes() const { return segment_of(pool_).waiter(row_).wake.load(); }
  ::testing::AssertionResult was_woken() const {
    if (wakes() != woken_) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "nobody woke it: it looked because its slice was over";
  }

  Scratch scratch_;
  Capacities capacities_ = [] {
    Capacities capacities = small_capacities();
    capacities.backends = 2;
    return capacities;
  }();
  Pool pool_ = make_pool(scratch_, {{"max_backends", "1"}, {"load_cooldown", "off"}}, capacities_);
  std::uint32_t row_ = 0;
  std::uint32_t woken_ = 0;
};

TEST_F(WakeTest, P5AReadyWakesWhoWaitsForALoadToEnd) {
  ASSERT_TRUE(pool_.set({{"max_backends", "0"}, {"max_loads", "1"}}));
  LoadTicket ticket = ticket_for(pool_, "a");
  const auto waiter = start_waiter("b");
  ReadyOptions external;
  external.external = true;
  ASSERT_TRUE(ticket.ready("127.0.0.1:1", external));
  EXPECT_TRUE(was_woken());
  EXPECT_EQ(waiter->hear(), "ticket");
}

TEST_F(WakeTest, P5AReadyWakesWhoWaitsForThatModel) {
  LoadTicket ticket = ticket_for(pool_, "a");
  const auto waiter = start_waiter("a");
  ReadyOptions external;
  external.external = true;
  ASSERT_TRUE(ticket.ready("127.0.0.1:1", external));
  EXPECT_EQ(waiter->hear(), "lease");
  EXPECT_TRUE(was_woken());
}

TEST_F(WakeTest, P5ATicketGivenBackWakesWhoWaitsForThatModel) {
  LoadTicket ticket = ticket_for(pool_, "a");
  const auto waiter = start_waiter("a");
  ASSERT_TRUE(ticket.give_back());
  EXPECT_EQ(waiter->hear(), "ticket");
  EXPECT_TRUE(was_woken());
}

TEST_F(WakeTest, P5AFailedLoadWakesTheLine) {
  LoadTicket ticket = ticket_for(pool_, "a");
  const auto waiter = start_waiter("b");
  ASSERT_TRUE(ticket.fail("makes room"));
  EXPECT_EQ(waiter->hear(), "ticket");
  EXPECT_TRUE(was_woken());
}

TEST_F(WakeTest, P5AHeadThatLeavesWakesWhoIsBehindIt) {
  LoadTicket ticket = ticket_for(pool_, "resident");
  auto head = pool_.begin_acquire("head", std::chrono::seconds(60));
  ASSERT_TRUE(head);
  ASSERT_TRUE(head->poll());
  const auto next = start_waiter("next");
  ASSERT_TRUE(ticket.fail("makes room"));  // wakes the head, which does not look
  EXPECT_EQ(wakes(), woken_) << "the place is not its";
  { const PendingAcquire leaves = std::move(*head); }
  EXPECT_EQ(next->hear(), "ticket");
  EXPECT_TRUE(was_woken());
}

TEST_F(WakeTest, P5ARaisedLimitWakesTheLine) {
  const Daemon daemon(scratch_, {"--max-backends", "1", "--when-busy", "wait"});
  const Lease resident = load_external(pool_, "resident");
  const auto waiter = start_waiter("b");
  ASSERT_TRUE(pool_.set_limit(2));
  EXPECT_EQ(waiter->hear(), "ticket");
  EXPECT_TRUE(was_woken());
}

// The slot stays: its lease was cut and is still held. So it is the end itself that has to wake.
TEST_F(WakeTest, P5TheEndOfABackendWakesTheLine) {
  const Daemon daemon(scratch_, {"--max-backends", "1", "--when-busy", "wait"});
  const Lease cut = load_external(pool_, "resident");
  const auto waiter = start_waiter("b");
  ASSERT_TRUE(pool_.evict("resident", true));
  EXPECT_EQ(waiter->hear(), "ticket");
  EXPECT_TRUE(was_woken());
}

TEST_F(WakeTest, P5AFreedSlotWakesWhoFoundEverySlotTaken) {
  ASSERT_TRUE(pool_.set("max_backends", "0"));
  const Daemon daemon(scratch_);
  Lease first = load_external(pool_, "first");
  Lease second = load_external(pool_, "second");
  ASSERT_TRUE(pool_.evict("first", true));
  ASSERT_TRUE(eventually([&] { return state_of(pool_, "first") == "none"; }));
  const auto waiter = start_waiter("b");
  first.release();
  EXPECT_EQ(waiter->hear(), "ticket");
  EXPECT_TRUE(was_woken());
}

TEST_F(WakeTest, P5ADrainThatIsTakenBackWakesWhoWaitsForThatModel) {
  const Daemon daemon(scratch_, {"--max-backends", "1", "--drain-timeout", "300ms"});
  const Lease busy = load_external(pool_, "resident");
  auto wanted = pool_.begin_acquire("other", std::chrono::seconds(60));
  ASSERT_TRUE(wanted->poll());
  ASSERT_TRUE(eventually([&] { return state_of(pool_, "resident") == "evicting"; }));
  const auto waiter = start_waiter("resident");
  EXPECT_EQ(waiter->hear(), "lease");
  EXPECT_TRUE(was_woken());
}

}  // namespace
}  // namespace modelpool::test
