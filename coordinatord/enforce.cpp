#include "enforce.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "base/duration.hpp"
#include "base/proc.hpp"
#include "base/text_values.hpp"
#include "base/time.hpp"
#include "judge/settling.hpp"
#include "log.hpp"
#include "policy/fit.hpp"
#include "policy/line.hpp"
#include "policy/rules.hpp"
#include "protocol/acquisition.hpp"
#include "protocol/cancel.hpp"
#include "protocol/histories.hpp"
#include "protocol/outlook.hpp"
#include "protocol/parallel.hpp"
#include "segment/devices.hpp"
#include "segment/settings_block.hpp"
#include "trouble.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kLockRetry_ns = 5 * kMillisecond_ns;
constexpr std::size_t kUnwrittenEndsMax = 256;
// Whether a holder of leases or a ticket has executed another program is looked at no more often,
// and of so many of them at a scan: the maps of a large process take a millisecond to read.
constexpr std::uint64_t kExamineEvery_ns = kSecond_ns;
constexpr std::size_t kExaminedMax = 8;

// A lease has broken a rule: who holds it is looked at before its backend ends.
bool rests_on_a_lease(const StopRecord& stop) { return stop.lease_word != 0; }

// What its process does is part of the evidence.
bool is_about_a_hung_one(Reason reason) {
  return reason_row(reason).lease_rule != nullptr || reason == Reason::kWedged;
}

// A tenant whose holder has left: it did not end by itself.
bool was_left(const StopRecord& stop) { return field_text(stop.text) == kHolderLeft; }

// Nothing was wrong with it, and nobody asked: loading it again soon is thrash.
bool gave_way(Reason reason) {
  return reason == Reason::kLru || reason == Reason::kIdle || reason == Reason::kGroup ||
         reason == Reason::kMemory;
}

Evidence evidence_of_action(const Action& action, const BackendView& seen, std::uint32_t live) {
  Evidence evidence;
  evidence.reason = action.stop.reason;
  evidence.forced = action.stop.forced != 0;
  evidence.was_idle = action.kind == ActionKind::kClose && seen.in_flight == 0;
  evidence.last_used_ns = seen.last_used_ns;
  evidence.keep_alive_ns = keep_alive_of(seen.keep_alive);
  evidence.lease_word = action.stop.lease_word;
  evidence.lease_stamp_ns = action.stop.lease_stamp_ns;
  evidence.for_arrival = action.stop.for_arrival;
  evidence.live = live;
  evidence.for_short_load = !action.short_load.empty();
  evidence.for_host = action.for_host;
  return evidence;
}

// Is its group in the way of that waiter, or of another backend that serves?
bool shares_a_group(const Outlook& outlook, BackendRef backend, std::uint64_t for_arrival) {
  const auto is_it = [&](const Resident& resident) { return resident.ref == backend; };
  const auto own = std::find_if(outlook.residents.begin(), outlook.residents.end(), is_it);
  if (own == outlook.residents.end() || !outlook.is_complete) return false;
  if (for_arrival != 0) {
    return std::any_of(outlook.heads.begin(), outlook.heads.end(), [&](const Waiting& head) {
      return head.arrival == for_arrival && share_a_group(head.groups, own->groups);
    });
  }
  return std::any_of(outlook.residents.begin(), outlook.residents.end(), [&](const Resident& one) {
    return !is_it(one) && one.serves() && share_a_group(one.groups, own->groups);
  });
}

}  // namespace

Enforcer::Enforcer(std::shared_ptr<Segment> segment, std::uint32_t epoch, Watch* watch,
                   Stopper* stopper, Recorder* recorder, OutputKeeper* output, Probes* probes,
                   const PressureWatch* pressure)
    : segment_(std::move(segment)),
      lock_(segment_),
      epoch_(epoch),
      watch_(watch),
      stopper_(stopper),
      recorder_(recorder),
      output_(output),
      probes_(probes),
      pressure_(pressure),
      examined_(segment_->capacities().workers) {}

void Enforcer::retry_soon() { retry_ns_ = std::min(retry_ns_, now_ns() + kLockRetry_ns); }

Changed Enforcer::carry_out(const Decision& decision, const Snapshot& snapshot) {
  retry_ns_ = kNever_ns;
  write_ends();
  live_at_scan_ = snapshot.live();
  stopper_->look_after(snapshot);
  if (is_unsettled_) retry_soon();
  watch_memory(snapshot);
  settle_pins(snapshot);
  register_named_devices(snapshot);
  // Before those go who make the room.
  for (const RoomPromise& promise : decision.promises) {
    segment_->waiter(promise.row)
        .room.store(pack_room(promise.arrival, promise.devices), std::memory_order_release);
  }
  Changed changed = examine_holders(snapshot);
  // Tickets of the dead are judged while their rows still name them: rows go last (P6).
  std::size_t sets = 0;  // that were carried out: they are numbered in their order
  for (const Action& action : decision.actions) {
    if (action.kind == ActionKind::kReapWorker) continue;
    if (action.set == 0) {
      changed |= carry_out(action, snapshot);
    } else if (action.set > sets) {
      sets = action.set;
      changed |= end_together(sets, decision, snapshot);
    }
  }
  for (const Action& action : decision.actions) {
    if (action.kind == ActionKind::kReapWorker) changed |= reap(action.worker, snapshot);
  }
  return changed;
}

