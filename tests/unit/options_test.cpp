#include "options.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "base/time.hpp"

namespace modelpool::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class OptionsTest : public ::testing::Test {
 protected:
  OptionsTest() {
    if (const char* name = std::getenv("MODELPOOL_POOL")) saved_pool_ = name;
    unsetenv("MODELPOOL_POOL");
  }
  ~OptionsTest() override {
    unsetenv("MODELPOOL_POOL");
    if (saved_pool_) setenv("MODELPOOL_POOL", saved_pool_->c_str(), 1);
  }

  static Result<ParseOutcome> parse(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "coordinatord");
    return parse_command_line(static_cast<int>(arguments.size()), arguments.data());
  }
  static std::string error_of(std::vector<const char*> arguments) {
    const Result<ParseOutcome> outcome = parse(std::move(arguments));
    if (outcome) return "no error";
    EXPECT_EQ(outcome.error().code, Errc::kInvalid);
    EXPECT_THAT(outcome.error().text,
                AllOf(StartsWith("unable to "), EndsWith("; see coordinatord --help")));
    return outcome.error().text;
  }

  std::optional<std::string> saved_pool_;
};

TEST_F(OptionsTest, WithoutArgumentsTheDefaultsHold) {
  const auto outcome = parse({});
  ASSERT_TRUE(outcome) << outcome.error().text;
  const Options& options = outcome->options;
  EXPECT_EQ(options.pool, "default");
  EXPECT_EQ(options.dir, "");
  EXPECT_EQ(options.config_path, "");
  EXPECT_EQ(options.flags.entries().size(), 0u);
  EXPECT_EQ(options.capacities.values, Capacities{});
  EXPECT_EQ(options.capacities.given, 0u);
  EXPECT_EQ(options.log_level, LogLevel::kInfo);
  EXPECT_EQ(options.log_format, LogFormat::kText);
  EXPECT_EQ(options.notify_fd, -1);
  EXPECT_FALSE(options.stop_on_exit);
  EXPECT_FALSE(options.check_config);
  EXPECT_EQ(outcome->answer, "");
}

TEST_F(OptionsTest, EverySettingHasAFlag) {
  for (const SettingInfo& info : kSettings) {
    std::string flag = "--" + std::string(info.name);
    std::replace(flag.begin(), flag.end(), '_', '-');
    const std::string value = format_setting(info, info.default_value);
    const auto outcome = parse({flag.c_str(), value.c_str()});
    ASSERT_TRUE(outcome) << outcome.error().text;
    EXPECT_TRUE(outcome->options.flags.has(info.id)) << flag;
    EXPECT_EQ(outcome->options.flags.get(info.id), info.default_value) << flag;
    EXPECT_EQ(outcome->options.flags.origin(info.id).kind, OriginKind::kFlag);
  }
}

TEST_F(OptionsTest, EveryOtherFlagIsRead) {
  const auto outcome = parse({"--pool",
                              "gpu-0",
                              "--dir=/tmp/x_y",
                              "--config",
                              "c.toml",
                              "--log-level",
                              "debug",
                              "--log-format",
                              "json",
                              "--notify-fd",
                              "3",
                              "--on-exit",
                              "stop",
                              "--check-config",
                              "--user",
                              "modelpool",
                              "--backends",
                              "8",
                              "--models",
                              "9"});
  ASSERT_TRUE(outcome) << outcome.error().text;
  const Options& options = outcome->options;
  EXPECT_EQ(options.pool, "gpu-0");
  EXPECT_EQ(options.dir, "/tmp/x_y");
  EXPECT_EQ(options.config_path, "c.toml");
  EXPECT_EQ(options.log_level, LogLevel::kDebug);
  EXPECT_EQ(options.log_format, LogFormat::kJson);
  EXPECT_EQ(options.notify_fd, 3);
  EXPECT_TRUE(options.stop_on_exit);
  EXPECT_TRUE(options.check_config);
  EXPECT_EQ(options.user, "modelpool");
  EXPECT_EQ(options.capacities.values.backends, 8u);
  EXPECT_EQ(options.capacities.values.models, 9u);
  EXPECT_EQ(options.capacities.values.workers, Capacities{}.workers);
}

TEST_F(OptionsTest, UnderscoresInNamesAreDashes) {
  const auto outcome = parse({"--max_backends=2", "--idle_timeout", "5m", "--log_level=warn"});
  ASSERT_TRUE(outcome) << outcome.error().text;
  EXPECT_EQ(outcome->options.flags.get(Setting::kMaxBackends), 2u);
  EXPECT_EQ(outcome->options.flags.get(Setting::kIdleTimeout), 300 * kSecond_ns);
  EXPECT_EQ(outcome->options.log_level, LogLevel::kWarn);
}

