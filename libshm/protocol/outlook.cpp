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

Limits limits_of(const SettingsView& settings) {
  Limits limits;
  limits.max_backends = static_cast<std::uint32_t>(settings.get(Setting::kMaxBackends));
  limits.max_memory = settings.get(Setting::kMaxMemory);
  limits.keep = static_cast<std::uint32_t>(settings.get(Setting::kKeep));
  return limits;
}

struct Sizes {
  std::uint64_t expected;
  std::uint64_t declared;
  std::uint64_t measured;
  std::uint64_t peak;  // 0 until it was measured after its load
  bool guessed;        // expected is
};
// A guess stands until its load is over: what was measured before is a part of what it will take.
void take_size(Resident* resident, const Sizes& sizes) {
  const std::uint64_t known = std::max(sizes.declared, sizes.peak);
  const bool is_guess = sizes.guessed && known == 0;
  const std::uint64_t seen = std::max(known, sizes.measured);
  resident->size_known = !is_guess;
  resident->holds = Amounts(1, sizes.guessed && !is_guess ? seen : std::max(seen, sizes.expected));
  resident->measured = Amounts(0, sizes.measured);
}

// acquire, all: expected was written before RESERVED, declared before READY
void read_size(const BackendRecord& record, Resident* resident) {
  const std::uint64_t declared = record.declared.host.load(std::memory_order_acquire);
  const std::uint64_t measured = record.measured.host.load(std::memory_order_acquire);
  const std::uint64_t peak = record.peak.host.load(std::memory_order_acquire);
  const std::uint64_t expected = record.expected.host.load(std::memory_order_acquire);
  const bool guessed = record.size_flags.load(std::memory_order_acquire) & kBackendSizeUnknown;
  take_size(resident, {expected, declared, measured, peak, guessed});
}

// What admission asks of a backend; leases and times are the judge's to look at.
void read_residents(const Segment& segment, bool with_sizes, std::vector<Resident>* residents) {
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
    if (with_sizes) read_size(segment.backend(i), &resident);
    residents->push_back(resident);
  }
}

void take_need(Waiting* waiting, const Need& need) {
  waiting->takes = Amounts(need.places, need.bytes.host);
  waiting->size_known = (need.flags & kNeedSizeUnknown) == 0;
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

void prepare_outlook(const Segment& segment) {
  scratch().residents.reserve(segment.capacities().backends);
  scratch().waiting.reserve(segment.capacities().waiters);
}

Outlook read_outlook(const Segment& segment, std::uint64_t now_ns) {
  Scratch& s = scratch();
  Outlook outlook;
  const std::uint64_t generation = read_settings(segment, [&](const SettingsView& settings) {
    outlook.limits = limits_of(settings);
    outlook.unknown_settings = settings.unknown_to_workers();
  });
  outlook.has_settings = generation != 0;
  const bool with_sizes = outlook.limits.max_memory != 0;
  read_residents(segment, with_sizes, &s.residents);
  read_waiting(segment, &s.waiting);
  const std::size_t heads = find_heads(s.waiting, s.residents, now_ns, s.heads);
  outlook.residents = s.residents;
  for (Waiting& head : std::span(s.heads).first(heads)) {
    if (with_sizes) take_need(&head, segment.waiter(head.row).need.load());
  }
  outlook.heads = std::span(s.heads).first(heads);
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
  resident.external = backend.external();
  resident.load_ns = resident.external ? 0 : age_ns(backend.ready_ns, backend.reserved_ns);
  resident.interval_ns = backend.interval_ns;
  resident.size_bytes = backend.size_bytes;
  take_size(&resident, {backend.expected.host, backend.declared.host, backend.measured.host,
                        backend.peak.host, backend.size_unknown});
  resident.priority = backend.settings().get(Setting::kPriority);
  return resident;
}

std::vector<Resident> residents_of(const Snapshot& snapshot) {
  std::vector<Resident> residents;
  residents.reserve(snapshot.backends.size());
  for (const BackendView& backend : snapshot.backends) residents.push_back(resident_of(backend));
  assume_usual_loads(residents);
  return residents;
}

LeaseInFlight lease_in_flight(const LeaseView& lease) {
  LeaseInFlight in_flight;
  in_flight.start_ns = lease.start_ns;
  in_flight.progress_ns = lease.progress_ns;
  in_flight.limit_ns = lease.limit_ns;
  in_flight.progressed = lease.progressed;
  in_flight.cancellable = lease.cancellable();
  if (lease.cancelled() && lease.cancel_at_ns != kNever_ns) in_flight.asked_ns = lease.cancel_at_ns;
  return in_flight;
}

Waiting waiting_of(const WaiterView& waiter) {
  Waiting waiting;
  waiting.arrival = waiter.arrival;
  waiting.deadline_ns = waiter.deadline_ns;
  waiting.looked_ns = waiter.looked_ns;
  waiting.model = hash_name(waiter.model);
  waiting.row = waiter.row;
  waiting.model_since_ns = waiter.model_since_ns;
  waiting.load_ns = waiter.load_ns;
  take_need(&waiting, waiter.need);
  return waiting;
}

Limits limits_of(const Snapshot& snapshot) {
  Limits limits;
  limits.max_backends = snapshot.max_backends();
  if (snapshot.settings) limits.max_memory = snapshot.settings->get(Setting::kMaxMemory);
  limits.keep = snapshot.keep();
  return limits;
}

Limits limits_of(const Segment& segment) {
  Limits limits;
  read_settings(segment, [&](const SettingsView& settings) { limits = limits_of(settings); });
  return limits;
}

RoomRules room_rules(const Snapshot& snapshot, std::uint64_t now_ns) {
  RoomRules rules;
  rules.limits = limits_of(snapshot);
  rules.order.now_ns = now_ns;
  if (!snapshot.settings) return rules;
  rules.order.by = static_cast<Eviction>(snapshot.settings->get(Setting::kEviction));
  rules.collect_ns = snapshot.settings->get(Setting::kCollect);
  return rules;
}

}  // namespace modelpool
