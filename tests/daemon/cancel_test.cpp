// An overdue request is first asked to end; its backend goes only if that does not help, and only
// where its holder can be asked.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>

#include <chrono>

#include "base/time.hpp"
#include "pool_test.hpp"

namespace modelpool::test {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

class CancelTest : public PoolTest {
 protected:
  // Loads `sleep` if nobody has.
  static Lease lease(Pool& pool, const AcquireOptions& options = {}) {
    auto grant = pool.acquire("m", kPatience, options);
    if (!grant) throw std::runtime_error(grant.error().text);
    if (auto* found = std::get_if<Lease>(&*grant)) return std::move(*found);
    auto& ticket = std::get<LoadTicket>(*grant);
    if (auto ok = ticket.spawn({"sleep", "600"}); !ok) throw std::runtime_error(ok.error().text);
    auto loaded = ticket.ready("of:m");
    if (!loaded) throw std::runtime_error(loaded.error().text);
    return std::move(*loaded);
  }
  static AcquireOptions asked(const std::string& tag, milliseconds busy = milliseconds(0)) {
    AcquireOptions options;
    options.tag = tag;
    options.busy_timeout = busy;
    options.cancellable = true;
    return options;
  }
  nlohmann::json lease_row(const std::string& tag) {
    for (const auto& row : poolctl_json(scratch_, {"leases"})) {
      if (row["tag"] == tag) return row;
    }
    return nullptr;
  }
};

TEST_F(CancelTest, OneBadRequestAmongEightIsCuredAndSevenAreSpared) {
  start();
  Pool pool = attach(scratch_);
  std::vector<Lease> good;
  for (int i = 0; i < 7; ++i) good.push_back(lease(pool));
  const pid_t backend = good[0].pid();

  std::string heard;
  std::atomic<bool> ended{false};
  Lease bad = lease(pool, asked("bad", milliseconds(200)));
  ASSERT_TRUE(bad.on_cancel([&] {
    heard = bad.cancel_reason();
    bad.release();
    ended = true;
  }));
  const auto event = wait_event("cancel_requested", "m");
  EXPECT_EQ(event["reason"], "busy");
  EXPECT_EQ(event["tag"], "bad");
  EXPECT_EQ(event["worker_pid"], getpid());
  EXPECT_EQ(event["limit_ms"], 200);
  EXPECT_GE(event["age_ms"].get<int>(), 200);
  EXPECT_THAT(event["text"].get<std::string>(), HasSubstr("10s"));
  ASSERT_TRUE(eventually([&] { return ended.load(); }));
  EXPECT_THAT(heard, AllOf(HasSubstr("busy_timeout 200ms passed"), HasSubstr("killed 10s after")));

  EXPECT_TRUE(eventually([&] { return entry("m")["in_flight"] == 7; }));
  for (Lease& spared : good) {
    EXPECT_TRUE(spared.progress());
    EXPECT_FALSE(spared.cancelled());
  }
  EXPECT_TRUE(is_running(backend));
  EXPECT_EQ(count_events("killed"), 0u);
  EXPECT_EQ(count_events("cancel_requested"), 1u);
}

TEST_F(CancelTest, OneThatIsDeafCostsItsBackendAfterTheGraceAndAllOthersAreToldWhose) {
  start({"--on-overdue", "cancel, 300ms, kill"});
  Pool pool = attach(scratch_);
  Lease good = lease(pool);
  Lease deaf = lease(pool, asked("req-13", milliseconds(100)));
  EXPECT_TRUE(eventually([&] { return deaf.cancelled(); }));
  const std::uint64_t seen = now_ns();
  const auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "busy");
  EXPECT_EQ(killed["tag"], "req-13");
  EXPECT_THAT(killed["text"].get<std::string>(), HasSubstr("asked to end it 3"));
  EXPECT_GE(killed["age_ms"].get<int>(), 400) << "the limit and the grace";
  EXPECT_GE(now_ns() - seen, 200 * kMillisecond_ns);
  const auto others = good.progress();
  ASSERT_FALSE(others);
  EXPECT_EQ(others.error().code, Errc::kLeaseLost);
  EXPECT_THAT(others.error().text,
              HasSubstr("because of request req-13 of process " + std::to_string(getpid())));
  const auto own = deaf.progress();
  ASSERT_FALSE(own);
  EXPECT_THAT(own.error().text, HasSubstr("because of this request"));
  EXPECT_EQ(count_events("cancel_requested"), 1u);
}

TEST_F(CancelTest, WhoCannotBeAskedIsKilledForAtOnceAndSoIsEverybodyUnderKill) {
  start();
  Pool pool = attach(scratch_);
  Lease silent = lease(pool, {.tag = "silent", .busy_timeout = milliseconds(100)});
  EXPECT_EQ(wait_event("killed", "m")["tag"], "silent");
  EXPECT_EQ(count_events("cancel_requested"), 0u);
  silent.release();

  EXPECT_EQ(poolctl(scratch_, {"set", "on_overdue=kill"}).code, 0);
  Lease able = lease(pool, asked("able", milliseconds(100)));
  EXPECT_TRUE(eventually([&] { return count_events("killed", "m") == 2; }));
  EXPECT_EQ(count_events("cancel_requested"), 0u);
}

