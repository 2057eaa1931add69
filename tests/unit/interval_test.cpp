#include "policy/interval.hpp"

#include <gtest/gtest.h>

#include <string>

#include "protocol/leases.hpp"
#include "support/pool.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

TEST(SmoothInterval, StartsWithTheFirstAndTakesAnEighthOfEachOther) {
  EXPECT_EQ(smooth_interval(0, 800), 800u);
  EXPECT_EQ(smooth_interval(800, 1600), 900u);
  EXPECT_EQ(smooth_interval(800, 0), 700u);
  EXPECT_EQ(smooth_interval(800, 800), 800u);
}

// With 7/8 + 1/8 in whole numbers it stayed up to 7 away for ever.
TEST(SmoothInterval, GetsToWhatIsObserved) {
  for (const std::uint64_t start : {1u, 95u, 107u, 4000u}) {
    std::uint64_t interval = start;
    for (int i = 0; i < 200; ++i) interval = smooth_interval(interval, 100);
    EXPECT_EQ(interval, 100u) << "from " << start;
  }
}

TEST(PoolInterval, OfNobodyIsUnknown) { EXPECT_EQ(PoolInterval().interval_ns(), 0u); }

TEST(PoolInterval, AddsUpWhatEachWorkerAsks) {
  PoolInterval interval;
  interval.add(8 * kSecond_ns, 0);
  EXPECT_NEAR(static_cast<double>(interval.interval_ns()), 8e9, 8);
  interval.add(8 * kSecond_ns, kSecond_ns);
  EXPECT_NEAR(static_cast<double>(interval.interval_ns()), 4e9, 8);
  for (int i = 0; i < 62; ++i) interval.add(8 * kSecond_ns, 0);
  EXPECT_NEAR(static_cast<double>(interval.interval_ns()), 8e9 / 64, 8);
}

TEST(PoolInterval, LetsAWorkerFadeThatHasStopped) {
  PoolInterval interval;
  interval.add(kSecond_ns, 0);
  interval.add(kSecond_ns, 3600 * kSecond_ns);
  EXPECT_GT(interval.interval_ns(), kSecond_ns * 999 / 1000);
  EXPECT_LE(interval.interval_ns(), kSecond_ns);
}

TEST(PoolInterval, OverflowsWithNoValueAndNoNumberOfWorkers) {
  PoolInterval fast;
  PoolInterval odd;
  for (std::uint32_t i = 0; i < kWorkersMax; ++i) {
    fast.add(0, 0);
    odd.add(UINT64_MAX, UINT64_MAX);
  }
  EXPECT_EQ(fast.interval_ns(), kIntervalMin_ns / kWorkersMax);
  EXPECT_GT(odd.interval_ns(), 0u);
  EXPECT_LE(odd.interval_ns(), kIntervalMax_ns / kWorkersMax + 1);
}

// --- As leases write it --------------------------------------------------------------------------

class Intervals : public ::testing::Test {
 protected:
  Intervals() {
    load_external(pool_, "m").release();
    backend_ = find_backend(*segment_, "m")->ref;
    auto attached = Worker::attach(segment_);
    if (!attached) throw std::runtime_error(attached.error().text);
    worker_ = *attached;
  }
  UsedCell& cell() const { return worker_->used_cell(backend_.index); }
  std::uint64_t interval_ms() const {
    const std::uint64_t word = cell().interval.load();
    return high_half(word) == backend_.generation ? low_half(word) : 0;
  }
  void end_one() const {
    LeaseRef lease;
    ASSERT_EQ(begin_lease(*worker_, backend_, 0, "", &lease), BeginResult::kGranted);
    end_lease(lease);
  }
  // As if the last use had been so long ago.
  void last_use_was(std::uint64_t ago_ns) const { cell().stamp_ns.store(stamp_now_ns() - ago_ns); }

  const Scratch scratch_;
  Pool pool_ = make_pool(scratch_);
  const std::shared_ptr<Segment> segment_ = shared_segment_of(pool_);
  BackendRef backend_;
  Worker* worker_ = nullptr;
};

