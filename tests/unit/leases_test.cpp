#include "protocol/leases.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "protocol/slots.hpp"
#include "support/pool.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

class Leases : public ::testing::Test {
 protected:
  Leases() {
    auto attached = Worker::attach(segment_);
    if (!attached) throw std::runtime_error(attached.error().text);
    worker_ = *attached;
    load_external(pool_, "m").release();
    backend_ = find_backend(*segment_, "m")->ref;
  }

  const LeaseRecord& record(const LeaseRef& lease) const {
    return segment_->lease(lease.worker->ref().index, lease.cell);
  }
  void set_state(BackendState state) {
    segment_->backend(backend_.index).state.store(StateWord{backend_.generation, 0, state}.pack());
  }
  LeaseRef begin() {
    LeaseRef lease;
    EXPECT_EQ(begin_lease(*worker_, backend_, 0, "", &lease), BeginResult::kGranted);
    return lease;
  }

  const Scratch scratch_;
  Pool pool_ = make_pool(scratch_);
  const std::shared_ptr<Segment> segment_ = shared_segment_of(pool_);
  Worker* worker_ = nullptr;
  BackendRef backend_;
};

TEST_F(Leases, ArePublishedWithTheirFieldsAndClearedAtTheEnd) {
  const std::uint64_t before = stamp_now_ns();
  LeaseRef lease;
  ASSERT_EQ(begin_lease(*worker_, backend_, 5 * kSecond_ns, "req-1", &lease),
            BeginResult::kGranted);
  const LeaseWord word = LeaseWord::unpack(record(lease).word.load());
  EXPECT_EQ(word.backend, backend_.index);
  EXPECT_EQ(word.generation, backend_.generation);
  EXPECT_GE(record(lease).start_ns.load(), before);
  EXPECT_EQ(record(lease).progress_ns.load(), record(lease).start_ns.load());
  EXPECT_EQ(record(lease).limit_ns.load(), 5 * kSecond_ns);
  EXPECT_EQ(record(lease).tag.load(), "req-1");
  EXPECT_TRUE(any_lease_names(*segment_, backend_));
  end_lease(lease);
  EXPECT_EQ(record(lease).word.load(), 0u);
  EXPECT_FALSE(any_lease_names(*segment_, backend_));
}

TEST_F(Leases, LeaveNoTagToTheNextInTheirCell) {
  LeaseRef tagged;
  ASSERT_EQ(begin_lease(*worker_, backend_, 0, "secret", &tagged), BeginResult::kGranted);
  end_lease(tagged);
  const LeaseRef next = begin();
  ASSERT_EQ(next.cell, tagged.cell);
  EXPECT_EQ(record(next).tag.load(), "");
  end_lease(next);
}

TEST_F(Leases, OfOneCellDifferInTheirWords) {
  std::set<std::uint64_t> words;
  for (int i = 0; i < 100; ++i) {
    const LeaseRef lease = begin();
    EXPECT_TRUE(words.insert(record(lease).word.load()).second);
    end_lease(lease);
  }
}

TEST_F(Leases, AreGrantedOnlyWhileTheirBackendIsReady) {
  for (const BackendState state :
       {BackendState::kFree, BackendState::kReserved, BackendState::kStarting,
        BackendState::kEvicting, BackendState::kStopping, BackendState::kGone}) {
    set_state(state);
    LeaseRef lease;
    EXPECT_EQ(begin_lease(*worker_, backend_, 0, "", &lease), BeginResult::kNotReady)
        << backend_state_name(state);
    EXPECT_EQ(lease.worker, nullptr);
    EXPECT_FALSE(any_lease_names(*segment_, backend_));
  }
  set_state(BackendState::kReady);
  end_lease(begin());
}

TEST_F(Leases, AreNotGrantedOnAnotherGeneration) {
  LeaseRef lease;
  for (const std::uint32_t generation : {backend_.generation - 1, backend_.generation + 1}) {
    EXPECT_EQ(begin_lease(*worker_, {backend_.index, generation}, 0, "", &lease),
              BeginResult::kNotReady);
  }
}

