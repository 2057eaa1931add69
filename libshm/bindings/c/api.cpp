// The C interface: checks what comes in, calls the C++ library, turns errors into codes.
//
// Safety, errors: modelpool.h says it for each function. Every function runs inside answer(), which
// lets no exception out and refuses a signal handler that interrupted another call.
#include <cxxabi.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <type_traits>

#include "base/nearest.hpp"
#include "base/time.hpp"
#include "handles.hpp"
#include "modelpool/modelpool.h"
#include "modelpool/pool.hpp"
#include "protocol/events.hpp"
#include "wait_fd.hpp"

namespace modelpool::c {
namespace {

static_assert(static_cast<int>(Errc::kTimeout) == MODELPOOL_TIMEOUT &&
              static_cast<int>(Errc::kSystem) == MODELPOOL_SYSTEM);  // one numbering
static_assert(kModelNameMax_bytes < MODELPOOL_MODEL_BYTES &&
              kAddressMax_bytes < MODELPOOL_ADDRESS_BYTES && kTagMax_bytes < MODELPOOL_TAG_BYTES &&
              kLabelMax_bytes < MODELPOOL_LABEL_BYTES && kPoolNameMax_bytes < MODELPOOL_POOL_BYTES);

constexpr std::size_t kStructMax_bytes = 64 * 1024;  // more is no size, but an unset field
constexpr std::size_t kArgumentsMax = 100'000;       // the kernel takes fewer
constexpr auto kTimeoutMax_ms = static_cast<std::int64_t>(kDurationMax_ns / kMillisecond_ns);

struct PoolState {
  explicit PoolState(Pool attached) : pool(std::move(attached)) {}
  PoolState(const PoolState&) = delete;
  PoolState& operator=(const PoolState&) = delete;
  ~PoolState() {
    if (WaitFd* const own = own_wait_fd()) own->stop();
  }
  // The one made in this process: after fork the parent's is of no use.
  WaitFd* own_wait_fd() const {
    WaitFd* const found = wait_fd.load(std::memory_order_acquire);
    return found != nullptr && wait_fd_process.load(std::memory_order_relaxed) == this_process()
               ? found
               : nullptr;
  }

  Pool pool;
  std::atomic<WaitFd*> wait_fd{nullptr};
  std::atomic<std::uint64_t> wait_fd_process{0};
  std::shared_ptr<WaitFd> wait_fd_kept;  // written in turns
};

struct WaitState {
  WaitState(PendingAcquire begun, std::uint64_t of_pool, std::uint64_t until_ns)
      : pending(std::move(begun)), pool(of_pool), deadline_ns(until_ns) {}
  PendingAcquire pending;
  const std::uint64_t pool;
  const std::uint64_t deadline_ns;
  std::atomic<bool> detached{false};
};

using Pools = Handles<std::unique_ptr<PoolState>>;
using Waits = Handles<std::unique_ptr<WaitState>>;
constinit Pools g_pools(1);
constinit Waits g_waits(2);
constinit Handles<Lease> g_leases(3);
constinit Handles<LoadTicket> g_tickets(4);

// Whose mutex makes threads take turns where that is rare: fork leaves it unlocked. Set by the
// first attach, never freed.
std::atomic<ForkGuard*> g_turns{nullptr};

Result<> make_turns() {
  if (g_turns.load(std::memory_order_acquire) != nullptr) return {};
  auto guard = ForkGuard::make();
  if (!guard) return fail(guard.error());
  ForkGuard* none = nullptr;
  if (g_turns.compare_exchange_strong(none, guard->get(), std::memory_order_acq_rel)) {
    static_cast<void>(guard->release());
  }
  return {};
}
pthread_mutex_t& turns() { return g_turns.load(std::memory_order_acquire)->mutex(); }

class Turn {
 public:
  Turn() { pthread_mutex_lock(&turns()); }
  ~Turn() { pthread_mutex_unlock(&turns()); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
};

// --- Answers -------------------------------------------------------------------------------------

// Cut between characters.
void write_text(char* to, std::size_t bytes, std::string_view text) {
  std::size_t size = std::min(text.size(), bytes - 1);
  if (size < text.size()) {
    while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) --size;
  }
  std::memcpy(to, text.data(), size);
  std::memset(to + size, 0, bytes - size);
}
template <std::size_t Bytes>
void write_text(char (&to)[Bytes], std::string_view text) {
  write_text(to, Bytes, text);
}

std::int64_t ms_of(std::uint64_t ns) {
  return ns == kNever_ns ? MODELPOOL_UNKNOWN : static_cast<std::int64_t>(ns / kMillisecond_ns);
}
std::int64_t age_ms(std::uint64_t now, std::uint64_t stamp) {
  return stamp == 0 || stamp == kNever_ns ? MODELPOOL_UNKNOWN : ms_of(age_ns(now, stamp));
}
std::int64_t unless_zero(std::uint64_t value) {
  constexpr std::uint64_t kMost = INT64_MAX;  // more would read as unknown
  return value == 0 ? MODELPOOL_UNKNOWN : static_cast<std::int64_t>(std::min(value, kMost));
}

modelpool_code write_error(modelpool_error* out, int code, int system, std::uint64_t retry_after_ns,
                           std::string_view text) {
  if (out == nullptr) return code;
  out->code = code;
  out->system = system;
  // Rounded up: who waits so long does not come early.
  out->retry_after_ms = static_cast<std::int64_t>(retry_after_ns / kMillisecond_ns +
                                                  (retry_after_ns % kMillisecond_ns != 0));
  std::memset(out->reserved, 0, sizeof out->reserved);
  if (text.empty()) {
    out->text[0] = 0;
  } else {
    write_text(out->text, text);
  }
  return code;
}

modelpool_code write_error(modelpool_error* out, const Error& error) {
  return write_error(out, static_cast<int>(error.code), error.system, error.retry_after_ns,
                     error.text);
}

// Is this thread inside a call already? Then it is a signal handler that asks. initial-exec:
// reading it allocates nothing.
thread_local bool t_inside __attribute__((tls_model("initial-exec"))) = false;

class Inside {
 public:
  Inside() : first_(!t_inside) { t_inside = true; }
  ~Inside() {
    if (first_) t_inside = false;
  }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
  bool first() const { return first_; }

