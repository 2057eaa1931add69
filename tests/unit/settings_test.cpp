#include "modelpool/settings.hpp"

#include <gtest/gtest.h>

#include <csignal>
#include <cstring>
#include <random>
#include <string>

#include "base/text.hpp"
#include "base/time.hpp"

using namespace modelpool;  // NOLINT(google-build-using-namespace)

namespace {

std::uint64_t parsed(Setting id, std::string_view text) {
  const Result<std::uint64_t> result = parse_setting(setting_info(id), text);
  EXPECT_TRUE(result) << text << ": " << (result ? "" : result.error().text);
  return result.value_or(kNever_ns);
}

std::string refusal(Setting id, std::string_view text) {
  const Result<std::uint64_t> result = parse_setting(setting_info(id), text);
  EXPECT_FALSE(result) << text << " was read as " << result.value_or(0);
  if (result) return {};
  EXPECT_EQ(result.error().code, Errc::kInvalid);
  return result.error().text;
}

}  // namespace

TEST(Settings, HaveTheDocumentedDefaults) {
  const Settings settings;
  EXPECT_EQ(settings.get(Setting::kMaxBackends), 0u);
  EXPECT_EQ(settings.get(Setting::kBusyTimeout), 0u);
  EXPECT_EQ(settings.get(Setting::kStallTimeout), 0u);
  EXPECT_EQ(settings.get(Setting::kIdleTimeout), 0u);
  EXPECT_EQ(settings.get(Setting::kLoadTimeout), 600 * kSecond_ns);
  EXPECT_EQ(settings.get(Setting::kDrainTimeout), 30 * kSecond_ns);
  EXPECT_EQ(settings.get(Setting::kStopSignal), static_cast<std::uint64_t>(SIGTERM));
  EXPECT_EQ(settings.get(Setting::kStopGrace), 15 * kSecond_ns);
  EXPECT_EQ(settings.get(Setting::kMinResident), 0u);
  EXPECT_EQ(settings.get(Setting::kWhenBusy), static_cast<std::uint64_t>(WhenBusy::kDrain));
  EXPECT_EQ(settings.get(Setting::kMaxWaiters), 512u);
  EXPECT_EQ(settings.get(Setting::kLoadCooldown), pack_cooldown(10'000, 300'000));
  EXPECT_EQ(settings.get(Setting::kEviction), static_cast<std::uint64_t>(Eviction::kCost));
  EXPECT_EQ(settings.get(Setting::kMaxWait), 60 * kSecond_ns);
  EXPECT_EQ(settings.get(Setting::kCollect), 0u);
  EXPECT_EQ(settings.get(Setting::kPriority), 50u);
  EXPECT_EQ(settings.text(Setting::kLogDir), "");
  EXPECT_EQ(settings.get(Setting::kLogMax), std::uint64_t{8} << 20);
  EXPECT_EQ(settings.get(Setting::kPinned), 0u);
  EXPECT_EQ(settings.get(Setting::kKeep), 0u);
  EXPECT_EQ(settings.get(Setting::kParallel), 0u);
  EXPECT_EQ(settings.get(Setting::kMaxLoads), 0u);
  EXPECT_EQ(settings.text(Setting::kGroups), "");
  EXPECT_EQ(settings.text(Setting::kDevices), "");
  EXPECT_EQ(settings.text(Setting::kGpuMemory), "");
  EXPECT_EQ(settings.get(Setting::kSettle), 2 * kSecond_ns);
  EXPECT_EQ(settings.get(Setting::kMinAvailable), 0u);
  EXPECT_EQ(settings.text(Setting::kProbe), "");
  EXPECT_EQ(settings.get(Setting::kProbeInterval), 10 * kSecond_ns);
  EXPECT_EQ(settings.get(Setting::kProbeTimeout), 5 * kSecond_ns);
  EXPECT_EQ(settings.get(Setting::kProbeFailures), 3u);
}