TEST_F(OptionsTest, ThePoolOfTheEnvironmentYieldsToTheFlag) {
  setenv("MODELPOOL_POOL", "from_env", 1);
  EXPECT_EQ(parse({})->options.pool, "from_env");
  EXPECT_EQ(parse({"--pool", "given"})->options.pool, "given");
  setenv("MODELPOOL_POOL", "", 1);
  EXPECT_EQ(parse({})->options.pool, "default");
  setenv("MODELPOOL_POOL", "../up", 1);
  EXPECT_THAT(error_of({}), HasSubstr("\"../up\""));
}

TEST_F(OptionsTest, P13AnUnknownFlagIsNamedWithTheNearestOne) {
  EXPECT_THAT(error_of({"--max-backend", "2"}),
              HasSubstr("unknown argument \"--max-backend\" (did you mean --max-backends?)"));
  EXPECT_THAT(error_of({"--zebra"}), HasSubstr("unknown argument \"--zebra\";"));
  EXPECT_THAT(error_of({"stray"}), HasSubstr("\"stray\" (every argument is a --flag)"));
  EXPECT_THAT(error_of({"\x1b[1m"}), HasSubstr("\\x1b"));
}

TEST_F(OptionsTest, P13AMissingOrEmptyValueIsRefused) {
  EXPECT_THAT(error_of({"--max-backends"}), HasSubstr("--max-backends needs a value"));
  EXPECT_THAT(error_of({"--dir="}), HasSubstr("--dir"));
  EXPECT_THAT(error_of({"--dir", ""}), HasSubstr("--dir"));
  EXPECT_THAT(error_of({"--pool", ""}), HasSubstr("pool"));
}

TEST_F(OptionsTest, P13AFlagGivenTwiceIsRefused) {
  EXPECT_THAT(error_of({"--max-backends", "2", "--max_backends=3"}),
              HasSubstr("--max-backends is given twice"));
}

TEST_F(OptionsTest, P13AWrongValueSaysWhatTheFlagTakes) {
  EXPECT_THAT(error_of({"--idle-timeout", "5"}), HasSubstr("idle_timeout to \"5\": it takes"));
  EXPECT_THAT(error_of({"--log-level", "loud"}), HasSubstr("trace, debug, info, warn or error"));
  EXPECT_THAT(error_of({"--log-format", "xml"}), HasSubstr("text or json"));
  EXPECT_THAT(error_of({"--on-exit", "kill"}), HasSubstr("leave or stop"));
  EXPECT_THAT(error_of({"--backends", "0"}), HasSubstr("a number from 1 to 4095"));
  EXPECT_THAT(error_of({"--leases", "65537"}), HasSubstr("a number from 1 to 65536"));
  for (const char* fd : {"-1", "0", "2", "x", "99999999999"}) {
    EXPECT_THAT(error_of({"--notify-fd", fd}), HasSubstr("3 or above")) << fd;
  }
  EXPECT_THAT(error_of({"--check-config"}), HasSubstr("add --config FILE"));
}

TEST_F(OptionsTest, HelpShowsEverySettingWithItsDefaultAndTheExitCodes) {
  const auto outcome = parse({"--help"});
  ASSERT_TRUE(outcome) << outcome.error().text;
  for (const SettingInfo& info : kSettings) {
    std::string flag = "--" + std::string(info.name);
    std::replace(flag.begin(), flag.end(), '_', '-');
    EXPECT_THAT(outcome->answer, HasSubstr(flag + " " + std::string(info.placeholder)));
    EXPECT_THAT(outcome->answer, HasSubstr("[" + format_setting(info, info.default_value) + "]"));
  }
  EXPECT_THAT(outcome->answer, HasSubstr("Exit codes: 0 done, 1 another coordinator is there"));
  EXPECT_THAT(outcome->answer, HasSubstr("Capacity (only when the pool is created):"));
  for (std::size_t at = 0; at < outcome->answer.size();) {
    const std::string line = outcome->answer.substr(at, outcome->answer.find('\n', at) - at);
    EXPECT_LE(line.size(), 100u) << line;
    at += line.size() + 1;
  }
}

TEST_F(OptionsTest, VersionIsOneLine) {
  const auto outcome = parse({"--version"});
  ASSERT_TRUE(outcome) << outcome.error().text;
  EXPECT_EQ(outcome->answer, "coordinatord " MODELPOOL_VERSION "\n");
}

}  // namespace
}  // namespace modelpool::coordinator
