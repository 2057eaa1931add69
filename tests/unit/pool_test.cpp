#include "modelpool/pool.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/duration.hpp"
#include "base/time.hpp"
#include "pool/change_settings.hpp"
#include "pool/inside.hpp"
#include "protocol/histories.hpp"
#include "protocol/settings_change.hpp"
#include "segment/settings_block.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)
using std::chrono::seconds;

namespace {

TEST(Pool, AttachesCreatingItIfThereIsNone) {
  const Scratch scratch;
  PoolOptions options;
  options.dir = scratch.dir();
  options.capacities = small_capacities();
  options.create = false;
  EXPECT_EQ(code_of(Pool::attach("p", options)), Errc::kNoSuchPool);
  options.create = true;
  auto pool = Pool::attach("p", options);
  ASSERT_TRUE(pool) << pool.error().text;
  EXPECT_EQ(segment_of(*pool).name(), "p");
  EXPECT_EQ(look(*pool).workers.size(), 1u);
  EXPECT_EQ(pool->limit().value(), 0u);
}

TEST(Pool, SaysClosedAfterClose) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  pool.close();
  pool.close();
  EXPECT_EQ(code_of(pool.acquire("m")), Errc::kClosed);
  EXPECT_EQ(code_of(pool.begin_acquire("m")), Errc::kClosed);
  EXPECT_EQ(code_of(pool.touch("m")), Errc::kClosed);
  EXPECT_EQ(code_of(pool.pin("m")), Errc::kClosed);
  EXPECT_EQ(code_of(pool.unpin("m")), Errc::kClosed);
  EXPECT_EQ(code_of(pool.evict("m")), Errc::kClosed);
  EXPECT_EQ(code_of(pool.limit()), Errc::kClosed);
  EXPECT_EQ(code_of(pool.set_limit(1)), Errc::kClosed);
  EXPECT_EQ(code_of(pool.set("idle_timeout", "1s")), Errc::kClosed);
  EXPECT_EQ(code_of(look_inside(pool)), Errc::kClosed);
  EXPECT_EQ(code_of(wake_word_of(pool)), Errc::kClosed);
  EXPECT_TRUE(look(pool).workers.empty());
}

TEST(Pool, ClosedOrDestroyedKeepsLeasesAndTicketsThatAreOut) {
  const Scratch scratch;
  Pool observer = make_pool(scratch);
  Lease lease;
  LoadTicket ticket;
  {
    Pool pool = make_pool(scratch);
    lease = load_external(pool, "m");
    ticket = ticket_for(pool, "loading");
  }
  EXPECT_EQ(look(observer).workers.size(), 2u);
  EXPECT_TRUE(lease.progress());
  lease.release();
  EXPECT_EQ(look(observer).workers.size(), 2u);
  ReadyOptions external;
  external.external = true;
  lease = ticket.ready("127.0.0.1:1", external).value();
  lease.release();
  EXPECT_EQ(look(observer).workers.size(), 1u);
}

TEST(Pool, MovesWithItsRow) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  Pool moved = std::move(pool);
  load_external(moved, "m").release();
  Pool other = make_pool(scratch);
  EXPECT_EQ(look(moved).workers.size(), 2u);
  other = std::move(moved);  // closes what it was
  EXPECT_EQ(look(other).workers.size(), 1u);
  EXPECT_TRUE(lease_on(other, "m"));
}

TEST(Pool, TwoPoolsInOneProcessDoNotMixUpTheirModels) {
  const Scratch scratch;
  const Scratch elsewhere;
  Pool one = make_pool(scratch);
  Pool two = make_pool(elsewhere);
  load_external(one, "m").release();
  lease_on(one, "m").release();
  EXPECT_EQ(state_of(two, "m"), "none");
  const LoadTicket ticket =
      ticket_for(two, "m");  // not a lease by the thread's memory of the other
  EXPECT_EQ(state_of(one, "m"), "ready");
}

