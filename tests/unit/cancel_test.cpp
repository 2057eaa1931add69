#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "base/fd.hpp"
#include "base/time.hpp"
#include "protocol/cancel_watch.hpp"
#include "protocol/outlook.hpp"
#include "support/pool.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

class CancelWords : public ::testing::Test {
 protected:
  CancelWords() {
    auto attached = Worker::attach(segment_);
    if (!attached) throw std::runtime_error(attached.error().text);
    worker_ = *attached;
    load_external(pool_, "m").release();
    backend_ = find_backend(*segment_, "m")->ref;
  }
  LeaseRef begin() {
    LeaseRef lease;
    EXPECT_EQ(begin_lease(*worker_, backend_, 0, "", &lease), BeginResult::kGranted);
    return lease;
  }
  LeaseRecord& record(const LeaseRef& lease) const { return worker_->lease(lease.cell); }
  void ask(const LeaseRef& lease) {
    ask_holder(*segment_, worker_->ref().index, lease.cell, name_of(lease));
  }

  const Scratch scratch_;
  Pool pool_ = make_pool(scratch_, {{"busy_timeout", "1ms"}, {"first_byte_timeout", "1h"}});
  const std::shared_ptr<Segment> segment_ = shared_segment_of(pool_);
  Worker* worker_ = nullptr;
  BackendRef backend_;
};

TEST_F(CancelWords, SayItOfTheLeaseThatIsAskedAndNotOfTheNextInItsCell) {
  LeaseRef lease = begin();
  EXPECT_FALSE(is_asked(lease));
  EXPECT_EQ(why_asked(lease), "");
  ask(lease);
  EXPECT_TRUE(is_asked(lease));
  const std::uint32_t cell = lease.cell;
  end_lease(lease);
  lease = begin();
  ASSERT_EQ(lease.cell, cell) << "this thread's";
  EXPECT_FALSE(is_asked(lease));
  end_lease(lease);
}

TEST_F(CancelWords, OfALeaseThatEndsAsItIsAskedDoTheNextNoHarm) {
  LeaseRef lease = begin();
  const LeaseName gone = name_of(lease);
  end_lease(lease);
  const LeaseRef next = begin();
  ASSERT_EQ(next.cell, lease.cell);
  ask_holder(*segment_, worker_->ref().index, next.cell, gone);
  EXPECT_FALSE(is_asked(next));
  // Its word alone, which comes again when the sequence wraps, is not enough either.
  ask_holder(*segment_, worker_->ref().index, next.cell,
             {name_of(next).word, name_of(next).start_ns + 1});
  EXPECT_FALSE(is_asked(next));
  end_lease(next);
}

// Its judge died before it noted when: no grace has begun, and the next judge asks again.
TEST_F(CancelWords, WithoutATimeHaveAskedTheHolderAndBegunNoGrace) {
  const LeaseRef lease = begin();
  ask(lease);
  EXPECT_NE(lease_in_flight(look(pool_).leases.at(0)).asked_ns, 0u);
  record(lease).cancel_at_ns.store(kNever_ns);
  EXPECT_TRUE(is_asked(lease));
  EXPECT_EQ(lease_in_flight(look(pool_).leases.at(0)).asked_ns, 0u);
  EXPECT_NE(why_asked(lease), "");
  end_lease(lease);
}

TEST_F(CancelWords, WakeTheOwnersThread) {
  const LeaseRef lease = begin();
  const WorkerRecord& row = worker_->record();
  const std::uint32_t cancels = row.cancels.load();
  const std::uint32_t wake = row.wake.load();
  ask(lease);
  EXPECT_EQ(row.cancels.load(), cancels + 1);
  EXPECT_EQ(row.wake.load(), wake + 1);
  end_lease(lease);
}

