// The output of backends: kept, cut, shown, and told of a load that failed; with the real
// coordinator and real writers.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>

#include "base/model_log.hpp"
#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

constexpr std::uint64_t kLogMax_bytes = 64 * 1024;
// Writes numbered lines as fast as it can.
const std::string kWriter = "i=0; while :; do i=$((i+1)); echo line $i; done\n";

std::uint64_t inode_of(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

// What is wrong with output that should be the writer's: lines that are not one greater than the
// one before. Where the file system takes no beginning out of a file, some may be lost in a cut.
struct Numbered {
  long lines = 0;
  long lost = 0;
  long wrong = 0;  // torn, or again
};
Numbered judge(const std::string& text) {
  Numbered found;
  long before = -1;
  for (std::size_t at = text.find_first_not_of('\0'); at < text.size();) {
    const std::size_t end = text.find('\n', at);
    if (end == std::string::npos) break;  // still being written
    long number = 0;
    const std::string line = text.substr(at, end - at);
    if (sscanf(line.c_str(), "line %ld", &number) == 1 && number > before &&
        line == "line " + std::to_string(number)) {
      if (before >= 0) found.lost += number - before - 1;
      ++found.lines;
      before = number;
    } else if (at != 0) {
      ++found.wrong;
    }
    at = end + 1;
  }
  return found;
}

class OutputTest : public PoolTest {
 protected:
  Daemon& start(std::vector<std::string> flags = {}) {
    flags.insert(flags.begin(), {"--log-dir", dir_, "--load-cooldown", "1h", "--stop-grace", "1s"});
    return PoolTest::start(std::move(flags));
  }
  // Loads a model by a script; "starting" from then on.
  pid_t spawn(RemoteWorker& worker, const std::string& model, const std::string& script) {
    const std::string path = scratch_.path("script" + std::to_string(++scripts_));
    write_file(path, script);
    EXPECT_EQ(worker.acquire(model), "ticket");
    const std::string said = worker.spawn_program(model, {"sh", path});
    EXPECT_THAT(said, ::testing::StartsWith("pid ")) << worker.last_error();
    return said.starts_with("pid ") ? std::stoi(said.substr(4)) : 0;
  }
  // One that has joined the line, but not looked yet, finds the model cooling down.
  static auto is_refused() { return ::testing::AnyOf("load_failed", "cooling_down"); }
  void wait_in_line(RemoteWorker& waiter) {
    waiter.begin_acquire("m");
    EXPECT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  }
  std::string log(const std::string& model = "m") { return dir_ + "/" + model_log_name(model); }
  bool is_cut_again(int times) {
    for (int i = 0; i < times; ++i) {
      const std::uint64_t before = inode_of(log() + ".1");
      // Held open, so that the next one has another inode.
      const Fd held(open((log() + ".1").c_str(), O_RDONLY | O_CLOEXEC));
      if (!eventually([&] { return inode_of(log() + ".1") != before; })) return false;
    }
    return true;
  }
  // Of what `read` returns of a writer that is stopped. How much a cut loses is up to who has the
  // CPU meanwhile: not each loses more than a tenth.
  template <class Read>
  Numbered stop_where_little_is_lost(pid_t pid, const Read& read) {
    Numbered seen;
    for (int cuts = 0; cuts < 20; ++cuts) {
      kill(pid, SIGSTOP);
      EXPECT_TRUE(has_stopped(pid));
      seen = judge(read());
      if (seen.lost <= seen.lines / 10) return seen;
      kill(pid, SIGCONT);
      EXPECT_TRUE(is_cut_again(1));
    }
    ADD_FAILURE() << seen.lost << " lost of " << seen.lines;
    return seen;
  }
  Finished logs(std::vector<std::string> args) {
    args.insert(args.begin(), "logs");
    return poolctl(scratch_, args);
  }
  std::unique_ptr<Program> follower(std::vector<std::string> args) {
    args.insert(args.begin(), {MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "logs", "--follow"});
    return std::make_unique<Program>(args);
  }

  std::string dir_ = scratch_.path("logs");
  int scripts_ = 0;
};

TEST_F(OutputTest, OfABackendThatWritesAsFastAsItCanIsBoundedAndItWritesOn) {
  start({"--log-max", "64KiB"});
  RemoteWorker worker(scratch_);
  const pid_t pid = spawn(worker, "m", kWriter);
  ASSERT_TRUE(is_cut_again(3));
  EXPECT_TRUE(is_running(pid));
  // The previous holds what was last, as much as was asked for; the rest is a hole.
  const Fd previous(open((log() + ".1").c_str(), O_RDONLY | O_CLOEXEC));
  const off_t begin = lseek(previous.get(), 0, SEEK_DATA);
  EXPECT_LE(lseek(previous.get(), 0, SEEK_END) - begin, static_cast<off_t>(kLogMax_bytes + 8192));
  const Numbered kept = stop_where_little_is_lost(pid, [&] { return logs({"m"}).out; });
  EXPECT_GT(kept.lines, 1000);
  EXPECT_LE(kept.wrong, 2) << "but where it was cut";
  kill(pid, SIGCONT);
  EXPECT_TRUE(is_cut_again(1));
}

TEST_F(OutputTest, ThatRestsWakesNobody) {
  start();
  RemoteWorker worker(scratch_);
  spawn(worker, "m", "echo once; exec sleep 60\n");
  EXPECT_EQ(worker.ready("m"), "lease");
  ASSERT_TRUE(eventually([&] { return read_file(log()) == "once\n"; }));
  // Until it has seen twice that it rests: then it sleeps for longer than it ever looked.
  std::uint64_t before = 0;
  int quiet = 0;
  EXPECT_TRUE(eventually([&] {
    usleep(300'000);
    const std::uint64_t now = voluntary_switches(daemon().pid());
    quiet = now == before ? quiet + 1 : 0;
    before = now;
    return quiet == 10;
  }));
}

TEST_F(OutputTest, IsFollowedOverCutsAndIntoTheNextLife) {
  start({"--log-max", "64KiB"});
  RemoteWorker worker(scratch_);
  const pid_t pid = spawn(worker, "m", kWriter);
  ASSERT_TRUE(eventually([&] { return !read_file(log()).empty(); }));
  const auto follows = follower({"m"});
  ASSERT_TRUE(eventually([&] { return !follows->out().empty(); }));
  ASSERT_TRUE(is_cut_again(3));
  int reads = 0;
  const Numbered seen = stop_where_little_is_lost(pid, [&] {
    ++reads;
    const std::string last = logs({"m", "-n", "1"}).out;
    // The open line, if there is one, comes too.
    EXPECT_TRUE(eventually([&] { return follows->out().ends_with(last); }));
    return follows->out();
  });
  EXPECT_GT(seen.lines, 10'000);
  EXPECT_LE(seen.wrong, 3 + reads) << "torn at most once a cut";

  kill(pid, SIGCONT);
  ASSERT_EQ(poolctl(scratch_, {"evict", "--force", "m"}).code, 0);
  worker.release("m");
  ASSERT_TRUE(eventually([&] { return entry("m").is_null(); }));
  spawn(worker, "m", "echo of the next life; exec sleep 60\n");
  EXPECT_TRUE(eventually([&] { return follows->out().ends_with("of the next life\n"); }));
  follows->signal(SIGINT);
  EXPECT_EQ(follows->wait(), 0);
  EXPECT_EQ(logs({"m"}).out, "of the next life\n");
  EXPECT_GT(judge(logs({"m", "--previous"}).out).lines, 0);
}

TEST_F(OutputTest, IsBoundedAgainByTheNextCoordinatorWhereverOneWasKilled) {
  start({"--log-max", "64KiB"});
  RemoteWorker worker(scratch_);
  const pid_t pid = spawn(worker, "m", kWriter);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(is_cut_again(1));
    daemon().kill_now();
    EXPECT_TRUE(is_running(pid));
    daemon().start();
  }
  ASSERT_TRUE(is_cut_again(2));
  kill(pid, SIGSTOP);
  ASSERT_TRUE(has_stopped(pid));
  EXPECT_LE(judge(logs({"m"}).out).wrong, 2);
}

TEST_F(OutputTest, OfALoadThatFailedIsToldToWhoWaitsAndInTheEvent) {
  start();
  RemoteWorker loader(scratch_);
  RemoteWorker waiter(scratch_);
  EXPECT_EQ(loader.acquire("m"), "ticket");
  wait_in_line(waiter);
  const std::string script = scratch_.path("fails");
  write_file(script,
             "for i in 1 2 3; do echo step $i; done; echo 'no such \033[31mmodel\033[0m' >&2; "
             "kill -SEGV $$\n");
  loader.spawn_program("m", {"sh", script});
  EXPECT_THAT(waiter.hear(), is_refused());
  EXPECT_THAT(
      waiter.last_error(),
      AllOf(HasSubstr("its process ended before it was ready: it crashed at a memory access "
                      "(signal SIGSEGV); its last lines: step 1 | step 2 | step 3 | no such "
                      "model"),
            HasSubstr("logs m` has more")));
  EXPECT_THAT(wait_event("load_failed", "m")["text"],
              EndsWith("its last lines: step 1 | step 2 | step 3 | no such model"));
  const Finished shown = logs({"m"});
  EXPECT_EQ(shown.code, 0) << shown.err;
  EXPECT_THAT(shown.out, HasSubstr("step 3\n"));
  EXPECT_THAT(poolctl(scratch_, {"explain", "m"}).out, HasSubstr("no such model"));
}

TEST_F(OutputTest, OfALoadThatItsLoaderCallsFailedIsToldToo) {
  start();
  RemoteWorker loader(scratch_);
  RemoteWorker waiter(scratch_);
  spawn(loader, "m", "echo out of memory; exec sleep 60\n");
  ASSERT_TRUE(eventually([&] { return !read_file(log()).empty(); }));
  wait_in_line(waiter);
  EXPECT_EQ(loader.fail("m", "no-answer"), "ok");
  EXPECT_THAT(waiter.hear(), is_refused());
  EXPECT_THAT(waiter.last_error(), HasSubstr("no-answer; its last lines: out of memory"));
  EXPECT_THAT(wait_event("load_failed", "m")["text"], HasSubstr("its last lines: out of memory"));
}

TEST_F(OutputTest, ThatIsLongIsToldByItsNewestLinesAndTheEventHasMore) {
  start();
  RemoteWorker worker(scratch_);
  RemoteWorker waiter(scratch_);
  EXPECT_EQ(worker.acquire("m"), "ticket");
  wait_in_line(waiter);
  const std::string script = scratch_.path("fails");
  write_file(script,
             "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo this is step $i; done; exit 127\n");
  worker.spawn_program("m", {"sh", script});
  EXPECT_THAT(waiter.hear(), is_refused());
  const std::string told = waiter.last_error();
  EXPECT_THAT(told, AllOf(HasSubstr("a program or a library that it needs is missing (exit status "
                                    "127)"),
                          HasSubstr("| this is step 40"), Not(HasSubstr("this is step 30"))));
  const std::string event = wait_event("load_failed", "m")["text"];
  EXPECT_THAT(event, AllOf(HasSubstr("| this is step 40"), HasSubstr("this is step 30")));
  EXPECT_THAT(event, Not(HasSubstr("this is step 20 "))) << "of 20 lines";
}

// A cgroup of 32 MiB, of either version; "" where none can be made.
class SmallCgroup {
 public:
  SmallCgroup() {
    const std::string name = "/modelpool-test-" + std::to_string(getpid());
    std::istringstream lines(read_file("/proc/self/cgroup"));
    for (std::string line; std::getline(lines, line);) {
      const std::string own = line.substr(line.rfind(':') + 1);
      const bool is_old = line.find(":memory:") != std::string::npos;
      if (!is_old && !line.starts_with("0::")) continue;
      const std::string dir = (is_old ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup") + own + name;
      if (mkdir(dir.c_str(), 0700) != 0) continue;
      write_file(dir + (is_old ? "/memory.limit_in_bytes" : "/memory.max"), "33554432");
      if (!read_file(dir + (is_old ? "/memory.limit_in_bytes" : "/memory.max"))
               .starts_with("335")) {
        rmdir(dir.c_str());
        continue;
      }
      dir_ = dir;
      return;
    }
  }
  ~SmallCgroup() {
    if (!dir_.empty()) eventually([&] { return rmdir(dir_.c_str()) == 0; });
  }
  const std::string& dir() const { return dir_; }

 private:
  std::string dir_;
};

TEST_F(OutputTest, OfALoadThatTheKernelKilledForMemoryIsToldWithThat) {
  const SmallCgroup cgroup;
  if (cgroup.dir().empty()) GTEST_SKIP() << "this user may make no cgroup with a limit";
  start();
  RemoteWorker loader(scratch_);
  RemoteWorker waiter(scratch_);
  spawn(loader, "m",
        "echo $$ >" + cgroup.dir() + "/cgroup.procs; echo loading; until [ -e " +
            scratch_.path("go") + " ]; do sleep 0.01; done; exec tail /dev/zero\n");
  ASSERT_TRUE(eventually([&] { return read_file(log()).find("loading") != std::string::npos; }));
  wait_in_line(waiter);
  write_file(scratch_.path("go"), "");
  EXPECT_THAT(waiter.hear(), is_refused());
  EXPECT_THAT(waiter.last_error(),
              AllOf(HasSubstr("killed for memory by the kernel"), HasSubstr("(signal SIGKILL)"),
                    HasSubstr("its last lines: loading")));
}

// The first time; a second failure in a row cools down.
TEST_F(OutputTest, ALoadThatRanOutOfMemoryBesideAnIdleBackendEvictsItAndMayBeTriedAgainAtOnce) {
  const SmallCgroup cgroup;
  if (cgroup.dir().empty()) GTEST_SKIP() << "this user may make no cgroup with a limit";
  start({"--eviction", "lru"});
  RemoteWorker loader(scratch_);
  loader.load_idle("idle");
  loader.load_idle("newer");
  const auto run_out_of_memory = [&] {
    spawn(loader, "m",
          "echo $$ >" + cgroup.dir() + "/cgroup.procs; until [ -e " + scratch_.path("go") +
              " ]; do sleep 0.01; done; exec tail /dev/zero\n");
    // The judge counts what the kernel killed from its first look at the load.
    const auto scans = [&] { return status()["coordinator"]["scans"].get<std::uint64_t>(); };
    const std::uint64_t before = scans();
    EXPECT_TRUE(eventually([&] {
      poolctl(scratch_, {"set", "stall_timeout=" + std::to_string(3600 + scans()) + "s"});
      return scans() > before + 1;
    }));
    write_file(scratch_.path("go"), "");
  };
  run_out_of_memory();
  auto failed = wait_event("load_failed", "m");
  EXPECT_THAT(failed["text"], HasSubstr("killed for memory"));
  auto evicted = wait_event("evicted", "idle");
  EXPECT_EQ(evicted["reason"], "memory");
  EXPECT_EQ(evicted["text"], "room for m, whose load ran out of memory");
  EXPECT_EQ(state("newer"), "ready");
  loader.release("m");

  std::filesystem::remove(scratch_.path("go"));
  run_out_of_memory();  // granted, although load_cooldown is an hour
  EXPECT_TRUE(eventually([&] { return count_events("load_failed", "m") == 2; }));
  loader.release("m");
  EXPECT_EQ(loader.acquire("m"), "cooling_down");
  EXPECT_EQ(state("newer"), "ready");
}

TEST_F(OutputTest, ThatIsNotKeptIsSaidInTheEventAndInTheLog) {
  write_file(scratch_.path("file"), "");
  PoolTest::start({"--log-dir", scratch_.path("file")});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  EXPECT_THAT(wait_event("loaded", "m")["text"], HasSubstr("no output kept: "));
  EXPECT_TRUE(eventually([&] { return daemon().log().find("is not kept") != std::string::npos; }));
  const Finished refused = logs({"m"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("unable to show the output of m: it is not kept"),
                                 HasSubstr("Not a directory")));
  EXPECT_EQ(list()[0]["log"], nullptr);
  EXPECT_THAT(list()[0]["log_missing"], HasSubstr("log directory"));
}

TEST_F(OutputTest, ThatIsSomebodyElsesIsLeftAloneAndSaidOnce) {
  start({"--log-max", "4KiB"});
  RemoteWorker worker(scratch_);
  spawn(worker, "m", "exec sleep 60\n");
  const std::string thesis = scratch_.path("thesis");
  write_file(thesis, std::string(100'000, 'x'));
  unlink(log().c_str());
  ASSERT_EQ(symlink(thesis.c_str(), log().c_str()), 0);
  const auto says = [&] { return daemon().log().find("unable to cut"); };
  // A backend that is new is looked at: this one's log is no file of its own.
  daemon().kill_now();
  daemon().start();
  ASSERT_TRUE(eventually([&] { return says() != std::string::npos; })) << daemon().log();
  EXPECT_EQ(read_file(thesis).size(), 100'000u);
}

TEST_F(OutputTest, IsShownAsItsLastLinesAndPlainlyRefusedWhereThereIsNone) {
  start();
  RemoteWorker worker(scratch_);
  spawn(worker, "org/m", "echo one; echo two; printf three; exec sleep 60\n");
  ASSERT_TRUE(eventually([&] { return read_file(log("org/m")) == "one\ntwo\nthree"; }));
  EXPECT_EQ(logs({"org/m"}).out, "one\ntwo\nthree");
  EXPECT_EQ(logs({"org/m", "-n", "2"}).out, "two\nthree");
  EXPECT_EQ(logs({"org/m", "-n", "0"}).out, "");
  EXPECT_EQ(logs({"org/m", "--lines", "9"}).out, "one\ntwo\nthree");
  const auto refusal = [&](std::vector<std::string> args, int code = 1) {
    const Finished refused = logs(std::move(args));
    EXPECT_EQ(refused.code, code);
    EXPECT_EQ(refused.out, "");
    return refused.err;
  };
  EXPECT_THAT(refusal({"org/m", "--previous"}), HasSubstr("there is none in"));
  EXPECT_THAT(refusal({"org/n"}), AllOf(HasSubstr("there is none in " + dir_ + "/org%2Fn.log"),
                                        HasSubstr("did you mean org/m?")));
  refusal({"org/m", "--previous", "--follow"}, 2);
  refusal({"org/m", "-n", "x"}, 2);
  EXPECT_EQ(poolctl(scratch_, {"-o", "json", "logs", "org/m"}).code, 2);
  ASSERT_EQ(poolctl(scratch_, {"set", "log-dir=off"}).code, 0);
  EXPECT_EQ(logs({"org/m"}).code, 0) << "the backend that runs says where its own is";
  EXPECT_THAT(refusal({"other"}), HasSubstr("log_dir is off"));
}

TEST_F(OutputTest, OnATerminalIsShownWithoutWhatThatWouldActOn) {
  start();
  RemoteWorker worker(scratch_);
  spawn(worker, "m", "printf 'a\\033[2Jb\\r\\n\\303\\244 \\377\\007\\n'; exec sleep 60\n");
  ASSERT_TRUE(eventually([&] { return read_file(log()).size() == 14; })) << read_file(log()).size();
  EXPECT_EQ(logs({"m"}).out, read_file(log())) << "a pipe gets what was written";
  const Fd terminal(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_TRUE(terminal);
  ASSERT_EQ(grantpt(terminal.get()) | unlockpt(terminal.get()), 0);
  char name[64];
  ASSERT_EQ(ptsname_r(terminal.get(), name, sizeof name), 0);
  const Fd held(open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
  const std::string line =
      std::string(MODELPOOL_POOLCTL) + " --dir " + scratch_.dir() + " logs m >" + name;
  ASSERT_EQ(run({"sh", "-c", line}).code, 0);
  char text[256];
  const ssize_t got = read(terminal.get(), text, sizeof text);
  ASSERT_GT(got, 0);
  EXPECT_EQ(std::string(text, static_cast<std::size_t>(got)),
            "a\\x1b[2Jb\r\n\xc3\xa4 \\xff\\x07\r\n");
}

}  // namespace
}  // namespace modelpool::test
