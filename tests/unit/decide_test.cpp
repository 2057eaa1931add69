#include "judge/decide.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <memory>
#include <string>
#include <vector>

#include "base/time.hpp"
#include "modelpool/settings.hpp"
#include "support/pool.hpp"

namespace modelpool::coordinator {
namespace {

using test::effective_of;

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

constexpr std::uint64_t kNow_ns = 1'000'000 * kSecond_ns;
constexpr std::uint64_t kTick_ns = kMillisecond_ns;  // resolution of the stamps
constexpr std::uint32_t kEpoch = 7;
constexpr WorkerRef kWorker{0, 1};
constexpr WorkerRef kOther{1, 4};
constexpr WorkerRef kNobody{9, 2};  // a row that is not attached

std::string text_of(const Action& action, const Snapshot& snapshot) {
  const BackendView* b = snapshot.find(action.backend);
  const std::string model = b == nullptr ? "?" : b->model;
  const std::string why = " " + std::string(reason_name(action.stop.reason));
  const std::string forced = action.stop.forced != 0 ? " forced" : "";
  switch (action.kind) {
    case ActionKind::kClose:
      return "close " + model + why + forced + (action.hold ? " and hold" : "");
    case ActionKind::kCommit:
      return "commit " + model + why + forced;
    case ActionKind::kReopen:
      return "reopen " + model + (action.drain_failed ? " undrained" : "");
    case ActionKind::kLoseTicket:
      return "lose " + model + why + (action.stop.failed == kLoadFailed ? " failed" : "");
    case ActionKind::kSignal:
      return "signal " + model + " " + signal_text(action.signal);
    case ActionKind::kMarkOverdue:
      return "overdue " + model;
    case ActionKind::kSettle:
      return "settle " + model;
    case ActionKind::kMarkGone:
      return "gone " + model;
    case ActionKind::kDisown:
      return "disown " + model;
    case ActionKind::kFree:
      return "free " + model;
    case ActionKind::kRecordEnd:
      return "note end of " + model;
    case ActionKind::kRecordLoad:
      return "note " + model;
    case ActionKind::kRefuseEvict:
      return "refuse " + model;
    case ActionKind::kAskToEnd:
      return "ask " + model + why;
    case ActionKind::kReapWorker:
      return "reap " + std::to_string(action.worker.index);
    case ActionKind::kClearWaiter:
      return "clear waiter " + std::to_string(action.waiter_row);
  }
  return "?";
}

// A pool by hand. Ages count back from now; what is not said is settled: two workers, backends
// noted as loaded and last used when they became ready, 100 s ago.
class Scene {
 public:
  Scene() {
    snapshot.now_ns = kNow_ns;
    snapshot.backends.reserve(256);
    facts.epoch = kEpoch;
    facts.stamp_resolution_ns = kTick_ns;
    worker(kWorker, 500);
    worker(kOther, 501);
  }

  Settings settings;
  Snapshot snapshot;
  Facts facts;

  Scene& set(Setting id, std::uint64_t value) {
    settings.pool.set(id, value);
    return *this;
  }
  void rule(const std::string& glob, Setting id, std::uint64_t value) {
    settings.rules.push_back({glob, {}});
    settings.rules.back().overrides.set(id, value);
  }
  void worker(WorkerRef ref, pid_t pid) {
    WorkerView view;
    view.ref = ref;
    view.process.pid = pid;
    snapshot.workers.push_back(view);
  }
  BackendView& backend(const std::string& model, BackendState state = BackendState::kReady) {
    BackendView b;
    const auto slot = static_cast<std::uint32_t>(snapshot.backends.size());
    b.ref = {slot, 3};
    b.state = {3, 0, state};
    b.model = model;
    b.process.pid = 1000 + static_cast<pid_t>(slot);
    b.group = b.process.pid;
    b.owner_pid = 500;
    b.reserved_ns = kNow_ns - 110 * kSecond_ns;
    b.ready_ns = kNow_ns - 100 * kSecond_ns;
    b.last_used_ns = b.ready_ns;
    b.noted = pack_half(
        3, static_cast<std::uint32_t>(state == BackendState::kGone ? BackendState::kGone
                                                                   : BackendState::kReady));
    snapshot.backends.push_back(b);
    return snapshot.backends.back();
  }
  BackendView& loading(const std::string& model, BackendState state, std::uint64_t age_ns,
                       WorkerRef holder = kWorker) {
    BackendView& b = backend(model, state);
    b.state.owner = StateWord::owner_of(holder);
    b.holder = pack_worker(holder);
    b.reserved_ns = kNow_ns - age_ns;
    b.ready_ns = b.last_used_ns = 0;
    if (state != BackendState::kGone) b.noted = 0;
    if (state == BackendState::kReserved) b.process.pid = 0;
    return b;
  }
  // Closed for `reason` by a coordinator of that epoch.
  BackendView& closed(const std::string& model, Reason reason, std::uint64_t age_ns = 0,
                      std::uint32_t epoch = kEpoch) {
    BackendView& b = backend(model, BackendState::kEvicting);
    b.state.owner = StateWord::owner_of_epoch(epoch);
    b.stop.generation = b.ref.generation;
    b.stop.reason = reason;
    b.stop.decided_ns = kNow_ns - age_ns;
    return b;
  }
  BackendView& stopping(const std::string& model) {
    BackendView& b = backend(model, BackendState::kStopping);
    b.stop.generation = b.ref.generation;
    b.stop.reason = Reason::kIdle;
    b.stop.stopping_ns = kNow_ns;
    return b;
  }
  LeaseView& lease(BackendView& b, std::uint64_t age_ns, WorkerRef holder = kWorker,
                   const std::string& tag = "") {
    LeaseView view;
    view.backend = b.ref;
    view.worker = holder.index;
    view.cell = static_cast<std::uint32_t>(snapshot.leases.size());
    view.word = LeaseWord{b.ref.generation, b.ref.index, 1 + view.cell}.pack();
    view.start_ns = view.progress_ns = kNow_ns - age_ns;
    view.tag = tag;
    ++b.in_flight;
    b.oldest_start_ns = std::min(b.oldest_start_ns, view.start_ns);
    b.newest_start_ns = std::max(b.newest_start_ns, view.start_ns);
    snapshot.leases.push_back(view);
    return snapshot.leases.back();
  }
  WaiterView& waiter(const std::string& model, std::uint64_t arrival = 0,
                     WorkerRef owner = kWorker) {
    WaiterView view;
    view.row = static_cast<std::uint32_t>(snapshot.waiters.size());
    view.generation = 2;
    view.owner = pack_worker(owner);
    view.model = model;
    view.arrival = arrival != 0 ? arrival : 100 + view.row;
    view.since_ns = kNow_ns - 10 * kMillisecond_ns;
    view.deadline_ns = kNow_ns + 30 * kSecond_ns;
    view.looked_ns = view.deadline_ns;  // it goes on looking until then
    snapshot.waiters.push_back(view);
    return snapshot.waiters.back();
  }

  Decision decide() {
    snapshot.settings = std::make_shared<const PoolSettings>(settings);
    for (BackendView& b : snapshot.backends) {
      b.effective =
          std::make_shared<const Effective>(effective_of(settings, b.model, &b.overrides));
    }
    return coordinator::decide(snapshot, facts);
  }
  std::vector<std::string> actions() {
    std::vector<std::string> texts;
    for (const Action& action : decide().actions) texts.push_back(text_of(action, snapshot));
    return texts;
  }
  // Until the next look, from now; kNever_ns if none is planned.
  std::uint64_t sleep_ns() {
    const std::uint64_t wake = decide().wake_ns;
    return wake == kNever_ns ? kNever_ns : wake - kNow_ns;
  }
  std::uint64_t wanted() { return decide().wanted; }
};

class DecideTest : public ::testing::Test, protected Scene {};

// --- Measured ------------------------------------------------------------------------------------

TEST_F(DecideTest, P11OneThatAloneIsAboveTheLimitIsKilledNamingWhatItTakesAndTheLimit) {
  set(Setting::kMaxMemory, 100 << 20);
  BackendView& b = backend("big");
  lease(b, kSecond_ns, kWorker, "req-7");
  b.measured.host = b.peak.host = 100 << 20;
  EXPECT_THAT(actions(), IsEmpty());
  b.measured.host = b.peak.host = 150 << 20;
  EXPECT_THAT(actions(), ElementsAre("close big over_limit forced"));
  const std::string text(field_text(decide().actions[0].stop.text));
  EXPECT_THAT(text, HasSubstr("by itself it takes 150MiB of memory, and max_memory is 100MiB"));
  EXPECT_THAT(text, HasSubstr("req-7"));
  b.measured.host = 90 << 20;
  EXPECT_THAT(actions(), Not(Contains("close big over_limit forced"))) << "it has shrunk";
}

TEST_F(DecideTest, ALoadThatIsAboveTheLimitAlreadyFails) {
  set(Setting::kMaxMemory, 100 << 20);
  loading("big", BackendState::kStarting, kSecond_ns).measured.host = 150 << 20;
  EXPECT_THAT(actions(), ElementsAre("lose big over_limit failed"));
}

TEST_F(DecideTest, P11AboveTheLimitInSumTheTextSaysHowMuchThatIs) {
  set(Setting::kMaxMemory, 100 << 20);
  backend("a").peak.host = 60 << 20;
  backend("b").peak.host = 60 << 20;
  const auto all = decide().actions;
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].stop.reason, Reason::kMemory);
  EXPECT_EQ(field_text(all[0].stop.text),
            "the pool's backends take 120MiB of memory, and max_memory is 100MiB");
}

// --- Busy and stall ------------------------------------------------------------------------------

TEST_F(DecideTest, ABusyTimeoutKillsWhenTheOldestLeaseIsAsOldAsTheLimitAndAClockTick) {
  set(Setting::kBusyTimeout, 10 * kSecond_ns);
  BackendView& a = backend("a");
  lease(a, 10 * kSecond_ns + kTick_ns);
  EXPECT_THAT(actions(), ElementsAre("close a busy forced"));
}

