// Tickets: what a spawned backend is given, and what is left of it when its loader dies, stops or
// comes late.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/listener.hpp"
#include "base/proc.hpp"
#include "protocol/histories.hpp"
#include "support/daemon.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

namespace fs = std::filesystem;

std::string token_of(const Pool& pool) {
  return "MODELPOOL_BACKEND=" + segment_of(pool).uuid_text();
}

std::map<int, std::string> descriptors_of(pid_t pid) {
  std::map<int, std::string> result;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    std::error_code gone;
    result[std::stoi(entry.path().filename())] = fs::read_symlink(entry.path(), gone);
  }
  return result;
}

// "SigIgn" and the like, from /proc/PID/status.
std::uint64_t mask_of(pid_t pid, const std::string& name) {
  std::istringstream lines(read_file("/proc/" + std::to_string(pid) + "/status"));
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name + ":")) return std::stoull(line.substr(name.size() + 1), nullptr, 16);
  }
  throw std::runtime_error("no " + name);
}

pid_t pid_in(const Pool& pool, std::string_view model) {
  const Snapshot s = look(pool);
  const BackendView* found = s.find_model(model);
  return found == nullptr ? 0 : found->process.pid;
}

// --- spawn ---------------------------------------------------------------------------------------

TEST(Spawn, GivesTheBackendItsTokenASessionAndADirectory) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  SpawnOptions options;
  options.cwd = scratch.dir();
  options.env = {"FLAVOUR=vanilla"};
  ASSERT_TRUE(ticket.spawn({"sleep", "60"}, options));
  const pid_t pid = ticket.pid();
  const Snapshot s = look(pool);
  const BackendView* backend = s.find_model("m");
  ASSERT_NE(backend, nullptr);
  EXPECT_EQ(backend->process.pid, pid);
  EXPECT_EQ(backend->group, pid);
  EXPECT_EQ(backend->state.state, BackendState::kStarting);

  // The kernel closes the gate shortly before the new image shows its environment.
  ASSERT_TRUE(eventually([&] { return read_environment(pid, "FLAVOUR") == "vanilla"; }));
  const auto stat = read_stat(pid);
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->command, "sleep");
  EXPECT_EQ(stat->session, pid);
  EXPECT_EQ(stat->group, pid);
  EXPECT_EQ(stat->start_ticks, backend->process.start_ticks);
  EXPECT_EQ(read_environment(pid, "MODELPOOL_BACKEND"),
            segment_of(pool).token(backend->ref.index, backend->ref.generation));
  EXPECT_TRUE(read_environment(pid, "PATH"));
  EXPECT_EQ(fs::read_symlink("/proc/" + std::to_string(pid) + "/cwd"), scratch.dir());
}

TEST(Spawn, GivesTheBackendThreeDescriptorsAndItsOutputAFile) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const Fd kept_open(open("/dev/null", O_RDONLY));  // no O_CLOEXEC: as careless as applications are
  LoadTicket ticket = ticket_for(pool, "m");
  write_file(scratch.path("log"), "before\n");
  SpawnOptions options;
  options.output = scratch.path("log");
  ASSERT_TRUE(ticket.spawn({"sh", "-c", "echo out; echo err >&2; exec sleep 60"}, options));
  EXPECT_TRUE(eventually([&] { return read_file(scratch.path("log")) == "before\nout\nerr\n"; }));
  const std::map<int, std::string> expected{
      {0, "/dev/null"}, {1, scratch.path("log")}, {2, scratch.path("log")}};
  // A program that has just begun has its libraries open too.
  EXPECT_TRUE(eventually([&] { return descriptors_of(ticket.pid()) == expected; }));
}

TEST(Spawn, KeepsErrorsApartIfAsked) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  SpawnOptions options;
  options.output = scratch.path("out");
  options.error_output = scratch.path("err");
  ASSERT_TRUE(ticket.spawn({"sh", "-c", "echo out; echo err >&2; exec sleep 60"}, options));
  EXPECT_TRUE(eventually([&] { return read_file(scratch.path("err")) == "err\n"; }));
  EXPECT_EQ(read_file(scratch.path("out")), "out\n");
}

// A worker that closed its own 0 to 2, as daemons do.
TEST(Spawn, OpenFilesAreAsTheOptionsSay) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  SpawnOptions options;
  options.output = scratch.path("log");
  options.open_files = 77;
  ASSERT_TRUE(ticket.spawn({"sh", "-c", "ulimit -Sn; exec sleep 600"}, options));
  EXPECT_TRUE(eventually([&] { return read_file(options.output) == "77\n"; }));
  rlimit ours{};
  getrlimit(RLIMIT_NOFILE, &ours);
  EXPECT_NE(ours.rlim_cur, 77u);
}

