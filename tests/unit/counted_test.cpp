// Backends that count their leases: as many requests at once as `parallel`, first come, first
// served.
#include "protocol/counted.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "base/time.hpp"
#include "protocol/slots.hpp"
#include "segment/meters.hpp"
#include "support/pool.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

class Counted : public ::testing::Test {
 protected:
  void SetUp() override { load_external(pool_, "m").release(); }
  BackendRef backend() const { return find_backend(*segment_, "m")->ref; }
  // As the coordinator does at a scan.
  bool take_at_once(std::uint32_t parallel) {
    segment_->backend(backend().index).parallel.store(pack_half(backend().generation, parallel));
    if (!settle_counted(*segment_, backend())) return false;
    wake_waiters(*segment_, hash_name("m"));
    return true;
  }
  PendingAcquire wait_in_line() {
    auto pending = pool_.begin_acquire("m", std::chrono::seconds(30));
    if (!pending) throw std::runtime_error(pending.error().text);
    if (granted(*pending)) throw std::runtime_error("granted at once");
    return std::move(*pending);
  }
  static std::optional<Lease> granted(PendingAcquire& pending) {
    auto polled = pending.poll();
    if (!polled) throw std::runtime_error(polled.error().text);
    if (!polled->has_value()) return std::nullopt;
    return std::get<Lease>(std::move(**polled));
  }
  Errc refused_at_once() { return code_of(pool_.acquire("m", std::chrono::seconds(0))); }
  std::uint64_t meter(const std::string& outcome) const {
    std::uint64_t sum = 0;
    for (const MeterSeries& sample : read_meters(*segment_)) {
      for (const auto& [label, value] : sample.labels) {
        if (label == "outcome" && value == outcome) sum += sample.value;
      }
    }
    return sum;
  }

  const Scratch scratch_;
  Pool pool_ = make_pool(scratch_);
  const std::shared_ptr<Segment> segment_ = shared_segment_of(pool_);
};

TEST_F(Counted, ServesAsManyAtOnceAsItTakesAndNoMore) {
  ASSERT_TRUE(take_at_once(2));
  EXPECT_FALSE(settle_counted(*segment_, backend())) << "it says so already";
  const Lease first = lease_on(pool_, "m");
  Lease second = lease_on(pool_, "m");
  const auto third = pool_.acquire("m", std::chrono::seconds(0));
  EXPECT_EQ(code_of(third), Errc::kTimeout);
  EXPECT_THAT(text_of(third), ::testing::HasSubstr("as many requests at once as it takes"));
  second.release();
  const Lease fourth = lease_on(pool_, "m");
  EXPECT_EQ(look(pool_).find(backend())->in_flight, 2u);
  EXPECT_EQ(findings(segment_), "");
}

TEST_F(Counted, WhoEndsOneWakesTheNextHimself) {
  ASSERT_TRUE(take_at_once(1));
  Lease lease = lease_on(pool_, "m");
  PendingAcquire waiting = wait_in_line();
  EXPECT_FALSE(waiting.was_woken());
  lease.release();
  EXPECT_TRUE(waiting.was_woken()) << "no judge runs, and no slice has passed";
  EXPECT_TRUE(granted(waiting));
}

TEST_F(Counted, ALeaseOfBeforeItCountedIsCountedAndWakesTheNextToo) {
  Lease lease = lease_on(pool_, "m");
  ASSERT_TRUE(take_at_once(1));
  EXPECT_EQ(refused_at_once(), Errc::kTimeout);
  PendingAcquire waiting = wait_in_line();
  lease.release();
  EXPECT_TRUE(waiting.was_woken());
  EXPECT_TRUE(granted(waiting));
}

TEST_F(Counted, FirstComeIsFirstServed) {
  ASSERT_TRUE(take_at_once(1));
  Lease lease = lease_on(pool_, "m");
  PendingAcquire first = wait_in_line();
  PendingAcquire second = wait_in_line();
  lease.release();
  EXPECT_EQ(refused_at_once(), Errc::kTimeout) << "nobody overtakes who waits";
  EXPECT_FALSE(granted(second));
  std::optional<Lease> next = granted(first);
  ASSERT_TRUE(next);
  EXPECT_FALSE(granted(second));
  next->release();
  EXPECT_TRUE(granted(second));
}

TEST_F(Counted, AStoppedWaiterHoldsNobodyUp) {
  ASSERT_TRUE(take_at_once(1));
  Lease lease = lease_on(pool_, "m");
  const PendingAcquire stopped = wait_in_line();
  segment_->waiter(look(pool_).waiters.at(0).row).looked_ns.store(1);
  lease.release();
  EXPECT_TRUE(pool_.acquire("m", std::chrono::seconds(0)));
}

TEST_F(Counted, LoweringCutsNoneAndRaisingWakes) {
  ASSERT_TRUE(take_at_once(3));
  std::vector<Lease> leases;
  for (int i = 0; i < 3; ++i) leases.push_back(lease_on(pool_, "m"));
  take_at_once(1);
  EXPECT_EQ(look(pool_).find(backend())->in_flight, 3u);
  leases.pop_back();
  leases.pop_back();
  EXPECT_EQ(refused_at_once(), Errc::kTimeout);
  PendingAcquire waiting = wait_in_line();
  EXPECT_TRUE(take_at_once(0)) << "no limit any more";
  EXPECT_TRUE(waiting.was_woken());
  EXPECT_TRUE(granted(waiting));
  EXPECT_FALSE(look(pool_).find(backend())->counted());
}

TEST_F(Counted, OneThatIsClosedMeanwhileGrantsNothing) {
  ASSERT_TRUE(take_at_once(1));
  ASSERT_TRUE(close_to_leases(*segment_, backend(), 1));
  auto attached = Worker::attach(segment_);
  ASSERT_TRUE(attached);
  LeaseRef lease;
  const auto lock = segment_->lock_structure();
  EXPECT_EQ(begin_counted_lease(*lock, **attached, {backend(), hash_name("m")}, "", &lease),
            BeginResult::kNotReady);
  EXPECT_FALSE(any_lease_names(*segment_, backend()));
}

TEST_F(Counted, LeasesCountInTheMetersAsAllOthers) {
  ASSERT_TRUE(take_at_once(1));
  Lease lease = lease_on(pool_, "m");
  EXPECT_EQ(meter("hit"), 1u);
  EXPECT_EQ(refused_at_once(), Errc::kTimeout);
  EXPECT_EQ(meter("timeout"), 1u);
  PendingAcquire waiting = wait_in_line();
  lease.release();
  EXPECT_TRUE(granted(waiting));
  EXPECT_EQ(meter("waited"), 1u);
  EXPECT_EQ(meter("hit"), 1u);
}

TEST_F(Counted, NeverMoreAtOnceWhoeverAsksAndHowOften) {
  constexpr int kAtOnce = 3;
  ASSERT_TRUE(take_at_once(kAtOnce));
  std::atomic<int> in_flight{0};
  std::atomic<int> most{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      Pool own = make_pool(scratch_);
      for (int i = 0; i < 300; ++i) {
        const Lease lease = lease_on(own, "m");
        const int now = ++in_flight;
        for (int seen = most.load(); seen < now && !most.compare_exchange_weak(seen, now);) {
        }
        std::this_thread::yield();
        --in_flight;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(most.load(), kAtOnce);
  EXPECT_GT(most.load(), 1);
  EXPECT_EQ(look(pool_).waiters.size(), 0u);
}

}  // namespace
