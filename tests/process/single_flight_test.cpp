// Many processes want one model at once.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/daemon.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

std::size_t count_lines(const std::string& text) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

TEST(P4SingleFlight, TwoHundredAcquiresStartOneProcess) {
  constexpr int kProcesses = 8;
  constexpr int kThreads = 25;
  const Orphans orphans;
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "4"}});
  const Daemon daemon(scratch, {"--max-backends", "4"});
  const std::string starts = scratch.path("starts");

  std::vector<std::unique_ptr<Forked>> processes;
  for (int p = 0; p < kProcesses; ++p) {
    processes.push_back(std::make_unique<Forked>([&](Forked::Child& parent) {
      Pool mine = attach(scratch);
      parent.say("attached");
      parent.hear();
      std::vector<Lease> leases(kThreads);
      std::atomic<int> failed{0};
      std::vector<std::thread> threads;
      for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back([&, t] {
          auto granted = mine.acquire("m", std::chrono::seconds(60));
          if (!granted) {
            ++failed;
          } else if (auto* ticket = std::get_if<LoadTicket>(&*granted)) {
            const auto spawned =
                ticket->spawn({"sh", "-c", "echo started >> " + starts + "; exec sleep 60"});
            auto lease = ticket->ready("127.0.0.1:1");
            if (spawned && lease) {
              leases[static_cast<std::size_t>(t)] = std::move(*lease);
            } else {
              ++failed;
            }
          } else {
            leases[static_cast<std::size_t>(t)] = std::move(std::get<Lease>(*granted));
          }
        });
      }
      for (auto& thread : threads) thread.join();
      parent.say(failed == 0 ? "leased" : std::to_string(failed) + " failed");
      parent.hear();
      leases.clear();
      mine.close();
    }));
  }
  for (auto& process : processes) ASSERT_EQ(process->hear(), "attached");
  for (auto& process : processes) process->say("go");
  for (auto& process : processes) EXPECT_EQ(process->hear(), "leased");

  const Snapshot s = look(pool);
  EXPECT_EQ(s.leases.size(), 200u);
  ASSERT_EQ(s.live(), 1u);
  EXPECT_EQ(s.backends[0].in_flight, 200u);
  EXPECT_TRUE(s.waiters.empty());
  EXPECT_TRUE(eventually([&] { return count_lines(read_file(starts)) >= 1; }));
  EXPECT_EQ(processes_with_environment("MODELPOOL_BACKEND=" + segment_of(pool).uuid_text()).size(),
            1u);
  for (auto& process : processes) process->say("end");
  for (auto& process : processes) EXPECT_EQ(process->wait(), 0);
  EXPECT_EQ(count_lines(read_file(starts)), 1u);
  EXPECT_TRUE(nothing_left_but(pool, {getpid()}));
  EXPECT_EQ(findings(shared_segment_of(pool), true), "");
}

// The same without a judge, many times over, the model gone again after each. The processes are let
// go by a word they spin on: they look for the model in the same microsecond.
TEST(P4SingleFlight, HoldsInEveryRoundOfARaceBetweenProcesses) {
  constexpr std::uint32_t kRounds = 500;
  constexpr std::uint32_t kProcesses = 2;
  struct Shared {
    std::atomic<std::uint32_t> round;
    std::atomic<std::uint32_t> tickets;
    std::atomic<std::uint32_t> granted;
    std::atomic<std::uint32_t> released;
  };
  const SharedMemory<Shared> shared;
  const auto spin_until = [](const std::function<bool()>& condition) {
    while (!condition()) std::this_thread::yield();
  };
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const auto segment = shared_segment_of(pool);
  std::vector<std::unique_ptr<Forked>> processes;
  for (std::uint32_t p = 0; p < kProcesses; ++p) {
    processes.push_back(std::make_unique<Forked>([&](Forked::Child& parent) {
      Pool mine = attach(scratch);
      parent.say("attached");
      for (std::uint32_t round = 1; round <= kRounds; ++round) {
        while (shared->round < round) {
        }
        auto granted = mine.acquire("m", std::chrono::seconds(60));
        if (!granted) throw std::runtime_error(granted.error().text);
        if (auto* ticket = std::get_if<LoadTicket>(&*granted)) {
          ++shared->tickets;
          ReadyOptions external;
          external.external = true;
          granted = Grant(ticket->ready("127.0.0.1:1", external).value());
        }
        ++shared->granted;
        spin_until(
            [&] { return shared->granted >= round * kProcesses; });  // all are leased at once
        granted = Grant(Lease());
        ++shared->released;
      }
    }));
  }
  for (auto& process : processes) ASSERT_EQ(process->hear(), "attached");
  for (std::uint32_t round = 1; round <= kRounds; ++round) {
    shared->round = round;
    ASSERT_TRUE(eventually(
        [&] { return shared->released >= round * kProcesses || shared->tickets > round; }));
    ASSERT_EQ(shared->tickets, round);
    // Ended as the coordinator would.
    const BackendRef ref = look(pool).find_model("m")->ref;
    ASSERT_TRUE(close_to_leases(*segment, ref, 1) && commit_stop(*segment, ref, 1));
    ASSERT_TRUE(mark_gone(*segment, ref) && free_slot(*segment, ref));
  }
  for (auto& process : processes) EXPECT_EQ(process->wait(), 0);
}

TEST(P3TheLimitIsReal, ProcessesThatRaceForPlacesNeverHoldMoreThanThereAre) {
  constexpr int kProcesses = 6;
  constexpr std::uint32_t kLimit = 2;
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "2"}, {"load_cooldown", "off"}});
  const auto segment = shared_segment_of(pool);
  std::vector<std::unique_ptr<Forked>> processes;
  for (int p = 0; p < kProcesses; ++p) {
    processes.push_back(std::make_unique<Forked>([&, p](Forked::Child& parent) {
      Pool mine = attach(scratch);
      parent.say("attached");
      parent.hear();
      for (int round = 0; round < 50; ++round) {
        auto granted = mine.acquire("m" + std::to_string(p), std::chrono::seconds(60));
        if (!granted) throw std::runtime_error(granted.error().text);
        auto& ticket = std::get<LoadTicket>(*granted);
        if (look(mine).live() > kLimit) throw std::runtime_error("more live than the limit");
        static_cast<void>(ticket.fail("next"));
        // Nobody owns the slot: freed as the coordinator would.
        for (std::uint32_t i = 0; i < segment_of(mine).capacities().backends; ++i) {
          static_cast<void>(
              free_slot(segment_of(mine), {i, load_state(segment_of(mine), i).generation}));
        }
      }
      parent.say("done");
    }));
  }
  for (auto& process : processes) ASSERT_EQ(process->hear(), "attached");
  std::atomic<bool> done{false};
  std::uint32_t most = 0;
  std::thread observer([&] {
    SnapshotReader reader(segment);
    while (!done) most = std::max(most, reader.read().live());
  });
  for (auto& process : processes) process->say("go");
  for (auto& process : processes) EXPECT_EQ(process->hear(), "done");
  done = true;
  observer.join();
  for (auto& process : processes) EXPECT_EQ(process->wait(), 0);
  EXPECT_LE(most, kLimit);
  EXPECT_EQ(findings(segment), "");
}

}  // namespace