TEST(Spawn, WorksWithoutStandardDescriptorsOfItsOwn) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  Forked worker([&](Forked::Child& parent) {
    for (int fd = 0; fd < 3; ++fd) close(fd);
    LoadTicket ticket = ticket_for(pool, "m");
    SpawnOptions options;
    options.output = scratch.path("log");
    const auto spawned = ticket.spawn({"sh", "-c", "echo out; exec sleep 60"}, options);
    parent.say(spawned ? std::to_string(ticket.pid()) : spawned.error().text);
    parent.hear();
  });
  const pid_t pid = std::stoi("0" + worker.hear());
  ASSERT_GT(pid, 1);
  EXPECT_TRUE(eventually([&] { return read_file(scratch.path("log")) == "out\n"; }));
  const std::map<int, std::string> expected{
      {0, "/dev/null"}, {1, scratch.path("log")}, {2, scratch.path("log")}};
  EXPECT_TRUE(eventually([&] { return descriptors_of(pid) == expected; }));
}

TEST(Spawn, ResetsSignalsOfTheBackendAndKeepsThoseOfTheCaller) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  Forked worker([&](Forked::Child& parent) {
    signal(SIGUSR1, SIG_IGN);
    signal(SIGTERM, [](int) {});
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    pthread_sigmask(SIG_SETMASK, &blocked, nullptr);
    LoadTicket ticket = ticket_for(pool, "m");
    if (!ticket.spawn({"sleep", "60"})) throw std::runtime_error("spawn failed");
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, nullptr, &now);
    EXPECT_TRUE(sigismember(&now, SIGINT));
    EXPECT_FALSE(sigismember(&now, SIGTERM));
    EXPECT_EQ(signal(SIGUSR1, SIG_IGN), SIG_IGN);
    parent.say(std::to_string(ticket.pid()));
    parent.hear();
  });
  const pid_t pid = std::stoi("0" + worker.hear());
  ASSERT_GT(pid, 1);
  EXPECT_EQ(mask_of(pid, "SigIgn"), 0u);
  EXPECT_EQ(mask_of(pid, "SigBlk"), 0u);
  EXPECT_EQ(mask_of(pid, "SigCgt"), 0u);
  worker.say("end");
  EXPECT_EQ(worker.wait(), 0);
}

TEST(Spawn, ABackendOutlivesTheWorkerThatLoadedIt) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  Forked worker([&](Forked::Child& parent) {
    LoadTicket ticket = ticket_for(pool, "m");
    if (!ticket.spawn({"sleep", "60"})) throw std::runtime_error("spawn failed");
    Lease lease = ticket.ready("127.0.0.1:1").value();
    parent.say(std::to_string(lease.pid()));
    parent.hear();
  });
  const pid_t pid = std::stoi("0" + worker.hear());
  ASSERT_GT(pid, 1);
  worker.kill_now();
  EXPECT_TRUE(is_running(pid));
  EXPECT_EQ(state_of(pool, "m"), "ready");
  // The parent-death signal is off: nothing but the next exit of a parent could show otherwise.
  EXPECT_EQ(lease_on(pool, "m").pid(), pid);
  EXPECT_TRUE(is_running(pid));
}

TEST(Spawn, AFailedExecLeavesTheTicketAsItWas) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  write_file(scratch.path("text"), "no program\n");
  LoadTicket ticket = ticket_for(pool, "m");
  const std::size_t before = Orphans::children().size();
  SpawnOptions bad_directory;
  bad_directory.cwd = scratch.path("none");
  EXPECT_EQ(code_of(ticket.spawn({"/no/such/program"})), Errc::kSpawnFailed);
  EXPECT_EQ(code_of(ticket.spawn({"no-such-program-anywhere"})), Errc::kSpawnFailed);
  EXPECT_EQ(code_of(ticket.spawn({scratch.path("text")})), Errc::kSpawnFailed);
  EXPECT_EQ(code_of(ticket.spawn({scratch.dir()})), Errc::kSpawnFailed);
  EXPECT_EQ(code_of(ticket.spawn({"sleep", "60"}, bad_directory)), Errc::kSpawnFailed);
  EXPECT_EQ(code_of(ticket.spawn({})), Errc::kInvalid);
  EXPECT_EQ(code_of(ticket.spawn({""})), Errc::kInvalid);
  EXPECT_EQ(ticket.pid(), 0);
  EXPECT_EQ(state_of(pool, "m"), "reserved");
  EXPECT_EQ(Orphans::children().size(), before);
  EXPECT_EQ(findings(shared_segment_of(pool)), "");

  ASSERT_TRUE(ticket.spawn({"sleep", "60"}));
  EXPECT_EQ(code_of(ticket.spawn({"sleep", "60"})), Errc::kInvalid);  // once
  EXPECT_TRUE(ticket.ready("127.0.0.1:1"));
}

