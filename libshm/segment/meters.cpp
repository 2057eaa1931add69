#include "segment/meters.hpp"

#include <span>

#include "base/text.hpp"

namespace modelpool {
namespace {

std::string name_of_value(std::string_view names, std::uint32_t value) {
  for (std::uint32_t i = 0; !names.empty(); ++i) {
    const std::size_t end = std::min(names.find(' '), names.size());
    if (i == value && end != 0) return std::string(names.substr(0, end));
    names.remove_prefix(std::min(end + 1, names.size()));
  }
  return std::to_string(value);
}

constexpr std::uint64_t key_of(std::uint64_t hash) { return hash == 0 ? 1 : hash; }
constexpr std::string_view kOther = "other";

}  // namespace

// --- Models --------------------------------------------------------------------------------------

std::uint32_t find_meter_model(const Segment& segment, std::string_view model, std::uint64_t hash) {
  for (std::uint32_t i = 0; i < kMeterModelsMax; ++i) {
    const std::uint32_t at = static_cast<std::uint32_t>((hash + i) % kMeterModelsMax);
    const MeterModelRecord& record = segment.meter_model(at);
    // acquire: the name was written before it
    const std::uint64_t key = record.hash.load(std::memory_order_acquire);
    if (key == 0) return kMeterOther;
    if (key == key_of(hash) && record.name.equals(model)) return at;
  }
  return kMeterOther;
}

std::uint32_t register_meter_model(const Segment& segment, const LockGuard&, std::string_view model,
                                   std::uint64_t hash) {
  const std::uint32_t known = find_meter_model(segment, model, hash);
  if (known != kMeterOther || model == kOther) return known;
  for (std::uint32_t i = 0; i < kMeterModelsMax; ++i) {
    const std::uint32_t at = static_cast<std::uint32_t>((hash + i) % kMeterModelsMax);
    MeterModelRecord& record = segment.meter_model(at);
    if (record.hash.load(std::memory_order_relaxed) != 0) continue;
    record.name.store(model);
    record.hash.store(key_of(hash), std::memory_order_release);
    return at;
  }
  return kMeterOther;
}

// --- Adding --------------------------------------------------------------------------------------

MeterRow MeterRow::of_worker(const Segment& segment, std::uint32_t worker) {
  return {segment.meter_places().of_worker, segment.worker_meters(worker).cell.data()};
}

MeterRow MeterRow::of_judge(const Segment& segment) {
  return {segment.meter_places().of_judge, segment.judge_meters().cell.data()};
}

std::uint32_t MeterRow::cell_of(Meter meter, std::uint32_t model, std::uint32_t value) const {
  const MeterPlace& place = place_of(meter);
  if (value >= place.values) return kNoCell;
  const std::uint32_t block = place.by_model ? std::min(model, kMeterOther) : 0;
  return place.first_cell + block * place.values + value;
}

std::uint32_t MeterRow::bucket_of(Meter meter, std::uint64_t amount) const {
  const MeterPlace& place = place_of(meter);
  if (place.values == 0) return kNoCell;
  std::uint32_t bucket = 0;
  while (bucket < place.bounds && amount > place.bound[bucket]) ++bucket;
  return place.first_cell + bucket;
}

std::uint32_t MeterRow::sum_of(Meter meter) const {
  const MeterPlace& place = place_of(meter);
  return place.first_cell + place.bounds + 1;
}

// relaxed, all: a cell stands for itself
void MeterRow::add(Meter meter, std::uint32_t model, std::uint32_t value,
                   std::uint64_t count) const {
  const std::uint32_t cell = cell_of(meter, model, value);
  if (cell != kNoCell) cells_[cell].fetch_add(count, std::memory_order_relaxed);
}

void MeterRow::observe(Meter meter, std::uint64_t amount) const {
  const std::uint32_t bucket = bucket_of(meter, amount);
  if (bucket == kNoCell) return;
  cells_[bucket].fetch_add(1, std::memory_order_relaxed);
  cells_[sum_of(meter)].fetch_add(amount, std::memory_order_relaxed);
}

void MeterRow::add(MeterJournal* journal, Meter meter, std::uint32_t model,
                   std::uint32_t value) const {
  change(journal, cell_of(meter, model, value), 1);
}

void MeterRow::observe(MeterJournal* journal, Meter meter, std::uint64_t amount) const {
  const std::uint32_t bucket = bucket_of(meter, amount);
  if (bucket == kNoCell) return;
  change(journal, bucket, 1);
  change(journal, sum_of(meter), amount);
}

void MeterRow::change(MeterJournal* journal, std::uint32_t cell, std::uint64_t count) const {
  if (cell == kNoCell || journal->count == journal->change.size()) return;
  const std::uint64_t before = cells_[cell].load(std::memory_order_relaxed);
  journal->change[journal->count++] = {cell, before + count};
}

void commit_journal(JudgeMeters& meters, const MeterJournal& journal) {
  meters.journal.publish(journal);
  redo_journal(meters);
}

void redo_journal(JudgeMeters& meters) {
  const MeterJournal journal = meters.journal.load();
  for (std::size_t i = 0; i < std::min<std::size_t>(journal.count, journal.change.size()); ++i) {
    const MeterJournal::Change& change = journal.change[i];
    if (change.cell < kJudgeMeterCells) {
      meters.cell[change.cell].store(change.value, std::memory_order_relaxed);
    }
  }
}

// --- Reading -------------------------------------------------------------------------------------

namespace {

class Reader {
 public:
  explicit Reader(const Segment& segment) : segment_(segment), workers_(segment.workers_reached()) {
    for (std::uint32_t i = 0; i < kMeterModelsMax; ++i) {
      const MeterModelRecord& record = segment.meter_model(i);
      if (record.hash.load(std::memory_order_acquire) == 0) continue;
      models_[i] = record.name.load();
      if (!is_printable_utf8(models_[i])) models_[i].clear();
    }
    models_[kMeterOther] = kOther;
  }

