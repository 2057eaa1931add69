// A backend that does not answer its probe: killed with nothing in flight, only named with leases.
#include <signal.h>

#include <algorithm>
#include <filesystem>

#include "base/proc.hpp"
#include "base/time.hpp"
#include "pool_test.hpp"
#include "support/fake_server.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Habit = FakeServer::Habit;

class ProbeTest : public PoolTest {
 protected:
  Daemon& start(std::vector<std::string> flags = {}) {
    const std::vector<std::pair<std::string, std::string>> usual = {{"--probe", "GET /health"},
                                                                    {"--probe-interval", "50ms"},
                                                                    {"--probe-timeout", "200ms"},
                                                                    {"--stop-grace", "300ms"}};
    for (const auto& [flag, value] : usual) {
      if (std::find(flags.begin(), flags.end(), flag) == flags.end())
        flags.insert(flags.end(), {flag, value});
    }
    return PoolTest::start(std::move(flags));
  }
  // Loads a backend without a process, which that server stands for.
  static Lease load(Pool& pool, const FakeServer& server, const std::string& model = "m") {
    LoadTicket ticket = ticket_for(pool, model);
    auto lease = ticket.ready(server.address(), {.external = true});
    if (!lease) throw std::runtime_error(lease.error().text);
    return std::move(*lease);
  }
  std::uint64_t failures(const std::string& model = "m") {
    const auto found = entry(model);
    return found.is_null() ? 0 : found["probe_failures"].get<std::uint64_t>();
  }
  static bool is_asked_more(const FakeServer& server, std::size_t times = 3) {
    const std::size_t before = server.asked();
    return eventually([&] { return server.asked() >= before + times; });
  }
  // The coordinator's modelpool-probe; 0: there is none.
  pid_t program() {
    for (const pid_t pid : list_pids().value_or(std::vector<pid_t>())) {
      const auto stat = read_stat(pid);
      if (stat && stat->parent == daemon().pid() && stat->command == "modelpool-probe" &&
          !stat->is_zombie()) {
        return pid;
      }
    }
    return 0;
  }
  std::size_t count_in_log(const std::string& text) {
    const std::string log = daemon().log();
    std::size_t count = 0;
    for (std::size_t at = log.find(text); at != std::string::npos; at = log.find(text, at + 1))
      ++count;
    return count;
  }
  std::string verdict() {
    const nlohmann::json explained = poolctl_json(scratch_, {"explain", "m"});
    for (const auto& verdict : explained["verdicts"]) {
      if (verdict["rule"] == "wedged") return verdict["text"];
    }
    return {};
  }
};

TEST_F(ProbeTest, OneThatAnswersStaysAndAProbeIsNoUse) {
  start({"--idle-timeout", "1500ms"});
  Pool pool = attach(scratch_);
  const FakeServer server(Habit::kWell);
  load(pool, server).release();
  EXPECT_TRUE(is_asked_more(server, 5));
  EXPECT_EQ(failures(), 0u);
  EXPECT_THAT(verdict(), AllOf(HasSubstr("GET /health every 50ms"), HasSubstr("no failure")));
  EXPECT_EQ(wait_event("evicted", "m")["reason"], "idle") << "however often it was probed";
  EXPECT_EQ(count_events("probe_failed"), 0u);
}

TEST_F(ProbeTest, OneThatHangsIsKilledWithEvidenceIfNothingIsInFlight) {
  start();
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load_idle("m", {"--ignore-sigterm"});
  kill(pid, SIGSTOP);
  auto failed = wait_event("probe_failed", "m");
  EXPECT_EQ(failed["pid"], pid);
  EXPECT_EQ(failed["level"], "warn");
  EXPECT_THAT(failed["text"],
              AllOf(HasSubstr("GET /health at 127.0.0.1:"), HasSubstr("no answer within 200ms")));
  auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "wedged");
  EXPECT_EQ(killed["signal"], "SIGKILL") << "it is deaf to SIGTERM";
  EXPECT_GE(killed["age_ms"].get<int>(), 400) << "from the first of three to the third";
  EXPECT_THAT(killed["text"],
              AllOf(HasSubstr("3 probes in a row failed, the last: no answer within 200ms"),
                    HasSubstr("state T"), HasSubstr("threads: "), HasSubstr(" x T"),
                    HasSubstr("its last lines: m: listening on")));
  EXPECT_FALSE(is_running(pid));
  EXPECT_THAT(poolctl(scratch_, {"why", "m"}).out, HasSubstr("did not answer its probes"));
  EXPECT_TRUE(settles());
}

