// What an application includes: attach to a pool, acquire a model, hold a lease while a request
// runs, load the model when handed the ticket.
//
//   auto pool = modelpool::Pool::attach("default");
//   auto grant = pool->acquire("llama-3-8b", std::chrono::seconds(30));
//   if (auto* ticket = std::get_if<modelpool::LoadTicket>(&*grant)) {
//     ticket->spawn({"llama-server", "--port", "4321"});
//     ... wait until it answers ...
//     lease = ticket->ready("127.0.0.1:4321");
//   }
//
// Safety: a Pool may be used by any number of threads at once; a Lease or LoadTicket by one at a
// time, and may move between threads. Nothing is async-signal-safe. After fork, what the child
// inherited is inert (destroying a Lease there ends nothing) and its Pool attaches anew on first
// use. The library starts no thread but one per spawned backend, to reap it, one for on_cancel and
// one for wait_fd, and keeps no descriptor a daemonising server would miss but that one.
//
// Crash: whatever a worker held when it died, the coordinator clears (P6); backends it loaded stay.
// When the pool loses its name (its file or directory was removed, moved or covered) its backends
// are ended; a Pool moves on to the next one of that name by itself, once it holds nothing in the
// old one, and an acquire waits for that.
//
// Errors: Result carries an Error with a code and a text (P13); each call lists its codes, and any
// may fail with kInvalid (an argument), kClosed, kBusy (the pool's mutex) or kSystem. Nothing
// throws.
//
// Promises that are cited (the README has them all): P2: a lease is never cut by idle, LRU or
// memory eviction. P4: one backend of a model is started, and everybody waits for that one. P6: any
// process may die anywhere. P7: a signal reaches the registered process, or nobody. P13: bad input
// gets an answer.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "modelpool/result.hpp"
#include "modelpool/settings.hpp"
#include "modelpool/snapshot.hpp"

namespace modelpool {

struct AcquireOptions;

// Not for applications: what lies behind their handles.
struct Inside;
struct LeaseRef;
struct TicketRef;
class MemoryKills;
// A private value in a public handle, without an allocation; its first member is a pointer, null in
// a handle that is empty.
template <class T, std::size_t kBytes>
class Hidden {
 public:
  Hidden() = default;
  explicit Hidden(const T& value) { std::memcpy(bytes_, &value, kBytes); }
  Hidden(Hidden&& other) noexcept { *this = std::move(other); }
  Hidden& operator=(Hidden&& other) noexcept {
    std::memcpy(bytes_, other.bytes_, kBytes);
    std::memset(other.bytes_, 0, sizeof(void*));
    return *this;
  }
  ~Hidden() = default;

  explicit operator bool() const {
    const void* first;
    std::memcpy(&first, bytes_, sizeof first);
    return first != nullptr;
  }
  T& operator*() { return *reinterpret_cast<T*>(bytes_); }
  T* operator->() { return reinterpret_cast<T*>(bytes_); }
  const T& operator*() const { return *reinterpret_cast<const T*>(bytes_); }
  const T* operator->() const { return reinterpret_cast<const T*>(bytes_); }

 private:
  alignas(void*) std::byte bytes_[kBytes] = {};
};

// One life of one backend, and no other: BackendRow::slot and generation. A generation of 0: none.
struct BackendId {
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;

  bool operator==(const BackendId&) const = default;
};

// A request in flight. While it exists its backend is not evicted (P2). Ends on destruction.
class Lease {
 public:
  Lease() = default;
  Lease(Lease&& other) noexcept : ref_(std::move(other.ref_)) {}
  Lease& operator=(Lease&& other) noexcept;
  ~Lease() { release(); }

  std::string model() const;
  std::string address() const;
  pid_t pid() const;  // 0 for an external backend
  // The same for as long as it is held, after fork too; none once released. Loads of own memory.
  BackendId backend() const;
  // How the backend's process ended and the last it wrote: "exit status 1; its last lines: ...".
  // Whoever reaped it may say how a moment later than its connections break. Empty if it runs, if
  // nothing is known of its end, or once released. Reads files.
  std::string exit_words() const;
  // The request is getting on: restarts its stall_timeout. Errors: kLeaseLost if its backend was
  // stopped, kClosed if released or inherited through fork.
  Result<> progress();
  // It lasts for as long as its holder likes: busy_timeout, the settings' too, does not count for
  // it from now on. A coordinator of an earlier version goes by the settings'. Errors: kClosed.
  Result<> set_endless();

