#include "modelpool/result.hpp"

#include <cstring>

namespace modelpool {

std::string_view errc_name(Errc code) {
  switch (code) {
    case Errc::kTimeout:
      return "timeout";
    case Errc::kQueueFull:
      return "queue_full";
    case Errc::kTableFull:
      return "table_full";
    case Errc::kAllPinned:
      return "all_pinned";
    case Errc::kCoolingDown:
      return "cooling_down";
    case Errc::kLoadFailed:
      return "load_failed";
    case Errc::kNoCoordinator:
      return "no_coordinator";
    case Errc::kNoSuchPool:
      return "no_such_pool";
    case Errc::kIncompatible:
      return "incompatible";
    case Errc::kNotLoaded:
      return "not_loaded";
    case Errc::kTicketLost:
      return "ticket_lost";
    case Errc::kLeaseLost:
      return "lease_lost";
    case Errc::kInvalid:
      return "invalid";
    case Errc::kClosed:
      return "closed";
    case Errc::kReplaced:
      return "replaced";
    case Errc::kCancelled:
      return "cancelled";
    case Errc::kPermission:
      return "permission";
    case Errc::kBusy:
      return "busy";
    case Errc::kSpawnFailed:
      return "spawn_failed";
    case Errc::kSystem:
      return "system";
    case Errc::kTooLarge:
      return "too_large";
  }
  return "unknown";  // a code that came through the C interface
}

tl::unexpected<Error> fail_errno(int error, std::string_view what, std::string_view advice) {
  std::string text = "unable to ";
  text += what;
  text += ": ";
  // strerror shares a buffer between threads; this one returns constants, null for unknown numbers.
  if (const char* reason = strerrordesc_np(error)) {
    text += reason;
  } else {
    text += "error " + std::to_string(error);
  }
  if (!advice.empty()) {
    text += "; ";
    text += advice;
  }
  return tl::unexpected<Error>(Error{Errc::kSystem, std::move(text), error, 0});
}

}  // namespace modelpool
