// What a request pays for: the pool's operations, the floor beneath them, and what others do. Timed
// by hot_path; their instructions and cache lines are counted by counts. Inline: the calls would
// cost as much as some of them do.
#pragma once

#include <pthread.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/time.hpp"
#include "pool/inside.hpp"
#include "support/scratch.hpp"

namespace modelpool::bench {

inline constexpr std::uint32_t kModels = 1024;
inline constexpr std::string_view kTag = "request-0123456789abcdef-012345";  // 31 bytes

// Exits in order, so that what the benchmark made is removed.
[[noreturn]] void give_up(const std::string& why);

// The compiler must produce this value, and may keep nothing in registers.
template <class T>
inline void use(const T& value) {
  asm volatile("" : : "r,m"(value) : "memory");
}

// A pool of its own, with as many backends loaded as asked for so far, all without a process.
class LoadedPool {
 public:
  LoadedPool();
  Pool& pool() { return *pool_; }
  Worker& worker() { return *worker_; }  // not the one that the pool uses
  const test::Scratch& scratch() const { return scratch_; }
  const std::string& model(std::size_t i) const { return models_[i]; }
  void load(std::size_t count);
  BackendRef backend(std::size_t i);

 private:
  test::Scratch scratch_;
  std::optional<Pool> pool_;
  Worker* worker_ = nullptr;
  std::vector<std::string> models_;
  std::size_t loaded_ = 0;
};

// --- Ours ----------------------------------------------------------------------------------------

inline void begin_end(Worker& worker, BackendRef backend, std::string_view tag = {}) {
  LeaseRef lease;
  if (begin_lease(worker, backend, 0, tag, &lease) != BeginResult::kGranted) give_up("no lease");
  end_lease(lease);
}

inline void acquire_release(Pool& pool, const std::string& model) {
  auto grant = pool.acquire(model);
  if (!grant) give_up(grant.error().text);
  use(grant);
}

inline void touch(Pool& pool, const std::string& model) {
  if (!pool.touch(model)) give_up("no touch");
}

// What any such truth must do per request: two coarse clock reads, two seq_cst exchanges, four
// plain stores on lines of its own, two loads of lines that hardly change; done in the segment
// itself, in a worker row that nobody uses.
class Floor {
 public:
  explicit Floor(const Segment& segment, std::size_t thread = 0)
      : lease_(segment.lease(segment.capacities().workers - 1, 8 * thread)),
        last_used_(segment.last_used(segment.capacities().workers - 1, 8 * thread)),
        read_mostly_(segment.backend(0).state),
        wanted_(segment.coordinator().wanted) {}

  void operator()() {
    const std::uint64_t begin = stamp_now_ns();
    lease_.start_ns.store(begin, std::memory_order_relaxed);
    lease_.progress_ns.store(begin, std::memory_order_relaxed);
    lease_.limit_ns.store(0, std::memory_order_relaxed);
    lease_.word.exchange(++sequence_, std::memory_order_seq_cst);
    use(read_mostly_.load(std::memory_order_relaxed));
    last_used_.store(stamp_now_ns(), std::memory_order_relaxed);
    lease_.word.exchange(0, std::memory_order_seq_cst);
    use(wanted_.load(std::memory_order_relaxed));
  }

 private:
  LeaseRecord& lease_;
  Word& last_used_;
  const Word& read_mostly_;
  const Word& wanted_;
  std::uint64_t sequence_ = 0;
};

// --- Others --------------------------------------------------------------------------------------

// LocalAI's watchdog, as its Go code has it: a mutex, and per address a busy, an idle and a
// last-used time. A request marks the address, updates its last use and unmarks it.
class LocalAiWatchdog {
 public:
  void operator()(const std::string& address) {
    mark(address);
    update_last_used(address);
    unmark(address);
  }

 private:
  using Clock = std::chrono::steady_clock;
  void mark(const std::string& address) {
    const std::lock_guard lock(mutex_);
    busy_[address] = Clock::now();
    idle_.erase(address);
  }
  void unmark(const std::string& address) {
    const std::lock_guard lock(mutex_);
    busy_.erase(address);
    idle_[address] = Clock::now();
  }
  void update_last_used(const std::string& address) {
    const std::lock_guard lock(mutex_);
    last_used_[address] = Clock::now();
  }

  std::mutex mutex_;
  std::unordered_map<std::string, Clock::time_point> busy_, idle_, last_used_;
};

// One robust, process-shared mutex around plain stores of the same stamps.
class RobustStamps {
 public:
  RobustStamps();
  void operator()() {
    stamp(&busy_since_);
    stamp(&last_used_);
  }

 private:
  void stamp(std::uint64_t* where) {
    pthread_mutex_lock(&mutex_);
    *where = stamp_now_ns();
    use(*where);
    pthread_mutex_unlock(&mutex_);
  }

  pthread_mutex_t mutex_;
  std::uint64_t busy_since_ = 0;
  std::uint64_t last_used_ = 0;
};

}  // namespace modelpool::bench
