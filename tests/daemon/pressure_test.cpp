// Host pressure with the real coordinator and the memory of this host, of which these tests ask for
// more than there is.
#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class PressureTest : public PoolTest {
 protected:
  // Each model is said to take 1 TiB, so that what happens on this host changes nothing.
  void start_with(const std::string& min_available) {
    const std::string path = scratch_.path("pool.toml");
    write_file(path, "[pool]\neviction = \"lru\"\n[[model]]\nmatch = \"*\"\nmemory = \"1TiB\"\n");
    start({"--config", path, "--min-available", min_available});
  }
};

TEST_F(PressureTest, OneIdleBackendGoesAndWhenThatDoesNotHelpNoMoreForAMinute) {
  start_with("0");
  RemoteWorker worker(scratch_);
  worker.load_idle("pinned");
  EXPECT_EQ(poolctl(scratch_, {"pin", "pinned"}).code, 0);
  worker.load("busy");
  worker.load_idle("old");
  worker.load_idle("new");
  EXPECT_EQ(poolctl(scratch_, {"set", "min-available=1000TiB"}).code, 0);
  const nlohmann::json end = wait_event("evicted", "old");
  EXPECT_EQ(end["reason"], "memory");
  EXPECT_THAT(std::string(end["text"]),
              AllOf(HasSubstr("the host has"), HasSubstr("min_available is 1000TiB")));
  EXPECT_THAT(poolctl(scratch_, {"why", "old"}).out, HasSubstr("because the host has"));
  const auto pauses = [&] { return !status()["coordinator"]["pressure_pause_ms"].is_null(); };
  ASSERT_TRUE(eventually(pauses));
  EXPECT_THAT(daemon().log(), HasSubstr("did not bring its memory back"));
  EXPECT_THAT(poolctl(scratch_, {"status"}).out,
              AllOf(HasSubstr("min_available 1000TiB"), HasSubstr("did not help")));
  EXPECT_THAT(poolctl(scratch_, {"explain", "new"}).out, HasSubstr("none for another"));
  EXPECT_EQ(count_events("evicted"), 1u);
  for (const char* model : {"pinned", "busy", "new"}) EXPECT_EQ(state(model), "ready") << model;

  // The pause outlives the coordinator: the next one looks, and ends nobody.
  daemon().kill_now();
  daemon().start();
  const auto scans = [&] { return status()["coordinator"]["scans"].get<std::uint64_t>(); };
  const std::uint64_t enough = scans() + 3;
  ASSERT_TRUE(eventually([&] {
    worker.touch("new");
    poolctl(scratch_, {"pin", "pinned"});
    return scans() >= enough;
  }));
  EXPECT_TRUE(pauses());
  EXPECT_EQ(count_events("evicted"), 1u);
  EXPECT_EQ(poolctl(scratch_, {"set", "min-available=0"}).code, 0);
  EXPECT_TRUE(eventually([&] { return !pauses(); })) << "without a limit nothing is left of it";
}

TEST_F(PressureTest, WithEnoughMemoryLeftNobodyGoes) {
  start_with("1B");
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  const auto scans = [&] { return status()["coordinator"]["scans"].get<std::uint64_t>(); };
  const std::uint64_t enough = scans() + 2;
  EXPECT_TRUE(eventually([&] { return scans() >= enough; })) << "it looks once a second";
  EXPECT_EQ(state("m"), "ready");
}

// One idle backend after the other went, and nobody had said why that would never end.
TEST_F(PressureTest, ALimitAboveAllThatTheHostHasIsSaidWhereverItIsSet) {
  const auto is_said = AllOf(HasSubstr("min_available is 1000TiB, but this host"),
                             HasSubstr("in all"), HasSubstr("set min_available lower"));
  start_with("1000TiB");
  EXPECT_TRUE(eventually([&] { return ::testing::Value(daemon().log(), is_said); }))
      << daemon().log();
  const Finished lowered = poolctl(scratch_, {"set", "min-available=1KiB"});
  EXPECT_EQ(lowered.err, "");
  const Finished raised = poolctl(scratch_, {"set", "min-available=1000TiB"});
  EXPECT_EQ(raised.code, 0);
  EXPECT_THAT(raised.err, is_said);
  EXPECT_EQ(poolctl(scratch_, {"set", "idle-timeout=1h"}).err, "") << "it changes nothing of that";

  const std::string path = scratch_.path("other.toml");
  write_file(path, "[pool]\nmin_available = \"1000TiB\"\n");
  const Finished checked = run({MODELPOOL_COORDINATORD, "--check-config", "--config", path});
  EXPECT_EQ(checked.code, 0) << "one file may serve hosts of several sizes";
  EXPECT_THAT(checked.err, is_said);
}

}  // namespace
}  // namespace modelpool::test
