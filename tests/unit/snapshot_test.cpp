#include "protocol/snapshot.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "protocol/check.hpp"
#include "protocol/events.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

TEST(Snapshot, OfAFreshPoolIsEmptyAndSound) {
  const Scratch scratch;
  const auto segment = make_segment(scratch, {{"max_backends", "3"}});
  const Snapshot s = look(segment);
  EXPECT_TRUE(s.backends.empty());
  EXPECT_TRUE(s.workers.empty());
  EXPECT_TRUE(s.leases.empty());
  EXPECT_TRUE(s.waiters.empty());
  EXPECT_TRUE(s.damage.empty());
  EXPECT_EQ(s.max_backends(), 3u);
  EXPECT_EQ(s.coordinator.identity.epoch, 0u);
  EXPECT_EQ(findings(segment, true), "");
}

TEST(Snapshot, OfAPoolThatNeverHadSettingsHasNone) {
  const Scratch scratch;
  SegmentOptions options;
  options.dir = scratch.dir();
  options.capacities = small_capacities();
  const auto segment = Segment::attach("default", options);
  ASSERT_TRUE(segment);
  EXPECT_EQ(look(*segment).settings, nullptr);
  EXPECT_EQ(look(*segment).max_backends(), 0u);
}

TEST(Snapshot, CountsLeasesPerBackendAndWorker) {
  const Scratch scratch;
  Pool first = make_pool(scratch);
  Pool second = make_pool(scratch);
  std::vector<Lease> leases;
  leases.push_back(load_external(first, "a"));
  leases.push_back(lease_on(first, "a"));
  leases.push_back(lease_on(second, "a"));
  leases.push_back(load_external(second, "b"));
  const Snapshot s = look(first);
  EXPECT_EQ(s.live(), 2u);
  EXPECT_EQ(s.ready(), 2u);
  EXPECT_EQ(s.find_model("a")->in_flight, 3u);
  EXPECT_EQ(s.find_model("b")->in_flight, 1u);
  ASSERT_EQ(s.workers.size(), 2u);
  EXPECT_EQ(s.workers[0].leases, 2u);
  EXPECT_EQ(s.workers[1].leases, 2u);
  EXPECT_LE(s.find_model("a")->oldest_start_ns, s.find_model("a")->newest_start_ns);
  EXPECT_NE(s.find_worker(pack_worker(s.workers[1].ref)), nullptr);
  EXPECT_EQ(s.find_worker(0), nullptr);
  EXPECT_EQ(s.find({0, 99}), nullptr);
  EXPECT_EQ(s.find_model("missing"), nullptr);
}

TEST(Snapshot, TakesReadyForTheLastUseOfABackendThatWasNeverUsed) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const Lease lease = load_external(pool, "m");
  // What an earlier backend in this slot, or an earlier owner of the row, left behind.
  segment_of(pool).last_used(5, 0).store(17);
  const BackendView backend = *look(pool).find_model("m");
  EXPECT_EQ(backend.last_used_ns, backend.ready_ns);
}

TEST(Snapshot, TakesTheLatestUseOfAnyRow) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  load_external(pool, "m").release();
  const std::uint64_t later = now_ns();
  segment_of(pool).last_used(segment_of(pool).coordinator_row(), 0).store(later);
  EXPECT_EQ(look(pool).find_model("m")->last_used_ns, later);
}

TEST(Snapshot, ListsWaitersAsTheyCame) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const LoadTicket ticket = ticket_for(pool, "m");
  std::vector<PendingAcquire> waits;
  for (int i = 0; i < 5; ++i) {
    waits.push_back(pool.begin_acquire("m", std::chrono::seconds(600)).value());
    ASSERT_TRUE(waits.back().poll());
  }
  waits.erase(waits.begin() + 1);  // its row is taken by the next, which came last
  waits.push_back(pool.begin_acquire("m", std::chrono::seconds(600)).value());
  ASSERT_TRUE(waits.back().poll());
  const Snapshot s = look(pool);
  ASSERT_EQ(s.waiters.size(), 5u);
  for (std::size_t i = 1; i < 5; ++i) EXPECT_LT(s.waiters[i - 1].arrival, s.waiters[i].arrival);
}