TEST(Spawn, ABadDirectoryIsNamedInTheError) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  SpawnOptions options;
  options.cwd = scratch.path("none");
  const auto refused = ticket.spawn({"sleep", "60"}, options);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text.find(options.cwd), std::string::npos) << refused.error().text;
}

TEST(Spawn, RecordsHowItsProcessEnded) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket.spawn({"sh", "-c", "exit 3"}));
  EXPECT_TRUE(eventually(
      [&] { return exit_text(look(pool).find_model("m")->exit_status) == "exit status 3"; }));
}

// --- P6: the loader dies -------------------------------------------------------------------------

TEST(P6AnyProcessMayDie, AWorkerKilledBetweenSpawnAndReadyLeavesNoOrphan) {
  const Orphans orphans;
  const Scratch scratch;
  const Daemon daemon(scratch, {"--stop-grace", "1s"});
  Pool pool = attach(scratch);
  Forked worker([&](Forked::Child& parent) {
    Pool mine = attach(scratch);
    LoadTicket ticket = ticket_for(mine, "m");
    if (!ticket.spawn({"sh", "-c", "sleep 60 & sleep 60"}))
      throw std::runtime_error("spawn failed");
    parent.say(std::to_string(ticket.pid()));
    parent.hear();
  });
  const pid_t pid = std::stoi("0" + worker.hear());
  ASSERT_TRUE(eventually([&] { return processes_with_environment(token_of(pool)).size() == 3; }));
  worker.kill_now();
  EXPECT_TRUE(eventually([&] { return processes_with_environment(token_of(pool)).empty(); }));
  EXPECT_FALSE(is_running(pid));
  EXPECT_TRUE(eventually([&] { return look(pool).backends.empty(); }));
  EXPECT_TRUE(eventually([&] { return nothing_left_but(pool, {getpid()}); }));
  EXPECT_EQ(findings(shared_segment_of(pool), true), "");
  ticket_for(pool, "m");  // a crash is no failed load: no cool-down
}

TEST(P6AnyProcessMayDie, AWorkerKilledAnywhereInSpawnLeavesNoOrphan) {
  const Orphans orphans;
  const Scratch scratch;
  const Daemon daemon(scratch, {"--stop-grace", "1s"});
  Pool pool = attach(scratch);
  const std::size_t ours = Orphans::children().size();
  const unsigned seed = std::random_device{}();
  RecordProperty("seed", std::to_string(seed));
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> delay_us(0, 1500);
  std::map<std::string, int> found;
  for (int i = 0; i < 50; ++i) {
    Forked worker([&](Forked::Child& parent) {
      Pool mine = attach(scratch);
      LoadTicket ticket = ticket_for(mine, "m", std::chrono::seconds(60));
      parent.say("go");
      static_cast<void>(ticket.spawn({"sleep", "60"}));
      pause();
    });
    ASSERT_EQ(worker.hear(), "go");
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::microseconds(delay_us(random));
    while (std::chrono::steady_clock::now() < until) {
    }
    worker.kill_now();
    ++found[state_of(pool, "m")];
  }
  EXPECT_TRUE(eventually([&] { return look(pool).backends.empty(); })) << "seed " << seed;
  EXPECT_TRUE(eventually([&] { return processes_with_environment(token_of(pool)).empty(); }))
      << "seed " << seed;
  // Also those that died at the gate, before they carried a token.
  EXPECT_TRUE(eventually([&] { return Orphans::children().size() == ours; })) << "seed " << seed;
  EXPECT_TRUE(eventually([&] { return nothing_left_but(pool, {getpid()}); }));
  EXPECT_EQ(findings(shared_segment_of(pool), true), "");
  for (const auto& [state, count] : found) RecordProperty("killed_while_" + state, count);
}

TEST(P4SingleFlight, ALostTicketGoesToExactlyOneOfItsWaiters) {
  const Orphans orphans;
  const Scratch scratch;
  const Daemon daemon(scratch);
  Pool pool = attach(scratch);
  Forked holder([&](Forked::Child& parent) {
    Pool mine = attach(scratch);
    LoadTicket ticket = ticket_for(mine, "m");
    parent.say("has the ticket");
    parent.hear();
  });
  ASSERT_EQ(holder.hear(), "has the ticket");
  std::vector<std::unique_ptr<Forked>> waiters;
  for (int i = 0; i < 6; ++i) {
    waiters.push_back(std::make_unique<Forked>([&](Forked::Child& parent) {
      Pool mine = attach(scratch);
      auto granted = mine.acquire("m", std::chrono::seconds(60));
      if (!granted) throw std::runtime_error(granted.error().text);
      if (auto* ticket = std::get_if<LoadTicket>(&*granted)) {
        ReadyOptions external;
        external.external = true;
        Lease lease = ticket->ready("127.0.0.1:1", external).value();
        parent.say("loaded");
        parent.hear();
      } else {
        parent.say("leased");
        parent.hear();
      }
    }));
  }
  ASSERT_TRUE(eventually([&] { return look(pool).waiters.size() == 6; }));
  holder.kill_now();
  std::map<std::string, int> answers;
  for (auto& waiter : waiters) ++answers[waiter->hear()];
  EXPECT_EQ(answers["loaded"], 1);
  EXPECT_EQ(answers["leased"], 5);
  EXPECT_EQ(look(pool).leases.size(), 6u);
}

