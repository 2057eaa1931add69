#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/time.hpp"
#include "config/files.hpp"
#include "config/pool_file.hpp"
#include "config/summary.hpp"
#include "support/pool.hpp"

namespace modelpool::config {
namespace {

using test::effective_of;

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

Result<Settings> load_config(const std::string& path, const Overrides& flags) {
  auto file = load_pool_file(path, flags);
  if (!file) return fail(file.error());
  return std::move(file->settings);
}

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "config_test.XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    dir_ = pattern;
    path_ = dir_ / "pool.toml";
  }
  ~ConfigTest() override { std::filesystem::remove_all(dir_); }

  void write(std::string_view text) const { std::ofstream(path_, std::ios::binary) << text; }
  Result<Settings> load(std::string_view text, const Overrides& flags = {}) const {
    write(text);
    return load_config(path_.string(), flags);
  }
  // What follows "FILE" in the error.
  std::string error_of(std::string_view text) const {
    const Result<Settings> settings = load(text);
    if (settings) return "no error";
    const std::string prefix = "unable to read config " + path_.string();
    EXPECT_EQ(settings.error().code, Errc::kInvalid);
    EXPECT_THAT(settings.error().text, StartsWith(prefix));
    return settings.error().text.substr(std::min(prefix.size(), settings.error().text.size()));
  }

  std::filesystem::path dir_;
  std::filesystem::path path_;
};

TEST_F(ConfigTest, AFullConfigIsReadWithTheLineEachValueCameFrom) {
  const auto settings = load(
      "[pool]\n"
      "max_backends = 2\n"
      "idle-timeout = \"15m\"\n"
      "stop_signal = 15\n"
      "load_cooldown = \"1s..1m\"\n"
      "[[model]]\n"
      "match = \"whisper-*\"\n"
      "busy-timeout = \"2m\"\n"
      "[[model]]\n"
      "match = \"*\"\n"
      "busy_timeout = \"off\"\n");
  ASSERT_TRUE(settings) << settings.error().text;
  EXPECT_EQ(settings->get(Setting::kMaxBackends), 2u);
  EXPECT_EQ(settings->get(Setting::kIdleTimeout), 900 * kSecond_ns);
  EXPECT_EQ(settings->get(Setting::kStopSignal), 15u);
  EXPECT_EQ(settings->get(Setting::kLoadCooldown), pack_cooldown(1'000, 60'000));
  const Origin origin = settings->pool.origin(Setting::kIdleTimeout);
  EXPECT_EQ(origin.kind, OriginKind::kConfig);
  EXPECT_EQ(origin.line, 3u);
  EXPECT_EQ(origin_text(settings->config_path, origin), path_.string() + ":3");
  ASSERT_EQ(settings->rules.size(), 2u);
  EXPECT_EQ(settings->rules[0].pattern, "whisper-*");
  EXPECT_EQ(settings->rules[0].overrides.get(Setting::kBusyTimeout), 120 * kSecond_ns);
  EXPECT_EQ(settings->rules[1].overrides.get(Setting::kBusyTimeout), 0u);
  EXPECT_EQ(settings->rules[1].overrides.origin(Setting::kBusyTimeout).line, 11u);
  EXPECT_FALSE(settings->pool.has(Setting::kBusyTimeout));
}

TEST_F(ConfigTest, FlagsOverrideThePoolAndNotTheRules) {
  Overrides flags;
  flags.set(Setting::kIdleTimeout, 5 * kSecond_ns);
  const auto settings = load(
      "[pool]\nidle_timeout = \"15m\"\n[[model]]\nmatch = \"a\"\nidle_timeout = \"1m\"\n", flags);
  ASSERT_TRUE(settings) << settings.error().text;
  const Effective other = test::effective_of(*settings, "b");
  EXPECT_EQ(other.get(Setting::kIdleTimeout), 5 * kSecond_ns);
  EXPECT_EQ(other.origin(Setting::kIdleTimeout).kind, OriginKind::kFlag);
  EXPECT_EQ(test::effective_of(*settings, "a").get(Setting::kIdleTimeout), 60 * kSecond_ns);
}

