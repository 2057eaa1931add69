// What an event loop does with a pool: it never blocks, and one descriptor tells it when to poll.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "segment/futex.hpp"
#include "support/daemon.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

namespace modelpool::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

bool readable(int fd, int within_ms = 30'000) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, within_ms) == 1 && (entry.revents & POLLIN) != 0;
}
void drain(int fd) {
  std::uint64_t count = 0;
  EXPECT_EQ(read(fd, &count, sizeof count), static_cast<ssize_t>(sizeof count));
}

std::string said_of(const Grant& grant) {
  return std::holds_alternative<Lease>(grant) ? "lease" : "ticket";
}
std::string said_of(const Result<Attempt>& attempt) {
  if (!attempt) return std::string(errc_name(attempt.error().code));
  if (std::holds_alternative<PendingAcquire>(*attempt)) return "pending";
  return std::holds_alternative<Lease>(*attempt) ? "lease" : "ticket";
}
std::string poll_once(PendingAcquire& pending) {
  auto polled = pending.poll();
  if (!polled) return std::string(errc_name(polled.error().code));
  return *polled ? said_of(**polled) : "pending";
}

class EventLoop : public ::testing::Test {
 protected:
  PendingAcquire pending_for(const std::string& model, Deadline deadline = seconds(600)) {
    auto attempt = pool_.try_acquire(model, deadline);
    EXPECT_EQ(said_of(attempt), "pending");
    return std::get<PendingAcquire>(std::move(*attempt));
  }
  // As a loop does: polls when the descriptor says so, and never else.
  std::string come_to_an_end(int fd, PendingAcquire& pending) {
    for (;;) {
      if (!readable(fd)) return "the descriptor said nothing";
      drain(fd);
      if (std::string said = poll_once(pending); said != "pending") return said;
    }
  }
  // Another process, with the pool's mutex in hand until it is told to let go.
  std::unique_ptr<Forked> hold_mutex() {
    auto holder = std::make_unique<Forked>([this](Forked::Child& parent) {
      const auto lock = lock_for(segment_of(pool_).lock(), kLockWaitMax_ns);
      parent.say(lock ? "locked" : lock.error().text);
      parent.hear();
    });
    EXPECT_EQ(holder->hear(), "locked");
    return holder;
  }
  // Is the descriptor readable for a wake, and not because a second has gone by? A machine that is
  // too slow to tell is asked again.
  bool is_told_of_wakes(int fd) {
    for (int round = 0; round < 20; ++round) {
      const std::string model = "woken" + std::to_string(round);
      LoadTicket ticket = ticket_for(pool_, model);
      PendingAcquire pending = pending_for(model);
      while (readable(fd, 20)) drain(fd);
      EXPECT_EQ(poll_once(pending), "pending");
      const std::uint64_t polled_ns = now_ns();
      static_cast<void>(ticket.give_back());
      EXPECT_TRUE(readable(fd));
      if (now_ns() < polled_ns + kLookEvery_ns) return true;
    }
    return false;
  }

  Scratch scratch_;
  Pool pool_ = make_pool(scratch_, {{"max_backends", "0"}, {"load_cooldown", "off"}});
};

TEST_F(EventLoop, ATryIsALeaseATicketOrAWait) {
  const Lease loaders = load_external(pool_, "loaded");
  EXPECT_EQ(said_of(pool_.try_acquire("loaded")), "lease");
  EXPECT_EQ(said_of(pool_.try_acquire("loaded")), "lease") << "by what the thread remembers";
  auto ticket = pool_.try_acquire("new");
  ASSERT_EQ(said_of(ticket), "ticket");
  PendingAcquire pending = pending_for("new");
  EXPECT_EQ(look(pool_).waiters.size(), 1u);
  ReadyOptions external;
  external.external = true;
  ASSERT_TRUE(std::get<LoadTicket>(*ticket).ready("127.0.0.1:2", external));
  EXPECT_TRUE(pending.was_woken());
  EXPECT_EQ(poll_once(pending), "lease");
}

TEST_F(EventLoop, ATryThatIsRefusedSaysWhyAtOnce) {
  AcquireOptions options;
  options.may_load = false;
  EXPECT_EQ(said_of(pool_.try_acquire("m", seconds(600), options)), "not_loaded");
  EXPECT_EQ(said_of(pool_.try_acquire("")), "invalid");
  const LoadTicket ticket = ticket_for(pool_, "m");
  EXPECT_EQ(said_of(pool_.try_acquire("m", seconds(0))), "timeout");
  pool_.close();
  EXPECT_EQ(said_of(pool_.try_acquire("m")), "closed");
}

