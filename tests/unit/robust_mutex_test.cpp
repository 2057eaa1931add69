#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/time.hpp"
#include "segment/mutex.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

// A mutex that forked processes share, as they share a segment.
class RobustMutex : public ::testing::Test {
 protected:
  void SetUp() override {
    void* memory = mmap(nullptr, sizeof(LockRecord), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    record_ = static_cast<LockRecord*>(memory);
    ASSERT_TRUE(init_mutex(*record_));
  }
  // The body of a process that says "locked" and holds it until it hears something or dies.
  std::function<void(Forked::Child&)> holds_it() {
    return [this](Forked::Child& parent) {
      const auto guard = lock_for(*record_, 0);
      parent.say("locked");
      parent.hear();
    };
  }
  // Never unmapped: its holder may have died.
  LockRecord* record_ = nullptr;
};

TEST_F(RobustMutex, IsTakenAndGivenBackWithItsGuard) {
  const std::uint64_t before = now_ns();
  for (int i = 0; i < 3; ++i) {
    const auto guard = lock_for(*record_, 0);
    ASSERT_TRUE(guard);
    EXPECT_FALSE(guard->owner_died());
    EXPECT_EQ(record_->holder_pid.load(), static_cast<std::uint32_t>(getpid()));
    EXPECT_LE(read_holder(*record_).since_ns, now_ns());
    EXPECT_GE(read_holder(*record_).since_ns, before);
  }
  EXPECT_EQ(record_->holder_pid.load(), 0u);
  EXPECT_EQ(read_holder(*record_).since_ns, 0u);
}

TEST_F(RobustMutex, MovesWithItsGuard) {
  auto guard = lock_for(*record_, 0);
  ASSERT_TRUE(guard);
  {
    const LockGuard moved = std::move(*guard);
    std::thread([&] { EXPECT_FALSE(lock_for(*record_, 0)); }).join();
  }
  EXPECT_TRUE(lock_for(*record_, 0));
}

TEST_F(RobustMutex, ExcludesOtherThreadsAndProcesses) {
  const auto guard = lock_for(*record_, 0);
  ASSERT_TRUE(guard);
  std::thread([&] {
    const auto refused = lock_for(*record_, 0);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::kBusy);
  }).join();
  Forked other([&](Forked::Child&) { EXPECT_FALSE(lock_for(*record_, 0)); });
  EXPECT_EQ(other.wait(), 0);
}

TEST_F(RobustMutex, RefusesTheThreadThatHoldsItInsteadOfHanging) {
  const auto guard = lock_for(*record_, 0);
  ASSERT_TRUE(guard);
  EXPECT_FALSE(lock_for(*record_, kSecond_ns));
}

TEST_F(RobustMutex, WaitsForAHolderThatLetsGo) {
  auto guard = std::make_unique<Result<LockGuard>>(lock_for(*record_, 0));
  ASSERT_TRUE(*guard);
  Forked other([&](Forked::Child& parent) {
    parent.say("waiting");
    const auto mine = lock_for(*record_, 60 * kSecond_ns);
    parent.say(mine ? "locked" : mine.error().text);
  });
  ASSERT_EQ(other.hear(), "waiting");
  guard.reset();
  EXPECT_EQ(other.hear(), "locked");
}

TEST_F(RobustMutex, NamesAStoppedHolderAndIsNotEarly) {
  Forked holder(holds_it());
  ASSERT_EQ(holder.hear(), "locked");
  holder.signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(holder.pid()));
  const std::uint64_t before = now_ns();
  const auto refused = lock_for(*record_, 100 * kMillisecond_ns);
  ASSERT_FALSE(refused);
  EXPECT_GE(now_ns() - before, 100 * kMillisecond_ns);
  EXPECT_EQ(refused.error().code, Errc::kBusy);
  EXPECT_NE(refused.error().text.find("process " + std::to_string(holder.pid())), std::string::npos)
      << refused.error().text;
  // SIGSTOP is not death: it is never taken from under a stopped holder.
  holder.signal(SIGCONT);
  holder.say("let go");
  EXPECT_EQ(holder.wait(), 0);
  const auto guard = lock_for(*record_, kSecond_ns);
  ASSERT_TRUE(guard);
  EXPECT_FALSE(guard->owner_died());
}

TEST_F(RobustMutex, TellsTheNextLockerOfItsOwnersDeathOnce) {
  Forked holder(holds_it());
  ASSERT_EQ(holder.hear(), "locked");
  holder.kill_now();
  {
    const auto guard = lock_for(*record_, 0);
    ASSERT_TRUE(guard);
    EXPECT_TRUE(guard->owner_died());
  }
  const auto again = lock_for(*record_, 0);
  ASSERT_TRUE(again);
  EXPECT_FALSE(again->owner_died());
}

TEST_F(RobustMutex, WakesAWaiterWhenItsOwnerDies) {
  Forked holder(holds_it());
  ASSERT_EQ(holder.hear(), "locked");
  Forked waiter([&](Forked::Child& parent) {
    parent.say("waiting");
    const auto mine = lock_for(*record_, 60 * kSecond_ns);
    parent.say(mine ? (mine->owner_died() ? "owner died" : "locked") : mine.error().text);
  });
  ASSERT_EQ(waiter.hear(), "waiting");
  holder.kill_now();
  EXPECT_EQ(waiter.hear(), "owner died");
}

// A second fault: who took over died too, before it marked the mutex consistent.
TEST_F(RobustMutex, SurvivesARecovererThatDiesBeforeItHasRecovered) {
  Forked holder(holds_it());
  ASSERT_EQ(holder.hear(), "locked");
  holder.kill_now();
  Forked recoverer([&](Forked::Child& parent) {
    parent.say(pthread_mutex_lock(&record_->mutex) == EOWNERDEAD ? "owner died" : "unexpected");
    parent.hear();
  });
  ASSERT_EQ(recoverer.hear(), "owner died");
  recoverer.kill_now();
  const auto guard = lock_for(*record_, 0);
  ASSERT_TRUE(guard);
  EXPECT_TRUE(guard->owner_died());
}

TEST_F(RobustMutex, ReportsAThreadThatEndedWithItAsADeadOwner) {
  std::thread([&] { EXPECT_EQ(pthread_mutex_lock(&record_->mutex), 0); }).join();
  const auto guard = lock_for(*record_, 0);
  ASSERT_TRUE(guard);
  EXPECT_TRUE(guard->owner_died());
}

TEST_F(RobustMutex, ThatIsDamagedIsAnErrorThatSaysWhatToDo) {
  Forked holder([&](Forked::Child& parent) {
    parent.say(pthread_mutex_lock(&record_->mutex) == 0 ? "locked" : "unexpected");
    parent.hear();
  });
  ASSERT_EQ(holder.hear(), "locked");
  holder.kill_now();
  // Unlocked without having been made consistent: nobody can have it any more.
  ASSERT_EQ(pthread_mutex_lock(&record_->mutex), EOWNERDEAD);
  pthread_mutex_unlock(&record_->mutex);
  const auto refused = lock_for(*record_, 0);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text.find("remove the pool"), std::string::npos)
      << refused.error().text;
}

}  // namespace