TEST_F(DecideTest, P8NothingBusyIsKilledANanosecondBeforeItsLimitAndAClockTick) {
  set(Setting::kBusyTimeout, 10 * kSecond_ns);
  BackendView& a = backend("a");
  lease(a, 10 * kSecond_ns + kTick_ns - 1);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 1u);
}

TEST_F(DecideTest, P11ABusyKillNamesTheLeaseItsWorkerItsTagItsAgeAndTheLimit) {
  set(Setting::kBusyTimeout, 10 * kSecond_ns);
  BackendView& a = backend("a");
  lease(a, 2 * kSecond_ns, kWorker, "young");
  const LeaseView& hung = lease(a, 12 * kSecond_ns, kOther, "hung");
  const Decision decision = decide();
  ASSERT_EQ(decision.actions.size(), 1u);
  const StopRecord& stop = decision.actions[0].stop;
  EXPECT_EQ(stop.reason, Reason::kBusy);
  EXPECT_EQ(stop.age_ns, 12 * kSecond_ns);
  EXPECT_EQ(stop.limit_ns, 10 * kSecond_ns);
  EXPECT_EQ(stop.worker, kOther.index);
  EXPECT_EQ(stop.worker_pid, 501u);
  EXPECT_EQ(stop.lease, hung.cell);
  EXPECT_EQ(stop.lease_word, hung.word);
  EXPECT_EQ(stop.lease_stamp_ns, hung.start_ns);
  EXPECT_EQ(field_text(stop.tag), "hung");
  EXPECT_EQ(decision.actions[0].seen, a.state);
}

TEST_F(DecideTest, OfSeveralHungLeasesTheOneThatBrokeItsRuleFirstIsNamed) {
  set(Setting::kBusyTimeout, 10 * kSecond_ns);
  BackendView& a = backend("a");
  lease(a, 20 * kSecond_ns, kWorker, "old");
  lease(a, 14 * kSecond_ns, kOther, "short").limit_ns = kSecond_ns;  // due 13 s ago, the other 10 s
  const Decision decision = decide();
  ASSERT_EQ(decision.actions.size(), 1u);
  EXPECT_EQ(field_text(decision.actions[0].stop.tag), "short");
  EXPECT_EQ(decision.actions[0].stop.limit_ns, kSecond_ns);
}

TEST_F(DecideTest, ALeasesOwnLimitHoldsWithoutAPoolLimitAndBelowItButNotAboveIt) {
  struct Row {
    std::uint64_t pool_s, own_s, age_s;
    bool killed;
  };
  for (const Row& row : {Row{0, 5, 6, true}, Row{0, 5, 5, false}, Row{10, 5, 6, true},
                         Row{10, 0, 6, false}, Row{10, 60, 11, true}, Row{0, 0, 1000, false}}) {
    Scene scene;
    scene.set(Setting::kBusyTimeout, row.pool_s * kSecond_ns);
    scene.lease(scene.backend("a"), row.age_s * kSecond_ns).limit_ns = row.own_s * kSecond_ns;
    EXPECT_EQ(!scene.actions().empty(), row.killed)
        << row.pool_s << " " << row.own_s << " " << row.age_s;
  }
}

TEST_F(DecideTest, TheBusyLimitOfAModelsRuleAndOfItsReadyWinOverThePools) {
  set(Setting::kBusyTimeout, kSecond_ns);
  rule("slow-*", Setting::kBusyTimeout, 60 * kSecond_ns);
  BackendView& ruled = backend("slow-1");
  BackendView& given = backend("slow-2");
  given.overrides.set(Setting::kBusyTimeout, 5 * kSecond_ns);
  BackendView& off = backend("slow-3");
  off.overrides.set(Setting::kBusyTimeout, 0);
  for (BackendView* b : {&ruled, &given, &off}) lease(*b, 30 * kSecond_ns);
  EXPECT_THAT(actions(), ElementsAre("close slow-2 busy forced"));
}

TEST_F(DecideTest, APinDoesNotExemptFromTheBusyTimeout) {
  set(Setting::kBusyTimeout, kSecond_ns);
  BackendView& a = backend("a");
  a.control = kControlPinned;
  lease(a, 2 * kSecond_ns);
  EXPECT_THAT(actions(), ElementsAre("close a busy forced"));
}

TEST_F(DecideTest, AStallTimeoutLooksAtTheProgressAndNotAtTheAgeOfALease) {
  set(Setting::kStallTimeout, 10 * kSecond_ns);
  BackendView& stream = backend("stream");
  lease(stream, 600 * kSecond_ns).progress_ns = kNow_ns - 9 * kSecond_ns;
  BackendView& hung = backend("hung");
  lease(hung, 600 * kSecond_ns, kWorker, "t").progress_ns = kNow_ns - 11 * kSecond_ns;
  const Decision decision = decide();
  ASSERT_EQ(decision.actions.size(), 1u);
  const StopRecord& stop = decision.actions[0].stop;
  EXPECT_EQ(text_of(decision.actions[0], snapshot), "close hung stall forced");
  EXPECT_EQ(stop.age_ns, 11 * kSecond_ns);
  EXPECT_EQ(stop.lease_stamp_ns, kNow_ns - 11 * kSecond_ns);
  EXPECT_EQ(sleep_ns(), kSecond_ns + kTick_ns) << "the stream may stall in a second";
}

TEST_F(DecideTest, ARuleBrokenDuringADrainEndsTheDrain) {
  set(Setting::kBusyTimeout, 10 * kSecond_ns).set(Setting::kMaxBackends, 1);
  BackendView& a = closed("a", Reason::kLru);
  lease(a, 11 * kSecond_ns);
  waiter("b");
  EXPECT_THAT(actions(), ElementsAre("commit a busy forced"));
}

// --- Probes, and loads that run out of memory ---------------------------------------------------

TEST_F(DecideTest, ABackendThatAnswersNoProbeEndsIfNothingIsInFlightAndCutsNobody) {
  BackendView& a = backend("a");
  backend("b");
  facts.unanswered = {{a.ref,
                       {kNow_ns - 20 * kSecond_ns, kNow_ns - 10 * kSecond_ns, kNow_ns},
                       "no answer within 5s"}};
  const Decision decision = decide();
  ASSERT_EQ(decision.actions.size(), 1u);
  const Action& action = decision.actions[0];
  EXPECT_EQ(text_of(action, snapshot), "close a wedged") << "not forced: a new lease opens it";
  EXPECT_EQ(action.stop.age_ns, 20 * kSecond_ns);
  EXPECT_EQ(action.stop.limit_ns, kNever_ns);
  EXPECT_EQ(action.stop.lease_word, 0u);
  EXPECT_EQ(field_text(action.stop.text),
            "3 probes in a row failed, the last: no answer within 5s");
  lease(a, 5 * kSecond_ns);
  EXPECT_THAT(actions(), IsEmpty()) << "with a lease it only informs";
}

TEST_F(DecideTest, ALeaseThatHangsOnAnUnansweringBackendIsNamedAndCut) {
  set(Setting::kStallTimeout, 10 * kSecond_ns);
  BackendView& a = backend("a");
  lease(a, 11 * kSecond_ns, kOther, "hung");
  lease(a, kSecond_ns);
  facts.unanswered = {{a.ref, {kNow_ns, kNow_ns, kNow_ns}, "Connection refused"}};
  const Decision decision = decide();
  ASSERT_EQ(decision.actions.size(), 1u);
  EXPECT_EQ(text_of(decision.actions[0], snapshot), "close a wedged forced");
  EXPECT_EQ(field_text(decision.actions[0].stop.tag), "hung");
  EXPECT_EQ(decision.actions[0].stop.lease_word, snapshot.leases[0].word);
}

TEST_F(DecideTest, P6ATenantEndsWithWhoRunsIt) {
  BackendView& tenant = backend("tenant");
  tenant.traits = kTraitTenant;
  tenant.control = kControlPinned;
  tenant.holder = pack_worker(kWorker);
  BackendView& model = backend("model");
  model.holder = pack_worker(kNobody);  // who loaded a model may go
  EXPECT_THAT(actions(), IsEmpty());
  facts.dead_workers = {kWorker};
  const Decision decision = decide();
  EXPECT_THAT(actions(), ElementsAre("reap 0", "close tenant crashed forced"));
  EXPECT_EQ(field_text(decision.actions.back().stop.text), kHolderLeft);
  facts.dead_workers.clear();
  tenant.holder = pack_worker(kNobody);  // its row is free by now
  EXPECT_THAT(actions(), ElementsAre("close tenant crashed forced"));
}

