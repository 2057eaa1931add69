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

#include "base/duration.hpp"
#include "base/name.hpp"
#include "base/nearest.hpp"
#include "base/time.hpp"
#include "handles.hpp"
#include "modelpool/modelpool.h"
#include "rows.hpp"
#include "segment/settings_block.hpp"

namespace modelpool::c {
namespace {

static_assert(static_cast<int>(Errc::kTimeout) == MODELPOOL_TIMEOUT &&
              static_cast<int>(kErrcLast) == MODELPOOL_TOO_LARGE);  // one numbering
static_assert(kAddressMax_bytes < MODELPOOL_ADDRESS_BYTES && kTagMax_bytes < MODELPOOL_TAG_BYTES &&
              kLabelMax_bytes < MODELPOOL_LABEL_BYTES && kPoolNameMax_bytes < MODELPOOL_POOL_BYTES);

constexpr std::size_t kStructMax_bytes = 64 * 1024;  // more is no size, but an unset field
constexpr std::size_t kArgumentsMax = 100'000;       // the kernel takes fewer
constexpr auto kTimeoutMax_ms = static_cast<std::int64_t>(kDurationMax_ns / kMillisecond_ns);

struct PoolState {
  explicit PoolState(Pool attached) : pool(std::move(attached)) {}
  Pool pool;
};

struct WaitState {
  WaitState(PendingAcquire begun, std::uint64_t of_pool)
      : pending(std::move(begun)), pool(of_pool) {}
  PendingAcquire pending;
  const std::uint64_t pool;
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

// --- Answers -------------------------------------------------------------------------------------

template <std::size_t Bytes>
void write_text(char (&to)[Bytes], std::string_view text) {
  c::write_text(to, Bytes, text);
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
constexpr std::size_t kFirst_bytes<modelpool_acquire_options> = offsetof(modelpool_acquire_options,
                                                                         cancellable);
template <>
constexpr std::size_t kFirst_bytes<modelpool_lease_info> = offsetof(modelpool_lease_info, slot);
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
  if (auto ok = check_size(bytes, kFirst_bytes<T>, name); !ok) return ok;
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
Result<std::vector<SettingEntry>> read_settings(const char* const* texts, Origin origin) {
  auto entries = read_list(texts, "settings", 1024);
  if (!entries) return fail(entries.error());
  std::vector<SettingEntry> result;
  for (const std::string& entry : *entries) {
    const std::size_t equals = entry.find('=');
    const SettingInfo* info = find_setting(std::string_view(entry).substr(0, equals));
    if (equals == std::string::npos || info == nullptr) {
      return invalid("unable to set " + quote(entry) +
                     ": it takes NAME=VALUE of a setting `poolctl set` lists");
    }
    if (origin.kind == OriginKind::kReady && !info->per_model) {
      return invalid("unable to set " + std::string(info->name) +
                     " for one backend: it is the pool's");
    }
    auto value = parse_entry(*info, std::string_view(entry).substr(equals + 1), origin);
    if (!value) return fail(value.error());
    result.push_back(std::move(*value));
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
  if (options->has_keep_alive != 0) {
    asked.options.keep_alive = std::chrono::milliseconds(options->keep_alive_ms);
  } else if (options->keep_alive_ms != 0) {
    return invalid("unable to use keep_alive_ms " + std::to_string(options->keep_alive_ms) +
                   ": has_keep_alive is 0; set it to 1");
  }
  asked.options.expected_bytes = options->expected_bytes;
  asked.options.priority = options->priority;
  asked.options.may_load = options->no_load == 0;
  asked.options.cancellable = options->cancellable != 0;
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
  auto pending = state.pool.begin_acquire(asked.model, asked.deadline, asked.options);
  if (!pending) return fail(pending.error());
  const std::uint64_t id = g_waits.open(std::make_unique<WaitState>(std::move(*pending), pool.id));
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

// The rows of a table as the structure of modelpool.h, or as all of their fields.
enum class Extent { kDeclared, kAll };

modelpool_code list(modelpool_pool pool, int number, Extent extent, std::uint64_t first, Rows to,
                    modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    auto held = hold(pool);
    if (!held) return fail(held.error());
    const RowTable* const table = find_table(number);
    if (table == nullptr)
      return invalid("unable to list table " + std::to_string(number) + ": there is none");
    to.written_bytes = extent == Extent::kAll ? table->row_bytes : table->declared_bytes;
    return fill((**held)->pool, number, first, to);
  });
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
    auto values = read_settings(given->settings, {OriginKind::kSet, 0});
    if (!values) return fail(values.error());
    Settings settings;
    for (const SettingEntry& value : *values) settings.pool.set(value);

    PoolOptions attach;
    if (given->dir != nullptr && *given->dir == 0) {
      return fail(Errc::kInvalid, "unable to use dir \"\": NULL is the default place");
    }
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
      auto loaded = acquire_if_loaded(state.pool, asked->model, asked->options);
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
    const auto opened = (**held)->pool.wait_fd();
    if (!opened) return fail(opened.error());
    *fd = *opened;
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
    answer.slot = held->backend().slot;
    answer.generation = held->backend().generation;
    return write_answer(info, answer, "modelpool_lease_info");
  });
}

modelpool_code modelpool_exit_words(modelpool_lease lease, char* words, size_t words_bytes,
                                    modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    if (auto ok = required_pointer(words, "words"); !ok) return ok;
    if (words_bytes == 0) return invalid("unable to write words: words_bytes is 0");
    words[0] = 0;
    const auto held = g_leases.pin(lease.id);
    if (!held) return closed("lease");
    c::write_text(words, words_bytes, held->exit_words());
    return {};
  });
}

