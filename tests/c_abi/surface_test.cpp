// What each function of the C interface does.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <string>
#include <thread>

#include "base/fd.hpp"
#include "base/proc.hpp"
#include "c_pool.hpp"
#include "support/daemon.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

bool readable(int fd) {
  pollfd one{fd, POLLIN, 0};
  return poll(&one, 1, 30'000) == 1 && (one.revents & POLLIN) != 0;
}
void drain(int fd) {
  std::uint64_t count;
  EXPECT_EQ(read(fd, &count, sizeof count), 8);
}

}  // namespace

TEST(CInterface, KnowsItsVersionAndNamesItsCodes) {
  EXPECT_STREQ(modelpool_version(), "0.1.0");
  EXPECT_STREQ(modelpool_code_name(MODELPOOL_OK), "ok");
  EXPECT_STREQ(modelpool_code_name(MODELPOOL_QUEUE_FULL), "queue_full");
  EXPECT_STREQ(modelpool_code_name(MODELPOOL_SYSTEM), "system");
  EXPECT_STREQ(modelpool_code_name(21), "too_large");
  EXPECT_STREQ(modelpool_code_name(-1), "unknown");
}

TEST(CInterface, LoadsServesAndEvictsARealBackend) {
  const Scratch scratch;
  const BackendsEnd end(scratch);
  const Orphans orphans;
  Daemon daemon(scratch);
  const CPool pool(scratch);
  modelpool_error error;

  const modelpool_ticket ticket = ticket_on(pool, "llama");
  int port = 0;
  const std::vector<std::string> argv = backend_argv(&port);
  std::vector<const char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(argument.c_str());
  arguments.push_back(nullptr);
  const std::string log = scratch.path("backend.log");
  const char* const env[] = {"C_ABI_TEST=no", "MODELPOOL_BACKEND=mine", "C_ABI_TEST=yes", nullptr};
  modelpool_spawn_options options = MODELPOOL_SPAWN_OPTIONS_INIT;
  options.env = env;
  options.output = log.c_str();
  std::int32_t pid = 0;
  ASSERT_EQ(modelpool_spawn(ticket, arguments.data(), &options, &pid, &error), MODELPOOL_OK)
      << error.text;
  EXPECT_TRUE(is_running(pid));
  EXPECT_EQ(read_environment(pid, "C_ABI_TEST"), "yes");  // the last one counts
  EXPECT_NE(read_environment(pid, "MODELPOOL_BACKEND"), "mine");
  modelpool_ticket_info loading = MODELPOOL_TICKET_INFO_INIT;
  ASSERT_EQ(modelpool_ticket_get(ticket, &loading, &error), MODELPOOL_OK);
  EXPECT_STREQ(loading.model, "llama");
  EXPECT_EQ(loading.pid, pid);
  EXPECT_STREQ(loading.devices, "") << "it asks for none";

  const std::string address = "127.0.0.1:" + std::to_string(port);
  modelpool_ready_options ready = MODELPOOL_READY_OPTIONS_INIT;
  ready.size_bytes = 1 << 20;
  ready.label = "gpu0";
  const char* const settings[] = {"idle_timeout=7m", nullptr};
  ready.settings = settings;
  modelpool_lease lease;
  ASSERT_EQ(modelpool_ready(ticket, address.c_str(), &ready, &lease, &error), MODELPOOL_OK)
      << error.text;
  modelpool_lease_info info = MODELPOOL_LEASE_INFO_INIT;
  ASSERT_EQ(modelpool_lease_get(lease, &info, &error), MODELPOOL_OK);
  EXPECT_STREQ(info.model, "llama");
  EXPECT_EQ(info.address, address);
  EXPECT_EQ(info.pid, pid);
  EXPECT_EQ(modelpool_progress(lease, &error), MODELPOOL_OK);

  const auto listed = backends(pool);
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_STREQ(listed[0].state, "ready");
  EXPECT_STREQ(listed[0].label, "gpu0");
  EXPECT_EQ(listed[0].pid, pid);
  EXPECT_EQ(listed[0].size_bytes, 1 << 20);
  EXPECT_EQ(listed[0].in_flight, 1u);
  EXPECT_EQ(listed[0].slot, info.slot);
  EXPECT_EQ(listed[0].generation, info.generation);
  EXPECT_EQ(listed[0].idle_ms, MODELPOOL_UNKNOWN);
  EXPECT_EQ(listed[0].owner_pid, getpid());
  EXPECT_NE(poolctl(scratch, {"explain", "llama"}).out.find("7m"), std::string::npos);

  modelpool_status status = MODELPOOL_STATUS_INIT;
  ASSERT_EQ(modelpool_get_status(pool, &status, &error), MODELPOOL_OK);
  EXPECT_STREQ(status.pool, "default");
  EXPECT_EQ(status.ready, 1u);
  EXPECT_EQ(status.leases, 1u);
  EXPECT_EQ(status.coordinator_alive, 1);
  EXPECT_EQ(status.coordinator_pid, daemon.pid());

  // A forced end cuts the lease, and the lease is told.
  ASSERT_EQ(modelpool_evict(pool, "llama", 1, &error), MODELPOOL_OK);
  ASSERT_TRUE(
      eventually([&] { return modelpool_progress(lease, &error) == MODELPOOL_LEASE_LOST; }));
  EXPECT_NE(std::string(error.text).find("requested"), std::string::npos) << error.text;
  EXPECT_EQ(modelpool_release(lease), MODELPOOL_OK);
  ASSERT_TRUE(eventually([&] { return backends(pool).empty(); }));
  EXPECT_FALSE(is_running(pid));

  std::vector<modelpool_event> events(64);
  std::size_t count = 0;
  ASSERT_EQ(modelpool_list_events(pool, 1, events.data(), sizeof events[0], events.size(), &count,
                                  &error),
            MODELPOOL_OK);
  ASSERT_LE(count, events.size());
  ASSERT_GE(count, 3u);  // the coordinator, loaded, its end
  const modelpool_event& last = events[count - 1];
  EXPECT_STREQ(last.model, "llama");
  EXPECT_STREQ(last.reason, "requested");
  EXPECT_EQ(last.pid, pid);
  EXPECT_EQ(last.limit_ms, MODELPOOL_UNKNOWN);
  EXPECT_EQ(last.sequence, events[count - 2].sequence + 1);
}