TEST_F(DecideTest, ProbesOfAnotherLifeOfTheSlotSayNothing) {
  BackendView& a = backend("a");
  facts.unanswered = {{{a.ref.index, a.ref.generation - 1}, {kNow_ns, kNow_ns, kNow_ns}, "x"}};
  EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(DecideTest, ALoadThatRanOutOfMemoryEvictsTheLeastValuableIdleBackend) {
  set(Setting::kEviction, static_cast<std::uint64_t>(Eviction::kLru));
  backend("newer").last_used_ns = kNow_ns - kSecond_ns;
  backend("older").last_used_ns = kNow_ns - 50 * kSecond_ns;
  backend("pinned").control = kControlPinned;
  backend("external").traits = kTraitExternal;
  lease(backend("busy"), kSecond_ns);
  facts.short_loads = {"big"};
  const Decision decision = decide();
  ASSERT_EQ(decision.actions.size(), 1u);
  EXPECT_EQ(text_of(decision.actions[0], snapshot), "close older memory");
  EXPECT_EQ(decision.actions[0].short_load, "big");
  EXPECT_EQ(field_text(decision.actions[0].stop.text),
            "room for big, whose load ran out of memory");
  facts.short_loads = {"big", "bigger", "biggest"};
  EXPECT_THAT(actions(), ElementsAre("close older memory", "close newer memory"));
}

TEST_F(DecideTest, AnOverdueHolderWhoCanBeAskedIsAskedAndTheOthersAreNot) {
  set(Setting::kBusyTimeout, 10 * kSecond_ns);
  BackendView& a = backend("a");
  lease(a, 11 * kSecond_ns, kOther, "bad").flags = kLeaseCancellable;
  lease(a, 12 * kSecond_ns, kWorker, "worse").flags = kLeaseCancellable;
  lease(a, kSecond_ns).flags = kLeaseCancellable;
  const Decision decision = decide();
  ASSERT_EQ(decision.actions.size(), 2u);
  EXPECT_EQ(text_of(decision.actions[0], snapshot), "ask a busy");
  const StopRecord& bad = decision.actions[0].stop;
  EXPECT_EQ(field_text(bad.tag), "bad");
  EXPECT_EQ(bad.worker, kOther.index);
  EXPECT_EQ(bad.lease_word, snapshot.leases[0].word);
  EXPECT_EQ(bad.age_ns, 11 * kSecond_ns);
  EXPECT_EQ(bad.limit_ns, 10 * kSecond_ns);
  EXPECT_EQ(field_text(decision.actions[1].stop.tag), "worse");
}

TEST_F(DecideTest, AHolderWhoWasAskedIsKilledForAfterTheGraceUnlessItIsAnotherLease) {
  set(Setting::kBusyTimeout, 10 * kSecond_ns).set(Setting::kOnOverdue, 5 * kSecond_ns);
  BackendView& a = backend("a");
  LeaseView& deaf = lease(a, 20 * kSecond_ns);
  deaf.flags = kLeaseCancellable;
  deaf.cancel_word = deaf.word;
  deaf.cancel_start_ns = deaf.start_ns;
  deaf.cancel_at_ns = kNow_ns - 4 * kSecond_ns;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kSecond_ns);
  deaf.cancel_at_ns = kNow_ns - 5 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("close a busy forced"));
  EXPECT_EQ(field_text(decide().actions[0].stop.text),
            "its holder was asked to end it 5.0s before");
  deaf.cancel_start_ns -= 1;
  EXPECT_THAT(actions(), ElementsAre("ask a busy")) << "its word came again";
}

TEST_F(DecideTest, AStoppedHolderIsNotAsked) {
  set(Setting::kBusyTimeout, 10 * kSecond_ns);
  BackendView& a = backend("a");
  lease(a, 11 * kSecond_ns, kOther).flags = kLeaseCancellable;
  facts.stopped_workers = {kWorker};
  EXPECT_THAT(actions(), ElementsAre("ask a busy"));
  facts.stopped_workers = {kOther};
  EXPECT_THAT(actions(), ElementsAre("close a busy forced"));
}

TEST_F(DecideTest, ADrainIsNoReasonNotToAsk) {
  set(Setting::kBusyTimeout, 10 * kSecond_ns).set(Setting::kMaxBackends, 1);
  BackendView& a = closed("a", Reason::kLru);
  lease(a, 11 * kSecond_ns).flags = kLeaseCancellable;
  waiter("b");
  EXPECT_THAT(actions(), ElementsAre("ask a busy"));
}

TEST_F(DecideTest, P8StampsFromTheFutureNeverMakeALeaseTooOld) {
  set(Setting::kBusyTimeout, kSecond_ns)
      .set(Setting::kStallTimeout, kSecond_ns)
      .set(Setting::kIdleTimeout, kSecond_ns);
  BackendView& a = backend("a");
  LeaseView& damaged = lease(a, 0);
  damaged.start_ns = kNow_ns + 3600 * kSecond_ns;
  damaged.progress_ns = kNever_ns;
  BackendView& b = backend("b");
  b.last_used_ns = kNever_ns - 5;
  EXPECT_THAT(actions(), IsEmpty());
}

// --- Idle ----------------------------------------------------------------------------------------

TEST_F(DecideTest, AnIdleTimeoutEvictsWhenTheLastUseIsAsOldAsTheLimitAndAClockTick) {
  set(Setting::kIdleTimeout, 60 * kSecond_ns);
  BackendView& a = backend("a");
  a.last_used_ns = kNow_ns - 60 * kSecond_ns - kTick_ns;
  const Decision decision = decide();
  ASSERT_EQ(decision.actions.size(), 1u);
  EXPECT_EQ(text_of(decision.actions[0], snapshot), "close a idle");
  EXPECT_EQ(decision.actions[0].stop.age_ns, 60 * kSecond_ns + kTick_ns);
  EXPECT_EQ(decision.actions[0].stop.limit_ns, 60 * kSecond_ns);
}

TEST_F(DecideTest, P8NothingIdleIsEvictedANanosecondBeforeItsLimitAndAClockTick) {
  set(Setting::kIdleTimeout, 60 * kSecond_ns);
  backend("a").last_used_ns = kNow_ns - 60 * kSecond_ns - kTick_ns + 1;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 1u);
}

TEST_F(DecideTest, ANeverUsedBackendIsIdleSinceItWasReady) {
  set(Setting::kIdleTimeout, 60 * kSecond_ns);
  BackendView& a = backend("a");
  a.ready_ns = a.last_used_ns = kNow_ns - 20 * kSecond_ns;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 40 * kSecond_ns + kTick_ns);
}

TEST_F(DecideTest, P2NeitherALeaseNorAWaiterNorAPinLetsABackendGoIdle) {
  set(Setting::kIdleTimeout, kSecond_ns);
  lease(backend("leased"), 3600 * kSecond_ns, kOther);
  backend("pinned").control = kControlPinned;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kSecond_ns)
      << "a lease may end without telling; look again after a full timeout";
  backend("waited-for");
  waiter("waited-for");
  EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(DecideTest, AWaiterWhoseDeadlineHasPassedKeepsNothingLoaded) {
  set(Setting::kIdleTimeout, kSecond_ns);
  backend("a");
  waiter("a").deadline_ns = kNow_ns;
  EXPECT_THAT(actions(), ElementsAre("close a idle"));
}

