// What counts as memory of a process, of a cgroup, and of a backend of several processes.
#include "sample/host_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>

#include "sample/amd.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

namespace modelpool::sample {
namespace {

using test::Forked;
using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr std::uint64_t kMiB_bytes = 1024 * 1024;

TEST(HostMemory, OfAProcessWhatItHasWrittenLockedAndSwappedOutCountsAndOtherFilesDoNot) {
  const std::string text =
      "560e4a400000-7ffd2d9f3000 ---p 00000000 00:00 0    [rollup]\n"
      "Rss:              900000 kB\nPss:              800000 kB\nPss_Anon:           1000 kB\n"
      "Pss_File:          50000 kB\nPss_Shmem:            20 kB\nShared_Hugetlb:        4 kB\n"
      "Private_Hugetlb:    2048 kB\nSwap:                900 kB\nSwapPss:              300 kB\n"
      "Locked:              600 kB\n";
  EXPECT_EQ(bytes_of_rollup(text), (1000 + 20 + 600 + 300 + 4 + 2048) * 1024u);
}

TEST(HostMemory, WhatIsWrittenAndLockedCountsOnce) {
  EXPECT_EQ(bytes_of_rollup("Pss_Anon: 1000 kB\nPss_File: 10 kB\nLocked: 1000 kB\n"), 1010 * 1024u)
      << "mlockall: of files no more than all of theirs";
}

TEST(HostMemory, WhatIsNoRollupIsNone) {
  for (const char* text :
       {"", "Pss: 5 kB\n", "Pss_Anon: x kB\n", "Pss_Anon: 99999999999999999999 kB\n",
        "Pss_Anon: 18446744073709551615 kB\n"}) {
    EXPECT_EQ(bytes_of_rollup(text), std::nullopt) << text;
  }
}

TEST(HostMemory, RoughlyItIsWhatIsResidentAndOfNoFile) {
  const auto page_bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  EXPECT_EQ(bytes_of_statm("9000 500 120 7 0 300 0\n"), 380 * page_bytes);
  EXPECT_EQ(bytes_of_statm("9000 100 120 7 0 300 0\n"), 0u);
  EXPECT_EQ(bytes_of_statm("9000"), std::nullopt);
}

TEST(HostMemory, OfACgroupPagesOfFilesCountIfTheyCannotGo) {
  EXPECT_EQ(bytes_of_cgroup("anon 1000\nfile 500\nkernel 70\nshmem 200\nunevictable 250\n"), 1450u);
  EXPECT_EQ(bytes_of_cgroup("anon 1000\nfile 500\nshmem 200\nunevictable 5000\n"), 1500u)
      << "written pages are locked, too, and count once";
  EXPECT_EQ(bytes_of_cgroup("file 500\n"), std::nullopt);
}

// A process that has written so much, until it hears something. It may have a child of the same.
Forked holder(std::uint64_t bytes, bool with_child) {
  return Forked([=](Forked::Child& child) {
    const auto take = [bytes] {
      void* memory =
          mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      for (std::uint64_t at = 0; at < bytes; at += 4096)
        static_cast<volatile char*>(memory)[at] = 1;
    };
    if (!with_child) {
      take();
      child.say("taken");
      child.hear();
      return;
    }
    Forked grandchild([&](Forked::Child& own) {
      take();
      own.say("taken");
      own.hear();
    });
    child.say(grandchild.hear() == "taken" ? std::to_string(grandchild.pid()) : "?");
    child.hear();
  });
}

coordinator::SampleRequest request_of(pid_t pid) {
  coordinator::SampleRequest request;
  request.backends = {{{1, 1}, 0, {{pid, read_stat(pid)->start_ticks, 0}}}};
  return request;
}

TEST(HostMemory, ABackendThatTakes64MiBIsSeenTo) {
  Forked process = holder(64 * kMiB_bytes, false);
  ASSERT_EQ(process.hear(), "taken");
  HostMemory memory;
  const auto found = memory.measure(request_of(process.pid()));
  ASSERT_TRUE(found[0].bytes);
  EXPECT_GE(*found[0].bytes, 64 * kMiB_bytes);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they take more themselves
  EXPECT_LT(*found[0].bytes, 96 * kMiB_bytes);
#endif
  EXPECT_FALSE(found[0].is_rough);
}

TEST(HostMemory, WhatAChildTakesIsItsParentsBackends) {
  Forked process = holder(64 * kMiB_bytes, true);
  const pid_t child = std::stoi(process.hear());
  HostMemory memory;
  const auto found = memory.measure(request_of(process.pid()));
  EXPECT_GE(found[0].bytes.value_or(0), 64 * kMiB_bytes);
  EXPECT_THAT(found[0].processes, UnorderedElementsAre(process.pid(), child));
}

TEST(HostMemory, WhoBelongsIsSaidAlsoWhereTheHostIsNotAskedFor) {
  Forked process = holder(kMiB_bytes, true);
  const pid_t child = std::stoi(process.hear());
  HostMemory memory;
  auto request = request_of(process.pid());
  request.with_host = false;
  const auto found = memory.measure(request);
  EXPECT_EQ(found[0].bytes, std::nullopt);
  EXPECT_THAT(found[0].processes, UnorderedElementsAre(process.pid(), child));
}

TEST(HostMemory, P7AnotherProcessOfTheSameNumberIsNotMeasured) {
  Forked process = holder(kMiB_bytes, false);
  ASSERT_EQ(process.hear(), "taken");
  auto request = request_of(process.pid());
  ++request.backends[0].processes[0].start_ticks;
  HostMemory memory;
  EXPECT_EQ(memory.measure(request)[0].bytes, std::nullopt);
}

TEST(HostMemory, OneThatHasEndedTakesNothing) {
  Forked process = holder(kMiB_bytes, false);
  ASSERT_EQ(process.hear(), "taken");
  const auto request = request_of(process.pid());
  HostMemory memory;
  ASSERT_TRUE(memory.measure(request)[0].bytes);
  process.kill_now();
  EXPECT_EQ(memory.measure(request)[0].bytes, std::nullopt) << "as it was known before";
}

// A process that is not dumpable is as one of another user.
TEST(HostMemory, OfOneThatMayNotBeLookedAtItIsARoughNumber) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  Forked looked_at = holder(64 * kMiB_bytes, false);
  ASSERT_EQ(looked_at.hear(), "taken");
  const auto request = request_of(looked_at.pid());
  Forked other([&request](Forked::Child&) {
    ASSERT_EQ(setgid(65534), 0);
    ASSERT_EQ(setuid(65534), 0);
    HostMemory memory;
    const auto found = memory.measure(request);
    ASSERT_TRUE(found[0].bytes);
    EXPECT_TRUE(found[0].is_rough);
    EXPECT_GE(*found[0].bytes, 64 * kMiB_bytes);
  });
  EXPECT_EQ(other.wait(), 0);
}

// --- AMD -----------------------------------------------------------------------------------------

class FakeSysfs {
 public:
  void add(const std::string& card, const std::string& total, const std::string& used,
           const std::string& unique = "", const std::string& pci = "") {
    const std::string device = scratch_.path("class/drm/" + card + "/device");
    std::filesystem::create_directories(device);
    if (!total.empty()) test::write_file(device + "/mem_info_vram_total", total);
    if (!used.empty()) test::write_file(device + "/mem_info_vram_used", used);
    if (!unique.empty()) test::write_file(device + "/unique_id", unique + "\n");
    if (!pci.empty())
      test::write_file(device + "/uevent", "DRIVER=amdgpu\nPCI_SLOT_NAME=" + pci + "\n");
  }
  std::vector<Device> devices() {
    std::vector<Device> found;
    measure_amd(scratch_.dir(), {}, &found);
    return found;
  }
  const std::string& dir() const { return scratch_.dir(); }

