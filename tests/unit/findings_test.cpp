// P11, P13: what doctor makes of values, also of those that nobody wrote on purpose.
#include "findings.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <random>
#include <set>

#include "base/shell.hpp"
#include "base/text.hpp"
#include "base/time.hpp"

namespace modelpool::test {
namespace {

using poolctl::Commands;
using poolctl::examine_place;
using poolctl::examine_pool;
using poolctl::Finding;
using poolctl::finding_name;
using poolctl::FindingKind;
using poolctl::PlaceFacts;
using poolctl::PoolFacts;
using poolctl::ProcessFacts;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint64_t kNow_ns = 1000 * kSecond_ns;
constexpr pid_t kJudge = 7000;

const Commands kCommands{"poolctl --dir /d", "coordinatord --dir /d", 1000};

struct Case {
  Snapshot snapshot;
  PoolFacts facts;

  Case() {
    snapshot.now_ns = kNow_ns;
    snapshot.coordinator.last_progress_ns = kNow_ns - 5 * kSecond_ns;
    facts.commands = kCommands;
    facts.judge.state = JudgeState::kAnswers;
    facts.judge.liveness = Liveness::kAlive;
    facts.judge.identity = {1, {kJudge, 1, 0}};
    facts.features = snapshot.coordinator.features = known_features();
    facts.processes[kJudge] = process("coordinatord");
  }
  static ProcessFacts process(const std::string& command, char state = 'S') {
    ProcessFacts facts;
    facts.command = command;
    facts.state = state;
    return facts;
  }
  std::vector<Finding> examine() const { return examine_pool(snapshot, facts); }
  // The only one.
  Finding one() const {
    const auto found = examine();
    EXPECT_EQ(found.size(), 1u);
    return found.empty() ? Finding{} : found.front();
  }
};

BackendView stopping(const std::string& model, pid_t pid) {
  BackendView backend;
  backend.ref = {3, 9};
  backend.state.state = BackendState::kStopping;
  backend.state.generation = 9;
  backend.model = model;
  backend.process = {pid, 1, 0};
  backend.stop.generation = 9;
  backend.stop.stopping_ns = kNow_ns - 60 * kSecond_ns;
  return backend;
}

TEST(Findings, HaveNamesOfTheirOwn) {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < poolctl::kFindingKindCount; ++i)
    names.insert(finding_name(static_cast<FindingKind>(i)));
  EXPECT_EQ(names.size(), poolctl::kFindingKindCount);
  EXPECT_FALSE(names.contains(""));
}

TEST(Findings, OfNothingWrongAreNone) {
  EXPECT_THAT(Case().examine(), IsEmpty());
  EXPECT_THAT(examine_place(PlaceFacts()), IsEmpty());
}

TEST(Findings, ACoordinatorThatHangsAndIsNotStoppedIsReplaced) {
  Case c;
  c.facts.judge.state = JudgeState::kHangs;
  c.facts.judge.hung_since_ns = kNow_ns - 4 * kSecond_ns;
  const Finding found = c.one();
  EXPECT_EQ(found.kind, FindingKind::kCoordinatorHangs);
  EXPECT_EQ(found.command,
            "kill -KILL 7000 && tail --pid=7000 -f /dev/null && coordinatord --dir /d");
  EXPECT_EQ(found.age_ns, 4 * kSecond_ns);
}

TEST(Findings, ACoordinatorThatLeftOrNeverWasIsNotCalledDead) {
  Case c;
  c.facts.judge = {};
  EXPECT_THAT(c.one().text, HasSubstr("there was none yet"));
  c.facts.judge.identity = {1, {kJudge, 1, 0}};
  c.snapshot.coordinator.left = true;
  EXPECT_THAT(c.one().text, HasSubstr("left in order"));
}

TEST(Findings, ACoordinatorOfAnOlderVersionIsFoundByWhatItDoesNotKnow) {
  Case c;
  c.snapshot.coordinator.features = {};
  EXPECT_EQ(c.one().kind, FindingKind::kOldProgram);
  EXPECT_THAT(c.one().text, HasSubstr("older version"));
  c.facts.judge.state = JudgeState::kDead;  // then there is nobody to replace
  EXPECT_EQ(c.one().kind, FindingKind::kNoCoordinator);
}

TEST(Findings, AMutexThatOnlyPassesIsNone) {
  Case c;
  c.facts.mutex = {123, kNow_ns - kSecond_ns / 2};
  c.facts.processes[123] = Case::process("worker");
  EXPECT_THAT(c.examine(), IsEmpty());
  c.facts.mutex.since_ns = kNow_ns - kSecond_ns;
  EXPECT_EQ(c.one().command, "kill -KILL 123");
  // One that an older program holds has no time; stopped it is named all the same.
  c.facts.mutex.since_ns = 0;
  EXPECT_THAT(c.examine(), IsEmpty());
  c.facts.processes[123].state = 'T';
  EXPECT_EQ(c.one().command, "kill -CONT 123");
  EXPECT_EQ(c.one().age_ns, std::nullopt);
  // Its holder is dead: the next one learns of it.
  c.facts.processes.erase(123);
  EXPECT_THAT(c.examine(), IsEmpty());
}

TEST(Findings, ABackendThatWaitsInTheKernelIsSaidToDoSo) {
  Case c;
  c.snapshot.backends.push_back(stopping("m", 456));
  EXPECT_THAT(c.examine(), IsEmpty()) << "it has its grace";
  c.snapshot.backends[0].overdue = true;
  c.facts.processes[456] = Case::process("server", 'D');
  const Finding found = c.one();
  EXPECT_EQ(found.kind, FindingKind::kBackendUnkillable);
  EXPECT_THAT(found.text, HasSubstr("waits in the kernel"));
  EXPECT_EQ(found.pid, 456);
  EXPECT_EQ(found.age_ns, 60 * kSecond_ns);
  // Its processes are gone: it only settles.
  c.snapshot.backends[0].stop.ended_ns = kNow_ns - kSecond_ns;
  EXPECT_THAT(c.examine(), IsEmpty());
}

TEST(Findings, OfAnotherUsersProcessNeedRoot) {
  Case c;
  c.snapshot.backends.push_back(stopping("m", 456));
  LeftRecord& left = c.snapshot.backends[0].left;
  left.count = 1;
  left.named[0].pid = 457;
  left.named[0].uid = 0;
  left.named[0].why = LeftWhy::kOtherUser;
  EXPECT_EQ(c.one().command, "sudo kill -KILL 457");
  left.named[0].uid = 1000;
  EXPECT_EQ(c.one().command, "kill -KILL 457");
  c.facts.commands.uid = 0;
  left.named[0].uid = 1000;
  EXPECT_EQ(c.one().command, "kill -KILL 457");
  PlaceFacts place;
  place.commands = kCommands;
  place.files = {{"/d/x y", false, 0, 1000, 0600, std::nullopt}};
  EXPECT_EQ(examine_place(place).at(0).command, "sudo chown 1000 '/d/x y'");
}

TEST(Findings, OfAnExternalBackendNameNoProcess) {
  Case c;
  c.snapshot.backends.push_back(stopping("m", 0));
  c.snapshot.backends[0].overdue = true;
  EXPECT_THAT(c.examine(), IsEmpty());
}

TEST(Findings, BeginAtNineTenthsOfATable) {
  Case c;
  c.facts.tables = {{"workers", 89, 100, 0}};
  EXPECT_THAT(c.examine(), IsEmpty());
  c.facts.tables[0].used = 90;
  EXPECT_THAT(c.one().command, HasSubstr("coordinatord --dir /d --workers 200"));
  c.facts.tables[0] = {"workers", 0, 0, 0};
  EXPECT_THAT(c.examine(), IsEmpty());
  c.facts.tables[0] = {"waiters", UINT64_MAX, UINT64_MAX, 0};
  EXPECT_EQ(c.one().kind, FindingKind::kTableNearlyFull);
}

TEST(Findings, RaiseDescriptorsAsFarAsTheUserMayAndAtLeastTwofold) {
  Case c;
  ProcessFacts& judge = c.facts.processes[kJudge];
  judge.descriptors = 1000;
  judge.descriptors_max = 1024;
  judge.descriptors_hard = 4096;
  EXPECT_EQ(c.one().command, "prlimit --pid 7000 --nofile=2048:4096");
  judge.descriptors_hard = 1024;
  EXPECT_EQ(c.one().command, "sudo prlimit --pid 7000 --nofile=2048:2048");
  judge.descriptors_max = UINT64_MAX;  // no limit
  EXPECT_THAT(c.examine(), IsEmpty());
}

TEST(Findings, ACopyNeedsNoCoordinator) {
  Case c;
  c.facts.is_copy = true;
  c.facts.judge = {};
  c.facts.features = {};
  EXPECT_THAT(c.examine(), IsEmpty());
}

TEST(Findings, OfTwoPoolsTheOneThatIsMissedLeastGoes) {
  PlaceFacts place;
  place.twins = {{"/a/default", "poolctl --dir /a", true, 0},
                 {"/b/default", "poolctl --dir /b", false, 2}};
  ASSERT_EQ(examine_place(place).size(), 1u);
  EXPECT_EQ(examine_place(place)[0].command, "poolctl --dir /b remove --stop");
  place.twins[1].live = 0;
  EXPECT_EQ(examine_place(place)[0].command, "poolctl --dir /b remove");
  place.twins.pop_back();
  EXPECT_THAT(examine_place(place), IsEmpty());
}

// What `sh -c` makes of the words of a command.
std::string echoed(const std::string& command) {
  std::string out;
  FILE* const pipe = popen(command.c_str(), "r");
  std::array<char, 4096> chunk;
  while (const std::size_t got = fread(chunk.data(), 1, chunk.size(), pipe))
    out.append(chunk.data(), got);
  EXPECT_EQ(pclose(pipe), 0) << command;
  return out;
}

TEST(Findings, NameAModelInACommandAsOneWordWhateverItIsCalled) {
  const Commands commands{"printf '<%s>'", "", 0};
  for (const std::string model : {"plain", "Qwen/Qwen3-8B:Q4", "a b", "it's", "$(id)", "`id`", "\"",
                                  "\\", "~", "*", "a;b", "a&b", "!x", "über", "#x", "{a,b}"}) {
    EXPECT_EQ(echoed(commands.on_model("reset", model)), "<reset><" + model + ">");
  }
  EXPECT_EQ(echoed(commands.on_model("reset", "-m")), "<reset><--><-m>");
}

// A damaged segment, or one that somebody wrote who means ill.
TEST(Findings, AreSafeToPrintWhateverASnapshotHolds) {
  std::mt19937_64 random(20261130);
  const auto text = [&] {
    constexpr std::string_view kBytes[] = {"\x1b[2J", "\n", "\r", "'", "\\", "\xff", "a", "$(id)"};
    std::string made;
    for (std::uint64_t i = random() % 6; i > 0; --i) made += kBytes[random() % 8];
    return made;
  };
  const auto number = [&]() -> std::uint64_t {
    constexpr std::uint64_t kNumbers[] = {0, 1, kNow_ns - 1, kNow_ns + 1, kNever_ns, 1 << 20};
    return random() % 3 == 0 ? random() : kNumbers[random() % 6];
  };
  // `kill -KILL -1` would end everything.
  const auto is_aimed = [](const std::string& command) {
    for (const char* const kill : {"kill -KILL ", "kill -CONT ", "kill -TERM ", "kill -HUP "}) {
      const std::size_t at = command.find(kill);
      if (at != command.npos && std::stoll(command.substr(at + std::strlen(kill))) <= 1)
        return false;
    }
    return true;
  };
  std::set<FindingKind> kinds;
  for (int i = 0; i < 2000; ++i) {
    Case c;
    PoolSettings settings;
    settings.pool.set(Setting::kMaxBackends, random() % 3, {});
    settings.pool.set(Setting::kMaxMemory, number(), {});
    c.snapshot.settings = std::make_shared<const PoolSettings>(settings);
    for (std::uint64_t n = random() % 4; n > 0; --n) {
      BackendView backend = stopping(text(), static_cast<pid_t>(number()));
      backend.state.state = static_cast<BackendState>(random() % 8);
      backend.overdue = random() % 2 != 0;
      backend.control = random() % 2 != 0 ? kControlPinned : 0;
      backend.expected.host = number();
      backend.left.count = static_cast<std::uint32_t>(number());
      backend.left.named[0].pid = static_cast<std::uint32_t>(number());
      backend.left.named[0].why = static_cast<LeftWhy>(random() % 16);
      backend.stop.stopping_ns = number();
      set_field(&backend.left.named[0].command, text());
      c.snapshot.backends.push_back(backend);
    }
    for (std::uint64_t n = random() % 3; n > 0; --n) {
      WaiterView waiter;
      waiter.model = text();
      waiter.since_ns = number();
      waiter.need.places = 1;
      waiter.need.bytes.host = number();
      c.snapshot.waiters.push_back(waiter);
    }
    poolctl::ProcessFacts process = Case::process(text(), random() % 2 != 0 ? 'T' : 'D');
    process.descriptors = number();
    process.descriptors_max = number();
    process.descriptors_hard = number();
    process.removed_program = text();
    c.facts.processes[static_cast<pid_t>(number())] = process;
    HistoryView history{text(), {}};
    history.history.failures = number();
    history.history.cooldown_until_ns = number();
    set_field(&history.history.error, text());
    c.facts.histories.push_back(history);
    c.facts.escaped.push_back({static_cast<pid_t>(number()), text(), number()});
    c.facts.tables.push_back({"leases", number(), number(), static_cast<pid_t>(number())});
    c.facts.mutex = {static_cast<pid_t>(number()), number()};
    if (random() % 2 != 0) c.facts.processes[c.facts.mutex.pid] = process;
    c.facts.judge.state = static_cast<JudgeState>(random() % 3);
    c.facts.judge.identity.process.pid = static_cast<pid_t>(number());
    WorkerView worker;
    worker.process.pid = static_cast<pid_t>(number());
    worker.command = text();
    c.snapshot.workers.push_back(worker);
    c.facts.processes[worker.process.pid] = process;
    c.snapshot.damage.push_back(text());
    c.snapshot.coordinator.reload_refused_ns = number();
    for (const Finding& finding : c.examine()) {
      kinds.insert(finding.kind);
      EXPECT_TRUE(is_printable_utf8(finding.text)) << escape(finding.text);
      EXPECT_TRUE(is_printable_utf8(finding.command)) << escape(finding.command);
      EXPECT_NE(finding.command, "");
      EXPECT_TRUE(is_aimed(finding.command)) << finding.command;
    }
  }
  EXPECT_GE(kinds.size(), 10u) << "it looks in the wrong way";
}

}  // namespace
}  // namespace modelpool::test
