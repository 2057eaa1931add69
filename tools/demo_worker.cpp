// A small worker process of a model server for the demo and the tests: it asks the pool for models,
// loads what nobody has loaded, and sends real HTTP requests through its leases.
//
// The main thread takes the signals; the others serve, a request at a time each. Every line it
// prints is one write and begins with its name; the last one is a JSON summary.
#include <httplib.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <future>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/duration.hpp"
#include "base/guarded.hpp"
#include "base/name.hpp"
#include "base/number.hpp"
#include "base/port.hpp"
#include "base/process.hpp"
#include "base/program.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "flags/flags.hpp"
#include "modelpool/pool.hpp"

namespace modelpool {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitNoPool = 3;
constexpr int kThreadsMax = 256;
constexpr std::uint64_t kWeightMax = 1'000'000;
constexpr std::chrono::seconds kAcquireTimeout{20};
constexpr std::uint64_t kReadyMax_ns = 60 * kSecond_ns;  // from a backend's start to its answer
constexpr std::chrono::milliseconds kHealthPause{10};
constexpr std::chrono::milliseconds kStopAgain{20};
constexpr std::chrono::seconds kConnectMax{5};
constexpr std::chrono::hours kAnswerMax{1};  // hung requests are the coordinator's business
constexpr int kStatusOk = 200;
constexpr int kEndSignals[] = {SIGTERM, SIGINT, SIGHUP};

struct Weighted {
  std::string model;
  double weight = 1;
};
using Mix = std::vector<Weighted>;

struct Options {
  std::string pool = "default";
  std::string dir;
  std::string name = "worker";
  std::vector<Mix> mixes;
  std::string backend;
  std::string backend_output;
  std::string hang_once;
  std::string tag_prefix;
  double requests_per_second = 10;
  int threads = 2;
  std::uint64_t seed = 1;
  std::uint64_t duration_ns = 0;  // 0 = until told to end
  std::uint64_t request_time_ns = 100 * kMillisecond_ns;
  std::uint64_t memory_bytes = 0;
  std::uint64_t load_time_ns = 0;
  bool log = false;
  bool cancellable = false;
};

// What this worker did, and its lines on stdout. Any thread.
class Journal {
 public:
  Journal(std::string name, bool detailed) : name_(std::move(name)), detailed_(detailed) {}

  void loaded(const std::string& model, pid_t pid, const std::string& address,
              std::uint64_t took_ns) {
    const MutexLock lock(mutex_);
    ++loads_[model];
    own_.insert(pid);
    if (!detailed_) return;
    print("loaded " + escape(model) + ": pid " + std::to_string(pid) + " at " + address + " in " +
          format_age(took_ns));
  }
  void answered(const std::string& model, const std::string& tag, pid_t pid,
                std::uint64_t took_ns) {
    const MutexLock lock(mutex_);
    ++requests_[model];
    const bool own = own_.count(pid) != 0;
    ++(own ? on_own_loads_ : on_shared_loads_);
    if (!detailed_) return;
    print("answered " + escape(model) + ": " + tag + " by pid " + std::to_string(pid) +
          (own ? ", loaded here, in " : ", loaded elsewhere, in ") + format_age(took_ns));
  }
  void failed(std::string_view kind, const std::string& model, const std::string& tag,
              const std::string& text) {
    const MutexLock lock(mutex_);
    ++errors_[std::string(kind)];
    print(std::string(kind) + " " + escape(model) + ": " + tag + ": " + escape(text));
  }
  void summary() {
    const MutexLock lock(mutex_);
    const auto total = [](const std::map<std::string, std::uint64_t>& counts) {
      std::uint64_t sum = 0;
      for (const auto& [name, count] : counts) sum += count;
      return sum;
    };
    const nlohmann::ordered_json json = {{"name", name_},
                                         {"pid", getpid()},
                                         {"requests", total(requests_)},
                                         {"on_own_loads", on_own_loads_},
                                         {"on_shared_loads", on_shared_loads_},
                                         {"requests_by_model", requests_},
                                         {"loads", total(loads_)},
                                         {"loads_by_model", loads_},
                                         {"errors", errors_}};
    std::printf("%s\n", json.dump().c_str());
    std::fflush(stdout);
  }

 private:
  void print(const std::string& text) MODELPOOL_REQUIRES(mutex_) {
    const std::string line = name_ + " " + text + "\n";
    std::fwrite(line.data(), 1, line.size(), stdout);
    std::fflush(stdout);
  }

