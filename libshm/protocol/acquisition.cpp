#include "protocol/acquisition.hpp"

#include <algorithm>
#include <bit>

#include "base/duration.hpp"
#include "base/exit_words.hpp"
#include "base/size.hpp"
#include "base/time.hpp"
#include "policy/fit.hpp"
#include "policy/line.hpp"
#include "protocol/counted.hpp"
#include "protocol/histories.hpp"
#include "protocol/needs.hpp"
#include "protocol/outlook.hpp"
#include "segment/devices.hpp"
#include "segment/place.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

// Who timed out and asks for the model again so soon has waited all the time: a client that tries
// again does not begin anew with each try (policy/turns.hpp).
constexpr std::uint64_t kReturnsWithin_ns = 2 * kSecond_ns;
constexpr int kLooksMax = 16;  // at settings and models that come while it looks
// Between two tries of a mutex that is not waited for: held for a moment, or by a stopped process.
constexpr std::uint64_t kTryPauseMin_ns = 250'000;
constexpr std::uint32_t kTryDoublingsMax = 8;  // 64 ms

// Is the worker that holds this ticket proved dead?
bool holder_died(const Segment& segment, BackendRef ref) {
  const WorkerRef worker = unpack_worker(load_holder(segment, ref));
  if (worker.index >= segment.capacities().workers) return false;
  const std::uint64_t state = segment.worker(worker.index).state.load(std::memory_order_seq_cst);
  if (low_half(state) == 0 || high_half(state) != worker.generation) return true;
  return worker_liveness(segment, worker.index, false) == Liveness::kDead;
}

AcquireOutcome outcome_of(Errc code) {
  switch (code) {
    case Errc::kTimeout:
      return AcquireOutcome::kTimeout;
    case Errc::kQueueFull:
      return AcquireOutcome::kQueueFull;
    case Errc::kLoadFailed:
    case Errc::kCoolingDown:
      return AcquireOutcome::kFailed;
    case Errc::kCancelled:
      return AcquireOutcome::kCancelled;
    default:
      return AcquireOutcome::kRefused;
  }
}

// With the devices it is put on, and what it takes of each.
Need placed_need(Need need, const Placement& placement) {
  if (need.devices == 0) return need;
  need.which_devices = placement.devices;
  for (std::uint32_t d = 0; d < kDevicesMax; ++d) {
    const std::int64_t bytes = placement.takes[index_of_device(d)];
    need.bytes.device[d] = static_cast<std::uint64_t>(bytes);
  }
  return need;
}

// "its backend is full (2 of 2 requests at once)"
std::string full_text(const CountedAnswer& answer) {
  const std::string counts =
      std::to_string(answer.in_flight) + " of " + std::to_string(answer.parallel);
  return answer.in_flight == answer.parallel
             ? "its backend is full (" + counts + " requests at once)"
             : "its backend serves " + counts +
                   " requests at once, and others have waited for it for longer";
}

}  // namespace

Acquisition::Acquisition(Worker& worker, std::string model, AcquisitionOptions options)
    : worker_(worker),
      segment_(worker.segment()),
      model_(std::move(model)),
      hash_(hash_name(model_)),
      options_(std::move(options)),
      begun_ns_(now_ns()) {
  worker_.hold();
}

Acquisition::~Acquisition() {
  if (!worker_.owned()) return;
  if (!is_over_) count(AcquireOutcome::kCancelled);  // whoever began it has left
  leave(false);
  worker_.drop();
}

