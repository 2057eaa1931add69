#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "pool/change_settings.hpp"
#include "protocol/histories.hpp"
#include "protocol/parallel.hpp"
#include "support/pool.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

constexpr std::uint32_t kEpoch = 9;
constexpr std::array kAllStates = {
    BackendState::kFree,     BackendState::kReserved, BackendState::kStarting, BackendState::kReady,
    BackendState::kEvicting, BackendState::kStopping, BackendState::kGone};

class Registry : public ::testing::Test {
 protected:
  Registry() {
    auto attached = Worker::attach(segment_);
    if (!attached) throw std::runtime_error(attached.error().text);
    worker_ = *attached;
    owner_ = worker_->owner_word();
  }

  BackendRef reserve_one(const std::string& model = "m") {
    auto lock = segment_->lock_structure();
    const auto ref = reserve(*segment_, *lock, worker_->ref(), model, now_ns());
    if (!ref) throw std::runtime_error("no free slot");
    return *ref;
  }
  BackendRef ready_one(const std::string& model = "m") {
    const BackendRef ref = reserve_one(model);
    ReadyOptions external;
    external.external = true;
    const auto lock = segment_->lock_structure();
    if (!publish_ready(*segment_, ref, owner_, "a:1", external, &*lock))
      throw std::runtime_error("not ready");
    return ref;
  }
  // The owner a slot in this state has as a rule.
  std::uint32_t owner_in(BackendState state) const {
    if (state == BackendState::kReserved || state == BackendState::kStarting) return owner_;
    return state == BackendState::kEvicting ? StateWord::owner_of_epoch(kEpoch) : 0;
  }
  void put(BackendRef ref, BackendState state) {
    segment_->backend(ref.index).state.store(
        StateWord{ref.generation, owner_in(state), state}.pack());
  }
  StateWord state(BackendRef ref) const { return load_state(*segment_, ref.index); }

  // Tries a transition from every state: it takes place from `from` and leads to `to`, else
  // nowhere.
  void expect_only(const std::vector<std::pair<BackendState, BackendState>>& arrows,
                   const std::function<bool(BackendRef)>& transition) {
    for (const BackendState start : kAllStates) {
      const BackendRef ref{3, 5};
      put(ref, start);
      const StateWord before = state(ref);
      const bool done = transition(ref);
      const auto arrow = std::find_if(arrows.begin(), arrows.end(),
                                      [&](const auto& a) { return a.first == start; });
      if (arrow == arrows.end()) {
        EXPECT_FALSE(done) << "from " << backend_state_name(start);
        EXPECT_EQ(state(ref), before) << "from " << backend_state_name(start);
      } else {
        EXPECT_TRUE(done) << "from " << backend_state_name(start);
        EXPECT_EQ(state(ref).state, arrow->second) << "from " << backend_state_name(start);
      }
      put(ref, start);
      EXPECT_FALSE(transition({ref.index, ref.generation + 1})) << "of another generation";
      EXPECT_EQ(state(ref), before);
    }
  }

  const Scratch scratch_;
  const std::shared_ptr<Segment> segment_ = make_segment(scratch_);
  Worker* worker_ = nullptr;
  std::uint32_t owner_ = 0;
};

// --- Transitions ---------------------------------------------------------------------------------

TEST_F(Registry, ClosesOnlyWhatIsReady) {
  expect_only({{BackendState::kReady, BackendState::kEvicting}},
              [&](BackendRef ref) { return close_to_leases(*segment_, ref, kEpoch); });
}

TEST_F(Registry, ReopensOnlyWhatThatEpochClosed) {
  expect_only({{BackendState::kEvicting, BackendState::kReady}},
              [&](BackendRef ref) { return reopen(*segment_, ref, kEpoch); });
  const BackendRef ref{3, 5};
  put(ref, BackendState::kEvicting);
  EXPECT_FALSE(reopen(*segment_, ref, kEpoch + 1));
}

TEST_F(Registry, CommitsOnlyWhatThatEpochClosed) {
  expect_only({{BackendState::kEvicting, BackendState::kStopping}},
              [&](BackendRef ref) { return commit_stop(*segment_, ref, kEpoch); });
  const BackendRef ref{3, 5};
  put(ref, BackendState::kEvicting);
  EXPECT_FALSE(commit_stop(*segment_, ref, kEpoch + 1));
}

