#include "crash/stage.hpp"

#include <linux/futex.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <set>
#include <stdexcept>

#include "protocol/check.hpp"

namespace modelpool::test {
namespace {

const std::vector<std::pair<std::string, std::string>> kPoolSettings{
    {"max_backends", std::to_string(kLimit)},
    {"load_cooldown", "1ms..1ms"},
    {"stop_grace", "20ms"},
    {"settle", "50ms"}};

Capacities capacities() {
  Capacities few;
  few.backends = 6;
  few.workers = 6;
  few.leases = 8;
  few.waiters = 4;
  few.events = 64;
  few.models = 8;
  return few;
}

// The model's lease or ticket; also after a failed load, whose cool-down is short here.
Grant obtain(Pool& pool, const std::string& model, std::chrono::nanoseconds patience) {
  for (;;) {
    auto granted = pool.acquire(model, patience);
    if (granted) return std::move(*granted);
    if (granted.error().code != Errc::kCoolingDown && granted.error().code != Errc::kLoadFailed) {
      throw std::runtime_error(granted.error().text);
    }
  }
}

}  // namespace

Stage::Stage(std::chrono::nanoseconds patience) : patience_(patience) {
  Forked creator([&](Forked::Child&) {
    Pool pool = attach();
    ReadyOptions pinned;
    pinned.pinned = true;
    load_external(pool, "resident", pinned);
  });
  if (creator.wait() != 0) throw std::runtime_error("unable to create a pool");
  auto segment = Segment::open_read_only("default", scratch_.dir());
  if (!segment) throw std::runtime_error(segment.error().text);
  segment_ = *segment;
}

Stage::~Stage() = default;

std::shared_ptr<Segment> Stage::map() const {
  return make_segment(scratch_, kPoolSettings, capacities());
}

Pool Stage::attach() const { return make_pool(scratch_, kPoolSettings, capacities()); }

std::unique_ptr<coordinator::Loop> Stage::make_judge() const {
  if (std::freopen(scratch_.path("judge.log").c_str(), "a", stderr) == nullptr) _exit(71);
  coordinator::set_up_log(coordinator::LogLevel::kError, coordinator::LogFormat::kText);
  coordinator::Options options;
  options.dir = scratch_.dir();
  auto loop = coordinator::Loop::make(options, settings_of(kPoolSettings),
                                      std::move(*coordinator::Notifier::make(-1)));
  if (!loop) throw std::runtime_error(loop.error().text);
  return std::move(*loop);
}

void Stage::start_judge() {
  if (judge_) return;
  judge_ = std::make_unique<Forked>([&](Forked::Child&) { make_judge()->run(); });
}

void Stage::stop_judge() {
  if (!judge_) return;
  judge_->signal(SIGTERM);
  judge_->wait();
  judge_.reset();
}

void Stage::kill_judge() {
  judge_->kill_now();
  judge_.reset();
}

Forked& Stage::add_helper(const Part& part) {
  helpers_.push_back(std::make_unique<Forked>([&](Forked::Child& child) {
    Pool pool = attach();
    part(pool, child);
  }));
  if (helpers_.back()->hear().empty()) throw std::runtime_error("a helper has failed");
  return *helpers_.back();
}

pid_t Stage::add_bystander() {
  helpers_.push_back(std::make_unique<Forked>([](Forked::Child& child) {
    setsid();
    child.say("ready");
    child.hear();
  }));
  helpers_.back()->hear();
  bystander_ = helpers_.back()->pid();
  return bystander_;
}

// The one who comes next, in a process of its own.
void Stage::come_next(const std::string& model, Forked::Child& child) const {
  try {
    Pool pool = attach();
    lease_on(pool, "resident", patience_).release();
    {
      Grant grant = obtain(pool, model, patience_);
      if (auto* ticket = std::get_if<LoadTicket>(&grant)) {
        ReadyOptions external;
        external.external = true;
        auto lease = ticket->ready("127.0.0.1:1", external);
        if (!lease) throw std::runtime_error(lease.error().text);
      }
    }
    for (const BackendView& b : test::look(pool).backends) {
      if (b.live() && b.model != "resident") static_cast<void>(pool.evict(b.model));
    }
    child.say("ok");

    if (child.hear().empty()) return;
    std::vector<Grant> tickets;
    for (;;) {
      auto granted =
          pool.acquire("filler-" + std::to_string(tickets.size()), std::chrono::seconds(0));
      if (!granted) break;
      tickets.push_back(std::move(*granted));
    }
    child.say(std::to_string(tickets.size()));
  } catch (const std::exception& e) {
    child.say(e.what());
  }
}

std::string Stage::contradictions() const {
  const Snapshot s = look();
  std::string text;
  for (const std::string& finding : check_invariants(s, false)) text += finding + "; ";
  if (s.live() > kLimit) text += std::to_string(s.live()) + " backends are live; ";
  return text;
}

std::string Stage::unrecorded() const { return strangers(look(), 0); }

// The children here that are neither the judge nor a live backend nor `next`.
std::string Stage::strangers(const Snapshot& s, pid_t next) const {
  std::set<pid_t> known{next};
  if (judge_) known.insert(judge_->pid());
  for (const BackendView& b : s.backends) {
    if (b.live()) known.insert(b.process.pid);
  }
  std::string text;
  for (const pid_t child : Orphans::children()) {
    if (!known.contains(child)) text += "nobody knows process " + std::to_string(child) + "; ";
  }
  return text;
}

bool Stage::mutex_owner_died() const {
  const auto& word = segment_->lock().mutex.__data.__lock;
  return (__atomic_load_n(&word, __ATOMIC_SEQ_CST) & FUTEX_OWNER_DIED) != 0;
}

Stage::Aftermath Stage::examine(const std::string& model) {
  Aftermath found;
  const auto begin = std::chrono::steady_clock::now();
  Forked next([&](Forked::Child& child) { come_next(model, child); });
  const std::string said = next.hear();
  found.next_took = std::chrono::steady_clock::now() - begin;
  dismiss();
  if (said != "ok") {
    found.failure = "who came next failed: " + said;
    return found;
  }
  // Settled twice: between the two the pool is filled, so that no place is lost and none too many.
  const auto settle = [&](pid_t who) {
    if (!eventually([&] { return trouble(who).empty(); }, patience_)) found.failure = trouble(who);
    return found.failure.empty();
  };
  if (!settle(next.pid())) return found;
  next.say("fill");
  if (const std::string filled = next.hear(); filled != std::to_string(kLimit - 1)) {
    found.failure =
        filled + " backends could be loaded beside one, with a limit of " + std::to_string(kLimit);
    return found;
  }
  if (next.wait() != 0) found.failure = "who came next ended badly";
  settle(0);
  return found;
}

// What is not as it was at the start, but for one more worker; empty if nothing.
std::string Stage::trouble(pid_t next) const {
  const Snapshot s = look();
  std::string text;
  for (const std::string& finding : check_invariants(s, true)) text += finding + "; ";
  for (const WorkerView& worker : s.workers) {
    if (worker.process.pid != next)
      text += "worker row of " + std::to_string(worker.process.pid) + "; ";
  }
  if (!s.leases.empty()) text += std::to_string(s.leases.size()) + " leases are left; ";
  if (!s.waiters.empty()) text += std::to_string(s.waiters.size()) + " waiters are left; ";
  for (const BackendView& b : s.backends) {
    if (b.model != "resident" || b.state.state != BackendState::kReady) {
      text += b.model + " is " + std::string(backend_state_name(b.state.state)) + "; ";
    }
  }
  if (s.backends.empty()) text += "the resident is gone; ";
  return text.empty() ? strangers(s, next) : text;
}

}  // namespace modelpool::test