TEST(CInterface, AProgramThatCannotRunLeavesTheTicket) {
  const Scratch scratch;
  const CPool pool(scratch);
  const modelpool_ticket ticket = ticket_on(pool, "m");
  const char* const missing[] = {"/no/such/program", nullptr};
  modelpool_error error;
  std::int32_t pid = -1;
  EXPECT_EQ(modelpool_spawn(ticket, missing, nullptr, &pid, &error), MODELPOOL_SPAWN_FAILED);
  EXPECT_EQ(pid, 0);
  EXPECT_NE(error.system, 0);
  EXPECT_EQ(modelpool_fail(ticket, "no program", &error), MODELPOOL_OK);

  modelpool_grant grant;
  EXPECT_EQ(modelpool_acquire(pool, "m", 0, nullptr, &grant, &error), MODELPOOL_COOLING_DOWN);
  EXPECT_NE(std::string(error.text).find("no program"), std::string::npos);
  EXPECT_GT(error.retry_after_ms, 0);
  EXPECT_EQ(grant.kind, MODELPOOL_GRANTED_NOTHING);
}

TEST(CInterface, ATicketGivenBackIsNoFailedLoadAndResetForgetsOne) {
  const Scratch scratch;
  const CPool pool(scratch, {"max_backends=0", "load_cooldown=1h..1h"});
  modelpool_error error;
  const modelpool_ticket ticket = ticket_on(pool, "m");
  modelpool_wait wait;
  modelpool_grant grant;
  ASSERT_EQ(modelpool_begin(pool, "m", 30'000, nullptr, &wait, &error), MODELPOOL_OK);
  ASSERT_EQ(modelpool_poll(wait, &grant, &error), MODELPOOL_OK);
  modelpool_ticket_info info = MODELPOOL_TICKET_INFO_INIT;
  ASSERT_EQ(modelpool_ticket_get(ticket, &info, &error), MODELPOOL_OK);
  EXPECT_EQ(info.waiting, 1);
  EXPECT_EQ(modelpool_give_back(ticket, &error), MODELPOOL_OK);
  EXPECT_EQ(modelpool_give_back(ticket, &error), MODELPOOL_CLOSED);
  ASSERT_EQ(modelpool_poll(wait, &grant, &error), MODELPOOL_OK) << error.text;
  ASSERT_EQ(grant.kind, MODELPOOL_GRANTED_TICKET);
  EXPECT_EQ(modelpool_fail(grant.ticket, "no", &error), MODELPOOL_OK);
  EXPECT_EQ(modelpool_acquire(pool, "m", 0, nullptr, &grant, &error), MODELPOOL_COOLING_DOWN);
  EXPECT_EQ(modelpool_reset(pool, "m", &error), MODELPOOL_OK);
  EXPECT_EQ(modelpool_reset(pool, "", &error), MODELPOOL_INVALID);
  EXPECT_EQ(modelpool_give_back(ticket_on(pool, "m"), &error), MODELPOOL_OK);
}

TEST(CInterface, WhatTheCallerNamedWronglyLeavesTheTicketAndNothingWaits) {
  const Scratch scratch;
  const CPool pool(scratch);
  const std::string fifo = scratch.path("fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const modelpool_ticket ticket = ticket_on(pool, "m");
  const char* const program[] = {"sleep", "60", nullptr};
  modelpool_spawn_options options = MODELPOOL_SPAWN_OPTIONS_INIT;
  modelpool_error error;
  options.output = fifo.c_str();
  EXPECT_EQ(modelpool_spawn(ticket, program, &options, nullptr, &error), MODELPOOL_INVALID);
  EXPECT_NE(std::string(error.text).find("nobody reads this FIFO"), std::string::npos)
      << error.text;
  options.output = "/nonexistent/x";
  EXPECT_EQ(modelpool_spawn(ticket, program, &options, nullptr, &error), MODELPOOL_SYSTEM);
  EXPECT_EQ(error.system, ENOENT);
  options.output = nullptr;
  options.cwd = "/nonexistent";
  EXPECT_EQ(modelpool_spawn(ticket, program, &options, nullptr, &error), MODELPOOL_SPAWN_FAILED);
  modelpool_ticket_info info = MODELPOOL_TICKET_INFO_INIT;
  EXPECT_EQ(modelpool_ticket_get(ticket, &info, &error), MODELPOOL_OK);
  EXPECT_EQ(info.pid, 0);
  EXPECT_EQ(modelpool_give_back(ticket, &error), MODELPOOL_OK);
}

TEST(CInterface, GivesAFreePort) {
  std::int32_t one = 0;
  std::int32_t other = 0;
  modelpool_error error;
  ASSERT_EQ(modelpool_free_port(&one, &error), MODELPOOL_OK) << error.text;
  ASSERT_EQ(modelpool_free_port(&other, nullptr), MODELPOOL_OK);
  EXPECT_GT(one, 0);
  EXPECT_LT(one, 65536);
  EXPECT_NE(one, other);
}

TEST(CInterface, RegistersAProcessTheCallerStarted) {
  const Scratch scratch;
  const CPool pool(scratch);
  Program backend({"sleep", "1000"});
  const modelpool_ticket ticket = ticket_on(pool, "m");
  modelpool_error error;
  EXPECT_EQ(modelpool_started(ticket, getpid(), &error), MODELPOOL_INVALID);
  ASSERT_EQ(modelpool_started(ticket, backend.pid(), &error), MODELPOOL_OK) << error.text;
  modelpool_lease lease;
  ASSERT_EQ(modelpool_ready(ticket, "unix:/tmp/m", nullptr, &lease, &error), MODELPOOL_OK);
  EXPECT_EQ(backends(pool).at(0).pid, backend.pid());
  EXPECT_EQ(modelpool_release(lease), MODELPOOL_OK);
}

TEST(CInterface, AnAcquireSaysForHowLongItsBackendMayBeIdle) {
  const Scratch scratch;
  const CPool pool(scratch);
  EXPECT_EQ(modelpool_release(load_external(pool, "m")), MODELPOOL_OK);
  const auto keep_alive = [&](bool given, std::int64_t ms) {
    modelpool_acquire_options options = MODELPOOL_ACQUIRE_OPTIONS_INIT;
    options.has_keep_alive = given;
    options.keep_alive_ms = ms;
    modelpool_grant grant;
    modelpool_error error;
    EXPECT_EQ(modelpool_acquire(pool, "m", 0, &options, &grant, &error), MODELPOOL_OK)
        << error.text;
    EXPECT_EQ(modelpool_release(grant.lease), MODELPOOL_OK);
    return look(make_segment(scratch)).find_model("m")->keep_alive;
  };
  EXPECT_EQ(keep_alive(true, 5000), pack_keep_alive(5000));
  EXPECT_EQ(keep_alive(false, 0), pack_keep_alive(5000)) << "as it is";
  EXPECT_EQ(keep_alive(true, 0), pack_keep_alive(0));
  EXPECT_EQ(keep_alive(true, -1), kKeepForEver);
  EXPECT_EQ(keep_alive(true, INT64_MAX), kKeepForEver);
  EXPECT_EQ(keep_alive(true, INT64_MIN), kKeepForEver);
}

TEST(CInterface, TouchPinAndSettingsDoWhatTheySay) {
  const Scratch scratch;
  const CPool pool(scratch, {"max_backends=3", "idle-timeout=15m"});
  const modelpool_lease lease = load_external(pool, "m");
  modelpool_error error;
  EXPECT_EQ(modelpool_pin(pool, "m", &error), MODELPOOL_OK);
  EXPECT_EQ(backends(pool).at(0).pinned, 1);
  EXPECT_EQ(modelpool_unpin(pool, "m", &error), MODELPOOL_OK);
  EXPECT_EQ(backends(pool).at(0).pinned, 0);
  EXPECT_EQ(backends(pool).at(0).external, 1);
  EXPECT_EQ(modelpool_release(lease), MODELPOOL_OK);
  EXPECT_EQ(modelpool_touch(pool, "m", &error), MODELPOOL_OK);
  EXPECT_GE(backends(pool).at(0).idle_ms, 0);
  EXPECT_EQ(modelpool_evict(pool, "m", 0, &error), MODELPOOL_OK);
  EXPECT_EQ(backends(pool).at(0).evict_requested, 1);
  for (const auto call : {modelpool_touch, modelpool_pin, modelpool_unpin}) {
    EXPECT_EQ(call(pool, "other", &error), MODELPOOL_NOT_LOADED);
  }

  std::uint32_t limit = 0;
  EXPECT_EQ(modelpool_limit(pool, &limit, &error), MODELPOOL_OK);
  EXPECT_EQ(limit, 3u);
  EXPECT_EQ(modelpool_set_limit(pool, 5, &error), MODELPOOL_OK);
  char value[64];
  EXPECT_EQ(modelpool_get(pool, "max_backends", value, sizeof value, &error), MODELPOOL_OK);
  EXPECT_STREQ(value, "5");
  EXPECT_EQ(modelpool_get(pool, "idle_timeout", value, sizeof value, &error), MODELPOOL_OK);
  EXPECT_STREQ(value, "15m");
  EXPECT_EQ(modelpool_set(pool, "idle_timeout", "off", &error), MODELPOOL_OK);
  EXPECT_EQ(modelpool_get(pool, "idle-timeout", value, sizeof value, &error), MODELPOOL_OK);
  EXPECT_STREQ(value, "off");
  EXPECT_EQ(modelpool_set(pool, "idle_timeout", "soon", &error), MODELPOOL_INVALID);
  EXPECT_EQ(modelpool_set(pool, "no_such", "1", &error), MODELPOOL_INVALID);
  EXPECT_EQ(modelpool_get(pool, "no_such", value, sizeof value, &error), MODELPOOL_INVALID);
  EXPECT_EQ(modelpool_get(pool, "max_backends", value, 1, &error), MODELPOOL_INVALID);
}

TEST(CInterface, AnOverdueRequestIsAskedToEndByAPipeAndSaysWhy) {
  const Scratch scratch;
  const CPool pool(scratch);
  EXPECT_EQ(modelpool_release(load_external(pool, "m")), MODELPOOL_OK);
  const Daemon daemon(scratch, {"--on-overdue", "cancel, 60s, kill"});
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
  const Fd out(ends[0]);
  const Fd in(ends[1]);
  modelpool_error error;
  modelpool_grant bad;
  modelpool_acquire_options options = MODELPOOL_ACQUIRE_OPTIONS_INIT;
  options.busy_timeout_ms = 100;
  ASSERT_EQ(modelpool_acquire(pool, "m", 0, &options, &bad, &error), MODELPOOL_OK) << error.text;
  ASSERT_EQ(modelpool_notify_cancel(bad.lease, in.get(), 71, &error), MODELPOOL_OK) << error.text;
  const modelpool_lease good = granted(pool, "m").lease;
  ASSERT_EQ(modelpool_notify_cancel(good, in.get(), 72, &error), MODELPOOL_OK) << error.text;
  pollfd told{out.get(), POLLIN, 0};
  ASSERT_EQ(poll(&told, 1, 20'000), 1);
  std::uint64_t number = 0;
  EXPECT_EQ(read(out.get(), &number, sizeof number), 8);
  EXPECT_EQ(number, 71u);

  int cancelled = 0;
  char reason[256];
  EXPECT_EQ(modelpool_cancelled(bad.lease, &cancelled, reason, sizeof reason, &error),
            MODELPOOL_OK);
  EXPECT_EQ(cancelled, 1);
  EXPECT_NE(std::string(reason).find("busy_timeout 100ms passed"), std::string::npos) << reason;
  EXPECT_EQ(modelpool_cancelled(bad.lease, &cancelled, reason, 5, &error), MODELPOOL_OK);
  EXPECT_STREQ(reason, "busy");
  EXPECT_EQ(modelpool_cancelled(bad.lease, &cancelled, reason, 0, &error), MODELPOOL_INVALID);
  EXPECT_EQ(modelpool_cancelled(bad.lease, nullptr, nullptr, 0, &error), MODELPOOL_INVALID);
  EXPECT_EQ(modelpool_cancelled(good, &cancelled, reason, sizeof reason, &error), MODELPOOL_OK);
  EXPECT_EQ(cancelled, 0);
  EXPECT_STREQ(reason, "");
  EXPECT_EQ(modelpool_release(bad.lease), MODELPOOL_OK);
  EXPECT_EQ(modelpool_notify_cancel(good, -1, 1, &error), MODELPOOL_INVALID);
  EXPECT_EQ(modelpool_release(good), MODELPOOL_OK);
}

TEST(CInterface, AFlagAtAcquireSaysThatALeaseCanBeAsked) {
  const Scratch scratch;
  const CPool pool(scratch);
  EXPECT_EQ(modelpool_release(load_external(pool, "m")), MODELPOOL_OK);
  modelpool_acquire_options options = MODELPOOL_ACQUIRE_OPTIONS_INIT;
  options.cancellable = 1;
  modelpool_grant grant;
  modelpool_error error;
  ASSERT_EQ(modelpool_acquire(pool, "m", 0, &options, &grant, &error), MODELPOOL_OK) << error.text;
  EXPECT_TRUE(look(make_segment(scratch)).leases.at(0).cancellable());
  EXPECT_EQ(modelpool_release(grant.lease), MODELPOOL_OK);
  // A caller that was built before there was the flag gives a shorter structure.
  options.struct_bytes = offsetof(modelpool_acquire_options, cancellable);
  ASSERT_EQ(modelpool_acquire(pool, "m", 0, &options, &grant, &error), MODELPOOL_OK) << error.text;
  EXPECT_FALSE(look(make_segment(scratch)).leases.at(0).cancellable());
  EXPECT_EQ(modelpool_release(grant.lease), MODELPOOL_OK);
}

TEST(CInterface, ListsWhoHoldsAndWhoWaits) {
  const Scratch scratch;
  const CPool pool(scratch, {"max_backends=1"});
  load_external(pool, "m");
  granted(pool, "m", "req-81");
  const auto held = leases(pool);
  ASSERT_EQ(held.size(), 2u);
  EXPECT_STREQ(held[1].tag, "req-81");
  EXPECT_STREQ(held[1].model, "m");
  EXPECT_EQ(held[1].worker_pid, getpid());
  EXPECT_EQ(held[1].limit_ms, MODELPOOL_UNKNOWN);

  modelpool_error error;
  modelpool_wait wait;
  modelpool_grant grant;
  modelpool_acquire_options options = MODELPOOL_ACQUIRE_OPTIONS_INIT;
  options.tag = "patient";
  options.expected_bytes = 77;
  ASSERT_EQ(modelpool_begin(pool, "other", 3'600'000, &options, &wait, &error), MODELPOOL_OK);
  ASSERT_EQ(modelpool_poll(wait, &grant, &error), MODELPOOL_OK) << error.text;
  EXPECT_EQ(grant.kind, MODELPOOL_GRANTED_NOTHING);
  modelpool_waiter row;
  std::size_t count = 0;
  ASSERT_EQ(modelpool_list_waiters(pool, &row, sizeof row, 1, &count, &error), MODELPOOL_OK);
  ASSERT_EQ(count, 1u);
  EXPECT_STREQ(row.model, "other");
  EXPECT_STREQ(row.tag, "patient");
  EXPECT_EQ(row.expected_bytes, 77);
  EXPECT_EQ(row.worker_pid, getpid());
  EXPECT_GT(row.left_ms, 3'000'000);

  EXPECT_EQ(modelpool_cancel(wait), MODELPOOL_OK);
  EXPECT_EQ(modelpool_cancel(wait), MODELPOOL_CLOSED);
  EXPECT_EQ(modelpool_poll(wait, &grant, &error), MODELPOOL_CLOSED);
  ASSERT_EQ(modelpool_list_waiters(pool, nullptr, 0, 0, &count, &error), MODELPOOL_OK);
  EXPECT_EQ(count, 0u);  // it left the line
}

TEST(CInterface, RowsCarryEveryFactOfThePoolctlTables) {
  const Scratch scratch;
  const BackendsEnd end(scratch);
  const Orphans orphans;
  const Daemon daemon(scratch, {"--stop-grace", "1h"});
  const CPool pool(scratch);
  const modelpool_ticket ticket = ticket_on(pool, "m");
  int port = 0;
  const std::vector<std::string> argv = backend_argv(&port, {"--ignore-sigterm"});
  std::vector<const char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(argument.c_str());
  arguments.push_back(nullptr);
  std::int32_t pid = 0;
  modelpool_error error;
  ASSERT_EQ(modelpool_spawn(ticket, arguments.data(), nullptr, &pid, &error), MODELPOOL_OK);
  ASSERT_TRUE(eventually([&] {  // it has come so far that SIGTERM does not end it
    const std::string status = read_file("/proc/" + std::to_string(pid) + "/status");
    const std::size_t at = status.find("SigBlk:");
    return at != std::string::npos &&
           (std::stoull(status.substr(at + 7), nullptr, 16) >> (SIGTERM - 1) & 1) != 0;
  }));
  modelpool_backend row = backends(pool).at(0);
  EXPECT_EQ(row.group, pid);
  EXPECT_GE(row.started_ms, 0);
  EXPECT_STREQ(row.stop_reason, "");
  EXPECT_EQ(row.stop_decided_ms, MODELPOOL_UNKNOWN);
  EXPECT_EQ(row.stop_limit_ms, MODELPOOL_UNKNOWN);
  modelpool_lease lease;
  ASSERT_EQ(modelpool_ready(ticket, "127.0.0.1:1", nullptr, &lease, &error), MODELPOOL_OK);
  EXPECT_EQ(leases(pool).at(0).slot, row.slot);
  EXPECT_EQ(leases(pool).at(0).generation, row.generation);

  modelpool_worker worker;
  std::size_t count = 0;
  ASSERT_EQ(modelpool_list_workers(pool, &worker, sizeof worker, 1, &count, &error), MODELPOOL_OK);
  ASSERT_EQ(count, 1u);
  EXPECT_EQ(worker.pid, getpid());
  EXPECT_EQ(worker.alive, 1);
  EXPECT_EQ(worker.leases, 1u);
  EXPECT_NE(std::string(worker.command), "");

  modelpool_release(lease);
  ASSERT_EQ(modelpool_evict(pool, "m", 0, &error), MODELPOOL_OK);
  ASSERT_TRUE(eventually([&] {
    row = backends(pool).at(0);
    return row.stop_signalled_ms >= 0;
  }));
  EXPECT_STREQ(row.stop_reason, "requested");
  EXPECT_EQ(row.stop_signal, SIGTERM);
  EXPECT_GE(row.stop_stopping_ms, 0);
  EXPECT_GE(row.stop_decided_ms, row.stop_stopping_ms);
  EXPECT_EQ(row.stop_killed_ms, MODELPOOL_UNKNOWN);
}

// Built with the header of the first release.
TEST(CInterface, AnOlderCallerIsToldOfItsLeaseWhatItKnows) {
  const Scratch scratch;
  const CPool pool(scratch);
  const modelpool_lease lease = load_external(pool, "m");
  modelpool_lease_info info = MODELPOOL_LEASE_INFO_INIT;
  info.struct_bytes = offsetof(modelpool_lease_info, slot);
  info.generation = 77;
  ASSERT_EQ(modelpool_lease_get(lease, &info, nullptr), MODELPOOL_OK);
  EXPECT_STREQ(info.model, "m");
  EXPECT_EQ(info.generation, 77u);
}

TEST(CInterface, ALeaseTellsHowItsBackendEnded) {
  const Scratch scratch;
  const CPool pool(scratch);
  const modelpool_ticket ticket = ticket_on(pool, "m");
  const char* const argv[] = {"sleep", "60", nullptr};
  std::int32_t pid = 0;
  modelpool_error error;
  ASSERT_EQ(modelpool_spawn(ticket, argv, nullptr, &pid, &error), MODELPOOL_OK) << error.text;
  modelpool_lease lease;
  ASSERT_EQ(modelpool_ready(ticket, "unix:/m", nullptr, &lease, &error), MODELPOOL_OK)
      << error.text;
  char words[64] = "?";
  EXPECT_EQ(modelpool_exit_words(lease, words, sizeof words, &error), MODELPOOL_OK);
  EXPECT_STREQ(words, "") << "it runs";
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(modelpool_exit_words(lease, words, sizeof words, &error), MODELPOOL_OK);
    return std::string(words) == "signal SIGKILL";
  })) << words;
  EXPECT_EQ(modelpool_exit_words(lease, words, 7, &error), MODELPOOL_OK);
  EXPECT_STREQ(words, "signal") << "cut";
}

TEST(CInterface, AListLargerThanItsArrayIsCountedWhole) {
  const Scratch scratch;
  const CPool pool(scratch);
  load_external(pool, "m");
  for (int i = 0; i < 4; ++i) granted(pool, "m");
  std::vector<modelpool_lease_row> rows(3);
  std::memset(rows.data(), 0x5a, sizeof rows[0] * 3);
  std::size_t count = 0;
  ASSERT_EQ(modelpool_list_leases(pool, rows.data(), sizeof rows[0], 2, &count, nullptr),
            MODELPOOL_OK);
  EXPECT_EQ(count, 5u);
  EXPECT_STREQ(rows[1].model, "m");
  EXPECT_EQ(rows[1].struct_bytes, sizeof rows[0]);
  EXPECT_EQ(rows[2].model[0], 0x5a);  // untouched
}

TEST(CInterface, OneDescriptorTellsWhenToPollAnyWait) {
  const Scratch scratch;
  const CPool pool(scratch);
  modelpool_error error;
  int fd = -1;
  ASSERT_EQ(modelpool_wait_fd(pool, &fd, &error), MODELPOOL_OK) << error.text;
  int again = -1;
  ASSERT_EQ(modelpool_wait_fd(pool, &again, &error), MODELPOOL_OK);
  EXPECT_EQ(again, fd);

  const modelpool_ticket ticket = ticket_on(pool, "m");
  modelpool_wait waits[3];
  modelpool_grant grant;
  for (modelpool_wait& wait : waits) {
    ASSERT_EQ(modelpool_begin(pool, "m", 3'600'000, nullptr, &wait, &error), MODELPOOL_OK);
    ASSERT_EQ(modelpool_poll(wait, &grant, &error), MODELPOOL_OK);
    ASSERT_EQ(grant.kind, MODELPOOL_GRANTED_NOTHING);
  }
  modelpool_ready_options external = MODELPOOL_READY_OPTIONS_INIT;
  external.external = 1;
  modelpool_lease lease;
  ASSERT_EQ(modelpool_ready(ticket, "127.0.0.1:1", &external, &lease, &error), MODELPOOL_OK);

  int granted_count = 0;
  for (modelpool_wait& wait : waits) {
    do {
      ASSERT_EQ(modelpool_poll(wait, &grant, &error), MODELPOOL_OK) << error.text;
      if (grant.kind == MODELPOOL_GRANTED_NOTHING) {
        ASSERT_TRUE(readable(fd));
        drain(fd);
      }
    } while (grant.kind == MODELPOOL_GRANTED_NOTHING);
    granted_count += grant.kind == MODELPOOL_GRANTED_LEASE;
  }
  EXPECT_EQ(granted_count, 3);
}

// Nothing else happens in this pool: only the ready of another process may make it readable before
// the slice of a second, and it does so at a deadline too.
TEST(CInterface, TheDescriptorTellsOfADeadline) {
  const Scratch scratch;
  const CPool pool(scratch);
  ticket_on(pool, "m");
  modelpool_error error;
  int fd = -1;
  ASSERT_EQ(modelpool_wait_fd(pool, &fd, &error), MODELPOOL_OK);
  modelpool_wait wait;
  ASSERT_EQ(modelpool_begin(pool, "m", 50, nullptr, &wait, &error), MODELPOOL_OK);
  modelpool_grant grant;
  modelpool_code code;
  while ((code = modelpool_poll(wait, &grant, &error)) == MODELPOOL_OK) {
    ASSERT_EQ(grant.kind, MODELPOOL_GRANTED_NOTHING);
    ASSERT_TRUE(readable(fd));
    drain(fd);
  }
  EXPECT_EQ(code, MODELPOOL_TIMEOUT);
  EXPECT_EQ(modelpool_cancel(wait), MODELPOOL_CLOSED);
}

TEST(CInterface, AChildOfForkHasADescriptorOfItsOwn) {
  const Scratch scratch;
  const CPool pool(scratch);
  ticket_on(pool, "m");
  int fd = -1;
  ASSERT_EQ(modelpool_wait_fd(pool, &fd, nullptr), MODELPOOL_OK);
  Forked child([&](Forked::Child&) {
    int own = -1;
    modelpool_error error;
    ASSERT_EQ(modelpool_wait_fd(pool, &own, &error), MODELPOOL_OK) << error.text;
    EXPECT_NE(own, fd);
    modelpool_wait wait;
    ASSERT_EQ(modelpool_begin(pool, "m", 50, nullptr, &wait, &error), MODELPOOL_OK);
    EXPECT_TRUE(readable(own));
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST(CInterface, DetachEndsWaitsAndLeavesLeasesAlone) {
  const Scratch scratch;
  const CPool observer(scratch);
  modelpool_pool pool{};
  modelpool_attach_options options = MODELPOOL_ATTACH_OPTIONS_INIT;
  options.dir = scratch.dir().c_str();
  ASSERT_EQ(modelpool_attach("default", &options, &pool, nullptr), MODELPOOL_OK);
  const modelpool_lease lease = load_external(pool, "m");
  ticket_on(observer, "loading");

  modelpool_error error;
  modelpool_wait wait;
  modelpool_grant grant;
  ASSERT_EQ(modelpool_begin(pool, "loading", 3'600'000, nullptr, &wait, &error), MODELPOOL_OK);
  ASSERT_EQ(modelpool_poll(wait, &grant, &error), MODELPOOL_OK);
  std::atomic<int> answer{-1};
  std::thread blocked([&] {
    modelpool_grant mine;
    answer = modelpool_acquire(pool, "loading", 3'600'000, nullptr, &mine, nullptr);
  });
  std::size_t waiting = 0;
  ASSERT_TRUE(eventually([&] {
    modelpool_list_waiters(observer, nullptr, 0, 0, &waiting, nullptr);
    return waiting == 2;
  }));
  EXPECT_EQ(modelpool_detach(pool), MODELPOOL_OK);
  blocked.join();
  EXPECT_EQ(answer, MODELPOOL_CLOSED);
  EXPECT_EQ(modelpool_poll(wait, &grant, &error), MODELPOOL_CLOSED);
  EXPECT_EQ(modelpool_detach(pool), MODELPOOL_CLOSED);
  modelpool_list_waiters(observer, nullptr, 0, 0, &waiting, nullptr);
  EXPECT_EQ(waiting, 0u);

  EXPECT_EQ(leases(observer).size(), 1u);
  EXPECT_EQ(modelpool_progress(lease, &error), MODELPOOL_OK);
  modelpool_status status = MODELPOOL_STATUS_INIT;
  ASSERT_EQ(modelpool_get_status(observer, &status, nullptr), MODELPOOL_OK);
  EXPECT_EQ(status.workers, 2u);
  EXPECT_EQ(modelpool_release(lease), MODELPOOL_OK);
  ASSERT_EQ(modelpool_get_status(observer, &status, nullptr), MODELPOOL_OK);
  EXPECT_EQ(status.workers, 1u);  // the row went with its last lease
}

TEST(CInterface, ALeaseMayEndInAnotherThread) {
  const Scratch scratch;
  const CPool pool(scratch);
  load_external(pool, "m");
  // Far more than a thread keeps for itself, or the row has: none is lost on the way.
  for (int round = 0; round < 20; ++round) {
    std::vector<modelpool_lease> held(200);
    std::thread([&] {
      for (modelpool_lease& lease : held) lease = granted(pool, "m").lease;
    }).join();
    std::thread([&] {
      for (const modelpool_lease lease : held) EXPECT_EQ(modelpool_release(lease), MODELPOOL_OK);
    }).join();
  }
  EXPECT_EQ(leases(pool).size(), 1u);
}

TEST(CInterface, TheExampleWorkerLoadsOnceAndThenOnlyLeases) {
  const Scratch scratch;
  const BackendsEnd end(scratch);
  const Orphans orphans;
  Daemon daemon(scratch);
  int port = 0;
  std::vector<std::string> argv = backend_argv(&port);
  argv.insert(argv.begin(), {MODELPOOL_EXAMPLE_WORKER, "llama", std::to_string(port)});
  Program::Options options;
  options.env["MODELPOOL_DIR"] = scratch.dir();
  const Finished first = run(argv, options);
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_NE(first.out.find("llama 127.0.0.1:" + std::to_string(port)), std::string::npos);
  const Finished second = run(argv, options);
  EXPECT_EQ(second.code, 0) << second.err;
  EXPECT_EQ(second.out, first.out);  // the same process

  argv[1] = "broken";
  argv[3] = "/no/such/program";
  const Finished broken = run(argv, options);
  EXPECT_EQ(broken.code, 1);
  EXPECT_NE(broken.err.find("(spawn_failed)"), std::string::npos) << broken.err;
}
