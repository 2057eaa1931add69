// What keeps a backend loaded without a request: pins by settings, and `keep`.
#include <signal.h>

#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class WarmTest : public PoolTest {
 protected:
  Daemon& start_with(const std::string& config, std::vector<std::string> flags = {}) {
    write_file(path_, config);
    flags.insert(flags.end(), {"--config", path_});
    return start(std::move(flags));
  }
  void reload(const std::string& config) {
    write_file(path_, config);
    daemon().program().signal(SIGHUP);
  }
  bool is_pinned(const std::string& model) { return entry(model)["pinned"].get<bool>(); }

  const std::string path_ = scratch_.path("config.toml");
};

const std::string kPinsM = "[pool]\nmax_backends = 1\n[[model]]\nmatch = \"m\"\npinned = true\n";
const std::string kPinsNobody = "[pool]\nmax_backends = 1\n[[model]]\nmatch = \"m\"\n";

TEST_F(WarmTest, P2SettingsPinAModelForAsLongAsTheySaySo) {
  start_with(kPinsM);
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load_idle("m");
  ASSERT_GT(pid, 0);
  EXPECT_TRUE(is_pinned("m"));
  EXPECT_TRUE(eventually([&] { return worker.acquire("other", 0) == "all_pinned"; }))
      << "whoever reads no settings sees it, too";
  EXPECT_THAT(poolctl(scratch_, {"explain", "m"}).out,
              HasSubstr("exempt: pinned by its settings (" + path_ + ":5)"));
  reload(kPinsNobody);
  EXPECT_TRUE(eventually([&] { return !is_pinned("m"); }));
  EXPECT_EQ(worker.acquire("other"), "ticket");
  EXPECT_EQ(wait_event("evicted", "m")["reason"], "lru");
  worker.release("other");
  // And on one that is loaded already.
  ASSERT_GT(worker.load_idle("m"), 0);
  EXPECT_FALSE(is_pinned("m"));
  reload(kPinsM);
  EXPECT_TRUE(eventually([&] { return is_pinned("m"); }));
  EXPECT_TRUE(eventually([&] { return worker.acquire("other", 0) == "all_pinned"; }));
}

TEST_F(WarmTest, PinsOfPeopleAndOfSettingsDoNotTouchEachOther) {
  start_with(kPinsM);
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_EQ(poolctl(scratch_, {"pin", "m"}).code, 0);
  EXPECT_THAT(poolctl(scratch_, {"explain", "m"}).out, HasSubstr("and by poolctl pin"));
  reload(kPinsNobody);
  EXPECT_TRUE(eventually([&] {
    return poolctl_json(scratch_, {"explain", "m"})["settings"]["pinned"]["value"] == "false";
  }));
  EXPECT_TRUE(is_pinned("m")) << "a person pinned it";
  reload(kPinsM);
  EXPECT_TRUE(eventually([&] {
    return poolctl_json(scratch_, {"explain", "m"})["settings"]["pinned"]["value"] == "true";
  }));
  const Finished refused = poolctl(scratch_, {"unpin", "m"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("unable to unpin m: its settings pin it (" + path_ +
                                     ":5); set pinned = false there"));
  EXPECT_TRUE(is_pinned("m"));
  Pool pool = attach(scratch_);
  const auto unpinned = pool.unpin("m");
  ASSERT_FALSE(unpinned);
  EXPECT_EQ(unpinned.error().code, Errc::kInvalid);
  reload(kPinsNobody);
  EXPECT_TRUE(eventually([&] { return !is_pinned("m"); })) << "unpin did end the person's";
}

TEST_F(WarmTest, ALoaderMayPinWhatItLoadsBySettingsOfItsOwn) {
  start({"--idle-timeout", "50ms"});
  Pool pool = attach(scratch_);
  for (const bool pinned : {true, false}) {
    auto grant = pool.acquire(pinned ? "pinned" : "free", kPatience);
    ASSERT_TRUE(grant);
    auto& ticket = std::get<LoadTicket>(*grant);
    ASSERT_TRUE(ticket.spawn({"sleep", "600"}));
    ReadyOptions ready;
    ready.overrides.set(Setting::kPinned, pinned);
    ASSERT_TRUE(ticket.ready(pinned ? "of:pinned" : "of:free", ready));
  }
  EXPECT_EQ(wait_event("evicted", "free")["reason"], "idle");
  EXPECT_EQ(state("pinned"), "ready");
}

TEST_F(WarmTest, IdleEvictionLeavesAsManyAsItIsToKeep) {
  start({"--idle-timeout", "200ms", "--keep", "1", "--eviction", "lru"});
  RemoteWorker worker(scratch_);
  worker.load_idle("a");
  worker.load_idle("b");
  EXPECT_EQ(wait_event("evicted", "a")["reason"], "idle");
  EXPECT_EQ(state("b"), "ready");
  EXPECT_THAT(poolctl(scratch_, {"explain", "b"}).out,
              HasSubstr("kept: it would make room last (keep is 1)"));
  // One that is used later takes its place, though nobody tells that.
  worker.load_idle("c");
  EXPECT_EQ(wait_event("evicted", "b")["reason"], "idle");
  EXPECT_EQ(state("c"), "ready");
  // What an acquire asked to end is not kept; nor is anything once the setting is gone.
  Pool pool = attach(scratch_);
  AcquireOptions unload;
  unload.keep_alive = std::chrono::seconds(0);
  ASSERT_TRUE(pool.acquire("c", kPatience, unload));
  EXPECT_EQ(wait_event("evicted", "c")["limit_ms"], 0);
  worker.load_idle("d");
  const auto settled = [&] { return entry("d")["idle_ms"].get<int>() > 400; };
  EXPECT_TRUE(eventually(settled));
  EXPECT_EQ(state("d"), "ready");
  ASSERT_EQ(poolctl(scratch_, {"set", "keep=0"}).code, 0);
  EXPECT_EQ(wait_event("evicted", "d")["reason"], "idle");
}

TEST_F(WarmTest, P13MorePinnedModelsThanFitAreAnErrorOfTheConfig) {
  const std::string config =
      "[pool]\nmax_backends = 1\n[[model]]\nmatch = \"a\"\npinned = true\n"
      "[[model]]\nmatch = \"b\"\npinned = true\n";
  write_file(path_, config);
  const Finished checked = run({MODELPOOL_COORDINATORD, "--check-config", "--config", path_});
  EXPECT_EQ(checked.code, 2);
  EXPECT_THAT(
      checked.err,
      AllOf(HasSubstr(path_ + ":8: 2 models are pinned (a, b), but max_backends is 1 (line 2"),
            HasSubstr("raise max_backends or pin fewer")));
  start_with(kPinsM);
  reload(config);
  EXPECT_TRUE(
      eventually([&] { return daemon().log().find("2 models are pinned") != std::string::npos; }));
  EXPECT_EQ(poolctl_json(scratch_, {"explain", "b"})["settings"]["pinned"]["value"], "false")
      << "the old rules stay";
}

}  // namespace
}  // namespace modelpool::test
