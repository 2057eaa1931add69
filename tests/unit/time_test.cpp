#include "base/time.hpp"

#include <gtest/gtest.h>

#include <cstdint>

using namespace modelpool;  // NOLINT(google-build-using-namespace)

TEST(Clock, StampsAreNeverAheadAndNeverGoBack) {
  // That they lag by no more than is claimed is for a benchmark to watch, for hours: `clock_lag`.
  EXPECT_GE(stamp_lag_max_ns(), 8 * kMillisecond_ns);  // eight ticks, at 1000 Hz
  EXPECT_LE(stamp_lag_max_ns(), 80 * kMillisecond_ns);
  std::uint64_t last = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t stamp = stamp_now_ns();
    EXPECT_LE(last, stamp);
    EXPECT_LE(stamp, now_ns());
    last = stamp;
  }
}

TEST(Clock, SumsStayAtNeverAndAgesAtZero) {
  EXPECT_EQ(add_ns(1, 2), 3u);
  EXPECT_EQ(add_ns(kNever_ns, 1), kNever_ns);
  EXPECT_EQ(add_ns(kNever_ns - 5, 6), kNever_ns);
  EXPECT_EQ(add_ns(kNever_ns, kNever_ns), kNever_ns);
  EXPECT_EQ(age_ns(10, 4), 6u);
  EXPECT_EQ(age_ns(4, 10), 0u);
}
