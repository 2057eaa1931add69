// How late timeouts are enforced (P8): from the deadline until the coordinator sends SIGTERM, until
// the backend has it, and until its process is gone; for busy, idle and load timeouts, on a quiet
// and a saturated machine.
//
// Each sample has two zero points. `limit`: the limit after the call that began it (a lease, its
// end, a ticket), by the precise clock, read before the call; so it says the latest, and a negative
// one is a timeout that came early. `due`: the stamp in the segment + limit + the resolution that
// is added to it: what the coordinator aims at.
//
// The samples come from several models at once, each begun at a random moment, so that no sample
// depends on when another ended.
#include <algorithm>
#include <atomic>
#include <future>
#include <iostream>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/duration.hpp"
#include "base/time.hpp"
#include "flags/flags.hpp"
#include "measure.hpp"
#include "support/daemon.hpp"
#include "support/pool.hpp"

namespace modelpool::bench {
namespace {

constexpr std::uint64_t kLimit_ns = 200 * kMillisecond_ns;
constexpr int kModelsAtOnce = 4;

enum class Rule { kBusy, kIdle, kLoad };

std::string name_of(Rule rule) {
  return rule == Rule::kBusy ? "busy" : rule == Rule::kIdle ? "idle" : "load";
}

// What is added to the limit because the stamp may be older than what it stands for.
std::uint64_t stamp_resolution_ns(Rule rule) {
  return rule == Rule::kLoad ? 0 : stamp_lag_max_ns();
}

struct Sample {
  std::uint64_t begun_ns = 0;  // read before the call
  std::uint64_t stamp_ns = 0;  // as the segment has it
  std::uint64_t sent_ns = 0;   // as the stop record has it: read just after the signal
  std::uint64_t signalled_ns = 0;
  std::uint64_t gone_ns = 0;
};

std::uint64_t stamp_of(const BackendView& backend, Rule rule) {
  if (rule == Rule::kLoad) return backend.reserved_ns;
  return rule == Rule::kBusy ? backend.oldest_start_ns : backend.last_used_ns;
}

// When the coordinator sent the signal. nullopt if the slot has a new life already.
std::optional<std::uint64_t> sent_ns(const Pool& pool, BackendRef ref) {
  StopRecord stop;
  const auto is_known = [&] {  // it is written just after the signal
    stop = segment_of(pool).backend(ref.index).stop.load();
    return stop.generation != ref.generation || stop.signalled_ns != 0;
  };
  if (!test::eventually(is_known) || stop.generation != ref.generation) return std::nullopt;
  return stop.signalled_ns;
}

void sleep_random(std::uint64_t longest_ns) {
  thread_local std::mt19937_64 random{std::random_device{}()};
  sleep_ns(std::uniform_int_distribution<std::uint64_t>(0, longest_ns)(random));
}

// One timeout. nullopt if it passed before the stamp was read or the backend was up, or the slot
// was taken again before its record was read.
std::optional<Sample> take_sample(const test::Scratch& scratch, Pool& pool,
                                  const std::string& model, Rule rule) {
  Sample sample;
  if (rule == Rule::kLoad) sleep_random(kLimit_ns);
  sample.begun_ns = now_ns();
  LoadTicket ticket = test::ticket_for(pool, model);
  Backend backend(scratch, ticket);
  Lease lease;
  if (rule != Rule::kLoad) {
    backend.wait_until_up();
    auto loaded = ticket.ready("unix:/" + model);  // nobody listens: that is not measured
    if (!loaded) throw std::runtime_error(loaded.error().text);
    lease = std::move(*loaded);
    if (rule == Rule::kBusy) lease.release();
    sleep_random(kLimit_ns);
    sample.begun_ns = now_ns();
    if (rule == Rule::kBusy) {
      lease = test::lease_on(pool, model);
    } else {
      lease.release();
    }
  }
  const Snapshot snapshot = test::look(pool);
  const BackendView* slot = snapshot.find_model(model);
  sample.gone_ns = backend.wait_until_gone();
  const auto signalled = backend.signalled_ns();
  const auto sent = slot == nullptr ? std::nullopt : sent_ns(pool, slot->ref);
  if (!signalled || !sent) return std::nullopt;
  sample.stamp_ns = stamp_of(*slot, rule);
  sample.sent_ns = *sent;
  sample.signalled_ns = *signalled;
  return sample;
}

std::vector<Sample> take_samples(Rule rule, int count) {
  const test::Scratch scratch;
  const test::BackendsEnd backends_end(scratch);
  const test::Daemon daemon(scratch,
                            {"--" + name_of(rule) + "-timeout", format_duration(kLimit_ns)});
  Pool pool = test::attach(scratch);
  std::atomic<int> next{0};
  const auto take_turns = [&] {
    std::vector<Sample> samples;
    for (int turn = next++; turn < count; turn = next++) {
      std::optional<Sample> sample;
      for (int attempt = 0; !sample; ++attempt) {
        const std::string model = "m" + std::to_string(turn) + "-" + std::to_string(attempt);
        sample = take_sample(scratch, pool, model, rule);
      }
      samples.push_back(*sample);
    }
    return samples;
  };
  std::vector<std::future<std::vector<Sample>>> models;
  for (int i = 0; i < kModelsAtOnce; ++i)
    models.push_back(std::async(std::launch::async, take_turns));
  std::vector<Sample> samples;
  for (auto& model : models) {
    for (const Sample& sample : model.get()) samples.push_back(sample);
  }
  return samples;
}

// Adds the measures of these samples. Returns how many timeouts came early.
std::size_t report(Report& report, const std::string& name, Rule rule,
                   const std::vector<Sample>& samples) {
  std::size_t early_in_all = 0;
  // Stamps that were older than the stated resolution: the whole machine had been stopped
  // (DESIGN.md).
  const auto is_of_a_stopped_machine = [rule](const Sample& sample) {
    return sample.begun_ns > sample.stamp_ns + stamp_resolution_ns(rule);
  };
  const auto stopped = std::count_if(samples.begin(), samples.end(), is_of_a_stopped_machine);
  if (stopped > 0) report.note(name + "/stamps_of_a_stopped_machine", stopped);
  const bool is_rare = 50 * static_cast<std::size_t>(stopped) <= samples.size();
  if (!is_rare) early_in_all += static_cast<std::size_t>(stopped);  // then it is something else
  const auto add = [&](const std::string& what, std::uint64_t Sample::*seen,
                       std::uint64_t Sample::*zero, std::uint64_t limit_ns) {
    std::vector<double> late_ms;
    for (const Sample& sample : samples)
      late_ms.push_back(ms_between(sample.*zero + limit_ns, sample.*seen));
    const auto early = std::count_if(samples.begin(), samples.end(), [&](const Sample& sample) {
      return sample.*seen < sample.*zero + limit_ns && !is_of_a_stopped_machine(sample);
    });
    report.add(name + "/" + what, late_ms)["early"] = early;
    early_in_all += static_cast<std::size_t>(early);
  };
  const std::uint64_t due_ns = kLimit_ns + stamp_resolution_ns(rule);
  add("sent/due", &Sample::sent_ns, &Sample::stamp_ns, due_ns);
  add("signalled/due", &Sample::signalled_ns, &Sample::stamp_ns, due_ns);
  add("signalled/limit", &Sample::signalled_ns, &Sample::begun_ns, kLimit_ns);
  add("gone/due", &Sample::gone_ns, &Sample::stamp_ns, due_ns);
  add("gone/limit", &Sample::gone_ns, &Sample::begun_ns, kLimit_ns);
  return early_in_all;
}

int run(int samples) {
  Report all("lateness", "ms");
  all.note("limit_ms", to_ms(kLimit_ns));
  all.note("stamp_resolution_ms", to_ms(stamp_resolution_ns(Rule::kBusy)));
  std::size_t early = 0;
  for (const bool full : {false, true}) {
    std::optional<FullLoad> load;
    if (full) load.emplace();
    for (const Rule rule : {Rule::kBusy, Rule::kIdle, Rule::kLoad}) {
      const std::string name = name_of(rule) + (full ? "/full" : "/light");
      std::cerr << "lateness: " << name << ", " << samples << " samples" << std::endl;
      early += report(all, name, rule, take_samples(rule, samples));
    }
  }
  all.print();
  if (early > 0) std::cerr << "lateness: " << early << " measures are early" << std::endl;
  return early == 0 ? 0 : 1;
}

}  // namespace
}  // namespace modelpool::bench

int main(int argc, char** argv) {
  modelpool::Flags flags(
      "Measures how late busy, idle and load timeouts are enforced. JSON on stdout.",
      "bench_lateness");
  int samples = 200;
  flags.add_positive("--samples", "N", &samples, "of each rule under each load [200]");
  if (const auto code = flags.parse_or_end(argc, argv)) return *code;
  try {
    return modelpool::bench::run(samples);
  } catch (const std::exception& e) {
    std::cerr << "unable to measure lateness: " << e.what() << std::endl;
    return 2;
  }
}