void Enforcer::rehearse(const Decision& decision, const Snapshot& snapshot) const {
  for (const Action& action : decision.actions) {
    const BackendView* b = snapshot.find(action.backend);
    if (b == nullptr || b->process.pid <= 1) continue;
    stopper_->prepare(*b);
    if (!is_about_a_hung_one(action.stop.reason)) continue;
    static_cast<void>(describe_process(*b));
    if (!rests_on_a_lease(action.stop)) continue;
    for (const WorkerView& worker : snapshot.workers) {
      if (worker.ref.index == action.stop.worker) static_cast<void>(has_left(worker));
    }
  }
}

Changed Enforcer::carry_out(const Action& action, const Snapshot& snapshot) {
  if (action.kind == ActionKind::kClearWaiter) {
    std::uint64_t waiting =
        pack_half(action.waiter_generation, static_cast<std::uint32_t>(WaiterState::kWaiting));
    WaiterRecord& row = segment_->waiter(action.waiter_row);
    // acquire: written before the row's state, which is still what it was if the CAS succeeds
    const std::uint64_t model = row.model_hash.load(std::memory_order_acquire);
    if (!row.state.compare_exchange_strong(waiting, pack_half(action.waiter_generation, 0),
                                           std::memory_order_seq_cst)) {
      return false;
    }
    wake_first(*segment_, model);
    return true;
  }
  const BackendView* b = snapshot.find(action.backend);
  if (b == nullptr) return false;
  switch (action.kind) {
    case ActionKind::kClose:
      if (rests_on_a_lease(action.stop) &&
          declare_dead_if_left(static_cast<std::uint32_t>(action.stop.worker), snapshot)) {
        return true;
      }
      return close(action, *b, snapshot);
    case ActionKind::kCommit:
      if (rests_on_a_lease(action.stop) &&
          declare_dead_if_left(static_cast<std::uint32_t>(action.stop.worker), snapshot)) {
        return true;
      }
      return commit(action, *b, snapshot);
    case ActionKind::kReopen: {
      bool holders_gone = false;
      if (action.drain_failed) {
        for (const LeaseView& lease : snapshot.leases) {
          if (lease.backend == b->ref) holders_gone |= declare_dead_if_left(lease.worker, snapshot);
        }
        if (holders_gone) return true;
        segment_->backend(b->ref.index).drain_failed_ns.store(now_ns(), std::memory_order_release);
      }
      return open_again(*b);
    }
    case ActionKind::kLoseTicket:
      return lose(action, *b, snapshot);
    case ActionKind::kSignal:
      return stopper_->send(action, *b);
    case ActionKind::kMarkOverdue:
      segment_->backend(b->ref.index).model_hash.store(kHashOverdue, std::memory_order_release);
      stopper_->mark_overdue(*b);
      wake_waiters(*segment_, hash_name(b->model));
      return true;
    case ActionKind::kSettle:
      return settle(*b);
    case ActionKind::kMarkGone:
      return finish(*b);
    case ActionKind::kDisown:
      return disown_ticket(*segment_, b->ref);
    case ActionKind::kFree:
      return free(*b);
    case ActionKind::kRecordLoad:
      return record_load(*b);
    case ActionKind::kRecordEnd:
      return record_end(*b);
    case ActionKind::kRefuseEvict:
      // Still closed: whose leases they were turned out to be dead.
      if (load_state(*segment_, b->ref.index).state == BackendState::kEvicting) return false;
      set_control(*segment_, b->ref, 0, kControlEvict | kControlForce);
      // Bumped so that who asked looks again.
      segment_->coordinator().event_bell.fetch_add(1, std::memory_order_seq_cst);
      futex_wake_all(segment_->coordinator().event_bell);
      return true;
    case ActionKind::kAskToEnd:
      return ask_to_end(action, *b, snapshot);
    case ActionKind::kReapWorker:
    case ActionKind::kClearWaiter:
      return false;
  }
  return false;
}

// A process that has executed another program lives on, but its leases do not.
bool Enforcer::has_left(const WorkerView& worker) const {
  const ProcessHandle* handle = watch_->worker(worker.ref);
  if (handle == nullptr)
    return worker_liveness(*segment_, worker.ref.index, true) == Liveness::kDead;
  const auto maps = maps_file(worker.process.pid, segment_->device(), segment_->inode());
  // Whose maps these were is known only now: the handle's, if that still lives.
  return (maps && !*maps) || handle->liveness() == Liveness::kDead;
}

