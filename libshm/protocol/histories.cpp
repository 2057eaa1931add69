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
    if (record.in_use.load(std::memory_order_acquire) != 0 && record.name.equals(model)) return history;
  }
  return std::nullopt;
}

void write_history(const Segment& segment, const LockGuard&, std::string_view model, const LoadHistory& history) {
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

void write_failure(const Segment& segment, const LockGuard& guard, std::string_view model, BackendRef ref,
                   std::string_view error, std::uint32_t packed_exit, std::uint64_t now) {
  LoadHistory history = find_history(segment, model).value_or(LoadHistory{});
  std::uint64_t cooldown = setting_info(Setting::kLoadCooldown).default_value;
  if (const Settings* settings = current_settings(segment); settings != nullptr) {
    cooldown = effective_settings(*settings, model, nullptr).get(Setting::kLoadCooldown);
  }
  ++history.failures;
  history.failed_ns = now;
  history.cooldown_until_ns =
      add_ns(now, cooldown_ns(cooldown, static_cast<std::uint32_t>(std::min<std::uint64_t>(history.failures, 64))));
  history.failed_backend = pack_ref(ref);
  history.exit_status = packed_exit;
  history.updated_ns = now;
  set_field(&history.error, error);
  write_history(segment, guard, model, history);
}

}  // namespace modelpool
