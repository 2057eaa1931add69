#include "modelpool/pool.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "base/nearest.hpp"
#include "base/time.hpp"
#include "pool/change_settings.hpp"
#include "pool/inside.hpp"
#include "pool/known_models.hpp"
#include "protocol/histories.hpp"
#include "rows/rows.hpp"

namespace modelpool {
namespace {

Result<> check_request(std::string_view model, const AcquireOptions& options) {
  if (auto ok = check_model_name(model); !ok) return ok;
  if (auto ok = check_tag(options.tag); !ok) return ok;
  if (options.busy_timeout.count() < 0) {
    return fail(Errc::kInvalid,
                "unable to acquire " + escape(model) + ": busy_timeout is negative, or no number");
  }
  return {};
}

tl::unexpected<Error> closed(std::string_view what) {
  return fail(Errc::kClosed, "unable to use this " + std::string(what) +
                                 ": it is closed, or was inherited through fork");
}

}  // namespace

// --- PendingAcquire ------------------------------------------------------------------------------

struct PendingAcquire::State {
  State(Worker& worker, std::string name, AcquisitionOptions options)
      : tag(options.tag),
        busy_limit_ns(options.busy_limit_ns),
        model(name),
        acquisition(worker, std::move(name), std::move(options)) {}
  std::string tag;
  std::uint64_t busy_limit_ns;
  std::string model;
  Acquisition acquisition;
};

PendingAcquire::PendingAcquire(std::unique_ptr<State> state) : state_(std::move(state)) {}
PendingAcquire::PendingAcquire(PendingAcquire&&) noexcept = default;
PendingAcquire& PendingAcquire::operator=(PendingAcquire&&) noexcept = default;
PendingAcquire::~PendingAcquire() = default;

Result<std::optional<Grant>> PendingAcquire::poll() {
  if (!state_) return closed("wait");
  auto granted = state_->acquisition.poll();
  if (!granted) return fail(granted.error());
  if (auto* lease = std::get_if<LeaseRef>(&*granted)) return std::optional<Grant>(Lease(*lease));
  if (auto* ticket = std::get_if<TicketRef>(&*granted)) {
    return std::optional<Grant>(
        LoadTicket(*ticket, state_->model, state_->tag, state_->busy_limit_ns));
  }
  return std::optional<Grant>();
}

void PendingAcquire::wait(Duration at_most) {
  if (state_)
    state_->acquisition.wait(
        static_cast<std::uint64_t>(std::max<std::int64_t>(0, at_most.count())));
}

bool PendingAcquire::was_woken() const { return state_ && state_->acquisition.was_woken(); }

void PendingAcquire::cancel() {
  if (state_) state_->acquisition.cancel();
}

// --- Pool ----------------------------------------------------------------------------------------

std::uint64_t Deadline::at_ns() const {
  if (!relative_) return ns_;
  return ns_ == 0 ? 0 : add_ns(now_ns(), ns_);
}

struct Pool::Impl {
  std::shared_ptr<Segment> segment;
  PoolOptions options;
  std::unique_ptr<ForkGuard> guard;  // its mutex makes attachers take turns, in a child too
  std::atomic<Worker*> worker{nullptr};
  std::atomic<bool> closed{false};

  // The row of this process, if it has one.
  Worker* present() const {
    // acquire: pairs with the release below, which published the Worker
    Worker* current = worker.load(std::memory_order_acquire);
    const bool usable =
        current != nullptr && current->owned() && !closed.load(std::memory_order_relaxed);
    return usable ? current : nullptr;
  }
  // The same, attached at first, and again after fork.
  Result<Worker*> attached() {
    Worker* current = present();
    if (current != nullptr) return current;
    if (closed.load(std::memory_order_relaxed)) return modelpool::closed("pool");
    pthread_mutex_lock(&guard->mutex());
    current = worker.load(std::memory_order_acquire);
    Result<Worker*> result = current;
    if (current == nullptr || !current->owned()) {
      result = Worker::attach(segment);
      if (result) worker.store(*result, std::memory_order_release);
    }
    pthread_mutex_unlock(&guard->mutex());
    return result;
  }

  AcquisitionOptions acquisition_options(Deadline deadline, const AcquireOptions& asked) const {
    AcquisitionOptions result;
    result.tag = asked.tag;
    result.deadline_ns = deadline.at_ns();
    result.busy_limit_ns = static_cast<std::uint64_t>(asked.busy_timeout.count());
    result.expected_bytes = asked.expected_bytes;
    result.priority = asked.priority;
    result.coordinator_grace_ns =
        static_cast<std::uint64_t>(std::max<std::int64_t>(0, options.coordinator_grace.count()));
    result.may_load = asked.may_load;
    return result;
  }

