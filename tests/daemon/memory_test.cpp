// P3 for bytes: what is loaded fits into max_memory, and who makes room goes together or not at
// all.
#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class MemoryTest : public PoolTest {
 protected:
  // A model takes as many MiB as its name ends with.
  void start_with(const std::string& max_memory, const std::vector<std::string>& flags = {}) {
    std::string config = "[pool]\nmax_memory = \"" + max_memory + "\"\n";
    for (const char* size : {"10", "30", "40", "60", "80"}) {
      config +=
          "[[model]]\nmatch = \"*-" + std::string(size) + "\"\nmemory = \"" + size + "MiB\"\n";
    }
    const std::string path = scratch_.path("pool.toml");
    write_file(path, config);
    std::vector<std::string> all{"--config", path, "--max-wait", "off"};
    all.insert(all.end(), flags.begin(), flags.end());
    // What is declared counts, not what the stand-ins take: under a sanitizer that is more.
    daemon_ = std::make_unique<Daemon>(
        scratch_, all, Program::Options{{{"MODELPOOL_SAMPLE", "/dev/null/none"}}, ""});
  }
  std::string loaded() {
    std::string models;
    for (const char* name : {"a-30", "b-30", "c-30", "d-40", "e-60", "f-80", "g-10"}) {
      if (state(name) == "ready") models += (models.empty() ? "" : " ") + std::string(name);
    }
    return models;
  }
};

TEST_F(MemoryTest, P3WhatIsLoadedFitsIntoMaxMemory) {
  start_with("100MiB", {"--eviction", "lru"});
  RemoteWorker worker(scratch_);
  for (const char* model : {"a-30", "b-30", "c-30", "g-10"}) worker.load_idle(model);
  EXPECT_EQ(loaded(), "a-30 b-30 c-30 g-10");
  worker.load_idle("d-40");
  EXPECT_EQ(loaded(), "c-30 d-40 g-10") << "the two oldest, which just suffice";
  const nlohmann::json end = wait_event("evicted", "a-30");
  EXPECT_EQ(end["reason"], "memory");
  EXPECT_THAT(std::string(end["text"]), HasSubstr("room for d-40"));
}

TEST_F(MemoryTest, NobodyGoesWhoIsNotNeeded) {
  start_with("100MiB", {"--eviction", "lru"});
  RemoteWorker worker(scratch_);
  worker.load_idle("g-10");
  worker.load_idle("f-80");
  worker.load_idle("e-60");
  EXPECT_EQ(loaded(), "e-60 g-10") << "g-10 is older, and would not have sufficed";
}

TEST_F(MemoryTest, P2OneInUseIsDrainedForBytesToo) {
  start_with("100MiB");
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  holder.load_idle("g-10");
  holder.load("e-60");
  waiter.begin_acquire("f-80");
  ASSERT_TRUE(wait_state("e-60", "evicting"));
  EXPECT_EQ(count_events("evicted"), 0u);
  holder.release("e-60");
  EXPECT_EQ(waiter.hear(), "ticket");
  EXPECT_EQ(loaded(), "g-10") << "it has room beside 80";
}

TEST_F(MemoryTest, ThoseWhoMakeRoomTogetherGoWhenTheLastHasDrained) {
  start_with("100MiB");
  RemoteWorker holder(scratch_);
  RemoteWorker waiter(scratch_);
  holder.load_idle("f-80");  // so that it is known how long it takes
  holder.load("d-40");
  holder.load_idle("a-30");
  holder.load_idle("b-30");
  EXPECT_EQ(poolctl(scratch_, {"set", "max-wait=200ms"}).code, 0);
  waiter.begin_acquire("f-80");
  ASSERT_TRUE(wait_state("d-40", "evicting"));
  holder.release("d-40");
  EXPECT_EQ(waiter.hear(), "ticket");
  EXPECT_EQ(loaded(), "");
  EXPECT_EQ(count_events("evicted"), 4u) << "f-80 before, and three for it";
}