 private:
  bool first_;
};

template <class Body>
modelpool_code answer(modelpool_error* error, Body body) {
  const Inside inside;
  if (!inside.first()) {
    return write_error(
        error, MODELPOOL_BUSY, 0, 0,
        "unable to run in a signal handler that interrupted a call; call later, from a thread");
  }
  try {
    const Result<> result = body();
    return result ? write_error(error, MODELPOOL_OK, 0, 0, {}) : write_error(error, result.error());
  } catch (const abi::__forced_unwind&) {
    throw;  // the thread is being cancelled; the C library does not let us keep it
  } catch (const std::bad_alloc&) {
    return write_error(error, MODELPOOL_SYSTEM, ENOMEM, 0, "unable to go on: out of memory");
  } catch (const std::exception& unexpected) {
    return write_error(error, MODELPOOL_SYSTEM, 0, 0, unexpected.what());
  }
}

tl::unexpected<Error> invalid(const std::string& what) { return fail(Errc::kInvalid, what); }
tl::unexpected<Error> closed(const char* what) {
  return fail(Errc::kClosed, std::string("unable to use this ") + what +
                                 ": it is closed, used up, or was inherited through fork");
}
tl::unexpected<Error> in_use(const char* what) {
  return fail(Errc::kBusy, std::string("unable to use this ") + what +
                               ": another thread is using it; take turns");
}

// --- What comes in -------------------------------------------------------------------------------

Result<std::string_view> required(const char* text, const char* name) {
  if (text == nullptr) return invalid(std::string("unable to go on: ") + name + " is NULL");
  return std::string_view(text);
}
Result<> required_pointer(const void* pointer, const char* name) {
  if (pointer == nullptr) return invalid(std::string("unable to go on: ") + name + " is NULL");
  return {};
}
std::string text_or_empty(const char* text) {
  return text == nullptr ? std::string() : std::string(text);
}

// The size that the first release had: a caller that was built with an older header gives less than
// this library knows.
template <class T>
constexpr std::size_t kFirst_bytes = sizeof(T);
template <>
constexpr std::size_t kFirst_bytes<modelpool_ready_options> = offsetof(modelpool_ready_options,
                                                                       any_listener);

Result<> check_size(std::size_t bytes, std::size_t known, const char* name) {
  if (bytes >= known && bytes <= kStructMax_bytes) return {};
  return invalid(std::string("unable to read ") + name + ": struct_bytes is " +
                 std::to_string(bytes) + "; set it to sizeof, as the ..._INIT macro does");
}

// Options of a caller that was built with a newer header: what is unknown here must be unused.
template <class T>
Result<T> read_options(const T* given, const char* name) {
  T options{};
  if (given == nullptr) return options;
  if (auto ok = check_size(given->struct_bytes, kFirst_bytes<T>, name); !ok) {
    return fail(ok.error());
  }
  std::memcpy(&options, given, std::min(given->struct_bytes, sizeof(T)));
  const char* const bytes = reinterpret_cast<const char*>(given);
  if (given->struct_bytes > sizeof(T) &&
      std::any_of(bytes + sizeof(T), bytes + given->struct_bytes, [](char c) { return c != 0; })) {
    return invalid(std::string("unable to read ") + name +
                   ": it uses a field this library does not know; install a newer libmodelpool");
  }
  return options;
}

// An answer into the caller's structure, as much of it as that has room for.
template <class T>
void write_row(void* to, std::size_t room_bytes, T row) {
  row.struct_bytes = std::min(room_bytes, sizeof(T));
  std::memcpy(to, &row, row.struct_bytes);
  if (room_bytes > sizeof(T))
    std::memset(static_cast<char*>(to) + sizeof(T), 0, room_bytes - sizeof(T));
}

template <class T>
Result<> write_answer(T* to, const T& value, const char* name) {
  if (auto ok = required_pointer(to, name); !ok) return ok;
  const std::size_t bytes = to->struct_bytes;
  if (auto ok = check_size(bytes, sizeof(T), name); !ok) return ok;
  write_row(to, bytes, value);
  to->struct_bytes = bytes;  // the caller's: it may be used again
  return {};
}

Result<std::vector<std::string>> read_list(const char* const* texts, const char* name,
                                           std::size_t most) {
  std::vector<std::string> result;
  for (; texts != nullptr && *texts != nullptr; ++texts) {
    if (result.size() == most) {
      return invalid(std::string("unable to read ") + name + ": more than " + std::to_string(most) +
                     " entries; it must end with NULL");
    }
    result.emplace_back(*texts);
  }
  return result;
}

// "name=value" entries.
Result<std::vector<std::pair<const SettingInfo*, std::uint64_t>>> read_settings(
    const char* const* texts, bool per_model) {
  auto entries = read_list(texts, "settings", 1024);
  if (!entries) return fail(entries.error());
  std::vector<std::pair<const SettingInfo*, std::uint64_t>> result;
  for (const std::string& entry : *entries) {
    const std::size_t equals = entry.find('=');
    const SettingInfo* info = find_setting(std::string_view(entry).substr(0, equals));
    if (equals == std::string::npos || info == nullptr) {
      return invalid("unable to set " + quote(entry) +
                     ": it takes NAME=VALUE of a setting `poolctl set` lists");
    }
    if (per_model && !info->per_model) {
      return invalid("unable to set " + std::string(info->name) +
                     " for one backend: it is the pool's");
    }
    auto value = parse_setting(*info, std::string_view(entry).substr(equals + 1));
    if (!value) return fail(value.error());
    result.emplace_back(info, *value);
  }
  return result;
}

Result<std::chrono::milliseconds> read_ms(std::int64_t ms, const char* name) {
  if (ms >= 0 && ms <= kTimeoutMax_ms) return std::chrono::milliseconds(ms);
  return invalid(std::string("unable to use ") + name + " " + std::to_string(ms) +
                 ": it takes 0 to " + std::to_string(kTimeoutMax_ms) + " milliseconds (10 years)");
}

Result<Pools::Pin> hold(modelpool_pool pool) {
  if (g_turns.load(std::memory_order_acquire) == nullptr) return closed("pool");
  Pools::Pin held = g_pools.pin_or_adopt(pool.id, turns());
  if (!held) return closed("pool");
  return held;
}

Result<Handles<LoadTicket>::Pin> hold_alone(modelpool_ticket ticket) {
  auto held = g_tickets.pin(ticket.id);
  if (!held) return closed("ticket");
  if (!held.take()) return in_use("ticket");
  // Another thread may have used it up between our pin and our turn.
  if (!*held) return closed("ticket");
  return held;
}

// --- Acquire -------------------------------------------------------------------------------------

struct Asked {
  std::string model;
  Deadline deadline = std::chrono::seconds(0);
  AcquireOptions options;
};

Result<Asked> read_request(const char* model, std::int64_t timeout_ms,
                           const modelpool_acquire_options* given) {
  auto name = required(model, "model");
  if (!name) return fail(name.error());
  auto timeout = read_ms(timeout_ms, "timeout_ms");
  if (!timeout) return fail(timeout.error());
  auto options = read_options(given, "modelpool_acquire_options");
  if (!options) return fail(options.error());
  auto busy = read_ms(options->busy_timeout_ms, "busy_timeout_ms");
  if (!busy) return fail(busy.error());
  Asked asked{std::string(*name), *timeout, {}};
  asked.options.tag = text_or_empty(options->tag);
  asked.options.busy_timeout = *busy;
  asked.options.expected_bytes = options->expected_bytes;
  asked.options.priority = options->priority;
  asked.options.may_load = options->no_load == 0;
  return asked;
}

Result<> out_of_handles() {
  return fail(Errc::kTableFull,
              "unable to go on: this process has all its handles in use; release some");
}

Result<> give(Lease lease, modelpool_lease* out) {
  out->id = g_leases.open(std::move(lease));
  return out->id == 0 ? out_of_handles() : Result<>();
}

Result<> give(Grant granted, modelpool_grant* out) {
  if (auto* lease = std::get_if<Lease>(&granted)) {
    if (auto ok = give(std::move(*lease), &out->lease); !ok) return ok;
    out->kind = MODELPOOL_GRANTED_LEASE;
    return {};
  }
  out->ticket.id = g_tickets.open(std::move(std::get<LoadTicket>(granted)));
  if (out->ticket.id == 0) return out_of_handles();
  out->kind = MODELPOOL_GRANTED_TICKET;
  return {};
}

Result<std::uint64_t> begin(modelpool_pool pool, PoolState& state, const Asked& asked) {
  auto pending = begin_acquire_with_wake(state.pool, asked.model, asked.deadline, asked.options);
  if (!pending) return fail(pending.error());
  const std::uint64_t id = g_waits.open(
      std::make_unique<WaitState>(std::move(*pending), pool.id, asked.deadline.at_ns()));
  if (id == 0) return fail(out_of_handles().error());
  // Opened first: detach, which closes the pool and then looks for waits, meets this one or is met.
  if (!g_pools.is_open(pool.id)) {
    g_waits.close(id);
    return closed("pool");
  }
  return id;
}

// One look. Ends the wait unless there is nothing yet.
Result<> poll(std::uint64_t id, WaitState& wait, modelpool_grant* grant) {
  auto polled = wait.pending.poll();
  if (polled && !polled->has_value()) return {};
  g_waits.close(id);
  if (polled) return give(std::move(**polled), grant);
  if (polled.error().code == Errc::kCancelled && wait.detached.load(std::memory_order_acquire)) {
    return closed("pool");
  }
  return fail(polled.error());
}

// --- Lists ---------------------------------------------------------------------------------------

// Fills the caller's array with what row(i) makes of the i-th of `total`.
template <class T, class Row>
Result<> write_rows(T* rows, std::size_t row_bytes, std::size_t capacity, std::size_t* count,
                    std::size_t total, Row row) {
  if (auto ok = required_pointer(count, "count"); !ok) return ok;
  if (capacity > 0) {
    if (auto ok = required_pointer(rows, "rows"); !ok) return ok;
    if (row_bytes < sizeof(T) || row_bytes > kStructMax_bytes || row_bytes % alignof(T) != 0) {
      return invalid("unable to fill the rows: row_bytes is " + std::to_string(row_bytes) +
                     "; pass sizeof of a row");
    }
  }
  *count = total;
  for (std::size_t i = 0; i < std::min(total, capacity); ++i) {
    write_row(reinterpret_cast<char*>(rows) + i * row_bytes, row_bytes, row(i));
  }
  return {};
}

Result<Snapshot> look(modelpool_pool pool) {
  auto held = hold(pool);
  if (!held) return fail(held.error());
  return look_inside((**held)->pool);
}

std::int32_t pid_of(std::uint64_t pid) { return static_cast<std::int32_t>(pid); }

std::int32_t worker_pid(const Snapshot& snapshot, std::uint32_t row) {
  const auto found =
      std::find_if(snapshot.workers.begin(), snapshot.workers.end(),
                   [row](const WorkerView& worker) { return worker.ref.index == row; });
  return found == snapshot.workers.end() ? 0 : found->process.pid;
}

void write_stop(modelpool_backend* row, std::uint64_t now, const BackendView& backend) {
  const BackendState state = backend.state.state;
  const bool ending = state == BackendState::kEvicting || state == BackendState::kStopping;
  // All fields as for a stop of which nothing is known.
  const StopRecord stop =
      ending && backend.stop.generation == backend.ref.generation ? backend.stop : StopRecord{};
  write_text(row->stop_reason, reason_name(stop.reason));
  write_text(row->stop_text, escape(field_text(stop.text)));
  row->stop_decided_ms = age_ms(now, stop.decided_ns);
  row->stop_stopping_ms = age_ms(now, stop.stopping_ns);
  row->stop_signalled_ms = age_ms(now, stop.signalled_ns);
  row->stop_killed_ms = age_ms(now, stop.killed_ns);
  row->stop_age_ms = ms_of(stop.age_ns);
  row->stop_limit_ms = ms_of(stop.limit_ns);
  row->stop_signal = static_cast<std::int32_t>(stop.signal);
}

modelpool_backend backend_row(const Snapshot& snapshot, const BackendView& backend) {
  const std::uint64_t now = snapshot.now_ns;
  const bool idle = backend.state.state == BackendState::kReady && backend.in_flight == 0;
  modelpool_backend row{};
  write_text(row.model, escape(backend.model));
  write_text(row.address, escape(backend.address));
  write_text(row.state, backend_state_name(backend.state.state));
  write_text(row.label, escape(backend.label));
  row.busy_ms = backend.in_flight > 0 ? age_ms(now, backend.oldest_start_ns) : MODELPOOL_UNKNOWN;
  row.idle_ms = idle ? age_ms(now, backend.last_used_ns) : MODELPOOL_UNKNOWN;
  row.ready_ms = age_ms(now, backend.ready_ns);
  row.reserved_ms = age_ms(now, backend.reserved_ns);
  row.size_bytes = unless_zero(backend.size_bytes);
  row.device_mask = backend.device_mask;
  row.in_flight = backend.in_flight;
  row.generation = backend.ref.generation;
  row.slot = backend.ref.index;
  row.pid = backend.process.pid;
  row.owner_pid = pid_of(backend.owner_pid);
  row.pinned = backend.pinned();
  row.external = backend.external();
  row.evict_requested = (backend.control & kControlEvict) != 0;
  row.group = backend.group;
  row.started_ms = age_ms(now, backend.started_ns);
  write_text(row.exit, exit_text(backend.exit_status));
  write_stop(&row, now, backend);
  return row;
}

modelpool_lease_row lease_row(const Snapshot& snapshot, const LeaseView& lease) {
  const BackendView* backend = snapshot.find(lease.backend);
  modelpool_lease_row row{};
  if (backend != nullptr) write_text(row.model, escape(backend->model));
  write_text(row.tag, escape(lease.tag));
  row.age_ms = age_ms(snapshot.now_ns, lease.start_ns);
  row.progress_ms = age_ms(snapshot.now_ns, lease.progress_ns);
  row.limit_ms = lease.limit_ns == 0 ? MODELPOOL_UNKNOWN : ms_of(lease.limit_ns);
  row.worker_pid = worker_pid(snapshot, lease.worker);
  row.backend_pid = backend != nullptr ? backend->process.pid : 0;
  row.slot = lease.backend.index;
  row.generation = lease.backend.generation;
  return row;
}

std::int32_t alive_of(Liveness liveness) {
  return liveness == Liveness::kUnknown ? MODELPOOL_UNKNOWN : liveness == Liveness::kAlive;
}

modelpool_worker worker_row(const Snapshot& snapshot, const WorkerView& worker) {
  modelpool_worker row{};
  write_text(row.command, escape(worker.command));
  row.attached_ms = age_ms(snapshot.now_ns, worker.attached_ns);
  row.leases = worker.leases;
  row.row = worker.ref.index;
  row.generation = worker.ref.generation;
  row.pid = worker.process.pid;
  row.alive = alive_of(process_liveness(worker.process));
  return row;
}

modelpool_waiter waiter_row(const Snapshot& snapshot, const WaiterView& waiter) {
  modelpool_waiter row{};
  write_text(row.model, escape(waiter.model));
  write_text(row.tag, escape(waiter.tag));
  row.waiting_ms = age_ms(snapshot.now_ns, waiter.since_ns);
  row.left_ms = waiter.deadline_ns == kNever_ns
                    ? MODELPOOL_UNKNOWN
                    : ms_of(age_ns(waiter.deadline_ns, snapshot.now_ns));
  row.arrival = waiter.arrival;
  row.priority = waiter.priority;
  row.expected_bytes = unless_zero(waiter.expected_bytes);
  row.worker_pid = waiter.pid;
  return row;
}

modelpool_event event_row(const EventView& event) {
  const EventData& data = event.data;
  modelpool_event row{};
  row.sequence = event.sequence;
  row.time_ms = data.time_ns == 0 ? MODELPOOL_UNKNOWN : ms_of(data.time_ns);
  write_text(row.kind, event_kind_name(data.kind));
  write_text(row.reason, reason_name(data.reason));
  write_text(row.model, escape(field_text(data.model)));
  write_text(row.tag, escape(field_text(data.tag)));
  write_text(row.exit, exit_text(data.exit_status));
  write_text(row.text, escape(field_text(data.text)));
  row.age_ms = ms_of(data.age_ns);
  row.limit_ms = ms_of(data.limit_ns);
  row.exit_ms = ms_of(data.exit_ns);
  row.load_ms = ms_of(data.load_ns);
  row.count = data.count == kNever_ns ? MODELPOOL_UNKNOWN : static_cast<std::int64_t>(data.count);
  row.pid = pid_of(data.pid);
  row.worker_pid = pid_of(data.worker_pid);
  row.signal = static_cast<std::int32_t>(data.signal);
  return row;
}

// touch, pin and their like.
template <class Call>
modelpool_code on_model(modelpool_pool pool, const char* model, modelpool_error* error, Call call) {
  return answer(error, [&]() -> Result<> {
    auto held = hold(pool);
    if (!held) return fail(held.error());
    auto name = required(model, "model");
    if (!name) return fail(name.error());
    return call((**held)->pool, *name);
  });
}

}  // namespace
}  // namespace modelpool::c

