// Simulates pools by hand: sim_run --workload busy --seed 7 --seeds 100 --years 2. Ends with 1 and
// the seed if the oracle found something, or if nothing happened.
#include <cstdio>
#include <ctime>

#include "flags/flags.hpp"
#include "world.hpp"

namespace modelpool::sim {
namespace {

constexpr double kYear_ns = 365.0 * 86'400 * kSecond_ns;

int run(const std::string& only, std::uint64_t first, std::uint64_t seeds, double years,
        std::uint64_t decisions) {
  int code = 0;
  bool any = false;
  for (const Workload& w : workloads()) {
    if (!only.empty() && w.name != only) continue;
    any = true;
    Counters all;
    double passed_ns = 0;
    const std::clock_t start = std::clock();
    for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
      World world(w, seed);
      world.run(years == 0 ? kNever_ns / 2 : static_cast<std::uint64_t>(years * kYear_ns),
                decisions);
      const Counters& c = world.counters();
      passed_ns += static_cast<double>(world.passed_ns());
      all.decisions += c.decisions;
      all.requests += c.requests;
      all.leases += c.leases;
      all.loads += c.loads;
      all.failed_loads += c.failed_loads;
      all.evictions += c.evictions;
      all.kills += c.kills;
      all.drains += c.drains;
      all.timeouts += c.timeouts;
      all.restarts += c.restarts;
      all.worker_deaths += c.worker_deaths;
      for (const std::string& violation : world.violations()) {
        std::printf("FAILED: sim_run --workload %s --seed %ju: %s\n", w.name.c_str(),
                    std::uintmax_t{seed}, violation.c_str());
        code = 1;
      }
    }
    const double took = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    std::printf(
        "%s: %.3f years in %.1f s of CPU, %ju decisions (%.2f million a minute), %ju requests, %ju "
        "leases, %ju loads "
        "(%ju failed), %ju evictions, %ju kills, %ju drains, %ju timeouts, %ju restarts, %ju "
        "worker deaths\n",
        w.name.c_str(), passed_ns / kYear_ns, took, std::uintmax_t{all.decisions},
        static_cast<double>(all.decisions) / took * 60e-6, std::uintmax_t{all.requests},
        std::uintmax_t{all.leases}, std::uintmax_t{all.loads}, std::uintmax_t{all.failed_loads},
        std::uintmax_t{all.evictions}, std::uintmax_t{all.kills}, std::uintmax_t{all.drains},
        std::uintmax_t{all.timeouts}, std::uintmax_t{all.restarts},
        std::uintmax_t{all.worker_deaths});
    if (all.leases == 0 || all.loads == 0) {
      std::printf("FAILED: %s: nothing was leased or loaded\n", w.name.c_str());
      code = 1;
    }
  }
  if (!any) std::printf("FAILED: there is no workload %s\n", only.c_str());
  return any ? code : 1;
}

}  // namespace
}  // namespace modelpool::sim

int main(int argc, char** argv) {
  modelpool::Flags flags("Simulates pools around the real decide", "sim_run");
  std::string only;
  std::uint64_t seed = 1;
  std::uint64_t seeds = 1;
  std::uint64_t decisions = 100'000;
  double years = 0;
  flags.add("--workload", "NAME", &only, "busy, lru, memory, placed, drain... [all of them]");
  flags.add("--seed", "N", &seed, "the first [1]");
  flags.add("--seeds", "N", &seeds, "so many, one after the other [1]");
  flags.add("--years", "N", &years, "of virtual time; 0: no limit [0]");
  flags.add("--decisions", "N", &decisions, "at most, per seed [100000]");
  if (const auto code = flags.parse_or_end(argc, argv)) return *code;
  return modelpool::sim::run(only, seed, seeds, years, decisions);
}
