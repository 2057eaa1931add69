// The memory orders of the lease protocol: the real library, run in every order and with every
// value C++ allows (explorer.hpp). With the orders as they stand nothing goes wrong; with any one
// seq_cst access made weaker something does, or it is on the list of those that are stronger than
// needed.
//
// Whoever weakens an order in the library makes NothingGoesWrong fail; whoever adds a seq_cst
// access to these words makes EachSeqCstAccessIsNeeded fail until it is shown to be needed, or
// listed.
#include <gtest/gtest.h>

#include <iostream>
#include <map>
#include <memory>

#include "base/time.hpp"
#include "explorer.hpp"
#include "pool/inside.hpp"
#include "protocol/cancel.hpp"
#include "protocol/leases.hpp"
#include "protocol/parallel.hpp"
#include "protocol/slots.hpp"
#include "protocol/snapshot.hpp"
#include "support/scratch.hpp"

namespace modelpool::model {
namespace {

constexpr std::uint32_t kEpoch = 7;
constexpr BackendRef kBackend{0, 1};

// One pool for all scenarios: a backend slot, an attached worker whose first lease is behind it,
// and one row more. Small, so that a snapshot of it is quick.
class Stage {
 public:
  Stage() : segment_(make()), reader_(segment_) {
    auto attached = Worker::attach(segment_);
    if (!attached) throw std::runtime_error(attached.error().text);
    worker_ = *attached;
    make_ready();
    end_lease(begin_now());
  }

  const Segment& segment() const { return *segment_; }
  Worker& worker() const { return *worker_; }
  const Snapshot& look() { return reader_.read(); }
  BackendRecord& backend() const { return segment_->backend(kBackend.index); }
  LeaseRecord& lease_record(std::uint32_t row = 0) const { return segment_->lease(row, 0); }

  void make_ready() const {
    backend().state.store(StateWord{1, 0, BackendState::kReady}.pack(), std::memory_order_seq_cst);
    backend().model.store("llama");
    lease_record(0).word.store(0, std::memory_order_seq_cst);
    segment_->coordinator().wanted.store(0, std::memory_order_seq_cst);
    segment_->coordinator().horizon_ns.store(kNever_ns, std::memory_order_seq_cst);
    segment_->line().backends_reached.store(1, std::memory_order_seq_cst);
    segment_->line().workers_reached.store(1, std::memory_order_seq_cst);
    for (std::size_t row = 0; row <= segment_->coordinator_row(); ++row) {
      segment_->last_used(row, kBackend.index).store(0, std::memory_order_seq_cst);
    }
  }
  LeaseRef begin_now() const {
    LeaseRef lease;
    if (begin_lease(*worker_, kBackend, 0, "", &lease) != BeginResult::kGranted)
      throw std::runtime_error("no lease");
    return lease;
  }
  bool in_flight() {
    for (const BackendView& b : look().backends) return b.in_flight > 0;
    return false;
  }
  std::uint32_t rings() const {
    return segment_->coordinator().doorbell.load(std::memory_order_seq_cst);
  }

  Worker* newcomer() const {
    auto attached = Worker::attach(segment_);
    if (!attached) throw std::runtime_error(attached.error().text);
    return *attached;
  }

 private:
  std::shared_ptr<Segment> make() {
    Capacities capacities;
    capacities.backends = 1;
    capacities.workers = 2;
    capacities.leases = 1;
    capacities.waiters = 1;
    capacities.events = 1;
    capacities.models = 1;
    SegmentOptions options;
    options.dir = scratch_.dir();
    options.capacities = capacities;
    auto segment = Segment::attach("default", options);
    if (!segment) throw std::runtime_error(segment.error().text);
    return *segment;
  }

