#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/exit_words.hpp"
#include "base/listener.hpp"
#include "base/name.hpp"
#include "base/time.hpp"
#include "policy/line.hpp"
#include "policy/rules.hpp"
#include "pool/inside.hpp"
#include "protocol/cancel_watch.hpp"
#include "protocol/device_environment.hpp"
#include "protocol/exit_report.hpp"
#include "protocol/histories.hpp"
#include "protocol/kept_output.hpp"
#include "protocol/parallel.hpp"
#include "protocol/registering.hpp"
#include "protocol/spawn.hpp"
#include "rows/rows.hpp"
#include "segment/devices.hpp"
#include "segment/lost.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {
namespace {

tl::unexpected<Error> closed(std::string_view what) {
  return fail(Errc::kClosed, "unable to use this " + std::string(what) +
                                 ": it is closed, or was inherited through fork");
}

// As a shell gives it.
int exit_code(std::uint32_t packed) {
  const int status = static_cast<int>(packed & 0xffff);
  const bool by_signal = packed == pack_exit(ExitKind::kSignalled, packed);
  return by_signal ? 128 + status : status;
}

// While the first process is a zombie, every other process in its group is known to be the
// backend's. So it stays one until the coordinator has seen the last of them go.
void keep_until_gone(const Segment& segment, BackendRef backend) {
  const HalfWord& bell = segment.coordinator().event_bell;  // rung by the event of that end
  for (;;) {
    const std::uint32_t seen = bell.load(std::memory_order_seq_cst);
    const StateWord state = load_state(segment, backend.index);
    if (state.generation != backend.generation || !is_live(state.state)) return;
    futex_wait(bell, seen, now_ns() + kLookEvery_ns);
  }
}

// Is the worker that a waiter's row names proved dead?
bool has_died(const Segment& segment, std::uint64_t owner) {
  const WorkerRef worker = unpack_worker(owner);
  return worker.index < segment.capacities().workers &&
         worker_liveness(segment, worker.index, false) == Liveness::kDead;
}

// The acquire that a ticket came of has come to an end.
void count(const TicketRef& ticket, std::string_view model, AcquireOutcome outcome) {
  const Worker& worker = *ticket.worker;
  worker.meters().add(Meter::kAcquires, find_meter_model(worker.segment(), model, hash_name(model)),
                      static_cast<std::uint32_t>(outcome));
}

// Has it an address that leads to a process of its own?
bool has_own_address(const Segment& segment, std::uint32_t index, StateWord state) {
  const BackendRecord& record = segment.backend(index);
  return is_live(state.state) && state.state >= BackendState::kReady &&
         (low_half(record.traits.load(std::memory_order_acquire)) &
          (kTraitExternal | kTraitTenant)) == 0 &&
         record.model_hash.load(std::memory_order_acquire) != kHashOverdue;
}

// The backends that have an address of their own, and which of them has this one.
struct Addresses {
  std::vector<std::uint64_t> seen;  // packed references
  std::optional<std::string> model_at;
};
Addresses look_at_addresses(const Segment& segment, std::string_view address) {
  Addresses found;
  const std::vector<std::string> places = places_of(address);
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    const StateWord state = load_state(segment, i);
    if (!has_own_address(segment, i, state)) continue;
    const BackendRecord& record = segment.backend(i);
    const std::string model = record.model.load();
    const std::vector<std::string> taken = places_of(record.address.load());
    const bool is_there = std::find_first_of(places.begin(), places.end(), taken.begin(),
                                             taken.end()) != places.end();
    const StateWord again = load_state(segment, i);
    if (again.generation != state.generation || !is_live(again.state)) continue;
    found.seen.push_back(pack_ref({i, state.generation}));
    if (is_there) found.model_at = model;
  }
  return found;
}

// Under the mutex, and so without allocating: is there one that was not looked at?
bool are_all_seen(const Segment& segment, const Addresses& addresses) {
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    const StateWord state = load_state(segment, i);
    if (has_own_address(segment, i, state) &&
        std::find(addresses.seen.begin(), addresses.seen.end(), pack_ref({i, state.generation})) ==
            addresses.seen.end()) {
      return false;
    }
  }
  return true;
}

Result<> check_label(const std::string& model, const std::string& label) {
  if (label.size() <= kLabelMax_bytes && is_printable_utf8(label)) return {};
  return fail(Errc::kInvalid, "unable to make " + escape(model) +
                                  " ready: a label is at most 31 bytes of printable UTF-8");
}

