// What the enforcer does when the pool changes between the look a decision rests on and the deed:
// the second half of each promise that decide_test.cpp proves of the first.
#include "enforce.hpp"

#include <gtest/gtest.h>
#include <signal.h>

#include <memory>
#include <optional>

#include "base/time.hpp"
#include "protocol/events.hpp"
#include "protocol/slots.hpp"
#include "segment/settings_block.hpp"
#include "support/daemon.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

namespace modelpool::test {
namespace {

using coordinator::Action;
using coordinator::ActionKind;
using coordinator::Decision;

class EnforcerTest : public ::testing::Test {
 protected:
  bool carry_out(const std::vector<Action>& actions, const Snapshot& seen) {
    watch_.refresh(seen);
    Decision decision;
    decision.actions = actions;
    return enforcer_.carry_out(decision, seen);
  }
  static Action about(ActionKind kind, const BackendView& b, Reason reason) {
    Action action;
    action.kind = kind;
    action.backend = b.ref;
    action.seen = b.state;
    action.stop.generation = b.ref.generation;
    action.stop.reason = reason;
    action.stop.decided_ns = now_ns();
    return action;
  }
  BackendState state(BackendRef ref) const { return load_state(*segment_, ref.index).state; }

  const Scratch scratch_;
  Pool pool_ = make_pool(scratch_, {{"max_backends", "2"}});
  std::shared_ptr<Segment> segment_ = shared_segment_of(pool_);
  coordinator::Watch watch_ = *coordinator::Watch::make();
  std::unique_ptr<coordinator::Endings> endings_ = *coordinator::Endings::make(segment_);
  coordinator::Recorder recorder_{segment_};
  coordinator::Stopper stopper_{segment_, &watch_, endings_.get()};
  coordinator::Enforcer enforcer_{segment_, 1, &watch_, &stopper_, &recorder_, nullptr};
};

// Above a lowered limit: the least recently used one goes, if it still is that.
class EvictionForRoom : public EnforcerTest {
 protected:
  EvictionForRoom() {
    load_external(pool_, "old").release();
    load_external(pool_, "new").release();
    EXPECT_TRUE(pool_.set_limit(1));
    seen_ = look(pool_);
    old_ = *seen_.find_model("old");
  }
  bool evict() { return carry_out({about(ActionKind::kClose, old_, Reason::kLru)}, seen_); }

