// Which meters there are, and how the segment describes them: ids, names, labels, buckets, cells.
//
// Safety: pure functions; describe_meters is for who builds a segment.
//
// Errors: none. A description that came from a segment may be damaged (is_sound).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "segment/layout.hpp"

namespace modelpool {

// Ids, for ever.
enum class Meter : std::uint32_t {
  kAcquires = 1,
  kWait = 2,
  // The judge's.
  kLoads = 3,
  kLoadTime = 4,
  kStops = 5,
  kStopTime = 6,
  kAgeAtEviction = 7,
  kReloadsSoon = 8,
  kWorkerDeaths = 9,
  kCoordinatorStarts = 10,
  kCoordinatorRestarts = 11,
  kSettingsChanges = 12,
  kScanTime = 13,
  kLateness = 14,
  // A worker's.
  kRefusals = 15,
  // The judge's.
  kClosings = 16,
  kReopenings = 17,
  kCancelRequests = 18,
  kProbeFailures = 19,
  // A front end's.
  kHttpRequests = 20,
  kHttpTime = 21,
  kHttpFirstByte = 22,
  kHttpReceived = 23,
  kHttpSent = 24,
};
inline constexpr std::size_t kMeterCount = 25;  // ids below it; 0 is none

enum class AcquireOutcome : std::uint32_t {
  kHit,
  kWaited,
  kLoaded,
  kTimeout,
  kQueueFull,
  kFailed,
  kCancelled,
  kRefused,
};
// The first digit of its status; 0: none was sent.
inline constexpr std::uint32_t kHttpClasses = 6;
enum class LoadOutcome : std::uint32_t { kLoaded, kFailed };

// A model that is loaded again so soon after its eviction counts as thrash.
inline constexpr std::uint64_t kReloadSoon_ns = 600 * kSecond_ns;

// Creator only: what this build's meters are.
void describe_meters(MeterInfoRecord* table);

// How many cells it has in each of its rows.
std::uint64_t cell_count(const MeterInfo& info);
// Can what it says be believed? Descriptions are read from the segment.
bool is_sound(const MeterInfo& info);

// Where a meter's cells stand in a row, and the bounds of its buckets.
struct MeterPlace {
  std::uint32_t first_cell = 0;
  std::uint32_t values = 0;  // 0: this pool has no such meter
  bool by_model = false;
  std::uint32_t bounds = 0;
  std::array<std::uint64_t, kMeterBoundsMax> bound{};
};
using MeterPlaces = std::array<MeterPlace, kMeterCount>;  // by id

// Found once for each mapping: the table never changes.
struct AllMeterPlaces {
  explicit AllMeterPlaces(const MeterInfoRecord* table);

  MeterPlaces of_worker{};
  MeterPlaces of_judge{};
};

}  // namespace modelpool