// Which process listens at the address, as far as that can be told.
Listener listener_of(const TicketRef& ticket, pid_t pid, std::string_view address) {
  const auto place = parse_address(address);
  if (!place) return {};
  const Segment& segment = ticket.worker->segment();
  const BackendRef backend = ticket.backend;
  const std::string token = segment.token(backend.index, backend.generation);
  const auto group =
      static_cast<pid_t>(segment.backend(backend.index).group.load(std::memory_order_acquire));
  return find_listener(*place, {pid, group, token});
}

// An answer counts from a listener that is the backend's.
Result<> refuse_another(const Listener& found, const std::string& model, std::string_view address) {
  if (found.by != ListenedBy::kAnother) return {};
  return fail(Errc::kInvalid,
              "unable to make " + escape(model) + " ready: at " + escape(address) +
                  " listens process " + std::to_string(found.pid) + " (" + escape(found.command) +
                  "), which is none of its backend's; give the backend an address of its own, or "
                  "say any_listener if that process answers for it");
}

Result<> publish_external(const TicketRef& ticket, std::string_view address,
                          const ReadyOptions& options) {
  const Segment& segment = ticket.worker->segment();
  const auto lock = segment.lock_structure();
  return publish_ready(segment, ticket.backend, ticket.worker->owner_word(), address, options,
                       lock ? &*lock : nullptr);
}

// Whose request it was, for those who lost theirs with it.
std::string because_of(const StopRecord& stop, const LeaseRef& own) {
  if (reason_row(stop.reason).lease_rule == nullptr && stop.lease_word == 0) return {};
  const bool is_own = stop.worker == own.worker->ref().index && stop.lease == own.cell &&
                      stop.lease_word == name_of(own).word;
  if (is_own) return ", because of this request";
  const std::string tag = escape(field_text(stop.tag));
  return ", because of " + (tag.empty() ? "a request without a tag" : "request " + tag) +
         " of process " + std::to_string(stop.worker_pid);
}

}  // namespace

// --- Lease ---------------------------------------------------------------------------------------

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    release();
    ref_ = std::move(other.ref_);
  }
  return *this;
}

void Lease::release() {
  if (ref_->worker == nullptr) return;
  if (ref_->watched != 0 && ref_->worker->owned()) [[unlikely]] {
    CancelWatch::of(*ref_->worker).forget(*ref_);
  }
  end_lease(*ref_);
  ref_->worker = nullptr;
}

std::string Lease::model() const {
  return ref_->worker == nullptr
             ? std::string()
             : ref_->worker->segment().backend(ref_->backend.index).model.load();
}

std::string Lease::address() const {
  return ref_->worker == nullptr
             ? std::string()
             : ref_->worker->segment().backend(ref_->backend.index).address.load();
}

pid_t Lease::pid() const {
  if (ref_->worker == nullptr) return 0;
  // acquire: written before the READY this lease validated
  return static_cast<pid_t>(
      ref_->worker->segment().backend(ref_->backend.index).pid.load(std::memory_order_acquire));
}

Result<> Lease::progress() {
  if (ref_->worker == nullptr || !ref_->worker->owned()) return closed("lease");
  record_progress(*ref_);
  const StateWord state = load_state(ref_->worker->segment(), ref_->backend.index);
  if (state.generation == ref_->backend.generation &&
      (state.state == BackendState::kReady || state.state == BackendState::kEvicting)) {
    return {};
  }
  const BackendRecord& record = ref_->worker->segment().backend(ref_->backend.index);
  const StopRecord stop = record.stop.load();
  std::string why = "its backend was stopped";
  if (stop.generation == ref_->backend.generation && stop.reason != Reason::kNone) {
    why += " (" + reason_name(stop.reason) + ")" + because_of(stop, *ref_);
  }
  return fail(Errc::kLeaseLost,
              "unable to go on with the lease on " + escape(record.model.load()) + ": " + why);
}

BackendId Lease::backend() const {
  if (ref_->worker == nullptr) return {};
  return {ref_->backend.index, ref_->backend.generation};
}

std::string Lease::exit_words() const {
  return check() ? shown(exit_report(ref_->worker->segment(), ref_->backend)) : std::string();
}

Result<> Lease::check() const {
  if (ref_->worker == nullptr || !ref_->worker->owned()) return closed("lease");
  return {};
}

