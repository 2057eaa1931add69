// What backends and devices take is measured by modelpool-sample, and counts: who outgrows the
// limit goes. Whatever becomes of that program, the coordinator serves on.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/proc.hpp"
#include "base/time.hpp"
#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::uint64_t kMiB_bytes = 1024 * 1024;
constexpr std::uint64_t kGiB_bytes = 1024 * kMiB_bytes;

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size())
    ++found;
  return found;
}

class MeasureTest : public PoolTest {
 protected:
  void start_with(std::vector<std::string> flags, Program::Options options = {}) {
    daemon_ = std::make_unique<Daemon>(scratch_, std::move(flags), std::move(options));
  }
  // Models "NAME-N" are expected to take N MiB.
  void start_expecting(const std::string& max_memory, std::vector<std::string> flags = {}) {
    std::string config = "[pool]\nmax_memory = \"" + max_memory + "\"\n";
    for (const char* size : {"10", "20", "40"}) {
      config +=
          "[[model]]\nmatch = \"*-" + std::string(size) + "\"\nmemory = \"" + size + "MiB\"\n";
    }
    write_file(scratch_.path("pool.toml"), config);
    flags.insert(flags.begin(), {"--config", scratch_.path("pool.toml"), "--max-wait", "off"});
    start_with(std::move(flags));
  }

  // A backend that takes next to nothing until it is told to grow.
  pid_t load_growing(RemoteWorker& worker, const std::string& model, const std::string& size) {
    if (worker.acquire(model) != "ticket") return 0;
    const std::string pid = spawn_growing(worker, model, size);
    return worker.ready(model) == "lease" ? std::stoi(pid.substr(4)) : 0;
  }
  std::string spawn_growing(RemoteWorker& worker, const std::string& model,
                            const std::string& size) {
    return worker.spawn_program(
        model, {"/bin/sh", "-c",
                "while [ ! -e '" + grown(model) + "' ]; do sleep 0.02; done; exec '" +
                    MODELPOOL_DEMO_BACKEND + "' --port 0 --memory " + size});
  }
  void grow(const std::string& model) { write_file(grown(model), ""); }
  std::string grown(const std::string& model) const { return scratch_.path("grow-" + model); }

  std::uint64_t number(const std::string& model, const std::string& field) {
    const nlohmann::json m = entry(model);
    return m.is_null() || !m[field].is_number() ? 0 : m[field].get<std::uint64_t>();
  }
  bool wait_measured(const std::string& model, std::uint64_t bytes) {
    return eventually([&] { return number(model, "measured_bytes") >= bytes; });
  }

  pid_t sampler() {
    for (const pid_t pid : list_pids().value_or(std::vector<pid_t>())) {
      const auto stat = read_stat(pid);
      if (stat && stat->parent == daemon().pid() && !stat->is_zombie() &&
          stat->command == "modelpool-sampl")
        return pid;
    }
    return 0;
  }
  pid_t wait_sampler(pid_t other_than = 0) {
    pid_t found = 0;
    EXPECT_TRUE(eventually([&] { return (found = sampler()) != 0 && found != other_than; }));
    return found;
  }
  void stop(pid_t pid) {
    stopped_.push_back(pid);
    kill(pid, SIGSTOP);
  }
  // What is stopped and was not ended is not left behind.
  void TearDown() override {
    for (const pid_t pid : stopped_) {
      const auto stat = read_stat(pid);
      if (stat && stat->command == "modelpool-sampl") kill(pid, SIGKILL);
    }
  }

  // What is started instead of modelpool-sample. Its starts are counted.
  Program::Options program(const std::string& script) {
    const std::string path = scratch_.path("sampler");
    write_file(path, "#!/bin/sh\necho >> '" + scratch_.path("starts") + "'\n" + script + "\n");
    chmod(path.c_str(), 0700);
    return {{{"MODELPOOL_SAMPLE", path}}, ""};
  }
  std::size_t starts() { return read_file(scratch_.path("starts")).size(); }

 private:
  std::vector<pid_t> stopped_;
};

