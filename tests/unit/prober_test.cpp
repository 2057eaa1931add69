// Many servers are asked at once whether they are well; none takes longer than its timeout, and
// none delays another.
#include "probe/prober.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <map>

#include "base/probe_target.hpp"
#include "base/time.hpp"
#include "support/fake_server.hpp"
#include "support/scratch.hpp"

namespace modelpool::coordinator {
namespace {

using test::FakeServer;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Habit = FakeServer::Habit;

class Asking {
 public:
  void ask(std::uint64_t number, const std::string& address, std::uint64_t timeout_ms = 20'000,
           const std::string& probe = "GET /health") {
    prober_.ask({number, timeout_ms, probe, address}, now_ns());
  }
  // The answer to that question.
  ProbeAnswer hear(std::uint64_t number) {
    test::eventually([&] {
      turn();
      return heard_.contains(number);
    });
    EXPECT_TRUE(heard_.contains(number)) << number;
    return heard_[number];
  }
  bool has_heard(std::uint64_t number) const { return heard_.contains(number); }
  bool comes_to_rest() {
    return test::eventually([&] {
      turn();
      return !prober_.is_busy();
    });
  }

 private:
  void turn() {
    std::vector<pollfd> waits = prober_.waits();
    const std::uint64_t now = now_ns();
    poll(waits.data(), waits.size(), 5);
    prober_.go_on(now);
    for (ProbeAnswer& answer : prober_.take_answers()) {
      EXPECT_FALSE(heard_.contains(answer.number)) << "answered twice";
      heard_[answer.number] = answer;
    }
  }
  Prober prober_;
  std::map<std::uint64_t, ProbeAnswer> heard_;
};

ProbeAnswer asked_one(const std::string& address, std::uint64_t timeout_ms = 20'000,
                      const std::string& probe = "GET /health") {
  Asking asking;
  asking.ask(1, address, timeout_ms, probe);
  const ProbeAnswer answer = asking.hear(1);
  EXPECT_TRUE(asking.comes_to_rest());
  return answer;
}

TEST(Prober, WellIsAStatusFrom200To399) {
  const FakeServer well(Habit::kWell);
  EXPECT_EQ(asked_one(well.address()).outcome, ProbeOutcome::kWell);
  EXPECT_EQ(asked_one("http://" + well.address() + "/v1").outcome, ProbeOutcome::kWell);
  const FakeServer elsewhere(Habit::kRedirects);
  EXPECT_EQ(asked_one(elsewhere.address()).outcome, ProbeOutcome::kWell);
  const FakeServer unwell(Habit::kUnwell);
  const ProbeAnswer answer = asked_one(unwell.address());
  EXPECT_EQ(answer.outcome, ProbeOutcome::kFailed);
  EXPECT_EQ(answer.text, "it answers HTTP/1.1 503 Service Unavailable");
}

TEST(Prober, WithTcpAConnectionIsEnough) {
  const FakeServer silent(Habit::kSilent);
  EXPECT_EQ(asked_one(silent.address(), 20'000, "tcp").outcome, ProbeOutcome::kWell);
  const ProbeAnswer refused = asked_one(test::nobodys_address(), 20'000, "tcp");
  EXPECT_EQ(refused.outcome, ProbeOutcome::kFailed);
  EXPECT_EQ(refused.text, "Connection refused");
}

TEST(Prober, AUnixSocketIsAskedToo) {
  const test::Scratch scratch;
  const FakeServer well(Habit::kWell, scratch.path("socket"));
  EXPECT_EQ(asked_one(well.address()).outcome, ProbeOutcome::kWell);
  const ProbeAnswer gone = asked_one("unix:" + scratch.path("nothing"));
  EXPECT_EQ(gone.outcome, ProbeOutcome::kFailed);
  EXPECT_EQ(gone.text, "No such file or directory");
}

TEST(Prober, AUnixSocketWhoseQueueIsFullIsTriedUntilTheTimeIsOver) {
  const test::Scratch scratch;
  const std::string path = scratch.path("socket");
  sockaddr_un place{};
  place.sun_family = AF_UNIX;
  path.copy(place.sun_path, sizeof place.sun_path - 1);
  const auto* const to = reinterpret_cast<const sockaddr*>(&place);
  const Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(listener.get(), to, sizeof place), 0);
  ASSERT_EQ(listen(listener.get(), 0), 0);
  std::vector<Fd> guests;
  for (;;) {
    guests.emplace_back(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (connect(guests.back().get(), to, sizeof place) != 0) break;
  }
  Asking asking;
  asking.ask(1, "unix:" + path, 100, "tcp");
  EXPECT_EQ(asking.hear(1).text, "no answer within 100ms");
  asking.ask(2, "unix:" + path, 20'000, "tcp");
  const Fd accepted(accept(listener.get(), nullptr, nullptr));
  EXPECT_EQ(asking.hear(2).outcome, ProbeOutcome::kWell);
}

TEST(Prober, WhatNeverEndsFailsAndIsReadForAFewKiBOnly) {
  for (const Habit habit : {Habit::kEndlessHeaders, Habit::kLongLine}) {
    const FakeServer server(habit);
    const ProbeAnswer answer = asked_one(server.address());
    EXPECT_EQ(answer.outcome, ProbeOutcome::kFailed);
    EXPECT_EQ(answer.text, "its headers do not end within 8192 bytes");
  }
  const FakeServer body(Habit::kEndlessBody);
  EXPECT_EQ(asked_one(body.address()).outcome, ProbeOutcome::kWell) << "its head was complete";
}

TEST(Prober, WhatIsSlowOrSilentFailsWhenItsTimeIsOver) {
  for (const Habit habit : {Habit::kSilent, Habit::kDrips}) {
    const FakeServer server(habit);
    const std::uint64_t began = now_ns();
    const ProbeAnswer answer = asked_one(server.address(), 150);
    EXPECT_EQ(answer.outcome, ProbeOutcome::kFailed);
    EXPECT_EQ(answer.text, "no answer within 150ms");
    EXPECT_GE(now_ns() - began, 150 * kMillisecond_ns);
  }
}

TEST(Prober, WhatIsNoHttpFails) {
  const FakeServer garbage(Habit::kGarbage);
  EXPECT_EQ(asked_one(garbage.address()).text, "its answer is no HTTP: SSH-2.0-\\x01\\x02");
  const FakeServer hangs_up(Habit::kHangsUp);
  EXPECT_THAT(asked_one(hangs_up.address()).text, StartsWith("it closed the connection"));
}

TEST(Prober, OneThatHangsDelaysNoOther) {
  const FakeServer silent(Habit::kSilent);
  const FakeServer drips(Habit::kDrips);
  const FakeServer well(Habit::kWell);
  Asking asking;
  for (std::uint64_t i = 0; i < 100; ++i) {
    asking.ask(10 + i, (i % 2 == 0 ? silent : drips).address(), 3'600'000);
  }
  asking.ask(1, well.address());
  asking.ask(2, test::nobodys_address());
  EXPECT_EQ(asking.hear(1).outcome, ProbeOutcome::kWell);
  EXPECT_EQ(asking.hear(2).outcome, ProbeOutcome::kFailed);
  EXPECT_FALSE(asking.has_heard(10));
}

TEST(Prober, LocalhostIsTriedAtBothOfItsNumbers) {
  const FakeServer well(Habit::kWell);
  const std::string port = well.address().substr(well.address().find(':'));
  EXPECT_EQ(asked_one("localhost" + port).outcome, ProbeOutcome::kWell);
  EXPECT_EQ(asked_one("[::1]" + port).outcome == ProbeOutcome::kWell, false);
}

TEST(Prober, WhatItCannotAskIsNothingAgainstTheServer) {
  for (const char* address : {"of:m", "example.org:80", "https://127.0.0.1:443"}) {
    const ProbeAnswer answer = asked_one(address);
    EXPECT_EQ(answer.outcome, ProbeOutcome::kUnknown) << address;
    EXPECT_THAT(answer.text, HasSubstr("unable to probe"));
  }
  EXPECT_EQ(asked_one(test::nobodys_address(), 100, "nonsense").outcome, ProbeOutcome::kUnknown);
}

// --- Where a probe goes --------------------------------------------------------------------------

TEST(ProbeTarget, IsTakenFromAddressAndSetting) {
  const auto http = probe_target("http://127.0.0.1:8080/v1", "GET /health");
  ASSERT_TRUE(http);
  EXPECT_EQ(http->path, "/health") << "of the server, whatever the address's path";
  EXPECT_EQ(http->host, "127.0.0.1:8080");
  EXPECT_EQ(probe_target("[::1]:80", "tcp")->host, "[::1]:80");
  EXPECT_EQ(probe_target("[::1]:80", "tcp")->path, "");
  EXPECT_EQ(probe_target("localhost:80", "tcp")->numbers.size(), 2u);
  EXPECT_EQ(probe_target("unix:/run/m", "GET /")->unix_path, "/run/m");
  EXPECT_TRUE(probe_target("https://127.0.0.1:443", "tcp"));
  EXPECT_FALSE(probe_target("127.0.0.1:80", ""));
  EXPECT_FALSE(probe_target("", "tcp"));
  EXPECT_FALSE(probe_target("a\x7f.localhost:80", "GET /")) << "no such bytes in a request";
}

// --- Messages ------------------------------------------------------------------------------------

TEST(ProbeMessages, ComeOutAsTheyWentIn) {
  const auto question =
      parse_question(format_question({7, 5000, "GET /health", "unix:/run/m\n and more"}));
  ASSERT_TRUE(question);
  EXPECT_EQ(question->number, 7u);
  EXPECT_EQ(question->timeout_ms, 5000u);
  EXPECT_EQ(question->probe, "GET /health");
  EXPECT_EQ(question->address, "unix:/run/m\n and more");
  for (const auto outcome : {ProbeOutcome::kWell, ProbeOutcome::kFailed, ProbeOutcome::kUnknown}) {
    const auto answer = parse_answer(format_answer({8, outcome, "why"}));
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->number, 8u);
    EXPECT_EQ(answer->outcome, outcome);
    EXPECT_EQ(answer->text, "why");
  }
}

TEST(ProbeMessages, ALongTextIsCutBetweenCharacters) {
  std::string umlauts = "x";
  for (std::size_t i = 0; i < kProbeTextMax_bytes; ++i) umlauts += "\xc3\xa4";
  const auto answer = parse_answer(format_answer({1, ProbeOutcome::kFailed, umlauts}));
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->text, umlauts.substr(0, kProbeTextMax_bytes - 1));
}

TEST(ProbeMessages, NonsenseIsRefused) {
  for (const char* text : {"", "1", "1\nwell", "1\nill\nx", "x\nwell\nx", "-1\nwell\nx",
                           "1\nwell\n\x1b[2J", "1\nwell\na\nb", "99999999999999999999\nwell\n"}) {
    EXPECT_FALSE(parse_answer(text)) << text;
  }
  EXPECT_FALSE(parse_answer("1\nfailed\n" + std::string(kProbeTextMax_bytes + 1, 'x')));
  for (const char* text : {"", "1\n5000\nGET /", "1\n0\ntcp\nx", "1\nsoon\ntcp\nx"}) {
    EXPECT_FALSE(parse_question(text)) << text;
  }
}

}  // namespace
}  // namespace modelpool::coordinator
