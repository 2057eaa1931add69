#include "modelpool/pool.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <new>
#include <utility>

#include "base/time.hpp"

namespace modelpool {
namespace {

// Where this thread last found a model: a lease on it then needs no scan of the slots. An entry is
// a hint: begin_lease validates its generation, and then the lease pins the name to be compared.
// Open addressing; grows with the models in use, and starts anew when it is as large as makes
// sense.
class KnownModels {
 public:
  // The model with this hash, as this worker knows it.
  static std::uint64_t key(const Worker& worker, std::uint64_t hash) {
    return (hash ^ worker.serial() << 32) | 1;  // not 0: that is an empty entry
  }
  const BackendRef* find(std::uint64_t key) {
    if (entries_.empty()) return nullptr;
    const Entry& entry = place(key);
    return entry.key == 0 ? nullptr : &entry.ref;
  }
  void put(std::uint64_t key, BackendRef ref) {
    if (2 * (used_ + 1) > entries_.size() && !grow()) return;
    Entry& entry = place(key);
    used_ += entry.key == 0;
    entry = {key, ref};
  }

 private:
  static constexpr std::size_t kFirst = 64;
  static constexpr std::size_t kMost = 4 * (std::size_t{kBackendsMax} + 1);
  struct Entry {
    std::uint64_t key = 0;
    BackendRef ref;
  };

  // Its entry, or the empty one where it belongs: at least half of them are empty.
  Entry& place(std::uint64_t key) {
    const std::size_t mask = entries_.size() - 1;
    std::size_t i = (key >> 1) & mask;
    while (entries_[i].key != 0 && entries_[i].key != key) i = (i + 1) & mask;
    return entries_[i];
  }
  // False without memory: then what it knows is all it will know. The caller has its lease already.
  bool grow() {
    std::vector<Entry> old;
    try {
      old.resize(entries_.empty() ? kFirst : std::min(2 * entries_.size(), kMost));
    } catch (const std::bad_alloc&) {
      return false;
    }
    old.swap(entries_);
    used_ = 0;
    if (old.size() == kMost) return true;
    for (const Entry& entry : old) {
      if (entry.key != 0) put(entry.key, entry.ref);
    }
    return true;
  }

