// What a request pays for the pool, beside what it cannot pay less than, and what others pay.
//
// The floor is what any such truth must do per request: two coarse clock reads, two seq_cst
// exchanges, four plain stores on lines of its own, two loads of lines that hardly change; done in
// the segment itself, in a worker row that nobody uses.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <mutex>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "modelpool/pool.hpp"
#include "modelpool/time.hpp"

namespace {

using namespace modelpool;  // NOLINT(google-build-using-namespace)

constexpr std::uint32_t kModels = 1024;
constexpr std::string_view kTag = "request-0123456789abcdef-012345";  // 31 bytes

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "hot_path: %s\n", why.c_str());
  std::exit(1);
}

std::string model_name(std::size_t i) { return "llama-3-8b-instruct-" + std::to_string(i); }

// A pool of its own, with as many backends loaded as asked for so far, all without a process.
class Bench {
 public:
  Bench() : dir_("/dev/shm/modelpool-bench-" + std::to_string(getpid())) {
    std::filesystem::create_directory(dir_);
    chmod(dir_.c_str(), 0700);
    static const Settings kSettings;
    PoolOptions options;
    options.dir = dir_;
    options.settings = &kSettings;
    options.capacities.backends = kModels;
    options.capacities.models = kModels;
    auto attached = Pool::attach("bench", options);
    if (!attached) give_up(attached.error().text);
    pool_ = std::make_unique<Pool>(std::move(*attached));
    for (std::size_t i = 0; i < kModels; ++i) names_.push_back(model_name(i));
    auto worker = Worker::attach(pool_->shared_segment());
    if (!worker) give_up(worker.error().text);
    worker_ = *worker;
  }
  ~Bench() {
    pool_.reset();
    std::filesystem::remove_all(dir_);
  }

  Pool& pool() { return *pool_; }
  Worker& worker() { return *worker_; }
  const std::string& dir() const { return dir_; }
  const std::string& name(std::size_t i) const { return names_[i]; }
  void load(std::size_t count) {
    for (; loaded_ < count; ++loaded_) {
      auto grant = pool_->acquire(names_[loaded_]);
      if (!grant) give_up(grant.error().text);
      ReadyOptions options;
      options.external = true;
      if (auto lease = std::get<LoadTicket>(*grant).ready("127.0.0.1:1", options); !lease) {
        give_up(lease.error().text);
      }
    }
  }
  BackendRef backend(std::size_t i) {
    load(i + 1);
    const auto found = find_backend(pool_->segment(), names_[i]);
    return found->ref;
  }

 private:
  std::string dir_;
  std::unique_ptr<Pool> pool_;
  Worker* worker_ = nullptr;
  std::vector<std::string> names_;
  std::size_t loaded_ = 0;
};

Bench& bench() {
  static Bench instance;
  return instance;
}

void acquire_release(std::size_t model) {
  auto grant = bench().pool().acquire(bench().name(model));
  if (!grant) give_up(grant.error().text);
  benchmark::DoNotOptimize(grant);
}

// --- Ours ----------------------------------------------------------------------------------------

void BM_floor(benchmark::State& state) {
  const Segment& segment = bench().pool().segment();
  const std::uint32_t row = segment.capacities().workers - 1;
  LeaseRecord& lease = segment.lease(row, static_cast<std::size_t>(state.thread_index()) * 8);
  Word& last_used = segment.last_used(row, static_cast<std::size_t>(state.thread_index()) * 8);
  const Word& read_mostly = segment.backend(0).state;
  const Word& wanted = segment.coordinator().wanted;
  std::uint64_t sequence = 0;
  for (auto _ : state) {
    const std::uint64_t begin = stamp_now_ns();
    lease.start_ns.store(begin, std::memory_order_relaxed);
    lease.progress_ns.store(begin, std::memory_order_relaxed);
    lease.limit_ns.store(0, std::memory_order_relaxed);
    lease.word.exchange(++sequence, std::memory_order_seq_cst);
    benchmark::DoNotOptimize(read_mostly.load(std::memory_order_relaxed));
    last_used.store(stamp_now_ns(), std::memory_order_relaxed);
    lease.word.exchange(0, std::memory_order_seq_cst);
    benchmark::DoNotOptimize(wanted.load(std::memory_order_relaxed));
  }
}

