#include "protocol/counted.hpp"

#include <algorithm>

#include "base/time.hpp"
#include "policy/line.hpp"
#include "protocol/slots.hpp"
#include "protocol/wake.hpp"

namespace modelpool {
namespace {

// Calls visit(row, cell's word) for each lease on the backend, until it says that it is enough.
template <class Visit>
void for_each_lease(const Segment& segment, BackendRef backend, Visit visit) {
  for (std::uint32_t w = 0; w < segment.workers_reached(); ++w) {
    // seq_cst, both skips, as in any_lease_names
    const WorkerRecord& row = segment.worker(w);
    if (low_half(row.state.load(std::memory_order_seq_cst)) == 0) continue;
    const std::uint32_t high =
        std::min(row.leases_high.load(std::memory_order_seq_cst), segment.capacities().leases);
    for (std::uint32_t i = 0; i < high; ++i) {
      Word& word = segment.lease(w, i).word;
      const LeaseWord seen = LeaseWord::unpack(word.load(std::memory_order_seq_cst));
      const bool names_it = seen.generation == backend.generation && seen.backend == backend.index;
      if (names_it && !visit(w, word)) return;
    }
  }
}

std::uint32_t count_leases(const Segment& segment, BackendRef backend, std::uint32_t at_most) {
  std::uint32_t count = 0;
  for_each_lease(segment, backend, [&](std::uint32_t, const Word&) { return ++count < at_most; });
  return count;
}

// Calls visit(row) for each waiter for the model.
template <class Visit>
void for_each_waiter(const Segment& segment, std::uint64_t model, Visit visit) {
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    WaiterRecord& row = segment.waiter(i);
    if (low_half(row.state.load(std::memory_order_seq_cst)) !=
        static_cast<std::uint32_t>(WaiterState::kWaiting))
      continue;
    // acquire: written before the row's state
    if (row.model_hash.load(std::memory_order_acquire) == model) visit(row);
  }
}

// Waiters for the model that came before, and would notice that it is their turn.
std::uint32_t count_earlier(const Segment& segment, const CountedRequest& request) {
  const std::uint64_t now = now_ns();
  std::uint32_t count = 0;
  for_each_waiter(segment, request.model, [&](const WaiterRecord& row) {
    Waiting waiter;
    // acquire, all: written before the row's state
    waiter.deadline_ns = row.deadline_ns.load(std::memory_order_acquire);
    waiter.looked_ns = row.looked_ns.load(std::memory_order_acquire);
    count +=
        row.arrival.load(std::memory_order_acquire) < request.arrival && is_present(waiter, now);
  });
  return count;
}

bool is_waited_for(const Segment& segment, std::uint64_t model) {
  bool any = false;
  for_each_waiter(segment, model, [&](const WaiterRecord&) { any = true; });
  return any;
}

// Its number by the settings in force, or none: they have changed since they were read.
std::optional<std::uint32_t> number_of(const Segment& segment, const CountedRequest& request) {
  if (const auto known = known_parallel(segment, request.backend)) return known;
  if (!request.parallel) return std::nullopt;
  note_parallel(segment, request.backend, *request.parallel);
  return known_parallel(segment, request.backend);  // not if they have changed since
}

// Which workers have a lease on it, or wait for its model.
std::vector<WorkerRef> holders_of(const Segment& segment, BackendRef backend, std::uint64_t model) {
  std::vector<WorkerRef> holders;
  const auto add = [&](WorkerRef worker) {
    if (worker.index >= segment.capacities().workers) return;
    if (std::find(holders.begin(), holders.end(), worker) == holders.end())
      holders.push_back(worker);
  };
  for_each_lease(segment, backend, [&](std::uint32_t w, const Word&) {
    add({w, high_half(segment.worker(w).state.load(std::memory_order_seq_cst))});
    return true;
  });
  for_each_waiter(segment, model, [&](const WaiterRecord& row) {
    add(unpack_worker(row.owner.load(std::memory_order_acquire)));
  });
  return holders;
}

// As clear_worker_row does it: the row may have a next owner by now.
bool clear_leases(const Segment& segment, WorkerRef worker, BackendRef backend) {
  const Word& row = segment.worker(worker.index).state;
  bool any = false;
  for_each_lease(segment, backend, [&](std::uint32_t w, Word& word) {
    if (w != worker.index) return true;
    std::uint64_t seen = word.load(std::memory_order_seq_cst);
    // Read after the word: what was read before the row changed is not what the next owner writes.
    const std::uint64_t state = row.load(std::memory_order_seq_cst);
    if (high_half(state) != worker.generation || low_half(state) == 0) return false;
    const LeaseWord lease = LeaseWord::unpack(seen);
    if (lease.generation != backend.generation || lease.backend != backend.index) return true;
    raise_last_used(segment.last_used(w, backend.index), now_ns());
    any |= word.compare_exchange_strong(seen, 0, std::memory_order_seq_cst);
    return true;
  });
  return any;
}

bool clear_waiters(const Segment& segment, WorkerRef worker, std::uint64_t model) {
  bool any = false;
  for_each_waiter(segment, model, [&](WaiterRecord& row) {
    std::uint64_t state = row.state.load(std::memory_order_acquire);
    if (row.owner.load(std::memory_order_acquire) != pack_worker(worker)) return;
    any |= low_half(state) != 0 &&
           row.state.compare_exchange_strong(state, pack_half(high_half(state), 0),
                                             std::memory_order_seq_cst);
  });
  return any;
}

}  // namespace

