#include "json/event_json.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "log.hpp"

namespace modelpool {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

EventData evicted_event() {
  EventData event;
  event.time_ns = 1'772'366'400 * kSecond_ns + 123'456'789;
  event.kind = EventKind::kEvicted;
  event.reason = Reason::kIdle;
  event.pid = 123;
  event.age_ns = 900 * kSecond_ns + 999'999;
  event.limit_ns = 900 * kSecond_ns;
  event.exit_ns = 812 * kMillisecond_ns + 999'999;
  event.signal = SIGTERM;
  event.exit_status = pack_exit(ExitKind::kSignalled, SIGTERM);
  set_field(&event.model, "llama");
  return event;
}

TEST(EventJsonTest, TheLineIsTheContractKeyByKey) {
  EventData event = evicted_event();
  event.worker_pid = 77;
  event.load_ns = 2'500 * kMicrosecond_ns;
  event.count = 3;
  set_field(&event.tag, "req-81");
  set_field(&event.text, "state=S");
  EXPECT_EQ(
      event_json(42, event),
      "{\"seq\":42,\"time\":\"2026-03-01T12:00:00.123Z\",\"level\":\"info\",\"kind\":\"evicted\","
      "\"reason\":\"idle\",\"model\":\"llama\",\"pid\":123,\"worker_pid\":77,"
      "\"age_ms\":900000,\"limit_ms\":900000,\"signal\":\"SIGTERM\",\"exit_ms\":812,"
      "\"exit\":\"signal SIGTERM\",\"load_ms\":2,\"tag\":\"req-81\",\"count\":3,"
      "\"text\":\"state=S\"}");
}

TEST(EventJsonTest, P11UnknownIsNullAndNeverZero) {
  const auto json = nlohmann::ordered_json::parse(event_json(1, EventData{}));
  std::vector<std::string> nulls;
  for (const auto& [key, value] : json.items()) {
    if (value.is_null()) nulls.push_back(key);
  }
  EXPECT_THAT(nulls,
              ElementsAre("time", "reason", "model", "pid", "worker_pid", "age_ms", "limit_ms",
                          "signal", "exit_ms", "exit", "load_ms", "tag", "count", "text"));
  EXPECT_EQ(json["kind"], "loaded");
}

TEST(EventJsonTest, AMeasuredZeroIsZero) {
  EventData event;
  event.age_ns = 0;
  event.count = 0;
  const auto json = nlohmann::json::parse(event_json(1, event));
  EXPECT_EQ(json["age_ms"], 0);
  EXPECT_EQ(json["count"], 0);
}

TEST(EventJsonTest, TextOfAnyKindStaysOneValidLine) {
  EventData event;
  set_field(&event.model, "a \"quoted\" \\ name \xc3\xa4");
  set_field(&event.text, "two\nlines \xff \x1b[1m");
  const std::string line = event_json(1, event);
  EXPECT_THAT(line, Not(HasSubstr("\n")));
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["model"], "a \"quoted\" \\ name \xc3\xa4");
  EXPECT_EQ(json["text"], "two\\x0alines \\xff \\x1b[1m");
}

TEST(EventJsonTest, CorruptRecordsAreReadWithinTheirBounds) {
  EventData event;
  event.kind = static_cast<EventKind>(1234);
  event.reason = static_cast<Reason>(UINT32_MAX);
  event.signal = UINT32_MAX;
  event.exit_status = UINT32_MAX;
  event.model.fill('m');
  event.tag.fill('\xff');
  event.text.fill('t');
  const auto json = nlohmann::json::parse(event_json(UINT64_MAX, event));
  EXPECT_EQ(json["kind"], "unknown");
  EXPECT_EQ(json["reason"], "reason 4294967295") << "a newer program's: by its number";
  EXPECT_EQ(json["model"], std::string(256, 'm'));
  EXPECT_EQ(json["text"], std::string(512, 't'));
  EXPECT_EQ(json["seq"], UINT64_MAX);
}

