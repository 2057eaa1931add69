// Whatever is passed to the C interface, it answers: a code and a text, or nothing happens.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

#include "c_pool.hpp"
#include "support/process.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

// Every function that takes one of these handles, called with all else in order.
struct Call {
  const char* name;
  std::function<modelpool_code(std::uint64_t, modelpool_error*)> run;
};

std::vector<Call> pool_calls() {
  static modelpool_grant grant;
  static modelpool_wait wait;
  static int fd;
  static char value[64];
  static std::uint32_t limit;
  static std::size_t count;
  static modelpool_status status;
  status = MODELPOOL_STATUS_INIT;
  return {
      {"acquire",
       [](auto id, auto* e) { return modelpool_acquire({id}, "m", 0, nullptr, &grant, e); }},
      {"begin", [](auto id, auto* e) { return modelpool_begin({id}, "m", 0, nullptr, &wait, e); }},
      {"wait_fd", [](auto id, auto* e) { return modelpool_wait_fd({id}, &fd, e); }},
      {"touch", [](auto id, auto* e) { return modelpool_touch({id}, "m", e); }},
      {"pin", [](auto id, auto* e) { return modelpool_pin({id}, "m", e); }},
      {"unpin", [](auto id, auto* e) { return modelpool_unpin({id}, "m", e); }},
      {"evict", [](auto id, auto* e) { return modelpool_evict({id}, "m", 0, e); }},
      {"reset", [](auto id, auto* e) { return modelpool_reset({id}, "m", e); }},
      {"set", [](auto id, auto* e) { return modelpool_set({id}, "max_backends", "1", e); }},
      {"get", [](auto id, auto* e) { return modelpool_get({id}, "max_backends", value, 64, e); }},
      {"limit", [](auto id, auto* e) { return modelpool_limit({id}, &limit, e); }},
      {"set_limit", [](auto id, auto* e) { return modelpool_set_limit({id}, 1, e); }},
      {"get_status", [](auto id, auto* e) { return modelpool_get_status({id}, &status, e); }},
      {"backends",
       [](auto id, auto* e) { return modelpool_list_backends({id}, nullptr, 0, 0, &count, e); }},
      {"leases",
       [](auto id, auto* e) { return modelpool_list_leases({id}, nullptr, 0, 0, &count, e); }},
      {"workers",
       [](auto id, auto* e) { return modelpool_list_workers({id}, nullptr, 0, 0, &count, e); }},
      {"waiters",
       [](auto id, auto* e) { return modelpool_list_waiters({id}, nullptr, 0, 0, &count, e); }},
      {"events",
       [](auto id, auto* e) { return modelpool_list_events({id}, 1, nullptr, 0, 0, &count, e); }},
      {"detach", [](auto id, auto*) { return modelpool_detach({id}); }},
  };
}

std::vector<Call> lease_calls() {
  static modelpool_lease_info info;
  info = MODELPOOL_LEASE_INFO_INIT;
  return {
      {"lease_get", [](auto id, auto* e) { return modelpool_lease_get({id}, &info, e); }},
      {"progress", [](auto id, auto* e) { return modelpool_progress({id}, e); }},
      {"exit_words",
       [](auto id, auto* e) {
         char words[8];
         return modelpool_exit_words({id}, words, sizeof words, e);
       }},
      {"cancelled",
       [](auto id, auto* e) {
         int cancelled = 0;
         return modelpool_cancelled({id}, &cancelled, nullptr, 0, e);
       }},
      {"notify_cancel", [](auto id, auto* e) { return modelpool_notify_cancel({id}, 1, 1, e); }},
      {"release", [](auto id, auto*) { return modelpool_release({id}); }},
  };
}

std::vector<Call> ticket_calls() {
  static modelpool_ticket_info info;
  static modelpool_lease lease;
  static const char* const program[] = {"true", nullptr};
  info = MODELPOOL_TICKET_INFO_INIT;
  return {
      {"ticket_get", [](auto id, auto* e) { return modelpool_ticket_get({id}, &info, e); }},
      {"spawn",
       [](auto id, auto* e) { return modelpool_spawn({id}, program, nullptr, nullptr, e); }},
      {"started", [](auto id, auto* e) { return modelpool_started({id}, 1, e); }},
      {"ready", [](auto id, auto* e) { return modelpool_ready({id}, "a:1", nullptr, &lease, e); }},
      {"fail", [](auto id, auto* e) { return modelpool_fail({id}, "why", e); }},
      {"give_back", [](auto id, auto* e) { return modelpool_give_back({id}, e); }},
  };
}

std::vector<Call> wait_calls() {
  static modelpool_grant grant;
  return {
      {"poll", [](auto id, auto* e) { return modelpool_poll({id}, &grant, e); }},
      {"cancel", [](auto id, auto*) { return modelpool_cancel({id}); }},
  };
}

std::vector<Call> all_calls() {
  std::vector<Call> all;
  for (auto list : {pool_calls(), lease_calls(), ticket_calls(), wait_calls()})
    all.insert(all.end(), list.begin(), list.end());
  return all;
}

