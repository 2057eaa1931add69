#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/proc.hpp"
#include "protocol/acquisition.hpp"
#include "protocol/histories.hpp"
#include "protocol/settings_change.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

// Refuses with an error, and tells what it says.
Error refusal(Pool& pool, const std::string& model, Deadline deadline = seconds(60),
              const AcquireOptions& options = {}) {
  auto granted = pool.acquire(model, deadline, options);
  EXPECT_FALSE(granted) << model;
  return granted ? Error{} : granted.error();
}

// A wait that has been looked at once and is pending.
PendingAcquire waiting(Pool& pool, const std::string& model, Deadline deadline = seconds(600)) {
  auto pending = pool.begin_acquire(model, deadline);
  if (!pending) throw std::runtime_error(pending.error().text);
  const auto polled = pending->poll();
  if (!polled) throw std::runtime_error(polled.error().text);
  if (*polled) throw std::runtime_error(model + " did not have to wait");
  return std::move(*pending);
}

std::string poll(PendingAcquire& pending) {
  auto polled = pending.poll();
  if (!polled) return std::string(errc_name(polled.error().code));
  if (!*polled) return "pending";
  return std::holds_alternative<Lease>(**polled) ? "lease" : "ticket";
}

// The place of a backend without leases is given back, as the coordinator would.
void end_backend(const Pool& pool, const std::string& model) {
  const Segment& segment = segment_of(pool);
  const BackendRef ref = find_backend(segment, model)->ref;
  if (!close_to_leases(segment, ref, 1) || !commit_stop(segment, ref, 1) ||
      !mark_gone(segment, ref) || !free_slot(segment, ref)) {
    throw std::runtime_error("cannot end " + model);
  }
  wake_waiters(segment, hash_name(model));
  wake_line(segment);
}

// --- Granted -------------------------------------------------------------------------------------

TEST(Acquire, GivesATicketForAModelThatNobodyHasAndALeaseOnOneThatIsLoaded) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m", seconds(0));
  EXPECT_EQ(ticket.model(), "m");
  EXPECT_EQ(state_of(pool, "m"), "reserved");
  ReadyOptions external;
  external.external = true;
  Lease loaders = ticket.ready("127.0.0.1:1", external).value();
  EXPECT_EQ(loaders.model(), "m");
  EXPECT_EQ(loaders.address(), "127.0.0.1:1");
  EXPECT_EQ(loaders.pid(), 0);
  const Lease lease = lease_on(pool, "m", seconds(0));
  EXPECT_EQ(look(pool).find_model("m")->in_flight, 2u);
  EXPECT_EQ(look(pool).waiters.size(), 0u);
}

// Behind 64 models it waited until one of those was served.
TEST(Acquire, P5PassesManyThatWaitForADeviceIfItTakesNone) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"gpu_memory", "GPU-a=24GiB"}});
  ASSERT_TRUE(edit_settings(segment_of(pool), kSecond_ns, [](Settings& settings) {
    settings.rules = {{"gpu-*", {}}};
    settings.rules[0].overrides.set({Setting::kDevices, {}, 0, "GPU-a", true});
    settings.rules[0].overrides.set({Setting::kGpuMemory, {}, 0, "20GiB", true});
  }));
  const Lease holder = load_external(pool, "gpu-0");
  std::vector<PendingAcquire> behind;
  for (int i = 1; i <= 70; ++i) behind.push_back(waiting(pool, "gpu-" + std::to_string(i)));
  const LoadTicket ticket = ticket_for(pool, "host", seconds(0));
  EXPECT_EQ(ticket.model(), "host");
  EXPECT_EQ(poll(behind.front()), "pending");
}

TEST(Acquire, WaitsForALoadThatIsUnderWay) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  PendingAcquire first = waiting(pool, "m");
  PendingAcquire second = waiting(pool, "m");
  EXPECT_EQ(look(pool).waiters.size(), 2u);
  EXPECT_EQ(poll(first), "pending");
  ReadyOptions external;
  external.external = true;
  Lease loaders = ticket.ready("127.0.0.1:1", external).value();
  EXPECT_EQ(poll(second), "lease");
  EXPECT_EQ(poll(first), "lease");
  EXPECT_EQ(look(pool).waiters.size(), 0u);
}

