// P11, P12, P13: poolctl doctor: each finding is provoked, the command that it gives is run as it
// is printed, and then it is gone.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "base/proc.hpp"
#include "base/time.hpp"
#include "pool_test.hpp"
#include "segment/lost.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

namespace fs = std::filesystem;

constexpr uid_t kNobody = 65534;

// With our programs found first, as they are where they are installed.
Program::Options in_path() {
  Program::Options options;
  const std::string bin = fs::path(MODELPOOL_POOLCTL).parent_path();
  const std::string judge = fs::path(MODELPOOL_COORDINATORD).parent_path();
  options.env["PATH"] = bin + ":" + judge + ":" + std::getenv("PATH");
  return options;
}

class DoctorTest : public PoolTest {
 protected:
  ~DoctorTest() override {
    // Of a pool that lost its name nobody else would.
    for (const pid_t pid :
         processes_with_environment(std::string(kHomeVariable) + "=" + scratch_.dir())) {
      kill(pid, SIGKILL);
    }
    // What a command has started.
    const Finished seen = poolctl(scratch_, {"-o", "json", "--wait", "0", "status"});
    const json now = json::parse(seen.out, nullptr, false);
    if (now.is_discarded() || now["coordinator"]["alive"] != true) return;
    const pid_t pid = now["coordinator"]["pid"];
    if (!daemon_ || !daemon_->program().running() || daemon().pid() != pid) kill(pid, SIGTERM);
  }

  json findings(std::vector<std::string> args = {"--wait", "0", "-o", "json", "doctor"}) {
    const Finished done = poolctl(scratch_, std::move(args));
    const json said = json::parse(done.out, nullptr, false);
    if (said.is_discarded()) return json::array();
    EXPECT_EQ(done.code, said["findings"].empty() ? 0 : 1) << done.out << done.err;
    EXPECT_EQ(said["ok"], said["findings"].empty());
    return said["findings"];
  }
  // Null if there is none.
  json find(const std::string& kind) {
    for (const json& finding : findings()) {
      if (finding["kind"] == kind) return finding;
    }
    return nullptr;
  }
  json wait_for(const std::string& kind) {
    json found;
    EXPECT_TRUE(eventually([&] { return !(found = find(kind)).is_null(); })) << kind;
    return found;
  }
  bool is_gone(const std::string& kind) {
    return eventually([&] { return find(kind).is_null(); });
  }
  // As a person who copies it does.
  static Finished obey(const json& finding) {
    return run({"sh", "-c", finding["command"]}, in_path());
  }
  static std::unique_ptr<Program> launch(const json& finding) {
    return std::make_unique<Program>(
        std::vector<std::string>{"sh", "-c", finding["command"].get<std::string>()}, in_path());
  }
  // One that starts a coordinator and stays with it.
  std::unique_ptr<Program> begin(const json& finding) {
    auto begun = launch(finding);
    EXPECT_TRUE(eventually([&] { return poolctl(scratch_, {"status"}).code == 0; }))
        << finding["command"] << begun->err();
    return begun;
  }
  std::string path() const { return scratch_.path("default"); }
};

TEST_F(DoctorTest, OfAPoolThatIsWellSaysSoAndAtWhatItLooked) {
  start();
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  EXPECT_THAT(findings(), IsEmpty());
  const Finished said = poolctl(scratch_, {"doctor"});
  EXPECT_EQ(said.code, 0);
  EXPECT_THAT(said.out, AllOf(StartsWith("all is well\n"), HasSubstr("1 worker"),
                              HasSubstr("1 backend"), Not(HasSubstr("\x1b"))));
}

TEST_F(DoctorTest, OfNoPoolSaysThatThereIsNone) {
  const Finished said = poolctl(scratch_, {"--wait", "0", "doctor"});
  EXPECT_EQ(said.code, 3);
  EXPECT_THAT(said.err, HasSubstr("there is no"));
}

// The lines fit, but for a command, which is to be copied as it stands.
TEST_F(DoctorTest, PrintsWhatItIsSinceWhenAndWhatToDoIn80Columns) {
  start();
  daemon().kill_now();
  const Finished said = poolctl(scratch_, {"doctor"});
  EXPECT_EQ(said.code, 1);
  EXPECT_THAT(said.out, StartsWith("no_coordinator\n  no coordinator runs"));
  EXPECT_THAT(said.out, HasSubstr("\n  since: "));
  EXPECT_THAT(said.out, HasSubstr("\n  do:    coordinatord --dir " + scratch_.dir()));
  std::istringstream lines(said.out);
  for (std::string line; std::getline(lines, line);) {
    EXPECT_TRUE(line.size() <= 80 || line.starts_with("  do: ")) << line;
  }
}