TEST_F(DecideTest, WhatAnAcquireAskedForGoesBeforeTheIdleTimeoutShorterOrLonger) {
  set(Setting::kIdleTimeout, 60 * kSecond_ns);
  backend("for-ever").keep_alive = kKeepForEver;
  backend("longer").keep_alive = pack_keep_alive(101'000);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kSecond_ns + kTick_ns);
  BackendView& a = backend("shorter");
  a.keep_alive = pack_keep_alive(5'000);
  a.last_used_ns = kNow_ns - 5 * kSecond_ns - kTick_ns;
  EXPECT_THAT(actions(), ElementsAre("close shorter idle"));
  const StopRecord stop = decide().actions[0].stop;
  EXPECT_EQ(stop.limit_ns, 5 * kSecond_ns);
  EXPECT_EQ(field_text(stop.text), "by keep_alive, as an acquire asked") << "P11";
}

TEST_F(DecideTest, AKeepAliveOfNoTimeEndsItOnceNoLeaseIsLeftAndItsLeasesTellThat) {
  BackendView& a = backend("a");
  a.keep_alive = pack_keep_alive(0);
  const std::size_t held = snapshot.leases.size();
  lease(a, 0, kOther);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(decide().wanted, 1u);
  EXPECT_EQ(decide().wake_ns, kNever_ns) << "nobody has to look for it";
  snapshot.leases.resize(held);
  a.in_flight = 0;
  a.last_used_ns = kNow_ns;
  EXPECT_THAT(actions(), ElementsAre("close a idle"))
      << "no tick is waited for: nothing is measured";
  a.control = kControlPinned;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(decide().wanted, 0u);
}

TEST_F(DecideTest, P2WhatItsSettingsPinIsPinnedWhateverItsControlWordSays) {
  set(Setting::kIdleTimeout, kSecond_ns);
  backend("a");
  backend("b").control = kControlPinnedBySettings;  // as they said once
  rule("a", Setting::kPinned, 1);
  EXPECT_THAT(actions(), ElementsAre("close b idle"));
  rule("a", Setting::kPinned, 0);
  EXPECT_THAT(actions(), ElementsAre("close a idle", "close b idle"));
}

TEST_F(DecideTest, IdleEvictionLeavesAsManyAsItIsToKeep) {
  set(Setting::kIdleTimeout, kSecond_ns).set(Setting::kKeep, 2);
  backend("oldest").last_used_ns -= kSecond_ns;
  backend("newer").last_used_ns += kSecond_ns;
  BackendView& in_use = backend("in-use");
  in_use.last_used_ns -= 2 * kSecond_ns;
  lease(in_use, 0);
  loading("loading", BackendState::kStarting, 0);
  EXPECT_THAT(actions(), ElementsAre("close oldest idle"));
  set(Setting::kKeep, 3);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kSecond_ns) << "that others are used tells nobody";
  snapshot.backends[0].keep_alive = pack_keep_alive(0);
  EXPECT_THAT(actions(), ElementsAre("close oldest idle")) << "its end was asked for";
}

TEST_F(DecideTest, IdleEvictionLeavesThoseThatWouldMakeRoomLast) {
  set(Setting::kIdleTimeout, kSecond_ns).set(Setting::kKeep, 1);
  backend("older").last_used_ns -= kSecond_ns;
  backend("newer");
  EXPECT_THAT(actions(), ElementsAre("close older idle"));
  rule("older", Setting::kPriority, 90);
  EXPECT_THAT(actions(), ElementsAre("close newer idle"));
}

TEST_F(DecideTest, AnIdleEvictionIsNotHeldClosedWhenItMeetsALease) {
  set(Setting::kIdleTimeout, kSecond_ns);
  backend("a");
  EXPECT_FALSE(decide().actions.at(0).hold);
  Scene later;
  later.set(Setting::kIdleTimeout, kSecond_ns);
  later.closed("a", Reason::kIdle);
  EXPECT_THAT(later.actions(), ElementsAre("reopen a"));
}

// --- Loads ---------------------------------------------------------------------------------------

TEST_F(DecideTest, ALoadThatTakesLongerThanLoadTimeoutHasFailed) {
  set(Setting::kLoadTimeout, 60 * kSecond_ns);
  loading("a", BackendState::kStarting, 60 * kSecond_ns);
  loading("b", BackendState::kReserved, 61 * kSecond_ns);
  loading("c", BackendState::kStarting, 60 * kSecond_ns - 1);
  const Decision decision = decide();
  EXPECT_THAT(actions(), ElementsAre("lose a load_timeout failed", "lose b load_timeout failed"));
  EXPECT_EQ(decision.actions[0].stop.age_ns, 60 * kSecond_ns);
  EXPECT_EQ(decision.actions[0].stop.limit_ns, 60 * kSecond_ns);
  EXPECT_EQ(decision.actions[0].stop.worker_pid, 500u);
  EXPECT_THAT(std::string(field_text(decision.actions[0].stop.text)),
              HasSubstr("not ready within 1m"));
  EXPECT_EQ(sleep_ns(), 1u);
}

TEST_F(DecideTest, ALoadTimeoutThatIsOffNeverPasses) {
  set(Setting::kLoadTimeout, 0);
  loading("a", BackendState::kStarting, 100'000 * kSecond_ns);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kNever_ns);
}

TEST_F(DecideTest, ABackendThatEndsBeforeItIsReadyIsAFailedLoad) {
  facts.exited = {loading("a", BackendState::kStarting, kSecond_ns).ref};
  EXPECT_THAT(actions(), ElementsAre("lose a crashed failed"));
}

TEST_F(DecideTest, P11TheEndOfAProcessWaitsALittleForItsExitStatus) {
  BackendView& a = loading("a", BackendState::kStarting, kSecond_ns);
  BackendView& b = backend("b");
  facts.exited = {a.ref, b.ref};
  facts.unreaped = {{a.ref, kNow_ns + kMillisecond_ns}, {b.ref, kNow_ns + 2 * kMillisecond_ns}};
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kMillisecond_ns);
  facts.unreaped = {{a.ref, kNow_ns}, {b.ref, kNow_ns}};  // it does not come: nobody reaps it
  EXPECT_THAT(actions(), ElementsAre("lose a crashed failed", "close b crashed forced"));
}

TEST_F(DecideTest, P4ATicketWhoseHolderDiedIsLostAndItsLoadHasNotFailed) {
  loading("a", BackendState::kReserved, kSecond_ns);
  loading("b", BackendState::kStarting, kSecond_ns);
  loading("c", BackendState::kStarting, kSecond_ns, kOther);
  loading("d", BackendState::kStarting, kSecond_ns, kNobody);  // its row was cleared already
  facts.dead_workers = {kWorker};
  EXPECT_THAT(actions(),
              ElementsAre("reap 0", "lose a crashed", "lose b crashed", "lose d crashed"));
}

TEST_F(DecideTest, ALoadThatIsEvictedIsEndedAndHasNotFailed) {
  loading("a", BackendState::kReserved, kSecond_ns).control = kControlEvict;
  loading("b", BackendState::kStarting, kSecond_ns).control = kControlEvict | kControlForce;
  loading("c", BackendState::kStarting, kSecond_ns);
  const Decision decision = decide();
  EXPECT_THAT(actions(), ElementsAre("lose a requested", "lose b requested"));
  EXPECT_EQ(decision.actions[0].stop.failed, kLoadEnded);
  EXPECT_EQ(decision.actions[0].stop.worker_pid, 500u);
}

TEST_F(DecideTest, AFreshBackendIsRecordedOnceAndBeforeAnythingElseIsDecidedAboutIt) {
  set(Setting::kIdleTimeout, kSecond_ns);
  backend("a").noted = 0;
  backend("b").noted =
      pack_half(2, static_cast<std::uint32_t>(BackendState::kGone));  // of the slot's last life
  backend("c").control = kControlPinned;
  EXPECT_THAT(actions(), ElementsAre("note a", "close a idle", "note b", "close b idle"));
}

// --- The dead ------------------------------------------------------------------------------------

TEST_F(DecideTest, P6ADeadWorkersRowIsReapedAndWaitersOfNobodyAreCleared) {
  facts.dead_workers = {kOther};
  waiter("a", 0, kNobody);
  waiter("b", 0, kWorker);
  EXPECT_THAT(actions(), ElementsAre("reap 1", "clear waiter 0"));
  EXPECT_EQ(decide().actions[1].waiter_generation, 2u);
}

TEST_F(DecideTest, ABackendWhoseProcessEndedIsClosedWhateverItsState) {
  BackendView& a = backend("a");
  lease(a, kSecond_ns);
  BackendView& b = closed("b", Reason::kLru);
  BackendView& c = backend("c");
  c.control = kControlPinned;
  facts.exited = {a.ref, b.ref, c.ref};
  EXPECT_THAT(actions(), ElementsAre("close a crashed forced", "commit b crashed forced",
                                     "close c crashed forced"));
}

TEST_F(DecideTest, P11ACrashNamesTheRequestsItCut) {
  BackendView& a = backend("a");
  lease(a, kSecond_ns, kWorker, "req-1");
  lease(a, kSecond_ns, kOther);
  lease(a, kSecond_ns, kOther, "req-2");
  BackendView& idle = backend("idle");
  facts.exited = {a.ref, idle.ref};
  const Decision decision = decide();
  EXPECT_EQ(field_text(decision.actions[0].stop.text),
            "its process ended; 3 requests were cut, tags: req-1, req-2");
  EXPECT_EQ(field_text(decision.actions[1].stop.text), "its process ended");
}

TEST_F(DecideTest, P10WhatAnEarlierCoordinatorClosedIsOpenedAgain) {
  closed("a", Reason::kLru, 0, kEpoch - 1);
  BackendView& b = closed("b", Reason::kRequested, 0, kEpoch - 1);
  b.control = kControlEvict;
  closed("c", Reason::kBusy, 0, kEpoch - 1);
  EXPECT_THAT(actions(), ElementsAre("reopen a", "reopen b", "reopen c"));
}

// Else a dearer one would go for it, and with when_busy = force its requests.
TEST_F(DecideTest, P10WhileItIsOpenedAgainNobodyElseGoesForTheSameWaiter) {
  set(Setting::kMaxBackends, 2).set(Setting::kMaxWait, 0);
  rule("dear", Setting::kPriority, 90);
  rule("dear", Setting::kWhenBusy, static_cast<std::uint64_t>(WhenBusy::kForce));
  lease(closed("cheap", Reason::kLru, kSecond_ns, kEpoch - 1), kSecond_ns);
  lease(backend("dear"), kSecond_ns);
  waiter("new");
  EXPECT_THAT(actions(), ElementsAre("reopen cheap"));
  snapshot.backends[0].state = {3, 0, BackendState::kReady};
  EXPECT_THAT(actions(), ElementsAre("close cheap lru and hold"));
}

TEST_F(DecideTest, AClosedBackendWithoutAReasonIsOpenedAgain) {
  closed("a", Reason::kNone);
  EXPECT_THAT(actions(), ElementsAre("reopen a"));
}

// --- Requested evictions -------------------------------------------------------------------------

TEST_F(DecideTest, ARequestedEvictionIsHeldClosedAndCutsLeasesOnlyWhenForced) {
  BackendView& a = backend("a");
  a.control = kControlEvict;
  lease(a, kSecond_ns);
  BackendView& b = backend("b");
  b.control = kControlEvict | kControlForce | kControlPinned;
  lease(b, kSecond_ns);
  EXPECT_THAT(actions(),
              ElementsAre("close a requested and hold", "close b requested forced and hold"));
}

TEST_F(DecideTest, ARequestedEvictionWaitsForItsLeasesAndIsRefusedAfterDrainTimeout) {
  set(Setting::kDrainTimeout, 30 * kSecond_ns);
  BackendView& a = closed("a", Reason::kRequested, 10 * kSecond_ns);
  a.control = kControlEvict;
  lease(a, 60 * kSecond_ns);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 20 * kSecond_ns);
  EXPECT_EQ(wanted(), std::uint64_t{1} << a.ref.index);

  a.stop.decided_ns = kNow_ns - 30 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("reopen a undrained", "refuse a"));

  a.control = kControlEvict | kControlForce;  // asked again, with force
  EXPECT_THAT(actions(), ElementsAre("commit a requested forced"));
}

TEST_F(DecideTest, ARequestedEvictionEndsWhenTheLastLeaseHasEndedAndIsTakenBackWithTheRequest) {
  BackendView& drained = closed("drained", Reason::kRequested);
  drained.control = kControlEvict;
  BackendView& withdrawn = closed("withdrawn", Reason::kRequested);
  withdrawn.control = 0;
  EXPECT_THAT(actions(), ElementsAre("commit drained requested", "reopen withdrawn"));
}

// --- Room: the limit -----------------------------------------------------------------------------

class RoomTest : public DecideTest {
 protected:
  void go_by_use() { set(Setting::kEviction, static_cast<std::uint64_t>(Eviction::kLru)); }
  BackendView& used(const std::string& model, std::uint64_t ago_s) {
    BackendView& b = backend(model);
    b.last_used_ns = kNow_ns - ago_s * kSecond_ns;
    b.ready_ns = kNow_ns - 500 * kSecond_ns;
    return b;
  }
};

TEST_F(RoomTest, WithoutAWaiterNobodyIsEvictedAtTheLimit) {
  set(Setting::kMaxBackends, 2);
  used("a", 10);
  used("b", 20);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kNever_ns);
}

TEST_F(RoomTest, P1TheVictimIsTheLeastRecentlyUsedWhoeverUsedIt) {
  set(Setting::kMaxBackends, 3);
  used("a", 10);
  used("b", 30);
  used("c", 20);
  waiter("d", 77);
  const Decision decision = decide();
  ASSERT_EQ(decision.actions.size(), 1u);
  EXPECT_EQ(text_of(decision.actions[0], snapshot), "close b lru and hold");
  EXPECT_EQ(decision.actions[0].stop.for_arrival, 77u);
  EXPECT_EQ(decision.actions[0].stop.age_ns, 30 * kSecond_ns);
  EXPECT_EQ(decision.actions[0].stop.limit_ns, kNever_ns);
}

