#include "protocol/spawn.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/proc.hpp"
#include "segment/layout.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

Result<> open_the_gate(const ProcessIdentity&) { return {}; }

// Ends and reaps it.
void end(pid_t pid) {
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

TEST(SpawnGated, RunsTheProgramOnlyAfterTheGateIsOpen) {
  const Scratch scratch;
  const std::string mark = scratch.path("mark");
  bool ran_before = true;
  ProcessIdentity at_gate;
  auto process = spawn_gated(
      {"sh", "-c", "echo ran > " + mark + "; exec sleep 60"}, {},
      [&](const ProcessIdentity& child) -> Result<> {
        at_gate = child;
        const auto stat = read_stat(child.pid);
        EXPECT_TRUE(stat && !stat->is_zombie());
        // It waits: give it the time in which it would have run.
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        ran_before = std::filesystem::exists(mark);
        return {};
      },
      [] { FAIL() << "nothing has failed"; });
  ASSERT_TRUE(process) << process.error().text;
  EXPECT_FALSE(ran_before);
  EXPECT_TRUE(process->identity().is(at_gate));  // exec changes nothing of who it is
  EXPECT_TRUE(eventually([&] { return read_file(mark) == "ran\n"; }));
  end(process->identity().pid);
}

TEST(SpawnGated, EndsTheChildIfTheGateIsNotToBeOpened) {
  const Scratch scratch;
  const std::string mark = scratch.path("mark");
  pid_t pid = 0;
  const auto refused = spawn_gated(
      {"sh", "-c", "echo ran > " + mark}, {},
      [&](const ProcessIdentity& child) -> Result<> {
        pid = child.pid;
        return fail(Errc::kTicketLost, "too late");
      },
      [] { FAIL() << "it was not tried"; });
  EXPECT_EQ(code_of(refused), Errc::kTicketLost);
  ASSERT_GT(pid, 1);
  EXPECT_FALSE(read_stat(pid)) << "it is gone and reaped";
  EXPECT_FALSE(std::filesystem::exists(mark));
}

TEST(SpawnGated, TellsOfAFailedExecWhileTheChildIsStillThere) {
  pid_t pid = 0;
  bool was_there = false;
  const auto refused = spawn_gated(
      {"/no/such/program"}, {},
      [&](const ProcessIdentity& child) -> Result<> {
        pid = child.pid;
        return {};
      },
      [&] { was_there = is_running(pid); });
  EXPECT_EQ(code_of(refused), Errc::kSpawnFailed);
  EXPECT_EQ(text_of(refused), "unable to execute /no/such/program: No such file or directory");
  EXPECT_EQ(refused.error().system, ENOENT);
  EXPECT_TRUE(was_there);
  EXPECT_FALSE(read_stat(pid));
}

TEST(SpawnGated, LooksForTheProgramInPath) {
  const Scratch scratch;  // tmpfs may be mounted noexec: then the programs lie elsewhere
  std::string dir = "/tmp/modelpool-test-XXXXXX";
  ASSERT_NE(mkdtemp(dir.data()), nullptr);
  for (const char* name : {"/forbidden", "/allowed"}) std::filesystem::create_directory(dir + name);
  write_file(dir + "/forbidden/prog", "#!/bin/sh\nexit 1\n");  // not executable
  write_file(dir + "/allowed/prog", "#!/bin/sh\nexec sleep 60\n");
  chmod((dir + "/allowed/prog").c_str(), 0755);
  Forked child([&](Forked::Child&) {
    setenv("PATH", (dir + "/none:" + dir + "/forbidden:" + dir + "/allowed:/usr/bin:/bin").c_str(),
           1);
    auto process = spawn_gated({"prog"}, {}, open_the_gate, [] {});
    EXPECT_TRUE(process) << process.error().text;
    if (process) end(process->identity().pid);
    setenv("PATH", (dir + "/none:" + dir + "/forbidden").c_str(), 1);
    const auto refused = spawn_gated({"prog"}, {}, open_the_gate, [] {});
    EXPECT_EQ(code_of(refused), Errc::kSpawnFailed);
    EXPECT_EQ(refused.error().system, EACCES);
  });
  EXPECT_EQ(child.wait(), 0);
  std::filesystem::remove_all(dir);
}

TEST(SpawnGated, AJobStaysInTheCallersSessionWithItsFilesInAGroupOfItsOwn) {
  const Scratch scratch;
  Forked parent([&](Forked::Child&) {
    const int file = open(scratch.path("out").c_str(), O_RDWR | O_CREAT, 0600);
    dup2(file, 1);
    dup2(file, 77);  // stays open, as it does for a shell's job
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    SpawnOptions options;
    options.is_job = true;
    const auto job = spawn_gated(
        {"bash", "-c", "echo out; echo more >&77; grep SigIgn /proc/self/status; exec sleep 60"},
        options, open_the_gate, [] {});
    ASSERT_TRUE(job) << text_of(job);
    const pid_t pid = job->identity().pid;
    EXPECT_EQ(getsid(pid), getsid(0));
    EXPECT_EQ(getpgid(pid), pid);
    EXPECT_TRUE(eventually([&] {
      // SIGHUP alone: what a program ignores for itself is not meant for its jobs.
      return read_file(scratch.path("out")) == "out\nmore\nSigIgn:\t0000000000000001\n";
    })) << read_file(scratch.path("out"));
    end(pid);
  });
  EXPECT_EQ(parent.wait(), 0);
}

TEST(SpawnGated, RefusesAnOutputItCannotOpen) {
  SpawnOptions options;
  options.output = "/no/such/directory/log";
  bool gate = false;
  const auto refused = spawn_gated(
      {"true"}, options,
      [&](const ProcessIdentity&) -> Result<> {
        gate = true;
        return {};
      },
      [] {});
  EXPECT_FALSE(refused);
  EXPECT_NE(text_of(refused).find(options.output), std::string::npos);
  EXPECT_FALSE(gate);
}

// To open it for writing took until somebody read it, beyond every timeout.
TEST(SpawnGated, RefusesAFifoThatNobodyReads) {
  const Scratch scratch;
  const std::string fifo = scratch.path("fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  SpawnOptions output;
  output.output = fifo;
  SpawnOptions errors;
  errors.error_output = fifo;
  for (const SpawnOptions& options : {output, errors}) {
    const auto refused = spawn_gated({"true"}, options, open_the_gate, [] {});
    EXPECT_EQ(code_of(refused), Errc::kInvalid);
    EXPECT_NE(text_of(refused).find(fifo + ": nobody reads this FIFO"), std::string::npos)
        << text_of(refused);
  }
}

TEST(SpawnGated, WritesToAFifoThatSomebodyReadsAndWaitsForItsReader) {
  const Scratch scratch;
  SpawnOptions options;
  options.output = scratch.path("fifo");
  ASSERT_EQ(mkfifo(options.output.c_str(), 0600), 0);
  const Fd reader(open(options.output.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_TRUE(reader);
  // More than a pipe holds: with O_NONBLOCK left on, the writer would lose the rest.
  auto process = spawn_gated({"sh", "-c", "head -c 1000000 /dev/zero && echo end"}, options,
                             open_the_gate, [] {});
  ASSERT_TRUE(process) << process.error().text;
  std::string text;
  EXPECT_TRUE(eventually([&] {
    char chunk[65536];
    for (ssize_t got; (got = read(reader.get(), chunk, sizeof chunk)) > 0;) {
      text.append(chunk, static_cast<std::size_t>(got));
    }
    return text.ends_with("end\n");
  }));
  EXPECT_EQ(text.size(), 1'000'004u);
  waitpid(process->identity().pid, nullptr, 0);
}

TEST(SpawnGated, RefusesAnOutputThatIsNoFileOrTerminal) {
  const Scratch scratch;
  const std::string path = scratch.path("socket");
  const Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  SpawnOptions options;
  options.output = path;
  EXPECT_EQ(code_of(spawn_gated({"true"}, options, open_the_gate, [] {})), Errc::kInvalid);
  options.output = scratch.dir();
  EXPECT_EQ(spawn_gated({"true"}, options, open_the_gate, [] {}).error().system, EISDIR);
  options.output = scratch.path("none/at all");
  EXPECT_EQ(spawn_gated({"true"}, options, open_the_gate, [] {}).error().system, ENOENT);
  options.output = std::string("a\0b", 3);
  EXPECT_EQ(code_of(spawn_gated({"true"}, options, open_the_gate, [] {})), Errc::kInvalid);
  options.output = "/dev/full";
  auto process = spawn_gated({"sleep", "60"}, options, open_the_gate, [] {});
  ASSERT_TRUE(process) << process.error().text;
  end(process->identity().pid);
}

TEST(SpawnGated, RefusesTextsWithANulByte) {
  SpawnOptions options;
  options.cwd = std::string("/tmp\0x", 6);
  EXPECT_EQ(code_of(spawn_gated({"true"}, options, open_the_gate, [] {})), Errc::kInvalid);
  EXPECT_EQ(code_of(spawn_gated({"echo", std::string("a\0b", 3)}, {}, open_the_gate, [] {})),
            Errc::kInvalid);
}

// The program was waited for until it showed an environment: this one never does.
TEST(SpawnGated, ReturnsForAProgramThatHasNoEnvironment) {
  std::vector<pid_t> pids;
  for (int i = 0; i < 50; ++i) {
    auto process = spawn_gated({"env", "-i", "/bin/sleep", "60"}, {}, open_the_gate, [] {});
    ASSERT_TRUE(process) << process.error().text;
    pids.push_back(process->identity().pid);
  }
  for (const pid_t pid : pids) {
    EXPECT_TRUE(
        eventually([&] { return read_file("/proc/" + std::to_string(pid) + "/environ").empty(); }));
    end(pid);
  }
}

// A program that this very one becomes: its first thread leaves, another goes on.
TEST(FirstThread, DISABLED_Leaves) {
  std::thread([] { pause(); }).detach();
  syscall(SYS_exit, 0);
}

TEST(SpawnGated, ReturnsForAProgramWhoseFirstThreadHasLeft) {
  std::vector<std::string> argv = own_argv("FirstThread.DISABLED_Leaves");
  SpawnOptions options;
  options.output = "/dev/null";
  auto process = spawn_gated(argv, options, open_the_gate, [] {});
  ASSERT_TRUE(process) << process.error().text;
  const pid_t pid = process->identity().pid;
  EXPECT_TRUE(eventually([&] {
    const auto stat = read_stat(pid);
    return stat && stat->is_zombie() && process->liveness() == Liveness::kAlive;
  }));
  end(pid);
}

// As in a file system that does not answer: the child stays where it is.
// It was called started, and the model cooled down for its end.
TEST(SpawnGated, RefusesToStartAnInitOfAnotherNamespace) {
  Forked unshared([](Forked::Child& parent) {
    if (unshare(CLONE_NEWPID) != 0) return parent.say("not allowed");
    const auto refused = spawn_gated({"sleep", "60"}, {}, open_the_gate, [] {});
    parent.say(refused ? "started" : refused.error().text);
  });
  const std::string answer = unshared.hear();
  if (answer == "not allowed") GTEST_SKIP() << "only root may unshare";
  EXPECT_NE(answer.find("PID namespace"), std::string::npos) << answer;
}

TEST(SpawnGated, EndsAChildThatDoesNotExecuteInTime) {
  pid_t pid = 0;
  bool was_there = false;
  const auto refused = spawn_gated(
      {"sleep", "60"}, {},
      [&](const ProcessIdentity& child) -> Result<> {
        pid = child.pid;
        kill(pid, SIGSTOP);
        EXPECT_TRUE(has_stopped(pid));
        return {};
      },
      [&] { was_there = read_stat(pid).has_value(); });
  EXPECT_EQ(code_of(refused), Errc::kSpawnFailed);
  EXPECT_NE(text_of(refused).find("did not begin within 10s"), std::string::npos)
      << text_of(refused);
  EXPECT_TRUE(was_there) << "the ticket has to be put back before it dies";
  EXPECT_FALSE(read_stat(pid)) << "it is gone and reaped";
}

TEST(SpawnGated, ReplacesVariablesOfTheCallersEnvironment) {
  Forked child([&](Forked::Child&) {
    setenv("FLAVOUR", "plain", 1);
    setenv("KEPT", "yes", 1);
    SpawnOptions options;
    options.env = {"FLAVOUR=vanilla"};
    auto process = spawn_gated({"sleep", "60"}, options, open_the_gate, [] {});
    ASSERT_TRUE(process);
    // The kernel closes the gate shortly before the new image shows its environment.
    EXPECT_TRUE(eventually(
        [&] { return read_environment(process->identity().pid, "FLAVOUR") == "vanilla"; }));
    EXPECT_EQ(read_environment(process->identity().pid, "KEPT"), "yes");
    end(process->identity().pid);
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST(SpawnGated, MayBeCalledByManyThreadsAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> failed{0};
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10; ++i) {
        errno = 0;
        auto process = spawn_gated({"sleep", "60"}, {}, open_the_gate, [] {});
        if (!process) {
          ++failed;
          continue;
        }
        // No gate of another thread's is held open: fds 0 to 2 only.
        const std::filesystem::path fds =
            "/proc/" + std::to_string(process->identity().pid) + "/fd";
        failed += !eventually([&] {
          return std::distance(std::filesystem::directory_iterator(fds),
                               std::filesystem::directory_iterator()) == 3;
        });
        end(process->identity().pid);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
}

TEST(ReapWhenExited, HandsOverHowItEnded) {
  for (const auto& [script, text] :
       {std::pair{"exit 0", "exit status 0"}, std::pair{"exit 7", "exit status 7"},
        std::pair{"kill -9 $$", "signal SIGKILL"}}) {
    std::atomic<std::uint32_t> status{0};
    std::atomic<bool> ended{false};
    auto process = spawn_gated({"sh", "-c", script}, {}, open_the_gate, [] {});
    ASSERT_TRUE(process);
    const pid_t pid = process->identity().pid;
    reap_when_exited(std::move(*process), [&](std::uint32_t packed) {
      status = packed;
      ended = true;
    });
    ASSERT_TRUE(eventually([&] { return ended.load(); })) << script;
    EXPECT_EQ(exit_text(status), text);
    EXPECT_FALSE(read_stat(pid)) << "it was not reaped";
  }
}

// A program with a wrong flag ends before anybody waits for it. Kernels from 6.15 on open no pidfd
// for it.
TEST(ReapWhenExited, ReapsAChildThatHadEndedBefore) {
  auto process = spawn_gated({"sh", "-c", "exit 7"}, {}, open_the_gate, [] {});
  ASSERT_TRUE(process);
  const pid_t pid = process->identity().pid;
  ASSERT_TRUE(eventually([&] {
    const auto stat = read_stat(pid);
    return stat && stat->is_zombie();
  }));
  std::atomic<std::uint32_t> status{0};
  std::atomic<bool> ended{false};
  reap_when_exited(std::move(*process), [&](std::uint32_t packed) {
    status = packed;
    ended = true;
  });
  ASSERT_TRUE(eventually([&] { return ended.load(); }));
  EXPECT_EQ(exit_text(status), "exit status 7");
  EXPECT_FALSE(read_stat(pid));
}

TEST(ReapWhenExited, LeavesOtherChildrenToTheirOwner) {
  Forked other([](Forked::Child&) {});
  auto process = spawn_gated({"sh", "-c", "exit 0"}, {}, open_the_gate, [] {});
  ASSERT_TRUE(process);
  std::atomic<bool> ended{false};
  reap_when_exited(std::move(*process), [&](std::uint32_t) { ended = true; });
  ASSERT_TRUE(eventually([&] { return ended.load(); }));
  EXPECT_EQ(other.wait(), 0);
}

}  // namespace
