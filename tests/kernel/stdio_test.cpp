// Programs and hosts of the library that were started without descriptors 0, 1 or 2: what they
// print must not reach a file of the pool.
#include <signal.h>
#include <unistd.h>

#include <filesystem>

#include "daemon/pool_test.hpp"

namespace modelpool::test {
namespace {

// `argv` without those descriptors whose bit is set, by a shell.
std::vector<std::string> without(int mask, const std::vector<std::string>& argv) {
  std::string script = "exec \"$@\"";
  for (const int fd : {0, 1, 2}) {
    if ((mask >> fd & 1) != 0) script += " " + std::to_string(fd) + ">&-";
  }
  std::vector<std::string> result{"sh", "-c", script, "sh"};
  result.insert(result.end(), argv.begin(), argv.end());
  return result;
}

class Stdio : public PoolTest, public ::testing::WithParamInterface<int> {
 protected:
  // The bytes that never change: a log line in the file would be here.
  std::string header() { return read_file(scratch_.path("default")).substr(0, sizeof(Header)); }
  void expect_sound(const std::string& before) {
    EXPECT_TRUE(header() == before) << "something was written into the segment";
    EXPECT_EQ(std::filesystem::file_size(scratch_.path("default")),
              reinterpret_cast<const Header*>(before.data())->total_bytes);
    EXPECT_EQ(std::filesystem::file_size(scratch_.path("default.users")), 0u);
  }
};

INSTANTIATE_TEST_SUITE_P(Closed, Stdio, ::testing::Range(1, 8));

TEST_P(Stdio, TheCoordinatorLogsIntoNoFileOfThePool) {
  Program judge(without(GetParam(),
                        {MODELPOOL_COORDINATORD, "--dir", scratch_.dir(), "--max-backends", "1"}));
  ASSERT_TRUE(eventually([&] { return poolctl(scratch_, {"status"}).code == 0; }));
  const std::string before = header();
  RemoteWorker worker(scratch_);
  worker.load_idle("a");
  worker.load_idle("b");
  EXPECT_FALSE(wait_event("evicted", "a").empty());
  judge.signal(SIGUSR1);  // logs the table
  judge.signal(SIGHUP);
  EXPECT_EQ(worker.acquire("b"), "lease");
  expect_sound(before);
  judge.signal(SIGTERM);
  EXPECT_EQ(judge.wait(), 0);
  expect_sound(before);
}

TEST_P(Stdio, PoolctlPrintsIntoNoFileOfThePool) {
  start();
  RemoteWorker worker(scratch_);
  worker.load("m");
  ASSERT_FALSE(wait_event("loaded", "m").empty());
  const std::string before = header();
  const std::vector<std::vector<std::string>> commands{
      {"status"},
      {"list"},
      {"dump"},
      {"events"},
      {"workers"},
      {"explain", "m"},
      {"set"},
      {"set", "max-waiters=9"},
      {"touch", "m"},
      {"pin", "m"},
      {"unpin", "m"},
      {"evict", "m", "--timeout", "0"},
      {"no-such-command"},
      {"lease", "m", "--timeout", "0", "--", "echo", "hello"}};
  for (const auto& command : commands) {
    std::vector<std::string> argv{MODELPOOL_POOLCTL, "--dir", scratch_.dir()};
    argv.insert(argv.end(), command.begin(), command.end());
    const Finished done = run(without(GetParam(), argv));
    EXPECT_LE(done.code, 125) << command[0] << " died of a signal";
    expect_sound(before);
  }
}

TEST_P(Stdio, AWorkerThatPrintsWritesIntoNoFileOfThePoolAndItsBackendsHaveTheirs) {
  start();
  const std::string before = header();
  const std::string log = scratch_.path("log");
  Forked worker([&](Forked::Child& parent) {
    for (const int fd : {0, 1, 2}) {
      if ((GetParam() >> fd & 1) != 0) close(fd);
    }
    Pool pool = attach(scratch_);
    auto grant = pool.acquire("m");
    auto& ticket = std::get<LoadTicket>(*grant);
    SpawnOptions options;
    options.output = log;
    const bool spawned =
        ticket
            .spawn({"sh", "-c", "echo out; echo error >&2; read line; echo $?; exec sleep 600"},
                   options)
            .has_value();
    const std::string text(1000, 'x');
    for (const int fd : {0, 1, 2}) {
      if ((GetParam() >> fd & 1) != 0) static_cast<void>(!write(fd, text.data(), text.size()));
    }
    parent.say(spawned ? "spawned" : "not spawned");
    parent.hear();
  });
  EXPECT_EQ(worker.hear(), "spawned");
  EXPECT_TRUE(eventually([&] { return read_file(log) == "out\nerror\n1\n"; })) << read_file(log);
  expect_sound(before);
}

TEST_P(Stdio, TheDemosProgramsGoOn) {
  start();
  const std::string before = header();
  const Finished done = run(without(GetParam(), {MODELPOOL_DEMO_WORKER, "--help"}));
  EXPECT_EQ(done.code, 0);
  RemoteWorker worker(scratch_);
  ASSERT_EQ(worker.acquire("m"), "ticket");
  int port = 0;
  ASSERT_TRUE(
      worker.spawn_program("m", without(GetParam(), backend_argv(&port))).starts_with("pid "));
  EXPECT_TRUE(eventually([&] { return listens(port); }));
  expect_sound(before);
}

}  // namespace
}  // namespace modelpool::test
