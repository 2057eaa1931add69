// Every table full: an answer that names it, and the pool goes on when there is room again (P13).
#include <unistd.h>

#include "daemon/pool_test.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::HasSubstr;

class FullTables : public PoolTest {};

TEST_F(FullTables, OfWorkersRefuseTheNextAndTakeItWhenOneHasDied) {
  start({"--workers", "2"});
  RemoteWorker first(scratch_);
  auto second = std::make_unique<RemoteWorker>(scratch_);
  PoolOptions options;
  options.dir = scratch_.dir();
  options.attach_timeout = std::chrono::milliseconds(0);
  const auto refused = Pool::attach("default", options);
  EXPECT_EQ(code_of(refused), Errc::kTableFull);
  EXPECT_THAT(text_of(refused), HasSubstr("--workers"));
  second->kill_now();
  EXPECT_TRUE(eventually([&] { return Pool::attach("default", options).has_value(); }));
}

TEST_F(FullTables, OfBackendsRefuseTheNextAndTakeItWhenOneIsGone) {
  start({"--backends", "2"});
  RemoteWorker worker(scratch_);
  worker.load_idle("a");
  worker.load_idle("b");
  EXPECT_EQ(worker.acquire("c"), "table_full");
  EXPECT_THAT(worker.last_error(), HasSubstr("--backends"));
  ASSERT_TRUE(attach(scratch_).evict("a"));
  EXPECT_TRUE(eventually([&] { return worker.acquire("c") == "ticket"; }));
}

TEST_F(FullTables, OfLeasesRefuseTheNextAndTakeItWhenOneHasEnded) {
  start({"--leases", "64"});
  Pool pool = attach(scratch_);
  std::vector<Lease> leases;
  leases.push_back(load_external(pool, "m"));
  while (leases.size() < 64) leases.push_back(lease_on(pool, "m"));
  const auto refused = pool.acquire("m", std::chrono::seconds(20));
  EXPECT_EQ(code_of(refused), Errc::kTableFull);
  EXPECT_THAT(text_of(refused), HasSubstr("--leases"));
  leases.pop_back();
  EXPECT_TRUE(pool.acquire("m", std::chrono::seconds(20)));
}

TEST_F(FullTables, OfWaitersRefuseTheNextAndTakeItWhenOneHasLeft) {
  start({"--waiters", "1", "--max-backends", "1"});
  RemoteWorker holder(scratch_);
  RemoteWorker waiting(scratch_);
  holder.load("a");
  waiting.begin_acquire("b");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  EXPECT_EQ(holder.acquire("c"), "table_full");
  EXPECT_THAT(holder.last_error(), HasSubstr("--waiters"));
  waiting.kill_now();
  holder.release("a");
  EXPECT_TRUE(eventually([&] { return holder.acquire("c") == "ticket"; }));
}

// Histories are a memory, not a limit: the longest untouched one makes room.
TEST_F(FullTables, OfModelsForgetTheOldestAndServeAll) {
  start({"--models", "4"});
  RemoteWorker worker(scratch_);
  for (int i = 0; i < 12; ++i) {
    const std::string model = "m" + std::to_string(i);
    ASSERT_EQ(worker.acquire(model), "ticket");
    ASSERT_EQ(worker.ready_external(model), "lease");
    worker.release(model);
  }
  EXPECT_TRUE(eventually([&] { return count_events("loaded") == 12; }));
  EXPECT_EQ(status()["ready"], 12);
  ASSERT_EQ(worker.acquire("last"), "ticket");
  ASSERT_EQ(worker.fail("last", "no"), "ok");
  EXPECT_EQ(worker.acquire("last"), "cooling_down") << "the newest is remembered";
}

TEST_F(FullTables, OfRulesAreAConfigErrorThatNamesTheLimit) {
  std::string config;
  for (std::size_t i = 0; i <= kGlobsMax; ++i) {
    config += "[[model]]\nmatch = \"m" + std::to_string(i) + "*\"\nidle_timeout = \"1s\"\n";
  }
  write_file(scratch_.path("config.toml"), config);
  const Finished refused =
      run({MODELPOOL_COORDINATORD, "--check-config", "--config", scratch_.path("config.toml")});
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr(std::to_string(kGlobsMax)));
  // At SIGHUP the old one stays, and one that fits is taken.
  write_file(scratch_.path("config.toml"), "[pool]\nmax_backends = 3\n");
  start({"--config", scratch_.path("config.toml")});
  write_file(scratch_.path("config.toml"), config);
  daemon().program().signal(SIGHUP);
  EXPECT_TRUE(eventually(
      [&] { return daemon().log().find("the settings in force stay") != std::string::npos; }));
  EXPECT_EQ(status()["max_backends"], 3);
  write_file(scratch_.path("config.toml"), "[pool]\nmax_backends = 2\n");
  daemon().program().signal(SIGHUP);
  EXPECT_TRUE(eventually([&] { return status()["max_backends"] == 2; }));
}

TEST_F(FullTables, OfSettingsAreARefusalThatNamesTheFlagAndTheOldOnesStay) {
  std::string many;
  for (int i = 0; i < 400; ++i) {
    many += "[[model]]\nmatch = \"model-" + std::to_string(i) + "\"\nidle_timeout = \"1s\"\n";
  }
  const std::string config = scratch_.path("config.toml");
  write_file(config, many);
  const Finished checked =
      run({MODELPOOL_COORDINATORD, "--check-config", "--config", config, "--rules", "4"});
  EXPECT_EQ(checked.code, 2);
  EXPECT_THAT(checked.err, HasSubstr("--rules"));
  write_file(config, "[pool]\nmax_backends = 3\n");
  start({"--config", config, "--rules", "4"});
  write_file(config, many);
  daemon().program().signal(SIGHUP);
  EXPECT_TRUE(eventually(
      [&] { return daemon().log().find("the settings in force stay") != std::string::npos; }));
  EXPECT_THAT(daemon().log(), HasSubstr("--rules"));
  EXPECT_EQ(status()["max_backends"], 3);
}

TEST_F(FullTables, OfEventsWrapManyTimesOverUnderAFollower) {
  start({"--events", "64"});
  Program follower(
      {MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "-o", "json", "events", "--follow"});
  for (int i = 1; i <= 300; ++i) {
    ASSERT_TRUE(attach(scratch_).set_limit(static_cast<std::uint32_t>(i)));
    if (i % 20 != 0) continue;
    ASSERT_TRUE(eventually([&] {
      const auto seen = events(scratch_);
      return !seen.empty() && seen.back()["seq"].get<int>() >= i / 20;
    }));
  }
  EXPECT_TRUE(eventually([&] {
    const auto seen = events(scratch_);
    return seen.back()["text"].get<std::string>().find("-> 300") != std::string::npos;
  }));
  const auto seen = events(scratch_);
  EXPECT_LE(seen.size(), 64u);
  for (std::size_t i = 1; i < seen.size(); ++i) {
    EXPECT_EQ(seen[i]["seq"], seen[i - 1]["seq"].get<std::uint64_t>() + 1);
  }
  EXPECT_TRUE(eventually([&] { return follower.out().find("-> 300") != std::string::npos; }));
}

}  // namespace
}  // namespace modelpool::test
