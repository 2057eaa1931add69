// `poolctl lease`: a command that runs while it holds a lease.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/proc.hpp"
#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class LeaseTest : public PoolTest {
 protected:
  std::vector<std::string> argv(std::vector<std::string> args) {
    std::vector<std::string> all{MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "lease"};
    all.insert(all.end(), args.begin(), args.end());
    return all;
  }
  Finished lease(std::vector<std::string> args) { return run(argv(std::move(args))); }
  static std::string backend(const std::string& flags = "") {
    return std::string(MODELPOOL_DEMO_BACKEND) + " --port {port} " + flags;
  }
};

TEST_F(LeaseTest, ItEndsWithTheExitCodeOfItsCommand) {
  start();
  for (const int code : {0, 1, 3, 124, 200}) {
    EXPECT_EQ(
        lease({"m", "--start", backend(), "--", "sh", "-c", "exit " + std::to_string(code)}).code,
        code);
  }
  EXPECT_EQ(lease({"m", "--", "sh", "-c", "kill -KILL $$"}).code, 128 + SIGKILL);
  EXPECT_EQ(entry("m")["in_flight"], 0);
}

TEST_F(LeaseTest, ItsCommandFindsTheBackendInItsEnvironmentAndCanTalkToIt) {
  start();
  const Finished done = lease({"some-model", "--start", backend("--name some-model"), "--ready",
                               "http:/health", "--", "bash", "-c",
                               "echo $MODELPOOL_MODEL $MODELPOOL_ADDRESS $MODELPOOL_PID; "
                               "exec 3<>/dev/tcp/${MODELPOOL_ADDRESS/:/\\/}; "
                               "printf 'GET /slow?ms=1 HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"});
  ASSERT_EQ(done.code, 0) << done.err;
  const auto entry_now = entry("some-model");
  EXPECT_THAT(done.out, HasSubstr("some-model " + entry_now["address"].get<std::string>() + " " +
                                  std::to_string(entry_now["pid"].get<int>()) + "\n"));
  EXPECT_THAT(done.out, HasSubstr("\"pid\":" + std::to_string(entry_now["pid"].get<int>())));
}

TEST_F(LeaseTest, TheBackendOutlivesItWithItsOutputInTheLog) {
  start();
  const std::string log = scratch_.path("backend.log");
  EXPECT_EQ(lease({"m", "--start", backend("--name m"), "--log", log, "--", "true"}).code, 0);
  const auto m = entry("m");
  EXPECT_EQ(m["state"], "ready");
  EXPECT_TRUE(is_running(m["pid"].get<pid_t>()));
  EXPECT_THAT(read_file(log), HasSubstr("m: listening on " + m["address"].get<std::string>()));
  EXPECT_EQ(status()["workers"], 0);
  EXPECT_EQ(lease({"m", "--", "true"}).code, 0) << "loaded is loaded: no --start is needed";
}

TEST_F(LeaseTest, ABackendOnAUnixSocketIsFine) {
  start();
  const std::string path = scratch_.path("m.sock");
  const Finished done =
      lease({"m", "--start", std::string(MODELPOOL_DEMO_BACKEND) + " --unix " + path, "--address",
             "unix:" + path, "--", "sh", "-c", "echo $MODELPOOL_ADDRESS"});
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_EQ(done.out, "unix:" + path + "\n");
}

TEST_F(LeaseTest, WhileItsCommandRunsTheLeaseIsHeldWithItsTag) {
  start();
  Program holder(argv(
      {"m", "--start", backend(), "--tag", "req-81", "--", "sh", "-c", "echo up; exec sleep 600"}));
  ASSERT_TRUE(eventually([&] { return holder.out() == "up\n"; })) << holder.err();
  const auto leases = poolctl_json(scratch_, {"leases"});
  ASSERT_EQ(leases.size(), 1u);
  EXPECT_EQ(leases[0]["model"], "m");
  EXPECT_EQ(leases[0]["worker_pid"], holder.pid());
  EXPECT_EQ(leases[0]["tag"], "req-81");
  holder.signal(SIGTERM);
  EXPECT_EQ(holder.wait(), 128 + SIGTERM);
  EXPECT_TRUE(eventually([&] { return entry("m")["in_flight"] == 0; }));
}

