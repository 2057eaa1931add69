#include "config/problems.hpp"

#include "base/text.hpp"

namespace modelpool::config {

Result<> Problems::result(const std::string& path) const {
  std::multimap<Position, std::string> all;
  for (const auto& [at, reason] : found_) {
    if (!is_unreadable(at.line)) all.emplace(at, reason);
  }
  for (const auto& [line, problem] : unreadable_) all.insert(problem);
  if (all.empty()) return {};
  const std::string head = "unable to read config ";
  std::string text;
  std::size_t told = 0;
  for (const auto& [at, reason] : all) {
    if (told++ == kProblemsMax) {
      text += "\n" + head + escape(path) + ": " + std::to_string(all.size() - kProblemsMax) +
              " more errors";
      break;
    }
    text += (text.empty() ? "" : "\n") + head + place_text(path, at) + ": " + reason;
  }
  return fail(Errc::kInvalid, text);
}

std::string place_text(const std::string& path, Position at) {
  std::string text = escape(path);
  if (at.line != 0) text += ":" + std::to_string(at.line);
  if (at.line != 0 && at.column != 0) text += ":" + std::to_string(at.column);
  return text;
}

std::string listed(const std::vector<std::string_view>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i != 0) text += i + 1 == names.size() ? " and " : ", ";
    text += names[i];
  }
  return text;
}

std::string as_reason(std::string text) {
  constexpr std::string_view kUnable = "unable to ";
  if (text.starts_with(kUnable)) text.replace(0, kUnable.size(), "cannot ");
  return text;
}

}  // namespace modelpool::config
