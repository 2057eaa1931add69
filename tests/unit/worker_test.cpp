#include "protocol/worker.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/proc.hpp"
#include "base/time.hpp"
#include "protocol/acquisition.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

Worker& attach_worker(const std::shared_ptr<Segment>& segment) {
  auto worker = Worker::attach(segment);
  if (!worker) throw std::runtime_error(worker.error().text);
  return **worker;
}

bool is_attached(const Worker& worker) {
  return low_half(worker.record().state.load()) ==
         static_cast<std::uint32_t>(WorkerState::kAttached);
}

TEST(ForkGuard, IsOwnedHereAndWipedInAForkedChild) {
  const auto guard = ForkGuard::make();
  ASSERT_TRUE(guard);
  EXPECT_TRUE((*guard)->owned());
  Forked child([&](Forked::Child&) {
    EXPECT_FALSE((*guard)->owned());
    Forked grandchild([&](Forked::Child&) { EXPECT_FALSE((*guard)->owned()); });
    EXPECT_EQ(grandchild.wait(), 0);
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_TRUE((*guard)->owned());
}

TEST(ForkGuard, ItsMutexIsNotInheritedLocked) {
  const auto guard = ForkGuard::make();
  ASSERT_TRUE(guard);
  std::atomic<bool> locked{false};
  std::atomic<bool> let_go{false};
  std::thread holder([&] {
    pthread_mutex_lock(&(*guard)->mutex());
    locked = true;
    eventually([&] { return let_go.load(); });
    pthread_mutex_unlock(&(*guard)->mutex());
  });
  ASSERT_TRUE(eventually([&] { return locked.load(); }));
  EXPECT_NE(pthread_mutex_trylock(&(*guard)->mutex()), 0);
  Forked child([&](Forked::Child&) {
    EXPECT_EQ(pthread_mutex_lock(&(*guard)->mutex()), 0);
    EXPECT_EQ(pthread_mutex_unlock(&(*guard)->mutex()), 0);
  });
  EXPECT_EQ(child.wait(), 0);
  let_go = true;
  holder.join();
}

TEST(Worker, WritesItsIdentityIntoARow) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  const std::uint32_t bell = segment->coordinator().doorbell.load();
  const Worker& worker = attach_worker(segment);
  const WorkerRecord& row = worker.record();
  EXPECT_TRUE(is_attached(worker));
  EXPECT_EQ(row.pid.load(), static_cast<std::uint32_t>(getpid()));
  EXPECT_EQ(row.start_ticks.load(), own_identity().start_ticks);
  EXPECT_EQ(row.image.load(), image_id());
  EXPECT_EQ(row.command.load(), read_stat(getpid())->command);
  EXPECT_NE(worker.ref().generation, 0u);
  EXPECT_TRUE(worker.owned());
  EXPECT_NE(segment->coordinator().doorbell.load(), bell);  // attaching rings
  EXPECT_EQ(worker_liveness(*segment, worker.ref().index, true), Liveness::kAlive);
}

TEST(Worker, P9ABackendCannotBeAWorkerOfItsOwnPool) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  setenv("MODELPOOL_BACKEND", segment->token(3, 1).c_str(), 1);
  const auto refused = Worker::attach(segment);
  setenv("MODELPOOL_BACKEND", "0123456789abcdef0123456789abcdef/3/1", 1);
  const auto of_another_pool = Worker::attach(segment);
  unsetenv("MODELPOOL_BACKEND");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::kInvalid);
  EXPECT_NE(refused.error().text.find("belongs to a backend"), std::string::npos);
  EXPECT_TRUE(of_another_pool);
}

TEST(Worker, AttachedTwiceHasTwoRows) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  const Worker& first = attach_worker(segment);
  const Worker& second = attach_worker(segment);
  EXPECT_NE(first.ref().index, second.ref().index);
  EXPECT_NE(first.serial(), second.serial());
  EXPECT_NE(first.owner_word(), second.owner_word());
  EXPECT_TRUE(is_attached(first));
}

