// Compares rules: runs a trace through the real ones in virtual time and prints one JSON line.
//
//   sim_policy --trace FILE | --workload NAME [--seed N] [--set NAME=VALUE]... [--patience D]
//     [--doubt X] [--spare-nobody] [--least]
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/duration.hpp"
#include "base/time.hpp"
#include "flags/flags.hpp"
#include "named_traces.hpp"
#include "offline.hpp"
#include "policy_pool.hpp"

namespace modelpool::sim {
namespace {

Result<> set(const std::string& text, PoolSettings* settings) {
  const std::size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  const SettingInfo* const info = find_setting(name);
  if (info == nullptr) return fail(Errc::kInvalid, "there is no setting " + name);
  auto entry = parse_entry(*info, equals == std::string::npos ? "" : text.substr(equals + 1));
  if (!entry) return fail(entry.error());
  settings->pool.set(std::move(*entry));
  return {};
}

double seconds(double ns) { return ns / static_cast<double>(kSecond_ns); }

int run(int argc, char** argv) {
  std::string path;
  std::string name;
  std::uint64_t seed = 1;
  double doubt = 0;
  std::vector<std::string> given;
  std::uint64_t patience_ns = kNever_ns;
  Flags flags("Runs a trace of requests through the pool's rules, in virtual time", "sim_policy");
  flags.add("--trace", "FILE", &path, "what is asked for (tests/sim/trace.hpp)");
  std::string names;
  for (const std::string_view known : trace_names()) names += " " + std::string(known);
  flags.add("--workload", "NAME", &name, "one that is made by chance:" + names);
  flags.add("--seed", "N", &seed, "of the chance [1]");
  flags.take_each(
      "--set", "NAME=VALUE",
      [&given](const std::string& text) -> Result<> {
        PoolSettings scratch;
        given.push_back(text);
        return set(text, &scratch);
      },
      "a setting of the pool; max-backends and max-memory are the trace's");
  flags.take(
      "--patience", "DURATION",
      [&patience_ns](const std::string& text) -> Result<> {
        const auto duration = parse_duration(text);
        if (!duration) return fail(duration.error());
        patience_ns = *duration == 0 ? kNever_ns : *duration;
        return {};
      },
      "how long a request waits for its model [off]");
  flags.add("--doubt", "X", &doubt, "load times are known only up to a factor of exp(N(0, X)) [0]");
  bool spares_nobody = false;
  flags.add("--spare-nobody", "", &spares_nobody,
            "one after the other goes until it fits, needed or not, as rules before these did");
  bool least = false;
  flags.add("--least", "", &least,
            "also the fewest loads and the least load_s of who knows all requests and serves them "
            "in their order");
  if (const auto code = flags.parse_or_end(argc, argv)) return *code;
  if (path.empty() == name.empty()) {
    std::fprintf(stderr, "sim_policy: give either --trace FILE or --workload NAME\n");
    return 2;
  }
  const auto trace = name.empty() ? read_trace(path) : make_trace(name, seed);
  if (!trace) {
    std::fprintf(stderr, "sim_policy: %s\n", trace.error().text.c_str());
    return 2;
  }
  PoolSettings settings;
  settings.pool.set(Setting::kMaxBackends, trace->places);
  settings.pool.set(Setting::kMaxMemory, trace->memory_bytes);
  settings.pool.set(Setting::kLoadTimeout, 0);
  for (const std::string& text : given) static_cast<void>(set(text, &settings));
  PolicyPool pool(*trace, settings, patience_ns);
  pool.doubt_load_times(doubt, seed);
  if (spares_nobody) pool.spare_nobody();
  const PolicyFigures figures = pool.run();
  nlohmann::ordered_json line{{"requests", figures.requests},
                              {"loads", figures.loads},
                              {"load_s", seconds(static_cast<double>(figures.load_ns))},
                              {"mean_wait_s", seconds(figures.mean_wait_ns)},
                              {"p99_wait_s", seconds(static_cast<double>(figures.p99_wait_ns))},
                              {"max_wait_s", seconds(static_cast<double>(figures.max_wait_ns))},
                              {"timeouts", figures.timeouts}};
  if (figures.rare_requests > 0) {
    line["rare_requests"] = figures.rare_requests;
    line["rare_timeouts"] = figures.rare_timeouts;
  }
  if (figures.cut > 0) line["cut"] = figures.cut;
  if (trace->memory_bytes > 0) {
    line["sets"] = figures.sets;
    line["wasted"] = figures.wasted;
  }
  if (least) {
    const LeastLoads bound = least_loads(*trace);
    line["least_loads"] = bound.loads;
    line["least_load_s"] = seconds(static_cast<double>(bound.load_ns));
  }
  std::printf("%s\n", line.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace modelpool::sim

int main(int argc, char** argv) { return modelpool::sim::run(argc, argv); }
