#include "modelpool/pool.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

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
  EXPECT_EQ(pool->segment().name(), "p");
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
  EXPECT_EQ(code_of(pool.snapshot()), Errc::kClosed);
  EXPECT_EQ(code_of(pool.wake_word()), Errc::kClosed);
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
    const BackendRef ref = find_backend(pool.segment(), "m")->ref;
    ASSERT_TRUE(close_to_leases(pool.segment(), ref, 1) && commit_stop(pool.segment(), ref, 1));
    ASSERT_TRUE(mark_gone(pool.segment(), ref) && free_slot(pool.segment(), ref));
    load_external(pool, "in its slot").release();
    const BackendRef next = find_backend(pool.segment(), "in its slot")->ref;
    EXPECT_EQ(next.index, ref.index);
    EXPECT_EQ(code_of(pool.acquire("m", seconds(0),
                                   [] {
                                     AcquireOptions options;
                                     options.may_load = false;
                                     return options;
                                   }())),
              Errc::kNotLoaded);
    ASSERT_TRUE(close_to_leases(pool.segment(), next, 1) && commit_stop(pool.segment(), next, 1));
    ASSERT_TRUE(mark_gone(pool.segment(), next) && free_slot(pool.segment(), next));
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
  EXPECT_EQ(findings(pool.shared_segment(), true), "");
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

TEST(Lease, SaysThatItIsLostWhenItsBackendWasStopped) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  Lease lease = load_external(pool, "m");
  const BackendRef ref = find_backend(pool.segment(), "m")->ref;
  StopRecord why;
  why.generation = ref.generation;
  why.reason = Reason::kBusy;
  pool.segment().backend(ref.index).stop.publish(why);
  ASSERT_TRUE(close_to_leases(pool.segment(), ref, 1));
  EXPECT_TRUE(lease.progress());  // it may still be opened again
  ASSERT_TRUE(commit_stop(pool.segment(), ref, 1));
  const auto lost = lease.progress();
  EXPECT_EQ(code_of(lost), Errc::kLeaseLost);
  EXPECT_NE(text_of(lost).find("(busy)"), std::string::npos);
  // It names the slot until it is released: nobody else gets that before.
  ASSERT_TRUE(mark_gone(pool.segment(), ref));
  EXPECT_TRUE(any_lease_names(pool.segment(), ref));
  lease.release();
  EXPECT_FALSE(any_lease_names(pool.segment(), ref));
}

TEST(LoadTicket, ThatIsNoneSaysClosed) {
  LoadTicket ticket;
  EXPECT_FALSE(ticket);
  EXPECT_EQ(code_of(ticket.spawn({"true"})), Errc::kClosed);
  EXPECT_EQ(code_of(ticket.started(2)), Errc::kClosed);
  EXPECT_EQ(code_of(ticket.ready("a:1")), Errc::kClosed);
  EXPECT_EQ(code_of(ticket.fail("no")), Errc::kClosed);
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
  const Settings* settings = current_settings(pool.segment());
  EXPECT_EQ(settings->get(Setting::kIdleTimeout), 2500 * kMillisecond_ns);
  EXPECT_EQ(settings->pool.origin[static_cast<std::size_t>(Setting::kIdleTimeout)].kind,
            OriginKind::kSet);
  const std::uint64_t generation = pool.segment().settings().settings.generation();
  EXPECT_EQ(code_of(pool.set({{"max_backends", "3"}, {"idle_timeout", "soon"}})), Errc::kInvalid);
  EXPECT_EQ(code_of(pool.set({{"max_backends", "3"}, {"no_such_setting", "1"}})), Errc::kInvalid);
  EXPECT_EQ(code_of(pool.set("max_backends", "-1")), Errc::kInvalid);
  EXPECT_EQ(pool.limit().value(), 7u);
  EXPECT_EQ(pool.segment().settings().settings.generation(), generation);
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
  BackendRecord& old = pool.segment().backend(0);
  const StateWord ready = load_state(pool.segment(), 0);
  old.state.store(StateWord{ready.generation, 0, BackendState::kStopping}.pack());
  old.model_hash.store(kHashOverdue);
  load_external(pool, "m").release();
  const auto used = [&] { return latest_use_ns(pool.segment(), 1); };
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
  EXPECT_GT(Deadline(seconds(5)).at_ns(), now_ns());
  EXPECT_GT(Deadline(std::chrono::hours(24 * 365 * 200)).at_ns(), now_ns());
}

TEST(P2ALeasePins, ALoadersOwnLeaseProtectsAFreshModelFromItsWaiters) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  ReadyOptions external;
  external.external = true;
  const Lease lease = ticket.ready("127.0.0.1:1", external).value();
  const BackendRef ref = find_backend(pool.segment(), "m")->ref;
  ASSERT_TRUE(close_to_leases(pool.segment(), ref, 1));
  EXPECT_TRUE(any_lease_names(pool.segment(), ref));
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
