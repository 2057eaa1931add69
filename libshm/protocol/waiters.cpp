#include "protocol/waiters.hpp"

#include <algorithm>

#include "base/time.hpp"
#include "protocol/outlook.hpp"

namespace modelpool {
namespace {

void wake_row(const Segment& segment, WaiterRecord& row) {
  row.wake.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(row.wake);
  if ((row.flags.load(std::memory_order_acquire) & kWaiterAsync) == 0) return;
  const std::uint32_t index = (row.owner.load(std::memory_order_acquire) & 0xfff) - 1;
  if (index >= segment.capacities().workers) return;
  HalfWord& worker_wake = segment.worker(index).wake;
  worker_wake.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(worker_wake);
}

}  // namespace

void wake_waiters(const Segment& segment, std::uint64_t model_hash) {
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    WaiterRecord& row = segment.waiter(i);
    if (low_half(row.state.load(std::memory_order_seq_cst)) == 0) continue;
    if (row.model_hash.load(std::memory_order_acquire) == model_hash) wake_row(segment, row);
  }
}

void wake_line(const Segment& segment) {
  prepare_outlook(segment);
  const Outlook outlook = read_outlook(segment, now_ns());
  const std::size_t served = std::min<std::size_t>(outlook.places(), outlook.heads.size());
  for (const Waiting& head : outlook.heads.first(served)) {
    wake_row(segment, segment.waiter(head.row));
  }
}

void wake_everyone(const Segment& segment) {
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    WaiterRecord& row = segment.waiter(i);
    if (low_half(row.state.load(std::memory_order_seq_cst)) != 0) wake_row(segment, row);
  }
}

}  // namespace modelpool
