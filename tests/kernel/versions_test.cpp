// An old tool on a newer layout and a new one on an older: what the tool cannot know it refuses by
// name; it lists and stops what runs there by the offsets that never change.
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>

#include "base/proc.hpp"
#include "daemon/pool_test.hpp"
#include "segment/lost.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A pool of another version, written by nobody's library: its tables lie elsewhere, its backends'
// records are larger, and all that is not frozen is noise.
class OtherLayout : public ::testing::TestWithParam<std::uint32_t> {
 protected:
  static constexpr std::uint64_t kOffset = 3 * kPage_bytes;
  static constexpr std::uint64_t kStride = 2 * kPage_bytes;
  static constexpr std::uint64_t kSlots = 5;

  OtherLayout() {
    Header header;
    header.magic = kSegmentMagic;
    header.layout_version = GetParam();
    header.header_bytes = sizeof header + 512;
    header.total_bytes = kOffset + kSlots * kStride;
    header.abi_fingerprint = 0x0123456789abcdef;
    header.tables[static_cast<std::size_t>(Table::kBackends)] = {kOffset, kStride, kSlots};
    std::string bytes(header.total_bytes, '\xa5');
    bytes.replace(0, sizeof header, reinterpret_cast<const char*>(&header), sizeof header);
    for (std::uint64_t i = 0; i < kSlots; ++i) {
      bytes.replace(kOffset + i * kStride, 32, std::string(32, '\0'));
    }
    write_file(path_, bytes);
    std::filesystem::permissions(path_, std::filesystem::perms(0600));
    write_file(path_ + ".users", "");
    std::filesystem::permissions(path_ + ".users", std::filesystem::perms(0600));
  }