TEST_F(LeaseTest, SignalsArePassedOnToTheCommand) {
  start();
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2}) {
    Program holder(argv(
        {"m", "--start", backend(), "--", "bash", "-c",
         "trap 'exit 42' " + std::to_string(number) + "; echo up; while :; do sleep 0.01; done"}));
    ASSERT_TRUE(eventually([&] { return holder.out() == "up\n"; })) << holder.err();
    holder.signal(number);
    EXPECT_EQ(holder.wait(), 42) << number;
  }
  EXPECT_EQ(state("m"), "ready") << "the backend is in a session of its own";
}

TEST_F(LeaseTest, P6ItsCommandEndsWhenItIsKilledAndTheLeaseIsCleared) {
  start();
  Program holder(argv({"m", "--start", backend(), "--", "sh", "-c", "echo $$; exec sleep 600"}));
  ASSERT_TRUE(eventually([&] { return holder.out().ends_with("\n"); }));
  const pid_t command = std::stoi(holder.out());
  EXPECT_TRUE(is_running(command));
  holder.signal(SIGKILL);
  EXPECT_TRUE(eventually([&] { return !is_running(command); }));
  EXPECT_TRUE(eventually([&] { return entry("m")["in_flight"] == 0; }));
  EXPECT_EQ(state("m"), "ready");
  EXPECT_EQ(wait_event("worker_died")["worker_pid"], holder.pid());
}

TEST_F(LeaseTest, P6KilledWhileItLoadsItLeavesNothing) {
  start();
  Program loader(
      argv({"m", "--start", backend("--load-time 1h"), "--timeout", "20s", "--", "true"}));
  ASSERT_TRUE(wait_state("m", "starting"));
  loader.signal(SIGKILL);
  EXPECT_TRUE(wait_state("m", ""));
  EXPECT_EQ(processes_with_environment(token()).size(), 0u);
}

TEST_F(LeaseTest, InterruptedWhileItLoadsItEndsWhatItStarted) {
  start();
  Program loader(
      argv({"m", "--start", backend("--load-time 1h"), "--timeout", "20s", "--", "true"}));
  ASSERT_TRUE(wait_state("m", "starting"));
  loader.signal(SIGINT);
  EXPECT_EQ(loader.wait(), 128 + SIGINT);
  EXPECT_TRUE(wait_state("m", ""));
  EXPECT_EQ(processes_with_environment(token()).size(), 0u);
}

// It was a failed load: the model cooled down for all because one was impatient.
TEST_F(LeaseTest, TooImpatientForALoadItEndsWhatItStartedAndNothingCoolsDown) {
  start({"--load-cooldown", "1h..1h"});
  RemoteWorker next(scratch_);
  Program loader(
      argv({"m", "--start", backend("--load-time 1h"), "--timeout", "1s", "--", "true"}));
  EXPECT_EQ(loader.wait(), 124);
  EXPECT_THAT(loader.err(), AllOf(HasSubstr("within 1s"), HasSubstr("raise --timeout")));
  EXPECT_EQ(next.acquire("m"), "ticket");
  EXPECT_EQ(processes_with_environment(token()).size(), 0u);
}

TEST_F(LeaseTest, InterruptedWhileItLoadsItLeavesTheLoadToWhoWaits) {
  start({"--load-cooldown", "1h..1h"});
  RemoteWorker waiter(scratch_);
  Program loader(
      argv({"n", "--start", backend("--load-time 1h"), "--timeout", "20s", "--", "true"}));
  ASSERT_TRUE(wait_state("n", "starting"));
  waiter.begin_acquire("n");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  loader.signal(SIGINT);
  EXPECT_EQ(loader.wait(), 128 + SIGINT);
  EXPECT_EQ(waiter.hear(), "ticket");
}

// Each client began a load and threw it away.
TEST_F(LeaseTest, P4PastItsOwnTimeoutItLoadsOnForThoseWhoWait) {
  start();
  RemoteWorker waiter(scratch_);
  Program loader(argv({"m", "--start", backend("--load-time 5s"), "--ready", "http:/health",
                       "--timeout", "2s", "--", "echo", "ran"}));
  ASSERT_TRUE(wait_state("m", "starting"));
  waiter.begin_acquire("m");
  EXPECT_EQ(waiter.hear(), "lease");
  EXPECT_EQ(loader.wait(), 124);
  EXPECT_THAT(loader.err(), AllOf(HasSubstr("within 2s"), HasSubstr("for those who wait")));
  EXPECT_EQ(loader.out(), "") << "its own time was over";
  EXPECT_EQ(count_events("loaded", "m"), 1u);
  EXPECT_EQ(entry("m")["in_flight"], 1);
}

