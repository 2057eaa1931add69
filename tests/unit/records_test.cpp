// What format 3 keeps: workers named in full, sizes and devices, needs, histories by hash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "judge/decide.hpp"
#include "protocol/histories.hpp"
#include "protocol/parallel.hpp"
#include "segment/devices.hpp"
#include "support/pool.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class Records : public ::testing::Test {
 protected:
  Worker& attach_worker() const {
    auto attached = Worker::attach(segment_);
    if (!attached) throw std::runtime_error(attached.error().text);
    return **attached;
  }
  BackendRef reserve_for(const Worker& worker, const std::string& model,
                         const Need& need = {}) const {
    auto lock = segment_->lock_structure();
    const auto ref = reserve(*segment_, *lock, worker.ref(), model, now_ns(), need);
    if (!ref) throw std::runtime_error("no free slot");
    return *ref;
  }
  BackendRecord& record(BackendRef ref) const { return segment_->backend(ref.index); }

  const Scratch scratch_;
  Pool pool_ = make_pool(scratch_);
  const std::shared_ptr<Segment> segment_ = shared_segment_of(pool_);
};

// --- Who holds a ticket --------------------------------------------------------------------------

// A worker that executes a program which attaches, again and again, has the same row in another
// generation. Twelve bits of that stood in the slot: after 4096 times the ticket of a program long
// gone had a living holder.
class TicketOfAnEarlierImage : public Records {
 protected:
  TicketOfAnEarlierImage() {
    Worker& first = attach_worker();
    ref_ = reserve_for(first, "m");
    first.record().image.store(image_id() + 1);  // as if exec had come between
    attach_worker().close();
    for (int i = 2; i < 4096; ++i) attach_worker().close();
    Worker& last = attach_worker();
    first_ = first.ref();
    last_ = last.ref();
  }
  BackendRef ref_;
  WorkerRef first_;
  WorkerRef last_;
};

TEST_F(TicketOfAnEarlierImage, IsLostHoweverOftenItsProcessAttached) {
  ASSERT_EQ(last_.index, first_.index);
  ASSERT_EQ(last_.generation, first_.generation + 4096);
  ASSERT_EQ(StateWord::owner_of(last_), StateWord::owner_of(first_))
      << "as far as a state word goes";
  EXPECT_EQ(load_holder(*segment_, ref_), pack_worker(first_));

  const Snapshot s = look(segment_);
  EXPECT_EQ(s.find(ref_)->holder, pack_worker(first_));
  EXPECT_EQ(s.find_worker(s.find(ref_)->holder), nullptr);
  EXPECT_THAT(findings(segment_, true),
              ::testing::HasSubstr("its ticket's worker is not attached"));

  const coordinator::Decision decision = coordinator::decide(s, {});
  ASSERT_EQ(decision.actions.size(), 1u);
  EXPECT_EQ(decision.actions[0].kind, coordinator::ActionKind::kLoseTicket);
  EXPECT_EQ(decision.actions[0].stop.failed, kLoadLost);
}

TEST_F(TicketOfAnEarlierImage, IsNotAHolderWhoMayFinishIt) {
  // Who waits for it needs a coordinator, because nobody loads it any more: and there is none.
  PoolOptions impatient;
  impatient.dir = scratch_.dir();
  impatient.coordinator_grace = std::chrono::seconds(0);
  auto pool = Pool::attach("default", impatient);
  ASSERT_TRUE(pool) << text_of(pool);
  EXPECT_EQ(code_of(pool->acquire("m", std::chrono::seconds(30))), Errc::kNoCoordinator);
}

