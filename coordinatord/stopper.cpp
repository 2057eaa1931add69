#include "stopper.hpp"

#include <signal.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "base/duration.hpp"
#include "base/proc.hpp"
#include "base/time.hpp"
#include "log.hpp"
#include "policy/rules.hpp"
#include "protocol/acquisition.hpp"

namespace modelpool::coordinator {
namespace {

// Members that were learned no longer ago are those whom a signal meets. More often than the second
// they are not learned for nothing.
constexpr std::uint64_t kFresh_ns = 10 * kMillisecond_ns;
constexpr std::uint64_t kLearnEvery_ns = 60 * kSecond_ns;
// No number of a process is given again so soon: all others are given before.
constexpr std::uint64_t kNumberStays_ns = 200 * kMillisecond_ns;

bool has_process(const BackendView& b) { return b.process.pid > 1 && !b.external(); }

bool is_serving(const BackendView& b) {
  return b.state.state == BackendState::kReady || b.state.state == BackendState::kEvicting;
}

void log_kill(const BackendView& b, const StopRecord& stop) {
  if (stop.reason == Reason::kWedged) {
    return spdlog::warn("killing {} (pid {}): it does not answer its probes; {}", escape(b.model),
                        b.process.pid, field_text(stop.text));
  }
  spdlog::warn(
      "killing {} (pid {}): {} for {}, limit {}; worker {}, tag \"{}\"; {}", escape(b.model),
      b.process.pid,
      stop.reason == Reason::kBusy ? "a request has been in flight" : "a request made no progress",
      format_age(stop.age_ns), format_duration(stop.limit_ns), stop.worker_pid,
      escape(field_text(stop.tag)), field_text(stop.text));
}

}  // namespace

Stopper::Stopper(std::shared_ptr<Segment> segment, Watch* watch, Endings* endings)
    : segment_(std::move(segment)), watch_(watch), endings_(endings) {
  const CoordinatorRecord& record = segment_->coordinator();
  earlier_scan_ns_ = record.last_scan_ns.load(std::memory_order_acquire);
  earlier_scan_ticks_ = record.last_scan_ticks.load(std::memory_order_acquire);
}

// --- What has been done --------------------------------------------------------------------------

void Stopper::take_reports() {
  for (const EndingReport& report : endings_->take_reports()) {
    const BackendRef ref = report.backend;
    if (load_state(*segment_, ref.index).generation != ref.generation) continue;
    if (!ordered_.contains(pack_ref(ref))) continue;  // not to be ended, or gone meanwhile
    if (report.sent_ns != 0) stamp(ref, report.signal, report.sent_ns);
    const LeftRecord left = left_record(ref.generation, report.left);
    segment_->backend(ref.index).left.publish(left);
    const bool is_new = std::find(vanished_.begin(), vanished_.end(), ref) == vanished_.end();
    if (report.has_vanished && is_new) vanished_.push_back(ref);
  }
}

void Stopper::stamp(BackendRef backend, int signal, std::uint64_t sent_ns) {
  BackendRecord& record = segment_->backend(backend.index);
  StopRecord stop = record.stop.load();
  if (stop.generation != backend.generation) return;
  const bool is_kill = signal == SIGKILL;
  if (stop.signalled_ns != 0 && (!is_kill || stop.killed_ns != 0)) return;
  if (stop.signalled_ns == 0) stop.signalled_ns = sent_ns;
  if (is_kill) stop.killed_ns = sent_ns;
  stop.signal = static_cast<std::uint32_t>(signal);
  record.stop.publish(stop);
}

// --- What is to be seen to -----------------------------------------------------------------------

void Stopper::look_after(const Snapshot& snapshot) {
  std::vector<WorkerRef> workers;
  for (const WorkerView& worker : snapshot.workers) workers.push_back(worker.ref);
  // In the order of their rows, both.
  const auto is_before = [](WorkerRef a, WorkerRef b) {
    return std::pair(a.index, a.generation) < std::pair(b.index, b.generation);
  };
  if (!std::includes(workers.begin(), workers.end(), workers_.begin(), workers_.end(), is_before))
    endings_->look_again();
  workers_ = std::move(workers);
  for (const BackendRef ref : watch_->exited()) {
    if (const BackendView* b = snapshot.find(ref); b != nullptr) note_end(*b);
  }
  for (const BackendView& b : snapshot.backends) {
    if (!b.live() || !has_process(b)) continue;
    if (is_serving(b)) learn(b, snapshot.now_ns);
    if (b.state.state != BackendState::kStopping) continue;
    if (b.settling()) continue;
    if (b.left.count != 0) name_left(b);
    // An earlier coordinator began this stop. A second stop signal can mean "at once" to a server,
    // so that is not repeated, SIGKILL is.
    if (b.stop.signalled_ns == 0 || ordered_.contains(pack_ref(b.ref))) continue;
    order(b, b.stop.killed_ns != 0 ? SIGKILL : 0, false);
  }
}

std::uint64_t Stopper::alive_ticks_of(const BackendView& b) const {
  if (watch_->backend(b.ref) != nullptr) return boot_ticks();
  if (b.alive_ticks != 0) return b.alive_ticks;
  return b.started_ns < earlier_scan_ns_ ? earlier_scan_ticks_ : 0;
}

void Stopper::note_end(const BackendView& b) {
  if (b.alive_ticks != 0) return;
  // Registered alive just now, it may have ended before it could be watched.
  const bool is_seen = watch_->has_seen(b.ref) || now_ns() < add_ns(b.started_ns, kNumberStays_ns);
  const std::uint64_t ticks = is_seen ? boot_ticks() : alive_ticks_of(b);
  segment_->backend(b.ref.index).alive_ticks.store(ticks, std::memory_order_release);
}

void Stopper::learn(const BackendView& b, std::uint64_t now) {
  std::uint64_t& learned_ns = learned_[pack_ref(b.ref)];
  const bool is_fresh = learned_ns != 0 && now < learned_ns + kLearnEvery_ns;
  if (is_fresh || watch_->backend(b.ref) == nullptr) return;
  learned_ns = now;
  prepare(b);
}

void Stopper::prepare(const BackendView& b) const {
  if (has_process(b)) endings_->learn(b.ref, target_of(b), watch_->duplicate(b.ref));
}

// Once: nobody can do anything about it but a person.
void Stopper::name_left(const BackendView& b) {
  const std::size_t named = std::min<std::size_t>(b.left.count, b.left.named.size());
  const bool ends_by_itself =
      std::none_of(b.left.named.begin(), b.left.named.begin() + static_cast<std::ptrdiff_t>(named),
                   [](const LeftProcess& process) { return stands_in_the_way(process.why); });
  if (ends_by_itself || !named_.insert(pack_ref(b.ref)).second) return;
  const std::string text = left_text(b.left);
  spdlog::error("unable to end {} (pid {}): {}; end what is named, or let it end", escape(b.model),
                b.process.pid, text);
}

void Stopper::mark_overdue(const BackendView& b) {
  const std::string text = b.left.count != 0 ? left_text(b.left) : "it does not die of SIGKILL";
  spdlog::error(
      "unable to end {} (pid {}): {}; it keeps its place, but its model may be loaded again",
      escape(b.model), b.process.pid, text);
  named_.insert(pack_ref(b.ref));
}

// --- Sending -------------------------------------------------------------------------------------

Target Stopper::target_of(const BackendView& b) const {
  Target target = modelpool::target_of(*segment_, b);
  target.alive_ticks = alive_ticks_of(b);
  target.was_own = watch_->was_own(b.ref);
  return target;
}

void Stopper::order(const BackendView& b, int signal, bool first_signalled) {
  ordered_[pack_ref(b.ref)] = signal;
  EndingOrder order;
  order.backend = b.ref;
  order.target = target_of(b);
  order.first = watch_->duplicate(b.ref);
  order.signal = signal;
  order.first_signalled = first_signalled;
  endings_->order(std::move(order));
}

bool Stopper::is_endable(const BackendView& b) const {
  const Target target = target_of(b);
  const Spared spared = spared_beside(*segment_, b.ref);
  return !spared.is_other(b.process.pid) &&
         why_not_signalled(target, b.process.pid, spared, target.was_own) == LeftWhy::kNone;
}

bool Stopper::send(const Action& action, const BackendView& b) {
  const auto ordered = ordered_.find(pack_ref(b.ref));
  if (ordered != ordered_.end() && ordered->second == action.signal) return false;
  StopRecord stop = action.stop;
  const bool is_first = stop.signalled_ns == 0;
  // The members are known: the signal does not wait for another thread.
  const ProcessHandle* const first = watch_->backend(b.ref);
  const bool is_prepared = now_ns() < endings_->learned_ns(b.ref) + kFresh_ns;
  const bool may = first != nullptr && is_prepared && is_endable(b);
  const bool sent = may && first->signal(action.signal).has_value();
  const std::uint64_t now = now_ns();  // after it: no grace is shorter than it should be
  if (stop.stopping_ns == 0) stop.stopping_ns = now;
  Published<StopRecord>& record = segment_->backend(b.ref.index).stop;
  // It may have been raised since the look.
  if (const StopRecord found = record.load(); found.generation == stop.generation)
    stop.baseline = found.baseline;
  record.publish(stop);
  if (sent) stamp(b.ref, action.signal, now);
  order(b, action.signal, sent);
  if (is_first && (reason_row(stop.reason).lease_rule != nullptr || stop.reason == Reason::kWedged))
    log_kill(b, stop);
  return true;
}

void Stopper::forget(BackendRef backend) {
  const std::uint64_t packed = pack_ref(backend);
  endings_->forget(backend);
  ordered_.erase(packed);
  learned_.erase(packed);
  named_.erase(packed);
  std::erase(vanished_, backend);
}

}  // namespace modelpool::coordinator