modelpool_code modelpool_progress(modelpool_lease lease, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    const auto held = g_leases.pin(lease.id);
    if (!held) return closed("lease");
    return held->progress();
  });
}

modelpool_code modelpool_cancelled(modelpool_lease lease, int* cancelled, char* reason,
                                   size_t reason_bytes, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    if (auto ok = required_pointer(cancelled, "cancelled"); !ok) return ok;
    *cancelled = 0;
    if (reason != nullptr && reason_bytes == 0)
      return invalid("unable to write a reason: reason_bytes is 0");
    const auto held = g_leases.pin(lease.id);
    if (!held) return closed("lease");
    *cancelled = held->cancelled() ? 1 : 0;
    if (reason == nullptr) return {};
    reason[0] = 0;
    if (*cancelled != 0) c::write_text(reason, reason_bytes, held->cancel_reason());
    return {};
  });
}

modelpool_code modelpool_notify_cancel(modelpool_lease lease, int fd, uint64_t number,
                                       modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    auto held = g_leases.pin(lease.id);
    if (!held) return closed("lease");
    if (!held.take()) return in_use("lease");
    return held->notify_cancel(fd, number);
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
    std::string devices;
    for (const std::string& uuid : (*held)->devices())
      devices += (devices.empty() ? "" : ",") + uuid;
    write_text(answer.devices, devices);
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
    auto values = read_settings(given->settings, {OriginKind::kReady, 0});
    if (!values) return fail(values.error());
    ReadyOptions ready;
    ready.size_bytes = given->size_bytes;
    ready.label = text_or_empty(given->label);
    ready.device_mask = given->device_mask;
    ready.pinned = given->pinned != 0;
    ready.external = given->external != 0;
    ready.any_listener = given->any_listener != 0;
    for (const SettingEntry& value : *values) ready.overrides.set(value);
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
    const std::string text = read_pool_settings(segment_of((**held)->pool)).shown(info->id);
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
    modelpool_status answer{};
    std::size_t count = 0;
    const Rows one{&answer, sizeof answer, sizeof answer, 1, &count};
    if (auto ok = fill((**held)->pool, MODELPOOL_STATUS, 0, one); !ok) return ok;
    return write_answer(status, answer, "modelpool_status");
  });
}

