// Store buffering on the real code: two processes on two processors, a real segment, the library's
// own begin, end and scan. In each round both sides run at once; both missing each other is what
// must never be (P2, and the wake-up of who waits for an end).
//
//   litmus [--rounds N] [--must-miss]
//
// Built twice: over the library as it is (litmus), which must not miss, and over one whose seq_cst
// stores are release stores (litmus_weak, weak_words.hpp), which must: or these rounds could not
// have seen a miss at all.
#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "modelpool/leases.hpp"
#include "modelpool/registry.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

namespace modelpool {
namespace {

constexpr BackendRef kBackend{0, 1};
constexpr std::uint32_t kEpoch = 1;
constexpr int kSkipped = 77;

// What the two tell each other between rounds. Not of the library: always seq_cst.
struct Shared {
  alignas(64) std::atomic<std::uint64_t> started;   // the round the judge has begun
  alignas(64) std::atomic<std::uint64_t> finished;  // the round the worker has ended
  alignas(64) std::atomic<std::uint32_t> answer;    // the worker's: granted, or rung
};

std::shared_ptr<Segment> attach(const test::Scratch& scratch) {
  SegmentOptions options;
  options.dir = scratch.dir();
  options.capacities = {1, 2, 64, 1, 1, 1};
  auto segment = Segment::attach("default", options);
  if (!segment) throw std::runtime_error(segment.error().text);
  return *segment;
}

bool run_on(int which) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || which-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    return sched_setaffinity(0, sizeof one, &one) == 0;
  }
  return false;
}

// Spins for as long as the other side can be expected to be running, then lets others run.
void await(const std::atomic<std::uint64_t>& word, std::uint64_t value) {
  for (int spins = 0; word.load() != value; ++spins) {
    if (spins > 2000) sched_yield();
  }
}

// The sides start a little apart, each time by another distance: the windows are narrow.
void stagger(std::uint64_t round, std::uint64_t side) {
  for (std::uint64_t i = (round * 7 + side * 13) % 41; i > 0; --i) {
    std::atomic_signal_fence(std::memory_order_seq_cst);  // a turn of this loop is not to be saved
  }
}

// A lease begins, and a backend is closed and scanned.
void worker_begins(Worker& worker, Shared& shared, std::uint64_t round) {
  LeaseRef lease;
  stagger(round, 0);
  const bool granted = begin_lease(worker, kBackend, 0, "", &lease) == BeginResult::kGranted;
  shared.answer.store(granted);
  shared.finished.store(round);
  await(shared.started, round + 1);  // the judge has looked
  if (granted) end_lease(lease);
  shared.finished.store(round + 1);
}

bool judge_closes(const Segment& segment, Shared& shared, std::uint64_t round) {
  shared.started.store(round);
  stagger(round, 1);
  const bool closed = close_to_leases(segment, kBackend, kEpoch);
  const bool leased = any_lease_names(segment, kBackend);
  await(shared.finished, round);
  const bool missed = closed && !leased && shared.answer.load() != 0;
  reopen(segment, kBackend, kEpoch);
  shared.started.store(round + 1);
  await(shared.finished, round + 1);
  return missed;
}

// A lease ends, and the coordinator begins to wait for that.
void worker_ends(Worker& worker, Shared& shared, std::uint64_t round) {
  LeaseRef lease;
  if (begin_lease(worker, kBackend, 0, "", &lease) != BeginResult::kGranted)
    throw std::runtime_error("not granted");
  const HalfWord& bell = worker.segment().coordinator().doorbell;
  const std::uint32_t before = bell.load(std::memory_order_seq_cst);
  shared.finished.store(round);
  await(shared.started, round + 1);
  stagger(round, 0);
  end_lease(lease);
  shared.answer.store(bell.load(std::memory_order_seq_cst) != before);
  shared.finished.store(round + 1);
}

bool judge_wants(const Segment& segment, Shared& shared, std::uint64_t round) {
  store_wanted(segment, 0);
  shared.started.store(round);
  await(shared.finished, round);
  shared.started.store(round + 1);
  stagger(round, 1);
  store_wanted(segment, 1);
  const bool leased = any_lease_names(segment, kBackend);
  await(shared.finished, round + 1);
  return leased && shared.answer.load() == 0;
}

using WorkerSide = void (*)(Worker&, Shared&, std::uint64_t);
using JudgeSide = bool (*)(const Segment&, Shared&, std::uint64_t);

std::uint64_t count_misses(std::uint64_t rounds, WorkerSide worker_side, JudgeSide judge_side) {
  const test::Scratch scratch;
  const test::SharedMemory<Shared> shared;
  const auto segment = attach(scratch);
  segment->backend(kBackend.index)
      .state.store(StateWord{1, 0, BackendState::kReady}.pack(), std::memory_order_seq_cst);
  test::Forked other([&](test::Forked::Child&) {
    run_on(0);
    auto worker = Worker::attach(attach(scratch));
    if (!worker) throw std::runtime_error(worker.error().text);
    for (std::uint64_t i = 0; i < rounds; ++i) {
      await(shared->started, 2 * i + 1);
      worker_side(**worker, *shared.operator->(), 2 * i + 1);
    }
  });
  std::uint64_t misses = 0;
  for (std::uint64_t i = 0; i < rounds; ++i)
    misses += judge_side(*segment, *shared.operator->(), 2 * i + 1);
  if (other.wait() != 0) throw std::runtime_error("the worker's side failed");
  return misses;
}

int run(std::uint64_t rounds, bool must_miss) {
  if (!run_on(1)) {
    std::printf("skipped: two processors are needed to see one overtake the other\n");
    return kSkipped;
  }
  const std::uint64_t cut = count_misses(rounds, worker_begins, judge_closes);
  const std::uint64_t unnoticed = count_misses(rounds, worker_ends, judge_wants);
  std::printf(
      "%llu rounds each: %llu leases granted that the scan missed, %llu ends that nobody noticed\n",
      static_cast<unsigned long long>(rounds), static_cast<unsigned long long>(cut),
      static_cast<unsigned long long>(unnoticed));
  if (!must_miss) return cut == 0 && unnoticed == 0 ? 0 : 1;
  return cut > 0 && unnoticed > 0 ? 0 : 1;
}

}  // namespace
}  // namespace modelpool

int main(int argc, char** argv) {
  std::uint64_t rounds = 200'000;
  bool must_miss = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) {
      rounds = std::strtoull(argv[++i], nullptr, 10);
    } else if (std::strcmp(argv[i], "--must-miss") == 0) {
      must_miss = true;
    } else {
      std::fprintf(stderr, "Usage: litmus [--rounds N] [--must-miss]\n");
      return 2;
    }
  }
  return modelpool::run(rounds, must_miss);
}