TEST_F(ProbeTest, OneWithoutAProcessIsDropped) {
  start({"--probe-failures", "2"});
  Pool pool = attach(scratch_);
  FakeServer server(Habit::kUnwell);
  load(pool, server).release();
  auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "wedged");
  EXPECT_THAT(killed["text"], HasSubstr("it answers HTTP/1.1 503"));
}

TEST_F(ProbeTest, P2WithLeasesInFlightItOnlyInformsAndAnAnswerEndsTheRow) {
  start({"--busy-timeout", "1h"});
  Pool pool = attach(scratch_);
  FakeServer server(Habit::kSilent);
  const Lease lease = load(pool, server);
  ASSERT_TRUE(eventually([&] { return failures() >= 5; }));
  EXPECT_EQ(state("m"), "ready");
  EXPECT_THAT(verdict(), AllOf(HasSubstr("failed in a row, the first: GET /health at 127.0.0.1:"),
                               HasSubstr("no answer within 200ms"), HasSubstr("only if a lease")));
  EXPECT_THAT(poolctl(scratch_, {"list"}).out, HasSubstr("probes failed in a row"));
  server.turn(Habit::kWell);
  EXPECT_TRUE(eventually([&] { return failures() == 0; }));
  EXPECT_EQ(count_events("killed"), 0u);
  EXPECT_EQ(count_events("probe_failed"), 1u);
}

TEST_F(ProbeTest, FailuresWithAnAnswerBetweenThemAreNoRow) {
  start({"--probe-failures", "100", "--probe-interval", "20ms"});
  Pool pool = attach(scratch_);
  FakeServer server(Habit::kUnwell);
  load(pool, server).release();
  ASSERT_TRUE(eventually([&] { return failures() >= 55; }));
  server.turn(Habit::kWell);
  ASSERT_TRUE(eventually([&] { return failures() == 0; }));
  server.turn(Habit::kUnwell);
  EXPECT_TRUE(eventually([&] { return failures() >= 55 || state("m").empty(); }));
  server.turn(Habit::kWell);
  EXPECT_EQ(count_events("killed"), 0u);
}

TEST_F(ProbeTest, ARequestThatHangsOnItIsCutAndTheOthersAreToldWhose) {
  start();
  Pool pool = attach(scratch_);
  FakeServer server(Habit::kSilent);
  Lease other = load(pool, server);
  auto grant = pool.acquire("m", kPatience, {.tag = "req-13"});
  ASSERT_TRUE(grant && std::holds_alternative<Lease>(*grant));
  Lease hung = std::move(std::get<Lease>(*grant));
  ASSERT_TRUE(eventually([&] { return failures() >= 3; }));
  EXPECT_EQ(state("m"), "ready");
  EXPECT_TRUE(other.progress());
  ASSERT_EQ(poolctl(scratch_, {"set", "first_byte_timeout=100ms"}).code, 0);
  auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "wedged");
  EXPECT_EQ(killed["tag"], "req-13");
  EXPECT_EQ(killed["limit_ms"], 100);
  const auto told = other.progress();
  ASSERT_FALSE(told);
  EXPECT_THAT(told.error().text,
              AllOf(HasSubstr("wedged"), HasSubstr("because of request req-13")));
}