  // When the request breaks busy_timeout, stall_timeout or first_byte_timeout, and this process has
  // said that it can end it, the coordinator asks it to do so, and kills the backend only if the
  // lease still exists when the grace of on_overdue is over. Otherwise the backend is killed at
  // once. To end the request is to stop it at the backend, most often by closing the connection,
  // and to release the lease.
  //
  // Was this one asked to end? Two loads of memory.
  bool cancelled() const;
  // Why it was, and what happens otherwise: "busy_timeout 30s passed; if it goes on, its backend is
  // killed 10s after that, and all requests there are lost". Empty if it was not asked.
  std::string cancel_reason() const;
  // This process looks at cancelled() often enough by itself.
  Result<> set_cancellable();
  // Calls it once, when the lease is asked to end or if it has been; not from the release on, which
  // waits for a call that runs on another thread. The calls of a process come from one thread of
  // the library, one after the other; it must not throw. Errors: kSystem without a thread.
  Result<> on_cancel(std::function<void()> callback);
  // Writes that number to the descriptor then, as 8 bytes: to an eventfd, or to a pipe whose reader
  // tells by it which of any number of leases it is. A pipe that is full is tried again each
  // second. The descriptor stays the caller's, who keeps it open until the release. Errors:
  // kInvalid if it is not open for writing, or would block.
  Result<> notify_cancel(int fd, std::uint64_t number = 1);

  // Ends the lease; further calls do nothing.
  void release();
  explicit operator bool() const { return static_cast<bool>(ref_); }

 private:
  friend class Pool;
  friend class LoadTicket;
  friend class PendingAcquire;
  friend struct Inside;
  explicit Lease(const LeaseRef& ref) : ref_(ref) {}
  Result<> check() const;
  Hidden<LeaseRef, 24> ref_;
};

// Every member of an options structure has a value of its own, so that {.tag = "x"} is complete.
struct SpawnOptions {
  std::vector<std::string> env{};  // "NAME=value", added to or replacing the caller's environment
  std::string cwd{};               // empty: the caller's
  // Appended to: a file, a terminal, or a FIFO that somebody reads. Empty: the model's log in the
  // pool's log_dir (`poolctl logs`); /dev/null if that is off, or where it cannot be had:
  // BackendRow::log_missing says why.
  std::string output{};        // stdout and stderr
  std::string error_output{};  // another one for stderr; empty: as stdout
  // Its soft limit of open files (ulimit -Sn): for a server that has raised its own. 0: as that is.
  std::uint64_t open_files = 0;
  // As a shell starts a job: in the caller's session, in a process group of its own, with the
  // caller's stdin, stdout, stderr and every descriptor that is not close-on-exec; what a shell or
  // nohup ignores for its jobs (SIGHUP, SIGINT, SIGQUIT, the stops of terminals) stays ignored.
  // output and error_output are not asked for.
  bool is_job = false;
  int terminal = -1;  // of a job: this terminal of its session has it in the foreground
};

// How a tenant is run: a foreign program that takes part in the pool (LoadTicket::run_tenant).
struct TenantOptions {
  bool evictable = false;        // else it is pinned (Pool::unpin ends that)
  std::uint64_t size_bytes = 0;  // of the host's memory, 0 = unknown
  std::string label{};           // at most 31 bytes; modelpool does not interpret it
  // This process is there for the tenant alone: every child of it is the tenant's. It becomes a
  // child subreaper (prctl(2)), so what the tenant's processes leave behind is its child, too, and
  // is its to reap. Not honoured where the process has children already.
  bool owns_children = false;
  // How its first process ended: exit code, or 128 + N by signal N. Called once, by a thread of the
  // library, before the process is reaped; must not throw.
  std::function<void(int)> on_exit{};
};

struct ReadyOptions {
  std::uint64_t size_bytes = 0;  // 0 = unknown
  bool pinned = false;
  bool external = false;  // without a process: counted and leased, never signalled
  // Any process that listens at the address answers for the backend: a container's proxy, a service
  // that the process only started. Otherwise a listener that is provably another process is
  // refused.
  bool any_listener = false;
  std::string label{};            // at most 31 bytes; modelpool does not interpret it
  std::uint64_t device_mask = 0;  // nor this
  // Most specific of all settings. Errors: kInvalid for groups, devices, gpu_memory, memory and
  // others that are texts: these are decided for the model, before it is loaded.
  Overrides overrides{};
};

// The exclusive right to start the backend of one model (P4). Used up by ready(), fail() or
// give_back(); one that is destroyed unused is given back. Lost when its process dies, load_timeout
// passes, or somebody evicts what is being loaded.
//
// fail() says that the model cannot be loaded: who waits is told, and nobody tries again until it
// has cooled down. give_back() says nothing of the model: the loader has to end, ran out of
// descriptors or memory, or was told something wrong. The next waiter loads it at once.
//
// No call waits for anything but the mutex (2 s at most) and a program to execute (10 s at most).
class LoadTicket {
 public:
  LoadTicket() = default;
  LoadTicket(LoadTicket&& other) noexcept;
  LoadTicket& operator=(LoadTicket&& other) noexcept;
  ~LoadTicket();