TEST_F(DoctorTest, HasColoursOnATerminalUnlessNoColorIsSet) {
  start();
  const auto on_terminal = [this](std::map<std::string, std::string> env) {
    Program::Options options;
    options.env = std::move(env);
    const std::string command =
        std::string(MODELPOOL_POOLCTL) + " --dir " + scratch_.dir() + " doctor";
    return run({"script", "-qec", command, "/dev/null"}, options).out;
  };
  EXPECT_THAT(on_terminal({{"TERM", "xterm"}, {"NO_COLOR", ""}}),
              StartsWith("\x1b[32mall is well\x1b[0m"));
  EXPECT_THAT(on_terminal({{"TERM", "xterm"}, {"NO_COLOR", "1"}}), StartsWith("all is well"));
  EXPECT_THAT(on_terminal({{"TERM", "dumb"}, {"NO_COLOR", ""}}), StartsWith("all is well"));
}

TEST_F(DoctorTest, OfACopyExaminesWhatStandsInItAndAsksForNoCoordinator) {
  start({"--max-backends", "1"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_EQ(poolctl(scratch_, {"pin", "m"}).code, 0);
  daemon().kill_now();
  const std::string copy = scratch_.path("copy");
  fs::copy_file(path(), copy);
  const json found = findings({"-o", "json", "doctor", "--file", copy});
  ASSERT_EQ(found.size(), 1u) << found;
  EXPECT_EQ(found[0]["kind"], "all_pinned");
}

// --- The coordinator -----------------------------------------------------------------------------

// One with other flags would put other settings in force.
TEST_F(DoctorTest, NoCoordinatorAndTheCommandStartsOneWithTheSameConfigAndFlags) {
  const std::string config = scratch_.path("pool's own.toml");
  write_file(config, "[pool]\nidle_timeout = \"42m\"\n");
  start({"--config", config, "--max-backends", "3"});
  daemon().kill_now();
  const json found = wait_for("no_coordinator");
  EXPECT_THAT(std::string(found["text"]), HasSubstr("is dead"));
  EXPECT_TRUE(found["since_ms"].is_number());
  const auto begun = begin(found);
  EXPECT_TRUE(is_gone("no_coordinator"));
  EXPECT_EQ(status()["max_backends"], 3);
  EXPECT_EQ(poolctl_json(scratch_, {"set"})["idle_timeout"]["value"], "42m");
}

TEST_F(DoctorTest, ACoordinatorThatIsStoppedGoesOn) {
  start();
  daemon().program().signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(daemon().pid()));
  const json found = wait_for("coordinator_hangs");
  EXPECT_EQ(found["pid"], daemon().pid());
  EXPECT_EQ(found["command"], "kill -CONT " + std::to_string(daemon().pid()));
  EXPECT_EQ(obey(found).code, 0);
  EXPECT_TRUE(is_gone("coordinator_hangs"));
}

TEST_F(DoctorTest, AReloadThatWasRefused) {
  const std::string config = scratch_.path("pool.toml");
  write_file(config, "[pool]\nmax_backends = 2\n");
  start({"--config", config, "--max-memory", "1GiB"});
  write_file(config, "[pool]\nmax_backends = 3\nidle_timeout = \"soon\"\n");
  daemon().program().signal(SIGHUP);
  const json found = wait_for("reload_refused");
  EXPECT_TRUE(found["since_ms"].is_number());
  const Finished refused = obey(found);
  EXPECT_NE(refused.code, 0);
  EXPECT_THAT(refused.out + refused.err, HasSubstr("pool.toml:3:")) << "it says what is wrong";
  EXPECT_FALSE(find("reload_refused").is_null());
  write_file(config, "[pool]\nmax_backends = 3\n");
  const Finished taken = obey(found);
  EXPECT_EQ(taken.code, 0) << taken.err;
  EXPECT_TRUE(is_gone("reload_refused"));
  EXPECT_EQ(status()["max_backends"], 3);
}

TEST_F(DoctorTest, ACoordinatorWhoseProgramWasReplaced) {
  const std::string dir = fs::temp_directory_path() / ("doctor-" + std::to_string(getpid()));
  const std::string old = dir + "/coordinatord";
  fs::create_directory(dir);
  fs::copy_file(MODELPOOL_COORDINATORD, old);
  Program judge(std::vector<std::string>{old, "--dir", scratch_.dir(), "--max-backends", "5"});
  ASSERT_TRUE(eventually([&] { return poolctl(scratch_, {"status"}).code == 0; })) << judge.err();
  EXPECT_TRUE(find("old_program").is_null());
  fs::remove_all(dir);
  const json found = wait_for("old_program");
  EXPECT_EQ(found["pid"], judge.pid());
  EXPECT_THAT(std::string(found["text"]), HasSubstr(old));
  const auto begun = launch(found);
  ASSERT_TRUE(eventually([&] { return !is_running(judge.pid()); }));
  judge.wait();  // as a supervisor does
  ASSERT_TRUE(eventually([&] { return poolctl(scratch_, {"status"}).code == 0; })) << begun->err();
  EXPECT_NE(status()["coordinator"]["pid"], judge.pid());
  EXPECT_TRUE(is_gone("old_program"));
  EXPECT_EQ(status()["max_backends"], 5);
}

// --- Workers and the mutex -----------------------------------------------------------------------

TEST_F(DoctorTest, WhoHoldsTheMutexAndIsStopped) {
  start();
  Forked holder([&](Forked::Child& parent) {
    Pool pool = attach(scratch_);
    {
      const auto lock = segment_of(pool).lock_structure();
      parent.say(lock ? "locked" : lock.error().text);
      raise(SIGSTOP);
    }
    parent.hear();
  });
  ASSERT_EQ(holder.hear(), "locked");
  ASSERT_TRUE(has_stopped(holder.pid()));
  const json found = wait_for("mutex_held");
  EXPECT_EQ(found["pid"], holder.pid());
  EXPECT_TRUE(found["since_ms"].is_number());
  EXPECT_EQ(obey(found).code, 0);
  EXPECT_TRUE(is_gone("mutex_held"));
}

TEST_F(DoctorTest, WhoHoldsTheMutexAndDoesNotLetGo) {
  start();
  Forked holder([&](Forked::Child& parent) {
    Pool pool = attach(scratch_);
    const auto lock = segment_of(pool).lock_structure();
    parent.say(lock ? "locked" : lock.error().text);
    pause();
  });
  ASSERT_EQ(holder.hear(), "locked");
  const json found = wait_for("mutex_held");
  EXPECT_GE(found["since_ms"], 1000);
  EXPECT_EQ(found["command"], "kill -KILL " + std::to_string(holder.pid()));
  EXPECT_EQ(obey(found).code, 0);
  EXPECT_TRUE(is_gone("mutex_held"));
}

TEST_F(DoctorTest, AWorkerThatIsStopped) {
  start();
  RemoteWorker worker(scratch_);
  worker.signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(worker.pid()));
  const json found = wait_for("worker_stopped");
  EXPECT_EQ(found["pid"], worker.pid());
  EXPECT_EQ(obey(found).code, 0);
  EXPECT_TRUE(is_gone("worker_stopped"));
}

