// A worker's row: how a process joins a pool, survives fork and exec, and leaves.
//
// Safety: any thread. Nothing here is inherited in a locked state: process-private locks live in a
// page the kernel wipes on fork, and a child that finds it wiped owns nothing (owned() is false).
//
// Crash: a row is attached by one store under the mutex. The row of a dead worker is cleared by the
// coordinator, its leases first, the row last (P6); without a coordinator by who finds every row
// taken. The row an exec left behind is recognised by its image and reclaimed at the next attach of
// the same process.
//
// Errors: kTableFull, kBusy, kSystem; kIncompatible in a process that was forked into another
// namespace.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "segment/meters.hpp"
#include "segment/segment.hpp"

namespace modelpool {

class CancelWatch;

// A private page that reads as zeros in a forked child.
class ForkGuard {
 public:
  static Result<std::unique_ptr<ForkGuard>> make();
  ~ForkGuard();

  bool owned() const { return page_->owned.load(std::memory_order_relaxed) != 0; }
  pthread_mutex_t& mutex() { return page_->mutex; }  // all zeros is unlocked in glibc

 private:
  struct Page {
    std::atomic<std::uint64_t> owned;
    pthread_mutex_t mutex;
  };
  explicit ForkGuard(Page* page) : page_(page) {}
  Page* page_;
};

// Requests that found their model loaded, counted by one thread until it adds them to its worker's
// meters: one word for each backend slot, the generation above, the count below.
struct HitCounts {
  explicit HitCounts(std::size_t slots) : count(slots), model(slots) {}

  std::vector<std::atomic<std::uint64_t>> count;
  std::vector<std::uint16_t>
      model;                      // which of the meters' models the slot serves in that generation
  std::atomic<bool> taken{true};  // a thread counts in it
  HitCounts* next = nullptr;
};

// Handles (leases, tickets, waits, pools) point to their Worker. It is never freed (10 KB each), so
// a handle in a forked child or a late thread finds it readable.
class Worker {
 public:
  // Waits until then for a row, if every one is taken. Rows are not handed out in order: a row is
  // held for as long as its process serves, and short-lived processes take turns.
  static Result<Worker*> attach(const std::shared_ptr<Segment>& segment,
                                std::uint64_t until_ns = 0);

  bool owned() const { return guard_->owned(); }
  const Segment& segment() const { return *segment_; }
  LeaseRecord& lease(std::uint32_t cell) const { return leases_[cell]; }
  UsedCell& used_cell(std::uint32_t backend) const { return used_[backend]; }
  Word& last_used(std::uint32_t backend) const { return used_[backend].stamp_ns; }
  const std::shared_ptr<Segment>& shared_segment() const { return segment_; }
  WorkerRef ref() const { return ref_; }
  std::uint32_t owner_word() const { return StateWord::owner_of(ref_); }  // in a slot's state
  const MeterRow& meters() const { return meters_; }
  WorkerRecord& record() const { return segment_->worker(ref_.index); }
  std::uint64_t serial() const { return serial_; }  // differs between any two attachments

  // The pool handle is closed: the row goes when its last lease, ticket and wait have ended.
  void close();
  // Tickets and waits; leases are visible in their words.
  void hold() { holds_.fetch_add(1, std::memory_order_seq_cst); }
  void drop();
  void lease_ended() {  // after the word is cleared, seq_cst
    if (closing_.load(std::memory_order_seq_cst)) release_if_unused();
  }

  // Lease cells not in use by any thread: a private bitmap, claimed and returned without a lock.
  static constexpr std::uint32_t kNoCell = UINT32_MAX;
  std::uint32_t take_cell();
  void return_cell(std::uint32_t cell);
  // Threads keep a few cells for themselves, but half of them stay for whoever comes.
  bool may_keep(std::uint32_t count);
  void keep_no_more(std::uint32_t count) { keepable_.fetch_add(count, std::memory_order_relaxed); }
  // What of a cell is not empty, apart from its stamps: kTagged, kSaysMore.
  std::uint8_t& tagged(std::uint32_t cell) { return tagged_[cell]; }
  static constexpr std::uint8_t kTagged = 1;    // the tag words
  static constexpr std::uint8_t kSaysMore = 2;  // what the owner says in the other line

  // What tells its holders that a lease is asked to end; null before its first use.
  std::atomic<CancelWatch*>& cancel_watch() { return cancel_watch_; }

  // For a thread to count in, until it gives them back; null without memory.
  HitCounts* take_hit_counts();
  void return_hit_counts(HitCounts* counts);
  void add_hits(HitCounts& counts) const;  // what was counted goes to the meters

 private:
  Worker() = default;
  static Result<Worker*> attach_at_once(const std::shared_ptr<Segment>& segment);
  void release_if_unused();

  std::shared_ptr<Segment> segment_;
  std::unique_ptr<ForkGuard> guard_;
  LeaseRecord* leases_ = nullptr;  // the own rows of the busy and the last-used table
  UsedCell* used_ = nullptr;
  std::atomic<HitCounts*> hits_{nullptr};  // of all its threads; only grows
  WorkerRef ref_;
  std::uint64_t serial_ = 0;
  std::atomic<bool> closing_{false};
  std::atomic<bool> released_{false};
  std::atomic<std::int64_t> holds_{0};
  std::vector<std::atomic<std::uint64_t>> free_cells_;
  std::atomic<std::uint32_t> keepable_{0};
  std::vector<std::uint8_t> tagged_;
  Worker* next_ = nullptr;
  std::atomic<CancelWatch*> cancel_watch_{nullptr};
  MeterRow meters_;
};

// Marks a backend used at that time, in the stamp of the caller's row, which only grows. Returns
// what it replaced, kNever_ns if it was as late already.
inline std::uint64_t raise_last_used(Word& stamp, std::uint64_t when_ns) {
  // relaxed: the row's threads only raise it; the clearing of the lease word orders it for readers.
  // Stamps of one tick are equal, so threads on one backend do not fight for the line.
  std::uint64_t seen = stamp.load(std::memory_order_relaxed);
  while (seen < when_ns) {
    if (stamp.compare_exchange_weak(seen, when_ns, std::memory_order_seq_cst,
                                    std::memory_order_relaxed)) {
      return seen;
    }
  }
  return kNever_ns;
}

// Everyone attached, for P7: looks at every row, so that a wrong `workers_reached` hides nobody.
std::set<pid_t> attached_processes(const Segment& segment);

// None (pid 0): it has left its row.
ProcessIdentity worker_process(const Segment& segment, WorkerRef worker);

// Is the worker of this row dead? Exec counts: the process lives, its mapping does not.
// `thorough` also reads /proc/PID/maps.
Liveness worker_liveness(const Segment& segment, std::uint32_t index, bool thorough);

// Ends everything a dead worker left in its row: stamps last-used in `stamp_row`, clears lease
// words, frees its waiters, then the row. Tickets are the coordinator's to judge before this.
// Returns the number of leases cleared. The caller has proved the worker dead.
std::uint32_t clear_worker_row(const Segment& segment, WorkerRef worker, std::size_t stamp_row);

}  // namespace modelpool