TEST_F(Records, AHolderIsNamedInTheLifeOfItsSlotOnly) {
  Worker& worker = attach_worker();
  const BackendRef ref = reserve_for(worker, "m");
  EXPECT_EQ(load_holder(*segment_, ref), pack_worker(worker.ref()));
  EXPECT_EQ(load_holder(*segment_, {ref.index, ref.generation + 1}), 0u);
  give_up(*segment_, ref, worker.owner_word());
  EXPECT_EQ(load_holder(*segment_, ref), pack_worker(worker.ref())) << "it was his";
  ASSERT_TRUE(free_slot(*segment_, ref));
  EXPECT_EQ(load_holder(*segment_, ref), 0u);
}

TEST_F(Records, ATicketWithoutAHolderIsReported) {
  const BackendRef ref = reserve_for(attach_worker(), "m");
  record(ref).holder.store(0);
  EXPECT_THAT(findings(segment_), ::testing::HasSubstr("has a ticket that nobody holds"));
}

TEST_F(Records, AWaiterNamesItsWorkerInFull) {
  LoadTicket ticket = ticket_for(pool_, "m");
  Worker& worker = attach_worker();
  AcquisitionOptions options;
  options.deadline_ns = kNever_ns;
  Acquisition wait(worker, "m", options);
  ASSERT_TRUE(wait.poll());
  EXPECT_EQ(segment_->waiter(0).owner.load(), pack_worker(worker.ref()));
  // Twelve bits are equal, the worker is another: none of his rows are cleared with that one's.
  segment_->waiter(0).owner.store(
      pack_worker({worker.ref().index, worker.ref().generation + 4096}));
  EXPECT_EQ(look(pool_).find_worker(segment_->waiter(0).owner.load()), nullptr);
  clear_worker_row(*segment_, worker.ref(), segment_->coordinator_row());
  EXPECT_EQ(look(pool_).waiters.size(), 1u);
  ASSERT_TRUE(ticket.give_back());
}

// --- Words of one generation ---------------------------------------------------------------------

TEST_F(Records, ASlotsNextLifeKnowsNothingOfTheLast) {
  Need need;
  need.bytes.host = 7;
  need.bytes.device[3] = 8;
  need.flags = kNeedSizeUnknown;
  Worker& worker = attach_worker();
  const BackendRef old = reserve_for(worker, "old", need);
  const BackendView before = *look(pool_).find(old);
  EXPECT_EQ(before.expected, need.bytes);
  EXPECT_TRUE(before.size_unknown);
  BackendRecord& slot = record(old);
  slot.measured.store(need.bytes);
  slot.peak.store(need.bytes);
  slot.declared.store(need.bytes);
  slot.devices.store(1);
  slot.log.store("/var/log/m");
  slot.keep_alive.store(pack_half(old.generation, pack_keep_alive(5)));
  slot.parallel.store(pack_half(old.generation, 4));
  slot.probe_failures.store(pack_half(old.generation, 2));
  slot.permit.store(PermitWord{1000, old.generation}.pack());
  const BackendView full = *look(pool_).find(old);
  EXPECT_EQ(full.measured, need.bytes);
  EXPECT_EQ(full.parallel, 4u);
  EXPECT_EQ(full.permit_ms, 1000u);
  EXPECT_EQ(full.probe_failures, 2u);
  EXPECT_EQ(full.keep_alive, 6u);

  give_up(*segment_, old, worker.owner_word());
  ASSERT_TRUE(free_slot(*segment_, old));
  const BackendRef next = reserve_for(worker, "next");
  ASSERT_EQ(next.index, old.index);
  const BackendView fresh = *look(pool_).find(next);
  for (const Bytes& bytes : {fresh.expected, fresh.declared, fresh.measured, fresh.peak}) {
    EXPECT_EQ(bytes, Bytes{});
  }
  EXPECT_FALSE(fresh.size_unknown);
  EXPECT_EQ(fresh.devices, 0u);
  EXPECT_EQ(fresh.log, "");
  EXPECT_EQ(fresh.parallel, 0u);
  EXPECT_EQ(fresh.keep_alive, 0u);
  EXPECT_EQ(fresh.permit_ms, 0u);
  EXPECT_EQ(fresh.probe_failures, 0u);
}