TEST_F(ConfigTest, WithoutAFileOnlyFlagsCount) {
  Overrides flags;
  flags.set(Setting::kMaxBackends, 3);
  const auto settings = load_config("", flags);
  ASSERT_TRUE(settings) << settings.error().text;
  EXPECT_EQ(settings->get(Setting::kMaxBackends), 3u);
  EXPECT_TRUE(settings->rules.empty());
  EXPECT_EQ(settings->config_path, "");
  EXPECT_NE(settings->config_hash, 0u);
}

TEST_F(ConfigTest, TheHashDiffersWhenFileOrFlagsDo) {
  Overrides two;
  two.set(Setting::kMaxBackends, 2);
  Overrides three;
  three.set(Setting::kMaxBackends, 3);
  const auto plain = load("[pool]\n");
  const auto again = load("[pool]\n");
  const auto with_two = load("[pool]\n", two);
  const auto with_three = load("[pool]\n", three);
  const auto other_file = load("[pool]\nmax_waiters = 1\n");
  ASSERT_TRUE(plain && again && with_two && with_three && other_file);
  EXPECT_EQ(plain->config_hash, again->config_hash);
  EXPECT_NE(plain->config_hash, with_two->config_hash);
  EXPECT_NE(with_two->config_hash, with_three->config_hash);
  EXPECT_NE(plain->config_hash, other_file->config_hash);
}

TEST_F(ConfigTest, P13AnUnknownSettingIsNamedWithItsPlaceAndTheNearestOne) {
  EXPECT_EQ(error_of("[pool]\n\n  max_backend = 2\n"),
            ":3:3: unknown setting \"max_backend\"; did you mean max_backends?");
  EXPECT_EQ(error_of("[pool]\nidle-timout = \"1m\"\n"),
            ":2:1: unknown setting \"idle-timout\"; did you mean idle_timeout?");
  EXPECT_THAT(error_of("[pool]\nzebra = 1\n"), HasSubstr("; there are max_backends, busy_timeout"));
}

TEST_F(ConfigTest, P13AnUnknownTableIsNamedWithItsPlace) {
  EXPECT_THAT(error_of("[pol]\n"), EndsWith("unknown table \"pol\"; did you mean pool?"));
  EXPECT_THAT(
      error_of("[[models]]\nmatch = \"a\"\n"),
      EndsWith("models is given as a list; write each model as [models.\"NAME\"], or each rule as "
               "[[model]]"));
  EXPECT_EQ(error_of("models = 3\n"),
            ":1:1: models stands outside of a table; write [capacity] above it");
  EXPECT_THAT(error_of("zebra = 3\n"), HasSubstr("unknown key \"zebra\""));
  EXPECT_THAT(error_of("[zebra]\n"),
              EndsWith("; there are [pool], [[model]], [capacity], [serve] and [models.\"NAME\"]"));
  EXPECT_EQ(error_of("max_backends = 2\n"),
            ":1:1: max_backends stands outside of a table; write [pool] above it");
  EXPECT_THAT(error_of("[model]\nmatch = \"a\"\n"), HasSubstr("write each rule as [[model]]"));
  EXPECT_THAT(error_of("[[pool]]\n"), HasSubstr("write it as one table, [pool]"));
  EXPECT_THAT(error_of("pool = 3\n"), HasSubstr("pool is an integer"));
  EXPECT_THAT(error_of("model = [1]\n"), HasSubstr("model has an integer in it"));
}

TEST_F(ConfigTest, P13ABareNumberIsNoDuration) {
  EXPECT_EQ(
      error_of("[pool]\nidle_timeout = 30\n"),
      ":2:16: idle_timeout = 30: a unit is missing; write it like \"30s\", \"15m\" or \"off\"");
  EXPECT_THAT(error_of("[pool]\nidle_timeout = \"30\"\n"), StartsWith(":2:16: cannot set"));
  EXPECT_THAT(error_of("[pool]\nload_cooldown = 10\n"), HasSubstr("a unit is missing"));
}

TEST_F(ConfigTest, ZeroIsOffWithoutAUnit) {
  const auto settings = load("[pool]\nload_timeout = 0\n");
  ASSERT_TRUE(settings) << settings.error().text;
  EXPECT_EQ(settings->get(Setting::kLoadTimeout), 0u);
}