  const std::string& model() const { return model_; }
  pid_t pid() const { return pid_; }  // of what was started, 0 before
  // How what was started has ended, "exit status 1"; empty: it lives, or nobody has reaped it yet.
  std::string exit_words() const;

  // Starts the backend in a session of its own, recorded before it executes. argv[0] is looked up
  // in PATH. Errors, with all of which the ticket stays and nothing runs: what SpawnOptions names
  // (kSpawnFailed, kInvalid, kSystem); kSpawnFailed where it is put on a device that this process
  // may not use; kTicketLost.
  Result<> spawn(const std::vector<std::string>& argv, const SpawnOptions& options = {});
  // The same for a program that serves nobody, a tenant. It is READY before it executes, without an
  // address, and is never leased: an acquire of its name ends with kNotLoaded as long as it runs.
  // It counts against places, bytes, devices and groups as a backend does. Neither idle_timeout nor
  // a probe ends it; pins, room, orders and max_memory are as for any backend. When its first
  // process ends, or the Pool that the ticket came from is closed, or this process dies, whatever
  // is left of it is ended as a backend is (stop_signal, stop_grace, SIGKILL), and its place is
  // free when all of it is gone. The ticket is used up once the program was about to execute; if
  // that fails (kSpawnFailed) nothing runs. Errors: as spawn, and kInvalid for a label.
  Result<BackendId> run_tenant(const std::vector<std::string>& argv,
                               const SpawnOptions& options = {}, const TenantOptions& tenant = {});
  // Registers a process the caller started. If it does not lead its own process group, it is ended
  // with what it has started, and nobody else of its group is. Errors: kInvalid for a PID that may
  // not be signalled (P7).
  Result<> started(pid_t pid);
  // The backend answers at this address: opens it to everyone and returns the loader's own lease.
  // Errors: kInvalid if another live backend has the address, or if the process that listens there
  // is provably none of the backend's (ReadyOptions::any_listener); kTableFull; with both the
  // ticket stays. kTicketLost.
  Result<Lease> ready(std::string_view address, const ReadyOptions& options = {});
  // The load failed: answers every waiter with the reason, ends what was started, starts the
  // model's cool-down. The pool adds how the process ended, if it did, and the last lines it wrote.
  // Errors: kTicketLost with what ended the load before; kBusy: the ticket stays.
  Result<> fail(std::string_view reason);
  // Gives the load up without a failure: what was started is ended, and the next waiter gets a
  // ticket at once. Takes no lock.
  Result<> give_back();
  // For a readiness check: an answer from this address counts if this is no error. kInvalid: a
  // process listens there that is provably none of the backend's. ready() asks the same.
  Result<> check_listener(std::string_view address) const;
  // UUIDs of the devices that the pool put the backend on, for who starts it by himself; spawn()
  // tells it by CUDA_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES. Empty: on none, or the ticket is
  // lost.
  std::vector<std::string> devices() const;
  // How many wait for this model now. A loader whose own time is over should go on while some do:
  // they would begin anew.
  std::uint32_t waiting() const;
  explicit operator bool() const { return static_cast<bool>(ref_); }