modelpool_code modelpool_list_backends(modelpool_pool pool, modelpool_backend* rows,
                                       size_t row_bytes, size_t capacity, size_t* count,
                                       modelpool_error* error) {
  return list(pool, MODELPOOL_BACKENDS, Extent::kDeclared, 0, {rows, row_bytes, 0, capacity, count},
              error);
}

modelpool_code modelpool_list_leases(modelpool_pool pool, modelpool_lease_row* rows,
                                     size_t row_bytes, size_t capacity, size_t* count,
                                     modelpool_error* error) {
  return list(pool, MODELPOOL_LEASES, Extent::kDeclared, 0, {rows, row_bytes, 0, capacity, count},
              error);
}

modelpool_code modelpool_list_workers(modelpool_pool pool, modelpool_worker* rows, size_t row_bytes,
                                      size_t capacity, size_t* count, modelpool_error* error) {
  return list(pool, MODELPOOL_WORKERS, Extent::kDeclared, 0, {rows, row_bytes, 0, capacity, count},
              error);
}

modelpool_code modelpool_list_waiters(modelpool_pool pool, modelpool_waiter* rows, size_t row_bytes,
                                      size_t capacity, size_t* count, modelpool_error* error) {
  return list(pool, MODELPOOL_WAITERS, Extent::kDeclared, 0, {rows, row_bytes, 0, capacity, count},
              error);
}

modelpool_code modelpool_list_events(modelpool_pool pool, uint64_t first, modelpool_event* rows,
                                     size_t row_bytes, size_t capacity, size_t* count,
                                     modelpool_error* error) {
  return list(pool, MODELPOOL_EVENTS, Extent::kDeclared, first,
              {rows, row_bytes, 0, capacity, count}, error);
}

modelpool_code modelpool_list_rows(modelpool_pool pool, int table, uint64_t first, void* rows,
                                   size_t row_bytes, size_t capacity, size_t* count,
                                   modelpool_error* error) {
  return list(pool, table, Extent::kAll, first, {rows, row_bytes, 0, capacity, count}, error);
}

modelpool_code modelpool_describe(int table, const modelpool_field** fields, size_t* count,
                                  size_t* row_bytes, modelpool_error* error) {
  return answer(error, [&]() -> Result<> {
    const RowTable* const found = find_table(table);
    if (found == nullptr)
      return invalid("unable to describe table " + std::to_string(table) + ": there is none");
    if (fields != nullptr) *fields = found->fields.data();
    if (count != nullptr) *count = found->fields.size();
    if (row_bytes != nullptr) *row_bytes = found->row_bytes;
    return {};
  });
}

const modelpool_field* modelpool_find_field(int table, const char* name) {
  const RowTable* const found = find_table(table);
  if (found == nullptr || name == nullptr) return nullptr;
  for (const modelpool_field& field : found->fields) {
    if (field.kind != 0 && std::strcmp(field.name, name) == 0) return &field;
  }
  return nullptr;
}

const char* modelpool_field_text(const modelpool_field* field, const void* row) {
  if (field == nullptr || row == nullptr || field->kind != MODELPOOL_FIELD_TEXT) return "";
  return static_cast<const char*>(row) + field->offset;
}

int64_t modelpool_field_number(const modelpool_field* field, const void* row) {
  if (field == nullptr || row == nullptr) return MODELPOOL_UNKNOWN;
  if (field->kind != MODELPOOL_FIELD_NUMBER && field->kind != MODELPOOL_FIELD_FLAG)
    return MODELPOOL_UNKNOWN;
  const char* const at = static_cast<const char*>(row) + field->offset;
  if (field->bytes == sizeof(int64_t)) {
    int64_t value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  int32_t half;
  std::memcpy(&half, at, sizeof half);
  return field->is_signed != 0 ? half : static_cast<int64_t>(static_cast<uint32_t>(half));
}

}  // extern "C"