  std::vector<Entry> entries_;
  std::size_t used_ = 0;
};

// Null while the thread ends: what else is thread-local may still end leases and begin some.
KnownModels* known_models() {
  constinit thread_local static bool ending = false;
  struct Owner {
    KnownModels models;
    ~Owner() { ending = true; }
  };
  if (ending) [[unlikely]] {
    return nullptr;
  }
  thread_local Owner owner;
  return &owner.models;
}

Result<> check_request(std::string_view model, const AcquireOptions& options) {
  if (auto ok = check_model_name(model); !ok) return ok;
  if (auto ok = check_tag(options.tag); !ok) return ok;
  if (options.busy_timeout.count() < 0) {
    return fail(Errc::kInvalid, "unable to acquire " + escape(model) + ": busy_timeout is negative");
  }
  return {};
}

tl::unexpected<Error> closed(std::string_view what) {
  return fail(Errc::kClosed, "unable to use this " + std::string(what) +
                                 ": it is closed, or was inherited through fork");
}

// P7: what may never be registered, because it would be signalled one day.
Result<> check_startable(const Segment& segment, pid_t pid) {
  const auto refuse = [&](const std::string& why) {
    return fail(Errc::kInvalid, "unable to register process " + std::to_string(pid) + ": " + why);
  };
  if (pid <= 1) return refuse("a backend's PID is greater than 1");
  if (pid == getpid()) return refuse("it is the calling process itself");
  const auto uid = read_uid(pid);
  if (!uid) return refuse("there is no such process");
  // Bounded: a parent is read at a time, and they may change.
  std::optional<ProcessStat> ancestor = read_stat(getpid());
  for (int depth = 0; ancestor && ancestor->parent > 1 && depth < 64; ++depth) {
    if (ancestor->parent == pid) return refuse("the calling process runs under it");
    ancestor = read_stat(ancestor->parent);
  }
  if (*uid != geteuid()) return refuse("it belongs to user " + std::to_string(*uid));
  if (static_cast<std::uint32_t>(pid) == segment.coordinator().pid.load(std::memory_order_acquire) &&
      coordinator_liveness(segment) == Liveness::kAlive) {
    return refuse("it is the pool's coordinator");
  }
  for (std::uint32_t i = 0; i < segment.workers_reached(); ++i) {
    const WorkerRecord& row = segment.worker(i);
    if (low_half(row.state.load(std::memory_order_seq_cst)) == 0) continue;
    if (row.pid.load(std::memory_order_acquire) == static_cast<std::uint32_t>(pid) &&
        worker_liveness(segment, i, true) != Liveness::kDead) {
      return refuse("it is a worker attached to this pool");
    }
  }
  return {};
}

// While the first process is a zombie, whoever else is in its group is known to be the backend's. So
// it stays one until the coordinator has seen the last of them go.
void keep_until_gone(const Segment& segment, BackendRef backend) {
  const HalfWord& bell = segment.coordinator().event_bell;  // rung by the event of that end
  for (;;) {
    const std::uint32_t seen = bell.load(std::memory_order_seq_cst);
    const StateWord state = load_state(segment, backend.index);
    if (state.generation != backend.generation || !is_live(state.state)) return;
    futex_wait(bell, seen, now_ns() + kWaitSlice_ns);
  }
}

bool any_worker_in_group(const Segment& segment, pid_t group) {
  for (std::uint32_t i = 0; i < segment.workers_reached(); ++i) {
    const WorkerRecord& row = segment.worker(i);
    if (low_half(row.state.load(std::memory_order_seq_cst)) == 0) continue;
    const auto stat = read_stat(static_cast<pid_t>(row.pid.load(std::memory_order_acquire)));
    if (stat && stat->group == group) return true;
  }
  return false;
}

}  // namespace

// --- Lease ---------------------------------------------------------------------------------------

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    release();
    ref_ = other.ref_;
    other.ref_.worker = nullptr;
  }
  return *this;
}

void Lease::release() {
  if (ref_.worker == nullptr) return;
  end_lease(ref_);
  ref_.worker = nullptr;
}

std::string Lease::model() const {
  return ref_.worker == nullptr ? std::string() : ref_.worker->segment().backend(ref_.backend.index).model.load();
}

std::string Lease::address() const {
  return ref_.worker == nullptr ? std::string()
                                : ref_.worker->segment().backend(ref_.backend.index).address.load();
}

pid_t Lease::pid() const {
  if (ref_.worker == nullptr) return 0;
  // acquire: written before the READY this lease validated
  return static_cast<pid_t>(ref_.worker->segment().backend(ref_.backend.index).pid.load(std::memory_order_acquire));
}

Result<> Lease::progress() {
  if (ref_.worker == nullptr || !ref_.worker->owned()) return closed("lease");
  record_progress(ref_);
  const StateWord state = load_state(ref_.worker->segment(), ref_.backend.index);
  if (state.generation == ref_.backend.generation &&
      (state.state == BackendState::kReady || state.state == BackendState::kEvicting)) {
    return {};
  }
  const BackendRecord& record = ref_.worker->segment().backend(ref_.backend.index);
  const StopRecord stop = record.stop.load();
  std::string why = "its backend was stopped";
  if (stop.generation == ref_.backend.generation && stop.reason != Reason::kNone) {
    why += " (" + std::string(reason_name(stop.reason)) + ")";
  }
  return fail(Errc::kLeaseLost, "unable to go on with the lease on " + escape(record.model.load()) + ": " + why);
}

// --- LoadTicket ----------------------------------------------------------------------------------

LoadTicket::LoadTicket(TicketRef ref, std::string model, std::string tag, std::uint64_t busy_limit_ns)
    : ref_(ref), model_(std::move(model)), tag_(std::move(tag)), busy_limit_ns_(busy_limit_ns) {}

