#include "base/size.hpp"

#include <gtest/gtest.h>

#include <cstdint>

using namespace modelpool;  // NOLINT(google-build-using-namespace)

TEST(Size, ReadsBinaryUnits) {
  EXPECT_EQ(parse_size("0").value(), 0u);
  EXPECT_EQ(parse_size("1024").value(), 1024u);
  EXPECT_EQ(parse_size("7B").value(), 7u);
  EXPECT_EQ(parse_size("2KiB").value(), 2048u);
  EXPECT_EQ(parse_size("512MiB").value(), std::uint64_t{512} << 20);
  EXPECT_EQ(parse_size("1.5GiB").value(), std::uint64_t{1536} << 20);
  EXPECT_EQ(parse_size("2TiB").value(), std::uint64_t{2} << 40);
  EXPECT_EQ(parse_size("0.000000001KiB").value(), 1u);
  EXPECT_EQ(parse_size("0.999999999TiB").value(), 1'099'511'626'677u);
  EXPECT_EQ(parse_size("16777215TiB").value(), std::uint64_t{16'777'215} << 40);
}

TEST(Size, RefusesWhatIsAmbiguousOrTooLarge) {
  for (const char* text : {"", "GiB", "1GB", "1G", "1g", "1gib", "1 GiB", "-1", "1.5", "1.5B", "1.",
                           ".5GiB", "16777216TiB", "18446744073709551616", "1GiBx"}) {
    const Result<std::uint64_t> result = parse_size(text);
    EXPECT_FALSE(result) << text;
    EXPECT_TRUE(result || result.error().code == Errc::kInvalid);
  }
  EXPECT_EQ(
      parse_size("1GB").error().text,
      "unable to read the size \"1GB\": the units are B, KiB, MiB, GiB and TiB; write it like "
      "512MiB, 1.5GiB, or 1024 for bytes");
}

TEST(Size, PrintsOneDecimal) {
  EXPECT_EQ(format_size(0), "0B");
  EXPECT_EQ(format_size(1023), "1023B");
  EXPECT_EQ(format_size(1024), "1KiB");
  EXPECT_EQ(format_size(std::uint64_t{512} << 20), "512MiB");
  EXPECT_EQ(format_size(std::uint64_t{1536} << 20), "1.5GiB");
  EXPECT_EQ(format_size(std::uint64_t{1000} << 30), "1000GiB");
  EXPECT_EQ(format_size((std::uint64_t{1} << 30) - 1), "1GiB");
  EXPECT_EQ(format_size((std::uint64_t{1} << 30) - (40 << 10)), "1GiB");
  EXPECT_EQ(format_size((std::uint64_t{1} << 30) - (60 << 10)), "1023.9MiB");
  EXPECT_EQ(format_size(UINT64_MAX), "16777216TiB");
}