CountedAnswer begin_counted_lease(const LockGuard& guard, Worker& worker,
                                  const CountedRequest& request, std::string_view tag,
                                  LeaseRef* lease) {
  const Segment& segment = worker.segment();
  const BackendRef backend = request.backend;
  const StateWord counted{backend.generation, StateWord::kCounted, BackendState::kReady};
  CountedAnswer answer;
  const auto number = number_of(segment, request);
  if (!number) return answer;
  answer.is_uncounted = settle_counted(segment, backend, &guard);
  if (load_state(segment, backend.index) != counted) return answer;
  if (*number != 0) {  // else it counts for another reason
    answer.parallel = *number;
    answer.in_flight = count_leases(segment, backend, *number);
    const std::uint32_t free = *number - answer.in_flight;
    answer.result = BeginResult::kFull;
    if (free == 0 || count_earlier(segment, request) >= free) return answer;
  }
  answer.result = publish_lease(worker, backend, request.limit_ns, tag, lease);
  if (answer.result != BeginResult::kGranted) return answer;
  // Validated as any lease: the judge closes without the mutex.
  const StateWord seen = load_state(segment, backend.index);
  if (seen.generation != backend.generation || seen.state != BackendState::kReady) {
    withdraw_lease(*lease);
    *lease = LeaseRef{};
    answer.result = BeginResult::kNotReady;
  }
  return answer;
}

void wake_next_if_free(const Segment& segment, BackendRef backend, std::uint64_t model) {
  if (!is_waited_for(segment, model)) return;
  const auto number = known_parallel(segment, backend);
  if (number && *number != 0 && count_leases(segment, backend, *number) == *number) return;
  wake_first(segment, model);
}

bool clear_dead_holders(const Segment& segment, BackendRef backend, std::uint64_t model) {
  bool any = false;
  for (const WorkerRef worker : holders_of(segment, backend, model)) {
    const std::uint64_t state = segment.worker(worker.index).state.load(std::memory_order_seq_cst);
    if (high_half(state) != worker.generation || low_half(state) == 0) continue;
    if (worker_liveness(segment, worker.index, true) != Liveness::kDead) continue;
    any |= clear_leases(segment, worker, backend);
    any |= clear_waiters(segment, worker, model);
  }
  return any;
}

}  // namespace modelpool