  test::Scratch scratch_;
  std::shared_ptr<Segment> segment_;
  SnapshotReader reader_;
  Worker* worker_ = nullptr;
};

Stage& stage() {
  static Stage stage;
  return stage;
}

// enforce.cpp, stop_or_take_back() of an eviction: close, scan, stop if nobody is there.
bool evict(bool* closed = nullptr) {
  const Segment& segment = stage().segment();
  if (!close_to_leases(segment, kBackend, kEpoch)) return false;
  if (closed != nullptr) *closed = true;
  if (any_lease_names(segment, kBackend)) return false;
  return commit_stop(segment, kBackend, kEpoch);
}

// A lease begins while its backend is evicted: granted and stopped is the one thing that must not
// be.
Scenario begin_against_evict() {
  struct Result {
    bool granted = false;
    bool stopped = false;
    LeaseRef lease;
  };
  auto result = std::make_shared<Result>();
  return {
      "begin against evict",
      {{stage().backend().state, "state"}, {stage().lease_record().word, "lease"}},
      [=] {
        *result = {};
        stage().make_ready();
      },
      {[=] {
         result->granted = begin_lease(stage().worker(), kBackend, 0, "", &result->lease) ==
                           BeginResult::kGranted;
       },
       [=] { result->stopped = evict(); }},
      [=] { return result->granted && result->stopped; },
      [=] {
        if (result->granted) end_lease(result->lease);
      },
      {{"granted", [=] { return result->granted; }}, {"stopped", [=] { return result->stopped; }}}};
}

// The same for the first lease of a worker that attaches just now: rows and cells that a scan
// skips.
Scenario first_begin_against_evict() {
  struct Result {
    bool granted = false;
    bool stopped = false;
    Worker* worker = nullptr;
    LeaseRef lease;
  };
  auto result = std::make_shared<Result>();
  WorkerRecord& row = stage().segment().worker(1);
  return {
      "first begin of a row against evict",
      {{stage().backend().state, "state"},
       {stage().lease_record(1).word, "lease"},
       {row.state, "row"},
       {row.leases_high, "leases_high"},
       {stage().segment().line().workers_reached, "workers_reached"}},
      [=] {
        *result = {};
        stage().make_ready();
      },
      {[=] {
         result->worker = stage().newcomer();
         result->granted =
             begin_lease(*result->worker, kBackend, 0, "", &result->lease) == BeginResult::kGranted;
       },
       [=] { result->stopped = evict(); }},
      [=] { return result->granted && result->stopped; },
      [=] {
        if (result->granted) end_lease(result->lease);
        result->worker->close();
      },
      {{"granted", [=] { return result->granted; }}, {"stopped", [=] { return result->stopped; }}}};
}

// The loader publishes its own lease, then opens the backend: it must not be evicted under it.
Scenario ready_against_evict() {
  struct Result {
    bool ready = false;
    bool closed = false;
    bool stopped = false;
    LeaseRef lease;
  };
  auto result = std::make_shared<Result>();
  return {"ready against evict",
          {{stage().backend().state, "state"}, {stage().lease_record().word, "lease"}},
          [=] {
            *result = {};
            stage().make_ready();
            stage().backend().state.store(
                StateWord{1, stage().worker().owner_word(), BackendState::kStarting}.pack(),
                std::memory_order_seq_cst);
          },
          {[=] {
             publish_lease(stage().worker(), kBackend, 0, "", &result->lease);
             result->ready = publish_ready(stage().segment(), kBackend,
                                           stage().worker().owner_word(), "x:1", {})
                                 .has_value();
           },
           [=] { result->stopped = evict(&result->closed); }},
          [=] { return result->ready && result->stopped; },
          [=] { withdraw_lease(result->lease); },
          {{"ready", [=] { return result->ready; }},
           {"closed too early", [=] { return result->ready && !result->closed; }},
           {"found leased", [=] { return result->closed; }}}};
}

// The judge's side of an eviction for idleness that was decided when last-used was `seen_ns`:
// close, scan the leases, read last-used again.
struct IdleEviction {
  std::uint64_t seen_ns = 0;
  bool found_lease = false;
  bool found_none = false;
  bool stopped = false;