TEST_F(LeaseTest, P4WhenNobodyWaitsAnyLongerItEndsTheLoad) {
  start({"--load-cooldown", "1h..1h"});
  RemoteWorker waiter(scratch_);
  Program loader(
      argv({"m", "--start", backend("--load-time 1h"), "--timeout", "2s", "--", "true"}));
  ASSERT_TRUE(wait_state("m", "starting"));
  waiter.begin_acquire("m", 5000);
  EXPECT_EQ(waiter.hear(), "timeout");
  EXPECT_EQ(loader.wait(), 124);
  EXPECT_TRUE(eventually([&] { return processes_with_environment(token()).empty(); }));
  EXPECT_EQ(waiter.acquire("m"), "ticket");
}

// The default of 30 s covered the load, too; and the wait for a load of somebody else's.
TEST_F(LeaseTest, WithoutATimeoutALoadMayTakeLongerThanTheDefault) {
  start();
  const auto lease = [&] {
    return argv(
        {"m", "--start", backend("--load-time 33s"), "--ready", "http:/health", "--", "true"});
  };
  Program loader(lease());
  ASSERT_TRUE(wait_state("m", "starting"));
  Program waiter(lease());
  EXPECT_EQ(loader.wait(), 0) << loader.err();
  EXPECT_EQ(waiter.wait(), 0) << waiter.err();
  EXPECT_EQ(count_events("loaded", "m"), 1u);
}

TEST_F(LeaseTest, ACommandLineMayBeginWithVariablesOrBeSeveralCommands) {
  start();
  const auto command_of = [&](const std::string& model, const std::string& start) {
    const Finished done = lease({model, "--start", start, "--timeout", "20s", "--", "sh", "-c",
                                 "tr '\\0' ' ' < /proc/$MODELPOOL_PID/cmdline"});
    EXPECT_EQ(done.code, 0) << start << ": " << done.err;
    return done.out.substr(0, done.out.find(" --port"));
  };
  const std::string server = MODELPOOL_DEMO_BACKEND;
  EXPECT_EQ(command_of("plain", backend()), server);
  EXPECT_EQ(command_of("variable", "CUDA_VISIBLE_DEVICES=0 " + backend()), server);
  EXPECT_EQ(command_of("variables", "A='b c' B=\"$HOME\" " + backend() + " # {port}"), server);
  EXPECT_EQ(command_of("redirected", backend() + " 2>&1 </dev/null"), server);
  EXPECT_EQ(command_of("exec", "cd /tmp && exec " + backend()), server);
  EXPECT_EQ(command_of("variable-exec", "A=1 exec " + backend()), server);
  EXPECT_NE(command_of("variable-command", "A=1 command " + backend()), "");
  EXPECT_NE(command_of("list", "cd / && " + backend()), "");
  EXPECT_NE(command_of("sequence", "true; " + backend()), "");
  const pid_t pid = entry("variable")["pid"].get<pid_t>();
  EXPECT_EQ(read_environment(pid, "CUDA_VISIBLE_DEVICES"), "0");
  // All of them end, with or without a shell in between.
  for (const char* model : {"plain", "list", "sequence"}) {
    EXPECT_EQ(poolctl(scratch_, {"evict", model}).code, 0);
  }
  EXPECT_TRUE(settles());
}

// 80 shells on 64 worker rows: 16 were refused at once, with 15 s of their timeout left.
TEST_F(LeaseTest, P5WithEveryWorkerRowTakenItWaitsForOne) {
  start({"--workers", "3"});
  std::vector<std::unique_ptr<Program>> shells;
  for (int i = 0; i < 12; ++i) {
    shells.push_back(std::make_unique<Program>(
        argv({"m", "--start", backend(), "--timeout", "60s", "--", "sleep", "0.1"})));
  }
  for (const auto& shell : shells) EXPECT_EQ(shell->wait(), 0) << shell->err();
  const auto all = events(scratch_);
  EXPECT_EQ(
      std::count_if(all.begin(), all.end(), [](const auto& e) { return e["kind"] == "loaded"; }), 1)
      << "one load for all of them";
}

