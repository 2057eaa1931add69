#include "trouble.hpp"

#include <gtest/gtest.h>

#include "base/time.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kNow_ns = 1'000 * kSecond_ns;

TEST(Troubles, AreSaidOncePerCauseAndMinute) {
  Troubles troubles;
  EXPECT_EQ(troubles.line("timer", "no timer", kNow_ns), "no timer");
  EXPECT_EQ(troubles.line("mutex", "held by 7", kNow_ns), "held by 7");
  EXPECT_EQ(troubles.line("timer", "no timer", kNow_ns + kSecond_ns), std::nullopt);
  EXPECT_EQ(troubles.line("mutex", "held by 8", kNow_ns + 59 * kSecond_ns), std::nullopt);
}

TEST(Troubles, SayHowOftenTheyWereLeftOut) {
  Troubles troubles;
  troubles.line("timer", "no timer", kNow_ns);
  troubles.line("timer", "no timer", kNow_ns + 1 * kSecond_ns);
  troubles.line("timer", "no timer", kNow_ns + 2 * kSecond_ns);
  EXPECT_EQ(troubles.line("timer", "no timer", kNow_ns + 60 * kSecond_ns),
            "no timer (and 2 times since this was last logged)");
  EXPECT_EQ(troubles.line("timer", "no timer", kNow_ns + 120 * kSecond_ns), "no timer");
}

}  // namespace
}  // namespace modelpool::coordinator
