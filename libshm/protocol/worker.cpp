#include "protocol/worker.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <new>
#include <optional>
#include <thread>

#include "base/proc.hpp"
#include "base/time.hpp"
#include "protocol/backend_of.hpp"
#include "protocol/wake.hpp"

namespace modelpool {
namespace {

constexpr std::uint64_t kRowPause_ns = 20 * kMillisecond_ns;  // between two looks for a free row

std::atomic<std::uint64_t> g_next_serial{1};
std::atomic<Worker*> g_workers{nullptr};  // every one ever attached: they stay reachable

std::string own_command() {
  const auto stat = read_stat(getpid());
  return stat ? stat->command : std::string();
}

ProcessIdentity identity_of(const WorkerRecord& row) {
  return {static_cast<pid_t>(row.pid.load(std::memory_order_acquire)),
          row.start_ticks.load(std::memory_order_acquire),
          row.pidfd_inode.load(std::memory_order_acquire)};
}

// A row of this very process that an earlier program, replaced by exec, has left.
std::uint32_t reclaim_rows_of_earlier_image(const Segment& segment, const ProcessIdentity& self) {
  std::uint32_t cleared = 0;
  for (std::uint32_t i = 0; i < segment.workers_reached(); ++i) {
    const WorkerRecord& row = segment.worker(i);
    const std::uint64_t state = row.state.load(std::memory_order_seq_cst);
    if (low_half(state) == 0 || !identity_of(row).is(self)) continue;
    if (row.image.load(std::memory_order_acquire) == image_id()) continue;
    cleared += clear_worker_row(segment, {i, high_half(state)}, i);
  }
  return cleared;
}

// Who this process is, if it is where the pool's PIDs and times mean something: it may have been
// forked into another namespace with a Pool it inherited.
Result<ProcessIdentity> identity_in(const Segment& segment) {
  if (auto here = check_host(segment.header(), segment.path()); !here) return fail(here.error());
  const ProcessIdentity self = own_identity();
  if (self.start_ticks != 0) return self;
  if (auto ok = check_process_access(); !ok) return fail(ok.error());
  return fail(Errc::kSystem, "unable to attach to pool " + segment.name() +
                                 ": its own process cannot be examined; try again");
}

// Of those whose workers are proved dead. Not those that hold a ticket: what was started with it is
// the coordinator's to judge, by the row.
std::vector<WorkerRef> find_dead_rows(const Segment& segment) {
  std::set<std::uint64_t> holders;
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    const StateWord state =
        StateWord::unpack(segment.backend(i).state.load(std::memory_order_seq_cst));
    if (state.state == BackendState::kReserved || state.state == BackendState::kStarting)
      holders.insert(segment.backend(i).holder.load(std::memory_order_acquire));
  }
  std::vector<WorkerRef> dead;
  for (std::uint32_t i = 0; i < segment.workers_reached(); ++i) {
    const std::uint64_t state = segment.worker(i).state.load(std::memory_order_seq_cst);
    const WorkerRef worker{i, high_half(state)};
    if (low_half(state) == 0 || holders.contains(pack_worker(worker))) continue;
    if (worker_liveness(segment, i, true) == Liveness::kDead) dead.push_back(worker);
  }
  return dead;
}

std::optional<std::uint32_t> find_free_row(const Segment& segment) {
  for (std::uint32_t i = 0; i < segment.capacities().workers; ++i) {
    if (low_half(segment.worker(i).state.load(std::memory_order_seq_cst)) == 0) return i;
  }
  return std::nullopt;
}

}  // namespace

Result<std::unique_ptr<ForkGuard>> ForkGuard::make() {
  void* memory =
      mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail_errno(errno, "allocate a page");
  if (madvise(memory, sizeof(Page), MADV_WIPEONFORK) != 0) {
    const int error = errno;
    munmap(memory, sizeof(Page));
    return fail_errno(error, "mark a page to be wiped on fork");
  }
  auto* page = new (memory) Page{};
  page->owned.store(1, std::memory_order_relaxed);
  return std::unique_ptr<ForkGuard>(new ForkGuard(page));
}

ForkGuard::~ForkGuard() { munmap(page_, sizeof(Page)); }