Result<Granted> Acquisition::poll() {
  if (!worker_.owned()) {
    return fail(refusal(Errc::kClosed, "this wait was begun before fork; begin another one"));
  }
  for (;;) {
    // Read the word, then look: who changes something after the look bumps it.
    seen_wake_ = wake_word_.load(std::memory_order_relaxed)->load(std::memory_order_seq_cst);
    if (cancelled_.load(std::memory_order_acquire)) {
      Result<Granted> result = fail(refusal(Errc::kCancelled, "cancelled"));
      note_answer(result);
      leave(false);
      return result;
    }
    if (row_ && segment_.waiter(*row_).state.load(std::memory_order_seq_cst) !=
                    pack_half(row_generation_, static_cast<std::uint32_t>(WaiterState::kWaiting))) {
      forget_row();  // a coordinator took this process for dead; stand in line again
      continue;
    }
    const bool was_in_line = row_.has_value();
    if (was_in_line) {
      note_look();
      renew_need();
    }
    auto result = look_or_try_again();
    const bool pending = result && std::holds_alternative<Pending>(*result);
    if (!pending) {
      note_answer(result);
      leave(result.has_value());
      return result;
    }
    if (was_in_line || !row_) return result;
    // The row was published just now: what happened before that woke nobody. Look again.
  }
}

// A mutex that was only tried and is taken answers nothing: that is no error before the deadline.
Result<Granted> Acquisition::look_or_try_again() {
  auto result = look();
  const std::uint64_t now = now_ns();
  due_ns_ = now + kLookEvery_ns;
  if (result || !options_.only_tries || result.error().code != Errc::kBusy) {
    tries_in_vain_ = 0;
    return result;
  }
  if (now >= options_.deadline_ns)
    return fail(refusal(Errc::kTimeout, "timed out: " + result.error().text));
  due_ns_ = now + (kTryPauseMin_ns << std::min(tries_in_vain_++, kTryDoublingsMax));
  return Granted{Pending{}};
}

// What came of it goes to the meters. A ticket has come to nothing yet: its end is counted.
void Acquisition::note_answer(const Result<Granted>& result) {
  if (is_over_) return;
  is_over_ = true;
  if (!result && options_.is_a_try) return;
  if (has_waited_) worker_.meters().observe(Meter::kWait, age_ns(now_ns(), begun_ns_));
  if (!result) {
    worker_.meters().add(Meter::kRefusals, kMeterOther,
                         static_cast<std::uint32_t>(result.error().code));
    return count(outcome_of(result.error().code));
  }
  const auto* lease = std::get_if<LeaseRef>(&*result);
  if (lease == nullptr) return;
  if (is_counted_) return count(has_waited_ ? AcquireOutcome::kWaited : AcquireOutcome::kHit);
  if (!has_waited_) return;  // it has counted as a hit
  uncount_hit(*lease);
  count(AcquireOutcome::kWaited);
}

void Acquisition::count(AcquireOutcome outcome) const {
  worker_.meters().add(Meter::kAcquires, find_meter_model(segment_, model_, hash_),
                       static_cast<std::uint32_t>(outcome));
}

// Others count on a waiter that looks (policy/line.hpp). One that was taken for stopped tells the
// judge that it is back.
void Acquisition::note_look() {
  Word& looked = segment_.waiter(*row_).looked_ns;
  const std::uint64_t now = now_ns();
  const std::uint64_t before = looked.load(std::memory_order_relaxed);  // ours
  looked.store(now, std::memory_order_release);
  if (add_ns(before, kAbsentAfter_ns) <= now) ring(segment_);
}

// Others plan with it (policy/turns.hpp) and never wait for it: a plain store of the row's owner.
void Acquisition::set_deadline(std::uint64_t deadline_ns) {
  options_.deadline_ns = deadline_ns;
  if (!row_) return;
  WaiterRecord& row = segment_.waiter(*row_);
  // Another's by now, if a coordinator took this process for dead.
  const auto ours = pack_half(row_generation_, static_cast<std::uint32_t>(WaiterState::kWaiting));
  if (row.state.load(std::memory_order_acquire) == ours)
    row.deadline_ns.store(deadline_ns, std::memory_order_release);
}

Bytes Acquisition::known_peak() const {
  const auto history = find_history(segment_, model_);
  return history ? history->peak : Bytes();
}

// What it takes was derived from settings that have changed since, or another load of the model has
// shown what it takes. Best effort at each look:
// whoever cannot have the mutex now looks again within a second.
void Acquisition::renew_need() {
  if (settings_generation(segment_) == need_settings_ && known_peak() == need_peak_) return;
  if (!renew(limits_of(segment_))) return;
  const auto lock = lock_line();
  if (!lock) return;
  publish_need(*lock);
}

