// The table of handles by itself: what the C interface's safety rests on.
#include "c/handles.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <set>
#include <thread>
#include <vector>

using modelpool::c::Handles;

namespace {

std::atomic<int> g_alive{0};

struct Counted {
  Counted() { ++g_alive; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() {
    value = -1;
    --g_alive;
  }
  int value = 42;
};
using Table = Handles<std::unique_ptr<Counted>>;

}  // namespace

TEST(Handles, NoNumberIsGivenOutTwice) {
  static Table table(9);
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 2000; ++i) {
    const std::uint64_t id = table.open(std::make_unique<Counted>());
    ASSERT_TRUE(seen.insert(id).second);
    if (i % 3 == 0) continue;  // makes the table grow
    ASSERT_TRUE(table.close(id));
  }
  int open = 0;
  table.for_each([&](std::uint64_t id, std::unique_ptr<Counted>&) { open += table.close(id); });
  EXPECT_EQ(open, 667);
  EXPECT_EQ(g_alive, 0);
  for (const std::uint64_t id : seen) ASSERT_FALSE(table.pin(id));
}

TEST(Handles, AClosedObjectLivesUntilItsLastPin) {
  static Table table(9);
  const std::uint64_t id = table.open(std::make_unique<Counted>());
  {
    const Table::Pin first = table.pin(id);
    const Table::Pin second = table.pin(id);
    EXPECT_TRUE(table.close(id));
    EXPECT_FALSE(table.close(id));
    EXPECT_FALSE(table.pin(id));
    EXPECT_FALSE(table.is_open(id));
    EXPECT_EQ(g_alive, 1);
    EXPECT_EQ((*second)->value, 42);
  }
  EXPECT_EQ(g_alive, 0);
}

TEST(Handles, WhatIsTakenIsTakenOnce) {
  static Table table(9);
  const std::uint64_t id = table.open(std::make_unique<Counted>());
  {
    Table::Pin first = table.pin(id);
    EXPECT_TRUE(first.take());
    Table::Pin second = table.pin(id);
    EXPECT_FALSE(second.take());
  }
  EXPECT_TRUE(table.pin(id).take());
  table.close(id);
}

// Everyone opens, pins what others opened, and closes it: each object ends once, after its last
// user.
TEST(Handles, ManyThreadsCloseEachObjectOnce) {
  static Table table(9);
  constexpr int kThreads = 4;
  constexpr int kRounds = 3000;
  std::vector<std::atomic<std::uint64_t>> shared(8);
  std::atomic<int> opened{0};
  std::atomic<int> closed{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        std::atomic<std::uint64_t>& place =
            shared[static_cast<std::size_t>(i * 7 + t) % shared.size()];
        const std::uint64_t id = place.load();
        if (const Table::Pin held = table.pin(id)) {
          EXPECT_EQ((*held)->value, 42);
        }
        if (table.close(id)) ++closed;
        place.store(table.open(std::make_unique<Counted>()));
        ++opened;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  table.for_each([&](std::uint64_t id, std::unique_ptr<Counted>&) { closed += table.close(id); });
  EXPECT_EQ(opened, closed);
  EXPECT_EQ(g_alive, 0);
}
