// Counted leases under random load, without a judge: never more at once than was told, first come
// first served, and no end of a lease that needs somebody's slice of a second to be noticed. The
// witnesses are flags in memory of their own.
//
// MODELPOOL_TEST_REQUESTS=100000 for the long form.
#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/time.hpp"
#include "support/daemon.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

constexpr std::uint32_t kProcesses = 5;
constexpr std::uint32_t kThreads = 2;  // of each
constexpr std::uint32_t kClients = kProcesses * kThreads;

// What clients say of themselves: that they hold or wait, from after they were told until before
// they let go. Those who hold are one word: it is read at one instant.
struct Board {
  std::atomic<std::uint64_t> holding;           // a bit for each
  std::atomic<std::uint64_t> condemned;         // to be killed: no witnesses any more
  std::atomic<std::uint64_t> places[kClients];  // in the line; 0: it does not wait
  std::atomic<std::uint64_t> told;  // change (48) | parallel (16); parallel 0: nothing is claimed
  std::atomic<std::uint64_t> next_place;
  std::atomic<std::uint64_t> joining;  // client + 1 who has the line's door
  std::atomic<std::uint64_t> served;
  std::atomic<std::uint64_t> waited;
  std::atomic<std::uint64_t> above;  // grants above what was told
  std::atomic<std::uint64_t> overtook;
  std::atomic<std::uint64_t> by_slice;  // grants that nobody woke anyone for
  std::atomic<std::uint64_t> failed;
  std::atomic<bool> stop;

  // What no client and no setter should be told; also by a child, whose stderr is the test's.
  void note_failure(const Error& error) {
    ++failed;
    std::fprintf(stderr, "%s\n", error.text.c_str());
  }
};

std::uint64_t requests_wanted() {
  const char* const wanted = std::getenv("MODELPOOL_TEST_REQUESTS");
  return wanted == nullptr ? 6'000 : std::strtoull(wanted, nullptr, 10);
}

class Requests {
 public:
  Requests(Board& board, std::uint32_t client, const Scratch& scratch)
      : board_(board), place_(board.places[client]), client_(client), pool_(attach(scratch)) {
    random_.seed(client * 7919 + static_cast<std::uint32_t>(getpid()));
  }

  void run() {
    while (!board_.stop) {
      if (chance(8)) {
        at_once();
      } else {
        in_line();
      }
    }
  }

 private:
  std::uint64_t bit() const { return std::uint64_t{1} << client_; }
  bool chance(int of) { return random_() % static_cast<unsigned>(of) == 0; }

  void at_once() {
    const std::uint64_t told = board_.told;
    const std::uint64_t place = board_.next_place + 1;  // whoever has one by now came before
    auto granted = pool_.acquire("m", std::chrono::seconds(0));
    if (granted) serve(std::get<Lease>(*granted), told, place);
  }

  // Some go through a door, one at a time: so their places are in the order of arrivals.
  void in_line() {
    const bool has_place = chance(4);
    if (has_place && !open_door()) return;
    const std::uint64_t told = board_.told;
    std::uint64_t place = board_.next_place + 1;
    // Some leave the line, woken or not; nobody waits for one whose time is over.
    const bool is_impatient = chance(6);
    auto pending =
        pool_.begin_acquire("m", is_impatient ? std::chrono::microseconds(200 + random_() % 2000)
                                              : std::chrono::microseconds(60'000'000));
    auto polled = pending->poll();
    const bool waits = polled && !*polled;
    if (has_place) {
      place = ++board_.next_place;
      if (waits && !is_impatient) place_ = place;
      board_.joining = 0;
    }
    bool is_slice = false;
    while (polled && !*polled) {
      pending->wait();
      is_slice = !pending->was_woken();
      polled = pending->poll();
    }
    if (!polled) {
      place_ = 0;
      if (polled.error().code != Errc::kTimeout) board_.note_failure(polled.error());
      return;
    }
    board_.waited += waits;
    board_.by_slice += is_slice && !is_impatient;  // else its own time was over
    serve(std::get<Lease>(**polled), told, place);
  }

  bool open_door() {
    std::uint64_t nobody = 0;
    while (!board_.joining.compare_exchange_weak(nobody, client_ + 1)) {
      nobody = 0;
      if (board_.stop) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    return true;
  }

  // A grant was too much if more hold one at an instant, all of them since what was told holds.
  void serve(Lease& lease, std::uint64_t told, std::uint64_t place) {
    const std::uint64_t condemned = board_.condemned;
    const std::uint64_t all = board_.holding.fetch_or(bit()) | bit();
    const int holding = std::popcount(all & ~condemned & ~board_.condemned);
    place_ = 0;
    std::uint64_t earlier = 0;
    for (std::uint32_t i = 0; i < kClients; ++i) {
      const std::uint64_t other = board_.places[i];
      const bool is_witness = (board_.condemned >> i & 1) == 0;
      earlier += is_witness && other != 0 && other < place;
    }
    const std::uint64_t parallel = told & 0xffff;
    if (parallel != 0 && board_.told == told) {
      board_.above += static_cast<std::uint64_t>(holding) > parallel;
      board_.overtook += earlier >= parallel;
    }
    ++board_.served;
    // Long enough that others come meanwhile.
    if (!chance(3)) std::this_thread::sleep_for(std::chrono::microseconds(random_() % 200));
    board_.holding &= ~bit();
    lease.release();
  }

  Board& board_;
  std::atomic<std::uint64_t>& place_;
  std::uint32_t client_;
  Pool pool_;
  std::minstd_rand random_;
};

class ParallelLoad : public ::testing::Test {
 protected:
  void SetUp() override { load_external(pool_, "m").release(); }
  void TearDown() override {
    board_->stop = true;
    processes_.clear();
  }