TEST(Pool, FindsAModelAgainThatWasLoadedAnew) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  for (int i = 0; i < 3; ++i) {
    load_external(pool, "m").release();
    lease_on(pool, "m").release();
    const BackendRef ref = find_backend(segment_of(pool), "m")->ref;
    ASSERT_TRUE(close_to_leases(segment_of(pool), ref, 1) && commit_stop(segment_of(pool), ref, 1));
    ASSERT_TRUE(mark_gone(segment_of(pool), ref) && free_slot(segment_of(pool), ref));
    load_external(pool, "in its slot").release();
    const BackendRef next = find_backend(segment_of(pool), "in its slot")->ref;
    EXPECT_EQ(next.index, ref.index);
    EXPECT_EQ(code_of(pool.acquire("m", seconds(0),
                                   [] {
                                     AcquireOptions options;
                                     options.may_load = false;
                                     return options;
                                   }())),
              Errc::kNotLoaded);
    ASSERT_TRUE(close_to_leases(segment_of(pool), next, 1) &&
                commit_stop(segment_of(pool), next, 1));
    ASSERT_TRUE(mark_gone(segment_of(pool), next) && free_slot(segment_of(pool), next));
  }
}

TEST(Pool, MayBeUsedByManyThreadsAtOnce) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  std::atomic<int> loads{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        auto granted = pool.acquire("m" + std::to_string((t + i) % 4), seconds(60));
        ASSERT_TRUE(granted) << granted.error().text;
        if (auto* ticket = std::get_if<LoadTicket>(&*granted)) {
          ReadyOptions external;
          external.external = true;
          ASSERT_TRUE(ticket->ready("127.0.0.1:1", external));
          ++loads;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(loads, 4);
  EXPECT_TRUE(nothing_left_but(pool, {getpid()}));
  EXPECT_EQ(findings(shared_segment_of(pool), true), "");
}

TEST(Lease, ThatIsNoneDoesNothing) {
  Lease lease;
  EXPECT_FALSE(lease);
  EXPECT_EQ(lease.model(), "");
  EXPECT_EQ(lease.address(), "");
  EXPECT_EQ(lease.pid(), 0);
  EXPECT_EQ(code_of(lease.progress()), Errc::kClosed);
  lease.release();
}

TEST(Lease, EndsOnceHoweverOftenItIsMovedAndReleased) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  Lease lease = load_external(pool, "m");
  Lease second = lease_on(pool, "m");
  Lease moved = std::move(lease);
  EXPECT_EQ(look(pool).find_model("m")->in_flight, 2u);
  second = std::move(moved);  // ends the one it was
  EXPECT_EQ(look(pool).find_model("m")->in_flight, 1u);
  second.release();
  second.release();
  EXPECT_EQ(look(pool).find_model("m")->in_flight, 0u);
}

TEST(Lease, WithoutAnEndHasNoLimitOfItsOwnAnyMore) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const Lease loaders = load_external(pool, "m");
  auto got = pool.acquire("m", seconds(0), {.busy_timeout = seconds(7)});
  Lease lease = std::move(std::get<Lease>(*got));
  const auto limit = [&] { return pool.snapshot()->leases.at(1).limit_ms; };
  EXPECT_EQ(limit(), 7000u);
  ASSERT_TRUE(lease.set_endless());
  EXPECT_EQ(limit(), std::nullopt);
  lease.release();
  EXPECT_EQ(code_of(lease.set_endless()), Errc::kClosed);
  got = pool.acquire("m", seconds(0));
  EXPECT_EQ(look(pool).leases.at(1).limit_ns, 0u) << "it was that lease's, not its cell's";
}

TEST(Lease, SaysThatItIsLostWhenItsBackendWasStopped) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  Lease lease = load_external(pool, "m");
  const BackendRef ref = find_backend(segment_of(pool), "m")->ref;
  StopRecord why;
  why.generation = ref.generation;
  why.reason = Reason::kBusy;
  segment_of(pool).backend(ref.index).stop.publish(why);
  ASSERT_TRUE(close_to_leases(segment_of(pool), ref, 1));
  EXPECT_TRUE(lease.progress());  // it may still be opened again
  ASSERT_TRUE(commit_stop(segment_of(pool), ref, 1));
  const auto lost = lease.progress();
  EXPECT_EQ(code_of(lost), Errc::kLeaseLost);
  EXPECT_NE(text_of(lost).find("(busy)"), std::string::npos);
  // It names the slot until it is released: nobody else gets that before.
  ASSERT_TRUE(mark_gone(segment_of(pool), ref));
  EXPECT_TRUE(any_lease_names(segment_of(pool), ref));
  lease.release();
  EXPECT_FALSE(any_lease_names(segment_of(pool), ref));
}