using namespace modelpool;     // NOLINT(google-build-using-namespace): C has none
using namespace modelpool::c;  // NOLINT(google-build-using-namespace)

extern "C" {

const char* modelpool_code_name(modelpool_code code) {
  // errc_name returns literals, which end with a NUL.
  return code == MODELPOOL_OK ? "ok" : errc_name(static_cast<Errc>(code)).data();
}

const char* modelpool_version(void) { return MODELPOOL_VERSION; }

// --- Pools ---------------------------------------------------------------------------------------

modelpool_code modelpool_attach(const char* name, const modelpool_attach_options* options,
                                modelpool_pool* pool, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    if (auto ok = required_pointer(pool, "pool"); !ok) return ok;
    pool->id = 0;
    auto given = read_options(options, "modelpool_attach_options");
    if (!given) return fail(given.error());
    auto grace = read_ms(given->coordinator_grace_ms, "coordinator_grace_ms");
    if (!grace) return fail(grace.error());
    auto values = read_settings(given->settings, false);
    if (!values) return fail(values.error());
    Settings settings;
    for (const auto& [info, value] : *values)
      settings.pool.set(info->id, value, Origin{OriginKind::kSet, 0});

    PoolOptions attach;
    attach.dir = text_or_empty(given->dir);
    attach.create = given->no_create == 0;
    const auto capacity = [](std::uint32_t asked, std::uint32_t* own) {
      if (asked != 0) *own = asked;
    };
    capacity(given->backends, &attach.capacities.backends);
    capacity(given->workers, &attach.capacities.workers);
    capacity(given->leases, &attach.capacities.leases);
    capacity(given->waiters, &attach.capacities.waiters);
    capacity(given->events, &attach.capacities.events);
    capacity(given->models, &attach.capacities.models);
    if (given->settings != nullptr) attach.settings = &settings;
    if (given->coordinator_grace_ms != 0) attach.coordinator_grace = *grace;

    if (auto ok = make_turns(); !ok) return ok;
    const char* const from_environment = std::getenv("MODELPOOL_POOL");
    const bool named = from_environment != nullptr && *from_environment != 0;
    auto attached = Pool::attach(name != nullptr ? name
                                 : named         ? from_environment
                                                 : "default",
                                 attach);
    if (!attached) return fail(attached.error());
    pool->id = g_pools.open(std::make_unique<PoolState>(std::move(*attached)));
    return pool->id == 0 ? out_of_handles() : Result<>();
  });
}