TEST(P4SingleFlight, AFailedLoadAnswersEveryWaiterWithItsTextAndThenCoolsDown) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"load_cooldown", "60s..5m"}});
  LoadTicket ticket = ticket_for(pool, "m");
  std::vector<std::unique_ptr<Forked>> waiters;
  for (int i = 0; i < 5; ++i) {
    waiters.push_back(std::make_unique<Forked>([&](Forked::Child& parent) {
      const auto granted = pool.acquire("m", std::chrono::seconds(60));
      parent.say(granted
                     ? "granted"
                     : std::string(errc_name(granted.error().code)) + ": " + granted.error().text);
    }));
  }
  ASSERT_TRUE(eventually([&] { return look(pool).waiters.size() == 5; }));
  ASSERT_TRUE(ticket.fail("the weights are corrupt"));
  for (auto& waiter : waiters) {
    const std::string answer = waiter->hear();
    EXPECT_TRUE(answer.starts_with("load_failed: ")) << answer;
    EXPECT_NE(answer.find("the weights are corrupt"), std::string::npos) << answer;
    EXPECT_EQ(waiter->wait(), 0);
  }
  const auto refused = pool.acquire("m", std::chrono::seconds(60));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::kCoolingDown);
  EXPECT_NE(refused.error().text.find("the weights are corrupt"), std::string::npos);
  EXPECT_GT(refused.error().retry_after_ns, 0u);
  EXPECT_LE(refused.error().retry_after_ns, 60 * kSecond_ns);
}

TEST(P4SingleFlight, ABackendThatExitsBeforeReadyFailsTheLoadForEveryWaiter) {
  const Orphans orphans;
  const Scratch scratch;
  const Daemon daemon(scratch);
  Pool pool = attach(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  Forked waiter([&](Forked::Child& parent) {
    Pool mine = attach(scratch);
    const auto granted = mine.acquire("m", std::chrono::seconds(60));
    parent.say(granted
                   ? "granted"
                   : std::string(errc_name(granted.error().code)) + ": " + granted.error().text);
  });
  ASSERT_TRUE(eventually([&] { return look(pool).waiters.size() == 1; }));
  ASSERT_TRUE(ticket.spawn({"sh", "-c", "exit 3"}));
  const std::string answer = waiter.hear();
  EXPECT_TRUE(answer.starts_with("load_failed: ")) << answer;
  EXPECT_TRUE(
      eventually([&] { return load_state(segment_of(pool), 0).state != BackendState::kStarting; }));
  const auto late = ticket.ready("127.0.0.1:1");
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Errc::kTicketLost);
  EXPECT_NE(text_of(late).find("exit status 3"), std::string::npos) << text_of(late);
}

// Loader and judge both notice; each of them wrote the failure down.
TEST(P4SingleFlight, ALoadThatBothLoaderAndJudgeCallFailedIsCountedOnce) {
  const Orphans orphans;
  const Scratch scratch;
  const Daemon daemon(scratch, {"--load-cooldown", "1h..1h"});
  Pool pool = attach(scratch);
  for (int i = 0; i < 60; ++i) {
    LoadTicket ticket = ticket_for(pool, "m", std::chrono::seconds(30));
    ASSERT_TRUE(ticket.spawn({"true"}));
    const auto process = ProcessHandle::open(ticket.pid());
    while (process && process->liveness() == Liveness::kAlive) {
    }
    static_cast<void>(ticket.fail("it ended"));
    ASSERT_TRUE(eventually([&] { return state_of(pool, "m") == "none"; }));
    EXPECT_EQ(find_history(segment_of(pool), "m")->failures, 1u) << "round " << i;
    ASSERT_TRUE(pool.reset("m"));
  }
}