void expect_closed(const std::vector<Call>& calls, std::uint64_t id) {
  for (const Call& call : calls) {
    modelpool_error error{};
    EXPECT_EQ(call.run(id, &error), MODELPOOL_CLOSED) << call.name << " of " << id;
    EXPECT_EQ(call.run(id, nullptr), MODELPOOL_CLOSED) << call.name << " of " << id;
  }
}

class BadInput : public testing::Test {
 protected:
  // What was refused says so by name, and grants nothing.
  void refused(modelpool_code code, const std::string& word) {
    EXPECT_EQ(code, MODELPOOL_INVALID) << word;
    EXPECT_EQ(error_.code, MODELPOOL_INVALID);
    EXPECT_NE(std::string(error_.text).find(word), std::string::npos) << error_.text;
    error_ = {};
  }

  Scratch scratch_;
  CPool pool_{scratch_};
  modelpool_error error_{};
  modelpool_grant grant_{};
  modelpool_wait wait_{};
  modelpool_lease lease_{};
  std::size_t count_ = 0;
};

}  // namespace

TEST_F(BadInput, AHandleThatIsNoneIsClosed) {
  for (const std::uint64_t id :
       {std::uint64_t{0}, std::uint64_t{1}, UINT64_MAX, std::uint64_t{1} << 32,
        (std::uint64_t{7} << 32) | 0x01ffffff, 0x4141414141414141ul}) {
    expect_closed(all_calls(), id);
  }
}

TEST(BadInputAtFirst, NothingNeedsAnAttachBefore) {
  expect_closed(all_calls(), 0x100000000ul | 1ul << 24);
}

TEST_F(BadInput, AHandleOfAnotherKindIsClosed) {
  const modelpool_lease lease = load_external(pool_, "m");
  const modelpool_ticket ticket = ticket_on(pool_, "n");
  const std::uint64_t pool = static_cast<modelpool_pool>(pool_).id;
  for (const std::uint64_t id : {lease.id, ticket.id}) expect_closed(pool_calls(), id);
  for (const std::uint64_t id : {pool, ticket.id}) expect_closed(lease_calls(), id);
  for (const std::uint64_t id : {pool, lease.id}) expect_closed(ticket_calls(), id);
  for (const std::uint64_t id : {pool, lease.id, ticket.id}) expect_closed(wait_calls(), id);
  EXPECT_EQ(modelpool_release(lease), MODELPOOL_OK);
  EXPECT_EQ(modelpool_fail(ticket, nullptr, nullptr), MODELPOOL_OK);
}

TEST_F(BadInput, WhatWasReleasedStaysReleasedWhoeverHasItsPlace) {
  const modelpool_lease first = load_external(pool_, "m");
  EXPECT_EQ(modelpool_release(first), MODELPOOL_OK);
  for (int i = 0; i < 1000; ++i) {
    const modelpool_lease next = granted(pool_, "m").lease;
    ASSERT_NE(next.id, first.id);
    expect_closed(lease_calls(), first.id);
    ASSERT_EQ(modelpool_progress(next, nullptr), MODELPOOL_OK);
    ASSERT_EQ(modelpool_release(next), MODELPOOL_OK);
  }
}

TEST_F(BadInput, ATicketIsUsedUpOnce) {
  const modelpool_ticket readied = ticket_on(pool_, "m");
  modelpool_ready_options external = MODELPOOL_READY_OPTIONS_INIT;
  external.external = 1;
  ASSERT_EQ(modelpool_ready(readied, "a:1", &external, &lease_, nullptr), MODELPOOL_OK);
  expect_closed(ticket_calls(), readied.id);
  const modelpool_ticket failed = ticket_on(pool_, "n");
  ASSERT_EQ(modelpool_fail(failed, nullptr, nullptr), MODELPOOL_OK);
  expect_closed(ticket_calls(), failed.id);
  EXPECT_EQ(modelpool_acquire(pool_, "n", 0, nullptr, &grant_, &error_), MODELPOOL_COOLING_DOWN);
  EXPECT_NE(std::string(error_.text).find("given up"), std::string::npos);
}

TEST_F(BadInput, ADetachedPoolIsClosed) {
  modelpool_attach_options options = MODELPOOL_ATTACH_OPTIONS_INIT;
  options.dir = scratch_.dir().c_str();
  modelpool_pool pool;
  ASSERT_EQ(modelpool_attach(nullptr, &options, &pool, nullptr), MODELPOOL_OK);
  ASSERT_EQ(modelpool_detach(pool), MODELPOOL_OK);
  expect_closed(pool_calls(), pool.id);
}

TEST_F(BadInput, AnEmptyDirectoryIsNotTheDefaultOne) {
  modelpool_attach_options options = MODELPOOL_ATTACH_OPTIONS_INIT;
  options.dir = "";
  modelpool_pool pool;
  EXPECT_EQ(modelpool_attach(nullptr, &options, &pool, &error_), MODELPOOL_INVALID);
  EXPECT_NE(std::string(error_.text).find("dir"), std::string::npos);
}