  const std::string name_;
  const bool detailed_;
  Mutex mutex_;  // guards stdout too
  std::map<std::string, std::uint64_t> requests_ MODELPOOL_GUARDED_BY(mutex_);
  std::map<std::string, std::uint64_t> loads_ MODELPOOL_GUARDED_BY(mutex_);
  std::map<std::string, std::uint64_t> errors_ MODELPOOL_GUARDED_BY(mutex_);
  std::uint64_t on_own_loads_ MODELPOOL_GUARDED_BY(mutex_) = 0;
  std::uint64_t on_shared_loads_ MODELPOOL_GUARDED_BY(mutex_) = 0;
  std::set<pid_t> own_ MODELPOOL_GUARDED_BY(mutex_);  // the backends loaded here
};

// A client for "host:port". Every loader of this demo registers such addresses.
httplib::Client client_for(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  const auto port = parse_count(
      colon == std::string::npos ? "" : std::string_view(address).substr(colon + 1), 65535);
  httplib::Client client(address.substr(0, colon), port ? static_cast<int>(*port) : 0);
  client.set_connection_timeout(kConnectMax);
  client.set_read_timeout(kAnswerMax);
  return client;
}

class Worker {
 public:
  Worker(const Options& options, Pool pool, Journal& journal)
      : options_(options),
        pool_(std::move(pool)),
        journal_(journal),
        hang_pending_(!options.hang_once.empty()) {}

  // From now on requests are for the next mix; the last one stays.
  void next_mix() {
    const std::size_t mix = mix_.load();
    if (mix + 1 < options_.mixes.size()) mix_.store(mix + 1);
  }

  void serve(int thread, const std::stop_token& stop) {
    std::mt19937_64 random(options_.seed * kThreadsMax + static_cast<std::uint64_t>(thread));
    const std::chrono::duration<double> apart(options_.threads / options_.requests_per_second);
    const auto interval = std::chrono::duration_cast<std::chrono::steady_clock::duration>(apart);
    auto next = std::chrono::steady_clock::now() + interval * thread / options_.threads;
    while (pause_until(next, stop)) {
      request(random, stop);
      next = std::max(next + interval, std::chrono::steady_clock::now());
    }
  }

  // Cuts the request that hangs on purpose: it would outlive this worker's end.
  void cut_hanging() {
    const MutexLock lock(hanging_mutex_);
    if (hanging_ != nullptr) hanging_->stop();
  }

 private:
  // False if told to stop.
  static bool pause_until(std::chrono::steady_clock::time_point until,
                          const std::stop_token& stop) {
    std::mutex mutex;
    std::condition_variable_any never;
    std::unique_lock lock(mutex);
    never.wait_until(lock, stop, until, [] { return false; });
    return !stop.stop_requested();
  }

  std::string choose(std::mt19937_64& random, bool* hang) {
    const Mix& mix = options_.mixes[mix_.load()];
    const bool has_hanging = std::any_of(mix.begin(), mix.end(), [this](const Weighted& one) {
      return one.model == options_.hang_once;
    });
    *hang = has_hanging && hang_pending_.exchange(false);
    if (*hang) return options_.hang_once;
    std::vector<double> weights;
    for (const Weighted& one : mix) weights.push_back(one.weight);
    return mix[std::discrete_distribution<std::size_t>(weights.begin(), weights.end())(random)]
        .model;
  }

  void request(std::mt19937_64& random, const std::stop_token& stop) {
    bool hang = false;
    const std::string model = choose(random, &hang);
    const std::string tag =
        options_.tag_prefix + std::to_string(++requests_) + (hang ? "-hang" : "");
    AcquireOptions acquire;
    acquire.tag = tag;
    acquire.stop = stop;
    Result<Grant> grant = pool_.acquire(model, kAcquireTimeout, acquire);
    if (!grant) {
      if (grant.error().code == Errc::kCancelled) return;
      journal_.failed(errc_name(grant.error().code), model, tag, grant.error().text);
      if (hang) hang_pending_ = true;
      return;
    }
    Lease lease;
    if (auto* ticket = std::get_if<LoadTicket>(&*grant)) {
      Result<Lease> loaded = load(*ticket, stop);
      if (!loaded) {
        if (stop.stop_requested()) return;
        journal_.failed(errc_name(loaded.error().code), model, tag, loaded.error().text);
        if (hang) hang_pending_ = true;
        return;
      }
      lease = std::move(*loaded);
    } else {
      lease = std::move(std::get<Lease>(*grant));
    }
    if (hang) {
      send_hanging(lease, tag, stop);
    } else {
      const auto limit_ms = static_cast<double>(options_.request_time_ns / kMillisecond_ns);
      send(lease, tag,
           static_cast<std::uint64_t>(std::uniform_real_distribution<>(0.5, 1.5)(random) *
                                      limit_ms));
    }
  }

