// P3, P6, P10: a pool loses its name: its file or directory is removed, moved, or given to another.
// It recovers by itself, and there are never two judges or two limits.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "pool_test.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

namespace fs = std::filesystem;

// coordinatord under the rule of its unit: started again a moment after it left, unless with 2 or
// 3.
class Supervised {
 public:
  Supervised(const std::string& dir, const std::string& flags)
      : loop_({"sh", "-c",
               "trap 'kill $judge; wait $judge; exit' TERM; while :; do " MODELPOOL_COORDINATORD
               " --dir " +
                   dir + " " + flags +
                   " & judge=$!; wait $judge; code=$?; echo $code; case $code in 2|3) exit $code;; "
                   "esac; sleep 0.05; done"}) {}
  ~Supervised() {
    loop_.signal(SIGTERM);
    if (!eventually([&] { return !loop_.running(); })) loop_.signal(SIGKILL);
  }
  bool running() { return loop_.running(); }
  std::string log() const { return loop_.err(); }
  std::string exit_codes() const { return loop_.out(); }

 private:
  Program loop_;
};

// What the backends of these tests carry: an observer that does not know which pool is which.
constexpr const char* kMark = "MODELPOOL_TEST_MARK=";

class LostName : public PoolTest {
 protected:
  LostName() { fs::create_directory(dir_), fs::permissions(dir_, fs::perms(0700)); }
  ~LostName() override {
    for (const pid_t pid : backends()) kill(pid, SIGKILL);
  }

  std::string mark() const { return kMark + scratch_.dir(); }
  std::vector<pid_t> backends() const { return processes_with_environment(mark()); }
  PoolOptions in_dir() const {
    PoolOptions options;
    options.dir = dir_;
    return options;
  }
  bool serves() { return run({MODELPOOL_POOLCTL, "--dir", dir_, "status"}).code == 0; }

  // A backend of the model, idle, or why there is none.
  std::string load(Pool& pool, const std::string& model,
                   Deadline deadline = std::chrono::seconds(30)) {
    auto grant = pool.acquire(model, deadline);
    if (!grant) return std::string(errc_name(grant.error().code)) + ": " + grant.error().text;
    if (std::holds_alternative<Lease>(*grant)) return "leased";
    auto& ticket = std::get<LoadTicket>(*grant);
    SpawnOptions options;
    options.env = {mark()};
    if (auto ok = ticket.spawn({"sleep", "600"}, options); !ok) return ok.error().text;
    auto lease = ticket.ready("unix:/" + model);
    return lease ? "loaded" : lease.error().text;
  }

  const std::string dir_ = scratch_.path("pool");
  const std::string path_ = dir_ + "/default";
};

// How the name is lost.
struct Loss {
  const char* name;
  void (*lose)(const std::string& dir, const std::string& aside);
};
class LostNameBy : public LostName, public ::testing::WithParamInterface<Loss> {};
INSTANTIATE_TEST_SUITE_P(
    Ways, LostNameBy,
    ::testing::Values(
        Loss{"TheFileIsRemoved",
             [](const std::string& dir, const std::string&) { fs::remove(dir + "/default"); }},
        Loss{"AllItsFilesAreRemoved",
             [](const std::string& dir, const std::string&) {
               fs::remove(dir + "/default");
               fs::remove(dir + "/default.users");
             }},
        Loss{"TheDirectoryIsRemoved",
             [](const std::string& dir, const std::string&) { fs::remove_all(dir); }},
        Loss{"TheFileIsRenamed",
             [](const std::string& dir, const std::string&) {
               fs::rename(dir + "/default", dir + "/other");
             }},
        Loss{"TheDirectoryIsRenamed",
             [](const std::string& dir, const std::string& aside) { fs::rename(dir, aside); }}),
    [](const auto& loss) { return std::string(loss.param.name); });

TEST_P(LostNameBy, ThePoolRecoversByItselfWithinADeadlineAndNeverHasTwoLimits) {
  Supervised judge(dir_, "--max-backends 2 --stop-grace 200ms");
  ASSERT_TRUE(eventually([&] { return serves(); })) << judge.log();
  auto pool = Pool::attach("default", in_dir());
  ASSERT_TRUE(pool) << text_of(pool);
  ASSERT_EQ(load(*pool, "a"), "loaded");
  ASSERT_EQ(load(*pool, "b"), "loaded");
  const std::string first = segment_of(*pool).uuid_text();
  const std::vector<pid_t> before = backends();
  ASSERT_EQ(before.size(), 2u);
  GetParam().lose(dir_, scratch_.path("aside"));
  // One acquire, begun while there is no pool of that name, and answered within its deadline.
  EXPECT_EQ(load(*pool, "c"), "loaded");
  EXPECT_NE(segment_of(*pool).uuid_text(), first);
  for (const pid_t pid : before)
    EXPECT_FALSE(is_running(pid)) << "a backend of the old pool under a new limit";
  EXPECT_EQ(load(*pool, "d"), "loaded");
  EXPECT_LE(backends().size(), 2u);
  EXPECT_TRUE(eventually([&] { return serves(); })) << judge.log();
  EXPECT_EQ(pool->limit().value(), 2u);
  EXPECT_THAT(judge.exit_codes(), ::testing::StartsWith("1\n"))
      << "its unit does not start it again";
}

