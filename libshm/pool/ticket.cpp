#include <unistd.h>

#include <optional>
#include <utility>

#include "base/time.hpp"
#include "modelpool/pool.hpp"
#include "protocol/histories.hpp"

namespace modelpool {
namespace {

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
    futex_wait(bell, seen, now_ns() + kLookEvery_ns);
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

}  // namespace modelpool
