#include "base/nearest.hpp"

#include <algorithm>

#include "modelpool/settings.hpp"

namespace modelpool {
namespace {

constexpr std::size_t kNearestMax_edits = 3;
constexpr std::size_t kNearestGivenMax_bytes = 64;

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> least(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        least[i][j] = i + j;
        continue;
      }
      const std::size_t replaced = least[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      least[i][j] = std::min({least[i - 1][j] + 1, least[i][j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        least[i][j] = std::min(least[i][j], least[i - 2][j - 2] + 1);
      }
    }
  }
  return least[a.size()][b.size()];
}

std::string_view nearest_name(std::string_view given, const std::vector<std::string_view>& known) {
  if (given.size() > kNearestGivenMax_bytes) return {};
  std::string wanted(given);
  for (char& c : wanted) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (c == '-') c = '_';
  }
  // A third of the characters may be wrong: more than that is another word.
  std::size_t least = std::min(kNearestMax_edits, given.size() / 3) + 1;
  std::string_view nearest;
  for (const std::string_view name : known) {
    std::string own(name);
    std::replace(own.begin(), own.end(), '-', '_');
    const std::size_t distance = edit_distance(wanted, own);
    if (distance < least) {
      least = distance;
      nearest = name;
    }
  }
  return nearest;
}

std::string did_you_mean(std::string_view given, const std::vector<std::string_view>& known) {
  const std::string_view nearest = nearest_name(given, known);
  return nearest.empty() ? std::string() : "; did you mean " + std::string(nearest) + "?";
}

std::string no_such_setting(std::string_view given) {
  std::vector<std::string_view> known;
  for (const SettingInfo& info : kSettings) known.push_back(info.name);
  const std::string hint = did_you_mean(given, known);
  return "there is no such setting" + (hint.empty() ? "; `poolctl set` lists them" : hint);
}

}  // namespace modelpool
