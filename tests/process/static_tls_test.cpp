// A program with much thread-local storage: the C library takes it off each thread's stack, and
// refuses one that is too small.
#include <gtest/gtest.h>
#include <signal.h>

#include <cstring>

#include "base/proc.hpp"
#include "base/thread.hpp"
#include "support/daemon.hpp"
#include "support/pool.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

// Much more than the stack of any thread of the library's.
thread_local volatile char t_large[3 << 20];

TEST(StaticTls, AReaperStartsAndRecordsHowItsBackendEnded) {
  t_large[0] = 1;
  const Scratch scratch;
  const Daemon daemon(scratch);
  Pool pool = attach(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  ASSERT_TRUE(ticket.spawn({"sh", "-c", "exit 7"}));
  const pid_t pid = ticket.pid();
  EXPECT_TRUE(eventually([&] { return !read_stat(pid); })) << "it stays a zombie";
  const auto refused = pool.acquire("m", std::chrono::seconds(20));
  EXPECT_NE(text_of(refused).find("exit status 7"), std::string::npos) << text_of(refused);
}

TEST(StaticTls, AThreadHasTheStackItAskedForOnTop) {
  static std::atomic<int> used{0};
  constexpr std::size_t kStack_bytes = 64 * 1024;
  ASSERT_TRUE(start_detached_thread(kStack_bytes, [] {
    volatile char frame[kStack_bytes * 3 / 4];
    std::memset(const_cast<char*>(frame), 1, sizeof frame);
    used = frame[100] + t_large[7] + 1;
  }));
  EXPECT_TRUE(eventually([&] { return used == 2; }));
}

}  // namespace
