// What is loaded together: groups, devices, loads at once (P3, P5).
#include <signal.h>

#include <set>

#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::HasSubstr;

class PlacementTest : public PoolTest {
 protected:
  void start_with(const std::string& config, std::vector<std::string> flags = {}) {
    write_file(scratch_.path("pool.toml"), config);
    flags.insert(flags.begin(), {"--config", scratch_.path("pool.toml"), "--max-wait", "off"});
    start(flags);
  }
  // What a started backend was told of its devices.
  std::string visible_to(RemoteWorker& worker, const std::string& model) {
    const std::string seen = scratch_.path("seen-" + model);
    EXPECT_EQ(worker.acquire(model), "ticket");
    EXPECT_THAT(
        worker.spawn_program(model, {"sh", "-c",
                                     "echo $CUDA_VISIBLE_DEVICES $HIP_VISIBLE_DEVICES > " + seen +
                                         ".new; mv " + seen + ".new " + seen + "; exec sleep 600"}),
        HasSubstr("pid "))
        << worker.last_error();
    EXPECT_TRUE(eventually([&] { return !read_file(seen).empty(); }));
    EXPECT_EQ(worker.ready(model), "lease") << worker.last_error();
    worker.release(model);
    return read_file(seen);
  }
  std::string explained(const std::string& model) {
    return poolctl(scratch_, {"explain", model}).out;
  }
};

constexpr const char* kGroups = R"(
[[model]]
match = "big-*"
groups = ["heavy"]
[[model]]
match = "both"
groups = ["heavy", "vision"]
[[model]]
match = "eye"
groups = "vision"
)";

TEST_F(PlacementTest, P3ModelsOfOneGroupAreNeverLoadedTogether) {
  start_with(kGroups);
  RemoteWorker worker(scratch_);
  const pid_t first = worker.load_idle("big-1");
  EXPECT_GT(worker.load_idle("eye"), 0);
  EXPECT_EQ(state("big-1"), "ready") << "they share no group";
  EXPECT_THAT(explained("big-2"), HasSubstr("big-1 shares a group with it"));
  EXPECT_GT(worker.load_idle("big-2"), 0);
  EXPECT_FALSE(is_running(first));
  EXPECT_EQ(state("big-1"), "");
  EXPECT_EQ(state("eye"), "ready");
  const auto end = wait_event("evicted", "big-1");
  EXPECT_EQ(end["reason"], "group");
  EXPECT_THAT(std::string(end["text"]), HasSubstr("room for big-2"));
  EXPECT_GT(worker.load_idle("both"), 0);
  EXPECT_EQ(list().size(), 1u) << "it shares one with each of the others";
  EXPECT_THAT(explained("both"), HasSubstr("no other model of heavy, vision"));
}

TEST_F(PlacementTest, P2OneOfTheGroupInUseIsDrainedAndNotCut) {
  start_with(kGroups);
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  const pid_t pid = holder.load("big-1");
  EXPECT_EQ(waiter.acquire("big-2", 100), "timeout");
  EXPECT_THAT(waiter.last_error(), HasSubstr("big-1"));
  waiter.begin_acquire("big-2");
  ASSERT_TRUE(wait_state("big-1", "evicting"));
  EXPECT_TRUE(is_running(pid));
  EXPECT_EQ(holder.progress("big-1"), "ok");
  holder.release("big-1");
  EXPECT_EQ(waiter.hear(), "ticket");
  EXPECT_FALSE(is_running(pid));
}

TEST_F(PlacementTest, APinnedOneOfTheGroupIsNamedAtOnce) {
  start_with(kGroups);
  RemoteWorker worker(scratch_);
  EXPECT_GT(worker.load_idle("big-1"), 0);
  EXPECT_EQ(poolctl(scratch_, {"pin", "big-1"}).code, 0);
  EXPECT_EQ(worker.acquire("big-2"), "all_pinned");
  EXPECT_EQ(poolctl(scratch_, {"unpin", "big-1"}).code, 0);
  EXPECT_GT(worker.load_idle("big-2"), 0);
}

TEST_F(PlacementTest, AReloadThatPutsTwoLiveOnesIntoOneGroupPartsThemWithoutACut) {
  start_with("");
  RemoteWorker holder(scratch_);
  const pid_t used = holder.load("a");
  EXPECT_GT(holder.load_idle("b"), 0);
  EXPECT_EQ(poolctl(scratch_, {"set", "groups=one"}).code, 0);
  EXPECT_EQ(wait_event("evicted", "b")["reason"], "group");
  EXPECT_TRUE(is_running(used));
  EXPECT_EQ(holder.progress("a"), "ok");
  holder.release("a");
  EXPECT_TRUE(settles());
  EXPECT_EQ(state("a"), "ready");
}

// What one thread knows of groups is of the settings as they were: it is read anew.
TEST_F(PlacementTest, AWaitingWorkerNoticesNewGroups) {
  start_with("", {"--max-backends", "2"});
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  EXPECT_GT(holder.load("a"), 0);
  EXPECT_GT(holder.load("b"), 0);
  waiter.begin_acquire("c");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  EXPECT_EQ(poolctl(scratch_, {"set", "groups=one"}).code, 0);
  holder.release("a");
  ASSERT_TRUE(eventually([&] { return list().size() == 1; }));
  EXPECT_EQ(status()["waiting"], 1) << "b still keeps it out";
  holder.release("b");
  EXPECT_EQ(waiter.hear(), "ticket");
  EXPECT_EQ(list().size(), 1u);
}

