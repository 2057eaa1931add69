// What a pool learns and counts, with the real coordinator: histories, meters, a judge's progress.
#include <signal.h>

#include <map>

#include "base/time.hpp"
#include "pool_test.hpp"
#include "protocol/histories.hpp"

namespace modelpool::test {
namespace {

class RecordsTest : public PoolTest {
 protected:
  nlohmann::json dump() { return poolctl_json(scratch_, {"dump"}); }
  nlohmann::json model(const std::string& name) {
    const nlohmann::json all = dump();
    for (const auto& entry : all["models"]) {
      if (entry["model"] == name) return entry;
    }
    return nullptr;
  }
  // Sums of a meter's values, by the value of one of its labels; "" for a meter without it.
  std::map<std::string, std::uint64_t> meter(const std::string& name, const std::string& label) {
    std::map<std::string, std::uint64_t> sums;
    const nlohmann::json all = status();
    for (const auto& row : all["meters"]) {
      if (row["name"] == name) {
        sums[row["labels"].value(label, "")] += row["value"].get<std::uint64_t>();
      }
    }
    return sums;
  }
};

TEST_F(RecordsTest, ABackendThatEndsLeavesWhatItsLifeHasShown) {
  start();
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  ASSERT_TRUE(eventually([&] {
    const auto known = model("m");
    return !known.is_null() && !known["last_end_ms"].is_null();
  }));
  EXPECT_FALSE(model("m")["last_use_ms"].is_null());
  // The slot's stop record says when its processes had gone.
  const auto segment = Segment::open_read_only("default", scratch_.dir());
  ASSERT_TRUE(segment);
  const StopRecord stop = (*segment)->backend(0).stop.load();
  EXPECT_GE(stop.ended_ns, stop.signalled_ns);
  EXPECT_GT(stop.signalled_ns, 0u);
  EXPECT_TRUE(settles());
}

// A holder of the mutex that does not let go keeps nobody's place.
TEST_F(RecordsTest, P3ThePlaceIsFreeThoughTheHistoryCannotBeWritten) {
  start({"--max-backends", "1"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  Forked holder([&](Forked::Child& parent) {
    auto segment = Segment::attach("default", SegmentOptions{scratch_.dir(), false, {}, nullptr});
    auto lock = (*segment)->lock_structure();
    parent.say(lock ? "locked" : "not");
    parent.hear();
  });
  ASSERT_EQ(holder.hear(), "locked");
  poolctl(scratch_, {"evict", "m", "--timeout", "0"});
  EXPECT_TRUE(wait_state("m", "")) << "gone while the mutex is held";
  EXPECT_TRUE(model("m")["last_end_ms"].is_null());
  holder.kill_now();
  EXPECT_TRUE(eventually([&] { return !model("m")["last_end_ms"].is_null(); }));
  EXPECT_TRUE(settles());
}

TEST_F(RecordsTest, MetersAgreeWithTheRingOverRestartsOfTheJudge) {
  start({"--stop-grace", "1s"});
  RemoteWorker worker(scratch_);
  for (int round = 0; round < 3; ++round) {
    worker.load_idle("m");
    poolctl(scratch_, {"evict", "m", "--timeout", "0"});
    daemon().kill_now();  // wherever it is
    daemon().start();
    ASSERT_TRUE(wait_state("m", ""));
  }
  ASSERT_TRUE(settles());
  std::map<std::string, std::uint64_t> kinds;
  std::map<std::string, std::uint64_t> reasons;
  for (const auto& event : events(scratch_)) {
    const std::string kind = event["kind"];
    ++kinds[kind];
    if (kind == "evicted" || kind == "killed" || kind == "exited") {
      ++reasons[event["reason"].is_null() ? "none" : event["reason"].get<std::string>()];
    }
  }
  EXPECT_EQ(meter("modelpool_loads_total", "outcome")["loaded"], kinds["loaded"]);
  EXPECT_EQ(meter("modelpool_stops_total", "reason"), reasons);
  EXPECT_EQ(meter("modelpool_coordinator_starts_total", "")[""], kinds["coordinator_started"]);
  EXPECT_EQ(meter("modelpool_coordinator_restarts_total", "")[""], kinds["recovered"]);
  EXPECT_EQ(kinds["coordinator_started"], 4u);
  EXPECT_GT(meter("modelpool_scan_seconds", "")[""], 0u);
}

// What leaves no event is counted: errors that acquires were answered with, backends closed and
// opened again.
TEST_F(RecordsTest, P11RefusalsAndClosingsAreReadInTheStatus) {
  start({"--max-backends", "1"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  EXPECT_EQ(poolctl(scratch_, {"lease", "other", "--timeout", "0", "--", "true"}).code, 124);
  EXPECT_EQ(meter("modelpool_refusals_total", "error")["not_loaded"], 1u);
  ASSERT_EQ(poolctl(scratch_, {"pin", "m"}).code, 0);
  EXPECT_EQ(poolctl(scratch_,
                    {"lease", "other", "--start", "sleep {port}", "--timeout", "5s", "--", "true"})
                .code,
            124);
  EXPECT_EQ(meter("modelpool_refusals_total", "error")["all_pinned"], 1u);
  EXPECT_TRUE(meter("modelpool_closings_total", "reason").empty());
  ASSERT_EQ(poolctl(scratch_, {"unpin", "m"}).code, 0);
  ASSERT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  EXPECT_EQ(meter("modelpool_closings_total", "reason")["requested"], 1u);
  EXPECT_TRUE(meter("modelpool_reopenings_total", "reason").empty());
  EXPECT_TRUE(settles());
}

TEST_F(RecordsTest, ALoopThatHangsFallsBehind) {
  start();
  ASSERT_FALSE(status()["coordinator"]["last_progress_ms"].is_null());
  kill(daemon().pid(), SIGSTOP);
  const auto progress_ms = [&] {
    return status()["coordinator"]["last_progress_ms"].get<std::uint64_t>();
  };
  EXPECT_TRUE(eventually([&] {
    RemoteWorker worker(scratch_);  // attaching rings
    return progress_ms() >= 200;
  }));
  kill(daemon().pid(), SIGCONT);
  EXPECT_TRUE(eventually([&] { return progress_ms() < 200; }));
}

}  // namespace
}  // namespace modelpool::test
