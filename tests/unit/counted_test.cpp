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
#include "segment/settings_block.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

class Counted : public ::testing::Test {
 protected:
  void SetUp() override { load_external(pool_, "m").release(); }
  BackendRef backend() const { return find_backend(*segment_, "m")->ref; }
  void take_at_once(int parallel) {
    if (auto ok = pool_.set("parallel", std::to_string(parallel)); !ok)
      throw std::runtime_error(ok.error().text);
  }
  bool is_counted() const {
    return load_state(*segment_, backend().index).owner == StateWord::kCounted;
  }
  // As it is after a change whose author was killed before he put the backends right, and of which
  // nobody has told them since.
  void publish_only(int parallel) {
    const Settings settings =
        settings_of({{"max_backends", "0"}, {"parallel", std::to_string(parallel)}});
    const auto image = SettingsImage::make(settings, segment_->settings_copy_words());
    const auto lock = segment_->lock_structure();
    publish_settings(*segment_, *lock, *image);
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
  Pool pool_ = make_pool(scratch_, {{"max_backends", "0"}});
  const std::shared_ptr<Segment> segment_ = shared_segment_of(pool_);
};

TEST_F(Counted, ServesAsManyAtOnceAsItTakesAndNoMore) {
  take_at_once(2);
  EXPECT_TRUE(is_counted());
  const Lease first = lease_on(pool_, "m");
  Lease second = lease_on(pool_, "m");
  const auto third = pool_.acquire("m", std::chrono::seconds(0));
  EXPECT_EQ(code_of(third), Errc::kTimeout);
  EXPECT_THAT(text_of(third), ::testing::HasSubstr("full (2 of 2 requests at once)"));
  second.release();
  const Lease fourth = lease_on(pool_, "m");
  EXPECT_EQ(look(pool_).find(backend())->in_flight, 2u);
  EXPECT_EQ(findings(segment_), "");
}

TEST_F(Counted, WhoEndsOneWakesTheNextHimself) {
  take_at_once(1);
  Lease lease = lease_on(pool_, "m");
  PendingAcquire waiting = wait_in_line();
  EXPECT_FALSE(waiting.was_woken());
  lease.release();
  EXPECT_TRUE(waiting.was_woken()) << "no judge runs, and no slice has passed";
  EXPECT_TRUE(granted(waiting));
}

TEST_F(Counted, ALeaseOfBeforeItCountedIsCountedAndWakesTheNextToo) {
  Lease lease = lease_on(pool_, "m");
  take_at_once(1);
  EXPECT_EQ(refused_at_once(), Errc::kTimeout);
  PendingAcquire waiting = wait_in_line();
  lease.release();
  EXPECT_TRUE(waiting.was_woken());
  EXPECT_TRUE(granted(waiting));
}

TEST_F(Counted, FirstComeIsFirstServed) {
  take_at_once(1);
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
  take_at_once(1);
  Lease lease = lease_on(pool_, "m");
  const PendingAcquire stopped = wait_in_line();
  segment_->waiter(look(pool_).waiters.at(0).row).looked_ns.store(1);
  lease.release();
  EXPECT_TRUE(pool_.acquire("m", std::chrono::seconds(0)));
}

TEST_F(Counted, LoweringCutsNoneAndRaisingWakes) {
  take_at_once(3);
  std::vector<Lease> leases;
  for (int i = 0; i < 3; ++i) leases.push_back(lease_on(pool_, "m"));
  take_at_once(1);
  EXPECT_EQ(look(pool_).find(backend())->in_flight, 3u);
  leases.pop_back();
  leases.pop_back();
  EXPECT_EQ(refused_at_once(), Errc::kTimeout);
  PendingAcquire waiting = wait_in_line();
  take_at_once(0);
  EXPECT_TRUE(waiting.was_woken());
  EXPECT_TRUE(granted(waiting));
  EXPECT_FALSE(look(pool_).find(backend())->counted());
}

TEST_F(Counted, OneThatIsClosedMeanwhileGrantsNothing) {
  take_at_once(1);
  ASSERT_TRUE(close_to_leases(*segment_, backend(), 1));
  auto attached = Worker::attach(segment_);
  ASSERT_TRUE(attached);
  LeaseRef lease;
  const auto lock = segment_->lock_structure();
  EXPECT_EQ(begin_counted_lease(*lock, **attached, {backend(), hash_name("m")}, "", &lease).result,
            BeginResult::kNotReady);
  EXPECT_FALSE(any_lease_names(*segment_, backend()));
}

TEST_F(Counted, LeasesCountInTheMetersAsAllOthers) {
  take_at_once(1);
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

TEST_F(Counted, TwoEndsWakeTwoWaitersThoughBothWakeTheFirst) {
  take_at_once(2);
  std::vector<Lease> leases;
  for (int i = 0; i < 2; ++i) leases.push_back(lease_on(pool_, "m"));
  PendingAcquire first = wait_in_line();
  PendingAcquire second = wait_in_line();
  leases.clear();
  EXPECT_TRUE(first.was_woken());
  EXPECT_FALSE(second.was_woken()) << "one after the other, not all at each end";
  const std::optional<Lease> next = granted(first);
  ASSERT_TRUE(next);
  EXPECT_TRUE(second.was_woken()) << "though the first has not ended";
  EXPECT_TRUE(granted(second));
}

TEST_F(Counted, WhoLeavesTheLineWakesTheNext) {
  take_at_once(1);
  Lease lease = lease_on(pool_, "m");
  std::optional<PendingAcquire> first = wait_in_line();
  PendingAcquire second = wait_in_line();
  lease.release();
  ASSERT_TRUE(first->was_woken());
  ASSERT_FALSE(granted(second));
  first.reset();  // cancelled, or it timed out
  EXPECT_TRUE(second.was_woken());
  EXPECT_TRUE(granted(second));
}

TEST_F(Counted, NobodyCountsAWaiterBesideItsLease) {
  take_at_once(2);
  Lease lease = lease_on(pool_, "m");
  const Lease other = lease_on(pool_, "m");
  PendingAcquire first = wait_in_line();
  lease.release();
  const std::optional<Lease> next = granted(first);
  ASSERT_TRUE(next);
  EXPECT_EQ(look(pool_).waiters.size(), 0u) << "the row is free before others count";
}

TEST_F(Counted, ReadySaysHowManyForItsBackendAlone) {
  ReadyOptions options;
  options.overrides.set(Setting::kParallel, 1);
  const Lease lease = load_external(pool_, "own", options);
  EXPECT_EQ(code_of(pool_.acquire("own", std::chrono::seconds(0))), Errc::kTimeout);
  EXPECT_FALSE(is_counted());
  take_at_once(3);
  EXPECT_TRUE(is_counted());
  EXPECT_EQ(code_of(pool_.acquire("own", std::chrono::seconds(0))), Errc::kTimeout)
      << "what ready gave goes before the pool's";
}

TEST_F(Counted, WhatIsLoadedAfterTheSettingCountsFromTheStart) {
  take_at_once(1);
  const Lease lease = load_external(pool_, "next");
  EXPECT_EQ(look(pool_).backends.back().parallel, 1u);
  EXPECT_EQ(code_of(pool_.acquire("next", std::chrono::seconds(0))), Errc::kTimeout);
}

// A worker that does not know it would publish without counting (SettingsView::unknown_to_workers).
TEST_F(Counted, IsForWorkersToKnowWhileItIsInUse) {
  const auto is_in_use = [&] {
    const Word* copy = segment_->settings_copy(settings_generation(*segment_));
    const auto& head = *reinterpret_cast<const SettingsHead*>(copy);
    return (head.admit.load(std::memory_order_acquire) & bit_of(Setting::kParallel)) != 0;
  };
  EXPECT_FALSE(is_in_use());
  take_at_once(1);
  EXPECT_TRUE(is_in_use());
  take_at_once(0);
  EXPECT_FALSE(is_in_use());
}

TEST_F(Counted, AnotherSettingLeavesItAsItIs) {
  ASSERT_TRUE(pool_.set("idle_timeout", "1h"));
  EXPECT_FALSE(is_counted());
  take_at_once(2);
  ASSERT_TRUE(pool_.set("idle_timeout", "2h"));
  EXPECT_TRUE(is_counted());
  EXPECT_EQ(look(pool_).find(backend())->parallel, 2u);
  EXPECT_EQ(known_parallel(*segment_, backend()), 2u) << "found out already";
}

// The settings change between the look and the hold: the number of then is not believed.
TEST_F(Counted, ANumberOfEarlierSettingsGrantsNothing) {
  take_at_once(3);
  const Parallel before = resolve_parallel(*segment_, backend());
  publish_only(1);
  const Lease lease = lease_on(pool_, "m");
  publish_only(1);
  auto attached = Worker::attach(segment_);
  ASSERT_TRUE(attached);
  LeaseRef second;
  const auto lock = segment_->lock_structure();
  const CountedRequest request{backend(), hash_name("m"), kNever_ns, 0, before};
  EXPECT_EQ(begin_counted_lease(*lock, **attached, request, "", &second).result,
            BeginResult::kNotReady);
}

// Workers of before the setting count by it.
TEST_F(Counted, TheNumberStandsInItsWordAsItIs) {
  const auto word = [&] {
    return segment_->backend(backend().index).parallel.load(std::memory_order_acquire);
  };
  take_at_once(3);
  EXPECT_EQ(word(), pack_half(backend().generation, 3));
  ASSERT_TRUE(pool_.set("idle_timeout", "1h"));
  EXPECT_EQ(word(), pack_half(backend().generation, 3));
  take_at_once(0);
  EXPECT_EQ(word(), pack_half(backend().generation, 0));
}

// As whoever noted it left it that was killed between the two stores.
TEST_F(Counted, ANumberOfNoSettingsIsFoundOutAnew) {
  take_at_once(1);
  BackendRecord& record = segment_->backend(backend().index);
  record.parallel.store(pack_half(backend().generation, 9), std::memory_order_release);
  forget_parallel(*segment_, backend().index);
  EXPECT_EQ(known_parallel(*segment_, backend()), std::nullopt);
  const Lease lease = lease_on(pool_, "m", std::chrono::seconds(0));
  EXPECT_EQ(known_parallel(*segment_, backend()), 1u);
  EXPECT_EQ(refused_at_once(), Errc::kTimeout);
}

// Readers without the mutex see no number beside settings that it is not of.
TEST_F(Counted, ANumberThatIsJustWrittenIsOfNoSettings) {
  constexpr std::uint64_t kSettings = 100;  // not those in force
  const BackendRef ref = backend();
  std::jthread writer([&](const std::stop_token& stop) {
    for (std::uint32_t i = 0; !stop.stop_requested(); ++i)
      note_parallel(*segment_, ref, {kSettings + i % 2, i % 2});
  });
  int wrong = 0;
  for (std::uint32_t known = 0, i = 0; known < 100'000; ++i) {
    const auto number = noted_parallel(*segment_, ref, kSettings + i % 2);
    known += number.has_value();
    wrong += number.has_value() && *number != i % 2;
  }
  EXPECT_EQ(wrong, 0);
}

TEST_F(Counted, WhoeverAsksFindsOutWhatTheSettingsSayNow) {
  take_at_once(1);
  const Lease lease = lease_on(pool_, "m");
  publish_only(2);
  const Lease second = lease_on(pool_, "m", std::chrono::seconds(0));
  EXPECT_EQ(refused_at_once(), Errc::kTimeout);
  publish_only(0);
  const Lease third = lease_on(pool_, "m", std::chrono::seconds(0));
  EXPECT_FALSE(is_counted()) << "who found no limit took the flag away";
}

TEST_F(Counted, ABackendThatIsOpenedWithoutTheMutexCountsUntilSomebodyHasLooked) {
  ASSERT_TRUE(close_to_leases(*segment_, backend(), 1));
  {
    const auto held = segment_->lock_structure();
    ASSERT_TRUE(reopen(*segment_, backend(), 1));
    EXPECT_TRUE(is_counted()) << "settings may just be published that count it";
  }
  const Lease lease = lease_on(pool_, "m", std::chrono::seconds(0));
  EXPECT_FALSE(is_counted());
  ASSERT_TRUE(close_to_leases(*segment_, backend(), 1));
  ASSERT_TRUE(reopen(*segment_, backend(), 1));
  EXPECT_FALSE(is_counted());
}

TEST_F(Counted, OnlyWithTheMutexTheFlagIsTakenAway) {
  publish_only(0);
  segment_->backend(backend().index)
      .state.store(
          StateWord{backend().generation, StateWord::kCounted, BackendState::kReady}.pack());
  const auto lock = segment_->lock_structure();
  note_parallel(*segment_, backend(), resolve_parallel(*segment_, backend()));
  EXPECT_FALSE(settle_counted(*segment_, backend(), nullptr));
  EXPECT_TRUE(is_counted());
  EXPECT_TRUE(settle_counted(*segment_, backend(), &*lock));
  EXPECT_FALSE(is_counted());
}

// Without a coordinator nobody else clears what the dead have left.
TEST_F(Counted, WithoutACoordinatorLeasesAndWaitersOfTheDeadHoldNobodyUp) {
  take_at_once(1);
  Forked dead([&](Forked::Child& parent) {
    Pool own = make_pool(scratch_);
    Lease lease = lease_on(own, "m");
    PendingAcquire pending = *own.begin_acquire("m", std::chrono::seconds(30));
    static_cast<void>(pending.poll());
    parent.say("holds and waits");
    parent.hear();
  });
  dead.hear();
  EXPECT_EQ(refused_at_once(), Errc::kTimeout) << "it lives";
  dead.kill_now();
  const Lease lease = lease_on(pool_, "m", std::chrono::seconds(0));
  EXPECT_EQ(look(pool_).find(backend())->in_flight, 1u);
}

TEST_F(Counted, NoTryIsPublishedOnABackendThatIsKnownToCount) {
  take_at_once(1);
  { const Lease lease = lease_on(pool_, "m"); }
  const Lease held = lease_on(pool_, "m");
  AcquireOptions options;
  options.tag = "refused";
  EXPECT_EQ(code_of(pool_.acquire("m", std::chrono::seconds(0), options)), Errc::kTimeout);
  for (std::uint32_t cell = 0; cell < segment_->capacities().leases; ++cell) {
    EXPECT_NE(segment_->lease(0, cell).tag.load(), "refused") << "not even for an instant";
  }
}

TEST_F(Counted, NeverMoreAtOnceWhoeverAsksAndHowOften) {
  constexpr int kAtOnce = 3;
  take_at_once(kAtOnce);
  std::atomic<int> in_flight{0};
  std::atomic<int> most{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      Pool own = make_pool(scratch_);
      for (int i = 0; i < 100; ++i) {
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