// Whoever waited for the mutex would be refused with "busy" while it is held.
TEST_F(EventLoop, TryAcquireDoesNotWaitForTheMutex) {
  const Lease loaders = load_external(pool_, "loaded");
  const int fd = pool_.wait_fd().value();
  const auto holder = hold_mutex();
  EXPECT_EQ(said_of(pool_.try_acquire("loaded")), "lease");
  PendingAcquire pending = pending_for("new");
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(readable(fd)) << "it is to be tried again";
    drain(fd);
    EXPECT_EQ(poll_once(pending), "pending");
  }
  EXPECT_TRUE(look(pool_).waiters.empty()) << "it is in no line yet";
  holder->say("let go");
  EXPECT_EQ(come_to_an_end(fd, pending), "ticket");
}

TEST_F(EventLoop, P5WhoHadTheMutexFirstIsFirstInLine) {
  ASSERT_TRUE(pool_.set("max_backends", "1"));
  LoadTicket ticket = ticket_for(pool_, "a");
  auto holder = hold_mutex();
  PendingAcquire late = pending_for("late");
  holder->say("let go");
  EXPECT_EQ(holder->wait(), 0);
  PendingAcquire early = pending_for("early");
  ASSERT_EQ(poll_once(late), "pending");
  const Snapshot s = look(pool_);
  ASSERT_EQ(s.waiters.size(), 2u);
  EXPECT_EQ(s.waiters[0].model, "early");
  ASSERT_TRUE(ticket.give_back());
  EXPECT_EQ(poll_once(late), "pending");
  EXPECT_EQ(poll_once(early), "ticket");
}

TEST_F(EventLoop, AMutexThatIsHeldUntilTheDeadlineIsATimeoutThatNamesWhoHoldsIt) {
  const int fd = pool_.wait_fd().value();
  const auto holder = hold_mutex();
  const auto at_once = pool_.try_acquire("m", seconds(0));
  EXPECT_EQ(said_of(at_once), "timeout");
  EXPECT_THAT(text_of(at_once), HasSubstr(std::to_string(holder->pid())));
  PendingAcquire pending = pending_for("m", milliseconds(100));
  EXPECT_EQ(come_to_an_end(fd, pending), "timeout");
}

// A tried mutex that is held for long is no reason to be busy.
TEST_F(EventLoop, AMutexThatIsHeldIsTriedEverMoreSeldom) {
  const int fd = pool_.wait_fd().value();
  const auto holder = hold_mutex();
  PendingAcquire pending = pending_for("m");
  const std::uint64_t begin_ns = now_ns();
  int polls = 0;
  for (; now_ns() < begin_ns + kSecond_ns; ++polls) {
    ASSERT_TRUE(readable(fd));
    drain(fd);
    ASSERT_EQ(poll_once(pending), "pending");
  }
  EXPECT_LE(polls, 60);
}

TEST_F(EventLoop, AWaitFdIsReadableWhenAWaitIsWoken) {
  const int fd = pool_.wait_fd().value();
  EXPECT_EQ(pool_.wait_fd().value(), fd);
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  EXPECT_NE(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_TRUE(is_told_of_wakes(fd));
}

TEST_F(EventLoop, AWaitFdTellsOfWaitsThatWereBegunBefore) {
  LoadTicket ticket = ticket_for(pool_, "m");
  PendingAcquire pending = pending_for("m");
  const int fd = pool_.wait_fd().value();
  ASSERT_TRUE(ticket.give_back());
  EXPECT_EQ(come_to_an_end(fd, pending), "ticket");
}

TEST_F(EventLoop, AWaitFdIsReadableAtADeadline) {
  const int fd = pool_.wait_fd().value();
  const LoadTicket ticket = ticket_for(pool_, "m");
  PendingAcquire pending = pending_for("m", milliseconds(50));
  EXPECT_EQ(come_to_an_end(fd, pending), "timeout");
}

// Nobody wakes it here: a waker may die before it does.
TEST_F(EventLoop, AWaitFdIsReadableEachSecondWhileSomebodyWaits) {
  const int fd = pool_.wait_fd().value();
  const LoadTicket ticket = ticket_for(pool_, "m");
  PendingAcquire pending = pending_for("m");
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(readable(fd));
    drain(fd);
    EXPECT_EQ(poll_once(pending), "pending");
  }
}