TEST_F(Leases, ThatWereRefusedAreNoUse) {
  const std::uint64_t before = latest_use_ns(*segment_, backend_.index);
  set_state(BackendState::kEvicting);
  while (stamp_now_ns() == before) {  // a tick must pass for a use to show
  }
  LeaseRef lease;
  ASSERT_EQ(begin_lease(*worker_, backend_, 0, "", &lease), BeginResult::kNotReady);
  EXPECT_EQ(latest_use_ns(*segment_, backend_.index), before);
}

TEST_F(Leases, StampTheirUseWhenTheyEnd) {
  const LeaseRef lease = begin();
  const std::uint64_t before = now_ns();
  end_lease(lease);
  EXPECT_GE(latest_use_ns(*segment_, backend_.index) + stamp_lag_max_ns(), before);
}

TEST_F(Leases, SayThatTheyProgress) {
  const LeaseRef lease = begin();
  const std::uint64_t start = record(lease).start_ns.load();
  record_progress(lease);
  EXPECT_GE(record(lease).progress_ns.load(), start);
  EXPECT_EQ(record(lease).start_ns.load(), start);
  end_lease(lease);
}

TEST_F(Leases, EndQuietlyUnlessTheCoordinatorWaitsForTheirBackend) {
  CoordinatorRecord& coordinator = segment_->coordinator();
  const std::uint32_t bell = coordinator.doorbell.load();
  end_lease(begin());
  EXPECT_EQ(coordinator.doorbell.load(), bell);
  coordinator.wanted.store(std::uint64_t{1} << ((backend_.index + 1) & 63));
  end_lease(begin());
  EXPECT_EQ(coordinator.doorbell.load(), bell);
  coordinator.wanted.store(std::uint64_t{1} << (backend_.index & 63));
  end_lease(begin());
  EXPECT_NE(coordinator.doorbell.load(), bell);
}

TEST_F(Leases, RingIfTheirOwnLimitEndsBeforeTheCoordinatorLooksAgain) {
  CoordinatorRecord& coordinator = segment_->coordinator();
  LeaseRef lease;
  coordinator.horizon_ns.store(now_ns() + kSecond_ns);
  const std::uint32_t bell = coordinator.doorbell.load();
  ASSERT_EQ(begin_lease(*worker_, backend_, 3600 * kSecond_ns, "", &lease), BeginResult::kGranted);
  EXPECT_EQ(coordinator.doorbell.load(), bell);
  end_lease(lease);
  coordinator.horizon_ns.store(kNever_ns);
  ASSERT_EQ(begin_lease(*worker_, backend_, kMillisecond_ns, "", &lease), BeginResult::kGranted);
  EXPECT_NE(coordinator.doorbell.load(), bell);
  end_lease(lease);
}

TEST_F(Leases, OfAnyWorkerAreSeenByTheScanThatDecides) {
  auto second = Worker::attach(segment_);
  ASSERT_TRUE(second);
  LeaseRef lease;
  ASSERT_EQ(begin_lease(**second, backend_, 0, "", &lease), BeginResult::kGranted);
  EXPECT_TRUE(any_lease_names(*segment_, backend_));
  EXPECT_FALSE(any_lease_names(*segment_, {backend_.index, backend_.generation + 1}));
  EXPECT_FALSE(any_lease_names(*segment_, {backend_.index + 1, backend_.generation}));
  end_lease(lease);
}

TEST_F(Leases, AreAsManyAsTheRowHasCells) {
  const std::uint32_t cells = segment_->capacities().leases;
  std::vector<LeaseRef> leases;
  for (std::uint32_t i = 0; i < cells; ++i) leases.push_back(begin());
  LeaseRef refused;
  EXPECT_EQ(begin_lease(*worker_, backend_, 0, "", &refused), BeginResult::kNoCell);
  EXPECT_EQ(look(pool_).find_model("m")->in_flight, cells);
  end_lease(leases.back());
  leases.back() = begin();
  for (const LeaseRef& lease : leases) end_lease(lease);
  EXPECT_EQ(look(pool_).find_model("m")->in_flight, 0u);
}

