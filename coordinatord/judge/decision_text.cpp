#include "judge/decision_text.hpp"

#include "base/duration.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "modelpool/settings.hpp"

namespace modelpool::coordinator {
namespace {

const char* verb(const Action& action) {
  switch (action.kind) {
    case ActionKind::kClose:
      return action.hold ? "close for a drain" : "close";
    case ActionKind::kCommit:
      return "stop";
    case ActionKind::kReopen:
      return action.drain_failed ? "reopen after a drain that took too long" : "reopen";
    case ActionKind::kLoseTicket:
      return "end the load of";
    case ActionKind::kSignal:
      return "signal";
    case ActionKind::kMarkOverdue:
      return "give up waiting for the end of";
    case ActionKind::kSettle:
      return "wait for the device memory of";
    case ActionKind::kMarkGone:
      return "record the end of";
    case ActionKind::kDisown:
      return "clear the dead loader of";
    case ActionKind::kFree:
      return "free the slot of";
    case ActionKind::kRecordLoad:
      return "record the load of";
    case ActionKind::kRecordEnd:
      return "record the failed load of";
    case ActionKind::kRefuseEvict:
      return "refuse to evict";
    case ActionKind::kAskToEnd:
      return "ask the holder to end his request on";
    case ActionKind::kReapWorker:
      return "clear dead worker";
    case ActionKind::kClearWaiter:
      return "clear waiter row";
  }
  return "do something unknown to";
}

std::string why(const StopRecord& stop) {
  if (stop.reason == Reason::kNone) return "";
  std::string text = ": " + std::string(reason_name(stop.reason));
  if (stop.age_ns != kNever_ns) text += " for " + format_age(stop.age_ns);
  if (stop.limit_ns != kNever_ns) text += ", limit " + format_duration(stop.limit_ns);
  if (stop.worker_pid != 0) text += ", worker " + std::to_string(stop.worker_pid);
  if (stop.tag[0] != '\0') text += ", tag \"" + escape(field_text(stop.tag)) + "\"";
  if (stop.for_arrival != 0)
    text += ", for the waiter that came as " + std::to_string(stop.for_arrival);
  if (stop.forced != 0) text += ", leases may be cut";
  return text;
}

std::string worker_text(WorkerRef ref, const Snapshot& snapshot) {
  for (const WorkerView& worker : snapshot.workers) {
    if (worker.ref == ref) return std::to_string(worker.process.pid);
  }
  return "of row " + std::to_string(ref.index);
}

}  // namespace

std::string decision_text(const Action& action, const Snapshot& snapshot) {
  std::string text = verb(action);
  if (action.kind == ActionKind::kReapWorker)
    return text + " " + worker_text(action.worker, snapshot);
  if (action.kind == ActionKind::kClearWaiter)
    return text + " " + std::to_string(action.waiter_row);
  const BackendView* const b = snapshot.find(action.backend);
  if (b == nullptr) return text + " slot " + std::to_string(action.backend.index);
  text += " " + escape(b->model) + " (pid " + std::to_string(b->process.pid) + ", " +
          std::string(backend_state_name(b->state.state)) + ", " + std::to_string(b->in_flight) +
          " in flight)";
  if (action.kind == ActionKind::kSignal) text += " with " + signal_text(action.signal);
  return text + why(action.stop);
}

}  // namespace modelpool::coordinator