TEST(Acquire, WaitsWithoutSleepingThroughAWakeBetweenLookAndWait) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  auto pending = pool.begin_acquire("m", seconds(600));
  ASSERT_TRUE(pending);
  ASSERT_EQ(poll(*pending), "pending");
  ReadyOptions external;
  external.external = true;
  Lease loaders = ticket.ready("127.0.0.1:1", external).value();
  pending->wait();  // returns: the word was bumped after the look
  EXPECT_EQ(poll(*pending), "lease");
}

TEST(Acquire, KeepsItsPlaceWhenItsDeadlineChanges) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const LoadTicket ticket = ticket_for(pool, "m");
  PendingAcquire first = waiting(pool, "m", seconds(600));
  PendingAcquire second = waiting(pool, "m", seconds(600));
  ASSERT_EQ(poll(first), "pending");
  const auto before = pool.snapshot()->waiters;
  first.set_deadline(seconds(20));
  const auto after = pool.snapshot()->waiters;
  ASSERT_EQ(after.size(), 2u);
  EXPECT_EQ(after[0].arrival, before[0].arrival);
  EXPECT_LE(after[0].left_ms.value_or(0), 20'000u);
  EXPECT_GT(after[1].left_ms.value_or(0), 20'000u);
  first.set_deadline(seconds(0));
  EXPECT_EQ(poll(first), "timeout");
  second.set_deadline(std::chrono::nanoseconds(Duration::kMax_ns));
  EXPECT_EQ(poll(second), "pending");
}

TEST(Acquire, AWaitForSeveralIsGrantedWithTheTagOfWhoeverIsNext) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  auto pending = pool.begin_acquire("m", seconds(600), {.tag = "who left"});
  ASSERT_TRUE(pending);
  ASSERT_EQ(poll(*pending), "pending");
  EXPECT_EQ(pending->set_tag("a\nb").error().code, Errc::kInvalid);
  EXPECT_TRUE(pending->set_tag("who is next"));
  ticket.ready("127.0.0.1:1", {.external = true}).value().release();
  const auto granted = pending->poll();
  ASSERT_TRUE(granted && *granted);
  const auto seen = pool.snapshot()->leases;
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].tag, "who is next");
}

TEST(Acquire, BumpsTheWorkersWordToo) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  auto pending = pool.begin_acquire("m", seconds(600));
  ASSERT_TRUE(pending);
  ASSERT_EQ(poll(*pending), "pending");
  const HalfWord& word = **wake_word_of(pool);
  const std::uint32_t seen = word.load();
  ReadyOptions external;
  external.external = true;
  Lease loaders = ticket.ready("127.0.0.1:1", external).value();
  EXPECT_NE(word.load(), seen);
}

TEST(Acquire, WritesWhoWaitsForWhatSinceWhen) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const LoadTicket ticket = ticket_for(pool, "m");
  AcquireOptions options;
  options.tag = "req-7";
  options.expected_bytes = 5000;
  options.priority = 3;
  const std::uint64_t before = now_ns();
  auto pending = pool.begin_acquire("m", seconds(600), options);
  ASSERT_EQ(poll(*pending), "pending");
  const Snapshot s = look(pool);
  ASSERT_EQ(s.waiters.size(), 1u);
  const WaiterView& waiter = s.waiters[0];
  EXPECT_EQ(waiter.model, "m");
  EXPECT_EQ(waiter.tag, "req-7");
  EXPECT_EQ(waiter.pid, getpid());
  EXPECT_EQ(waiter.expected_bytes, 5000u);
  EXPECT_EQ(waiter.priority, 3u);
  EXPECT_GE(waiter.since_ns, before);
  EXPECT_GT(waiter.deadline_ns, before + 500 * kSecond_ns);
  EXPECT_NE(s.find_worker(waiter.owner), nullptr);
}

// --- P5: the line --------------------------------------------------------------------------------

TEST(P5Fair, AFreePlaceGoesToTheFirstInLineWhoeverAsks) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  load_external(pool, "resident").release();
  PendingAcquire first = waiting(pool, "first");
  PendingAcquire second = waiting(pool, "second");
  EXPECT_EQ(poll(second), "pending");
  end_backend(pool, "resident");
  EXPECT_EQ(poll(second), "pending");
  EXPECT_EQ(refusal(pool, "newcomer", seconds(0)).code, Errc::kTimeout);
  EXPECT_EQ(poll(first), "ticket");   // and gives it up
  EXPECT_EQ(poll(second), "ticket");  // now it is its turn
}