TEST_F(LeaseTest, InterruptedWhileItWaitsForAWorkerRowItEnds) {
  start({"--workers", "1"});
  RemoteWorker worker(scratch_);
  Program waiting(argv({"m", "--", "true"}));
  const auto takes_signals = [&] {
    const std::string text = read_file("/proc/" + std::to_string(waiting.pid()) + "/status");
    const std::size_t at = text.find("SigBlk:");
    return at != std::string::npos &&
           (std::stoull(text.substr(at + 7), nullptr, 16) >> (SIGTERM - 1) & 1) != 0;
  };
  ASSERT_TRUE(eventually(takes_signals));
  waiting.signal(SIGTERM);
  EXPECT_EQ(waiting.wait(), 128 + SIGTERM) << waiting.err();
  EXPECT_EQ(lease({"m", "--timeout", "50ms", "--", "true"}).code, 124);
}

TEST_F(LeaseTest, InterruptedWhileItWaitsItLeavesTheLine) {
  start({"--max-backends", "1"});
  Program holder(argv({"m", "--start", backend(), "--", "sleep", "600"}));
  ASSERT_TRUE(eventually([&] { return !entry("m").is_null() && entry("m")["in_flight"] == 1; }));
  Program waiter(argv({"other", "--start", backend(), "--", "true"}));
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  waiter.signal(SIGTERM);
  EXPECT_EQ(waiter.wait(), 128 + SIGTERM);
  EXPECT_EQ(status()["waiting"], 0);
  EXPECT_TRUE(wait_state("m", "ready")) << "its place in the line cost the resident its place";
}

// --- Refusals ------------------------------------------------------------------------------------

TEST_F(LeaseTest, P13WhatIsRefusedOrTimesOutEndsWith124AndTheReason) {
  start({"--max-backends", "1", "--when-busy", "wait", "--load-cooldown", "off"});
  const auto refused = [&](std::vector<std::string> args, const char* part) {
    const Finished done = lease(std::move(args));
    EXPECT_EQ(done.code, 124) << done.err;
    EXPECT_THAT(done.err, AllOf(HasSubstr("unable to"), HasSubstr(part)));
    EXPECT_EQ(done.out, "") << "COMMAND ran";
  };
  const std::vector<std::string> echo{"--", "echo", "ran"};
  const auto with = [&](std::vector<std::string> args) {
    args.insert(args.end(), echo.begin(), echo.end());
    return args;
  };
  refused(with({"m"}), "say with --start how to load it");
  refused(with({"m", "--start", "true && /nowhere/at/all {port}"}), "exit status 127");
  refused(with({"m", "--start", "true && /etc/passwd {port}"}), "exit status 126");
  refused(with({"m", "--start", "sh -c \"exit 7\" {port}"}), "exit status 7");
  refused(with({"m", "--start", backend("--fail-load broken"), "--timeout", "20s"}),
          "exit status 1");
  refused(with({"m", "--start", "sleep 600 # {port}", "--timeout", "200ms"}), "within 200ms");
  refused(with({"m", "--start", backend(), "--ready", "http:/nothing-here", "--timeout", "300ms"}),
          "http:/nothing-here");
  EXPECT_TRUE(eventually([&] { return list().empty(); })) << list();
  EXPECT_EQ(processes_with_environment(token()).size(), 0u) << "a failed load left its process";
  RemoteWorker holder(scratch_);
  holder.load("busy");
  refused(with({"m", "--start", backend(), "--timeout", "100ms"}),
          "no place is free (1 of 1 in use)");
  EXPECT_TRUE(settles());
}

TEST_F(LeaseTest, P13ALoadThatHangsPastLoadTimeoutEndsWith124AndNamesIt) {
  start({"--load-timeout", "200ms"});
  const Finished done =
      lease({"m", "--start", backend("--load-time 1h"), "--timeout", "20s", "--", "true"});
  EXPECT_EQ(done.code, 124);
  EXPECT_THAT(done.err, HasSubstr("load_timeout"));
  EXPECT_TRUE(wait_state("m", ""));
}