TEST_F(ConfigTest, P13AWrongTypeSaysWhatToWrite) {
  EXPECT_EQ(error_of("[pool]\nidle_timeout = true\n"),
            ":2:16: idle_timeout is a boolean; write it like \"30s\", \"15m\" or \"off\"");
  EXPECT_THAT(error_of("[pool]\nidle_timeout = 1.5\n"), HasSubstr("a number with a fraction"));
  EXPECT_THAT(error_of("[pool]\nmax_backends = [1]\n"), HasSubstr("max_backends is an array"));
  EXPECT_THAT(error_of("[pool]\nwhen_busy = 1\n"), HasSubstr("when_busy is an integer"));
  EXPECT_THAT(error_of("[pool]\nidle_timeout = 1979-05-27\n"), HasSubstr("a date or time"));
  EXPECT_THAT(error_of("[[model]]\nmatch = 3\n"), HasSubstr("match is an integer"));
}

TEST_F(ConfigTest, P13AValueOutOfRangeSaysWhatTheSettingTakes) {
  EXPECT_THAT(error_of("[pool]\nmax_backends = -1\n"), HasSubstr(": it takes a number from 0"));
  EXPECT_THAT(error_of("[pool]\nwhen_busy = \"never\"\n"),
              StartsWith(":2:13: cannot set when_busy to \"never\": it takes drain"));
  EXPECT_THAT(error_of("[pool]\nstop_signal = \"SIGSTOP\"\n"), HasSubstr("it takes a signal"));
}

TEST_F(ConfigTest, ASwitchIsABoolean) {
  const auto settings = load("[[model]]\nmatch = \"a\"\npinned = true\n");
  ASSERT_TRUE(settings) << settings.error().text;
  EXPECT_EQ(effective_of(*settings, "a").get(Setting::kPinned), 1u);
  EXPECT_EQ(error_of("[[model]]\nmatch = \"a\"\npinned = 1\n"),
            ":3:10: pinned is an integer; write it like true");
  EXPECT_EQ(error_of("[[model]]\nmatch = \"a\"\npinned = [true]\n"),
            ":3:10: pinned is an array; write it like true");
}

TEST_F(ConfigTest, GroupsAndDevicesAreTextsListsOrTables) {
  const auto settings = load(
      "[pool]\ngpu_memory = { GPU-a = \"22GiB\", GPU-b = \"10GiB\" }\nmax_loads = 2\n"
      "[[model]]\nmatch = \"a\"\ngroups = [\"heavy\", \"vision\"]\ndevices = 2\n"
      "gpu_memory = [\"20GiB\", \"4GiB\"]\n"
      "[[model]]\nmatch = \"b\"\ngroups = \"heavy\"\ndevices = [\"GPU-a\"]\n"
      "[[model]]\nmatch = \"c\"\ngroups = []\n");
  ASSERT_TRUE(settings) << settings.error().text;
  EXPECT_EQ(settings->text(Setting::kGpuMemory), "GPU-a=22GiB, GPU-b=10GiB");
  EXPECT_EQ(settings->get(Setting::kMaxLoads), 2u);
  EXPECT_EQ(effective_of(*settings, "a").text(Setting::kGroups), "heavy, vision");
  EXPECT_EQ(effective_of(*settings, "a").text(Setting::kDevices), "2");
  EXPECT_EQ(effective_of(*settings, "a").text(Setting::kGpuMemory), "20GiB, 4GiB");
  EXPECT_EQ(effective_of(*settings, "b").text(Setting::kDevices), "GPU-a");
  EXPECT_EQ(effective_of(*settings, "c").text(Setting::kGroups), "");
  EXPECT_THAT(error_of("[[model]]\nmatch = \"a\"\ngroups = [1]\n"),
              HasSubstr("groups is an array; write it like"));
  EXPECT_THAT(error_of("[[model]]\nmatch = \"a\"\ngroups = [\"a,b\"]\n"),
              HasSubstr("groups is an array"));
  EXPECT_THAT(error_of("[[model]]\nmatch = \"a\"\ndevices = [\"x\", \"x\"]\n"),
              HasSubstr("cannot set devices"));
}