// It said for ever that its coordinator was about to leave, and there was none.
TEST(Pool, ThatHasItsNameAgainButNoCoordinatorSaysWhatToStart) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  segment_of(pool).line().replaced.store(1);  // by a coordinator that has left
  const auto refused = pool.acquire("m", std::chrono::milliseconds(50));
  EXPECT_EQ(code_of(refused), Errc::kReplaced);
  EXPECT_NE(text_of(refused).find("start coordinatord --dir " + scratch.dir()), std::string::npos)
      << text_of(refused);
}

TEST(LoadTicket, ThatIsNoneSaysClosed) {
  LoadTicket ticket;
  EXPECT_FALSE(ticket);
  EXPECT_EQ(code_of(ticket.spawn({"true"})), Errc::kClosed);
  EXPECT_EQ(code_of(ticket.started(2)), Errc::kClosed);
  EXPECT_EQ(code_of(ticket.ready("a:1")), Errc::kClosed);
  EXPECT_EQ(code_of(ticket.fail("no")), Errc::kClosed);
  EXPECT_EQ(code_of(ticket.give_back()), Errc::kClosed);
  EXPECT_EQ(ticket.waiting(), 0u);
}

TEST(LoadTicket, IsUsedUpByReadyAndByFail) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  ReadyOptions external;
  external.external = true;
  const Lease lease = ticket.ready("127.0.0.1:1", external).value();
  EXPECT_FALSE(ticket);
  EXPECT_EQ(code_of(ticket.ready("127.0.0.1:1", external)), Errc::kClosed);
  LoadTicket failed = ticket_for(pool, "another");
  ASSERT_TRUE(failed.fail("no"));
  EXPECT_EQ(code_of(failed.fail("no")), Errc::kClosed);
  EXPECT_EQ(state_of(pool, "m"), "ready");
}

TEST(LoadTicket, MovedIntoAnotherGivesThatOneUp) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket first = ticket_for(pool, "first");
  LoadTicket second = ticket_for(pool, "second");
  first = std::move(second);
  EXPECT_EQ(state_of(pool, "first"), "none");
  EXPECT_EQ(state_of(pool, "second"), "reserved");
  EXPECT_EQ(first.model(), "second");
}

TEST(PoolSettings, AnUnknownNameIsRepeatedShortened) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const auto refused = pool.set(std::string(1'000'000, 'x'), "1");
  EXPECT_EQ(code_of(refused), Errc::kInvalid);
  EXPECT_LT(text_of(refused).size(), 1000u);
  EXPECT_NE(text_of(refused).find("no such setting"), std::string::npos) << text_of(refused);
}

TEST(PoolSettings, AreSetAllOrNone) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  ASSERT_TRUE(pool.set({{"max-backends", "7"}, {"idle_timeout", "2.5s"}}));
  EXPECT_EQ(pool.limit().value(), 7u);
  const PoolSettings settings = read_pool_settings(segment_of(pool));
  EXPECT_EQ(settings.get(Setting::kIdleTimeout), 2500 * kMillisecond_ns);
  EXPECT_EQ(settings.pool.origin(Setting::kIdleTimeout).kind, OriginKind::kSet);
  const std::uint64_t generation = segment_of(pool).settings().generation.load();
  EXPECT_EQ(code_of(pool.set({{"max_backends", "3"}, {"idle_timeout", "soon"}})), Errc::kInvalid);
  EXPECT_EQ(code_of(pool.set({{"max_backends", "3"}, {"no_such_setting", "1"}})), Errc::kInvalid);
  EXPECT_EQ(code_of(pool.set("max_backends", "-1")), Errc::kInvalid);
  EXPECT_EQ(pool.limit().value(), 7u);
  EXPECT_EQ(segment_of(pool).settings().generation.load(), generation);
}

TEST(PoolSettings, ThatChangeWakeWhoWaits) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  load_external(pool, "resident").release();
  std::thread raiser([&] {
    eventually([&] { return look(pool).waiters.size() == 1; });
    EXPECT_TRUE(pool.set_limit(2));
  });
  EXPECT_TRUE(ticket_for(pool, "m", seconds(60)));
  raiser.join();
}