 private:
  friend class Pool;
  friend class PendingAcquire;
  LoadTicket(const TicketRef& ref, std::string model, const AcquireOptions& asked);
  Result<> check() const;
  Result<> start(const std::vector<std::string>& argv, const SpawnOptions& options,
                 const std::function<Result<>()>& at_gate, const std::function<void()>& on_failure,
                 const std::function<void(int)>& on_exit);
  Result<> publish_alone(std::string_view address, const ReadyOptions& options);
  std::uint32_t known_exit() const;
  std::string why_failed(std::string_view reason) const;
  void let_go();

  Hidden<TicketRef, 16> ref_;
  std::string model_;
  std::string tag_;
  std::uint64_t busy_limit_ns_ = 0;
  std::uint32_t keep_alive_ = 0;
  bool cancellable_ = false;
  std::function<void()> on_cancel_;
  pid_t pid_ = 0;
  std::shared_ptr<const MemoryKills> memory_;  // before what was started
};

using Grant = std::variant<Lease, LoadTicket>;

// NOLINTBEGIN(google-explicit-constructor): acquire(model, 30s) is the point

// A length of time, given as any std::chrono::duration and kept in nanoseconds, rounded up. What is
// longer than 10 years is 10 years: seconds::max() is no time that wraps. Less than 0, or no
// number, is -1.
class Duration {
 public:
  static constexpr std::int64_t kMax_ns = 10LL * 365 * 86'400 * 1'000'000'000;

  template <class Rep, class Period>
  constexpr Duration(std::chrono::duration<Rep, Period> length) : ns_(clamped(length, kMax_ns)) {}
  constexpr std::int64_t count() const { return ns_; }

  template <class Rep, class Period>
  static constexpr std::int64_t clamped(std::chrono::duration<Rep, Period> length,
                                        std::int64_t max_ns) {
    using std::chrono::nanoseconds;
    if constexpr (std::is_floating_point_v<Rep>) {
      const auto ns = std::chrono::duration<long double, std::nano>(length).count();
      if (!(ns >= 0)) return -1;
      if (ns >= static_cast<long double>(max_ns)) return max_ns;
      const auto whole = static_cast<std::int64_t>(ns);
      return whole + (static_cast<long double>(whole) < ns);
    } else {
      if (std::cmp_less(length.count(), 0)) return -1;
      if constexpr (std::ratio_greater_v<Period, std::nano>) {
        using Coarse = std::chrono::duration<std::int64_t, Period>;
        const std::int64_t most = std::chrono::duration_cast<Coarse>(nanoseconds(max_ns)).count();
        if (std::cmp_greater(length.count(), most)) return max_ns;
      }
      const std::int64_t ns = std::chrono::ceil<nanoseconds>(length).count();
      return ns < max_ns ? ns : max_ns;
    }
  }

 private:
  std::int64_t ns_;
};

// When to stop waiting: after a timeout (0 or less: do not wait), or at a time.
class Deadline {
 public:
  template <class Rep, class Period>
  Deadline(std::chrono::duration<Rep, Period> timeout)
      : Deadline(Duration(timeout).count(), true) {}
  template <class Length>
  Deadline(std::chrono::time_point<std::chrono::steady_clock, Length> at)
      : Deadline(Duration::clamped(at.time_since_epoch(), INT64_MAX), false) {}
  // A timeout counts from this call on, and from each call anew: no clock is read for an acquire
  // that need not wait. A caller that needs it twice keeps the answer.
  std::uint64_t at_ns() const;

