#include "protocol/slots.hpp"

#include <algorithm>
#include <cstdio>

#include "base/duration.hpp"
#include "base/time.hpp"
#include "modelpool/pool.hpp"
#include "protocol/parallel.hpp"
#include "segment/meters.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

// One arrow of the diagram in slots.hpp. seq_cst: leases validate against this word.
bool move(const Segment& segment, std::uint32_t backend, StateWord from, StateWord to) {
  Word& word = segment.backend(backend).state;
  std::uint64_t expected = from.pack();
  if (word.compare_exchange_strong(expected, to.pack(), std::memory_order_seq_cst)) return true;
  // A damaged word reads as another: then it is the damaged one that has to be there.
  return StateWord::unpack(expected) == from &&
         word.compare_exchange_strong(expected, to.pack(), std::memory_order_seq_cst);
}

// Must a lease look at more than the state first, or is that not known?
bool must_count(const Segment& segment, BackendRef ref) {
  const std::uint64_t permit = segment.backend(ref.index).permit.load(std::memory_order_acquire);
  if (is_tenant(segment, ref)) return true;  // then nobody gets one in passing
  return known_parallel(segment, ref) != 0u || PermitWord::deadline_of(permit, ref.generation) != 0;
}

StateWord ready_state(BackendRef ref, bool counted) {
  return {ref.generation, counted ? StateWord::kCounted : 0, BackendState::kReady};
}

// Open to leases. Without the mutex, settings may just be published that count them.
StateWord opened_state(const Segment& segment, BackendRef ref, const LockGuard* lock) {
  return ready_state(ref, lock == nullptr || must_count(segment, ref));
}

tl::unexpected<Error> ticket_lost(const Segment& segment, BackendRef ref) {
  return fail(why_lost(segment, ref));
}

}  // namespace

Error why_lost(const Segment& segment, BackendRef ref) {
  const BackendRecord& record = segment.backend(ref.index);
  const StopRecord stop = record.stop.load();
  std::string why = "load_timeout passed, or the load was stopped";
  if (stop.generation == ref.generation) {
    why = reason_name(stop.reason);
    if (stop.limit_ns != kNever_ns) why += " after " + format_age(stop.limit_ns);
    if (const auto text = field_text(stop.text); !text.empty()) why += ": " + escape(text);
    const std::uint64_t exit = record.exit_status.load(std::memory_order_acquire);
    const std::string ended = high_half(exit) == ref.generation ? exit_text(low_half(exit)) : "";
    if (stop.reason == Reason::kCrashed && !ended.empty()) why += ", " + ended;
  }
  return {Errc::kTicketLost,
          "unable to load " + escape(record.model.load()) + ": the ticket was lost (" + why +
              "); acquire again",
          0, 0};
}

StateWord load_state(const Segment& segment, std::uint32_t backend) {
  return StateWord::unpack(segment.backend(backend).state.load(std::memory_order_seq_cst));
}

std::optional<FoundBackend> find_backend(const Segment& segment, std::string_view model,
                                         std::uint64_t hash) {
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    const BackendRecord& record = segment.backend(i);
    const StateWord state = load_state(segment, i);
    if (!is_live(state.state)) continue;
    // acquire: the name was written before the state that this generation began with
    if (record.model_hash.load(std::memory_order_acquire) != hash || !record.model.equals(model))
      continue;
    const StateWord again = load_state(segment, i);
    if (again.generation == state.generation && is_live(again.state)) {
      return FoundBackend{{i, again.generation}, again};
    }
  }
  return std::nullopt;
}

std::uint32_t count_live(const Segment& segment) {
  std::uint32_t live = 0;
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    live += is_live(load_state(segment, i).state);
  }
  return live;
}

std::uint32_t count_ready(const Segment& segment) {
  std::uint32_t ready = 0;
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    ready += load_state(segment, i).state == BackendState::kReady;
  }
  return ready;
}