TEST_F(Records, WordsOfAnotherGenerationCountForNothing) {
  const BackendRef ref = reserve_for(attach_worker(), "m");
  record(ref).keep_alive.store(pack_half(ref.generation + 1, 5));
  record(ref).parallel.store(pack_half(ref.generation + 1, 5));
  record(ref).probe_failures.store(pack_half(ref.generation + 1, 5));
  record(ref).permit.store(PermitWord{1000, ref.generation + 1}.pack());
  const BackendView view = *look(pool_).find(ref);
  EXPECT_EQ(view.keep_alive, 0u);
  EXPECT_EQ(view.parallel, 0u);
  EXPECT_EQ(view.probe_failures, 0u);
  EXPECT_EQ(view.permit_ms, 0u);
}

TEST(PermitWord, KeepsBothFieldsApartAndStaysAtItsLargest) {
  for (const std::uint64_t deadline : {std::uint64_t{1}, PermitWord::kDeadlineMax_ms}) {
    for (const std::uint32_t generation : {0u, 1u, 0xffffffu}) {
      const PermitWord word = PermitWord::unpack(PermitWord{deadline, generation}.pack());
      EXPECT_EQ(word.deadline_ms, deadline);
      EXPECT_EQ(word.generation, generation);
    }
  }
  EXPECT_EQ(PermitWord::unpack(PermitWord{UINT64_MAX, 5}.pack()).deadline_ms,
            PermitWord::kDeadlineMax_ms);
  EXPECT_EQ(PermitWord::deadline_of(0, 5), 0u);
}

// Of a later deadline the word is larger: within a generation it grows by comparing words.
TEST(PermitWord, GrowsWithItsDeadline) {
  EXPECT_LT((PermitWord{1000, 7}.pack()), (PermitWord{1001, 7}.pack()));
}

// 24 bits of the generation: the same again after 2^24 lives of a slot, each of which began with 0.
TEST(PermitWord, MayComeAgainOnlyAfterTheWordWasCleared) {
  EXPECT_EQ(PermitWord::deadline_of(PermitWord{1000, 1}.pack(), 1 + (1u << 24)), 1000u);
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  auto worker = Worker::attach(segment);
  ASSERT_TRUE(worker);
  segment->backend(0).state.store(StateWord{1 + (1u << 24), 0, BackendState::kFree}.pack());
  segment->backend(0).permit.store(PermitWord{1000, 1}.pack());
  auto lock = segment->lock_structure();
  const auto ref = reserve(*segment, *lock, (*worker)->ref(), "m", now_ns());
  ASSERT_TRUE(ref);
  EXPECT_EQ(look(segment).find(*ref)->permit_ms, 0u);
}

TEST_F(Records, AKeepAliveIsOfItsGenerationTheLastOneWinsAndAShorterOneIsToBeTold) {
  const BackendRef ref = reserve_for(attach_worker(), "m");
  const Segment& segment = *segment_;
  EXPECT_FALSE(set_keep_alive(segment, ref, 0)) << "nothing was asked";
  EXPECT_EQ(load_keep_alive(segment, ref), 0u);
  EXPECT_TRUE(set_keep_alive(segment, ref, kKeepForEver)) << "idle_timeout was shorter or longer";
  EXPECT_TRUE(set_keep_alive(segment, ref, pack_keep_alive(5000)));
  EXPECT_FALSE(set_keep_alive(segment, ref, pack_keep_alive(5000)));
  EXPECT_FALSE(set_keep_alive(segment, ref, pack_keep_alive(6000))) << "a look too early is none";
  EXPECT_EQ(load_keep_alive(segment, ref), pack_keep_alive(6000));
  EXPECT_TRUE(set_keep_alive(segment, ref, pack_keep_alive(0)));
  const BackendRef other{ref.index, ref.generation + 1};
  EXPECT_FALSE(set_keep_alive(segment, other, pack_keep_alive(1)));
  EXPECT_EQ(load_keep_alive(segment, other), 0u);
  EXPECT_EQ(load_keep_alive(segment, ref), pack_keep_alive(0));
}

