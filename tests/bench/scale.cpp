// What one look at a pool costs, by what is in it: a scan and its decision, a tool's snapshot while
// requests come and go, the coordinator with nothing due and under many requests, its start.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "decide.hpp"
#include "modelpool/pool.hpp"
#include "modelpool/time.hpp"

namespace {

using namespace modelpool;  // NOLINT(google-build-using-namespace)
using Json = nlohmann::json;

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "scale: %s\n", why.c_str());
  std::exit(1);
}
template <class T>
T checked(Result<T> result) {
  if (!result) give_up(result.error().text);
  return std::move(*result);
}

struct Size {
  std::uint32_t backends, workers, leases;
  std::string text() const {
    return std::to_string(backends) + "x" + std::to_string(workers) + "x" + std::to_string(leases);
  }
};

Settings timeouts_of_minutes(std::uint32_t limit) {
  Settings settings;
  settings.pool.set(Setting::kMaxBackends, limit);
  settings.pool.set(Setting::kBusyTimeout, 300 * kSecond_ns);
  settings.pool.set(Setting::kStallTimeout, 120 * kSecond_ns);
  settings.pool.set(Setting::kIdleTimeout, 900 * kSecond_ns);
  return settings;
}

// A pool with that many backends (without processes), workers (all rows are ours) and leases each,
// begun on backends at random.
class FilledPool {
 public:
  FilledPool(Size size, Capacities capacities)
      : dir_("/dev/shm/modelpool-scale-" + std::to_string(getpid())) {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directory(dir_);
    std::filesystem::permissions(dir_, std::filesystem::perms::owner_all);
    const Settings settings = timeouts_of_minutes(size.backends);
    PoolOptions options;
    options.dir = dir_;
    options.settings = &settings;
    options.capacities = capacities;
    pool_ = std::make_unique<Pool>(checked(Pool::attach("scale", options)));
    std::vector<BackendRef> backends;
    for (std::uint32_t i = 0; i < size.backends; ++i) {
      const std::string model = "llama-3-8b-instruct-" + std::to_string(i);
      Grant grant = checked(pool_->acquire(model));
      ReadyOptions ready;
      ready.external = true;
      checked(std::get<LoadTicket>(grant).ready("127.0.0.1:1", ready)).release();
      backends.push_back(find_backend(pool_->segment(), model)->ref);
    }
    std::minstd_rand random(1);
    for (std::uint32_t w = 1; w < size.workers; ++w)
      workers_.push_back(checked(Worker::attach(pool_->shared_segment())));
    workers_.push_back(checked(Worker::attach(pool_->shared_segment())));
    for (Worker* worker : workers_) {
      for (std::uint32_t i = 0; i < size.leases; ++i) {
        LeaseRef lease;
        if (begin_lease(*worker, backends[random() % backends.size()], 0,
                        "req-" + std::to_string(i), &lease) != BeginResult::kGranted) {
          give_up("no lease");
        }
      }
    }
  }
  ~FilledPool() {
    pool_.reset();
    std::filesystem::remove_all(dir_);
  }

  Pool& pool() { return *pool_; }
  const std::string& dir() const { return dir_; }

 private:
  std::string dir_;
  std::unique_ptr<Pool> pool_;
  std::vector<Worker*> workers_;
};

Capacities capacities_for(Size size) {
  Capacities capacities;
  capacities.backends = size.backends;
  capacities.workers = size.workers + 1;
  capacities.leases = std::max(64u, size.leases);
  capacities.models = size.backends;
  return capacities;
}

Json statistics(const std::string& name, std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const auto at = [&](double part) {
    return samples[static_cast<std::size_t>(part * static_cast<double>(samples.size() - 1))];
  };
  return {{"name", name},           {"median", at(0.5)},     {"p99", at(0.99)},
          {"min", samples.front()}, {"max", samples.back()}, {"samples", samples.size()}};
}