bool Enforcer::declare_dead_if_left(std::uint32_t worker, const Snapshot& snapshot) {
  for (const WorkerView& view : snapshot.workers) {
    if (view.ref.index != worker) continue;
    if (!has_left(view)) return false;
    watch_->declare_dead(view.ref);
    return true;
  }
  return false;
}

// Leases and tickets of one who has executed another program would hold up others for ever.
Changed Enforcer::examine_holders(const Snapshot& snapshot) {
  std::vector<std::uint64_t> holders;  // of tickets and tenants
  for (const BackendView& b : snapshot.backends) {
    const bool has_ticket =
        b.state.state == BackendState::kReserved || b.state.state == BackendState::kStarting;
    if (has_ticket || b.tenant()) holders.push_back(b.holder);
  }
  const auto holds = [&](const WorkerView& worker) {
    return worker.leases > 0 ||
           std::find(holders.begin(), holders.end(), pack_worker(worker.ref)) != holders.end();
  };
  const std::uint64_t now = snapshot.now_ns;
  std::size_t examined = 0;
  bool found = false;
  for (const WorkerView& worker : snapshot.workers) {
    if (!holds(worker)) continue;
    Examined& last = examined_[worker.ref.index];
    if (last.generation != worker.ref.generation) last = {worker.ref.generation, now};
    if (now < last.when_ns + kExamineEvery_ns) {
      // Somebody may wait for what it holds.
      if (!snapshot.waiters.empty())
        retry_ns_ = std::min(retry_ns_, last.when_ns + kExamineEvery_ns);
    } else if (++examined > kExaminedMax) {
      retry_soon();
    } else {
      last.when_ns = now;
      found |= declare_dead_if_left(worker.ref.index, snapshot);
    }
  }
  return found;
}

void Enforcer::examine_after_restart(const Snapshot& snapshot) {
  for (const WorkerView& worker : snapshot.workers)
    declare_dead_if_left(worker.ref.index, snapshot);
}

// So that a model which asks for any device can be put on those that only the settings name.
void Enforcer::register_named_devices(const Snapshot& snapshot) {
  if (!snapshot.settings || snapshot.settings_generation == devices_of_) return;
  const auto memory = parse_gpu_memory(snapshot.settings->text(Setting::kGpuMemory));
  std::vector<std::string> missing;
  for (const auto& [uuid, bytes] : memory.value_or(GpuMemory()).limits) {
    if (!find_device(*segment_, uuid)) missing.push_back(uuid);
  }
  if (!missing.empty()) {
    const auto guard = lock_.lock("register devices");
    if (!guard) return;
    for (std::string& uuid : missing) {
      if (register_device(*segment_, *guard, uuid)) uuid.clear();
    }
  }
  for (const std::string& uuid : missing) {
    if (uuid.empty()) continue;
    warn_of("devices", "the limit of device " + escape(uuid) + " is not applied: the pool knows " +
                           std::to_string(kDevicesMax) +
                           " devices already, those that were named by mistake among them; a new "
                           "pool forgets them");
  }
  devices_of_ = snapshot.settings_generation;
  if (missing.empty()) return;
  wake_line(*segment_);
}

// Whoever changes settings does this himself; but he may have been killed, or not know of it.
void Enforcer::settle_counted_backends(const Snapshot& snapshot) {
  is_unsettled_ = false;
  for (const BackendView& b : snapshot.backends) {
    if (b.state.state != BackendState::kReady || (b.tenant() && b.counted())) continue;
    const auto known = known_parallel(*segment_, b.ref);
    if (known && b.counted() == (*known != 0 || b.permit_ms != 0)) continue;
    bool is_put_right = false;
    {
      const auto lock = lock_for(segment_->lock(), 0);
      is_unsettled_ |= !lock;
      if (lock && settings_generation(*segment_) == snapshot.settings_generation) {
        note_parallel(*segment_, b.ref,
                      {snapshot.settings_generation,
                       static_cast<std::uint32_t>(b.settings().get(Setting::kParallel))});
      }
      is_put_right = settle_counted(*segment_, b.ref, lock ? &*lock : nullptr);
    }
    if (is_put_right) wake_waiters(*segment_, hash_name(b.model));
  }
}

// Whether settings pin a backend is theirs to say, now; its control word says so to those who read
// no settings. What people pinned stays theirs.
void Enforcer::settle_pins(const Snapshot& snapshot) {
  for (const BackendView& b : snapshot.backends) {
    const bool noted = (b.control & kControlPinnedBySettings) != 0;
    if (!b.live() || noted == b.pinned_by_settings()) continue;
    set_control(*segment_, b.ref, noted ? 0 : kControlPinnedBySettings,
                noted ? kControlPinnedBySettings : 0);
    wake_line(*segment_);  // whoever was told that all is pinned
  }
}