TEST_F(CancelTest, AStoppedHolderCannotBeAsked) {
  start();
  Pool pool = attach(scratch_);
  lease(pool).release();
  Forked holder([&](Forked::Child& child) {
    Pool own = attach(scratch_);
    const Lease held = lease(own, asked("stopped", milliseconds(1500)));
    child.say("held");
    child.hear();
  });
  ASSERT_EQ(holder.hear(), "held");
  holder.signal(SIGSTOP);
  ASSERT_TRUE(has_stopped(holder.pid()));
  EXPECT_EQ(wait_event("killed", "m")["tag"], "stopped");
  EXPECT_EQ(count_events("cancel_requested"), 0u);
}

TEST_F(CancelTest, P10TheNextCoordinatorGoesOnFromWhatWasAsked) {
  start({"--on-overdue", "cancel, 1500ms, kill"});
  Pool pool = attach(scratch_);
  Lease deaf = lease(pool, asked("deaf", milliseconds(100)));
  ASSERT_TRUE(eventually([&] { return deaf.cancelled(); }));
  daemon().kill_now();
  daemon().start();
  const auto killed = wait_event("killed", "m");
  EXPECT_GE(killed["age_ms"].get<int>(), 1600) << "not before its grace was over";
  EXPECT_EQ(count_events("cancel_requested"), 1u) << "not asked again";
}

TEST_F(CancelTest, AStreamThatGetsOnAfterItWasAskedIsNotKilled) {
  start({"--stall-timeout", "300ms", "--on-overdue", "cancel, 900ms, kill"});
  Pool pool = attach(scratch_);
  Lease stream = lease(pool, asked("stream"));
  ASSERT_TRUE(stream.progress());
  ASSERT_TRUE(eventually([&] { return stream.cancelled(); }));
  EXPECT_EQ(event("cancel_requested", "m")["reason"], "stall");
  const std::uint64_t until = now_ns() + 1500 * kMillisecond_ns;  // well past its grace
  EXPECT_TRUE(eventually([&] {
    EXPECT_TRUE(stream.progress());
    return now_ns() > until;
  }));
  EXPECT_EQ(count_events("killed"), 0u);
  // It stalls again: asked again, with a grace of its own.
  const auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "stall");
  EXPECT_GE(killed["age_ms"].get<int>(), 1200) << "a limit and a grace after its last progress";
  EXPECT_EQ(count_events("cancel_requested"), 2u);
}

TEST_F(CancelTest, TheFirstByteHasALimitOfItsOwnWhichAnyProgressEnds) {
  start({"--first-byte-timeout", "500ms", "--stall-timeout", "200ms", "--on-overdue", "kill"});
  Pool pool = attach(scratch_);
  Lease hung = lease(pool, {.tag = "hung"});
  auto killed = wait_event("killed", "m");
  EXPECT_EQ(killed["reason"], "first_byte") << "and not stall, after 200 ms";
  EXPECT_GE(killed["age_ms"].get<int>(), 500);
  hung.release();
  EXPECT_EQ(poolctl(scratch_, {"set", "stall_timeout=off"}).code, 0);
  Lease begun = lease(pool, {.tag = "begun"});
  EXPECT_TRUE(begun.progress());  // most often in the tick of its start
  EXPECT_TRUE(eventually([&] { return lease_row("begun")["age_ms"].get<int>() > 1000; }));
  EXPECT_EQ(count_events("killed"), 1u);
}

TEST_F(CancelTest, ADescriptorBecomesReadableForAnyOfItsLeases) {
  start();
  Pool pool = attach(scratch_);
  const Fd told(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  Lease calm = lease(pool);
  ASSERT_TRUE(calm.notify_cancel(told.get()));
  Lease bad = lease(pool, asked("bad", milliseconds(100)));
  ASSERT_TRUE(bad.notify_cancel(told.get()));
  pollfd wait{told.get(), POLLIN, 0};
  EXPECT_EQ(poll(&wait, 1, 20'000), 1);
  EXPECT_TRUE(bad.cancelled());
  EXPECT_FALSE(calm.cancelled());
  EXPECT_EQ(lease_row("bad")["cancellable"], true);
  EXPECT_GE(lease_row("bad")["cancelled_ms"].get<int>(), 0);
}

// A program like those that use the library: it closes the connection, and goes on.
TEST_F(CancelTest, TheDemosWorkerEndsItsHangingRequestWhenAsked) {
  start({"--busy-timeout", "500ms", "--on-overdue", "cancel, 60s, kill"});
  Program worker({MODELPOOL_DEMO_WORKER, "--dir", scratch_.dir(), "--models", "m", "--backend",
                  MODELPOOL_DEMO_BACKEND, "--hang-once", "m", "--cancellable"});
  EXPECT_EQ(wait_event("cancel_requested", "m")["worker_pid"], worker.pid());
  EXPECT_TRUE(eventually(
      [&] { return (worker.out() + worker.err()).find("cancelled") != std::string::npos; }));
  worker.signal(SIGTERM);
  worker.wait();
  EXPECT_EQ(count_events("killed"), 0u);
}

TEST_F(CancelTest, ExplainSaysWhoIsAskedWhen) {
  start({"--busy-timeout", "60s"});
  Pool pool = attach(scratch_);
  const Lease long_one = lease(pool, asked("long"));
  const std::string text = poolctl(scratch_, {"explain", "m"}).out;
  EXPECT_THAT(text, HasSubstr("its holder is asked to end it in"));
  EXPECT_THAT(text, HasSubstr("cancel, 10s, kill"));
}

}  // namespace
}  // namespace modelpool::test
