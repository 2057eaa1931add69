// Starts that race: two coordinators at once, and a pool created by 32 processes while some of them
// are killed (P6, P10).
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <set>

#include "daemon/pool_test.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::HasSubstr;

// MODELPOOL_TEST_ROUNDS=1000 for a long run by hand.
int rounds(int usually) {
  const char* const asked = std::getenv("MODELPOOL_TEST_ROUNDS");
  return asked == nullptr ? usually : std::atoi(asked);
}

TEST(TwoCoordinators, StartedAtOnceAreOneEveryTime) {
  const Scratch scratch;
  const std::shared_ptr<Segment> segment = make_segment(scratch);
  const std::vector<std::string> argv{MODELPOOL_COORDINATORD, "--dir", scratch.dir()};
  for (int round = 0; round < rounds(200); ++round) {
    const std::uint32_t epoch = read_coordinator(*segment).epoch;
    Program one(argv);
    Program other(argv);
    ASSERT_TRUE(eventually([&] { return !one.running() || !other.running(); })) << "both serve";
    const bool one_won = one.running();
    Program& winner = one_won ? one : other;
    Program& loser = one_won ? other : one;
    ASSERT_EQ(loser.wait(), 1) << loser.err();
    ASSERT_THAT(loser.err(), HasSubstr("is its coordinator already"));
    ASSERT_TRUE(eventually([&] { return winner.err().find("serving pool") != std::string::npos; }))
        << winner.err();
    const CoordinatorIdentity now = read_coordinator(*segment);
    ASSERT_EQ(now.epoch, epoch + 1) << "the loser has left a trace";
    ASSERT_EQ(now.process.pid, winner.pid());
    // The next round's find it left in order, or dead.
    winner.signal(round % 2 == 0 ? SIGTERM : SIGKILL);
    winner.wait();
  }
  EXPECT_EQ(findings(segment), "");
}

TEST(Creation, RacedBy32ProcessesWithKillsIsOnePoolForAllWhoLive) {
  constexpr int kCreators = 32;
  const unsigned seed = std::random_device{}();
  std::mt19937 dice(seed);
  for (int round = 0; round < rounds(8); ++round) {
    const Scratch scratch;
    struct Shared {
      std::atomic<std::uint32_t> go;
    };
    const SharedMemory<Shared> shared;
    std::vector<std::unique_ptr<Forked>> creators;
    for (int i = 0; i < kCreators; ++i) {
      creators.push_back(std::make_unique<Forked>([&](Forked::Child& parent) {
        parent.say("here");
        futex_wait(shared->go, 0, kNever_ns);
        SegmentOptions options;
        options.dir = scratch.dir();
        options.capacities = small_capacities();
        const auto segment = Segment::attach("default", options);
        parent.say(segment ? (*segment)->uuid_text() : segment.error().text);
        parent.hear();
      }));
    }
    for (auto& creator : creators) ASSERT_EQ(creator->hear(), "here");
    shared->go = 1;
    futex_wake_all(shared->go);
    // A third dies on the way, at moments that depend on nothing.
    std::set<int> killed;
    for (int i = 0; i < kCreators / 3; ++i) {
      const int victim = static_cast<int>(dice() % kCreators);
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(dice() % 300);
      while (std::chrono::steady_clock::now() < until) {
      }
      creators[static_cast<std::size_t>(victim)]->kill_now();
      killed.insert(victim);
    }
    std::set<std::string> uuids;
    for (int i = 0; i < kCreators; ++i) {
      if (!killed.contains(i)) uuids.insert(creators[static_cast<std::size_t>(i)]->hear());
    }
    ASSERT_EQ(uuids.size(), 1u) << *uuids.begin() << ", seed " << seed;
    ASSERT_EQ(uuids.begin()->size(), 32u) << *uuids.begin() << ", seed " << seed;
    Forked last([&](Forked::Child&) {
      Pool pool = attach(scratch);
      EXPECT_EQ(segment_of(pool).uuid_text(), *uuids.begin());
      EXPECT_EQ(findings(shared_segment_of(pool)), "");
    });
    ASSERT_EQ(last.wait(), 0) << "seed " << seed;
    EXPECT_FALSE(std::filesystem::exists(scratch.path("default.tmp")));
    creators.clear();
    EXPECT_TRUE(Segment::remove("default", scratch.dir())) << "seed " << seed;
  }
}

// It waits for its turn; meanwhile the pool is removed, and a new one takes the name.
TEST(Removal, ThatIsSlowDeletesNoNewPool) {
  const Scratch scratch;
  const Scratch other;
  for (const Scratch* place : {&scratch, &other}) {
    Forked creator([&](Forked::Child&) { make_segment(*place); });
    ASSERT_EQ(creator.wait(), 0);
  }
  const Fd dir(open(scratch.dir().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(flock(dir.get(), LOCK_EX), 0);
  Program slow({MODELPOOL_POOLCTL, "--dir", scratch.dir(), "remove"});
  // It has opened what it is about to remove, and waits for its turn (at the directory, once more).
  ASSERT_TRUE(eventually([&] {
    std::error_code gone;
    int files = 0;
    int directories = 0;
    for (const auto& fd :
         std::filesystem::directory_iterator("/proc/" + std::to_string(slow.pid()) + "/fd", gone)) {
      const std::string target = std::filesystem::read_symlink(fd.path(), gone);
      files += target == scratch.path("default");
      directories += target == scratch.dir();
    }
    return files == 1 && directories == 2;
  }));
  for (const char* const file : {"default", "default.users"})
    std::filesystem::rename(other.path(file), scratch.path(file));
  const std::string fresh = read_file(scratch.path("default")).substr(0, sizeof(Header));
  ASSERT_EQ(flock(dir.get(), LOCK_UN), 0);
  EXPECT_EQ(slow.wait(), 3) << slow.err();
  ASSERT_TRUE(std::filesystem::exists(scratch.path("default"))) << "a new pool was deleted";
  EXPECT_TRUE(read_file(scratch.path("default")).substr(0, sizeof(Header)) == fresh);
}

}  // namespace
}  // namespace modelpool::test