TEST_F(ProbeTest, OneThatHangsDeafToCancelAndToSigtermIsGoneInTime) {
  start({"--on-overdue", "cancel, 400ms, kill"});
  RemoteWorker loader(scratch_);
  const pid_t pid = loader.load_idle("m", {"--ignore-sigterm"});
  Pool pool = attach(scratch_);
  AcquireOptions options;
  options.tag = "deaf";
  options.cancellable = true;
  auto grant = pool.acquire("m", kPatience, options);
  ASSERT_TRUE(grant && std::holds_alternative<Lease>(*grant));
  kill(pid, SIGSTOP);
  ASSERT_TRUE(eventually([&] { return failures() >= 3; }));
  ASSERT_EQ(poolctl(scratch_, {"set", "stall_timeout=100ms"}).code, 0);
  EXPECT_EQ(wait_event("cancel_requested", "m")["reason"], "stall") << "it is asked first";
  auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "wedged");
  EXPECT_THAT(killed["text"], AllOf(HasSubstr("asked to end it"), HasSubstr("probes in a row")));
  EXPECT_FALSE(is_running(pid));
}

TEST_F(ProbeTest, OneThatHangsDelaysNoOthersProbe) {
  start({"--probe-timeout", "1h"});
  Pool pool = attach(scratch_);
  const FakeServer silent(Habit::kSilent);
  const FakeServer well(Habit::kWell);
  load(pool, silent, "silent").release();
  ASSERT_TRUE(eventually([&] { return silent.asked() == 1; }));
  load(pool, well, "well").release();
  EXPECT_TRUE(is_asked_more(well, 5));
  EXPECT_EQ(silent.asked(), 1u) << "one at a time";
}

TEST_F(ProbeTest, NeverIsSaidByZeroFailuresAndByNoProbe) {
  start({"--probe-failures", "0"});
  Pool pool = attach(scratch_);
  FakeServer server(Habit::kHangsUp);
  load(pool, server).release();
  ASSERT_TRUE(eventually([&] { return failures() >= 5; }));
  EXPECT_THAT(verdict(), HasSubstr("probe_failures is 0"));
  ASSERT_EQ(poolctl(scratch_, {"set", "probe=off", "probe_failures=1"}).code, 0);
  EXPECT_THAT(verdict(), HasSubstr("off"));
  const std::size_t asked = server.asked();
  load(pool, server, "other").release();  // the coordinator looks
  EXPECT_LE(server.asked(), asked + 1) << "one may have been on its way";
  EXPECT_EQ(count_events("killed"), 0u);
}

TEST_F(ProbeTest, WhatFailedAnotherProbeIsNotHeldAgainstIt) {
  start({"--probe", "GET /wrong", "--probe-failures", "0"});
  Pool pool = attach(scratch_);
  FakeServer server(Habit::kUnwell);
  load(pool, server).release();
  ASSERT_TRUE(eventually([&] { return failures() >= 5; }));
  server.turn(Habit::kWell);
  ASSERT_EQ(poolctl(scratch_, {"set", "probe=GET /health", "probe_failures=2"}).code, 0);
  EXPECT_TRUE(eventually([&] { return failures() == 0; }));
  EXPECT_EQ(count_events("killed"), 0u);
}

TEST_F(ProbeTest, AnAddressThatCannotBeProbedIsSaidByExplain) {
  start();
  Pool pool = attach(scratch_);
  LoadTicket ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket.ready("of:m", {.external = true}));
  EXPECT_THAT(verdict(), HasSubstr("not probed"));
  EXPECT_EQ(count_events("probe_failed"), 0u);
}

TEST_F(ProbeTest, ItsProgramInheritsNothing) {
  start();
  Pool pool = attach(scratch_);
  const FakeServer server(Habit::kWell);
  load(pool, server).release();
  ASSERT_TRUE(is_asked_more(server, 1));
  const pid_t pid = program();
  ASSERT_NE(pid, 0);
  std::vector<std::string> files;
  for (const int fd : list_descriptors(pid).value_or(std::vector<int>())) {
    std::error_code error;
    const auto link =
        std::filesystem::read_symlink(proc_path(pid, "fd/" + std::to_string(fd)), error);
    if (!error && !link.string().starts_with("socket:")) files.push_back(link.string());
  }
  EXPECT_THAT(files, ::testing::ElementsAre("/dev/null"));
  EXPECT_EQ(read_environment(pid), "");
  const auto signals = [pid](const std::string& set) {
    const std::string status = read_proc(pid, "status").value_or("");
    const std::size_t at = status.find(set + ":");
    return at == std::string::npos ? UINT64_MAX : std::stoull(status.substr(at + 7), nullptr, 16);
  };
  EXPECT_EQ(signals("SigBlk"), 0u);
  EXPECT_EQ(signals("SigIgn") & (1u << (SIGPIPE - 1)), 0u) << "coordinatord ignores it";
  EXPECT_EQ(read_stat(pid)->session, pid);
}