TEST(P4SingleFlight, ALoadThatTakesTooLongFailsForEveryWaiterAndEndsWhatItStarted) {
  const Orphans orphans;
  const Scratch scratch;
  const Daemon daemon(scratch, {"--load-timeout", "300ms", "--stop-grace", "1s"});
  Pool pool = attach(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket.spawn({"sleep", "60"}));
  const pid_t pid = ticket.pid();
  const auto before = std::chrono::steady_clock::now();
  const auto granted = pool.acquire("m", std::chrono::seconds(60));
  EXPECT_EQ(code_of(granted), Errc::kLoadFailed) << text_of(granted);
  EXPECT_NE(text_of(granted).find("load_timeout"), std::string::npos) << text_of(granted);
  EXPECT_GT(granted.error().retry_after_ns, 0u);
  EXPECT_GE(std::chrono::steady_clock::now() - before, std::chrono::milliseconds(200));
  EXPECT_TRUE(eventually([&] { return !is_running(pid); }));
  EXPECT_EQ(code_of(ticket.fail("too late")), Errc::kTicketLost);
  EXPECT_TRUE(eventually([&] { return look(pool).backends.empty(); }));
}

// A loader stopped past load_timeout wakes up when its slot leads another life.
TEST(LateTicketHolder, GetsTicketLostAndDoesNotTouchTheNextLoad) {
  const Orphans orphans;
  const Scratch scratch;
  const Daemon daemon(scratch,
                      {"--load-timeout", "300ms", "--load-cooldown", "off", "--stop-grace", "1s"});
  Pool pool = attach(scratch);
  Forked late([&](Forked::Child& parent) {
    Pool mine = attach(scratch);
    LoadTicket ticket = ticket_for(mine, "m");
    if (!ticket.spawn({"sleep", "60"})) throw std::runtime_error("spawn failed");
    parent.say(std::to_string(ticket.pid()));
    parent.hear();
    const auto ready = ticket.ready("127.0.0.1:666");
    parent.say(ready ? "ready"
                     : std::string(errc_name(ready.error().code)) + ": " + ready.error().text);
    parent.hear();
  });
  const pid_t started = std::stoi("0" + late.hear());
  ASSERT_GT(started, 1);
  late.signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(late.pid()));
  ASSERT_TRUE(eventually([&] { return state_of(pool, "m") == "none"; }));
  EXPECT_FALSE(is_running(started));

  Lease lease = load_external(pool, "m");
  late.say("go on");
  late.signal(SIGCONT);
  const std::string answer = late.hear();
  EXPECT_TRUE(answer.starts_with("ticket_lost: ")) << answer;
  EXPECT_NE(answer.find("load_timeout"), std::string::npos) << answer;
  EXPECT_EQ(lease.address(), "127.0.0.1:1");
  EXPECT_TRUE(lease.progress());
  // Its holder has let go: the slot of the lost load is free again.
  EXPECT_TRUE(eventually([&] { return look(pool).backends.size() == 1; }));
}

// --- started -------------------------------------------------------------------------------------

class StartedTest : public ::testing::Test {
 protected:
  // The refusal's text; the ticket is as it was.
  std::string refusal(pid_t pid) {
    const auto result = ticket_.started(pid);
    EXPECT_FALSE(result) << pid;
    if (result) return {};
    EXPECT_EQ(result.error().code, Errc::kInvalid) << result.error().text;
    EXPECT_EQ(state_of(pool_, "m"), "reserved");
    EXPECT_EQ(pid_in(pool_, "m"), 0);
    return result.error().text;
  }

  const Orphans orphans_;
  const Scratch scratch_;
  Daemon daemon_{scratch_};
  Pool pool_ = attach(scratch_);
  LoadTicket ticket_ = ticket_for(pool_, "m");
};

using P7RightProcessOrNone = StartedTest;

TEST_F(P7RightProcessOrNone, StartedRefusesPidsThatNameNoProcessOfOurs) {
  for (const pid_t pid : {0, 1, -1, -5})
    EXPECT_NE(refusal(pid).find("greater than 1"), std::string::npos) << pid;
  Forked ended([](Forked::Child&) {});
  ended.wait();
  EXPECT_NE(refusal(ended.pid()).find("no such process"), std::string::npos);
}

TEST_F(P7RightProcessOrNone, StartedRefusesAThreadOfTheKernel) {
  constexpr pid_t kThreadd = 2;  // where one sees them
  const auto stat = read_stat(kThreadd);
  if (!stat || !stat->is_of_kernel) GTEST_SKIP() << "no thread of the kernel is to be seen";
  if (geteuid() != 0) GTEST_SKIP() << "another user's is refused anyway";
  EXPECT_NE(refusal(kThreadd).find("a thread of the kernel's"), std::string::npos);
  EXPECT_FALSE(read_stat(getpid())->is_of_kernel);
}

TEST_F(P7RightProcessOrNone, StartedRefusesAZombie) {
  Forked ended([](Forked::Child&) {});
  ASSERT_TRUE(eventually([&] {
    const auto stat = read_stat(ended.pid());
    return stat && stat->is_zombie();
  }));
  EXPECT_NE(refusal(ended.pid()).find("ended"), std::string::npos);
}

