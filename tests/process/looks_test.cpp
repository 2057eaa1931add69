// What a process may ask of one backend or one model, without a look at everything.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <regex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/kinds.hpp"
#include "modelpool/json.hpp"
#include "support/daemon.hpp"
#include "support/pool.hpp"
#include "support/process.hpp"

namespace modelpool::test {
namespace {

using std::chrono::seconds;
using ::testing::IsEmpty;

TEST(LeaseBackend, NamesTheRowThatTheLeaseIsOnAndNoOther) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  Lease lease = load_external(pool, "m");
  const BackendId id = lease.backend();
  const auto rows = pool.snapshot()->backends;
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(id.slot, rows[0].slot);
  EXPECT_EQ(id.generation, rows[0].generation);
  EXPECT_EQ(lease_on(pool, "m").backend(), id);
  EXPECT_NE(load_external(pool, "other").backend(), id);
  Lease moved = std::move(lease);
  EXPECT_EQ(lease.backend(), BackendId()) << "moved from";  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(moved.backend(), id);
  Forked child([&](Forked::Child&) { EXPECT_EQ(moved.backend(), id); });
  EXPECT_EQ(child.wait(), 0);
  moved.release();
  EXPECT_EQ(moved.backend(), BackendId());
}

TEST(Capacities, AreThoseOfThePoolHoweverItWasAttached) {
  const Scratch scratch;
  const Pool maker = make_pool(scratch);
  Pool pool = attach(scratch);
  EXPECT_EQ(pool.capacities().value(), small_capacities());
  pool.close();
  EXPECT_EQ(code_of(pool.capacities()), Errc::kClosed);
}

TEST(Look, IsWhatASnapshotSaysOfTheModel) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  EXPECT_EQ(code_of(pool.look("")), Errc::kInvalid);
  EXPECT_FALSE(pool.look("m")->backend);
  LoadTicket ticket = ticket_for(pool, "m");
  const Lease other = load_external(pool, "other");
  auto pending = pool.begin_acquire("m");
  ASSERT_TRUE(pending && pending->poll());
  const ModelLook loading = pool.look("m").value();
  ASSERT_TRUE(loading.backend);
  EXPECT_EQ(loading.backend->state, "reserved");
  EXPECT_TRUE(loading.backend->reserved_ms);
  EXPECT_EQ(loading.waiting, 1u);
  EXPECT_EQ(loading.max_waiters, 512u);
  EXPECT_EQ(pool.look("other")->waiting, 0u);

  ReadyOptions options;
  options.external = true;
  options.label = "green";
  options.size_bytes = 4096;
  options.overrides.set(Setting::kPinned, 1);
  Lease lease = ticket.ready("127.0.0.1:2", options).value();
  const Lease second = lease_on(pool, "m");
  const auto without_ages = [](const BackendRow& row) {
    return std::regex_replace(to_json(row), std::regex("(_ms\": )[0-9]+"), "$1N");
  };
  const auto rows = pool.snapshot()->backends;
  ASSERT_EQ(rows.size(), 2u);
  const BackendRow& row = rows[0].model == "m" ? rows[0] : rows[1];
  EXPECT_EQ(row.in_flight, 2u);
  EXPECT_EQ(without_ages(pool.look("m")->backend.value()), without_ages(row));
}

TEST(Look, P12ChangesNothing) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const Lease lease = load_external(pool, "m");
  const std::string before = read_file(scratch.path("default"));
  ASSERT_TRUE(pool.look("m"));
  ASSERT_TRUE(pool.look("none"));
  ASSERT_TRUE(pool.exit_words(lease.backend()));
  ASSERT_TRUE(pool.explain("m"));
  ASSERT_TRUE(pool.explain("none"));
  ASSERT_TRUE(pool.events(1, std::chrono::milliseconds(1)));
  EXPECT_TRUE(read_file(scratch.path("default")) == before);
}

TEST(Look, KnowsHowLongTheLastLoadTook) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const Daemon daemon(scratch);
  const Lease lease = load_external(pool, "m");
  EXPECT_TRUE(eventually([&] {
    const ModelLook look = pool.look("m").value();
    return look.history && look.history->load_ms;
  }));
  EXPECT_EQ(pool.look("m")->history->loads, 1u);
}