  // Starts demo_backend and waits until it answers. On an error the ticket has been used up: given
  // back where the trouble is ours.
  Result<Lease> load(LoadTicket& ticket, const std::stop_token& stop) {
    const std::uint64_t started_ns = now_ns();
    const auto text_of = [&ticket](const std::string& reason) {
      return "unable to load " + escape(ticket.model()) + ": " + reason;
    };
    const auto give_up = [&](const std::string& reason) {
      const std::string text = text_of(reason);
      const Result<> failed = ticket.fail(reason);
      return fail(failed ? Errc::kLoadFailed : failed.error().code, text);
    };
    const auto give_back = [&](const std::string& reason) {
      const std::string text = text_of(reason);
      static_cast<void>(ticket.give_back());
      return fail(Errc::kCancelled, text);
    };
    const Result<HeldPort> port = hold_free_port();
    if (!port) return give_back(port.error().text);
    SpawnOptions spawn;
    spawn.output = options_.backend_output;
    const Result<> spawned = ticket.spawn(
        {options_.backend, "--name", ticket.model(), "--port", std::to_string(port->number()),
         "--memory", std::to_string(options_.memory_bytes), "--load-time",
         format_duration(options_.load_time_ns)},
        spawn);
    if (!spawned) return give_back(spawned.error().text);
    const Result<ProcessHandle> process = ProcessHandle::open(ticket.pid());
    if (!process && process.error().system != ESRCH) return give_back(process.error().text);
    const std::string address = "127.0.0.1:" + std::to_string(port->number());
    httplib::Client client = client_for(address);
    client.set_read_timeout(kConnectMax);
    for (;;) {
      const auto health = client.Get("/health");
      const bool answers = health && health->status == kStatusOk;
      // After the answer: one from a process that has ended was somebody else's.
      if (!process || process->liveness() == Liveness::kDead) {
        return give_up("demo_backend ended before it was ready");
      }
      if (answers) break;
      if (now_ns() - started_ns > kReadyMax_ns) return give_up("demo_backend does not answer");
      if (!pause_until(std::chrono::steady_clock::now() + kHealthPause, stop)) {
        return give_back("the worker that was loading it is ending");
      }
    }
    ReadyOptions ready;
    ready.size_bytes = options_.memory_bytes;
    const pid_t pid = ticket.pid();
    const std::string model = ticket.model();
    Result<Lease> lease = ticket.ready(address, ready);
    if (lease) journal_.loaded(model, pid, address, now_ns() - started_ns);
    return lease;  // a ticket that stays with an error is given back at its end
  }

  void send(Lease& lease, const std::string& tag, std::uint64_t duration_ms) {
    const std::uint64_t started_ns = now_ns();
    const std::string model = lease.model();
    const nlohmann::json body = {
        {"prompt", "the quick brown fox"}, {"max_tokens", 8}, {"ms", duration_ms}};
    httplib::Client client = client_for(lease.address());
    const auto response = client.Post("/v1/completions", body.dump(), "application/json");
    if (!response) return broke_off(lease, tag, response.error());
    const auto answer = nlohmann::json::parse(response->body, nullptr, false);
    if (response->status != kStatusOk || !answer.is_object()) {
      journal_.failed("bad_answer", model, tag, "HTTP status " + std::to_string(response->status));
    } else if (answer.value("model", "") != model || answer.value("pid", 0) != lease.pid()) {
      journal_.failed("wrong_backend", model, tag,
                      "another backend answered at " + lease.address());
    } else {
      journal_.answered(model, tag, lease.pid(), now_ns() - started_ns);
    }
  }

  void send_hanging(Lease& lease, const std::string& tag, const std::stop_token& stop) {
    httplib::Client client = client_for(lease.address());
    {
      const MutexLock lock(hanging_mutex_);
      hanging_ = &client;
    }
    if (options_.cancellable) static_cast<void>(lease.on_cancel([this] { cut_hanging(); }));
    const auto response = client.Get("/hang");
    {
      const MutexLock lock(hanging_mutex_);
      hanging_ = nullptr;
    }
    if (stop.stop_requested()) return;
    if (lease.cancelled())
      return journal_.failed("cancelled", lease.model(), tag, lease.cancel_reason());
    if (!response) return broke_off(lease, tag, response.error());
    journal_.failed("bad_answer", lease.model(), tag, "/hang was answered");
  }