TEST_F(P7RightProcessOrNone, StartedRefusesWhatTheCallerRunsUnder) {
  const Scratch scratch;
  Forked child([&](Forked::Child&) {
    PoolOptions options;
    options.dir = scratch.dir();
    const Settings settings;
    options.settings = &settings;
    auto pool = Pool::attach("default", options);
    ASSERT_TRUE(pool);
    auto grant = pool->acquire("m", std::chrono::seconds(5));
    ASSERT_TRUE(grant);
    const auto refused = std::get<LoadTicket>(*grant).started(getppid());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::kInvalid);
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(P7RightProcessOrNone, StartedRefusesTheCallerTheCoordinatorAndAttachedWorkers) {
  EXPECT_NE(refusal(getpid()).find("calling process"), std::string::npos);
  EXPECT_NE(refusal(daemon_.pid()).find("coordinator"), std::string::npos);
  Forked worker([&](Forked::Child& parent) {
    const Pool mine = attach(scratch_);
    parent.say("attached");
    parent.hear();
  });
  ASSERT_EQ(worker.hear(), "attached");
  EXPECT_NE(refusal(worker.pid()).find("worker"), std::string::npos);
}

TEST_F(P7RightProcessOrNone, StartedRefusesAnotherUsersProcess) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can start another user's process";
  Forked stranger([](Forked::Child& parent) {
    if (setgid(65534) != 0 || setuid(65534) != 0) throw std::runtime_error("setuid failed");
    parent.say("ready");
    parent.hear();
  });
  ASSERT_EQ(stranger.hear(), "ready");
  EXPECT_NE(refusal(stranger.pid()).find("user 65534"), std::string::npos);
}

TEST_F(P7RightProcessOrNone, StartedTakesTheGroupOfALeaderAndOnlyThePidOfAnother) {
  Forked leader([](Forked::Child& parent) {
    setpgid(0, 0);
    parent.say("leads");
    parent.hear();
  });
  Forked member([](Forked::Child& parent) {
    parent.say("runs");
    parent.hear();
  });
  ASSERT_EQ(leader.hear(), "leads");
  ASSERT_EQ(member.hear(), "runs");
  ASSERT_TRUE(ticket_.started(leader.pid()));
  EXPECT_EQ(look(pool_).find_model("m")->group, leader.pid());
  EXPECT_FALSE(ticket_.started(member.pid()));  // one process a ticket
  EXPECT_EQ(pid_in(pool_, "m"), leader.pid());

  LoadTicket second = ticket_for(pool_, "second");
  ASSERT_TRUE(second.started(member.pid()));
  EXPECT_EQ(look(pool_).find_model("second")->group, 0);
}

TEST_F(P7RightProcessOrNone, StartedTakesOnlyThePidIfAWorkerIsInItsGroup) {
  Forked leader([](Forked::Child& parent) {
    setpgid(0, 0);
    parent.say("leads");
    parent.hear();
  });
  ASSERT_EQ(leader.hear(), "leads");
  Forked worker([&](Forked::Child& parent) {
    const Pool mine = attach(scratch_);
    parent.say(setpgid(0, leader.pid()) == 0 ? "joined" : "not joined");
    parent.hear();
  });
  ASSERT_EQ(worker.hear(), "joined");
  ASSERT_TRUE(ticket_.started(leader.pid()));
  EXPECT_EQ(look(pool_).find_model("m")->group, 0);
  // And so it is only the process itself that ends.
  ASSERT_TRUE(ticket_.fail("on purpose"));
  EXPECT_TRUE(eventually([&] { return !is_running(leader.pid()); }));
  EXPECT_TRUE(eventually([&] { return state_of(pool_, "m") == "none"; }));
  EXPECT_TRUE(is_running(worker.pid()));
}

// --- ready and fail ------------------------------------------------------------------------------

TEST(Ready, WithoutAProcessIsRefusedAndTheTicketStays) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  const auto refused = ticket.ready("127.0.0.1:1");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::kInvalid);
  EXPECT_EQ(look(pool).leases.size(), 0u);
  ReadyOptions external;
  external.external = true;
  EXPECT_TRUE(ticket.ready("127.0.0.1:1", external));
}

TEST(Ready, AnAddressThatAnotherBackendHasIsRefusedAndTheTicketStays) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const auto loading = [&](const char* model) {
    LoadTicket ticket = ticket_for(pool, model);
    EXPECT_TRUE(ticket.spawn({"sleep", "60"}));
    return ticket;
  };
  LoadTicket first = loading("first");
  ASSERT_TRUE(first.ready("127.0.0.1:1"));
  LoadTicket second = loading("second");
  for (const char* same : {"127.0.0.1:1", "localhost:1", "http://127.0.0.1:1/", "0.0.0.0:1"}) {
    const auto refused = second.ready(same);
    EXPECT_EQ(code_of(refused), Errc::kInvalid) << same;
    EXPECT_NE(text_of(refused).find("first is served at"), std::string::npos) << text_of(refused);
  }
  EXPECT_EQ(state_of(pool, "second"), "starting");
  EXPECT_EQ(look(pool).leases.size(), 0u);
  EXPECT_TRUE(second.ready("127.0.0.1:2"));
  EXPECT_EQ(findings(shared_segment_of(pool)), "");
  // One server may serve several models: the application knows.
  load_external(pool, "third").release();
  load_external(pool, "fourth").release();
}