TEST_F(ConfigTest, P13WhatCouldNeverBeLoadedTogetherIsRefused) {
  EXPECT_EQ(error_of("[[model]]\nmatch = \"a\"\ngroups = \"g\"\npinned = true\n"
                     "[[model]]\nmatch = \"b\"\ngroups = \"g, h\"\npinned = true\n"),
            ":8: \"a\" and \"b\" are pinned and share the group g: one would keep the other out "
            "for ever; pin one of them");
  EXPECT_EQ(error_of("[[model]]\nmatch = \"a\"\ndevices = 3\ngpu_memory = [\"1GiB\", \"2GiB\"]\n"),
            ":4: \"a\" is put on 3 devices and has 2 sizes in gpu_memory; give one for all, or "
            "one for each");
  const std::string pool = "[pool]\ngpu_memory = { GPU-a = \"8GiB\", GPU-b = \"4GiB\" }\n";
  EXPECT_EQ(error_of(pool + "[[model]]\nmatch = \"a\"\ngpu_memory = \"9GiB\"\n"),
            ":5: \"a\" takes 9GiB of a device, and the largest limit of the pool's gpu_memory is "
            "8GiB: it could never be loaded");
  EXPECT_EQ(error_of(pool + "[[model]]\nmatch = \"a\"\ngpu_memory = \"9GiB\"\n"
                            "devices = [\"GPU-c\"]\n"),
            "no error");
}

TEST_F(ConfigTest, P13MorePinnedModelsThanFitAreRefusedWithTheLineOfTheFirstTooMany) {
  const std::string two =
      "[pool]\nmax_backends = 1\n[[model]]\nmatch = \"a\"\npinned = true\n"
      "[[model]]\nmatch = \"b\"\npinned = true\n";
  EXPECT_EQ(error_of(two),
            ":8: 2 models are pinned (a, b), but max_backends is 1 (line 2); raise max_backends or "
            "pin fewer");
  EXPECT_EQ(error_of(two + "[[model]]\nmatch = \"b\"\npinned = false\n"), "no error");
  EXPECT_EQ(error_of(two + "[[model]]\nmatch = \"*\"\npinned = false\n"), "no error");
  EXPECT_EQ(error_of("[pool]\nmax_backends = 1\n[[model]]\nmatch = \"*\"\npinned = true\n"),
            "no error")
      << "how many a glob pins is not known";
  Overrides flags;
  flags.set(Setting::kMaxBackends, 2);
  EXPECT_TRUE(load(two, flags));
  flags.set(Setting::kMaxBackends, 0);
  EXPECT_TRUE(load(two, flags)) << "no limit";
}

TEST_F(ConfigTest, P13OneSettingInBothSpellingsIsAnError) {
  EXPECT_EQ(
      error_of("[pool]\nmax_backends = 2\nmax-backends = 3\n"),
      ":3:1: max_backends is set twice, first in line 2; dashes and underscores are the same");
  EXPECT_THAT(error_of("[pool]\nmax_backends = 2\nmax_backends = 3\n"), StartsWith(":3:"));
}

TEST_F(ConfigTest, P13ARuleNeedsAGlobThatCanBeRead) {
  EXPECT_THAT(error_of("\n[[model]]\nidle_timeout = \"1m\"\n"),
              StartsWith(":2:1: a [[model]] table"));
  EXPECT_THAT(error_of("[[model]]\nmatch = \"[a\"\n"),
              StartsWith(":2:9: cannot use the model glob"));
  EXPECT_THAT(error_of("[[model]]\nmatch = \"\"\n"), HasSubstr("it is empty"));
  EXPECT_THAT(error_of("[[model]]\nmatch = \"" + std::string(256, 'a') + "\"\n"),
              HasSubstr("256 bytes"));
}

TEST_F(ConfigTest, P13ASettingOfThePoolIsRefusedInARule) {
  EXPECT_EQ(error_of("[[model]]\nmatch = \"a\"\nmax_backends = 2\n"),
            ":3:1: max_backends is not for single models; move it to [pool]");
}

TEST_F(ConfigTest, P13MoreGlobsThanEachModelCanTryAreRefusedAndExactNamesAreNot) {
  std::string text;
  for (std::size_t i = 0; i < kGlobsMax; ++i) text += "[[model]]\nmatch = \"a*\"\n";
  for (std::size_t i = 0; i < 4096; ++i)
    text += "[[model]]\nmatch = \"m" + std::to_string(i) + "\"\n";
  EXPECT_TRUE(load(text));
  EXPECT_EQ(error_of("[[model]]\nmatch = \"a*\"\n" + text),
            ":514:9: there are more than 256 [[model]] tables with wildcards; merge some into "
            "wider globs");
}

