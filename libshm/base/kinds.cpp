#include "base/kinds.hpp"

#include <array>

#include "modelpool/settings.hpp"

namespace modelpool {
namespace {

constexpr std::array<std::string_view, kEventKindCount> kEventKindNames = {
    "unknown",          "loaded",    "load_failed",      "evicted",
    "killed",           "exited",    "worker_died",      "coordinator_started",
    "settings_changed", "recovered", "cancel_requested", "probe_failed",
};
constexpr std::array<std::string_view, kReasonCount> kReasonNames = {
    "",         "lru",        "idle",         "group",      "memory",
    "busy",     "stall",      "load_timeout", "requested",  "crashed",
    "shutdown", "first_byte", "wedged",       "over_limit",
};
constexpr std::array<std::string_view, kBackendStateCount> kBackendStateNames = {
    "free", "reserved", "starting", "ready", "evicting", "stopping", "gone",
};
constexpr std::array<std::string_view, kLeftWhyCount> kLeftWhyTexts = {
    "",
    "not signalled yet",
    "signalled, but has not ended",
    "the system refuses to signal it",
    "belongs to another user, and nothing proves that spawn started it",
    "is a worker of the pool",
    "is the coordinator, or started it",
    "its group or session may be somebody else's by now",
    "cannot be examined",
    "listens at the backend's address, but is not known to belong to it",
    "has not ended since an earlier coordinator signalled its backend",
};

// The names stand in the order of the enumerations.
static_assert(kEventKindNames[static_cast<std::size_t>(EventKind::kProbeFailed)] == "probe_failed");
static_assert(kLeftWhyTexts[static_cast<std::size_t>(LeftWhy::kOutlived)].ends_with("its backend"));
static_assert(kReasonNames[static_cast<std::size_t>(Reason::kOverLimit)] == "over_limit");
static_assert(kBackendStateNames[static_cast<std::size_t>(BackendState::kGone)] == "gone");

template <class Value, std::size_t Count>
std::string_view name_of(Value value, const std::array<std::string_view, Count>& names) {
  const auto index = static_cast<std::size_t>(value);
  return index < Count ? names[index] : "unknown";  // bytes of the segment
}

}  // namespace

std::string_view event_kind_name(EventKind kind) { return name_of(kind, kEventKindNames); }

bool is_warning(EventKind kind) {
  return kind == EventKind::kKilled || kind == EventKind::kLoadFailed ||
         kind == EventKind::kWorkerDied || kind == EventKind::kCancelRequested ||
         kind == EventKind::kProbeFailed;
}

std::string reason_name(Reason reason) {
  const auto number = static_cast<std::uint32_t>(reason);
  if (number >= kReasonCount) return "reason " + std::to_string(number);
  return std::string(kReasonNames[number]);
}

std::string_view backend_state_name(BackendState state) {
  return name_of(state, kBackendStateNames);
}

std::string_view left_why_text(LeftWhy why) { return name_of(why, kLeftWhyTexts); }

std::string exit_text(std::uint32_t packed) {
  const std::uint32_t status = packed & 0xffff;
  switch (static_cast<ExitKind>(packed >> 16)) {
    case ExitKind::kExited:
      return "exit status " + std::to_string(status);
    case ExitKind::kSignalled:
      // Signals without a name read "signal 99" already.
      if (std::string name = signal_text(static_cast<int>(status)); name.starts_with("SIG")) {
        return "signal " + name;
      } else {
        return name;
      }
    case ExitKind::kUnknown:
      break;
  }
  return {};
}

}  // namespace modelpool
