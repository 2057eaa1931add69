#include "worker/refusals.hpp"

#include <algorithm>
#include <vector>

#include "config/nearest.hpp"

namespace modelpool::serve {
namespace {

// Where nothing has been learned.
constexpr std::uint64_t kLoadGuess_ms = 10'000;
constexpr std::size_t kNamesMax = 5;

unsigned in_seconds(std::uint64_t ms) {
  return static_cast<unsigned>(std::clamp<std::uint64_t>((ms + 999) / 1000, 1, 3600));
}

int status_of(Errc code) {
  switch (code) {
    case Errc::kTimeout:
      return 504;
    case Errc::kQueueFull:
      return 429;
    case Errc::kInvalid:
      return 400;
    case Errc::kNotLoaded:
      return 404;
    case Errc::kLeaseLost:
      return 502;
    case Errc::kTableFull:
    case Errc::kAllPinned:
    case Errc::kCoolingDown:
    case Errc::kLoadFailed:
    case Errc::kNoCoordinator:
    case Errc::kNoSuchPool:
    case Errc::kIncompatible:
    case Errc::kTicketLost:
    case Errc::kClosed:
    case Errc::kReplaced:
    case Errc::kCancelled:
    case Errc::kPermission:
    case Errc::kBusy:
    case Errc::kSpawnFailed:
    case Errc::kSystem:
    case Errc::kTooLarge:
      return 503;
  }
  return 503;
}

}  // namespace

std::uint64_t learned_load_ms(Pool& pool, const std::string& model) {
  const auto seen = pool.look(model);
  return seen && seen->history ? seen->history->load_ms.value_or(0) : 0;
}

Refusal refusal_of(const Error& error, std::uint64_t load_ms) {
  Refusal refusal;
  refusal.status = status_of(error.code);
  refusal.type = refusal.status == 429   ? "rate_limit_error"
                 : refusal.status >= 500 ? "server_error"
                                         : "invalid_request_error";
  refusal.code = errc_name(error.code);
  refusal.message = error.text;
  if (error.retry_after_ns > 0) {
    refusal.retry_after_s = in_seconds(error.retry_after_ns / 1'000'000);
  } else if (error.code == Errc::kQueueFull || error.code == Errc::kTableFull) {
    refusal.retry_after_s = in_seconds(load_ms > 0 ? load_ms : kLoadGuess_ms);
  }
  return refusal;
}

Refusal no_such_model(std::string_view name, const config::Door& door) {
  std::vector<std::pair<std::size_t, std::string_view>> near;
  const auto add = [&](const std::string& known) {
    const bool is_part = known.find(name) != std::string::npos && !name.empty();
    const std::size_t far = edit_distance(name.substr(0, 255), known);
    if (is_part || far <= std::max<std::size_t>(2, known.size() / 3))
      near.emplace_back(is_part ? 0 : far, known);
  };
  for (const config::Model& model : door.models) {
    add(model.name);
    for (const std::string& alias : model.aliases) add(alias);
  }
  std::sort(near.begin(), near.end());
  std::string text = "there is no model \"" + std::string(name.substr(0, 255)) + "\"; ";
  if (near.empty()) {
    text += "GET /v1/models lists those there are";
  } else {
    text += "did you mean ";
    for (std::size_t i = 0; i < std::min(near.size(), kNamesMax); ++i)
      text += (i == 0 ? "\"" : ", \"") + std::string(near[i].second) + "\"";
    text += "?";
  }
  return refuse(404, "model_not_found", std::move(text)).value();
}

}  // namespace modelpool::serve