  void run() {
    const Segment& segment = stage().segment();
    if (!close_to_leases(segment, kBackend, kEpoch)) return;
    (any_lease_names(segment, kBackend) ? found_lease : found_none) = true;
    if (found_none && latest_use_ns(segment, kBackend.index) == seen_ns) {
      stopped = commit_stop(segment, kBackend, kEpoch);
    }
  }
  static std::vector<Scenario::Outcome> outcomes(const std::shared_ptr<IdleEviction>& eviction) {
    return {{"the lease was found", [=] { return eviction->found_lease; }},
            {"its end was read from last-used", [=] { return eviction->found_none; }}};
  }
};

// A lease that was in flight when idleness was decided ends while its backend is closed: it left
// its mark in last-used before its word was cleared.
Scenario end_against_idle_evict() {
  auto eviction = std::make_shared<IdleEviction>();
  auto lease = std::make_shared<LeaseRef>();
  return {"end against the last-used evidence",
          {{stage().backend().state, "state"},
           {stage().lease_record().word, "lease"},
           {stage().segment().last_used(0, kBackend.index), "last_used"}},
          [=] {
            *eviction = {};
            stage().make_ready();
            *lease = stage().begin_now();
          },
          {[=] { end_lease(*lease); }, [=] { eviction->run(); }},
          [=] { return eviction->stopped; },
          [] {},
          IdleEviction::outcomes(eviction)};
}

// The same for a lease of a dead worker that is cleared by somebody else: a worker that attaches
// clears what an earlier program of its process left.
Scenario clear_against_idle_evict() {
  auto eviction = std::make_shared<IdleEviction>();
  WorkerRecord& row = stage().segment().worker(0);
  const WorkerRef dead = stage().worker().ref();
  return {"clearing a dead worker's row against the last-used evidence",
          {{stage().backend().state, "state"},
           {stage().lease_record().word, "lease"},
           {stage().segment().last_used(0, kBackend.index), "last_used"}},
          [=] {
            *eviction = {};
            stage().make_ready();
            stage().lease_record().word.store(
                LeaseWord{kBackend.generation, kBackend.index, 9}.pack(),
                std::memory_order_seq_cst);
          },
          {[=] { clear_worker_row(stage().segment(), dead, 0); }, [=] { eviction->run(); }},
          [=] { return eviction->stopped; },
          [=, &row] {
            row.state.store(
                pack_half(dead.generation, static_cast<std::uint32_t>(WorkerState::kAttached)),
                std::memory_order_seq_cst);
          },
          IdleEviction::outcomes(eviction)};
}

// A lease asks for more time and ends, while its backend is closed for the little that was asked
// for before: what it asked for is read once its word is found cleared.
Scenario keep_alive_against_idle_evict() {
  constexpr std::uint32_t kSeen = pack_keep_alive(0);
  auto eviction = std::make_shared<IdleEviction>();
  auto lease = std::make_shared<LeaseRef>();
  return {"a longer keep_alive against an idle eviction",
          {{stage().backend().state, "state"},
           {stage().lease_record().word, "lease"},
           {stage().backend().keep_alive, "keep_alive"}},
          [=] {
            *eviction = {};
            stage().make_ready();
            stage().backend().keep_alive.store(pack_half(kBackend.generation, kSeen),
                                               std::memory_order_seq_cst);
            *lease = stage().begin_now();
          },
          {[=] {
             set_keep_alive(stage().segment(), kBackend, kKeepForEver);
             end_lease(*lease);
           },
           [=] {
             const Segment& segment = stage().segment();
             if (!close_to_leases(segment, kBackend, kEpoch)) return;
             (any_lease_names(segment, kBackend) ? eviction->found_lease : eviction->found_none) =
                 true;
             if (eviction->found_none && load_keep_alive(segment, kBackend) == kSeen) {
               eviction->stopped = commit_stop(segment, kBackend, kEpoch);
             }
           }},
          [=] { return eviction->stopped; },
          [] {},
          IdleEviction::outcomes(eviction)};
}

// The last lease ends while the coordinator begins to wait for that: it sees it, or is rung.
Scenario end_against_wanted() {
  struct Result {
    bool seen_in_flight = false;
    std::uint32_t rings = 0;
    LeaseRef lease;
  };
  auto result = std::make_shared<Result>();
  return {
      "end against wanted",
      {{stage().segment().coordinator().wanted, "wanted"}, {stage().lease_record().word, "lease"}},
      [=] {
        *result = {};
        stage().make_ready();
        result->lease = stage().begin_now();
        result->rings = stage().rings();
      },
      {[=] { end_lease(result->lease); },
       [=] {
         store_wanted(stage().segment(), 1);
         result->seen_in_flight = stage().in_flight();
       }},
      [=] { return result->seen_in_flight && stage().rings() == result->rings; },
      [] {},
      {{"seen in flight", [=] { return result->seen_in_flight; }},
       {"rung", [=] { return stage().rings() != result->rings; }}}};
}

// A backend begins to count its leases while one of before ends: whoever waits for a place on it
// does not see that one, or is woken.
Scenario end_against_counted() {
  struct Result {
    bool seen_in_flight = false;
    std::uint32_t wakes = 0;
    LeaseRef lease;
  };
  auto result = std::make_shared<Result>();
  WaiterRecord& waiter = stage().segment().waiter(0);
  return {"end against counted",
          {{stage().backend().state, "state"}, {stage().lease_record().word, "lease"}},
          [=, &waiter] {
            *result = {};
            stage().make_ready();
            stage().backend().parallel.store(pack_half(kBackend.generation, 1),
                                             std::memory_order_seq_cst);
            result->lease = stage().begin_now();
            Segment::reach(stage().segment().line().waiters_reached, 0);
            waiter.model_hash.store(stage().backend().model_hash.load(std::memory_order_seq_cst),
                                    std::memory_order_seq_cst);
            waiter.deadline_ns.store(kNever_ns, std::memory_order_seq_cst);
            waiter.looked_ns.store(now_ns(), std::memory_order_seq_cst);
            waiter.state.store(pack_half(1, static_cast<std::uint32_t>(WaiterState::kWaiting)),
                               std::memory_order_seq_cst);
            result->wakes = waiter.wake.load(std::memory_order_seq_cst);
          },
          {[=] { end_lease(result->lease); },
           [=] {
             settle_counted(stage().segment(), kBackend, nullptr);
             result->seen_in_flight = stage().in_flight();
           }},
          [=, &waiter] {
            return result->seen_in_flight &&
                   waiter.wake.load(std::memory_order_seq_cst) == result->wakes;
          },
          [&waiter] {
            waiter.state.store(0, std::memory_order_seq_cst);
            stage().backend().parallel.store(0, std::memory_order_seq_cst);
          },
          {{"seen in flight", [=] { return result->seen_in_flight; }},
           {"woken", [=, &waiter] {
              return waiter.wake.load(std::memory_order_seq_cst) != result->wakes;
            }}}};
}

// cancel_watch.cpp, serve(): the count, then what it stands for.
struct HoldersLook {
  std::uint32_t cancels = 0;
  bool is_asked = false;