TEST_F(BadInput, NullIsNamed) {
  const modelpool_ticket ticket = ticket_on(pool_, "m");
  int* const no_fd = nullptr;
  char info_words[8];
  refused(modelpool_attach("default", nullptr, nullptr, &error_), "pool");
  refused(modelpool_acquire(pool_, nullptr, 0, nullptr, &grant_, &error_), "model");
  refused(modelpool_acquire(pool_, "m", 0, nullptr, nullptr, &error_), "grant");
  refused(modelpool_begin(pool_, nullptr, 0, nullptr, &wait_, &error_), "model");
  refused(modelpool_begin(pool_, "m", 0, nullptr, nullptr, &error_), "wait");
  refused(modelpool_poll(wait_, nullptr, &error_), "grant");
  refused(modelpool_wait_fd(pool_, no_fd, &error_), "fd");
  refused(modelpool_exit_words(lease_, nullptr, 8, &error_), "words");
  refused(modelpool_exit_words(lease_, info_words, 0, &error_), "words_bytes");
  refused(modelpool_spawn(ticket, nullptr, nullptr, nullptr, &error_), "argv");
  refused(modelpool_ready(ticket, nullptr, nullptr, &lease_, &error_), "address");
  refused(modelpool_ready(ticket, "a:1", nullptr, nullptr, &error_), "lease");
  refused(modelpool_ticket_get(ticket, nullptr, &error_), "modelpool_ticket_info");
  refused(modelpool_touch(pool_, nullptr, &error_), "model");
  refused(modelpool_pin(pool_, nullptr, &error_), "model");
  refused(modelpool_unpin(pool_, nullptr, &error_), "model");
  refused(modelpool_evict(pool_, nullptr, 0, &error_), "model");
  refused(modelpool_set(pool_, nullptr, "1", &error_), "name");
  refused(modelpool_set(pool_, "max_backends", nullptr, &error_), "value");
  refused(modelpool_get(pool_, nullptr, nullptr, 0, &error_), "name");
  refused(modelpool_get(pool_, "max_backends", nullptr, 64, &error_), "value");
  refused(modelpool_limit(pool_, nullptr, &error_), "max_backends");
  refused(modelpool_get_status(pool_, nullptr, &error_), "modelpool_status");
  refused(modelpool_list_backends(pool_, nullptr, sizeof(modelpool_backend), 1, &count_, &error_),
          "rows");
  refused(modelpool_list_leases(pool_, nullptr, 0, 0, nullptr, &error_), "count");
  EXPECT_EQ(modelpool_acquire(pool_, nullptr, 0, nullptr, &grant_, nullptr), MODELPOOL_INVALID);
  EXPECT_EQ(modelpool_fail(ticket, nullptr, nullptr), MODELPOOL_OK);
}

TEST_F(BadInput, TextThatIsNoNameIsNamed) {
  const std::string overlong(1'000'000, 'x');
  const std::vector<const char*> names = {"",     overlong.c_str(), "\xff\xfe",
                                          "a\nb", "\xc3",           "\xed\xa0\x80"};
  for (const char* const name : names) {
    refused(modelpool_acquire(pool_, name, 0, nullptr, &grant_, &error_), "model");
    EXPECT_EQ(grant_.kind, MODELPOOL_GRANTED_NOTHING);
    refused(modelpool_begin(pool_, name, 0, nullptr, &wait_, &error_), "model");
    EXPECT_EQ(wait_.id, 0u);
    refused(modelpool_touch(pool_, name, &error_), "model");
    refused(modelpool_evict(pool_, name, 1, &error_), "model");
    refused(modelpool_set(pool_, name, "1", &error_), "setting");
    refused(modelpool_set(pool_, "max_backends", name, &error_), "max_backends");
    modelpool_pool none{77};
    refused(modelpool_attach(name, nullptr, &none, &error_), "pool");
    EXPECT_EQ(none.id, 0u);
  }
  modelpool_acquire_options tagged = MODELPOOL_ACQUIRE_OPTIONS_INIT;
  for (const char* const tag : {overlong.c_str(), "\xff", "a\tb"}) {
    tagged.tag = tag;
    refused(modelpool_acquire(pool_, "m", 0, &tagged, &grant_, &error_), "tag");
  }
  const modelpool_ticket ticket = ticket_on(pool_, "m");
  modelpool_ready_options external = MODELPOOL_READY_OPTIONS_INIT;
  external.external = 1;
  for (const char* const address : {"", overlong.c_str(), "\xff:1", "a b"}) {
    refused(modelpool_ready(ticket, address, &external, &lease_, &error_), "address");
    EXPECT_EQ(lease_.id, 0u);
  }
  external.label = overlong.c_str();
  refused(modelpool_ready(ticket, "a:1", &external, &lease_, &error_), "label");
  // The ticket stays through all of it, and its reason may be anything.
  EXPECT_EQ(modelpool_fail(ticket, ("\xff\xfe" + overlong).c_str(), &error_), MODELPOOL_OK);
  EXPECT_EQ(modelpool_acquire(pool_, "m", 0, nullptr, &grant_, &error_), MODELPOOL_COOLING_DOWN);
  EXPECT_TRUE(is_printable_utf8(error_.text)) << error_.text;
}

