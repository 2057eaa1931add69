#include "base/available.hpp"

#include <gtest/gtest.h>

#include <filesystem>

#include "support/scratch.hpp"

namespace modelpool {
namespace {

// A host of the test's own: files below a directory.
class Available : public ::testing::Test {
 protected:
  Available() { file("/proc/meminfo", "MemTotal:       16 kB\nMemAvailable:    8 kB\n"); }
  void file(const std::string& path, const std::string& text) {
    const std::string full = root() + path;
    std::filesystem::create_directories(std::filesystem::path(full).parent_path());
    test::write_file(full, text);
  }
  void version_2(const std::string& own, const std::string& mount_root = "/") {
    file("/proc/self/mountinfo",
         "24 1 0:5 / /proc rw - proc proc rw\n"
         "30 24 0:26 " +
             mount_root + " /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n");
    file("/proc/self/cgroup", "0::" + own + "\n");
  }
  void limit_2(const std::string& where, const std::string& max, const std::string& current,
               const std::string& inactive = "0") {
    file(where + "/memory.max", max + "\n");
    file(where + "/memory.current", current + "\n");
    file(where + "/memory.stat",
         "anon 77\nfile 55\ninactive_anon 9\ninactive_file " + inactive + "\n");
  }
  std::string root() const { return scratch_.path("root"); }
  std::uint64_t available() const { return read_available_bytes(root()).value_or(12345678); }
  std::uint64_t total() const { return read_total_bytes(root()).value_or(12345678); }

  test::Scratch scratch_;
};

TEST_F(Available, OfTheHostWhereNoCgroupHasALimit) {
  EXPECT_EQ(available(), 8192u);
  version_2("/a/b");
  EXPECT_EQ(available(), 8192u) << "no such files";
  limit_2("/sys/fs/cgroup/a/b", "max", "100");
  EXPECT_EQ(available(), 8192u);
}

TEST_F(Available, OfVersion2TheTightestOfItsCgroupAndThoseAboveIt) {
  version_2("/a/b");
  limit_2("/sys/fs/cgroup/a/b", "5000", "1000", "200");
  EXPECT_EQ(available(), 4200u);
  limit_2("/sys/fs/cgroup/a", "3000", "1500", "300");
  EXPECT_EQ(available(), 1800u);
  limit_2("/sys/fs/cgroup", "2000", "1500");
  EXPECT_EQ(available(), 500u);
}

TEST_F(Available, FilePagesCountForNoMoreThanWhatIsUsedAndTheLimit) {
  version_2("/a");
  limit_2("/sys/fs/cgroup/a", "3000", "1000", "5000");
  EXPECT_EQ(available(), 3000u);
  limit_2("/sys/fs/cgroup/a", "3000", "4000", "100");
  EXPECT_EQ(available(), 100u) << "a limit that was lowered below what is used";
}

TEST_F(Available, InAContainerItsCgroupIsTheRootOfTheMount) {
  version_2("/docker/abc/x", "/docker/abc");
  limit_2("/sys/fs/cgroup/x", "max", "0");
  limit_2("/sys/fs/cgroup", "700", "100");
  EXPECT_EQ(available(), 600u);
  version_2("/../elsewhere");
  EXPECT_EQ(available(), 8192u) << "not to be seen from here";
}

TEST_F(Available, OfVersion1TheTightestToo) {
  file("/proc/self/mountinfo",
       "31 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
       "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
       "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  file("/proc/self/cgroup", "5:cpu,cpuacct:/wrong\n4:memory:/a/b\n0::/\n");
  const auto limit = [&](const std::string& where, const std::string& max) {
    file(where + "/memory.limit_in_bytes", max + "\n");
    file(where + "/memory.usage_in_bytes", "1000\n");
    file(where + "/memory.stat", "inactive_file 1\ntotal_inactive_file 50\n");
  };
  limit("/sys/fs/cgroup/memory/a/b", "9223372036854771712");
  EXPECT_EQ(available(), 8192u) << "no limit";
  EXPECT_EQ(total(), 16384u);
  limit("/sys/fs/cgroup/memory/a", "2000");
  EXPECT_EQ(available(), 1050u);
  EXPECT_EQ(total(), 2000u);
}

TEST_F(Available, InAllThereIsWhatTheHostHasOrTheTightestLimit) {
  EXPECT_EQ(total(), 16384u);
  version_2("/a/b");
  limit_2("/sys/fs/cgroup/a/b", "max", "100");
  EXPECT_EQ(total(), 16384u);
  limit_2("/sys/fs/cgroup/a", "5000", "1000", "200");
  EXPECT_EQ(total(), 5000u);
}

TEST_F(Available, NothingWhereTheHostDoesNotSay) {
  file("/proc/meminfo", "MemTotal: 16 kB\n");
  EXPECT_EQ(read_available_bytes(root()), std::nullopt);
  file("/proc/meminfo", "MemAvailable: 8 kB\n");
  EXPECT_EQ(read_total_bytes(root()), std::nullopt);
  EXPECT_EQ(read_available_bytes(scratch_.path("nowhere")), std::nullopt);
}

TEST(AvailableHere, IsSomething) { EXPECT_GT(read_available_bytes().value_or(0), 0u); }

}  // namespace
}  // namespace modelpool