// --- Eviction: close, read the evidence again, stop or take back ---------------------------------

bool Enforcer::close_slot(const Action& action, const BackendView& b) {
  // Why goes first: a backend that is found EVICTING has its reason.
  segment_->backend(b.ref.index).stop.publish(action.stop);
  if (!close_to_leases(*segment_, b.ref, epoch_)) return false;
  recorder_->meters().add(Meter::kClosings, kMeterOther,
                          static_cast<std::uint32_t>(action.stop.reason));
  return true;
}

Changed Enforcer::close(const Action& action, const BackendView& b, const Snapshot& snapshot) {
  if (!close_slot(action, b)) return false;
  const Changed changed = stop_or_take_back(action, b, snapshot, true);
  const bool goes = load_state(*segment_, b.ref.index).state == BackendState::kStopping;
  if (goes && !action.short_load.empty()) end_cooldown(action.short_load);
  return changed;
}

Changed Enforcer::commit(const Action& action, const BackendView& b, const Snapshot& snapshot) {
  return stop_or_take_back(action, b, snapshot, false);
}

// Several make room together: all are closed, all evidence is read again, and then all are stopped.
// If one may not go, all are opened again: an eviction that lets nobody in is for nothing. Killed
// in between, the next coordinator opens them again, or, if one is STOPPING already and the waiter
// is still there, ends the others (decide.cpp).
Changed Enforcer::end_together(std::size_t set, const Decision& decision,
                               const Snapshot& snapshot) {
  std::vector<std::pair<const Action*, const BackendView*>> members;
  for (const Action& action : decision.actions) {
    if (action.set == set) members.emplace_back(&action, snapshot.find(action.backend));
  }
  bool may_go = true;
  for (const auto& [action, b] : members) {
    may_go =
        may_go && b != nullptr && (action->kind == ActionKind::kCommit || close_slot(*action, *b));
  }
  for (const auto& [action, b] : members) {
    may_go = may_go && !is_leased(*action, *b) && is_still_true(*action, *b, snapshot);
  }
  for (const auto& [action, b] : members) {
    if (b == nullptr) continue;
    if (may_go) {
      stop(action->stop, *b);
    } else {
      open_again(*b);
    }
  }
  return true;
}

bool Enforcer::is_leased(const Action& action, const BackendView& b) const {
  return action.stop.forced == 0 && any_lease_names(*segment_, b.ref);
}

bool Enforcer::is_still_true(const Action& action, const BackendView& b, const Snapshot& snapshot) {
  const Evidence seen = evidence_of_action(action, b, live_at_scan_);
  Fresh fresh = look_again(action.stop, b, snapshot);
  fresh.host_is_low = action.for_host && pressure_ != nullptr && pressure_->is_low();
  return reason_row(action.stop.reason).still_true(seen, fresh);
}

Changed Enforcer::stop_or_take_back(const Action& action, const BackendView& b,
                                    const Snapshot& snapshot, bool was_ready) {
  // The leases first: one that ends between the two has left its mark in last-used.
  const bool in_use = is_leased(action, b);
  if (!is_still_true(action, b, snapshot)) {
    open_again(b);
    return true;
  }
  if (action.only_hold) return was_ready;
  if (in_use) {
    if (action.hold || !was_ready) return was_ready;  // closed; the leases may finish
    open_again(b);
    return true;
  }
  return stop(action.stop, b);
}

Changed Enforcer::stop(const StopRecord& why, const BackendView& b) {
  StopRecord stop = why;
  stop.stopping_ns = now_ns();
  if (is_about_a_hung_one(why.reason)) {
    const std::string asked(field_text(why.text));
    set_field(&stop.text, asked + (asked.empty() ? "" : "; ") + describe_process(b));
  }
  segment_->backend(b.ref.index).stop.publish(stop);
  // Of this coordinator, or of the one before it that was killed while it ended a set. Opened again
  // since the leases were read, it is no longer closed by either.
  const std::uint32_t closed_by = load_state(*segment_, b.ref.index).owner;
  if (!commit_stop(*segment_, b.ref, closed_by)) return false;
  // Whoever waits for this model learns that it is being stopped.
  wake_waiters(*segment_, hash_name(b.model));
  return true;
}

