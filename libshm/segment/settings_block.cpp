#include "segment/settings_block.hpp"

namespace modelpool {
// --- Reading -------------------------------------------------------------------------------------

std::uint64_t pool_setting(const Segment& segment, Setting id) {
  std::uint64_t value = setting_info(id).default_value;
  read_settings(segment, [&](const SettingsView& view) { value = view.get(id); });
  return value;
}

Effective resolve_settings(const Segment& segment, std::string_view model,
                           const Overrides* given_at_ready) {
  Effective result;
  const std::uint64_t generation = read_settings(segment, [&](const SettingsView& view) {
    result = Effective();
    view.resolve(model, &result);
  });
  if (given_at_ready != nullptr) result.take_of_ready(*given_at_ready);
  result.set_generation(generation);
  return result;
}

Effective resolve_settings(const SettingsImage& image, std::string_view model,
                           const Overrides* given_at_ready) {
  Effective result;
  image.view().resolve(model, &result);
  if (given_at_ready != nullptr) result.take_of_ready(*given_at_ready);
  return result;
}

PoolSettings read_pool_settings(const Segment& segment) {
  PoolSettings result;
  read_settings(segment, [&](const SettingsView& view) { result = view.pool(); });
  return result;
}

Settings load_settings(const Segment& segment, std::uint64_t* generation) {
  Settings result;
  const std::uint64_t found = read_settings(segment, [&](const SettingsView& view) {
    static_cast<PoolSettings&>(result) = view.pool();
    result.rules = view.rules();
  });
  if (generation != nullptr) *generation = found;
  return result;
}

// --- Writing -------------------------------------------------------------------------------------

void publish_settings(const Segment& segment, const LockGuard&, const SettingsImage& image) {
  Word& generation = segment.settings().generation;
  // relaxed: it changes only under the mutex
  const std::uint64_t next = generation.load(std::memory_order_relaxed) + 1;
  image.copy_to(segment.settings_copy(next));
  generation.store(next, std::memory_order_seq_cst);
}

}  // namespace modelpool