LoadTicket::LoadTicket(LoadTicket&& other) noexcept
    : ref_(std::exchange(other.ref_, TicketRef{})),
      model_(std::move(other.model_)),
      tag_(std::move(other.tag_)),
      busy_limit_ns_(other.busy_limit_ns_),
      pid_(other.pid_) {}

LoadTicket& LoadTicket::operator=(LoadTicket&& other) noexcept {
  if (this != &other) {
    if (ref_.worker != nullptr) static_cast<void>(fail("given up"));
    ref_ = std::exchange(other.ref_, TicketRef{});
    model_ = std::move(other.model_);
    tag_ = std::move(other.tag_);
    busy_limit_ns_ = other.busy_limit_ns_;
    pid_ = other.pid_;
  }
  return *this;
}

LoadTicket::~LoadTicket() {
  if (ref_.worker != nullptr) static_cast<void>(fail("given up"));
}

Result<> LoadTicket::check() const {
  if (ref_.worker == nullptr || !ref_.worker->owned()) return closed("ticket");
  return {};
}

void LoadTicket::let_go() {
  give_up(ref_.worker->segment(), ref_.backend, ref_.worker->owner_word());
  ref_.worker->drop();
  ref_ = TicketRef{};
}

Result<> LoadTicket::spawn(const std::vector<std::string>& argv, const SpawnOptions& options) {
  if (auto ok = check(); !ok) return ok;
  if (pid_ != 0) {
    return modelpool::fail(Errc::kInvalid, "unable to start a backend for " + escape(model_) +
                                               ": process " + std::to_string(pid_) + " was started already");
  }
  Worker& worker = *ref_.worker;
  const std::shared_ptr<Segment>& segment = worker.shared_segment();
  const BackendRef backend = ref_.backend;
  SpawnOptions with_token = options;
  with_token.env.push_back("MODELPOOL_BACKEND=" + segment->token(backend.index, backend.generation));
  auto process = spawn_gated(
      argv, with_token,
      [&](const ProcessIdentity& child) {
        return record_start(*segment, backend, worker.owner_word(), Started{child, child.pid, true});
      },
      [&] { static_cast<void>(forget_start(*segment, backend, worker.owner_word())); });
  if (!process) return modelpool::fail(process.error());
  pid_ = process->identity().pid;
  reap_when_exited(std::move(*process), [segment, backend](std::uint32_t packed) {
    record_exit(*segment, backend, packed);
    ring(*segment);  // the coordinator may be waiting for it
    keep_until_gone(*segment, backend);
  });
  ring(*segment);
  return {};
}

Result<> LoadTicket::started(pid_t pid) {
  if (auto ok = check(); !ok) return ok;
  if (pid_ != 0) {
    return modelpool::fail(Errc::kInvalid, "unable to register process " + std::to_string(pid) + ": process " +
                                               std::to_string(pid_) + " was started already");
  }
  const Segment& segment = ref_.worker->segment();
  // Opened before it is examined: what is examined is what will be signalled (P7).
  auto handle = pid > 1 ? ProcessHandle::open(pid) : Result<ProcessHandle>(modelpool::fail(Errc::kInvalid, ""));
  if (auto ok = check_startable(segment, pid); !ok) return ok;
  const auto stat = read_stat(pid);
  if (!stat || stat->is_zombie() || (handle && handle->liveness() != Liveness::kAlive)) {
    return modelpool::fail(Errc::kInvalid, "unable to register process " + std::to_string(pid) + ": it has ended");
  }
  if (!handle) return modelpool::fail(handle.error());
  const bool whole_group = stat->group == pid && !any_worker_in_group(segment, pid);
  if (auto ok = record_start(segment, ref_.backend, ref_.worker->owner_word(),
                             Started{handle->identity(), whole_group ? pid : 0, false});
      !ok) {
    return ok;
  }
  pid_ = pid;
  ring(segment);
  return {};
}