// The holder of an overdue lease. One that cannot hear is not asked: the next decision knows.
Changed Enforcer::ask_to_end(const Action& action, const BackendView& b, const Snapshot& snapshot) {
  const StopRecord& why = action.stop;
  const auto row = static_cast<std::uint32_t>(why.worker);
  if (declare_dead_if_left(row, snapshot)) return true;
  for (const WorkerView& worker : snapshot.workers) {
    if (worker.ref.index == row && watch_->note_if_stopped(worker)) return true;
  }
  const Evidence seen = evidence_of_action(action, b, live_at_scan_);
  const Fresh fresh = look_again(why, b, snapshot);
  if (!reason_row(why.reason).still_true(seen, fresh)) return true;
  // The event first: killed after it, the next coordinator writes it again rather than never.
  EventData event = event_about(b, EventKind::kCancelRequested);
  event.reason = why.reason;
  event.age_ns = why.age_ns;
  event.limit_ns = why.limit_ns;
  event.worker_pid = why.worker_pid;
  event.signal = 0;
  set_field(&event.tag, field_text(why.tag));
  set_field(&event.text,
            "its holder is asked to end the request; the backend is killed if it goes on for " +
                format_duration(b.settings().get(Setting::kOnOverdue)));
  recorder_->write(event);
  ask_holder(*segment_, row, static_cast<std::uint32_t>(why.lease),
             {fresh.lease_word, fresh.start_ns});
  return true;
}

// To be read after the slot was closed (policy/rules.hpp).
Fresh Enforcer::look_again(const StopRecord& why, const BackendView& b, const Snapshot& snapshot) {
  Fresh fresh;
  fresh.control = load_control(*segment_, b.ref) & ~kControlPinnedBySettings;
  if (resolve_settings(*segment_, b.model, &b.overrides).get(Setting::kPinned) != 0)
    fresh.control |= kControlPinnedBySettings;
  fresh.last_used_ns = std::max(latest_use_ns(*segment_, b.ref.index), b.ready_ns);
  fresh.keep_alive_ns = keep_alive_of(load_keep_alive(*segment_, b.ref));
  const Capacities& capacities = segment_->capacities();
  if (why.lease_word != 0 && why.worker < capacities.workers && why.lease < capacities.leases) {
    const LeaseRecord& lease = segment_->lease(why.worker, why.lease);
    fresh.lease_word = lease.word.load(std::memory_order_seq_cst);
    fresh.start_ns = lease.start_ns.load(std::memory_order_acquire);
    fresh.progress_ns = lease.progress_ns.load(std::memory_order_acquire);
    fresh.progressed = has_progressed(fresh.start_ns, fresh.progress_ns);
    // Stamps belong to the lease whose word stood there before and after them.
    if (lease.word.load(std::memory_order_seq_cst) != fresh.lease_word) fresh.lease_word = 0;
  }
  if (why.reason == Reason::kWedged && probes_ != nullptr) probes_->take_answers();
  fresh.answers = probes_ == nullptr || probes_->answers(b.ref);
  prepare_outlook(*segment_);
  const Outlook outlook = read_outlook(*segment_, now_ns());
  fresh.live = count_live(outlook.residents);
  fresh.others_ready = count_ready(*segment_);  // it is closed itself
  fresh.limits = outlook.limits;
  fresh.is_above_limits = outlook.room().excess() != Amounts();
  fresh.shares_a_group = shares_a_group(outlook, b.ref, why.for_arrival);
  Resident measured;
  take_measured(&measured, segment_->backend(b.ref.index).measured.load());
  fresh.is_alone_above = is_alone_above(measured.measured, outlook.limits);
  fresh.waiter_is_there = why.for_arrival != 0 && waiter_is_there(why.for_arrival, snapshot);
  return fresh;
}

// Room is made for this waiter: it waits, and its process will take what is made.
bool Enforcer::waiter_is_there(std::uint64_t arrival, const Snapshot& snapshot) {
  for (std::uint32_t i = 0; i < segment_->waiters_reached(); ++i) {
    const WaiterRecord& row = segment_->waiter(i);
    const auto state = low_half(row.state.load(std::memory_order_seq_cst));
    if (state != static_cast<std::uint32_t>(WaiterState::kWaiting)) continue;
    if (row.arrival.load(std::memory_order_acquire) != arrival) continue;
    Waiting waiter;
    waiter.deadline_ns = row.deadline_ns.load(std::memory_order_acquire);
    waiter.looked_ns = row.looked_ns.load(std::memory_order_acquire);
    const WorkerView* worker = snapshot.find_worker(row.owner.load(std::memory_order_acquire));
    return worker != nullptr && is_present(waiter, now_ns()) &&
           !declare_dead_if_left(worker->ref.index, snapshot);
  }
  return false;
}

Changed Enforcer::open_again(const BackendView& b) {
  const StateWord now = load_state(*segment_, b.ref.index);
  if (now.generation != b.ref.generation || now.state != BackendState::kEvicting) return false;
  if (!reopen(*segment_, b.ref, now.owner)) return false;
  wake_waiters(*segment_, hash_name(b.model));
  recorder_->meters().add(
      Meter::kReopenings, kMeterOther,
      static_cast<std::uint32_t>(segment_->backend(b.ref.index).stop.load().reason));
  return true;
}

