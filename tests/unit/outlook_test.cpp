// What a backend is taken to hold: declared, expected, measured.
#include "protocol/outlook.hpp"

#include <gtest/gtest.h>

#include "protocol/histories.hpp"
#include "protocol/needs.hpp"
#include "support/pool.hpp"

namespace modelpool {
namespace {

std::int64_t bytes_of(const BackendView& backend) {
  return resident_of(backend).holds[Resource::kHostBytes];
}

TEST(Sizes, TheLargestOfWhatWasSaidExpectedAndMeasuredCounts) {
  BackendView b;
  b.expected.host = 50;
  EXPECT_EQ(bytes_of(b), 50);
  b.declared.host = 60;
  EXPECT_EQ(bytes_of(b), 60);
  b.measured.host = 70;
  EXPECT_EQ(bytes_of(b), 70);
  b.peak.host = 80;
  EXPECT_EQ(bytes_of(b), 80);
  EXPECT_TRUE(resident_of(b).size_known);
  EXPECT_EQ(resident_of(b).measured[Resource::kHostBytes], 70);
}

TEST(Sizes, WhatCannotHaveBeenTakenIsNoGuess) {
  const test::Scratch scratch;
  const auto segment = test::make_segment(scratch, {{"max_memory", "8GiB"}});
  const auto guess = [&] {
    return derive_need(*segment, "new", 0, limits_of(*segment)).need.bytes.host >> 30;
  };
  const auto remember = [&](const char* model, std::uint64_t gib) {
    const auto lock = segment->lock_structure();
    LoadHistory history;
    history.peak.host = gib << 30;
    write_history(*segment, *lock, model, history);
  };
  remember("liar", 1 << 20);
  EXPECT_EQ(guess(), 4u);
  remember("large", 6);
  EXPECT_EQ(guess(), 6u);
}

TEST(Sizes, AGuessStandsUntilItWasMeasuredAfterItsLoad) {
  BackendView b;
  b.size_unknown = true;
  b.expected.host = 50;
  b.measured.host = 10;
  EXPECT_EQ(bytes_of(b), 50) << "a part of what it will take";
  EXPECT_FALSE(resident_of(b).size_known);
  b.measured.host = 70;
  EXPECT_EQ(bytes_of(b), 70) << "more than was guessed";
  EXPECT_FALSE(resident_of(b).size_known);
  b.measured.host = b.peak.host = 20;
  EXPECT_EQ(bytes_of(b), 20);
  EXPECT_TRUE(resident_of(b).size_known);
}

}  // namespace
}  // namespace modelpool