TEST_F(ConfigTest, P13TheFirstProblemInTheFileComesFirst) {
  EXPECT_THAT(error_of("[pool]\nzz = 1\naa = 1\n"), StartsWith(":2:1: unknown setting \"zz\""));
}

// Each run told of one error only.
TEST_F(ConfigTest, P13EveryProblemOfAFileIsToldAtOnceInItsOrder) {
  write(
      "[pool]\n"
      "max_backend = 2\n"        // 2: unknown
      "idle_timeout = 15m\n"     // 3: no quotes
      "when_busy = \"never\"\n"  // 4: no such value
      "busy_timeout = = 5\n"     // 5: no TOML
      "[[model]]\n"              // 6: without match
      "max_waiters = 3\n"        // 7: not for models
      "[[model]]\n"
      "match = llama-*   # all of them\n"  // 9: no quotes
      "stop_grace = 30\n"                  // 10: no unit
      "[capacity]\n"
      "backends = 0\n");  // 12: out of range
  const auto settings = load_config(path_.string(), {});
  ASSERT_FALSE(settings);
  std::istringstream lines(settings.error().text);
  std::vector<std::string> places;
  for (std::string line; std::getline(lines, line);) {
    const std::string prefix = "unable to read config " + path_.string() + ":";
    ASSERT_THAT(line, StartsWith(prefix));
    places.push_back(line.substr(prefix.size(), line.find(':', prefix.size()) - prefix.size()));
  }
  EXPECT_THAT(places, ::testing::ElementsAre("2", "3", "4", "5", "6", "7", "9", "10", "12"))
      << settings.error().text;
}

TEST_F(ConfigTest, P13AFileFullOfErrorsIsToldInPart) {
  std::string text = "[pool]\n";
  for (int i = 0; i < 100; ++i) text += "z" + std::to_string(i) + " = 1\n";
  const std::string error = error_of(text);
  EXPECT_THAT(error, StartsWith(":2:1: unknown setting \"z0\""));
  EXPECT_THAT(error, EndsWith(": 80 more errors"));
}

TEST_F(ConfigTest, P13WhatStandsBeforeABrokenTableIsToldToo) {
  const std::string error = error_of("[pool]\nzebra = 1\n[[model\nmatch = \"a\"\n");
  EXPECT_THAT(error, StartsWith(":2:1: unknown setting \"zebra\""));
  EXPECT_THAT(error, HasSubstr("\nunable to read config " + path_.string() + ":3:"));
}

// "expected digit, saw 'm'"
TEST_F(ConfigTest, P13AValueWithoutQuotesSaysWhatToWrite) {
  EXPECT_EQ(error_of("[pool]\nidle_timeout = 15m\n"),
            ":2:16: idle_timeout = 15m: the quotes are missing; write idle_timeout = \"15m\"");
  EXPECT_EQ(error_of("[pool]\n  stop-signal=SIGINT # or so\n"),
            ":2:15: stop-signal = SIGINT: the quotes are missing; write stop-signal = \"SIGINT\"");
  EXPECT_EQ(
      error_of("[pool]\r\nload_cooldown = 10s..5m\r\n"),
      ":2:17: load_cooldown = 10s..5m: the quotes are missing; write load_cooldown = \"10s..5m\"");
  EXPECT_EQ(error_of("[[model]]\nmatch = llama-*"),
            ":2:9: match = llama-*: the quotes are missing; write match = \"llama-*\"");
  EXPECT_EQ(error_of("[pool]\nwhen_busy = wait\n"),
            ":2:13: when_busy = wait: the quotes are missing; write when_busy = \"wait\"");
  EXPECT_EQ(error_of("[pool]\nmin_resident = off\n"),
            ":2:16: min_resident = off: the quotes are missing; write min_resident = \"off\"");
}

TEST_F(ConfigTest, CapacitiesAreReadAndThoseNotGivenKeepTheirDefaults) {
  write("[capacity]\nbackends = 8\nwaiters = 16\n[pool]\nmax_backends = 2\n");
  const auto file = load_pool_file(path_.string());
  ASSERT_TRUE(file) << file.error().text;
  const GivenCapacities& capacities = file->capacities;
  EXPECT_EQ(capacities.values.backends, 8u);
  EXPECT_EQ(capacities.values.waiters, 16u);
  EXPECT_EQ(capacities.values.workers, Capacities{}.workers);
  EXPECT_TRUE(capacities.has(*find_capacity("backends")));
  EXPECT_FALSE(capacities.has(*find_capacity("workers")));
  EXPECT_THAT(config_summary(file->settings, file->capacities), HasSubstr("  waiters 16\n"));
}

