#include "base/exit_words.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>

#include "base/kinds.hpp"
#include "base/proc.hpp"

using namespace modelpool;  // NOLINT(google-build-using-namespace)
using Rise = MemoryKills::Rise;

namespace {

std::string of_signal(int signal, Rise rise = Rise::kNone) {
  return exit_words(pack_exit(ExitKind::kSignalled, static_cast<std::uint32_t>(signal)), rise, {});
}
std::string of_status(std::uint32_t status, const std::vector<std::string>& lines = {},
                      Rise rise = Rise::kNone) {
  return exit_words(pack_exit(ExitKind::kExited, status), rise, lines);
}

}  // namespace

TEST(ExitWords, SayWhatTheKernelOrTheLoaderDid) {
  EXPECT_EQ(of_signal(SIGKILL, Rise::kInCgroup),
            "killed for memory by the kernel, at the limit of its cgroup");
  EXPECT_EQ(of_signal(SIGKILL, Rise::kOnHost),
            "killed for memory by the kernel, as it seems: it killed for that meanwhile");
  EXPECT_EQ(of_signal(SIGKILL), "") << "by whom is not known";
  EXPECT_EQ(of_signal(SIGSEGV, Rise::kInCgroup), "it crashed at a memory access")
      << "another one was killed for memory";
  EXPECT_EQ(of_signal(SIGTERM), "");
  EXPECT_EQ(of_status(127, {"./server: error while loading shared libraries: libcudart.so.12: "
                            "cannot open shared object file"}),
            "the library libcudart.so.12 is missing");
  EXPECT_EQ(of_status(127, {"Error loading shared library libx.so: No such file"}),
            "the library libx.so is missing");
  EXPECT_EQ(of_status(127, {"sh: 1: server: not found"}),
            "a program or a library that it needs is missing");
  EXPECT_EQ(of_status(126), "a program that it needs is not executable");
  EXPECT_EQ(of_status(137, {}, Rise::kInCgroup),
            "what it ran ended so: killed for memory by the kernel, at the limit of its cgroup");
  EXPECT_EQ(of_status(1), "");
  EXPECT_EQ(of_status(255), "");
  EXPECT_EQ(exit_words(0, Rise::kOnHost, {}), "") << "unknown is not guessed at";
}

TEST(MemoryKills, DoNotRiseByThemselves) {
  EXPECT_EQ(MemoryKills(getpid()).rise(), Rise::kNone);
  EXPECT_TRUE(read_memory_kills()) << "Linux 4.13 and later count them";
  EXPECT_EQ(find_counter("low 1\noom 5\noom_kill 3\noom_group_kill 4\n", "oom_kill"), 3u);
  EXPECT_EQ(find_counter("oom_kill x\n", "oom_kill"), std::nullopt);
  EXPECT_EQ(find_counter("", "oom_kill"), std::nullopt);
}

TEST(LastLines, AreAsManyOfTheNewestAsFit) {
  const std::vector<std::string> lines{"one", "two", "three"};
  EXPECT_EQ(with_last_lines("it ended", lines, 255), "it ended; its last lines: one | two | three");
  const std::string two = "it ended; its last lines: two | three";
  EXPECT_EQ(with_last_lines("it ended", lines, two.size()), two);
  EXPECT_EQ(with_last_lines("it ended", lines, two.size() - 1), "it ended; its last lines: three");
  EXPECT_EQ(with_last_lines("it ended", {}, 255), "it ended");
  EXPECT_EQ(with_last_lines("it ended", lines, 5), "it ended");
  EXPECT_EQ(with_last_lines(two, {"four"}, 255), "it ended; its last lines: four")
      << "others instead";
  const std::string wide = with_last_lines("x", {std::string(200, 'y') + "\xc3\xa4"}, 100);
  EXPECT_EQ(wide.size(), 100u);
  EXPECT_TRUE(wide.ends_with("y..."));
  std::string umlauts;
  for (int i = 0; i < 100; ++i) umlauts += "\xc3\xa4";
  for (std::size_t room = 60; room < 64; ++room) {
    const std::string cut = with_last_lines("x", {umlauts}, room);
    EXPECT_LE(cut.size(), room);
    EXPECT_TRUE(cut.ends_with("\xa4...")) << "no half character";
  }
}

TEST(LastLines, ComeAfterTheExitStatus) {
  const std::uint32_t exit = pack_exit(ExitKind::kExited, 3);
  EXPECT_EQ(with_exit("it ended", exit), "it ended (exit status 3)");
  EXPECT_EQ(with_exit("it ended; its last lines: one", exit),
            "it ended (exit status 3); its last lines: one");
  EXPECT_EQ(with_exit("it ended", 0), "it ended");
}

TEST(ExitWords, OutOfMemoryIsASigkillWhileTheKernelKilledForMemory) {
  const std::uint32_t killed = pack_exit(ExitKind::kSignalled, SIGKILL);
  EXPECT_TRUE(ran_out_of_memory(killed, Rise::kOnHost));
  EXPECT_TRUE(ran_out_of_memory(killed, Rise::kInCgroup));
  EXPECT_TRUE(ran_out_of_memory(pack_exit(ExitKind::kExited, 128 + SIGKILL), Rise::kInCgroup));
  EXPECT_FALSE(ran_out_of_memory(killed, Rise::kNone)) << "by whom is not known";
  EXPECT_FALSE(ran_out_of_memory(pack_exit(ExitKind::kSignalled, SIGSEGV), Rise::kOnHost));
  EXPECT_FALSE(ran_out_of_memory(0, Rise::kOnHost));
}