TEST(Settings, ATextIsKeptAsItWasWrittenIfItCanBeRead) {
  const auto text_of = [](Setting id, const char* text) -> std::string {
    const auto entry = parse_entry(setting_info(id), text);
    return entry ? entry->text : "refused";
  };
  EXPECT_EQ(text_of(Setting::kGroups, "heavy, vision"), "heavy, vision");
  EXPECT_EQ(text_of(Setting::kGroups, "off"), "");
  for (const char* text : {"", "a,,b", "a b", ",", "a=b", "\"a\""})
    EXPECT_EQ(text_of(Setting::kGroups, text), "refused") << text;
  for (const char* text : {"2", "16", "GPU-1f", "GPU-1f, GPU-2e"})
    EXPECT_EQ(text_of(Setting::kDevices, text), text);
  for (const char* text : {"17", "-1", "GPU-1f, GPU-1f", "GPU 1f"})
    EXPECT_EQ(text_of(Setting::kDevices, text), "refused") << text;
  for (const char* text : {"90%", "20GiB", "20GiB, 4GiB", "GPU-1f=22GiB", "a = 1GiB, b=2GiB"})
    EXPECT_EQ(text_of(Setting::kGpuMemory, text), text);
  for (const char* text :
       {"0%", "101%", "90", "20 GiB", "a=1GiB, 2GiB", "a=1GiB, a=2GiB", "90%, 1GiB"})
    EXPECT_EQ(text_of(Setting::kGpuMemory, text), std::string_view(text) == "90" ? "90" : "refused")
        << text;
  for (const char* text : {"tcp", "GET /", "GET /health?deep=1"})
    EXPECT_EQ(text_of(Setting::kProbe, text), text);
  for (const char* text : {"GET", "GET health", "POST /x", "GET /a b", "http"})
    EXPECT_EQ(text_of(Setting::kProbe, text), "refused") << text;
}

TEST(Settings, ASwitchIsOnOrOff) {
  for (const char* const text : {"true", "on"}) EXPECT_EQ(parsed(Setting::kPinned, text), 1u);
  for (const char* const text : {"false", "off"}) EXPECT_EQ(parsed(Setting::kPinned, text), 0u);
  for (const char* const text : {"", "yes", "True", "2"}) {
    const auto refused = parse_setting(setting_info(Setting::kPinned), text);
    ASSERT_FALSE(refused) << text;
    EXPECT_NE(refused.error().text.find("true or false"), std::string::npos);
  }
}

TEST(Settings, DescribeThemselves) {
  for (const SettingInfo& info : kSettings) {
    EXPECT_EQ(&setting_info(info.id), &info);
    EXPECT_EQ(find_setting(info.name), &info);
    EXPECT_FALSE(info.help.empty());
    EXPECT_FALSE(info.placeholder.empty());
    const bool pool_only = info.id == Setting::kMaxBackends || info.id == Setting::kMaxWaiters ||
                           info.id == Setting::kEviction || info.id == Setting::kCollect ||
                           info.id == Setting::kMaxMemory || info.id == Setting::kLogDir ||
                           info.id == Setting::kLogMax || info.id == Setting::kKeep ||
                           info.id == Setting::kMaxLoads || info.id == Setting::kSettle ||
                           info.id == Setting::kMinAvailable;
    EXPECT_EQ(info.per_model, !pool_only) << info.name;
  }
}

TEST(Settings, AreFoundWithDashesAndWithUnderscores) {
  EXPECT_EQ(find_setting("max-backends"), &setting_info(Setting::kMaxBackends));
  EXPECT_EQ(find_setting("max_backends"), &setting_info(Setting::kMaxBackends));
  for (const char* name :
       {"", "max", "max_backends_", "MAX_BACKENDS", "max backends", "--when-busy"}) {
    EXPECT_EQ(find_setting(name), nullptr) << name;
  }
}

TEST(Settings, ReadBackTheirDefaultsAsPrinted) {
  const std::string expected[] = {
      "0",   "off",   "off",   "off", "10m",     "30s",  "SIGTERM",
      "15s", "off",   "drain", "512", "10s..5m", "cost", "1m",
      "off", "50",    "off",   "off", "default", "8MiB", "cancel, 10s, kill",
      "off", "false", "0",     "0",   "0",       "off",  "off",
      "off", "2s",    "off",   "off", "10s",     "5s",   "3"};
  for (const SettingInfo& info : kSettings) {
    const std::string text = format_setting(info, info.default_value);
    EXPECT_EQ(text, expected[static_cast<std::size_t>(info.id)]) << info.name;
    EXPECT_EQ(parsed(info.id, text), info.default_value) << info.name;
    EXPECT_EQ(clamp_setting(info, info.default_value), info.default_value) << info.name;
  }
}