modelpool_code modelpool_detach(modelpool_pool pool) {
  return answer(nullptr, [&]() -> Result<> {
    auto held = hold(pool);  // keeps it until its waits have been told
    if (!held || !g_pools.close(pool.id)) return closed("pool");
    g_waits.for_each([&](std::uint64_t id, std::unique_ptr<WaitState>& wait) {
      if (wait->pool != pool.id) return;
      wait->detached.store(true, std::memory_order_release);
      wait->pending.cancel();
      g_waits.close(id);
    });
    return {};
  });
}

// --- Acquire -------------------------------------------------------------------------------------

modelpool_code modelpool_acquire(modelpool_pool pool, const char* model, int64_t timeout_ms,
                                 const modelpool_acquire_options* options, modelpool_grant* grant,
                                 modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    if (auto ok = required_pointer(grant, "grant"); !ok) return ok;
    *grant = modelpool_grant{};
    auto asked = read_request(model, timeout_ms, options);
    if (!asked) return fail(asked.error());
    std::uint64_t id = 0;
    {
      auto held = hold(pool);
      if (!held) return fail(held.error());
      PoolState& state = ***held;
      // A loaded model is found by what this thread remembers, without a place in line.
      AcquireOptions only_loaded = asked->options;
      only_loaded.may_load = false;
      auto loaded = state.pool.acquire(asked->model, std::chrono::seconds(0), only_loaded);
      if (loaded) return give(std::move(*loaded), grant);
      auto begun = begin(pool, state, *asked);
      if (!begun) return fail(begun.error());
      id = *begun;
    }
    const Waits::Pin wait = g_waits.pin(id);
    if (!wait) return closed("pool");  // detached meanwhile
    for (;;) {
      if (auto ok = poll(id, **wait, grant); !ok) return ok;
      if (grant->kind != MODELPOOL_GRANTED_NOTHING) return {};
      (*wait)->pending.wait();
    }
  });
}