std::optional<BackendRef> reserve(const Segment& segment, const LockGuard& guard, WorkerRef worker,
                                  std::string_view model, std::uint64_t now, const Need& need,
                                  std::uint64_t own_group) {
  const std::uint64_t hash = hash_name(model);
  for (std::uint32_t i = 0; i < segment.capacities().backends; ++i) {
    const StateWord state = load_state(segment, i);
    if (state.state != BackendState::kFree) continue;
    Segment::reach(segment.line().backends_reached, i);
    const std::uint32_t generation = std::max(1u, state.generation);
    BackendRecord& record = segment.backend(i);
    // release: nobody reads these before the state names the generation
    record.pid.store(0, std::memory_order_release);
    record.group.store(0, std::memory_order_release);
    record.start_ticks.store(0, std::memory_order_release);
    record.pidfd_inode.store(0, std::memory_order_release);
    record.control.store(pack_half(generation, 0), std::memory_order_release);
    record.exit_status.store(pack_half(generation, 0), std::memory_order_release);
    record.traits.store(pack_half(generation, 0), std::memory_order_release);
    record.reserved_ns.store(now, std::memory_order_release);
    record.started_ns.store(0, std::memory_order_release);
    record.ready_ns.store(0, std::memory_order_release);
    record.holder.store(pack_worker(worker), std::memory_order_release);
    record.device_mask.store(0, std::memory_order_release);
    record.meter_model.store(register_meter_model(segment, guard, model, hash),
                             std::memory_order_release);
    record.keep_alive.store(pack_half(generation, 0), std::memory_order_release);
    record.permit.store(0, std::memory_order_release);
    record.owner_pid.store(segment.worker(worker.index).pid.load(std::memory_order_acquire),
                           std::memory_order_release);
    record.model.store(model);
    record.address.store({});
    record.label.store({});
    record.log.store({});
    record.given.store(GivenSettings{});
    record.devices.store(need.devices == 0 ? 0 : need.which_devices, std::memory_order_release);
    const bool has_guess = (need.flags & kNeedSizeUnknown) != 0;
    const bool has_device_guess = (need.flags & kNeedDeviceSizeUnknown) != 0;
    record.size_flags.store(
        (has_guess ? kBackendSizeUnknown : 0) | (has_device_guess ? kBackendDeviceSizeUnknown : 0),
        std::memory_order_release);
    record.expected.store(need.bytes);
    record.declared.store({});
    record.parallel.store(pack_half(generation, 0), std::memory_order_release);
    record.parallel_of.store(0, std::memory_order_release);
    record.own_group.store(own_group, generation);
    record.measured.store({});
    record.peak.store({});
    record.probe_failures.store(pack_half(generation, 0), std::memory_order_release);
    record.model_hash.store(hash, std::memory_order_release);
    record.drain_failed_ns.store(0, std::memory_order_release);
    record.alive_ticks.store(0, std::memory_order_release);
    const BackendRef ref{i, generation};
    if (move(segment, i, state, {generation, StateWord::owner_of(worker), BackendState::kReserved}))
      return ref;
  }
  return std::nullopt;
}

std::uint64_t load_holder(const Segment& segment, BackendRef ref) {
  // acquire: written before the RESERVED of its generation, and not again until the next
  const std::uint64_t holder = segment.backend(ref.index).holder.load(std::memory_order_acquire);
  const StateWord state = load_state(segment, ref.index);
  const bool is_its_life = state.generation == ref.generation && state.state != BackendState::kFree;
  return is_its_life ? holder : 0;
}

Result<> record_start(const Segment& segment, BackendRef ref, std::uint32_t owner,
                      const Started& started) {
  BackendRecord& record = segment.backend(ref.index);
  if (load_state(segment, ref.index) != StateWord{ref.generation, owner, BackendState::kReserved}) {
    return ticket_lost(segment, ref);  // what was registered before stays as it is
  }
  record.log.store(started.log);
  record.pid.store(static_cast<std::uint32_t>(started.process.pid), std::memory_order_release);
  record.group.store(static_cast<std::uint32_t>(started.group), std::memory_order_release);
  record.start_ticks.store(started.process.start_ticks, std::memory_order_release);
  record.pidfd_inode.store(started.process.pidfd_inode, std::memory_order_release);
  const std::uint32_t traits =
      (started.has_token ? kTraitToken : 0) | (started.in_session ? kTraitInSession : 0);
  record.traits.store(pack_half(ref.generation, traits), std::memory_order_release);
  record.started_ns.store(now_ns(), std::memory_order_release);
  if (!move(segment, ref.index, {ref.generation, owner, BackendState::kReserved},
            {ref.generation, owner, BackendState::kStarting})) {
    return ticket_lost(segment, ref);
  }
  return {};
}