TEST(P5Fair, AsManyOfTheLineAreServedAsThereArePlaces) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "2"}});
  load_external(pool, "one").release();
  load_external(pool, "two").release();
  PendingAcquire first = waiting(pool, "first");
  PendingAcquire second = waiting(pool, "second");
  PendingAcquire third = waiting(pool, "third");
  end_backend(pool, "one");
  end_backend(pool, "two");
  EXPECT_EQ(poll(third), "pending");
  auto granted = second.poll();
  ASSERT_TRUE(granted && *granted);
  auto also_granted = first.poll();
  ASSERT_TRUE(also_granted && *also_granted);
  EXPECT_EQ(poll(third), "pending");
  EXPECT_EQ(count_live(segment_of(pool)), 2u);
}

TEST(P5Fair, WaitersForOneModelCountAsOneInTheLine) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "2"}});
  load_external(pool, "one").release();
  load_external(pool, "two").release();
  PendingAcquire a = waiting(pool, "a");
  PendingAcquire also_a = waiting(pool, "a");
  PendingAcquire b = waiting(pool, "b");
  end_backend(pool, "one");
  end_backend(pool, "two");
  auto for_b = b.poll();
  ASSERT_TRUE(for_b && *for_b);
  EXPECT_TRUE(std::holds_alternative<LoadTicket>(**for_b));
  auto for_a = also_a.poll();  // any of them may load it
  ASSERT_TRUE(for_a && *for_a);
  EXPECT_TRUE(std::holds_alternative<LoadTicket>(**for_a));
  EXPECT_EQ(poll(a), "pending");
}

TEST(P5Fair, WhoLeavesTheLineMakesWay) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  load_external(pool, "resident").release();
  auto first = std::make_unique<PendingAcquire>(waiting(pool, "first"));
  PendingAcquire second = waiting(pool, "second");
  end_backend(pool, "resident");
  EXPECT_EQ(poll(second), "pending");
  first.reset();
  EXPECT_EQ(poll(second), "ticket");
}

TEST(P5Fair, AResidentIsLeasedPastTheLine) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  load_external(pool, "resident").release();
  PendingAcquire first = waiting(pool, "first");
  EXPECT_TRUE(lease_on(pool, "resident", seconds(0)));
}

// --- P3: the limit -------------------------------------------------------------------------------

TEST(P3TheLimitIsReal, EveryLiveStateHoldsAPlaceAndGoneDoesNot) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  load_external(pool, "resident").release();
  const BackendRef ref = find_backend(segment_of(pool), "resident")->ref;
  PendingAcquire waiter = waiting(pool, "m");
  ASSERT_TRUE(close_to_leases(segment_of(pool), ref, 1));
  EXPECT_EQ(poll(waiter), "pending");
  ASSERT_TRUE(commit_stop(segment_of(pool), ref, 1));
  EXPECT_EQ(poll(waiter), "pending");
  ASSERT_TRUE(mark_gone(segment_of(pool), ref));
  EXPECT_EQ(poll(waiter), "ticket");
}

TEST(P3TheLimitIsReal, ALoweredLimitAdmitsNothingUntilThereIsRoom) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "3"}});
  for (const char* model : {"one", "two", "three"}) load_external(pool, model).release();
  ASSERT_TRUE(pool.set_limit(1));
  PendingAcquire waiter = waiting(pool, "m");
  end_backend(pool, "one");
  EXPECT_EQ(poll(waiter), "pending");
  end_backend(pool, "two");
  EXPECT_EQ(poll(waiter), "pending");
  end_backend(pool, "three");
  EXPECT_EQ(poll(waiter), "ticket");
}

TEST(P3TheLimitIsReal, ARaisedLimitIsRoomAtOnce) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "1"}});
  load_external(pool, "resident").release();
  PendingAcquire waiter = waiting(pool, "m");
  ASSERT_TRUE(pool.set_limit(2));
  EXPECT_EQ(poll(waiter), "ticket");
}

// --- Refused -------------------------------------------------------------------------------------