TEST_P(LostNameBy, ALeaseIsNotCutByItAndTheNextPoolWaitsForIt) {
  Supervised judge(dir_, "--max-backends 1 --stop-grace 200ms");
  ASSERT_TRUE(eventually([&] { return serves(); })) << judge.log();
  auto pool = Pool::attach("default", in_dir());
  ASSERT_TRUE(pool);
  ASSERT_EQ(load(*pool, "held"), "loaded");
  Lease lease = lease_on(*pool, "held");
  const pid_t held = lease.pid();
  GetParam().lose(dir_, scratch_.path("aside"));
  const auto refused = pool->acquire("other", std::chrono::milliseconds(700));
  EXPECT_EQ(code_of(refused), Errc::kReplaced) << text_of(refused);
  EXPECT_THAT(text_of(refused), HasSubstr("lost its name"));
  EXPECT_TRUE(is_running(held));
  EXPECT_TRUE(lease.progress()) << "a lease was cut";
  lease.release();
  EXPECT_EQ(load(*pool, "other"), "loaded");
  EXPECT_FALSE(is_running(held));
}

TEST_P(LostNameBy, WithoutAnyCoordinatorAWorkerGoesOnInAPoolOfTheSameLimits) {
  const Settings two = settings_of({{"max_backends", "2"}});
  PoolOptions options = in_dir();
  options.capacities = small_capacities();
  options.settings = &two;
  auto pool = Pool::attach("default", options);
  ASSERT_TRUE(pool);
  GetParam().lose(dir_, scratch_.path("aside"));
  EXPECT_EQ(load(*pool, "a"), "loaded");
  EXPECT_EQ(pool->limit().value(), 2u);
  EXPECT_EQ(segment_of(*pool).capacities(), small_capacities());
}

TEST_P(LostNameBy, AWaitThatIsPolledGoesOnInTheNextPool) {
  Supervised judge(dir_, "--max-backends 1 --stop-grace 200ms");
  ASSERT_TRUE(eventually([&] { return serves(); })) << judge.log();
  auto pool = Pool::attach("default", in_dir());
  ASSERT_TRUE(pool);
  ASSERT_EQ(load(*pool, "a"), "loaded");
  GetParam().lose(dir_, scratch_.path("aside"));
  auto pending = pool->begin_acquire("b", std::chrono::seconds(30));
  ASSERT_TRUE(pending);
  std::string answer;
  EXPECT_TRUE(eventually([&] {
    auto polled = pending->poll();
    if (polled && !*polled) return false;
    answer = polled ? "granted" : polled.error().text;
    return true;
  }));
  EXPECT_EQ(answer, "granted");
}

TEST_P(LostNameBy, AWaitBetweenTwoPoolsCanBeCancelled) {
  auto pool = Pool::attach("default", in_dir());
  ASSERT_TRUE(pool);
  PoolOptions never = in_dir();
  never.create = false;
  auto looker = Pool::attach("default", never);
  ASSERT_TRUE(looker);
  GetParam().lose(dir_, scratch_.path("aside"));
  auto pending = looker->begin_acquire("m", std::chrono::seconds(60));
  ASSERT_TRUE(pending);
  ASSERT_TRUE(pending->poll());
  std::jthread canceller([&] { pending->cancel(); });
  EXPECT_TRUE(eventually([&] {
    auto polled = pending->poll();
    if (!polled) return polled.error().code == Errc::kCancelled;
    pending->wait();
    return false;
  }));
}