  void put(std::uint64_t slot, BackendState state, const ProcessIdentity& process, pid_t group) {
    struct {
      std::uint64_t state;
      std::uint32_t pid, group;
      std::uint64_t start_ticks, pidfd_inode;
    } record{StateWord{7, 0, state}.pack(), static_cast<std::uint32_t>(process.pid),
             static_cast<std::uint32_t>(group), process.start_ticks, process.pidfd_inode};
    const Fd file(open(path_.c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(
        pwrite(file.get(), &record, sizeof record, static_cast<off_t>(kOffset + slot * kStride)),
        static_cast<ssize_t>(sizeof record));
  }
  static ProcessIdentity identity(pid_t pid) { return ProcessHandle::open(pid).value().identity(); }

  Scratch scratch_;
  const std::string path_ = scratch_.path("default");
};

INSTANTIATE_TEST_SUITE_P(OlderAndNewer, OtherLayout,
                         ::testing::Values(kLayoutVersion - 1, kLayoutVersion + 1, 4'000'000'000u));

TEST_P(OtherLayout, IsListedByWhatNeverMoves) {
  const Program backend(std::vector<std::string>{"sleep", "600"});
  put(1, BackendState::kReady, identity(backend.pid()), 0);
  put(2, BackendState::kGone, {1234, 1, 1}, 1234);
  put(4, BackendState::kReserved, {}, 0);
  const Finished text = poolctl(scratch_, {"list"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, AllOf(HasSubstr("ready"), HasSubstr(std::to_string(backend.pid()))));
  EXPECT_THAT(text.err, HasSubstr("layout version " + std::to_string(GetParam())));
  const auto list = poolctl_json(scratch_, {"list"});
  ASSERT_EQ(list.size(), 2u) << list;
  EXPECT_EQ(list[0]["state"], "ready");
  EXPECT_EQ(list[0]["pid"], backend.pid());
  EXPECT_EQ(list[0]["generation"], 7);
  EXPECT_EQ(list[0]["model"], nullptr) << "unknown prints as unknown";
  EXPECT_EQ(list[0]["in_flight"], nullptr) << "unknown prints as unknown";
  EXPECT_EQ(list[1]["state"], "reserved");
  EXPECT_EQ(list[1]["pid"], nullptr);
}

TEST_P(OtherLayout, IsStoppedByWhatNeverMovesAndRemoved) {
  Program backend(std::vector<std::string>{"setsid", "sleep", "600"});
  Program bystander(std::vector<std::string>{"sleep", "600"});
  put(0, BackendState::kReady, identity(backend.pid()), 0);
  ProcessIdentity before = identity(bystander.pid());  // who had its PID before
  before.start_ticks -= 1;
  put(3, BackendState::kStopping, before, bystander.pid());
  const Finished removed = poolctl(scratch_, {"remove", "--stop"});
  EXPECT_EQ(removed.code, 0) << removed.err;
  EXPECT_FALSE(backend.running());
  EXPECT_TRUE(bystander.running());
  EXPECT_FALSE(std::filesystem::exists(path_));
}

// It answered 0 and forgot them.
TEST_P(OtherLayout, WithALiveBackendIsNotRemovedUnlessToldToStopIt) {
  Program backend(std::vector<std::string>{"sleep", "600"});
  put(2, BackendState::kReady, identity(backend.pid()), 0);
  const Finished refused = poolctl(scratch_, {"remove"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("process " + std::to_string(backend.pid())),
                                 HasSubstr("poolctl --dir " + scratch_.dir() + " remove --stop")));
  EXPECT_TRUE(backend.running());
  EXPECT_TRUE(std::filesystem::exists(path_));
}

TEST_P(OtherLayout, WithOneThatIsExternalOrAboutToStartIsNotRemovedUnlessToldToStopIt) {
  for (const BackendState state : {BackendState::kReserved, BackendState::kReady}) {
    put(1, state, {}, 0);
    EXPECT_EQ(poolctl(scratch_, {"remove"}).code, 1);
    EXPECT_TRUE(std::filesystem::exists(path_));
  }
  EXPECT_EQ(poolctl(scratch_, {"remove", "--stop"}).code, 0);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

// What a damaged table does not name was forgotten.
TEST_P(OtherLayout, WhoseTableDoesNotNameALiveBackendIsNotForgotten) {
  Program backend(std::vector<std::string>{"sleep", "600"},
                  {{{kHomeVariable, home_of(path_)}}, ""});
  for (const bool is_cut : {false, true}) {
    if (is_cut) std::filesystem::resize_file(path_, sizeof(Header) / 2);
    ASSERT_TRUE(eventually(
        [&] { return read_environment(backend.pid(), kHomeVariable) == home_of(path_); }));
    const Finished refused = poolctl(scratch_, {"remove"});
    EXPECT_EQ(refused.code, 1) << refused.err;
    EXPECT_THAT(refused.err, HasSubstr("process " + std::to_string(backend.pid())));
    EXPECT_TRUE(std::filesystem::exists(path_));
  }
  backend.signal(SIGKILL);
  backend.wait();
  EXPECT_EQ(poolctl(scratch_, {"remove"}).code, 0);
}

// Its first process has gone, its group has not.
TEST_P(OtherLayout, OfWhoseBackendOnlyTheGroupIsLeftIsNotForgotten) {
  const Orphans orphans;
  const std::string file = scratch_.path("member");
  Program leader(std::vector<std::string>{
      "setsid", "sh", "-c",
      "sleep 600 & echo $! > " + file + ".tmp; mv " + file + ".tmp " + file + "; wait"});
  ASSERT_TRUE(eventually([&] { return !read_file(file).empty(); }));
  const pid_t member = std::stoi(read_file(file));
  const pid_t group = read_stat(member)->group;
  put(0, BackendState::kReady, identity(group), group);
  kill(group, SIGKILL);
  ASSERT_TRUE(eventually([&] { return !is_running(group); }));
  leader.wait();
  for (const bool stop : {false, true}) {
    std::vector<std::string> args{"remove"};
    if (stop) args.insert(args.end(), {"--stop", "--timeout", "100ms"});
    const Finished refused = poolctl(scratch_, args);
    EXPECT_EQ(refused.code, 1) << refused.err;
    EXPECT_THAT(refused.err, HasSubstr(std::to_string(member)));
    EXPECT_TRUE(std::filesystem::exists(path_));
  }
  kill(member, SIGKILL);
  EXPECT_TRUE(eventually([&] { return poolctl(scratch_, {"remove", "--stop"}).code == 0; }));
}

TEST_P(OtherLayout, IsNotStoppedUnderItsOwnCoordinatorOrWorkers) {
  Program backend(std::vector<std::string>{"sleep", "600"});
  put(0, BackendState::kReady, identity(backend.pid()), 0);
  const Fd users(open((path_ + ".users").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(flock(users.get(), LOCK_SH), 0);  // as everyone who is attached holds it
  const Finished refused = poolctl(scratch_, {"remove", "--stop"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("of another version"));
  EXPECT_TRUE(backend.running());
  EXPECT_TRUE(std::filesystem::exists(path_));
}

TEST_P(OtherLayout, IsRefusedByNameForEverythingElse) {
  const std::string before = read_file(path_);
  const std::string named = "layout version " + std::to_string(GetParam());
  const std::vector<std::vector<std::string>> commands{{"status"},
                                                       {"workers"},
                                                       {"leases"},
                                                       {"waiters"},
                                                       {"events"},
                                                       {"check"},
                                                       {"dump"},
                                                       {"set"},
                                                       {"set", "max-backends=1"},
                                                       {"pin", "m"},
                                                       {"explain", "m"},
                                                       {"touch", "m"},
                                                       {"evict", "m"},
                                                       {"list", "--file", path_}};
  for (const auto& command : commands) {
    const Finished refused = poolctl(scratch_, command);
    EXPECT_EQ(refused.code, 3) << command[0] << refused.out;
    EXPECT_THAT(refused.err, HasSubstr(named)) << command[0];
  }
  const Finished leased = poolctl(scratch_, {"lease", "m", "--", "true"});
  EXPECT_EQ(leased.code, 125);
  EXPECT_THAT(leased.err, HasSubstr(named));
  const Finished daemon = run({MODELPOOL_COORDINATORD, "--dir", scratch_.dir()});
  EXPECT_EQ(daemon.code, 3);
  EXPECT_THAT(daemon.err, HasSubstr(named));
  PoolOptions options;
  options.dir = scratch_.dir();
  const auto pool = Pool::attach("default", options);
  ASSERT_FALSE(pool);
  EXPECT_EQ(pool.error().code, Errc::kIncompatible);
  EXPECT_EQ(read_file(path_), before);
}

// --- An upgrade over a pool that runs ------------------------------------------------------------

// coordinatord as it is installed, with the one of that layout beside it.
class Upgrade : public OtherLayout {
 protected:
  Upgrade() {
    std::filesystem::create_directory(scratch_.path("bin"));
    std::filesystem::create_directories(std::filesystem::path(older_).parent_path());
    std::filesystem::copy_file(MODELPOOL_COORDINATORD, daemon_);
    write_file(older_, "#!/bin/sh\necho \"$0\" \"$@\"\nexit 7\n");
    std::filesystem::permissions(older_, std::filesystem::perms(0700));
  }

  const std::string daemon_ = scratch_.path("bin/coordinatord");
  const std::string older_ =
      scratch_.path("libexec/modelpool/" + std::to_string(GetParam()) + "/coordinatord");
};

INSTANTIATE_TEST_SUITE_P(Older, Upgrade, ::testing::Values(1, kLayoutVersion - 1));

// An upgrade, or the way back.
class OtherUpgrade : public Upgrade {};
INSTANTIATE_TEST_SUITE_P(Other, OtherUpgrade,
                         ::testing::Values(1, kLayoutVersion - 1, kLayoutVersion + 1));

TEST_P(OtherUpgrade, AnotherPoolGoesOnUnderItsOwnCoordinator) {
  const Finished daemon = run({daemon_, "--dir", scratch_.dir(), "--max-backends", "3"});
  EXPECT_EQ(daemon.code, 7) << daemon.err;
  EXPECT_EQ(daemon.out, older_ + " --dir " + scratch_.dir() + " --max-backends 3\n");
  EXPECT_THAT(daemon.err, AllOf(HasSubstr("layout version " + std::to_string(GetParam())),
                                HasSubstr("executing " + older_)));
}

TEST_P(Upgrade, WhatCannotBeExecutedNeedsAPerson) {
  std::filesystem::permissions(older_, std::filesystem::perms(0600));
  const Finished refused = run({daemon_, "--dir", scratch_.dir()});
  EXPECT_EQ(refused.code, 3);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("unable to execute " + older_),
                                 HasSubstr("install the coordinatord of layout")));
  std::filesystem::remove(older_);
  const Finished missing = run({daemon_, "--dir", scratch_.dir()});
  EXPECT_EQ(missing.code, 3);
  EXPECT_THAT(missing.err, AllOf(HasSubstr("as " + older_ + ", would go on with it"),
                                 HasSubstr("stop its coordinator and workers")));
  std::filesystem::create_symlink(daemon_, older_);
  EXPECT_EQ(run({daemon_, "--dir", scratch_.dir()}).code, 3) << "it executes itself";
}

// Not what lies beside the directory that somebody happens to be in.
TEST_P(Upgrade, WithoutProcNothingElseIsExecuted) {
  const std::string inside = scratch_.path("libexec/inside");
  std::filesystem::create_directory(inside);
  std::filesystem::create_directories(scratch_.path("libexec/libexec"));
  std::filesystem::copy(scratch_.path("libexec/modelpool"),
                        scratch_.path("libexec/libexec/modelpool"),
                        std::filesystem::copy_options::recursive);
  const Finished daemon = run({"unshare", "-m", "sh", "-c",
                               "mount -t tmpfs none /proc || exit 77; cd " + inside + "; exec " +
                                   daemon_ + " --dir " + scratch_.dir()});
  if (daemon.code == 77 || daemon.code == 1) GTEST_SKIP() << "nothing may be mounted here";
  EXPECT_EQ(daemon.code, 3) << daemon.out << daemon.err;
  EXPECT_EQ(daemon.out, "");
}

// Root may look at another user's pool; its own is another one.
TEST_P(Upgrade, AnotherUsersPoolIsNotGoneOnWith) {
  if (geteuid() != 0) GTEST_SKIP() << "only root sees another user's";
  // Out of /dev/shm, which is covered there.
  const std::string away =
      std::filesystem::temp_directory_path() / ("modelpool-test-" + std::to_string(getpid()));
  std::filesystem::create_directory(away);
  std::filesystem::copy(scratch_.dir(), away, std::filesystem::copy_options::recursive);
  Program daemon(
      {"unshare", "-m", "sh", "-c",
       "mount -t tmpfs none /dev/shm || exit 77; mkdir -m 700 /dev/shm/modelpool-65534; cp " +
           away +
           "/default /dev/shm/modelpool-65534/; chown -R 65534 /dev/shm/modelpool-65534; "
           "exec " +
           away + "/bin/coordinatord"});
  eventually(
      [&] { return !daemon.running() || daemon.err().find("serving pool") != std::string::npos; });
  const bool serves = daemon.running();
  daemon.signal(SIGTERM);
  const int code = daemon.wait();
  std::filesystem::remove_all(away);
  if (code == 77 || code == 1) GTEST_SKIP() << "nothing may be mounted here";
  EXPECT_TRUE(serves) << code << daemon.err();
  EXPECT_EQ(daemon.out(), "") << "the older one was executed";
}

TEST_P(Upgrade, ChecksItsOwnConfigAndServesWhatIsNotOlderItself) {
  const std::string config = scratch_.path("config.toml");
  write_file(config, "[pool]\nmax_backends = 3\n");
  EXPECT_EQ(run({daemon_, "--dir", scratch_.dir(), "--config", config, "--check-config"}).code, 0);
  write_file(path_, std::string(sizeof(Header), 'x'));
  EXPECT_EQ(run({daemon_, "--dir", scratch_.dir()}).code, 3);
}

// The documented steps, taken while a new worker waits: its pool is the new coordinator's.
TEST_P(Upgrade, ANewWorkerWaitsForTheNewCoordinatorsPool) {
  const std::string before = read_file(path_);
  Forked worker([&](Forked::Child& parent) {
    SegmentOptions options;
    options.dir = scratch_.dir();
    options.wait_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(kPatience).count());
    parent.say("begins");
    const auto segment = Segment::attach("default", options);
    parent.say(segment ? std::to_string((*segment)->capacities().backends) : segment.error().text);
  });
  ASSERT_EQ(worker.hear(), "begins");
  ASSERT_TRUE(eventually([&] { return read_stat(worker.pid())->state == 'S'; }));
  EXPECT_EQ(read_file(path_), before);
  EXPECT_EQ(poolctl(scratch_, {"remove", "--stop"}).code, 0);
  const Daemon daemon(scratch_, {"--backends", "300"});
  EXPECT_EQ(worker.hear(), "300");
  worker.wait();
}

TEST_P(Upgrade, ANewWorkerThatHasWaitedLongEnoughIsToldWhy) {
  const Fd judge(open(path_.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(flock(judge.get(), LOCK_EX), 0);  // as its coordinator holds it
  for (const bool create : {false, true}) {
    PoolOptions options;
    options.dir = scratch_.dir();
    options.create = create;
    const auto pool = Pool::attach("default", options);
    ASSERT_FALSE(pool);
    EXPECT_EQ(pool.error().code, Errc::kIncompatible);
    EXPECT_THAT(pool.error().text, HasSubstr("layout version " + std::to_string(GetParam())));
  }
}

// P7: shared bytes are input, also to the tool that stops by them.
TEST_P(OtherLayout, ThatNamesAnotherUsersProcessIsNotBelieved) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can be another user";
  Forked other([](Forked::Child& parent) {
    parent.say(setuid(65534) == 0 ? "nobody" : "somebody");
    parent.hear();
  });
  ASSERT_EQ(other.hear(), "nobody");
  put(0, BackendState::kReady, identity(other.pid()), other.pid());
  poolctl(scratch_, {"remove", "--stop", "--timeout", "100ms"});
  EXPECT_TRUE(is_running(other.pid()));
}

}  // namespace
}  // namespace modelpool::test