TEST_F(EventLoop, AWaitThatWasNeverPolledIsDue) {
  const int fd = pool_.wait_fd().value();
  auto pending = pool_.begin_acquire("m", seconds(600));
  ASSERT_TRUE(pending);
  EXPECT_EQ(come_to_an_end(fd, *pending), "ticket");
}

TEST_F(EventLoop, ACancelMakesTheWaitFdReadable) {
  const int fd = pool_.wait_fd().value();
  const LoadTicket ticket = ticket_for(pool_, "m");
  PendingAcquire pending = pending_for("m");
  std::jthread canceller([&] { pending.cancel(); });
  EXPECT_EQ(come_to_an_end(fd, pending), "cancelled");
}

TEST_F(EventLoop, OfManyWaitsThoseToBePolledAreTold) {
  LoadTicket ready = ticket_for(pool_, "ready");
  const LoadTicket loading = ticket_for(pool_, "loading");
  PendingAcquire first = pending_for("ready");
  PendingAcquire second = pending_for("loading");
  ReadyOptions external;
  external.external = true;
  ASSERT_TRUE(ready.ready("127.0.0.1:1", external));
  EXPECT_TRUE(first.was_woken());
  EXPECT_FALSE(second.was_woken());
}

TEST_F(EventLoop, AWaitFdRestsWhileNobodyWaits) {
  const int fd = pool_.wait_fd().value();
  {
    const LoadTicket ticket = ticket_for(pool_, "m");
    PendingAcquire ended = pending_for("m", milliseconds(10));
    ASSERT_EQ(come_to_an_end(fd, ended), "timeout");
    const PendingAcquire left = pending_for("m");
  }
  while (readable(fd, 20)) drain(fd);
  // As a waker does that meant one of those waits.
  const HalfWord& word = **wake_word_of(pool_);
  const_cast<HalfWord&>(word).fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(word);
  EXPECT_FALSE(readable(fd, 1200));
}

TEST_F(EventLoop, AChildOfForkHasAWaitFdOfItsOwn) {
  const int fd = pool_.wait_fd().value();
  LoadTicket ticket = ticket_for(pool_, "m");
  std::optional<PendingAcquire> pending = pending_for("m");
  Forked child([&](Forked::Child& parent) {
    EXPECT_EQ(poll_once(*pending), "closed");
    pending.reset();  // inert: ends nothing of the parent's
    const int own = pool_.wait_fd().value();
    EXPECT_NE(own, fd);
    PendingAcquire mine = pending_for("m");
    parent.say("waits");
    EXPECT_EQ(come_to_an_end(own, mine), "ticket");
  });
  ASSERT_EQ(child.hear(), "waits");
  EXPECT_EQ(look(pool_).waiters.size(), 2u);
  ASSERT_TRUE(ticket.give_back());
  EXPECT_EQ(come_to_an_end(fd, *pending), "ticket") << "it came first";
  pending.reset();
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(EventLoop, AWaitFdGoesOnWhenThePoolLostItsName) {
  const int fd = pool_.wait_fd().value();
  const std::string first = segment_of(pool_).uuid_text();
  std::filesystem::remove(scratch_.path("default"));
  auto pending = pool_.begin_acquire("m", seconds(60));
  ASSERT_TRUE(pending);
  EXPECT_EQ(come_to_an_end(fd, *pending), "ticket");
  EXPECT_NE(segment_of(pool_).uuid_text(), first);
  EXPECT_EQ(pool_.wait_fd().value(), fd);
  EXPECT_TRUE(is_told_of_wakes(fd)) << "wakers bump another word now";
}

TEST_F(EventLoop, AWaitFdIsClosedWithItsPool) {
  std::optional<Pool> pool = make_pool(scratch_);
  const int fd = pool->wait_fd().value();
  pool->close();
  EXPECT_EQ(code_of(pool->wait_fd()), Errc::kClosed);
  EXPECT_TRUE(eventually([&] { return fcntl(fd, F_GETFD) < 0; }));
}

TEST_F(EventLoop, AWaitOutlivesItsPool) {
  std::optional<Pool> pool = make_pool(scratch_);
  ASSERT_TRUE(pool->wait_fd());
  const LoadTicket ticket = ticket_for(pool_, "m");
  auto attempt = pool->try_acquire("m", milliseconds(50));
  ASSERT_EQ(said_of(attempt), "pending");
  auto pending = std::get<PendingAcquire>(std::move(*attempt));
  pool.reset();
  std::string said;
  while ((said = poll_once(pending)) == "pending") pending.wait();
  EXPECT_EQ(said, "timeout");
}

}  // namespace
}  // namespace modelpool::test
