#include "judge/suppose.hpp"

#include <gmock/gmock.h>

#include <string>
#include <thread>
#include <vector>

#include "support/pool.hpp"

using namespace modelpool;               // NOLINT(google-build-using-namespace)
using namespace modelpool::coordinator;  // NOLINT(google-build-using-namespace)
using namespace modelpool::test;         // NOLINT(google-build-using-namespace)

namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Result<Supposed> suppose(const Pool& pool, Setting id, std::uint64_t value) {
  return modelpool::coordinator::suppose(segment_of(pool), [&](Settings& settings) {
    settings.pool.set({id, {OriginKind::kSet, 0}, value, {}, false});
  });
}

std::vector<std::string> who_goes(const Snapshot& snapshot) {
  std::vector<std::string> models;
  for (const Consequence& one : find_consequences(snapshot))
    models.push_back(std::to_string(one.after) + " " + snapshot.find(one.action.backend)->model);
  return models;
}

TEST(Suppose, NothingOfItReachesThePool) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "3"}, {"eviction", "lru"}});
  load_external(pool, "a").release();
  load_external(pool, "b").release();
  const std::uint64_t generation = look(pool).settings_generation;
  const auto supposed = suppose(pool, Setting::kMaxBackends, 1);
  ASSERT_TRUE(supposed) << supposed.error().text;
  EXPECT_EQ(supposed->snapshot.max_backends(), 1u);
  EXPECT_THAT(who_goes(supposed->snapshot), ElementsAre("0 a"));
  EXPECT_EQ(look(pool).settings_generation, generation);
  EXPECT_EQ(look(pool).max_backends(), 3u);
  EXPECT_THAT(who_goes(look(pool)), IsEmpty());
}

TEST(Suppose, AHolderOfTheMutexIsNotWaitedFor) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "3"}});
  load_external(pool, "a").release();
  const auto held = segment_of(pool).lock_structure();
  ASSERT_TRUE(held);
  std::thread([&] {
    const auto supposed = suppose(pool, Setting::kIdleTimeout, 1);
    ASSERT_TRUE(supposed) << supposed.error().text;
    EXPECT_THAT(who_goes(supposed->snapshot), ElementsAre("0 a"));
  }).join();
}

}  // namespace