modelpool_code modelpool_begin(modelpool_pool pool, const char* model, int64_t timeout_ms,
                               const modelpool_acquire_options* options, modelpool_wait* wait,
                               modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    if (auto ok = required_pointer(wait, "wait"); !ok) return ok;
    wait->id = 0;
    auto asked = read_request(model, timeout_ms, options);
    if (!asked) return fail(asked.error());
    auto held = hold(pool);
    if (!held) return fail(held.error());
    auto begun = begin(pool, ***held, *asked);
    if (!begun) return fail(begun.error());
    wait->id = *begun;
    // Its deadline may be the next one.
    if (const WaitFd* const own = (**held)->own_wait_fd()) own->kick();
    return {};
  });
}

modelpool_code modelpool_poll(modelpool_wait wait, modelpool_grant* grant, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    if (auto ok = required_pointer(grant, "grant"); !ok) return ok;
    *grant = modelpool_grant{};
    auto held = g_waits.pin(wait.id);
    if (!held) return closed("wait");
    if (!held.take()) return in_use("wait");
    if (!g_waits.is_open(wait.id)) return closed("wait");  // another thread's poll ended it
    return poll(wait.id, **held, grant);
  });
}

modelpool_code modelpool_cancel(modelpool_wait wait) {
  return answer(nullptr, [&]() -> Result<> {
    auto held = g_waits.pin(wait.id);
    if (!held) return closed("wait");
    (*held)->pending.cancel();
    return g_waits.close(wait.id) ? Result<>() : closed("wait");
  });
}