// Both were asked for at the same moment: one is refused.
TEST(Ready, OfTwoLoadsWithOneAddressOneIsRefused) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  for (int round = 0; round < 20; ++round) {
    std::vector<LoadTicket> tickets;
    for (int i = 0; i < 2; ++i) {
      tickets.push_back(ticket_for(pool, "m" + std::to_string(2 * round + i)));
      ASSERT_TRUE(tickets.back().spawn({"sleep", "60"}));
    }
    std::atomic<int> together{0};
    std::atomic<int> ready{0};
    const std::string address = "127.0.0.1:" + std::to_string(round + 1);
    std::vector<std::thread> threads;
    for (LoadTicket& ticket : tickets) {
      threads.emplace_back([&] {
        for (++together; together < 2;) {
        }
        ready += ticket.ready(address).has_value();
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(ready, 1) << "round " << round;
    tickets.clear();
    for (const BackendView& b : look(pool).backends) {
      if (b.state.state == BackendState::kStopping) mark_gone(segment_of(pool), b.ref);
    }
    for (const BackendView& b : look(pool).backends) free_slot(segment_of(pool), b.ref);
    if (look(pool).backends.size() > 12) break;  // of 16 slots
  }
}

TEST(Ready, AnotherProcessThatListensThereIsRefusedAndNamed) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  int port = 0;
  const Program squatter(backend_argv(&port));
  const std::string address = "127.0.0.1:" + std::to_string(port);
  const auto listener = [&] {
    return find_listener(*parse_address(address), {squatter.pid(), 0, {}}).by;
  };
  ASSERT_TRUE(eventually([&] { return listener() == ListenedBy::kBackend; }));
  LoadTicket ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket.spawn({"sleep", "60"}));
  const auto refused = ticket.ready(address);
  EXPECT_EQ(code_of(refused), Errc::kInvalid);
  EXPECT_NE(text_of(refused).find("process " + std::to_string(squatter.pid()) + " (demo_backend)"),
            std::string::npos)
      << text_of(refused);
  EXPECT_EQ(state_of(pool, "m"), "starting");
  ReadyOptions options;
  options.any_listener = true;
  EXPECT_TRUE(ticket.ready(address, options));
}

TEST(Ready, AListenerBelowItsFirstProcessIsItsOwn) {
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  int port = 0;
  std::string command;
  for (const std::string& word : backend_argv(&port)) command += word + " ";
  // In a session of its own, without the token: what is left is whose child it is.
  ASSERT_TRUE(ticket.spawn({"sh", "-c", "env -i setsid " + command + "& wait"}));
  const std::string address = "127.0.0.1:" + std::to_string(port);
  const auto listens = [&] {
    return find_listener(*parse_address(address), {ticket.pid(), ticket.pid(), {}}).by ==
           ListenedBy::kBackend;
  };
  ASSERT_TRUE(eventually(listens));
  EXPECT_TRUE(ticket.ready(address));
}

TEST(P13BadInput, ReadyRefusesAddressesAndLabelsThatDoNotFit) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  ReadyOptions external;
  external.external = true;
  for (const std::string& address :
       {std::string(), std::string(256, 'a'), std::string("a b"), std::string("\xff\xfe")}) {
    const auto refused = ticket.ready(address, external);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::kInvalid);
  }
  ReadyOptions labelled = external;
  labelled.label = std::string(32, 'l');
  EXPECT_FALSE(ticket.ready("127.0.0.1:1", labelled));
  EXPECT_EQ(look(pool).leases.size(), 0u);
  EXPECT_EQ(state_of(pool, "m"), "reserved");
  labelled.label = std::string(31, 'l');
  EXPECT_TRUE(ticket.ready(std::string(255, 'a'), labelled));
  EXPECT_EQ(look(pool).find_model("m")->label, labelled.label);
  EXPECT_EQ(look(pool).find_model("m")->address, std::string(255, 'a'));
}