TEST_F(Registry, MarksGoneOnlyWhatIsStopping) {
  expect_only({{BackendState::kStopping, BackendState::kGone}},
              [&](BackendRef ref) { return mark_gone(*segment_, ref); });
}

// Such a slot was read as gone, and no CAS ever found it so: it was never freed.
TEST_F(Registry, AStateThatIsNoneOfOursIsStoppingForEveryone) {
  const BackendRef ref{3, 5};
  const auto damage = [&](std::uint32_t owner, unsigned byte) {
    segment_->backend(3).state.store(StateWord{5, owner, BackendState::kFree}.pack() | byte);
  };
  for (const unsigned byte : {7u, 0x83u, 0xffu}) {
    damage(0, byte);
    Segment::reach(segment_->line().backends_reached, 3);
    EXPECT_EQ(count_live(*segment_), 1u) << "what runs there would not count";
    EXPECT_FALSE(close_to_leases(*segment_, ref, kEpoch));
    EXPECT_FALSE(free_slot(*segment_, ref));
    EXPECT_TRUE(mark_gone(*segment_, ref));
    EXPECT_TRUE(free_slot(*segment_, ref));
    EXPECT_EQ(state(ref), (StateWord{6, 0, BackendState::kFree}));
    damage(owner_, byte);
    give_up(*segment_, ref, owner_);
    EXPECT_EQ(state(ref), (StateWord{5, 0, BackendState::kStopping}));
    damage(owner_, byte);
    EXPECT_TRUE(disown_ticket(*segment_, ref));
  }
}

TEST_F(Registry, FreesOnlyWhatIsGoneAndNobodys) {
  expect_only({{BackendState::kGone, BackendState::kFree}},
              [&](BackendRef ref) { return free_slot(*segment_, ref); });
  const BackendRef ref{3, 5};
  segment_->backend(3).state.store(StateWord{5, owner_, BackendState::kGone}.pack());
  EXPECT_FALSE(free_slot(*segment_, ref));
}

TEST_F(Registry, FreesIntoTheNextGeneration) {
  const BackendRef ref{3, 5};
  put(ref, BackendState::kGone);
  ASSERT_TRUE(free_slot(*segment_, ref));
  EXPECT_EQ(state(ref), (StateWord{6, 0, BackendState::kFree}));
  segment_->backend(3).state.store(StateWord{0xffffffff, 0, BackendState::kGone}.pack());
  ASSERT_TRUE(free_slot(*segment_, {3, 0xffffffff}));
  EXPECT_EQ(state(ref).generation, 1u);  // 0 is never a generation: a word of 0 is no lease
}

TEST_F(Registry, LosesOnlyTicketsThatAreOut) {
  expect_only({{BackendState::kReserved, BackendState::kGone},
               {BackendState::kStarting, BackendState::kStopping}},
              [&](BackendRef ref) {
                return lose_ticket(*segment_, ref, load_state(*segment_, ref.index));
              });
}

TEST_F(Registry, LosesATicketOnlyAsItWasSeen) {
  const BackendRef ref = reserve_one();
  const StateWord seen = state(ref);
  ASSERT_TRUE(record_start(*segment_, ref, owner_, Started{own_identity(), 0, false}));
  EXPECT_FALSE(lose_ticket(*segment_, ref, seen));
  EXPECT_EQ(state(ref).state, BackendState::kStarting);
}

TEST_F(Registry, DisownsOnlyWhatIsEnding) {
  for (const BackendState start : kAllStates) {
    const BackendRef ref{3, 5};
    segment_->backend(3).state.store(StateWord{5, owner_, start}.pack());
    const bool ending = start == BackendState::kStopping || start == BackendState::kGone;
    EXPECT_EQ(disown_ticket(*segment_, ref), ending) << backend_state_name(start);
    EXPECT_EQ(state(ref).owner, ending ? 0 : owner_);
  }
}

// --- Tickets -------------------------------------------------------------------------------------