  Result<FoundBackend> find_loaded(std::string_view verb, std::string_view model) {
    if (auto ok = check_model_name(model); !ok) return fail(ok.error());
    if (closed.load(std::memory_order_relaxed)) return modelpool::closed("pool");
    const auto found = find_backend(*segment, model);
    if (!found) {
      return fail(Errc::kNotLoaded, "unable to " + std::string(verb) + " " + escape(model) +
                                        ": no backend serves it");
    }
    return *found;
  }
};

Pool::Pool(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
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
  if (Worker* worker = impl_->worker.load(std::memory_order_acquire); worker != nullptr)
    worker->close();
}

Result<Pool> Pool::attach(std::string_view name, const PoolOptions& options) {
  auto segment = Segment::attach(
      name, SegmentOptions{options.dir, options.create, options.capacities, options.settings});
  if (!segment) return fail(segment.error());
  auto guard = ForkGuard::make();
  if (!guard) return fail(guard.error());
  auto impl = std::make_unique<Impl>();
  impl->segment = std::move(*segment);
  impl->options = options;
  impl->options.settings = nullptr;
  impl->guard = std::move(*guard);
  if (auto worker = impl->attached(); !worker) return fail(worker.error());
  return Pool(std::move(impl));
}

Result<Grant> Pool::acquire(std::string_view model, Deadline deadline,
                            const AcquireOptions& options) {
  if (!impl_) return closed("pool");
  const std::uint64_t hash = hash_name(model);
  if (Worker* worker = impl_->present(); worker != nullptr) [[likely]] {
    KnownModels* models = known_models();
    const BackendRef* known =
        models == nullptr ? nullptr : models->find(KnownModels::key(*worker, hash));
    const bool plain =
        options.busy_timeout.count() >= 0 && (options.tag.empty() || check_tag(options.tag));
    if (known != nullptr && plain) {
      const BackendRecord& record = worker->segment().backend(known->index);
      // Before the lease is published: no load behind that store begins until it is done.
      __builtin_prefetch(&record.state);
      __builtin_prefetch(&record.model);
      LeaseRef lease;
      if (begin_lease(*worker, *known, static_cast<std::uint64_t>(options.busy_timeout.count()),
                      options.tag, &lease) == BeginResult::kGranted) {
        if (record.model.equals(model)) [[likely]] {
          return Grant(Lease(lease));
        }
        withdraw_lease(lease);
      }
    }
  }
  auto pending = begin_acquire(model, deadline, options);
  if (!pending) return fail(pending.error());
  const std::stop_callback on_stop(options.stop, [&pending] { pending->cancel(); });
  for (;;) {
    auto polled = pending->poll();
    if (!polled) return fail(polled.error());
    if (polled->has_value()) {
      if (auto* lease = std::get_if<Lease>(&**polled)) {
        if (KnownModels* models = known_models()) {
          models->put(KnownModels::key(*lease->ref_->worker, hash), lease->ref_->backend);
        }
      }
      return std::move(**polled);
    }
    pending->wait();
  }
}

Result<PendingAcquire> Pool::begin_acquire(std::string_view model, Deadline deadline,
                                           const AcquireOptions& options) {
  return Inside::begin_acquire(*this, model, deadline, options, false);
}

Result<PendingAcquire> Inside::begin_acquire(Pool& pool, std::string_view model, Deadline deadline,
                                             const AcquireOptions& options, bool wake_worker) {
  if (!pool.impl_) return closed("pool");
  if (auto ok = check_request(model, options); !ok) return fail(ok.error());
  auto worker = pool.impl_->attached();
  if (!worker) return fail(worker.error());
  AcquisitionOptions asked = pool.impl_->acquisition_options(deadline, options);
  asked.wake_worker = wake_worker;
  return PendingAcquire(
      std::make_unique<PendingAcquire::State>(**worker, std::string(model), std::move(asked)));
}

Result<> Pool::touch(std::string_view model) {
  if (!impl_) return closed("pool");
  auto worker = impl_->attached();
  if (!worker) return fail(worker.error());
  const Segment& segment = *impl_->segment;
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
    auto found = impl_->find_loaded("touch", model);
    if (!found) return fail(found.error());
    if (models != nullptr) models->put(key, found->ref);
    index = found->ref.index;
  }
  // Precise: a touch right after another model became ready is later than that.
  raise_last_used((*worker)->last_used(index), now_ns());
  return {};
}