// --- Loads ---------------------------------------------------------------------------------------

Changed Enforcer::lose(const Action& action, const BackendView& b, const Snapshot& snapshot) {
  const std::uint32_t holder = unpack_worker(b.holder).index;
  if (action.stop.reason == Reason::kLoadTimeout && declare_dead_if_left(holder, snapshot))
    return true;
  StopRecord stop = action.stop;
  stop.stopping_ns = now_ns();
  BackendRecord& record = segment_->backend(b.ref.index);
  if (b.process.pid != static_cast<pid_t>(record.pid.load(std::memory_order_acquire)) ||
      b.process.start_ticks != record.start_ticks.load(std::memory_order_acquire)) {
    return true;  // another process was started since: the evidence was about the one before
  }
  if (stop.reason == Reason::kRequested && (load_control(*segment_, b.ref) & kControlEvict) == 0) {
    return true;  // it was withdrawn
  }
  if (stop.failed == kLoadFailed) say_how_it_ended(b, &stop);
  const auto end = [&] {
    record.stop.publish(stop);
    return lose_ticket(*segment_, b.ref, action.seen);
  };
  bool ended;
  if (stop.failed == kLoadFailed) {
    const auto lock = lock_.lock("record the end of a load");
    if (!lock) {
      retry_soon();
      return false;
    }
    const std::uint64_t cooldown = b.settings().get(Setting::kLoadCooldown);
    ended = fail_load(*segment_, *lock, b.model, {b.ref, field_text(stop.text), cooldown}, now_ns(),
                      end);
  } else {
    ended = end();
  }
  if (!ended) return false;
  wake_waiters(*segment_, hash_name(b.model));
  wake_line(*segment_);
  return true;
}

// What the kernel kills for memory while a model is loaded is told by how much that grew.
void Enforcer::watch_memory(const Snapshot& snapshot) {
  std::map<std::uint64_t, MemoryKills> loading;
  for (const BackendView& b : snapshot.backends) {
    const bool is_loading = b.state.state == BackendState::kStarting ||
                            (b.state.state == BackendState::kStopping && b.ready_ns == 0);
    if (!is_loading || b.process.pid <= 1) continue;
    const std::uint64_t key = pack_ref(b.ref);
    const auto known = before_loads_.find(key);
    loading.emplace(key, known != before_loads_.end() ? known->second : MemoryKills(b.process.pid));
  }
  before_loads_ = std::move(loading);
}

// The first failure in a row: a second one cools down, whoever is there.
void Enforcer::note_if_short(const BackendView& b, const LoadHistory& history) {
  const auto before = before_loads_.find(pack_ref(b.ref));
  if (history.failures == 1 && before != before_loads_.end() &&
      ran_out_of_memory(b.exit_status, before->second.rise())) {
    short_loads_.push_back(b.model);
  }
}

// An idle backend has gone for its sake: the model may be loaded again at once.
void Enforcer::end_cooldown(const std::string& model) {
  const auto lock = lock_.lock("end a cool-down");
  if (!lock) return;  // it cools down
  auto history = find_history(*segment_, model);
  if (!history || history->failures != 1) return;
  history->cooldown_until_ns = 0;
  write_history(*segment_, *lock, model, *history);
}

// Of a load that failed: what its exit means, and the last it said.
void Enforcer::say_how_it_ended(const BackendView& b, StopRecord* stop) {
  const std::vector<std::string> lines = last_lines(b);
  std::string text(field_text(stop->text));
  if (stop->reason == Reason::kCrashed) {
    const auto before = before_loads_.find(pack_ref(b.ref));
    const auto rise =
        before == before_loads_.end() ? MemoryKills::Rise::kNone : before->second.rise();
    const std::uint64_t exit =
        segment_->backend(b.ref.index).exit_status.load(std::memory_order_acquire);
    if (const std::string words = exit_words(low_half(exit), rise, lines); !words.empty())
      text += ": " + words;
  }
  set_field(&stop->text, with_last_lines(text, lines, kHistoryErrorMax_bytes));
}

std::vector<std::string> Enforcer::last_lines(const BackendView& b) {
  if (output_ == nullptr || b.log.empty()) return {};
  return output_->last_lines(b.log, b.model, kLastLinesMax);
}