  // Was it the pool that ended the backend under this request, or did the backend fail by itself?
  void broke_off(Lease& lease, const std::string& tag, httplib::Error error) {
    const std::string what = "the connection broke (" + httplib::to_string(error) + ")";
    const Result<> lives = lease.progress();
    if (!lives) {
      journal_.failed(
          "cut", lease.model(), tag,
          what + ", " + std::string(errc_name(lives.error().code)) + ": " + lives.error().text);
    } else {
      journal_.failed("broken", lease.model(), tag, what + ", the lease still stands");
    }
  }

  const Options& options_;
  Pool pool_;
  Journal& journal_;
  std::atomic<std::size_t> mix_{0};
  std::atomic<std::uint64_t> requests_{0};
  std::atomic<bool> hang_pending_;
  Mutex hanging_mutex_;
  httplib::Client* hanging_ MODELPOOL_GUARDED_BY(hanging_mutex_) = nullptr;
};

sigset_t signals_taken() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : kEndSignals) sigaddset(&signals, signal);
  sigaddset(&signals, SIGUSR1);
  return signals;
}

// Until the duration is over or a signal says so. REQUIRES: the signals are blocked.
void take_signals(const Options& options, Worker& worker) {
  const sigset_t signals = signals_taken();
  const std::uint64_t until_ns =
      options.duration_ns == 0 ? kNever_ns : add_ns(now_ns(), options.duration_ns);
  for (;;) {
    const std::uint64_t left_ns = std::min(age_ns(until_ns, now_ns()), 3600 * kSecond_ns);
    if (left_ns == 0) return;
    timespec wait{};
    wait.tv_sec = static_cast<time_t>(left_ns / kSecond_ns);
    wait.tv_nsec = static_cast<long>(left_ns % kSecond_ns);
    const int signal = sigtimedwait(&signals, nullptr, &wait);
    if (signal < 0) continue;
    if (signal != SIGUSR1) return;
    worker.next_mix();
  }
}

int run(const Options& options) {
  // Before any thread, so that all of them inherit it.
  const sigset_t signals = signals_taken();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  PoolOptions pool_options;
  pool_options.dir = options.dir;
  Result<Pool> pool = Pool::attach(options.pool, pool_options);
  if (!pool) {
    std::fprintf(stderr, "%s: %s: %s\n", options.name.c_str(),
                 std::string(errc_name(pool.error().code)).c_str(), pool.error().text.c_str());
    return kExitNoPool;
  }
  Journal journal(options.name, options.log);
  Worker worker(options, std::move(*pool), journal);
  std::stop_source stop;
  std::vector<std::future<void>> threads;
  for (int i = 0; i < options.threads; ++i) {
    threads.push_back(std::async(
        std::launch::async, [&worker, i, token = stop.get_token()] { worker.serve(i, token); }));
  }
  take_signals(options, worker);
  stop.request_stop();
  for (const std::future<void>& thread : threads) {
    // Again and again: stopping ends only a request that is under way, and it may be about to
    // begin.
    do worker.cut_hanging();
    while (thread.wait_for(kStopAgain) != std::future_status::ready);
  }
  journal.summary();
  return 0;
}

// "chat=3,code": models with their weights, 1 if not given.
Result<Mix> parse_mix(const std::string& text) {
  Mix mix;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    const std::string one = text.substr(at, end - at);
    at = end + 1;
    const std::size_t equals = one.rfind('=');
    Weighted weighted{one.substr(0, equals)};
    if (const Result<> valid = check_model_name(weighted.model); !valid) return fail(valid.error());
    if (equals != std::string::npos) {
      const Result<std::uint64_t> weight = parse_count(one.substr(equals + 1), kWeightMax);
      if (!weight || *weight == 0) {
        return fail(Errc::kInvalid, "unable to read models: the weight in " + quote(one) +
                                        " is not a number from 1 to " + std::to_string(kWeightMax));
      }
      weighted.weight = static_cast<double>(*weight);
    }
    mix.push_back(std::move(weighted));
  }
  return mix;
}

Result<std::uint64_t> parse_seed(std::string_view text) { return parse_count(text, UINT32_MAX); }

