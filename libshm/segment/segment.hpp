// The segment: where it lies, how it comes to be, who may map it, and typed access to its tables.
//
// Safety: a Segment is immutable after attach and may be used from any thread, also in a forked
// child. A writable mapping is never unmapped: a robust mutex whose holder unmapped it stays locked
// for ever. Attaching twice in one process yields the same mapping.
//
// Crash: a segment is built completely as NAME.tmp and then renamed, so a half-built one never
// carries the name (P6). NAME.users is locked (shared) by every process that has it mapped.
//
// Errors: kNoSuchPool, kIncompatible, kPermission, kInvalid, kReplaced, kBusy, kSystem; the text
// says what differs and what to do.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "segment/layout.hpp"
#include "base/process.hpp"
#include "modelpool/result.hpp"
#include "segment/mutex.hpp"

namespace modelpool {

struct SegmentOptions {
  std::string dir;                   // empty: MODELPOOL_DIR, /run/modelpool, /dev/shm/modelpool-UID
  bool create = true;                // if there is none
  Capacities capacities;             // of a pool that is created here
  const Settings* settings = nullptr;  // its first settings; without any it grants no ticket
};

// Where the pool of that name lies, or would be created. An error if it lies in two places.
Result<std::string> find_pool_dir(std::string_view name, const std::string& dir);

class Segment {
 public:
  static Result<std::shared_ptr<Segment>> attach(std::string_view name, const SegmentOptions& options);
  // Read-only (P12): no lock, no trace. For tools; root may look at any user's pool.
  static Result<std::shared_ptr<Segment>> open_read_only(std::string_view name, const std::string& dir);
  // A segment or a copy of one, wherever it lies.
  static Result<std::shared_ptr<Segment>> open_file(const std::string& path);
  // Takes the name away. Errors: kBusy while processes have it mapped or backends are live.
  static Result<> remove(std::string_view name, const std::string& dir);

  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  const Header& header() const { return header_; }  // a private copy, checked
  const std::string& path() const { return path_; }
  const std::string& name() const { return name_; }
  const Capacities& capacities() const { return capacities_; }
  bool writable() const { return writable_; }
  dev_t device() const { return device_; }
  ino_t inode() const { return inode_; }
  std::string uuid_text() const;
  // What a backend of this slot carries in MODELPOOL_BACKEND: "uuid/slot/generation".
  std::string token(std::uint32_t backend, std::uint32_t generation) const;
  // Does the name no longer lead to this segment? Then nothing more is granted (the coordinator says
  // so in the segment, for everyone).
  bool is_replaced() const;

  LockRecord& lock() const { return *at<LockRecord>(Table::kLock, 0); }
  LineRecord& line() const { return *at<LineRecord>(Table::kLine, 0); }
  SettingsRecord& settings() const { return *at<SettingsRecord>(Table::kSettingsBlock, 0); }
  CoordinatorRecord& coordinator() const { return *at<CoordinatorRecord>(Table::kCoordinator, 0); }
  ModelRecord& model(std::size_t i) const { return *at<ModelRecord>(Table::kModels, i); }
  WorkerRecord& worker(std::size_t i) const { return *at<WorkerRecord>(Table::kWorkers, i); }
  BackendRecord& backend(std::size_t i) const { return *at<BackendRecord>(Table::kBackends, i); }
  WaiterRecord& waiter(std::size_t i) const { return *at<WaiterRecord>(Table::kWaiters, i); }
  EventRecord& event(std::size_t i) const { return *at<EventRecord>(Table::kEvents, i); }
  LeaseRecord& lease(std::size_t worker, std::size_t i) const {
    return *at<LeaseRecord>(Table::kLeases, worker * capacities_.leases + i);
  }
  Word& last_used(std::size_t worker, std::size_t backend) const {
    return *reinterpret_cast<Word*>(tables_[static_cast<std::size_t>(Table::kLastUsed)] +
                                    worker * last_used_stride_ + backend * sizeof(Word));
  }
  std::size_t coordinator_row() const { return capacities_.workers; }  // in the last-used table

  // How far a scan has to go. seq_cst: stored so before anything in the last of these rows was.
  std::uint32_t workers_reached() const {
    return reached(line().workers_reached, capacities_.workers);
  }
  std::uint32_t backends_reached() const {
    return reached(line().backends_reached, capacities_.backends);
  }
  std::uint32_t waiters_reached() const {
    return reached(line().waiters_reached, capacities_.waiters);
  }
  // Under the mutex: this row is about to be taken.
  static void reach(HalfWord& mark, std::uint32_t row) {
    if (mark.load(std::memory_order_relaxed) <= row) mark.store(row + 1, std::memory_order_seq_cst);
  }

  Result<LockGuard> lock_structure() const { return lock_for(lock(), kLockWaitMax_ns); }

 private:
  struct Opened;
  Segment() = default;
  static Result<std::shared_ptr<Segment>> map(Opened opened, bool writable);
  static std::uint32_t reached(const HalfWord& mark, std::uint32_t capacity) {
    const std::uint32_t rows = mark.load(std::memory_order_seq_cst);
    return rows < capacity ? rows : capacity;
  }
  template <class T>
  T* at(Table table, std::size_t i) const {
    return reinterpret_cast<T*>(tables_[static_cast<std::size_t>(table)] + i * sizeof(T));
  }

  Header header_;
  Capacities capacities_;
  std::size_t last_used_stride_ = 0;
  std::byte* tables_[kTableCount] = {};
  std::string path_;
  std::string name_;
  bool writable_ = false;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  Fd users_;
  std::shared_ptr<void> mapping_;  // kept for ever if writable
};

// The pool's settings as published now; nullptr while it never had any. Copied once per generation
// and thread; valid until the thread's next call. Does not allocate after a thread's first call.
const Settings* current_settings(const Segment& segment);

// Wakes everyone who waits on a shared word. Also works on words in read-only maps.
void futex_wake_all(const HalfWord& word);
// Waits until woken, the word differs from `seen`, or the time has come. Spurious returns happen.
void futex_wait(const HalfWord& word, std::uint32_t seen, std::uint64_t until_ns);

// Rings the coordinator: something to look at.
void ring(const Segment& segment);

// The coordinator's identity and epoch, read so that they belong together.
struct CoordinatorIdentity {
  std::uint32_t epoch = 0;
  ProcessIdentity process;
};
CoordinatorIdentity read_coordinator(const Segment& segment);
// Dead only when proved: gone, replaced by a later epoch, or never there.
Liveness coordinator_liveness(const Segment& segment, CoordinatorIdentity* found = nullptr);

}  // namespace modelpool
