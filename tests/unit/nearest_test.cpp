#include "base/nearest.hpp"

#include <gtest/gtest.h>

#include <string>

namespace modelpool {
namespace {

TEST(NearestNameTest, OnlyANameThatIsNearIsSuggested) {
  EXPECT_EQ(nearest_name("busy-timeuot", {"idle_timeout", "busy_timeout"}), "busy_timeout");
  EXPECT_EQ(nearest_name("POOL", {"pool"}), "pool");
  EXPECT_EQ(nearest_name("--dri", {"--pool", "--dir"}), "--dir")
      << "two in the wrong order are one slip";
  EXPECT_EQ(nearest_name("zebra", {"pool", "model"}), "");
  EXPECT_EQ(nearest_name("", {"pool"}), "");
  EXPECT_EQ(nearest_name(std::string(100'000, 'a'), {"pool"}), "");
}

TEST(NearestNameTest, AnUnknownSettingIsToldWithTheNearestOrWhereAllStand) {
  EXPECT_EQ(no_such_setting("idle-timout"), "there is no such setting; did you mean idle_timeout?");
  EXPECT_EQ(no_such_setting("zebra"), "there is no such setting; `poolctl set` lists them");
}

}  // namespace
}  // namespace modelpool