Result<> check(const Options& options) {
  const auto wrong = [](const std::string& reason) {
    return fail(Errc::kInvalid, "unable to read arguments: " + reason);
  };
  if (options.name.empty() || !is_printable_utf8(options.name))
    return wrong("--name is unprintable");
  if (!(options.requests_per_second > 0 && options.requests_per_second <= 1e6)) {
    return wrong("--requests-per-second takes more than 0, up to 1000000");
  }
  if (options.threads < 1 || options.threads > kThreadsMax) {
    return wrong("--threads takes 1 to " + std::to_string(kThreadsMax));
  }
  // "4294967295-hang" has to follow it.
  if (options.tag_prefix.size() > 16 || !is_printable_utf8(options.tag_prefix)) {
    return wrong("--tag-prefix takes 16 printable bytes at most");
  }
  if (!options.hang_once.empty()) {
    const bool known = std::any_of(options.mixes.begin(), options.mixes.end(), [&](const Mix& mix) {
      return std::any_of(mix.begin(), mix.end(),
                         [&](const Weighted& one) { return one.model == options.hang_once; });
    });
    if (!known) return wrong("--hang-once names none of --models");
  }
  return check_pool_name(options.pool);
}

Result<Options> read_options(int argc, char** argv, std::string& help) {
  Options options;
  Flags flags(
      "A small worker of a model server for modelpool's demo and tests. It requests models at\n"
      "random, loads with demo_backend what is not loaded, and ends with a JSON summary on stdout\n"
      "after --duration or on SIGTERM. SIGUSR1: go on with the next --models.",
      "demo_worker");
  flags.add("--pool", "NAME", &options.pool, "pool to attach to [default]");
  flags.add("--dir", "DIR", &options.dir, "directory of its segment");
  flags.add("--name", "NAME", &options.name, "what its lines begin with [worker]");
  flags.take_each(
      "--models", "MODEL[=WEIGHT],...",
      [&options](const std::string& text) -> Result<> {
        Result<Mix> mix = parse_mix(text);
        if (!mix) return fail(mix.error());
        options.mixes.push_back(std::move(*mix));
        return {};
      },
      "models to request, with weights [1]; given again: what SIGUSR1 goes on with");
  flags.require("--models");
  flags.add("--backend", "PATH", &options.backend, "the program demo_backend");
  flags.require("--backend");
  flags.add("--backend-output", "FILE", &options.backend_output,
            "append what backends print [discarded]");
  flags.add("--requests-per-second", "N", &options.requests_per_second, "of all threads [10]");
  flags.add("--threads", "N", &options.threads, "requests at once [2]");
  flags.take("--request-time", "DURATION", parsed(&options.request_time_ns, parse_duration),
             "of one request, half of it to half as much again [100ms]");
  flags.take("--duration", "DURATION", parsed(&options.duration_ns, parse_duration),
             "end after that long [off]");
  flags.take("--seed", "N", parsed(&options.seed, parse_seed), "of its random choices [1]");
  flags.take("--memory", "SIZE", parsed(&options.memory_bytes, parse_size),
             "of each backend, resident [0]");
  flags.take("--load-time", "DURATION", parsed(&options.load_time_ns, parse_duration),
             "of each backend [0]");
  flags.add("--hang-once", "MODEL", &options.hang_once,
            "the first request of this model never ends by itself; its tag ends in -hang");
  flags.add("--cancellable", "", &options.cancellable,
            "end that request when the pool asks for it, before its backend is killed");
  flags.add("--tag-prefix", "TEXT", &options.tag_prefix, "of the tags, before their number [none]");
  flags.add("--log", "", &options.log,
            "a line for each load and each answer too, not only for errors");
  const Result<std::string> asked = flags.parse(argc, argv);
  if (!asked) {
    return fail(Errc::kInvalid,
                "unable to read arguments: " + asked.error().text + "; see demo_worker --help");
  }
  help = *asked;
  if (!help.empty()) return options;
  if (const Result<> valid = check(options); !valid) {
    return fail(Errc::kInvalid, valid.error().text + "; see demo_worker --help");
  }
  return options;
}

}  // namespace
}  // namespace modelpool

int main(int argc, char** argv) {
  constexpr int kFailed = modelpool::kExitFailed;
  return modelpool::run_program("demo_worker", {kFailed, kFailed}, [&] {
    std::string help;
    const modelpool::Result<modelpool::Options> options = modelpool::read_options(argc, argv, help);
    if (!options) {
      std::fprintf(stderr, "%s\n", options.error().text.c_str());
      return modelpool::kExitUsage;
    }
    if (help.empty()) return modelpool::run(*options);
    std::fputs(help.c_str(), stdout);
    return 0;
  });
}