TEST(Settings, ARefusalNamesTheSettingAndWhatItTakes) {
  EXPECT_EQ(refusal(Setting::kBusyTimeout, "30"),
            "unable to set busy_timeout to \"30\": it takes a duration of at most 10 years such as "
            "500ms, 30s, 15m, 2h, or off");
  EXPECT_EQ(refusal(Setting::kMaxBackends, "off"),
            "unable to set max_backends to \"off\": it takes a number from 0 to 4095");
  EXPECT_EQ(refusal(Setting::kMaxWaiters, "65536"),
            "unable to set max_waiters to \"65536\": it takes a number from 0 to 65535");
  EXPECT_EQ(refusal(Setting::kWhenBusy, "kill"),
            "unable to set when_busy to \"kill\": it takes drain, wait or force");
  EXPECT_EQ(refusal(Setting::kEviction, "lur"),
            "unable to set eviction to \"lur\": it takes cost, lru or size; did you mean lru?");
  EXPECT_EQ(refusal(Setting::kMaxMemory, "64 gigs"),
            "unable to set max_memory to \"64 gigs\": it takes a size of at most 65536TiB such "
            "as 8MiB or 1.5GiB, or off");
  EXPECT_EQ(refusal(Setting::kPriority, "101"),
            "unable to set priority to \"101\": it takes a number from 0 to 100");
}

TEST(Settings, ASizeIsReadBackAsItWasPrinted) {
  const SettingInfo& info = setting_info(Setting::kMaxMemory);
  for (const std::uint64_t bytes :
       {std::uint64_t{1}, std::uint64_t{1023}, std::uint64_t{1} << 20, (std::uint64_t{3} << 29),
        std::uint64_t{1} << 40, (std::uint64_t{1} << 40) + 1}) {
    EXPECT_EQ(parsed(Setting::kMaxMemory, format_setting(info, bytes)), bytes);
  }
  EXPECT_EQ(format_setting(info, std::uint64_t{3} << 29), "1536MiB");
  EXPECT_EQ(parsed(Setting::kMaxMemory, "1.5GiB"), std::uint64_t{3} << 29);
}

