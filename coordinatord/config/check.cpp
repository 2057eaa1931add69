#include "config/check.hpp"

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include "base/glob.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "base/text_values.hpp"

namespace modelpool::config {
namespace {

// A model that a rule names in full, with all that the pool and the rules say of it.
struct Named {
  std::string model;
  Overrides values;

  const SettingEntry* find(Setting id) const { return values.find(id); }
  std::string text(Setting id) const {
    const SettingEntry* const entry = find(id);
    return entry == nullptr ? "" : entry->text;
  }
};

std::vector<Named> named_models(const Settings& settings) {
  std::vector<Named> all;
  std::set<std::string> seen;
  for (const Rule& named : settings.rules) {
    if (named.is_glob() || !seen.insert(named.pattern).second) continue;
    Named one{named.pattern, settings.pool};
    for (const Rule& rule : settings.rules) {
      const bool applies = rule.is_glob() ? glob_matches(rule.pattern, named.pattern)
                                          : rule.pattern == named.pattern;
      if (!applies) continue;
      for (const SettingEntry& entry : rule.overrides.entries()) one.values.set(entry);
    }
    all.push_back(std::move(one));
  }
  return all;
}

class Check {
 public:
  Check(const std::string& path, const Settings& settings)
      : path_(path), settings_(settings), named_(named_models(settings)) {}

  Result<> run() const {
    if (Result<> ok = gpu_memory_is_of_its_kind(); !ok) return ok;
    if (Result<> ok = sizes_fit(); !ok) return ok;
    if (Result<> ok = devices_fit(); !ok) return ok;
    return pinned_fit();
  }

 private:
  tl::unexpected<Error> refuse(Origin at, const std::string& why) const {
    return fail(Errc::kInvalid,
                "unable to read config " + escape(path_) +
                    (at.kind == OriginKind::kConfig ? ":" + std::to_string(at.line) : "") + ": " +
                    why);
  }
  std::string where(Origin at) const {
    return at.kind == OriginKind::kConfig ? "line " + std::to_string(at.line)
                                          : origin_text(path_, at);
  }

  Result<> gpu_memory_is_of_its_kind() const {
    const SettingEntry* const pools = settings_.pool.find(Setting::kGpuMemory);
    if (pools != nullptr && !is_pools_gpu_memory(pools->text))
      return refuse(pools->origin, std::string(kPoolsGpuMemory));
    for (const Rule& rule : settings_.rules) {
      const SettingEntry* const models = rule.overrides.find(Setting::kGpuMemory);
      const auto memory = models == nullptr ? std::nullopt : parse_gpu_memory(models->text);
      if (!memory || (memory->percent == 0 && memory->limits.empty())) continue;
      return refuse(models->origin,
                    "gpu_memory of " + quote(rule.pattern) +
                        " is what it takes of its devices: a size, or one for each, such as "
                        "\"20GiB\"; a share or a limit belongs to [pool]");
    }
    return {};
  }

  // No model takes more memory than there is for all.
  Result<> sizes_fit() const {
    const std::uint64_t most = settings_.get(Setting::kMaxMemory);
    for (const Rule& rule : settings_.rules) {
      const std::uint64_t takes = rule.overrides.get(Setting::kMemory);
      if (most == 0 || takes <= most) continue;
      const Origin origin = rule.overrides.origin(Setting::kMemory);
      return fail(Errc::kInvalid,
                  "unable to use config " + origin_text(settings_.config_path, origin) + ": " +
                      quote(rule.pattern) +
                      " takes memory = " + format_setting(setting_info(Setting::kMemory), takes) +
                      ", and max_memory is " +
                      format_setting(setting_info(Setting::kMaxMemory), most) +
                      ": it could never be loaded; raise max_memory, or correct "
                      "memory");
    }
    return {};
  }

  Result<> devices_fit() const {
    const auto pool = parse_gpu_memory(settings_.pool.find(Setting::kGpuMemory) == nullptr
                                           ? ""
                                           : settings_.pool.find(Setting::kGpuMemory)->text);
    for (const Named& one : named_) {
      const auto memory = parse_gpu_memory(one.text(Setting::kGpuMemory));
      const auto wish = parse_devices(one.text(Setting::kDevices));
      if (!memory || !wish || memory->sizes.empty()) continue;
      const Origin at = one.find(Setting::kGpuMemory)->origin;
      if (memory->sizes.size() > 1 && wish->count != 0 && memory->sizes.size() != wish->count) {
        return refuse(at, quote(one.model) + " is put on " + std::to_string(wish->count) +
                              " devices and has " + std::to_string(memory->sizes.size()) +
                              " sizes in gpu_memory; give one for all, or one for each");
      }
      if (!pool || pool->limits.empty()) continue;
      std::uint64_t most = 0;
      for (const auto& [uuid, bytes] : pool->limits) most = std::max(most, bytes);
      const std::uint64_t takes = *std::max_element(memory->sizes.begin(), memory->sizes.end());
      const bool may_be_elsewhere =
          std::any_of(wish->uuids.begin(), wish->uuids.end(), [&](const std::string& uuid) {
            return std::none_of(pool->limits.begin(), pool->limits.end(),
                                [&](const auto& limit) { return limit.first == uuid; });
          });
      if (takes > most && !may_be_elsewhere) {
        return refuse(at, quote(one.model) + " takes " + format_size_exactly(takes) +
                              " of a device, and the largest limit of the pool's gpu_memory is " +
                              format_size_exactly(most) + ": it could never be loaded");
      }
    }
    return {};
  }

  // Pinned models that never all fit would keep everybody else out once they are loaded.
  Result<> pinned_fit() const {
    std::vector<const Named*> pinned;
    std::string names;
    for (const Named& one : named_) {
      const SettingEntry* const entry = one.find(Setting::kPinned);
      if (entry == nullptr || entry->number == 0) continue;
      pinned.push_back(&one);
      names += (names.empty() ? "" : ", ") + escape(one.model);
    }
    const std::uint64_t limit = settings_.get(Setting::kMaxBackends);
    if (limit != 0 && pinned.size() > limit) {
      return refuse(pinned[limit]->find(Setting::kPinned)->origin,
                    std::to_string(pinned.size()) + " models are pinned (" + names +
                        "), but max_backends is " + std::to_string(limit) + " (" +
                        where(settings_.pool.origin(Setting::kMaxBackends)) +
                        "); raise max_backends or pin fewer");
    }
    for (std::size_t i = 0; i < pinned.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        const std::string group = shared_group(*pinned[j], *pinned[i]);
        if (group.empty()) continue;
        return refuse(pinned[i]->find(Setting::kPinned)->origin,
                      quote(pinned[j]->model) + " and " + quote(pinned[i]->model) +
                          " are pinned and share the group " + escape(group) +
                          ": one would keep the other out for ever; pin one of them");
      }
    }
    return {};
  }

  static std::string shared_group(const Named& a, const Named& b) {
    const std::string of_a = a.text(Setting::kGroups);
    const std::string of_b = b.text(Setting::kGroups);
    const auto groups_a = parse_groups(of_a);
    const auto groups_b = parse_groups(of_b);
    if (!groups_a || !groups_b) return {};
    for (const std::string_view group : *groups_a) {
      if (std::find(groups_b->begin(), groups_b->end(), group) != groups_b->end())
        return std::string(group);
    }
    return {};
  }

  const std::string& path_;
  const Settings& settings_;
  const std::vector<Named> named_;
};

}  // namespace

Result<> check_together(const std::string& path, const Settings& settings) {
  return Check(path, settings).run();
}

}  // namespace modelpool::config