bool Lease::cancelled() const { return check() && is_asked(*ref_); }

std::string Lease::cancel_reason() const { return check() ? why_asked(*ref_) : std::string(); }

Lease as_asked(Lease lease, bool cancellable, const std::function<void()>& on_cancel) {
  if (cancellable) static_cast<void>(lease.set_cancellable());
  if (on_cancel) static_cast<void>(lease.on_cancel(on_cancel));
  return lease;
}

Result<> Lease::set_cancellable() {
  if (auto usable = check(); !usable) return usable;
  say_cancellable(*ref_);
  return {};
}

Result<> Lease::set_endless() {
  if (auto usable = check(); !usable) return usable;
  set_no_limit(*ref_);
  return {};
}

Result<> Lease::on_cancel(std::function<void()> callback) {
  if (auto usable = check(); !usable) return usable;
  if (!callback) return fail(Errc::kInvalid, "unable to call on a cancellation: it is no function");
  ref_->watched = 1;
  return CancelWatch::of(*ref_->worker).call(*ref_, std::move(callback));
}

Result<> Lease::notify_cancel(int fd, std::uint64_t number) {
  if (auto usable = check(); !usable) return usable;
  ref_->watched = 1;
  return CancelWatch::of(*ref_->worker).write_to(*ref_, fd, number);
}

// --- LoadTicket ----------------------------------------------------------------------------------

std::uint32_t keep_alive_word(const std::optional<Duration>& keep_alive) {
  if (!keep_alive) return 0;
  if (keep_alive->count() < 0) return kKeepForEver;
  const auto ns = static_cast<std::uint64_t>(keep_alive->count());
  return pack_keep_alive((ns + kMillisecond_ns - 1) / kMillisecond_ns);  // never early
}

LoadTicket::LoadTicket(const TicketRef& ref, std::string model, const AcquireOptions& asked)
    : ref_(ref),
      model_(std::move(model)),
      tag_(asked.tag),
      busy_limit_ns_(static_cast<std::uint64_t>(asked.busy_timeout.count())),
      keep_alive_(keep_alive_word(asked.keep_alive)),
      cancellable_(asked.cancellable),
      on_cancel_(asked.on_cancel) {}

LoadTicket::LoadTicket(LoadTicket&& other) noexcept
    : ref_(std::move(other.ref_)),
      model_(std::move(other.model_)),
      tag_(std::move(other.tag_)),
      busy_limit_ns_(other.busy_limit_ns_),
      keep_alive_(other.keep_alive_),
      cancellable_(other.cancellable_),
      on_cancel_(std::move(other.on_cancel_)),
      pid_(other.pid_),
      memory_(std::move(other.memory_)) {}

LoadTicket& LoadTicket::operator=(LoadTicket&& other) noexcept {
  if (this != &other) {
    if (ref_->worker != nullptr) static_cast<void>(give_back());
    ref_ = std::move(other.ref_);
    model_ = std::move(other.model_);
    tag_ = std::move(other.tag_);
    busy_limit_ns_ = other.busy_limit_ns_;
    keep_alive_ = other.keep_alive_;
    cancellable_ = other.cancellable_;
    on_cancel_ = std::move(other.on_cancel_);
    pid_ = other.pid_;
    memory_ = std::move(other.memory_);
  }
  return *this;
}

LoadTicket::~LoadTicket() {
  if (ref_->worker != nullptr) static_cast<void>(give_back());
}

Result<> LoadTicket::check() const {
  if (ref_->worker == nullptr || !ref_->worker->owned()) return closed("ticket");
  return {};
}

void LoadTicket::let_go() {
  const Segment& segment = ref_->worker->segment();
  give_up(segment, ref_->backend, ref_->worker->owner_word());
  ref_->worker->drop();
  *ref_ = TicketRef{};
  wake_waiters(segment, hash_name(model_));
  wake_line(segment);
  ring(segment);
}

std::uint32_t LoadTicket::waiting() const {
  if (!check()) return 0;
  const Segment& segment = ref_->worker->segment();
  const std::uint64_t hash = hash_name(model_);
  const std::uint64_t now = now_ns();
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < segment.waiters_reached(); ++i) {
    const WaiterRecord& row = segment.waiter(i);
    const std::uint64_t state = row.state.load(std::memory_order_seq_cst);
    count += low_half(state) == static_cast<std::uint32_t>(WaiterState::kWaiting) &&
             row.model_hash.load(std::memory_order_acquire) == hash && row.model.equals(model_) &&
             row.deadline_ns.load(std::memory_order_acquire) > now &&
             add_ns(row.looked_ns.load(std::memory_order_acquire), kAbsentAfter_ns) > now &&
             !has_died(segment, row.owner.load(std::memory_order_acquire));
  }
  return count;
}