modelpool_code modelpool_wait_fd(modelpool_pool pool, int* fd, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    if (auto ok = required_pointer(fd, "fd"); !ok) return ok;
    *fd = -1;
    auto held = hold(pool);
    if (!held) return fail(held.error());
    PoolState& state = ***held;
    auto word = wake_word_of(state.pool);
    if (!word) return fail(word.error());
    const Turn turn;
    if (state.own_wait_fd() == nullptr) {
      auto started = WaitFd::start(**word, [id = pool.id] {
        Outlook outlook;
        const std::uint64_t now = now_ns();
        g_waits.for_each([&](std::uint64_t, const std::unique_ptr<WaitState>& wait) {
          if (wait->pool != id) return;
          outlook.any = true;
          if (wait->deadline_ns > now)
            outlook.deadline_ns = std::min(outlook.deadline_ns, wait->deadline_ns);
        });
        return outlook;
      });
      if (!started) return fail(started.error());
      state.wait_fd_kept = std::move(*started);
      state.wait_fd_process.store(this_process(), std::memory_order_relaxed);
      state.wait_fd.store(state.wait_fd_kept.get(), std::memory_order_release);
    }
    *fd = state.own_wait_fd()->fd();
    return {};
  });
}

// --- Leases --------------------------------------------------------------------------------------

modelpool_code modelpool_lease_get(modelpool_lease lease, modelpool_lease_info* info,
                                   modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    const auto held = g_leases.pin(lease.id);
    if (!held) return closed("lease");
    modelpool_lease_info answer{};
    answer.pid = held->pid();
    write_text(answer.model, held->model());
    write_text(answer.address, held->address());
    return write_answer(info, answer, "modelpool_lease_info");
  });
}

modelpool_code modelpool_progress(modelpool_lease lease, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    const auto held = g_leases.pin(lease.id);
    if (!held) return closed("lease");
    return held->progress();
  });
}

modelpool_code modelpool_release(modelpool_lease lease) {
  return answer(nullptr, [&]() -> Result<> {
    return g_leases.close(lease.id) ? Result<>() : closed("lease");
  });
}

// --- Tickets -------------------------------------------------------------------------------------

