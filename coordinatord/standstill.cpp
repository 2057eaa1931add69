#include "standstill.hpp"

#include <algorithm>

namespace modelpool::coordinator {
namespace {

constexpr std::uint64_t kLateMin_ns = 500 * kMillisecond_ns;  // load alone makes nobody so late
constexpr std::size_t kFoundMax = 16;
// Of those who are continued together some run this much before the judge does.
constexpr std::uint64_t kWakeSkew_ns = 100 * kMillisecond_ns;

struct Span {
  std::uint64_t from_ns;
  std::uint64_t to_ns;
  bool holds(std::uint64_t stamp) const { return stamp > from_ns && stamp < to_ns; }
};

bool shows_work(const Snapshot& snapshot, const Span& span) {
  const auto any = [](const auto& all, const auto& holds) {
    return std::any_of(all.begin(), all.end(), holds);
  };
  return any(snapshot.leases,
             [&](const LeaseView& l) {
               return span.holds(l.start_ns) || span.holds(l.progress_ns);
             }) ||
         any(snapshot.waiters,
             [&](const WaiterView& w) {
               return span.holds(w.since_ns) || span.holds(w.looked_ns);
             }) ||
         any(snapshot.workers, [&](const WorkerView& w) { return span.holds(w.attached_ns); }) ||
         any(snapshot.backends, [&](const BackendView& b) {
           return span.holds(b.reserved_ns) || span.holds(b.started_ns) || span.holds(b.ready_ns);
         });
}

// Every worker's own cells: one that is used again and again hides what others were.
bool shows_use(const Segment& segment, const Span& span) {
  for (std::uint32_t worker = 0; worker < segment.workers_reached(); ++worker) {
    for (std::uint32_t backend = 0; backend < segment.backends_reached(); ++backend) {
      // relaxed: a stamp stands for itself
      if (span.holds(segment.last_used(worker, backend).load(std::memory_order_relaxed)))
        return true;
    }
  }
  return false;
}

}  // namespace

void StandstillWatch::sleeps(std::uint64_t scanned_ns, std::uint64_t planned_ns) {
  scanned_ns_ = scanned_ns;
  planned_ns_ = planned_ns;
}

void StandstillWatch::wakes(std::uint64_t now_ns) {
  const bool is_late = planned_ns_ != kNever_ns && age_ns(now_ns, planned_ns_) >= kLateMin_ns;
  if (is_late) {
    suspected_ = {scanned_ns_, now_ns};
    missed_ns_ = planned_ns_;
  }
  planned_ns_ = kNever_ns;
}

bool StandstillWatch::examine(const Segment& segment, const Snapshot& snapshot) {
  if (suspected_.ended_ns == 0) return false;
  const Standstill still = suspected_;
  suspected_.ended_ns = 0;
  const Span meanwhile{add_ns(missed_ns_, stamp_lag_max_ns()), still.ended_ns - kWakeSkew_ns};
  if (shows_work(snapshot, meanwhile) || shows_use(segment, meanwhile)) return false;
  if (found_.size() == kFoundMax) found_.erase(found_.begin());
  found_.push_back(still);
  return true;
}

}  // namespace modelpool::coordinator