std::vector<std::string> LoadTicket::devices() const {
  if (!check()) return {};
  const Segment& segment = ref_->worker->segment();
  // acquire: written before RESERVED
  const std::uint32_t on =
      segment.backend(ref_->backend.index).devices.load(std::memory_order_acquire);
  if (load_state(segment, ref_->backend.index).generation != ref_->backend.generation) return {};
  std::vector<std::string> uuids;
  const std::vector<std::string> all = read_devices(segment);
  for (std::uint32_t d = 0; d < all.size(); ++d) {
    if ((on >> d & 1) != 0) uuids.push_back(all[d]);
  }
  return uuids;
}

Result<> LoadTicket::spawn(const std::vector<std::string>& argv, const SpawnOptions& options) {
  if (auto ok = check(); !ok) return ok;
  const std::shared_ptr<Segment>& segment = ref_->worker->shared_segment();
  return start(
      argv, options, [] { return Result<>(); },
      [&] { static_cast<void>(forget_start(*segment, ref_->backend, ref_->worker->owner_word())); },
      {});
}

// `at_gate` when the child was recorded and waits; `on_failure` if it then cannot be executed.
Result<> LoadTicket::start(const std::vector<std::string>& argv, const SpawnOptions& options,
                           const std::function<Result<>()>& at_gate,
                           const std::function<void()>& on_failure,
                           const std::function<void(int)>& on_exit) {
  if (pid_ != 0) {
    return modelpool::fail(Errc::kInvalid, "unable to start a backend for " + escape(model_) +
                                               ": process " + std::to_string(pid_) +
                                               " was started already");
  }
  Worker& worker = *ref_->worker;
  const std::shared_ptr<Segment>& segment = worker.shared_segment();
  const BackendRef backend = ref_->backend;
  const auto visible = device_environment(devices(), options.env);
  if (!visible) return modelpool::fail(visible.error());
  SpawnOptions with_token = options;
  with_token.env.insert(with_token.env.end(), visible->begin(), visible->end());
  with_token.env.push_back("MODELPOOL_BACKEND=" +
                           segment->token(backend.index, backend.generation));
  with_token.env.push_back(std::string(kHomeVariable) + "=" + segment->home());
  auto memory = std::make_shared<const MemoryKills>(getpid());  // the child begins in our cgroup
  std::string log;
  auto process = spawn_gated(
      argv, with_token,
      [&](const ProcessIdentity& child) -> Result<> {
        auto recorded = record_start(*segment, backend, worker.owner_word(),
                                     Started{child, child.pid, true, options.is_job, log});
        if (!recorded) return recorded;
        return at_gate();
      },
      on_failure,
      [&] {
        // A lost ticket: the model's log may be another life's by now.
        const StateWord own{backend.generation, worker.owner_word(), BackendState::kReserved};
        if (load_state(*segment, backend.index) != own) return Fd();
        KeptOutput kept = keep_output(*segment, model_);
        log = std::move(kept.log);
        return std::move(kept.file);
      });
  if (!process) return modelpool::fail(process.error());
  pid_ = process->identity().pid;
  memory_ = std::move(memory);
  reap_when_exited(std::move(*process), [segment, backend, on_exit](std::uint32_t packed) {
    if (on_exit) on_exit(exit_code(packed));
    record_exit(*segment, backend, packed);
    ring(*segment);  // the coordinator may be waiting for it
    keep_until_gone(*segment, backend);
  });
  ring(*segment);
  return {};
}

