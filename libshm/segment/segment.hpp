// The segment, mapped: typed access to its tables, and whether its name still leads to it.
//
// Safety: a Segment is immutable after attach and may be used from any thread, also in a forked
// child. A writable mapping is never unmapped: a robust mutex whose holder unmapped it stays locked
// for ever. Attaching twice in one process yields the same mapping.
//
// Crash: nothing but the mapping and its descriptors, which end with the process.
//
// Errors: those of place.hpp, and kSystem if it cannot be mapped.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "segment/futex.hpp"
#include "segment/judge.hpp"
#include "segment/layout.hpp"
#include "segment/mutex.hpp"
#include "segment/place.hpp"

namespace modelpool {

struct AllMeterPlaces;  // meter_infos.hpp

class Segment {
 public:
  static Result<std::shared_ptr<Segment>> attach(std::string_view name,
                                                 const SegmentOptions& options);
  // Read-only (P12): no lock, no trace. For tools; root may look at any user's pool.
  static Result<std::shared_ptr<Segment>> open_read_only(std::string_view name,
                                                         const std::string& dir);
  // A segment or a copy of one, wherever it lies.
  static Result<std::shared_ptr<Segment>> open_file(const std::string& path);
  static Result<> remove(std::string_view name, const std::string& dir) {
    return remove_pool(name, dir);
  }
  // A writable copy that nobody else sees, to try changes on. Its mutex is free.
  Result<std::shared_ptr<Segment>> copy() const;
  // One that has lost its name, for the coordinator that ends its backends.
  static Result<std::shared_ptr<Segment>> adopt(Fd file, const std::string& home);

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
  // Has it lost its name, as far as this process can see? Then nothing more is granted. The
  // coordinator says so in the segment, for everyone.
  bool is_replaced() const;
  // Does the path lead to it now? Does it provably not? Neither, if it may not be looked at.
  bool has_name() const;
  bool has_lost_name() const;
  // The coordinator's: the name it serves the pool under.
  void set_home(const std::string& path) const;
  std::string home() const;

  LockRecord& lock() const { return *at<LockRecord>(Table::kLock, 0); }
  LineRecord& line() const { return *at<LineRecord>(Table::kLine, 0); }
  SettingsRecord& settings() const { return *at<SettingsRecord>(Table::kSettingsBlock, 0); }
  // The copy that this generation of the settings is, or will be, published in.
  Word* settings_copy(std::uint64_t generation) const {
    return reinterpret_cast<Word*>(&settings() + 1) + (generation & 1) * settings_copy_words_;
  }
  std::size_t settings_copy_words() const { return settings_copy_words_; }
  CoordinatorRecord& coordinator() const { return *at<CoordinatorRecord>(Table::kCoordinator, 0); }
  ModelRecord& model(std::size_t i) const { return *at<ModelRecord>(Table::kModels, i); }
  WorkerRecord& worker(std::size_t i) const { return *at<WorkerRecord>(Table::kWorkers, i); }
  BackendRecord& backend(std::size_t i) const { return *at<BackendRecord>(Table::kBackends, i); }
  WaiterRecord& waiter(std::size_t i) const { return *at<WaiterRecord>(Table::kWaiters, i); }
  EventRecord& event(std::size_t i) const { return *at<EventRecord>(Table::kEvents, i); }
  LeaseRecord& lease(std::size_t worker, std::size_t i) const {
    return *at<LeaseRecord>(Table::kLeases, worker * capacities_.leases + i);
  }
  UsedCell& used_cell(std::size_t worker, std::size_t backend) const {
    return *reinterpret_cast<UsedCell*>(tables_[static_cast<std::size_t>(Table::kLastUsed)] +
                                        worker * last_used_stride_ + backend * sizeof(UsedCell));
  }
  Word& last_used(std::size_t worker, std::size_t backend) const {
    return used_cell(worker, backend).stamp_ns;
  }
  DeviceRecord& device_row(std::size_t i) const { return *at<DeviceRecord>(Table::kDevices, i); }
  const MeterInfoRecord& meter_info(std::size_t i) const {
    return *at<MeterInfoRecord>(Table::kMeterInfos, i);
  }
  MeterModelRecord& meter_model(std::size_t i) const {
    return *at<MeterModelRecord>(Table::kMeterModels, i);
  }
  WorkerMeters& worker_meters(std::size_t worker) const {
    return *at<WorkerMeters>(Table::kWorkerMeters, worker);
  }
  JudgeMeters& judge_meters() const { return *at<JudgeMeters>(Table::kJudgeMeters, 0); }
  // Where each meter's cells stand. REQUIRES: mapped writable.
  const AllMeterPlaces& meter_places() const { return *meter_places_; }
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
  enum class NameState { kOwn, kAnothers, kNobodys, kUnknown };
  Segment() = default;
  NameState name_state() const;
  static Result<std::shared_ptr<Segment>> map(OpenSegment opened, bool writable);
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
  std::size_t settings_copy_words_ = 0;
  std::byte* tables_[kTableCount] = {};
  std::string path_;
  std::string name_;
  bool writable_ = false;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  std::byte* base_ = nullptr;
  std::shared_ptr<const AllMeterPlaces> meter_places_;
  Fd users_;
  Fd file_;  // if writable: by it others find a pool that has lost its name (lost.hpp)
  std::shared_ptr<void> mapping_;  // kept for ever if writable
};

inline void ring(const Segment& segment) { ring(segment.coordinator()); }
inline CoordinatorIdentity read_coordinator(const Segment& segment) {
  return read_coordinator(segment.coordinator());
}
inline Liveness coordinator_liveness(const Segment& segment, CoordinatorIdentity* found = nullptr) {
  return coordinator_liveness(segment.coordinator(), found);
}
inline JudgeView look_at_judge(const Segment& segment, std::uint64_t now_ns) {
  return look_at_judge(segment.coordinator(), now_ns);
}
std::string start_command(const Segment& segment);  // of its coordinator
// What is wrong with a judge that is dead or hangs, and what to do.
std::string explain_absence(const Segment& segment, const JudgeView& judge, std::uint64_t now_ns);

}  // namespace modelpool
