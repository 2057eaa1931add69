#include "protocol/counted.hpp"

#include <algorithm>

#include "base/time.hpp"
#include "policy/line.hpp"
#include "protocol/slots.hpp"

namespace modelpool {
namespace {

std::uint32_t count_leases(const Segment& segment, BackendRef backend, std::uint32_t at_most) {
  std::uint32_t count = 0;
  for (std::uint32_t w = 0; w < segment.workers_reached(); ++w) {
    // seq_cst, both skips, as in any_lease_names
    const WorkerRecord& row = segment.worker(w);
    if (low_half(row.state.load(std::memory_order_seq_cst)) == 0) continue;
    const std::uint32_t high =
        std::min(row.leases_high.load(std::memory_order_seq_cst), segment.capacities().leases);
    for (std::uint32_t i = 0; i < high && count < at_most; ++i) {
      const LeaseWord word =
          LeaseWord::unpack(segment.lease(w, i).word.load(std::memory_order_seq_cst));
      count += word.generation == backend.generation && word.backend == backend.index;
    }
  }
  return count;
}

// Waiters for the model that came before, and would notice that it is their turn.
std::uint32_t count_earlier(const Segment& segment, const CountedRequest& request) {
  const std::uint64_t now = now_ns();
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    const WaiterRecord& row = segment.waiter(i);
    if (low_half(row.state.load(std::memory_order_seq_cst)) !=
        static_cast<std::uint32_t>(WaiterState::kWaiting))
      continue;
    Waiting waiter;
    // acquire, all: written before the row's state
    waiter.deadline_ns = row.deadline_ns.load(std::memory_order_acquire);
    waiter.looked_ns = row.looked_ns.load(std::memory_order_acquire);
    count += row.model_hash.load(std::memory_order_acquire) == request.model &&
             row.arrival.load(std::memory_order_acquire) < request.arrival &&
             is_present(waiter, now);
  }
  return count;
}

std::uint32_t free_of(const Segment& segment, BackendRef backend) {
  // acquire: a number of this life, or none
  const std::uint64_t word =
      segment.backend(backend.index).parallel.load(std::memory_order_acquire);
  const std::uint32_t parallel = high_half(word) == backend.generation ? low_half(word) : 0;
  if (parallel == 0) return UINT32_MAX;  // counted for another reason
  return parallel - count_leases(segment, backend, parallel);
}

}  // namespace

BeginResult begin_counted_lease(const LockGuard&, Worker& worker, const CountedRequest& request,
                                std::string_view tag, LeaseRef* lease) {
  const Segment& segment = worker.segment();
  const BackendRef backend = request.backend;
  const StateWord counted{backend.generation, StateWord::kCounted, BackendState::kReady};
  if (load_state(segment, backend.index) != counted) return BeginResult::kNotReady;
  const std::uint32_t free = free_of(segment, backend);
  if (free == 0 || count_earlier(segment, request) >= free) return BeginResult::kFull;
  const BeginResult published = publish_lease(worker, backend, request.limit_ns, tag, lease);
  if (published != BeginResult::kGranted) return published;
  // Validated as any lease: the judge closes without the mutex.
  const StateWord seen = load_state(segment, backend.index);
  if (seen.generation != backend.generation || seen.state != BackendState::kReady) {
    withdraw_lease(*lease);
    *lease = LeaseRef{};
    return BeginResult::kNotReady;
  }
  ring_for_limit(segment, request.limit_ns);
  return BeginResult::kGranted;
}

}  // namespace modelpool