 private:
  test::Scratch scratch_;
};

TEST(AmdDevices, AreThoseThatSayWhatMemoryTheyHave) {
  FakeSysfs sysfs;
  sysfs.add("card0", "1000\n", "300\n", "a1b2");
  sysfs.add("card1", "1000\n", "1200\n", "", "0000:03:00.0");
  sysfs.add("card2", "", "");        // an Intel one
  sysfs.add("card3", "1000\n", "");  // it has vanished between the two
  sysfs.add("card4", "lots\n", "300\n");
  sysfs.add("card5", "9223372036854775808\n", "3\n", "big");
  sysfs.add("card0-DP-1", "1000\n", "300\n", "connector");
  const auto found = sysfs.devices();
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].uuid, "GPU-a1b2");
  EXPECT_EQ(found[0].free_bytes, 700u);
  EXPECT_EQ(found[1].uuid, "PCI-0000:03:00.0");
  EXPECT_EQ(found[1].free_bytes, 0u) << "more used than there is";
  EXPECT_FALSE(found[0].knows_processes);
}

TEST(AmdDevices, WithoutSuchADirectoryThereAreNone) {
  std::vector<Device> found;
  measure_amd("/nonexistent", {getpid()}, &found);
  EXPECT_THAT(found, IsEmpty());
}

TEST(AmdDevices, ADescriptorSaysWhatItsClientTakes) {
  const std::string text =
      "pos:\t0\nflags:\t02100002\ndrm-driver:\tamdgpu\ndrm-client-id:\t42\n"
      "drm-pdev:\t0000:03:00.0\ndrm-memory-vram:\t2048 KiB\ndrm-memory-gtt: \t5 KiB\n";
  const auto use = parse_fdinfo(text);
  ASSERT_TRUE(use);
  EXPECT_EQ(use->device, "0000:03:00.0");
  EXPECT_EQ(use->client, 42u);
  EXPECT_EQ(use->bytes, 2 * kMiB_bytes);
  EXPECT_FALSE(
      parse_fdinfo("drm-driver:\ti915\ndrm-pdev:\t0000:00:02.0\ndrm-memory-vram:\t5 KiB\n"));
  EXPECT_FALSE(parse_fdinfo("drm-driver:\tamdgpu\ndrm-pdev:\t0000:03:00.0\n"));
  EXPECT_FALSE(parse_fdinfo(
      "drm-driver:\tamdgpu\ndrm-pdev:\t0\ndrm-memory-vram:\t9223372036854775808 KiB\n"));
}

// --- Whose processes a driver names --------------------------------------------------------------

TEST(NvmlProcesses, AreKnownIfOneIsOursOrAllOfTheHostAreSeen) {
  Device device{"GPU-1", 24ull << 30, 10ull << 30, false, {{100, 5}}};
  EXPECT_TRUE(knows_processes(device, {100}, false)) << "one of ours is named";
  EXPECT_FALSE(knows_processes(device, {7}, false)) << "another namespace's numbers";
  EXPECT_TRUE(knows_processes(device, {7}, true));
  device.processes.clear();
  EXPECT_FALSE(knows_processes(device, {7}, true)) << "14 GiB are nobody's: they are not told";
  device.free_bytes = device.total_bytes - (500ull << 20);
  EXPECT_TRUE(knows_processes(device, {7}, true)) << "the driver's own";
}

}  // namespace
}  // namespace modelpool::sample