TEST_F(LeaseTest, P13WithoutACoordinatorWhatNeedsOneIsRefused) {
  start({"--max-backends", "1"});
  RemoteWorker holder(scratch_);
  holder.load("busy");
  daemon().kill_now();
  const Finished done = lease({"m", "--start", backend(), "--timeout", "300ms", "--", "true"});
  EXPECT_EQ(done.code, 124);
  EXPECT_THAT(done.err,
              AllOf(HasSubstr("no coordinator is running"), HasSubstr("start coordinatord")));
  EXPECT_EQ(lease({"busy", "--", "true"}).code, 0) << "a loaded model needs none";
}

TEST_F(LeaseTest, P13WrongUseEndsWith125) {
  start();
  const std::vector<std::vector<std::string>> rows = {
      {"m"},
      {"m", "--"},
      {"--", "true"},
      {"", "--", "true"},
      {std::string(256, 'm'), "--", "true"},
      {"tab\there", "--", "true"},
      {"\xff\xfe", "--", "true"},
      {"m", "--timeout", "soon", "--", "true"},
      {"m", "--tag", std::string(32, 't'), "--", "true"},
      {"m", "--start", "server", "--", "true"},  // where would it answer?
      {"m", "--start", " ", "--", "true"},
      {"m", "--start", "server {port}", "--ready", "smoke", "--", "true"},
      {"m", "--start", "server {port}", "--address", std::string(256, 'a'), "--", "true"},
      {"m", "--start", "server {port}", "--address", "", "--ready", "ftp:/x", "--", "true"},
      {"m", "--start", "server {port}", "--size", "big", "--", "true"},
      {"m", "--ready", "tcp", "--", "true"},  // without --start
      {"m", "--no-such-flag", "--", "true"},
      {"m", "stray", "--", "true"},
  };
  for (const auto& row : rows) {
    const Finished done = lease(row);
    EXPECT_EQ(done.code, 125) << ::testing::PrintToString(row) << done.err;
    EXPECT_THAT(done.err, HasSubstr("poolctl: unable to")) << ::testing::PrintToString(row);
  }
  EXPECT_EQ(
      run({MODELPOOL_POOLCTL, "--dir", scratch_.path("none"), "lease", "m", "--", "true"}).code,
      125);
  EXPECT_EQ(run({MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "--pool", "other", "lease", "m", "--",
                 "true"})
                .code,
            125);
  EXPECT_TRUE(list().empty());
  EXPECT_TRUE(settles());
}

TEST_F(LeaseTest, P13ACommandThatCannotRunIs126AndOneThatIsNotFound127AndNothingWasLoaded) {
  start();
  const std::string plain = scratch_.path("plain-file");
  write_file(plain, "not a program");
  const Finished cannot = lease({"m", "--start", backend(), "--", plain});
  EXPECT_EQ(cannot.code, 126);
  EXPECT_THAT(cannot.err, HasSubstr("unable to run " + plain));
  const Finished missing = lease({"m", "--start", backend(), "--", "no-such-command-anywhere"});
  EXPECT_EQ(missing.code, 127);
  EXPECT_THAT(missing.err, HasSubstr("unable to run no-such-command-anywhere"));
  EXPECT_EQ(lease({"m", "--start", backend(), "--", scratch_.path("nothing")}).code, 127);
  EXPECT_EQ(lease({"m", "--start", backend(), "--", scratch_.dir()}).code, 126);
  EXPECT_THAT(lease({"m", "--start", backend(), "--", ""}).err,
              HasSubstr("unable to run COMMAND: its name is empty"));
  const std::string script = scratch_.path("script");
  write_file(script, "#! /nonexistent/python3\n");
  chmod(script.c_str(), 0700);
  const Finished no_interpreter = lease({"m", "--start", backend(), "--", script});
  EXPECT_EQ(no_interpreter.code, 127);
  EXPECT_THAT(no_interpreter.err, HasSubstr("its interpreter /nonexistent/python3"));
  EXPECT_TRUE(list().empty()) << "loaded in vain";
}