  Snapshot seen_;
  BackendView old_;
};

TEST_F(EvictionForRoom, EndsWhatNobodyUsedMeanwhile) {
  EXPECT_TRUE(evict());
  EXPECT_EQ(state(old_.ref), BackendState::kStopping);
}

TEST_F(EvictionForRoom, P2IsTakenBackIfItWasUsedSinceTheLook) {
  ASSERT_TRUE(eventually([&] { return stamp_now_ns() > old_.last_used_ns; }));  // stamps are coarse
  lease_on(pool_, "old").release();
  evict();
  EXPECT_EQ(state(old_.ref), BackendState::kReady);
}

TEST_F(EvictionForRoom, P2IsTakenBackIfItWasPinnedSinceTheLook) {
  ASSERT_TRUE(pool_.pin("old"));
  evict();
  EXPECT_EQ(state(old_.ref), BackendState::kReady);
}

TEST_F(EvictionForRoom, P5IsTakenBackIfThereIsRoomSinceTheLook) {
  ASSERT_TRUE(pool_.set_limit(2));
  evict();
  EXPECT_EQ(state(old_.ref), BackendState::kReady);
}

// Half of a set was stopped when the coordinator before was killed; this is the other half.
TEST_F(EvictionForRoom, P10WhatAnEarlierCoordinatorClosedEndsIfNobodyHasOpenedItSinceTheLook) {
  constexpr std::uint32_t kEarlier = 9;
  ASSERT_TRUE(close_to_leases(*segment_, old_.ref, kEarlier));
  const Snapshot closed = look(pool_);
  const Action end = about(ActionKind::kCommit, *closed.find_model("old"), Reason::kLru);
  ASSERT_TRUE(reopen(*segment_, old_.ref, kEarlier));  // as a worker does that wants it
  carry_out({end}, closed);
  EXPECT_EQ(state(old_.ref), BackendState::kReady);
  ASSERT_TRUE(close_to_leases(*segment_, old_.ref, kEarlier));
  EXPECT_TRUE(carry_out({end}, closed));
  EXPECT_EQ(state(old_.ref), BackendState::kStopping);
}

TEST_F(EvictionForRoom, P2OfAnIdleOneIsTakenBackIfSomebodyAskedForMoreTimeSinceTheLook) {
  set_keep_alive(*segment_, old_.ref, pack_keep_alive(0));
  const Snapshot before = look(pool_);
  const BackendView old = *before.find_model("old");
  set_keep_alive(*segment_, old_.ref, kKeepForEver);
  carry_out({about(ActionKind::kClose, old, Reason::kIdle)}, before);
  EXPECT_EQ(state(old_.ref), BackendState::kReady);
  const Snapshot now = look(pool_);
  EXPECT_TRUE(carry_out({about(ActionKind::kClose, *now.find_model("old"), Reason::kIdle)}, now));
  EXPECT_EQ(state(old_.ref), BackendState::kStopping);
}

TEST_F(EvictionForRoom, P2IsTakenBackIfItsSettingsPinItSinceTheLook) {
  ASSERT_TRUE(pool_.set("pinned", "true"));
  evict();
  EXPECT_EQ(state(old_.ref), BackendState::kReady);
  ASSERT_TRUE(pool_.set("pinned", "false"));
  EXPECT_TRUE(evict());
  EXPECT_EQ(state(old_.ref), BackendState::kStopping);
}

TEST_F(EvictionForRoom, OfAnIdleOneIsTakenBackIfTooFewWouldBeLeftSinceTheLook) {
  ASSERT_TRUE(pool_.set("keep", "2"));
  carry_out({about(ActionKind::kClose, old_, Reason::kIdle)}, seen_);
  EXPECT_EQ(state(old_.ref), BackendState::kReady);
  ASSERT_TRUE(pool_.set("keep", "1"));
  carry_out({about(ActionKind::kClose, old_, Reason::kIdle)}, seen_);
  EXPECT_EQ(state(old_.ref), BackendState::kStopping);
}

TEST_F(EvictionForRoom, PinsOfSettingsAreNotedForThoseWhoReadNoneAndPinsOfPeopleStay) {
  ASSERT_TRUE(pool_.pin("old"));
  ASSERT_TRUE(pool_.set("pinned", "true"));
  carry_out({}, look(pool_));
  EXPECT_EQ(load_control(*segment_, old_.ref), kControlPinnedAny);
  ASSERT_TRUE(pool_.set("pinned", "false"));
  carry_out({}, look(pool_));
  EXPECT_EQ(load_control(*segment_, old_.ref), kControlPinned);
}

TEST_F(EvictionForRoom, ForALoadThatRanOutOfMemoryEndsTheCoolDownOfItsFirstFailure) {
  const auto fail = [&](std::uint32_t slot) {
    const auto lock = segment_->lock_structure();
    write_failure(*segment_, *lock, "big", {{slot, 1}, "killed", pack_cooldown(60'000, 60'000)},
                  now_ns());
  };
  const auto is_cooling = [&] {
    return find_history(*segment_, "big")->cooldown_until_ns > now_ns();
  };
  Action action = about(ActionKind::kClose, old_, Reason::kMemory);
  action.short_load = "big";
  fail(7);
  ASSERT_TRUE(pool_.pin("old"));
  carry_out({action}, seen_);
  EXPECT_EQ(state(old_.ref), BackendState::kReady);
  EXPECT_TRUE(is_cooling()) << "nobody has gone for it";
  ASSERT_TRUE(pool_.unpin("old"));
  carry_out({action}, seen_);
  EXPECT_EQ(state(old_.ref), BackendState::kStopping);
  EXPECT_FALSE(is_cooling());
  fail(8);
  action.backend = seen_.find_model("new")->ref;
  carry_out({action}, seen_);
  EXPECT_TRUE(is_cooling()) << "the second in a row";
}

TEST_F(EvictionForRoom, P2OneThatAnswersAgainSinceTheLookIsNotWedged) {
  carry_out({about(ActionKind::kClose, old_, Reason::kWedged)}, seen_);
  EXPECT_EQ(state(old_.ref), BackendState::kReady) << "here nobody is probed, so nobody is silent";
}

// Two that only together make room for one who waits.
class EvictionOfASet : public EnforcerTest {
 protected:
  EvictionOfASet() {
    for (const char* model : {"a", "b"}) load_external(pool_, model).release();
    waiting_.emplace(std::move(*pool_.begin_acquire("large", std::chrono::seconds(30))));
    EXPECT_TRUE(waiting_->poll());
    seen_ = look(pool_);
  }
  // The states of both after that, as a pair of words.
  std::string evict() {
    std::vector<Action> actions;
    for (const char* model : {"a", "b"}) {
      actions.push_back(about(ActionKind::kClose, *seen_.find_model(model), Reason::kLru));
      actions.back().stop.for_arrival = seen_.waiters.at(0).arrival;
      actions.back().set = 1;
    }
    EXPECT_TRUE(carry_out(actions, seen_));
    return state_of(pool_, "a") + " " + state_of(pool_, "b");
  }