Changed Enforcer::record_load(const BackendView& b) {
  std::uint64_t away_ns = kNever_ns;
  {
    const auto lock = lock_.lock("record the end of a load");
    if (!lock) {
      retry_soon();
      return false;
    }
    LoadHistory history = find_history(*segment_, b.model).value_or(LoadHistory{});
    ++history.loads;
    history.failures = 0;
    // It was about to be called failed when it became ready.
    if (history.failed_backend == pack_ref(b.ref)) history.failed_backend = 0;
    history.cooldown_until_ns = 0;
    history.load_ns = age_ns(b.ready_ns, b.reserved_ns);
    history.size_bytes = b.size_bytes;
    history.peak = larger_of(history.peak, b.declared);
    history.updated_ns = now_ns();
    if (history.evicted_ns != 0) away_ns = age_ns(b.ready_ns, history.evicted_ns);
    note_return(&history, b.ready_ns);
    write_history(*segment_, *lock, b.model, history);
  }
  EventData event = event_about(b, EventKind::kLoaded);
  event.reason = Reason::kNone;
  event.age_ns = event.limit_ns = kNever_ns;
  event.signal = 0;
  event.text.fill(0);
  event.tag.fill(0);
  event.load_ns = age_ns(b.ready_ns, b.reserved_ns);
  event.away_ns = away_ns;
  event.worker_pid = b.owner_pid;
  if (b.traits & kTraitUnproved)
    set_field(&event.text, "it could not be told whether its own process listens at its address");
  if (!b.log_missing.empty()) {
    warn_of("output", "the output of " + escape(b.model) + " is not kept: " + b.log_missing);
    if (field_text(event.text).empty()) set_field(&event.text, "no output kept: " + b.log_missing);
  }
  recorder_->write(event);
  segment_->backend(b.ref.index)
      .noted.store(pack_half(b.ref.generation, static_cast<std::uint32_t>(b.state.state)),
                   std::memory_order_release);
  return true;
}

// --- Ends ----------------------------------------------------------------------------------------

// The event of an end, once: `noted` says that it is written. A crash in between writes it twice.
Changed Enforcer::record_end(const BackendView& b) {
  if (high_half(b.noted) == b.ref.generation &&
      low_half(b.noted) >= static_cast<std::uint32_t>(BackendState::kGone)) {
    return false;
  }
  BackendRecord& record = segment_->backend(b.ref.index);
  BackendView ended = b;
  ended.exit_status = low_half(record.exit_status.load(std::memory_order_acquire));
  const bool was_loaded = b.ready_ns != 0 && b.stop.failed == 0;
  const auto history = was_loaded ? std::nullopt : find_history(*segment_, b.model);
  const bool is_in_history = history && history->failed_backend == pack_ref(b.ref);
  const auto note = [&] {
    record.noted.store(pack_half(b.ref.generation, static_cast<std::uint32_t>(BackendState::kGone)),
                       std::memory_order_release);
    return true;
  };
  // A ticket that was given back: nothing was started, and nothing failed.
  const bool was_decided = b.stop.generation == b.ref.generation;
  if (!was_loaded && b.process.pid == 0 && !was_decided && !is_in_history) return note();
  EventData event = event_about(ended, event_of_end(b.stop.reason, was_loaded, b.stop.forced != 0));
  const bool is_by_itself =
      b.stop.reason == Reason::kCrashed && b.stop.failed != kLoadLost && !was_left(b.stop);
  if (is_by_itself) {
    event.signal = 0;  // it ended by itself; only what it left behind was signalled
  } else if (b.stop.signalled_ns != 0) {
    event.exit_ns = age_ns(now_ns(), b.stop.signalled_ns);
  }
  if (is_in_history && field_text(event.text).empty()) {
    set_field(&event.text, field_text(history->error));
  }
  if (!was_loaded && event.reason == Reason::kNone && !is_in_history) {
    event.kind = EventKind::kEvicted;
    event.reason = Reason::kRequested;
    set_field(&event.text, "its load was given back");
  }
  // The event has more room than the record it comes from.
  const std::string text(field_text(event.text));
  if (has_last_lines(text) || (was_loaded && is_about_a_hung_one(b.stop.reason))) {
    if (const auto lines = last_lines(b); !lines.empty())
      set_field(&event.text, with_last_lines(text, lines, event.text.size() - 1));
  }
  if (!was_loaded && event.worker_pid == 0) event.worker_pid = b.owner_pid;
  recorder_->write(event);
  if (is_in_history) note_if_short(ended, *history);
  return note();
}

// Its end is told now; what settles keeps only its place. Killed in between, the next coordinator
// finds its processes gone and does the rest.
Changed Enforcer::settle(const BackendView& b) {
  record_end(b);
  note_when_ended(b);
  stopper_->forget(b.ref);
  return true;
}

// Killed between this and GONE, the next coordinator does it again.
void Enforcer::raise_baselines(const BackendView& gone) {
  for (std::uint32_t i = 0; i < segment_->backends_reached(); ++i) {
    const StateWord state = load_state(*segment_, i);
    if (i == gone.ref.index || state.state != BackendState::kStopping) continue;
    Published<StopRecord>& record = segment_->backend(i).stop;
    StopRecord stop = record.load();
    if (stop.generation == state.generation && raise_baseline(gone, &stop)) record.publish(stop);
  }
}