TEST(KeepAlive, TellsNothingAskedFromNoTimeAtAll) {
  EXPECT_EQ(pack_keep_alive(0), 1u);
  EXPECT_EQ(pack_keep_alive(5000), 5001u);
  EXPECT_EQ(pack_keep_alive(UINT64_MAX), kKeepForEver);
  EXPECT_EQ(pack_keep_alive(UINT32_MAX), kKeepForEver);
}

TEST(Room, IsMadeForOneArrival) {
  for (const std::uint32_t devices : {1u, 1u << 15, 3u}) {
    EXPECT_EQ(promised_devices(pack_room(77, devices), 77), devices);
    EXPECT_EQ(promised_devices(pack_room(77, devices), 78), 0u);
  }
  EXPECT_EQ(promised_devices(0, 0), 0u);
}

// An epoch has 24 bits in a state word; it counts so, and never says 0, which is no coordinator.
TEST(Epochs, WrapToTheFirst) {
  EXPECT_EQ(StateWord::next_epoch(0), 1u);
  EXPECT_EQ(StateWord::next_epoch(0xfffffe), 0xffffffu);
  EXPECT_EQ(StateWord::next_epoch(0xffffff), 1u);
  for (const std::uint32_t epoch : {1u, 0xffffffu}) {
    EXPECT_EQ(StateWord::owner_of_epoch(epoch), epoch) << "nothing of it is cut off";
  }
}

// A lease's sequence has 20 bits; word and start together are one lease's, or leases as old as it.
TEST_F(Records, ALeaseWordThatComesAgainIsToldApartByItsStart) {
  load_external(pool_, "m").release();
  const BackendRef ref = find_backend(*segment_, "m")->ref;
  const std::uint64_t word = LeaseWord{ref.generation, ref.index, 5}.pack();
  EXPECT_EQ(word, (LeaseWord{ref.generation, ref.index, 5 + (1u << 20)}.pack()));
  EXPECT_TRUE(is_cancelled(word, 1000, word, 1000));
  EXPECT_FALSE(is_cancelled(word, 2000, word, 1000));
  EXPECT_FALSE(is_cancelled(0, 0, 0, 0)) << "no lease";
}

TEST_F(Records, CancelWordsAreReadWithTheirLease) {
  Lease lease = load_external(pool_, "m");
  const Snapshot s = look(pool_);
  ASSERT_EQ(s.leases.size(), 1u);
  EXPECT_FALSE(s.leases[0].cancelled());
  LeaseRecord& cell = segment_->lease(s.leases[0].worker, s.leases[0].cell);
  cell.cancel_start_ns.store(s.leases[0].start_ns);
  cell.cancel_at_ns.store(now_ns());
  cell.cancel_word.store(s.leases[0].word);
  EXPECT_TRUE(look(pool_).leases[0].cancelled());
  lease.release();
  Lease next = lease_on(pool_, "m");
  ASSERT_EQ(look(pool_).leases.size(), 1u);
  EXPECT_FALSE(look(pool_).leases[0].cancelled()) << "never cleared, and of the last one";
}

// What an earlier owner of the row said of a lease is not said of the next owner's.
TEST_F(Records, ALeaseSaysNothingThatItsOwnerDidNotSay) {
  load_external(pool_, "m").release();
  const BackendRef ref = find_backend(*segment_, "m")->ref;
  for (std::uint32_t cell = 0; cell < segment_->capacities().leases; ++cell) {
    segment_->lease(1, cell).flags.store(kLeaseCancellable);
    segment_->lease(1, cell).first_byte_limit_ns.store(1);
  }
  Worker& worker = attach_worker();
  ASSERT_EQ(worker.ref().index, 1u);
  LeaseRef lease;
  ASSERT_EQ(begin_lease(worker, ref, 0, "", &lease), BeginResult::kGranted);
  EXPECT_EQ(worker.lease(lease.cell).flags.load(), 0u);
  EXPECT_EQ(worker.lease(lease.cell).first_byte_limit_ns.load(), 0u);
  end_lease(lease);
}