TEST(Settings, CountsEndWhereTheTablesEnd) {
  EXPECT_EQ(parsed(Setting::kMaxBackends, "4095"), 4095u);
  refusal(Setting::kMaxBackends, "4096");
  refusal(Setting::kMaxBackends, "-1");
  EXPECT_EQ(parsed(Setting::kMaxWaiters, "0"), 0u);
  EXPECT_EQ(parsed(Setting::kMaxWaiters, "65535"), 65'535u);
}

TEST(OnOverdue, IsKillOrAGraceBetweenAskingAndKilling) {
  EXPECT_EQ(parsed(Setting::kOnOverdue, "kill"), 0u);
  EXPECT_EQ(parsed(Setting::kOnOverdue, "cancel, 90s, kill"), 90 * kSecond_ns);
  EXPECT_EQ(parsed(Setting::kOnOverdue, "cancel,500ms,kill"), 500 * kMillisecond_ns);
  EXPECT_EQ(format_setting(setting_info(Setting::kOnOverdue), 90 * kSecond_ns),
            "cancel, 1m30s, kill");
  for (const char* text :
       {"", "off", "cancel", "10s", "cancel, kill", "cancel, 0s, kill", "cancel, off, kill",
        "cancel, 10, kill", "kill, 10s, cancel", "cancel, 10s, kill, ", "cancel, 10s, 10s, kill"}) {
    refusal(Setting::kOnOverdue, text);
  }
}

TEST(StopSignal, IsOneThatEndsAProcess) {
  EXPECT_EQ(parsed(Setting::kStopSignal, "SIGTERM"), static_cast<std::uint64_t>(SIGTERM));
  EXPECT_EQ(parsed(Setting::kStopSignal, "int"), static_cast<std::uint64_t>(SIGINT));
  EXPECT_EQ(parsed(Setting::kStopSignal, "9"), static_cast<std::uint64_t>(SIGKILL));
  EXPECT_EQ(parsed(Setting::kStopSignal, "RTMIN+3"), static_cast<std::uint64_t>(SIGRTMIN + 3));
  for (const char* text : {"", "0", "SIGSTOP", "stop", "SIGCONT", "SIGCHLD", "TSTP", "TTIN", "TTOU",
                           "URG", "WINCH", "32", "33", "65", "-15", "off", "SIG", "nonsense"}) {
    EXPECT_NE(refusal(Setting::kStopSignal, text).find("stop_signal"), std::string::npos) << text;
  }
}

TEST(Signal, ReadsBackWhatItPrints) {
  for (int signal = 1; signal <= 64; ++signal) {
    if (signal == 32 || signal == 33) continue;  // have no names
    EXPECT_EQ(parse_signal(signal_text(signal)), signal);
    EXPECT_EQ(parse_signal(std::to_string(signal)), signal);
  }
  EXPECT_EQ(signal_text(SIGTERM), "SIGTERM");
  EXPECT_EQ(signal_text(SIGRTMIN), "SIGRTMIN");
  EXPECT_EQ(signal_text(SIGRTMIN + 2), "SIGRTMIN+2");
  EXPECT_EQ(signal_text(99), "signal 99");
  EXPECT_EQ(signal_text(0), "signal 0");
  EXPECT_EQ(signal_text(-1), "signal -1");
  EXPECT_EQ(parse_signal("sigterm"), SIGTERM);
  EXPECT_EQ(parse_signal("io"), SIGIO);
  EXPECT_EQ(parse_signal("RTMAX"), SIGRTMAX);
  EXPECT_EQ(parse_signal("SIGSIGTERM"), 0);
  EXPECT_EQ(parse_signal("signal 32"), 0);
  EXPECT_EQ(parse_signal("32"), 0);
  EXPECT_EQ(parse_signal("33"), 0);
}

TEST(Cooldown, TakesARangeOrOneDurationOrOff) {
  EXPECT_EQ(parsed(Setting::kLoadCooldown, "10s..5m"), pack_cooldown(10'000, 300'000));
  EXPECT_EQ(parsed(Setting::kLoadCooldown, "30s"), pack_cooldown(30'000, 30'000));
  EXPECT_EQ(parsed(Setting::kLoadCooldown, "30s..30s"), pack_cooldown(30'000, 30'000));
  EXPECT_EQ(parsed(Setting::kLoadCooldown, "1.5s..2s"), pack_cooldown(1'500, 2'000));
  EXPECT_EQ(parsed(Setting::kLoadCooldown, "off"), 0u);
  EXPECT_EQ(parsed(Setting::kLoadCooldown, "0"), 0u);
  EXPECT_EQ(parsed(Setting::kLoadCooldown, "0.1ms"), pack_cooldown(1, 1));  // up, not to off
  EXPECT_EQ(parsed(Setting::kLoadCooldown, "49d"), pack_cooldown(4'233'600'000, 4'233'600'000));
  for (const char* text :
       {"", "5m..10s", "off..5m", "0..5m", "off..off", "10s..", "..5m", "..", "10s...5m", "10s-5m",
        "10s..off", "10", "10..5m", "50d", "1s..50d", "1s..2s..3s"}) {
    EXPECT_NE(refusal(Setting::kLoadCooldown, text).find("load_cooldown"), std::string::npos)
        << text;
  }
  const SettingInfo& info = setting_info(Setting::kLoadCooldown);
  EXPECT_EQ(format_setting(info, pack_cooldown(30'000, 30'000)), "30s");
  EXPECT_EQ(format_setting(info, 0), "off");
}

TEST(Cooldown, DoublesUpToTheLongest) {
  const std::uint64_t packed = pack_cooldown(10'000, 300'000);
  EXPECT_EQ(cooldown_ns(packed, 0), 0u);
  EXPECT_EQ(cooldown_ns(packed, 1), 10 * kSecond_ns);
  EXPECT_EQ(cooldown_ns(packed, 2), 20 * kSecond_ns);
  EXPECT_EQ(cooldown_ns(packed, 5), 160 * kSecond_ns);
  EXPECT_EQ(cooldown_ns(packed, 6), 300 * kSecond_ns);
  for (const std::uint32_t failures : {31u, 32u, 33u, 34u, 64u, 65u, UINT32_MAX}) {
    EXPECT_EQ(cooldown_ns(packed, failures), 300 * kSecond_ns) << failures;
  }
}

TEST(Cooldown, NeverOverflowsAndNeverShrinks) {
  for (const std::uint64_t packed : {pack_cooldown(1, UINT32_MAX), pack_cooldown(UINT32_MAX, 1),
                                     pack_cooldown(UINT32_MAX, UINT32_MAX), UINT64_MAX}) {
    std::uint64_t before = 0;
    for (std::uint32_t failures = 0; failures < 80; ++failures) {
      const std::uint64_t now = cooldown_ns(packed, failures);
      EXPECT_GE(now, before);
      EXPECT_LE(now, UINT32_MAX * kMillisecond_ns);
      before = now;
    }
  }
  EXPECT_EQ(cooldown_ns(0, 5), 0u);
  EXPECT_EQ(cooldown_ns(pack_cooldown(0, 1000), 5), 0u);
}

TEST(Clamp, ForcesAnyWordIntoItsRange) {
  std::mt19937_64 random(17);
  for (const SettingInfo& info : kSettings) {
    for (int i = 0; i < 5000; ++i) {
      const std::uint64_t word = i == 0 ? UINT64_MAX : random() >> (random() % 64);
      const std::uint64_t clamped = clamp_setting(info, word);
      EXPECT_EQ(clamp_setting(info, clamped), clamped) << info.name;
      // In range is what the parser would have accepted.
      const std::string text = format_setting(info, clamped);
      EXPECT_EQ(parsed(info.id, text), clamped) << info.name << " " << text;
      format_setting(info, word);
    }
  }
  const SettingInfo& signal = setting_info(Setting::kStopSignal);
  for (const int harmless : {0, SIGSTOP, SIGCONT, SIGCHLD, 32, 65}) {
    EXPECT_EQ(clamp_setting(signal, static_cast<std::uint64_t>(harmless)),
              static_cast<std::uint64_t>(SIGTERM));
  }
  EXPECT_EQ(clamp_setting(signal, (std::uint64_t{1} << 32) + SIGTERM),
            static_cast<std::uint64_t>(SIGTERM));
  EXPECT_EQ(clamp_setting(setting_info(Setting::kMaxBackends), 5000), 4095u);
  EXPECT_EQ(format_setting(setting_info(Setting::kWhenBusy), 3), "unknown");
}

TEST(Settings, ThatTakeAPathKeepItAsAText) {
  const SettingInfo& info = setting_info(Setting::kLogDir);
  for (const char* text : {"/var/log/models", "off"}) {
    const auto entry = parse_entry(info, text);
    ASSERT_TRUE(entry) << text;
    EXPECT_TRUE(entry->is_text);
    EXPECT_EQ(entry->text, text);
    EXPECT_EQ(format_entry(info, &*entry), text);
    Settings settings;
    settings.pool.set(*entry);
    EXPECT_EQ(settings.text(Setting::kLogDir), text);
    EXPECT_EQ(settings.shown(Setting::kLogDir), text);
  }
  EXPECT_EQ(parse_entry(info, "default")->text, "");
  for (const std::string& text :
       {std::string(), std::string("models"), std::string("/a\nb"), "/" + std::string(255, 'x')}) {
    EXPECT_NE(refusal(Setting::kLogDir, text), "") << text;
  }
  // What stands in the segment is input.
  for (const char* hostile : {"models", "/a\n", "on"}) {
    const SettingEntry entry{Setting::kLogDir, {}, 0, hostile, true};
    EXPECT_EQ(format_entry(info, &entry), "default");
    Settings settings;
    settings.pool.set(entry);
    EXPECT_EQ(settings.text(Setting::kLogDir), "");
    Effective effective;
    effective.take_of_pool(entry);
    EXPECT_EQ(effective.text(Setting::kLogDir), "");
  }
}

TEST(Settings, ASizeIsPrintedExactly) {
  const SettingInfo& info = setting_info(Setting::kLogMax);
  EXPECT_EQ(format_setting(info, (1 << 20) + 1024), "1025KiB");
  EXPECT_EQ(format_setting(info, 1025), "1025B");
  EXPECT_EQ(format_setting(info, 0), "off");
  EXPECT_EQ(parsed(Setting::kLogMax, "0"), 0u);
  EXPECT_EQ(parsed(Setting::kLogMax, "65536"), 65536u);
}

TEST(Overrides, KeepTheLastValueOfEachSettingByNumber) {
  Overrides overrides;
  EXPECT_FALSE(overrides.has(Setting::kMaxBackends));
  EXPECT_EQ(overrides.get(Setting::kMaxBackends), 0u);
  EXPECT_EQ(overrides.origin(Setting::kMaxBackends), Origin{});
  overrides.set(Setting::kIdleTimeout, 5, {OriginKind::kConfig, 4});
  overrides.set(Setting::kMaxBackends, 0);
  overrides.set(Setting::kIdleTimeout, 6, {OriginKind::kSet, 0});
  EXPECT_TRUE(overrides.has(Setting::kMaxBackends)) << "0 is a value like any other";
  EXPECT_EQ(overrides.get(Setting::kIdleTimeout), 6u);
  EXPECT_EQ(overrides.origin(Setting::kIdleTimeout).kind, OriginKind::kSet);
  ASSERT_EQ(overrides.entries().size(), 2u);
  EXPECT_EQ(overrides.entries()[0].id, Setting::kMaxBackends);
}

TEST(Rule, IsAGlobIfACharacterOfItMeansSomethingElse) {
  for (const char* pattern : {"*", "llama-?", "a[bc]", "a\\*b"})
    EXPECT_TRUE((Rule{pattern, {}}.is_glob()));
  for (const char* pattern : {"llama-3:8b", "a]", "a!b", "", "org/model@2"}) {
    EXPECT_FALSE((Rule{pattern, {}}.is_glob())) << pattern;
  }
}

TEST(ForeignSettings, AreNamedByNumberAndByNameIfThatIsSaid) {
  PoolSettings settings;
  settings.foreign = {{static_cast<Setting>(40), "max_power", true, false},
                      {static_cast<Setting>(41), "", false, true}};
  EXPECT_EQ(settings_text(std::uint64_t{1} << 40, settings), "setting 40 (max_power)");
  EXPECT_EQ(settings_text(std::uint64_t{3} << 40, settings), "settings 40 (max_power), 41");
  EXPECT_EQ(settings_text(std::uint64_t{1} << 63, settings), "setting 63");
  EXPECT_EQ(settings.unknown_to_judge(), std::uint64_t{1} << 40);
}

TEST(Origin, SaysWhereAValueCameFrom) {
  EXPECT_EQ(origin_text("", {OriginKind::kDefault, 0}), "default");
  EXPECT_EQ(origin_text("", {OriginKind::kFlag, 0}), "flag");
  EXPECT_EQ(origin_text("", {OriginKind::kSet, 0}), "set");
  EXPECT_EQ(origin_text("", {OriginKind::kReady, 0}), "ready");
  EXPECT_EQ(origin_text("", {OriginKind::kConfig, 12}), "config:12");
  EXPECT_EQ(origin_text("", {static_cast<OriginKind>(77), 0}), "unknown");
  const std::string_view path = "/etc/modelpool/config.toml";
  EXPECT_EQ(origin_text(path, {OriginKind::kConfig, 12}), "/etc/modelpool/config.toml:12");
  EXPECT_EQ(origin_text(path, {OriginKind::kConfig, 0}), "/etc/modelpool/config.toml");
  EXPECT_TRUE(is_printable_utf8(origin_text("\x1b\x1b", {OriginKind::kConfig, 1})));
}
