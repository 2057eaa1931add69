// Readiness and liveness for a supervisor: systemd's protocol on a socket of the test's own, and a
// real s6-supervise.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "base/proc.hpp"
#include "base/time.hpp"
#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Supervisor {
 public:
  explicit Supervisor(const std::string& path) {
    fd_.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    if (bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
      throw std::runtime_error("bind");
  }
  // Everything received so far, a line an assignment.
  const std::string& text() {
    char buffer[4096];
    for (ssize_t got = 0; (got = recv(fd_.get(), buffer, sizeof buffer, 0)) > 0;) {
      text_.append(buffer, static_cast<std::size_t>(got));
    }
    return text_;
  }
  bool hears(const std::string& part) {
    return eventually([&] { return text().find(part) != std::string::npos; });
  }
  void forget() {
    text();
    text_.clear();
  }

 private:
  Fd fd_;
  std::string text_;
};

class SupervisorTest : public PoolTest {
 protected:
  void start_under(const std::string& watchdog_us, std::vector<std::string> flags = {}) {
    Program::Options options;
    options.env["NOTIFY_SOCKET"] = scratch_.path("notify");
    if (!watchdog_us.empty()) options.env["WATCHDOG_USEC"] = watchdog_us;
    daemon_ = std::make_unique<Daemon>(scratch_, std::move(flags), options);
  }
};