TEST(Snapshot, ReadAgainShowsWhatChanged) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  SnapshotReader reader(shared_segment_of(pool));
  EXPECT_TRUE(reader.read().backends.empty());
  for (int life = 0; life < 3; ++life) {
    Lease lease = load_external(pool, "m" + std::to_string(life));
    ASSERT_EQ(reader.read().backends.size(), 1u);
    EXPECT_EQ(reader.read().backends[0].model, "m" + std::to_string(life));
    EXPECT_EQ(reader.read().backends[0].in_flight, 1u);
    lease.release();
    EXPECT_EQ(reader.read().backends[0].in_flight, 0u);
    const BackendRef ref = reader.read().backends[0].ref;
    ASSERT_TRUE(close_to_leases(segment_of(pool), ref, 1));
    EXPECT_EQ(reader.read().backends[0].state.state, BackendState::kEvicting);
    ASSERT_TRUE(commit_stop(segment_of(pool), ref, 1) && mark_gone(segment_of(pool), ref));
    EXPECT_EQ(reader.read().live(), 0u);
    ASSERT_TRUE(free_slot(segment_of(pool), ref));
    EXPECT_TRUE(reader.read().backends.empty());
  }
}

TEST(Snapshot, IsSoundAtAnyInstantOfABusyPool) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      const std::string model = "m" + std::to_string(t);
      while (!stop) {
        load_external(pool, model).release();
        for (int i = 0; i < 20; ++i) lease_on(pool, model).release();
        const BackendRef ref = find_backend(segment_of(pool), model)->ref;
        if (!close_to_leases(segment_of(pool), ref, 1) || !commit_stop(segment_of(pool), ref, 1) ||
            !mark_gone(segment_of(pool), ref) || !free_slot(segment_of(pool), ref)) {
          return;
        }
      }
    });
  }
  SnapshotReader reader(shared_segment_of(pool));
  std::string found;
  for (int i = 0; i < 3000 && found.empty(); ++i) {
    for (const std::string& finding : check_invariants(reader.read(), false))
      found += finding + "; ";
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(found, "");
}

TEST(P12LookingChangesNothing, ASnapshotTakesNoLockAndCountsAsNoUse) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  load_external(pool, "m").release();
  Forked holder([&](Forked::Child& parent) {
    const auto lock = segment_of(pool).lock_structure();
    parent.say("locked");
    parent.hear();
  });
  ASSERT_EQ(holder.hear(), "locked");
  holder.signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(holder.pid()));
  const auto read_only = Segment::open_read_only("default", scratch.dir());
  ASSERT_TRUE(read_only);
  const std::string before = read_file(scratch.path("default"));
  for (int i = 0; i < 10; ++i) {
    SnapshotReader reader(*read_only);
    EXPECT_EQ(check_invariants(reader.read(), true), std::vector<std::string>());
    EXPECT_EQ(reader.read().find_model("m")->in_flight, 0u);
    EXPECT_TRUE(read_events(**read_only, 0).empty());
    EXPECT_TRUE(read_histories(**read_only).empty());
  }
  EXPECT_TRUE(read_file(scratch.path("default")) == before) << "a byte of the segment has changed";
}

// --- Damage --------------------------------------------------------------------------------------

// A pool with one of everything in it, and a way to break it.
class Damage : public ::testing::Test {
 protected:
  Damage() {
    lease_ = load_external(pool_, "m");
    ticket_ = ticket_for(pool_, "loading");
    pending_.push_back(pool_.begin_acquire("loading", std::chrono::seconds(600)).value());
    static_cast<void>(pending_[0].poll());
    EXPECT_EQ(findings(segment_, true), "");
  }
  ~Damage() override {
    // What the test broke is not what the handles expect.
    segment_->backend(0).state.store(StateWord{1, 0, BackendState::kReady}.pack());
  }

  void expect_found(const std::string& what, bool settled = false) {
    const std::string found = findings(segment_, settled);
    EXPECT_NE(found.find(what), std::string::npos) << "found only: " << found;
  }

  const Scratch scratch_;
  Pool pool_ = make_pool(scratch_);
  const std::shared_ptr<Segment> segment_ = shared_segment_of(pool_);
  Lease lease_;
  LoadTicket ticket_;
  std::vector<PendingAcquire> pending_;
};

TEST_F(Damage, AModelNameThatIsNoneIsReportedAndTheSlotKeepsItsPlace) {
  segment_->backend(0).model.store("\xff\xfe");
  // Read before, the name would be remembered: a name changes with the generation only.
  expect_found("backend slot 0: no valid model name");
  EXPECT_EQ(look(segment_).find_model("m"), nullptr);
  EXPECT_EQ(look(segment_).live(), 2u) << "nobody would ever end it";
}