// --- Counted backends ----------------------------------------------------------------------------

TEST_F(Records, ACountedBackendGrantsNothingOnTheFastPathAndIsClosedLikeAnyOther) {
  load_external(pool_, "m").release();
  const BackendRef ref = find_backend(*segment_, "m")->ref;
  const StateWord counted{ref.generation, StateWord::kCounted, BackendState::kReady};
  record(ref).state.store(counted.pack());
  EXPECT_TRUE(look(pool_).find(ref)->counted());
  EXPECT_EQ(findings(segment_), "");
  Worker& worker = attach_worker();
  LeaseRef lease;
  EXPECT_EQ(begin_lease(worker, ref, 0, "", &lease), BeginResult::kNotReady);
  ASSERT_TRUE(close_to_leases(*segment_, ref, 9));
  EXPECT_EQ(load_state(*segment_, ref.index),
            (StateWord{ref.generation, 9, BackendState::kEvicting}));
}

TEST_F(Records, ReopeningCountsWhatWasCounted) {
  load_external(pool_, "m").release();
  const BackendRef ref = find_backend(*segment_, "m")->ref;
  const auto owner_when_reopened = [&] {
    if (!close_to_leases(*segment_, ref, 9) || !reopen(*segment_, ref, 9)) return ~0u;
    return load_state(*segment_, ref.index).owner;
  };
  EXPECT_EQ(owner_when_reopened(), 0u);
  const std::uint64_t settings = settings_generation(*segment_);
  note_parallel(*segment_, ref, {settings, 4});
  EXPECT_EQ(owner_when_reopened(), StateWord::kCounted);
  note_parallel(*segment_, ref, {settings - 1, 0});
  EXPECT_EQ(owner_when_reopened(), StateWord::kCounted) << "of earlier settings";
  note_parallel(*segment_, ref, {settings, 0});
  EXPECT_EQ(owner_when_reopened(), 0u);
  record(ref).permit.store(PermitWord{1, ref.generation}.pack());
  EXPECT_EQ(owner_when_reopened(), StateWord::kCounted);
  record(ref).permit.store(PermitWord{1, ref.generation + 1}.pack());
  EXPECT_EQ(owner_when_reopened(), 0u);
}

// --- Waiters -------------------------------------------------------------------------------------

TEST_F(Records, AWaiterSaysWhatItNeedsAndSinceWhenItsModelIsWaitedFor) {
  LoadTicket ticket = ticket_for(pool_, "m");
  AcquireOptions options;
  options.expected_bytes = 5000;
  auto first = pool_.begin_acquire("m", std::chrono::seconds(600), options);
  ASSERT_TRUE(first && first->poll());
  auto second = pool_.begin_acquire("m", std::chrono::seconds(600));
  ASSERT_TRUE(second && second->poll());
  auto other = pool_.begin_acquire("another", std::chrono::seconds(600));
  ASSERT_TRUE(other && other->poll());
  const Snapshot s = look(pool_);
  ASSERT_GE(s.waiters.size(), 2u);
  EXPECT_EQ(s.waiters[0].need.places, 1u);
  EXPECT_EQ(s.waiters[0].need.bytes.host, 5000u);
  EXPECT_EQ(s.waiters[0].need.settings, s.settings_generation);
  EXPECT_EQ(s.waiters[0].room_devices, 0u);
  EXPECT_EQ(s.waiters[0].model_since_ns, s.waiters[0].since_ns);
  EXPECT_EQ(s.waiters[1].model_since_ns, s.waiters[0].since_ns);
  EXPECT_GE(s.waiters[1].since_ns, s.waiters[0].since_ns);

  segment_->waiter(s.waiters[0].row).room.store(pack_room(s.waiters[0].arrival, 2));
  segment_->waiter(s.waiters[1].row).room.store(pack_room(s.waiters[0].arrival, 2));
  EXPECT_EQ(look(pool_).waiters[0].room_devices, 2u);
  EXPECT_EQ(look(pool_).waiters[1].room_devices, 0u) << "it was for another";
  ASSERT_TRUE(ticket.give_back());
}

