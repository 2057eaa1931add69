#include "metrics/metrics.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

namespace modelpool::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

PoolSnapshot small_pool() {
  PoolSnapshot seen;
  seen.status.pool = "p";
  return seen;
}

BackendRow backend_of(const std::string& model) {
  BackendRow row;
  row.model = model;
  row.state = "ready";
  return row;
}

std::string text(const PoolSnapshot& seen) { return text_of(seen, Capacities{}, "1"); }

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
    ++found;
  return found;
}

TEST(Metrics, MemoryIsOfTheHostAndOfEachDevice) {
  PoolSnapshot seen = small_pool();
  seen.status.max_memory_bytes = 1000;
  seen.status.devices.resize(2);
  seen.status.devices[0].uuid = "GPU-0";
  seen.status.devices[1].uuid = "GPU-1";
  seen.status.devices[1].limit_bytes = 500;
  BackendRow row = backend_of("m");
  row.expected_bytes = 1;
  row.device_use = {{1, 2, 3, 4}, {7, 8, 9, 10}};  // one that is not known any more
  seen.backends.push_back(row);
  const std::string told = text(seen);
  const auto series = [](const std::string& device, const std::string& source, int bytes) {
    return R"(modelpool_memory_bytes{pool="p",model="m",device=")" + device + R"(",source=")" +
           source + "\"} " + std::to_string(bytes) + "\n";
  };
  EXPECT_THAT(told, HasSubstr(series("host", "expected", 1)));
  EXPECT_THAT(told, HasSubstr(series("GPU-1", "expected", 2)));
  EXPECT_THAT(told, HasSubstr(series("GPU-1", "measured", 3)));
  EXPECT_THAT(told, HasSubstr(series("GPU-1", "peak", 4)));
  EXPECT_EQ(count(told, "\nmodelpool_memory_bytes{"), 4u);
  EXPECT_THAT(told, HasSubstr("modelpool_memory_limit_bytes{pool=\"p\",device=\"host\"} 1000\n"));
  EXPECT_THAT(told, HasSubstr("modelpool_memory_limit_bytes{pool=\"p\",device=\"GPU-1\"} 500\n"));
  EXPECT_EQ(count(told, "\nmodelpool_memory_limit_bytes{"), 2u);
}

TEST(Metrics, WithoutALimitThereIsNone) {
  PoolSnapshot seen = small_pool();
  seen.status.max_memory_bytes = 0;
  EXPECT_THAT(text(seen), Not(HasSubstr("modelpool_memory_limit_bytes")));
}

TEST(Metrics, ModelsBeyond256AreOneAlsoWithOneOfThatName) {
  PoolSnapshot seen = small_pool();
  for (int i = 0; i < 300; ++i) {
    BackendRow row = backend_of(i == 0 ? "other" : "m" + std::to_string(i));
    row.in_flight = 1;
    row.expected_bytes = 10;
    seen.backends.push_back(row);
    ModelRow cooling;
    cooling.model = row.model;
    cooling.cooling_down_ms = 1000 * (i + 1);
    seen.models.push_back(cooling);
  }
  MeterSample beyond;
  beyond.name = "modelpool_acquires_total";
  beyond.help = "help";
  beyond.labels = {{"model", "other"}, {"outcome", "hit"}};
  beyond.value = 3;
  seen.status.meters = {beyond, beyond};  // of the model, and of those beyond
  const std::string told = text(seen);
  EXPECT_THAT(told, HasSubstr("modelpool_leases{pool=\"p\",model=\"other\"} 45\n"));
  EXPECT_THAT(told, HasSubstr("model=\"other\",device=\"host\",source=\"expected\"} 450\n"));
  EXPECT_THAT(told, HasSubstr("modelpool_cooling{pool=\"p\",model=\"other\"} 300\n"));
  EXPECT_THAT(told, HasSubstr("model=\"other\",outcome=\"hit\"} 6\n"));
  for (const char* name : {"leases", "cooling", "waiters", "memory_bytes"})
    EXPECT_EQ(count(told, std::string("\nmodelpool_") + name + "{"), 256u) << name;
}

TEST(Metrics, WhatAlertsNeedIsThere) {
  PoolSnapshot seen = small_pool();
  BackendRow row = backend_of("m");
  row.pinned = true;
  row.stop.emplace();
  row.stop->killed_ms = 61000;
  seen.backends = {row, backend_of("n")};
  WaiterRow waiter;
  waiter.model = "w";
  waiter.waiting_ms = 2000;
  seen.waiters = {waiter, waiter};
  seen.waiters[1].waiting_ms = 1000;
  EXPECT_THAT(text(seen), HasSubstr("modelpool_backends_pinned{pool=\"p\"} 1\n"));
  EXPECT_THAT(text(seen), HasSubstr("modelpool_killed_seconds{pool=\"p\",model=\"m\"} 61\n"));
  EXPECT_THAT(text(seen), HasSubstr("modelpool_oldest_waiter_seconds{pool=\"p\",model=\"w\"} 2\n"));
  seen.backends[0].stop->ended_ms = 1;
  EXPECT_THAT(text(seen), Not(HasSubstr("modelpool_killed_seconds"))) << "its processes are gone";
}

TEST(Metrics, AReloadThatWasRefusedIsSeen) {
  PoolSnapshot seen = small_pool();
  EXPECT_THAT(text(seen), Not(HasSubstr("modelpool_config_last_reload_successful")));
  seen.status.coordinator.epoch = 1;
  EXPECT_THAT(text(seen), HasSubstr("modelpool_config_last_reload_successful{pool=\"p\"} 1\n"));
  seen.status.coordinator.reload_refused_ms = 0;
  EXPECT_THAT(text(seen), HasSubstr("modelpool_config_last_reload_successful{pool=\"p\"} 0\n"));
}

TEST(Metrics, ProcessesAreThoseThatLive) {
  PoolSnapshot seen = small_pool();
  WorkerRow worker;
  worker.pid = getpid();
  worker.command = "a \"test\"";
  seen.workers.push_back(worker);
  EXPECT_THAT(text(seen), Not(HasSubstr("process_"))) << "it is not known to live";
  seen.workers[0].alive = true;
  seen.workers.push_back(seen.workers[0]);  // attached twice
  const std::string told = text(seen);
  const std::string labels =
      R"({pool="p",role="worker",command="a \"test\"",pid=")" + std::to_string(getpid()) + "\"} ";
  for (const char* name : {"cpu_seconds_total", "start_time_seconds", "resident_memory_bytes",
                           "virtual_memory_bytes", "threads", "open_fds", "max_fds"}) {
    EXPECT_EQ(count(told, std::string("\nprocess_") + name + labels), 1u) << name;
  }
}

}  // namespace
}  // namespace modelpool::metrics
