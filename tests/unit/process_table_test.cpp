// P3: who is there is asked for until it is certain that nobody was missed.
#include "base/process_table.hpp"

#include <gtest/gtest.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "support/process.hpp"

namespace modelpool::test {
namespace {

// A child with this number that stands still; -1 where that is not allowed. The kernel's newest
// number stays what it was: as with a fork that has taken its number and is not there yet.
pid_t appear(pid_t number) {
  clone_args args{};
  args.exit_signal = SIGCHLD;
  args.set_tid = reinterpret_cast<std::uintptr_t>(&number);
  args.set_tid_size = 1;
  const auto pid = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
  if (pid == 0) {
    for (;;) pause();
  }
  return pid;
}

std::vector<pid_t> found_in_round(ProcessTable& table) {
  std::vector<pid_t> pids;
  EXPECT_EQ(table.begin_round(), ProcessTable::Round::kBegun);
  while (const auto at = table.next_new()) pids.push_back(table[*at].pid);
  return pids;
}

TEST(ProcessTable, P3AsksInEachRoundForAllNumbersGivenSinceTheList) {
  ProcessTable table;
  ASSERT_TRUE(table.list());
  pid_t number = 0;
  {
    Forked ended([](Forked::Child&) {});
    number = ended.pid();
    ended.wait();
  }
  EXPECT_EQ(std::ranges::count(found_in_round(table), number), 0);
  const pid_t pid = appear(number);
  if (pid < 0) GTEST_SKIP() << "a number can only be chosen by root";
  ASSERT_EQ(pid, number);
  EXPECT_EQ(std::ranges::count(found_in_round(table), number), 1)
      << "it was not there in the first";
  EXPECT_EQ(std::ranges::count(found_in_round(table), number), 0) << "it is in the table";
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

}  // namespace
}  // namespace modelpool::test
