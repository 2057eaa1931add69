// `poolctl load`: a model is loaded without a request.
#include <signal.h>
#include <unistd.h>

#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class LoadCommandTest : public PoolTest {
 protected:
  std::vector<std::string> argv(std::vector<std::string> args) {
    std::vector<std::string> all{MODELPOOL_POOLCTL, "--dir", scratch_.dir(), "load"};
    all.insert(all.end(), args.begin(), args.end());
    return all;
  }
  Finished load(std::vector<std::string> args) { return run(argv(std::move(args))); }
  // The options, then how to start a demo_backend.
  static std::vector<std::string> with(std::vector<std::string> options,
                                       std::vector<std::string> flags = {}) {
    options.insert(options.end(), {"--", MODELPOOL_DEMO_BACKEND, "--port", "{port}"});
    options.insert(options.end(), flags.begin(), flags.end());
    return options;
  }
};

TEST_F(LoadCommandTest, AModelIsLoadedAndStaysAndASecondTimeNothingIsStarted) {
  start();
  const std::string log = scratch_.path("backend.log");
  const Finished done = load(with({"m", "--ready", "http:/health", "--log", log, "--pin", "--size",
                                   "1MiB", "--keep-alive", "1h"},
                                  {"--name", "with blanks and $signs"}));
  ASSERT_EQ(done.code, 0) << done.err;
  const auto m = entry("m");
  EXPECT_EQ(m["state"], "ready");
  EXPECT_EQ(m["in_flight"], 0);
  EXPECT_EQ(m["pinned"], true);
  EXPECT_EQ(m["size_bytes"], 1 << 20);
  EXPECT_EQ(m["keep_alive"], "1h");
  EXPECT_TRUE(is_running(m["pid"].get<pid_t>()));
  const std::string address = m["address"];
  EXPECT_THAT(done.out, AllOf(HasSubstr("m is loaded in "), HasSubstr("at " + address + ", pid ")));
  EXPECT_THAT(done.err, HasSubstr("m is being loaded, pid ")) << "progress";
  EXPECT_THAT(read_file(log), HasSubstr("with blanks and $signs: listening"))
      << "no shell is between";
  EXPECT_EQ(status()["workers"], 0);

  auto again = argv(with({"m"}));
  again.insert(again.begin() + 1, {"-o", "json"});
  const Finished twice = run(again);
  ASSERT_EQ(twice.code, 0) << twice.err;
  const auto json = nlohmann::json::parse(twice.out);
  EXPECT_EQ(json["model"], "m");
  EXPECT_EQ(json["address"], address);
  EXPECT_EQ(json["pid"], m["pid"]);
  EXPECT_EQ(json["loaded_here"], false);
  EXPECT_TRUE(json["took_ms"].is_number());
  EXPECT_EQ(count_events("loaded", "m"), 1u);
}

TEST_F(LoadCommandTest, P4WhoComesWhileAnotherLoadsItWaitsForThatAndSaysSo) {
  start();
  RemoteWorker worker(scratch_);
  ASSERT_EQ(worker.acquire("m"), "ticket");
  Program waiter(argv(with({"m"})));
  ASSERT_TRUE(eventually([&] {
    return waiter.err().find("another process loads it") != std::string::npos;
  })) << waiter.err();
  ASSERT_THAT(worker.spawn("m"), HasSubstr("pid "));
  ASSERT_EQ(worker.ready("m"), "lease");
  EXPECT_EQ(waiter.wait(), 0) << waiter.err();
  EXPECT_THAT(waiter.out(), HasSubstr("m is loaded already"));
  EXPECT_EQ(count_events("loaded", "m"), 1u);
}

TEST_F(LoadCommandTest, P5ItWaitsForAPlaceInTheLineAndSaysSo) {
  start({"--max-backends", "1"});
  RemoteWorker worker(scratch_);
  ASSERT_GT(worker.load("other"), 0);
  Program waiter(argv(with({"m", "--timeout", "60s"})));
  ASSERT_TRUE(eventually([&] {
    return waiter.err().find("waits for a place") != std::string::npos;
  })) << waiter.err();
  worker.release("other");
  EXPECT_EQ(waiter.wait(), 0) << waiter.err();
  EXPECT_EQ(state("m"), "ready");
}