  std::unique_ptr<Forked> clients(std::uint32_t process) {
    return std::make_unique<Forked>([this, process](Forked::Child&) {
      std::vector<std::thread> threads;
      for (std::uint32_t t = 0; t < kThreads; ++t) {
        threads.emplace_back([this, client = process * kThreads + t] {
          Requests(*board_.operator->(), client, scratch_).run();
        });
      }
      for (std::thread& thread : threads) thread.join();
    });
  }
  // Changes the setting until it is killed, or all are served.
  std::unique_ptr<Forked> changer(std::uint32_t pause_us) {
    return std::make_unique<Forked>([this, pause_us](Forked::Child&) {
      Pool pool = attach(scratch_);
      std::minstd_rand random(static_cast<std::uint32_t>(getpid()));
      while (!board_->stop) {
        const std::uint64_t parallel = random() % 5;
        const std::uint64_t change = (board_->told >> 16) + 1;
        board_->told = change << 16;
        if (auto ok = pool.set("parallel", std::to_string(parallel)); !ok) {
          board_->note_failure(ok.error());
          return;
        }
        board_->told = change << 16 | parallel;
        std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
      }
    });
  }
  // Not before its clients are no witnesses any more.
  void kill(std::uint32_t process) {
    const std::uint64_t bits = ((std::uint64_t{1} << kThreads) - 1) << process * kThreads;
    board_->condemned |= bits;
    processes_[process]->kill_now();
    for (std::uint32_t client = process * kThreads; client < (process + 1) * kThreads; ++client) {
      std::uint64_t door = client + 1;
      board_->joining.compare_exchange_strong(door, 0);
      board_->places[client] = 0;
    }
    board_->holding &= ~bits;
    board_->condemned &= ~bits;
    processes_[process] = clients(process);
  }
  void expect_no_fault() const {
    EXPECT_EQ(board_->above, 0u) << "more at once than was told";
    EXPECT_EQ(board_->overtook, 0u) << "somebody who came later was served before";
    EXPECT_EQ(board_->failed, 0u);
    RecordProperty("served", std::to_string(board_->served));
    RecordProperty("waited", std::to_string(board_->waited));
    RecordProperty("by_slice", std::to_string(board_->by_slice));
  }
  void start() {
    for (std::uint32_t i = 0; i < kProcesses; ++i) processes_.push_back(clients(i));
  }
  void wait_for(std::uint64_t requests) {
    const std::uint64_t until = board_->served + requests;
    while (board_->served < until && board_->failed == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  const Scratch scratch_;
  Pool pool_ = make_pool(scratch_, {{"max_backends", "0"}, {"parallel", "2"}});
  const SharedMemory<Board> board_;
  std::vector<std::unique_ptr<Forked>> processes_;
};

TEST_F(ParallelLoad, NeverAboveInOrderAndNoHandOverNeedsASlice) {
  board_->told = 1 << 16 | 2;
  start();
  wait_for(requests_wanted() / 4);
  const auto changes = changer(3000);
  wait_for(requests_wanted());
  board_->stop = true;
  for (auto& process : processes_) EXPECT_EQ(process->wait(), 0);
  expect_no_fault();
  EXPECT_EQ(board_->by_slice, 0u) << "an end that woke nobody";
  EXPECT_GT(board_->waited, board_->served / 20);
  EXPECT_EQ(look(pool_).leases.size() + look(pool_).waiters.size(), 0u);
}

TEST_F(ParallelLoad, P6NeverAboveInOrderWhoeverIsKilled) {
  board_->told = 1 << 16 | 2;
  start();
  auto changes = changer(2000);
  std::minstd_rand random(17);
  const std::uint64_t rounds = 8 + requests_wanted() / 2'000;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    wait_for(requests_wanted() / rounds);
    if (round % 4 == 3) {
      changes->kill_now();
      board_->told = ((board_->told >> 16) + 1) << 16;
      changes = changer(2000);
    } else {
      kill(static_cast<std::uint32_t>(random() % kProcesses));
    }
  }
  board_->stop = true;
  for (auto& process : processes_) EXPECT_EQ(process->wait(), 0);
  expect_no_fault();
}

}  // namespace
