#include "base/duration.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <string_view>

using namespace modelpool;  // NOLINT(google-build-using-namespace)

namespace {

std::uint64_t duration(std::string_view text) {
  const Result<std::uint64_t> result = parse_duration(text);
  EXPECT_TRUE(result) << text << ": " << (result ? "" : result.error().text);
  return result.value_or(kNever_ns);
}

std::string refusal(std::string_view text) {
  const Result<std::uint64_t> result = parse_duration(text);
  EXPECT_FALSE(result) << text << " was read as " << result.value_or(0);
  if (result) return {};
  EXPECT_EQ(result.error().code, Errc::kInvalid);
  return result.error().text;
}

TEST(KeepAliveText, IsADurationNoTimeOrForEver) {
  EXPECT_EQ(parse_keep_alive("5m"), 300 * kSecond_ns);
  EXPECT_EQ(parse_keep_alive("0"), 0u);
  EXPECT_EQ(parse_keep_alive("0s"), 0u);
  for (const char* const text : {"off", "-1", "-1s", "-10m"}) {
    EXPECT_EQ(parse_keep_alive(text), kNever_ns) << text;
  }
  for (const char* const text : {"", "-", "--1", "-off", "5", "soon", "-soon", "-1.5"}) {
    const auto parsed = parse_keep_alive(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_NE(parsed.error().text.find("\"" + std::string(text) + "\""), std::string::npos)
        << parsed.error().text;
  }
  for (const std::uint64_t ns : {std::uint64_t{0}, kMillisecond_ns, 90 * kSecond_ns, kNever_ns}) {
    EXPECT_EQ(parse_keep_alive(format_keep_alive(ns)), ns);
  }
}

}  // namespace

TEST(Duration, ReadsNumbersWithUnits) {
  EXPECT_EQ(duration("500ms"), 500 * kMillisecond_ns);
  EXPECT_EQ(duration("30s"), 30 * kSecond_ns);
  EXPECT_EQ(duration("15m"), 900 * kSecond_ns);
  EXPECT_EQ(duration("2h"), 7200 * kSecond_ns);
  EXPECT_EQ(duration("1d"), 86'400 * kSecond_ns);
  EXPECT_EQ(duration("0030s"), 30 * kSecond_ns);
}

TEST(Duration, ReadsSeveralUnitsFromLongToShort) {
  EXPECT_EQ(duration("1h30m"), 5400 * kSecond_ns);
  EXPECT_EQ(duration("1d2h3m4s5ms"), 93'784 * kSecond_ns + 5 * kMillisecond_ns);
  EXPECT_EQ(duration("1m500ms"), 60 * kSecond_ns + 500 * kMillisecond_ns);
  EXPECT_NE(refusal("30m1h").find("the longer before the shorter"), std::string::npos);
  refusal("1s1s");
}

TEST(Duration, ReadsDecimalsExactly) {
  EXPECT_EQ(duration("1.5s"), 1'500 * kMillisecond_ns);
  EXPECT_EQ(duration("0.1ms"), 100 * kMicrosecond_ns);
  EXPECT_EQ(duration("1.000000001s"), kSecond_ns + 1);
  EXPECT_EQ(duration("0.333333333h"), std::uint64_t{1'199'999'998'800});
  EXPECT_EQ(duration("0.999999999d"), 86'400 * kSecond_ns - 86'400);
}

TEST(Duration, OffAndZeroAreZeroAndNothingElseIs) {
  for (const char* text : {"off", "0", "0s", "0ms", "0h0m", "0.0s"}) EXPECT_EQ(duration(text), 0u);
  // Rounding it down would turn a very short timeout into none at all.
  EXPECT_EQ(duration("0.000000001ms"), 1u);
}

TEST(Duration, ABareNumberMissesItsUnit) {
  for (const char* text : {"30", "1", "00", "1.5", "1h30"}) {
    EXPECT_NE(refusal(text).find("a unit is missing"), std::string::npos) << text;
  }
}

TEST(Duration, RefusesWhatIsNoDuration) {
  for (const char* text :
       {"",    " ",    "s",   "-5s",   "+5s",   "5 s",           " 5s",       "5s ",
        "5S",  "5sec", "OFF", ".5s",   "5.s",   "1..5s",         "1e3s",      "0x10s",
        "5us", "inf",  "nan", "off5s", "5soff", "1.1234567890s", "5\xc2\xb5s"}) {
    refusal(text);
  }
  refusal(std::string_view("5s\0", 3));
}

TEST(Duration, ARefusalRepeatsTheTextSafelyAndSaysWhatToWrite) {
  EXPECT_EQ(refusal("30"),
            "unable to read the duration \"30\": a unit is missing; write it like 500ms, 30s, 15m, "
            "2h, 1h30m or off");
  EXPECT_NE(refusal("\x1b[2J").find("\"\\x1b[2J\""), std::string::npos);
}

TEST(Duration, EndsAtTenYears) {
  EXPECT_EQ(duration("3650d"), kDurationMax_ns);
  EXPECT_EQ(duration("87600h"), kDurationMax_ns);
  for (const char* text : {"3651d", "3650d1ms", "87600.000000001h", "18446744073709551615d",
                           "18446744073709551616ms", "99999999999999999999999999s"}) {
    EXPECT_NE(refusal(text).find("longer than 10 years"), std::string::npos) << text;
  }
}

TEST(Duration, PrintsTheShortestForm) {
  EXPECT_EQ(format_duration(0), "off");
  EXPECT_EQ(format_duration(500 * kMillisecond_ns), "500ms");
  EXPECT_EQ(format_duration(1'500 * kMillisecond_ns), "1.5s");
  EXPECT_EQ(format_duration(30 * kSecond_ns), "30s");
  EXPECT_EQ(format_duration(60 * kSecond_ns), "1m");
  EXPECT_EQ(format_duration(5400 * kSecond_ns), "1h30m");
  EXPECT_EQ(format_duration(48 * 3600 * kSecond_ns), "48h");
  EXPECT_EQ(format_duration(90 * kSecond_ns + 20 * kMillisecond_ns), "1m30.02s");
  EXPECT_EQ(format_duration(3600 * kSecond_ns + 5 * kMillisecond_ns), "1h5ms");
  EXPECT_EQ(format_duration(1), "0.000001ms");
}

TEST(Duration, ReadsBackWhatItPrints) {
  std::mt19937_64 random(20260101);
  for (int i = 0; i < 20'000; ++i) {
    const std::uint64_t ns = (random() >> (random() % 64)) % (kDurationMax_ns + 1);
    EXPECT_EQ(duration(format_duration(ns)), ns);
    const std::uint64_t ms = ns - ns % kMillisecond_ns;
    EXPECT_EQ(duration(format_duration(ms)), ms);
  }
  EXPECT_EQ(duration(format_duration(kDurationMax_ns)), kDurationMax_ns);
}

TEST(Age, PrintsTwoUnitsAndNeverMoreThanItIs) {
  EXPECT_EQ(format_age(0), "0ms");
  EXPECT_EQ(format_age(850 * kMillisecond_ns), "850ms");
  EXPECT_EQ(format_age(kSecond_ns - 1), "999ms");
  EXPECT_EQ(format_age(12'399 * kMillisecond_ns), "12.3s");
  EXPECT_EQ(format_age(60 * kSecond_ns - 1), "59.9s");
  EXPECT_EQ(format_age(250 * kSecond_ns), "4m10s");
  EXPECT_EQ(format_age(3600 * kSecond_ns - 1), "59m59s");
  EXPECT_EQ(format_age(7500 * kSecond_ns), "2h5m");
  EXPECT_EQ(format_age(100 * 3600 * kSecond_ns), "4d4h");
  EXPECT_EQ(format_age(kNever_ns), "unknown");
}

TEST(WallClock, PrintsRfc3339InUtcWithMilliseconds) {
  EXPECT_EQ(format_wall_clock(0), "1970-01-01T00:00:00.000Z");
  EXPECT_EQ(format_wall_clock(951'782'400 * kSecond_ns + 7'999'999), "2000-02-29T00:00:00.007Z");
  EXPECT_EQ(format_wall_clock(UINT64_MAX), "2554-07-21T23:34:33.709Z");
  EXPECT_GT(wall_clock_ns(), 1'600'000'000 * kSecond_ns);
}
