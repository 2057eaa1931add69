#include "protocol/outlook.hpp"

#include <array>

#include "policy/fit.hpp"
#include "protocol/slots.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

struct Scratch {
  std::vector<Resident> residents;
  std::vector<Waiting> waiting;
  std::array<Waiting, kLineWidth> heads;
};
Scratch& scratch() {
  thread_local Scratch scratch;
  return scratch;
}

// What admission asks of a backend; leases and times are the judge's to look at.
void read_residents(const Segment& segment, std::vector<Resident>* residents) {
  residents->clear();
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    const StateWord state = load_state(segment, i);
    if (!is_live(state.state)) continue;
    Resident resident;
    resident.ref = {i, state.generation};
    resident.state = state.state;
    resident.control = load_control(segment, resident.ref);
    // acquire: written before the state that this generation began with
    resident.model = segment.backend(i).model_hash.load(std::memory_order_acquire);
    resident.overdue = state.state == BackendState::kStopping && resident.model == kHashOverdue;
    residents->push_back(resident);
  }
}

void read_waiting(const Segment& segment, std::vector<Waiting>* waiting) {
  waiting->clear();
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    const WaiterRecord& row = segment.waiter(i);
    const std::uint64_t state = row.state.load(std::memory_order_seq_cst);
    if (low_half(state) != static_cast<std::uint32_t>(WaiterState::kWaiting)) continue;
    Waiting waiter;
    waiter.row = i;
    waiter.arrival = row.arrival.load(std::memory_order_acquire);
    waiter.deadline_ns = row.deadline_ns.load(std::memory_order_acquire);
    waiter.looked_ns = row.looked_ns.load(std::memory_order_acquire);
    waiter.model = row.model_hash.load(std::memory_order_acquire);
    waiting->push_back(waiter);
  }
}

}  // namespace

std::uint32_t Outlook::places() const {
  const std::uint32_t places = places_now(residents, limits);
  return places == kPlacesUnlimited ? places : std::min(places, kLineWidth);
}

void prepare_outlook(const Segment& segment) {
  scratch().residents.reserve(segment.capacities().backends);
  scratch().waiting.reserve(segment.capacities().waiters);
}

Outlook read_outlook(const Segment& segment, std::uint64_t now_ns) {
  Scratch& s = scratch();
  read_residents(segment, &s.residents);
  read_waiting(segment, &s.waiting);
  const std::size_t heads = find_heads(s.waiting, s.residents, now_ns, s.heads);
  Outlook outlook;
  outlook.residents = s.residents;
  outlook.heads = std::span(s.heads).first(heads);
  const std::uint64_t generation = read_settings(segment, [&](const SettingsView& settings) {
    outlook.limits.max_backends = static_cast<std::uint32_t>(settings.get(Setting::kMaxBackends));
    outlook.unknown_settings = settings.unknown_to_workers();
  });
  outlook.has_settings = generation != 0;
  return outlook;
}

std::optional<std::uint64_t> keep_alive_of(std::uint32_t packed) {
  if (packed == 0) return std::nullopt;
  return keep_alive_ns(packed);
}

Resident resident_of(const BackendView& backend) {
  Resident resident;
  resident.ref = backend.ref;
  resident.state = backend.state.state;
  resident.overdue = backend.overdue;
  // As the settings are now, not as the coordinator last noted.
  resident.control = backend.control & ~kControlPinnedBySettings;
  if (backend.pinned_by_settings()) resident.control |= kControlPinnedBySettings;
  resident.in_flight = backend.in_flight;
  resident.model = hash_name(backend.model);
  resident.reserved_ns = backend.reserved_ns;
  resident.ready_ns = backend.ready_ns;
  resident.last_used_ns = backend.last_used_ns;
  resident.newest_start_ns = backend.newest_start_ns;
  resident.drain_failed_ns = backend.drain_failed_ns;
  resident.keep_alive_ns = keep_alive_of(backend.keep_alive);
  return resident;
}

Waiting waiting_of(const WaiterView& waiter) {
  Waiting waiting;
  waiting.arrival = waiter.arrival;
  waiting.deadline_ns = waiter.deadline_ns;
  waiting.looked_ns = waiter.looked_ns;
  waiting.model = hash_name(waiter.model);
  waiting.row = waiter.row;
  return waiting;
}

}  // namespace modelpool
