#include "modelpool/leases.hpp"

#include <array>

#include "modelpool/time.hpp"

namespace modelpool {
namespace {

// Cells this thread keeps between leases, so that beginning one touches nothing another thread
// writes. A few workers per thread are remembered; an older one's cells go back to its bitmap.
class ThreadCells {
 public:
  ~ThreadCells() {
    for (Entry& entry : entries_) give_back(entry);
  }

  std::uint32_t take(Worker& worker) {
    Entry& entry = find(worker);
    return entry.count > 0 ? entry.cells[--entry.count] : worker.take_cell();
  }
  void put(Worker& worker, std::uint32_t cell) {
    Entry& entry = find(worker);
    if (entry.kept == 0 && worker.may_keep(kKept)) entry.kept = kKept;
    if (entry.count < entry.kept) {
      entry.cells[entry.count++] = cell;
    } else {
      worker.return_cell(cell);
    }
  }

 private:
  static constexpr std::size_t kWorkers = 4;
  static constexpr std::uint32_t kKept = 8;
  struct Entry {
    Worker* worker = nullptr;
    std::uint64_t serial = 0;
    std::uint32_t count = 0;
    std::uint32_t kept = 0;  // how many it may keep
    std::array<std::uint32_t, kKept> cells{};
  };

  Entry& find(Worker& worker) {
    for (Entry& entry : entries_) {
      if (entry.serial == worker.serial()) return entry;
    }
    Entry& entry = entries_[next_++ % kWorkers];
    give_back(entry);
    entry = Entry{};
    entry.worker = &worker;
    entry.serial = worker.serial();
    return entry;
  }
  static void give_back(Entry& entry) {
    if (entry.worker == nullptr || !entry.worker->owned()) return;
    while (entry.count > 0) entry.worker->return_cell(entry.cells[--entry.count]);
    entry.worker->keep_no_more(entry.kept);
  }

  std::array<Entry, kWorkers> entries_;
  std::size_t next_ = 0;
};

thread_local ThreadCells t_cells;

// After a word was cleared, seq_cst: does the coordinator wait for this backend?
void ring_if_wanted(const Segment& segment, std::uint32_t backend) {
  // seq_cst: either this load sees the coordinator's bit, or its scan sees the cleared word
  const std::uint64_t wanted = segment.coordinator().wanted.load(std::memory_order_seq_cst);
  if (wanted >> (backend & 63) & 1) [[unlikely]] {
    ring(segment);
  }
}

}  // namespace

BeginResult publish_lease(Worker& worker, BackendRef backend, std::uint64_t limit_ns,
                          std::string_view tag, LeaseRef* lease) {
  const std::uint32_t cell = t_cells.take(worker);
  if (cell == Worker::kNoCell) return BeginResult::kNoCell;
  LeaseRecord& record = worker.segment().lease(worker.ref().index, cell);
  const std::uint64_t now = now_ns();
  // release: a reader that sees a field of this lease sees that the last one's word was cleared
  record.start_ns.store(now, std::memory_order_release);
  record.progress_ns.store(now, std::memory_order_release);
  record.limit_ns.store(limit_ns, std::memory_order_release);
  std::uint8_t& tagged = worker.tagged(cell);
  if (tagged || !tag.empty()) {
    record.tag.store(tag);
    tagged = !tag.empty();
  }
  *lease = LeaseRef{&worker, backend, cell};
  record.word.store(LeaseWord{backend.generation, backend.index, worker.next_sequence(cell)}.pack(),
                    std::memory_order_seq_cst);
  return BeginResult::kGranted;
}

BeginResult begin_lease(Worker& worker, BackendRef backend, std::uint64_t limit_ns,
                        std::string_view tag, LeaseRef* lease) {
  const BeginResult published = publish_lease(worker, backend, limit_ns, tag, lease);
  if (published != BeginResult::kGranted) return published;
  const Segment& segment = worker.segment();
  constexpr StateWord ready{0, 0, BackendState::kReady};
  const std::uint64_t wanted = ready.pack() | std::uint64_t{backend.generation} << 32;
  if (segment.backend(backend.index).state.load(std::memory_order_seq_cst) != wanted) [[unlikely]] {
    withdraw_lease(*lease);
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
  const Segment& segment = worker.segment();
  record_use(segment, worker.ref().index, lease.backend.index, now_ns());
  withdraw_lease(lease);
}

void withdraw_lease(const LeaseRef& lease) {
  Worker& worker = *lease.worker;
  const Segment& segment = worker.segment();
  segment.lease(worker.ref().index, lease.cell).word.store(0, std::memory_order_seq_cst);
  ring_if_wanted(segment, lease.backend.index);
  t_cells.put(worker, lease.cell);
  worker.lease_ended();
}

void record_progress(const LeaseRef& lease) {
  Worker& worker = *lease.worker;
  // release: as in publish_lease
  worker.segment().lease(worker.ref().index, lease.cell).progress_ns.store(now_ns(), std::memory_order_release);
}

bool any_lease_names(const Segment& segment, BackendRef backend) {
  for (std::uint32_t w = 0; w < segment.capacities().workers; ++w) {
    // seq_cst, both skips: their owners stored these words seq_cst before publishing
    const WorkerRecord& row = segment.worker(w);
    if (low_half(row.state.load(std::memory_order_seq_cst)) == 0) continue;
    const std::uint32_t high =
        std::min(row.leases_high.load(std::memory_order_seq_cst), segment.capacities().leases);
    for (std::uint32_t i = 0; i < high; ++i) {
      const LeaseWord word = LeaseWord::unpack(segment.lease(w, i).word.load(std::memory_order_seq_cst));
      if (word.generation == backend.generation && word.backend == backend.index) return true;
    }
  }
  return false;
}

std::uint64_t latest_use_ns(const Segment& segment, std::uint32_t backend) {
  std::uint64_t latest = 0;
  for (std::size_t w = 0; w <= segment.coordinator_row(); ++w) {
    // A row that was never used has no say, as in a snapshot.
    if (w < segment.coordinator_row() && segment.worker(w).state.load(std::memory_order_seq_cst) == 0) continue;
    latest = std::max(latest, segment.last_used(w, backend).load(std::memory_order_seq_cst));
  }
  return latest;
}

}  // namespace modelpool