// A backend that says what it is told to when it is asked to end.
class ExitWords : public ::testing::Test {
 protected:
  Lease load(Pool& pool, const std::string& words, int status) {
    LoadTicket ticket = ticket_for(pool, "m");
    const std::string script = "trap 'echo \"" + words + "\"; exit " + std::to_string(status) +
                               "' TERM; : >" + scratch_.path("traps") +
                               "; while :; do sleep 0.05; done";
    std::filesystem::remove(scratch_.path("traps"));
    if (auto ok = ticket.spawn({"sh", "-c", script}); !ok)
      throw std::runtime_error(ok.error().text);
    EXPECT_TRUE(eventually([&] { return access(scratch_.path("traps").c_str(), F_OK) == 0; }));
    return ticket.ready("unix:/m").value();
  }
  bool says(const std::function<std::string()>& words, const std::string& wanted) {
    std::string said;
    const bool does = eventually([&] { return (said = words()) == wanted; });
    EXPECT_EQ(said, wanted);
    return does;
  }

  const Scratch scratch_;
  const BackendsEnd backends_end_{scratch_};
  const std::string logs_ = scratch_.path("logs");
};

TEST_F(ExitWords, SayHowItEndedAndItsLastLinesInWhateverProcess) {
  Pool pool = make_pool(scratch_, {{"max_backends", "0"}, {"log_dir", logs_}});
  Lease lease = load(pool, "out of ideas", 3);
  const BackendId id = lease.backend();
  EXPECT_THAT(lease.exit_words(), IsEmpty()) << "it runs";
  EXPECT_THAT(pool.exit_words(id).value(), IsEmpty());
  EXPECT_THAT(pool.exit_words({id.slot, id.generation + 1}).value(), IsEmpty());
  EXPECT_THAT(pool.exit_words({UINT32_MAX, 1}).value(), IsEmpty());
  EXPECT_THAT(pool.exit_words({}).value(), IsEmpty());
  Forked another([&](Forked::Child& parent) {
    Pool mine = attach(scratch_);
    const Lease own = lease_on(mine, "m");
    parent.say("leased");
    parent.hear();
    EXPECT_TRUE(
        says([&] { return own.exit_words(); }, "exit status 3; its last lines: out of ideas"));
  });
  ASSERT_EQ(another.hear(), "leased");
  ASSERT_EQ(kill(lease.pid(), SIGTERM), 0);
  EXPECT_TRUE(
      says([&] { return lease.exit_words(); }, "exit status 3; its last lines: out of ideas"));
  another.say("look");
  EXPECT_EQ(another.wait(), 0);
  lease.release();
  EXPECT_THAT(lease.exit_words(), IsEmpty());
}

TEST_F(ExitWords, AreKnownAfterTheCoordinatorHasRecordedTheEnd) {
  Pool pool = make_pool(scratch_);
  const Daemon daemon(scratch_, {"--max-backends", "0", "--log-dir", logs_});
  Lease lease = load(pool, "out of ideas", 127);
  const BackendId id = lease.backend();
  ASSERT_EQ(kill(lease.pid(), SIGTERM), 0);
  ASSERT_TRUE(eventually([&] { return find_event(scratch_, "exited", "m").has_value(); }));
  const std::string words =
      "exit status 127: a program or a library that it needs is missing; its last lines: out of "
      "ideas";
  EXPECT_EQ(lease.exit_words(), words);
  lease.release();
  ASSERT_TRUE(eventually([&] {
    return load_state(segment_of(pool), id.slot).generation != id.generation;
  })) << "its slot is free";
  EXPECT_EQ(pool.exit_words(id).value(), words);
  EXPECT_THAT(pool.exit_words({id.slot, id.generation + 9}).value(), IsEmpty()) << "no such life";
  // The lines of a next life are not its own.
  const Lease next = load(pool, "another", 1);
  EXPECT_EQ(pool.exit_words(id).value(),
            "exit status 127: a program or a library that it needs is missing");
}

TEST_F(ExitWords, OfALeaseAreNotThoseOfTheModelsNextLife) {
  Pool pool = make_pool(scratch_);
  const Daemon daemon(scratch_, {"--max-backends", "0", "--log-dir", logs_});
  const Lease lease = load(pool, "the first", 3);
  ASSERT_EQ(kill(lease.pid(), SIGTERM), 0);
  ASSERT_TRUE(eventually([&] { return find_event(scratch_, "exited", "m").has_value(); }));
  const Lease next = load(pool, "the second", 4);
  EXPECT_EQ(lease.exit_words(), "exit status 3");
  EXPECT_THAT(next.exit_words(), IsEmpty());
}

// What a row says now is not what it said a moment before: times are left out.
std::string without_times(const std::string& text) {
  return std::regex_replace(text, std::regex("(_ms\": )[0-9]+"), "$1N");
}