  std::optional<PendingAcquire> waiting_;
  Snapshot seen_;
};

TEST_F(EvictionOfASet, EndsBothWhomNobodyUsed) { EXPECT_EQ(evict(), "stopping stopping"); }

TEST_F(EvictionOfASet, P2EndsNoneIfOneIsLeasedSinceTheLook) {
  const Lease lease = lease_on(pool_, "b");
  EXPECT_EQ(evict(), "ready ready");
}

TEST_F(EvictionOfASet, P2EndsNoneIfOneWasPinnedSinceTheLook) {
  ASSERT_TRUE(pool_.pin("b"));
  EXPECT_EQ(evict(), "ready ready");
}

TEST_F(EvictionOfASet, EndsNoneIfOneHasGoneSinceTheLook) {
  const BackendRef b = seen_.find_model("b")->ref;
  ASSERT_TRUE(close_to_leases(*segment_, b, 1));
  ASSERT_TRUE(commit_stop(*segment_, b, 1));
  EXPECT_EQ(evict(), "ready stopping") << "it gives back what was missing, or some of it";
}

TEST_F(EvictionOfASet, P5EndsNoneIfTheWaiterHasLeftSinceTheLook) {
  waiting_.reset();
  EXPECT_EQ(evict(), "ready ready");
}

// One request that takes too long, whose holder can be asked.
class EnforcerAsks : public EnforcerTest {
 protected:
  EnforcerAsks() {
    lease_ = load_external(pool_, "m");
    EXPECT_TRUE(lease_.set_cancellable());
    seen_ = look(pool_);
  }
  bool ask(Reason reason, std::uint64_t stamp_ns) {
    Action action = about(ActionKind::kAskToEnd, *seen_.find_model("m"), reason);
    const LeaseView& lease = seen_.leases.at(0);
    action.stop.worker = lease.worker;
    action.stop.lease = lease.cell;
    action.stop.lease_word = lease.word;
    action.stop.lease_stamp_ns = stamp_ns;
    return carry_out({action}, seen_);
  }
  std::size_t events() const { return read_events(*segment_, 1).size(); }

  Lease lease_;
  Snapshot seen_;
};

TEST_F(EnforcerAsks, WhoIsStillOverdueIsAskedWithAnEvent) {
  EXPECT_TRUE(ask(Reason::kBusy, seen_.leases.at(0).start_ns));
  EXPECT_TRUE(lease_.cancelled());
  ASSERT_EQ(events(), 1u);
  EXPECT_EQ(read_events(*segment_, 1)[0].data.kind, EventKind::kCancelRequested);
}

TEST_F(EnforcerAsks, WhoHasEndedSinceTheLookIsNotAndNeitherIsTheNextInTheCell) {
  lease_.release();
  lease_ = lease_on(pool_, "m");
  ASSERT_EQ(look(pool_).leases.at(0).cell, seen_.leases.at(0).cell);
  EXPECT_TRUE(ask(Reason::kBusy, seen_.leases.at(0).start_ns)) << "decide anew";
  EXPECT_FALSE(lease_.cancelled());
  EXPECT_EQ(events(), 0u);
}

TEST_F(EnforcerAsks, WhoHasMadeProgressSinceTheLookIsNotStalled) {
  ASSERT_TRUE(eventually([&] { return stamp_now_ns() > seen_.leases.at(0).progress_ns; }));
  EXPECT_TRUE(lease_.progress());
  EXPECT_TRUE(ask(Reason::kStall, seen_.leases.at(0).progress_ns));
  EXPECT_TRUE(ask(Reason::kFirstByte, seen_.leases.at(0).start_ns));
  EXPECT_FALSE(lease_.cancelled());
}

// --- Device memory -------------------------------------------------------------------------------

class EnforcerSettles : public EnforcerTest {
 protected:
  // A backend that is being stopped and whose process has gone.
  BackendView ended(const std::string& model, std::uint64_t device_bytes) {
    LoadTicket ticket = ticket_for(pool_, model);
    EXPECT_TRUE(ticket.spawn({"sleep", "600"}));
    auto lease = ticket.ready("of:" + model);
    EXPECT_TRUE(lease);
    if (lease) lease->release();
    const Snapshot seen = look(pool_);
    const BackendView b = *seen.find_model(model);
    segment_->backend(b.ref.index).peak.device[0].store(device_bytes);
    Action stop = about(ActionKind::kClose, b, Reason::kRequested);
    stop.stop.baseline[0] = 100;
    EXPECT_TRUE(pool_.evict(model));
    EXPECT_TRUE(carry_out({stop}, seen));
    kill(b.process.pid, SIGKILL);
    return *look(pool_).find_model(model);
  }
  BackendsEnd backends_end_{scratch_};