TEST_F(RoomTest, P11AnEvictionForRoomSaysForWhom) {
  set(Setting::kMaxBackends, 1);
  used("a", 10);
  WaiterView& asker = waiter("b", 77);
  asker.pid = 81;
  asker.tag = "req-7";
  EXPECT_EQ(field_text(decide().actions[0].stop.text),
            "room for b, asked for by process 81, tag req-7");
  snapshot.waiters.clear();
  used("c", 20);
  EXPECT_EQ(field_text(decide().actions[0].stop.text), "the pool is above its limits");
}

TEST_F(RoomTest, NobodyGoesWhileAPlaceIsFreeOrThereIsNoLimit) {
  set(Setting::kMaxBackends, 3);
  used("a", 10);
  used("b", 30);
  waiter("d");
  EXPECT_THAT(actions(), IsEmpty());
  set(Setting::kMaxBackends, 0);
  used("c", 30);
  EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(RoomTest, TiesAreBrokenByTheTimeOfReadyAndThenBySlotSoThatEveryLookSaysTheSame) {
  set(Setting::kMaxBackends, 3);
  BackendView& a = used("a", 10);
  BackendView& b = used("b", 10);
  BackendView& c = used("c", 10);
  waiter("d");
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
  a.ready_ns = b.ready_ns + 1;
  EXPECT_THAT(actions(), ElementsAre("close b lru and hold"));
  c.ready_ns = b.ready_ns - 1;
  EXPECT_THAT(actions(), ElementsAre("close c lru and hold"));
}

TEST_F(RoomTest, AnIdleBackendGoesBeforeAnyBusyOneHoweverRecentlyUsed) {
  set(Setting::kMaxBackends, 2);
  lease(used("busy", 400), 300 * kSecond_ns);
  used("idle", 1);
  waiter("c");
  EXPECT_THAT(actions(), ElementsAre("close idle lru and hold"));
}

TEST_F(RoomTest, ALeaseThatBeganLaterCountsAsTheLastUse) {
  go_by_use();
  set(Setting::kMaxBackends, 2);
  lease(used("a", 400), 5 * kSecond_ns);
  lease(used("b", 20), 10 * kSecond_ns);
  waiter("c");
  EXPECT_THAT(actions(), ElementsAre("close b lru and hold"));
}

TEST_F(RoomTest, WhenBusyDrainClosesABusyVictimAndWaitsForItsLeases) {
  set(Setting::kMaxBackends, 1);
  lease(used("a", 10), kSecond_ns);
  waiter("b");
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
}

TEST_F(RoomTest, WhenBusyWaitTakesOnlyIdleVictimsAndAsksToBeToldWhenALeaseEnds) {
  set(Setting::kMaxBackends, 1)
      .set(Setting::kWhenBusy, static_cast<std::uint64_t>(WhenBusy::kWait));
  BackendView& a = used("a", 10);
  lease(a, kSecond_ns);
  waiter("b");
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(wanted(), std::uint64_t{1} << a.ref.index);
  a.in_flight = 0;
  snapshot.leases.clear();
  EXPECT_THAT(actions(), ElementsAre("close a lru"))
      << "not held: a lease that slipped in takes it back";
}

TEST_F(RoomTest, WhenBusyForceCutsTheLeasesOfABusyVictim) {
  set(Setting::kMaxBackends, 1)
      .set(Setting::kWhenBusy, static_cast<std::uint64_t>(WhenBusy::kForce));
  lease(used("a", 10), kSecond_ns);
  waiter("b");
  EXPECT_THAT(actions(), ElementsAre("close a lru forced and hold"));
}

TEST_F(RoomTest, AForcedVictimWithoutLeasesIsNotForced) {
  set(Setting::kMaxBackends, 1)
      .set(Setting::kWhenBusy, static_cast<std::uint64_t>(WhenBusy::kForce));
  used("a", 10);
  waiter("b");
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
}

// Waits for a model that takes that long to load.
class TurnTest : public RoomTest {
 protected:
  WaiterView& waits(const std::string& model, std::uint64_t waited_s, std::uint64_t load_s) {
    WaiterView& w = waiter(model);
    w.since_ns = w.model_since_ns = kNow_ns - waited_s * kSecond_ns;
    w.deadline_ns = kNever_ns;
    w.looked_ns = kNow_ns;
    w.load_ns = load_s * kSecond_ns;
    return w;
  }
};

TEST_F(TurnTest, P5AModelInUseIsClosedWhenSomebodyHasWaitedMaxWaitAndNoNanosecondEarlier) {
  set(Setting::kMaxBackends, 1).set(Setting::kMaxWait, 20 * kSecond_ns);
  lease(used("a", 10), kSecond_ns);
  WaiterView& w = waits("b", 20, 5);
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
  w.model_since_ns += 1;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 1u);
  EXPECT_EQ(wanted(), 1u) << "the end of its lease is worth a ring";
}

TEST_F(TurnTest, MaxWaitIsTheVictimsOwnRule) {
  set(Setting::kMaxBackends, 2);
  rule("a", Setting::kMaxWait, 0);
  lease(used("b", 50), kSecond_ns);
  lease(used("a", 10), kSecond_ns);
  waits("c", 1, 5);
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
}

TEST_F(TurnTest, WhenBusyForceCutsOnlyWhenItsTurnHasCome) {
  set(Setting::kMaxBackends, 1)
      .set(Setting::kWhenBusy, static_cast<std::uint64_t>(WhenBusy::kForce));
  lease(used("a", 10), kSecond_ns);
  WaiterView& w = waits("b", 59, 5);
  EXPECT_THAT(actions(), IsEmpty());
  w.model_since_ns -= kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("close a lru forced and hold"));
}

TEST_F(TurnTest, AnIdleModelInAPauseIsKeptForItsClientAndAnotherGoes) {
  set(Setting::kMaxBackends, 2);
  BackendView& paused = used("paused", 1);
  paused.reserved_ns = paused.ready_ns - 20 * kSecond_ns;
  paused.interval_ns = 4 * kSecond_ns;
  waits("c", 0, 20);
  EXPECT_THAT(actions(), IsEmpty());
  set(Setting::kMaxBackends, 1);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 7 * kSecond_ns);
  BackendView& dear = used("dear", 100);
  dear.reserved_ns = dear.ready_ns - 500 * kSecond_ns;
  set(Setting::kMaxBackends, 2);
  EXPECT_THAT(actions(), ElementsAre("close dear lru and hold"));
}

TEST_F(TurnTest, CollectHoldsAModelBackUntilItsFirstRequestHasWaitedThatLong) {
  set(Setting::kMaxBackends, 1).set(Setting::kCollect, 30 * kSecond_ns);
  used("a", 100);
  WaiterView& w = waits("b", 29, 5);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kSecond_ns);
  w.model_since_ns -= kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
  w.model_since_ns += 20 * kSecond_ns;
  set(Setting::kMaxWait, 10 * kSecond_ns);
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold")) << "its turn comes first";
}

TEST_F(TurnTest, TheLowerPriorityGoesFirst) {
  set(Setting::kMaxBackends, 2);
  rule("a", Setting::kPriority, 60);
  used("a", 100);
  used("b", 10);
  waits("c", 1, 5);
  EXPECT_THAT(actions(), ElementsAre("close b lru and hold"));
}

TEST_F(TurnTest, AnExternalBackendCostsAsMuchAsIsUsual) {
  set(Setting::kMaxBackends, 3);
  const auto with_load = [&](const std::string& model, std::uint64_t ago_s, std::uint64_t load_s) {
    BackendView& b = used(model, ago_s);
    b.reserved_ns = b.ready_ns - load_s * kSecond_ns;
    return b.ref.index;
  };
  with_load("cheap", 100, 2);
  with_load("dear", 100, 200);
  BackendView& external = used("external", 90);
  external.traits = kTraitExternal;
  waits("d", 1, 5);
  EXPECT_THAT(actions(), ElementsAre("close cheap lru and hold")) << "its own registering took 0 s";
}

TEST_F(RoomTest, WhenBusyIsTheVictimsOwnRule) {
  set(Setting::kMaxBackends, 2);
  rule("keep-*", Setting::kWhenBusy, static_cast<std::uint64_t>(WhenBusy::kWait));
  lease(used("keep-a", 100), 90 * kSecond_ns);
  lease(used("b", 10), kSecond_ns);
  waiter("c");
  EXPECT_THAT(actions(), ElementsAre("close b lru and hold"));
}

TEST_F(RoomTest, MinResidentKeepsAFreshBackendUntilExactlyThen) {
  set(Setting::kMaxBackends, 1).set(Setting::kMinResident, 60 * kSecond_ns);
  BackendView& a = used("a", 50);
  a.ready_ns = kNow_ns - 50 * kSecond_ns;
  waiter("b");
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 10 * kSecond_ns);
  a.ready_ns = kNow_ns - 60 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
}

TEST_F(RoomTest, PinnedBackendsAreNoVictims) {
  set(Setting::kMaxBackends, 2);
  used("a", 100).control = kControlPinned;
  used("b", 10);
  waiter("c");
  EXPECT_THAT(actions(), ElementsAre("close b lru and hold"));
  snapshot.backends[1].control = kControlPinned;
  EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(RoomTest, P5AResidentWhoseOwnWaiterCameEarlierIsNoVictimOfALaterOne) {
  set(Setting::kMaxBackends, 2);
  used("a", 100);
  used("b", 10);
  waiter("a", 5);
  waiter("c", 6);
  EXPECT_THAT(actions(), ElementsAre("close b lru and hold"));
  snapshot.waiters[0].arrival = 7;
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
}

TEST_F(RoomTest, P5AWaiterThatHasNotLookedForTwoSecondsKeepsNothingLoaded) {
  set(Setting::kMaxBackends, 1);
  used("a", 100);
  waiter("a", 5).looked_ns = kNow_ns - 2 * kSecond_ns;
  waiter("c", 6);
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
  snapshot.waiters[0].looked_ns += 1;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 1u);
  snapshot.waiters[0].looked_ns -= 1;
  waiter("a", 4);  // another one, who looks
  std::swap(snapshot.waiters[0], snapshot.waiters[2]);
  EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(RoomTest, P5NoRoomIsMadeForAWaiterThatDoesNotLook) {
  set(Setting::kMaxBackends, 1);
  used("a", 100);
  WaiterView& stopped = waiter("b", 5);
  stopped.looked_ns = kNow_ns - 2 * kSecond_ns;
  EXPECT_THAT(actions(), IsEmpty());
  stopped.looked_ns = kNow_ns;  // it goes on
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
}

TEST_F(RoomTest, P5NoRoomIsMadeForAWaiterWhoseWorkerIsDead) {
  set(Setting::kMaxBackends, 1);
  used("a", 100);
  waiter("b", 5, kOther);
  facts.dead_workers = {kOther};
  EXPECT_THAT(actions(), ElementsAre("reap 1"));
}

TEST_F(RoomTest, P5ADrainIsLookedAtAgainWhenItsWaiterMayHaveStopped) {
  set(Setting::kMaxBackends, 1).set(Setting::kDrainTimeout, 60 * kSecond_ns);
  lease(closed("a", Reason::kLru), kSecond_ns);
  waiter("b").looked_ns = kNow_ns;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 2 * kSecond_ns);
}