TEST_F(LeaseTest, AServerThatIsNotOursOnThatAddressIsNotTakenForTheBackend) {
  start({"--load-cooldown", "1h..1h"});
  int port = 0;
  Program squatter(backend_argv(&port));
  ASSERT_TRUE(eventually([&] { return listens(port); }));
  const std::string address = "127.0.0.1:" + std::to_string(port);
  const Finished done = lease({"m", "--start", "sleep 600", "--address", address, "--", "true"});
  EXPECT_EQ(done.code, 125);
  EXPECT_THAT(done.err, HasSubstr("another process already listens"));
  EXPECT_EQ(lease({"m", "--start", backend(), "--", "true"}).code, 0) << "it was no failed load";
}

// It answers where the backend should, and came after the load began.
TEST_F(LeaseTest, AnAnswerFromAnotherProcessIsNotTakenForTheBackends) {
  start({"--load-cooldown", "1h..1h"});
  int port = 0;
  const std::vector<std::string> squat = backend_argv(&port);
  const std::string address = "127.0.0.1:" + std::to_string(port);
  for (const char* check : {"tcp", "http:/health"}) {
    Program loader(argv({"m", "--start", "sleep 600", "--address", address, "--ready", check,
                         "--timeout", "1500ms", "--", "echo", "ran"}));
    ASSERT_TRUE(wait_state("m", "starting"));
    Program squatter(squat);
    EXPECT_EQ(loader.wait(), 124) << check;
    EXPECT_EQ(loader.out(), "");
    EXPECT_THAT(loader.err(),
                HasSubstr("answers process " + std::to_string(squatter.pid()) + " (demo_backend)"));
  }
  Program squatter(squat);
  Program trusting(argv({"m", "--start", "sleep 600", "--address", "127.0.0.1:1", "--ready",
                         "delay:100ms", "--", "echo", "ran"}));
  EXPECT_EQ(trusting.wait(), 0) << trusting.err() << "nothing has cooled down";
  EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  ASSERT_TRUE(eventually([&] { return listens(port); }));
  const std::vector<std::string> by_proxy{"m",     "--start", "sleep 600",  "--address",
                                          address, "--ready", "delay:100ms"};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = by_proxy;
    all.insert(all.end(), more.begin(), more.end());
    return lease(all);
  };
  EXPECT_EQ(with({"--", "echo", "ran"}).out, "");
  EXPECT_EQ(with({"--any-listener", "--", "echo", "ran"}).out, "ran\n");
}

TEST_F(LeaseTest, P13TwoModelsAtOneAddressAreNotBothServed) {
  start();
  int port = 0;
  const std::vector<std::string> server = backend_argv(&port);
  const std::string address = "127.0.0.1:" + std::to_string(port);
  ASSERT_EQ(lease({"a", "--start",
                   std::string(MODELPOOL_DEMO_BACKEND) + " --port " + std::to_string(port),
                   "--address", address, "--", "true"})
                .code,
            0);
  const Finished second =
      lease({"b", "--start", "sleep 600", "--address", "localhost:" + std::to_string(port),
             "--ready", "delay:50ms", "--any-listener", "--", "echo", "ran"});
  EXPECT_NE(second.code, 0);
  EXPECT_EQ(second.out, "");
  EXPECT_THAT(second.err, AllOf(HasSubstr("a is served at"), HasSubstr("address of its own")));
  EXPECT_TRUE(wait_state("b", ""));
  EXPECT_EQ(state("a"), "ready");
}