  void read(const MeterInfo& info, std::vector<MeterSeries>* samples) const {
    const std::uint32_t blocks = info.by_model != 0 ? kMeterModelsMax + 1 : 1;
    for (std::uint32_t block = 0; block < blocks; ++block) {
      if (info.by_model != 0 && models_[block].empty()) continue;
      if (info.kind == MeterKind::kHistogram) {
        samples->push_back(histogram(info));
        return;
      }
      for (std::uint32_t value = 0; value < info.values; ++value) {
        MeterSeries sample = sample_of(info);
        sample.value = total(info, info.first_cell + block * info.values + value);
        if (info.by_model != 0) sample.labels.emplace_back("model", models_[block]);
        if (const auto label = field_text(info.label); !label.empty()) {
          sample.labels.emplace_back(label, name_of_value(field_text(info.value_names), value));
        }
        if (sample.value != 0 || sample.labels.empty()) samples->push_back(std::move(sample));
      }
    }
  }

 private:
  static MeterSeries sample_of(const MeterInfo& info) {
    MeterSeries sample;
    sample.name = field_text(info.name);
    sample.unit = field_text(info.unit);
    sample.help = field_text(info.help);
    sample.is_histogram = info.kind == MeterKind::kHistogram;
    sample.per_unit = info.per_unit;
    return sample;
  }

  MeterSeries histogram(const MeterInfo& info) const {
    MeterSeries sample = sample_of(info);
    sample.bounds.assign(info.bound.begin(), info.bound.begin() + info.bounds);
    for (std::uint32_t bucket = 0; bucket <= info.bounds; ++bucket) {
      sample.buckets.push_back(total(info, info.first_cell + bucket));
      sample.value += sample.buckets.back();
    }
    sample.sum = total(info, info.first_cell + info.bounds + 1);
    return sample;
  }

  // Each cell only grows, and so does their sum.
  std::uint64_t total(const MeterInfo& info, std::uint32_t cell) const {
    if (info.rows == MeterRows::kJudge) {
      return segment_.judge_meters().cell[cell].load(std::memory_order_relaxed);
    }
    std::uint64_t sum = 0;
    for (std::uint32_t w = 0; w < workers_; ++w) {
      sum += segment_.worker_meters(w).cell[cell].load(std::memory_order_relaxed);
    }
    return sum;
  }

  const Segment& segment_;
  const std::uint32_t workers_;
  std::array<std::string, kMeterModelsMax + 1> models_;
};

}  // namespace

std::vector<MeterSeries> read_meters(const Segment& segment) {
  std::vector<MeterSeries> samples;
  const Reader reader(segment);
  for (std::size_t i = 0; i < kMetersMax; ++i) {
    const MeterInfo info = segment.meter_info(i).info.load();
    if (is_sound(info)) reader.read(info, &samples);
  }
  return samples;
}

}  // namespace modelpool