TEST(P13BadInput, ModelNamesAndTagsThatDoNotFitAreRefused) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  for (const std::string& model :
       {std::string(), std::string(256, 'm'), std::string("a\nb"), std::string("\xff")}) {
    EXPECT_EQ(refusal(pool, model).code, Errc::kInvalid);
    EXPECT_EQ(code_of(pool.touch(model)), Errc::kInvalid);
  }
  AcquireOptions options;
  options.tag = std::string(32, 't');
  EXPECT_EQ(refusal(pool, "m", seconds(60), options).code, Errc::kInvalid);
  options.tag = "";
  options.busy_timeout = seconds(-1);
  EXPECT_EQ(refusal(pool, "m", seconds(60), options).code, Errc::kInvalid);
  EXPECT_TRUE(look(pool).backends.empty());
  EXPECT_TRUE(pool.acquire(std::string(255, 'm')));
}

TEST(P13BadInput, ALoadedModelIsNotLeasedWithATagThatDoesNotFitEither) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  load_external(pool, "m").release();
  lease_on(pool, "m").release();  // known to this thread now
  AcquireOptions options;
  options.tag = std::string(32, 't');
  EXPECT_EQ(refusal(pool, "m", seconds(60), options).code, Errc::kInvalid);
  options.tag = "";
  options.busy_timeout = seconds(-1);
  EXPECT_EQ(refusal(pool, "m", seconds(60), options).code, Errc::kInvalid);
}

TEST(Refusal, TimeoutOf0DoesNotWaitAndNeverJoinsTheLine) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const LoadTicket ticket = ticket_for(pool, "m");
  const std::uint64_t arrivals = segment_of(pool).line().next_arrival.load();
  const Error error = refusal(pool, "m", seconds(0));
  EXPECT_EQ(error.code, Errc::kTimeout);
  EXPECT_NE(error.text.find("it is being loaded"), std::string::npos) << error.text;
  EXPECT_EQ(refusal(pool, "m", milliseconds(-5)).code, Errc::kTimeout);
  EXPECT_EQ(segment_of(pool).line().next_arrival.load(), arrivals);
}

TEST(Refusal, ADeadlineIsKeptAndNeverEarly) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const LoadTicket ticket = ticket_for(pool, "m");
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(refusal(pool, "m", milliseconds(100)).code, Errc::kTimeout);
  EXPECT_GE(std::chrono::steady_clock::now() - before, milliseconds(100));
  EXPECT_EQ(refusal(pool, "m", std::chrono::steady_clock::now() + milliseconds(10)).code,
            Errc::kTimeout);
  EXPECT_EQ(look(pool).waiters.size(), 0u);
}

TEST(Refusal, AStopTokenCancelsTheWait) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const LoadTicket ticket = ticket_for(pool, "m");
  std::stop_source stop;
  AcquireOptions options;
  options.stop = stop.get_token();
  std::thread canceller([&] {
    eventually([&] { return look(pool).waiters.size() == 1; });
    stop.request_stop();
  });
  EXPECT_EQ(refusal(pool, "m", seconds(600), options).code, Errc::kCancelled);
  canceller.join();
  EXPECT_EQ(look(pool).waiters.size(), 0u);
  EXPECT_EQ(refusal(pool, "m", seconds(600), options).code,
            Errc::kCancelled);  // stopped before it began
}

TEST(Refusal, CancelOfAPolledWaitEndsIt) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const LoadTicket ticket = ticket_for(pool, "m");
  PendingAcquire pending = waiting(pool, "m");
  std::thread([&] { pending.cancel(); }).join();
  pending.wait();
  EXPECT_EQ(poll(pending), "cancelled");
  EXPECT_EQ(look(pool).waiters.size(), 0u);
}

TEST(Refusal, QueueFullAtOnceWhenMaxWaitersWait) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_waiters", "2"}});
  const LoadTicket ticket = ticket_for(pool, "m");
  auto first = std::make_unique<PendingAcquire>(waiting(pool, "m"));
  const PendingAcquire second = waiting(pool, "m");
  const Error error = refusal(pool, "m");
  EXPECT_EQ(error.code, Errc::kQueueFull);
  EXPECT_NE(error.text.find("max_waiters"), std::string::npos);
  first.reset();
  const PendingAcquire third = waiting(pool, "m");
}

