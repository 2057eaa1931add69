// LocalAI's scenarios of eviction, decided by the real rules: each row is named after a test of its
// pkg/model/watchdog_test.go, or after what its docs say of the VRAM budget, concurrency groups and
// memory reclaimer. `stricter` says what LocalAI does where it does something else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "base/time.hpp"
#include "judge/decide.hpp"
#include "policy/fit.hpp"
#include "policy/pressure.hpp"
#include "protocol/outlook.hpp"
#include "support/pool.hpp"

namespace modelpool::coordinator {
namespace {

using ::testing::UnorderedElementsAreArray;

constexpr std::uint64_t kNow_ns = 1'000'000 * kSecond_ns;
constexpr std::uint64_t kGigabyte = 1'000'000'000;
constexpr WorkerRef kWorker{0, 1};

enum class Is { kIdle, kBusy, kLoading };

struct Loaded {
  const char* model;
  std::uint64_t used_s_ago;
  Is is = Is::kIdle;
  bool pinned = false;
  std::uint64_t gigabytes = 0;  // 0 = not known
  const char* groups = "";
};
struct Wanted {
  const char* model;
  std::uint64_t gigabytes = 0;
  const char* groups = "";
};
struct Pool {
  std::uint64_t max_backends = 0;
  WhenBusy when_busy = WhenBusy::kWait;  // its default: the busy are skipped
  Eviction eviction = Eviction::kLru;
  std::uint64_t max_memory_gigabytes = 0;
  bool host_is_low = false;  // the reclaimer's threshold is exceeded
};
struct Row {
  const char* scenario;
  Pool pool;
  std::vector<Loaded> loaded;
  std::vector<Wanted> wanted;
  std::vector<std::string>
      ours;  // "end a"; "cut a", in use; "drain a"; "all_pinned b" for an asker
  const char* stricter = "";
};
std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.scenario; }

std::vector<std::uint64_t> hashes(const char* groups) {
  std::istringstream words(groups);
  std::vector<std::uint64_t> all;
  for (std::string word; words >> word;) all.push_back(hash_name(word));
  std::sort(all.begin(), all.end());
  return all;
}

BackendView backend_of(const Loaded& loaded, std::uint32_t slot) {
  BackendView b;
  b.ref = {slot, 1};
  b.model = loaded.model;
  b.process.pid = 1000 + static_cast<pid_t>(slot);
  b.state = {1, 0, BackendState::kReady};
  b.reserved_ns = kNow_ns - 510 * kSecond_ns;
  b.ready_ns = kNow_ns - 500 * kSecond_ns;
  b.last_used_ns = kNow_ns - loaded.used_s_ago * kSecond_ns;
  b.interval_ns = loaded.used_s_ago * kSecond_ns;
  b.noted = pack_half(1, static_cast<std::uint32_t>(BackendState::kReady));
  b.size_bytes = b.declared.host = loaded.gigabytes * kGigabyte;
  b.groups = hashes(loaded.groups);
  if (loaded.pinned) b.control = kControlPinned;
  if (loaded.is == Is::kBusy) {
    b.in_flight = 1;
    b.oldest_start_ns = b.newest_start_ns = b.last_used_ns;
  }
  if (loaded.is == Is::kLoading) {
    b.state = {1, StateWord::owner_of(kWorker), BackendState::kStarting};
    b.holder = pack_worker(kWorker);
    b.ready_ns = b.last_used_ns = b.noted = 0;
  }
  return b;
}

Snapshot snapshot_of(const Row& row) {
  Snapshot s;
  s.now_ns = kNow_ns;
  Settings settings;
  settings.pool.set(Setting::kMaxBackends, row.pool.max_backends);
  settings.pool.set(Setting::kWhenBusy, static_cast<std::uint64_t>(row.pool.when_busy));
  settings.pool.set(Setting::kEviction, static_cast<std::uint64_t>(row.pool.eviction));
  settings.pool.set(Setting::kMaxMemory, row.pool.max_memory_gigabytes * kGigabyte);
  settings.pool.set(Setting::kMaxWait, 0);
  s.settings = std::make_shared<const PoolSettings>(settings);
  WorkerView worker;
  worker.ref = kWorker;
  worker.process.pid = 500;
  s.workers.push_back(worker);
  for (const Loaded& loaded : row.loaded) {
    s.backends.push_back(backend_of(loaded, static_cast<std::uint32_t>(s.backends.size())));
    s.backends.back().effective =
        std::make_shared<const Effective>(test::effective_of(settings, loaded.model));
  }
  for (const Wanted& wanted : row.wanted) {
    WaiterView w;
    w.row = static_cast<std::uint32_t>(s.waiters.size());
    w.owner = pack_worker(kWorker);
    w.model = wanted.model;
    w.arrival = 100 + w.row;
    w.since_ns = w.model_since_ns = kNow_ns;
    w.deadline_ns = kNow_ns + 30 * kSecond_ns;
    w.looked_ns = kNow_ns;
    w.need.bytes.host = wanted.gigabytes * kGigabyte;
    w.groups = hashes(wanted.groups);
    s.waiters.push_back(w);
  }
  s.uses_groups = true;
  return s;
}

std::string text_of(const Action& action, const BackendView& b) {
  const bool ends = b.in_flight == 0 && !action.only_hold;
  const char* const verb = action.stop.forced != 0 ? "cut " : ends ? "end " : "drain ";
  return action.kind == ActionKind::kClose ? verb + b.model : "?";
}

// What becomes of backends, and of those who ask and need not wait.
std::vector<std::string> outcome(const Row& row) {
  const Snapshot s = snapshot_of(row);
  Facts facts;
  facts.epoch = 1;
  facts.host.may_evict = row.pool.host_is_low;
  std::vector<std::string> all;
  for (const Action& action : decide(s, facts).actions)
    all.push_back(text_of(action, *s.find(action.backend)));
  const std::vector<Resident> residents = residents_of(s);
  for (const WaiterView& w : s.waiters) {
    const Waiting asks = waiting_of(w);
    if (is_too_large(asks, limits_of(s))) {
      all.push_back("too_large " + w.model);
    } else if (is_blocked_by_pins(asks, residents, limits_of(s))) {
      all.push_back("all_pinned " + w.model);
    }
  }
  return all;
}

class LocalAi : public ::testing::TestWithParam<Row> {};

TEST_P(LocalAi, IsDecidedAlikeOrStricter) {
  const Row& row = GetParam();
  EXPECT_THAT(outcome(row), UnorderedElementsAreArray(row.ours))
      << row.scenario << "; LocalAI: " << row.stricter;
}

std::string name_of(const ::testing::TestParamInfo<Row>& info) {
  std::string name;
  bool is_first = true;
  for (const char* c = info.param.scenario; *c != '\0'; ++c) {
    if (!std::isalnum(static_cast<unsigned char>(*c))) {
      is_first = true;
      continue;
    }
    name += is_first ? static_cast<char>(std::toupper(static_cast<unsigned char>(*c))) : *c;
    is_first = false;
  }
  return name;
}

constexpr Is kBusy = Is::kBusy;
constexpr Is kLoading = Is::kLoading;
constexpr bool kPinned = true;
constexpr bool kLoose = false;
constexpr WhenBusy kWait = WhenBusy::kWait;
constexpr WhenBusy kForce = WhenBusy::kForce;

const Row kLimit[] = {
    {"should not evict when under limit", {2}, {{"a", 10}}, {{"b"}}, {}},
    {"should evict oldest model when at limit", {2}, {{"a", 20}, {"b", 10}}, {{"c"}}, {"end a"}},
    {"should evict multiple models when needed",
     {1},
     {{"a", 30}, {"b", 20}, {"c", 10}},
     {{"d"}},
     {"end a", "end b", "end c"}},
    {"should account for pending loads",
     {2},
     {{"a", 20}, {"b", 10}},
     {{"c"}, {"d"}},
     {"end a", "end b"}},
    {"should account for pending loads, one begun",
     {2},
     {{"a", 20}, {"b", 0, kLoading}},
     {{"c"}},
     {"end a"},
     "counts the load twice once it has an address, and may end the backend that is starting"},
    {"should not evict when LRU is disabled", {0}, {{"a", 30}, {"b", 20}, {"c", 10}}, {{"d"}}, {}},
    {"should evict least recently used first",
     {2},
     {{"a", 10}, {"b", 30}, {"c", 5}},
     {{"d"}},
     {"end b", "end a"}},
    {"should evict existing model when loading new one", {1}, {{"a", 10}}, {{"b"}}, {"end a"}},
};
INSTANTIATE_TEST_SUITE_P(Limit, LocalAi, ::testing::ValuesIn(kLimit), name_of);

const Row kForceEvictionWhenBusy[] = {
    {"should skip eviction for busy models when forceEvictionWhenBusy is false",
     {2},
     {{"a", 30, kBusy}, {"b", 10}},
     {{"c"}},
     {"end b"}},
    {"should evict busy models when forceEvictionWhenBusy is true",
     {2, kForce},
     {{"a", 30, kBusy}, {"b", 10, kBusy}},
     {{"c"}},
     {"cut a"}},
    {"should allow updating forceEvictionWhenBusy dynamically",
     {2, kForce},
     {{"a", 30, kBusy}, {"b", 10}},
     {{"c"}},
     {"end b"},
     "cuts a, which is busy, though b is idle"},
    {"should set NeedMore when all models are busy and forceEvictionWhenBusy is false",
     {2},
     {{"a", 30, kBusy}, {"b", 10, kBusy}},
     {{"c"}},
     {},
     "after 30 tries loads c above the limit"},
    {"should continue to next LRU model when busy model is skipped",
     {2},
     {{"a", 30, kBusy}, {"b", 20}, {"c", 10}},
     {{"d"}},
     {"end b", "end c"}},
    {"should return NeedMore when need to evict multiple but some are busy",
     {1},
     {{"a", 30, kBusy}, {"b", 20}, {"c", 10, kBusy}},
     {{"d"}},
     {"end b"},
     "after 30 tries loads d above the limit"},
    {"should use default forceEvictionWhenBusy",
     {1, WhenBusy::kDrain},
     {{"a", 10, kBusy}},
     {{"b"}},
     {"drain a"},
     "lets a take new requests for ever: under load b never has its turn"},
};
INSTANTIATE_TEST_SUITE_P(Busy, LocalAi, ::testing::ValuesIn(kForceEvictionWhenBusy), name_of);

const Row kSizeAware[] = {
    {"evicts the largest first",
     {2, kWait, Eviction::kSize},
     {{"a", 30, Is::kIdle, kLoose, 4}, {"b", 10, Is::kIdle, kLoose, 40}},
     {{"c"}},
     {"end b"}},
    {"evicts the oldest of equally large ones",
     {2, kWait, Eviction::kSize},
     {{"a", 10, Is::kIdle, kLoose, 8}, {"b", 30, Is::kIdle, kLoose, 8}},
     {{"c"}},
     {"end b"}},
    {"takes an unknown size for none",
     {2, kWait, Eviction::kSize},
     {{"a", 30}, {"b", 10, Is::kIdle, kLoose, 1}},
     {{"c"}},
     {"end b"}},
    {"evicts the oldest when no size is known",
     {2, kWait, Eviction::kSize},
     {{"a", 10}, {"b", 30}},
     {{"c"}},
     {"end b"}},
    {"skips the largest when it is busy",
     {2, kWait, Eviction::kSize},
     {{"a", 30, Is::kIdle, kLoose, 4}, {"b", 10, kBusy, kLoose, 40}},
     {{"c"}},
     {"end a"}},
    {"skips the largest when it is pinned",
     {2, kWait, Eviction::kSize},
     {{"a", 30, Is::kIdle, kLoose, 4}, {"b", 10, Is::kIdle, kPinned, 40}},
     {{"c"}},
     {"end a"}},
    {"evicts several from the largest on",
     {2, kWait, Eviction::kSize},
     {{"a", 30, Is::kIdle, kLoose, 4},
      {"b", 10, Is::kIdle, kLoose, 40},
      {"c", 20, Is::kIdle, kLoose, 20}},
     {{"d"}},
     {"end b", "end c"}},
    {"ends the large one in constant use for little",
     {0, kWait, Eviction::kCost, 90},
     {{"chat", 1, Is::kIdle, kLoose, 80}, {"rare", 400, Is::kIdle, kLoose, 3}},
     {{"new", 9}},
     {"end rare"},
     "ends chat: the largest goes, however often it is wanted"},
    {"a budget is a hard ceiling",
     {0, kWait, Eviction::kLru, 12},
     {{"a", 10, Is::kIdle, kLoose, 8}},
     {{"b", 20}},
     {"too_large b"},
     "evicts a, loads b and lets it run out of memory"},
    {"a budget is made room in by as few as suffice",
     {0, kWait, Eviction::kLru, 48},
     {{"a", 30, Is::kIdle, kLoose, 2}, {"b", 20, Is::kIdle, kLoose, 40}},
     {{"c", 47}},
     {"end a", "end b"}},
    {"a budget costs nobody who is not needed",
     {0, kWait, Eviction::kLru, 48},
     {{"a", 30, Is::kIdle, kLoose, 2}, {"b", 20, Is::kIdle, kLoose, 40}},
     {{"c", 30}},
     {"end b"},
     "looks at no size before a load; its reclaimer ends a, then b"},
};
INSTANTIATE_TEST_SUITE_P(Size, LocalAi, ::testing::ValuesIn(kSizeAware), name_of);

const Row kGroups[] = {
    {"the zed example: two heavy models, one that runs beside anything",
     {},
     {{"zed", 30}, {"heavy-a", 10, Is::kIdle, kLoose, 0, "vram-heavy"}},
     {{"heavy-b", 0, "vram-heavy"}},
     {"end heavy-a"}},
    {"a model without groups evicts nobody",
     {},
     {{"a", 10, Is::kIdle, kLoose, 0, "vram-heavy"}},
     {{"zed"}},
     {}},
    {"models conflict if they share any group",
     {},
     {{"a", 10, Is::kIdle, kLoose, 0, "gpu-1 large"}, {"b", 10, Is::kIdle, kLoose, 0, "gpu-2"}},
     {{"c", 0, "large vision"}},
     {"end a"}},
    {"every model that shares a group is evicted",
     {},
     {{"a", 10, Is::kIdle, kLoose, 0, "x"}, {"b", 20, Is::kIdle, kLoose, 0, "y"}},
     {{"c", 0, "x y"}},
     {"end a", "end b"}},
    {"groups are checked before the LRU cap",
     {2},
     {{"old", 30}, {"a", 10, Is::kIdle, kLoose, 0, "heavy"}},
     {{"b", 0, "heavy"}},
     {"end a"}},
    {"the LRU cap is enforced after groups",
     {2},
     {{"old", 40}, {"older", 50}, {"a", 10, Is::kIdle, kLoose, 0, "heavy"}},
     {{"b", 0, "heavy"}},
     {"end a", "end older"}},
    {"a busy conflict is skipped and retried",
     {},
     {{"a", 10, kBusy, kLoose, 0, "heavy"}},
     {{"b", 0, "heavy"}},
     {},
     "after 30 tries loads b beside a, with a warning"},
    {"a busy conflict is evicted when forced",
     {0, kForce},
     {{"a", 10, kBusy, kLoose, 0, "heavy"}},
     {{"b", 0, "heavy"}},
     {"cut a"}},
    {"a busy conflict is drained",
     {0, WhenBusy::kDrain},
     {{"a", 10, kBusy, kLoose, 0, "heavy"}},
     {{"b", 0, "heavy"}},
     {"drain a"},
     "lets a take new requests until it gives up, and loads b beside it"},
    {"an idle conflict stays while another is busy",
     {},
     {{"a", 10, kBusy, kLoose, 0, "x"}, {"b", 20, Is::kIdle, kLoose, 0, "y"}},
     {{"c", 0, "x y"}},
     {},
     "evicts b at once, for nothing while a is busy"},
    {"a conflict that is still loading",
     {},
     {{"a", 0, kLoading, kLoose, 0, "heavy"}},
     {{"b", 0, "heavy"}},
     {},
     "does not see it until it has an address, and then loads both"},
    {"a pinned model is never evicted by a group conflict",
     {},
     {{"a", 10, Is::kIdle, kPinned, 0, "heavy"}},
     {{"b", 0, "heavy"}},
     {"all_pinned b"},
     "loads b beside a, with a warning"},
};
INSTANTIATE_TEST_SUITE_P(Groups, LocalAi, ::testing::ValuesIn(kGroups), name_of);

const Row kPins[] = {
    {"a pinned model is no victim",
     {2},
     {{"a", 30, Is::kIdle, kPinned}, {"b", 10}},
     {{"c"}},
     {"end b"}},
    {"all models are pinned",
     {2},
     {{"a", 30, Is::kIdle, kPinned}, {"b", 10, Is::kIdle, kPinned}},
     {{"c"}},
     {"all_pinned c"},
     "loads c above the limit, with a warning"},
};
INSTANTIATE_TEST_SUITE_P(Pinned, LocalAi, ::testing::ValuesIn(kPins), name_of);

Pool low(WhenBusy when_busy = kWait, Eviction eviction = Eviction::kLru) {
  return {0, when_busy, eviction, 0, true};
}
const Row kReclaimer[] = {
    {"below the threshold nobody goes", {}, {{"a", 30}, {"b", 10}}, {}, {}},
    {"above the threshold the least recently used goes, one at a time",
     low(),
     {{"a", 10}, {"b", 30}, {"c", 20}},
     {},
     {"end b"}},
    {"skips busy models", low(), {{"a", 30, kBusy}, {"b", 10}}, {}, {"end b"}},
    {"cannot evict when all models are busy", low(), {{"a", 30, kBusy}}, {}, {}},
    {"evicts a busy model when forced",
     low(kForce),
     {{"a", 30, kBusy}},
     {},
     {},
     "cuts a: here a lease is never cut for memory of the host"},
    {"skips pinned models", low(), {{"a", 30, Is::kIdle, kPinned}, {"b", 10}}, {}, {"end b"}},
    {"without a model there is nothing to reclaim", low(), {}, {}, {}},
    {"the largest goes when eviction is size aware",
     low(kWait, Eviction::kSize),
     {{"a", 30, Is::kIdle, kLoose, 4}, {"b", 10, Is::kIdle, kLoose, 40}},
     {},
     {"end b"}},
    {"a model that is loading is none",
     low(),
     {{"a", 0, kLoading}},
     {},
     {},
     "may evict it once it has an address"},
};
INSTANTIATE_TEST_SUITE_P(MemoryReclaimer, LocalAi, ::testing::ValuesIn(kReclaimer), name_of);

// Looks every second for an hour at a host whose memory somebody else keeps.
std::size_t evicted_for_a_foreign_hog(std::size_t models) {
  Row row{"", low(), {}, {}, {}};
  for (std::size_t i = 0; i < models; ++i)
    row.loaded.push_back({"m", 10 + i, Is::kIdle, kLoose, 4});
  Pressure pressure;
  std::size_t evicted = 0;
  for (std::uint64_t second = 0; second < 3600; ++second) {
    const std::uint64_t now_ns = kNow_ns + second * kSecond_ns;
    const PressureStep step = judge_pressure(pressure, {now_ns, kGigabyte, 8 * kGigabyte});
    pressure = step.next;
    if (!step.may_evict) continue;
    row.pool.host_is_low = true;
    const std::vector<std::string> gone = outcome(row);
    evicted += gone.size();
    if (gone.empty()) continue;
    row.loaded.pop_back();
    pressure.trial = PressureTrial{4 * kGigabyte, kGigabyte, now_ns};
  }
  return evicted;
}

// LocalAI evicts one at each tick of 500 ms, until none is left. Here: after none that was in vain
// for 1, 2, 4, 8, 15 minutes, then each quarter of an hour.
TEST(LocalAiMemoryReclaimer, AForeignProcessDoesNotEmptyThePool) {
  EXPECT_EQ(evicted_for_a_foreign_hog(100), 7u);
}

}  // namespace
}  // namespace modelpool::coordinator