// A logger that has stopped, a terminal after Ctrl-S: the record is in the segment.
TEST_F(PoolTest, P8ALogThatNobodyReadsStopsNoDecision) {
  const std::string log = scratch_.path("log");
  ASSERT_EQ(mkfifo(log.c_str(), 0600), 0);
  const Fd reader(open(log.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_GT(fcntl(reader.get(), F_SETPIPE_SZ, 4096), 0);
  Program judge({"sh", "-c",
                 "exec " MODELPOOL_COORDINATORD " --dir " + scratch_.dir() +
                     " --idle-timeout 100ms 2> " + log});
  ASSERT_TRUE(eventually([&] { return poolctl(scratch_, {"status"}).code == 0; }));
  // More than the pipe holds.
  RemoteWorker worker(scratch_);
  for (int i = 0; i < 40; ++i) {
    const std::string model = "m" + std::to_string(i);
    ASSERT_EQ(worker.acquire(model), "ticket");
    ASSERT_EQ(worker.ready_external(model), "lease");
    worker.release(model);
  }
  EXPECT_EQ(wait_event("evicted", "m39")["reason"], "idle");
  judge.signal(SIGTERM);
  EXPECT_TRUE(eventually([&] { return !judge.running(); }));
}

TEST_F(SupervisorTest, SystemdHearsReadyStatusReloadingAndStopping) {
  Supervisor systemd(scratch_.path("notify"));
  const std::string config = scratch_.path("pool.toml");
  write_file(config, "[pool]\nmax_backends = 2\n");
  start_under("", {"--config", config});
  EXPECT_TRUE(systemd.hears("READY=1\n"));
  EXPECT_EQ(status()["coordinator"]["alive"], true) << "ready before it serves";
  RemoteWorker worker(scratch_);
  worker.load("m");
  EXPECT_TRUE(systemd.hears("STATUS=backends 1")) << systemd.text();
  EXPECT_THAT(systemd.text(), Not(HasSubstr("WATCHDOG=1"))) << "nobody asked for it";
  systemd.forget();
  daemon().program().signal(SIGHUP);
  EXPECT_TRUE(systemd.hears("RELOADING=1\nMONOTONIC_USEC="));
  EXPECT_TRUE(systemd.hears("READY=1\n"));
  systemd.forget();
  daemon().program().signal(SIGTERM);
  EXPECT_EQ(daemon().program().wait(), 0);
  EXPECT_THAT(systemd.text(), HasSubstr("STOPPING=1\n"));
}

TEST_F(SupervisorTest, TheWatchdogIsFedAndAStoppedCoordinatorDoesNotFeedIt) {
  Supervisor systemd(scratch_.path("notify"));
  start_under("100000");
  for (int i = 0; i < 3; ++i) {
    systemd.forget();
    EXPECT_TRUE(systemd.hears("WATCHDOG=1\n"));
  }
  daemon().program().signal(SIGSTOP);
  EXPECT_TRUE(eventually([&] { return read_stat(daemon().pid())->state == 'T'; }));
  systemd.forget();
  const std::uint64_t stopped = now_ns();
  EXPECT_TRUE(eventually([&] { return now_ns() - stopped > 300 * kMillisecond_ns; }));
  EXPECT_EQ(systemd.text(), "");
  daemon().program().signal(SIGCONT);
  EXPECT_TRUE(systemd.hears("WATCHDOG=1\n"));
}

TEST_F(SupervisorTest, ASupervisorThatIsGoneStopsNobody) {
  {
    Supervisor systemd(scratch_.path("notify"));
    start_under("50000");
    EXPECT_TRUE(systemd.hears("WATCHDOG=1\n"));
  }
  unlink(scratch_.path("notify").c_str());
  RemoteWorker worker(scratch_);
  EXPECT_NE(worker.load("m"), 0);
  EXPECT_TRUE(daemon().program().running());
}

// --- s6 ------------------------------------------------------------------------------------------

class S6Test : public PoolTest {
 protected:
  // The service directory of this project, with the daemon that was built.
  S6Test() {
    std::string pattern = "/tmp/modelpool-s6-XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    service_ = pattern;
    const std::filesystem::path source = MODELPOOL_SERVICES "/s6";
    std::string run = read_file(source / "run.in");
    const std::string bindir = std::filesystem::path(MODELPOOL_COORDINATORD).parent_path();
    for (std::size_t at = 0; (at = run.find("@bindir@")) != std::string::npos;)
      run.replace(at, 8, bindir);
    write_file(service_ + "/run", run);
    chmod((service_ + "/run").c_str(), 0755);
    for (const char* name : {"finish", "notification-fd"})
      std::filesystem::copy(source / name, service_);
    chmod((service_ + "/finish").c_str(), 0755);
  }
  ~S6Test() override {
    if (supervise_) {
      // x: s6-supervise itself ends when the service is down.
      test::run({"s6-svc", "-xd", service_});
      if (!eventually([&] { return !supervise_->running(); })) {
        const std::string pid = service_pid();
        if (!pid.empty()) kill(std::stoi(pid), SIGKILL);
      }
    }
    std::error_code ignored;
    std::filesystem::remove_all(service_, ignored);
  }
  void supervise() {
    Program::Options options;
    options.env["MODELPOOL_DIR"] = scratch_.dir();
    options.env["MODELPOOL_POOL"] = "default";
    supervise_ =
        std::make_unique<Program>(std::vector<std::string>{"s6-supervise", service_}, options);
    ASSERT_TRUE(eventually([&] { return test::run({"s6-svok", service_}).code == 0; }));
  }
  bool is_ready() { return test::run({"s6-svwait", "-U", "-t", "20000", service_}).code == 0; }
  std::string service_pid() {
    std::string pid = test::run({"s6-svstat", "-o", "pid", service_}).out;
    pid.erase(pid.find_last_not_of('\n') + 1);
    return pid == "-1" ? "" : pid;
  }

  std::string service_;
  std::unique_ptr<Program> supervise_;
};

TEST_F(S6Test, S6SeesItReadyRestartsItAfterSigkillAndLetsItGoInOrder) {
  if (test::run({"sh", "-c", "command -v s6-supervise s6-svc s6-svok s6-svwait s6-svstat"}).code !=
      0) {
    GTEST_SKIP() << "s6 is not installed: apt-get install s6";
  }
  supervise();
  ASSERT_TRUE(is_ready()) << supervise_->out() << supervise_->err();
  const auto first = status()["coordinator"];
  EXPECT_EQ(first["alive"], true) << "ready before it serves";
  EXPECT_EQ(std::to_string(first["pid"].get<int>()), service_pid());

  RemoteWorker worker(scratch_);
  const pid_t backend = worker.load("m");
  kill(first["pid"].get<pid_t>(), SIGKILL);
  ASSERT_TRUE(eventually([&] {
    const auto now = status()["coordinator"];
    return now["alive"] == true && now["pid"] != first["pid"];
  }));
  EXPECT_TRUE(is_ready());
  EXPECT_EQ(status()["coordinator"]["epoch"], 2);
  EXPECT_EQ(worker.progress("m"), "ok");
  EXPECT_TRUE(is_running(backend));

  test::run({"s6-svc", "-d", service_});
  EXPECT_EQ(test::run({"s6-svwait", "-D", "-t", "20000", service_}).code, 0);
  EXPECT_EQ(status()["coordinator"]["left"], true);
  EXPECT_TRUE(is_running(backend));
}

TEST_F(S6Test, S6DoesNotTryAgainWhatNeedsAPerson) {
  if (test::run({"sh", "-c", "command -v s6-supervise s6-svc s6-svok s6-svwait s6-svstat"}).code !=
      0) {
    GTEST_SKIP() << "s6 is not installed: apt-get install s6";
  }
  write_file(scratch_.path("default"), "not a pool");
  chmod(scratch_.path("default").c_str(), 0600);
  supervise();
  EXPECT_TRUE(eventually([&] {
    return test::run({"s6-svstat", "-o", "up,wantedup", service_}).out == "false false\n";
  })) << test::run({"s6-svstat", service_}).out;
}

// Its refusals at start had no priority: the journal took them for information.
TEST(JournalTest, ARefusalAtStartIsAnErrorOfTheJournal) {
  const std::string refused = "\"$0\" --config /nowhere";
  const test::Finished plain = test::run({"sh", "-c", "exec " + refused, MODELPOOL_COORDINATORD});
  EXPECT_EQ(plain.code, 2);
  EXPECT_TRUE(plain.err.starts_with("coordinatord: unable to ")) << plain.err;
  const test::Finished journal =
      test::run({"sh", "-c", "JOURNAL_STREAM=$(stat -L -c %d:%i /dev/fd/2) exec " + refused,
                 MODELPOOL_COORDINATORD});
  EXPECT_EQ(journal.code, 2);
  EXPECT_TRUE(journal.err.starts_with("<3>coordinatord: unable to ")) << journal.err;
}

// Against a journal of the test's own, with room for 5 entries: an event can be selected by its
// fields, and neither a journal that hangs nor one that is gone holds the coordinator up.
TEST(JournalTest, AnEventHasFieldsAndAJournalThatHangsHoldsNothingUp) {
  const std::string journald = "/usr/lib/systemd/systemd-journald";
  const auto apart = [](const std::vector<std::string>& command, const Program::Options& options) {
    std::vector<std::string> argv = {"unshare", "--mount", "--propagation", "unchanged",   "--pid",
                                     "--net",   "--fork",  "--mount-proc",  "--kill-child"};
    argv.insert(argv.end(), command.begin(), command.end());
    return test::run(argv, options);
  };
  if (!std::filesystem::exists(journald) || apart({"true"}, {}).code != 0)
    GTEST_SKIP() << "needs " << journald << ", and namespaces";
  const Scratch scratch;
  Program::Options options;
  options.env = {{"COORDINATORD", MODELPOOL_COORDINATORD},
                 {"POOLCTL", MODELPOOL_POOLCTL},
                 {"JOURNALD", journald},
                 {"DIR", scratch.path("pool")}};
  const test::Finished finished = apart({"sh", "-ec", R"(
    exec 3>&1 >/dev/null
    eventually() { i=0; until "$@"; do i=$((i + 1)); [ $i -lt 600 ]; sleep 0.05; done; }
    told() { journalctl -q -D /run/log/journal -o json MODELPOOL_KIND="$1" | grep .; }
    poolctl() { "$POOLCTL" --dir "$DIR" "$@"; }
    # In a chroot its root is no mount.
    mount --make-rprivate / || mount --make-rprivate /run || :
    mount -t tmpfs tmpfs /run
    mkdir -p /run/systemd/journal /run/log/journal
    [ -s /etc/machine-id ] || {
      echo 0123456789abcdef0123456789abcdef >/run/id; mount --bind /run/id /etc/machine-id; }
    echo 4 >/proc/sys/net/unix/max_dgram_qlen || :
    "$JOURNALD" 2>/dev/null & journald=$!
    eventually test -S /run/systemd/journal/stdout
    systemd-cat sh -c 'JOURNAL_STREAM=$(stat -L -c %d:%i /dev/fd/2) \
      exec "$COORDINATORD" --dir "$DIR"' &
    poolctl --wait 30s status
    poolctl run 'a "b"' -- true
    eventually told exited
    told exited >&3
    kill -STOP $journald
    for i in 1 2 3 4 5 6 7 8 9 10; do poolctl run x -- true; done
    kill -KILL $journald
    for i in 1 2 3 4 5 6 7 8 9 10; do poolctl run x -- true; done
    poolctl events --kind exited -o json | grep -c . >&3)"},
                                        options);
  ASSERT_EQ(finished.code, 0) << finished.err;
  std::istringstream lines(finished.out);
  std::string line;
  std::getline(lines, line);
  const auto entry = nlohmann::json::parse(line);
  EXPECT_EQ(entry["MODELPOOL_MODEL"], "a \"b\"");
  EXPECT_EQ(entry["MODELPOOL_EXIT"], "exit status 0");
  EXPECT_EQ(entry["PRIORITY"], "6");
  EXPECT_EQ(entry["SYSLOG_IDENTIFIER"], "coordinatord");
  EXPECT_THAT(entry["MESSAGE"].get<std::string>(), HasSubstr("exited seq="));
  std::getline(lines, line);
  EXPECT_EQ(line, "21") << "the pool has them all";
}

}  // namespace
}  // namespace modelpool::test