// It is derived from settings: when they change, whoever waits says anew what it needs.
TEST_F(Records, WhatAWaiterNeedsFollowsTheSettings) {
  LoadTicket ticket = ticket_for(pool_, "m");
  AcquireOptions options;
  options.expected_bytes = 5000;
  auto waiting = pool_.begin_acquire("m", std::chrono::seconds(600), options);
  ASSERT_TRUE(waiting && waiting->poll());
  const std::uint64_t before = look(pool_).settings_generation;
  ASSERT_TRUE(pool_.set("idle_timeout", "7m"));
  EXPECT_TRUE(waiting->was_woken());
  ASSERT_TRUE(waiting->poll());
  const Snapshot s = look(pool_);
  EXPECT_GT(s.settings_generation, before);
  EXPECT_EQ(s.waiters.at(0).need.settings, s.settings_generation);
  EXPECT_EQ(s.waiters.at(0).need.bytes.host, 5000u);
  ASSERT_TRUE(ticket.give_back());
}

// --- Devices -------------------------------------------------------------------------------------

TEST_F(Records, DevicesKeepTheirPositions) {
  const auto add = [&](const std::string& uuid) {
    auto lock = segment_->lock_structure();
    return register_device(*segment_, *lock, uuid);
  };
  EXPECT_THAT(look(pool_).devices, IsEmpty());
  EXPECT_EQ(add("GPU-a"), 0u);
  EXPECT_EQ(add("GPU-b"), 1u);
  EXPECT_EQ(add("GPU-a"), 0u) << "the same again";
  EXPECT_THAT(look(pool_).devices, ElementsAre("GPU-a", "GPU-b"));
  EXPECT_EQ(find_device(*segment_, "GPU-b"), 1u);
  EXPECT_EQ(find_device(*segment_, "GPU-c"), std::nullopt);
  for (const std::string& odd : {std::string(), std::string(96, 'x'), std::string("a\nb")}) {
    EXPECT_EQ(add(odd), std::nullopt);
  }
  for (std::size_t i = 2; i < kDevicesMax; ++i) EXPECT_EQ(add("GPU-" + std::to_string(i)), i);
  EXPECT_EQ(add("one more"), std::nullopt);
  segment_->device_row(0).uuid.store("\xff");
  EXPECT_EQ(read_devices(*segment_)[0], "") << "damaged, and the others keep their places";
  EXPECT_EQ(read_devices(*segment_)[1], "GPU-b");
}

TEST_F(Records, ADeviceThatNobodyRegisteredIsReported) {
  Lease lease = load_external(pool_, "m");
  segment_->backend(0).devices.store(2);
  EXPECT_THAT(findings(segment_), ::testing::HasSubstr("has a device that nobody registered"));
}

// --- Histories by hash ---------------------------------------------------------------------------

class HistoriesByHash : public ::testing::Test {
 protected:
  static Capacities capacities(std::uint32_t models) {
    Capacities small = small_capacities();
    small.models = models;
    return small;
  }
  static constexpr std::uint32_t kModels = 128;
  // Names that all belong into one place of the table.
  static std::vector<std::string> crowd(std::size_t count) {
    std::vector<std::string> names;
    for (int i = 0; names.size() < count; ++i) {
      const std::string name = "m" + std::to_string(i);
      if (hash_name(name) % kModels == kModels - 3) names.push_back(name);
    }
    return names;
  }
  void write(const std::string& model, std::uint64_t updated) const {
    auto lock = segment_->lock_structure();
    LoadHistory history;
    history.updated_ns = updated;
    history.loads = updated;
    write_history(*segment_, *lock, model, history);
  }

