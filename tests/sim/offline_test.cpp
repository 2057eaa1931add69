// The bounds that figures are measured by are exact: against every way to serve a short trace.
#include "offline.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <map>
#include <random>

namespace modelpool::sim {
namespace {

Trace trace_of(std::uint32_t places, const std::vector<std::uint64_t>& loads,
               const std::vector<std::uint32_t>& wanted) {
  Trace trace;
  trace.places = places;
  for (const std::uint64_t load : loads) trace.models.push_back({load, 0, 1, false});
  for (const std::uint32_t model : wanted) trace.requests.push_back({0, model, 0});
  return trace;
}

// By all that could be loaded after each request.
std::uint64_t least_of_all_ways(const Trace& trace, bool by_time) {
  std::map<std::uint32_t, std::uint64_t> least{{0, 0}};  // by what is loaded, a bit for each
  for (const TraceRequest& request : trace.requests) {
    const std::uint32_t bit = 1u << request.model;
    std::map<std::uint32_t, std::uint64_t> next;
    const auto reach = [&](std::uint32_t loaded, std::uint64_t cost) {
      const auto [at, is_new] = next.try_emplace(loaded, cost);
      if (!is_new) at->second = std::min(at->second, cost);
    };
    for (const auto& [loaded, cost] : least) {
      if ((loaded & bit) != 0) {
        reach(loaded, cost);
        continue;
      }
      const std::uint64_t after = cost + (by_time ? trace.models[request.model].load_ns : 1);
      if (static_cast<std::uint32_t>(std::popcount(loaded)) < trace.places)
        reach(loaded | bit, after);
      for (std::uint32_t left = loaded; left != 0; left &= left - 1)
        reach((loaded & ~(left & -left)) | bit, after);
    }
    least = std::move(next);
  }
  std::uint64_t best = UINT64_MAX;
  for (const auto& [loaded, cost] : least) best = std::min(best, cost);
  return best;
}

TEST(LeastLoads, InACircleOfOneMoreThanThereArePlacesOneOfEachRoundIsKept) {
  // 0 1 2 loaded; then of each three requests two find their model.
  const LeastLoads least = least_loads(trace_of(3, {1, 1, 1, 1}, {0, 1, 2, 3, 0, 1, 2, 3, 0}));
  EXPECT_EQ(least.loads, 5u);
}

TEST(LeastLoads, ADearModelIsKeptThoughACheapOneIsWantedSooner) {
  const LeastLoads least = least_loads(trace_of(2, {100, 1, 1}, {0, 1, 2, 1, 2, 1, 2, 0}));
  EXPECT_EQ(least.load_ns, 106u);
  EXPECT_EQ(least.loads, 4u);
}

TEST(LeastLoads, NoWayToServeARandomTraceCostsLessAndOneCostsAsMuch) {
  std::mt19937_64 chance(5);
  for (int n = 0; n < 1000; ++n) {
    std::vector<std::uint64_t> loads(2 + chance() % 4);
    for (std::uint64_t& load : loads) load = 1 + chance() % 20;
    std::vector<std::uint32_t> wanted(1 + chance() % 24);
    for (std::uint32_t& model : wanted) model = static_cast<std::uint32_t>(chance() % loads.size());
    const Trace trace = trace_of(static_cast<std::uint32_t>(1 + chance() % 4), loads, wanted);
    const LeastLoads least = least_loads(trace);
    ASSERT_EQ(least.loads, least_of_all_ways(trace, false)) << "case " << n;
    ASSERT_EQ(least.load_ns, least_of_all_ways(trace, true)) << "case " << n;
  }
}

TEST(LeastLoads, WithoutALimitEachModelIsLoadedOnce) {
  EXPECT_EQ(least_loads(trace_of(0, {3, 5}, {0, 1, 0, 1, 0})).load_ns, 8u);
  EXPECT_EQ(least_loads(trace_of(0, {3, 5}, {})).loads, 0u);
}

}  // namespace
}  // namespace modelpool::sim
