// Tenants as the library has them: a foreign program that takes part in the pool (P2, P3, P6).
// `poolctl run` is tested in tests/python/test_tenant.py.
#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "base/proc.hpp"
#include "pool_test.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

AcquireOptions as_tenant(TenantNeed need = {}) {
  AcquireOptions options;
  options.tenant = std::move(need);
  return options;
}

class TenantTest : public PoolTest {
 protected:
  // Runs it; its place in the pool.
  static BackendId run(Pool& pool, const std::string& name, const TenantOptions& options = {},
                       const std::vector<std::string>& argv = {"sleep", "300"}) {
    auto grant = pool.acquire(name, std::chrono::seconds(20), as_tenant());
    EXPECT_TRUE(grant) << text_of(grant);
    const auto tenant = std::get<LoadTicket>(*grant).run_tenant(argv, {}, options);
    EXPECT_TRUE(tenant) << text_of(tenant);
    return tenant.value_or(BackendId{});
  }
};

TEST_F(TenantTest, ItIsReadyWithoutAnAddressAndLeasedToNobody) {
  start({"--max-backends", "1"});
  Pool pool = attach(scratch_);
  run(pool, "x");
  const auto row = entry("x");
  EXPECT_EQ(row["state"], "ready");
  EXPECT_EQ(row["tenant"], true);
  EXPECT_EQ(row["address"], nullptr);
  EXPECT_EQ(row["owner_pid"], getpid());
  for (int i = 0; i < 3; ++i) {
    const auto refused = pool.acquire("x", std::chrono::seconds(20));
    EXPECT_EQ(code_of(refused), Errc::kNotLoaded);
    EXPECT_THAT(text_of(refused),
                AllOf(HasSubstr("a tenant has this name"), HasSubstr(std::to_string(getpid()))));
  }
  EXPECT_EQ(code_of(pool.acquire("m", std::chrono::seconds(20))), Errc::kAllPinned);
  // Settings that are published anew open no READY to leases (parallel.hpp).
  ASSERT_TRUE(pool.set("parallel", "2"));
  ASSERT_TRUE(pool.set("parallel", "0"));
  EXPECT_EQ(code_of(pool.acquire("x", std::chrono::seconds(20))), Errc::kNotLoaded);
}

TEST_F(TenantTest, AnAcquireForOneNeverGetsALease) {
  start();
  Pool pool = attach(scratch_);
  const Lease lease = load_external(pool, "m");
  for (int i = 0; i < 2; ++i) {  // known to this thread
    const Lease again = lease_on(pool, "m");
    EXPECT_EQ(code_of(pool.acquire("m", std::chrono::seconds(0), as_tenant())), Errc::kNotLoaded);
  }
}

TEST_F(TenantTest, ItEndsWhenThePoolItCameFromIsClosed) {
  start();
  std::atomic<int> code{-1};
  TenantOptions options;
  options.on_exit = [&code](int how) { code = how; };
  Pool other = attach(scratch_);
  {
    Pool pool = attach(scratch_);
    run(pool, "x", options);
    pool.close();
  }
  EXPECT_TRUE(eventually([&] { return entry("x").is_null(); }));
  EXPECT_TRUE(eventually([&] { return code == 128 + SIGTERM; }));
  EXPECT_THAT(wait_event("exited", "x")["text"], HasSubstr("has died or left the pool"));
}

TEST_F(TenantTest, P6ItEndsWhenWhoRunsItIsKilled) {
  start();
  pid_t pid = 0;
  {
    Forked holder([&](Forked::Child& child) {
      Pool pool = attach(scratch_);
      run(pool, "x");
      child.say("runs");
      child.hear();
    });
    ASSERT_EQ(holder.hear(), "runs");
    pid = entry("x")["pid"];
    EXPECT_TRUE(is_running(pid));
    holder.kill_now();
  }
  EXPECT_TRUE(wait_state("x", ""));
  EXPECT_FALSE(is_running(pid));
  EXPECT_TRUE(settles());
}

TEST_F(TenantTest, AProgramThatCannotRunTakesNoPlaceForLong) {
  start();
  Pool pool = attach(scratch_);
  auto grant = pool.acquire("x", std::chrono::seconds(20), as_tenant());
  ASSERT_TRUE(grant);
  const auto refused = std::get<LoadTicket>(*grant).run_tenant({"/no/such/program"});
  EXPECT_EQ(code_of(refused), Errc::kSpawnFailed);
  EXPECT_TRUE(wait_state("x", ""));
  EXPECT_EQ(count_events("load_failed"), 0u);
  run(pool, "x");
}

TEST_F(TenantTest, P13WhatMakesNoSenseIsRefused) {
  start();
  Pool pool = attach(scratch_);
  const auto code = [&](const TenantNeed& need) {
    return code_of(pool.acquire("x", std::chrono::seconds(0), as_tenant(need)));
  };
  EXPECT_EQ(code({.devices = 17}), Errc::kInvalid);
  EXPECT_EQ(code({.devices = UINT32_MAX}), Errc::kInvalid);
  for (const char* group : {"a, b", " a", ",", "a\nb"}) {
    EXPECT_EQ(code({.group = group}), Errc::kInvalid) << group;
  }
  auto grant = pool.acquire("x", std::chrono::seconds(0), as_tenant());
  ASSERT_TRUE(grant);
  auto& ticket = std::get<LoadTicket>(*grant);
  EXPECT_EQ(code_of(ticket.run_tenant({})), Errc::kInvalid);
  EXPECT_EQ(code_of(ticket.run_tenant({"true"}, {}, {.label = std::string(32, 'x')})),
            Errc::kInvalid);
  EXPECT_TRUE(ticket.run_tenant({"sleep", "300"})) << "the ticket has stayed";
  EXPECT_EQ(code_of(ticket.run_tenant({"true"})), Errc::kClosed);
}

// The group is the waiter's and the backend's own: neither settings nor another life have it.
TEST_F(TenantTest, ItsGroupIsItsOwn) {
  start();
  Pool pool = attach(scratch_);
  {
    auto grant = pool.acquire("x", std::chrono::seconds(0), as_tenant({.group = "heavy"}));
    ASSERT_TRUE(grant);
    ASSERT_TRUE(std::get<LoadTicket>(*grant).run_tenant({"sleep", "300"}));
  }
  EXPECT_EQ(code_of(pool.acquire("y", std::chrono::seconds(20), as_tenant({.group = "heavy"}))),
            Errc::kAllPinned);
  EXPECT_TRUE(pool.acquire("y", std::chrono::seconds(0), as_tenant({.group = "light"})));
  EXPECT_TRUE(pool.acquire("y", std::chrono::seconds(0)));
  ASSERT_TRUE(pool.evict("x"));
  ASSERT_TRUE(wait_state("x", ""));
  run(pool, "x");  // in the same slot, without a group
  EXPECT_TRUE(pool.acquire("y", std::chrono::seconds(0), as_tenant({.group = "heavy"})));
}

}  // namespace
}  // namespace modelpool::test