TEST_F(ConfigTest, P13ACapacityOutOfRangeOrUnknownIsRefused) {
  EXPECT_EQ(error_of("[capacity]\nbackends = 0\n"),
            ":2:12: backends takes a number from 1 to 4095");
  EXPECT_THAT(error_of("[capacity]\nbackends = \"8\"\n"), HasSubstr("a number from 1 to 4095"));
  EXPECT_THAT(error_of("[capacity]\nbackend = 8\n"), HasSubstr("did you mean backends?"));
  EXPECT_THAT(error_of("[capacity]\nzebra = 8\n"), HasSubstr("there are backends, workers"));
  EXPECT_THAT(error_of("workers = 8\n"), HasSubstr("write [capacity] above it"));
  EXPECT_THAT(error_of("[[capacity]]\n"), HasSubstr("write it as one table, [capacity]"));
}

TEST_F(ConfigTest, P13BrokenTomlHasAPlaceAndNoControlCharacters) {
  EXPECT_THAT(error_of("[pool\n"), StartsWith(":1:"));
  EXPECT_THAT(error_of("[pool]\nidle_timeout = \n"), StartsWith(":2:"));
  EXPECT_THAT(error_of("[pool]\nx = \"\xff\"\n"), StartsWith(":2:"));
  EXPECT_THAT(error_of("[pool]\n\"\\u001b[1m\" = 1\n"), HasSubstr("\\x1b"));
}

TEST_F(ConfigTest, P13AFileThatCannotBeAConfigIsRefused) {
  const auto missing = load_config((dir_ / "none.toml").string(), {});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().system, ENOENT);
  EXPECT_THAT(missing.error().text, StartsWith("unable to read config " + dir_.string()));

  const auto folder = load_config(dir_.string(), {});
  ASSERT_FALSE(folder);
  EXPECT_THAT(folder.error().text, EndsWith("it is not a regular file"));

  const std::string fifo = (dir_ / "fifo").string();
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const auto pipe = load_config(fifo, {});  // does not wait for a writer
  ASSERT_FALSE(pipe);
  EXPECT_THAT(pipe.error().text, EndsWith("it is not a regular file"));

  EXPECT_THAT(error_of(std::string(kConfigMax_bytes + 1, '#')), HasSubstr("larger than 4MiB"));
}

TEST_F(ConfigTest, APathThatDoesNotFitKeepsItsEnd) {
  std::filesystem::path deep = dir_;
  for (int i = 0; i < 5; ++i) deep /= std::string(100, 'd');
  std::filesystem::create_directories(deep);
  path_ = deep / "pool.toml";
  const auto settings = load("[pool]\nmax_waiters = 1\n");
  ASSERT_TRUE(settings) << settings.error().text;
  const std::string origin = origin_text(settings->config_path, {OriginKind::kConfig, 2});
  EXPECT_THAT(origin, StartsWith("..."));
  EXPECT_THAT(origin, EndsWith("/pool.toml:2"));
}

TEST_F(ConfigTest, TheSummaryShowsEveryValueAndWhereItCameFrom) {
  Overrides flags;
  flags.set(Setting::kMaxWaiters, 7);
  const auto settings =
      load("[pool]\nmax_backends = 2\n[[model]]\nmatch = \"a*\"\nidle_timeout = \"5m\"\n", flags);
  ASSERT_TRUE(settings) << settings.error().text;
  const std::string summary = config_summary(*settings);
  EXPECT_THAT(summary, HasSubstr("  max_backends        2            line 2\n"));
  EXPECT_THAT(summary, HasSubstr("  max_waiters         7            flag\n"));
  EXPECT_THAT(summary, HasSubstr("  busy_timeout        off          default\n"));
  EXPECT_THAT(summary, HasSubstr("[[model]] \"a*\"\n  idle_timeout        5m           line 5\n"));
}

}  // namespace
}  // namespace modelpool::config
