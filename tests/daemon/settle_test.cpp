// P3 for device memory, with the real coordinator. What a backend takes of a device is written by
// the test, as the coordinator does when it has measured it.
#include <signal.h>

#include "base/proc.hpp"
#include "base/time.hpp"
#include "pool_test.hpp"
#include "protocol/slots.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class SettleTest : public PoolTest {
 protected:
  void take_device_memory(const std::string& model) {
    const Pool pool = attach(scratch_);
    const Segment& segment = segment_of(pool);
    const auto found = find_backend(segment, model);
    ASSERT_TRUE(found);
    segment.backend(found->ref.index).peak.device[0].store(std::uint64_t{1} << 30);
  }
  // A request for its end that does not wait for that.
  void evict(const std::string& model) {
    Pool pool = attach(scratch_);
    ASSERT_TRUE(pool.evict(model));
  }
};

TEST_F(SettleTest, P3ThePlaceStaysTakenAfterTheProcessesAreGoneAndTheEndIsToldBefore) {
  start({"--settle", "1h", "--max-backends", "1"});
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load_idle("m");
  take_device_memory("m");
  evict("m");
  const nlohmann::json end = wait_event("evicted", "m");
  EXPECT_FALSE(end["exit_ms"].is_null());
  EXPECT_TRUE(eventually([&] { return !entry("m")["stop"]["ended_ms"].is_null(); }));
  EXPECT_EQ(state("m"), "stopping");
  const auto stat = read_stat(pid);
  EXPECT_TRUE(!stat || stat->has_ended());
  EXPECT_THAT(poolctl(scratch_, {"list"}).out, HasSubstr("settling"));
  EXPECT_THAT(poolctl(scratch_, {"explain", "m"}).out,
              AllOf(HasSubstr("its processes are gone"), HasSubstr("(settle)")));
  EXPECT_EQ(worker.acquire("other", 0), "timeout") << "its place";
  EXPECT_EQ(worker.acquire("m", 0), "timeout") << "and its model";

  // The next coordinator goes on with it, and tells nobody again.
  daemon().kill_now();
  daemon().start();
  wait_event("recovered");
  EXPECT_EQ(state("m"), "stopping");
  RemoteWorker waiter(scratch_);
  waiter.begin_acquire("other");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  EXPECT_EQ(poolctl(scratch_, {"set", "settle=off"}).code, 0);
  EXPECT_EQ(waiter.hear(), "ticket");
  EXPECT_EQ(count_events("evicted", "m"), 1u);
}

TEST_F(SettleTest, ItEndsWithTheSettingAndACrashSettlesToo) {
  start({"--settle", "300ms"});
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load_idle("m");
  take_device_memory("m");
  const Pool pool = attach(scratch_);
  const std::uint32_t slot = find_backend(segment_of(pool), "m")->ref.index;
  kill(pid, SIGKILL);
  EXPECT_EQ(wait_event("exited", "m")["reason"], "crashed");
  EXPECT_TRUE(wait_state("m", ""));
  const std::uint64_t gone_ns = now_ns();
  const StopRecord stop = segment_of(pool).backend(slot).stop.load();
  EXPECT_GE(gone_ns, stop.ended_ns + 300 * kMillisecond_ns);
  EXPECT_EQ(stop.baseline, StopRecord::unmeasured());
  EXPECT_TRUE(settles());
}

TEST_F(SettleTest, WithoutDeviceMemoryNothingSettles) {
  start({"--settle", "1h"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0) << "returns when it is gone";
}

}  // namespace
}  // namespace modelpool::test
