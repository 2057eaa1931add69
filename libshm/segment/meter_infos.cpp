#include "segment/meter_infos.hpp"

#include <algorithm>
#include <iterator>
#include <span>
#include <string>

#include "base/text.hpp"
#include "modelpool/result.hpp"

namespace modelpool {
namespace {

// --- What there is -------------------------------------------------------------------------------

constexpr std::uint64_t kMicro = kMicrosecond_ns;
constexpr std::uint64_t kMilli = kMillisecond_ns;
constexpr std::uint64_t kSecond = kSecond_ns;

// What people wait for: loads, places, ends.
constexpr std::uint64_t kLong_ns[] = {
    1 * kMilli,    5 * kMilli,    10 * kMilli,  25 * kMilli,   50 * kMilli,  100 * kMilli,
    250 * kMilli,  500 * kMilli,  1 * kSecond,  2500 * kMilli, 5 * kSecond,  10 * kSecond,
    20 * kSecond,  30 * kSecond,  45 * kSecond, 60 * kSecond,  90 * kSecond, 120 * kSecond,
    180 * kSecond, 300 * kSecond, 600 * kSecond};
// What the judge does.
constexpr std::uint64_t kShort_ns[] = {
    10 * kMicro,  20 * kMicro,  50 * kMicro,  100 * kMicro, 200 * kMicro, 500 * kMicro,
    1 * kMilli,   2 * kMilli,   5 * kMilli,   10 * kMilli,  20 * kMilli,  50 * kMilli,
    100 * kMilli, 200 * kMilli, 500 * kMilli, 1 * kSecond,  2 * kSecond,  5 * kSecond,
    10 * kSecond, 60 * kSecond, 600 * kSecond};
// How long a backend was not used when it went.
constexpr std::uint64_t kAges_ns[] = {
    1 * kSecond,    5 * kSecond,     10 * kSecond,    30 * kSecond,   60 * kSecond,
    120 * kSecond,  300 * kSecond,   600 * kSecond,   1800 * kSecond, 3600 * kSecond,
    7200 * kSecond, 14400 * kSecond, 28800 * kSecond, 86400 * kSecond};

struct Known {
  Meter id;
  MeterKind kind;
  MeterRows rows;
  bool by_model;
  std::uint32_t values;
  std::string_view name;
  std::string_view label;
  std::string_view value_names;
  std::span<const std::uint64_t> bounds;
  std::string_view help;
};

constexpr auto kCounter = MeterKind::kCounter;
constexpr auto kHistogram = MeterKind::kHistogram;
constexpr auto kWorkers = MeterRows::kWorkers;
constexpr auto kJudge = MeterRows::kJudge;

// A new one is a line here, with an id of its own, and a call where it is counted.
constexpr Known kKnown[] = {
    {Meter::kAcquires,
     kCounter,
     kWorkers,
     true,
     8,
     "modelpool_acquires_total",
     "outcome",
     "hit waited loaded timeout queue_full load_failed cancelled refused",
     {},
     "Acquires that have come to an end"},
    {Meter::kWait, kHistogram, kWorkers, false, 1, "modelpool_wait_seconds", "", "", kLong_ns,
     "Time in the waiting line"},
    {Meter::kLoads,
     kCounter,
     kJudge,
     true,
     4,
     "modelpool_loads_total",
     "outcome",
     "loaded failed",
     {},
     "Loads that have come to an end"},
    {Meter::kLoadTime, kHistogram, kJudge, false, 1, "modelpool_load_seconds", "", "", kLong_ns,
     "Time from the ticket until ready"},
    {Meter::kStops,
     kCounter,
     kJudge,
     true,
     kReasonCapacity,
     "modelpool_stops_total",
     "reason",
     "",
     {},
     "Backends that have come to an end"},
    {Meter::kStopTime, kHistogram, kJudge, false, 1, "modelpool_stop_seconds", "", "", kLong_ns,
     "Time from the stop signal until gone"},
    {Meter::kAgeAtEviction, kHistogram, kJudge, false, 1, "modelpool_age_at_eviction_seconds", "",
     "", kAges_ns, "How long an evicted backend was not used"},
    {Meter::kReloadsSoon,
     kCounter,
     kJudge,
     false,
     1,
     "modelpool_reloads_soon_total",
     "",
     "",
     {},
     "Models loaded again within 10 minutes of their eviction"},
    {Meter::kWorkerDeaths,
     kCounter,
     kJudge,
     false,
     1,
     "modelpool_worker_deaths_total",
     "",
     "",
     {},
     "Workers that died attached"},
    {Meter::kCoordinatorStarts,
     kCounter,
     kJudge,
     false,
     1,
     "modelpool_coordinator_starts_total",
     "",
     "",
     {},
     "Coordinators that took office"},
    {Meter::kCoordinatorRestarts,
     kCounter,
     kJudge,
     false,
     1,
     "modelpool_coordinator_restarts_total",
     "",
     "",
     {},
     "Coordinators that went on where an earlier one ended"},
    {Meter::kSettingsChanges,
     kCounter,
     kJudge,
     false,
     1,
     "modelpool_settings_changes_total",
     "",
     "",
     {},
     "Settings put in force"},
    {Meter::kScanTime, kHistogram, kJudge, false, 1, "modelpool_scan_seconds", "", "", kShort_ns,
     "Time for one look at everything, its effects included"},
    {Meter::kLateness, kHistogram, kJudge, false, 1, "modelpool_lateness_seconds", "", "",
     kShort_ns, "From when something was due until it was looked at"},
    {Meter::kRefusals,
     kCounter,
     kWorkers,
     false,
     32,
     "modelpool_refusals_total",
     "error",
     "",
     {},
     "Acquires that were answered with an error"},
    {Meter::kClosings,
     kCounter,
     kJudge,
     false,
     kReasonCapacity,
     "modelpool_closings_total",
     "reason",
     "",
     {},
     "Backends closed to new requests"},
    {Meter::kReopenings,
     kCounter,
     kJudge,
     false,
     kReasonCapacity,
     "modelpool_reopenings_total",
     "reason",
     "",
     {},
     "Backends opened again after they were closed"},
    {Meter::kCancelRequests,
     kCounter,
     kJudge,
     false,
     kReasonCapacity,
     "modelpool_cancel_requests_total",
     "reason",
     "",
     {},
     "Overdue requests whose holders were asked to end them"},
    {Meter::kProbeFailures,
     kCounter,
     kJudge,
     true,
     1,
     "modelpool_probe_failures_total",
     "",
     "",
     {},
     "Times that a backend began not to answer its probes"},
    {Meter::kHttpRequests,
     kCounter,
     kWorkers,
     true,
     kHttpClasses,
     "modelpool_http_requests_total",
     "code",
     "none 1xx 2xx 3xx 4xx 5xx",
     {},
     "Requests over HTTP that have come to an end"},
    {Meter::kHttpTime, kHistogram, kWorkers, false, 1, "modelpool_http_request_seconds", "", "",
     kLong_ns, "Time from a request's head to the end of its answer"},
    {Meter::kHttpFirstByte, kHistogram, kWorkers, false, 1, "modelpool_http_first_byte_seconds", "",
     "", kLong_ns, "Time from a request's head to the first byte of its model's answer"},
    {Meter::kHttpReceived,
     kCounter,
     kWorkers,
     false,
     1,
     "modelpool_http_received_bytes_total",
     "",
     "",
     {},
     "Bytes of requests' bodies"},
    {Meter::kHttpSent,
     kCounter,
     kWorkers,
     false,
     1,
     "modelpool_http_sent_bytes_total",
     "",
     "",
     {},
     "Bytes of answers' bodies"},
};
static_assert(std::size(kKnown) == kMeterCount - 1 && std::size(kKnown) <= kMetersMax);

constexpr std::uint64_t cells_of(MeterKind kind, bool by_model, std::uint64_t values,
                                 std::uint64_t bounds) {
  if (kind == MeterKind::kHistogram) return bounds + 2;
  return values * (by_model ? kMeterModelsMax + 1 : 1);
}

constexpr std::uint64_t cells_in(MeterRows rows) {
  return rows == MeterRows::kWorkers ? kWorkerMeterCells : kJudgeMeterCells;
}

constexpr bool all_fit(MeterRows rows) {
  std::uint64_t cells = 0;
  for (const Known& known : kKnown) {
    if (known.rows != rows) continue;
    cells += cells_of(known.kind, known.by_model, known.values, known.bounds.size());
    if (known.bounds.size() > kMeterBoundsMax || known.values > kMeterValuesMax) return false;
  }
  return cells <= cells_in(rows);
}
static_assert(all_fit(MeterRows::kWorkers) && all_fit(MeterRows::kJudge));

// Reasons and errors have their names from where everybody has them.
std::string names_of_values(const Known& known) {
  std::string names = "none";
  if (known.label == "reason") {
    for (std::size_t i = 1; i < kReasonCount; ++i)
      names += " " + reason_name(static_cast<Reason>(i));
  } else if (known.label == "error") {
    for (int i = 1; i <= static_cast<int>(kErrcLast); ++i)
      names += " " + std::string(errc_name(static_cast<Errc>(i)));
  } else {
    return std::string(known.value_names);
  }
  return names;
}
static_assert(static_cast<int>(kErrcLast) < 32);

}  // namespace

std::uint64_t cell_count(const MeterInfo& info) {
  return cells_of(info.kind, info.by_model != 0, info.values, info.bounds);
}

bool is_sound(const MeterInfo& info) {
  const bool rows = info.rows == MeterRows::kWorkers || info.rows == MeterRows::kJudge;
  const bool kind = info.kind == MeterKind::kCounter || info.kind == MeterKind::kHistogram;
  if (!rows || !kind || info.by_model > 1 || info.values == 0 || info.values > kMeterValuesMax ||
      info.bounds > kMeterBoundsMax || info.per_unit == 0) {
    return false;
  }
  if (info.first_cell + cell_count(info) > cells_in(info.rows)) return false;
  return !field_text(info.name).empty() && is_printable_utf8(field_text(info.name)) &&
         is_printable_utf8(field_text(info.unit)) && is_printable_utf8(field_text(info.label)) &&
         is_printable_utf8(field_text(info.value_names)) &&
         is_printable_utf8(field_text(info.help));
}

AllMeterPlaces::AllMeterPlaces(const MeterInfoRecord* table) {
  for (std::size_t i = 0; i < kMetersMax; ++i) {
    const MeterInfo info = table[i].info.load();
    if (!is_sound(info) || info.id >= kMeterCount) continue;
    MeterPlace& place = (info.rows == MeterRows::kWorkers ? of_worker : of_judge)[info.id];
    place.first_cell = info.first_cell;
    place.values = info.values;
    place.by_model = info.by_model != 0;
    place.bounds = info.bounds;
    place.bound = info.bound;
  }
}

void describe_meters(MeterInfoRecord* table) {
  std::array<std::uint32_t, 2> next_cell{};
  for (std::size_t i = 0; i < std::size(kKnown); ++i) {
    const Known& known = kKnown[i];
    MeterInfo info;
    info.id = static_cast<std::uint32_t>(known.id);
    info.kind = known.kind;
    info.rows = known.rows;
    info.by_model = known.by_model;
    info.values = known.values;
    info.bounds = static_cast<std::uint32_t>(known.bounds.size());
    std::copy(known.bounds.begin(), known.bounds.end(), info.bound.begin());
    set_field(&info.name, known.name);
    set_field(&info.label, known.label);
    set_field(&info.value_names, names_of_values(known));
    set_field(&info.help, known.help);
    if (known.kind == MeterKind::kHistogram) {
      info.per_unit = kSecond_ns;
      set_field(&info.unit, "seconds");
    }
    std::uint32_t& cell = next_cell[static_cast<std::size_t>(known.rows)];
    info.first_cell = cell;
    cell += static_cast<std::uint32_t>(cell_count(info));
    table[i].info.store(info);
  }
}

}  // namespace modelpool
