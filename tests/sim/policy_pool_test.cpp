// The pool in virtual time: what is served when can be said of short traces.
#include "policy_pool.hpp"

#include <gmock/gmock.h>

#include "base/time.hpp"
#include "named_traces.hpp"

namespace modelpool::sim {
namespace {

using ::testing::HasSubstr;

PolicyFigures serve(std::string_view text, std::uint64_t patience_ns = kNever_ns,
                    const std::vector<std::pair<Setting, std::uint64_t>>& given = {}) {
  const auto trace = parse_trace(text);
  if (!trace) throw std::runtime_error(trace.error().text);
  PoolSettings settings;
  settings.pool.set(Setting::kMaxBackends, trace->places);
  settings.pool.set(Setting::kEviction, static_cast<std::uint64_t>(Eviction::kLru));
  settings.pool.set(Setting::kMaxWait, 0);
  for (const auto& [setting, value] : given) settings.pool.set(setting, value);
  return PolicyPool(*trace, settings, patience_ns).run();
}

double seconds(double ns) { return ns / 1e9; }

TEST(PolicyPool, ARequestWaitsForItsLoadAndTheNextForNothing) {
  const PolicyFigures figures = serve("k 1\nm 10 1 4 0\n0 0 5\n12 0 5\n30 0 5\n");
  EXPECT_EQ(figures.requests, 3u);
  EXPECT_EQ(figures.loads, 1u);
  EXPECT_EQ(figures.load_ns, 10 * kSecond_ns);
  EXPECT_EQ(figures.max_wait_ns, 10 * kSecond_ns);
  EXPECT_DOUBLE_EQ(seconds(figures.mean_wait_ns), 10.0 / 3);
}

// Loaded at 10, drained at 15, gone at 16, the other loaded at 36.
TEST(PolicyPool, OneInUseIsDrainedForWhoeverWaits) {
  const PolicyFigures figures = serve("k 1\nm 10 1 4 0\nm 20 1 4 0\n0 0 5\n1 1 5\n");
  EXPECT_EQ(figures.loads, 2u);
  EXPECT_EQ(figures.load_ns, 30 * kSecond_ns);
  EXPECT_EQ(figures.max_wait_ns, 35 * kSecond_ns);
}

// At 12 the first would be served for as long as it likes.
TEST(PolicyPool, OneThatIsClosedLeasesNothing) {
  const char* const trace = "k 1\nm 10 1 4 0\nm 20 1 4 0\n0 0 5\n11 1 5\n12 0 1\n";
  EXPECT_EQ(serve(trace).loads, 3u);
  const auto wait = static_cast<std::uint64_t>(WhenBusy::kWait);
  const PolicyFigures waits = serve(trace, kNever_ns, {{Setting::kWhenBusy, wait}});
  EXPECT_EQ(waits.loads, 2u);
  const auto force = static_cast<std::uint64_t>(WhenBusy::kForce);
  const PolicyFigures forced = serve(trace, kNever_ns, {{Setting::kWhenBusy, force}});
  EXPECT_EQ(forced.cut, 2u) << "the first one's request at 11, the second one's for the third";
}

TEST(PolicyPool, TheLeastRecentlyUsedGoes) {
  // 0 is used after 1: 1 goes for 2, and 0 is there for the last.
  const PolicyFigures figures =
      serve("k 2\nm 10 1 4 0\nm 10 1 4 0\nm 10 1 4 0\n0 1 1\n1 0 1\n20 0 1\n30 2 1\n60 0 1\n");
  EXPECT_EQ(figures.loads, 3u);
}

// 2 takes 30 GB, and goes alone for 1, which takes 40 beside the 20 of 0.
TEST(PolicyPool, BytesAreALimitLikePlaces) {
  const std::string trace =
      "k 0\nm 10 20 4 0\nm 10 40 4 0\nm 10 30 4 0\n0 0 1\n20 2 1\n60 1 1\n100 0 1\n120 2 1\n";
  EXPECT_EQ(serve(trace).loads, 3u);
  EXPECT_EQ(serve(trace, kNever_ns, {{Setting::kMaxMemory, 64'000'000'000}}).loads, 4u);
}

// For 2 it suffices that 1 goes, though 0 was used before it.
TEST(PolicyPool, NobodyGoesWhoIsNotNeededUnlessNobodyIsToBeSpared) {
  const auto trace =
      parse_trace("k 0\nm 10 2 4 0\nm 10 40 4 0\nm 10 30 4 0\n0 0 1\n20 1 1\n60 2 1\n100 0 1\n");
  ASSERT_TRUE(trace);
  PoolSettings settings;
  settings.pool.set(Setting::kEviction, static_cast<std::uint64_t>(Eviction::kLru));
  settings.pool.set(Setting::kMaxMemory, 48'000'000'000);
  PolicyPool spares(*trace, settings, kNever_ns);
  const PolicyFigures figures = spares.run();
  EXPECT_EQ(figures.loads, 3u);
  EXPECT_EQ(figures.sets, 1u);
  EXPECT_EQ(figures.wasted, 0u);
  PolicyPool spares_nobody(*trace, settings, kNever_ns);
  spares_nobody.spare_nobody();
  EXPECT_EQ(spares_nobody.run().loads, 4u);
}

// 0 takes five times as long to load as 1, and is wanted as often.
TEST(PolicyPool, TheOneWhoseLossCostsLeastGoes) {
  const std::string trace =
      "k 2\nm 50 1 4 0\nm 10 1 4 0\nm 10 1 4 0\n0 0 1\n60 1 1\n100 2 1\n200 0 1\n";
  EXPECT_EQ(serve(trace).loads, 4u);
  const auto cost = static_cast<std::uint64_t>(Eviction::kCost);
  EXPECT_EQ(serve(trace, kNever_ns, {{Setting::kEviction, cost}}).loads, 3u);
}

// 0 is always in use, from 10 on; 1 is wanted at 42. Both have been loaded before.
TEST(PolicyPool, OneInUseKeepsItsPlaceUntilSomebodyHasWaitedMaxWait) {
  std::string trace = "k 1\nm 5 1 4 0\nm 5 1 4 0\n0 1 1\n";
  for (int at = 10; at <= 90; at += 5) {
    trace += std::to_string(at) + " 0 8\n";
    if (at == 40) trace += "42 1 1\n";
  }
  const auto longest_s = [&](std::uint64_t max_wait_s, std::uint64_t patience_s = 0) {
    const std::uint64_t patience_ns = patience_s == 0 ? kNever_ns : patience_s * kSecond_ns;
    return serve(trace, patience_ns, {{Setting::kMaxWait, max_wait_s * kSecond_ns}}).max_wait_ns /
           kSecond_ns;
  };
  // Closed at 42, drained at 48, gone at 49, loaded at 54, drained for the other at 55, which is
  // there again at 61, for who has waited since 45.
  EXPECT_EQ(longest_s(0), 16u);
  EXPECT_EQ(longest_s(20), 32u) << "closed at 62, drained at 68";
  // He spares a quarter of 22 - 1.2 x 5 s: closed at 46, drained at 53. He has waited since 42.
  EXPECT_EQ(longest_s(20, 22), 17u);
}

TEST(PolicyPool, WhoseBackendServesAsManyAsItCanWaitsThere) {
  const PolicyFigures figures = serve("k 1\nm 10 1 1 0\n0 0 5\n0 0 5\n");
  EXPECT_EQ(figures.max_wait_ns, 15 * kSecond_ns);
}

TEST(PolicyPool, WhoRunsOutOfPatienceIsCountedAndLoadsNothing) {
  const PolicyFigures figures = serve("k 1\nm 10 1 4 0\nm 10 1 4 0\n0 0 50\n1 1 5\n",
                                      20 * kSecond_ns, {{Setting::kDrainTimeout, 5 * kSecond_ns}});
  EXPECT_EQ(figures.timeouts, 1u);
  EXPECT_EQ(figures.loads, 1u);
}

TEST(PolicyPool, ASessionAsksAgainWhenItsAnswersAreThere) {
  Trace trace;
  trace.places = 1;
  trace.models.push_back({10 * kSecond_ns, 0, 4, false});
  TraceSession session;
  session.steps.push_back({{{0, 5 * kSecond_ns}, {0, 7 * kSecond_ns}}, 2 * kSecond_ns});
  session.steps.push_back({{{0, kSecond_ns}}, 0});
  trace.sessions.push_back(session);
  PoolSettings settings;
  settings.pool.set(Setting::kMaxBackends, 1);
  settings.pool.set(Setting::kIdleTimeout, kSecond_ns);
  const PolicyFigures figures = PolicyPool(trace, settings, kNever_ns).run();
  EXPECT_EQ(figures.requests, 3u);
  EXPECT_EQ(figures.loads, 2u) << "it is idle for two seconds between the steps";
  // Served until 17, idle until 18, gone at 19, when the last request comes.
  EXPECT_DOUBLE_EQ(seconds(figures.mean_wait_ns), 10);
}

TEST(NamedTraces, AreTheSameEachTimeAndServedToTheLast) {
  for (const std::string_view name : trace_names()) {
    SCOPED_TRACE(name);
    const auto trace = make_trace(name, 7);
    ASSERT_TRUE(trace);
    PoolSettings settings;
    settings.pool.set(Setting::kMaxBackends, trace->places);
    settings.pool.set(Setting::kMaxMemory, trace->memory_bytes);
    const PolicyFigures figures = PolicyPool(*trace, settings, kNever_ns).run();
    EXPECT_GT(figures.sets, 0u);
    EXPECT_EQ(figures.wasted, 0u) << "of the sets of those who go";
    const PolicyFigures again = PolicyPool(*make_trace(name, 7), settings, kNever_ns).run();
    EXPECT_EQ(figures.loads, again.loads);
    EXPECT_EQ(figures.mean_wait_ns, again.mean_wait_ns);
    EXPECT_GT(figures.loads, trace->places);
    std::size_t calls = trace->requests.size();
    for (const TraceSession& session : trace->sessions) {
      for (const TraceSession::Step& step : session.steps) calls += step.calls.size();
    }
    EXPECT_EQ(figures.requests, calls) << "a session came to a stop";
  }
  EXPECT_THAT(make_trace("zipf9", 1).error().text, HasSubstr("zipf8"));
}

TEST(Trace, SaysWhichLineIsWrong) {
  const auto error = [](std::string_view text) { return parse_trace(text).error().text; };
  EXPECT_THAT(error("k 3\nm 1 1 0 0\n"), HasSubstr("line 2 \"m 1 1 0 0\""));
  EXPECT_THAT(error("k -1\n"), HasSubstr("0 to 4095"));
  EXPECT_THAT(error("m 1 1 1\n"), HasSubstr("LOAD_S SIZE_GB PARALLEL RARE"));
  EXPECT_THAT(error("m nan 1 1 0\n"), HasSubstr("LOAD_S"));
  EXPECT_THAT(error("m 1 1 1 0\n0 1 1\n"), HasSubstr("no model of that number"));
  EXPECT_THAT(error("m 1 1 1 0\n5 0 1\n4 0 1\n"), HasSubstr("earlier"));
  EXPECT_THAT(error("m 1 1 1 0\n5 0 1 9\n"), HasSubstr("more than belongs"));
  EXPECT_THAT(error("hello\n"), HasSubstr("T MODEL SERVICE_S"));
  EXPECT_THAT(read_trace("/nowhere").error().text, HasSubstr("No such file"));
  EXPECT_EQ(parse_trace("# note\n\nk 2\nm 1.5 2 3 1\n0.25 0 1\n")->requests[0].at_ns, 250'000'000u);
}

}  // namespace
}  // namespace modelpool::sim