void Acquisition::publish_need(const LockGuard&) {
  segment_.waiter(*row_).need.publish(need_);
  need_settings_ = need_.settings;
}

void Acquisition::wait(std::uint64_t at_most_ns) {
  const HalfWord& word = *wake_word_.load(std::memory_order_relaxed);
  const std::uint64_t until =
      std::min(add_ns(now_ns(), std::min(at_most_ns, kLookEvery_ns)), due_ns());
  futex_wait(word, seen_wake_, until);
}

bool Acquisition::was_woken() const {
  // seq_cst: with the bump of whoever changed something before it
  return wake_word_.load(std::memory_order_relaxed)->load(std::memory_order_seq_cst) !=
             seen_wake_ ||
         (tries_in_vain_ != 0 && now_ns() >= due_ns_);
}

void Acquisition::cancel() {
  cancelled_.store(true, std::memory_order_release);
  HalfWord& word = *wake_word_.load(std::memory_order_acquire);
  word.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(word);
}

Result<Granted> Acquisition::look() {
  const std::uint64_t now = now_ns();
  // Every turn of this loop is another process's progress; a neighbour that reloads and loses a
  // model as fast as we look would keep us, so it is bounded and then waits like everyone.
  for (int attempt = 0; attempt < 100; ++attempt) {
    const auto found = find_backend(segment_, model_, hash_);
    if (!found) return ask_for_place(now);
    if (found->state.state == BackendState::kReady) {
      if (options_.is_tenant || is_tenant(segment_, found->ref))
        return fail(name_refusal(found->ref, now));
      LeaseRef lease;
      const bool counted = found->state.owner == StateWord::kCounted;
      CountedAnswer answer;
      if (counted) {
        auto asked = begin_counted(found->ref, &lease);
        if (!asked) return fail(asked.error());
        answer = *asked;
      } else {
        answer.result =
            begin_lease(worker_, found->ref, options_.busy_limit_ns, options_.tag, &lease);
      }
      is_counted_ = counted;
      switch (answer.result) {
        case BeginResult::kGranted:
          if (row_) free_granted_row(found->ref);
          if (set_keep_alive(segment_, found->ref, options_.keep_alive)) ring(segment_);
          return Granted{lease};
        case BeginResult::kFull:
          if (look_at_judge(segment_, now).state != JudgeState::kAnswers &&
              clear_dead_holders(segment_, found->ref, hash_)) {
            wake_first(segment_, hash_);
            continue;
          }
          return keep_waiting(now, false, full_text(answer));
        case BeginResult::kNoCell:
          return fail(
              refusal(Errc::kTableFull,
                      "this worker's " + std::to_string(segment_.capacities().leases) +
                          " leases are all held, or kept by its threads, which keep up to half; "
                          "create the pool with more --leases"));
        case BeginResult::kNotReady:
          continue;
      }
    }
    if (found->state.state == BackendState::kEvicting) {
      // The judge that closed it may be dead: then it is open again, by whoever proves that.
      CoordinatorIdentity judge;
      const Liveness liveness = coordinator_liveness(segment_, &judge);
      // A later epoch proves the earlier one dead: there is one coordinator at a time.
      const bool of_judge = StateWord::owner_of_epoch(judge.epoch) == found->state.owner;
      if (liveness == Liveness::kDead || !of_judge) {
        if (reopen(segment_, found->ref, found->state.owner)) wake_waiters(segment_, hash_);
        continue;
      }
    }
    return look_at_backend(*found, now);
  }
  return keep_waiting(now, false, "it changes faster than it can be leased");
}