modelpool_code modelpool_ticket_get(modelpool_ticket ticket, modelpool_ticket_info* info,
                                    modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    const auto held = hold_alone(ticket);
    if (!held) return fail(held.error());
    modelpool_ticket_info answer{};
    answer.pid = (*held)->pid();
    answer.waiting = static_cast<std::int32_t>((*held)->waiting());
    write_text(answer.model, (*held)->model());
    return write_answer(info, answer, "modelpool_ticket_info");
  });
}

modelpool_code modelpool_spawn(modelpool_ticket ticket, const char* const* argv,
                               const modelpool_spawn_options* options, int32_t* pid,
                               modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    if (pid != nullptr) *pid = 0;
    if (auto ok = required_pointer(argv, "argv"); !ok) return ok;
    auto given = read_options(options, "modelpool_spawn_options");
    if (!given) return fail(given.error());
    auto arguments = read_list(argv, "argv", kArgumentsMax);
    if (!arguments) return fail(arguments.error());
    auto env = read_list(given->env, "env", kArgumentsMax);
    if (!env) return fail(env.error());
    SpawnOptions spawn;
    spawn.env = std::move(*env);
    spawn.cwd = text_or_empty(given->cwd);
    spawn.output = text_or_empty(given->output);
    spawn.error_output = text_or_empty(given->error_output);
    const auto held = hold_alone(ticket);
    if (!held) return fail(held.error());
    if (auto ok = (*held)->spawn(*arguments, spawn); !ok) return ok;
    if (pid != nullptr) *pid = (*held)->pid();
    return {};
  });
}

modelpool_code modelpool_started(modelpool_ticket ticket, int32_t pid, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    const auto held = hold_alone(ticket);
    if (!held) return fail(held.error());
    return (*held)->started(pid);
  });
}

modelpool_code modelpool_ready(modelpool_ticket ticket, const char* address,
                               const modelpool_ready_options* options, modelpool_lease* lease,
                               modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    if (auto ok = required_pointer(lease, "lease"); !ok) return ok;
    lease->id = 0;
    auto where = required(address, "address");
    if (!where) return fail(where.error());
    auto given = read_options(options, "modelpool_ready_options");
    if (!given) return fail(given.error());
    auto values = read_settings(given->settings, true);
    if (!values) return fail(values.error());
    ReadyOptions ready;
    ready.size_bytes = given->size_bytes;
    ready.label = text_or_empty(given->label);
    ready.device_mask = given->device_mask;
    ready.pinned = given->pinned != 0;
    ready.external = given->external != 0;
    ready.any_listener = given->any_listener != 0;
    for (const auto& [info, value] : *values) {
      ready.overrides.set(info->id, value, Origin{OriginKind::kReady, 0});
    }
    const auto held = hold_alone(ticket);
    if (!held) return fail(held.error());
    auto leased = (*held)->ready(*where, ready);
    if (!static_cast<bool>(**held)) g_tickets.close(ticket.id);  // used up
    if (!leased) return fail(leased.error());
    return give(std::move(*leased), lease);
  });
}

modelpool_code modelpool_fail(modelpool_ticket ticket, const char* reason, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    const auto held = hold_alone(ticket);
    if (!held) return fail(held.error());
    auto result =
        (*held)->fail(reason == nullptr ? std::string_view("given up") : std::string_view(reason));
    if (!static_cast<bool>(**held)) g_tickets.close(ticket.id);  // used up
    return result;
  });
}

modelpool_code modelpool_give_back(modelpool_ticket ticket, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    const auto held = hold_alone(ticket);
    if (!held) return fail(held.error());
    auto result = (*held)->give_back();
    g_tickets.close(ticket.id);
    return result;
  });
}

modelpool_code modelpool_free_port(int32_t* port, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    if (auto ok = required_pointer(port, "port"); !ok) return ok;
    *port = 0;
    auto found = free_port();
    if (!found) return fail(found.error());
    *port = *found;
    return {};
  });
}

// --- The pool's backends and settings ------------------------------------------------------------

modelpool_code modelpool_touch(modelpool_pool pool, const char* model, modelpool_error* error) {
  return on_model(pool, model, error,
                  [](Pool& of, std::string_view name) { return of.touch(name); });
}

modelpool_code modelpool_pin(modelpool_pool pool, const char* model, modelpool_error* error) {
  return on_model(pool, model, error, [](Pool& of, std::string_view name) { return of.pin(name); });
}

modelpool_code modelpool_unpin(modelpool_pool pool, const char* model, modelpool_error* error) {
  return on_model(pool, model, error,
                  [](Pool& of, std::string_view name) { return of.unpin(name); });
}

modelpool_code modelpool_evict(modelpool_pool pool, const char* model, int force,
                               modelpool_error* error) {
  return on_model(pool, model, error,
                  [&](Pool& of, std::string_view name) { return of.evict(name, force != 0); });
}

modelpool_code modelpool_reset(modelpool_pool pool, const char* model, modelpool_error* error) {
  return on_model(pool, model, error,
                  [](Pool& of, std::string_view name) { return of.reset(name); });
}

modelpool_code modelpool_set(modelpool_pool pool, const char* name, const char* value,
                             modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    auto held = hold(pool);
    if (!held) return fail(held.error());
    auto setting = required(name, "name");
    if (!setting) return fail(setting.error());
    auto text = required(value, "value");
    if (!text) return fail(text.error());
    return (**held)->pool.set(*setting, *text);
  });
}

