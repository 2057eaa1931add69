// P11: `poolctl why`: why a model is not loaded any more; `poolctl events` with what is missing.
#include <signal.h>

#include "base/time.hpp"
#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class WhyTest : public PoolTest {
 protected:
  std::string why(const std::string& model, int code = 0) {
    const Finished done = poolctl(scratch_, {"why", model});
    EXPECT_EQ(done.code, code) << done.out << done.err;
    return done.out;
  }
};

TEST_F(WhyTest, OfOneThatMadeRoomItNamesForWhomAndWhoElseWasThereAndWhyTheyStayed) {
  start({"--max-backends", "4", "--eviction", "lru"});
  RemoteWorker worker(scratch_);
  RemoteWorker holder(scratch_);
  for (const char* model : {"pinned", "used-later", "in-use"}) worker.load_idle(model);
  ASSERT_EQ(holder.acquire("in-use", 20'000, "req-7"), "lease");
  worker.load_idle("victim");
  ASSERT_EQ(poolctl(scratch_, {"pin", "pinned"}).code, 0);
  const std::uint64_t loaded_ns = now_ns();
  // The event of an end knows when its signal was sent: that the decision came before that is all
  // the distance there is between the two uses.
  ASSERT_TRUE(eventually([&] { return now_ns() > loaded_ns + 2 * kSecond_ns; }));
  ASSERT_EQ(worker.touch("used-later"), "ok");
  ASSERT_EQ(worker.acquire("next", 20'000, "req-81"), "ticket");
  ASSERT_FALSE(wait_event("evicted", "victim").is_null());

  const std::string text = why("victim");
  EXPECT_THAT(text, AllOf(HasSubstr("victim was evicted "), HasSubstr(" ago ("),
                          HasSubstr("to make room for next, asked for by process " +
                                    std::to_string(worker.pid()) +
                                    ", tag req-81; it had not been "
                                    "used for ")));
  const auto json = poolctl_json(scratch_, {"why", "victim"});
  EXPECT_EQ(json["state"], nullptr);
  EXPECT_EQ(json["known"], true);
  EXPECT_EQ(json["event"]["reason"], "lru");
  std::map<std::string, std::string> others;
  for (const auto& other : json["others"]) others[other["model"]] = other["why"];
  EXPECT_EQ(others.size(), 3u) << json;
  EXPECT_EQ(others["pinned"], "it is pinned");
  EXPECT_THAT(others["used-later"], HasSubstr("it was used later, by "));
  EXPECT_EQ(others["in-use"], "it was in use, tag req-7");
  EXPECT_THAT(text, AllOf(HasSubstr("LOADED THEN, TOO"), HasSubstr("it is pinned")));
}

TEST_F(WhyTest, WhoseLossWouldHaveCostMoreIsNotSaidToHaveBeenUsedLater) {
  start({"--max-backends", "2"});
  RemoteWorker worker(scratch_);
  ASSERT_EQ(worker.acquire("dear"), "ticket");
  const std::uint64_t begun_ns = now_ns();
  ASSERT_TRUE(eventually([&] { return now_ns() > begun_ns + kSecond_ns; }));
  worker.spawn("dear");
  worker.ready("dear");
  worker.release("dear");
  ASSERT_EQ(state("dear"), "ready");
  worker.load_idle("cheap");
  // It was wanted longer ago by then than any load takes, under a sanitizer too.
  const std::uint64_t loaded_ns = now_ns();
  ASSERT_TRUE(eventually([&] { return now_ns() > loaded_ns + kSecond_ns; }));
  ASSERT_EQ(worker.touch("dear"), "ok");
  ASSERT_EQ(worker.acquire("next"), "ticket");
  ASSERT_FALSE(wait_event("evicted", "cheap").is_null());
  const auto json = poolctl_json(scratch_, {"why", "cheap"});
  ASSERT_EQ(json["others"].size(), 1u) << json;
  EXPECT_THAT(std::string(json["others"][0]["why"]),
              HasSubstr("its loss was expected to cost more: its load takes 1"));
}

TEST_F(WhyTest, GroupsAndPrioritiesExplainWhatTheOrderDoesNot) {
  write_file(scratch_.path("pool.toml"),
             "[pool]\nmax_backends = 3\n[[model]]\nmatch = \"heavy-*\"\ngroups = \"heavy\"\n"
             "[[model]]\nmatch = \"first\"\npriority = 90\n");
  start({"--config", scratch_.path("pool.toml"), "--max-wait", "off"});
  RemoteWorker worker(scratch_);
  worker.load_idle("first");
  worker.load_idle("heavy-1");
  worker.load_idle("heavy-2");
  ASSERT_EQ(wait_event("evicted", "heavy-1")["reason"], "group");
  EXPECT_EQ(poolctl_json(scratch_, {"why", "heavy-1"})["others"], nlohmann::json::array())
      << "its group decided, no order";
  worker.load_idle("third");
  ASSERT_EQ(worker.acquire("next"), "ticket");
  const std::string gone = wait_event("evicted", "heavy-2").is_null() ? "third" : "heavy-2";
  std::map<std::string, std::string> others;
  const nlohmann::json answer = poolctl_json(scratch_, {"why", gone});
  for (const auto& other : answer["others"]) others[other["model"]] = other["why"];
  EXPECT_EQ(others["first"], "its priority is higher: 90, not 50") << answer;
}

TEST_F(WhyTest, EachOtherReasonHasItsSentence) {
  start({"--idle-timeout", "50ms", "--stop-grace", "1s", "--load-cooldown", "1h..1h"});
  RemoteWorker worker(scratch_);
  worker.load_idle("idle");
  ASSERT_FALSE(wait_event("evicted", "idle").is_null());
  EXPECT_THAT(why("idle"), HasSubstr("because nobody used it for "));
  EXPECT_THAT(why("idle"), HasSubstr("(idle_timeout 50ms)"));

  Pool pool = attach(scratch_);
  worker.load("asked");
  AcquireOptions unload;
  unload.keep_alive = std::chrono::seconds(0);
  ASSERT_TRUE(pool.acquire("asked", kPatience, unload));
  worker.release("asked");
  ASSERT_FALSE(wait_event("evicted", "asked").is_null());
  EXPECT_THAT(why("asked"),
              HasSubstr("because its last request had ended, by keep_alive, as an acquire asked"));

  ASSERT_GT(worker.load("hung"), 0);
  ASSERT_EQ(poolctl(scratch_, {"evict", "hung", "--force"}).code, 0);
  EXPECT_THAT(why("hung"),
              AllOf(HasSubstr("hung was killed "), HasSubstr("because somebody asked")));

  const pid_t crashed = worker.load("crashed");
  kill(crashed, SIGKILL);
  ASSERT_FALSE(wait_event("exited", "crashed").is_null());
  EXPECT_THAT(why("crashed"),
              HasSubstr("by itself (signal SIGKILL): its process ended; 1 request"));

  ASSERT_EQ(worker.acquire("broken"), "ticket");
  ASSERT_EQ(worker.fail("broken", "no such file"), "ok");
  ASSERT_FALSE(wait_event("load_failed", "broken").is_null());
  EXPECT_THAT(why("broken"),
              AllOf(HasSubstr("broken failed to load "), HasSubstr("because no such file"),
                    HasSubstr("now: it cools down for another ")));
}

TEST_F(WhyTest, OfOneThatIsThereOrIsAwaitedItSaysThat) {
  start({"--max-backends", "1", "--when-busy", "wait"});
  RemoteWorker worker(scratch_);
  RemoteWorker waiter(scratch_);
  ASSERT_EQ(worker.acquire("m"), "ticket");
  EXPECT_THAT(why("m"), HasSubstr("m is being loaded, for "));
  worker.spawn("m");
  ASSERT_EQ(worker.ready("m"), "lease");
  EXPECT_THAT(why("m"), HasSubstr("m is loaded, for "));
  waiter.begin_acquire("never-loaded", 60'000);
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  const std::string text = why("never-loaded", 1);
  EXPECT_THAT(text, AllOf(HasSubstr("never-loaded was never loaded, as far as the pool remembers"),
                          HasSubstr("now: 1 request waits for it, the first for ")));
  EXPECT_EQ(poolctl(scratch_, {"why"}).code, 2);
}

TEST_F(WhyTest, WhatTheEventsNoLongerTellIsSaidToBeSo) {
  start({"--events", "8"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  ASSERT_FALSE(wait_event("evicted", "m").is_null());
  for (int i = 1; i <= 9; ++i) {
    ASSERT_EQ(poolctl(scratch_, {"set", "max-backends=" + std::to_string(i)}).code, 0);
    ASSERT_TRUE(eventually([&] {
      const auto last = events(scratch_).back()["text"];
      return last.is_string() &&
             last.get<std::string>().find("-> " + std::to_string(i)) != std::string::npos;
    }));
  }
  EXPECT_THAT(why("m"), AllOf(HasSubstr("m ended "), HasSubstr("the event is overwritten")));

  // The same of events: what is missing has a line where it is missing.
  const Finished all = poolctl(scratch_, {"events", "--since", "1"});
  EXPECT_EQ(all.code, 0);
  const std::string first = std::to_string(events(scratch_).front()["seq"].get<int>() - 1);
  EXPECT_THAT(all.out, AllOf(HasSubstr("1-" + first), HasSubstr("missing"),
                             HasSubstr(first + " events: overwritten by later ones")));
  EXPECT_THAT(poolctl(scratch_, {"events", "--since", "1h"}).out, HasSubstr("missing"))
      << "there were others of that time";
  EXPECT_THAT(poolctl(scratch_, {"events"}).out, Not(HasSubstr("missing")))
      << "nobody asked for them";
  const Finished json = poolctl(scratch_, {"-o", "json", "events", "--since", "1"});
  EXPECT_THAT(json.out, Not(HasSubstr("missing")));
  EXPECT_THAT(json.err, HasSubstr("events 1 to " + first + " are missing"));
}

TEST_F(WhyTest, EventsAreSelectedByTheWallClock) {
  start();
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_FALSE(wait_event("loaded", "m").is_null());
  const auto lines = [&](const std::string& since) {
    const Finished done = poolctl(scratch_, {"-o", "json", "events", "--since", since});
    EXPECT_EQ(done.code, 0) << since << done.err;
    return std::count(done.out.begin(), done.out.end(), '\n');
  };
  const auto all = static_cast<std::ptrdiff_t>(events(scratch_).size());
  const std::string last = events(scratch_).back()["time"];
  EXPECT_GE(lines(last), 1) << "as events print it: from that one on";
  EXPECT_EQ(lines("2001-02-03T04:05:06Z"), all);
  EXPECT_EQ(lines("2001-02-03T04:05:06.789Z"), all);
  EXPECT_EQ(lines("2001-02-03 04:05"), all);
  EXPECT_EQ(lines("2200-01-01T00:00:00Z"), 0);
  EXPECT_GE(lines("00:00"), 0) << "of today";
  for (const char* const wrong : {"25:00", "2001-02-03T", "2001-02-30", "16:4x", "yesterday"}) {
    const Finished done = poolctl(scratch_, {"events", "--since", wrong});
    EXPECT_EQ(done.code, 2) << wrong;
    EXPECT_THAT(done.err, AllOf(HasSubstr(wrong), HasSubstr("16:47"))) << wrong;
  }
}

}  // namespace
}  // namespace modelpool::test