TEST_F(Registry, ReservesASlotWithNothingOfItsLastLife) {
  const BackendRef first = ready_one("first");
  BackendRecord& record = segment_->backend(first.index);
  set_control(*segment_, first, kControlPinned | kControlEvict, 0);
  record.pid.store(77);
  record.group.store(77);
  record.label.store("label");
  record.drain_failed_ns.store(5);
  record_exit(*segment_, first, pack_exit(ExitKind::kExited, 1));
  ASSERT_TRUE(close_to_leases(*segment_, first, kEpoch) && commit_stop(*segment_, first, kEpoch));
  ASSERT_TRUE(mark_gone(*segment_, first) && free_slot(*segment_, first));

  const BackendRef second = reserve_one("second");
  ASSERT_EQ(second.index, first.index);
  EXPECT_EQ(second.generation, first.generation + 1);
  EXPECT_EQ(state(second), (StateWord{second.generation, owner_, BackendState::kReserved}));
  EXPECT_EQ(record.model.load(), "second");
  EXPECT_EQ(record.model_hash.load(), hash_name("second"));
  EXPECT_EQ(record.address.load(), "");
  EXPECT_EQ(record.label.load(), "");
  EXPECT_EQ(record.pid.load(), 0u);
  EXPECT_EQ(record.group.load(), 0u);
  EXPECT_EQ(record.ready_ns.load(), 0u);
  EXPECT_EQ(load_control(*segment_, second), 0u);
  EXPECT_EQ(low_half(record.exit_status.load()), 0u);
  EXPECT_EQ(low_half(record.traits.load()), 0u);
  EXPECT_EQ(record.drain_failed_ns.load(), 0u);
  EXPECT_EQ(record.owner_pid.load(), static_cast<std::uint32_t>(getpid()));
}

TEST_F(Registry, ReservesNothingWhenAllSlotsAreTaken) {
  for (std::uint32_t i = 0; i < segment_->capacities().backends; ++i)
    reserve_one("m" + std::to_string(i));
  auto lock = segment_->lock_structure();
  EXPECT_FALSE(reserve(*segment_, *lock, worker_->ref(), "one more", now_ns()));
  EXPECT_EQ(count_live(*segment_), segment_->capacities().backends);
}

TEST_F(Registry, TakesATicketThroughStartToReady) {
  const BackendRef ref = reserve_one();
  const ProcessIdentity process{4321, 99, 7};
  ASSERT_TRUE(record_start(*segment_, ref, owner_, Started{process, 4321, true}));
  EXPECT_EQ(state(ref), (StateWord{ref.generation, owner_, BackendState::kStarting}));
  ASSERT_TRUE(forget_start(*segment_, ref, owner_));
  EXPECT_EQ(state(ref).state, BackendState::kReserved);
  ASSERT_TRUE(record_start(*segment_, ref, owner_, Started{process, 4321, true}));
  ReadyOptions options;
  options.size_bytes = 1 << 20;
  options.device_mask = 3;
  options.label = "gpu0";
  options.pinned = true;
  options.overrides.set(Setting::kIdleTimeout, kSecond_ns);
  {
    note_parallel(*segment_, ref, resolve_parallel(*segment_, ref));
    const auto lock = segment_->lock_structure();
    ASSERT_TRUE(publish_ready(*segment_, ref, owner_, "a:1", options, &*lock));
  }
  EXPECT_EQ(state(ref), (StateWord{ref.generation, 0, BackendState::kReady}));
  const Snapshot s = look(segment_);
  const BackendView* view = s.find(ref);
  ASSERT_NE(view, nullptr);
  EXPECT_TRUE(view->process.is(process));
  EXPECT_EQ(view->group, 4321);
  EXPECT_EQ(view->address, "a:1");
  EXPECT_EQ(view->label, "gpu0");
  EXPECT_EQ(view->size_bytes, 1u << 20);
  EXPECT_EQ(view->device_mask, 3u);
  EXPECT_TRUE(view->pinned());
  EXPECT_FALSE(view->external());
  EXPECT_EQ(view->overrides.get(Setting::kIdleTimeout), kSecond_ns);
  EXPECT_EQ(view->settings().get(Setting::kIdleTimeout), kSecond_ns);
  EXPECT_EQ(view->settings().origin(Setting::kIdleTimeout).kind, OriginKind::kReady);
}