TEST(Worker, ThatClosesGivesItsRowToTheNextGeneration) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  Worker& first = attach_worker(segment);
  first.close();
  EXPECT_FALSE(is_attached(first));
  const Worker& second = attach_worker(segment);
  EXPECT_EQ(second.ref().index, first.ref().index);
  EXPECT_GT(second.ref().generation, first.ref().generation);
}

TEST(Worker, KeepsItsRowUntilTheLastTicketOrWaitIsDone) {
  const Scratch scratch;
  Worker& worker = attach_worker(make_segment(scratch));
  worker.hold();
  worker.hold();
  worker.close();
  EXPECT_TRUE(is_attached(worker));
  worker.drop();
  EXPECT_TRUE(is_attached(worker));
  worker.drop();
  EXPECT_FALSE(is_attached(worker));
}

TEST(Worker, WaitsForARowUntilItsTime) {
  const Scratch scratch;
  Capacities capacities = small_capacities();
  capacities.workers = 1;
  const auto segment = make_segment(scratch, {}, capacities);
  Worker& first = attach_worker(segment);
  const std::uint64_t until = now_ns() + 50 * kMillisecond_ns;
  EXPECT_EQ(code_of(Worker::attach(segment, until)), Errc::kTableFull);
  EXPECT_GE(now_ns(), until) << "not before its time";
  std::atomic<bool> has_row{false};
  std::thread second([&] { has_row = Worker::attach(segment, kNever_ns).has_value(); });
  first.close();
  second.join();
  EXPECT_TRUE(has_row);
}

TEST(Worker, WithoutAFreeRowIsRefused) {
  const Scratch scratch;
  Capacities capacities = small_capacities();
  capacities.workers = 2;
  const auto segment = make_segment(scratch, {}, capacities);
  Worker& first = attach_worker(segment);
  attach_worker(segment);
  const auto refused = Worker::attach(segment);
  EXPECT_EQ(code_of(refused), Errc::kTableFull);
  EXPECT_NE(text_of(refused).find("all 2 worker rows"), std::string::npos) << text_of(refused);
  first.close();
  EXPECT_TRUE(Worker::attach(segment));
}

TEST(Worker, HandsOutEachCellOnceAndSaysHowHighItWent) {
  const Scratch scratch;
  Capacities capacities = small_capacities();
  capacities.leases = 70;  // over one word of the bitmap
  Worker& worker = attach_worker(make_segment(scratch, {}, capacities));
  std::set<std::uint32_t> taken;
  for (std::uint32_t i = 0; i < 70; ++i) {
    const std::uint32_t cell = worker.take_cell();
    ASSERT_LT(cell, 70u);
    EXPECT_TRUE(taken.insert(cell).second);
    EXPECT_GT(worker.record().leases_high.load(), cell);
  }
  EXPECT_EQ(worker.take_cell(), Worker::kNoCell);
  worker.return_cell(66);
  EXPECT_EQ(worker.take_cell(), 66u);
  EXPECT_EQ(worker.take_cell(), Worker::kNoCell);
}

TEST(Worker, HandsOutEachCellOnceToThreadsThatRace) {
  const Scratch scratch;
  Capacities capacities = small_capacities();
  capacities.leases = 100;
  Worker& worker = attach_worker(make_segment(scratch, {}, capacities));
  std::vector<std::atomic<int>> holders(100);
  std::atomic<int> shared_cells{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        const std::uint32_t cell = worker.take_cell();
        if (cell == Worker::kNoCell) continue;
        if (holders[cell].fetch_add(1) != 0) ++shared_cells;
        holders[cell].fetch_sub(1);
        worker.return_cell(cell);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(shared_cells, 0);
}

TEST(LastUsed, OnlyGrows) {
  Word cell{0};
  const std::uint64_t now = 1000 * kSecond_ns;
  raise_last_used(cell, now);
  EXPECT_EQ(cell.load(), now);
  raise_last_used(cell, now - kSecond_ns);
  EXPECT_EQ(cell.load(), now);
  raise_last_used(cell, now + 1);
  EXPECT_EQ(cell.load(), now + 1);
}

TEST(WorkerLiveness, IsDeathOnlyWhenProved) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  Forked child([&](Forked::Child& parent) {
    attach_worker(segment);
    parent.say("attached");
    parent.hear();
  });
  ASSERT_EQ(child.hear(), "attached");
  std::uint32_t index = 0;
  while (segment->worker(index).pid.load() != static_cast<std::uint32_t>(child.pid())) ++index;
  EXPECT_EQ(worker_liveness(*segment, index, true), Liveness::kAlive);
  // Another process under its pid: the one that attached is dead.
  const std::uint64_t ticks = segment->worker(index).start_ticks.exchange(1);
  EXPECT_EQ(worker_liveness(*segment, index, false), Liveness::kDead);
  segment->worker(index).start_ticks.store(ticks);
  child.kill_now();
  EXPECT_EQ(worker_liveness(*segment, index, false), Liveness::kDead);
}