Changed Enforcer::finish(const BackendView& b) {
  record_end(b);
  note_when_ended(b);
  raise_baselines(b);
  remember_size(b);
  if (!mark_gone(*segment_, b.ref)) return false;
  stopper_->forget(b.ref);
  wake_waiters(*segment_, hash_name(b.model));
  wake_line(*segment_);
  remember(b);
  return true;
}

// In the stop record, before the slot is GONE: what settles there is measured from then on.
void Enforcer::note_when_ended(const BackendView& b) {
  Published<StopRecord>& record = segment_->backend(b.ref.index).stop;
  StopRecord stop = record.load();
  if (stop.generation != b.ref.generation || stop.ended_ns != 0) return;
  stop.ended_ns = now_ns();
  record.publish(stop);
}

// Of one that took too much, before its place is free: else who waits for the model would load it
// again. If others hold the mutex now it is late (remember).
void Enforcer::remember_size(const BackendView& b) {
  if (b.stop.reason != Reason::kOverLimit || b.stop.generation != b.ref.generation) return;
  const auto lock = lock_for(segment_->lock(), 0);
  if (!lock) return;
  LoadHistory history = find_history(*segment_, b.model).value_or(LoadHistory{});
  history.peak = larger_of(larger_of(history.peak, b.peak), b.measured);
  history.updated_ns = now_ns();
  write_history(*segment_, *lock, b.model, history);
}

// What its life has shown, for the model's history. The slot is gone already: who waits for its
// place does not wait for the mutex.
void Enforcer::remember(const BackendView& b) {
  const bool has_served = b.ready_ns != 0 && b.stop.failed == 0;
  const bool is_too_large = b.stop.reason == Reason::kOverLimit;
  if (!has_served && !is_too_large) return;
  BackendEnd end;
  end.ended_ns = now_ns();
  if (has_served) {
    end.last_use_ns = std::max(b.last_used_ns, latest_use_ns(*segment_, b.ref.index));
    end.interval_ns = b.interval_ns;
  }
  end.evicted = gave_way(b.stop.reason);
  end.peak = larger_of(b.declared, b.peak);
  // What was measured while it loaded is less than it would have taken, but too much already.
  if (is_too_large) end.peak = larger_of(end.peak, b.measured);
  if (unwritten_ends_.size() < kUnwrittenEndsMax) unwritten_ends_.emplace_back(b.model, end);
  write_ends();
}

// Until the mutex could be had; a coordinator that ends meanwhile takes them along.
void Enforcer::write_ends() {
  if (unwritten_ends_.empty()) return;
  {
    auto lock = lock_for(segment_->lock(), 0);
    if (!lock) return retry_soon();
    for (const auto& [model, end] : unwritten_ends_) {
      LoadHistory history = find_history(*segment_, model).value_or(LoadHistory{});
      note_end(&history, end);
      write_history(*segment_, *lock, model, history);
    }
  }
  unwritten_ends_.clear();  // frees, so not under the mutex
}

Changed Enforcer::free(const BackendView& b) {
  if (any_lease_names(*segment_, b.ref) || !free_slot(*segment_, b.ref)) return false;
  wake_line(*segment_);  // who found every slot taken
  return true;
}

// --- Workers -------------------------------------------------------------------------------------

Changed Enforcer::reap(WorkerRef worker, const Snapshot& snapshot) {
  // A ticket it held is lost first; if that could not be done now, the row stays.
  for (const BackendView& b : snapshot.backends) {
    const StateWord state = load_state(*segment_, b.ref.index);
    const bool loading =
        state.state == BackendState::kReserved || state.state == BackendState::kStarting;
    if (loading && load_holder(*segment_, {b.ref.index, state.generation}) == pack_worker(worker)) {
      return false;
    }
  }
  EventData event;
  event.kind = EventKind::kWorkerDied;
  event.reason = Reason::kCrashed;
  for (const WorkerView& view : snapshot.workers) {
    if (view.ref == worker) event.worker_pid = static_cast<std::uint32_t>(view.process.pid);
  }
  // The event first: killed after it, the next coordinator writes it again rather than never.
  event.count = 0;
  for (const LeaseView& lease : snapshot.leases) event.count += lease.worker == worker.index;
  recorder_->write(event);
  clear_worker_row(*segment_, worker, segment_->coordinator_row());
  // Whoever waited for what it held, or behind it.
  for (const LeaseView& lease : snapshot.leases) {
    const BackendView* backend =
        lease.worker == worker.index ? snapshot.find(lease.backend) : nullptr;
    if (backend != nullptr) wake_first(*segment_, hash_name(backend->model));
  }
  for (const WaiterView& waiter : snapshot.waiters) {
    if (waiter.owner == pack_worker(worker)) wake_first(*segment_, hash_name(waiter.model));
  }
  wake_line(*segment_);
  return true;
}

}  // namespace modelpool::coordinator