TEST_F(RoomTest, P5WaitersForOneModelCostOnePlace) {
  set(Setting::kMaxBackends, 2);
  used("a", 100);
  used("b", 10);
  for (std::uint64_t i = 0; i < 5; ++i) waiter("c", 10 + i);
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
}

TEST_F(RoomTest, WaitersOfALoadedOrLoadingModelNeedNoPlace) {
  set(Setting::kMaxBackends, 2);
  used("a", 100);
  loading("b", BackendState::kStarting, kSecond_ns);
  waiter("a");
  waiter("b");
  EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(RoomTest, P5WaitersWhoLeftOrDiedOrWhoseTimeIsOverCostNobodyAPlace) {
  set(Setting::kMaxBackends, 1);
  used("a", 100);
  waiter("c").deadline_ns = kNow_ns;
  waiter("d", 0, kNobody);
  EXPECT_THAT(actions(), ElementsAre("clear waiter 1"));
}

TEST_F(RoomTest, AsManyGoAsThereAreModelsInLineWithoutAPlace) {
  set(Setting::kMaxBackends, 3);
  used("a", 30);
  used("b", 20);
  used("c", 10);
  waiter("x", 1);
  waiter("y", 2);
  const Decision decision = decide();
  ASSERT_EQ(decision.actions.size(), 2u);
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold", "close b lru and hold"));
  EXPECT_EQ(decision.actions[0].stop.for_arrival, 1u);
  EXPECT_EQ(decision.actions[1].stop.for_arrival, 2u);
}

TEST_F(RoomTest, TheFirstInLineTakeTheFreePlacesAndVictimsGoForThoseBehindThem) {
  set(Setting::kMaxBackends, 3);
  used("a", 30);
  used("b", 20);
  waiter("x", 1);
  waiter("y", 2);
  const Decision decision = decide();
  ASSERT_EQ(decision.actions.size(), 1u);
  EXPECT_EQ(decision.actions[0].stop.for_arrival, 2u);
}

TEST_F(RoomTest, P3WhatIsLeavingAlreadyIsRoomOnTheWay) {
  set(Setting::kMaxBackends, 2);
  used("a", 100);
  stopping("b").stop.signalled_ns = kNow_ns;
  waiter("c", 1);
  EXPECT_THAT(actions(), IsEmpty());
  waiter("d", 2);
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
}

TEST_F(RoomTest, P3ABackendThatDoesNotDieKeepsItsPlace) {
  set(Setting::kMaxBackends, 2).set(Setting::kStopGrace, kSecond_ns);
  used("a", 100);
  BackendView& b = stopping("b");
  b.stop.signalled_ns = kNow_ns - 100 * kSecond_ns;
  b.stop.killed_ns = kNow_ns - 99 * kSecond_ns;
  b.overdue = true;
  waiter("c", 1);
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
}

TEST_F(RoomTest, P9AnOverdueBackendNoLongerBlocksItsOwnModel) {
  set(Setting::kMaxBackends, 2);
  BackendView& b = stopping("b");
  b.stop.signalled_ns = kNow_ns - 100 * kSecond_ns;
  b.stop.killed_ns = kNow_ns - 99 * kSecond_ns;
  used("a", 100);
  waiter("b", 1);
  EXPECT_THAT(actions(), Not(Contains("close a lru and hold")))
      << "its own end is the room it needs";
  b.overdue = true;
  EXPECT_THAT(actions(), Contains("close a lru and hold"));
}

TEST_F(RoomTest, ADrainEndsWithTheLastLease) {
  set(Setting::kMaxBackends, 1);
  closed("a", Reason::kLru, kSecond_ns);
  waiter("b", 9);
  EXPECT_THAT(actions(), ElementsAre("commit a lru"));
  EXPECT_EQ(decide().actions[0].stop.for_arrival, 9u);
}

TEST_F(RoomTest, ADrainGoesOnUntilDrainTimeoutAndNoNanosecondLonger) {
  set(Setting::kMaxBackends, 1).set(Setting::kDrainTimeout, 30 * kSecond_ns);
  BackendView& a = closed("a", Reason::kLru, 10 * kSecond_ns);
  lease(a, 60 * kSecond_ns);
  waiter("b");
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 20 * kSecond_ns);
  EXPECT_EQ(wanted(), std::uint64_t{1} << a.ref.index);
  a.stop.decided_ns = kNow_ns - 30 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("reopen a undrained"));
}

TEST_F(RoomTest, ADrainTimeoutThatIsOffWaitsForAsLongAsTheLeasesTake) {
  set(Setting::kMaxBackends, 1).set(Setting::kDrainTimeout, 0);
  lease(closed("a", Reason::kLru, 100'000 * kSecond_ns), 200'000 * kSecond_ns);
  waiter("b").looked_ns = kNever_ns;
  snapshot.waiters[0].deadline_ns = kNever_ns;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kNever_ns);
}

TEST_F(RoomTest, AfterAFailedDrainAnotherVictimIsTriedAndTheSameOneOnlyAfterAsLongAgain) {
  set(Setting::kMaxBackends, 2).set(Setting::kDrainTimeout, 30 * kSecond_ns);
  BackendView& a = used("a", 100);
  BackendView& b = used("b", 10);
  lease(a, 90 * kSecond_ns);
  lease(b, 5 * kSecond_ns);
  waiter("c");
  a.drain_failed_ns = kNow_ns - 10 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("close b lru and hold"));

  b.drain_failed_ns = kNow_ns - 5 * kSecond_ns;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 20 * kSecond_ns) << "a was closed first";
  EXPECT_EQ(wanted(), 3u) << "but goes as soon as its lease has ended";

  a.drain_failed_ns = kNow_ns - 30 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("close a lru and hold"));
}

TEST_F(RoomTest, P5WhenTheWaiterIsGoneTheDrainIsTakenBack) {
  set(Setting::kMaxBackends, 1);
  lease(closed("a", Reason::kLru, kSecond_ns), 60 * kSecond_ns);
  EXPECT_THAT(actions(), ElementsAre("reopen a"));
  waiter("b").deadline_ns = kNow_ns;
  EXPECT_THAT(actions(), ElementsAre("reopen a"));
}

TEST_F(RoomTest, ADrainIsTakenBackWhenItsBackendWasPinnedOrTheLimitRaised) {
  set(Setting::kMaxBackends, 1);
  lease(closed("a", Reason::kLru), kSecond_ns);
  waiter("b");
  snapshot.backends[0].control = kControlPinned;
  EXPECT_THAT(actions(), ElementsAre("reopen a"));
  snapshot.backends[0].control = 0;
  set(Setting::kMaxBackends, 2);
  EXPECT_THAT(actions(), ElementsAre("reopen a"));
  set(Setting::kMaxBackends, 0);
  EXPECT_THAT(actions(), ElementsAre("reopen a"));
}

TEST_F(RoomTest, P2WhoFellIdleMeanwhileGoesInsteadOfOneThatIsStillDrained) {
  set(Setting::kMaxBackends, 2);
  lease(closed("a", Reason::kLru), kSecond_ns);
  BackendView& b = used("b", 1);
  lease(b, kSecond_ns);
  waiter("c");
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(wanted(), 3u) << "the end of either lease makes the room";
  b.in_flight = 0;
  snapshot.leases.pop_back();
  EXPECT_THAT(actions(), ElementsAre("close b lru and hold", "reopen a"));
}

TEST_F(RoomTest, P5ADrainIsLookedAtAgainWhenTheTimeOfItsWaiterIsOver) {
  set(Setting::kMaxBackends, 1).set(Setting::kDrainTimeout, 0);
  lease(closed("a", Reason::kLru), kSecond_ns);
  waiter("b").deadline_ns = kNow_ns + 7 * kSecond_ns;
  EXPECT_EQ(sleep_ns(), 7 * kSecond_ns);
}

TEST_F(RoomTest, AForcedRequestEndsADrainForAWaiterToo) {
  set(Setting::kMaxBackends, 1);
  BackendView& a = closed("a", Reason::kLru);
  lease(a, kSecond_ns);
  a.control = kControlEvict | kControlForce;
  waiter("b");
  EXPECT_THAT(actions(), ElementsAre("commit a requested forced"));
}

TEST_F(RoomTest, WhatDrainsAlreadyIsCountedBeforeAnotherVictimIsChosen) {
  set(Setting::kMaxBackends, 2);
  lease(closed("a", Reason::kLru), kSecond_ns);
  lease(used("b", 100), kSecond_ns);
  waiter("c", 1);
  EXPECT_THAT(actions(), IsEmpty());
  waiter("d", 2);
  EXPECT_THAT(actions(), ElementsAre("close b lru and hold"));
}

TEST_F(RoomTest, P3LoweringTheLimitEvictsDownToItWithoutAWaiterLeastRecentlyUsedFirst) {
  set(Setting::kMaxBackends, 1);
  used("a", 10);
  used("b", 30);
  used("c", 20);
  const Decision decision = decide();
  EXPECT_THAT(actions(), ElementsAre("close b lru and hold", "close c lru and hold"));
  for (const Action& action : decision.actions) EXPECT_EQ(action.stop.for_arrival, 0u);
}