Result<Worker*> Worker::attach(const std::shared_ptr<Segment>& segment, std::uint64_t until_ns) {
  for (;;) {
    auto made = attach_at_once(segment);
    if (made || made.error().code != Errc::kTableFull || now_ns() >= until_ns) return made;
    // Nobody rings when a row is freed: a process that dies cannot.
    std::this_thread::sleep_for(std::chrono::nanoseconds(kRowPause_ns));
  }
}

Result<Worker*> Worker::attach_at_once(const std::shared_ptr<Segment>& segment) {
  auto guard = ForkGuard::make();
  if (!guard) return fail(guard.error());
  const auto identity = identity_in(*segment);
  if (!identity) return fail(identity.error());
  const ProcessIdentity& self = *identity;
  // Workers are never signalled (P7), backends must be (P9): nobody can be both.
  const char* const token = getenv("MODELPOOL_BACKEND");
  if (token != nullptr && std::string_view(token).starts_with(segment->uuid_text() + "/")) {
    return fail(Errc::kInvalid,
                "unable to attach to pool " + segment->name() +
                    ": this process belongs to a backend of it (MODELPOOL_BACKEND); "
                    "a worker is started by somebody else");
  }
  const auto refuse_backend = [&](BackendRef backend) {
    return fail(Errc::kInvalid,
                "unable to attach to pool " + segment->name() +
                    ": this process belongs to the backend of " +
                    escape(segment->backend(backend.index).model.load()) +
                    "; a worker is started by somebody else, outside its group and session");
  };
  if (const auto backend = find_backend_of(*segment, self, getpgrp(), getsid(0))) {
    return refuse_backend(*backend);
  }
  const std::string command = own_command();
  // A coordinator clears the rows of the dead. Without one they would fill the table for ever.
  std::vector<WorkerRef> dead;
  if (!find_free_row(*segment) && look_at_judge(*segment, now_ns()).state != JudgeState::kAnswers) {
    dead = find_dead_rows(*segment);
  }
  const std::uint32_t cells = segment->capacities().leases;

  auto* worker = new Worker();
  worker->guard_ = std::move(*guard);
  worker->free_cells_ = std::vector<std::atomic<std::uint64_t>>((cells + 63) / 64);
  for (std::uint32_t i = 0; i < cells; ++i) {
    worker->free_cells_[i / 64].fetch_or(std::uint64_t{1} << (i % 64), std::memory_order_relaxed);
  }
  worker->keepable_.store(cells / 2, std::memory_order_relaxed);
  worker->tagged_.assign(cells, kTagged | kSaysMore);  // whatever the row's last owner left
  std::uint32_t cleared = 0;                           // leases of those who are gone

  {
    auto lock = segment->lock_structure();
    if (!lock) {
      delete worker;
      return fail(lock.error());
    }
    if (const auto backend = find_backend_of(*segment, self, 0, 0)) {  // registered just now
      delete worker;
      return refuse_backend(*backend);
    }
    cleared = reclaim_rows_of_earlier_image(*segment, self);
    for (const WorkerRef row : dead) cleared += clear_worker_row(*segment, row, row.index);
    const auto free_row = find_free_row(*segment);
    if (!free_row) {
      delete worker;
      return fail(Errc::kTableFull,
                  "unable to attach to pool " + segment->name() + ": all " +
                      std::to_string(segment->capacities().workers) +
                      " worker rows are taken; create the pool with more --workers");
    }
    const std::uint32_t i = *free_row;
    Segment::reach(segment->line().workers_reached, i);
    WorkerRecord& row = segment->worker(i);
    const std::uint32_t generation =
        std::max(1u, high_half(row.state.load(std::memory_order_relaxed)) + 1);
    row.pid.store(static_cast<std::uint32_t>(self.pid), std::memory_order_release);
    row.start_ticks.store(self.start_ticks, std::memory_order_release);
    row.pidfd_inode.store(self.pidfd_inode, std::memory_order_release);
    row.image.store(image_id(), std::memory_order_release);
    row.attached_ns.store(now_ns(), std::memory_order_release);
    row.command.store(command);
    row.leases_high.store(0, std::memory_order_seq_cst);
    worker->ref_ = {i, generation};
    worker->leases_ = &segment->lease(i, 0);
    worker->used_ = &segment->used_cell(i, 0);
    // seq_cst: a scan that runs later must see the row before any lease in it
    row.state.store(pack_half(generation, static_cast<std::uint32_t>(WorkerState::kAttached)),
                    std::memory_order_seq_cst);
  }
  if (cleared != 0) wake_everyone(*segment);  // who waits for a backend that counts its leases
  worker->meters_ = MeterRow::of_worker(*segment, worker->ref_.index);
  worker->serial_ = g_next_serial.fetch_add(1, std::memory_order_relaxed);
  worker->segment_ = segment;
  worker->next_ = g_workers.load(std::memory_order_relaxed);
  while (!g_workers.compare_exchange_weak(worker->next_, worker, std::memory_order_release,
                                          std::memory_order_relaxed)) {
  }
  ring(*worker->segment_);
  return worker;
}