modelpool_code modelpool_get(modelpool_pool pool, const char* name, char* value, size_t value_bytes,
                             modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    auto held = hold(pool);
    if (!held) return fail(held.error());
    auto setting = required(name, "name");
    if (!setting) return fail(setting.error());
    if (auto ok = required_pointer(value, "value"); !ok) return ok;
    const SettingInfo* info = find_setting(*setting);
    if (info == nullptr) {
      return invalid("unable to get " + quote(*setting) + ": " + no_such_setting(*setting));
    }
    const Settings* settings = current_settings(segment_of((**held)->pool));
    const std::string text =
        format_setting(*info, settings == nullptr ? info->default_value : settings->get(info->id));
    if (text.size() >= value_bytes) {
      return invalid("unable to get " + std::string(info->name) + ": its value needs " +
                     std::to_string(text.size() + 1) + " bytes");
    }
    std::memcpy(value, text.c_str(), text.size() + 1);
    return {};
  });
}

modelpool_code modelpool_limit(modelpool_pool pool, uint32_t* max_backends,
                               modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    if (auto ok = required_pointer(max_backends, "max_backends"); !ok) return ok;
    auto held = hold(pool);
    if (!held) return fail(held.error());
    auto limit = (**held)->pool.limit();
    if (!limit) return fail(limit.error());
    *max_backends = *limit;
    return {};
  });
}

modelpool_code modelpool_set_limit(modelpool_pool pool, uint32_t max_backends,
                                   modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    auto held = hold(pool);
    if (!held) return fail(held.error());
    return (**held)->pool.set_limit(max_backends);
  });
}

// --- Looking -------------------------------------------------------------------------------------

modelpool_code modelpool_get_status(modelpool_pool pool, modelpool_status* status,
                                    modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    auto held = hold(pool);
    if (!held) return fail(held.error());
    const Segment& segment = segment_of((**held)->pool);
    auto snapshot = look_inside((**held)->pool);
    if (!snapshot) return fail(snapshot.error());
    CoordinatorIdentity coordinator;
    const Liveness alive = coordinator_liveness(segment, &coordinator);
    modelpool_status answer{};
    answer.max_backends = snapshot->settings ? snapshot->max_backends() : MODELPOOL_UNKNOWN;
    answer.live = snapshot->live();
    answer.ready = snapshot->ready();
    answer.waiting = static_cast<std::uint32_t>(snapshot->waiters.size());
    answer.workers = static_cast<std::uint32_t>(snapshot->workers.size());
    answer.leases = static_cast<std::uint32_t>(snapshot->leases.size());
    answer.coordinator_alive = alive_of(alive);
    answer.coordinator_pid = alive == Liveness::kDead ? 0 : coordinator.process.pid;
    answer.coordinator_epoch = coordinator.epoch;
    write_text(answer.pool, segment.name());
    return write_answer(status, answer, "modelpool_status");
  });
}

modelpool_code modelpool_list_backends(modelpool_pool pool, modelpool_backend* rows,
                                       size_t row_bytes, size_t capacity, size_t* count,
                                       modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    const auto snapshot = look(pool);
    if (!snapshot) return fail(snapshot.error());
    std::vector<const BackendView*> live;
    for (const BackendView& backend : snapshot->backends) {
      if (backend.live()) live.push_back(&backend);
    }
    return write_rows(rows, row_bytes, capacity, count, live.size(),
                      [&](std::size_t i) { return backend_row(*snapshot, *live[i]); });
  });
}

modelpool_code modelpool_list_leases(modelpool_pool pool, modelpool_lease_row* rows,
                                     size_t row_bytes, size_t capacity, size_t* count,
                                     modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    const auto snapshot = look(pool);
    if (!snapshot) return fail(snapshot.error());
    return write_rows(rows, row_bytes, capacity, count, snapshot->leases.size(),
                      [&](std::size_t i) { return lease_row(*snapshot, snapshot->leases[i]); });
  });
}

modelpool_code modelpool_list_workers(modelpool_pool pool, modelpool_worker* rows, size_t row_bytes,
                                      size_t capacity, size_t* count, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    const auto snapshot = look(pool);
    if (!snapshot) return fail(snapshot.error());
    return write_rows(rows, row_bytes, capacity, count, snapshot->workers.size(),
                      [&](std::size_t i) { return worker_row(*snapshot, snapshot->workers[i]); });
  });
}

modelpool_code modelpool_list_waiters(modelpool_pool pool, modelpool_waiter* rows, size_t row_bytes,
                                      size_t capacity, size_t* count, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    const auto snapshot = look(pool);
    if (!snapshot) return fail(snapshot.error());
    return write_rows(rows, row_bytes, capacity, count, snapshot->waiters.size(),
                      [&](std::size_t i) { return waiter_row(*snapshot, snapshot->waiters[i]); });
  });
}

modelpool_code modelpool_list_events(modelpool_pool pool, uint64_t first, modelpool_event* rows,
                                     size_t row_bytes, size_t capacity, size_t* count,
                                     modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    auto held = hold(pool);
    if (!held) return fail(held.error());
    const auto events = read_events(segment_of((**held)->pool), first);
    return write_rows(rows, row_bytes, capacity, count, events.size(),
                      [&](std::size_t i) { return event_row(events[i]); });
  });
}

}  // extern "C"