TEST(Refusal, TableFullWhenEveryWaiterRowIsTaken) {
  const Scratch scratch;
  Capacities capacities = small_capacities();
  capacities.waiters = 2;
  Pool pool = make_pool(scratch, {}, capacities);
  const LoadTicket ticket = ticket_for(pool, "m");
  const PendingAcquire first = waiting(pool, "m");
  const PendingAcquire second = waiting(pool, "m");
  EXPECT_EQ(refusal(pool, "m").code, Errc::kTableFull);
}

TEST(Refusal, TableFullWhenEveryBackendSlotIsTaken) {
  const Scratch scratch;
  Capacities capacities = small_capacities();
  capacities.backends = 2;
  Pool pool = make_pool(scratch, {}, capacities);
  load_external(pool, "one").release();
  load_external(pool, "two").release();
  const Error error = refusal(pool, "three");
  EXPECT_EQ(error.code, Errc::kTableFull);
  EXPECT_NE(error.text.find("all 2 backend slots"), std::string::npos) << error.text;
  EXPECT_EQ(look(pool).waiters.size(), 0u);
}

TEST(Refusal, TableFullWhenTheWorkerHoldsAllItsLeases) {
  const Scratch scratch;
  Capacities capacities = small_capacities();
  capacities.leases = 2;
  Pool pool = make_pool(scratch, {}, capacities);
  Lease first = load_external(pool, "m");
  const Lease second = lease_on(pool, "m");
  EXPECT_EQ(refusal(pool, "m").code, Errc::kTableFull);
  // The loader's own lease too: the ticket stays.
  LoadTicket ticket = ticket_for(pool, "another");
  ReadyOptions external;
  external.external = true;
  EXPECT_EQ(code_of(ticket.ready("127.0.0.1:1", external)), Errc::kTableFull);
  EXPECT_EQ(state_of(pool, "another"), "reserved");
  first.release();
  EXPECT_TRUE(ticket.ready("127.0.0.1:1", external));
}

TEST(Refusal, AllPinnedAtOnceAndTheLimitStands) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "2"}});
  ReadyOptions pinned;
  pinned.pinned = true;
  load_external(pool, "one", pinned).release();
  load_external(pool, "two", pinned).release();
  const Error error = refusal(pool, "three");
  EXPECT_EQ(error.code, Errc::kAllPinned);
  EXPECT_NE(error.text.find("unpin one"), std::string::npos) << error.text;
  EXPECT_EQ(count_live(segment_of(pool)), 2u);
  ASSERT_TRUE(pool.unpin("one"));
  PendingAcquire waiter = waiting(pool, "three");
  ASSERT_TRUE(pool.pin("one"));
  EXPECT_EQ(poll(waiter), "all_pinned");
}

TEST(Refusal, CoolingDownTellsHowLongAndWhyAndThenLoadsAgain) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"load_cooldown", "50ms..50ms"}});
  ASSERT_TRUE(ticket_for(pool, "m").fail("CUDA out of memory"));
  const std::uint64_t cooled = find_history(segment_of(pool), "m")->cooldown_until_ns;
  const auto refused = pool.acquire("m", seconds(60));
  if (!refused) {
    EXPECT_EQ(refused.error().code, Errc::kCoolingDown);
    EXPECT_NE(refused.error().text.find("CUDA out of memory"), std::string::npos);
    EXPECT_LE(refused.error().retry_after_ns, 50 * kMillisecond_ns);
  } else {
    EXPECT_GE(now_ns(), cooled);
  }
  EXPECT_TRUE(eventually([&] { return pool.acquire("m", seconds(0)).has_value(); }));
  EXPECT_GE(now_ns(), cooled);
}

TEST(Refusal, CoolingDownOfOneModelIsNotAnothers) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  ASSERT_TRUE(ticket_for(pool, "m").fail("corrupt"));
  EXPECT_EQ(refusal(pool, "m").code, Errc::kCoolingDown);
  EXPECT_TRUE(pool.acquire("another", seconds(0)));
}