  const Scratch scratch_;
  const std::shared_ptr<Segment> segment_ = make_segment(scratch_, {}, capacities(kModels));
};

TEST_F(HistoriesByHash, AreFoundAmongOthersOfTheirPlaceAlsoRoundTheEnd) {
  const auto names = crowd(kHistoryProbes);
  for (std::size_t i = 0; i < names.size(); ++i) write(names[i], i + 1);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto history = find_history(*segment_, names[i]);
    ASSERT_TRUE(history) << names[i];
    EXPECT_EQ(history->loads, i + 1);
  }
  EXPECT_FALSE(find_history(*segment_, "missing"));
}

TEST_F(HistoriesByHash, OfACrowdedPlaceMakeRoomForTheLatest) {
  const auto names = crowd(kHistoryProbes + 1);
  for (std::size_t i = 0; i + 1 < names.size(); ++i) write(names[i], i == 5 ? 1 : i + 10);
  write(names.back(), 1000);
  EXPECT_FALSE(find_history(*segment_, names[5])) << "the longest untouched of those";
  EXPECT_TRUE(find_history(*segment_, names[0]));
  EXPECT_TRUE(find_history(*segment_, names.back()));
  EXPECT_EQ(read_histories(*segment_).size(), kHistoryProbes);
}

TEST_F(HistoriesByHash, AreComparedByNameInFull) {
  write("m", 7);
  for (std::uint32_t i = 0; i < kModels; ++i) {
    if (segment_->model(i).hash.load() != 0) segment_->model(i).name.store("another of that hash");
  }
  EXPECT_FALSE(find_history(*segment_, "m"));
}

TEST_F(HistoriesByHash, LearnFromEachLife) {
  LoadHistory history;
  BackendEnd end;
  end.ended_ns = 1000 * kSecond_ns;
  end.last_use_ns = 900 * kSecond_ns;
  end.interval_ns = 8 * kSecond_ns;
  end.evicted = true;
  end.peak.host = 5;
  end.peak.device[2] = 6;
  note_end(&history, end);
  EXPECT_EQ(history.interval_ns, 8 * kSecond_ns);
  EXPECT_EQ(history.evicted_ns, end.ended_ns);
  EXPECT_EQ(history.peak, end.peak);
  note_return(&history, 980 * kSecond_ns);
  EXPECT_EQ(history.interval_ns, 17 * kSecond_ns) << "80 s away count for an eighth";
  end.interval_ns = 0;
  end.evicted = false;
  end.last_use_ns = 1;
  end.peak = Bytes{};
  end.peak.host = 7;
  note_end(&history, end);
  EXPECT_EQ(history.interval_ns, 17 * kSecond_ns) << "a life that showed none changes nothing";
  EXPECT_EQ(history.last_use_ns, 900 * kSecond_ns);
  EXPECT_EQ(history.evicted_ns, 0u);
  EXPECT_EQ(history.peak.host, 7u);
  EXPECT_EQ(history.peak.device[2], 6u);
}

// --- Sizes ---------------------------------------------------------------------------------------

// docker's /dev/shm has 64 MiB.
TEST(SegmentSize, IsAtMost32MiBAtDefaultCapacities) {
  const Scratch scratch;
  const auto segment = make_segment(scratch, {}, Capacities{});
  EXPECT_LE(segment->header().total_bytes, 32u << 20);
  for (std::size_t i = 0; i < kTableCount; ++i) {
    const TableInfo& table = segment->header().tables[i];
    RecordProperty("table " + std::to_string(i), std::to_string(table.stride * table.count));
  }
  RecordProperty("total", std::to_string(segment->header().total_bytes));
}

}  // namespace