TEST_F(RoomTest, P3LoweringTheLimitNeverCutsALeaseWhateverWhenBusySays) {
  go_by_use();
  set(Setting::kMaxBackends, 1)
      .set(Setting::kWhenBusy, static_cast<std::uint64_t>(WhenBusy::kForce));
  lease(used("a", 10), kSecond_ns);
  lease(used("b", 30), 2 * kSecond_ns);
  EXPECT_THAT(actions(), ElementsAre("close b lru and hold"));
  Scene drained;
  drained.set(Setting::kMaxBackends, 1)
      .set(Setting::kWhenBusy, static_cast<std::uint64_t>(WhenBusy::kForce));
  drained.lease(drained.closed("b", Reason::kLru), kSecond_ns);
  drained.lease(drained.backend("a"), kSecond_ns);
  EXPECT_THAT(drained.actions(), IsEmpty()) << "it drains on";
}

TEST_F(RoomTest, P3AboveALoweredLimitTheFirstVictimsAreForTheLimitAndTheOthersForTheLine) {
  go_by_use();
  set(Setting::kMaxBackends, 1)
      .set(Setting::kWhenBusy, static_cast<std::uint64_t>(WhenBusy::kForce));
  lease(used("a", 10), 5 * kSecond_ns);
  lease(used("b", 30), 6 * kSecond_ns);
  waiter("c", 8);
  const Decision decision = decide();
  EXPECT_THAT(actions(), ElementsAre("close b lru and hold", "close a lru forced and hold"));
  EXPECT_EQ(decision.actions[1].stop.for_arrival, 8u);
}

// Both went for one place: what another rule ended in the same scan was not counted as room.
TEST_F(RoomTest, P5NoVictimIsChosenWhileAnotherRuleMakesTheRoom) {
  set(Setting::kMaxBackends, 2).set(Setting::kIdleTimeout, 50 * kSecond_ns);
  used("a", 60);
  used("b", 10);
  waiter("c");
  EXPECT_THAT(actions(), ElementsAre("close a idle"));
}

TEST_F(RoomTest, ARequestedEvictionThatWaitsForItsLeasesIsNoRoomYet) {
  set(Setting::kMaxBackends, 2);
  BackendView& a = used("a", 60);
  a.control = kControlEvict;
  lease(a, kSecond_ns);
  used("b", 10);
  waiter("c");
  EXPECT_THAT(actions(), ElementsAre("close a requested and hold", "close b lru and hold"));
}

// An earlier coordinator was killed between the two stops of a set.
class HalfStoppedSet : public RoomTest {
 protected:
  HalfStoppedSet() {
    go_by_use();
    set(Setting::kMaxMemory, 150);
    mate_.stop.for_arrival = left_.stop.for_arrival = kArrival;
    mate_.stop.signalled_ns = kNow_ns;
    for (BackendView* b : {&mate_, &left_, &other_}) b->declared.host = 50;
    left_.last_used_ns = kNow_ns - 30 * kSecond_ns;
    asker_.need.bytes.host = 100;
  }

  static constexpr std::uint64_t kArrival = 5;
  BackendView& mate_ = stopping("mate");
  BackendView& left_ = closed("left", Reason::kMemory, 0, kEpoch - 1);
  BackendView& other_ = used("other", 20);
  WaiterView& asker_ = waiter("asker", kArrival);
};

TEST_F(HalfStoppedSet, P10TheNextCoordinatorEndsWhatIsLeftOfItForTheSameWaiter) {
  EXPECT_THAT(actions(), ElementsAre("commit left memory"));
  EXPECT_EQ(decide().actions[0].stop.for_arrival, kArrival);
  mate_.state.state = BackendState::kGone;
  mate_.state.owner = StateWord::owner_of(kWorker);  // its slot is not free yet
  mate_.holder = pack_worker(kWorker);
  EXPECT_THAT(actions(), Contains("commit left memory"));
}

TEST_F(HalfStoppedSet, P5WhatIsLeftOfItIsOpenedWhenItsWaiterHasLeftOrNeedsItNoMore) {
  asker_.arrival = kArrival + 1;
  EXPECT_THAT(actions(), Contains("reopen left")) << "another one asks";
  asker_.arrival = kArrival;
  set(Setting::kMaxMemory, 250);
  EXPECT_THAT(actions(), ElementsAre("reopen left")) << "there is room";
  set(Setting::kMaxMemory, 150);
  snapshot.waiters.clear();
  EXPECT_THAT(actions(), ElementsAre("reopen left"));
}

TEST_F(HalfStoppedSet, P10WhatIsLeftOfNoSetIsOpenedAgain) {
  mate_.stop.for_arrival = kArrival + 1;
  EXPECT_THAT(actions(), Contains("reopen left")) << "the other went for somebody else";
  mate_.stop.for_arrival = left_.stop.for_arrival = 0;
  EXPECT_THAT(actions(), Contains("reopen left")) << "for the limit each goes by itself";
  mate_.stop.for_arrival = left_.stop.for_arrival = kArrival;
  mate_.state.state = BackendState::kReady;
  EXPECT_THAT(actions(), Contains("reopen left")) << "nobody has gone for nothing";
  mate_.state.state = BackendState::kStopping;
  --mate_.stop.generation;
  EXPECT_THAT(actions(), Contains("reopen left")) << "a record of the slot's life before";
  ++mate_.stop.generation;
  left_.control = kControlPinned;
  EXPECT_THAT(actions(), Contains("reopen left"));
}

TEST_F(HalfStoppedSet, P2WhatIsLeftOfItAndStillLeasedWaitsForThatAndIsNotOpened) {
  lease(left_, kSecond_ns);
  lease(other_, kSecond_ns);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(wanted() & std::uint64_t{1} << left_.ref.index, std::uint64_t{1} << left_.ref.index);
}

TEST_F(RoomTest, LoadsUnderWayAndUnreadyBackendsAreNoVictims) {
  set(Setting::kMaxBackends, 2);
  loading("a", BackendState::kReserved, kSecond_ns);
  loading("b", BackendState::kStarting, kSecond_ns, kOther);
  waiter("c");
  EXPECT_THAT(actions(), IsEmpty());
}

// --- Stopping ------------------------------------------------------------------------------------

// By rules of a newer program: what can be taken back is, what cannot is brought to its end.
TEST_F(DecideTest, AnUnknownReasonReopensWhatIsClosedAndFinishesWhatIsStopping) {
  const auto kNewer = static_cast<Reason>(27);
  lease(closed("closed", kNewer), kSecond_ns);
  BackendView& b = stopping("stopping");
  b.stop.reason = kNewer;
  BackendView& ended = stopping("ended");
  ended.stop.reason = kNewer;
  ended.stop.signalled_ns = kNow_ns;
  facts.vanished.push_back(ended.ref);
  EXPECT_THAT(actions(), ElementsAre("reopen closed", "signal stopping SIGTERM", "gone ended"));
  EXPECT_EQ(decide().actions[1].stop.reason, kNewer) << "it is told as it was decided";
}

TEST_F(DecideTest, AStoppingBackendGetsItsStopSignalOnce) {
  set(Setting::kStopGrace, 15 * kSecond_ns);
  BackendView& a = stopping("a");
  EXPECT_THAT(actions(), ElementsAre("signal a SIGTERM"));
  EXPECT_EQ(decide().actions[0].stop.reason, Reason::kIdle)
      << "why it is being stopped is kept (P10)";
  a.stop.signalled_ns = kNow_ns - 5 * kSecond_ns;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 10 * kSecond_ns);
}

TEST_F(DecideTest, TheStopSignalIsTheModelsOwn) {
  rule("llama*", Setting::kStopSignal, SIGINT);
  stopping("llama");
  EXPECT_THAT(actions(), ElementsAre("signal llama SIGINT"));
}

TEST_F(DecideTest, P9AfterStopGraceItIsKilledOnceAndThenWaitedFor) {
  set(Setting::kStopGrace, 15 * kSecond_ns);
  BackendView& a = stopping("a");
  a.stop.signalled_ns = kNow_ns - 15 * kSecond_ns + 1;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 1u);
  a.stop.signalled_ns -= 1;
  EXPECT_THAT(actions(), ElementsAre("signal a SIGKILL"));
  a.stop.killed_ns = kNow_ns;
  EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(DecideTest, P9WhatDoesNotDieIsOverdueTenSecondsAfterSigkill) {
  set(Setting::kStopGrace, 15 * kSecond_ns);
  BackendView& a = stopping("a");
  a.stop.signalled_ns = kNow_ns - 20 * kSecond_ns;
  a.stop.killed_ns = kNow_ns - 5 * kSecond_ns;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 5 * kSecond_ns);
  a.stop.killed_ns = kNow_ns - 10 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("overdue a"));
  a.overdue = true;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kNever_ns);
}

// The judge was down, or the grace was lowered: the second backend of the model would start while
// the first is just about to die.
TEST_F(DecideTest, P4ALateSigkillHasItsTenSecondsToo) {
  set(Setting::kStopGrace, kSecond_ns);
  BackendView& a = stopping("a");
  a.stop.signalled_ns = kNow_ns - 1000 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("signal a SIGKILL"));
  a.stop.killed_ns = kNow_ns;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 10 * kSecond_ns);
}

TEST_F(DecideTest, P9WhomNoSignalMayReachIsOverdueTenSecondsAfterItWouldHaveBeenKilled) {
  set(Setting::kStopGrace, 15 * kSecond_ns);
  BackendView& a = stopping("a");
  a.stop.stopping_ns = kNow_ns - 24 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("signal a SIGTERM"));
  EXPECT_EQ(sleep_ns(), kNever_ns) << "it is not known yet whether it may be signalled";
  a.left.generation = a.ref.generation;
  a.left.count = 1;
  a.left.named[0].why = LeftWhy::kSignalled;
  EXPECT_THAT(actions(), ElementsAre("signal a SIGTERM"));
  EXPECT_EQ(sleep_ns(), kNever_ns);
  a.left.named[0].why = LeftWhy::kOtherUser;
  EXPECT_THAT(actions(), ElementsAre("signal a SIGTERM"));
  EXPECT_EQ(sleep_ns(), kSecond_ns);
  a.stop.stopping_ns -= kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("signal a SIGTERM", "overdue a"));
  // Its first process has ended by the stop signal; who is left may not be signalled.
  a.stop.signalled_ns = kNow_ns - 24 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("signal a SIGKILL"));
  a.stop.signalled_ns -= kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("signal a SIGKILL", "overdue a"));
}