// A flag must not make the cell's next lease cancellable, whether its holder said so before or
// after the lease was granted, and with or without tags.
TEST_F(CancelWords, WhatOneLeaseSaidIsNotSaidOfTheNextInItsCell) {
  for (const char* next_tag : {"", "t"}) {
    LeaseRef lease = begin();
    say_cancellable(lease);
    EXPECT_EQ(record(lease).flags.load(), kLeaseCancellable);
    const std::uint32_t cell = lease.cell;
    end_lease(lease);
    ASSERT_EQ(begin_lease(*worker_, backend_, 0, next_tag, &lease), BeginResult::kGranted);
    ASSERT_EQ(lease.cell, cell);
    EXPECT_EQ(record(lease).flags.load(), 0u);
    end_lease(lease);
  }
}

TEST_F(CancelWords, TheWayToAReasonGoesThroughTheRulesAsTheyStoodWhenItWasAsked) {
  const LeaseRef lease = begin();
  ask(lease);
  record(lease).cancel_at_ns.store(record(lease).start_ns.load() + kMillisecond_ns);
  EXPECT_EQ(why_asked(lease),
            "busy_timeout 1ms passed; if it goes on, its backend is killed 10s after that, and all "
            "requests there are lost");
  ASSERT_TRUE(pool_.set({{"busy_timeout", "1h"}, {"on_overdue", "kill"}}));
  EXPECT_EQ(
      why_asked(lease),
      "it took too long; if it goes on, its backend is killed at once, and all requests there "
      "are lost");
  end_lease(lease);
}

TEST_F(CancelWords, AProgressIsMarkedEvenInTheTickOfTheBegin) {
  const LeaseRef lease = begin();
  EXPECT_FALSE(look(pool_).leases.at(0).progressed);
  record_progress(lease);
  const LeaseView seen = look(pool_).leases.at(0);
  EXPECT_TRUE(seen.progressed);
  EXPECT_GE(seen.progress_ns, seen.start_ns);
  EXPECT_LE(seen.progress_ns, now_ns()) << "those who do not know the mark read a time";
  end_lease(lease);
  const LeaseRef next = begin();
  EXPECT_FALSE(look(pool_).leases.at(0).progressed) << "of the lease before";
  end_lease(next);
}

// Of a worker of before first_byte_timeout: its streams are not killed for want of a first byte.
TEST_F(CancelWords, AProgressWithoutTheMarkIsKnownByItsTime) {
  const LeaseRef lease = begin();
  record(lease).progress_ns.store(record(lease).start_ns.load() + kSecond_ns);
  EXPECT_TRUE(look(pool_).leases.at(0).progressed);
  end_lease(lease);
}

// --- Telling holders -----------------------------------------------------------------------------

class Told : public CancelWords {
 protected:
  void ask_for(Lease& lease) {
    const LeaseView seen = look(pool_).leases.at(0);
    EXPECT_EQ(look(pool_).leases.size(), 1u);
    EXPECT_FALSE(lease.cancelled());
    ask_holder(*segment_, seen.worker, seen.cell, {seen.word, seen.start_ns});
  }
};

TEST_F(Told, ACallbackComesOnceAndNoLaterThanTheRelease) {
  Lease lease = lease_on(pool_, "m");
  std::atomic<int> calls{0};
  ASSERT_TRUE(lease.on_cancel([&] { ++calls; }));
  EXPECT_TRUE(look(pool_).leases.at(0).cancellable());
  ask_for(lease);
  EXPECT_TRUE(eventually([&] { return calls == 1; }));
  const LeaseView seen = look(pool_).leases.at(0);
  ask_holder(*segment_, seen.worker, seen.cell, {seen.word, seen.start_ns});
  lease.release();
  EXPECT_EQ(calls, 1);
}

TEST_F(Told, WhoRegistersAfterTheAskHearsOfItToo) {
  Lease lease = lease_on(pool_, "m");
  ask_for(lease);
  std::atomic<int> calls{0};
  ASSERT_TRUE(lease.on_cancel([&] { ++calls; }));
  EXPECT_TRUE(eventually([&] { return calls == 1; }));
}

// Its judge died between the words and the wake.
TEST_F(Told, AnAskWithoutAWakeIsFoundWithinASecondOrSo) {
  Lease lease = lease_on(pool_, "m");
  std::atomic<int> calls{0};
  ASSERT_TRUE(lease.on_cancel([&] { ++calls; }));
  const LeaseView seen = look(pool_).leases.at(0);
  LeaseRecord& words = segment_->lease(seen.worker, seen.cell);
  words.cancel_start_ns.store(seen.start_ns);
  words.cancel_word.store(seen.word);
  EXPECT_TRUE(eventually([&] { return calls == 1; }));
}