  void look(const LeaseRef& lease) {
    cancels = stage().segment().worker(0).cancels.load(std::memory_order_seq_cst);
    is_asked = modelpool::is_asked(lease);
  }
};

void clear_cancel_words(const LeaseName& before = {}, std::uint64_t at_ns = 0) {
  LeaseRecord& record = stage().lease_record();
  record.cancel_word.store(before.word, std::memory_order_seq_cst);
  record.cancel_start_ns.store(before.start_ns, std::memory_order_seq_cst);
  record.cancel_at_ns.store(at_ns, std::memory_order_seq_cst);
}

// The judge asks a holder for the end of his lease while he looks: he finds the ask, or a count
// that moves on from what he saw, and does not sleep.
Scenario ask_against_look() {
  auto look = std::make_shared<HoldersLook>();
  auto lease = std::make_shared<LeaseRef>();
  WorkerRecord& row = stage().segment().worker(0);
  const auto is_woken = [=, &row] {
    return row.cancels.load(std::memory_order_seq_cst) != look->cancels;
  };
  return {"ask against the holder's look",
          {{row.cancels, "cancels"},
           {stage().lease_record().cancel_word, "cancel_word"},
           {stage().lease_record().cancel_start_ns, "cancel_start"}},
          [=] {
            *look = {};
            stage().make_ready();
            clear_cancel_words();
            *lease = stage().begin_now();
          },
          {[=] { ask_holder(stage().segment(), 0, lease->cell, name_of(*lease)); },
           [=] { look->look(*lease); }},
          [=] { return !look->is_asked && !is_woken(); },
          [=] { end_lease(*lease); },
          {{"found", [=] { return look->is_asked; }}, {"woken", is_woken}}};
}

// A lease is asked for whose word was asked for before, a wrap of its sequence ago: whoever finds
// it asked finds no grace that began then.
Scenario ask_against_grace() {
  constexpr std::uint64_t kLongAgo_ns = 5;
  struct Result {
    bool cancelled = false;
    std::uint64_t at_ns = 0;
    LeaseRef lease;
  };
  auto result = std::make_shared<Result>();
  LeaseRecord& record = stage().lease_record();
  return {"ask against the grace of an earlier one",
          {{record.cancel_word, "cancel_word"},
           {record.cancel_start_ns, "cancel_start"},
           {record.cancel_at_ns, "cancel_at"}},
          [=] {
            *result = {};
            stage().make_ready();
            result->lease = stage().begin_now();
            const LeaseName own = name_of(result->lease);
            clear_cancel_words({own.word, own.start_ns - 1}, kLongAgo_ns);
          },
          {[=] { ask_holder(stage().segment(), 0, result->lease.cell, name_of(result->lease)); },
           [=] {
             for (const LeaseView& lease : stage().look().leases) {
               result->cancelled = lease.cancelled();
               result->at_ns = lease.cancel_at_ns;
             }
           }},
          [=] { return result->cancelled && result->at_ns == kLongAgo_ns; },
          [=] {
            end_lease(result->lease);
            clear_cancel_words();
          },
          {{"not yet asked", [=] { return !result->cancelled; }},
           {"no grace yet", [=] { return result->cancelled && result->at_ns == kNever_ns; }},
           {"in its grace", [=] { return result->cancelled && result->at_ns != kNever_ns; }}}};
}

// A lease with a limit of its own begins while the coordinator decides when to look next: it is
// planned for, or rings. `fresh`: it is the first of its row.
Scenario begin_against_horizon(bool fresh) {
  struct Result {
    bool planned = false;
    std::uint32_t rings = 0;
    bool granted = false;
    Worker* worker = nullptr;
    LeaseRef lease;
  };
  auto result = std::make_shared<Result>();
  const CoordinatorRecord& coordinator = stage().segment().coordinator();
  WorkerRecord& row = stage().segment().worker(1);
  std::vector<Explored> words = {{coordinator.horizon_ns, "horizon"},
                                 {stage().lease_record(fresh ? 1 : 0).word, "lease"}};
  if (fresh) {
    words.emplace_back(row.state, "row");
    words.emplace_back(row.leases_high, "leases_high");
    words.emplace_back(stage().segment().line().workers_reached, "workers_reached");
  }
  return {
      fresh ? "first begin of a row against horizon" : "begin against horizon",
      words,
      [=] {
        *result = {};
        stage().make_ready();
        store_horizon(stage().segment(), 1);  // it was to look at once
        result->worker = fresh ? nullptr : &stage().worker();
      },
      {[=] {
         if (fresh) result->worker = stage().newcomer();  // which rings, too
         result->rings = stage().rings();
         result->granted = begin_lease(*result->worker, kBackend, kSecond_ns, "", &result->lease) ==
                           BeginResult::kGranted;
         result->rings = stage().rings() - result->rings;
       },
       [=] {
         store_horizon(stage().segment(), kNever_ns);
         result->planned = stage().in_flight();
         store_horizon(stage().segment(), kNever_ns - 1);
       }},
      [=] { return result->granted && !result->planned && result->rings == 0; },
      [=] {
        if (result->granted) end_lease(result->lease);
        if (fresh) result->worker->close();
      },
      {{"planned", [=] { return result->planned; }}, {"rung", [=] { return result->rings != 0; }}}};
}

// A slot that was never used gets its first backend, which is leased with a limit, while the
// coordinator decides when to look next. Its ready would ring; not counted here.
Scenario first_backend_against_horizon() {
  struct Result {
    bool planned = false;
    std::uint32_t rings = 0;
    bool granted = false;
    LeaseRef lease;
  };
  auto result = std::make_shared<Result>();
  const Segment& segment = stage().segment();
  return {
      "first backend of a slot against horizon",
      {{segment.coordinator().horizon_ns, "horizon"},
       {stage().lease_record().word, "lease"},
       {segment.line().backends_reached, "backends_reached"}},
      [=, &segment] {
        *result = {};
        stage().make_ready();
        stage().backend().state.store(StateWord{1, 0, BackendState::kFree}.pack(),
                                      std::memory_order_seq_cst);
        segment.line().backends_reached.store(0, std::memory_order_seq_cst);
        store_horizon(segment, 1);
      },
      {[=, &segment] {
         const Worker& worker = stage().worker();
         {
           auto lock = segment.lock_structure();
           if (!lock || !reserve(segment, *lock, worker.ref(), "llama", 1)) return;
         }
         note_parallel(segment, kBackend, {});  // it counts no leases
         ReadyOptions external;
         external.external = true;
         {
           auto lock = segment.lock_structure();
           if (!publish_ready(segment, kBackend, worker.owner_word(), "x:1", external, &*lock))
             return;
         }
         result->rings = stage().rings();
         result->granted = begin_lease(stage().worker(), kBackend, kSecond_ns, "",
                                       &result->lease) == BeginResult::kGranted;
         result->rings = stage().rings() - result->rings;
       },
       [=, &segment] {
         store_horizon(segment, kNever_ns);
         result->planned = stage().in_flight();
         store_horizon(segment, kNever_ns - 1);
       }},
      [=] { return result->granted && !result->planned && result->rings == 0; },
      [=] {
        if (result->granted) end_lease(result->lease);
      },
      {{"planned", [=] { return result->planned; }}, {"rung", [=] { return result->rings != 0; }}}};
}

std::vector<Scenario> scenarios() {
  return {
      begin_against_evict(),       first_begin_against_evict(),     ready_against_evict(),
      end_against_idle_evict(),    clear_against_idle_evict(),      keep_alive_against_idle_evict(),
      end_against_wanted(),        end_against_counted(),           begin_against_horizon(false),
      begin_against_horizon(true), first_backend_against_horizon(), ask_against_look(),
      ask_against_grace()};
}

// seq_cst accesses that could be weaker, and why. They cost nothing where they are.
const std::map<std::string, std::string>& stronger_than_needed() {
  static const std::map<std::string, std::string> kList = {
      {"find_free_row load row", "under the mutex; free rows are taken by nobody else"},
      {"attach_at_once store leases_high",
       "what a scan may read instead is the last owner's: higher, so it looks further"},
      {"ask_holder store cancel_word", "its readers need what was stored before it, no more"},
      {"ask_holder cas cancels", "it releases the words before it to the look that reads it"},
      {"is_asked load cancel_word", "the count it follows, or the word itself, was acquired"},
      {"look load cancels", "the words are read after it; a later ask changes it"},
      {"read load cancel_word", "shown, or read again before a deed"},
      {"clear_worker_row cas lease", "it releases the stamp before it to the scan that reads it"},
      {"clear_worker_row load lease", "a CAS of the same word decides"},
      {"load_state load state",
       "looked at before a CAS that decides, or twice with what was read in between"},
      {"read_what_moves load state", "shown, or looked at before a CAS that decides"},
  };
  return kList;
}

TEST(MemoryOrders, NothingGoesWrongWithTheOrdersAsTheyStand) {
  for (const Scenario& scenario : scenarios()) {
    const Exploration found = explore(scenario);
    EXPECT_FALSE(found.violated) << scenario.name << " went wrong:\n" << found.steps;
    std::cout << scenario.name << ": " << found.executions << " executions\n";
    EXPECT_GT(found.executions, scenario.outcomes.size()) << scenario.name;
    EXPECT_FALSE(scenario.outcomes.empty()) << scenario.name << " does not say what it shows";
    for (const Scenario::Outcome& outcome : scenario.outcomes) {
      EXPECT_TRUE(found.outcomes.contains(outcome.name))
          << scenario.name << ": \"" << outcome.name << "\" never came about";
    }
  }
}

// What leaves out orders leaves out nothing that shows: of all scenarios but the two whose orders
// take minutes, with each access made weaker, the same is met and goes wrong.
TEST(MemoryOrders, OneOrderOfEachKindShowsWhatAllOrdersShow) {
  for (const Scenario& scenario : scenarios()) {
    if (scenario.words.size() > 3) continue;
    std::set<std::string> weakened = explore(scenario, "", Orders::kAll).sites;
    weakened.insert("");
    for (const std::string& site : weakened) {
      const Exploration one = explore(scenario, site);
      const Exploration all = explore(scenario, site, Orders::kAll);
      EXPECT_EQ(one.violated, all.violated) << scenario.name << ", " << site;
      if (all.violated) continue;  // it stopped there
      EXPECT_LT(one.executions, all.executions) << scenario.name << ", " << site;
      EXPECT_EQ(one.outcomes, all.outcomes) << scenario.name << ", " << site;
      EXPECT_EQ(one.sites, all.sites) << scenario.name << ", " << site;
    }
  }
}

TEST(MemoryOrders, EachSeqCstAccessIsNeeded) {
  std::set<std::string> sites;
  std::map<std::string, std::string> needed_by;
  for (const Scenario& scenario : scenarios()) {
    for (const std::string& site : explore(scenario).sites) {
      sites.insert(site);
      if (needed_by.contains(site)) continue;
      if (explore(scenario, site).violated) needed_by[site] = scenario.name;
    }
  }
  for (const std::string& site : sites) {
    const auto needed = needed_by.find(site);
    const auto listed = stronger_than_needed().find(site);
    std::cout << site << ": "
              << (needed != needed_by.end() ? "needed, " + needed->second
                                            : std::string("not needed"))
              << "\n";
    EXPECT_NE(needed == needed_by.end(), listed == stronger_than_needed().end())
        << site
        << (listed == stronger_than_needed().end() ? " is not needed, and not listed"
                                                   : " is needed, but listed");
  }
  for (const auto& [site, why] : stronger_than_needed())
    EXPECT_TRUE(sites.contains(site)) << site << " is not met any more";
}

}  // namespace
}  // namespace modelpool::model
