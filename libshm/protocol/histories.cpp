#include "protocol/histories.hpp"

#include <algorithm>

#include "base/time.hpp"

namespace modelpool {
std::optional<LoadHistory> find_history(const Segment& segment, std::string_view model) {
  for (std::uint32_t i = 0; i < segment.capacities().models; ++i) {
    const ModelRecord& record = segment.model(i);
    if (record.in_use.load(std::memory_order_acquire) == 0 || !record.name.equals(model)) continue;
    const LoadHistory history = record.history.load();
    // Another model may have taken the record meanwhile.
    if (record.in_use.load(std::memory_order_acquire) != 0 && record.name.equals(model))
      return history;
  }
  return std::nullopt;
}

void write_history(const Segment& segment, const LockGuard&, std::string_view model,
                   const LoadHistory& history) {
  ModelRecord* place = nullptr;
  std::uint64_t oldest = kNever_ns;
  for (std::uint32_t i = 0; i < segment.capacities().models; ++i) {
    ModelRecord& record = segment.model(i);
    if (record.in_use.load(std::memory_order_acquire) == 0) {
      if (oldest != 0) place = &record;  // the first free one
      oldest = 0;
    } else if (record.name.equals(model)) {
      record.history.publish(history);
      return;
    } else if (const std::uint64_t updated = record.history.load().updated_ns; updated < oldest) {
      oldest = updated;
      place = &record;
    }
  }
  if (place == nullptr) return;  // only with damaged stamps; a history may be missing
  place->in_use.store(0, std::memory_order_seq_cst);
  place->name.store(model);
  place->history.publish(history);
  place->in_use.store(1, std::memory_order_seq_cst);
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