TEST_F(Told, AReleaseWaitsForACallbackThatRunsAndACallbackMayRelease) {
  Lease lease = lease_on(pool_, "m");
  std::atomic<bool> is_in{false};
  std::atomic<bool> may_go{false};
  std::atomic<bool> is_out{false};
  ASSERT_TRUE(lease.on_cancel([&] {
    is_in = true;
    while (!may_go) std::this_thread::yield();
    is_out = true;
  }));
  ask_for(lease);
  ASSERT_TRUE(eventually([&] { return is_in.load(); }));
  std::thread lets_go([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    may_go = true;
  });
  lease.release();
  EXPECT_TRUE(is_out);
  lets_go.join();

  Lease own = lease_on(pool_, "m");
  std::atomic<bool> released{false};
  ASSERT_TRUE(own.on_cancel([&] {
    own.release();
    released = true;
  }));
  ask_for(own);
  EXPECT_TRUE(eventually([&] { return released.load(); }));
  EXPECT_TRUE(look(pool_).leases.empty());
}

TEST_F(Told, AReleasedLeaseTellsNobodyAndItsCellsNextTellsItsOwnHolder) {
  std::atomic<int> first{0};
  std::atomic<int> second{0};
  Lease lease = lease_on(pool_, "m");
  ASSERT_TRUE(lease.on_cancel([&] { ++first; }));
  lease.release();
  Lease next = lease_on(pool_, "m");
  ASSERT_TRUE(next.on_cancel([&] { ++second; }));
  ask_for(next);
  EXPECT_TRUE(eventually([&] { return second == 1; }));
  EXPECT_EQ(first, 0);
}

TEST_F(Told, OptionsOfAnAcquireHoldForItsLeaseAndForTheOneOfItsLoad) {
  std::atomic<int> calls{0};
  AcquireOptions options;
  options.on_cancel = [&] { ++calls; };
  auto grant = pool_.acquire("m", std::chrono::seconds(0), options);
  ASSERT_TRUE(grant);
  ask_for(std::get<Lease>(*grant));
  EXPECT_TRUE(eventually([&] { return calls == 1; }));
  std::get<Lease>(*grant).release();

  options.on_cancel = nullptr;
  options.cancellable = true;
  auto load = pool_.acquire("n", std::chrono::seconds(0), options);
  ASSERT_TRUE(load) << load.error().text;
  ReadyOptions external;
  external.external = true;
  const auto loaded = std::get<LoadTicket>(*load).ready("127.0.0.1:2", external);
  ASSERT_TRUE(loaded) << loaded.error().text;
  EXPECT_TRUE(look(pool_).leases.at(0).cancellable());
}

TEST_F(Told, ADescriptorThatWouldBlockOrCannotBeWrittenIsRefused) {
  Lease lease = lease_on(pool_, "m");
  const Fd blocks(eventfd(0, EFD_CLOEXEC));
  const Fd read_only(open("/dev/null", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  for (const int fd : {blocks.get(), read_only.get(), -1}) {
    const auto refused = lease.notify_cancel(fd);
    EXPECT_EQ(code_of(refused), Errc::kInvalid) << fd;
  }
  EXPECT_FALSE(look(pool_).leases.at(0).cancellable()) << "nothing half done";
  lease.release();
  EXPECT_EQ(code_of(lease.set_cancellable()), Errc::kClosed);
  EXPECT_EQ(code_of(lease.on_cancel([] {})), Errc::kClosed);
}

TEST_F(Told, NoThreadIsStartedForThoseWhoOnlyLook) {
  Lease lease = lease_on(pool_, "m");
  ASSERT_TRUE(lease.set_cancellable());
  ask_for(lease);
  EXPECT_TRUE(lease.cancelled());
  EXPECT_NE(lease.cancel_reason(), "");
}

}  // namespace
