#include "judge/decision_text.hpp"

#include <gtest/gtest.h>
#include <signal.h>

#include "base/time.hpp"

namespace modelpool::coordinator {
namespace {

Snapshot snapshot_of_llama() {
  Snapshot snapshot;
  BackendView b;
  b.ref = {3, 1};
  b.model = "llama";
  b.process.pid = 71;
  b.state.state = BackendState::kReady;
  b.state.generation = 1;
  b.in_flight = 2;
  snapshot.backends.push_back(b);
  return snapshot;
}

Action action_on_llama(ActionKind kind) {
  Action action;
  action.kind = kind;
  action.backend = {3, 1};
  return action;
}

TEST(DecisionText, SaysWhatItRestsOn) {
  Action action = action_on_llama(ActionKind::kClose);
  action.stop.reason = Reason::kBusy;
  action.stop.age_ns = 903 * kSecond_ns;
  action.stop.limit_ns = 900 * kSecond_ns;
  action.stop.worker_pid = 40;
  EXPECT_EQ(decision_text(action, snapshot_of_llama()),
            "close llama (pid 71, ready, 2 in flight): busy for 15m3s, limit 15m, worker 40");
}

TEST(DecisionText, NamesTheSignal) {
  Action action = action_on_llama(ActionKind::kSignal);
  action.signal = SIGKILL;
  action.stop.reason = Reason::kRequested;
  action.stop.forced = 1;
  EXPECT_EQ(decision_text(action, snapshot_of_llama()),
            "signal llama (pid 71, ready, 2 in flight) with SIGKILL: requested, leases may be cut");
}

TEST(DecisionText, OfAnythingHasAVerb) {
  for (int kind = 0; kind <= static_cast<int>(ActionKind::kClearWaiter); ++kind) {
    const Action action = action_on_llama(static_cast<ActionKind>(kind));
    EXPECT_EQ(decision_text(action, snapshot_of_llama()).find("unknown"), std::string::npos);
  }
}

}  // namespace
}  // namespace modelpool::coordinator
