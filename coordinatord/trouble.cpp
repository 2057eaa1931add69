#include "trouble.hpp"

#include <spdlog/spdlog.h>

#include "base/time.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kAgainAfter_ns = 60 * kSecond_ns;

}  // namespace

std::optional<std::string> Troubles::line(std::string_view cause, const std::string& text,
                                          std::uint64_t now_ns) {
  const std::lock_guard lock(mutex_);
  Said& said = said_.try_emplace(std::string(cause)).first->second;
  if (now_ns < said.next_ns) {
    ++said.left_out;
    return std::nullopt;
  }
  const std::uint64_t left_out = said.left_out;
  said = {now_ns + kAgainAfter_ns, 0};
  if (left_out == 0) return text;
  return text + " (and " + std::to_string(left_out) + " times since this was last logged)";
}

void warn_of(std::string_view cause, const std::string& text) {
  static Troubles troubles;
  if (const auto line = troubles.line(cause, text, now_ns())) spdlog::warn("{}", *line);
}

}  // namespace modelpool::coordinator
