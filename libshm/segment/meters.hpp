// Meters: counters and histograms in cells that only grow, and a table that says what the cells
// mean.
//
// A tool goes through that table (read_meters) and needs to know no meter by name. A program that
// adds looks its meters up by id when it attaches; one that the pool's creator did not know yet has
// no cells there, and nothing is counted.
//
// Safety: any thread. A worker's row is added to by its process, the judge's by the coordinator;
// reading takes no lock.
//
// Crash: a cell has its old or its new value. A row is never cleared or folded into another: who
// takes it next adds on. What a thread has not yet added is lost with its process (leases.hpp).
// What an event of the judge's counts as is journalled with the event's number, and so is counted
// once (MeterJournal).
//
// Errors: none. A damaged description hides its meter.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "segment/meter_infos.hpp"
#include "segment/segment.hpp"

namespace modelpool {

// Which cells of a meter are this model's: kMeterOther when it has none of its own. Registering
// gives it some while there are any; the caller holds the mutex.
std::uint32_t find_meter_model(const Segment& segment, std::string_view model, std::uint64_t hash);
std::uint32_t register_meter_model(const Segment& segment, const LockGuard& guard,
                                   std::string_view model, std::uint64_t hash);

// A row of cells. Lives no longer than its places; those of a Segment live as long as it.
class MeterRow {
 public:
  static MeterRow of_worker(const Segment& segment, std::uint32_t worker);
  static MeterRow of_judge(const Segment& segment);

  MeterRow() = default;
  MeterRow(const MeterPlaces& places, Word* cells) : places_(&places), cells_(cells) {}
  void add(Meter meter, std::uint32_t model, std::uint32_t value, std::uint64_t count = 1) const;
  void observe(Meter meter, std::uint64_t amount) const;  // of a histogram
  // The same, into a journal instead of the cells.
  void add(MeterJournal* journal, Meter meter, std::uint32_t model, std::uint32_t value) const;
  void observe(MeterJournal* journal, Meter meter, std::uint64_t amount) const;

 private:
  static constexpr std::uint32_t kNoCell = UINT32_MAX;

  const MeterPlace& place_of(Meter meter) const {
    return (*places_)[static_cast<std::size_t>(meter)];
  }
  std::uint32_t cell_of(Meter meter, std::uint32_t model, std::uint32_t value) const;
  std::uint32_t bucket_of(Meter meter, std::uint64_t amount) const;
  std::uint32_t sum_of(Meter meter) const;
  void change(MeterJournal* journal, std::uint32_t cell, std::uint64_t count) const;

  const MeterPlaces* places_ = nullptr;
  Word* cells_ = nullptr;
};

// The coordinator's: publishes the journal, then makes its changes; the journal's event is counted
// from the first store on. Redo makes them again, after a crash in between.
void commit_journal(JudgeMeters& meters, const MeterJournal& journal);
void redo_journal(JudgeMeters& meters);

// One series of a meter, over all rows that ever were.
struct MeterSeries {
  std::string name;
  std::string unit;
  std::string help;
  bool is_histogram = false;
  std::uint64_t per_unit = 1;  // bounds and sum are in parts of a unit
  std::vector<std::pair<std::string, std::string>> labels;
  std::uint64_t value = 0;             // of a counter; of a histogram how many observations
  std::vector<std::uint64_t> bounds;   // of a histogram: of all buckets but the last
  std::vector<std::uint64_t> buckets;  // each by itself
  std::uint64_t sum = 0;
};
// Counters with labels that are 0 are left out.
std::vector<MeterSeries> read_meters(const Segment& segment);

}  // namespace modelpool
