#include "protocol/leases.hpp"

#include <array>

#include "base/time.hpp"

namespace modelpool {
namespace {

// Cells a thread keeps between leases, so that beginning one touches nothing another thread writes.
// A few workers per thread are remembered; an older one's cells go back to its bitmap.
struct Kept {
  static constexpr std::uint32_t kCells = 8;

  std::uint64_t serial = 0;  // of the worker; 0 = nobody's
  Worker* worker = nullptr;
  std::uint32_t sequence = 0;
  std::uint32_t count = 0;
  std::uint32_t allowed = 0;  // how many it may keep
  std::array<std::uint32_t, kCells> cells{};

  void give_back() {
    if (serial == 0 || !worker->owned()) return;
    while (count > 0) worker->return_cell(cells[--count]);
    worker->keep_no_more(allowed);
  }
};
// Without a destructor, so that its use costs no check; GiveBack has one.
constinit thread_local std::array<Kept, 4> t_kept{};
constinit thread_local bool t_ending = false;  // keep no more: a lease may end after GiveBack
struct GiveBack {
  std::size_t next = 0;  // to be replaced
  ~GiveBack() {
    t_ending = true;
    for (Kept& kept : t_kept) {
      kept.give_back();
      kept = Kept{};
    }
  }
};

[[gnu::noinline]] Kept& replace_kept(Worker& worker) {
  static std::atomic<std::uint32_t> g_begun{0};
  thread_local GiveBack at_thread_exit;
  Kept& kept = t_kept[at_thread_exit.next++ % t_kept.size()];
  kept.give_back();
  kept = Kept{};
  kept.serial = worker.serial();
  kept.worker = &worker;
  // Threads count on from numbers far apart: evidence must not match another lease by accident.
  kept.sequence =
      (g_begun.fetch_add(1, std::memory_order_relaxed) + worker.ref().generation) * 40503u;
  return kept;
}

Kept& kept_of(Worker& worker) {
  for (Kept& kept : t_kept) {
    if (kept.serial == worker.serial()) return kept;
  }
  return replace_kept(worker);
}

void keep_or_return(Worker& worker, std::uint32_t cell) {
  Kept& kept = kept_of(worker);
  if (kept.allowed == 0 && !t_ending && worker.may_keep(Kept::kCells)) {
    kept.allowed = Kept::kCells;
  }
  if (kept.count < kept.allowed) {
    kept.cells[kept.count++] = cell;
  } else {
    worker.return_cell(cell);
  }
}

// After a word was cleared, seq_cst: does the coordinator wait for this backend?
void ring_if_wanted(const Segment& segment, std::uint32_t backend) {
  // seq_cst: either this load sees the coordinator's bit, or its scan sees the cleared word
  const std::uint64_t wanted = segment.coordinator().wanted.load(std::memory_order_seq_cst);
  if (wanted >> (backend & 63) & 1) [[unlikely]] {
    ring(segment);
  }
}

// Fields first, then the word, seq_cst.
inline BeginResult publish(Worker& worker, BackendRef backend, std::uint64_t limit_ns,
                           std::string_view tag, LeaseRef* lease) {
  Kept& kept = kept_of(worker);
  const std::uint32_t cell = kept.count > 0 ? kept.cells[--kept.count] : worker.take_cell();
  if (cell == Worker::kNoCell) [[unlikely]] {
    return BeginResult::kNoCell;
  }
  LeaseRecord& record = worker.lease(cell);
  const std::uint64_t now = stamp_now_ns();
  // release: a reader that sees a field of this lease sees that the last one's word was cleared
  record.start_ns.store(now, std::memory_order_release);
  record.progress_ns.store(now, std::memory_order_release);
  record.limit_ns.store(limit_ns, std::memory_order_release);
  std::uint8_t& tagged =
      worker.tagged(cell);  // written only when it changes: threads share its line
  if (!tag.empty() || tagged) {
    record.tag.store(tag);
    if (tagged != !tag.empty()) tagged = !tag.empty();
  }
  *lease = LeaseRef{&worker, backend, cell};
  record.word.store(LeaseWord{backend.generation, backend.index, ++kept.sequence}.pack(),
                    std::memory_order_seq_cst);
  return BeginResult::kGranted;
}

inline void withdraw(const LeaseRef& lease) {
  Worker& worker = *lease.worker;
  worker.lease(lease.cell).word.store(0, std::memory_order_seq_cst);
  ring_if_wanted(worker.segment(), lease.backend.index);
  keep_or_return(worker, lease.cell);
  worker.lease_ended();
}

}  // namespace

BeginResult publish_lease(Worker& worker, BackendRef backend, std::uint64_t limit_ns,
                          std::string_view tag, LeaseRef* lease) {
  return publish(worker, backend, limit_ns, tag, lease);
}

BeginResult begin_lease(Worker& worker, BackendRef backend, std::uint64_t limit_ns,
                        std::string_view tag, LeaseRef* lease) {
  const BeginResult published = publish(worker, backend, limit_ns, tag, lease);
  if (published != BeginResult::kGranted) return published;
  const Segment& segment = worker.segment();
  constexpr StateWord ready{0, 0, BackendState::kReady};
  const std::uint64_t wanted = ready.pack() | std::uint64_t{backend.generation} << 32;
  if (segment.backend(backend.index).state.load(std::memory_order_seq_cst) != wanted) [[unlikely]] {
    withdraw(*lease);
    *lease = LeaseRef{};
    return BeginResult::kNotReady;
  }
  if (limit_ns != 0) [[unlikely]] {
    // The coordinator sleeps by the pool's timeouts; one that ends earlier must be told. seq_cst:
    // its scan saw this lease, or this load sees kNever_ns or what it planned after the scan.
    const std::uint64_t end = add_ns(now_ns(), limit_ns);
    if (end < segment.coordinator().horizon_ns.load(std::memory_order_seq_cst)) ring(segment);
  }
  return BeginResult::kGranted;
}

void end_lease(const LeaseRef& lease) {
  Worker& worker = *lease.worker;
  if (!worker.owned()) return;
  raise_last_used(worker.last_used(lease.backend.index), stamp_now_ns());
  withdraw(lease);
}

void withdraw_lease(const LeaseRef& lease) { withdraw(lease); }

void record_progress(const LeaseRef& lease) {
  Worker& worker = *lease.worker;
  // release: as in publish_lease
  worker.lease(lease.cell).progress_ns.store(stamp_now_ns(), std::memory_order_release);
}

bool any_lease_names(const Segment& segment, BackendRef backend) {
  for (std::uint32_t w = 0; w < segment.workers_reached(); ++w) {
    // seq_cst, both skips: their owners stored these words seq_cst before publishing
    const WorkerRecord& row = segment.worker(w);
    if (low_half(row.state.load(std::memory_order_seq_cst)) == 0) continue;
    const std::uint32_t high =
        std::min(row.leases_high.load(std::memory_order_seq_cst), segment.capacities().leases);
    for (std::uint32_t i = 0; i < high; ++i) {
      const LeaseWord word =
          LeaseWord::unpack(segment.lease(w, i).word.load(std::memory_order_seq_cst));
      if (word.generation == backend.generation && word.backend == backend.index) return true;
    }
  }
  return false;
}

void store_wanted(const Segment& segment, std::uint64_t backends) {
  segment.coordinator().wanted.store(backends, std::memory_order_seq_cst);  // with ring_if_wanted
}

void store_horizon(const Segment& segment, std::uint64_t at_ns) {
  segment.coordinator().horizon_ns.store(at_ns, std::memory_order_seq_cst);  // with begin_lease
}

std::uint64_t latest_use_ns(const Segment& segment, std::uint32_t backend) {
  std::uint64_t latest = 0;
  for (std::size_t w = 0; w <= segment.coordinator_row(); ++w) {
    // A row that was never used has no say, as in a snapshot.
    if (w < segment.coordinator_row() &&
        segment.worker(w).state.load(std::memory_order_seq_cst) == 0)
      continue;
    latest = std::max(latest, segment.last_used(w, backend).load(std::memory_order_seq_cst));
  }
  return latest;
}

}  // namespace modelpool
