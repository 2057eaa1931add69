#include "base/number.hpp"

#include <gtest/gtest.h>

#include <cstdint>

using namespace modelpool;  // NOLINT(google-build-using-namespace)

TEST(Count, ReadsWholeNumbersUpToItsMaximum) {
  EXPECT_EQ(parse_count("0", 10).value(), 0u);
  EXPECT_EQ(parse_count("10", 10).value(), 10u);
  EXPECT_EQ(parse_count("18446744073709551615", UINT64_MAX).value(), UINT64_MAX);
  for (const char* text : {"", "-1", "+1", "1.0", " 1", "1 ", "x", "11", "18446744073709551616",
                           "99999999999999999999999"}) {
    EXPECT_FALSE(parse_count(text, 10)) << text;
  }
  EXPECT_EQ(parse_count("x", 10).error().text,
            "unable to read the number \"x\": a whole number was expected; write one from 0 to 10");
}