 private:
  Deadline(std::int64_t ns, bool relative)
      : ns_(ns < 0 ? 0 : static_cast<std::uint64_t>(ns)), relative_(relative) {}
  std::uint64_t ns_;
  bool relative_;
};
// NOLINTEND(google-explicit-constructor)
inline constexpr std::chrono::seconds kDefaultTimeout{30};

struct PoolOptions {
  std::string dir{};                   // "": MODELPOOL_DIR, /run/modelpool, /dev/shm/modelpool-UID
  bool create = true;                  // false: kNoSuchPool instead of a new pool
  Capacities capacities{};             // of a pool created here
  const Settings* settings = nullptr;  // of a pool created here; null: it grants no ticket before a
                                       // coordinator has run
  Duration coordinator_grace = std::chrono::seconds(10);  // its absence goes unnoticed
  Duration attach_timeout = std::chrono::seconds(5);  // for a worker row, when every one is taken
};

// What a foreign program takes. What is given here goes before what the settings and the history
// say of its name.
struct TenantNeed {
  std::uint64_t memory_bytes = 0;  // of the host; 0: as they say, else a guess
  std::uint32_t devices = 0;       // how many; 0: as they say
  std::uint64_t device_bytes = 0;  // of each of them; 0: as they say
  std::string group{};  // nothing of this group is loaded beside it; "": as the settings say
};

struct AcquireOptions {
  std::string tag{};       // at most 31 bytes, shown in events and `leases`
  std::stop_token stop{};  // cancels the wait
  // This request's own; 0 = only the pool's rules.
  Duration busy_timeout = std::chrono::nanoseconds(0);
  // How long its backend may be idle from now on, in place of idle_timeout; the last acquire that
  // says so wins. 0: it is evicted when its last lease ends. Less than 0, or 49 days and more: it
  // may for ever. None: as it is. Pins and room for others go before.
  std::optional<Duration> keep_alive{};
  std::uint64_t expected_bytes = 0;
  std::uint64_t priority = 0;  // in JSON of `waiters`; the line is first come, first served
  bool may_load = true;        // false: kNotLoaded instead of a ticket
  // For a tenant (LoadTicket::run_tenant): a ticket, never a lease. Errors: kNotLoaded as well if a
  // model or tenant of that name is there; kInvalid for a need that makes no sense.
  std::optional<TenantNeed> tenant{};
  // As Lease::set_cancellable and on_cancel, of whatever lease comes of this, that of a load too.
  // Where there is no thread for on_cancel the lease is granted all the same, not cancellable.
  bool cancellable = false;
  std::function<void()> on_cancel{};
};

// An acquire that its owner polls: for event loops and other languages.
class PendingAcquire {
 public:
  PendingAcquire(PendingAcquire&&) noexcept;
  PendingAcquire& operator=(PendingAcquire&&) noexcept;
  ~PendingAcquire();
  // Nothing yet: std::nullopt. Never blocks. Errors: those of Pool::acquire; they end it.
  Result<std::optional<Grant>> poll();
  // Blocks until a poll may say something new, a signal came, or the time is over; at most a
  // second.
  void wait(Duration at_most = std::chrono::seconds(1));
  // Was it woken since the last poll, or is it time to try the mutex again? If not, the next poll
  // is due at the deadline, or after a second.
  bool was_woken() const;
  // The deadline from now on, for one wait on behalf of several; its place in the line stays.
  void set_deadline(Deadline deadline);
  // What its lease is shown with, where another of these is the next. As a waiter it is shown with
  // its first one. Errors: kInvalid.
  Result<> set_tag(std::string_view tag);
  void cancel();  // from any thread