// Its row is free in the hold that grants: nobody counts it beside its lease.
Result<CountedAnswer> Acquisition::begin_counted(BackendRef backend, LeaseRef* lease) {
  prepare_leases(worker_);
  CountedRequest request{backend, hash_, arrival_, options_.busy_limit_ns};
  if (!known_parallel(segment_, backend)) request.parallel = resolve_parallel(segment_, backend);
  CountedAnswer answer;
  {
    const auto lock = lock_line();
    if (!lock) return fail(lock.error());
    answer = begin_counted_lease(*lock, worker_, request, options_.tag, lease);
    if (answer.result == BeginResult::kGranted && row_) free_row(true);
  }
  if (answer.is_uncounted) wake_waiters(segment_, hash_);
  if (answer.result != BeginResult::kGranted) return answer;
  ring_for_limit(segment_, options_.busy_limit_ns);
  wake_next_if_free(segment_, backend, hash_);
  return answer;
}

Result<Granted> Acquisition::look_at_backend(const FoundBackend& found, std::uint64_t now) {
  switch (found.state.state) {
    case BackendState::kReserved:
    case BackendState::kStarting:
      if (awaited_ && *awaited_ != found.ref) {
        if (auto failure = failure_of_awaited(now)) return fail(*failure);
      }
      awaited_ = found.ref;
      return keep_waiting(now, holder_died(segment_, found.ref), "it is being loaded");
    case BackendState::kEvicting:
      return keep_waiting(now, true, "it is being evicted");
    default:
      if (auto failure = failure_of_awaited(now)) return fail(*failure);
      return keep_waiting(now, true, "its backend is being stopped");
  }
}

std::optional<Error> Acquisition::failure_of_awaited(std::uint64_t now) {
  const auto history = find_history(segment_, model_);
  if (!history) {
    awaited_.reset();
    return std::nullopt;
  }
  std::string text = escape(
      with_exit(field_text(history->error), static_cast<std::uint32_t>(history->exit_status)));
  const std::string dir = segment_.path().substr(0, segment_.path().rfind('/'));
  const auto command = [&](const std::string& rest) {
    return "`" + command_on_pool("poolctl", segment_.name(), dir, rest + escape(model_)) + "`";
  };
  if (has_last_lines(text)) text += "; " + command("logs ") + " has more";
  const std::uint64_t remaining =
      history->cooldown_until_ns > now ? history->cooldown_until_ns - now : 0;
  if (awaited_ && history->failed_backend == pack_ref(*awaited_)) {
    Error error = refusal(Errc::kLoadFailed, "its load failed: " + text);
    error.retry_after_ns = remaining;
    return error;
  }
  awaited_.reset();
  if (remaining > 0 && history->failures > 0) {
    Error error = refusal(Errc::kCoolingDown,
                          "its last load failed: " + text + "; it cools down for another " +
                              format_age(remaining) + "; " + command("reset ") + " ends that");
    error.retry_after_ns = remaining;
    return error;
  }
  return std::nullopt;
}