// Cells that a thread keeps for its next lease are back when it has ended.
TEST_F(Leases, OfThreadsThatEndedLeaveTheirCellsToOthers) {
  const std::uint32_t cells = segment_->capacities().leases;
  std::thread([&] {
    std::vector<LeaseRef> leases;
    for (std::uint32_t i = 0; i < cells; ++i) leases.push_back(begin());
    for (const LeaseRef& lease : leases) end_lease(lease);
  }).join();
  std::vector<LeaseRef> leases;
  for (std::uint32_t i = 0; i < cells; ++i) leases.push_back(begin());
  for (const LeaseRef& lease : leases) end_lease(lease);
}

// And those of threads that live on, idle, are half of them at most.
TEST_F(Leases, OfIdleThreadsLeaveHalfTheCellsToOthers) {
  const std::uint32_t cells = segment_->capacities().leases;
  std::atomic<std::uint32_t> idle{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  const std::uint32_t count = cells / 8;
  for (std::uint32_t t = 0; t < count; ++t) {
    threads.emplace_back([&] {
      std::vector<LeaseRef> leases;
      for (int i = 0; i < 8; ++i) leases.push_back(begin());
      for (const LeaseRef& lease : leases) end_lease(lease);
      ++idle;
      eventually([&] { return stop.load(); });
    });
  }
  ASSERT_TRUE(eventually([&] { return idle == count; }));
  std::vector<LeaseRef> leases;
  for (std::uint32_t i = 0; i < cells / 2; ++i) leases.push_back(begin());
  for (const LeaseRef& lease : leases) end_lease(lease);
  stop = true;
  for (auto& thread : threads) thread.join();
}

TEST_F(Leases, MayEndOnAnotherThreadThanTheyBeganOn) {
  const LeaseRef lease = begin();
  std::thread([&] { end_lease(lease); }).join();
  EXPECT_FALSE(any_lease_names(*segment_, backend_));
}

// P2 in its two orders: whoever comes second sees the first.
TEST_F(Leases, BegunBeforeTheCloseAreSeenByItsScan) {
  const LeaseRef lease = begin();
  ASSERT_TRUE(close_to_leases(*segment_, backend_, 1));
  EXPECT_TRUE(any_lease_names(*segment_, backend_));
  ASSERT_TRUE(reopen(*segment_, backend_, 1));
  end_lease(lease);
}

TEST_F(Leases, BegunAfterTheCloseAreTakenBack) {
  ASSERT_TRUE(close_to_leases(*segment_, backend_, 1));
  LeaseRef lease;
  EXPECT_EQ(begin_lease(*worker_, backend_, 0, "", &lease), BeginResult::kNotReady);
  EXPECT_FALSE(any_lease_names(*segment_, backend_));
}

TEST_F(Leases, ThatAreTakenBackRingTheCoordinatorThatSawThem) {
  ASSERT_TRUE(close_to_leases(*segment_, backend_, 1));
  segment_->coordinator().wanted.store(~std::uint64_t{0});
  const std::uint32_t bell = segment_->coordinator().doorbell.load();
  LeaseRef lease;
  EXPECT_EQ(begin_lease(*worker_, backend_, 0, "", &lease), BeginResult::kNotReady);
  EXPECT_NE(segment_->coordinator().doorbell.load(), bell);
}

TEST_F(Leases, KeepTheRowOfAClosedWorkerUntilTheLastEnds) {
  const LeaseRef first = begin();
  const LeaseRef second = begin();
  worker_->close();
  EXPECT_EQ(look(pool_).workers.size(), 2u);
  end_lease(first);
  EXPECT_EQ(look(pool_).workers.size(), 2u);
  end_lease(second);
  EXPECT_EQ(look(pool_).workers.size(), 1u);
}

}  // namespace