TEST_F(MeasureTest, WhatABackendTakesIsSeenByAll) {
  start_with({"--max-memory", "1GiB"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m", {"--memory", "64MiB"});
  ASSERT_TRUE(wait_measured("m", 64 * kMiB_bytes));
  EXPECT_TRUE(eventually([&] { return number("m", "peak_bytes") >= 64 * kMiB_bytes; }));
  EXPECT_LT(number("m", "measured_bytes"), 128 * kMiB_bytes);
  EXPECT_THAT(poolctl(scratch_, {"list"}).out, HasSubstr("MiB")) << "in the table, too";
}

TEST_F(MeasureTest, WithoutALimitItIsMeasuredToo) {
  start_with({});
  RemoteWorker worker(scratch_);
  worker.load_idle("m", {"--memory", "64MiB"});
  EXPECT_TRUE(wait_measured("m", 64 * kMiB_bytes));
}

TEST_F(MeasureTest, P3WhatWasMeasuredTakesRoom) {
  start_expecting("4GiB", {"--when-busy", "wait"});
  RemoteWorker worker(scratch_);
  load_growing(worker, "a-10", "100MiB");
  grow("a-10");
  ASSERT_TRUE(wait_measured("a-10", 100 * kMiB_bytes));
  RemoteWorker other(scratch_);
  EXPECT_TRUE(eventually([&] { return number("a-10", "peak_bytes") >= 100 * kMiB_bytes; }));
  // Under a sanitizer it takes more.
  const std::uint64_t most = number("a-10", "peak_bytes") + 30 * kMiB_bytes;
  EXPECT_EQ(poolctl(scratch_, {"set", "max-memory=" + std::to_string(most)}).code, 0);
  EXPECT_EQ(other.acquire("b-40", 0), "timeout");
  EXPECT_EQ(other.acquire("b-20", 0), "ticket") << "beside it there is room for that";
}

TEST_F(MeasureTest, P2OneThatAloneTakesMoreThanThereIsIsKilledAndRemembered) {
  start_with({"--max-memory", "100MiB", "--stop-grace", "1s"});
  RemoteWorker worker(scratch_);
  const pid_t pid = load_growing(worker, "m", "150MiB");
  ASSERT_TRUE(wait_measured("m", 1));
  EXPECT_EQ(state("m"), "ready") << "its lease is in flight";
  grow("m");
  const nlohmann::json killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "over_limit");
  EXPECT_THAT(std::string(killed["text"]),
              AllOf(HasSubstr("MiB of memory"), HasSubstr("max_memory is 100MiB"),
                    HasSubstr("1 request was cut")));
  EXPECT_FALSE(is_running(pid));
  worker.release("m");
  EXPECT_TRUE(eventually([&] { return worker.acquire("m", 0) == "too_large"; }));
  EXPECT_THAT(worker.last_error(), HasSubstr("poolctl reset m"));
  EXPECT_THAT(poolctl(scratch_, {"why", "m"}).out, HasSubstr("by itself it takes"));
  EXPECT_EQ(poolctl(scratch_, {"reset", "m"}).code, 0);
  EXPECT_EQ(worker.acquire("m", 0), "ticket") << "it may take less now";
  worker.release("m");
  EXPECT_TRUE(settles());
}

TEST_F(MeasureTest, WhoWaitsForOneThatTookTooMuchDoesNotLoadItAgain) {
  start_with({"--max-memory", "100MiB", "--stop-grace", "1s", "--parallel", "1"});
  RemoteWorker worker(scratch_);
  RemoteWorker waiter(scratch_);
  load_growing(worker, "m", "150MiB");
  ASSERT_TRUE(wait_measured("m", 1));
  waiter.begin_acquire("m");
  ASSERT_TRUE(eventually([&] { return status()["waiting"] == 1; }));
  grow("m");
  ASSERT_EQ(wait_event("killed", "m")["reason"], "over_limit");
  EXPECT_EQ(waiter.hear(), "too_large");
}

TEST_F(MeasureTest, APinDoesNotSpareOneThatAloneTakesMoreThanThereIs) {
  start_with({"--max-memory", "100MiB"});
  RemoteWorker worker(scratch_);
  load_growing(worker, "m", "150MiB");
  EXPECT_EQ(poolctl(scratch_, {"pin", "m"}).code, 0);
  grow("m");
  EXPECT_EQ(wait_event("killed", "m")["reason"], "over_limit");
}

TEST_F(MeasureTest, ALoadThatTakesMoreThanThereIsFailsAndIsRemembered) {
  start_with({"--max-memory", "100MiB", "--load-cooldown", "off"});
  RemoteWorker worker(scratch_);
  ASSERT_EQ(worker.acquire("m"), "ticket");
  spawn_growing(worker, "m", "150MiB");
  grow("m");
  const nlohmann::json failed = wait_event("load_failed", "m");
  EXPECT_EQ(failed["reason"], "over_limit");
  EXPECT_THAT(std::string(failed["text"]), HasSubstr("max_memory is 100MiB"));
  EXPECT_EQ(worker.ready("m"), "ticket_lost");
  worker.release("m");
  EXPECT_TRUE(eventually([&] { return worker.acquire("m", 0) == "too_large"; }));
}

TEST_F(MeasureTest, P2InSumAboveTheLimitTheLesserDrainsAndIsNotCut) {
  start_expecting("200MiB", {"--drain-timeout", "10m"});
  RemoteWorker worker(scratch_);
  load_growing(worker, "a-20", "90MiB");
  load_growing(worker, "b-20", "140MiB");
  grow("a-20");
  ASSERT_TRUE(wait_measured("a-20", 90 * kMiB_bytes));
  EXPECT_EQ(state("a-20"), "ready");
  grow("b-20");
  ASSERT_TRUE(wait_state("a-20", "evicting"));
  EXPECT_EQ(entry("a-20")["in_flight"], 1) << "it drains";
  EXPECT_EQ(state("b-20"), "ready") << "it was just loaded";
  EXPECT_EQ(worker.progress("a-20"), "ok");
  worker.release("a-20");
  const nlohmann::json gone = wait_event("evicted", "a-20");
  EXPECT_EQ(gone["reason"], "memory");
  EXPECT_THAT(std::string(gone["text"]),
              AllOf(HasSubstr("max_memory is 200MiB"), HasSubstr("the pool's backends take")));
  EXPECT_EQ(state("b-20"), "ready");
  EXPECT_EQ(count_events("killed"), 0u);
}

TEST_F(MeasureTest, HowMuchAModelTookIsExpectedOfItsNextLoad) {
  start_expecting("150MiB");
  RemoteWorker worker(scratch_);
  load_growing(worker, "a-10", "100MiB");
  grow("a-10");
  ASSERT_TRUE(eventually([&] { return number("a-10", "peak_bytes") >= 100 * kMiB_bytes; }));
  worker.release("a-10");
  EXPECT_EQ(poolctl(scratch_, {"evict", "a-10"}).code, 0);
  EXPECT_TRUE(eventually([&] {
    worker.release("a-10");
    return worker.acquire("a-10", 0) == "ticket" &&
           number("a-10", "expected_bytes") >= 100 * kMiB_bytes;
  }));
}

// --- The program that measures -------------------------------------------------------------------

TEST_F(MeasureTest, P10TheSamplerHasNothingOfTheCoordinators) {
  start_with({"--max-memory", "1GiB"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_TRUE(wait_measured("m", 1));
  const pid_t pid = wait_sampler();
  std::vector<std::string> open;
  for (const auto& fd : std::filesystem::directory_iterator(proc_path(pid, "fd"))) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(fd.path(), error);
    if (!error) open.push_back(fd.path().filename().string() + " " + target.substr(0, 7));
  }
  EXPECT_THAT(open, ::testing::UnorderedElementsAre("0 socket:", "1 socket:", "2 /dev/nu"))
      << "no lock, no segment";
  EXPECT_EQ(read_stat(pid)->session, pid);
  const std::string status = *read_proc(pid, "status");
  EXPECT_THAT(status, HasSubstr("SigBlk:\t0000000000000000"));
  EXPECT_EQ(read_proc(pid, "maps")->find(scratch_.dir()), std::string::npos);
}

TEST_F(MeasureTest, P10ASamplerThatHangsHoldsUpNobody) {
  start_with({"--max-memory", "1GiB"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_TRUE(wait_measured("m", 1)) << "it is past its start";
  const pid_t stopped = wait_sampler();
  stop(stopped);
  ASSERT_TRUE(has_stopped(stopped));
  daemon().program().signal(SIGTERM);
  EXPECT_EQ(daemon().program().wait(), 0);
  EXPECT_TRUE(eventually([&] { return !is_running(stopped); }));
  daemon().start();
  EXPECT_EQ(worker.acquire("m"), "lease");
  worker.load_idle("late", {"--memory", "64MiB"});
  ASSERT_TRUE(wait_measured("late", 64 * kMiB_bytes));
  const pid_t next = wait_sampler();
  stop(next);
  ASSERT_TRUE(has_stopped(next));
  daemon().kill_now();
  EXPECT_TRUE(eventually([&] { return !is_running(next); })) << "it ends with its coordinator";
  daemon().start();
  EXPECT_TRUE(settles());
}

TEST_F(MeasureTest, ASamplerThatIsKilledIsReplacedAgainAndAgain) {
  start_with({"--max-memory", "1GiB"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  for (int i = 0; i < 3; ++i) {
    const pid_t pid = wait_sampler();
    kill(pid, SIGKILL);
    wait_sampler(pid);
  }
  worker.load_idle("grown", {"--memory", "64MiB"});
  EXPECT_TRUE(wait_measured("grown", 64 * kMiB_bytes));
  EXPECT_EQ(count_events("killed") + count_events("evicted"), 0u);
}

TEST_F(MeasureTest, ASamplerThatSaysNothingIsReplaced) {
  start_with({"--max-memory", "1GiB"});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_TRUE(wait_measured("m", 1));
  const pid_t pid = wait_sampler();
  stop(pid);
  worker.load_idle("late", {"--memory", "64MiB"});
  EXPECT_TRUE(wait_measured("late", 64 * kMiB_bytes));
  EXPECT_NE(sampler(), pid);
  EXPECT_THAT(daemon().log(), HasSubstr("has said nothing for 5s"));
}

TEST_F(MeasureTest, WithoutASamplerItServesAndSaysSoOnce) {
  start_with({"--max-memory", "1GiB"}, {{{"MODELPOOL_SAMPLE", "/nonexistent/sampler"}}, ""});
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  EXPECT_TRUE(
      eventually([&] { return daemon().log().find("/nonexistent/sampler") != std::string::npos; }));
  worker.load_idle("other");
  EXPECT_EQ(worker.acquire("m"), "lease");
  EXPECT_EQ(count(daemon().log(), "/nonexistent/sampler"), 1u);
  EXPECT_EQ(number("m", "measured_bytes"), 0u);
}

TEST_F(MeasureTest, ASamplerThatEndsIsTriedAgainMoreAndMoreSeldomAndToldOfOnce) {
  start_with({"--max-memory", "1GiB"}, program("exit 3"));
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  EXPECT_TRUE(eventually([&] { return starts() >= 3; }));
  EXPECT_EQ(worker.acquire("m"), "lease");
  EXPECT_EQ(count(daemon().log(), "modelpool-sample"), 1u) << daemon().log();
}

TEST_F(MeasureTest, P13GarbageFromTheSamplerIsRefused) {
  start_with({"--max-memory", "1GiB"}, program("head -c 1000000 /dev/urandom; cat"));
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  EXPECT_TRUE(eventually([&] { return starts() >= 2; }));
  EXPECT_EQ(worker.acquire("m"), "lease");
  EXPECT_THAT(daemon().log(), HasSubstr("modelpool-sample said"));
}

TEST_F(MeasureTest, P13NumbersThatNoHostHasEndNobody) {
  start_with(
      {"--max-memory", "1GiB"},
      program("while read what one two rest; do case $what in\n"
              "measure) id=$one ;;\n"
              "backend) slot=$one; generation=$two ;;\n"
              "end) printf 'begin %s\\nbackend %s %s 9223372036854775808\\nhost\\nend %s\\n' "
              "$id $slot $generation $id ;;\nesac; done"));
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  EXPECT_TRUE(eventually([&] { return starts() >= 2; }));
  EXPECT_EQ(state("m"), "ready");
  EXPECT_EQ(number("m", "measured_bytes"), 0u);
  EXPECT_EQ(count_events("killed"), 0u);
}

// What is said of a life that is over is not the next one's.
TEST_F(MeasureTest, AnAnswerOfAnotherGenerationIsDropped) {
  start_with({"--max-memory", "1GiB"},
             program("while read what one two rest; do case $what in\n"
                     "measure) id=$one ;;\n"
                     "backend) slot=$one; generation=$two ;;\n"
                     "end) printf 'begin %s\\nbackend %s %s 999999999999\\nhost\\nend %s\\n' "
                     "$id $slot $((generation + 1)) $id; echo >> '" +
                     scratch_.path("answers") + "' ;;\nesac; done"));
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  EXPECT_TRUE(eventually([&] { return read_file(scratch_.path("answers")).size() >= 3; }));
  EXPECT_EQ(number("m", "measured_bytes"), 0u);
  EXPECT_EQ(starts(), 1u);
}

// --- Devices -------------------------------------------------------------------------------------

class DeviceTest : public MeasureTest {
 protected:
  // With a driver that says what the test writes (tests/fake_nvml).
  void start_with_driver(const std::string& text, std::vector<std::string> flags = {}) {
    drive(text);
    flags.insert(flags.end(), {"--max-memory", "8GiB"});
    start_with(
        flags,
        {{{"LD_LIBRARY_PATH", MODELPOOL_FAKE_NVML_DIR}, {"FAKE_NVML", scratch_.path("nvml")}}, ""});
  }
  void drive(const std::string& text) {
    write_file(scratch_.path("nvml.new"), text);
    std::rename(scratch_.path("nvml.new").c_str(), scratch_.path("nvml").c_str());
  }
  static std::string device(const std::string& uuid, std::uint64_t total_gib,
                            std::uint64_t used_mib, const std::string& what = "device ") {
    return what + uuid + " " + std::to_string(total_gib * kGiB_bytes) + " " +
           std::to_string(used_mib * kMiB_bytes) + "\n";
  }
  static std::string process(const std::string& how, pid_t pid, std::uint64_t mib) {
    return how + " " + std::to_string(pid) + " " + std::to_string(mib * kMiB_bytes) + "\n";
  }
  nlohmann::json row(const std::string& uuid) {
    const nlohmann::json all = status();
    for (const auto& one : all["devices"]) {
      if (one["uuid"] == uuid) return one;
    }
    return nullptr;
  }
  bool wait_row(const std::string& uuid, const std::string& field, std::uint64_t mib) {
    return eventually([&] {
      const nlohmann::json one = row(uuid);
      return !one.is_null() && one[field] == mib * kMiB_bytes;
    });
  }
};

TEST_F(DeviceTest, WhatABackendsProcessesTakeIsItsAndTheRestIsForeign) {
  start_with_driver(device("GPU-1", 24, 500) + device("GPU-2", 8, 0));
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load_idle("m");
  ASSERT_TRUE(wait_row("GPU-1", "total_bytes", 24 * 1024));
  drive(device("GPU-1", 24, 500) + process("process", pid, 6000) +
        process("process", getpid(), 2000) + device("GPU-2", 8, 0) + process("process", pid, 100));
  EXPECT_TRUE(wait_row("GPU-1", "pool_bytes", 6000));
  EXPECT_TRUE(wait_row("GPU-1", "foreign_bytes", 2500));
  EXPECT_TRUE(wait_row("GPU-1", "free_bytes", 24 * 1024 - 8500));
  EXPECT_TRUE(wait_row("GPU-2", "pool_bytes", 100));
  EXPECT_EQ(number("m", "measured_device_bytes"), 6100 * kMiB_bytes);
  const nlohmann::json use = entry("m")["device_use"];
  ASSERT_EQ(use.size(), 2u);
  for (const auto& one : use) {
    const auto mib = one["device"] == row("GPU-1")["device"] ? 6000 : 100;
    EXPECT_EQ(one["measured_bytes"], mib * kMiB_bytes) << one;
  }
  drive(device("GPU-1", 24, 500) + process("process", pid, 1000) + device("GPU-2", 8, 0));
  EXPECT_TRUE(
      eventually([&] { return number("m", "measured_device_bytes") == 1000 * kMiB_bytes; }));
  EXPECT_EQ(number("m", "peak_device_bytes"), 6100 * kMiB_bytes);
  EXPECT_THAT(poolctl(scratch_, {"status"}).out, HasSubstr("GPU-1"));
}

TEST_F(DeviceTest, OneThatHasVanishedIsNotMeasuredAnyMore) {
  start_with_driver(device("GPU-1", 24, 500) + device("GPU-2", 8, 0));
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_TRUE(wait_row("GPU-2", "total_bytes", 8 * 1024));
  drive(device("GPU-1", 24, 600));
  EXPECT_TRUE(eventually([&] { return row("GPU-2")["total_bytes"].is_null(); }));
  EXPECT_TRUE(row("GPU-2")["measured_ms"].is_null());
  EXPECT_TRUE(wait_row("GPU-1", "free_bytes", 24 * 1024 - 600));
  drive(device("GPU-1", 24, 600) + device("GPU-2", 8, 0));
  EXPECT_TRUE(wait_row("GPU-2", "total_bytes", 8 * 1024)) << "it is back";
}

TEST_F(DeviceTest, OfADeviceInMigModeEachInstanceIsADevice) {
  const auto driver = [](const std::string& processes) {
    return device("GPU-1", 40, 300) + device("MIG-a", 20, 100, "instance ") +
           device("MIG-b", 10, 50, "instance ") + processes + device("GPU-2", 24, 500);
  };
  start_with_driver(driver(""));
  RemoteWorker worker(scratch_);
  const pid_t pid = worker.load_idle("m");
  ASSERT_TRUE(wait_row("MIG-a", "total_bytes", 20 * 1024));
  EXPECT_TRUE(wait_row("MIG-b", "free_bytes", 10 * 1024 - 50));
  EXPECT_TRUE(wait_row("GPU-2", "total_bytes", 24 * 1024));
  EXPECT_TRUE(row("GPU-1").is_null()) << "nothing runs on it but on its instances";
  drive(driver(process("process", pid, 4000)));
  EXPECT_TRUE(wait_row("MIG-b", "pool_bytes", 4000));
  EXPECT_TRUE(wait_row("MIG-a", "pool_bytes", 0));
}

TEST_F(DeviceTest, InAContainerABackendHasWhatItsDeviceRoseBy) {
  start_with_driver(device("GPU-1", 24, 2000));
  RemoteWorker worker(scratch_);
  worker.load_idle("first");  // so that the device is known
  ASSERT_TRUE(wait_row("GPU-1", "foreign_bytes", 2000));
  ASSERT_EQ(worker.acquire("m"), "ticket");
  const std::string pid = worker.spawn("m");
  // A measure after its start, before it takes anything.
  ASSERT_TRUE(eventually([&] { return number("m", "measured_bytes") != 0; }));
  drive(device("GPU-1", 24, 2000) + process("hidden", std::stoi(pid.substr(4)), 6000));
  ASSERT_TRUE(wait_row("GPU-1", "free_bytes", 24 * 1024 - 8000));
  EXPECT_EQ(worker.ready("m"), "lease");
  EXPECT_TRUE(eventually([&] { return number("m", "peak_device_bytes") == 6000 * kMiB_bytes; }));
  EXPECT_EQ(number("first", "measured_device_bytes"), 0u);
  EXPECT_TRUE(wait_row("GPU-1", "foreign_bytes", 2000));
  daemon().kill_now();
  daemon().start();
  drive(device("GPU-1", 24, 3000) + process("hidden", std::stoi(pid.substr(4)), 6000));
  EXPECT_TRUE(wait_row("GPU-1", "foreign_bytes", 3000)) << "P10: the next coordinator knows it";
}

TEST_F(DeviceTest, ADriverThatHangsHoldsUpNobody) {
  start_with_driver(device("GPU-1", 24, 500));
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  ASSERT_TRUE(wait_row("GPU-1", "free_bytes", 24 * 1024 - 500));
  const pid_t pid = wait_sampler();
  drive("hang memory\n" + device("GPU-1", 24, 600));
  worker.load_idle("late", {"--memory", "64MiB"});
  EXPECT_TRUE(wait_measured("late", 64 * kMiB_bytes)) << "the host is measured all the same";
  EXPECT_TRUE(eventually([&] { return !is_running(pid); })) << "and it is replaced";
  EXPECT_TRUE(row("GPU-1")["free_bytes"] == (24 * 1024 - 500) * kMiB_bytes)
      << "the last measure stands";
  EXPECT_THAT(daemon().log(), HasSubstr("while it asked the drivers"));
  drive(device("GPU-1", 24, 700));
  EXPECT_TRUE(wait_row("GPU-1", "free_bytes", 24 * 1024 - 700)) << "devices are tried again";
}

TEST_F(DeviceTest, ErrorsOfADriverLeaveItsDeviceOut) {
  start_with_driver("fail memory 15\n" + device("GPU-1", 24, 500));
  RemoteWorker worker(scratch_);
  worker.load_idle("m", {"--memory", "64MiB"});
  EXPECT_TRUE(wait_measured("m", 64 * kMiB_bytes));
  EXPECT_TRUE(eventually([&] { return daemon().log().find("GPU is lost") != std::string::npos; }));
  EXPECT_EQ(status()["devices"].size(), 0u);
  drive("fail processes 3\n" + device("GPU-1", 24, 500));
  EXPECT_TRUE(wait_row("GPU-1", "foreign_bytes", 500)) << "it has come back, without processes";
}

TEST_F(DeviceTest, P13WhatNoDeviceHasIsLeftOut) {
  start_with_driver("garbage\n" + device("GPU-1", 24, 500));
  RemoteWorker worker(scratch_);
  worker.load_idle("m", {"--memory", "64MiB"});
  EXPECT_TRUE(wait_measured("m", 64 * kMiB_bytes));
  EXPECT_TRUE(eventually(
      [&] { return daemon().log().find("says what no device has") != std::string::npos; }));
  EXPECT_EQ(status()["devices"].size(), 0u);
}

TEST_F(DeviceTest, AmdsAreFoundInSysfs) {
  const std::string card = scratch_.path("sys/class/drm/card0/device");
  std::filesystem::create_directories(card);
  write_file(card + "/mem_info_vram_total", "17163091968\n");
  write_file(card + "/mem_info_vram_used", "1073741824\n");
  write_file(card + "/unique_id", "b7e8a4f1c2d3e4f5\n");
  start_with({"--max-memory", "8GiB"}, program(std::string("exec '") + MODELPOOL_SAMPLE_PROGRAM +
                                               "' --sysfs '" + scratch_.path("sys") + "'"));
  RemoteWorker worker(scratch_);
  worker.load_idle("m");
  EXPECT_TRUE(wait_row("GPU-b7e8a4f1c2d3e4f5", "foreign_bytes", 1024));
  std::filesystem::remove_all(scratch_.path("sys"));
  worker.load_idle("late", {"--memory", "64MiB"});
  EXPECT_TRUE(wait_measured("late", 64 * kMiB_bytes)) << "files may vanish";
}

// By a driver that names no processes, as in a container. 500 of them by hand:
// MODELPOOL_TEST_HANDOVERS.
TEST_F(DeviceTest, P3ADeviceIsHandedOnWhenItsDriverHasGivenTheMemoryBack) {
  constexpr std::uint64_t kHeld_ns = 400 * kMillisecond_ns;
  write_file(scratch_.path("pool.toml"),
             "[pool]\ngpu_memory = \"90%\"\nsettle = \"1h\"\n"
             "[[model]]\nmatch = \"*\"\ndevices = 1\ngpu_memory = \"16GiB\"\n");
  start_with_driver(device("GPU-1", 24, 2000),
                    {"--config", scratch_.path("pool.toml"), "--max-wait", "off"});
  const char* const asked = std::getenv("MODELPOOL_TEST_HANDOVERS");
  const int handovers = asked == nullptr ? 3 : std::atoi(asked);
  RemoteWorker worker(scratch_);
  ASSERT_GT(worker.load_idle("m0"), 0) << worker.last_error();
  EXPECT_EQ(row("GPU-1")["limit_bytes"], 24 * kGiB_bytes * 9 / 10);
  EXPECT_EQ(status()["max_memory_bytes"], 8 * kGiB_bytes);
  for (int n = 1; n <= handovers; ++n) {
    const pid_t pid = entry("m" + std::to_string(n - 1))["pid"];
    drive(device("GPU-1", 24, 2000) + "hidden " + std::to_string(pid) + " " +
          std::to_string(16 * kGiB_bytes) + " 400\n");
    ASSERT_TRUE(wait_row("GPU-1", "free_bytes", 8 * 1024 - 2000));
    const std::uint64_t before = now_ns();
    ASSERT_GT(worker.load_idle("m" + std::to_string(n)), 0) << worker.last_error();
    EXPECT_GE(now_ns() - before, kHeld_ns) << "hand-over " << n << ": it was not free yet";
    EXPECT_EQ(count_events("evicted"), static_cast<std::size_t>(n));
  }
}

}  // namespace
}  // namespace modelpool::test