TEST_F(DecideTest, AGraceThatIsOffNeverTurnsIntoAKill) {
  set(Setting::kStopGrace, 0);
  stopping("a").stop.signalled_ns = kNow_ns - 100'000 * kSecond_ns;
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kNever_ns);
}

TEST_F(DecideTest, P3AStopEndsWhenTheProcessesAreGoneAndNotWhenTheyWereSignalled) {
  BackendView& a = stopping("a");
  a.stop.signalled_ns = kNow_ns - kSecond_ns;
  facts.exited = {a.ref};  // the leader; its group may still be there
  EXPECT_THAT(actions(), IsEmpty());
  facts.vanished = {a.ref};
  EXPECT_THAT(actions(), ElementsAre("gone a"));
}

TEST_F(DecideTest, AnExternalBackendIsGoneAtOnceAndNeverSignalled) {
  BackendView& a = stopping("a");
  a.process.pid = 0;
  a.traits = kTraitExternal;
  EXPECT_THAT(actions(), ElementsAre("gone a"));
}

TEST_F(DecideTest, ALoadGivenUpByItsHolderIsStoppedThoughNobodyDecidedIt) {
  BackendView& a = loading("a", BackendState::kStopping, kSecond_ns);
  a.state.owner = 0;
  EXPECT_THAT(actions(), ElementsAre("signal a SIGTERM"));
  EXPECT_EQ(decide().actions[0].stop.failed, 1u);
  EXPECT_EQ(decide().actions[0].stop.worker_pid, 500u);
}

TEST_F(DecideTest, P11AnEndForItsDamagedSlotSaysSo) {
  BackendView& a = backend("a", BackendState::kStopping);
  BackendView& b = loading("b", BackendState::kStopping, kSecond_ns);
  a.damaged = b.damaged = true;
  // A drain that was taken back before the damage is not why.
  a.stop.generation = a.ref.generation;
  a.stop.reason = Reason::kLru;
  EXPECT_THAT(actions(), ElementsAre("signal a SIGTERM", "signal b SIGTERM"));
  const Decision decision = decide();
  EXPECT_EQ(decision.actions.back().stop.failed, kLoadLost) << "nothing cools down for this";
  const StopRecord& stop = decision.actions[decision.actions.size() - 2].stop;
  EXPECT_EQ(stop.reason, Reason::kCrashed);
  EXPECT_EQ(stop.failed, 0u);
  EXPECT_THAT(field_text(stop.text), HasSubstr("damaged"));
  a.stop = stop;
  a.stop.signalled_ns = kNow_ns;
  b.process.pid = 0;
  EXPECT_THAT(actions(), ElementsAre("gone b"));
}

TEST_F(DecideTest, ADeadHolderLetsGoOfItsStoppingAndGoneSlots) {
  BackendView& a = loading("a", BackendState::kStopping, kSecond_ns);
  a.stop.generation = a.ref.generation;
  a.stop.signalled_ns = kNow_ns;
  loading("b", BackendState::kGone, kSecond_ns);
  loading("c", BackendState::kGone, kSecond_ns, kOther);
  facts.dead_workers = {kWorker};
  EXPECT_THAT(actions(), ElementsAre("reap 0", "disown a", "disown b"));
}

TEST_F(DecideTest, AGoneSlotIsFreeWhenNoLeaseNamesItAndItsHolderLetGo) {
  backend("a", BackendState::kGone);
  BackendView& b = backend("b", BackendState::kGone);
  lease(b, kSecond_ns);
  BackendView& c = backend("c", BackendState::kGone);
  c.state.owner = StateWord::owner_of(kWorker);
  c.holder = pack_worker(kWorker);
  EXPECT_THAT(actions(), ElementsAre("free a"));
  EXPECT_EQ(wanted() & std::uint64_t{1} << b.ref.index, std::uint64_t{1} << b.ref.index);
}

TEST_F(DecideTest, P11TheEndOfALoadThatStartedNothingIsRecordedOnce) {
  BackendView& a = loading("a", BackendState::kGone, kSecond_ns);
  a.noted = 0;
  EXPECT_THAT(actions(), ElementsAre("note end of a"));
  a.noted = pack_half(a.ref.generation, static_cast<std::uint32_t>(BackendState::kGone));
  EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(DecideTest, AStopReachedBeforeAnyScanSawTheBackendReadyIsRecordedAsALoadFirst) {
  BackendView& a = stopping("a");
  a.noted = 0;
  EXPECT_THAT(actions(), ElementsAre("note a", "signal a SIGTERM"));
}

// --- Ending --------------------------------------------------------------------------------------

TEST_F(DecideTest, WhenThePoolEndsEveryBackendIsClosedAndLoadsAreStopped) {
  facts.ending = true;
  backend("a");
  BackendView& b = backend("b");
  b.control = kControlPinned;
  lease(b, kSecond_ns);
  loading("c", BackendState::kStarting, kSecond_ns);
  loading("d", BackendState::kReserved, kSecond_ns);
  EXPECT_THAT(actions(), ElementsAre("close a shutdown and hold", "close b shutdown and hold",
                                     "lose c shutdown", "lose d shutdown"));
}

TEST_F(DecideTest, WhenThePoolEndsLeasesHaveTheDrainTimeToFinishAndAreCutThen) {
  set(Setting::kDrainTimeout, 30 * kSecond_ns);
  facts.ending = true;
  BackendView& a = closed("a", Reason::kShutdown, 10 * kSecond_ns);
  lease(a, kSecond_ns);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 20 * kSecond_ns);
  a.stop.decided_ns = kNow_ns - 30 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("commit a shutdown forced"));
}

// A drain for a waiter was left to the search for room, which does not happen in a pool that ends:
// coordinatord --on-exit stop never ended.
TEST_F(DecideTest, WhenThePoolEndsADrainForAWaiterGoesOnToItsEnd) {
  set(Setting::kMaxBackends, 1).set(Setting::kDrainTimeout, 30 * kSecond_ns);
  facts.ending = true;
  BackendView& a = closed("a", Reason::kLru, 10 * kSecond_ns);
  waiter("b");
  EXPECT_THAT(actions(), ElementsAre("commit a shutdown"));
  lease(a, kSecond_ns);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 20 * kSecond_ns);
  a.stop.decided_ns = kNow_ns - 30 * kSecond_ns;
  EXPECT_THAT(actions(), ElementsAre("commit a shutdown forced"));
}

TEST_F(DecideTest, WhenThePoolEndsNobodyMakesRoom) {
  set(Setting::kMaxBackends, 1);
  facts.ending = true;
  stopping("a").stop.signalled_ns = kNow_ns;
  waiter("b");
  EXPECT_THAT(actions(), IsEmpty());
}

// --- Sleep ---------------------------------------------------------------------------------------

TEST_F(DecideTest, P8WithNothingDueThereIsNoNextLook) {
  set(Setting::kMaxBackends, 200);
  for (int i = 0; i < 100; ++i) backend("m" + std::to_string(i));
  lease(snapshot.backends[3], 3600 * kSecond_ns);
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kNever_ns);
  EXPECT_EQ(wanted(), 0u);
}

TEST_F(DecideTest, P8WithHundredIdleBackendsTheNextLookIsTheEarliestDeadline) {
  set(Setting::kIdleTimeout, 1000 * kSecond_ns);
  for (int i = 0; i < 100; ++i) {
    backend("m" + std::to_string(i)).last_used_ns =
        kNow_ns - static_cast<std::uint64_t>(i) * kSecond_ns;
  }
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), 901 * kSecond_ns + kTick_ns);
}

TEST_F(DecideTest, P8WithNoLeaseTheNextLookIsAFullBusyTimeoutAway) {
  set(Setting::kBusyTimeout, 10 * kSecond_ns).set(Setting::kStallTimeout, 4 * kSecond_ns);
  backend("a");
  EXPECT_EQ(sleep_ns(), 4 * kSecond_ns)
      << "a lease that begins now cannot break a rule before that";
  lease(snapshot.backends[0], 7 * kSecond_ns).progress_ns = kNow_ns - kSecond_ns;
  EXPECT_EQ(sleep_ns(), 3 * kSecond_ns + kTick_ns) << "both its age and its progress are due then";
}

TEST_F(DecideTest, P8ALeasesOwnLimitIsADeadlineToo) {
  BackendView& a = backend("a");
  lease(a, 2 * kSecond_ns).limit_ns = 5 * kSecond_ns;
  EXPECT_EQ(sleep_ns(), 3 * kSecond_ns + kTick_ns);
}

TEST_F(DecideTest, APoolThatNeverHadSettingsLivesByTheDefaults) {
  backend("a");
  loading("b", BackendState::kStarting, kSecond_ns);
  const Decision decision = coordinator::decide(snapshot, facts);
  EXPECT_THAT(decision.actions, IsEmpty());
  EXPECT_EQ(decision.wake_ns, kNow_ns + 599 * kSecond_ns) << "load_timeout";
}

TEST_F(DecideTest, AnEmptyPoolNeedsNothing) {
  EXPECT_THAT(actions(), IsEmpty());
  EXPECT_EQ(sleep_ns(), kNever_ns);
}

TEST_F(DecideTest, TheSameSnapshotGivesTheSameDecision) {
  set(Setting::kMaxBackends, 3).set(Setting::kBusyTimeout, kSecond_ns);
  for (int i = 0; i < 6; ++i) lease(backend("m" + std::to_string(i)), 2 * kSecond_ns);
  waiter("x");
  const auto first = actions();
  EXPECT_FALSE(first.empty());
  for (int i = 0; i < 10; ++i) EXPECT_EQ(actions(), first);
}

}  // namespace
}  // namespace modelpool::coordinator
