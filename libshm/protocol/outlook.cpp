#include "protocol/outlook.hpp"

#include "policy/fit.hpp"
#include "protocol/local_rules.hpp"
#include "protocol/slots.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

struct Scratch {
  std::vector<Resident> residents;
  std::vector<Waiting> waiting;
  std::vector<Waiting> heads;
  std::vector<std::uint64_t> seen;        // by find_heads
  std::vector<std::uint64_t> own_groups;  // of tenants, and of those that wait to be one
  LocalRules rules;
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
  limits.max_loads = static_cast<std::uint32_t>(settings.get(Setting::kMaxLoads));
  return limits;
}

struct Sizes {
  std::uint64_t expected;
  std::uint64_t declared;
  std::uint64_t measured;
  std::uint64_t peak;  // 0 until it was measured after its load
  bool guessed;        // expected is

  std::uint64_t known() const { return std::max(declared, peak); }
  // A guess stands until its load is over: what was measured before is a part of what it will take.
  std::uint64_t held() const {
    const std::uint64_t seen = std::max(known(), measured);
    return guessed && known() != 0 ? seen : std::max(seen, expected);
  }
};
// Of the host, and of the devices it is on.
template <class SizesOf>
void take_sizes(Resident* resident, SizesOf sizes_of) {
  const Sizes host = sizes_of(kDevicesMax);
  resident->size_known = !host.guessed || host.known() != 0;
  resident->holds = Amounts(1, host.held());
  for (std::uint32_t d = 0; d < kDevicesMax; ++d) {
    if ((resident->devices >> d & 1) == 0) continue;
    const Sizes sizes = sizes_of(d);
    resident->device_size_known &= !sizes.guessed || sizes.known() != 0;
    resident->holds.set_bytes(index_of_device(d), sizes.held());
  }
}
void take_load(Resident* resident) {
  resident->holds.set(index_of(Resource::kLoads), resident->loading() ? 1 : 0);
}

// acquire, all: expected was written before RESERVED, declared before READY
void read_size(const BackendRecord& record, Resident* resident) {
  const std::uint32_t flags = record.size_flags.load(std::memory_order_acquire);
  resident->devices = record.devices.load(std::memory_order_acquire);
  const auto of = [](const SharedBytes& bytes, std::size_t at) {
    return (at < kDevicesMax ? bytes.device[at] : bytes.host).load(std::memory_order_acquire);
  };
  take_sizes(resident, [&](std::size_t at) {
    const bool guessed =
        (flags & (at < kDevicesMax ? kBackendDeviceSizeUnknown : kBackendSizeUnknown)) != 0;
    return Sizes{of(record.expected, at), of(record.declared, at), of(record.measured, at),
                 of(record.peak, at), guessed};
  });
}

// Its own, or its model's where models have any. Its own lies in a vector that never grows here.
std::span<const std::uint64_t> groups_of(std::uint64_t own_group, std::uint64_t model,
                                         const LocalRules* rules,
                                         std::vector<std::uint64_t>* own_groups,
                                         bool* is_complete) {
  if (own_group != 0 && own_groups->size() < own_groups->capacity()) {
    own_groups->push_back(own_group);
    return std::span(own_groups->end() - 1, 1);
  }
  if (rules == nullptr) return {};
  const auto* const groups = rules->groups_of(model);
  *is_complete &= groups != nullptr;
  return groups == nullptr ? std::span<const std::uint64_t>() : *groups;
}

// What admission asks of a backend; leases and times are the judge's to look at.
void read_residents(const Segment& segment, bool with_sizes, const LocalRules* rules,
                    std::vector<Resident>* residents, std::vector<std::uint64_t>* own_groups,
                    bool* is_complete) {
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
    take_load(&resident);
    if (!resident.overdue) {
      resident.groups = groups_of(segment.backend(i).own_group.load(state.generation),
                                  resident.model, rules, own_groups, is_complete);
    }
    residents->push_back(resident);
  }
}