TEST_F(Registry, RefusesEveryStepOfAHolderThatLostItsTicket) {
  const BackendRef ref = reserve_one();
  ASSERT_TRUE(record_start(*segment_, ref, owner_, Started{own_identity(), 0, false}));
  StopRecord why;
  why.generation = ref.generation;
  why.reason = Reason::kLoadTimeout;
  why.limit_ns = 600 * kSecond_ns;
  segment_->backend(ref.index).stop.publish(why);
  ASSERT_TRUE(lose_ticket(*segment_, ref, state(ref)));
  const auto late = publish_ready(*segment_, ref, owner_, "a:1", ReadyOptions{});
  EXPECT_EQ(code_of(late), Errc::kTicketLost);
  EXPECT_NE(text_of(late).find("load_timeout after 10m"), std::string::npos) << text_of(late);
  EXPECT_EQ(code_of(forget_start(*segment_, ref, owner_)), Errc::kTicketLost);
  EXPECT_EQ(state(ref).state, BackendState::kStopping);
}

// Stopped between looking at its slot and its CAS, for as long as the slot needed for another life.
TEST_F(Registry, LateHoldersDoNotGetIntoTheNextLife) {
  const BackendRef old = reserve_one("old");
  ASSERT_TRUE(lose_ticket(*segment_, old, state(old)));
  ASSERT_TRUE(disown_ticket(*segment_, old) && free_slot(*segment_, old));
  const BackendRef next = reserve_one("next");
  ASSERT_EQ(next.index, old.index);
  EXPECT_FALSE(publish_ready(*segment_, old, owner_, "a:1", ReadyOptions{}));
  EXPECT_FALSE(set_control(*segment_, old, kControlEvict, 0));
  record_exit(*segment_, old, pack_exit(ExitKind::kExited, 1));
  give_up(*segment_, old, owner_);
  EXPECT_EQ(state(next), (StateWord{next.generation, owner_, BackendState::kReserved}));
  EXPECT_EQ(load_control(*segment_, next), 0u);
  EXPECT_EQ(segment_->backend(next.index).exit_status.load(), pack_half(next.generation, 0));
}

TEST_F(Registry, IsNotReadyWithoutAProcessUnlessExternal) {
  const BackendRef ref = reserve_one();
  EXPECT_EQ(code_of(publish_ready(*segment_, ref, owner_, "a:1", ReadyOptions{})), Errc::kInvalid);
  EXPECT_EQ(state(ref).state, BackendState::kReserved);
  ReadyOptions external;
  external.external = true;
  ASSERT_TRUE(publish_ready(*segment_, ref, owner_, "a:1", external));
  EXPECT_TRUE(look(segment_).find(ref)->external());
}

TEST_F(Registry, OnlyTheHolderMayUseItsTicket) {
  const BackendRef ref = reserve_one();
  const std::uint32_t other = StateWord::owner_of({worker_->ref().index + 1, 1});
  EXPECT_EQ(code_of(record_start(*segment_, ref, other, Started{own_identity(), 0, false})),
            Errc::kTicketLost);
  give_up(*segment_, ref, other);
  EXPECT_EQ(state(ref).state, BackendState::kReserved);
}

TEST_F(Registry, ATicketGivenUpEndsWhatItStarted) {
  const std::vector<std::pair<BackendState, BackendState>> arrows = {
      {BackendState::kReserved, BackendState::kGone},
      {BackendState::kStarting, BackendState::kStopping},
      {BackendState::kStopping, BackendState::kStopping},
      {BackendState::kGone, BackendState::kGone}};
  for (const auto& [from, to] : arrows) {
    segment_->backend(3).state.store(StateWord{5, owner_, from}.pack());
    give_up(*segment_, {3, 5}, owner_);
    EXPECT_EQ(load_state(*segment_, 3), (StateWord{5, 0, to})) << backend_state_name(from);
  }
}

TEST_F(Registry, AReadyBackendIsNotItsLoadersToGiveUp) {
  const BackendRef ref = ready_one();
  give_up(*segment_, ref, owner_);
  give_up(*segment_, ref, 0);
  EXPECT_EQ(state(ref).state, BackendState::kReady);
}

// --- Looking up ----------------------------------------------------------------------------------

