// Stamps from the future in every place that keeps one: nothing is ended early for them, nobody
// spins or dies, and what is due by good stamps is still done (P8). The decisions alone are tested
// in tests/unit; here it is the whole, on a live segment.
#include "base/time.hpp"
#include "daemon/pool_test.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

class Future : public PoolTest, public ::testing::WithParamInterface<std::uint64_t> {};

TEST_P(Future, StampsEndNothingEarlyAndHoldUpNothingElse) {
  start({"--idle-timeout", "300ms", "--busy-timeout", "10m", "--stall-timeout", "10m",
         "--load-timeout", "10m", "--max-backends", "4"});
  RemoteWorker worker(scratch_);
  const pid_t busy = worker.load("busy");
  ASSERT_EQ(worker.acquire("loading"), "ticket");
  Pool pool = attach(scratch_);
  load_external(pool, "odd").release();
  daemon().kill_now();
  const std::uint64_t later = add_ns(now_ns(), GetParam());
  const auto slot_of = [&](const std::string& model) {
    return look_inside(pool)->find_model(model)->ref.index;
  };
  const Segment& segment = segment_of(pool);
  BackendRecord& odd = segment.backend(slot_of("odd"));
  for (Word* stamp : {&odd.ready_ns, &odd.started_ns, &odd.reserved_ns, &odd.drain_failed_ns}) {
    stamp->store(later);
  }
  segment.backend(slot_of("loading")).reserved_ns.store(later);
  for (std::uint32_t row = 0; row <= segment.capacities().workers; ++row) {
    segment.last_used(row, slot_of("odd")).store(later);
  }
  const Snapshot seen = *look_inside(pool);
  for (const LeaseView& lease : seen.leases) {
    LeaseRecord& record = segment.lease(lease.worker, lease.cell);
    record.start_ns.store(later);
    record.progress_ns.store(later);
  }
  for (const WorkerView& w : seen.workers) segment.worker(w.ref.index).attached_ns.store(later);
  CoordinatorRecord& coordinator = segment.coordinator();
  for (Word* stamp :
       {&coordinator.started_ns, &coordinator.last_scan_ns, &coordinator.horizon_ns}) {
    stamp->store(later);
  }
  daemon().start();
  // By good stamps this one is due; the others are not.
  const pid_t idle = worker.load_idle("idle");
  EXPECT_TRUE(eventually([&] { return !is_running(idle); }));
  EXPECT_EQ(wait_event("evicted", "idle")["reason"], "idle");
  EXPECT_TRUE(is_running(busy));
  EXPECT_EQ(worker.progress("busy"), "ok");
  EXPECT_EQ(state("loading"), "reserved");
  for (const std::string command :
       {"list", "status", "leases", "workers", "waiters", "events", "dump"})
    EXPECT_EQ(poolctl(scratch_, {command}).code, 0) << command;
  const auto scans = [&] { return status()["coordinator"]["scans"].get<std::uint64_t>(); };
  const std::uint64_t before = scans();
  EXPECT_FALSE(eventually([&] { return scans() > before + 100; }, std::chrono::milliseconds(300)))
      << "it spins";
  // And everything can still be used and ended.
  EXPECT_EQ(worker.acquire("odd"), "lease");
  worker.release("odd");
  worker.release("busy");
  EXPECT_EQ(worker.fail("loading", "enough"), "ok");
  ASSERT_TRUE(pool.evict("odd"));
  ASSERT_TRUE(pool.evict("busy"));
  EXPECT_TRUE(eventually([&] { return status()["live"] == 0; }));
}

TEST_P(Future, WaitersWaitNoLongerThanTheirOwnDeadline) {
  start({"--max-backends", "1"});
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  holder.load("held");
  waiter.begin_acquire("wanted", 1000);
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  Pool pool = attach(scratch_);
  const Snapshot seen = *look_inside(pool);
  WaiterRecord& row = segment_of(pool).waiter(seen.waiters.at(0).row);
  row.deadline_ns.store(add_ns(now_ns(), GetParam()));
  row.since_ns.store(add_ns(now_ns(), GetParam()));
  ASSERT_TRUE(pool.set_limit(1));  // rings
  EXPECT_EQ(waiter.hear(), "timeout");
  EXPECT_EQ(status()["waiting"], 0);
  EXPECT_EQ(state("held"), "ready");
}

INSTANTIATE_TEST_SUITE_P(AnHourAYearAndNever, Future,
                         ::testing::Values(3600 * kSecond_ns, 365 * 86'400 * kSecond_ns,
                                           kNever_ns));

}  // namespace
}  // namespace modelpool::test