Result<Granted> Acquisition::ask_for_place(std::uint64_t now, int attempt) {
  if (auto failure = failure_of_awaited(now)) return fail(*failure);
  if (!options_.may_load) {
    return fail(refusal(Errc::kNotLoaded, "no backend serves it"));
  }
  if (segment_.is_replaced()) {
    return fail(refusal(Errc::kReplaced, "the pool " + segment_.path() +
                                             " was removed or replaced under this process"));
  }
  if (segment_.coordinator().leaving.load(std::memory_order_acquire) == kLeavingForGood &&
      coordinator_liveness(segment_) != Liveness::kDead) {
    return fail(refusal(Errc::kNoCoordinator, "the pool is being shut down"));
  }
  prepare_outlook(segment_, model_);
  const Outlook outlook = read_outlook(segment_, now);
  if (!outlook.has_settings) {
    return keep_waiting(now, true, "the pool has no settings yet");
  }
  if (outlook.unknown_settings != 0) return fail(settings_refusal(outlook.unknown_settings));
  if (const Result<> renewed = renew(outlook.limits); !renewed) return fail(renewed.error());
  const Waiting self = as_waiting();
  const Room room = outlook.room();
  if (is_too_large(self, outlook.limits)) return fail(size_refusal(outlook.limits));
  const bool needs_room = !room.fits(self) || is_kept_out(self, outlook.residents);
  if (needs_room && is_blocked_by_pins(self, outlook.residents, outlook.limits))
    return fail(pin_refusal(outlook));
  const std::string for_what = lack_text(outlook, self);
  const bool expired = now >= options_.deadline_ns;
  const bool turn = has_turn(outlook.heads, self, room, outlook.residents);
  if (!turn && (row_ || expired)) return keep_waiting(now, needs_room, for_what);

  Taken taken;
  {
    auto lock = lock_line();
    if (!lock) return fail(lock.error());
    taken = take_place(*lock, now);
    if (taken.answer == Taken::kNoPlace && !row_ && !expired) taken.answer = join_line(*lock, now);
  }
  switch (taken.answer) {
    case Taken::kTicket:
      worker_.hold();
      awaited_.reset();
      ring(segment_);
      return Granted{TicketRef{&worker_, taken.ticket}};
    case Taken::kNoSlot:
      return fail(refusal(Errc::kTableFull,
                          "all " + std::to_string(segment_.capacities().backends) +
                              " backend slots are taken; create the pool with more --backends"));
    case Taken::kLookAgain:
      if (attempt < kLooksMax) return ask_for_place(now, attempt + 1);
      return keep_waiting(now, false, "the settings change faster than they can be read");
    case Taken::kNoPlace:
    case Taken::kJoined:
      return keep_waiting(now, false, for_what);
    case Taken::kQueueFull:
    case Taken::kNoRow:
      return fail(line_refusal(taken.answer));
  }
  return Granted{Pending{}};
}

// Under the mutex: everything is looked at again in the hold that reserves (P3, P4, P5).
Acquisition::Taken Acquisition::take_place(const LockGuard& lock, std::uint64_t now) {
  if (find_backend(segment_, model_, hash_)) return {};
  const Outlook outlook = read_outlook(segment_, now);
  if (outlook.unknown_settings != 0) return {};  // set just now; the next look says so
  // Settings that changed since the need was derived from them, or models that came since: the next
  // look, at once, knows them.
  if (need_.settings != settings_generation(segment_) || !outlook.is_complete)
    return {Taken::kLookAgain, {}};
  const auto placement = find_turn(outlook.heads, as_waiting(), outlook.room(), outlook.residents);
  if (!placement) return {};
  const Need placed = placed_need(need_, *placement);
  if (const auto reserved =
          reserve(segment_, lock, worker_.ref(), model_, now_ns(), placed, options_.own_group)) {
    return {Taken::kTicket, *reserved};
  }
  // A slot whose backend is gone comes free when its last lease and its ticket have let go.
  const bool none_comes_free = count_live(outlook.residents) >= segment_.capacities().backends;
  return {none_comes_free || now >= options_.deadline_ns ? Taken::kNoSlot : Taken::kNoPlace, {}};
}

// Pending, unless the wait is over. A waiter of a live model joins the line too: its row is where
// the ready wakes it.
Result<Granted> Acquisition::keep_waiting(std::uint64_t now, bool needs_coordinator,
                                          const std::string& for_what) {
  JudgeView judge;
  if (needs_coordinator) judge = look_at_judge(segment_, now);
  const bool absent = needs_coordinator && judge.state != JudgeState::kAnswers;
  if (needs_coordinator && !absent) absent_since_ns_ = 0;
  if (absent && absent_since_ns_ == 0) absent_since_ns_ = now;
  if (absent && (now >= options_.deadline_ns ||
                 age_ns(now, absent_since_ns_) >= options_.coordinator_grace_ns)) {
    return fail(
        refusal(Errc::kNoCoordinator, for_what + ", and " + explain_absence(segment_, judge, now)));
  }
  if (now >= options_.deadline_ns) return fail(refusal(Errc::kTimeout, "timed out: " + for_what));
  if (!row_) {
    if (const Result<> renewed = renew(limits_of(segment_)); !renewed) return fail(renewed.error());
    auto lock = lock_line();
    if (!lock) return fail(lock.error());
    if (const Taken::Answer answer = join_line(*lock, now); answer != Taken::kJoined) {
      lock = tl::unexpected(Error{});  // nothing allocates under the mutex
      return fail(line_refusal(answer));
    }
  }
  return Granted{Pending{}};
}