Result<> Pool::pin(std::string_view model) {
  if (!impl_) return closed("pool");
  auto found = impl_->find_loaded("pin", model);
  if (!found) return fail(found.error());
  set_control(*impl_->segment, found->ref, kControlPinned, 0);
  ring(*impl_->segment);
  return {};
}

Result<> Pool::unpin(std::string_view model) {
  if (!impl_) return closed("pool");
  auto found = impl_->find_loaded("unpin", model);
  if (!found) return fail(found.error());
  set_control(*impl_->segment, found->ref, 0, kControlPinned);
  ring(*impl_->segment);
  return {};
}

Result<> Pool::evict(std::string_view model, bool force) {
  if (!impl_) return closed("pool");
  auto found = impl_->find_loaded("evict", model);
  if (!found) return fail(found.error());
  set_control(*impl_->segment, found->ref, kControlEvict | (force ? kControlForce : 0), 0);
  ring(*impl_->segment);
  return {};
}

Result<> Pool::reset(std::string_view model) {
  if (!impl_) return closed("pool");
  if (impl_->closed.load()) return closed("pool");
  if (auto forgotten = reset_failures(*impl_->segment, model); !forgotten)
    return fail(forgotten.error());
  return {};
}

Result<std::uint32_t> Pool::limit() {
  if (!impl_) return closed("pool");
  if (impl_->closed.load()) return closed("pool");
  const Settings* settings = current_settings(*impl_->segment);
  return settings == nullptr ? 0 : static_cast<std::uint32_t>(settings->get(Setting::kMaxBackends));
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
  if (impl_->closed.load()) return closed("pool");
  return change_settings(*impl_->segment, values, Origin{OriginKind::kSet, 0});
}

Result<PoolSnapshot> Pool::snapshot() {
  auto seen = look_inside(*this);
  if (!seen) return fail(seen.error());
  return pool_snapshot(*impl_->segment, *seen);
}

Result<std::vector<EventRow>> Pool::events(std::uint64_t first) {
  if (!impl_ || impl_->closed.load()) return closed("pool");
  return event_rows(*impl_->segment, first);
}

// --- Inside --------------------------------------------------------------------------------------

const std::shared_ptr<Segment>& Inside::segment(const Pool& pool) { return pool.impl_->segment; }

Result<Snapshot> Inside::snapshot(const Pool& pool) {
  if (!pool.impl_ || pool.impl_->closed.load()) return closed("pool");
  SnapshotReader reader(pool.impl_->segment);
  return reader.read();
}

Result<const HalfWord*> Inside::wake_word(Pool& pool) {
  if (!pool.impl_) return closed("pool");
  auto worker = pool.impl_->attached();
  if (!worker) return fail(worker.error());
  return &(*worker)->record().wake;
}

// --- Settings ------------------------------------------------------------------------------------

Result<> change_settings(const Segment& segment,
                         const std::vector<std::pair<std::string, std::string>>& values,
                         Origin origin) {
  std::vector<std::pair<Setting, std::uint64_t>> parsed;
  for (const auto& [name, text] : values) {
    const SettingInfo* info = find_setting(name);
    if (info == nullptr) {
      return fail(Errc::kInvalid, "unable to set " + quote(name) + ": " + no_such_setting(name));
    }
    const auto value = parse_setting(*info, text);
    if (!value) return fail(value.error());
    parsed.emplace_back(info->id, *value);
  }
  {
    auto lock = segment.lock_structure();
    if (!lock) return fail(lock.error());
    auto& published = segment.settings().settings;
    const Settings before = published.generation() == 0 ? Settings{} : published.load();
    Settings settings = before;
    for (const auto& [id, value] : parsed) settings.pool.set(id, value, origin);
    reset_changed_cooldowns(segment, *lock, before, settings);
    published.publish(settings);
  }
  wake_everyone(segment);
  ring(segment);
  return {};
}

Result<> publish_settings(const Segment& segment, const Settings& settings) {
  {
    auto lock = segment.lock_structure();
    if (!lock) return fail(lock.error());
    auto& published = segment.settings().settings;
    reset_changed_cooldowns(segment, *lock,
                            published.generation() == 0 ? Settings{} : published.load(), settings);
    published.publish(settings);
  }
  wake_everyone(segment);
  ring(segment);
  return {};
}

}  // namespace modelpool
