// How fast things pass from one process to the next:
//   exit_to_grant   a victim's last instruction -> the waiter for its place holds the ticket
//   ready_to_64     ready() is called -> the last of 64 waiters in 8 processes holds its lease
//   kill_to_clear   kill -9 of a worker -> its leases are cleared, seen by who looks now and then
// and, in the same run, the floor of each: what the system alone takes.
//   exit_to_pidfd, kill_to_pidfd   the same end of a process -> who waits at its pidfd runs
//   futex_to_64     the same 64 threads, each at a futex word of its own, woken in a plain loop
#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/time.hpp"
#include "flags/flags.hpp"
#include "measure.hpp"
#include "support/daemon.hpp"
#include "support/pool.hpp"

namespace modelpool::bench {
namespace {

Lease ready(LoadTicket& ticket, const ReadyOptions& options = {}) {
  auto lease =
      ticket.ready("unix:/" + ticket.model(), options);  // nobody listens: that is not measured
  if (!lease) throw std::runtime_error(lease.error().text);
  return std::move(*lease);
}

void need(bool held, const std::string& what) {
  if (!held) throw std::runtime_error("gave up waiting until " + what);
}

std::uint64_t signalled_ns(const Backend& backend) {
  const auto when = backend.signalled_ns();
  if (!when) throw std::runtime_error("a backend ended without a word");
  return *when;
}

// --- From the exit of the victim -----------------------------------------------------------------

// With room for one, each model is the victim of the next.
void measure_exit(Report& report, int samples) {
  const test::Scratch scratch;
  const test::BackendsEnd backends_end(scratch);
  const test::Daemon daemon(scratch, {"--max-backends", "1"});
  Pool pool = test::attach(scratch);
  std::vector<double> grants_ms;
  std::optional<Backend> victim;
  for (int i = 0; i <= samples; ++i) {
    LoadTicket ticket = test::ticket_for(pool, "m" + std::to_string(i));
    const std::uint64_t granted_ns = now_ns();
    if (victim) grants_ms.push_back(ms_between(signalled_ns(*victim), granted_ns));
    victim.emplace(scratch, ticket);
    victim->wait_until_up();
    ready(ticket).release();
  }
  report.add("exit_to_grant", grants_ms);

  std::vector<double> floor_ms;
  for (int i = 0; i < samples; ++i) {
    need(pool.evict("m" + std::to_string(samples)).has_value(), "an eviction was asked for");
    const std::uint64_t gone_ns = victim->wait_until_gone();
    floor_ms.push_back(ms_between(signalled_ns(*victim), gone_ns));
    LoadTicket ticket = test::ticket_for(pool, "m" + std::to_string(samples));
    victim.emplace(scratch, ticket);
    victim->wait_until_up();
    ready(ticket).release();
  }
  report.add("exit_to_pidfd", floor_ms);
}

// --- From ready to 64 waiters --------------------------------------------------------------------

constexpr std::size_t kProcesses = 8;
constexpr std::size_t kThreads = 8;
constexpr std::size_t kWaiters = kProcesses * kThreads;

struct alignas(64) Waiter {
  HalfWord word;  // waited on in a round of the floor
  Word woken_ns;  // of this round; 0: still waiting
};
struct Rounds {
  HalfWord round;  // odd rounds wait for a model, even ones at their futex word
  std::array<Waiter, kWaiters> waiters;

