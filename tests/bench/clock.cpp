// Which clock a lease should be stamped with: what each costs, and how far the coarse one lags
// behind (clock_lag), which is what stamp_lag_max_ns() claims to bound.
//
// The precise clock is read first, then the coarse one: a thread that is interrupted in between
// makes the lag look smaller, never larger. So one reading above the bound is a finding, however
// loaded the machine. For a long watch: bench_clock --seconds 3600
#include <time.h>

#include <array>
#include <atomic>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>
#ifdef __x86_64__
#include <x86intrin.h>
#endif

#include "flags/flags.hpp"
#include "measure.hpp"
#include "operations.hpp"

namespace modelpool::bench {
namespace {

// --- What a reading costs ------------------------------------------------------------------------

template <class Operation>
void measure_ns(Report& report, const std::string& name, Operation operation) {
  constexpr int kRounds = 21;
  constexpr int kTurns = 100'000;
  std::vector<double> samples;
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t begun_ns = now_ns();
    for (int turn = 0; turn < kTurns; ++turn) operation();
    samples.push_back(static_cast<double>(now_ns() - begun_ns) / kTurns);
  }
  report.add(name, samples);
}

// One reading; and the two stamps of a lease, between the exchanges that publish and clear its
// word.
template <class Clock>
void measure_clock(Report& report, const std::string& name, Clock clock) {
  alignas(64) static Word word, begin, end;
  measure_ns(report, name, [&] { use(clock()); });
  measure_ns(report, "lease_stamps/" + name, [&] {
    begin.store(clock(), std::memory_order_relaxed);
    word.exchange(1, std::memory_order_seq_cst);
    end.store(clock(), std::memory_order_relaxed);
    word.exchange(0, std::memory_order_seq_cst);
  });
}

void measure_costs(Report& report) {
  measure_clock(report, "no_clock", [] { return std::uint64_t{1}; });
  measure_clock(report, "coarse", stamp_now_ns);
  measure_clock(report, "precise", now_ns);
#ifdef __x86_64__
  measure_clock(report, "tsc", [] { return std::uint64_t{__rdtsc()}; });
#endif
}

// --- How far the coarse clock lags ---------------------------------------------------------------

class Lags {
 public:
  explicit Lags(std::uint64_t tick_ns) : tick_ns_(tick_ns) {}
  void read() {
    const std::uint64_t precise_ns = now_ns();
    const std::uint64_t lag_ns = age_ns(precise_ns, stamp_now_ns());
    most_ns_ = std::max(most_ns_, lag_ns);
    ++by_ticks_[std::min(lag_ns / tick_ns_, by_ticks_.size() - 1)];
  }
  void add(const Lags& other) {
    most_ns_ = std::max(most_ns_, other.most_ns_);
    for (std::size_t i = 0; i < by_ticks_.size(); ++i) by_ticks_[i] += other.by_ticks_[i];
  }
  void add_to(Report& report, const std::string& name) const {
    std::uint64_t readings = 0;
    for (const std::uint64_t count : by_ticks_) readings += count;
    report.add({{"name", name},
                {"max", static_cast<double>(most_ns_) / static_cast<double>(tick_ns_)},
                {"unit", "ticks"},
                {"samples", readings}});
    for (std::size_t ticks = 0; ticks < by_ticks_.size(); ++ticks) {
      if (by_ticks_[ticks] == 0) continue;
      const double percent =
          100 * static_cast<double>(by_ticks_[ticks]) / static_cast<double>(readings);
      std::ostringstream text;
      text << name << ": " << percent << " % by " << ticks << " to " << ticks + 1 << " ticks";
      report.remark(text.str());
    }
  }

 private:
  std::uint64_t tick_ns_;
  std::uint64_t most_ns_ = 0;
  std::array<std::uint64_t, 32> by_ticks_{};  // the last one: or more
};

// As many threads, each of which reads the clocks and then pauses.
template <class Pause>
Lags watch(unsigned threads, std::uint64_t seconds, std::uint64_t tick_ns, Pause pause) {
  std::vector<Lags> lags(threads, Lags(tick_ns));
  const std::uint64_t until_ns = now_ns() + seconds * kSecond_ns;
  {
    std::vector<std::jthread> running;
    for (unsigned t = 0; t < threads; ++t) {
      running.emplace_back([&, t] {
        Lags own(tick_ns);
        while (now_ns() < until_ns) {
          for (int i = 0; i < 100; ++i) {
            own.read();
            pause();
          }
        }
        lags[t] = own;
      });
    }
  }
  Lags sum(tick_ns);
  for (const Lags& of_one : lags) sum.add(of_one);
  return sum;
}

int run(std::uint64_t seconds) {
  timespec tick{};
  clock_getres(CLOCK_MONOTONIC_COARSE, &tick);
  const auto tick_ns = static_cast<std::uint64_t>(tick.tv_nsec);
  Report report("clock", "ns");
  report.remark("a tick is " + std::to_string(tick_ns / kMicrosecond_ns) +
                " us; a limit allows for " + std::to_string(stamp_lag_max_ns() / tick_ns) +
                " of lag");
  std::cerr << "clock: what a reading costs" << std::endl;
  measure_costs(report);
  const unsigned cpus = std::max(1u, std::thread::hardware_concurrency());
  std::cerr << "clock: lag, all CPUs at work" << std::endl;
  watch(4 * cpus, seconds, tick_ns, [] {}).add_to(report, "clock_lag/saturated");
  // An idle CPU has no tick: the first reading after it woke is the interesting one.
  std::cerr << "clock: lag, after waking up" << std::endl;
  watch(2, seconds, tick_ns, [] {
    sleep_ns(7 * kMillisecond_ns);
  }).add_to(report, "clock_lag/woken");
  report.print();
  return 0;
}

}  // namespace
}  // namespace modelpool::bench

int main(int argc, char** argv) {
  modelpool::Flags flags(
      "Measures what clocks cost and how far the coarse one lags. JSON on stdout.", "bench_clock");
  std::uint64_t seconds = 10;
  flags.add_positive("--seconds", "N", &seconds, "how long to watch the lag, twice [10]");
  if (const auto code = flags.parse_or_end(argc, argv)) return *code;
  return modelpool::bench::run(seconds);
}
