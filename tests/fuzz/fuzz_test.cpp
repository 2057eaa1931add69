#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>

#include "targets.hpp"

namespace modelpool::fuzz {
namespace {

struct Target {
  const char* name;
  std::function<bool(Bytes)> run;
  std::size_t most_bytes;
  int random_runs;
};

const std::vector<Target> kTargets{{"segment", segment, 2 + 12 * sizeof(Patch), 1'500},
                                   {"config", config, 200, 2'000},
                                   {"text", text, 64, 20'000},
                                   {"wire", wire, 64, 20'000}};

class Fuzz : public ::testing::TestWithParam<Target> {};

// The seeds, and every input that was a finding once.
TEST_P(Fuzz, SurvivesTheCorpus) {
  int reached = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(FUZZ_CORPUS "/") + GetParam().name)) {
    SCOPED_TRACE(entry.path().string());
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
    reached += GetParam().run(bytes);
  }
  EXPECT_GT(reached, 0) << "no file got to what is looked at";
}

// The same bytes in every run and on every machine.
TEST_P(Fuzz, SurvivesRandomBytes) {
  int reached = 0;
  std::mt19937_64 random(20);
  for (int i = 0; i < GetParam().random_runs; ++i) {
    std::vector<std::uint8_t> bytes(random() % GetParam().most_bytes);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
    reached += GetParam().run(bytes);
  }
  EXPECT_GT(reached, 0) << "no bytes got to what is looked at";
}

INSTANTIATE_TEST_SUITE_P(All, Fuzz, ::testing::ValuesIn(kTargets),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace modelpool::fuzz
