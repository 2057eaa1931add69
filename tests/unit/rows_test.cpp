// What applications, poolctl and every language are shown of a pool: libshm/rows/rows.def.
#include "rows/rows.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "base/time.hpp"
#include "json/table_json.hpp"
#include "support/pool.hpp"

namespace modelpool {
namespace {

using test::load_external;
using test::make_pool;
using test::Scratch;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<std::string> keys_of(const Json& json) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  return keys;
}

std::vector<std::string> nulls_of(const Json& json) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) {
    if (value.is_null()) keys.push_back(key);
  }
  return keys;
}

template <class Row>
std::vector<std::string> fields_of(const Row& row = {}) {
  std::vector<std::string> names;
  for_each_field(row,
                 [&names](const Field& field, const auto&) { names.emplace_back(field.name); });
  return names;
}

TEST(Rows, EveryFieldIsAKeyOfTheJsonAndNothingElseIs) {
  EXPECT_THAT(keys_of(row_json(BackendRow())), ElementsAreArray(fields_of<BackendRow>()));
  EXPECT_THAT(keys_of(row_json(BackendDetail())), ElementsAreArray(fields_of<BackendDetail>()));
  EXPECT_THAT(keys_of(row_json(LeaseRow())), ElementsAreArray(fields_of<LeaseRow>()));
  EXPECT_THAT(keys_of(row_json(WorkerRow())), ElementsAreArray(fields_of<WorkerRow>()));
  EXPECT_THAT(keys_of(row_json(WaiterRow())), ElementsAreArray(fields_of<WaiterRow>()));
  EXPECT_THAT(keys_of(row_json(ModelRow())), ElementsAreArray(fields_of<ModelRow>()));
  EXPECT_THAT(keys_of(row_json(EventRow())), ElementsAreArray(fields_of<EventRow>()));
  EXPECT_THAT(keys_of(row_json(StatusRow())), ElementsAreArray(fields_of<StatusRow>()));
  EXPECT_THAT(keys_of(row_json(StatusRow())["coordinator"]),
              ElementsAreArray(fields_of<CoordinatorRow>()));
  BackendRow stopped;
  stopped.stop.emplace();
  EXPECT_THAT(keys_of(row_json(stopped)["stop"]), ElementsAreArray(fields_of<StopRow>()));
  stopped.left.emplace_back();
  EXPECT_THAT(keys_of(row_json(stopped)["left"][0]), ElementsAreArray(fields_of<LeftRow>()));
  EXPECT_THAT(nulls_of(row_json(stopped)["left"][0]),
              ElementsAre("pid", "command", "user", "signal"));
  stopped.device_use.emplace_back();
  EXPECT_THAT(keys_of(row_json(stopped)["device_use"][0]),
              ElementsAreArray(fields_of<DeviceUseRow>()));
}

// Names and order are a contract that grows at the end.
TEST(Rows, TheKeysOfTheFirstReleaseStandWhereTheyStood) {
  const auto begins_with = [](const std::vector<std::string>& keys,
                              const std::vector<std::string>& first) {
    ASSERT_GE(keys.size(), first.size());
    EXPECT_THAT(std::vector<std::string>(keys.begin(),
                                         keys.begin() + static_cast<std::ptrdiff_t>(first.size())),
                ElementsAreArray(first));
  };
  begins_with(
      fields_of<BackendRow>(),
      {"model",      "state",           "pid",      "address",    "in_flight",   "busy_ms",
       "idle_ms",    "ready_ms",        "pinned",   "size_bytes", "generation",  "owner_pid",
       "slot",       "group",           "external", "label",      "device_mask", "reserved_ms",
       "started_ms", "evict_requested", "exit",     "stop"});
  begins_with(fields_of<StopRow>(),
              {"reason", "decided_ms", "stopping_ms", "signal", "signalled_ms", "killed_ms",
               "age_ms", "limit_ms", "text", "ended_ms"});
  begins_with(fields_of<LeaseRow>(), {"model", "worker_pid", "age_ms", "progress_ms", "tag",
                                      "limit_ms", "backend_pid", "slot", "generation"});
  begins_with(fields_of<WorkerRow>(),
              {"pid", "command", "leases", "attached_ms", "alive", "row", "generation"});
  begins_with(fields_of<WaiterRow>(), {"model", "worker_pid", "waiting_ms", "left_ms", "arrival",
                                       "expected_bytes", "priority", "tag"});
  begins_with(fields_of<ModelRow>(),
              {"model", "loads", "failures_in_a_row", "failed_ms", "cooling_down_ms", "last_error",
               "exit", "load_ms", "size_bytes"});
  begins_with(
      fields_of<StatusRow>(),
      {"pool", "max_backends", "live", "ready", "waiting", "workers", "leases", "coordinator",
       "path", "uuid", "layout_version", "settings_generation", "counters", "damage"});
  begins_with(fields_of<CoordinatorRow>(),
              {"alive", "pid", "epoch", "up_ms", "last_scan_ms", "scans", "left", "hung_ms"});
}