Result<Lease> LoadTicket::ready(std::string_view address, const ReadyOptions& options) {
  if (auto ok = check(); !ok) return modelpool::fail(ok.error());
  if (auto ok = check_address(address); !ok) return modelpool::fail(ok.error());
  if (options.label.size() > kLabelMax_bytes || !is_printable_utf8(options.label)) {
    return modelpool::fail(Errc::kInvalid, "unable to make " + escape(model_) +
                                               " ready: a label is at most 31 bytes of printable UTF-8");
  }
  Worker& worker = *ref_.worker;
  const Segment& segment = worker.segment();
  // The loader's lease first: the fresh backend must not be the next victim of its own waiters.
  LeaseRef lease;
  if (publish_lease(worker, ref_.backend, busy_limit_ns_, tag_, &lease) != BeginResult::kGranted) {
    return modelpool::fail(Errc::kTableFull, "unable to make " + escape(model_) +
                                                 " ready: this worker has no free lease; release some first");
  }
  if (auto ok = publish_ready(segment, ref_.backend, worker.owner_word(), address, options); !ok) {
    withdraw_lease(lease);
    if (ok.error().code == Errc::kTicketLost) {
      let_go();
      ring(segment);  // its slot waits for that
    }
    return modelpool::fail(ok.error());
  }
  worker.drop();
  ref_ = TicketRef{};
  wake_waiters(segment, hash_name(model_));
  ring(segment);
  return Lease(lease);
}

Result<> LoadTicket::fail(std::string_view reason) {
  if (auto ok = check(); !ok) {
    ref_ = TicketRef{};
    return ok;
  }
  const Segment& segment = ref_.worker->segment();
  const StateWord state = load_state(segment, ref_.backend.index);
  const bool still_ours = state.generation == ref_.backend.generation &&
                          state.owner == ref_.worker->owner_word() &&
                          (state.state == BackendState::kReserved || state.state == BackendState::kStarting);
  Result<> result;
  if (still_ours) {
    // The text first, then the transition that makes the waiters look for it.
    auto lock = segment.lock_structure();
    if (lock) {
      write_failure(segment, *lock, model_, ref_.backend, reason, 0, now_ns());
    } else {
      result = modelpool::fail(lock.error());
    }
  } else {
    result = modelpool::fail(Errc::kTicketLost, "unable to report the failed load of " + escape(model_) +
                                                    ": the ticket was lost before");
  }
  let_go();
  wake_waiters(segment, hash_name(model_));
  wake_line(segment);
  ring(segment);
  return result;
}

Result<> LoadTicket::give_back() {
  if (auto ok = check(); !ok) return ok;
  const Segment& segment = ref_.worker->segment();
  let_go();
  wake_waiters(segment, hash_name(model_));
  wake_line(segment);
  ring(segment);
  return {};
}

// --- PendingAcquire ------------------------------------------------------------------------------

struct PendingAcquire::State {
  State(Worker& worker, std::string name, AcquisitionOptions options)
      : tag(options.tag), busy_limit_ns(options.busy_limit_ns), model(name),
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
    return std::optional<Grant>(LoadTicket(*ticket, state_->model, state_->tag, state_->busy_limit_ns));
  }
  return std::optional<Grant>();
}