void Worker::close() {
  if (!owned()) return;
  closing_.store(true, std::memory_order_seq_cst);
  release_if_unused();
}

void Worker::drop() {
  if (!owned()) return;
  // seq_cst, as in close(): one of the two sees the other
  if (holds_.fetch_sub(1, std::memory_order_seq_cst) == 1 &&
      closing_.load(std::memory_order_seq_cst)) {
    release_if_unused();
  }
}

void Worker::release_if_unused() {
  if (holds_.load(std::memory_order_seq_cst) != 0) return;
  const std::uint32_t high = record().leases_high.load(std::memory_order_relaxed);
  for (std::uint32_t i = 0; i < high && i < segment_->capacities().leases; ++i) {
    if (segment_->lease(ref_.index, i).word.load(std::memory_order_seq_cst) != 0) return;
  }
  if (released_.exchange(true, std::memory_order_seq_cst)) return;
  // No thread is inside any more: the last lease or hold has ended, and the pool handle is closed.
  for (HitCounts* counts = hits_.load(std::memory_order_acquire); counts != nullptr;
       counts = counts->next) {
    add_hits(*counts);
  }
  record().state.store(pack_half(ref_.generation, 0), std::memory_order_seq_cst);
}

std::uint32_t Worker::take_cell() {
  for (std::size_t i = 0; i < free_cells_.size(); ++i) {
    // relaxed: a hint; the fetch_and decides
    std::uint64_t free = free_cells_[i].load(std::memory_order_relaxed);
    while (free != 0) {
      const std::uint64_t bit = free & (~free + 1);
      // acquire: pairs with return_cell, what the last holder wrote to the cell came before
      if (free_cells_[i].fetch_and(~bit, std::memory_order_acquire) & bit) {
        const auto cell =
            static_cast<std::uint32_t>(i * 64 + static_cast<unsigned>(std::countr_zero(bit)));
        HalfWord& high = record().leases_high;
        std::uint32_t seen = high.load(std::memory_order_relaxed);
        // seq_cst: stored before the first publication above it, so a scan may stop there
        while (seen <= cell &&
               !high.compare_exchange_weak(seen, cell + 1, std::memory_order_seq_cst)) {
        }
        return cell;
      }
      free = free_cells_[i].load(std::memory_order_relaxed);
    }
  }
  return kNoCell;
}

bool Worker::may_keep(std::uint32_t count) {
  // relaxed: a budget; which cells are kept is settled by the bitmap
  std::uint32_t left = keepable_.load(std::memory_order_relaxed);
  while (left >= count) {
    if (keepable_.compare_exchange_weak(left, left - count, std::memory_order_relaxed)) return true;
  }
  return false;
}

void Worker::return_cell(std::uint32_t cell) {
  free_cells_[cell / 64].fetch_or(std::uint64_t{1} << (cell % 64), std::memory_order_release);
}