TEST_F(MemoryTest, WhatCanNeverFitIsRefusedAtOnce) {
  start_with("100MiB");
  RemoteWorker worker(scratch_);
  worker.load_idle("f-80");
  EXPECT_EQ(poolctl(scratch_, {"pin", "f-80"}).code, 0);
  EXPECT_EQ(worker.acquire("a-30"), "all_pinned");
  EXPECT_THAT(worker.last_error(),
              AllOf(HasSubstr("all 1 backends are pinned: f-80"), HasSubstr("unpin")));
  EXPECT_EQ(poolctl(scratch_, {"set", "max-memory=50MiB"}).code, 0);
  EXPECT_EQ(worker.acquire("e-60"), "too_large");
  EXPECT_THAT(worker.last_error(), AllOf(HasSubstr("60MiB"), HasSubstr("50MiB")));
  EXPECT_EQ(state("f-80"), "ready") << "a pin holds above the limit too";
  EXPECT_EQ(poolctl(scratch_, {"unpin", "f-80"}).code, 0);
  EXPECT_TRUE(wait_state("f-80", "")) << "the pool goes down to its limit";
}

TEST_F(MemoryTest, OfUnknownSizeAModelTakesHalf) {
  start_with("100MiB");
  RemoteWorker worker(scratch_);
  worker.load_idle("unknown");
  worker.load_idle("d-40");
  EXPECT_EQ(worker.acquire("a-30", 0), "timeout") << "50 + 40 are taken";
  EXPECT_THAT(worker.last_error(), HasSubstr("memory"));
}

TEST_F(MemoryTest, OfTwoGuessesOneWaitsAndIsToldWhy) {
  start_with("100MiB");
  RemoteWorker loader(scratch_);
  RemoteWorker worker(scratch_);
  ASSERT_EQ(loader.acquire("unknown"), "ticket");
  EXPECT_EQ(worker.acquire("another", 0), "timeout");
  EXPECT_THAT(worker.last_error(), HasSubstr("its size is a guess"));
}

TEST_F(MemoryTest, ASmallModelPassesABigOneOnlyIfItTakesNothingOfIts) {
  start_with("100MiB", {"--when-busy", "wait"});
  RemoteWorker holder(scratch_);
  RemoteWorker big(scratch_);
  RemoteWorker small(scratch_);
  holder.load("e-60");
  big.begin_acquire("f-80");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  EXPECT_EQ(small.acquire("a-30", 0), "timeout") << "40 are free, and wanted by an earlier one";
  holder.release("e-60");
  EXPECT_EQ(big.hear(), "ticket");
}

TEST_F(MemoryTest, ALimitBelowWhatPinnedOnesTakeNamesThem) {
  start_with("100MiB");
  RemoteWorker worker(scratch_);
  worker.load("a-30");
  worker.load_idle("d-40");
  EXPECT_EQ(poolctl(scratch_, {"pin", "d-40"}).code, 0);
  const Finished lowered = poolctl(scratch_, {"set", "max-memory=35MiB"});
  EXPECT_EQ(lowered.code, 0);
  EXPECT_THAT(lowered.err, AllOf(HasSubstr("backends take 70MiB of memory, max_memory is 35MiB"),
                                 HasSubstr("stay: d-40; unpin")));
  worker.release("a-30");
  EXPECT_TRUE(wait_state("a-30", "")) << "all others go";
  EXPECT_EQ(state("d-40"), "ready");
}

TEST_F(MemoryTest, ACheckOfTheConfigSaysWhatCanNeverBeLoaded) {
  const std::string path = scratch_.path("pool.toml");
  write_file(path,
             "[pool]\nmax_memory = \"8GiB\"\n\n[[model]]\nmatch = \"llama\"\nmemory = \"9GiB\"\n");
  const Finished checked = run({MODELPOOL_COORDINATORD, "--check-config", "--config", path});
  EXPECT_EQ(checked.code, 2);
  EXPECT_THAT(checked.err, AllOf(HasSubstr(":6"), HasSubstr("llama"), HasSubstr("9GiB"),
                                 HasSubstr("8GiB"), HasSubstr("raise max_memory")));
}

}  // namespace
}  // namespace modelpool::test
