#include "segment/segment.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/proc.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

namespace fs = std::filesystem;

SegmentOptions in(const std::string& dir) {
  SegmentOptions options;
  options.dir = dir;
  options.capacities = small_capacities();
  return options;
}

// Changes the header of a segment that no process of ours has mapped.
void patch_header(const std::string& path, const std::function<void(Header&)>& change) {
  const Fd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
  Header header;
  ASSERT_EQ(pread(file.get(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
  change(header);
  ASSERT_EQ(pwrite(file.get(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
}

// A pool made by a process that has ended.
void make_left_over(const Scratch& scratch) {
  Forked creator([&](Forked::Child&) { make_segment(scratch); });
  ASSERT_EQ(creator.wait(), 0);
}

TEST(Segment, IsCreatedCompleteAndPrivate) {
  const Scratch scratch;
  const auto segment = Segment::attach("default", in(scratch.dir()));
  ASSERT_TRUE(segment) << segment.error().text;
  struct stat info;
  ASSERT_EQ(stat(scratch.path("default").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(static_cast<std::uint64_t>(info.st_size), (*segment)->header().total_bytes);
  EXPECT_GE(static_cast<std::uint64_t>(info.st_blocks) * 512,
            (*segment)->header().total_bytes);  // no SIGBUS later
  EXPECT_EQ((*segment)->capacities(), small_capacities());
  EXPECT_EQ((*segment)->path(), scratch.path("default"));
  EXPECT_EQ((*segment)->name(), "default");
  EXPECT_EQ((*segment)->header().uid, geteuid());
  EXPECT_EQ((*segment)->inode(), info.st_ino);
  EXPECT_TRUE((*segment)->writable());
  EXPECT_FALSE(fs::exists(scratch.path("default.tmp")));
  EXPECT_EQ((*segment)->settings().generation.load(), 0u);
}

TEST(Segment, CreatesItsDirectoryForTheOwnerAlone) {
  const Scratch scratch;
  const std::string dir = scratch.path("pools");
  ASSERT_TRUE(Segment::attach("default", in(dir)));
  struct stat info;
  ASSERT_EQ(stat(dir.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST(Segment, HoldsEveryTableOnPagesOfItsOwnWithinTheFile) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  std::uint64_t end = sizeof(Header);
  for (std::size_t i = 0; i < kTableCount; ++i) {
    const TableInfo& table = segment->header().tables[i];
    EXPECT_EQ(table.offset % kPage_bytes, 0u);
    EXPECT_GE(table.offset, end) << i;
    end = table.offset + table.stride * table.count;
  }
  EXPECT_LE(end, segment->header().total_bytes);
  // The first and the last of each are there to be written.
  const Capacities& c = segment->capacities();
  segment->lease(c.workers - 1, c.leases - 1).word.store(1);
  segment->last_used(segment->coordinator_row(), c.backends - 1).store(1);
  segment->event(c.events - 1).sequence.store(1);
}

TEST(Segment, AttachedTwiceIsOneMapping) {
  const Scratch scratch;
  const auto first = make_segment(scratch);
  const auto second = make_segment(scratch);
  EXPECT_EQ(first.get(), second.get());
  EXPECT_EQ(&first->lock(), &second->lock());
}

TEST(Segment, PoolsOfOneDirectoryAreApart) {
  const Scratch scratch;
  const auto one = Segment::attach("one", in(scratch.dir()));
  const auto two = Segment::attach("two", in(scratch.dir()));
  ASSERT_TRUE(one && two);
  EXPECT_NE((*one)->uuid_text(), (*two)->uuid_text());
  (*one)->line().next_arrival.store(5);
  EXPECT_EQ((*two)->line().next_arrival.load(), 0u);
}

TEST(Segment, GivesEveryInstanceAUuidAndEveryGenerationAToken) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  EXPECT_EQ(segment->uuid_text().size(), 32u);
  EXPECT_EQ(segment->uuid_text().find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(segment->token(3, 7), segment->uuid_text() + "/3/7");
  const Scratch other;
  EXPECT_NE(make_segment(other)->uuid_text(), segment->uuid_text());
}

TEST(Segment, IsNotCreatedUnlessAsked) {
  const Scratch scratch;
  SegmentOptions options = in(scratch.dir());
  options.create = false;
  const auto refused = Segment::attach("default", options);
  EXPECT_EQ(code_of(refused), Errc::kNoSuchPool);
  EXPECT_NE(text_of(refused).find("start coordinatord"), std::string::npos) << text_of(refused);
  EXPECT_FALSE(fs::exists(scratch.path("default")));
  options.dir = scratch.path("none");
  EXPECT_EQ(code_of(Segment::attach("default", options)), Errc::kNoSuchPool);
  EXPECT_FALSE(fs::exists(options.dir));
}

// A coordinator started for a name with a slip in it would be a second judge.
TEST(Segment, ThatIsNotThereIsToldByTheNamesOfThoseThatAre) {
  const Scratch scratch;
  const auto answer = [&](const char* name) {
    return text_of(Segment::open_read_only(name, scratch.dir()));
  };
  EXPECT_EQ(answer("defalt").find("did you mean"), std::string::npos);
  EXPECT_NE(answer("defalt").find("; start coordinatord"), std::string::npos);
  const auto segment = make_segment(scratch);
  std::ofstream(scratch.path("notes")) << "no segment";
  EXPECT_NE(answer("defalt").find("; did you mean default?; for a new pool start coordinatord"),
            std::string::npos)
      << answer("defalt");
  EXPECT_NE(answer("gpu").find("; there are default: name one with --pool; for a new pool start"),
            std::string::npos)
      << answer("gpu");
  SegmentOptions options = in(scratch.dir());
  options.create = false;
  EXPECT_NE(text_of(Segment::attach("defalt", options)).find("did you mean default?"),
            std::string::npos);
  EXPECT_NE(text_of(Segment::remove("defalt", scratch.dir())).find("did you mean default?"),
            std::string::npos);
}

TEST(Segment, OfCapacitiesThatMakeNoSenseIsRefused) {
  const Scratch scratch;
  const auto refused = [&](const std::function<void(Capacities&)>& change) {
    SegmentOptions options = in(scratch.dir());
    change(options.capacities);
    return code_of(Segment::attach("default", options));
  };
  EXPECT_EQ(refused([](Capacities& c) { c.backends = 0; }), Errc::kInvalid);
  EXPECT_EQ(refused([](Capacities& c) { c.backends = kBackendsMax + 1; }), Errc::kInvalid);
  EXPECT_EQ(refused([](Capacities& c) { c.workers = 0; }), Errc::kInvalid);
  EXPECT_EQ(refused([](Capacities& c) { c.workers = kWorkersMax + 1; }), Errc::kInvalid);
  EXPECT_EQ(refused([](Capacities& c) { c.leases = 0; }), Errc::kInvalid);
  EXPECT_EQ(refused([](Capacities& c) { c.waiters = 0; }), Errc::kInvalid);
  EXPECT_EQ(refused([](Capacities& c) { c.events = 0; }), Errc::kInvalid);
  EXPECT_EQ(refused([](Capacities& c) { c.models = 0; }), Errc::kInvalid);
  EXPECT_FALSE(fs::exists(scratch.path("default")));
  EXPECT_FALSE(fs::exists(scratch.path("default.tmp")));
}

TEST(P13BadInput, PoolNamesThatCouldLeadAstrayAreRefused) {
  const Scratch scratch;
  for (const std::string& name :
       {std::string(), std::string(".."), std::string("a/b"), std::string("Upper"),
        std::string("a.tmp"), std::string("a b"), std::string(65, 'a'), std::string("a\0b", 3)}) {
    EXPECT_EQ(code_of(Segment::attach(name, in(scratch.dir()))), Errc::kInvalid) << name;
    EXPECT_EQ(code_of(Segment::open_read_only(name, scratch.dir())), Errc::kInvalid) << name;
    EXPECT_EQ(code_of(Segment::remove(name, scratch.dir())), Errc::kInvalid) << name;
  }
  EXPECT_TRUE(fs::is_empty(scratch.dir()));
  EXPECT_TRUE(Segment::attach(std::string(64, 'a'), in(scratch.dir())));
}

// --- Creation is a race --------------------------------------------------------------------------

TEST(Segment, CreatedByManyProcessesAtOnceIsOne) {
  for (int round = 0; round < 5; ++round) {
    const Scratch scratch;
    struct Shared {
      std::atomic<bool> go;
    };
    const SharedMemory<Shared> shared;
    std::vector<std::unique_ptr<Forked>> creators;
    for (int i = 0; i < 8; ++i) {
      creators.push_back(std::make_unique<Forked>([&](Forked::Child& parent) {
        parent.say("here");
        while (!shared->go) {
        }
        const auto segment = Segment::attach("default", in(scratch.dir()));
        parent.say(segment ? (*segment)->uuid_text() : segment.error().text);
        parent.hear();
      }));
    }
    for (auto& creator : creators) ASSERT_EQ(creator->hear(), "here");
    shared->go = true;
    std::set<std::string> uuids;
    for (auto& creator : creators) uuids.insert(creator->hear());
    EXPECT_EQ(uuids.size(), 1u) << *uuids.begin();
    EXPECT_EQ(uuids.begin()->size(), 32u) << *uuids.begin();
  }
}

TEST(P6AnyProcessMayDie, ACreatorKilledAnywhereLeavesNoHalfBuiltSegment) {
  const Scratch scratch;
  for (int i = 0; i < 40; ++i) {
    Forked creator([&](Forked::Child& parent) {
      parent.say("go");
      static_cast<void>(Segment::attach("default", in(scratch.dir())));
      pause();
    });
    ASSERT_EQ(creator.hear(), "go");
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(i * 30);
    while (std::chrono::steady_clock::now() < until) {
    }
    creator.kill_now();
    Forked next([&](Forked::Child&) {
      const auto segment = Segment::attach("default", in(scratch.dir()));
      EXPECT_TRUE(segment) << segment.error().text;
    });
    ASSERT_EQ(next.wait(), 0) << i;
    ASSERT_TRUE(Segment::remove("default", scratch.dir())) << i;
  }
}

// SIGXFSZ ended the application.
TEST(Segment, LargerThanAFileOfThisProcessMayBeIsRefused) {
  const Scratch scratch;
  Forked limited([&](Forked::Child&) {
    const rlimit small{1 << 14, 1 << 14};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const auto refused = Segment::attach("default", in(scratch.dir()));
    EXPECT_EQ(code_of(refused), Errc::kPermission);
    EXPECT_NE(refused.error().text.find("ulimit -f"), std::string::npos) << refused.error().text;
  });
  EXPECT_EQ(limited.wait(), 0);
  EXPECT_TRUE(fs::is_empty(scratch.dir()));
}

// Its creator gave up, and left it to the next one.
TEST(Segment, ThatIsMadeSlowlyIsAttachedToByWhoMadeIt) {
  const Scratch scratch;
  SegmentOptions large = in(scratch.dir());
  large.capacities.leases = 65536;
  large.capacities.workers = 32;
  large.wait_ns = 0;
  Forked creator([&](Forked::Child& parent) {
    parent.say("go");
    const auto segment = Segment::attach("default", large);
    parent.say(segment ? "attached" : segment.error().text);
  });
  ASSERT_EQ(creator.hear(), "go");
  ASSERT_TRUE(eventually([&] {
    return fs::exists(scratch.path("default.tmp")) || fs::exists(scratch.path("default"));
  }));
  creator.signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(creator.pid()));
  const bool in_the_midst = !fs::exists(scratch.path("default"));
  const std::uint64_t until = add_ns(now_ns(), kAttachWaitMax_ns);
  ASSERT_TRUE(eventually([&] { return now_ns() > until; }));
  creator.signal(SIGCONT);
  EXPECT_EQ(creator.hear(), "attached");
  if (!in_the_midst) GTEST_SKIP() << "it was made too fast to be stopped meanwhile";
}

TEST(Segment, ReplacesATemporaryFileThatSomebodyLeft) {
  const Scratch scratch;
  write_file(scratch.path("default.tmp"), "half built");
  EXPECT_TRUE(Segment::attach("default", in(scratch.dir())));
  EXPECT_FALSE(fs::exists(scratch.path("default.tmp")));
}

// --- Refusals ------------------------------------------------------------------------------------

// Each leaves what it refused as it was.
class RefusedSegment : public ::testing::Test {
 protected:
  RefusedSegment() { make_left_over(scratch_); }

  void expect_refused(Errc code, const std::string& what) {
    const auto attached = Segment::attach("default", in(scratch_.dir()));
    EXPECT_EQ(code_of(attached), code) << text_of(attached);
    EXPECT_NE(text_of(attached).find(what), std::string::npos) << text_of(attached);
    EXPECT_TRUE(fs::is_symlink(path_) || fs::exists(path_));
    EXPECT_FALSE(fs::exists(scratch_.path("default.tmp")));
  }

  const Scratch scratch_;
  const std::string path_ = scratch_.path("default");
};

TEST_F(RefusedSegment, ASymbolicLink) {
  fs::rename(path_, scratch_.path("elsewhere"));
  fs::create_symlink(scratch_.path("elsewhere"), path_);
  expect_refused(Errc::kPermission, "symbolic link");
}

TEST_F(RefusedSegment, ADanglingSymbolicLink) {
  fs::remove(path_);
  fs::create_symlink(scratch_.path("nowhere"), path_);
  expect_refused(Errc::kPermission, "symbolic link");
  EXPECT_FALSE(fs::exists(scratch_.path("nowhere")));
}

TEST_F(RefusedSegment, OneThatOthersMayOpen) {
  fs::permissions(path_, static_cast<fs::perms>(0644));
  expect_refused(Errc::kPermission, "chmod 600");
}

TEST_F(RefusedSegment, ADirectoryThatOthersMayEnter) {
  fs::permissions(scratch_.dir(), static_cast<fs::perms>(0755));
  expect_refused(Errc::kPermission, "chmod 700 " + scratch_.dir());
}

// What modelpool did not make it does not tell people to change.
TEST_F(RefusedSegment, ADirectoryOfEverybodysIsAdvisedAFolderInside) {
  write_file(scratch_.path("somebodys-file"), "");
  fs::permissions(scratch_.dir(), static_cast<fs::perms>(0777));
  const std::string inside = scratch_.path("modelpool-" + std::to_string(geteuid()));
  expect_refused(Errc::kPermission, "--dir " + inside);
  EXPECT_EQ(text_of(Segment::attach("default", in(scratch_.dir()))).find("chmod"),
            std::string::npos);
  EXPECT_TRUE(Segment::attach("default", in(inside))) << "the advice, followed literally";
}

TEST(Advice, NamesAFolderThatCanBeMadeAndChangesNoDirectoryOfTheSystem) {
  const std::string pool = "advice-" + std::to_string(getpid());
  for (const std::string dir :
       {"/", "/tmp", "/etc", "/run", "/dev/shm", "/proc", "/dev", "/home", "/var/tmp"}) {
    const auto refused = Segment::attach(pool, in(dir));
    ASSERT_FALSE(refused) << dir;
    EXPECT_EQ(text_of(refused).find("chmod"), std::string::npos) << text_of(refused);
    EXPECT_NE(text_of(refused).find("--dir /"), std::string::npos) << text_of(refused);
    EXPECT_FALSE(fs::exists(fs::path(dir) / pool));
    EXPECT_TRUE(refused.error().code == Errc::kPermission ||
                refused.error().code == Errc::kIncompatible);
  }
}

TEST(Advice, OfAFileThatIsNoSegmentTouchesItsModeNot) {
  const Scratch scratch;
  write_file(scratch.path("default"), "somebody's notes");
  fs::permissions(scratch.path("default"), static_cast<fs::perms>(0644));
  const auto refused = Segment::attach("default", in(scratch.dir()));
  EXPECT_EQ(code_of(refused), Errc::kIncompatible);
  EXPECT_EQ(text_of(refused).find("chmod"), std::string::npos) << text_of(refused);
  EXPECT_FALSE(Segment::remove("default", scratch.dir()));
  EXPECT_EQ(read_file(scratch.path("default")), "somebody's notes");
}

TEST(Advice, IsACommandOnThisVeryPool) {
  const Scratch scratch;
  EXPECT_EQ(command_on_pool("poolctl", "default", scratch.dir(), "remove"),
            "poolctl --dir " + scratch.dir() + " remove");
  EXPECT_EQ(command_on_pool("coordinatord", "x", "/with space/it's"),
            "coordinatord --dir '/with space/it'\\''s' --pool x");
}

TEST(P13BadInput, ADirectoryThatCannotBeMadeOrOpenedNeedsAPerson) {
  const Scratch scratch;
  for (const std::string& dir : {scratch.path("no/such/parent"), std::string("/proc/nothing"),
                                 scratch.path(std::string(300, 'x'))}) {
    const auto refused = Segment::attach("default", in(dir));
    EXPECT_EQ(code_of(refused), Errc::kPermission) << text_of(refused);
  }
}

TEST_F(RefusedSegment, OneOfAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  ASSERT_EQ(chown(path_.c_str(), 65534, 65534), 0);
  expect_refused(Errc::kPermission, "user nobody");
  expect_refused(Errc::kPermission, "sudo -u nobody");
}

TEST_F(RefusedSegment, ADirectoryOfAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a directory away";
  ASSERT_EQ(chown(scratch_.dir().c_str(), 65534, 65534), 0);
  expect_refused(Errc::kPermission, "user nobody");
  expect_refused(Errc::kPermission, "sudo -u nobody");
}

TEST_F(RefusedSegment, ADirectoryInItsPlace) {
  fs::remove(path_);
  fs::create_directory(path_);
  const auto attached = Segment::attach("default", in(scratch_.dir()));
  EXPECT_FALSE(attached);
}

TEST_F(RefusedSegment, AFifoInItsPlace) {
  fs::remove(path_);
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  expect_refused(Errc::kIncompatible, "not a regular file");
}

TEST_F(RefusedSegment, ADirectoryThatIsASymbolicLink) {
  const std::string link = scratch_.path("link");
  fs::create_directory(scratch_.path("target"));
  fs::permissions(scratch_.path("target"), static_cast<fs::perms>(0700));
  fs::create_directory_symlink(scratch_.path("target"), link);
  EXPECT_EQ(code_of(Segment::attach("default", in(link))), Errc::kPermission);
}

TEST_F(RefusedSegment, AnEmptyFile) {
  fs::resize_file(path_, 0);
  expect_refused(Errc::kIncompatible, "not a modelpool segment");
}

TEST_F(RefusedSegment, OneThatIsTooShort) {
  for (const std::uintmax_t bytes :
       {std::uintmax_t{100}, std::uintmax_t{kPage_bytes}, fs::file_size(path_) - 1}) {
    fs::resize_file(path_, bytes);
    expect_refused(Errc::kIncompatible, "too short");
  }
}

TEST_F(RefusedSegment, AnyOtherFile) {
  write_file(path_, std::string(100'000, 'x'));
  expect_refused(Errc::kIncompatible, "not a modelpool segment");
}

TEST_F(RefusedSegment, AnotherLayoutVersion) {
  patch_header(path_, [](Header& header) { header.layout_version = 99; });
  expect_refused(Errc::kIncompatible, "layout version 99");
  expect_refused(Errc::kIncompatible, "poolctl --dir " + scratch_.dir() + " remove --stop");
}

TEST_F(RefusedSegment, AnotherBuildsFingerprint) {
  patch_header(path_, [](Header& header) { header.abi_fingerprint ^= 1; });
  expect_refused(Errc::kIncompatible, "another memory layout");
  expect_refused(Errc::kIncompatible, "glibc");
}

TEST_F(RefusedSegment, ADamagedTableOfContents) {
  patch_header(path_, [](Header& header) {
    header.tables[static_cast<std::size_t>(Table::kLeases)].offset += 64;
  });
  expect_refused(Errc::kIncompatible, "damaged");
}

TEST_F(RefusedSegment, ATableCountBeyondReason) {
  patch_header(path_, [](Header& header) {
    header.tables[static_cast<std::size_t>(Table::kWorkers)].count = 0;
  });
  expect_refused(Errc::kIncompatible, "damaged");
}

// A tmpfs may outlive the container whose pool this was: nobody uses it, and nothing lives in it.
class LeftByANamespace : public RefusedSegment {
 protected:
  void expect_replaced(std::uint64_t Header::*namespace_id) {
    std::uint64_t before = 0;
    patch_header(path_, [&](Header& header) {
      header.*namespace_id += 1;
      before = header.uuid[0];
    });
    const auto attached = Segment::attach("default", in(scratch_.dir()));
    ASSERT_TRUE(attached) << text_of(attached);
    EXPECT_NE((*attached)->header().uuid[0], before) << "it is another pool";
  }
};
TEST_F(LeftByANamespace, OfProcessesAPoolThatIsNobodysIsReplaced) {
  expect_replaced(&Header::pid_namespace);
}
TEST_F(LeftByANamespace, OfTimesAPoolThatIsNobodysIsReplaced) {
  expect_replaced(&Header::time_namespace);
}

TEST(P13BadInput, ADirectoryThatIsNoTmpfsIsRefused) {
  std::string dir = "/var/tmp/modelpool-test-XXXXXX";
  ASSERT_NE(mkdtemp(dir.data()), nullptr);
  struct statfs info;
  const bool tmpfs = statfs(dir.c_str(), &info) == 0 && info.f_type == TMPFS_MAGIC;
  const auto refused = Segment::attach("default", in(dir));
  const bool empty = fs::is_empty(dir);
  fs::remove_all(dir);
  if (tmpfs) GTEST_SKIP() << "/var/tmp is a tmpfs here";
  EXPECT_EQ(code_of(refused), Errc::kIncompatible);
  EXPECT_NE(text_of(refused).find("not on a tmpfs; use one in shared memory, as in --dir /dev/shm"),
            std::string::npos)
      << text_of(refused);
  EXPECT_TRUE(empty);
}

// In a mount namespace of a process of its own, so that the mount goes with it.
TEST(P13BadInput, AFullTmpfsIsAnErrorAndNotASignalLater) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can mount";
  const Scratch scratch;
  Forked mounted([&](Forked::Child& parent) {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", scratch.dir().c_str(), "tmpfs", 0, "size=64k,mode=700") != 0) {
      parent.say("cannot mount");
      return;
    }
    const auto refused = Segment::attach("default", in(scratch.dir()));
    parent.say(refused
                   ? "created"
                   : std::string(errc_name(refused.error().code)) + ": " + refused.error().text);
    EXPECT_FALSE(fs::exists(scratch.path("default")));
    EXPECT_FALSE(fs::exists(scratch.path("default.tmp")));
  });
  const std::string answer = mounted.hear();
  EXPECT_EQ(mounted.wait(), 0);
  if (answer == "cannot mount") GTEST_SKIP() << "this root may not mount";
  EXPECT_TRUE(answer.starts_with("system: ")) << answer;
  EXPECT_NE(answer.find("No space left"), std::string::npos) << answer;
  EXPECT_NE(answer.find("smaller capacities"), std::string::npos) << answer;
}

// --- Another boot --------------------------------------------------------------------------------

TEST(Segment, OfAnotherBootIsReplaced) {
  const Scratch scratch;
  make_left_over(scratch);
  std::uint64_t uuid[2] = {0, 0};
  patch_header(scratch.path("default"), [&](Header& header) {
    header.boot_id[0] ^= 1;
    header.pid_namespace += 1;  // namespaces differ after a boot too: that is not what decides
    uuid[0] = header.uuid[0];
    uuid[1] = header.uuid[1];
  });
  const auto segment = Segment::attach("default", in(scratch.dir()));
  ASSERT_TRUE(segment) << segment.error().text;
  EXPECT_NE((*segment)->header().uuid[0], uuid[0]);
}

TEST(Segment, OfAnotherBootIsNoPoolToWhoMayNotCreateOne) {
  const Scratch scratch;
  make_left_over(scratch);
  patch_header(scratch.path("default"), [](Header& header) { header.boot_id[0] ^= 1; });
  SegmentOptions options = in(scratch.dir());
  options.create = false;
  EXPECT_EQ(code_of(Segment::attach("default", options)), Errc::kNoSuchPool);
}

// --- Where it lies -------------------------------------------------------------------------------

// In a process of its own: what is set here is nobody else's business.
int in_a_child(const std::function<void()>& body) {
  Forked child([&](Forked::Child&) { body(); });
  return child.wait();
}

TEST(PoolDir, IsTheOneNamedElseTheEnvironmentsElseADefault) {
  EXPECT_EQ(in_a_child([] {
              setenv("MODELPOOL_DIR", "/from/environment", 1);
              EXPECT_EQ(find_pool_dir("default", "/from/argument").value(), "/from/argument");
              EXPECT_EQ(find_pool_dir("default", "").value(), "/from/environment");
              setenv("MODELPOOL_DIR", "", 1);
              EXPECT_EQ(find_pool_dir("no-such-pool-of-a-test", "").value().find("/from"),
                        std::string::npos);
            }),
            0);
}

// Both defaults, on tmpfs of its own: in a mount namespace where /run and /dev/shm are ours.
class DefaultPlaces : public ::testing::Test {
 protected:
  void run_with_places(const std::function<void()>& body) {
    if (geteuid() != 0) GTEST_SKIP() << "only root can mount";
    Forked mounted([&](Forked::Child& parent) {
      if (unshare(CLONE_NEWNS) != 0 ||
          mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
          mount("tmpfs", "/run", "tmpfs", 0, "mode=755") != 0 ||
          mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777") != 0) {
        parent.say("cannot mount");
        return;
      }
      unsetenv("MODELPOOL_DIR");
      body();
      parent.say("done");
    });
    const std::string answer = mounted.hear();
    EXPECT_EQ(mounted.wait(), 0);
    if (answer == "cannot mount") GTEST_SKIP() << "this root may not mount";
    EXPECT_EQ(answer, "done");
  }
  const std::string shm_ = "/dev/shm/modelpool-" + std::to_string(geteuid());
};

TEST_F(DefaultPlaces, RunIsPreferredIfItIsThere) {
  run_with_places([&] {
    EXPECT_EQ(find_pool_dir("default", "").value(), shm_);
    ASSERT_EQ(mkdir("/run/modelpool", 0700), 0);
    EXPECT_EQ(find_pool_dir("default", "").value(), "/run/modelpool");
    const auto segment = Segment::attach("default", in(""));
    ASSERT_TRUE(segment) << segment.error().text;
    EXPECT_EQ((*segment)->path(), "/run/modelpool/default");
  });
}

// The service's pool: a second one beside it would be a second judge with a second limit.
TEST_F(DefaultPlaces, NothingIsCreatedBesideRunOfAnotherUserUnlessItIsNamed) {
  run_with_places([&] {
    ASSERT_EQ(mkdir("/run/modelpool", 0700), 0);
    ASSERT_EQ(chown("/run/modelpool", 65534, 65534), 0);
    const auto refused = Segment::attach("default", in(""));
    EXPECT_EQ(code_of(refused), Errc::kPermission);
    EXPECT_NE(text_of(refused).find("user nobody"), std::string::npos) << text_of(refused);
    EXPECT_NE(text_of(refused).find("sudo -u nobody"), std::string::npos) << text_of(refused);
    EXPECT_NE(text_of(refused).find("--dir " + shm_), std::string::npos) << text_of(refused);
    EXPECT_FALSE(fs::exists(shm_));
    EXPECT_TRUE(Segment::attach("default", in(shm_)));
    // Once it is there on purpose, it is found without being named.
    EXPECT_EQ(find_pool_dir("default", "").value(), shm_);
  });
}

void become_nobody() {
  ASSERT_EQ(setgid(65534), 0);
  ASSERT_EQ(setuid(65534), 0);
}

TEST_F(DefaultPlaces, RootLooksAtThePoolInRunWhoeverOwnsIt) {
  run_with_places([&] {
    ASSERT_EQ(mkdir("/run/modelpool", 0700), 0);
    ASSERT_EQ(chown("/run/modelpool", 65534, 65534), 0);
    Forked owner([&](Forked::Child& parent) {
      become_nobody();
      parent.say(Segment::attach("default", in("")) ? "made" : "not made");
      parent.hear();
    });
    ASSERT_EQ(owner.hear(), "made");
    const auto seen = Segment::open_read_only("default", "");
    ASSERT_TRUE(seen) << text_of(seen);
    EXPECT_EQ((*seen)->path(), "/run/modelpool/default");
    // It looks; what would act is told whose it is.
    SegmentOptions use = in("");
    use.create = false;
    const auto refused = Segment::attach("default", use);
    EXPECT_EQ(code_of(refused), Errc::kPermission);
    EXPECT_NE(text_of(refused).find("sudo -u nobody"), std::string::npos) << text_of(refused);
    EXPECT_EQ(code_of(Segment::open_read_only("another", "")), Errc::kNoSuchPool);
  });
}

TEST_F(DefaultPlaces, RootLooksAtThePoolInAnotherUsersSharedMemoryIfItIsTheOnlyOne) {
  run_with_places([&] {
    for (const char* const dir :
         {"/dev/shm/modelpool-65534", "/dev/shm/modelpool-1", "/dev/shm/modelpool-mine"}) {
      ASSERT_EQ(mkdir(dir, 0700), 0);
      const SegmentOptions options = in(dir);
      ASSERT_TRUE(Segment::attach("default", options));
    }
    ASSERT_EQ(chown("/dev/shm/modelpool-65534", 65534, 65534), 0);
    const auto seen = Segment::open_read_only("default", "");
    ASSERT_TRUE(seen) << text_of(seen);
    EXPECT_EQ((*seen)->path(), "/dev/shm/modelpool-65534/default");
    ASSERT_EQ(chown("/dev/shm/modelpool-1", 1, 1), 0);
    const auto several = Segment::open_read_only("default", "");
    EXPECT_EQ(code_of(several), Errc::kInvalid);
    EXPECT_NE(text_of(several).find("/dev/shm/modelpool-65534/default"), std::string::npos)
        << text_of(several);
  });
}

TEST_F(DefaultPlaces, WhoMayNotLookInsideIsToldWhoseItIsAndTheCommand) {
  run_with_places([&] {
    ASSERT_EQ(mkdir("/run/modelpool", 0700), 0);
    Forked other([&](Forked::Child& parent) {
      become_nobody();
      const auto looked = Segment::open_read_only("default", "");
      const auto created = Segment::attach("default", in(""));
      parent.say(std::string(errc_name(code_of(looked))) + ": " + text_of(looked));
      parent.say(std::string(errc_name(code_of(created))) + ": " + text_of(created));
    });
    for (int i = 0; i < 2; ++i) {
      const std::string answer = other.hear();
      EXPECT_TRUE(answer.starts_with("permission: ")) << answer;
      EXPECT_NE(answer.find("belongs to user root"), std::string::npos) << answer;
      EXPECT_NE(answer.find("sudo -u root"), std::string::npos) << answer;
    }
    EXPECT_FALSE(fs::exists("/dev/shm/modelpool-65534"));
  });
}

// Its owner could move or remove what is made inside.
TEST_F(DefaultPlaces, InsideAnothersDirectoryNoneIsAdvised) {
  run_with_places([&] {
    ASSERT_EQ(mkdir("/dev/shm/others", 0700), 0);
    ASSERT_EQ(chown("/dev/shm/others", 65534, 65534), 0);
    const auto refused = Segment::attach("default", in("/dev/shm/others"));
    EXPECT_EQ(code_of(refused), Errc::kPermission);
    EXPECT_NE(text_of(refused).find("--dir /dev/shm/modelpool-0"), std::string::npos)
        << text_of(refused);
    ASSERT_EQ(chown("/dev/shm/others", 0, 0), 0);
    ASSERT_EQ(chmod("/dev/shm/others", 01777), 0);
    const auto open = Segment::attach("default", in("/dev/shm/others"));
    EXPECT_NE(text_of(open).find("--dir /dev/shm/others/modelpool-0"), std::string::npos)
        << text_of(open);
  });
}

TEST_F(DefaultPlaces, APoolThatIsInShmAlreadyIsFoundThere) {
  run_with_places([&] {
    ASSERT_TRUE(Segment::attach("default", in("")));
    ASSERT_EQ(mkdir("/run/modelpool", 0700), 0);
    EXPECT_EQ(find_pool_dir("default", "").value(), shm_);
    EXPECT_EQ(find_pool_dir("another", "").value(), "/run/modelpool");
  });
}

TEST_F(DefaultPlaces, APoolInBothIsAnErrorThatNamesBoth) {
  run_with_places([&] {
    ASSERT_TRUE(Segment::attach("default", in("")));
    ASSERT_EQ(mkdir("/run/modelpool", 0700), 0);
    ASSERT_TRUE(Segment::attach("default", in("/run/modelpool")));
    const auto refused = Segment::attach("default", in(""));
    EXPECT_EQ(code_of(refused), Errc::kInvalid);
    EXPECT_NE(text_of(refused).find("/run/modelpool/default"), std::string::npos);
    EXPECT_NE(text_of(refused).find(shm_ + "/default"), std::string::npos);
    EXPECT_TRUE(Segment::attach("default", in(shm_)));
  });
}

// --- Replaced, removed ---------------------------------------------------------------------------

TEST(Segment, KnowsWhenItsNameIsGone) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  EXPECT_FALSE(segment->is_replaced());
  fs::remove(scratch.path("default"));
  EXPECT_TRUE(segment->is_replaced());
}

TEST(Segment, KnowsWhenItsNameBelongsToAnother) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  fs::remove(scratch.path("default"));
  const auto second = Segment::attach("default", in(scratch.dir()));
  ASSERT_TRUE(second) << second.error().text;
  EXPECT_NE(second->get(), segment.get());
  EXPECT_TRUE(segment->is_replaced());
  EXPECT_FALSE((*second)->is_replaced());
}

// chroot hides the name from one process: as long as a coordinator lives, it would know better.
TEST(Segment, OutOfSightOfThisProcessAloneIsNotReplaced) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  Forked judge([](Forked::Child& parent) { parent.hear(); });
  const auto stat = read_stat(judge.pid());
  segment->coordinator().pid.store(static_cast<std::uint32_t>(judge.pid()));
  segment->coordinator().start_ticks.store(stat->start_ticks);
  segment->coordinator().epoch.store(1);
  fs::rename(scratch.path("default"), scratch.path("away"));
  EXPECT_FALSE(segment->is_replaced());
  segment->line().replaced.store(1);  // it says so
  EXPECT_TRUE(segment->is_replaced());
}

TEST(Segment, IsReplacedForEveryoneOnceTheCoordinatorHasSaidSo) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  segment->line().replaced.store(1);
  EXPECT_TRUE(segment->is_replaced());
}

TEST(Segment, IsNotRemovedWhileAProcessIsAttached) {
  const Scratch scratch;
  Forked worker([&](Forked::Child& parent) {
    make_segment(scratch);
    parent.say("attached");
    parent.hear();
  });
  ASSERT_EQ(worker.hear(), "attached");
  const auto refused = Segment::remove("default", scratch.dir());
  EXPECT_EQ(code_of(refused), Errc::kBusy) << text_of(refused);
  EXPECT_TRUE(fs::exists(scratch.path("default")));
  worker.kill_now();
  EXPECT_TRUE(Segment::remove("default", scratch.dir()));
  EXPECT_TRUE(fs::is_empty(scratch.dir()));
}

// A daemonising worker closed all its descriptors, the lock's too: its row speaks for it.
TEST(Segment, IsNotRemovedUnderAWorkerThatClosedItsDescriptors) {
  const Scratch scratch;
  Forked worker([&](Forked::Child& parent) {
    const Pool pool = make_pool(scratch);
    std::vector<int> others;
    for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      if (fs::read_symlink(entry.path(), gone).string().find(".users") != std::string::npos) {
        others.push_back(std::stoi(entry.path().filename()));
      }
    }
    for (const int fd : others) close(fd);
    parent.say("attached");
    parent.hear();
    _exit(0);
  });
  ASSERT_EQ(worker.hear(), "attached");
  const auto refused = Segment::remove("default", scratch.dir());
  EXPECT_EQ(code_of(refused), Errc::kBusy);
  EXPECT_NE(text_of(refused).find(std::to_string(worker.pid())), std::string::npos)
      << text_of(refused);
  worker.kill_now();
  EXPECT_TRUE(Segment::remove("default", scratch.dir()));
}

TEST(Segment, IsNotRemovedWhileABackendIsLive) {
  const Scratch scratch;
  Forked worker([&](Forked::Child&) {
    Pool pool = make_pool(scratch);
    load_external(pool, "m").release();
  });
  ASSERT_EQ(worker.wait(), 0);
  const auto refused = Segment::remove("default", scratch.dir());
  EXPECT_EQ(code_of(refused), Errc::kBusy);
  EXPECT_NE(text_of(refused).find("--stop"), std::string::npos);
}

// It examined one, was slow, and another has the name.
TEST(Segment, RemovesWhatItExaminedAndNotWhatTookItsNameMeanwhile) {
  const Scratch scratch;
  make_left_over(scratch);
  const auto named = open_named("default", scratch.dir());
  ASSERT_TRUE(named);
  ASSERT_TRUE(Segment::remove("default", scratch.dir()));
  make_left_over(scratch);
  const auto refused = remove_pool("default", scratch.dir(), {.only = &*named});
  EXPECT_EQ(code_of(refused), Errc::kNoSuchPool) << text_of(refused);
  EXPECT_TRUE(fs::exists(scratch.path("default")));
}

// Creators hold the directory: while one is at work nobody removes.
TEST(Segment, IsNotRemovedWhileADirectoryIsHeld) {
  const Scratch scratch;
  make_left_over(scratch);
  Forked creator([&](Forked::Child& parent) {
    const Fd dir(open(scratch.dir().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    parent.say(flock(dir.get(), LOCK_EX) == 0 ? "locked" : "not locked");
    parent.hear();
  });
  ASSERT_EQ(creator.hear(), "locked");
  EXPECT_EQ(code_of(Segment::remove("default", scratch.dir())), Errc::kBusy);
  EXPECT_TRUE(fs::exists(scratch.path("default")));
  creator.kill_now();
  EXPECT_TRUE(Segment::remove("default", scratch.dir()));
}

// Its coordinator holds the segment: it has no row, and somebody may have removed the other file.
TEST(Segment, IsNotRemovedUnderItsCoordinatorThoughNobodyElseIsSeen) {
  const Scratch scratch;
  make_left_over(scratch);
  Forked judge([&](Forked::Child& parent) {
    const Fd file(open(scratch.path("default").c_str(), O_RDWR | O_CLOEXEC));
    parent.say(flock(file.get(), LOCK_EX) == 0 ? "locked" : "not locked");
    parent.hear();
  });
  ASSERT_EQ(judge.hear(), "locked");
  fs::remove(scratch.path("default.users"));
  EXPECT_EQ(code_of(Segment::remove("default", scratch.dir())), Errc::kBusy);
}

TEST(Segment, ThatIsNotThereCannotBeRemoved) {
  const Scratch scratch;
  EXPECT_EQ(code_of(Segment::remove("default", scratch.dir())), Errc::kNoSuchPool);
  EXPECT_TRUE(fs::is_empty(scratch.dir()));
}

// --- Looking -------------------------------------------------------------------------------------

TEST(P12LookingChangesNothing, AReadOnlyLookLeavesNoTrace) {
  const Scratch scratch;
  make_left_over(scratch);
  const std::string before = read_file(scratch.path("default"));
  std::set<std::string> files;
  for (const auto& entry : fs::directory_iterator(scratch.dir())) files.insert(entry.path());
  {
    const auto segment = Segment::open_read_only("default", scratch.dir());
    ASSERT_TRUE(segment) << segment.error().text;
    EXPECT_FALSE((*segment)->writable());
    EXPECT_EQ(findings(*segment, true), "");
    EXPECT_TRUE(Segment::remove("default", scratch.dir())) << "a look keeps nobody from anything";
    EXPECT_TRUE((*segment)->is_replaced());
  }
  const Scratch again;
  make_left_over(again);
  EXPECT_EQ(before.size(), read_file(again.path("default")).size());
}

TEST(P12LookingChangesNothing, ACopiedFileIsReadWhereverItLies) {
  const Scratch scratch;
  {
    Pool pool = make_pool(scratch);
    load_external(pool, "m").release();
  }
  std::string dir = "/tmp/modelpool-test-XXXXXX";
  ASSERT_NE(mkdtemp(dir.data()), nullptr);
  fs::copy_file(scratch.path("default"), dir + "/copy");
  fs::permissions(dir + "/copy", static_cast<fs::perms>(0644));
  {
    const auto copy = Segment::open_file(dir + "/copy");
    EXPECT_TRUE(copy) << text_of(copy);
    EXPECT_TRUE(copy && look(*copy).find_model("m") != nullptr);
  }
  fs::remove_all(dir);
}

TEST(P12LookingChangesNothing, WhatIsNotThereIsNotMade) {
  const Scratch scratch;
  EXPECT_EQ(code_of(Segment::open_read_only("default", scratch.dir())), Errc::kNoSuchPool);
  EXPECT_EQ(code_of(Segment::open_read_only("default", scratch.path("none"))), Errc::kNoSuchPool);
  EXPECT_EQ(code_of(Segment::open_file(scratch.path("none"))), Errc::kNoSuchPool);
  EXPECT_TRUE(fs::is_empty(scratch.dir()));
}

// --- Words that wake -----------------------------------------------------------------------------

TEST(Futex, WaitsForAWakeOfAnotherProcessAlsoThroughAReadOnlyMap) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  Forked waiter([&](Forked::Child& parent) {
    const auto mine = Segment::open_read_only("default", scratch.dir());
    const HalfWord& word = (*mine)->coordinator().event_bell;
    const std::uint32_t seen = word.load();
    parent.say("waiting");
    while (word.load() == seen) futex_wait(word, seen, kNever_ns);
    parent.say("woken");
  });
  ASSERT_EQ(waiter.hear(), "waiting");
  segment->coordinator().event_bell.fetch_add(1);
  futex_wake_all(segment->coordinator().event_bell);
  EXPECT_EQ(waiter.hear(), "woken");
}

TEST(Futex, ReturnsAtOnceForAWordThatDiffersAndNotBeforeItsTime) {
  const HalfWord word{1};
  futex_wait(word, 2, kNever_ns);
  const std::uint64_t until = now_ns() + 20 * kMillisecond_ns;
  while (now_ns() < until) futex_wait(word, 1, until);
  EXPECT_GE(now_ns(), until);
}

// --- Coordinator, settings -----------------------------------------------------------------------

TEST(Coordinator, ThatNeverWasIsDead) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  CoordinatorIdentity found;
  EXPECT_EQ(coordinator_liveness(*segment, &found), Liveness::kDead);
  EXPECT_EQ(found.epoch, 0u);
}

TEST(Coordinator, IsAliveUntilItsProcessEndsOrItHasLeft) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  CoordinatorRecord& record = segment->coordinator();
  Forked judge([](Forked::Child& parent) { parent.hear(); });
  const auto stat = read_stat(judge.pid());
  record.pid.store(static_cast<std::uint32_t>(judge.pid()));
  record.start_ticks.store(stat->start_ticks);
  record.epoch.store(4);
  CoordinatorIdentity found;
  EXPECT_EQ(coordinator_liveness(*segment, &found), Liveness::kAlive);
  EXPECT_EQ(found.epoch, 4u);
  EXPECT_EQ(found.process.pid, judge.pid());
  record.leaving.store(1);
  EXPECT_EQ(coordinator_liveness(*segment), Liveness::kDead);
  record.leaving.store(kLeavingForGood);  // it still ends the backends
  EXPECT_EQ(coordinator_liveness(*segment), Liveness::kAlive);
  judge.kill_now();
  EXPECT_EQ(coordinator_liveness(*segment), Liveness::kDead);
}

class HungJudge : public ::testing::Test {
 protected:
  bool hangs_at(std::uint64_t now) { return hung_since_ns(record_, now) != 0; }

  const Scratch scratch_;
  const std::shared_ptr<Segment> segment_ = make_segment(scratch_);
  CoordinatorRecord& record_ = segment_->coordinator();
};

TEST_F(HungJudge, IsOneThatDoesNotAnswerARing) {
  const std::uint64_t before = now_ns();
  ring(record_);
  const std::uint64_t rung = record_.rung_ns.load();
  EXPECT_GE(rung, before);
  ring(record_);
  EXPECT_EQ(record_.rung_ns.load(), rung) << "since the first that was not answered";
  EXPECT_FALSE(hangs_at(rung + kHungAfter_ns));
  EXPECT_EQ(hung_since_ns(record_, rung + kHungAfter_ns + 1), rung);
  record_.answered.store(record_.doorbell.load());
  EXPECT_FALSE(hangs_at(rung + 10 * kHungAfter_ns)) << "answered, though the time was left behind";
}

TEST_F(HungJudge, IsOneThatSleepsThroughItsDeadlineOrWorksWithoutEnd) {
  const std::uint64_t now = now_ns();
  record_.horizon_ns.store(kNever_ns);
  EXPECT_FALSE(hangs_at(now + 3600 * kSecond_ns)) << "nothing is due";
  record_.horizon_ns.store(now);
  EXPECT_FALSE(hangs_at(now + kHungAfter_ns));
  EXPECT_EQ(hung_since_ns(record_, now + kHungAfter_ns + 1), now);
  record_.horizon_ns.store(kNever_ns);
  record_.working_since_ns.store(now - kSecond_ns);
  EXPECT_EQ(hung_since_ns(record_, now + kHungAfter_ns), now - kSecond_ns);
  record_.working_since_ns.store(now + kSecond_ns);
  EXPECT_FALSE(hangs_at(now)) << "a stamp from the future proves nothing";
}

}  // namespace