constexpr const char* kDevices = R"(
[pool]
gpu_memory = { GPU-a = "100MiB", GPU-b = "100MiB" }
[[model]]
match = "*-60"
devices = 1
gpu_memory = "60MiB"
[[model]]
match = "wide-40"
devices = 2
gpu_memory = ["40MiB", "50MiB"]
[[model]]
match = "on-b"
devices = ["GPU-b"]
gpu_memory = "90MiB"
[[model]]
match = "huge*"
gpu_memory = "101MiB"
[[model]]
match = "on-c"
devices = ["GPU-c"]
)";

TEST_F(PlacementTest, ADeviceThatWasNamedByMistakeIsNotUsedAnyMore) {
  const auto named = [](const std::string& uuid) {
    return "[pool]\ngpu_memory = { GPU-a = \"100MiB\", " + uuid +
           " = \"100MiB\" }\n[[model]]\nmatch = \"*\"\ndevices = 1\ngpu_memory = \"60MiB\"\n";
  };
  start_with(named("GPU-slip"));
  ASSERT_TRUE(eventually([&] { return status()["devices"].size() == 2; }));
  write_file(scratch_.path("pool.toml"), named("GPU-b"));
  daemon_->program().signal(SIGHUP);
  ASSERT_TRUE(eventually([&] { return status()["devices"].size() == 3; }));
  RemoteWorker worker(scratch_);
  const std::string first = visible_to(worker, "one");
  const std::string second = visible_to(worker, "two");
  EXPECT_EQ((std::set<std::string>{first, second}),
            (std::set<std::string>{"GPU-a GPU-a\n", "GPU-b GPU-b\n"}));
  visible_to(worker, "three");
  EXPECT_EQ(count_events("evicted"), 1u) << "there is no third device";
}

TEST_F(PlacementTest, P3ABackendIsPutWhereItFitsAndToldSo) {
  start_with(kDevices);
  RemoteWorker worker(scratch_);
  const std::string a = visible_to(worker, "x-60");
  EXPECT_EQ(a, "GPU-a GPU-a\n");
  EXPECT_THAT(explained("x-60"), HasSubstr("60MiB on GPU-a"));
  EXPECT_EQ(visible_to(worker, "y-60"), "GPU-b GPU-b\n");
  EXPECT_THAT(explained("z-60"), HasSubstr("60MiB of 100MiB on GPU-a"));
  EXPECT_EQ(visible_to(worker, "none"), "\n") << "it asks for no device";
  EXPECT_EQ(list().size(), 3u);
}

TEST_F(PlacementTest, P3WhoIsOnTheDeviceGoesAndNobodyElse) {
  start_with(kDevices, {"--eviction", "lru"});
  RemoteWorker worker(scratch_);
  visible_to(worker, "x-60");
  visible_to(worker, "y-60");
  EXPECT_EQ(visible_to(worker, "on-b"), "GPU-b GPU-b\n");
  EXPECT_EQ(state("x-60"), "ready") << "it is older, but on another device";
  EXPECT_EQ(state("y-60"), "");
  EXPECT_EQ(wait_event("evicted", "y-60")["reason"], "memory");
  EXPECT_EQ(visible_to(worker, "z-60"), "GPU-a GPU-a\n") << "by use x goes first";
  EXPECT_EQ(visible_to(worker, "wide-40"), "GPU-a,GPU-b GPU-a,GPU-b\n");
  EXPECT_EQ(state("on-b"), "");
  EXPECT_EQ(state("z-60"), "ready") << "beside 60MiB there were 40 free";
}

TEST_F(PlacementTest, WhatFitsOnNoDeviceIsRefusedAtOnce) {
  start_with(kDevices);
  RemoteWorker worker(scratch_);
  EXPECT_EQ(worker.acquire("huge"), "too_large");
  EXPECT_THAT(worker.last_error(), HasSubstr("101MiB of a device"));
  EXPECT_THAT(explained("huge"), HasSubstr("101MiB of a device"));
  EXPECT_EQ(poolctl(scratch_, {"set", "gpu-memory=GPU-a=200MiB,GPU-b=100MiB"}).code, 0);
  EXPECT_EQ(visible_to(worker, "huge"), "GPU-a GPU-a\n");
  EXPECT_EQ(visible_to(worker, "on-c"), "GPU-c GPU-c\n") << "one without a limit";
}

TEST_F(PlacementTest, ALimitBelowWhatAPinnedOneHasOfADeviceNamesIt) {
  start_with(kDevices);
  RemoteWorker worker(scratch_);
  EXPECT_EQ(poolctl(scratch_, {"set", "gpu-memory=GPU-a=200MiB,GPU-b=100MiB"}).err, "");
  EXPECT_EQ(visible_to(worker, "huge"), "GPU-a GPU-a\n");
  EXPECT_EQ(poolctl(scratch_, {"pin", "huge"}).code, 0);
  const Finished lowered = poolctl(scratch_, {"set", "gpu-memory=GPU-a=90MiB,GPU-b=100MiB"});
  EXPECT_EQ(lowered.code, 0);
  EXPECT_THAT(lowered.err, HasSubstr("backends take 101MiB of GPU-a, gpu_memory lets them have "
                                     "90MiB: those that are pinned"));
  EXPECT_THAT(lowered.err, HasSubstr("stay: huge; unpin"));
}

TEST_F(PlacementTest, P3SoManyLoadsAtOnce) {
  start_with("", {"--max-loads", "1"});
  RemoteWorker first(scratch_);
  RemoteWorker second(scratch_);
  ASSERT_EQ(first.acquire("a"), "ticket");
  EXPECT_EQ(second.acquire("b", 100), "timeout");
  EXPECT_THAT(second.last_error(), HasSubstr("max_loads"));
  second.begin_acquire("b");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  ASSERT_THAT(first.spawn("a"), HasSubstr("pid "));
  ASSERT_EQ(first.ready("a"), "lease");
  EXPECT_EQ(second.hear(), "ticket");
}

}  // namespace
}  // namespace modelpool::test
