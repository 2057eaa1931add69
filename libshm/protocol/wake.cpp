#include "protocol/wake.hpp"

#include "base/time.hpp"
#include "policy/line.hpp"

namespace modelpool {

void wake_row(const Segment& segment, WaiterRecord& row) {
  row.wake.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(row.wake);
  if ((row.flags.load(std::memory_order_acquire) & kWaiterAsync) == 0) return;
  const std::uint32_t index = unpack_worker(row.owner.load(std::memory_order_acquire)).index;
  if (index >= segment.capacities().workers) return;
  HalfWord& worker_wake = segment.worker(index).wake;
  worker_wake.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(worker_wake);
}

void wake_first(const Segment& segment, std::uint64_t model_hash) {
  const std::uint64_t now = now_ns();
  WaiterRecord* first = nullptr;
  std::uint64_t first_arrival = kNever_ns;
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    WaiterRecord& row = segment.waiter(i);
    // seq_cst: whoever published his row before he looked is seen
    if (low_half(row.state.load(std::memory_order_seq_cst)) == 0) continue;
    // acquire, all: written before the row's state
    if (row.model_hash.load(std::memory_order_acquire) != model_hash) continue;
    Waiting waiter;
    waiter.arrival = row.arrival.load(std::memory_order_acquire);
    waiter.deadline_ns = row.deadline_ns.load(std::memory_order_acquire);
    waiter.looked_ns = row.looked_ns.load(std::memory_order_acquire);
    if (waiter.arrival >= first_arrival || !is_present(waiter, now)) continue;
    first_arrival = waiter.arrival;
    first = &row;
  }
  if (first != nullptr) wake_row(segment, *first);
}

void wake_waiters(const Segment& segment, std::uint64_t model_hash) {
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    WaiterRecord& row = segment.waiter(i);
    if (low_half(row.state.load(std::memory_order_seq_cst)) == 0) continue;
    if (row.model_hash.load(std::memory_order_acquire) == model_hash) wake_row(segment, row);
  }
}

void wake_everyone(const Segment& segment) {
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    WaiterRecord& row = segment.waiter(i);
    if (low_half(row.state.load(std::memory_order_seq_cst)) != 0) wake_row(segment, row);
  }
}

}  // namespace modelpool