  StopRecord stop_of(const BackendView& b) { return segment_->backend(b.ref.index).stop.load(); }
  Action about(ActionKind kind, const BackendView& b, Reason reason = Reason::kRequested) {
    return EnforcerTest::about(kind, b, reason);
  }
};

TEST_F(EnforcerSettles, ItsEndIsToldOnceAndStandsInItsRecordWhileItsPlaceStaysTaken) {
  const BackendView b = ended("m", 7);
  EXPECT_TRUE(carry_out({about(ActionKind::kSettle, b)}, look(pool_)));
  EXPECT_EQ(state(b.ref), BackendState::kStopping);
  EXPECT_NE(stop_of(b).ended_ns, 0u);
  EXPECT_EQ(stop_of(b).baseline[0], 100u);
  const std::uint64_t ended_ns = stop_of(b).ended_ns;
  const auto count = [&] { return read_events(*segment_, 1).size(); };
  const std::size_t events = count();
  EXPECT_TRUE(carry_out({about(ActionKind::kSettle, b)}, look(pool_))) << "a judge that was killed";
  EXPECT_TRUE(carry_out({about(ActionKind::kMarkGone, b)}, look(pool_)));
  EXPECT_EQ(count(), events);
  EXPECT_EQ(stop_of(b).ended_ns, ended_ns);
  EXPECT_EQ(state(b.ref), BackendState::kGone);
}

TEST_F(EnforcerSettles, WhoeverIsGoneRaisesTheBaselineOfTheOthersAndASignalKeepsThat) {
  const BackendView a = ended("a", 7);
  const BackendView b = ended("b", 9);
  const Snapshot before = look(pool_);
  Action signal = about(ActionKind::kSignal, b);
  signal.stop = before.find(b.ref)->stop;
  signal.signal = SIGTERM;
  EXPECT_TRUE(carry_out({about(ActionKind::kMarkGone, a), signal}, before));
  EXPECT_EQ(stop_of(b).baseline[0], 107u);
}

// A ticket may start a second process when the program of the first could not be executed.
TEST_F(EnforcerTest, P4AStartIsNotLostOnEvidenceAboutTheProcessBeforeIt) {
  LoadTicket ticket = ticket_for(pool_, "m");
  ASSERT_TRUE(ticket.spawn({"sleep", "600"}));
  const Snapshot seen = look(pool_);
  const BackendView b = *seen.find_model("m");
  Action lose = about(ActionKind::kLoseTicket, b, Reason::kCrashed);
  lose.stop.failed = kLoadFailed;
  segment_->backend(b.ref.index).start_ticks.fetch_add(1);
  EXPECT_TRUE(carry_out({lose}, seen));
  EXPECT_EQ(state(b.ref), BackendState::kStarting);
  segment_->backend(b.ref.index).start_ticks.fetch_sub(1);
  EXPECT_TRUE(carry_out({lose}, seen));
  EXPECT_EQ(state(b.ref), BackendState::kStopping);
  kill(b.process.pid, SIGKILL);
}

TEST_F(EnforcerTest, P6ADeadWorkersRowStaysUntilItsTicketIsLost) {
  Forked loader([this](Forked::Child& parent) {
    Pool mine = attach(scratch_);
    const LoadTicket ticket = ticket_for(mine, "m");
    parent.say("has it");
    parent.hear();
  });
  ASSERT_EQ(loader.hear(), "has it");
  const pid_t pid = loader.pid();
  loader.kill_now();
  const Snapshot seen = look(pool_);
  Action reap;
  reap.kind = ActionKind::kReapWorker;
  for (const WorkerView& worker : seen.workers) {
    if (worker.process.pid == pid) reap.worker = worker.ref;
  }
  const auto has_row = [&] {
    for (const WorkerView& worker : look(pool_).workers) {
      if (worker.process.pid == pid) return true;
    }
    return false;
  };
  EXPECT_FALSE(carry_out({reap}, seen));
  EXPECT_TRUE(has_row()) << "nobody knows whose ticket it is any more";
  EXPECT_TRUE(carry_out(
      {about(ActionKind::kLoseTicket, *seen.find_model("m"), Reason::kCrashed), reap}, seen));
  EXPECT_FALSE(has_row());
}

// --- Backends that count their leases ------------------------------------------------------------

class CountedByJudge : public EnforcerTest {
 protected:
  CountedByJudge() { load_external(pool_, "m").release(); }
  // As a program does that was killed right after that, or knows nothing of the setting.
  void publish_only(const std::string& parallel) {
    const auto image =
        SettingsImage::make(settings_of({{"max_backends", "2"}, {"parallel", parallel}}),
                            segment_->settings_copy_words());
    const auto lock = segment_->lock_structure();
    publish_settings(*segment_, *lock, *image);
  }
  void settle() { enforcer_.settle_counted_backends(look(pool_)); }
  bool is_counted() { return look(pool_).find_model("m")->counted(); }
  PendingAcquire waiting() {
    PendingAcquire pending = *pool_.begin_acquire("m", kPatience);
    if (auto polled = pending.poll(); !polled || *polled) throw std::runtime_error("it has it");
    return pending;
  }
};

TEST_F(CountedByJudge, PutsRightWhatAChangeOfSettingsHasLeft) {
  publish_only("1");
  ASSERT_FALSE(is_counted());
  settle();
  EXPECT_TRUE(is_counted());
  EXPECT_EQ(look(pool_).find_model("m")->parallel, 1u);
  const Lease lease = lease_on(pool_, "m");
  PendingAcquire pending = waiting();
  publish_only("0");
  settle();
  EXPECT_FALSE(is_counted());
  EXPECT_TRUE(pending.was_woken());
}

TEST_F(CountedByJudge, WithoutTheMutexOnlyWhatIsSafe) {
  publish_only("1");
  {
    const auto held = segment_->lock_structure();
    settle();
    EXPECT_TRUE(is_counted());
  }
  settle();
  publish_only("0");
  const auto held = segment_->lock_structure();
  settle();
  EXPECT_TRUE(is_counted()) << "until it can be had";
}

TEST_F(CountedByJudge, ReapingWakesWhoWaitsForWhatTheDeadHeldOrStoodBehindThem) {
  ASSERT_TRUE(pool_.set("parallel", "1"));
  std::optional<Lease> lease;
  for (const bool holds : {true, false}) {
    if (!holds) lease = lease_on(pool_, "m");
    Forked dead([this, holds](Forked::Child& parent) {
      Pool mine = attach(scratch_);
      std::optional<Lease> held;
      PendingAcquire pending = *mine.begin_acquire("m", kPatience);
      if (holds) {
        held = lease_on(mine, "m");
      } else {
        static_cast<void>(pending.poll());
      }
      parent.say(holds ? "holds" : "waits");
      parent.hear();
    });
    dead.hear();
    PendingAcquire behind = waiting();
    const pid_t pid = dead.pid();
    dead.kill_now();
    const Snapshot seen = look(pool_);
    Action reap;
    reap.kind = ActionKind::kReapWorker;
    for (const WorkerView& worker : seen.workers) {
      if (worker.process.pid == pid) reap.worker = worker.ref;
    }
    ASSERT_TRUE(carry_out({reap}, seen));
    EXPECT_TRUE(behind.was_woken());
  }
}

}  // namespace
}  // namespace modelpool::test
