#include "protocol/spawn.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

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