// It was a failed load: its waiters were refused and the model cooled down because a loader had to
// end.
TEST(Ticket, DestroyedUnusedIsGivenBackAndTheNextWaiterLoadsAtOnce) {
  const Orphans orphans;
  const Scratch scratch;
  const Daemon daemon(scratch, {"--load-cooldown", "1h..1h", "--stop-grace", "1s"});
  Pool pool = attach(scratch);
  std::optional<LoadTicket> ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket->spawn({"sleep", "60"}));
  const pid_t pid = ticket->pid();
  Forked waiter([&](Forked::Child& parent) {
    Pool mine = attach(scratch);
    const auto granted = mine.acquire("m", std::chrono::seconds(60));
    const bool loads = granted && std::holds_alternative<LoadTicket>(*granted);
    parent.say(loads ? "loads" : granted ? "leases" : granted.error().text);
  });
  ASSERT_TRUE(eventually([&] { return look(pool).waiters.size() == 1; }));
  EXPECT_EQ(ticket->waiting(), 1u);
  ticket.reset();
  EXPECT_EQ(waiter.hear(), "loads");
  EXPECT_FALSE(is_running(pid));
  EXPECT_EQ(waiter.wait(), 0);
  ticket_for(pool, "m");  // the waiter's ticket went with it, and nothing cools down
}

TEST(Ticket, CountsThoseWhoWaitForItsModel) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  const LoadTicket other = ticket_for(pool, "n");
  EXPECT_EQ(ticket.waiting(), 0u);
  const auto waits = [&](const std::string& model, Deadline deadline) {
    auto pending = pool.begin_acquire(model, deadline);
    EXPECT_FALSE(pending->poll().value().has_value());
    return std::move(*pending);
  };
  auto one = std::make_optional(waits("m", std::chrono::seconds(60)));
  const auto two = waits("m", std::chrono::seconds(60));
  const auto not_it = waits("n", std::chrono::seconds(60));
  const auto impatient = waits("m", std::chrono::milliseconds(50));
  EXPECT_TRUE(eventually([&] { return ticket.waiting() == 2; }));
  one.reset();
  EXPECT_EQ(ticket.waiting(), 1u);
  Forked dies([&](Forked::Child& parent) {
    auto pending = pool.begin_acquire("m", std::chrono::seconds(60));
    static_cast<void>(pending->poll());
    parent.say("waits");
    parent.hear();
  });
  ASSERT_EQ(dies.hear(), "waits");
  EXPECT_EQ(ticket.waiting(), 2u);
  dies.kill_now();
  EXPECT_EQ(ticket.waiting(), 1u);
  ASSERT_TRUE(ticket.give_back());
  EXPECT_EQ(ticket.waiting(), 0u);
}

// A loader went on past its own timeout for a waiter that would never take what it loads.
TEST(Ticket, DoesNotCountAWaiterThatIsStopped) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const LoadTicket ticket = ticket_for(pool, "m");
  Forked waiter([&](Forked::Child& parent) {
    auto pending = pool.begin_acquire("m", std::chrono::seconds(600));
    static_cast<void>(pending->poll());
    parent.say("waits");
    while (parent.hear() == "look") {
      static_cast<void>(pending->poll());
      parent.say("looked");
    }
  });
  ASSERT_EQ(waiter.hear(), "waits");
  EXPECT_EQ(ticket.waiting(), 1u);
  waiter.signal(SIGSTOP);
  EXPECT_TRUE(eventually([&] { return ticket.waiting() == 0; }));
  waiter.signal(SIGCONT);
  waiter.say("look");
  ASSERT_EQ(waiter.hear(), "looked");
  EXPECT_EQ(ticket.waiting(), 1u);
}

// What waits for the mutex has done nothing yet.
TEST(Ticket, StaysIfItsFailureCannotBeRecorded) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  Forked holder([&](Forked::Child& parent) {
    const auto lock = segment_of(pool).lock_structure();
    parent.say("holds");
    parent.hear();
  });
  ASSERT_EQ(holder.hear(), "holds");
  EXPECT_EQ(code_of(ticket.fail("no")), Errc::kBusy);
  EXPECT_EQ(state_of(pool, "m"), "reserved");
  holder.say("let go");
  holder.wait();
  ASSERT_TRUE(ticket.fail("no"));
  EXPECT_EQ(find_history(segment_of(pool), "m")->failures, 1u);
}

TEST(Ticket, FailEndsWhatWasStarted) {
  const Orphans orphans;
  const Scratch scratch;
  const Daemon daemon(scratch, {"--stop-grace", "1s"});
  Pool pool = attach(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket.spawn({"sh", "-c", "trap '' TERM; sleep 60 & wait; sleep 60"}));
  ASSERT_TRUE(eventually([&] { return processes_with_environment(token_of(pool)).size() == 2; }));
  ASSERT_TRUE(ticket.fail("no answer"));
  EXPECT_TRUE(eventually([&] { return processes_with_environment(token_of(pool)).empty(); }));
  EXPECT_TRUE(eventually([&] { return look(pool).backends.empty(); }));
}

}  // namespace