TEST_F(ProbeTest, AProgramThatIsKilledOrHangsGivesNoVerdictsIsNamedOnceAndReplaced) {
  start({"--probe-failures", "2", "--probe-interval", "20ms"});
  Pool pool = attach(scratch_);
  const FakeServer server(Habit::kWell);
  load(pool, server).release();
  ASSERT_TRUE(is_asked_more(server));
  const pid_t first = program();
  ASSERT_NE(first, 0);
  kill(first, SIGKILL);
  EXPECT_TRUE(eventually([&] { return count_in_log("modelpool-probe has ended") == 1; }));
  EXPECT_TRUE(is_asked_more(server));
  EXPECT_TRUE(eventually([&] { return count_in_log("modelpool-probe answers again") == 1; }));

  const pid_t second = program();
  EXPECT_NE(second, first);
  kill(second, SIGSTOP);
  EXPECT_TRUE(eventually([&] { return count_in_log("modelpool-probe is silent") == 1; }));
  EXPECT_TRUE(is_asked_more(server));
  EXPECT_FALSE(is_running(second));
  EXPECT_EQ(state("m"), "ready");
  EXPECT_EQ(count_events("probe_failed"), 0u);
}

TEST_F(ProbeTest, WithoutItsProgramACoordinatorServesOnAndSaysItOnce) {
  const std::string alone = scratch_.path("coordinatord");
  std::filesystem::copy_file(MODELPOOL_COORDINATORD, alone);
  Program judge({alone, "--dir", scratch_.dir(), "--probe", "tcp", "--probe-interval", "20ms",
                 "--probe-failures", "1", "--idle-timeout", "2500ms"});
  ASSERT_TRUE(eventually([&] { return judge.err().find("serving pool") != std::string::npos; }));
  Pool pool = attach(scratch_);
  const FakeServer server(Habit::kWell);
  load(pool, server).release();
  EXPECT_EQ(wait_event("evicted", "m")["reason"], "idle");
  const std::string log = judge.err();
  const std::string lost = "modelpool-probe: No such file";
  const std::size_t said = log.find(lost);
  ASSERT_NE(said, std::string::npos) << log;
  EXPECT_THAT(log, HasSubstr("install it"));
  EXPECT_EQ(log.find(lost, said + 1), std::string::npos) << "once, though it was tried again";
  judge.signal(SIGTERM);
  EXPECT_EQ(judge.wait(), 0);
}

TEST_F(ProbeTest, P10TheNextCoordinatorGoesOnAndNoProgramIsLeft) {
  start({"--probe-interval", "1s"});  // is killed between the first failure and the third
  Pool pool = attach(scratch_);
  const FakeServer server(Habit::kHangsUp);
  load(pool, server).release();
  ASSERT_TRUE(eventually([&] { return failures() >= 1; }));
  const pid_t left = program();
  daemon().kill_now();
  EXPECT_TRUE(eventually([&] { return !is_running(left); }));
  const std::uint64_t counted = failures();
  daemon().start();
  auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "wedged");
  EXPECT_GE(counted, 1u);
  EXPECT_THAT(killed["text"], HasSubstr("3 probes in a row")) << "of its own";
}

TEST_F(ProbeTest, AStoppedProgramGoesWithItsCoordinator) {
  start();
  Pool pool = attach(scratch_);
  const FakeServer server(Habit::kWell);
  load(pool, server).release();
  ASSERT_TRUE(is_asked_more(server, 1));
  const pid_t left = program();
  kill(left, SIGSTOP);
  daemon().kill_now();
  EXPECT_TRUE(eventually([&] { return !is_running(left); }));
}

}  // namespace
}  // namespace modelpool::test