TEST(Refusal, NotLoadedInsteadOfATicketIfAsked) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  AcquireOptions options;
  options.may_load = false;
  EXPECT_EQ(refusal(pool, "m", seconds(60), options).code, Errc::kNotLoaded);
  EXPECT_TRUE(look(pool).backends.empty());
  load_external(pool, "m").release();
  EXPECT_TRUE(pool.acquire("m", seconds(60), options));
  EXPECT_EQ(code_of(pool.touch("missing")), Errc::kNotLoaded);
  EXPECT_EQ(code_of(pool.pin("missing")), Errc::kNotLoaded);
  EXPECT_EQ(code_of(pool.unpin("missing")), Errc::kNotLoaded);
  EXPECT_EQ(code_of(pool.evict("missing")), Errc::kNotLoaded);
}

class WithoutCoordinator : public ::testing::Test {
 protected:
  Pool attach(std::chrono::nanoseconds grace, const Settings* settings) {
    PoolOptions options;
    options.dir = scratch_.dir();
    options.capacities = small_capacities();
    options.coordinator_grace = grace;
    options.settings = settings;
    auto pool = Pool::attach("default", options);
    if (!pool) throw std::runtime_error(pool.error().text);
    return std::move(*pool);
  }
  const Scratch scratch_;
};

TEST_F(WithoutCoordinator, WhatNeedsOneEndsAfterTheGraceAndNotBefore) {
  const Settings settings = settings_of({{"max_backends", "1"}});
  Pool pool = attach(milliseconds(100), &settings);
  load_external(pool, "resident").release();
  const auto before = std::chrono::steady_clock::now();
  const Error error = refusal(pool, "m", seconds(600));
  EXPECT_EQ(error.code, Errc::kNoCoordinator);
  EXPECT_GE(std::chrono::steady_clock::now() - before, milliseconds(100));
  EXPECT_NE(error.text.find("start coordinatord --dir " + scratch_.dir()), std::string::npos)
      << error.text;
  EXPECT_EQ(look(pool).waiters.size(), 0u);
}

TEST_F(WithoutCoordinator, WhatNeedsOneEndsAtTheDeadlineIfThatIsEarlier) {
  const Settings settings = settings_of({{"max_backends", "1"}});
  Pool pool = attach(seconds(600), &settings);
  load_external(pool, "resident").release();
  EXPECT_EQ(refusal(pool, "m", milliseconds(20)).code, Errc::kNoCoordinator);
}

TEST_F(WithoutCoordinator, LeasesAndFreePlacesGoOn) {
  const Settings settings = settings_of({{"max_backends", "2"}});
  Pool pool = attach(milliseconds(0), &settings);
  load_external(pool, "m").release();
  EXPECT_TRUE(lease_on(pool, "m", seconds(0)));
  EXPECT_TRUE(ticket_for(pool, "another", seconds(0)));
}

TEST_F(WithoutCoordinator, APoolThatNeverHadSettingsGrantsNoTicket) {
  Pool pool = attach(milliseconds(20), nullptr);
  const Error error = refusal(pool, "m", seconds(600));
  EXPECT_EQ(error.code, Errc::kNoCoordinator);
  // Not two sentences glued together, each with its own advice.
  EXPECT_EQ(
      error.text,
      "unable to acquire m: the pool has no settings yet, and no coordinator is running; start "
      "coordinatord --dir " +
          scratch_.dir());
  EXPECT_TRUE(look(pool).backends.empty());
  ASSERT_TRUE(pool.set_limit(1));
  EXPECT_TRUE(pool.acquire("m", seconds(0)));
}

TEST_F(WithoutCoordinator, AModelClosedByADeadOneIsOpenedAgainByWhoWantsIt) {
  const Settings settings = settings_of({});
  Pool pool = attach(seconds(600), &settings);
  load_external(pool, "m").release();
  CoordinatorRecord& record = segment_of(pool).coordinator();
  Forked judge([](Forked::Child&) {});
  judge.wait();
  record.pid.store(static_cast<std::uint32_t>(judge.pid()));
  record.start_ticks.store(12345);
  record.epoch.store(3);
  ASSERT_TRUE(close_to_leases(segment_of(pool), find_backend(segment_of(pool), "m")->ref, 3));
  EXPECT_TRUE(lease_on(pool, "m", seconds(0)));
}