// A stopped holder holds nobody up for longer than they would wait.
Result<LockGuard> Acquisition::lock_line() const {
  if (options_.only_tries) return lock_for(segment_.lock(), 0);
  const std::uint64_t left_ns = age_ns(options_.deadline_ns, now_ns());
  return lock_for(segment_.lock(), std::clamp(left_ns, kLockWaitMin_ns, kLockWaitMax_ns));
}

// Not under the mutex.
Result<> Acquisition::renew(const Limits& limits) {
  const std::uint64_t generation = settings_generation(segment_);
  const Bytes peak = known_peak();
  if (need_.settings == generation && need_.settings != 0 && peak == need_peak_) return {};
  DerivedNeed derived =
      derive_need(segment_, model_, options_.expected_bytes, limits, options_.tenant);
  if (!derived.unknown_devices.empty()) {
    {
      const auto lock = lock_line();
      if (!lock) return fail(lock.error());
      for (const std::string& uuid : derived.unknown_devices)
        register_device(segment_, *lock, uuid);
    }
    derived = derive_need(segment_, model_, options_.expected_bytes, limits, options_.tenant);
  }
  if (!derived.unknown_devices.empty()) {
    return fail(refusal(Errc::kTableFull,
                        "the pool knows " + std::to_string(kDevicesMax) + " devices already, and " +
                            quote(derived.unknown_devices.front()) + " is none of them"));
  }
  need_ = derived.need;
  need_.settings = generation;
  need_peak_ = peak;
  return {};
}

Waiting Acquisition::as_waiting() const {
  Waiting waiting = waiting_for(need_);
  waiting.model = hash_;
  waiting.arrival = arrival_;
  waiting.groups =
      options_.own_group != 0 ? std::span(&options_.own_group, 1) : prepared_groups(hash_);
  if (row_) {
    waiting.promised =
        promised_devices(segment_.waiter(*row_).room.load(std::memory_order_acquire), arrival_);
  }
  return waiting;
}

Acquisition::Taken::Answer Acquisition::join_line(const LockGuard& lock, std::uint64_t now) {
  register_meter_model(segment_, lock, model_, hash_);
  const std::uint64_t max_waiters = pool_setting(segment_, Setting::kMaxWaiters);
  std::optional<std::uint32_t> place;
  std::uint64_t waiting = 0;
  std::uint64_t model_since_ns = now;
  for (std::uint32_t i = 0; i < segment_.capacities().waiters; ++i) {
    const WaiterRecord& other = segment_.waiter(i);
    const bool waits = low_half(other.state.load(std::memory_order_seq_cst)) != 0;
    waiting += waits ? 1 : 0;
    if (!waits && !place) place = i;
    // acquire, all: written before its state, or by who left under it
    if (other.model_hash.load(std::memory_order_acquire) != hash_) continue;
    const std::uint64_t looked_ns = other.looked_ns.load(std::memory_order_acquire);
    if (!waits && add_ns(looked_ns, kReturnsWithin_ns) <= now) continue;
    model_since_ns = std::min(model_since_ns, other.model_since_ns.load(std::memory_order_acquire));
  }
  if (waiting >= max_waiters) return Taken::kQueueFull;
  if (!place) return Taken::kNoRow;
  Segment::reach(segment_.line().waiters_reached, *place);
  WaiterRecord& row = segment_.waiter(*place);
  const std::uint32_t generation = high_half(row.state.load(std::memory_order_relaxed)) + 1;
  Word& next = segment_.line().next_arrival;
  arrival_ = next.load(std::memory_order_relaxed) + 1;  // relaxed: only under the mutex
  next.store(arrival_, std::memory_order_relaxed);
  row.flags.store(options_.wake_worker ? kWaiterAsync : 0, std::memory_order_release);
  row.owner.store(pack_worker(worker_.ref()), std::memory_order_release);
  row.arrival.store(arrival_, std::memory_order_release);
  row.since_ns.store(now, std::memory_order_release);
  row.deadline_ns.store(options_.deadline_ns, std::memory_order_release);
  row.looked_ns.store(now, std::memory_order_release);
  row.model_since_ns.store(model_since_ns, std::memory_order_release);
  row.room.store(0, std::memory_order_release);
  row.priority.store(options_.priority, std::memory_order_release);
  row.model_hash.store(hash_, std::memory_order_release);
  row.pid.store(worker_.record().pid.load(std::memory_order_relaxed), std::memory_order_release);
  row.tag.store(options_.tag);
  row.model.store(model_);
  row.own_group.store(options_.own_group, arrival_);
  row_ = *place;
  publish_need(lock);
  row_generation_ = generation;
  has_waited_ = true;
  wake_word_.store(&row.wake, std::memory_order_release);
  // seq_cst: whoever changes something after this store sees the row and wakes it
  row.state.store(pack_half(generation, static_cast<std::uint32_t>(WaiterState::kWaiting)),
                  std::memory_order_seq_cst);
  ring(segment_);
  return Taken::kJoined;
}