 private:
  friend class Pool;
  friend struct Inside;
  struct State;
  explicit PendingAcquire(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Of a try: what acquire gives, or the wait that it would have been.
using Attempt = std::variant<Lease, LoadTicket, PendingAcquire>;

// A request that a front end has answered, for the pool's meters.
struct HttpRequest {
  std::string_view model{};  // empty: it named none. One that never stood in line counts as "other"
  int status = 0;            // of its answer; 0: none was sent
  std::chrono::nanoseconds took{0};
  std::optional<std::chrono::nanoseconds> first_byte{};  // until its model's answer began
  std::uint64_t received_bytes = 0;
  std::uint64_t sent_bytes = 0;
};

class Pool {
 public:
  // Joins the pool of that name, creating it if there is none (and options.create). Errors:
  // kNoSuchPool, kIncompatible, kPermission, kTableFull, kReplaced.
  static Result<Pool> attach(std::string_view name = "default", const PoolOptions& options = {});
  Pool(Pool&&) noexcept;
  Pool& operator=(Pool&&) noexcept;
  ~Pool();  // leases and tickets out stay valid

  // A lease if the model is loaded, a ticket if the caller is to load it. Waits for either until
  // the deadline; also where the backend serves as many requests at once as `parallel` lets it.
  // Errors: kTimeout, kQueueFull, kTableFull, kAllPinned, kCoolingDown, kLoadFailed,
  // kNoCoordinator, kNotLoaded, kReplaced, kCancelled.
  Result<Grant> acquire(std::string_view model, Deadline deadline = kDefaultTimeout,
                        const AcquireOptions& options = {});
  Result<PendingAcquire> begin_acquire(std::string_view model, Deadline deadline = kDefaultTimeout,
                                       const AcquireOptions& options = {});
  // For event loops: as acquire, at once or as a wait that is to be polled. The mutex is only
  // tried, here and by the polls of that wait: one that finds it taken is due again soon (0.25 ms,
  // then ever later, 64 ms), and stands in line only once it had it, behind who came meanwhile.
  // Blocks for nothing but to attach anew, in a child of fork and where the pool lost its name.
  // `stop` is acquire's alone. Errors: those of acquire; a mutex that is taken at the deadline is
  // kTimeout.
  Result<Attempt> try_acquire(std::string_view model, Deadline deadline = kDefaultTimeout,
                              const AcquireOptions& options = {});
  // A descriptor for an event loop, one for all PendingAcquires of this Pool in this process, begun
  // before or after: readable when any of them may say something new, is due (a deadline, a second
  // gone by, the mutex is to be tried again) or was never polled. Then read 8 bytes from it and
  // poll all, or those that were woken (was_woken) and those whose deadline or second is over.
  // Nonblocking, close-on-exec, and the Pool's: it is closed soon after Pool::close. The first call
  // starts a thread, one for any number of waits, which takes no signals and sleeps while nobody
  // waits. A child of fork asks for its own. Errors: kSystem.
  Result<int> wait_fd();

  // The model's backend was used now, without a request in flight. Errors: kNotLoaded.
  Result<> touch(std::string_view model);
  // Exempts it from idle, LRU and memory eviction, until unpin. Errors: kNotLoaded.
  Result<> pin(std::string_view model);
  // Ends a pin. Errors: kNotLoaded; kInvalid if its settings pin it, too (`pinned`): it stays so.
  Result<> unpin(std::string_view model);
  // Asks the coordinator to end the model's backend, also while it is being loaded: then its ticket
  // is lost and nothing cools down. force cuts its leases. Does not wait. Errors: kNotLoaded.
  Result<> evict(std::string_view model, bool force = false);
  // Forgets that the model failed to load: it may be loaded at once. A load that becomes ready and
  // a changed load_cooldown do the same. Forgets what it was seen to take, too: it may take less.
  Result<> reset(std::string_view model);

  Result<std::uint32_t> limit();  // max_backends, 0 = no limit
  Result<> set_limit(std::uint32_t max_backends);
  // Sets one of the pool's settings, named and written as everywhere ("idle_timeout", "15m").
  Result<> set(std::string_view name, std::string_view value);
  Result<> set(const std::vector<std::pair<std::string, std::string>>& values);  // all or none

  // Adds it to the meters, which add up over all workers that ever were (StatusRow::meters). Takes
  // no lock; lost if the worker has no row, as in a child of fork.
  void count(const HttpRequest& request);

  // Takes no lock and counts as no use. Errors: kClosed.
  Result<PoolSnapshot> snapshot();
  // One model, without a look at all else: how far its load is, how long the last one took, how
  // many wait. Takes no lock and counts as no use, either. Errors: kInvalid.
  Result<ModelLook> look(std::string_view model);
  // Which settings apply to the model, from where, and what they mean for it now; also of one that
  // is not loaded. Takes no lock and counts as no use. Errors: kInvalid.
  Result<Explanation> explain(std::string_view model);
  // As Lease::exit_words, also after the lease; for as long as the pool remembers the end.
  Result<std::string> exit_words(BackendId backend);
  // How many leases a worker has room for, and how many may wait, as the pool was made.
  Result<Capacities> capacities();
  // The coordinator's decisions from number `first` on, oldest first, as far as the pool remembers.
  // To follow, ask again from the last seq + 1. Errors: kClosed.
  Result<std::vector<EventRow>> events(std::uint64_t first = 1);
  // The same, and where there is none yet it waits for one, until the deadline: then it answers
  // none. Sleeps, takes no lock. The numbers begin anew in the next pool of that name.
  Result<std::vector<EventRow>> events(std::uint64_t first, Deadline deadline);

  // Leaves the pool; leases and tickets out stay valid. Further calls say kClosed. REQUIRES: no
  // call on this Pool is in progress in another thread (the same for the destructor).
  void close();

 private:
  friend struct Inside;
  friend class PendingAcquire;
  struct Impl;
  explicit Pool(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

// A TCP port of this host that is free, for a backend that is to be started; held for it by this
// process, which keeps the last 64. Errors: kSystem.
Result<int> free_port();

}  // namespace modelpool