TEST(Rows, EveryFieldSaysWhatItIs) {
  const auto look = [](const auto& row) {
    for_each_field(row, [](const Field& field, const auto&) {
      EXPECT_FALSE(field.doc.empty()) << field.name;
      const bool is_time = field.name.ends_with("_ms");
      EXPECT_TRUE(!is_time || field.kind == Kind::kMaybe) << field.name;
    });
  };
  look(StopRow());
  look(LeftRow());
  look(DeviceUseRow());
  look(BackendRow());
  look(BackendDetail());
  look(LeaseRow());
  look(WorkerRow());
  look(WaiterRow());
  look(ModelRow());
  look(EventRow());
  look(DeviceRow());
  look(CoordinatorRow());
  look(StatusRow());
}

TEST(Rows, P11OfARowOfWhichNothingIsKnownAllThatMayBeUnknownIsNull) {
  EXPECT_THAT(nulls_of(row_json(BackendRow())),
              ElementsAre("model", "pid", "address", "busy_ms", "idle_ms", "ready_ms", "size_bytes",
                          "owner_pid", "group", "label", "device_mask", "reserved_ms", "started_ms",
                          "exit", "stop", "interval_ms", "keep_alive", "parallel", "expected_bytes",
                          "measured_bytes", "peak_bytes", "log", "log_missing",
                          "measured_device_bytes", "peak_device_bytes"));
  EXPECT_THAT(nulls_of(row_json(DeviceRow())),
              ElementsAre("uuid", "total_bytes", "free_bytes", "pool_bytes", "foreign_bytes",
                          "measured_ms", "limit_bytes"));
  BackendRow of_devices;
  of_devices.device_use.emplace_back();
  EXPECT_THAT(nulls_of(row_json(of_devices)["device_use"][0]),
              ElementsAre("expected_bytes", "measured_bytes", "peak_bytes"));
  EXPECT_THAT(nulls_of(row_json(LeaseRow())),
              ElementsAre("model", "worker_pid", "age_ms", "progress_ms", "tag", "limit_ms",
                          "backend_pid", "first_byte_limit_ms", "cancelled_ms"));
  EXPECT_THAT(nulls_of(row_json(WorkerRow())),
              ElementsAre("pid", "command", "attached_ms", "alive"));
  EXPECT_THAT(nulls_of(row_json(WaiterRow())),
              ElementsAre("model", "worker_pid", "waiting_ms", "left_ms", "expected_bytes", "tag",
                          "model_since_ms", "room_device", "looked_ms"));
  EXPECT_THAT(nulls_of(row_json(ModelRow())),
              ElementsAre("model", "failed_ms", "cooling_down_ms", "last_error", "exit", "load_ms",
                          "size_bytes", "peak_bytes", "interval_ms", "last_use_ms", "last_end_ms"));
  EXPECT_THAT(
      nulls_of(row_json(StatusRow())),
      ElementsAre("pool", "max_backends", "path", "settings_generation", "max_memory_bytes"));
  EXPECT_THAT(nulls_of(row_json(CoordinatorRow())),
              ElementsAre("alive", "pid", "epoch", "up_ms", "last_scan_ms", "hung_ms",
                          "last_progress_ms", "pressure_pause_ms", "reload_refused_ms"));
}