TEST_F(WithoutCoordinator, AModelClosedByALivingOneStaysClosed) {
  const Settings settings = settings_of({});
  Pool pool = attach(seconds(600), &settings);
  load_external(pool, "m").release();
  CoordinatorRecord& record = segment_of(pool).coordinator();
  Forked judge([](Forked::Child& parent) { parent.hear(); });
  record.pid.store(static_cast<std::uint32_t>(judge.pid()));
  record.start_ticks.store(read_stat(judge.pid())->start_ticks);
  record.epoch.store(3);
  const BackendRef ref = find_backend(segment_of(pool), "m")->ref;
  ASSERT_TRUE(close_to_leases(segment_of(pool), ref, 3));
  PendingAcquire waiter = waiting(pool, "m");
  EXPECT_EQ(state_of(pool, "m"), "evicting");
  ASSERT_TRUE(reopen(segment_of(pool), ref, 3));
  EXPECT_EQ(poll(waiter), "lease");
  ASSERT_TRUE(close_to_leases(segment_of(pool), ref, 2));  // of an epoch before this one's
  EXPECT_TRUE(lease_on(pool, "m", seconds(0)));
}

TEST(Refusal, ReplacedOnceTheNameIsGone) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  load_external(pool, "m").release();
  std::filesystem::remove(scratch.path("default"));
  EXPECT_EQ(refusal(pool, "another", milliseconds(300)).code, Errc::kReplaced);
  EXPECT_TRUE(lease_on(pool, "m", seconds(0)));  // what runs, runs on
}

TEST(Refusal, NoCoordinatorWhileThePoolIsShutDownAndNotAfterItsJudgeHasDied) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  CoordinatorRecord& record = segment_of(pool).coordinator();
  Forked judge([](Forked::Child& parent) { parent.hear(); });
  record.pid.store(static_cast<std::uint32_t>(judge.pid()));
  record.start_ticks.store(read_stat(judge.pid())->start_ticks);
  record.epoch.store(1);
  record.leaving.store(kLeavingForGood);
  EXPECT_EQ(refusal(pool, "m").code, Errc::kNoCoordinator);
  judge.kill_now();
  EXPECT_TRUE(pool.acquire("m", seconds(0)));
}

// A coordinator that took this process for dead has cleared its rows: it stands in line again.
TEST(Acquire, StandsInLineAgainWhenItsRowWasTaken) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const LoadTicket ticket = ticket_for(pool, "m");
  PendingAcquire waiter = waiting(pool, "m");
  const Snapshot s = look(pool);
  segment_of(pool).waiter(s.waiters[0].row).state.store(pack_half(s.waiters[0].generation, 0));
  ASSERT_TRUE(look(pool).waiters.empty());
  EXPECT_EQ(poll(waiter), "pending");
  EXPECT_EQ(look(pool).waiters.size(), 1u);
}

TEST(Refusal, AFailedLoadAnswersItsWaitersOnceAndNotThoseOfTheNext) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"load_cooldown", "off"}});
  LoadTicket ticket = ticket_for(pool, "m");
  PendingAcquire waiter = waiting(pool, "m");
  ASSERT_TRUE(ticket.fail("corrupt"));
  EXPECT_EQ(poll(waiter), "load_failed");
  const LoadTicket next = ticket_for(pool, "m");
  PendingAcquire later = waiting(pool, "m");
  EXPECT_EQ(poll(later), "pending");
}

TEST(Refusal, AFailedLoadAnswersAWaiterThatMissedItsEnd) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"load_cooldown", "off"}});
  LoadTicket ticket = ticket_for(pool, "m");
  PendingAcquire slow = waiting(pool, "m");
  ASSERT_TRUE(ticket.fail("corrupt"));
  const LoadTicket next = ticket_for(pool, "m");  // another load is under way when it looks
  EXPECT_EQ(poll(slow), "load_failed");
}

// It counted as nothing until it was ready: two that did not fit were loaded side by side.
TEST(Refusal, P3ALoadFromBeforeThereWasALimitCountsWithWhatItIsSaidToTake) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"memory", "60MiB"}});
  const LoadTicket early = ticket_for(pool, "early");
  ASSERT_TRUE(pool.set("max_memory", "100MiB"));
  EXPECT_NE(refusal(pool, "late", seconds(0)).text, "");
  ASSERT_TRUE(pool.set("max_memory", "120MiB"));
  EXPECT_NO_THROW(ticket_for(pool, "late"));
}

}  // namespace