TEST_F(Damage, AStateThatIsNoneOfOursIsReportedAndShownAsStopping) {
  segment_->backend(0).state.store(StateWord{1, 0, BackendState::kReady}.pack() | 0x80);
  expect_found("backend slot 0: in no known state");
  EXPECT_EQ(look(segment_).find_model("m")->state.state, BackendState::kStopping);
  EXPECT_TRUE(look(segment_).find_model("m")->damaged);
  EXPECT_FALSE(look(segment_).find_model("loading")->damaged);
}

// Its slot was read before, so a position in the last snapshot was known.
TEST_F(Damage, ALeaseOnASlotThatIsSaidToBeUntakenIsOnNoBackend) {
  SnapshotReader reader(segment_);
  ASSERT_FALSE(reader.read().leases.empty());
  segment_->line().backends_reached.store(0);
  const Snapshot& s = reader.read();
  EXPECT_TRUE(s.backends.empty());
  EXPECT_FALSE(s.leases.empty());
}

TEST_F(Damage, ALeaseThatNamesNoSlotIsReported) {
  segment_->lease(3, 0).word.store(LeaseWord{1, 4000, 1}.pack());
  segment_->worker(3).leases_high.store(1);
  Segment::reach(segment_->line().workers_reached, 3);
  segment_->worker(3).state.store(pack_half(1, 1));
  expect_found("lease 3/0: names no backend slot");
}

TEST_F(Damage, ALeaseOnABackendThatIsNotThereIsReported) {
  LeaseRef stray;
  const auto worker = Worker::attach(segment_);
  ASSERT_TRUE(worker);
  ASSERT_EQ(publish_lease(**worker, {0, 77}, 0, "", &stray), BeginResult::kGranted);
  EXPECT_EQ(findings(segment_, false), "");  // it may be about to be taken back
  expect_found("names a backend that is not there", true);
}

TEST_F(Damage, AReadyBackendWithoutAProcessIsReported) {
  segment_->backend(0).traits.store(pack_half(1, 0));
  expect_found("serves without a process");
}

TEST_F(Damage, AReadyBackendWithoutAnAddressIsReported) {
  segment_->backend(0).address.store("");
  expect_found("serves at no valid address");
}

TEST_F(Damage, AReadyBackendWithAnOwnerIsReported) {
  segment_->backend(0).state.store(StateWord{1, 77, BackendState::kReady}.pack());
  expect_found("ready, yet has an owner");
}

TEST_F(Damage, AStartingBackendWithoutAProcessIsReported) {
  const StateWord reserved = load_state(*segment_, 1);
  segment_->backend(1).state.store(StateWord{1, reserved.owner, BackendState::kStarting}.pack());
  expect_found("starting without a process");
  segment_->backend(1).state.store(reserved.pack());
}

TEST_F(Damage, ATicketThatNobodyHoldsIsReported) {
  const StateWord reserved = load_state(*segment_, 1);
  segment_->backend(1).state.store(StateWord{1, 0, BackendState::kReserved}.pack());
  expect_found("has a ticket that nobody holds");
  segment_->backend(1).state.store(
      StateWord{1, StateWord::owner_of({20, 1}), BackendState::kReserved}.pack());
  segment_->backend(1).holder.store(pack_worker({20, 1}));
  expect_found("its ticket's worker is not attached", true);
  segment_->backend(1).state.store(reserved.pack());
}

TEST_F(Damage, ASecondBackendOfAModelIsReported) {
  Lease other = load_external(pool_, "other");
  const BackendRef ref = find_backend(*segment_, "other")->ref;
  segment_->backend(ref.index).model.store("m");
  expect_found("a second backend of its model");
}

TEST_F(Damage, AUseInTheFutureIsReported) {
  segment_->last_used(0, 0).store(now_ns() + 3600 * kSecond_ns);
  expect_found("last used in the future");
}

TEST_F(Damage, ABackendLeftClosedByAnEarlierCoordinatorIsReported) {
  ASSERT_TRUE(close_to_leases(*segment_, {0, 1}, 5));
  EXPECT_EQ(findings(segment_, false), "");
  expect_found("left closed by an earlier coordinator", true);
}

TEST_F(Damage, ASlotThatNobodyFreedIsReported) {
  lease_.release();
  segment_->backend(0).state.store(StateWord{1, 0, BackendState::kGone}.pack());
  expect_found("its slot was not freed", true);
}

TEST_F(Damage, WaitersThatShareAnArrivalAreReported) {
  pending_.push_back(pool_.begin_acquire("loading", std::chrono::seconds(600)).value());
  ASSERT_TRUE(pending_[1].poll());
  segment_->waiter(1).arrival.store(segment_->waiter(0).arrival.load());
  expect_found("shares its arrival number");
}

