#include "modelpool/pool.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "base/name.hpp"
#include "base/nearest.hpp"
#include "base/text_values.hpp"
#include "base/time.hpp"
#include "pool/change_settings.hpp"
#include "pool/inside.hpp"
#include "pool/known_models.hpp"
#include "pool/wait_fd.hpp"
#include "protocol/exit_report.hpp"
#include "protocol/histories.hpp"
#include "protocol/pins.hpp"
#include "protocol/settings_change.hpp"
#include "rows/rows.hpp"
#include "segment/futex.hpp"
#include "segment/place.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

Result<> check_need(std::string_view model, const TenantNeed& need) {
  const auto refuse = [&](const std::string& why) {
    return fail(Errc::kInvalid, "unable to acquire " + escape(model) + ": " + why);
  };
  if (need.devices > kDevicesMax) {
    return refuse("a tenant is on at most " + std::to_string(kDevicesMax) + " devices, not " +
                  std::to_string(need.devices));
  }
  if (need.group.empty()) return {};
  const auto groups = parse_groups(need.group);
  if (!groups || groups->size() != 1 || groups->front() != need.group)
    return refuse(quote(need.group) + " is not the name of one group");
  return {};
}

Result<> check_request(std::string_view model, const AcquireOptions& options) {
  if (auto ok = check_model_name(model); !ok) return ok;
  if (auto ok = check_tag(options.tag); !ok) return ok;
  if (options.busy_timeout.count() < 0) {
    return fail(Errc::kInvalid,
                "unable to acquire " + escape(model) + ": busy_timeout is negative, or no number");
  }
  return options.tenant ? check_need(model, *options.tenant) : Result<>();
}

tl::unexpected<Error> closed(std::string_view what) {
  return fail(Errc::kClosed, "unable to use this " + std::string(what) +
                                 ": it is closed, or was inherited through fork");
}

// Does this process hold anything of a backend that lives?
bool holds_anything(const Worker& worker) {
  const Segment& segment = worker.segment();
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    const StateWord state = load_state(segment, i);
    const BackendRef ref{i, state.generation};
    const bool is_held = state.state == BackendState::kReserved ||
                         state.state == BackendState::kStarting ||
                         (is_live(state.state) && is_tenant(segment, ref));
    if (is_held && load_holder(segment, ref) == pack_worker(worker.ref())) return true;
  }
  const std::uint32_t cells = worker.record().leases_high.load(std::memory_order_seq_cst);
  for (std::uint32_t i = 0; i < std::min(cells, segment.capacities().leases); ++i) {
    const LeaseWord lease = LeaseWord::unpack(worker.lease(i).word.load(std::memory_order_seq_cst));
    if (lease.generation == 0 || lease.backend >= segment.capacities().backends) continue;
    const StateWord state = load_state(segment, lease.backend);
    if (state.generation == lease.generation && is_live(state.state)) return true;
  }
  return false;
}

// Between two looks for the pool that has a lost name.
constexpr std::uint64_t kMovePauseMin_ns = 20 * kMillisecond_ns;
constexpr std::uint64_t kMovePauseMax_ns = 500 * kMillisecond_ns;

}  // namespace

// --- Pool ----------------------------------------------------------------------------------------

std::uint64_t Deadline::at_ns() const {
  if (!relative_) return ns_;
  return ns_ == 0 ? 0 : add_ns(now_ns(), ns_);
}

struct Pool::Impl {
  std::string name;
  PoolOptions options;
  std::unique_ptr<ForkGuard> guard;  // its mutex makes attachers take turns, in a child too
  // Of the pool that has the name, or had it last. Set before anyone else sees this, never null
  // again.
  std::atomic<Worker*> worker{nullptr};
  std::atomic<bool> closed{false};
  std::atomic<WaitFd*> waits{nullptr};                // of this process, or of one that forked it
  std::vector<std::shared_ptr<WaitFd>> kept_waits{};  // under the mutex: waits out may name them
  // Under the mutex: when the name is looked up again, and why the last time was in vain.
  std::uint64_t next_move_ns = 0;
  std::uint64_t move_pause_ns = 0;
  Error no_move;

