#include "protocol/settings_change.hpp"

#include <string>
#include <string_view>
#include <vector>

#include "base/time.hpp"
#include "protocol/histories.hpp"
#include "protocol/next_parallel.hpp"

namespace modelpool {
namespace {

constexpr int kEditsMax = 1000;

// Models that have failed to load, and whether the next settings give them another load_cooldown.
class Cooldowns {
 public:
  Cooldowns(const Segment& segment, const SettingsImage& next) {
    bool may_differ = true;
    read_settings(segment, [&](const SettingsView& view) {
      may_differ = view.rules_hash() != next.view().rules_hash() ||
                   view.get(Setting::kLoadCooldown) != next.view().get(Setting::kLoadCooldown);
    });
    if (!may_differ) return;
    judged_.resize(segment.capacities().models);
    for (std::uint32_t i = 0; i < judged_.size(); ++i) {
      const ModelRecord& record = segment.model(i);
      if (!has_failed(record)) continue;
      judged_[i].model = record.name.load();
      judged_[i].changes = cooldown(resolve_settings(segment, judged_[i].model)) !=
                           cooldown(resolve_settings(next, judged_[i].model));
    }
  }

  // Under the mutex. False: another model has failed since.
  bool are_all(const Segment& segment) const {
    for (std::uint32_t i = 0; i < judged_.size(); ++i) {
      const ModelRecord& record = segment.model(i);
      if (has_failed(record) && !record.name.equals(judged_[i].model)) return false;
    }
    return true;
  }
  void forget_changed(const Segment& segment, const LockGuard&) const {
    for (std::uint32_t i = 0; i < judged_.size(); ++i) {
      ModelRecord& record = segment.model(i);
      if (!judged_[i].changes || !has_failed(record)) continue;
      LoadHistory history = record.history.load();
      forget_failures(&history, now_ns());
      record.history.publish(history);
    }
  }

 private:
  struct Judged {
    std::string model;
    bool changes = false;
  };

  static bool has_failed(const ModelRecord& record) {
    return record.hash.load(std::memory_order_acquire) != 0 && record.history.load().failures > 0;
  }
  static std::uint64_t cooldown(const Effective& settings) {
    return settings.get(Setting::kLoadCooldown);
  }

  std::vector<Judged> judged_;  // by record; none if no load_cooldown changes
};

}  // namespace

Result<> edit_settings(const Segment& segment, std::uint64_t lock_wait_ns,
                       const std::function<void(Settings&)>& change) {
  for (int edit = 0; edit < kEditsMax; ++edit) {
    std::uint64_t from = 0;
    Settings settings = load_settings(segment, &from);
    change(settings);
    auto image = SettingsImage::make(settings, segment.settings_copy_words());
    if (!image) return fail(image.error());
    const Cooldowns cooldowns(segment, *image);
    const NextParallel parallel(segment, *image);
    const auto lock = lock_for(segment.lock(), lock_wait_ns);
    if (!lock) return fail(lock.error());
    // Another writer, or another failure, may have come first. relaxed: it changes under the mutex.
    if (segment.settings().generation.load(std::memory_order_relaxed) != from) continue;
    if (!cooldowns.are_all(segment)) continue;
    cooldowns.forget_changed(segment, *lock);
    publish_settings(segment, *lock, *image);
    parallel.settle(segment, *lock);
    return {};
  }
  return fail(Errc::kBusy, "unable to change the settings: others change them faster; try again");
}

}  // namespace modelpool
