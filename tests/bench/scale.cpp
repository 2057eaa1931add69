// What one look at a pool costs, by what is in it: a scan and its decision, a tool's snapshot while
// requests come and go, the coordinator with nothing due and under many requests, its start.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "flags/flags.hpp"
#include "judge/decide.hpp"
#include "measure.hpp"
#include "operations.hpp"
#include "pool/change_settings.hpp"
#include "room.hpp"
#include "segment/settings_block.hpp"

namespace modelpool::bench {
namespace {

template <class T>
T checked(Result<T> result) {
  if (!result) give_up(result.error().text);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
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
  FilledPool(Size size, Capacities capacities) {
    const Settings settings = timeouts_of_minutes(size.backends);
    PoolOptions options;
    options.dir = scratch_.dir();
    options.settings = &settings;
    options.capacities = capacities;
    pool_.emplace(checked(Pool::attach("scale", options)));
    std::vector<BackendRef> backends;
    for (std::uint32_t i = 0; i < size.backends; ++i) {
      const std::string model = "llama-3-8b-instruct-" + std::to_string(i);
      Grant grant = checked(pool_->acquire(model));
      ReadyOptions ready;
      ready.external = true;
      checked(std::get<LoadTicket>(grant).ready("127.0.0.1:1", ready)).release();
      backends.push_back(find_backend(segment_of(*pool_), model)->ref);
    }
    std::minstd_rand random(1);
    for (std::uint32_t w = 1; w < size.workers; ++w)
      workers_.push_back(checked(Worker::attach(shared_segment_of(*pool_))));
    workers_.push_back(checked(Worker::attach(shared_segment_of(*pool_))));
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

  Pool& pool() { return *pool_; }
  const std::string& dir() const { return scratch_.dir(); }

 private:
  test::Scratch scratch_;
  std::optional<Pool> pool_;
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

void measure_scan(Report& report, const std::string& name, FilledPool& filled, std::size_t rounds) {
  SnapshotReader reader(shared_segment_of(filled.pool()));
  coordinator::Facts facts;
  facts.stamp_resolution_ns = stamp_lag_max_ns();
  facts.epoch = 1;
  const auto look = [&] { use(coordinator::decide(reader.read(), facts).actions.size()); };
  for (int i = 0; i < 3; ++i) look();
  report.add(name, time_us(rounds, look));
}

// A tool's look while two threads begin and end leases as fast as they can.
void measure_snapshot_under_churn(Report& report, Size size) {
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
  report.add("snapshot_under_churn/" + size.text(),
             time_us(200, [&] { checked(look_inside(filled.pool())); }));
  stop.store(true);
  for (auto& thread : threads) thread.join();
}

nlohmann::json single(const std::string& name, double value, const std::string& unit) {
  return {{"name", name}, {"median", value}, {"samples", 1}, {"unit", unit}};
}

// Rules for 4096 models by name and as many globs as there may be: how long a publication holds the
// mutex, what one model's settings cost, and a whole `set`.
void measure_settings(Report& report) {
  const test::Scratch scratch;
  PoolOptions options;
  options.dir = scratch.dir();
  Settings settings = timeouts_of_minutes(0);
  const auto name = [](std::uint64_t i) {
    return "organisation/llama-3-8b-instruct-" + std::to_string(i);
  };
  const auto add = [&](const std::string& pattern) {
    settings.rules.push_back({pattern, {}});
    for (const Setting id : {Setting::kIdleTimeout, Setting::kStopGrace, Setting::kLoadTimeout}) {
      settings.rules.back().overrides.set(id, kSecond_ns, {OriginKind::kConfig, 7});
    }
  };
  for (std::uint64_t i = 0; i < 4096; ++i) add(name(i));
  for (std::uint64_t i = 0; i < kGlobsMax; ++i) add("*-instruct-x" + std::to_string(i));
  options.settings = &settings;
  const Pool pool = checked(Pool::attach("scale", options));
  const Segment& segment = segment_of(pool);
  const SettingsImage image = checked(SettingsImage::make(settings, segment.settings_copy_words()));
  report.add(
      single("settings_bytes/4096", static_cast<double>(image.words() * sizeof(Word)), "bytes"));
  std::vector<double> held_us;
  for (int i = 0; i < 200; ++i) {
    const auto lock = checked(segment.lock_structure());
    const std::uint64_t begin_ns = now_ns();
    publish_settings(segment, lock, image);
    held_us.push_back(static_cast<double>(now_ns() - begin_ns) / 1000.0);
  }
  report.add(
      single("settings_publish_first/4096", held_us.front(), "us"));  // into pages not yet touched
  report.add("settings_publish/4096", held_us);
  std::minstd_rand random(1);
  report.add("settings_resolve/4096", time_us(2000, [&] {
               use(resolve_settings(segment, name(random() % 4096)).get(Setting::kIdleTimeout));
             }));
  std::uint64_t limit = 0;
  report.add("settings_set/4096", time_us(50, [&] {
               checked(change_settings(segment, {{"max_backends", std::to_string(++limit)}}, {}));
             }));
}

// --- The daemon itself ---------------------------------------------------------------------------

// A coordinatord that tells when it serves, to the microsecond.
class Coordinator {
 public:
  explicit Coordinator(const std::string& dir) {
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
  ~Coordinator() {
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
  double start_us() const { return static_cast<double>(ready_ns_ - begun_ns_) / 1000.0; }
  // How often its threads went to sleep.
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
    std::ifstream file("/proc/" + std::to_string(pid_) + "/stat");
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    std::istringstream fields(text.substr(text.rfind(')') + 2));  // from the third on: proc(5)
    std::string skipped;
    for (int i = 3; i < 14; ++i) fields >> skipped;
    std::uint64_t user_ticks = 0, system_ticks = 0;
    fields >> user_ticks >> system_ticks;
    return static_cast<double>(user_ticks + system_ticks) /
           static_cast<double>(sysconf(_SC_CLK_TCK));
  }

 private:
  pid_t pid_ = 0;
  std::uint64_t begun_ns_ = 0;
  std::uint64_t ready_ns_ = 0;
};

void measure_coordinator(Report& report, unsigned seconds) {
  FilledPool filled({16, 8, 16}, Capacities{});
  const Coordinator coordinator(filled.dir());
  sleep(1);
  const auto watch = [&](const std::string& name) {
    const std::uint64_t switches = coordinator.switches();
    const double cpu_seconds = coordinator.cpu_seconds();
    sleep(seconds);
    report.add(single(name + "_wakeups", static_cast<double>(coordinator.switches() - switches),
                      "in " + std::to_string(seconds) + " s"));
    report.add(single(name + "_cpu_percent",
                      100 * (coordinator.cpu_seconds() - cpu_seconds) / seconds, "%"));
  };
  watch("coordinator_idle");
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
  watch("coordinator_under_leases");
  stop.store(true);
  for (auto& thread : threads) thread.join();
  report.add(single("leases_per_second", static_cast<double>(leases.load()) / seconds, "1/s"));
}

int run(unsigned rounds, unsigned seconds, bool quick) {
  Report report("scale", "us");
  using Counts = std::vector<std::uint32_t>;
  for (const std::uint32_t backends : quick ? Counts{16, 128} : Counts{16, 128, 1024}) {
    for (const std::uint32_t workers : {8u, 128u, 1024u}) {
      for (const std::uint32_t leases : quick ? Counts{16} : Counts{0, 16, 256}) {
        const Size size{backends, workers, leases};
        if (quick && size.text() != "16x8x16" && size.text() != "128x128x16") continue;
        std::cerr << "scale: scan " << size.text() << std::endl;
        FilledPool filled(size, capacities_for(size));
        const std::size_t samples = std::max<std::size_t>(
            10, std::min<std::size_t>(rounds, 3'000'000 / (std::size_t{backends} * workers)));
        measure_scan(report, "scan/" + size.text(), filled, samples);
        report.add(single("segment_bytes/" + size.text(),
                          static_cast<double>(segment_of(filled.pool()).header().total_bytes),
                          "bytes"));
      }
    }
  }
  {
    FilledPool filled({16, 8, 16}, capacities_for({1024, 1024, 256}));
    measure_scan(report, "scan_in_large_segment/16x8x16", filled, rounds);
  }
  std::cerr << "scale: making room" << std::endl;
  measure_room(report, quick ? 50 : 1000);
  std::cerr << "scale: settings of 4096 models" << std::endl;
  measure_settings(report);
  std::cerr << "scale: snapshots under churn, start of a coordinator" << std::endl;
  measure_snapshot_under_churn(report, {16, 8, 16});
  measure_snapshot_under_churn(report, {128, 128, 16});
  {
    const Size size = quick ? Size{128, 128, 16} : Size{1024, 1024, 256};
    FilledPool filled(size, capacities_for(size));
    std::vector<double> starts_us;
    for (int i = 0; i < 5; ++i) starts_us.push_back(Coordinator(filled.dir()).start_us());
    report.add("start_full_segment/" + size.text(), starts_us);
  }
  std::cerr << "scale: coordinator, idle and under leases" << std::endl;
  measure_coordinator(report, seconds);
  report.print();
  return 0;
}

}  // namespace
}  // namespace modelpool::bench

int main(int argc, char** argv) {
  modelpool::Flags flags("Measures what looking at a pool costs. JSON on stdout.", "bench_scale");
  unsigned rounds = 300;
  unsigned seconds = 10;
  bool quick = false;
  flags.add("--rounds", "N", &rounds, "samples of each scan [300]");
  flags.add("--seconds", "N", &seconds, "how long to watch the coordinator [10]");
  flags.add("--quick", "", &quick, "only the sizes that have a target, 2 s of the coordinator");
  if (const auto code = flags.parse_or_end(argc, argv)) return *code;
  return modelpool::bench::run(rounds, quick ? 2 : seconds, quick);
}