TEST_F(DoctorTest, AProcessThatHasUsedUpItsDescriptors) {
  start();
  RemoteWorker worker(scratch_);
  EXPECT_TRUE(find("descriptors").is_null());
  rlimit limit{};
  ASSERT_EQ(prlimit(worker.pid(), RLIMIT_NOFILE, nullptr, &limit), 0);
  limit.rlim_cur = list_descriptors(worker.pid()).value().size();
  ASSERT_EQ(prlimit(worker.pid(), RLIMIT_NOFILE, &limit, nullptr), 0);
  const json found = wait_for("descriptors");
  EXPECT_EQ(found["pid"], worker.pid());
  const Finished done = obey(found);
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_TRUE(is_gone("descriptors"));
}

// The table is as large as the pool was made: its workers have to leave first.
TEST_F(DoctorTest, ATableThatIsNearlyFull) {
  start({"--workers", "2"});
  json found;
  {
    RemoteWorker first(scratch_);
    RemoteWorker second(scratch_);
    found = wait_for("table_nearly_full");
    EXPECT_THAT(std::string(found["text"]), HasSubstr("2 of 2 workers"));
    EXPECT_NE(
        run({"sh", "-c", found["command"].get<std::string>() + " --timeout 100ms"}, in_path()).code,
        0)
        << "nothing ends what works";
  }
  daemon_.reset();
  const auto begun = begin(found);
  RemoteWorker first(scratch_);
  RemoteWorker second(scratch_);
  EXPECT_TRUE(is_gone("table_nearly_full"));
  EXPECT_EQ(poolctl_json(scratch_, {"dump"})["header"]["capacities"]["workers"], 4);
}