  std::uint64_t woken() const {
    std::uint64_t count = 0;
    for (const Waiter& waiter : waiters) count += waiter.woken_ns.load() != 0;
    return count;
  }
  std::uint64_t last_woken_ns() const {
    std::uint64_t last = 0;
    for (const Waiter& waiter : waiters) last = std::max(last, waiter.woken_ns.load());
    return last;
  }
};

std::string model_of(std::uint32_t round) { return "round" + std::to_string(round); }

void wait_in_rounds(Pool& pool, Rounds& rounds, Waiter& self) {
  for (std::uint32_t seen = 0;;) {
    futex_wait(rounds.round, seen, kNever_ns);
    const std::uint32_t round = rounds.round.load();
    if (round == seen) continue;
    seen = round;
    if (round % 2 == 1) {
      const Lease lease = test::lease_on(pool, model_of(round));
      self.woken_ns.store(now_ns());
    } else {
      while (self.word.load() != round) futex_wait(self.word, self.word.load(), kNever_ns);
      self.woken_ns.store(now_ns());
    }
  }
}

// Does every thread of the process sleep?
bool sleeps(pid_t pid) {
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
    const std::string stat = test::read_file(task.path() / "stat");
    if (stat.find(") S ") == std::string::npos) return false;
  }
  return true;
}

void measure_ready(Report& report, int samples) {
  const test::Scratch scratch;
  const test::Daemon daemon(scratch);
  const test::SharedMemory<Rounds> rounds;
  std::vector<std::unique_ptr<test::Forked>> processes;
  for (std::size_t p = 0; p < kProcesses; ++p) {
    processes.push_back(std::make_unique<test::Forked>([&, p](test::Forked::Child&) {
      Pool pool = test::attach(scratch);
      std::vector<std::jthread> threads;
      for (std::size_t t = 0; t < kThreads; ++t) {
        Waiter& self = rounds->waiters[p * kThreads + t];
        threads.emplace_back([&] { wait_in_rounds(pool, *rounds.operator->(), self); });
      }
    }));
  }
  const auto all_sleep = [&] {
    return std::all_of(processes.begin(), processes.end(),
                       [](const auto& process) { return sleeps(process->pid()); });
  };
  Pool pool = test::attach(scratch);
  need(test::eventually([&] { return test::look(pool).workers.size() == kProcesses + 1; }),
       "all processes are attached");

  std::vector<double> pool_ms;
  std::vector<double> floor_ms;
  ReadyOptions external;
  external.external = true;
  for (std::uint32_t round = 1; round <= 2 * static_cast<std::uint32_t>(samples); ++round) {
    std::optional<LoadTicket> ticket;
    if (round % 2 == 1) ticket = test::ticket_for(pool, model_of(round));
    need(test::eventually(all_sleep), "all threads wait for the next round");
    for (Waiter& waiter : rounds->waiters) waiter.woken_ns.store(0);
    rounds->round.store(round);
    futex_wake_all(rounds->round);
    if (ticket) {
      need(test::eventually([&] { return test::look(pool).waiters.size() == kWaiters; }),
           "all threads stand in line");
    }
    need(test::eventually(all_sleep), "all threads sleep");

    Lease own;
    const std::uint64_t begun_ns = now_ns();
    if (ticket) {
      own = ready(*ticket, external);
    } else {
      for (Waiter& waiter : rounds->waiters) {
        waiter.word.store(round);
        futex_wake_all(waiter.word);
      }
    }
    need(test::eventually([&] { return rounds->woken() == kWaiters; }), "all threads woke up");
    (ticket ? pool_ms : floor_ms).push_back(ms_between(begun_ns, rounds->last_woken_ns()));
    if (!ticket) continue;
    own.release();
    need(pool.evict(model_of(round)).has_value() &&
             test::eventually([&] { return test::look(pool).backends.empty(); }),
         "the model is gone");
  }
  report.add("ready_to_64", pool_ms);
  report.add("futex_to_64", floor_ms);
}

// --- From the kill of a worker -------------------------------------------------------------------

constexpr int kLeases = 16;
constexpr std::uint64_t kBetweenLooks_ns = 10 * kMicrosecond_ns;

void measure_kill(Report& report, int samples) {
  const test::Scratch scratch;
  const test::Daemon daemon(scratch);
  Pool pool = test::attach(scratch);
  test::load_external(pool, "m").release();
  const BackendRef backend = test::look(pool).find_model("m")->ref;
  std::vector<double> clear_ms;
  std::vector<double> floor_ms;
  for (int i = 0; i < 2 * samples; ++i) {
    const bool is_floor = i % 2 == 1;
    test::Forked worker([&](test::Forked::Child& child) {
      Pool own = test::attach(scratch);
      std::vector<Lease> leases;
      for (int n = 0; n < kLeases; ++n) leases.push_back(test::lease_on(own, "m"));
      child.say("holds");
      child.hear();
    });
    need(worker.hear() == "holds", "a worker has its leases");
    const auto process = ProcessHandle::open(worker.pid());
    need(process.has_value(), "a worker is known");
    const std::uint64_t killed_ns = now_ns();
    worker.signal(SIGKILL);
    if (is_floor) {
      floor_ms.push_back(ms_between(killed_ns, wait_until_gone(*process)));
      need(test::eventually([&] { return !any_lease_names(segment_of(pool), backend); }),
           "the leases are cleared");
    } else {
      const std::uint64_t give_up_ns = killed_ns + 30 * kSecond_ns;
      while (any_lease_names(segment_of(pool), backend)) {
        need(now_ns() < give_up_ns, "the leases are cleared");
        sleep_ns(kBetweenLooks_ns);
      }
      clear_ms.push_back(ms_between(killed_ns, now_ns()));
    }
  }
  report.add("kill_to_clear", clear_ms);
  report.add("kill_to_pidfd", floor_ms);
}

int run(int samples) {
  prctl(PR_SET_TIMERSLACK, 1);  // looks now and then, not 50 us later
  Report report("handover", "ms");
  report.note("leases_of_killed_worker", kLeases);
  std::cerr << "handover: exit of a victim, " << samples << " samples" << std::endl;
  measure_exit(report, samples);
  std::cerr << "handover: ready to " << kWaiters << " waiters" << std::endl;
  measure_ready(report, samples);
  std::cerr << "handover: kill of a worker" << std::endl;
  measure_kill(report, samples);
  report.print();
  return 0;
}

}  // namespace
}  // namespace modelpool::bench

int main(int argc, char** argv) {
  modelpool::Flags flags("Measures how fast places, models and leases pass on. JSON on stdout.",
                         "bench_handover");
  int samples = 100;
  flags.add_positive("--samples", "N", &samples, "of each hand-over [100]");
  if (const auto code = flags.parse_or_end(argc, argv)) return *code;
  try {
    return modelpool::bench::run(samples);
  } catch (const std::exception& e) {
    std::cerr << "unable to measure hand-over: " << e.what() << std::endl;
    return 2;
  }
}