// The first judge is stopped: it cannot know yet.
TEST_F(LostName, ARenamedDirectoryHasNeverTwoJudges) {
  Program first(
      {MODELPOOL_COORDINATORD, "--dir", dir_, "--max-backends", "1", "--stop-grace", "200ms"});
  ASSERT_TRUE(eventually([&] { return serves(); }));
  auto pool = Pool::attach("default", in_dir());
  ASSERT_TRUE(pool);
  ASSERT_EQ(load(*pool, "a"), "loaded");
  first.signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(first.pid()));
  fs::rename(dir_, scratch_.path("aside"));
  const Finished second = run({MODELPOOL_COORDINATORD, "--dir", dir_, "--max-backends", "1"});
  EXPECT_EQ(second.code, 1) << "its unit tries again";
  EXPECT_THAT(second.err, AllOf(HasSubstr("process " + std::to_string(first.pid())),
                                HasSubstr("lost this name"), HasSubstr(scratch_.path("aside"))));
  EXPECT_FALSE(fs::exists(path_));
  // Nor does a worker make one beside it.
  PoolOptions quick = in_dir();
  Forked worker([&](Forked::Child& parent) {
    parent.say(std::string(errc_name(code_of(Pool::attach("default", quick)))));
  });
  EXPECT_EQ(worker.hear(), "busy");
  first.signal(SIGCONT);
  EXPECT_EQ(first.wait(), 1);
  EXPECT_THAT(backends(), IsEmpty());
  Program third({MODELPOOL_COORDINATORD, "--dir", dir_, "--max-backends", "1"});
  EXPECT_TRUE(eventually([&] { return serves(); })) << third.err();
  EXPECT_EQ(load(*pool, "b"), "loaded");
  third.signal(SIGTERM);
  third.wait();
}

TEST_F(LostName, ACoordinatorThatFindsALostPoolWithoutAJudgeEndsItFirst) {
  Program first({MODELPOOL_COORDINATORD, "--dir", dir_, "--max-backends", "1"});
  ASSERT_TRUE(eventually([&] { return serves(); }));
  auto pool = Pool::attach("default", in_dir());
  ASSERT_TRUE(pool);
  ASSERT_EQ(load(*pool, "a"), "loaded");
  first.signal(SIGKILL);
  first.wait();
  fs::remove_all(dir_);
  const auto refused = pool->acquire("b", std::chrono::milliseconds(500));
  EXPECT_EQ(code_of(refused), Errc::kReplaced) << text_of(refused);
  EXPECT_FALSE(fs::exists(path_)) << "two limits";
  Program second(
      {MODELPOOL_COORDINATORD, "--dir", dir_, "--max-backends", "1", "--stop-grace", "200ms"});
  EXPECT_EQ(second.wait(), 1) << second.err();
  EXPECT_THAT(second.err(), HasSubstr("ending its 1 backends first"));
  EXPECT_THAT(backends(), IsEmpty());
  Program third({MODELPOOL_COORDINATORD, "--dir", dir_, "--max-backends", "1"});
  EXPECT_TRUE(eventually([&] { return serves(); })) << third.err();
  EXPECT_EQ(load(*pool, "b"), "loaded");
  third.signal(SIGTERM);
  third.wait();
}

// Nobody has the segment any more: only their environment says whose they are.
TEST_F(LostName, BackendsThatNobodyCanReachAreEndedBeforeAnotherPoolBegins) {
  const Orphans orphans;
  Program first({MODELPOOL_COORDINATORD, "--dir", dir_});
  ASSERT_TRUE(eventually([&] { return serves(); }));
  Forked worker([&](Forked::Child& parent) {
    auto pool = Pool::attach("default", in_dir());
    parent.say(pool ? load(*pool, "a") : pool.error().text);
    parent.hear();
  });
  ASSERT_EQ(worker.hear(), "loaded");
  first.signal(SIGKILL);
  first.wait();
  worker.kill_now();
  fs::remove_all(dir_);
  ASSERT_EQ(backends().size(), 1u);
  const auto refused = Pool::attach("default", in_dir());
  EXPECT_EQ(code_of(refused), Errc::kBusy) << text_of(refused);
  EXPECT_THAT(text_of(refused),
              AllOf(HasSubstr(std::to_string(backends()[0])), HasSubstr("coordinatord")));
  Program second(
      {MODELPOOL_COORDINATORD, "--dir", dir_, "--max-backends", "1", "--stop-grace", "200ms"});
  EXPECT_TRUE(eventually([&] { return serves(); })) << second.err();
  EXPECT_THAT(backends(), IsEmpty());
  second.signal(SIGTERM);
  second.wait();
}