TEST(Touch, GoesToTheModelsNewBackendWhenTheOldOneCannotBeKilled) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  load_external(pool, "m").release();
  ASSERT_TRUE(pool.touch("m"));  // this thread knows slot 0
  BackendRecord& old = segment_of(pool).backend(0);
  const StateWord ready = load_state(segment_of(pool), 0);
  old.state.store(StateWord{ready.generation, 0, BackendState::kStopping}.pack());
  old.model_hash.store(kHashOverdue);
  load_external(pool, "m").release();
  const auto used = [&] { return latest_use_ns(segment_of(pool), 1); };
  const std::uint64_t before = used();
  while (stamp_now_ns() <= before) std::this_thread::yield();
  ASSERT_TRUE(pool.touch("m"));
  EXPECT_GT(used(), before);
}

// Under the address sanitizer: what the thread knew of models was freed before.
TEST(ThreadEnd, LeavesAcquireUsableToWhatEndsLater) {
  const Scratch scratch;
  static Pool* pool;
  Pool own = make_pool(scratch);
  pool = &own;
  load_external(own, "m").release();
  static bool leased;
  leased = false;
  struct Late {
    ~Late() { leased = pool->acquire("m", seconds(0)).has_value(); }
  };
  std::thread([] {
    thread_local Late late;
    static_cast<void>(late);
    ASSERT_TRUE(pool->acquire("m", seconds(0)));
  }).join();
  EXPECT_TRUE(leased);
}

TEST(Deadline, Of0OrLessIsNowAndNeverWraps) {
  EXPECT_EQ(Deadline(seconds(0)).at_ns(), 0u);
  EXPECT_EQ(Deadline(seconds(-5)).at_ns(), 0u);
  EXPECT_EQ(Deadline(seconds::min()).at_ns(), 0u);
  EXPECT_EQ(Deadline(std::chrono::steady_clock::time_point::min()).at_ns(), 0u);
  EXPECT_GT(Deadline(seconds(5)).at_ns(), now_ns());
}

// seconds::max() in nanoseconds wrapped to less than 0: do not wait.
TEST(Deadline, OfTheLongestDurationOfAnyUnitIsFarAway) {
  using std::chrono::duration;
  const std::uint64_t far = now_ns() + kDurationMax_ns - kSecond_ns;
  EXPECT_GT(Deadline(std::chrono::nanoseconds::max()).at_ns(), far);
  EXPECT_GT(Deadline(std::chrono::microseconds::max()).at_ns(), far);
  EXPECT_GT(Deadline(std::chrono::milliseconds::max()).at_ns(), far);
  EXPECT_GT(Deadline(seconds::max()).at_ns(), far);
  EXPECT_GT(Deadline(std::chrono::minutes::max()).at_ns(), far);
  EXPECT_GT(Deadline(std::chrono::hours::max()).at_ns(), far);
  EXPECT_GT(Deadline(std::chrono::hours(24 * 365 * 200)).at_ns(), far);
  EXPECT_GT(Deadline(duration<std::uint64_t>::max()).at_ns(), far);
  EXPECT_GT(Deadline(duration<double>(1e300)).at_ns(), far);
  EXPECT_GT(Deadline(duration<double>(std::numeric_limits<double>::infinity())).at_ns(), far);
  EXPECT_GT(Deadline(std::chrono::steady_clock::time_point::max()).at_ns(), far);
  EXPECT_GT(Deadline(std::chrono::time_point<std::chrono::steady_clock, seconds>::max()).at_ns(),
            far);
}