TEST_F(Damage, AWaiterOfNoWorkerIsReported) {
  segment_->waiter(0).owner.store(pack_worker({20, 1}));
  expect_found("waiter row 0: its worker is not attached", true);
}

TEST_F(Damage, AWaiterForNoModelIsReportedAndSkipped) {
  segment_->waiter(0).model.store("");
  expect_found("waiter row 0: no valid model name");
  EXPECT_TRUE(look(segment_).waiters.empty());
  EXPECT_TRUE(look(segment_).stray_waiters.empty()) << "its worker clears it";
  segment_->waiter(0).owner.store(pack_worker({20, 1}));
  EXPECT_EQ(look(segment_).stray_waiters.size(), 1u);
}

TEST_F(Damage, AWaiterInNoKnownStateIsReportedAndStray) {
  const std::uint64_t word = segment_->waiter(0).state.load() | 0x400;
  segment_->waiter(0).state.store(word);
  expect_found("waiter row 0: in no known state");
  const Snapshot s = look(segment_);
  EXPECT_TRUE(s.waiters.empty());
  ASSERT_EQ(s.stray_waiters.size(), 1u);
  EXPECT_EQ(s.stray_waiters[0].row, 0u);
  EXPECT_EQ(s.stray_waiters[0].word, word);
}

// Shared bytes are input: whatever they are, a look ends, with an answer.
TEST(P13BadInput, ASegmentOfRandomBytesIsLookedAtWithoutHarm) {
  const unsigned seed = std::random_device{}();
  std::mt19937_64 random(seed);
  const Scratch scratch;
  std::string bytes;
  {
    Pool pool = make_pool(scratch);
    const Lease lease = load_external(pool, "m");
    const LoadTicket ticket = ticket_for(pool, "loading");
    bytes = read_file(scratch.path("default"));
  }
  const std::string path = scratch.path("copy");
  for (int round = 0; round < 20; ++round) {
    std::string broken = bytes;
    // All of it in the first rounds, a few bytes in the others; the header stays.
    const std::size_t flips = round < 5 ? 0 : 2000;
    if (flips == 0) {
      for (std::size_t i = kPage_bytes; i + 8 <= broken.size(); i += 8) {
        const std::uint64_t word = random();
        std::memcpy(broken.data() + i, &word, 8);
      }
    }
    for (std::size_t i = 0; i < flips; ++i) {
      broken[kPage_bytes + random() % (broken.size() - kPage_bytes)] = static_cast<char>(random());
    }
    write_file(path, broken);
    const auto segment = Segment::open_file(path);
    ASSERT_TRUE(segment) << segment.error().text;
    const Snapshot s = look(*segment);
    static_cast<void>(check_invariants(s, true));
    static_cast<void>(read_events(**segment, 0));
    static_cast<void>(read_histories(**segment));
    static_cast<void>(find_backend(**segment, "m"));
    static_cast<void>(coordinator_liveness(**segment));
    for (const BackendView& backend : s.backends)
      EXPECT_FALSE(backend.model.empty()) << "seed " << seed;
    if (flips == 0) {
      EXPECT_FALSE(check_invariants(s, true).empty()) << "seed " << seed;
    }
  }
}

TEST(Events, AreReadFromTheOldestThatIsStillThere) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  const std::uint64_t capacity = segment->capacities().events;
  EXPECT_TRUE(read_events(*segment, 0).empty());
  const auto write = [&](std::uint64_t sequence) {
    EventData data;
    data.count = sequence * 10;
    EventRecord& record = segment->event(sequence % capacity);
    record.sequence.store(0);
    record.data.store(data);
    record.sequence.store(sequence);
    segment->coordinator().next_event.store(sequence + 1);
  };
  for (std::uint64_t i = 1; i <= capacity + 10; ++i) write(i);
  const auto all = read_events(*segment, 0);
  ASSERT_FALSE(all.empty());
  EXPECT_GE(all.size(), capacity - 1);
  EXPECT_EQ(all.back().sequence, capacity + 10);
  for (const EventView& event : all) EXPECT_EQ(event.data.count, event.sequence * 10);
  const auto last = read_events(*segment, capacity + 9);
  ASSERT_EQ(last.size(), 2u);
  EXPECT_EQ(last[0].sequence, capacity + 9);
  EXPECT_TRUE(read_events(*segment, capacity + 11).empty());
  segment->event((capacity + 10) % capacity).sequence.store(0);  // its writer died in the middle
  EXPECT_EQ(read_events(*segment, capacity + 9).size(), 1u);
}

}  // namespace