TEST(TicketExit, IsKnownOnceItIsReapedAndThenToAllWhoAsk) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  LoadTicket ticket = ticket_for(pool, "m");
  EXPECT_EQ(ticket.exit_words(), "");
  ASSERT_TRUE(ticket.spawn({"sh", "-c", "exit 3"}));
  EXPECT_TRUE(eventually([&] { return ticket.exit_words() == "exit status 3"; }));
  ASSERT_TRUE(ticket.fail("it ended"));
  EXPECT_EQ(ticket.exit_words(), "") << "it is used up";
  EXPECT_EQ(pool.look("m")->history->exit, "exit status 3");
}

TEST(RowsAsJson, AreTheTextThatPoolctlPrints) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const Daemon daemon(scratch);
  const Lease lease = load_external(pool, "m \"quoted\" \xc3\xa4");
  LoadTicket ticket = ticket_for(pool, "loading");
  auto pending = pool.begin_acquire("loading");
  ASSERT_TRUE(pending && pending->poll());
  ASSERT_TRUE(eventually([&] { return events(scratch).size() >= 2; }));
  const auto printed = [&](const std::string& command) {
    return without_times(poolctl(scratch, {"-o", "json", command}).out);
  };
  const PoolSnapshot seen = pool.snapshot().value();
  EXPECT_EQ(without_times(to_json(seen.backends)) + "\n", printed("list"));
  EXPECT_EQ(without_times(to_json(seen.leases)) + "\n", printed("leases"));
  EXPECT_EQ(without_times(to_json(seen.waiters)) + "\n", printed("waiters"));
  EXPECT_EQ(without_times(to_json(seen.workers)) + "\n", printed("workers"));
  std::string lines;
  const std::vector<EventRow> rows = pool.events().value();
  for (const EventRow& row : rows) lines += to_json(row) + "\n";
  EXPECT_EQ(without_times(lines), printed("events"));
  EXPECT_EQ(to_json(std::vector<LeaseRow>(), JsonLayout::kLine), "[]");
  const std::string status = to_json(seen.status);
  EXPECT_THAT(status, ::testing::StartsWith("{\n  \"pool\": \"default\",\n"));
  std::regex keys("\n  \"([a-z_]+)\":");
  const auto keys_of = [&](const std::string& text) {
    std::vector<std::string> found;
    for (std::sregex_iterator at(text.begin(), text.end(), keys), end; at != end; ++at)
      found.push_back((*at)[1]);
    return found;
  };
  EXPECT_EQ(keys_of(status), keys_of(printed("status")));
}

TEST(Explained, IsTheTextThatPoolctlPrints) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const Daemon daemon(scratch, {"--idle-timeout", "1h"});
  const Lease lease = load_external(pool, "m \"quoted\" \xc3\xa4");
  for (const std::string model : {"m \"quoted\" \xc3\xa4", "none"}) {
    const auto printed = poolctl(scratch, {"-o", "json", "explain", model});
    EXPECT_EQ(without_times(to_json(pool.explain(model).value())) + "\n",
              without_times(printed.out));
  }
  const Explanation explained = pool.explain("none").value();
  EXPECT_FALSE(explained.is_loaded || explained.backend || explained.history);
  EXPECT_EQ(explained.verdicts.at(0).text, "the next acquire may load it");
  EXPECT_EQ(pool.explain("").error().code, Errc::kInvalid);
  pool.close();
  EXPECT_EQ(pool.explain("none").error().code, Errc::kClosed);
}

TEST(FollowedEvents, AreWaitedForUntilTheDeadline) {
  const Scratch scratch;
  Pool pool = make_pool(scratch);
  const Daemon daemon(scratch);
  ASSERT_TRUE(eventually([&] { return !pool.events()->empty(); }));
  const std::uint64_t known = pool.events()->back().seq;
  EXPECT_TRUE(pool.events(known + 1000, std::chrono::milliseconds(1))->empty());
  std::vector<EventRow> got;
  const auto is_loaded = [&got] {
    return std::any_of(got.begin(), got.end(), [](const auto& e) { return e.kind == "loaded"; });
  };
  // The coordinator may not have told all of its own start.
  std::thread follower([&] {
    while (!is_loaded()) {
      const std::uint64_t next = got.empty() ? known + 1 : got.back().seq + 1;
      const auto more = pool.events(next, std::chrono::hours(1)).value();
      ASSERT_FALSE(more.empty());
      got.insert(got.end(), more.begin(), more.end());
    }
  });
  const Lease lease = load_external(pool, "m");
  follower.join();
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i].seq, known + 1 + i);
}

TEST(FollowedEvents, HaveOneOfTheKindsThatAreKnown) {
  const std::vector<std::string> kinds = event_kinds();
  EXPECT_EQ(kinds.front(), "loaded");
  EXPECT_EQ(kinds.size(), kEventKindCount - 1);
}

}  // namespace
}  // namespace modelpool::test