TEST(Rows, OfAPoolSayWhatHappensInIt) {
  const Scratch scratch;
  Pool pool = make_pool(scratch, {{"max_backends", "3"}});
  ReadyOptions options;
  options.size_bytes = 1024;
  options.label = "gpu0";
  options.device_mask = 5;
  options.pinned = true;
  const Lease lease = load_external(pool, "m", options);
  AcquireOptions tagged;
  tagged.tag = "req-81";
  tagged.busy_timeout = std::chrono::seconds(7);
  auto second = pool.acquire("m", std::chrono::seconds(0), tagged);
  ASSERT_TRUE(second) << second.error().text;
  ASSERT_TRUE(test::ticket_for(pool, "broken").fail("no such file"));

  const auto seen = pool.snapshot();
  ASSERT_TRUE(seen) << seen.error().text;
  EXPECT_EQ(seen->status.pool, "default");
  EXPECT_EQ(seen->status.max_backends, 3u);
  EXPECT_EQ(seen->status.live, seen->backends.size());
  EXPECT_EQ(seen->status.leases, 2u);
  EXPECT_EQ(seen->status.coordinator.epoch, std::nullopt);
  EXPECT_THAT(seen->status.damage, IsEmpty());

  ASSERT_FALSE(seen->backends.empty());
  const BackendRow& backend = seen->backends.front();
  EXPECT_EQ(backend.model, "m");
  EXPECT_EQ(backend.state, "ready");
  EXPECT_EQ(backend.pid, 0);
  EXPECT_EQ(backend.in_flight, 2u);
  EXPECT_TRUE(backend.busy_ms);
  EXPECT_FALSE(backend.idle_ms);
  EXPECT_TRUE(backend.pinned && backend.external);
  EXPECT_EQ(backend.size_bytes, 1024u);
  EXPECT_EQ(backend.device_mask, 5u);
  EXPECT_EQ(backend.label, "gpu0");
  EXPECT_EQ(backend.owner_pid, getpid());
  EXPECT_FALSE(backend.stop);

  ASSERT_THAT(seen->leases, SizeIs(2));
  EXPECT_EQ(seen->leases[0].limit_ms, std::nullopt);
  EXPECT_EQ(seen->leases[1].tag, "req-81");
  EXPECT_EQ(seen->leases[1].limit_ms, 7000u);
  EXPECT_EQ(seen->leases[1].slot, backend.slot);
  EXPECT_EQ(seen->leases[1].worker_pid, getpid());
  ASSERT_THAT(seen->workers, SizeIs(1));
  EXPECT_EQ(seen->workers[0].alive, true);
  EXPECT_EQ(seen->workers[0].leases, 2u);
  EXPECT_THAT(seen->waiters, IsEmpty());

  const auto broken = std::find_if(seen->models.begin(), seen->models.end(),
                                   [](const ModelRow& model) { return model.model == "broken"; });
  ASSERT_NE(broken, seen->models.end());
  EXPECT_EQ(broken->failures_in_a_row, 1u);
  EXPECT_EQ(broken->last_error, "no such file");
  EXPECT_TRUE(broken->cooling_down_ms);
  const auto events = pool.events();
  ASSERT_TRUE(events);
  EXPECT_THAT(*events, IsEmpty());  // nobody judges here
}

TEST(Rows, AStopIsShownWhileItsBackendIsBeingEnded) {
  Snapshot snapshot;
  snapshot.now_ns = 100 * kSecond_ns;
  BackendView view;
  view.ref = {3, 7};
  view.state.state = BackendState::kStopping;
  view.stop.generation = 7;
  view.stop.reason = Reason::kBusy;
  view.stop.signal = SIGTERM;
  view.stop.decided_ns = 98 * kSecond_ns;
  view.stop.age_ns = 900 * kSecond_ns;
  const auto shown = backend_row(snapshot, view).stop;
  ASSERT_TRUE(shown);
  EXPECT_EQ(shown->reason, "busy");
  EXPECT_EQ(shown->signal, SIGTERM);
  EXPECT_EQ(shown->decided_ms, 2000u);
  EXPECT_EQ(shown->age_ms, 900'000u);
  EXPECT_EQ(shown->killed_ms, std::nullopt);
  view.stop.generation = 6;  // of the slot's last life
  EXPECT_FALSE(backend_row(snapshot, view).stop);
  view.stop.generation = 7;
  view.state.state = BackendState::kReady;  // it was reopened
  EXPECT_FALSE(backend_row(snapshot, view).stop);
}

TEST(Rows, TextThatIsNotPrintableIsEscapedAndOtherTextIsAsItWas) {
  BackendView view;
  view.model = "a\\b \xc3\xa4";
  view.label = "x\n\xff";
  const BackendRow row = backend_row(Snapshot(), view);
  EXPECT_EQ(row.model, "a\\b \xc3\xa4");
  EXPECT_EQ(row.label, "x\\x0a\\xff");
}

}  // namespace
}  // namespace modelpool
