#include "protocol/leases.hpp"

#include <array>
#include <bit>

#include "base/time.hpp"
#include "policy/interval.hpp"
#include "protocol/wake.hpp"

namespace modelpool {
namespace {

// Cells a thread keeps between leases, so that beginning one touches nothing another thread writes.
// A few workers per thread are remembered; an older one's cells go back to its bitmap. One line
// each.
struct alignas(kCacheLine_bytes) Kept {
  static constexpr std::uint32_t kCells = 8;

  std::uint64_t serial = 0;  // of the worker; 0 = nobody's
  Worker* worker = nullptr;
  std::uint32_t sequence = 0;
  std::uint16_t count = 0;
  std::uint16_t allowed = 0;  // how many it may keep
  std::array<std::uint16_t, kCells> cells{};
  HitCounts* hits = nullptr;
  std::atomic<std::uint64_t>* hit_count = nullptr;  // of hits
  std::uint64_t tick_ns = 0;                        // when hits were last added to the meters

  void give_back() {
    if (serial == 0 || !worker->owned()) return;
    while (count > 0) worker->return_cell(cells[--count]);
    worker->keep_no_more(allowed);
    if (hits != nullptr) worker->return_hit_counts(hits);
  }
};
static_assert(sizeof(Kept) == kCacheLine_bytes);
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
  kept.hits = t_ending ? nullptr : worker.take_hit_counts();
  if (kept.hits != nullptr) kept.hit_count = kept.hits->count.data();
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

// Not counted yet in this generation of the slot: the lease keeps it, and so its model, where it
// is.
[[gnu::noinline]] void count_first_hit(Kept& kept, BackendRef backend) {
  kept.worker->add_hits(*kept.hits);
  const Segment& segment = kept.worker->segment();
  // acquire: written before the state that this generation began with
  kept.hits->model[backend.index] = static_cast<std::uint16_t>(
      segment.backend(backend.index).meter_model.load(std::memory_order_acquire));
  kept.hit_count[backend.index].store(pack_half(backend.generation, 1), std::memory_order_relaxed);
}

inline void count_hit(Kept& kept, BackendRef backend) {
  if (kept.hit_count == nullptr) [[unlikely]] {
    return;
  }
  // relaxed, not one exchange: nobody else writes it while this thread has it
  std::atomic<std::uint64_t>& count = kept.hit_count[backend.index];
  const std::uint64_t seen = count.load(std::memory_order_relaxed);
  if (high_half(seen) != backend.generation) [[unlikely]] {
    return count_first_hit(kept, backend);
  }
  count.store(seen + 1, std::memory_order_relaxed);
}

[[gnu::noinline]] void add_hits_of(Kept& kept, std::uint64_t now) {
  kept.tick_ns = now;
  if (kept.hits != nullptr) kept.worker->add_hits(*kept.hits);
}

// At most once a tick: the time is the clock's.
inline void add_hits_in_new_tick(Kept& kept, std::uint64_t now) {
  if (kept.tick_ns != now) [[unlikely]] {
    add_hits_of(kept, now);
  }
}

// The stamp has moved at the end of a lease, from `before`.
[[gnu::noinline]] void note_interval(UsedCell& cell, std::uint32_t generation, std::uint64_t before,
                                     std::uint64_t now) {
  // relaxed, and no exchange: advisory, and who moved the stamp is alone for a tick
  const std::uint64_t seen = cell.interval.load(std::memory_order_relaxed);
  std::uint64_t next_ms = 0;  // the first end of a lease in this life of the slot
  if (high_half(seen) == generation) {
    const std::uint64_t observed_ms = std::max<std::uint64_t>(1, (now - before) / kMillisecond_ns);
    next_ms = std::min<std::uint64_t>(smooth_interval(low_half(seen), observed_ms), UINT32_MAX);
  }
  cell.interval.store(pack_half(generation, static_cast<std::uint32_t>(next_ms)),
                      std::memory_order_relaxed);
}

void keep_or_return(Kept& kept, std::uint32_t cell) {
  Worker& worker = *kept.worker;
  if (kept.allowed == 0 && !t_ending && worker.may_keep(Kept::kCells)) {
    kept.allowed = Kept::kCells;
  }
  if (kept.count < kept.allowed) {
    kept.cells[kept.count++] = static_cast<std::uint16_t>(cell);  // a row has at most 65536
  } else {
    worker.return_cell(cell);
  }
}

// After a word was cleared, seq_cst: does the coordinator wait for this backend?
inline void ring_if_wanted(const Segment& segment, const Word& wanted, std::uint32_t backend) {
  // seq_cst: either this load sees the coordinator's bit, or its scan sees the cleared word
  if (wanted.load(std::memory_order_seq_cst) >> (backend & 63) & 1) [[unlikely]] {
    ring(segment);
  }
}

// After a word was cleared, seq_cst: who waits for a backend that counts its leases takes the next.
[[gnu::noinline]] void wake_next(const Segment& segment, std::uint32_t backend) {
  // acquire: of this life or a later one, whose first waiter looks in vain
  wake_first(segment, segment.backend(backend).model_hash.load(std::memory_order_acquire));
}

inline void wake_next_if_counted(const Segment& segment, const Word& state, std::uint32_t backend) {
  constexpr std::uint64_t counted = StateWord{0, StateWord::kCounted, BackendState::kReady}.pack();
  // seq_cst: either this load sees the flag, or whoever set it counts without the cleared word
  if (low_half(state.load(std::memory_order_seq_cst)) == counted) [[unlikely]] {
    wake_next(segment, backend);
  }
}

[[gnu::noinline]] void say_no_more(LeaseRecord& record) {
  record.first_byte_limit_ns.store(0, std::memory_order_release);
  record.flags.store(0, std::memory_order_release);
}

// A reference comes in one register. GCC 12 splits it in a vector register and then keeps the
// generation on the stack, written as 4 bytes and read as 8: the read waits for the write, 1.6 ns.
inline BackendRef in_general_registers(BackendRef ref) {
  const auto both = std::bit_cast<std::uint64_t>(ref);
  return {low_half(both), high_half(both)};
}

// Fields first, then the word, seq_cst.
inline BeginResult publish(Worker& worker, Kept& kept, BackendRef backend, std::uint64_t limit_ns,
                           std::string_view tag, LeaseRef* lease) {
  const std::uint32_t cell = kept.count > 0 ? kept.cells[--kept.count] : worker.take_cell();
  if (cell == Worker::kNoCell) [[unlikely]] {
    return BeginResult::kNoCell;
  }
  LeaseRecord& record = worker.lease(cell);
  const std::uint64_t now = stamp_now_ns();
  add_hits_in_new_tick(kept, now);
  // release: a reader that sees a field of this lease sees that the last one's word was cleared
  record.start_ns.store(now, std::memory_order_release);
  record.progress_ns.store(now, std::memory_order_release);
  record.limit_ns.store(limit_ns, std::memory_order_release);
  std::uint8_t& tagged =
      worker.tagged(cell);  // written only when it changes: threads share its line
  if (!tag.empty() || tagged != 0) {
    record.tag.store(tag);
    if ((tagged & Worker::kSaysMore) != 0) say_no_more(record);
    const std::uint8_t now_tagged = tag.empty() ? 0 : Worker::kTagged;
    if (tagged != now_tagged) tagged = now_tagged;
  }
  *lease = LeaseRef{&worker, backend, cell};
  record.word.store(LeaseWord{backend.generation, backend.index, ++kept.sequence}.pack(),
                    std::memory_order_seq_cst);
  return BeginResult::kGranted;
}

inline void withdraw(Kept& kept, const LeaseRef& lease) {
  Worker& worker = *lease.worker;
  const Segment& segment = worker.segment();
  // Found before the store: no load passes it, so what is left to do after it takes its time.
  const Word& wanted = segment.coordinator().wanted;
  const Word& state = segment.backend(lease.backend.index).state;
  worker.lease(lease.cell).word.store(0, std::memory_order_seq_cst);
  ring_if_wanted(segment, wanted, lease.backend.index);
  wake_next_if_counted(segment, state, lease.backend.index);
  keep_or_return(kept, lease.cell);
  worker.lease_ended();
}

}  // namespace

BeginResult publish_lease(Worker& worker, BackendRef backend, std::uint64_t limit_ns,
                          std::string_view tag, LeaseRef* lease) {
  return publish(worker, kept_of(worker), backend, limit_ns, tag, lease);
}

BeginResult begin_lease(Worker& worker, BackendRef asked, std::uint64_t limit_ns,
                        std::string_view tag, LeaseRef* lease) {
  const BackendRef backend = in_general_registers(asked);
  const Segment& segment = worker.segment();
  const Word& state =
      segment.backend(backend.index).state;  // found before the store, as in withdraw
  Kept& kept = kept_of(worker);
  const BeginResult published = publish(worker, kept, backend, limit_ns, tag, lease);
  if (published != BeginResult::kGranted) return published;
  constexpr StateWord ready{0, 0, BackendState::kReady};
  const std::uint64_t wanted = ready.pack() | std::uint64_t{backend.generation} << 32;
  if (state.load(std::memory_order_seq_cst) != wanted) [[unlikely]] {
    withdraw(kept, *lease);
    *lease = LeaseRef{};
    return BeginResult::kNotReady;
  }
  count_hit(kept, backend);
  if (limit_ns != 0) [[unlikely]] {
    ring_for_limit(segment, limit_ns);
  }
  return BeginResult::kGranted;
}

// The coordinator sleeps by the pool's timeouts; one that ends earlier must be told.
void ring_for_limit(const Segment& segment, std::uint64_t limit_ns) {
  if (limit_ns == 0) return;
  const std::uint64_t end = add_ns(now_ns(), limit_ns);
  // seq_cst: its scan saw this lease, or this load sees kNever_ns or what it planned after the scan
  if (end < segment.coordinator().horizon_ns.load(std::memory_order_seq_cst)) ring(segment);
}

void prepare_leases(Worker& worker) { static_cast<void>(kept_of(worker)); }

void uncount_hit(const LeaseRef& lease) {
  const Kept& kept = kept_of(*lease.worker);
  if (kept.hit_count == nullptr) return;
  std::atomic<std::uint64_t>& count = kept.hit_count[lease.backend.index];
  const std::uint64_t seen = count.load(std::memory_order_relaxed);
  if (low_half(seen) != 0) count.store(seen - 1, std::memory_order_relaxed);
}

void end_lease(const LeaseRef& lease) {
  Worker& worker = *lease.worker;
  if (!worker.owned()) return;
  Kept& kept = kept_of(worker);
  const std::uint64_t now = stamp_now_ns();
  UsedCell& cell = worker.used_cell(lease.backend.index);
  if (const std::uint64_t before = raise_last_used(cell.stamp_ns, now); before != kNever_ns)
      [[unlikely]] {
    note_interval(cell, lease.backend.generation, before, now);
    add_hits_of(kept, now);
  }
  withdraw(kept, lease);
}

void withdraw_lease(const LeaseRef& lease) { withdraw(kept_of(*lease.worker), lease); }

void record_progress(const LeaseRef& lease) {
  Worker& worker = *lease.worker;
  // release: as in publish_lease
  worker.lease(lease.cell)
      .progress_ns.store(stamp_now_ns() + kProgressMark_ns, std::memory_order_release);
}

void set_no_limit(const LeaseRef& lease) {
  // release: as in publish_lease
  lease.worker->lease(lease.cell).limit_ns.store(kNever_ns, std::memory_order_release);
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