  // acquire: pairs with the release below, which published the Worker
  Worker* latest() const { return worker.load(std::memory_order_acquire); }
  // Mapped for as long as the process lives, whatever other threads do.
  const Segment& segment() const { return latest()->segment(); }

  // The row of this process, if it has one.
  Worker* present() const {
    Worker* current = latest();
    return current->owned() && !closed.load(std::memory_order_relaxed) ? current : nullptr;
  }
  // The same, attached again after fork.
  Result<Worker*> attached() {
    if (Worker* current = present(); current != nullptr) return current;
    if (closed.load(std::memory_order_relaxed)) return modelpool::closed("pool");
    pthread_mutex_lock(&guard->mutex());
    Result<Worker*> result = latest();
    if (!(*result)->owned()) result = adopt(Worker::attach((*result)->shared_segment()));
    pthread_mutex_unlock(&guard->mutex());
    return result;
  }
  // The waits of this process, of whose worker rows this is one.
  WaitFd& own_waits(const Worker& own) {
    // acquire: pairs with the release below, which published it
    WaitFd* found = waits.load(std::memory_order_acquire);
    if (found != nullptr && found->owned()) return *found;
    auto made = std::make_shared<WaitFd>(own);
    pthread_mutex_lock(&guard->mutex());
    found = waits.load(std::memory_order_relaxed);
    if (found == nullptr || !found->owned()) {
      found = made.get();
      found->watch(*latest());
      kept_waits.push_back(std::move(made));
      waits.store(found, std::memory_order_release);
    }
    pthread_mutex_unlock(&guard->mutex());
    return *found;
  }
  // Is this process where the pool's PIDs mean something? A child may be in another namespace.
  Result<> check_usable() const {
    if (closed.load(std::memory_order_relaxed)) return modelpool::closed("pool");
    return latest()->owned() ? Result<>() : check_host(segment().header(), segment().path());
  }

  // From a pool that has lost its name to the one that has it now. Errors: why there is none yet.
  // Looks for it more and more seldom, however often it is called; waits for no lock.
  Result<Worker*> move_on(const Segment& lost) {
    if (closed.load(std::memory_order_relaxed)) return modelpool::closed("pool");
    pthread_mutex_lock(&guard->mutex());
    Result<Worker*> result = latest();
    const bool is_still_there = &(*result)->segment() == &lost && lost.is_replaced();
    if (is_still_there && now_ns() < next_move_ns) {
      result = modelpool::fail(no_move);
    } else if (is_still_there) {
      result = adopt(attach_successor(**result));
      note_move(result);
    }
    pthread_mutex_unlock(&guard->mutex());
    return result;
  }
  // For calls that change or show the pool and do not wait.
  void follow_name() {
    if (segment().is_replaced() && latest()->owned()) static_cast<void>(move_on(segment()));
  }

  AcquisitionOptions acquisition_options(Deadline deadline, const AcquireOptions& asked) const {
    AcquisitionOptions result;
    result.tag = asked.tag;
    result.deadline_ns = deadline.at_ns();
    result.busy_limit_ns = static_cast<std::uint64_t>(asked.busy_timeout.count());
    result.keep_alive = keep_alive_word(asked.keep_alive);
    result.expected_bytes = asked.expected_bytes;
    result.priority = asked.priority;
    result.coordinator_grace_ns =
        static_cast<std::uint64_t>(std::max<std::int64_t>(0, options.coordinator_grace.count()));
    result.may_load = asked.may_load;
    if (asked.tenant) {
      result.is_tenant = true;
      result.tenant = {asked.tenant->memory_bytes, asked.tenant->devices,
                       asked.tenant->device_bytes};
      if (!asked.tenant->group.empty()) result.own_group = hash_name(asked.tenant->group);
    }
    return result;
  }

