#include "policy/pressure.hpp"

#include <algorithm>

namespace modelpool {
namespace {

// Has what is left risen by a quarter of what it held? Of an unknown size any rise will do.
bool has_helped(const PressureTrial& trial, std::uint64_t available_bytes) {
  const std::uint64_t rise = std::max<std::uint64_t>(trial.held_bytes / 4, 1);
  return available_bytes >= add_ns(trial.available_bytes, rise);
}

bool may_go(const Holding& holding, std::uint64_t now_ns) {
  const Resident& resident = holding.resident;
  return holding.role == Holding::Role::kCandidate && resident.state == BackendState::kReady &&
         resident.in_flight == 0 && !resident.external && holding.awaited_arrival == kNever_ns &&
         add_ns(resident.ready_ns, holding.min_resident_ns) <= now_ns;
}

}  // namespace

bool is_low(std::uint64_t available_bytes, std::uint64_t min_bytes, bool was_low) {
  return available_bytes < (was_low ? add_ns(min_bytes, min_bytes / 10) : min_bytes);
}

PressureStep judge_pressure(const Pressure& pressure, const PressureLook& look) {
  PressureStep step;
  if (look.min_bytes == 0) return step;
  step.next = pressure;
  Pressure& next = step.next;
  next.is_low = is_low(look.available_bytes, look.min_bytes, pressure.is_low);
  if (next.trial) {
    if (next.trial->gone_ns == kNever_ns) return step;  // its end is told
    const std::uint64_t measured_ns = add_ns(next.trial->gone_ns, kPressureRise_ns);
    if (look.now_ns < measured_ns) {
      step.look_ns = measured_ns;
      return step;
    }
    step.was_in_vain = !has_helped(*next.trial, look.available_bytes);
    next.trial.reset();
    next.pause_ns = !step.was_in_vain ? 0
                                      : std::clamp(add_ns(next.pause_ns, next.pause_ns),
                                                   kPressurePause_ns, kPressurePauseMax_ns);
    next.until_ns = step.was_in_vain ? add_ns(look.now_ns, next.pause_ns) : 0;
  }
  if (look.now_ns < next.until_ns) {
    step.look_ns = next.until_ns;
    return step;
  }
  next.until_ns = 0;
  if (!next.is_low) next.pause_ns = 0;
  step.may_evict = next.is_low;
  step.look_ns = add_ns(look.now_ns, kPressureLook_ns);
  return step;
}

std::optional<std::size_t> find_pressure_victim(std::span<const Holding> holdings,
                                                const Order& order) {
  std::optional<std::size_t> victim;
  for (std::size_t i = 0; i < holdings.size(); ++i) {
    if (holdings[i].role == Holding::Role::kLeaving) return std::nullopt;
    if (!may_go(holdings[i], order.now_ns)) continue;
    if (!victim || order.goes_before(holdings[i].resident, holdings[*victim].resident)) victim = i;
  }
  return victim;
}

}  // namespace modelpool