// "no place is free (2 of 2 in use)"
std::string Acquisition::lack_text(const Outlook& outlook, const Waiting& self) const {
  for (const Resident& resident : outlook.residents) {
    if (resident.serves() && share_a_group(resident.groups, self.groups))
      return escape(segment_.backend(resident.ref.index).model.load()) +
             " is loaded, which shares a group with it";
  }
  if (lacks_devices(self, outlook.limits)) {
    return "it is to be on " + std::to_string(need_.devices) + " of the pool's devices, and " +
           std::to_string(std::popcount(outlook.limits.devices)) + " are known";
  }
  const Amounts missing = outlook.room().missing_for(self);
  if (missing[Resource::kLoads] > 0) {
    return "as many loads are under way as may be at once (max_loads is " +
           std::to_string(outlook.limits.max_loads) + ")";
  }
  const auto size = [](std::int64_t bytes) {
    return format_size(static_cast<std::uint64_t>(bytes));
  };
  if (missing[Resource::kHostBytes] > 0) {
    return "too little memory is free (it takes " + format_size(need_.bytes.host) + ", of " +
           format_size(outlook.limits.max_memory) + " " + size(missing[Resource::kHostBytes]) +
           " are missing)";
  }
  for (std::uint32_t d = 0; d < kDevicesMax; ++d) {
    const std::int64_t lacks = missing[index_of_device(d)];
    if (lacks == 0) continue;
    return "too little memory of a device is free (it takes " +
           format_size(largest_of(need_.bytes.device)) + ", of the " +
           format_size(outlook.limits.device[d].bytes) + " of " + device_name(segment_, d) + " " +
           size(lacks) + " are missing)";
  }
  if (missing[Resource::kPlaces] == 0) {
    return outlook.room().fits(self)
               ? "models whose first request came earlier are to have what is free"
               : "its size is a guess, and so is that of one that is being loaded: one such load "
                 "at a time; give it `memory` (and gpu_memory)";
  }
  return "no place is free (" + std::to_string(count_live(outlook.residents)) + " of " +
         std::to_string(outlook.limits.max_backends) + " in use)";
}

// A tenant shares its name with nobody.
Error Acquisition::name_refusal(BackendRef backend, std::uint64_t now) const {
  const BackendRecord& record = segment_.backend(backend.index);
  const auto number = [](const HalfWord& pid) {
    return std::to_string(pid.load(std::memory_order_acquire));
  };
  if (!is_tenant(segment_, backend)) {
    return refusal(Errc::kNotLoaded, "a model of this name is loaded, process " +
                                         number(record.pid) + "; give the tenant another name");
  }
  return refusal(Errc::kNotLoaded,
                 "no backend serves it: a tenant has this name, process " + number(record.pid) +
                     ", which process " + number(record.owner_pid) + " has run for " +
                     format_age(age_ns(now, record.ready_ns.load(std::memory_order_acquire))) +
                     "; wait for its end, or use another name");
}