TEST(LayoutNamesTest, EveryKindReasonAndStateHasItsName) {
  std::vector<std::string> kinds;
  for (std::uint32_t i = 1; i < kEventKindCount; ++i) {
    kinds.emplace_back(event_kind_name(static_cast<EventKind>(i)));
  }
  EXPECT_THAT(kinds, ElementsAre("loaded", "load_failed", "evicted", "killed", "exited",
                                 "worker_died", "coordinator_started", "settings_changed",
                                 "recovered", "cancel_requested", "probe_failed"));
  std::vector<std::string> reasons;
  for (std::uint32_t i = 0; i < kReasonCount; ++i) {
    reasons.emplace_back(reason_name(static_cast<Reason>(i)));
  }
  EXPECT_THAT(reasons, ElementsAre("", "lru", "idle", "group", "memory", "busy", "stall",
                                   "load_timeout", "requested", "crashed", "shutdown", "first_byte",
                                   "wedged", "over_limit"));
  std::vector<std::string> states;
  for (std::uint8_t i = 0; i < kBackendStateCount; ++i) {
    states.emplace_back(backend_state_name(static_cast<BackendState>(i)));
  }
  EXPECT_THAT(states,
              ElementsAre("free", "reserved", "starting", "ready", "evicting", "stopping", "gone"));
  EXPECT_EQ(event_kind_name(static_cast<EventKind>(0)), "unknown");
  EXPECT_EQ(backend_state_name(static_cast<BackendState>(200)), "unknown");
}

TEST(LayoutNamesTest, AnExitReadsAsWhatHappened) {
  EXPECT_EQ(exit_text(0), "");
  EXPECT_EQ(exit_text(pack_exit(ExitKind::kExited, 0)), "exit status 0");
  EXPECT_EQ(exit_text(pack_exit(ExitKind::kExited, 1)), "exit status 1");
  EXPECT_EQ(exit_text(pack_exit(ExitKind::kSignalled, SIGKILL)), "signal SIGKILL");
  EXPECT_EQ(exit_text(pack_exit(ExitKind::kSignalled, 999)), "signal 999");
  EXPECT_EQ(exit_text(UINT32_MAX), "");
}

TEST(EventTextTest, AnEventIsOneReadableLine) {
  EventData event = evicted_event();
  event.exit_status = 0;
  EXPECT_EQ(event_text(42, event),
            "evicted seq=42 reason=idle model=llama pid=123 age_ms=900000 limit_ms=900000 "
            "signal=SIGTERM exit_ms=812");
}

TEST(EventTextTest, P11UnknownIsLeftOut) { EXPECT_EQ(event_text(1, EventData{}), "loaded seq=1"); }

TEST(EventTextTest, ValuesThatWouldReadAsSomethingElseAreQuoted) {
  EventData event;
  event.kind = EventKind::kLoadFailed;
  event.exit_status = pack_exit(ExitKind::kExited, 1);
  set_field(&event.model, "a reason=lru");
  set_field(&event.text, "out of\nmemory");
  EXPECT_EQ(event_text(1, event),
            "load_failed seq=1 model=\"a reason=lru\" exit=\"exit status 1\" "
            "text=\"out of\\\\x0amemory\"");
}

// The text said exit=812ms where JSON's "exit" is how the process ended, and worker for worker_pid.
TEST(EventTextTest, ItsKeysAndValuesAreThoseOfTheJson) {
  EventData event = evicted_event();
  event.worker_pid = 77;
  event.load_ns = 2'500 * kMicrosecond_ns;
  event.count = 3;
  set_field(&event.tag, "req-81");
  set_field(&event.text, "plain");
  const auto json = nlohmann::ordered_json::parse(event_json(42, event));
  std::string expected = json["kind"];
  for (const auto& [key, value] : json.items()) {
    ASSERT_FALSE(value.is_null()) << key << ": give it a value here";
    if (key == "time" || key == "level" || key == "kind") continue;
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    expected += " " + key + "=" + (text.find(' ') == std::string::npos ? text : value.dump());
  }
  EXPECT_EQ(event_text(42, event), expected);
}