  struct Loaded {
    const Segment& segment;
    BackendRef ref;
  };
  Result<Loaded> find_loaded(std::string_view verb, std::string_view model) {
    if (auto ok = check_model_name(model); !ok) return fail(ok.error());
    if (auto ok = check_usable(); !ok) return fail(ok.error());
    for (const bool is_first : {true, false}) {
      const Segment& current = segment();
      if (const auto found = find_backend(current, model)) return Loaded{current, found->ref};
      if (is_first) follow_name();
    }
    return fail(Errc::kNotLoaded,
                "unable to " + std::string(verb) + " " + escape(model) + ": no backend serves it");
  }
  // And not one that is being stopped: nothing that is said of it has an effect any more.
  Result<Loaded> find_serving(std::string_view verb, std::string_view model) {
    auto found = find_loaded(verb, model);
    if (!found || load_state(found->segment, found->ref.index).state != BackendState::kStopping)
      return found;
    return fail(Errc::kNotLoaded, "unable to " + std::string(verb) + " " + escape(model) +
                                      ": its backend is being stopped");
  }
  static Result<> change_control(const Result<Loaded>& found, std::uint32_t set,
                                 std::uint32_t clear) {
    if (!found) return fail(found.error());
    set_control(found->segment, found->ref, set, clear);
    ring(found->segment);
    return {};
  }

 private:
  Result<Worker*> adopt(Result<Worker*> made) {
    if (!made) return made;
    worker.store(*made, std::memory_order_release);
    if (WaitFd* found = waits.load(std::memory_order_acquire); found != nullptr && found->owned())
      found->watch(**made);
    return made;
  }
  Result<Worker*> attach_successor(Worker& current);
  void note_move(const Result<Worker*>& result) {
    move_pause_ns = result ? 0 : std::clamp(2 * move_pause_ns, kMovePauseMin_ns, kMovePauseMax_ns);
    next_move_ns = now_ns() + move_pause_ns;
    if (!result) no_move = result.error();
  }
};

Result<Worker*> Pool::Impl::attach_successor(Worker& current) {
  const Segment& lost = current.segment();
  if (holds_anything(current)) {
    return modelpool::fail(Errc::kBusy, "this process still holds leases or tickets in it");
  }
  std::uint64_t generation = 0;  // 0: it never had settings
  const Settings settings = load_settings(lost, &generation);
  SegmentOptions where;
  where.dir =
      lost.path().substr(0, lost.path().rfind('/'));  // where it was, whatever is default now
  where.capacities = lost.capacities();
  where.settings = generation == 0 ? nullptr : &settings;
  where.wait_ns = 0;
  // The last of it must have gone before anything begins anew; who creates proves it once more.
  where.create =
      options.create && count_live(lost) == 0 && coordinator_liveness(lost) == Liveness::kDead;
  auto next = Segment::attach(name, where);
  if (!next) return modelpool::fail(next.error());
  if (next->get() == &lost) {
    return modelpool::fail(Errc::kBusy,
                           coordinator_liveness(lost) == Liveness::kDead
                               ? "it has its name again, but no coordinator; start " +
                                     command_on_pool("coordinatord", lost.name(), where.dir)
                               : std::string("its coordinator is about to leave"));
  }
  auto made = Worker::attach(std::move(*next));
  if (made) current.close();
  return made;
}

// --- PendingAcquire ------------------------------------------------------------------------------

