// What a request pays for the pool in time, beside what it cannot pay less than, and what others
// pay. The operations themselves stand in operations.hpp.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>
#include <string>
#include <vector>

#include "operations.hpp"

namespace {

using namespace modelpool;         // NOLINT(google-build-using-namespace)
using namespace modelpool::bench;  // NOLINT(google-build-using-namespace)

LoadedPool& loaded() {
  static LoadedPool instance;
  return instance;
}
Pool& pool() { return loaded().pool(); }

// The backend of this thread: the same for all, or one each.
std::size_t which(const benchmark::State& state, bool same) {
  return same ? 0 : static_cast<std::size_t>(state.thread_index());
}

// --- Ours ----------------------------------------------------------------------------------------

void BM_floor(benchmark::State& state) {
  Floor floor(segment_of(pool()), static_cast<std::size_t>(state.thread_index()));
  for (auto _ : state) floor();
}

void BM_begin_end(benchmark::State& state, std::string_view tag, bool same) {
  Worker& worker = loaded().worker();
  const BackendRef backend = loaded().backend(which(state, same));
  for (auto _ : state) begin_end(worker, backend, tag);
}

// In turn.
void BM_acquire_release(benchmark::State& state) {
  const auto models = static_cast<std::size_t>(state.range(0));
  std::size_t next = 0;
  for (auto _ : state) {
    acquire_release(pool(), loaded().model(next));
    if (++next == models) next = 0;
  }
}

void BM_acquire_release_random(benchmark::State& state) {
  std::minstd_rand random(1);
  std::vector<std::uint32_t> order(1 << 14);
  for (auto& i : order)
    i = static_cast<std::uint32_t>(random() % static_cast<std::uint32_t>(state.range(0)));
  std::size_t next = 0;
  for (auto _ : state) acquire_release(pool(), loaded().model(order[++next % order.size()]));
}

void BM_acquire_release_threads(benchmark::State& state, bool same) {
  const std::string model = loaded().model(which(state, same));
  for (auto _ : state) acquire_release(pool(), model);
}

void BM_touch(benchmark::State& state) {
  for (auto _ : state) touch(pool(), loaded().model(0));
}

// Another process that acquires and releases a model as fast as it can.
class Neighbour {
 public:
  explicit Neighbour(std::size_t model) {
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(1);
      for (;;) acquire_release(pool(), loaded().model(model));
    }
    const BackendRef backend = loaded().backend(model);
    if (!test::eventually([&] { return has_used(backend); })) give_up("the neighbour does nothing");
  }
  ~Neighbour() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    // No coordinator here: what it left is cleared as one would.
    for (std::uint32_t w = 0; w < segment().capacities().workers; ++w) {
      if (is_its_row(w))
        clear_worker_row(segment(), {w, high_half(segment().worker(w).state.load())},
                         segment().coordinator_row());
    }
  }

 private:
  const Segment& segment() const { return segment_of(pool()); }
  bool is_its_row(std::uint32_t w) const {
    const WorkerRecord& row = segment().worker(w);
    return low_half(row.state.load()) != 0 && row.pid.load() == static_cast<std::uint32_t>(pid_);
  }
  // A row inherits its last-used cells: only a use after this process began counts.
  bool has_used(BackendRef backend) const {
    for (std::uint32_t w = 0; w < segment().capacities().workers; ++w) {
      if (is_its_row(w) && segment().last_used(w, backend.index).load() > begun_ns_) return true;
    }
    return false;
  }

  std::uint64_t begun_ns_ = now_ns();
  pid_t pid_;
};

enum class Beside { kNobody, kOnSameBackend, kOnAnother };

void BM_two_processes(benchmark::State& state, Beside beside) {
  std::optional<Neighbour> neighbour;
  if (beside != Beside::kNobody) neighbour.emplace(beside == Beside::kOnSameBackend ? 0 : 1);
  for (auto _ : state) acquire_release(pool(), loaded().model(0));
}

// --- Others --------------------------------------------------------------------------------------

void BM_localai(benchmark::State& state) {
  static LocalAiWatchdog watchdog;
  const std::string address = "127.0.0.1:4321" + std::to_string(state.thread_index());
  for (auto _ : state) watchdog(address);
}

void BM_robust_mutex(benchmark::State& state) {
  static RobustStamps stamps;
  for (auto _ : state) stamps();
}

// A file's time as the heartbeat, as gunicorn has it: at the begin and at the end.
void BM_futimens(benchmark::State& state) {
  const std::string path =
      loaded().scratch().path("heartbeat-") + std::to_string(state.thread_index());
  const int fd = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  for (auto _ : state) {
    futimens(fd, nullptr);
    futimens(fd, nullptr);
  }
  close(fd);
}

void BM_redis(benchmark::State& state) {
  const std::string socket = loaded().scratch().path("redis.sock");
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

void load_one(const benchmark::State&) { loaded().load(8); }
void load_all(const benchmark::State&) { loaded().load(kModels); }

}  // namespace

BENCHMARK(BM_floor)->Name("floor")->Setup(load_one);
BENCHMARK_CAPTURE(BM_begin_end, plain, "", true)->Name("begin_end")->Setup(load_one);
BENCHMARK_CAPTURE(BM_begin_end, tag, kTag, true)->Name("begin_end_tag")->Setup(load_one);
BENCHMARK(BM_acquire_release)->Name("acquire_release")->Arg(1)->Arg(128)->Setup(load_all);
BENCHMARK(BM_acquire_release_random)->Name("acquire_release_random")->Arg(1024)->Setup(load_all);
BENCHMARK(BM_touch)->Name("touch")->Setup(load_one);

#define TWO_PROCESSES(name, beside) \
  BENCHMARK_CAPTURE(BM_two_processes, name, beside)->Name("two_processes/" #name)->Setup(load_one)
TWO_PROCESSES(alone, Beside::kNobody);
TWO_PROCESSES(same, Beside::kOnSameBackend);
TWO_PROCESSES(different, Beside::kOnAnother);

#define THREADS ->Threads(1)->Threads(4)->MeasureProcessCPUTime()->UseRealTime()->Setup(load_one)
BENCHMARK_CAPTURE(BM_begin_end, same, "", true)->Name("threads_same") THREADS;
BENCHMARK_CAPTURE(BM_begin_end, different, "", false)->Name("threads_different") THREADS;
BENCHMARK_CAPTURE(BM_acquire_release_threads, same, true)->Name("acquire_threads_same") THREADS;
BENCHMARK_CAPTURE(BM_acquire_release_threads, different, false)
    ->Name("acquire_threads_different") THREADS;
BENCHMARK(BM_localai)->Name("localai") THREADS;
BENCHMARK(BM_robust_mutex)->Name("robust_mutex") THREADS;
BENCHMARK(BM_futimens)->Name("futimens") THREADS;
BENCHMARK(BM_redis)->Name("redis")->Setup(load_one)->UseRealTime();
BENCHMARK_MAIN();