TEST(LogTest, JsonLinesOfEventsAreTheEventsThemselves) {
  const EventData event = evicted_event();
  ::testing::internal::CaptureStderr();
  coordinator::set_up_log(coordinator::LogLevel::kInfo, coordinator::LogFormat::kJson);
  coordinator::log_event(42, event);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), event_json(42, event) + "\n");
}

TEST(LogTest, TextLinesCarryTimeLevelAndEvent) {
  EventData event = evicted_event();
  event.kind = EventKind::kKilled;
  ::testing::internal::CaptureStderr();
  coordinator::set_up_log(coordinator::LogLevel::kWarn, coordinator::LogFormat::kText);
  coordinator::log_event(42, event);
  coordinator::log_event(43, evicted_event());  // information: below the level
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              ::testing::MatchesRegex(
                  "2026-03-01T12:00:00.123Z warn  killed seq=42 reason=idle model=llama [^\n]+\n"));
}

TEST(LogTest, EveryJsonLineCarriesTimeAndLevel) {
  EventData killed = evicted_event();
  killed.kind = EventKind::kKilled;
  ::testing::internal::CaptureStderr();
  coordinator::set_up_log(coordinator::LogLevel::kInfo, coordinator::LogFormat::kJson);
  coordinator::log_event(41, evicted_event());
  coordinator::log_event(42, killed);
  spdlog::error("two\nlines");
  std::istringstream lines(::testing::internal::GetCapturedStderr());
  std::vector<std::string> levels;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    EXPECT_TRUE(json["time"].is_string()) << line;
    levels.push_back(json["level"]);
  }
  EXPECT_THAT(levels, ElementsAre("info", "warn", "error"));
}

class JournalTest : public ::testing::Test {
 protected:
  ~JournalTest() override { unsetenv("JOURNAL_STREAM"); }

  // What is logged with each of these levels while JOURNAL_STREAM says that, or is right.
  static std::string logged(coordinator::LogFormat format, const char* stream = nullptr) {
    ::testing::internal::CaptureStderr();
    struct stat info {};
    EXPECT_EQ(fstat(STDERR_FILENO, &info), 0);
    const std::string right = std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino);
    setenv("JOURNAL_STREAM", stream == nullptr ? right.c_str() : stream, 1);
    coordinator::set_up_log(coordinator::LogLevel::kDebug, format);
    spdlog::debug("d");
    spdlog::info("one\ntwo");
    spdlog::warn("w");
    spdlog::error("e");
    EventData killed = evicted_event();
    killed.kind = EventKind::kKilled;
    coordinator::log_event(42, killed);
    return ::testing::internal::GetCapturedStderr();
  }
};

TEST_F(JournalTest, EachLineBeginsWithItsPriorityWhereStderrIsTheJournal) {
  EXPECT_THAT(
      logged(coordinator::LogFormat::kText),
      ::testing::MatchesRegex("<7>[^\n]+d\n<6>[^\n]+one\n<6>[^\n]+two\n<4>[^\n]+w\n<3>[^\n]+e\n"
                              "<4>[^\n]+killed [^\n]+\n"));
  EXPECT_THAT(logged(coordinator::LogFormat::kJson),
              ::testing::MatchesRegex(
                  "<7>\\{[^\n]+\n<6>\\{[^\n]+\n<4>\\{[^\n]+\n<3>\\{[^\n]+\n<4>\\{[^\n]+\n"));
}

TEST_F(JournalTest, NoLineDoesWhereItIsAnythingElse) {
  for (const char* other : {"", "1:1", "garbage"}) {
    EXPECT_THAT(logged(coordinator::LogFormat::kText, other), Not(HasSubstr("<"))) << other;
  }
}

}  // namespace
}  // namespace modelpool