void take_need(Waiting* waiting, const Need& need) {
  waiting->takes = Amounts(need.places, need.bytes.host);
  waiting->takes.set(index_of(Resource::kLoads), 1);
  waiting->size_known = (need.flags & kNeedSizeUnknown) == 0;
  waiting->device_size_known = (need.flags & kNeedDeviceSizeUnknown) == 0;
  waiting->devices.count = std::min<std::uint32_t>(need.devices, kDevicesMax);
  waiting->devices.which = need.which_devices & ((1u << kDevicesMax) - 1);
  waiting->devices.bytes = need.bytes.device;
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

void prepare_outlook(const Segment& segment, std::string_view model) {
  scratch().residents.reserve(segment.capacities().backends);
  scratch().waiting.reserve(segment.capacities().waiters);
  scratch().heads.reserve(segment.capacities().waiters);
  scratch().seen.resize(seen_for(segment.capacities().waiters));
  scratch().own_groups.reserve(segment.capacities().backends + segment.capacities().waiters);
  scratch().rules.prepare(segment, model);
}

std::span<const std::uint64_t> prepared_groups(std::uint64_t model) {
  const auto* const groups = scratch().rules.groups_of(model);
  return groups == nullptr ? std::span<const std::uint64_t>() : *groups;
}

Waiting waiting_for(const Need& need) {
  Waiting waiting;
  take_need(&waiting, need);
  return waiting;
}

Outlook read_outlook(const Segment& segment, std::uint64_t now_ns) {
  Scratch& s = scratch();
  Outlook outlook;
  const std::uint64_t generation = read_settings(segment, [&](const SettingsView& settings) {
    outlook.limits = limits_of(settings);
    outlook.unknown_settings = settings.unknown_to_workers();
  });
  outlook.has_settings = generation != 0;
  outlook.is_complete = s.rules.is_of(segment, generation) || generation == 0;
  outlook.limits.devices = s.rules.devices().devices;
  outlook.limits.device = s.rules.devices().device;
  const bool with_sizes = outlook.limits.max_memory != 0 || outlook.limits.devices != 0;
  const LocalRules* const with_groups =
      outlook.is_complete && s.rules.has_groups() ? &s.rules : nullptr;
  s.own_groups.clear();
  read_residents(segment, with_sizes, with_groups, &s.residents, &s.own_groups,
                 &outlook.is_complete);
  read_waiting(segment, &s.waiting);
  s.heads.resize(s.waiting.size());  // allocates nothing: the row is one of so many
  const std::size_t heads = find_heads(s.waiting, s.residents, now_ns, s.heads, s.seen);
  outlook.residents = s.residents;
  for (Waiting& head : std::span(s.heads).first(heads)) {
    const WaiterRecord& row = segment.waiter(head.row);
    if (with_sizes) {
      take_need(&head, row.need.load());
      head.promised = promised_devices(row.room.load(std::memory_order_acquire), head.arrival);
    }
    head.takes.set(index_of(Resource::kLoads), 1);
    head.groups = groups_of(row.own_group.load(head.arrival), head.model, with_groups,
                            &s.own_groups, &outlook.is_complete);
  }
  outlook.heads = std::span(s.heads).first(heads);
  return outlook;
}

void take_measured(Resident* resident, const Bytes& measured) {
  resident->measured = Amounts(0, measured.host);
  for (std::uint32_t d = 0; d < kDevicesMax; ++d)
    resident->measured.set_bytes(index_of_device(d), measured.device[d]);
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
  resident.devices = backend.devices;
  resident.groups = backend.groups;
  const auto of = [](const Bytes& bytes, std::size_t at) {
    return at < kDevicesMax ? bytes.device[at] : bytes.host;
  };
  take_sizes(&resident, [&](std::size_t at) {
    return Sizes{of(backend.expected, at), of(backend.declared, at), of(backend.measured, at),
                 of(backend.peak, at),
                 at < kDevicesMax ? backend.device_size_unknown : backend.size_unknown};
  });
  take_load(&resident);
  take_measured(&resident, backend.measured);
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
  waiting.promised = waiter.room_devices;
  waiting.groups = waiter.groups;
  take_need(&waiting, waiter.need);
  return waiting;
}

Limits limits_of(const Snapshot& snapshot) {
  Limits limits;
  limits.max_backends = snapshot.max_backends();
  limits.keep = snapshot.keep();
  if (!snapshot.settings) return limits;
  limits.max_memory = snapshot.settings->get(Setting::kMaxMemory);
  limits.max_loads = static_cast<std::uint32_t>(snapshot.settings->get(Setting::kMaxLoads));
  limits.devices = snapshot.device_limits.devices;
  limits.device = snapshot.device_limits.device;
  return limits;
}

Limits limits_of(const Segment& segment) {
  Limits limits;
  read_settings(segment, [&](const SettingsView& settings) { limits = limits_of(settings); });
  read_device_limits(segment, read_pool_settings(segment).text(Setting::kGpuMemory), &limits);
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