void PendingAcquire::wait(std::chrono::nanoseconds at_most) {
  if (state_) state_->acquisition.wait(static_cast<std::uint64_t>(std::max<std::int64_t>(0, at_most.count())));
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
  std::unique_ptr<ForkGuard> guard;        // its mutex makes attachers take turns, in a child too
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
    result.coordinator_grace_ns = static_cast<std::uint64_t>(std::max<std::int64_t>(0, options.coordinator_grace.count()));
    result.may_load = asked.may_load;
    return result;
  }

  Result<FoundBackend> find_loaded(std::string_view verb, std::string_view model) {
    if (auto ok = check_model_name(model); !ok) return fail(ok.error());
    if (closed.load(std::memory_order_relaxed)) return modelpool::closed("pool");
    const auto found = find_backend(*segment, model);
    if (!found) {
      return fail(Errc::kNotLoaded,
                  "unable to " + std::string(verb) + " " + escape(model) + ": no backend serves it");
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
  if (Worker* worker = impl_->worker.load(std::memory_order_acquire); worker != nullptr) worker->close();
}

Result<Pool> Pool::attach(std::string_view name, const PoolOptions& options) {
  auto segment = Segment::attach(name, SegmentOptions{options.dir, options.create, options.capacities, options.settings});
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

Result<Grant> Pool::acquire(std::string_view model, Deadline deadline, const AcquireOptions& options) {
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
          models->put(KnownModels::key(*lease->ref_.worker, hash), lease->ref_.backend);
        }
      }
      return std::move(**polled);
    }
    pending->wait();
  }
}

Result<PendingAcquire> Pool::begin_acquire(std::string_view model, Deadline deadline,
                                           const AcquireOptions& options, bool wake_worker) {
  if (!impl_) return closed("pool");
  if (auto ok = check_request(model, options); !ok) return fail(ok.error());
  auto worker = impl_->attached();
  if (!worker) return fail(worker.error());
  AcquisitionOptions asked = impl_->acquisition_options(deadline, options);
  asked.wake_worker = wake_worker;
  return PendingAcquire(std::make_unique<PendingAcquire::State>(**worker, std::string(model), std::move(asked)));
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

Result<std::uint32_t> Pool::limit() {
  if (!impl_) return closed("pool");
  if (impl_->closed.load()) return closed("pool");
  const Settings* settings = current_settings(*impl_->segment);
  return settings == nullptr ? 0 : static_cast<std::uint32_t>(settings->get(Setting::kMaxBackends));
}

Result<> Pool::set_limit(std::uint32_t max_backends) { return set("max_backends", std::to_string(max_backends)); }

Result<> Pool::set(std::string_view name, std::string_view value) {
  if (!impl_) return closed("pool");
  return set({{std::string(name), std::string(value)}});
}

Result<> Pool::set(const std::vector<std::pair<std::string, std::string>>& values) {
  if (!impl_) return closed("pool");
  if (impl_->closed.load()) return closed("pool");
  return change_settings(*impl_->segment, values, Origin{OriginKind::kSet, 0});
}

Result<Snapshot> Pool::snapshot() {
  if (!impl_) return closed("pool");
  if (impl_->closed.load()) return closed("pool");
  SnapshotReader reader(impl_->segment);
  return reader.read();
}

const Segment& Pool::segment() const { return *impl_->segment; }
std::shared_ptr<Segment> Pool::shared_segment() const { return impl_->segment; }

Result<const HalfWord*> Pool::wake_word() {
  if (!impl_) return closed("pool");
  auto worker = impl_->attached();
  if (!worker) return fail(worker.error());
  return &(*worker)->record().wake;
}

// --- Settings ------------------------------------------------------------------------------------

Result<> change_settings(const Segment& segment, const std::vector<std::pair<std::string, std::string>>& values,
                         Origin origin) {
  std::vector<std::pair<Setting, std::uint64_t>> parsed;
  for (const auto& [name, text] : values) {
    const SettingInfo* info = find_setting(name);
    if (info == nullptr) {
      return fail(Errc::kInvalid, "unable to set " + quote(name) +
                                      ": there is no such setting; `poolctl set` lists them");
    }
    const auto value = parse_setting(*info, text);
    if (!value) return fail(value.error());
    parsed.emplace_back(info->id, *value);
  }
  {
    auto lock = segment.lock_structure();
    if (!lock) return fail(lock.error());
    auto& published = segment.settings().settings;
    Settings settings = published.generation() == 0 ? Settings{} : published.load();
    for (const auto& [id, value] : parsed) settings.pool.set(id, value, origin);
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
    segment.settings().settings.publish(settings);
  }
  wake_everyone(segment);
  ring(segment);
  return {};
}

}  // namespace modelpool