// --- Backends and who waits ----------------------------------------------------------------------

// Names that a shell would act on.
constexpr const char* kHostile = "-m $(touch /tmp/doctor-was-here) 'q\" \\ ;`x`";

TEST_F(DoctorTest, EverythingIsPinned) {
  start({"--max-backends", "1"});
  RemoteWorker worker(scratch_);
  worker.load_idle(kHostile);
  ASSERT_EQ(poolctl(scratch_, {"pin", "--", kHostile}).code, 0);
  const json found = wait_for("all_pinned");
  const Finished done = obey(found);
  EXPECT_EQ(done.code, 0) << found << done.err;
  EXPECT_TRUE(is_gone("all_pinned"));
  EXPECT_EQ(state(kHostile), "ready");
  EXPECT_FALSE(fs::exists("/tmp/doctor-was-here"));
}

TEST_F(DoctorTest, EverythingIsPinnedByTheConfig) {
  const std::string config = scratch_.path("pool.toml");
  write_file(config, "[pool]\nmax_backends = 1\n[[model]]\nmatch = \"m\"\npinned = true\n");
  start({"--config", config});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  const json found = wait_for("all_pinned");
  EXPECT_EQ(obey(found).code, 0) << found;
  EXPECT_TRUE(is_gone("all_pinned"));
  EXPECT_EQ(worker.acquire("other"), "ticket");
}

TEST_F(DoctorTest, AModelThatCoolsDownAndWhy) {
  start();
  RemoteWorker worker(scratch_);
  ASSERT_EQ(worker.acquire(kHostile), "ticket");
  ASSERT_EQ(worker.fail(kHostile, "no such file: weights.gguf"), "ok");
  const json found = wait_for("model_cooling");
  EXPECT_EQ(found["model"], kHostile);
  EXPECT_THAT(std::string(found["text"]), HasSubstr("weights.gguf"));
  EXPECT_TRUE(found["since_ms"].is_number());
  const Finished done = obey(found);
  EXPECT_EQ(done.code, 0) << found << done.err;
  EXPECT_TRUE(is_gone("model_cooling"));
}

TEST_F(DoctorTest, ABackendThatCannotBeEndedAndWhoWaitsForItsPlaceInVain) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can start another user's process";
  start({"--max-backends", "1", "--stop-grace", "100ms"});
  RemoteWorker waiter(scratch_);
  Program foreign(std::vector<std::string>{
      "setsid", "sh", "-c",
      "while [ ! -e " + scratch_.path("go") + " ]; do sleep 0.01; done; exec setpriv --reuid=" +
          std::to_string(kNobody) + " --clear-groups sleep 600"});
  ASSERT_TRUE(eventually([&] { return getsid(foreign.pid()) == foreign.pid(); }));
  Pool pool = attach(scratch_);
  {
    LoadTicket ticket = ticket_for(pool, "m");
    ASSERT_TRUE(ticket.started(foreign.pid()));
    ASSERT_TRUE(ticket.ready("127.0.0.1:1"));
  }
  write_file(scratch_.path("go"), "");
  ASSERT_TRUE(eventually([&] { return read_uid(foreign.pid()) == kNobody; }));
  EXPECT_THAT(findings(), IsEmpty());
  EXPECT_EQ(poolctl(scratch_, {"evict", "m", "--timeout", "0"}).code, 0);
  waiter.begin_acquire("other", 60'000);
  const json found = wait_for("backend_unkillable");
  EXPECT_EQ(found["pid"], foreign.pid());
  EXPECT_EQ(found["model"], "m");
  EXPECT_THAT(std::string(found["text"]), HasSubstr("belongs to another user"));
  const json hopeless = wait_for("waiter_without_hope");
  EXPECT_EQ(hopeless["model"], "other");
  EXPECT_EQ(hopeless["command"], found["command"]);
  EXPECT_EQ(obey(found).code, 0);
  foreign.wait();
  EXPECT_TRUE(is_gone("backend_unkillable"));
  EXPECT_TRUE(is_gone("waiter_without_hope"));
  EXPECT_EQ(waiter.hear(), "ticket");
}