TEST_F(Intervals, AreKnownFromTheSecondEndOfALeaseOn) {
  last_use_was(5 * kSecond_ns);  // of the slot's last life, or a touch
  end_one();
  EXPECT_EQ(interval_ms(), 0u);
  EXPECT_EQ(high_half(cell().interval.load()), backend_.generation);
  last_use_was(800 * kMillisecond_ns);
  end_one();
  const std::uint64_t first = interval_ms();
  EXPECT_GE(first, 800u);
  last_use_was(10 * kSecond_ns);
  end_one();
  EXPECT_GE(interval_ms(), first + (10'000 - first) / 8);
}

TEST_F(Intervals, ChangeOnceATick) {
  end_one();
  last_use_was(800 * kMillisecond_ns);
  end_one();
  const std::uint64_t before = cell().interval.load();
  cell().stamp_ns.store(now_ns() + kSecond_ns);  // the tick does not pass
  for (int i = 0; i < 100; ++i) end_one();
  EXPECT_EQ(cell().interval.load(), before);
}

TEST_F(Intervals, OfAnotherLifeOfTheSlotCountForNothing) {
  cell().interval.store(pack_half(backend_.generation + 1, 5000));
  EXPECT_EQ(look(pool_).find(backend_)->interval_ns, 0u);
  last_use_was(kSecond_ns);
  end_one();
  EXPECT_EQ(cell().interval.load(), pack_half(backend_.generation, 0));
}

TEST_F(Intervals, AreNotWrittenByTouchNorByTheReaper) {
  last_use_was(kSecond_ns);
  end_one();
  last_use_was(kSecond_ns);
  end_one();
  const std::uint64_t before = cell().interval.load();
  last_use_was(kSecond_ns);
  raise_last_used(cell().stamp_ns, now_ns());
  EXPECT_EQ(cell().interval.load(), before);
  LeaseRef lease;
  ASSERT_EQ(begin_lease(*worker_, backend_, 0, "", &lease), BeginResult::kGranted);
  clear_worker_row(*segment_, worker_->ref(), segment_->coordinator_row());
  EXPECT_EQ(segment_->used_cell(segment_->coordinator_row(), backend_.index).interval.load(), 0u);
  EXPECT_GT(segment_->last_used(segment_->coordinator_row(), backend_.index).load(), 0u);
}

TEST_F(Intervals, OfAllWorkersAreOneInASnapshot) {
  EXPECT_EQ(look(pool_).find(backend_)->interval_ns, 0u);
  const std::uint64_t now = now_ns();
  for (const std::uint32_t row : {0u, 1u}) {
    UsedCell& used = segment_->used_cell(row, backend_.index);
    used.stamp_ns.store(now);
    used.interval.store(pack_half(backend_.generation, 60'000));
  }
  const std::uint64_t together = look(pool_).find(backend_)->interval_ns;
  EXPECT_NEAR(static_cast<double>(together), 30e9, 1e3);
}

TEST_F(Intervals, GoOnWithTheRowsNextOwner) {
  last_use_was(kSecond_ns);
  end_one();
  last_use_was(kSecond_ns);
  end_one();
  const std::uint64_t before = cell().interval.load();
  const WorkerRef old = worker_->ref();
  worker_->close();
  auto next = Worker::attach(segment_);
  ASSERT_TRUE(next);
  ASSERT_EQ((*next)->ref().index, old.index);
  EXPECT_EQ((*next)->used_cell(backend_.index).interval.load(), before);
}

TEST_F(Intervals, TakeNoHarmFromOddStampsAndWords) {
  for (const std::uint64_t word : {UINT64_MAX, pack_half(backend_.generation, UINT32_MAX)}) {
    for (const std::uint64_t stamp : {std::uint64_t{0}, std::uint64_t{1}, stamp_now_ns() - 1}) {
      cell().interval.store(word);
      cell().stamp_ns.store(stamp);
      end_one();
      EXPECT_EQ(high_half(cell().interval.load()), backend_.generation);
    }
  }
  cell().interval.store(pack_half(backend_.generation, UINT32_MAX));
  EXPECT_LE(look(pool_).find(backend_)->interval_ns, kIntervalMax_ns);
}

}  // namespace