Error Acquisition::size_refusal(const Limits& limits) const {
  if (limits.max_memory != 0 && need_.bytes.host > limits.max_memory) {
    return refusal(Errc::kTooLarge, "it takes " + format_size(need_.bytes.host) +
                                        " and max_memory is " + format_size(limits.max_memory) +
                                        "; raise that, or correct its `memory`; if it was "
                                        "measured before and takes less now, `poolctl reset " +
                                        escape(model_) + "`");
  }
  return refusal(Errc::kTooLarge, "it takes " + format_size(largest_of(need_.bytes.device)) +
                                      " of a device, and none that it may be put on has so much; "
                                      "raise the pool's gpu_memory, or correct that of the model");
}

constexpr std::uint32_t kPinnedNamed = 4;
Error Acquisition::pin_refusal(const Outlook& outlook) const {
  std::uint32_t pinned = 0;
  for (const Resident& resident : outlook.residents) pinned += resident.live() && resident.pinned();
  const std::uint32_t live = count_live(outlook.residents);
  const std::string who = pinned == live ? "all " + std::to_string(live) + " backends are pinned"
                                         : std::to_string(pinned) + " of " + std::to_string(live) +
                                               " backends are pinned and leave too little";
  std::string names;
  std::uint32_t named = 0;
  for (const Resident& resident : outlook.residents) {
    if (!resident.live() || !resident.pinned() || named == kPinnedNamed) continue;
    names +=
        (named++ == 0 ? ": " : ", ") + escape(segment_.backend(resident.ref.index).model.load());
  }
  if (named < pinned) names += "...";
  return refusal(
      Errc::kAllPinned,
      who + names + "; unpin one or raise " +
          (outlook.limits.max_memory == 0 && outlook.limits.devices == 0 ? "max_backends"
                                                                         : "the limits"));
}

Error Acquisition::line_refusal(Taken::Answer answer) const {
  if (answer == Taken::kQueueFull) {
    return refusal(Errc::kQueueFull, std::to_string(pool_setting(segment_, Setting::kMaxWaiters)) +
                                         " are waiting already (max_waiters)");
  }
  return refusal(Errc::kTableFull,
                 "all " + std::to_string(segment_.capacities().waiters) +
                     " waiter rows are taken; create the pool with more --waiters");
}

Error Acquisition::settings_refusal(std::uint64_t unknown) const {
  return refusal(Errc::kIncompatible,
                 "the pool uses " + settings_text(unknown, read_pool_settings(segment_)) +
                     ", which this program does not know; it must be of a newer version "
                     "to load models");
}

void Acquisition::leave(bool granted) {
  if (!row_) return;
  free_row(granted);
  if (granted) return;
  wake_first(segment_, hash_);  // what this one was woken for can be had by the next now
  wake_line(segment_);
  ring(segment_);
}

// A backend that counts its leases since this one began counts the row beside it until now.
void Acquisition::free_granted_row(BackendRef backend) {
  free_row(true);
  if (load_state(segment_, backend.index).owner == StateWord::kCounted) {
    wake_next_if_free(segment_, backend, hash_);
  }
}

void Acquisition::free_row(bool granted) {
  std::uint64_t waiting =
      pack_half(row_generation_, static_cast<std::uint32_t>(WaiterState::kWaiting));
  // Who was served has nothing to go on with (join_line).
  if (granted) segment_.waiter(*row_).looked_ns.store(0, std::memory_order_release);
  // CAS: a coordinator that took us for dead may have freed the row already
  segment_.waiter(*row_).state.compare_exchange_strong(waiting, pack_half(row_generation_, 0),
                                                       std::memory_order_seq_cst);
  forget_row();
}

void Acquisition::forget_row() {
  wake_word_.store(&own_wake_, std::memory_order_release);
  row_.reset();
  arrival_ = kNever_ns;
}

Error Acquisition::refusal(Errc code, const std::string& why) const {
  return Error{code, "unable to acquire " + escape(model_) + ": " + why, 0, 0};
}

}  // namespace modelpool