// One client's typo: the model cooled down for all.
TEST_F(LeaseTest, P13WhatItWasToldWrongFailsNoLoad) {
  start({"--load-cooldown", "1h..1h"});
  const std::string fifo = scratch_.path("fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  RemoteWorker waiter(scratch_);
  for (const std::string& log : {std::string("/nonexistent/x"), scratch_.dir(), fifo}) {
    const Finished done = lease({"m", "--start", backend(), "--log", log, "--", "true"});
    EXPECT_EQ(done.code, 125) << log;
    EXPECT_THAT(done.err, HasSubstr(log));
    EXPECT_EQ(waiter.acquire("m", 5000), "ticket") << log;
    EXPECT_EQ(waiter.release("m"), "ok");
  }
  const std::string script = scratch_.path("script");
  write_file(script, "#!/nonexistent/python3 -u\n");
  chmod(script.c_str(), 0700);
  const std::pair<std::string, std::string> starts[] = {
      {"/nonexistent/x {port}", "run /nonexistent/x: No such file"},
      {"no-such-server --port {port}", "run no-such-server: No such file"},
      {"exec no-such-server --port {port}", "run no-such-server: No such file"},
      {"A=1 B=2 /etc/passwd {port}", "run /etc/passwd: Permission denied"},
      {script + " {port}", "its interpreter /nonexistent/python3: No such file"}};
  for (const auto& [start, why] : starts) {
    const Finished done = lease({"m", "--start", start, "--", "true"});
    EXPECT_EQ(done.code, 125) << start;
    EXPECT_THAT(done.err, HasSubstr(why)) << start;
    EXPECT_EQ(waiter.acquire("m", 5000), "ticket") << start;
    EXPECT_EQ(waiter.release("m"), "ok");
  }
  // What the shell makes of the rest is not known here.
  const std::string server = backend("--name m");
  for (const std::string& start : std::vector<std::string>{
           "A='no-such b' " + server, "\"" MODELPOOL_DEMO_BACKEND "\" --port {port}",
           "PATH=/nonexistent " + server, "command " + server}) {
    const Finished done = lease({"m", "--start", start, "--", "true"});
    EXPECT_EQ(done.code, 0) << start << done.err;
    EXPECT_EQ(poolctl(scratch_, {"evict", "m"}).code, 0);
  }
  const Fd reader(open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  EXPECT_EQ(lease({"m", "--start", backend("--name m"), "--log", fifo, "--", "true"}).code, 0);
  EXPECT_EQ(count_events("load_failed"), 0u);
}

TEST_F(LeaseTest, P13OutOfDescriptorsItsLoadIsGivenBack) {
  start({"--load-cooldown", "1h..1h"});
  const std::string command = "ulimit -n 9; exec " + std::string(MODELPOOL_POOLCTL) + " --dir " +
                              scratch_.dir() + " lease m --start '" + backend() +
                              "' --timeout 3s -- true";
  const Finished done = run({"sh", "-c", command});
  EXPECT_NE(done.code, 0) << "it had enough of them: lower the limit";
  RemoteWorker next(scratch_);
  EXPECT_EQ(next.acquire("m", 10'000), "ticket") << done.err;
}

TEST_F(LeaseTest, AKilledBackendIsNamedWhenTheCommandEnds) {
  start({"--busy-timeout", "150ms", "--on-overdue", "kill"});
  const Finished done = lease({"m", "--start", backend(), "--", "sh", "-c",
                               "while kill -0 $MODELPOOL_PID; do sleep 0.02; done; exit 5"});
  EXPECT_EQ(done.code, 5);
  EXPECT_THAT(done.err, AllOf(HasSubstr("its backend was stopped"), HasSubstr("busy")));
}

TEST_F(LeaseTest, ACommandThatTakesTooLongIsToldToEndAndTheBackendIsSpared) {
  start({"--busy-timeout", "150ms", "--on-overdue", "cancel,1h,kill"});
  const Finished done = lease({"m", "--start", backend(), "--", "sleep", "1000"});
  EXPECT_EQ(done.code, 128 + SIGTERM);
  EXPECT_THAT(done.err, AllOf(HasSubstr("COMMAND is told to end: busy_timeout 150ms passed")));
  EXPECT_EQ(state("m"), "ready");
  EXPECT_EQ(count_events("killed"), 0u);
}

TEST_F(LeaseTest, AKeepAliveIsAskedForWithTheLease) {
  start();
  ASSERT_EQ(lease({"m", "--start", backend(), "--keep-alive", "-1", "--", "true"}).code, 0);
  EXPECT_EQ(entry("m")["keep_alive"], "off");
  ASSERT_EQ(lease({"m", "--keep-alive", "90s", "--", "true"}).code, 0);
  EXPECT_EQ(entry("m")["keep_alive"], "1m30s");
  ASSERT_EQ(lease({"m", "--keep-alive", "0", "--", "true"}).code, 0);
  EXPECT_EQ(wait_event("evicted", "m")["reason"], "idle");
  const Finished wrong = lease({"m", "--keep-alive", "soon", "--", "true"});
  EXPECT_EQ(wrong.code, 125);
  EXPECT_THAT(wrong.err, HasSubstr("\"soon\""));
}

}  // namespace
}  // namespace modelpool::test