Result<> forget_start(const Segment& segment, BackendRef ref, std::uint32_t owner) {
  if (!move(segment, ref.index, {ref.generation, owner, BackendState::kStarting},
            {ref.generation, owner, BackendState::kReserved})) {
    return ticket_lost(segment, ref);
  }
  return {};
}

Result<> publish_ready(const Segment& segment, BackendRef ref, std::uint32_t owner,
                       std::string_view address, const ReadyOptions& options,
                       const LockGuard* lock) {
  BackendRecord& record = segment.backend(ref.index);
  const StateWord starting{ref.generation, owner, BackendState::kStarting};
  const StateWord reserved{ref.generation, owner, BackendState::kReserved};
  const StateWord now_state = load_state(segment, ref.index);
  if (now_state != starting && now_state != reserved) return ticket_lost(segment, ref);
  if (now_state == reserved && !options.external) {
    return fail(Errc::kInvalid, "unable to make " + escape(record.model.load()) +
                                    " ready: no process was started; spawn one, register it with "
                                    "started, or say external");
  }
  record.address.store(address);
  record.label.store(options.label);
  Bytes declared;
  declared.host = options.size_bytes;
  record.declared.store(declared);
  record.device_mask.store(options.device_mask, std::memory_order_release);
  record.given.store(pack_given(options.overrides));
  if (now_state == reserved) {
    record.traits.store(pack_half(ref.generation, kTraitExternal), std::memory_order_release);
  }
  record.ready_ns.store(now_ns(), std::memory_order_release);
  if (options.pinned) set_control(segment, ref, kControlPinned, 0);
  if (!move(segment, ref.index, now_state, opened_state(segment, ref, lock))) {
    return ticket_lost(segment, ref);
  }
  return {};
}

bool give_up(const Segment& segment, BackendRef ref, std::uint32_t owner) {
  for (StateWord seen = load_state(segment, ref.index);
       seen.generation == ref.generation && seen.owner == owner;
       seen = load_state(segment, ref.index)) {
    StateWord next = seen;
    next.owner = 0;
    switch (seen.state) {
      case BackendState::kReserved:
        next.state = BackendState::kGone;
        break;
      case BackendState::kStarting:
        next.state = BackendState::kStopping;
        break;
      case BackendState::kStopping:
      case BackendState::kGone:
        break;
      default:
        return false;  // in these states the owner field is not a worker
    }
    if (move(segment, ref.index, seen, next)) return next.state != seen.state;
  }
  return false;
}

bool set_control(const Segment& segment, BackendRef ref, std::uint32_t set, std::uint32_t clear) {
  Word& control = segment.backend(ref.index).control;
  std::uint64_t seen = control.load(std::memory_order_seq_cst);
  while (high_half(seen) == ref.generation) {
    // seq_cst: part of the evidence an eviction reads again
    const std::uint64_t next = pack_half(ref.generation, (low_half(seen) | set) & ~clear);
    if (control.compare_exchange_weak(seen, next, std::memory_order_seq_cst)) return true;
  }
  return false;
}

std::uint32_t load_control(const Segment& segment, BackendRef ref) {
  const std::uint64_t word = segment.backend(ref.index).control.load(std::memory_order_seq_cst);
  return high_half(word) == ref.generation ? low_half(word) : 0;
}

std::uint32_t load_keep_alive(const Segment& segment, BackendRef ref) {
  // acquire: with set_keep_alive. Whoever saw a lease ended sees what it had asked for before.
  const std::uint64_t word = segment.backend(ref.index).keep_alive.load(std::memory_order_acquire);
  return high_half(word) == ref.generation ? low_half(word) : 0;
}

bool set_keep_alive(const Segment& segment, BackendRef ref, std::uint32_t keep_alive) {
  if (keep_alive == 0) return false;
  Word& word = segment.backend(ref.index).keep_alive;
  std::uint64_t seen = word.load(std::memory_order_acquire);
  while (high_half(seen) == ref.generation && low_half(seen) != keep_alive) {
    // release: before the end of the caller's lease, or the READY of its load
    if (!word.compare_exchange_weak(seen, pack_half(ref.generation, keep_alive),
                                    std::memory_order_acq_rel, std::memory_order_acquire))
      continue;
    return low_half(seen) == 0 || keep_alive < low_half(seen);
  }
  return false;
}