// A container, or a chroot, has the same paths, and a pool of its own there.
TEST_F(LostName, P7AnotherPlaceOfTheSamePathIsLeftAlone) {
  // In a chroot its root is no mount.
  const std::string there =
      "mount --make-rprivate / || mount --make-rprivate /dev/shm; "
      "mount -t tmpfs tmpfs " +
      scratch_.dir() + " || exit; ";
  const std::string backend = "MODELPOOL_BACKEND_HOME=" + path_ + " exec sleep 600";
  const std::vector<std::string> apart = {"unshare", "--mount", "--propagation", "unchanged"};
  const auto inside = [&](std::vector<std::string> more, const std::string& script) {
    std::vector<std::string> argv = apart;
    argv.insert(argv.end(), more.begin(), more.end());
    argv.insert(argv.end(), {"sh", "-c", script});
    return argv;
  };
  const std::vector<std::string> own_pids = {"--pid", "--fork", "--mount-proc", "--kill-child"};
  if (test::run(inside(own_pids, there)).code != 0) GTEST_SKIP() << "needs namespaces";
  Program sandbox(inside({}, there + "mkdir -m 700 " + dir_ + "; " + backend));
  Program container(inside(own_pids, there + backend));
  const auto strangers = [&] {
    return processes_with_environment("MODELPOOL_BACKEND_HOME=" + path_);
  };
  ASSERT_TRUE(eventually([&] { return strangers().size() == 2; }));
  Program judge({MODELPOOL_COORDINATORD, "--dir", dir_, "--stop-grace", "200ms"});
  EXPECT_TRUE(eventually([&] { return serves(); })) << judge.err();
  EXPECT_EQ(strangers().size(), 2u) << judge.err();
  judge.signal(SIGTERM);
  EXPECT_EQ(judge.wait(), 0);
}

TEST_F(LostName, ANameThatComesBackIsServedOnByTheSameCoordinator) {
  Program judge({MODELPOOL_COORDINATORD, "--dir", dir_, "--stop-grace", "200ms"});
  ASSERT_TRUE(eventually([&] { return serves(); }));
  auto pool = Pool::attach("default", in_dir());
  ASSERT_TRUE(pool);
  ASSERT_EQ(load(*pool, "held"), "loaded");
  const Lease lease = lease_on(*pool, "held");
  fs::rename(dir_, scratch_.path("aside"));
  ASSERT_TRUE(eventually([&] { return judge.err().find("draining") != std::string::npos; }));
  fs::rename(scratch_.path("aside"), dir_);
  EXPECT_TRUE(eventually([&] { return serves() && state_of(*pool, "held") == "ready"; }))
      << judge.err();
  EXPECT_TRUE(judge.running());
  EXPECT_TRUE(is_running(lease.pid()));
  EXPECT_EQ(load(*pool, "more"), "loaded");
  EXPECT_FALSE(segment_of(*pool).is_replaced());
  judge.signal(SIGTERM);
  EXPECT_EQ(judge.wait(), 0);
}

// Somebody moves a pool on purpose and serves it there: its old name is free.
TEST_F(LostName, APoolThatIsServedUnderAnotherNameHoldsItsOldOneUpForNobody) {
  Program first({MODELPOOL_COORDINATORD, "--dir", dir_});
  ASSERT_TRUE(eventually([&] { return serves(); }));
  first.signal(SIGTERM);
  first.wait();
  const std::string moved = scratch_.path("moved");
  fs::rename(dir_, moved);
  PoolOptions options;
  options.dir = moved;
  auto pool = Pool::attach("default", options);
  ASSERT_TRUE(pool);
  Program there({MODELPOOL_COORDINATORD, "--dir", moved});
  ASSERT_TRUE(eventually([&] { return there.err().find("serving pool") != std::string::npos; }));
  ASSERT_EQ(load(*pool, "a"), "loaded");
  Program here({MODELPOOL_COORDINATORD, "--dir", dir_});
  EXPECT_TRUE(eventually([&] { return serves(); })) << here.err();
  EXPECT_EQ(backends().size(), 1u);
  for (Program* one : {&here, &there}) {
    one->signal(SIGTERM);
    one->wait();
  }
}

TEST_F(LostName, WhoLooksForItIsToldWhatHappensNext) {
  Program judge({MODELPOOL_COORDINATORD, "--dir", dir_});
  ASSERT_TRUE(eventually([&] { return serves(); }));
  auto pool = Pool::attach("default", in_dir());
  ASSERT_TRUE(pool);
  ASSERT_EQ(load(*pool, "held"), "loaded");
  Lease lease = lease_on(*pool, "held");
  fs::remove(path_);
  ASSERT_TRUE(eventually([&] { return judge.err().find("draining") != std::string::npos; }));
  const Finished looked = run({MODELPOOL_POOLCTL, "--dir", dir_, "status"});
  EXPECT_EQ(looked.code, 3);
  EXPECT_THAT(looked.err, AllOf(HasSubstr("lost its name"), HasSubstr("begins anew")));
  lease.release();
  EXPECT_EQ(judge.wait(), 1);
}

}  // namespace
}  // namespace modelpool::test
