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
#include <vector>

#include "base/time.hpp"
#include "protocol/leases.hpp"
#include "protocol/parallel.hpp"
#include "protocol/slots.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

namespace modelpool {
namespace {

constexpr BackendRef kBackend{0, 1};
constexpr std::uint32_t kEpoch = 1;
constexpr std::uint64_t kRace_ns = 100 * kSecond_ns;
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

// Processors this process may use. Asked once, before anybody is pinned to one: a child inherits
// that.
std::vector<int> processors() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  std::vector<int> found;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) found.push_back(cpu);
  }
  return found;
}

void run_on(int cpu) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  if (sched_setaffinity(0, sizeof one, &one) != 0)
    throw std::runtime_error("unable to choose a processor");
}

// Spins: whoever yields on a busy machine comes back long after the other has gone on.
void await(const std::atomic<std::uint64_t>& word, std::uint64_t value) {
  while (word.load() != value) {
  }
}

// One side starts later than the other, each round by another time, up to some 300 ns: word of the
// start takes as long to arrive as the windows are wide, and the sides' ways there differ.
void stagger(std::uint64_t round, std::uint64_t side) {
  const std::uint64_t turns = round / 2 * 0x9e3779b97f4a7c15 >> 53;
  if (turns % 2 != side) return;
  for (std::uint64_t i = turns / 2; i > 0; --i) {
    std::atomic_signal_fence(std::memory_order_seq_cst);  // a turn of this loop is not to be saved
  }
}

// Each side reads, before it starts, what it is going to read: then a store of the other's has to
// fetch the cache line first, and is late.
void fetch(const Word& word) { static_cast<void>(word.load(std::memory_order_seq_cst)); }

// A lease begins, and a backend is closed and scanned.
void worker_begins(Worker& worker, Shared& shared, std::uint64_t round) {
  LeaseRef lease;
  stagger(round, 0);
  const bool granted = begin_lease(worker, kBackend, 0, "", &lease) == BeginResult::kGranted;
  shared.answer.store(granted);
  shared.finished.store(round);
  await(shared.started, round + 1);  // the judge has looked
  if (granted) end_lease(lease);
  fetch(worker.segment().backend(kBackend.index).state);
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
  any_lease_names(segment, kBackend);
  return missed;
}

// A lease ends, and the coordinator begins to wait for that.
void worker_ends(Worker& worker, Shared& shared, std::uint64_t round) {
  LeaseRef lease;
  if (begin_lease(worker, kBackend, 0, "", &lease) != BeginResult::kGranted)
    throw std::runtime_error("not granted");
  const HalfWord& bell = worker.segment().coordinator().doorbell;
  const std::uint32_t before = bell.load(std::memory_order_seq_cst);
  fetch(worker.segment().coordinator().wanted);
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
  any_lease_names(segment, kBackend);
  shared.started.store(round + 1);
  stagger(round, 1);
  store_wanted(segment, 1);
  const bool leased = any_lease_names(segment, kBackend);
  await(shared.finished, round + 1);
  return leased && shared.answer.load() == 0;
}

using WorkerSide = void (*)(Worker&, Shared&, std::uint64_t);
using JudgeSide = bool (*)(const Segment&, Shared&, std::uint64_t);

struct Counted {
  std::uint64_t rounds = 0;
  std::uint64_t misses = 0;
};

// Until that many rounds are done, the first miss, or the time is up: the machine may be busy.
Counted race(std::uint64_t rounds, const std::vector<int>& cpus, WorkerSide worker_side,
             JudgeSide judge_side) {
  const test::Scratch scratch;
  const test::SharedMemory<Shared> shared;
  const auto segment = attach(scratch);
  segment->backend(kBackend.index)
      .state.store(StateWord{1, 0, BackendState::kReady}.pack(), std::memory_order_seq_cst);
  note_parallel(*segment, kBackend, {});  // it counts no leases, also when it is opened again
  test::Forked other([&](test::Forked::Child&) {
    run_on(cpus[0]);
    auto worker = Worker::attach(attach(scratch));
    if (!worker) throw std::runtime_error(worker.error().text);
    for (std::uint64_t i = 0; i < rounds; ++i) {
      await(shared->started, 2 * i + 1);
      worker_side(**worker, *shared.operator->(), 2 * i + 1);
    }
  });
  run_on(cpus[1]);
  Counted counted;
  const std::uint64_t until = now_ns() + kRace_ns;
  while (counted.rounds < rounds && counted.misses == 0 && now_ns() < until) {
    counted.misses += judge_side(*segment, *shared.operator->(), 2 * counted.rounds + 1);
    ++counted.rounds;
  }
  if (counted.rounds == rounds && other.wait() != 0)
    throw std::runtime_error("the worker's side failed");
  return counted;
}

int run(std::uint64_t rounds, bool must_miss) {
  const std::vector<int> cpus = processors();
  if (cpus.size() < 2) {
    std::printf("skipped: two processors are needed to see one overtake the other\n");
    return kSkipped;
  }
  const Counted cut = race(rounds, cpus, worker_begins, judge_closes);
  const Counted unnoticed = race(rounds, cpus, worker_ends, judge_wants);
  std::printf(
      "a lease granted that the scan missed: %llu in %llu rounds\n"
      "an end that nobody noticed: %llu in %llu rounds\n",
      static_cast<unsigned long long>(cut.misses), static_cast<unsigned long long>(cut.rounds),
      static_cast<unsigned long long>(unnoticed.misses),
      static_cast<unsigned long long>(unnoticed.rounds));
  const std::uint64_t wanted = must_miss ? 1 : 0;
  return cut.misses == wanted && unnoticed.misses == wanted ? 0 : 1;
}

}  // namespace
}  // namespace modelpool

int main(int argc, char** argv) {
  std::uint64_t rounds = 0;
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
  if (rounds == 0) rounds = must_miss ? 20'000'000 : 200'000;
  return modelpool::run(rounds, must_miss);
}