// Ready before its gate opens: there is no load that could fail, however soon it ends.
Result<BackendId> LoadTicket::run_tenant(const std::vector<std::string>& argv,
                                         const SpawnOptions& options, const TenantOptions& tenant) {
  if (auto ok = check(); !ok) return modelpool::fail(ok.error());
  if (auto ok = check_label(model_, tenant.label); !ok) return modelpool::fail(ok.error());
  const std::shared_ptr<Segment> segment = ref_->worker->shared_segment();
  const BackendRef backend = ref_->backend;
  ReadyOptions ready;
  ready.size_bytes = tenant.size_bytes;
  ready.pinned = !tenant.evictable;
  ready.label = tenant.label;
  ready.overrides.set(Setting::kIdleTimeout, 0);  // nobody uses it: it is no less used for that
  // Whoever became this program by exec may have left it children: those are not the tenant's.
  siginfo_t child{};
  const bool has_children = waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) == 0;
  bool is_ready = false;
  const auto started = start(
      argv, options,
      [&]() -> Result<> {
        add_trait(*segment, backend, kTraitTenant);
        if (tenant.owns_children && !has_children && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
          add_trait(*segment, backend, kTraitAdopted);
        const auto lock = segment->lock_structure();
        auto published = publish_ready(*segment, backend, ref_->worker->owner_word(), {}, ready,
                                       lock ? &*lock : nullptr);
        is_ready = published.has_value();
        return published;
      },
      [] {},  // its process ends, and with it the backend
      tenant.on_exit);
  if (!is_ready) return modelpool::fail(started.error());
  count(*ref_, model_, AcquireOutcome::kLoaded);
  ref_->worker->drop();
  *ref_ = TicketRef{};
  wake_waiters(*segment, hash_name(model_));
  wake_line(*segment);
  ring(*segment);
  if (!started) return modelpool::fail(started.error());
  return BackendId{backend.index, backend.generation};
}

Result<> LoadTicket::started(pid_t pid) {
  if (auto ok = check(); !ok) return ok;
  if (pid_ != 0) {
    return modelpool::fail(Errc::kInvalid, "unable to register process " + std::to_string(pid) +
                                               ": process " + std::to_string(pid_) +
                                               " was started already");
  }
  const Segment& segment = ref_->worker->segment();
  if (auto ok = register_process(segment, ref_->backend, ref_->worker->owner_word(), pid); !ok)
    return ok;
  pid_ = pid;
  ring(segment);
  return {};
}

Result<> LoadTicket::check_listener(std::string_view address) const {
  if (auto ok = check(); !ok) return ok;
  if (pid_ == 0) return {};
  return refuse_another(listener_of(*ref_, pid_, address), model_, address);
}

// Two processes at one address: one of them would answer for the other. External backends are the
// application's to know: one server may serve several models.
Result<> LoadTicket::publish_alone(std::string_view address, const ReadyOptions& options) {
  constexpr int kAttempts = 16;  // others become ready meanwhile; then the last look counts
  const Segment& segment = ref_->worker->segment();
  for (int attempt = 1;; ++attempt) {
    const Addresses addresses = look_at_addresses(segment, address);
    if (addresses.model_at) {
      return modelpool::fail(Errc::kInvalid,
                             "unable to make " + escape(model_) + " ready: " +
                                 escape(*addresses.model_at) + " is served at " + escape(address) +
                                 " already; give each backend an address of its own");
    }
    // So that of two loads with one address the second is refused. A process that holds the mutex
    // for long is stopped, and a good load does not fail for that.
    const auto lock = segment.lock_structure();
    if (lock && attempt < kAttempts && !are_all_seen(segment, addresses)) continue;
    return publish_ready(segment, ref_->backend, ref_->worker->owner_word(), address, options,
                         lock ? &*lock : nullptr);
  }
}