TEST(Duration, IsRoundedUpAndOfNoNumberIsNone) {
  using std::chrono::duration;
  EXPECT_EQ(Duration(seconds(3)).count(), 3'000'000'000);
  EXPECT_EQ((Duration(duration<std::int64_t, std::pico>(1)).count()), 1);
  EXPECT_EQ((Duration(duration<std::int64_t, std::pico>::max()).count()), 9'223'372'036'854'776);
  EXPECT_EQ(Duration(duration<double>(1e-12)).count(), 1);
  EXPECT_EQ(Duration(duration<std::uint8_t>(255)).count(), 255'000'000'000);
  EXPECT_EQ(Duration(duration<std::int8_t>(-1)).count(), -1);
  EXPECT_EQ(Duration(duration<float>(std::numeric_limits<float>::quiet_NaN())).count(), -1);
  EXPECT_EQ(Duration(duration<double>(-0.5)).count(), -1);
  EXPECT_EQ(Duration(std::chrono::hours::max()).count(), Duration::kMax_ns);
  static_assert(static_cast<std::uint64_t>(Duration::kMax_ns) == kDurationMax_ns);
}

TEST(P13BadInput, WhatIsDecidedForTheModelIsRefusedAtReady) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  for (const char* name : {"groups", "devices", "gpu_memory", "memory", "probe"}) {
    ReadyOptions options;
    options.external = true;
    const SettingInfo& info = *find_setting(name);
    const auto entry = parse_entry(info, info.id == Setting::kProbe     ? "tcp"
                                         : info.id == Setting::kDevices ? "1"
                                         : info.id == Setting::kGroups  ? "heavy"
                                                                        : "1GiB");
    ASSERT_TRUE(entry) << entry.error().text;
    options.overrides.set(*entry);
    const auto refused = ticket.ready("127.0.0.1:1", options);
    EXPECT_EQ(code_of(refused), Errc::kInvalid) << name;
    EXPECT_NE(text_of(refused).find(name), std::string::npos) << text_of(refused);
  }
}

TEST(P13BadInput, TheLongestTimesAreWaitedForAndNegativeOnesRefused) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  AcquireOptions options;
  options.busy_timeout = std::chrono::hours::max();
  for (const Deadline& deadline : {Deadline(seconds::max()), Deadline(std::chrono::hours::max())}) {
    auto pending = pool.begin_acquire("m", deadline, options);
    ASSERT_TRUE(pending) << pending.error().text;
    const auto polled = pending->poll();
    ASSERT_TRUE(polled) << polled.error().text;  // it waits
    EXPECT_FALSE(polled->has_value());
    pending->wait(std::chrono::nanoseconds::min());
  }
  options.busy_timeout = seconds(-1);
  EXPECT_EQ(code_of(pool.acquire("m", seconds(0), options)), Errc::kInvalid);
  options.busy_timeout = seconds::min();
  EXPECT_EQ(code_of(pool.acquire("m", seconds(0), options)), Errc::kInvalid);
  options.busy_timeout = std::chrono::duration<double>(std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(code_of(pool.acquire("m", seconds(0), options)), Errc::kInvalid);
  PoolOptions attach;
  attach.dir = scratch.dir();
  attach.coordinator_grace = std::chrono::hours::max();
  EXPECT_TRUE(Pool::attach("default", attach));
}

// --- Failed loads --------------------------------------------------------------------------------

TEST(Reset, ForgetsThatAModelFailedAndNothingElse) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"load_cooldown", "1h..1h"}});
  load_external(pool, "m").release();
  ASSERT_TRUE(ticket_for(pool, "failed").fail("no"));
  ASSERT_TRUE(ticket_for(pool, "other").fail("no"));
  EXPECT_EQ(code_of(pool.acquire("failed", seconds(0))), Errc::kCoolingDown);
  ASSERT_TRUE(pool.reset("failed"));
  EXPECT_TRUE(pool.acquire("failed", seconds(0)));
  EXPECT_EQ(code_of(pool.acquire("other", seconds(0))), Errc::kCoolingDown);
  EXPECT_TRUE(pool.reset("failed"));  // nothing is left to forget
  EXPECT_TRUE(pool.reset("never heard of"));
  EXPECT_EQ(code_of(pool.reset("")), Errc::kInvalid);
  EXPECT_EQ(code_of(pool.reset(std::string(256, 'm'))), Errc::kInvalid);
}

TEST(Reset, ForgetsADoublingToo) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"load_cooldown", "1h..8h"}});
  const auto cooldown_left = [&] { return pool.acquire("m", seconds(0)).error().retry_after_ns; };
  ASSERT_TRUE(ticket_for(pool, "m").fail("no"));
  ASSERT_TRUE(pool.reset("m"));
  ASSERT_TRUE(ticket_for(pool, "m").fail("no"));
  EXPECT_LE(cooldown_left(), 3600 * kSecond_ns);
}