HitCounts* Worker::take_hit_counts() {
  for (HitCounts* counts = hits_.load(std::memory_order_acquire); counts != nullptr;
       counts = counts->next) {
    // acquire: pairs with return_hit_counts, what the last thread counted came before
    if (!counts->taken.exchange(true, std::memory_order_acquire)) return counts;
  }
  HitCounts* fresh = nullptr;
  try {
    fresh = new HitCounts(segment_->capacities().backends);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  fresh->next = hits_.load(std::memory_order_relaxed);
  while (!hits_.compare_exchange_weak(fresh->next, fresh, std::memory_order_release,
                                      std::memory_order_relaxed)) {
  }
  return fresh;
}

void Worker::return_hit_counts(HitCounts* counts) {
  add_hits(*counts);
  counts->taken.store(false, std::memory_order_release);
}

void Worker::add_hits(HitCounts& counts) const {
  for (std::size_t slot = 0; slot < counts.count.size(); ++slot) {
    std::atomic<std::uint64_t>& count = counts.count[slot];
    const std::uint64_t seen = count.load(std::memory_order_relaxed);
    if (low_half(seen) == 0) continue;
    // relaxed: numbers; by exchange, because a thread may end while another one closes the pool
    const std::uint64_t counted =
        count.exchange(pack_half(high_half(seen), 0), std::memory_order_relaxed);
    meters_.add(Meter::kAcquires, counts.model[slot],
                static_cast<std::uint32_t>(AcquireOutcome::kHit), low_half(counted));
  }
}

std::set<pid_t> attached_processes(const Segment& segment) {
  std::set<pid_t> attached;
  for (std::uint32_t i = 0; i < segment.capacities().workers; ++i) {
    const WorkerRecord& row = segment.worker(i);
    if (low_half(row.state.load(std::memory_order_seq_cst)) == 0) continue;
    attached.insert(static_cast<pid_t>(row.pid.load(std::memory_order_acquire)));
  }
  return attached;
}

ProcessIdentity worker_process(const Segment& segment, WorkerRef worker) {
  if (worker.index >= segment.capacities().workers) return {};
  const WorkerRecord& row = segment.worker(worker.index);
  const ProcessIdentity process = identity_of(row);
  const std::uint64_t state = row.state.load(std::memory_order_acquire);
  return high_half(state) == worker.generation && low_half(state) != 0 ? process
                                                                       : ProcessIdentity{};
}

Liveness worker_liveness(const Segment& segment, std::uint32_t index, bool thorough) {
  const ProcessIdentity worker = identity_of(segment.worker(index));
  const Liveness liveness = process_liveness(worker);
  if (liveness != Liveness::kAlive || !thorough) return liveness;
  const auto maps = maps_file(worker.pid, segment.device(), segment.inode());
  return maps && !*maps ? Liveness::kDead : Liveness::kAlive;
}

std::uint32_t clear_worker_row(const Segment& segment, WorkerRef worker, std::size_t stamp_row) {
  std::uint32_t cleared = 0;
  const std::uint64_t now = now_ns();
  Word& row = segment.worker(worker.index).state;
  // Any state but free: a damaged one would be reaped again and again.
  std::uint64_t attached = row.load(std::memory_order_seq_cst);
  if (high_half(attached) != worker.generation || low_half(attached) == 0) return cleared;
  for (std::uint32_t i = 0; i < segment.capacities().leases; ++i) {
    Word& word = segment.lease(worker.index, i).word;
    std::uint64_t seen = word.load(std::memory_order_seq_cst);
    // The row may have a next owner by now (an exec'ed process reclaims its own). Read after the
    // word: what was read before the row changed is not what the next owner writes.
    if (row.load(std::memory_order_seq_cst) != attached) return cleared;
    if (seen == 0) continue;
    const LeaseWord lease = LeaseWord::unpack(seen);
    if (lease.backend < segment.capacities().backends) {
      raise_last_used(segment.last_used(stamp_row, lease.backend), now);
    }
    cleared += word.compare_exchange_strong(seen, 0, std::memory_order_seq_cst);
  }
  const std::uint64_t owner = pack_worker(worker);
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    WaiterRecord& waiter = segment.waiter(i);
    std::uint64_t state = waiter.state.load(std::memory_order_acquire);
    if (low_half(state) == 0 || waiter.owner.load(std::memory_order_acquire) != owner) continue;
    waiter.state.compare_exchange_strong(state, pack_half(high_half(state), 0),
                                         std::memory_order_seq_cst);
  }
  row.compare_exchange_strong(attached, pack_half(worker.generation, 0), std::memory_order_seq_cst);
  return cleared;
}

}  // namespace modelpool