template <class Work>
std::vector<double> time_us(std::size_t rounds, Work work) {
  std::vector<double> samples;
  for (std::size_t i = 0; i < rounds; ++i) {
    const std::uint64_t begin = now_ns();
    work();
    samples.push_back(static_cast<double>(now_ns() - begin) / 1000.0);
  }
  return samples;
}

Json measure_scan(const std::string& name, FilledPool& filled, std::size_t rounds) {
  SnapshotReader reader(filled.pool().shared_segment());
  coordinator::Facts facts;
  facts.stamp_resolution_ns = stamp_lag_max_ns();
  facts.epoch = 1;
  std::size_t actions = 0;
  const auto look = [&] { actions = coordinator::decide(reader.read(), facts).actions.size(); };
  for (int i = 0; i < 3; ++i) look();
  Json result = statistics(name, time_us(rounds, look));
  result["unit"] = "us";
  return result;
}

// A tool's look while two threads begin and end leases as fast as they can.
Json measure_snapshot_under_churn(Size size) {
  FilledPool filled(size, capacities_for(size));
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      while (!stop.load(std::memory_order_relaxed)) {
        checked(filled.pool().acquire("llama-3-8b-instruct-" + std::to_string(t)));
      }
    });
  }
  Json result = statistics("snapshot_under_churn/" + size.text(),
                           time_us(200, [&] { checked(filled.pool().snapshot()); }));
  result["unit"] = "us";
  stop.store(true);
  for (auto& thread : threads) thread.join();
  return result;
}

// --- The daemon itself ---------------------------------------------------------------------------

class Daemon {
 public:
  explicit Daemon(const std::string& dir) {
    int notify[2];
    if (pipe(notify) != 0) give_up("no pipe");
    begun_ns_ = now_ns();
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(1);
      const int null = open("/dev/null", O_RDWR);
      dup2(null, 2);
      dup2(null, 1);
      const std::string fd = std::to_string(notify[1]);
      execl(MODELPOOL_COORDINATORD, "coordinatord", "--pool", "scale", "--dir", dir.c_str(),
            "--notify-fd", fd.c_str(), nullptr);
      _exit(127);
    }
    close(notify[1]);
    char byte;
    if (read(notify[0], &byte, 1) != 1) give_up("coordinatord does not start");
    ready_ns_ = now_ns();
    close(notify[0]);
  }
  ~Daemon() {
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
  double start_us() const { return static_cast<double>(ready_ns_ - begun_ns_) / 1000.0; }
  // Times its threads went to sleep, and CPU time in clock ticks.
  std::uint64_t switches() const {
    std::uint64_t total = 0;
    for (const auto& thread :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/task")) {
      std::ifstream status(thread.path() / "status");
      for (std::string line; std::getline(status, line);) {
        if (line.starts_with("voluntary_ctxt_switches:")) total += std::stoull(line.substr(25));
      }
    }
    return total;
  }
  double cpu_seconds() const {
    const auto stat = read_stat(pid_);
    static_cast<void>(stat);
    std::ifstream file("/proc/" + std::to_string(pid_) + "/stat");
    std::string text((std::istreambuf_iterator<char>(file)), {});
    std::istringstream rest(text.substr(text.rfind(')') + 2));
    std::string field;
    std::uint64_t user = 0, system = 0;
    for (int i = 3; i <= 15; ++i) {
      rest >> field;
      if (i == 14) user = std::stoull(field);
      if (i == 15) system = std::stoull(field);
    }
    return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }

 private:
  pid_t pid_ = 0;
  std::uint64_t begun_ns_ = 0;
  std::uint64_t ready_ns_ = 0;
};

Json single(const std::string& name, double value, const std::string& unit) {
  return {{"name", name}, {"median", value}, {"samples", 1}, {"unit", unit}};
}