Result<Lease> LoadTicket::ready(std::string_view address, const ReadyOptions& options) {
  if (auto ok = check(); !ok) return modelpool::fail(ok.error());
  if (auto ok = check_address(address); !ok) return modelpool::fail(ok.error());
  if (auto ok = check_label(model_, options.label); !ok) return modelpool::fail(ok.error());
  for (const SettingEntry& entry : options.overrides.entries()) {
    if (!is_known(entry.id) || !setting_info(entry.id).per_model) continue;
    if (may_be_given_at_ready(setting_info(entry.id))) continue;
    return modelpool::fail(Errc::kInvalid,
                           "unable to make " + escape(model_) + " ready with " +
                               std::string(setting_info(entry.id).name) +
                               " of its own: that is decided for the model; put it into a "
                               "[[model]] table");
  }
  Worker& worker = *ref_->worker;
  const Segment& segment = worker.segment();
  const bool has_process = pid_ != 0 && !options.external;
  if (has_process && !options.any_listener) {
    const Listener found = listener_of(*ref_, pid_, address);
    if (auto ok = refuse_another(found, model_, address); !ok) return modelpool::fail(ok.error());
    // Whose it is may not be to be told: then the loader is believed, and the record says so.
    if (found.by != ListenedBy::kBackend) add_trait(segment, ref_->backend, kTraitUnproved);
  }
  if (auto ok = check_endable(segment, ref_->backend); !ok) return modelpool::fail(ok.error());
  // The loader's lease first: the fresh backend must not be the next victim of its own waiters.
  LeaseRef lease;
  if (publish_lease(worker, ref_->backend, busy_limit_ns_, tag_, &lease) != BeginResult::kGranted) {
    return modelpool::fail(Errc::kTableFull,
                           "unable to make " + escape(model_) +
                               " ready: this worker has no free lease; release some first");
  }
  set_keep_alive(segment, ref_->backend, keep_alive_);  // before others may ask for another
  note_parallel(segment, ref_->backend, resolve_parallel(segment, model_, options.overrides));
  const Result<> published =
      has_process ? publish_alone(address, options) : publish_external(*ref_, address, options);
  if (!published) {
    withdraw_lease(lease);
    if (published.error().code == Errc::kTicketLost) {
      count(*ref_, model_, AcquireOutcome::kFailed);
      let_go();  // its slot waits for that
    }
    return modelpool::fail(published.error());
  }
  count(*ref_, model_, AcquireOutcome::kLoaded);
  worker.drop();
  *ref_ = TicketRef{};
  wake_waiters(segment, hash_name(model_));
  if (pool_setting(segment, Setting::kMaxLoads) != 0) wake_line(segment);
  ring(segment);
  return as_asked(Lease(lease), cancellable_, on_cancel_);
}

// How what it started ended, packed; 0: it lives, or nobody has reaped it.
std::uint32_t LoadTicket::known_exit() const {
  const BackendRecord& record = ref_->worker->segment().backend(ref_->backend.index);
  // acquire: written by whoever reaped the process
  const std::uint64_t exit = record.exit_status.load(std::memory_order_acquire);
  return high_half(exit) == ref_->backend.generation ? low_half(exit) : 0;
}

std::string LoadTicket::exit_words() const {
  return pid_ == 0 || !check() ? std::string() : exit_text(known_exit());
}

// The reason its loader gives, and what is known of what it started.
std::string LoadTicket::why_failed(std::string_view reason) const {
  std::string text(reason);
  if (pid_ == 0) return text;
  const BackendRecord& record = ref_->worker->segment().backend(ref_->backend.index);
  const auto log = ModelLog::open(read_log_note(record.log.load()).path, model_);
  const auto lines = log ? last_lines(*log, kLastLinesMax) : std::vector<std::string>();
  const auto rise = memory_ ? memory_->rise() : MemoryKills::Rise::kNone;
  if (const std::string words = modelpool::exit_words(known_exit(), rise, lines); !words.empty())
    text += ": " + words;
  return with_last_lines(text, lines, kHistoryErrorMax_bytes);
}

Result<> LoadTicket::fail(std::string_view reason) {
  if (auto ok = check(); !ok) {
    *ref_ = TicketRef{};
    return ok;
  }
  const Segment& segment = ref_->worker->segment();
  const std::uint32_t owner = ref_->worker->owner_word();
  const std::uint64_t cooldown = resolve_settings(segment, model_).get(Setting::kLoadCooldown);
  const std::string why = why_failed(reason);
  bool failed = false;
  {
    auto lock = segment.lock_structure();
    if (!lock) return modelpool::fail(lock.error());  // the ticket stays
    const StateWord state = load_state(segment, ref_->backend.index);
    const bool still_ours =
        state.generation == ref_->backend.generation && state.owner == owner &&
        (state.state == BackendState::kReserved || state.state == BackendState::kStarting);
    failed =
        still_ours && fail_load(segment, *lock, model_, {ref_->backend, why, cooldown}, now_ns(),
                                [&] { return give_up(segment, ref_->backend, owner); });
  }
  const Result<> result = failed ? Result<>() : modelpool::fail(why_lost(segment, ref_->backend));
  count(*ref_, model_, AcquireOutcome::kFailed);
  let_go();
  return result;
}

Result<> LoadTicket::give_back() {
  if (auto ok = check(); !ok) {
    *ref_ = TicketRef{};
    return ok;
  }
  count(*ref_, model_, AcquireOutcome::kCancelled);
  let_go();
  return {};
}

}  // namespace modelpool