void begin_end(benchmark::State& state, std::string_view tag, BackendRef backend) {
  Worker& worker = bench().worker();
  for (auto _ : state) {
    LeaseRef lease;
    if (begin_lease(worker, backend, 0, tag, &lease) != BeginResult::kGranted) give_up("no lease");
    end_lease(lease);
  }
}
void BM_begin_end(benchmark::State& state) { begin_end(state, {}, bench().backend(0)); }
void BM_begin_end_tag(benchmark::State& state) { begin_end(state, kTag, bench().backend(0)); }
void BM_threads_same(benchmark::State& state) { begin_end(state, {}, bench().backend(0)); }
void BM_threads_different(benchmark::State& state) {
  begin_end(state, {}, bench().backend(static_cast<std::size_t>(state.thread_index())));
}

void BM_acquire_release(benchmark::State& state) {
  const auto models = static_cast<std::size_t>(state.range(0));
  std::size_t next = 0;
  for (auto _ : state) {
    acquire_release(next);
    if (++next == models) next = 0;
  }
}

void BM_acquire_release_random(benchmark::State& state) {
  std::minstd_rand random(1);
  std::vector<std::uint32_t> order(1 << 14);
  for (auto& i : order)
    i = static_cast<std::uint32_t>(random() % static_cast<std::uint32_t>(state.range(0)));
  std::size_t next = 0;
  for (auto _ : state) acquire_release(order[++next % order.size()]);
}

void BM_touch(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(bench().pool().touch(bench().name(0)));
}

// Another process that begins and ends leases on the same backend meanwhile, or none.
void BM_two_processes(benchmark::State& state, bool together) {
  const BackendRef backend = bench().backend(0);
  pid_t neighbour = 0;
  if (together) {
    const pid_t parent = getpid();
    neighbour = fork();
    if (neighbour == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(1);
      for (;;) acquire_release(0);
    }
    // It is at work when it has used the backend.
    const Segment& segment = bench().pool().segment();
    const auto in_flight = [&] {
      for (std::uint32_t w = 2; w < segment.capacities().workers; ++w) {
        if (low_half(segment.worker(w).state.load()) != 0 &&
            segment.last_used(w, backend.index).load() != 0)
          return true;
      }
      return false;
    };
    while (!in_flight()) usleep(1000);
  }
  for (auto _ : state) acquire_release(0);
  if (neighbour != 0) {
    kill(neighbour, SIGKILL);
    waitpid(neighbour, nullptr, 0);
    // No coordinator here: what it left is cleared as one would.
    const Segment& segment = bench().pool().segment();
    for (std::uint32_t w = 0; w < segment.capacities().workers; ++w) {
      const WorkerRecord& row = segment.worker(w);
      if (row.pid.load() == static_cast<std::uint32_t>(neighbour) &&
          low_half(row.state.load()) != 0) {
        clear_worker_row(segment, {w, high_half(row.state.load())}, segment.coordinator_row());
      }
    }
  }
}

// --- Others --------------------------------------------------------------------------------------

// LocalAI's watchdog, as its Go code has it: a mutex, and per address a busy, an idle and a
// last-used time. A request marks the address, unmarks it and updates its last use.
class LocalAiWatchdog {
 public:
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

 private:
  std::mutex mutex_;
  std::unordered_map<std::string, Clock::time_point> busy_, idle_, last_used_;
};

void BM_localai(benchmark::State& state) {
  static LocalAiWatchdog watchdog;
  const std::string address = "127.0.0.1:4321" + std::to_string(state.thread_index());
  for (auto _ : state) {
    watchdog.mark(address);
    watchdog.update_last_used(address);
    watchdog.unmark(address);
  }
}