// One acquire, in the pool that has the name. When that loses it the wait goes on in the next one.
struct PendingAcquire::State {
  State(std::shared_ptr<Pool::Impl> pool_of, Worker& first, std::string name,
        AcquisitionOptions options, const AcquireOptions& given)
      : pool_(std::move(pool_of)),
        model_(std::move(name)),
        asked_(std::move(options)),
        given_(given) {
    if (asked_.wake_worker) {
      waits_ = &pool_->own_waits(first);
      // One that was never polled is due. Of a try the first poll follows at once.
      wait_ = waits_->add(asked_.only_tries ? now_ns() + kLookEvery_ns : 0);
    }
    begin(first);
  }
  ~State() {
    if (waits_ != nullptr && waits_->owned()) waits_->remove(wait_);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  Result<std::optional<Grant>> poll() {
    auto polled = look();
    if (waits_ != nullptr && waits_->owned())
      waits_->set_due(wait_, polled && !*polled ? due_ns() : kNever_ns);
    return polled;
  }

  Result<std::optional<Grant>> look() {
    for (;;) {
      // Read the word, then look: cancel bumps it.
      seen_wake_ = between_wake_.load(std::memory_order_seq_cst);
      if (Acquisition* now = current_.load(std::memory_order_relaxed); now != nullptr) {
        auto granted = now->poll();
        const bool is_ticket = granted && std::holds_alternative<TicketRef>(*granted);
        // Looked at after the reservation: a pool that lost its name before it has none (lost.hpp).
        if (is_ticket && worker_->segment().is_replaced()) {
          static_cast<void>(LoadTicket(std::get<TicketRef>(*granted), model_, given_).give_back());
        } else if (granted) {
          return to_grant(*granted);
        } else if (granted.error().code != Errc::kReplaced) {
          return fail(granted.error());
        }
        current_.store(nullptr, std::memory_order_seq_cst);
      }
      if (!worker_->owned()) return closed("wait");
      if (cancelled_.load(std::memory_order_seq_cst)) return refuse(Errc::kCancelled, "cancelled");
      auto next = pool_->move_on(worker_->segment());
      if (next) {
        begin(**next);
        continue;
      }
      if (now_ns() < asked_.deadline_ns) return std::optional<Grant>();
      return refuse(
          Errc::kReplaced,
          "the pool " + escape(worker_->segment().path()) +
              " has lost its name (it was removed, moved or covered), and there is no other "
              "yet: " +
              next.error().text);
    }
  }

  void wait(std::uint64_t at_most_ns) {
    if (Acquisition* now = current_.load(std::memory_order_relaxed); now != nullptr)
      return now->wait(at_most_ns);
    const std::uint64_t now = now_ns();
    const std::uint64_t until =
        std::min({add_ns(now, at_most_ns), now + kMovePauseMin_ns, asked_.deadline_ns});
    futex_wait(between_wake_, seen_wake_, until);
  }

  bool was_woken() const {
    const Acquisition* now = current_.load(std::memory_order_relaxed);
    return now == nullptr || now->was_woken();
  }

  void set_deadline(std::uint64_t deadline_ns) {
    asked_.deadline_ns = deadline_ns;
    Acquisition* now = current_.load(std::memory_order_relaxed);
    if (now != nullptr && worker_->owned()) now->set_deadline(deadline_ns);
    if (waits_ != nullptr && waits_->owned()) waits_->set_due(wait_, due_ns());
  }

  void set_tag(std::string_view tag) {
    asked_.tag = tag;
    Acquisition* now = current_.load(std::memory_order_relaxed);
    if (now != nullptr) now->set_tag(tag);
  }

  void cancel() {
    cancelled_.store(true, std::memory_order_seq_cst);
    if (Acquisition* now = current_.load(std::memory_order_seq_cst); now != nullptr) now->cancel();
    between_wake_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake_all(between_wake_);
    if (waits_ != nullptr && waits_->owned()) waits_->call(wait_);
  }

 private:
  std::uint64_t due_ns() const {
    if (const Acquisition* now = current_.load(std::memory_order_relaxed); now != nullptr)
      return now->due_ns();
    return std::min(now_ns() + kMovePauseMin_ns, asked_.deadline_ns);
  }
  void begin(Worker& in) {
    worker_ = &in;
    begun_.push_back(std::make_unique<Acquisition>(in, model_, asked_));
    current_.store(begun_.back().get(), std::memory_order_seq_cst);
    // seq_cst, both: cancel sees this acquisition, or this load sees cancel
    if (cancelled_.load(std::memory_order_seq_cst)) begun_.back()->cancel();
  }
  std::optional<Grant> to_grant(const Granted& granted) const {
    if (auto* lease = std::get_if<LeaseRef>(&granted))
      return Grant(as_asked(Lease(*lease), given_.cancellable, given_.on_cancel));
    if (auto* ticket = std::get_if<TicketRef>(&granted))
      return Grant(LoadTicket(*ticket, model_, given_));
    return std::nullopt;
  }
  tl::unexpected<Error> refuse(Errc code, const std::string& why) const {
    return fail(code, "unable to acquire " + escape(model_) + ": " + why);
  }

  std::shared_ptr<Pool::Impl> pool_;
  std::string model_;
  AcquisitionOptions asked_;
  AcquireOptions given_;
  Worker* worker_ = nullptr;
  std::vector<std::unique_ptr<Acquisition>>
      begun_;                                   // cancel() may be in an earlier one: all are kept
  std::atomic<Acquisition*> current_{nullptr};  // nullptr: between two pools
  std::atomic<bool> cancelled_{false};
  WaitFd* waits_ = nullptr;  // kept by the pool
  WaitFd::Wait wait_;
  HalfWord between_wake_{0};
  std::uint32_t seen_wake_ = 0;
};

PendingAcquire::PendingAcquire(std::unique_ptr<State> state) : state_(std::move(state)) {}
PendingAcquire::PendingAcquire(PendingAcquire&&) noexcept = default;
PendingAcquire& PendingAcquire::operator=(PendingAcquire&&) noexcept = default;
PendingAcquire::~PendingAcquire() = default;

Result<std::optional<Grant>> PendingAcquire::poll() {
  return state_ ? state_->poll() : closed("wait");
}

void PendingAcquire::wait(Duration at_most) {
  if (state_) state_->wait(static_cast<std::uint64_t>(std::max<std::int64_t>(0, at_most.count())));
}

bool PendingAcquire::was_woken() const { return state_ && state_->was_woken(); }

void PendingAcquire::set_deadline(Deadline deadline) {
  if (state_) state_->set_deadline(deadline.at_ns());
}

Result<> PendingAcquire::set_tag(std::string_view tag) {
  if (auto ok = check_tag(tag); !ok) return ok;
  if (state_) state_->set_tag(tag);
  return {};
}

void PendingAcquire::cancel() {
  if (state_) state_->cancel();
}

Pool::Pool(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Pool::Pool(Pool&&) noexcept = default;
Pool& Pool::operator=(Pool&& other) noexcept {
  if (this != &other) {
    close();
    impl_ = std::move(other.impl_);
  }
  return *this;
}
Pool::~Pool() { close(); }

void Pool::close() {
  if (!impl_ || impl_->closed.exchange(true)) return;
  if (WaitFd* found = impl_->waits.load(std::memory_order_acquire);
      found != nullptr && found->owned())
    found->stop();
  impl_->latest()->close();
}

Result<Pool> Pool::attach(std::string_view name, const PoolOptions& options) {
  SegmentOptions where;
  where.dir = options.dir;
  where.create = options.create;
  where.capacities = options.capacities;
  where.settings = options.settings;
  auto segment = Segment::attach(name, where);
  if (!segment) return fail(segment.error());
  auto guard = ForkGuard::make();
  if (!guard) return fail(guard.error());
  auto worker = Worker::attach(std::move(*segment),
                               add_ns(now_ns(), static_cast<std::uint64_t>(std::max<std::int64_t>(
                                                    0, options.attach_timeout.count()))));
  if (!worker) return fail(worker.error());
  auto impl = std::make_shared<Impl>();
  impl->name = name;
  impl->options = options;
  impl->options.settings = nullptr;
  impl->guard = std::move(*guard);
  impl->worker.store(*worker, std::memory_order_release);
  return Pool(std::move(impl));
}

Result<Grant> Pool::acquire(std::string_view model, Deadline deadline,
                            const AcquireOptions& options) {
  return Inside::acquire<Grant, false>(*this, model, deadline, options);
}

Result<Attempt> Pool::try_acquire(std::string_view model, Deadline deadline,
                                  const AcquireOptions& options) {
  return Inside::acquire<Attempt, false>(*this, model, deadline, options);
}

Result<Grant> acquire_if_loaded(Pool& pool, std::string_view model, AcquireOptions options) {
  options.may_load = false;
  return Inside::acquire<Grant, true>(pool, model, std::chrono::nanoseconds(0), options);
}

template <class Answer, bool is_a_try>
Result<Answer> Inside::acquire(Pool& pool, std::string_view model, Deadline deadline,
                               const AcquireOptions& options) {
  if (!pool.impl_) return closed("pool");
  const std::uint64_t hash = hash_name(model);
  if (Worker* worker = pool.impl_->present(); worker != nullptr) [[likely]] {
    KnownModels* models = known_models();
    const BackendRef* known =
        models == nullptr ? nullptr : models->find(KnownModels::key(*worker, hash));
    // One with a keep_alive goes the longer way, so that those without pay nothing once their lease
    // is published.
    const bool plain = !options.keep_alive && !options.tenant &&
                       options.busy_timeout.count() >= 0 &&
                       (options.tag.empty() || check_tag(options.tag));
    if (known != nullptr && plain) {
      const BackendRecord& record = worker->segment().backend(known->index);
      // Before the lease is published: no load behind that store begins until it is done.
      __builtin_prefetch(&record.state);
      __builtin_prefetch(&record.model);
      LeaseRef lease;
      if (begin_lease(*worker, *known, static_cast<std::uint64_t>(options.busy_timeout.count()),
                      options.tag, &lease) == BeginResult::kGranted) {
        if (record.model.equals(model)) [[likely]] {
          if (!options.cancellable && !options.on_cancel) [[likely]] {
            return Answer(Lease(lease));
          }
          return Answer(as_asked(Lease(lease), options.cancellable, options.on_cancel));
        }
        withdraw_lease(lease);
      }
    }
  }
  if constexpr (std::is_same_v<Answer, Attempt>) {
    auto pending = begin_acquire(pool, model, deadline, options, {true, false, true});
    if (!pending) return fail(pending.error());
    auto polled = pending->poll();
    if (!polled) return fail(polled.error());
    if (!*polled) return Answer(std::move(*pending));
    if (auto* lease = std::get_if<Lease>(&**polled)) remember(hash, *lease);
    return std::visit([](auto& granted) { return Answer(std::move(granted)); }, **polled);
  } else {
    return wait_for(pool, model, deadline, options, is_a_try);
  }
}

Result<Grant> Inside::wait_for(Pool& pool, std::string_view model, Deadline deadline,
                               const AcquireOptions& options, bool is_a_try) {
  auto pending = begin_acquire(pool, model, deadline, options, {false, is_a_try, false});
  if (!pending) return fail(pending.error());
  const std::stop_callback on_stop(options.stop, [&pending] { pending->cancel(); });
  for (;;) {
    auto polled = pending->poll();
    if (!polled) return fail(polled.error());
    if (polled->has_value()) {
      if (auto* lease = std::get_if<Lease>(&**polled)) remember(hash_name(model), *lease);
      return std::move(**polled);
    }
    pending->wait();
  }
}

void Inside::remember(std::uint64_t hash, const Lease& lease) {
  KnownModels* models = known_models();
  if (models == nullptr) return;
  const Worker& worker = *lease.ref_->worker;
  const BackendRef backend = lease.ref_->backend;
  const std::uint64_t key = KnownModels::key(worker, hash);
  // One that counts its leases grants none in passing: a try would be counted by others.
  if (load_state(worker.segment(), backend.index).owner == StateWord::kCounted) {
    models->forget(key);
  } else {
    models->put(key, backend);
  }
}

Result<PendingAcquire> Pool::begin_acquire(std::string_view model, Deadline deadline,
                                           const AcquireOptions& options) {
  return Inside::begin_acquire(*this, model, deadline, options, {true, false, false});
}

Result<int> Pool::wait_fd() {
  if (!impl_) return closed("pool");
  auto worker = impl_->attached();
  if (!worker) return fail(worker.error());
  return impl_->own_waits(**worker).open();
}

Result<PendingAcquire> Inside::begin_acquire(Pool& pool, std::string_view model, Deadline deadline,
                                             const AcquireOptions& options, Begin how) {
  if (!pool.impl_) return closed("pool");
  if (auto ok = check_request(model, options); !ok) return fail(ok.error());
  auto worker = pool.impl_->attached();
  if (!worker) return fail(worker.error());
  AcquisitionOptions asked = pool.impl_->acquisition_options(deadline, options);
  asked.wake_worker = how.wake_worker;
  asked.is_a_try = how.is_a_try;
  asked.only_tries = how.only_tries;
  return PendingAcquire(std::make_unique<PendingAcquire::State>(
      pool.impl_, **worker, std::string(model), std::move(asked), options));
}

Result<> Pool::touch(std::string_view model) {
  if (!impl_) return closed("pool");
  auto worker = impl_->attached();
  if (!worker) return fail(worker.error());
  const Segment& segment = (*worker)->segment();
  const auto serves_it = [&](BackendRef ref) {
    const StateWord state = load_state(segment, ref.index);
    // One that is STOPPING may be overdue, and another may serve its model by now.
    return state.generation == ref.generation && is_live(state.state) &&
           state.state != BackendState::kStopping && segment.backend(ref.index).model.equals(model);
  };
  const std::uint64_t key = KnownModels::key(**worker, hash_name(model));
  KnownModels* models = known_models();
  const BackendRef* known = models == nullptr ? nullptr : models->find(key);
  std::uint32_t index;
  if (known != nullptr && serves_it(*known)) {
    index = known->index;
  } else {
    auto found = impl_->find_serving("touch", model);
    if (!found) return fail(found.error());
    if (&found->segment != &segment) return touch(model);  // in the next pool of that name
    if (models != nullptr) models->put(key, found->ref);
    index = found->ref.index;
  }
  // Precise: a touch right after another model became ready is later than that.
  raise_last_used((*worker)->last_used(index), now_ns());
  return {};
}

Result<> Pool::pin(std::string_view model) {
  if (!impl_) return closed("pool");
  return impl_->change_control(impl_->find_serving("pin", model), kControlPinned, 0);
}

Result<> Pool::unpin(std::string_view model) {
  if (!impl_) return closed("pool");
  const auto found = impl_->find_serving("unpin", model);
  if (!found) return fail(found.error());
  auto unpinned = modelpool::unpin(found->segment, found->ref);
  ring(found->segment);
  return unpinned;
}

Result<> Pool::evict(std::string_view model, bool force) {
  if (!impl_) return closed("pool");
  return impl_->change_control(impl_->find_loaded("evict", model),
                               kControlEvict | (force ? kControlForce : 0), 0);
}

Result<> Pool::reset(std::string_view model) {
  if (!impl_) return closed("pool");
  if (auto ok = impl_->check_usable(); !ok) return ok;
  impl_->follow_name();
  if (auto forgotten = reset_failures(impl_->segment(), model); !forgotten)
    return fail(forgotten.error());
  return {};
}

Result<std::uint32_t> Pool::limit() {
  if (!impl_) return closed("pool");
  if (auto ok = impl_->check_usable(); !ok) return fail(ok.error());
  impl_->follow_name();
  return static_cast<std::uint32_t>(pool_setting(impl_->segment(), Setting::kMaxBackends));
}

Result<> Pool::set_limit(std::uint32_t max_backends) {
  return set("max_backends", std::to_string(max_backends));
}

Result<> Pool::set(std::string_view name, std::string_view value) {
  if (!impl_) return closed("pool");
  return set({{std::string(name), std::string(value)}});
}

Result<> Pool::set(const std::vector<std::pair<std::string, std::string>>& values) {
  if (!impl_) return closed("pool");
  if (auto ok = impl_->check_usable(); !ok) return fail(ok.error());
  impl_->follow_name();
  return change_settings(impl_->segment(), values, Origin{OriginKind::kSet, 0});
}

Result<PoolSnapshot> Pool::snapshot() {
  auto seen = look_inside(*this);
  if (!seen) return fail(seen.error());
  return pool_snapshot(impl_->segment(), *seen);
}

Result<ModelLook> Pool::look(std::string_view model) {
  if (!impl_) return closed("pool");
  if (auto ok = check_model_name(model); !ok) return fail(ok.error());
  if (auto ok = impl_->check_usable(); !ok) return fail(ok.error());
  impl_->follow_name();
  return model_look(impl_->segment(), model);
}

Result<std::string> Pool::exit_words(BackendId backend) {
  if (!impl_) return closed("pool");
  if (auto ok = impl_->check_usable(); !ok) return fail(ok.error());
  return shown(exit_report(impl_->segment(), {backend.slot, backend.generation}));
}

Result<Capacities> Pool::capacities() {
  if (!impl_) return closed("pool");
  if (auto ok = impl_->check_usable(); !ok) return fail(ok.error());
  impl_->follow_name();
  return impl_->segment().capacities();
}

void Pool::count(const HttpRequest& request) {
  const Worker* const worker = impl_ ? impl_->present() : nullptr;
  if (worker == nullptr) return;
  const MeterRow& meters = worker->meters();
  const auto digit = static_cast<std::uint32_t>(std::clamp(request.status, 0, 599)) / 100;
  meters.add(Meter::kHttpRequests,
             find_meter_model(worker->segment(), request.model, hash_name(request.model)), digit);
  meters.observe(Meter::kHttpTime, static_cast<std::uint64_t>(request.took.count()));
  if (request.first_byte)
    meters.observe(Meter::kHttpFirstByte, static_cast<std::uint64_t>(request.first_byte->count()));
  meters.add(Meter::kHttpReceived, kMeterOther, 0, request.received_bytes);
  meters.add(Meter::kHttpSent, kMeterOther, 0, request.sent_bytes);
}

Result<std::vector<EventRow>> Pool::events(std::uint64_t first) {
  return events(first, std::chrono::nanoseconds(0));
}

Result<std::vector<EventRow>> Pool::events(std::uint64_t first, Deadline deadline) {
  for (const std::uint64_t until = deadline.at_ns();;) {
    if (!impl_) return closed("pool");
    if (auto ok = impl_->check_usable(); !ok) return fail(ok.error());
    impl_->follow_name();
    const Segment& segment = impl_->segment();
    const HalfWord& bell = segment.coordinator().event_bell;
    // The bell first: an event written after this read has rung it, and the wait returns at once.
    // acquire: pairs with the coordinator's bump, made after the event was written
    const std::uint32_t seen = bell.load(std::memory_order_acquire);
    std::vector<EventRow> rows = event_rows(segment, first);
    const std::uint64_t now = now_ns();
    if (!rows.empty() || now >= until) return rows;
    // Not longer: the pool may lose its name, or be closed.
    futex_wait(bell, seen, std::min(until, now + kSecond_ns));
  }
}

// --- Inside --------------------------------------------------------------------------------------

std::shared_ptr<Segment> Inside::shared_segment(const Pool& pool) {
  return pool.impl_->latest()->shared_segment();
}

const Segment& Inside::segment(const Pool& pool) { return pool.impl_->segment(); }

Result<Snapshot> Inside::snapshot(const Pool& pool) {
  if (!pool.impl_) return closed("pool");
  if (auto ok = pool.impl_->check_usable(); !ok) return fail(ok.error());
  pool.impl_->follow_name();
  SnapshotReader reader(pool.impl_->latest()->shared_segment());
  return reader.read();
}

Result<const HalfWord*> Inside::wake_word(Pool& pool) {
  if (!pool.impl_) return closed("pool");
  auto worker = pool.impl_->attached();
  if (!worker) return fail(worker.error());
  return &(*worker)->record().wake;
}

// --- Settings ------------------------------------------------------------------------------------

Result<std::vector<SettingEntry>> parse_changes(
    const std::vector<std::pair<std::string, std::string>>& values, Origin origin) {
  std::vector<SettingEntry> parsed;
  for (const auto& [name, text] : values) {
    const SettingInfo* info = find_setting(name);
    if (info == nullptr) {
      return fail(Errc::kInvalid, "unable to set " + quote(name) + ": " + no_such_setting(name));
    }
    auto entry = parse_entry(*info, text, origin);
    if (!entry) return fail(entry.error());
    if (info->id == Setting::kGpuMemory && !is_pools_gpu_memory(entry->text)) {
      return fail(Errc::kInvalid, "unable to set gpu_memory to " + quote(text) + ": " +
                                      std::string(kPoolsGpuMemory));
    }
    const auto is_same = [info](const SettingEntry& other) { return other.id == info->id; };
    if (std::any_of(parsed.begin(), parsed.end(), is_same)) {
      return fail(Errc::kInvalid,
                  "unable to set " + std::string(info->name) + " twice at once; give it one value");
    }
    parsed.push_back(std::move(*entry));
  }
  return parsed;
}

Result<> change_settings(const Segment& segment,
                         const std::vector<std::pair<std::string, std::string>>& values,
                         Origin origin) {
  const auto parsed = parse_changes(values, origin);
  if (!parsed) return fail(parsed.error());
  const auto edited = edit_settings(segment, kLockWaitMax_ns, [&](Settings& settings) {
    for (const SettingEntry& entry : *parsed) settings.pool.set(entry);
  });
  if (!edited) return edited;
  wake_everyone(segment);
  ring(segment);
  return {};
}

}  // namespace modelpool