TEST_F(BadInput, TheTextOfAnErrorIsUtf8WhateverTheDirectoryIsCalled) {
  const std::string dir = scratch_.path("\xff\x1b[2J");
  modelpool_attach_options options = MODELPOOL_ATTACH_OPTIONS_INIT;
  options.dir = dir.c_str();
  options.no_create = 1;
  modelpool_pool pool;
  EXPECT_EQ(modelpool_attach("default", &options, &pool, &error_), MODELPOOL_NO_SUCH_POOL);
  EXPECT_TRUE(is_printable_utf8(error_.text)) << error_.text;
  EXPECT_NE(std::string(error_.text).find("\\xff"), std::string::npos) << error_.text;
}

TEST_F(BadInput, AnEmptyCommandOrAnEndlessOneIsNamed) {
  const modelpool_ticket ticket = ticket_on(pool_, "m");
  const char* const nothing[] = {nullptr};
  refused(modelpool_spawn(ticket, nothing, nullptr, nullptr, &error_), "program");
  const char* const empty[] = {"", nullptr};
  refused(modelpool_spawn(ticket, empty, nullptr, nullptr, &error_), "program");
  const std::vector<const char*> endless(200'000, "x");
  refused(modelpool_spawn(ticket, endless.data(), nullptr, nullptr, &error_), "argv");
  const char* const program[] = {"true", nullptr};
  modelpool_spawn_options options = MODELPOOL_SPAWN_OPTIONS_INIT;
  for (const char* const entry : {"NAME", "=value", ""}) {
    const char* const env[] = {"GOOD=yes", entry, nullptr};
    options.env = env;
    refused(modelpool_spawn(ticket, program, &options, nullptr, &error_), "NAME=VALUE");
  }
  options.env = nullptr;
  options.cwd = "/no/such/directory";
  EXPECT_EQ(modelpool_spawn(ticket, program, &options, nullptr, &error_), MODELPOOL_SPAWN_FAILED);
  options.cwd = nullptr;
  options.output = "/no/such/directory/log";
  EXPECT_EQ(modelpool_spawn(ticket, program, &options, nullptr, &error_), MODELPOOL_SYSTEM);
  EXPECT_EQ(modelpool_fail(ticket, "never mind", &error_), MODELPOOL_OK);
}

TEST_F(BadInput, ATimeHasItsBounds) {
  for (const std::int64_t ms :
       {std::int64_t{-1}, INT64_MIN, INT64_MAX, std::int64_t{315'360'000'001}}) {
    refused(modelpool_acquire(pool_, "m", ms, nullptr, &grant_, &error_), "timeout_ms");
    refused(modelpool_begin(pool_, "m", ms, nullptr, &wait_, &error_), "timeout_ms");
    modelpool_acquire_options options = MODELPOOL_ACQUIRE_OPTIONS_INIT;
    options.busy_timeout_ms = ms;
    refused(modelpool_acquire(pool_, "m", 0, &options, &grant_, &error_), "busy_timeout_ms");
  }
  EXPECT_EQ(modelpool_acquire(pool_, "m", 315'360'000'000, nullptr, &grant_, &error_),
            MODELPOOL_OK);
}

TEST_F(BadInput, AKeepAliveThatIsNotSaidToBeOneIsRefused) {
  modelpool_acquire_options options = MODELPOOL_ACQUIRE_OPTIONS_INIT;
  options.keep_alive_ms = 5000;
  refused(modelpool_acquire(pool_, "m", 0, &options, &grant_, &error_), "has_keep_alive");
}

TEST_F(BadInput, SettingsOfAPoolOrABackendAreChecked) {
  for (const char* const entry :
       {"", "=", "max_backends", "no_such=1", "max_backends=", "idle_timeout=soon", "\xff=1"}) {
    const char* const settings[] = {entry, nullptr};
    modelpool_attach_options options = MODELPOOL_ATTACH_OPTIONS_INIT;
    options.dir = scratch_.dir().c_str();
    options.settings = settings;
    modelpool_pool pool;
    refused(modelpool_attach("new", &options, &pool, &error_), "set");
  }
  const modelpool_ticket ticket = ticket_on(pool_, "m");
  const char* const of_pool[] = {"max_backends=1", nullptr};
  modelpool_ready_options ready = MODELPOOL_READY_OPTIONS_INIT;
  ready.settings = of_pool;
  refused(modelpool_ready(ticket, "a:1", &ready, &lease_, &error_), "max_backends");
  EXPECT_EQ(modelpool_fail(ticket, nullptr, nullptr), MODELPOOL_OK);
}

TEST_F(BadInput, AStructureSaysHowLargeItIs) {
  modelpool_acquire_options options{};  // the INIT macro forgotten
  refused(modelpool_acquire(pool_, "m", 0, &options, &grant_, &error_), "struct_bytes");
  options.struct_bytes = SIZE_MAX;
  refused(modelpool_acquire(pool_, "m", 0, &options, &grant_, &error_), "struct_bytes");
  modelpool_status status{};
  refused(modelpool_get_status(pool_, &status, &error_), "struct_bytes");
  std::array<modelpool_backend, 2> rows;
  refused(modelpool_list_backends(pool_, rows.data(), 8, 2, &count_, &error_), "row_bytes");
  refused(modelpool_list_backends(pool_, rows.data(), sizeof rows[0] + 1, 2, &count_, &error_),
          "row_bytes");
  refused(modelpool_list_backends(pool_, rows.data(), SIZE_MAX - 7, 2, &count_, &error_),
          "row_bytes");
}

TEST_F(BadInput, AStructureOfANewerHeaderIsTakenUnlessItAsksForMore) {
  struct Newer {
    modelpool_acquire_options known = MODELPOOL_ACQUIRE_OPTIONS_INIT;
    std::uint64_t unknown = 0;
  } newer;
  newer.known.struct_bytes = sizeof newer;
  newer.known.no_load = 1;
  EXPECT_EQ(modelpool_acquire(pool_, "m", 0, &newer.known, &grant_, &error_), MODELPOOL_NOT_LOADED);
  newer.unknown = 1;
  refused(modelpool_acquire(pool_, "m", 0, &newer.known, &grant_, &error_), "newer");

  struct NewerStatus {
    modelpool_status known = MODELPOOL_STATUS_INIT;
    std::uint64_t unknown = 77;
  } status;
  status.known.struct_bytes = sizeof status;
  EXPECT_EQ(modelpool_get_status(pool_, &status.known, &error_), MODELPOOL_OK);
  EXPECT_EQ(status.unknown, 0u);
}

TEST_F(BadInput, TextsLongerThanTheErrorAreCutBetweenCharacters) {
  std::string long_name;
  while (long_name.size() + 2 <= 190) long_name += "\xc3\xa4";
  modelpool_grant ticket;
  ASSERT_EQ(modelpool_acquire(pool_, long_name.c_str(), 0, nullptr, &ticket, &error_),
            MODELPOOL_OK);
  std::string reason;
  while (reason.size() < 4000) reason += "\xc3\xb6";
  ASSERT_EQ(modelpool_fail(ticket.ticket, reason.c_str(), &error_), MODELPOOL_OK);
  EXPECT_EQ(modelpool_acquire(pool_, long_name.c_str(), 0, nullptr, &grant_, &error_),
            MODELPOOL_COOLING_DOWN);
  EXPECT_TRUE(is_printable_utf8(error_.text)) << error_.text;
  EXPECT_LT(std::string(error_.text).size(), sizeof error_.text);
}

// --- Fork ----------------------------------------------------------------------------------------

TEST_F(BadInput, InAChildWhatWasInheritedIsInertAndThePoolWorks) {
  const modelpool_lease lease = load_external(pool_, "m");
  const modelpool_ticket ticket = ticket_on(pool_, "n");
  ASSERT_EQ(modelpool_begin(pool_, "n", 3'600'000, nullptr, &wait_, &error_), MODELPOOL_OK);
  ASSERT_EQ(modelpool_poll(wait_, &grant_, &error_), MODELPOOL_OK);
  Forked child([&](Forked::Child&) {
    expect_closed(lease_calls(), lease.id);
    expect_closed(ticket_calls(), ticket.id);
    expect_closed(wait_calls(), wait_.id);
    const modelpool_lease own = granted(pool_, "m").lease;  // attaches this process
    EXPECT_EQ(leases(pool_).size(), 2u);
    EXPECT_EQ(modelpool_release(own), MODELPOOL_OK);
    EXPECT_EQ(modelpool_detach(pool_), MODELPOOL_OK);
    expect_closed(pool_calls(), static_cast<modelpool_pool>(pool_).id);
  });
  ASSERT_EQ(child.wait(), 0);
  EXPECT_EQ(leases(pool_).size(), 1u);
  EXPECT_EQ(modelpool_progress(lease, &error_), MODELPOOL_OK);
  modelpool_status status = MODELPOOL_STATUS_INIT;
  ASSERT_EQ(modelpool_get_status(pool_, &status, nullptr), MODELPOOL_OK);
  EXPECT_EQ(status.workers, 1u);  // the child's row went with its detach
  EXPECT_EQ(status.waiting, 1u);
  EXPECT_EQ(modelpool_fail(ticket, nullptr, &error_), MODELPOOL_OK);
  EXPECT_EQ(modelpool_poll(wait_, &grant_, &error_), MODELPOOL_LOAD_FAILED);
  EXPECT_EQ(modelpool_release(lease), MODELPOOL_OK);
}

TEST_F(BadInput, AChildDetachesAlsoWhenForkedFromTheMiddleOfACall) {
  ticket_on(pool_, "m");
  std::atomic<bool> done{false};
  std::thread blocked([&] {
    modelpool_grant mine;
    modelpool_acquire(pool_, "m", 3'600'000, nullptr, &mine, nullptr);
    done = true;
  });
  std::vector<std::thread> busy;  // inside of calls on the pool nearly always
  for (int i = 0; i < 2; ++i) {
    busy.emplace_back([&] {
      while (!done) modelpool_touch(pool_, "x", nullptr);
    });
  }
  modelpool_status status = MODELPOOL_STATUS_INIT;
  for (int i = 0; i < 30 && !HasFailure(); ++i) {
    const pid_t pid = fork();
    if (pid == 0) {
      modelpool_grant mine;
      modelpool_acquire(pool_, "other", 0, nullptr, &mine, nullptr);
      if (mine.kind == MODELPOOL_GRANTED_TICKET) modelpool_fail(mine.ticket, nullptr, nullptr);
      _exit(modelpool_detach(pool_) == MODELPOOL_OK ? 0 : 1);
    }
    int result = -1;
    EXPECT_EQ(waitpid(pid, &result, 0), pid);
    EXPECT_EQ(result, 0);
    // No coordinator runs here: only the child itself can have freed its row.
    EXPECT_EQ(modelpool_get_status(pool_, &status, nullptr), MODELPOOL_OK);
    EXPECT_EQ(status.workers, 1u) << "after child " << i;
  }
  EXPECT_EQ(modelpool_detach(pool_), MODELPOOL_OK);
  blocked.join();
  for (std::thread& thread : busy) thread.join();
}

// --- Signal handlers -----------------------------------------------------------------------------

namespace {

modelpool_pool g_pool;
modelpool_code g_answer;
modelpool_error g_error;
std::atomic<int> g_handled{0};

void on_signal(int) {
  modelpool_grant grant;
  g_answer = modelpool_acquire(g_pool, "m", 30'000, nullptr, &grant, &g_error);
  ++g_handled;
}

}  // namespace

TEST_F(BadInput, ASignalHandlerThatInterruptsACallIsRefused) {
  ticket_on(pool_, "m");
  g_pool = pool_;
  g_handled = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  ASSERT_EQ(sigaction(SIGUSR1, &action, nullptr), 0);
  std::thread blocked([&] {
    modelpool_grant mine;
    EXPECT_EQ(modelpool_acquire(g_pool, "m", 3'600'000, nullptr, &mine, nullptr), MODELPOOL_CLOSED);
  });
  EXPECT_TRUE(eventually([&] {
    modelpool_list_waiters(pool_, nullptr, 0, 0, &count_, nullptr);
    return count_ == 1;
  }));
  pthread_kill(blocked.native_handle(), SIGUSR1);
  EXPECT_TRUE(eventually([] { return g_handled == 1; }));
  EXPECT_EQ(g_answer, MODELPOOL_BUSY);
  EXPECT_NE(std::string(g_error.text).find("signal handler"), std::string::npos);
  EXPECT_EQ(modelpool_detach(pool_), MODELPOOL_OK);  // the wait had gone on
  blocked.join();
}

// --- Two threads at once -------------------------------------------------------------------------

namespace {

// Runs body(i) in some threads, started together, and counts the answers of each code.
std::array<int, 32> at_once(int threads, const std::function<modelpool_code(int)>& body) {
  std::array<std::atomic<int>, 32> counts{};
  std::atomic<int> waiting{threads};
  std::vector<std::thread> all;
  for (int i = 0; i < threads; ++i) {
    all.emplace_back([&, i] {
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      ++counts.at(static_cast<std::size_t>(body(i)));
    });
  }
  for (std::thread& thread : all) thread.join();
  std::array<int, 32> result;
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = counts[i];
  return result;
}

constexpr int kThreads = 4;
constexpr int kRounds = 100;

}  // namespace

TEST_F(BadInput, OneLeaseEndsOnceWhoeverReleasesIt) {
  load_external(pool_, "m");
  for (int round = 0; round < kRounds; ++round) {
    const modelpool_lease lease = granted(pool_, "m").lease;
    modelpool_lease_info infos[kThreads];
    const auto codes = at_once(kThreads, [&](int i) {
      infos[i] = MODELPOOL_LEASE_INFO_INIT;
      modelpool_progress(lease, nullptr);
      modelpool_lease_get(lease, &infos[i], nullptr);
      return modelpool_release(lease);
    });
    ASSERT_EQ(codes[MODELPOOL_OK], 1);
    ASSERT_EQ(codes[MODELPOOL_CLOSED], kThreads - 1);
    ASSERT_EQ(leases(pool_).size(), 1u);
  }
}

TEST_F(BadInput, ATicketInUseByAnotherThreadIsBusy) {
  const modelpool_ticket ticket = ticket_on(pool_, "m");
  const auto segment = Segment::attach("default", {scratch_.dir(), false, {}, nullptr});
  ASSERT_TRUE(segment);
  std::optional<LockGuard> lock = std::move((*segment)->lock_structure().value());
  modelpool_code failed = MODELPOOL_OK;
  std::thread fails(
      [&] { failed = modelpool_fail(ticket, "no", nullptr); });  // waits for the mutex
  modelpool_ticket_info info = MODELPOOL_TICKET_INFO_INIT;
  EXPECT_TRUE(
      eventually([&] { return modelpool_ticket_get(ticket, &info, nullptr) == MODELPOOL_BUSY; }));
  for (const Call& call : ticket_calls()) {
    EXPECT_EQ(call.run(ticket.id, &error_), MODELPOOL_BUSY) << call.name;
    EXPECT_NE(std::string(error_.text).find("another thread"), std::string::npos);
  }
  fails.join();
  EXPECT_EQ(failed, MODELPOOL_BUSY) << "the mutex was not let go";
  lock.reset();
  EXPECT_EQ(modelpool_fail(ticket, "no", &error_), MODELPOOL_OK) << error_.text;
}

// A caller that was built before the structure grew.
TEST_F(BadInput, OptionsOfAnOlderHeaderAreTaken) {
  const modelpool_ticket ticket = ticket_on(pool_, "m");
  modelpool_ready_options options = MODELPOOL_READY_OPTIONS_INIT;
  options.external = 1;
  options.struct_bytes = offsetof(modelpool_ready_options, any_listener);
  options.any_listener = 77;  // not the structure's
  modelpool_lease lease;
  ASSERT_EQ(modelpool_ready(ticket, "a:1", &options, &lease, &error_), MODELPOOL_OK) << error_.text;
  EXPECT_EQ(modelpool_release(lease), MODELPOOL_OK);
  const modelpool_ticket other = ticket_on(pool_, "n");
  options.struct_bytes -= 1;
  modelpool_acquire_options asked = MODELPOOL_ACQUIRE_OPTIONS_INIT;
  asked.cancellable = asked.has_keep_alive = asked.reserved2 = 77;
  asked.no_load = 1;
  for (const std::size_t bytes : {offsetof(modelpool_acquire_options, keep_alive_ms),
                                  offsetof(modelpool_acquire_options, cancellable)}) {
    asked.struct_bytes = bytes;  // what follows is not the structure's
    ASSERT_EQ(modelpool_acquire(pool_, "m", 0, &asked, &grant_, &error_), MODELPOOL_OK) << bytes;
    EXPECT_EQ(modelpool_release(grant_.lease), MODELPOOL_OK);
  }
  asked.struct_bytes -= 1;
  refused(modelpool_acquire(pool_, "m", 0, &asked, &grant_, &error_), "struct_bytes");
  EXPECT_EQ(modelpool_ready(other, "a:2", &options, &lease, &error_), MODELPOOL_INVALID);
  EXPECT_EQ(modelpool_give_back(other, &error_), MODELPOOL_OK);
}

TEST_F(BadInput, NumbersAtTheirEndsAreTakenOrRefusedByName) {
  modelpool_grant grant;
  for (const std::int64_t ms : {INT64_MIN, INT64_C(-1), INT64_MAX, INT64_C(315'360'000'001)}) {
    EXPECT_EQ(modelpool_acquire(pool_, "m", ms, nullptr, &grant, &error_), MODELPOOL_INVALID) << ms;
    EXPECT_NE(std::string(error_.text).find("10 years"), std::string::npos) << error_.text;
    modelpool_acquire_options options = MODELPOOL_ACQUIRE_OPTIONS_INIT;
    options.busy_timeout_ms = ms;
    EXPECT_EQ(modelpool_acquire(pool_, "m", 0, &options, &grant, &error_), MODELPOOL_INVALID) << ms;
  }
  const modelpool_ticket ticket = ticket_on(pool_, "m");
  modelpool_acquire_options options = MODELPOOL_ACQUIRE_OPTIONS_INIT;
  options.expected_bytes = UINT64_MAX;
  options.priority = UINT64_MAX;
  options.busy_timeout_ms = 315'360'000'000;
  modelpool_wait wait;
  ASSERT_EQ(modelpool_begin(pool_, "m", 315'360'000'000, &options, &wait, &error_), MODELPOOL_OK);
  ASSERT_EQ(modelpool_poll(wait, &grant, &error_), MODELPOOL_OK) << error_.text;
  EXPECT_EQ(grant.kind, MODELPOOL_GRANTED_NOTHING);
  modelpool_waiter row{};
  std::size_t count = 0;
  ASSERT_EQ(modelpool_list_waiters(pool_, &row, sizeof row, 1, &count, &error_), MODELPOOL_OK);
  ASSERT_EQ(count, 1u);
  EXPECT_EQ(row.expected_bytes, INT64_MAX);  // it read as unknown
  EXPECT_EQ(row.priority, UINT64_MAX);
  EXPECT_GT(row.left_ms, 315'359'000'000);
  EXPECT_EQ(modelpool_cancel(wait), MODELPOOL_OK);
  modelpool_ready_options ready = MODELPOOL_READY_OPTIONS_INIT;
  ready.external = 1;
  ready.size_bytes = UINT64_MAX;
  ready.device_mask = UINT64_MAX;
  modelpool_lease lease;
  ASSERT_EQ(modelpool_ready(ticket, "a:1", &ready, &lease, &error_), MODELPOOL_OK) << error_.text;
  modelpool_backend backend{};
  ASSERT_EQ(modelpool_list_backends(pool_, &backend, sizeof backend, SIZE_MAX / sizeof backend,
                                    &count, &error_),
            MODELPOOL_OK);
  EXPECT_EQ(backend.size_bytes, INT64_MAX);
  EXPECT_EQ(backend.device_mask, UINT64_MAX);
  EXPECT_EQ(modelpool_release(lease), MODELPOOL_OK);
  EXPECT_EQ(modelpool_free_port(nullptr, &error_), MODELPOOL_INVALID);
}

TEST_F(BadInput, OneTicketIsUsedUpByOneThread) {
  modelpool_ready_options external = MODELPOOL_READY_OPTIONS_INIT;
  external.external = 1;
  for (int round = 0; round < 12; ++round) {
    const modelpool_ticket ticket = ticket_on(pool_, ("m" + std::to_string(round)).c_str());
    modelpool_lease got[kThreads];
    const auto codes = at_once(kThreads, [&](int i) {
      return modelpool_ready(ticket, "a:1", &external, &got[i], nullptr);
    });
    ASSERT_EQ(codes[MODELPOOL_OK], 1);
    ASSERT_EQ(codes[MODELPOOL_BUSY] + codes[MODELPOOL_CLOSED], kThreads - 1);
  }
}

TEST_F(BadInput, OneWaitIsGrantedOnce) {
  load_external(pool_, "m");
  for (int round = 0; round < kRounds; ++round) {
    modelpool_wait wait;
    ASSERT_EQ(modelpool_begin(pool_, "m", 0, nullptr, &wait, nullptr), MODELPOOL_OK);
    modelpool_grant got[kThreads];
    const auto codes = at_once(kThreads, [&](int i) {
      return i == 0 ? modelpool_cancel(wait) : modelpool_poll(wait, &got[i], nullptr);
    });
    int leased = 0;
    for (int i = 1; i < kThreads; ++i) {
      if (got[i].kind != MODELPOOL_GRANTED_LEASE) continue;
      ++leased;
      EXPECT_EQ(modelpool_release(got[i].lease), MODELPOOL_OK);
    }
    ASSERT_LE(leased, 1);
    ASSERT_EQ(codes[MODELPOOL_OK] + codes[MODELPOOL_BUSY] + codes[MODELPOOL_CLOSED] +
                  codes[MODELPOOL_CANCELLED],
              kThreads);
    ASSERT_EQ(leases(pool_).size(), 1u);
  }
}

// The C++ Pool requires that nobody is inside when it closes; the C one sees to that itself.
TEST_F(BadInput, DetachWhileOthersAreInsideLosesNoLease) {
  load_external(pool_, "m");
  modelpool_attach_options options = MODELPOOL_ATTACH_OPTIONS_INIT;
  options.dir = scratch_.dir().c_str();
  for (int round = 0; round < 15; ++round) {
    modelpool_pool pool;
    ASSERT_EQ(modelpool_attach(nullptr, &options, &pool, nullptr), MODELPOOL_OK);
    modelpool_lease got[kThreads] = {};
    const auto codes = at_once(kThreads, [&](int i) {
      if (i == 0) return modelpool_detach(pool);
      modelpool_grant mine;
      const modelpool_code code = modelpool_acquire(pool, "m", 30'000, nullptr, &mine, nullptr);
      got[i] = mine.lease;
      return code;
    });
    ASSERT_EQ(codes[MODELPOOL_OK] + codes[MODELPOOL_CLOSED], kThreads);
    std::size_t held = 0;
    for (const modelpool_lease& lease : got) held += lease.id != 0;
    // Every lease granted is visible, in a row that is attached.
    ASSERT_EQ(leases(pool_).size(), 1 + held);
    for (const modelpool_lease_row& row : leases(pool_)) ASSERT_EQ(row.worker_pid, getpid());
    for (const modelpool_lease& lease : got) {
      ASSERT_EQ(modelpool_release(lease), lease.id != 0 ? MODELPOOL_OK : MODELPOOL_CLOSED);
    }
    modelpool_status status = MODELPOOL_STATUS_INIT;
    ASSERT_EQ(modelpool_get_status(pool_, &status, nullptr), MODELPOOL_OK);
    ASSERT_EQ(status.workers, 1u);
  }
}

TEST_F(BadInput, DetachEndsAlsoTheWaitThatBeginsJustThen) {
  ticket_on(pool_, "loading");
  modelpool_attach_options options = MODELPOOL_ATTACH_OPTIONS_INIT;
  options.dir = scratch_.dir().c_str();
  for (int round = 0; round < 150; ++round) {  // an attachment stays in the process, some KB
    modelpool_pool pool;
    ASSERT_EQ(modelpool_attach(nullptr, &options, &pool, nullptr), MODELPOOL_OK);
    const auto codes = at_once(kThreads, [&](int i) {
      if (i == 0) return modelpool_detach(pool);
      modelpool_grant mine;
      return modelpool_acquire(pool, "loading", 30'000, nullptr, &mine, nullptr);
    });
    ASSERT_EQ(codes[MODELPOOL_OK], 1);
    ASSERT_EQ(codes[MODELPOOL_CLOSED], kThreads - 1);
    modelpool_list_waiters(pool_, nullptr, 0, 0, &count_, nullptr);
    ASSERT_EQ(count_, 0u);
  }
}

TEST_F(BadInput, TheLastDescriptorIsNoReasonToCrash) {
  const modelpool_ticket ticket = ticket_on(pool_, "m");
  modelpool_attach_options options = MODELPOOL_ATTACH_OPTIONS_INIT;
  options.dir = scratch_.dir().c_str();
  Forked child([&](Forked::Child&) {
    std::vector<int> taken;
    for (int fd; (fd = dup(0)) >= 0;) taken.push_back(fd);
    modelpool_error error;
    int fd = 0;
    modelpool_pool pool;
    EXPECT_EQ(modelpool_wait_fd(pool_, &fd, &error), MODELPOOL_SYSTEM) << error.text;
    EXPECT_EQ(fd, -1);
    EXPECT_NE(modelpool_attach("another", &options, &pool, &error), MODELPOOL_OK);
    EXPECT_EQ(pool.id, 0u);
    for (const int open : taken) close(open);
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(modelpool_fail(ticket, nullptr, nullptr), MODELPOOL_OK);
}