TEST_F(LoadCommandTest, InterruptedItEndsWhatItStarted) {
  start();
  Program loader(argv(with({"m", "--ready", "http:/health"}, {"--load-time", "1h"})));
  ASSERT_TRUE(
      eventually([&] { return loader.err().find("is being loaded, pid ") != std::string::npos; }));
  ASSERT_TRUE(wait_state("m", "starting"));
  const auto pid = entry("m")["pid"].get<pid_t>();
  loader.signal(SIGTERM);
  EXPECT_EQ(loader.wait(), 128 + SIGTERM);
  EXPECT_THAT(loader.err(), HasSubstr("unable to load m: interrupted by SIGTERM"));
  EXPECT_TRUE(eventually([&] { return !is_running(pid); }));
  EXPECT_TRUE(eventually([&] { return entry("m").is_null(); }));
}

TEST_F(LoadCommandTest, P6KilledWhileItLoadsItLeavesNothing) {
  start();
  Program loader(argv(with({"m"}, {"--load-time", "1h"})));
  ASSERT_TRUE(wait_state("m", "starting"));
  const auto pid = entry("m")["pid"].get<pid_t>();
  loader.signal(SIGKILL);
  EXPECT_TRUE(eventually([&] { return !is_running(pid); }));
  EXPECT_TRUE(eventually([&] { return entry("m").is_null(); }));
}

TEST_F(LoadCommandTest, P13WhatIsRefusedOrFailsEndsWith124AndTheReason) {
  start({"--max-backends", "1", "--load-cooldown", "1h..1h"});
  const Finished late = load(with({"m", "--timeout", "300ms"}, {"--load-time", "1h"}));
  EXPECT_EQ(late.code, 124);
  EXPECT_THAT(late.err, AllOf(HasSubstr("unable to load m: not ready at 127.0.0.1:"),
                              HasSubstr("within 300ms"), HasSubstr("raise --timeout")));
  const Finished failed = load(with({"m"}, {"--fail-load", "broken"}));
  EXPECT_EQ(failed.code, 124);
  EXPECT_THAT(failed.err,
              AllOf(HasSubstr("unable to load m: it"), HasSubstr("ended before it was ready")));
  const Finished cooling = load(with({"m"}));
  EXPECT_EQ(cooling.code, 124);
  EXPECT_THAT(cooling.err, HasSubstr("cools down"));
  RemoteWorker worker(scratch_);
  ASSERT_GT(worker.load_idle("pinned"), 0);
  ASSERT_EQ(poolctl(scratch_, {"pin", "pinned"}).code, 0);
  const Finished pinned = load(with({"n"}));
  EXPECT_EQ(pinned.code, 124);
  EXPECT_THAT(pinned.err, HasSubstr("pinned"));
}

TEST_F(LoadCommandTest, P13WrongUseEndsWith125AndNothingIsLoaded) {
  start();
  const std::vector<std::vector<std::string>> wrong = {
      {"m"},                                      // no command
      {"m", "--"},                                // nor here
      {"--", "sleep", "1"},                       // no model
      {"m", "--", "sleep", "1"},                  // where would it answer?
      {"m", "sleep", "{port}"},                   // -- is missing
      {"m", "--start", "x", "--", "a", "{port}"}  // that is lease's
  };
  for (const auto& args : wrong) {
    const Finished done = load(args);
    EXPECT_EQ(done.code, 125) << args.front() << done.err;
    EXPECT_THAT(done.err, HasSubstr("poolctl: unable to "));
  }
  EXPECT_THAT(load({"m", "--", "sleep", "1"}).err, HasSubstr("use {port} in COMMAND"));
  EXPECT_THAT(load({"m", "sleep", "{port}"}).err, HasSubstr("write -- before COMMAND"));
  EXPECT_EQ(load({"m", "--", "no-such-command-anywhere", "{port}"}).code, 127);
  EXPECT_EQ(load({"m", "--", scratch_.dir(), "{port}"}).code, 126);
  EXPECT_EQ(count_events("loaded"), 0u);
  EXPECT_EQ(count_events("load_failed"), 0u);
}

}  // namespace
}  // namespace modelpool::test
