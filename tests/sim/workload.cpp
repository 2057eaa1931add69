#include "workload.hpp"

#include <cstdlib>

namespace modelpool::sim {
namespace {

constexpr std::uint64_t kMinute_ns = 60 * kSecond_ns;
constexpr std::uint64_t kHour_ns = 60 * kMinute_ns;
constexpr std::uint64_t kDay_ns = 24 * kHour_ns;

Workload busy() {
  Workload w;
  w.name = "busy";
  w.settings.pool.set(Setting::kMaxBackends, 3);
  w.settings.pool.set(Setting::kBusyTimeout, kMinute_ns);
  w.settings.pool.set(Setting::kStallTimeout, 20 * kSecond_ns);
  w.settings.pool.set(Setting::kFirstByteTimeout, 25 * kSecond_ns);
  w.settings.pool.set(Setting::kIdleTimeout, 30 * kSecond_ns);
  w.settings.pool.set(Setting::kLoadTimeout, kMinute_ns);
  w.settings.pool.set(Setting::kDrainTimeout, 5 * kSecond_ns);
  w.settings.pool.set(Setting::kMinResident, 2 * kSecond_ns);
  w.between_requests = {kMillisecond_ns, 8 * kSecond_ns};
  w.service = {10 * kMillisecond_ns, 30 * kSecond_ns};
  w.between_progress = {10 * kMillisecond_ns, 10 * kSecond_ns};
  w.patience = {kSecond_ns, 2 * kMinute_ns};
  w.hangs = 0.01;
  w.stalls = 0.01;
  w.own_limit = 0.05;
  w.bursts = 0.05;
  w.load = {100 * kMillisecond_ns, 20 * kSecond_ns};
  w.external = 0.05;
  w.load_exits = 0.05;
  w.load_gives_up = 0.03;
  w.load_hangs = 0.02;
  w.own_settings = 0.1;
  w.stops_in = {5 * kMillisecond_ns, 10 * kSecond_ns};
  w.ignores_stop = 0.05;
  w.unkillable = 0.001;
  w.leaves_child = 0.1;
  w.between_crashes = {kSecond_ns, kHour_ns};
  w.between_worker_deaths = {kSecond_ns, kHour_ns};
  w.between_judge_deaths = {kSecond_ns, kHour_ns};
  w.judge_away = {10 * kMillisecond_ns, 20 * kSecond_ns};
  w.between_settings = {kSecond_ns, kHour_ns};
  w.between_controls = {kSecond_ns, kHour_ns};
  return w;
}

// Who goes is the least recently used, at once, as long as nobody sets it otherwise.
Workload lru() {
  Workload w = busy();
  w.name = "lru";
  w.settings.pool.set(Setting::kEviction, static_cast<std::uint64_t>(Eviction::kLru));
  w.settings.pool.set(Setting::kMaxWait, 0);
  return w;
}

// Bytes run short, and places do not.
Workload memory() {
  Workload w = busy();
  w.name = "memory";
  w.settings.pool.set(Setting::kMaxBackends, 0);
  w.settings.pool.set(Setting::kMaxMemory, std::uint64_t{100} << 30);
  w.between_settings = {};
  w.head_waits_most_ns = 0;
  return w;
}

// Nothing that keeps a resident for ever, so that the head of the line gets its place.
Workload fair(WhenBusy when_busy) {
  Workload w = busy();
  w.name = when_busy == WhenBusy::kForce ? "force" : "drain";
  w.settings.pool.set(Setting::kWhenBusy, static_cast<std::uint64_t>(when_busy));
  w.settings.pool.set(Setting::kBusyTimeout, 0);
  w.settings.pool.set(Setting::kStallTimeout, 0);
  w.settings.pool.set(Setting::kFirstByteTimeout, 0);
  w.settings.pool.set(Setting::kDrainTimeout, 10 * kSecond_ns);
  // Residents are never idle: a request ends after the next has begun.
  w.between_requests = {kMillisecond_ns, 400 * kMillisecond_ns};
  w.service = {kSecond_ns, when_busy == WhenBusy::kForce ? 10 * kMinute_ns : 4 * kSecond_ns};
  w.between_progress = {};
  w.patience = {10 * kMinute_ns, 20 * kMinute_ns};
  w.hangs = w.stalls = w.own_limit = w.load_hangs = w.unkillable = 0;
  w.between_settings = w.between_controls = {};
  w.head_waits_most_ns = 2 * kMinute_ns;
  return w;
}

// Groups keep models apart, and two devices and two loads at a time what is left.
void take_places_of(Workload* w) {
  w->settings.pool.set(Setting::kMaxBackends, 0);
  w->settings.pool.set(Setting::kMaxLoads, 2);
  w->groups = 5;
  w->devices = 2;
  w->device_bytes = std::uint64_t{70} << 30;
  w->between_settings = {};
}
Workload placed() {
  Workload w = busy();
  w.name = "placed";
  take_places_of(&w);
  return w;
}

// The same, where the head of the line is to get its place in time.
Workload placed_fairly() {
  Workload w = fair(WhenBusy::kDrain);
  w.name = "placed-fairly";
  take_places_of(&w);
  w.head_waits_most_ns = 5 * kMinute_ns;
  return w;
}

Workload quiet() {
  Workload w = busy();
  w.name = "quiet";
  w.settings = Settings{};
  w.settings.pool.set(Setting::kMaxBackends, 2);
  w.settings.pool.set(Setting::kBusyTimeout, 2 * kHour_ns);
  w.settings.pool.set(Setting::kIdleTimeout, 6 * kHour_ns);
  w.between_requests = {kMinute_ns, kDay_ns};
  w.service = {kSecond_ns, kHour_ns};
  w.between_progress = {};
  w.patience = {kMinute_ns, 10 * kMinute_ns};
  w.load = {kSecond_ns, 5 * kMinute_ns};
  w.between_crashes = {kHour_ns, 90 * kDay_ns};
  w.between_worker_deaths = {kHour_ns, 30 * kDay_ns};
  w.between_judge_deaths = {kHour_ns, 90 * kDay_ns};
  w.judge_away = {kSecond_ns, kHour_ns};
  w.between_settings = {kHour_ns, 90 * kDay_ns};
  w.between_controls = {kHour_ns, 30 * kDay_ns};
  return w;
}

// Whatever the limits on requests ask for is done, as late as they allow.
Workload slow() {
  Workload w = busy();
  w.name = "slow";
  w.settings.pool.set(Setting::kBusyTimeout, 2 * kHour_ns);
  w.settings.pool.set(Setting::kStallTimeout, kMinute_ns);
  w.settings.pool.set(Setting::kFirstByteTimeout, 11 * kMinute_ns);
  w.settings.pool.set(Setting::kProbeFailures, 3);
  w.between_requests = {kSecond_ns, 10 * kMinute_ns};
  w.service = {kSecond_ns, kHour_ns};
  w.first_progress = {kSecond_ns, 10 * kMinute_ns};
  w.between_progress = {10 * kMillisecond_ns, 59 * kSecond_ns};
  w.patience = {kMinute_ns, kHour_ns};
  w.hangs = w.stalls = w.own_limit = 0;
  w.between_crashes = w.between_settings = {};
  return w;
}

}  // namespace

const std::vector<Workload>& workloads() {
  static const std::vector<Workload> kAll{busy(),
                                          lru(),
                                          memory(),
                                          placed(),
                                          placed_fairly(),
                                          fair(WhenBusy::kDrain),
                                          fair(WhenBusy::kForce),
                                          quiet(),
                                          slow()};
  return kAll;
}

const Workload& workload(std::string_view name) {
  for (const Workload& w : workloads()) {
    if (w.name == name) return w;
  }
  std::abort();
}

}  // namespace modelpool::sim