TEST_F(Registry, FindsTheLiveBackendOfAModel) {
  const BackendRef ref = ready_one("m");
  ready_one("another");
  const auto found = find_backend(*segment_, "m");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->ref, ref);
  EXPECT_EQ(found->state.state, BackendState::kReady);
  EXPECT_FALSE(find_backend(*segment_, "missing"));
  EXPECT_FALSE(find_backend(*segment_, "another", hash_name("m")));
  put(ref, BackendState::kStopping);
  EXPECT_TRUE(find_backend(*segment_, "m"));
  segment_->backend(ref.index).model_hash.store(kHashOverdue);
  EXPECT_FALSE(find_backend(*segment_, "m"));  // it would not die: its model may be loaded again
  EXPECT_EQ(count_live(*segment_), 2u);        // and it still counts
  put(ref, BackendState::kGone);
  EXPECT_EQ(count_live(*segment_), 1u);
}

TEST_F(Registry, ControlWordsBelongToOneGeneration) {
  const BackendRef ref = ready_one();
  EXPECT_TRUE(set_control(*segment_, ref, kControlPinned | kControlEvict, 0));
  EXPECT_TRUE(set_control(*segment_, ref, 0, kControlEvict));
  EXPECT_EQ(load_control(*segment_, ref), kControlPinned);
  EXPECT_FALSE(set_control(*segment_, {ref.index, ref.generation + 1}, kControlEvict, 0));
  EXPECT_EQ(load_control(*segment_, {ref.index, ref.generation + 1}), 0u);
  EXPECT_EQ(load_control(*segment_, ref), kControlPinned);
}

TEST_F(Registry, KeepsTheFirstExitStatusOfAGeneration) {
  const BackendRef ref = ready_one();
  record_exit(*segment_, ref, pack_exit(ExitKind::kExited, 3));
  record_exit(*segment_, ref, pack_exit(ExitKind::kSignalled, 9));
  EXPECT_EQ(exit_text(look(segment_).find(ref)->exit_status), "exit status 3");
}

// --- Histories -----------------------------------------------------------------------------------

TEST_F(Registry, RemembersFailuresAndCoolsDownLongerEachTime) {
  const std::uint64_t now = now_ns();
  auto lock = segment_->lock_structure();
  ASSERT_TRUE(lock);
  EXPECT_FALSE(find_history(*segment_, "m"));
  std::uint64_t last = 0;
  for (std::uint64_t i = 1; i <= 5; ++i) {
    const BackendRef ref{1, static_cast<std::uint32_t>(i)};
    write_failure(
        *segment_, *lock, "m",
        {ref, "out of memory", pack_cooldown(10'000, 30'000), pack_exit(ExitKind::kSignalled, 9)},
        now);
    const auto history = find_history(*segment_, "m");
    ASSERT_TRUE(history);
    EXPECT_EQ(history->failures, i);
    EXPECT_EQ(field_text(history->error), "out of memory");
    EXPECT_EQ(history->exit_status, pack_exit(ExitKind::kSignalled, 9));
    EXPECT_EQ(history->failed_backend, pack_ref(ref));
    const std::uint64_t cooldown = history->cooldown_until_ns - now;
    EXPECT_GE(cooldown, 10 * kSecond_ns);
    EXPECT_LE(cooldown, 30 * kSecond_ns);
    EXPECT_GE(cooldown, last);
    last = cooldown;
  }
  EXPECT_EQ(last, 30 * kSecond_ns);
}

TEST_F(Registry, CutsAnErrorThatIsTooLong) {
  auto lock = segment_->lock_structure();
  write_failure(*segment_, *lock, "m", {{1, 1}, std::string(10'000, 'e'), 0, 0}, now_ns());
  EXPECT_EQ(field_text(find_history(*segment_, "m")->error), std::string(255, 'e'));
}

TEST_F(Registry, ForgetsTheLongestUntouchedHistoryWhenAllAreInUse) {
  auto lock = segment_->lock_structure();
  const std::uint32_t models = segment_->capacities().models;
  for (std::uint32_t i = 0; i < models; ++i) {
    LoadHistory history;
    history.updated_ns = 100 + (i == 3 ? 0 : i + 1);
    write_history(*segment_, *lock, "m" + std::to_string(i), history);
  }
  LoadHistory history;
  history.updated_ns = 1000;
  write_history(*segment_, *lock, "new", history);
  EXPECT_FALSE(find_history(*segment_, "m3"));
  EXPECT_TRUE(find_history(*segment_, "m0"));
  EXPECT_TRUE(find_history(*segment_, "new"));
  EXPECT_EQ(read_histories(*segment_).size(), models);
}

}  // namespace