void measure_daemon(Json* results, unsigned seconds) {
  const Size size{16, 8, 16};
  FilledPool filled(size, Capacities{});
  const Daemon daemon(filled.dir());
  sleep(1);
  const auto over = [&](const std::string& name, double leases_before) {
    const std::uint64_t switches = daemon.switches();
    const double cpu = daemon.cpu_seconds();
    sleep(seconds);
    results->push_back(single(name + "_wakeups", static_cast<double>(daemon.switches() - switches),
                              "in " + std::to_string(seconds) + " s"));
    results->push_back(
        single(name + "_cpu_percent", 100 * (daemon.cpu_seconds() - cpu) / seconds, "%"));
    static_cast<void>(leases_before);
  };
  over("coordinator_idle", 0);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> leases{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      const std::string model = "llama-3-8b-instruct-" + std::to_string(t);
      std::uint64_t count = 0;
      // A thousand a millisecond, half of them by each of two threads.
      for (std::uint64_t next = now_ns(); !stop.load(std::memory_order_relaxed);
           next += kMillisecond_ns) {
        for (int i = 0; i < 500; ++i, ++count) checked(filled.pool().acquire(model));
        while (now_ns() < next + kMillisecond_ns && !stop.load(std::memory_order_relaxed)) {
        }
      }
      leases += count;
    });
  }
  over("coordinator_under_leases", 0);
  stop.store(true);
  for (auto& thread : threads) thread.join();
  results->push_back(
      single("leases_per_second", static_cast<double>(leases.load()) / seconds, "1/s"));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Measures what looking at a pool costs. Prints one JSON object."};
  unsigned rounds = 300;
  unsigned seconds = 10;
  bool quick = false;
  app.add_option("--rounds", rounds, "Samples of each scan")->capture_default_str();
  app.add_option("--seconds", seconds, "How long to watch the coordinator")->capture_default_str();
  app.add_flag("--quick", quick, "Only the sizes that have a target, 2 s of the coordinator");
  CLI11_PARSE(app, argc, argv);
  if (quick) seconds = 2;

  Json results = Json::array();
  const std::vector<std::uint32_t> lease_counts =
      quick ? std::vector<std::uint32_t>{16} : std::vector<std::uint32_t>{0, 16, 256};
  for (const std::uint32_t backends :
       quick ? std::vector<std::uint32_t>{16, 128} : std::vector<std::uint32_t>{16, 128, 1024}) {
    for (const std::uint32_t workers : {8u, 128u, 1024u}) {
      for (const std::uint32_t leases : lease_counts) {
        const Size size{backends, workers, leases};
        if (quick && size.text() != "16x8x16" && size.text() != "128x128x16") continue;
        std::fprintf(stderr, "scan %s\n", size.text().c_str());
        FilledPool filled(size, capacities_for(size));
        const std::size_t samples = std::max<std::size_t>(
            10, std::min<std::size_t>(rounds, 3'000'000 / (std::size_t{backends} * workers)));
        results.push_back(measure_scan("scan/" + size.text(), filled, samples));
        results.push_back(single("segment_bytes/" + size.text(),
                                 static_cast<double>(filled.pool().segment().header().total_bytes),
                                 "bytes"));
      }
    }
  }
  {
    const Size size{16, 8, 16};
    FilledPool filled(size, capacities_for({1024, 1024, 256}));
    results.push_back(measure_scan("scan_in_large_segment/16x8x16", filled, rounds));
  }
  results.push_back(measure_snapshot_under_churn({16, 8, 16}));
  results.push_back(measure_snapshot_under_churn({128, 128, 16}));
  {
    const Size size = quick ? Size{128, 128, 16} : Size{1024, 1024, 256};
    FilledPool filled(size, capacities_for(size));
    std::vector<double> starts;
    for (int i = 0; i < 5; ++i) starts.push_back(Daemon(filled.dir()).start_us());
    Json result = statistics("start_full_segment/" + size.text(), starts);
    result["unit"] = "us";
    results.push_back(result);
  }
  measure_daemon(&results, seconds);
  std::cout << Json{{"benchmark", "scale"}, {"results", results}}.dump(1) << "\n";
  return 0;
}