TEST(Reset, AChangedLoadCooldownForgetsForTheModelsItIsOf) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"load_cooldown", "1h..1h"}});
  const auto cools = [&](const char* model) {
    return code_of(pool.acquire(model, seconds(0))) == Errc::kCoolingDown;
  };
  for (const char* model : {"big-1", "small-1"}) ASSERT_TRUE(ticket_for(pool, model).fail("no"));
  ASSERT_TRUE(pool.set("idle_timeout", "1h"));
  ASSERT_TRUE(pool.set("load_cooldown", "1h..1h"));  // as it was
  EXPECT_TRUE(cools("big-1") && cools("small-1"));
  ASSERT_TRUE(edit_settings(segment_of(pool), kSecond_ns, [](Settings& settings) {
    settings.rules = {{"big-*", {}}};
    settings.rules[0].overrides.set(Setting::kLoadCooldown, pack_cooldown(1000, 2000));
  }));
  EXPECT_FALSE(cools("big-1"));
  EXPECT_TRUE(cools("small-1"));
  ASSERT_TRUE(pool.set("load_cooldown", "off"));
  EXPECT_FALSE(cools("small-1"));
}

TEST(FailedLoad, IsCountedOnceForEachBackend) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"load_cooldown", "10s..5m"}});
  const Segment& segment = segment_of(pool);
  const auto failures = [&] { return find_history(segment, "m")->failures; };
  auto lock = segment.lock_structure();
  const std::uint64_t now = now_ns();
  const auto failure = [](std::uint32_t generation, std::string_view error) {
    return LoadFailure{{3, generation}, error, pack_cooldown(10'000, 300'000)};
  };
  write_failure(segment, *lock, "m", failure(7, "first"), now);
  const std::uint64_t until = find_history(segment, "m")->cooldown_until_ns;
  write_failure(segment, *lock, "m", failure(7, "again"), now + 5 * kSecond_ns);
  EXPECT_EQ(failures(), 1u);
  EXPECT_EQ(find_history(segment, "m")->cooldown_until_ns, until);
  EXPECT_EQ(field_text(find_history(segment, "m")->error), "first");
  write_failure(segment, *lock, "m", failure(8, "next"), now);
  EXPECT_EQ(failures(), 2u);
  // The record and the transition are one.
  bool recorded = false;
  const auto take = [&](bool takes_place) {
    return fail_load(segment, *lock, "m", failure(9, "not it"), now, [&] {
      recorded = failures() == 3;
      return takes_place;
    });
  };
  EXPECT_FALSE(take(false));
  EXPECT_TRUE(recorded) << "waiters look for it when they see the transition";
  EXPECT_EQ(failures(), 2u);
  EXPECT_EQ(field_text(find_history(segment, "m")->error), "next");
  EXPECT_TRUE(take(true));
  EXPECT_EQ(failures(), 3u);
}

TEST(P2ALeasePins, ALoadersOwnLeaseProtectsAFreshModelFromItsWaiters) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  ReadyOptions external;
  external.external = true;
  const Lease lease = ticket.ready("127.0.0.1:1", external).value();
  const BackendRef ref = find_backend(segment_of(pool), "m")->ref;
  ASSERT_TRUE(close_to_leases(segment_of(pool), ref, 1));
  EXPECT_TRUE(any_lease_names(segment_of(pool), ref));
}

TEST(LoadTicket, GivenBackIsNoFailureAndGoesToTheNext) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  auto first = pool.acquire("m");
  ASSERT_TRUE(first) << first.error().text;
  auto waiter = pool.begin_acquire("m");
  ASSERT_FALSE(waiter->poll().value().has_value());
  EXPECT_FALSE(waiter->was_woken());
  ASSERT_TRUE(std::get<LoadTicket>(*first).give_back());
  EXPECT_TRUE(waiter->was_woken());
  auto next = waiter->poll();
  ASSERT_TRUE(next && *next) << "no second ticket";
  ASSERT_TRUE(std::holds_alternative<LoadTicket>(**next));
  EXPECT_EQ(code_of(std::get<LoadTicket>(*first).give_back()), Errc::kClosed);
}

}  // namespace