bool is_tenant(const Segment& segment, BackendRef ref) {
  const std::uint64_t traits = segment.backend(ref.index).traits.load(std::memory_order_acquire);
  return high_half(traits) == ref.generation && (low_half(traits) & kTraitTenant) != 0;
}

void add_trait(const Segment& segment, BackendRef ref, std::uint32_t trait) {
  Word& traits = segment.backend(ref.index).traits;
  std::uint64_t seen = traits.load(std::memory_order_acquire);
  while (high_half(seen) == ref.generation &&
         !traits.compare_exchange_weak(seen, seen | trait, std::memory_order_acq_rel)) {
  }
}

void record_exit(const Segment& segment, BackendRef ref, std::uint32_t packed_exit) {
  std::uint64_t unknown = pack_half(ref.generation, 0);
  // release: read with acquire by the coordinator, after it saw the process gone
  segment.backend(ref.index).exit_status.compare_exchange_strong(
      unknown, pack_half(ref.generation, packed_exit), std::memory_order_release,
      std::memory_order_relaxed);
}

bool close_to_leases(const Segment& segment, BackendRef ref, std::uint32_t epoch) {
  const StateWord closed{ref.generation, StateWord::owner_of_epoch(epoch), BackendState::kEvicting};
  StateWord seen{ref.generation, 0, BackendState::kReady};
  do {
    if (move(segment, ref.index, seen, closed)) return true;
    seen = load_state(segment, ref.index);  // counted, perhaps
  } while (seen.generation == ref.generation && seen.state == BackendState::kReady);
  return false;
}

bool reopen(const Segment& segment, BackendRef ref, std::uint32_t epoch) {
  const auto lock = lock_for(segment.lock(), 0);
  return move(segment, ref.index,
              {ref.generation, StateWord::owner_of_epoch(epoch), BackendState::kEvicting},
              opened_state(segment, ref, lock ? &*lock : nullptr));
}

bool settle_counted(const Segment& segment, BackendRef ref, const LockGuard* lock) {
  for (StateWord seen = load_state(segment, ref.index);
       seen.generation == ref.generation && seen.state == BackendState::kReady;
       seen = load_state(segment, ref.index)) {
    const bool counts = must_count(segment, ref);
    const StateWord right = ready_state(ref, counts);
    if (seen == right || (!counts && lock == nullptr)) return false;
    if (move(segment, ref.index, seen, right)) return true;
  }
  return false;
}

bool commit_stop(const Segment& segment, BackendRef ref, std::uint32_t epoch) {
  return move(segment, ref.index,
              {ref.generation, StateWord::owner_of_epoch(epoch), BackendState::kEvicting},
              {ref.generation, 0, BackendState::kStopping});
}

bool lose_ticket(const Segment& segment, BackendRef ref, StateWord seen) {
  StateWord next = seen;
  if (seen.generation != ref.generation) return false;
  if (seen.state == BackendState::kReserved) {
    next.state = BackendState::kGone;
  } else if (seen.state == BackendState::kStarting) {
    next.state = BackendState::kStopping;
  } else {
    return false;
  }
  return move(segment, ref.index, seen, next);
}

bool mark_gone(const Segment& segment, BackendRef ref) {
  for (StateWord seen = load_state(segment, ref.index);
       seen.generation == ref.generation && seen.state == BackendState::kStopping;
       seen = load_state(segment, ref.index)) {
    if (move(segment, ref.index, seen, {seen.generation, seen.owner, BackendState::kGone}))
      return true;
  }
  return false;
}

bool disown_ticket(const Segment& segment, BackendRef ref) {
  const StateWord seen = load_state(segment, ref.index);
  if (seen.generation != ref.generation || seen.owner == 0) return false;
  if (seen.state != BackendState::kStopping && seen.state != BackendState::kGone) return false;
  return move(segment, ref.index, seen, {seen.generation, 0, seen.state});
}

bool free_slot(const Segment& segment, BackendRef ref) {
  return move(segment, ref.index, {ref.generation, 0, BackendState::kGone},
              {std::max(1u, ref.generation + 1), 0, BackendState::kFree});
}

}  // namespace modelpool
