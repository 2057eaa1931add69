#include "policy/belonging.hpp"

namespace modelpool {
namespace {

constexpr Certainty kItDoes{Belongs::kYes, LeftWhy::kNone, kNever_ns};
constexpr Certainty kItDoesNot{Belongs::kNo, LeftWhy::kNone, kNever_ns};

// By the number of its group or session. A number is not used again while anyone is in the group or
// session of that number; but once all have gone it may be anybody's.
Certainty by_number(const BackendFacts& backend, const ProcessFacts& process, NumberOwner owner) {
  switch (owner) {
    case NumberOwner::kBackend:
      return kItDoes;
    case NumberOwner::kAnother:
      return kItDoesNot;
    case NumberOwner::kUnknown:
      break;
  }
  // It was there while the number was the backend's. Not later than the same tick: no number is
  // given again within one, because all others are given before.
  if (process.start_ticks <= backend.alive_ticks) return kItDoes;
  return {Belongs::kUnknown, LeftWhy::kUnproved, kNever_ns};
}

}  // namespace

Certainty certainty_of(const BackendFacts& backend, const ProcessFacts& process,
                       std::uint64_t now_ns) {
  if (process.has_ended || process.is_spared) return kItDoesNot;
  if (process.is_known || process.is_in_cgroup) return kItDoes;
  if (process.is_child_of_member || process.is_in_their_session) return kItDoes;
  // Who is older can neither be in its session nor carry its token.
  const bool is_older = process.start_ticks < backend.start_ticks;
  if (!is_older && process.token == TokenSeen::kYes) return kItDoes;
  if (backend.group != 0 && process.group == backend.group) {
    return by_number(backend, process, backend.group_number);
  }
  if (is_older) return kItDoesNot;
  if (backend.group != 0 && process.session == backend.group) {
    return by_number(backend, process, backend.session_number);
  }
  if (!process.is_readable) {
    return {Belongs::kUnknown, LeftWhy::kUnreadable, add_ns(now_ns, kUnreadableRetry_ns)};
  }
  const std::uint64_t told_ns = add_ns(process.hidden_since_ns, kExecMax_ns);
  if (process.token == TokenSeen::kHidden && now_ns < told_ns) {
    return {Belongs::kUnknown, LeftWhy::kUnreadable, told_ns};
  }
  return kItDoesNot;
}

}  // namespace modelpool
