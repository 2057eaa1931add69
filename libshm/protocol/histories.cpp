#include "protocol/histories.hpp"

#include <algorithm>

#include "base/name.hpp"
#include "base/time.hpp"
#include "policy/interval.hpp"

namespace modelpool {
namespace {

constexpr std::uint64_t key_of(std::uint64_t hash) { return hash == 0 ? 1 : hash; }

// Where a model's history may stand: from where its hash points to, round the end of the table.
class Places {
 public:
  Places(const Segment& segment, std::uint64_t hash) : segment_(segment), hash_(hash) {}
  std::uint32_t count() const { return std::min(segment_.capacities().models, kHistoryProbes); }
  ModelRecord& operator[](std::uint32_t i) const {
    return segment_.model((hash_ + i) % segment_.capacities().models);
  }

 private:
  const Segment& segment_;
  const std::uint64_t hash_;
};

bool is_of(const ModelRecord& record, std::string_view model, std::uint64_t hash) {
  // acquire: the name was written before it
  return record.hash.load(std::memory_order_acquire) == key_of(hash) && record.name.equals(model);
}

}  // namespace

std::optional<LoadHistory> find_history(const Segment& segment, std::string_view model) {
  const std::uint64_t hash = hash_name(model);
  const Places places(segment, hash);
  for (std::uint32_t i = 0; i < places.count(); ++i) {
    const ModelRecord& record = places[i];
    if (!is_of(record, model, hash)) continue;
    const LoadHistory history = record.history.load();
    // Another model may have taken the record meanwhile.
    if (is_of(record, model, hash)) return history;
  }
  return std::nullopt;
}

void write_history(const Segment& segment, const LockGuard&, std::string_view model,
                   const LoadHistory& history) {
  const std::uint64_t hash = hash_name(model);
  const Places places(segment, hash);
  ModelRecord* place = nullptr;
  std::uint64_t oldest = kNever_ns;
  for (std::uint32_t i = 0; i < places.count(); ++i) {
    ModelRecord& record = places[i];
    if (is_of(record, model, hash)) {
      record.history.publish(history);
      return;
    }
    const bool is_free = record.hash.load(std::memory_order_acquire) == 0;
    // One that is free goes before all others, the first before those after it.
    const std::uint64_t updated = is_free ? 0 : add_ns(record.history.load().updated_ns, 1);
    if (updated < oldest) {
      oldest = updated;
      place = &record;
    }
  }
  if (place == nullptr) return;  // only with damaged stamps; a history may be missing
  place->hash.store(0, std::memory_order_seq_cst);
  place->name.store(model);
  place->history.publish(history);
  place->hash.store(key_of(hash), std::memory_order_seq_cst);
}

void note_end(LoadHistory* history, const BackendEnd& end) {
  if (end.interval_ns != 0) history->interval_ns = end.interval_ns;
  history->last_use_ns = std::max(history->last_use_ns, end.last_use_ns);
  history->last_end_ns = end.ended_ns;
  history->evicted_ns = end.evicted ? end.ended_ns : 0;
  history->peak = larger_of(history->peak, end.peak);
  history->updated_ns = end.ended_ns;
}

void note_return(LoadHistory* history, std::uint64_t ready_ns) {
  if (history->last_use_ns == 0) return;
  const std::uint64_t away_ns = age_ns(ready_ns, history->last_use_ns);
  history->interval_ns = smooth_interval(history->interval_ns, away_ns);
}

Bytes largest_peak(const Segment& segment, const Bytes& at_most) {
  Bytes largest;
  for (std::uint32_t i = 0; i < segment.capacities().models; ++i) {
    const ModelRecord& record = segment.model(i);
    if (record.hash.load(std::memory_order_acquire) == 0) continue;
    Bytes peak = record.history.load().peak;
    if (peak.host > at_most.host) peak.host = 0;
    for (std::size_t d = 0; d < kDevicesMax; ++d) {
      if (peak.device[d] > at_most.device[d]) peak.device[d] = 0;
    }
    largest = larger_of(largest, peak);
  }
  return largest;
}

void write_failure(const Segment& segment, const LockGuard& guard, std::string_view model,
                   const LoadFailure& failure, std::uint64_t now) {
  LoadHistory history = find_history(segment, model).value_or(LoadHistory{});
  if (history.failures > 0 && history.failed_backend == pack_ref(failure.backend)) return;
  ++history.failures;
  history.failed_ns = now;
  history.cooldown_until_ns = add_ns(
      now, cooldown_ns(failure.cooldown,
                       static_cast<std::uint32_t>(std::min<std::uint64_t>(history.failures, 64))));
  history.failed_backend = pack_ref(failure.backend);
  history.exit_status = failure.packed_exit;
  history.updated_ns = now;
  set_field(&history.error, failure.error);
  write_history(segment, guard, model, history);
}

Result<LoadHistory> reset_failures(const Segment& segment, std::string_view model) {
  if (auto ok = check_model_name(model); !ok) return fail(ok.error());
  auto lock = segment.lock_structure();
  if (!lock) return fail(lock.error());
  const std::optional<LoadHistory> before = find_history(segment, model);
  if (!before) return LoadHistory{};
  LoadHistory history = *before;
  forget_failures(&history, now_ns());
  history.peak = Bytes{};
  write_history(segment, *lock, model, history);
  return *before;
}

void forget_failures(LoadHistory* history, std::uint64_t now) {
  history->failures = 0;
  history->failed_ns = 0;
  history->cooldown_until_ns = 0;
  history->failed_backend = 0;
  history->exit_status = 0;
  history->error.fill(0);
  history->updated_ns = now;
}

}  // namespace modelpool