// One that looks is refused at once; one that is stopped hears of it when it goes on.
TEST_F(DoctorTest, WhoWaitsForAPlaceThatIsPinned) {
  start({"--max-backends", "1", "--max-wait", "off"});
  RemoteWorker worker(scratch_);
  RemoteWorker waiter(scratch_);
  worker.load("m");
  waiter.begin_acquire("other", 60'000);
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  waiter.signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(waiter.pid()));
  ASSERT_EQ(poolctl(scratch_, {"pin", "m"}).code, 0);
  const json found = wait_for("waiter_without_hope");
  EXPECT_EQ(found["model"], "other");
  EXPECT_TRUE(found["since_ms"].is_number());
  EXPECT_EQ(obey(found).code, 0);
  EXPECT_TRUE(is_gone("waiter_without_hope"));
  waiter.signal(SIGCONT);
  worker.release("m");
  EXPECT_EQ(waiter.hear(), "ticket");
}

TEST_F(DoctorTest, WhoWaitsForMoreThanThereIs) {
  const std::string config = scratch_.path("pool.toml");
  write_file(config,
             "[pool]\nmax_backends = 1\nmax_memory = \"8GiB\"\n"
             "[[model]]\nmatch = \"big\"\nmemory = \"6GiB\"\n");
  start({"--config", config, "--max-wait", "off"});
  RemoteWorker worker(scratch_);
  RemoteWorker waiter(scratch_);
  worker.load("m");
  waiter.begin_acquire("big", 60'000);
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  // Not while it has the mutex.
  ASSERT_TRUE(eventually([&] {
    waiter.signal(SIGSTOP);
    if (!has_stopped(waiter.pid())) return false;
    if (poolctl(scratch_, {"set", "max-memory=4GiB"}).code == 0) return true;
    waiter.signal(SIGCONT);
    return false;
  }));
  const json found = wait_for("waiter_without_hope");
  EXPECT_THAT(std::string(found["command"]), HasSubstr("set max_memory=6144MiB"));
  EXPECT_EQ(obey(found).code, 0);
  EXPECT_TRUE(is_gone("waiter_without_hope"));
  waiter.signal(SIGCONT);
}

TEST_F(DoctorTest, AProcessThatIsLeftOfABackendThatIsGone) {
  start();
  const Pool pool = attach(scratch_);
  Program::Options marked;
  marked.env["MODELPOOL_BACKEND"] = segment_of(pool).token(3, 77);
  marked.env[kHomeVariable] = home_of(path());
  Program escaped({"sleep", "600"}, marked);
  // In another mount namespace another pool may have the same path.
  std::string& token = marked.env["MODELPOOL_BACKEND"];
  token.front() = token.front() == '0' ? '1' : '0';
  const Program of_another_pool({"sleep", "600"}, marked);
  const json found = wait_for("backend_escaped");
  EXPECT_EQ(found["pid"], escaped.pid());
  EXPECT_EQ(findings().size(), 1u);
  EXPECT_THAT(std::string(found["text"]), HasSubstr("(sleep)"));
  EXPECT_TRUE(found["since_ms"].is_number());
  EXPECT_EQ(obey(found).code, 0);
  EXPECT_TRUE(is_gone("backend_escaped"));
}

// --- Memory --------------------------------------------------------------------------------------

TEST_F(DoctorTest, BackendsThatTakeMoreThanTheyMay) {
  start({"--max-memory", "100MiB"});
  Pool pool = attach(scratch_);
  for (const char* model : {"small", "large"}) {
    LoadTicket ticket = ticket_for(pool, model);
    ASSERT_TRUE(ticket.spawn({"sleep", "600"}));
    ReadyOptions options;
    options.size_bytes = std::string(model) == "large" ? 60 << 20 : 20 << 20;
    options.pinned = true;
    ASSERT_TRUE(ticket.ready("unix:/" + std::string(model), options));
  }
  EXPECT_TRUE(find("memory_over_limit").is_null());
  ASSERT_EQ(poolctl(scratch_, {"set", "max-memory=70MiB"}).code, 0);
  const json found = wait_for("memory_over_limit");
  EXPECT_THAT(std::string(found["text"]), HasSubstr("10MiB more"));
  EXPECT_THAT(std::string(found["command"]), HasSubstr("evict large"));
  EXPECT_EQ(obey(found).code, 0);
  EXPECT_TRUE(is_gone("memory_over_limit"));
  EXPECT_EQ(state("small"), "ready");
}

// The command ends what the pool takes; what others take, a person has to see to.
TEST_F(DoctorTest, AHostWithTooLittleMemoryLeft) {
  start({"--min-available", "0"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_EQ(poolctl(scratch_, {"pin", "m"}).code, 0);
  ASSERT_EQ(poolctl(scratch_, {"set", "min-available=1000TiB"}).code, 0);
  const json found = wait_for("host_memory_low");
  EXPECT_THAT(std::string(found["text"]), HasSubstr("min_available is 1000TiB"));
  EXPECT_EQ(obey(found).code, 0) << found;
  EXPECT_TRUE(wait_state("m", ""));
  const Finished shown = obey(wait_for("host_memory_low"));
  EXPECT_EQ(shown.code, 0);
  EXPECT_THAT(shown.out, HasSubstr("RSS"));
  ASSERT_EQ(poolctl(scratch_, {"set", "min-available=0"}).code, 0);
  EXPECT_TRUE(is_gone("host_memory_low"));
}

// --- Where it lies -------------------------------------------------------------------------------

TEST_F(DoctorTest, WhatIsOpenToOthers) {
  start();
  for (const std::string& what : {scratch_.dir(), path(), path() + ".users"}) {
    struct stat before;
    ASSERT_EQ(stat(what.c_str(), &before), 0);
    ASSERT_EQ(chmod(what.c_str(), (before.st_mode & 07777) | 044), 0);
    const json found = wait_for("wrong_mode");
    EXPECT_THAT(std::string(found["text"]), StartsWith(what + " is open"));
    EXPECT_TRUE(found["since_ms"].is_number());
    EXPECT_EQ(obey(found).code, 0);
    EXPECT_TRUE(is_gone("wrong_mode"));
    struct stat after;
    ASSERT_EQ(stat(what.c_str(), &after), 0);
    EXPECT_EQ(after.st_mode, before.st_mode);
  }
}

TEST_F(DoctorTest, WhatBelongsToAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  start();
  for (const std::string& what : {scratch_.dir(), path(), path() + ".users"}) {
    ASSERT_EQ(chown(what.c_str(), kNobody, static_cast<gid_t>(-1)), 0);
    const json found = wait_for("wrong_owner");
    EXPECT_THAT(std::string(found["text"]), StartsWith(what + " belongs to nobody"));
    EXPECT_EQ(obey(found).code, 0);
    EXPECT_TRUE(is_gone("wrong_owner"));
  }
}

// In a mount namespace where both default places are ours.
TEST_F(DoctorTest, TwoPoolsOfOneName) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can mount";
  Forked mounted([&](Forked::Child& parent) {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", "/run", "tmpfs", 0, "mode=755") != 0 ||
        mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777") != 0) {
      return parent.say("cannot mount");
    }
    unsetenv("MODELPOOL_DIR");
    const std::string name = "doctor-" + std::to_string(getpid());
    const auto doctor = [&name] {
      const Finished done = run({MODELPOOL_POOLCTL, "--pool", name, "-o", "json", "doctor"});
      const json said = json::parse(done.out, nullptr, false);
      return said.is_discarded() ? json(done.err) : said["findings"];
    };
    const auto begin_in = [&name](const char* dir) {
      auto judge = std::make_unique<Program>(
          std::vector<std::string>{MODELPOOL_COORDINATORD, "--pool", name, "--dir", dir});
      EXPECT_TRUE(eventually([&] { return judge->err().find("serving") != std::string::npos; }))
          << judge->err();
      return judge;
    };
    const auto end = [](Program& judge) {
      judge.signal(SIGTERM);
      judge.wait();
    };
    end(*begin_in("/dev/shm/modelpool-0"));
    EXPECT_EQ(mkdir("/run/modelpool", 0700), 0);
    const auto judge = begin_in("/run/modelpool");
    const json found = doctor();
    if (found.size() != 1) return parent.say(found.dump());
    EXPECT_EQ(found[0]["kind"], "two_pools") << found;
    EXPECT_THAT(std::string(found[0]["text"]), AllOf(HasSubstr("/run/modelpool/" + name),
                                                     HasSubstr("/dev/shm/modelpool-0/" + name)));
    const Finished done = obey(found[0]);
    EXPECT_EQ(done.code, 0) << found[0] << done.err;
    EXPECT_TRUE(fs::exists("/run/modelpool/" + name)) << "it took the one that is served";
    EXPECT_THAT(doctor(), IsEmpty());
    end(*judge);
    parent.say("done");
  });
  const std::string answer = mounted.hear();
  EXPECT_EQ(mounted.wait(), 0);
  if (answer == "cannot mount") GTEST_SKIP() << "this root may not mount";
  EXPECT_EQ(answer, "done");
}

TEST_F(DoctorTest, APoolThatHasLostItsNameAndWhoseCoordinatorEndsIt) {
  start();
  RemoteWorker worker(scratch_);
  worker.load("m");
  fs::rename(path(), scratch_.path("aside"));
  const json found = wait_for("name_lost");
  EXPECT_EQ(found["pid"], daemon().pid());
  EXPECT_THAT(std::string(found["text"]), HasSubstr(scratch_.path("aside")));
  const auto waiting = launch(found);
  worker.release("m");
  ASSERT_TRUE(eventually([&] { return !is_running(daemon().pid()); }));
  daemon().program().wait();  // as a supervisor does
  EXPECT_EQ(waiting->wait(), 0);
  EXPECT_TRUE(is_gone("name_lost"));
}

TEST_F(DoctorTest, APoolThatHasLostItsNameAndItsCoordinator) {
  start();
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  daemon().kill_now();
  fs::remove(path());
  const json found = wait_for("name_lost");
  EXPECT_THAT(std::string(found["text"]), HasSubstr("with 1 backend"));
  // The first run ends what is left and leaves; a supervisor, or a person, starts the next.
  run({"sh", "-c", found["command"]}, in_path());
  EXPECT_TRUE(is_gone("name_lost"));
  EXPECT_THAT(processes_with_environment(scratch_.dir()), IsEmpty());
}

class DoctorOfAFile : public DoctorTest {
 protected:
  // A pool of which nothing runs, with another header.
  void leave(const std::function<void(Header&)>& change) {
    start({"--max-backends", "7"});
    daemon_.reset();
    const Fd file(open(path().c_str(), O_RDWR | O_CLOEXEC));
    Header header;
    ASSERT_EQ(pread(file.get(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
    change(header);
    ASSERT_EQ(pwrite(file.get(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
  }
};

TEST_F(DoctorOfAFile, OfAnotherBoot) {
  leave([](Header& header) { header.boot_id[0] ^= 1; });
  const json found = wait_for("other_boot");
  EXPECT_TRUE(found["since_ms"].is_number());
  const auto begun = begin(found);
  EXPECT_TRUE(is_gone("other_boot"));
  EXPECT_EQ(status()["max_backends"], 7);
}

TEST_F(DoctorOfAFile, OfAnotherLayout) {
  leave([](Header& header) { ++header.layout_version; });
  const json found = wait_for("other_layout");
  EXPECT_THAT(std::string(found["text"]),
              HasSubstr("layout " + std::to_string(kLayoutVersion + 1)));
  const Finished done = obey(found);
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_TRUE(is_gone("other_layout"));
}

TEST_F(DoctorTest, ARecordThatCannotBeBelieved) {
  start();
  daemon().kill_now();
  Forked writer([&](Forked::Child&) {
    const Pool pool = attach(scratch_);
    segment_of(pool).backend(1).state.store(pack_half(5, 0xee), std::memory_order_seq_cst);
    Segment::reach(segment_of(pool).line().backends_reached, 1);
  });
  ASSERT_EQ(writer.wait(), 0);
  const json found = wait_for("damaged");
  const auto begun = begin(found);
  EXPECT_TRUE(is_gone("damaged"));
}

}  // namespace
}  // namespace modelpool::test