// One robust, process-shared mutex around plain stores of the same stamps.
void BM_robust_mutex(benchmark::State& state) {
  static pthread_mutex_t* const mutex = [] {
    static pthread_mutex_t it;
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&it, &kind);
    return &it;
  }();
  static std::uint64_t busy_since, last_used;
  const auto stamp = [&](std::uint64_t* where) {
    pthread_mutex_lock(mutex);
    *where = stamp_now_ns();
    benchmark::DoNotOptimize(*where);
    pthread_mutex_unlock(mutex);
  };
  for (auto _ : state) {
    stamp(&busy_since);
    stamp(&last_used);
  }
}

// A file's time as the heartbeat, as gunicorn has it: at the begin and at the end.
void BM_futimens(benchmark::State& state) {
  const std::string path = bench().dir() + "/heartbeat-" + std::to_string(state.thread_index());
  const int fd = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  for (auto _ : state) {
    futimens(fd, nullptr);
    futimens(fd, nullptr);
  }
  close(fd);
}

void BM_redis(benchmark::State& state) {
  const std::string socket = bench().dir() + "/redis.sock";
  const pid_t parent = getpid();
  const pid_t server = fork();
  if (server == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    const int null = open("/dev/null", O_RDWR);
    dup2(null, 1);
    dup2(null, 2);
    execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", socket.c_str(), "--save",
           "", "--appendonly", "no", nullptr);
    _exit(127);
  }
  redisContext* redis = nullptr;
  for (;;) {
    redis = redisConnectUnix(socket.c_str());
    if (redis != nullptr && redis->err == 0) break;
    if (redis != nullptr) redisFree(redis);
    redis = nullptr;
    if (waitpid(server, nullptr, WNOHANG) != 0) break;
    usleep(10'000);
  }
  if (redis == nullptr) {
    state.SkipWithError("redis-server is not installed or does not start");
    for (auto _ : state) {
    }
    return;
  }
  const auto command = [&](const char* text) { freeReplyObject(redisCommand(redis, text)); };
  for (auto _ : state) {
    command("HSET busy 127.0.0.1:4321 12345678");
    command("HDEL busy 127.0.0.1:4321");
  }
  redisFree(redis);
  kill(server, SIGKILL);
  waitpid(server, nullptr, 0);
}

void load_one(const benchmark::State&) { bench().load(8); }
void load_all(const benchmark::State&) { bench().load(kModels); }

}  // namespace

BENCHMARK(BM_floor)->Name("floor")->Setup(load_one);
BENCHMARK(BM_begin_end)->Name("begin_end")->Setup(load_one);
BENCHMARK(BM_begin_end_tag)->Name("begin_end_tag")->Setup(load_one);
BENCHMARK(BM_acquire_release)->Name("acquire_release")->Arg(1)->Arg(128)->Setup(load_all);
BENCHMARK(BM_acquire_release_random)->Name("acquire_release_random")->Arg(1024)->Setup(load_all);
BENCHMARK(BM_touch)->Name("touch")->Setup(load_one);
BENCHMARK_CAPTURE(BM_two_processes, alone, false)->Name("two_processes/alone")->Setup(load_one);
BENCHMARK_CAPTURE(BM_two_processes, together, true)
    ->Name("two_processes/together")
    ->Setup(load_one);
#define THREADS ->Threads(1)->Threads(4)->MeasureProcessCPUTime()->UseRealTime()->Setup(load_one)
BENCHMARK(BM_threads_same)->Name("threads_same") THREADS;
BENCHMARK(BM_threads_different)->Name("threads_different") THREADS;
BENCHMARK(BM_localai)->Name("localai") THREADS;
BENCHMARK(BM_robust_mutex)->Name("robust_mutex") THREADS;
BENCHMARK(BM_futimens)->Name("futimens") THREADS;
BENCHMARK(BM_redis)->Name("redis")->Setup(load_one)->UseRealTime();
BENCHMARK_MAIN();