TEST(ClearWorkerRow, EndsEverythingTheDeadWorkerLeft) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const auto segment = shared_segment_of(pool);
  load_external(pool, "m").release();
  const LoadTicket ticket = ticket_for(pool, "waited for");
  Worker& dead = attach_worker(segment);
  const BackendRef backend = find_backend(*segment, "m")->ref;
  LeaseRef leases[3];
  for (auto& lease : leases)
    ASSERT_EQ(begin_lease(dead, backend, 0, "", &lease), BeginResult::kGranted);
  AcquisitionOptions options;
  options.deadline_ns = kNever_ns;
  auto wait = std::make_unique<Acquisition>(dead, "waited for", options);
  ASSERT_TRUE(wait->poll());
  ASSERT_EQ(look(pool).waiters.size(), 1u);

  const std::uint64_t before = now_ns();
  EXPECT_EQ(clear_worker_row(*segment, dead.ref(), segment->coordinator_row()), 3u);
  EXPECT_GE(segment->last_used(segment->coordinator_row(), backend.index).load(), before);
  EXPECT_FALSE(is_attached(dead));
  const Snapshot s = look(pool);
  EXPECT_EQ(s.leases.size(), 0u);
  EXPECT_EQ(s.waiters.size(), 0u);
  EXPECT_EQ(s.workers.size(), 1u);
  EXPECT_NE(s.find_model("m"), nullptr);
  wait.reset();  // leaves a row that is no longer its own: nothing happens
  EXPECT_EQ(findings(segment), "");
}

TEST(ClearWorkerRow, LeavesTheRowsOfOthersAlone) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  Lease mine = load_external(pool, "m");
  Worker& dead = attach_worker(shared_segment_of(pool));
  EXPECT_EQ(clear_worker_row(segment_of(pool), dead.ref(), segment_of(pool).coordinator_row()), 0u);
  EXPECT_TRUE(mine.progress());
  EXPECT_EQ(look(pool).leases.size(), 1u);
}

TEST(ClearWorkerRow, DoesNotFreeARowThatHasANewOwner) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  Worker& first = attach_worker(segment);
  const WorkerRef old = first.ref();
  first.close();
  const Worker& second = attach_worker(segment);
  ASSERT_EQ(second.ref().index, old.index);
  clear_worker_row(*segment, old, segment->coordinator_row());
  EXPECT_TRUE(is_attached(second));
}

TEST(Attach, ReclaimsTheRowsOfAnEarlierImageOfThisProcess) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const auto segment = shared_segment_of(pool);
  load_external(pool, "m").release();
  Worker& earlier = attach_worker(segment);
  LeaseRef lease;
  ASSERT_EQ(begin_lease(earlier, find_backend(*segment, "m")->ref, 0, "", &lease),
            BeginResult::kGranted);
  earlier.record().image.store(image_id() + 1);  // as if exec had come between
  const Worker& now = attach_worker(segment);
  EXPECT_EQ(now.ref().index, earlier.ref().index);
  EXPECT_EQ(look(pool).leases.size(), 0u);
  EXPECT_EQ(look(pool).workers.size(), 2u);
}

}  // namespace
