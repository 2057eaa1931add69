#include "config/keys.hpp"

#include <algorithm>

namespace modelpool::config {
namespace {

template <class Names>
bool contains(const Names& names, std::string_view key) {
  return std::find(names.begin(), names.end(), key) != names.end();
}

template <class Infos>
bool has_name(const Infos& infos, std::string_view key) {
  return std::any_of(infos.begin(), infos.end(),
                     [&](const auto& info) { return info.name == key; });
}

}  // namespace

std::vector<std::string_view> serve_keys() {
  std::vector<std::string_view> keys(kServeOthers.begin(), kServeOthers.end());
  for (const auto& info : kServeCounts) keys.push_back(info.name);
  for (const auto& info : kServeLists) keys.push_back(info.name);
  for (const auto& info : kServeSizes) keys.push_back(info.name);
  for (const auto& info : kServeTimes) keys.push_back(info.name);
  return keys;
}

bool takes_text(std::string_view key) {
  if (const SettingInfo* const info = find_setting(key)) {
    return info->kind != SettingKind::kCount && info->kind != SettingKind::kSwitch;
  }
  if (key == kPreload) return false;
  return key == "match" || has_name(kServeSizes, key) || has_name(kServeTimes, key) ||
         has_name(kServeLists, key) || contains(kServeOthers, key) ||
         contains(kListenerKeys, key) || contains(kTlsKeys, key) || contains(kModelKeys, key);
}

}  // namespace modelpool::config
