#include "record.hpp"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "base/proc.hpp"
#include "base/size.hpp"
#include "base/time.hpp"
#include "log.hpp"

namespace modelpool::coordinator {
namespace {

std::string first_line(pid_t pid, std::string_view file) {
  const std::string text = read_proc(pid, file).value_or("");
  return text.substr(0, text.find('\n'));
}

// More say nothing new, and to read them takes time before a signal.
constexpr std::size_t kThreadsMax = 32;
constexpr std::size_t kThreadKindsMax = 4;

// "2 x S futex_do_wait, call 202; 1 x R running": alike ones once, the most frequent first.
std::string describe_threads(pid_t pid) {
  std::map<std::string, std::size_t> alike;
  for (const ThreadView& thread : read_threads(pid, kThreadsMax)) {
    std::string text(1, thread.state);
    if (!thread.wchan.empty()) text += " " + thread.wchan;
    if (thread.call == "running") {
      text += " running";
    } else if (!thread.call.empty()) {
      text += ", call " + thread.call;
    }
    ++alike[text];
  }
  std::vector<std::pair<std::size_t, std::string>> kinds;
  for (const auto& [text, count] : alike) kinds.emplace_back(count, text);
  std::stable_sort(kinds.begin(), kinds.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  std::string all;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    if (i == kThreadKindsMax) return all + "; and others";
    all += (all.empty() ? "" : "; ") + std::to_string(kinds[i].first) + " x " + kinds[i].second;
  }
  return all;
}

}  // namespace

Recorder::Recorder(std::shared_ptr<Segment> segment)
    : segment_(std::move(segment)), meters_(MeterRow::of_judge(*segment_)) {}

void Recorder::catch_up() {
  JudgeMeters& meters = segment_->judge_meters();
  redo_journal(meters);
  const std::uint64_t counted = meters.journal.load().counted_events;
  for (const EventView& event : read_events(*segment_, counted + 1))
    count(event.sequence, event.data);
}

// Each kind moves one counter, and what was measured goes to its histogram.
void Recorder::count(std::uint64_t sequence, const EventData& event) {
  MeterJournal journal;
  journal.counted_events = sequence;
  const std::string_view model = field_text(event.model);
  const auto add = [&](Meter meter, std::uint32_t value = 0) {
    meters_.add(&journal, meter, find_meter_model(*segment_, model, hash_name(model)), value);
  };
  const auto observe = [&](Meter meter, std::uint64_t amount_ns) {
    if (amount_ns != kNever_ns) meters_.observe(&journal, meter, amount_ns);
  };
  switch (event.kind) {
    case EventKind::kLoaded:
      add(Meter::kLoads, static_cast<std::uint32_t>(LoadOutcome::kLoaded));
      observe(Meter::kLoadTime, event.load_ns);
      if (event.away_ns <= kReloadSoon_ns) add(Meter::kReloadsSoon);
      break;
    case EventKind::kLoadFailed:
      add(Meter::kLoads, static_cast<std::uint32_t>(LoadOutcome::kFailed));
      break;
    case EventKind::kEvicted:
      observe(Meter::kAgeAtEviction, event.age_ns);
      [[fallthrough]];
    case EventKind::kKilled:
    case EventKind::kExited:
      add(Meter::kStops, static_cast<std::uint32_t>(event.reason));
      observe(Meter::kStopTime, event.exit_ns);
      break;
    case EventKind::kWorkerDied:
      add(Meter::kWorkerDeaths);
      break;
    case EventKind::kCoordinatorStarted:
      add(Meter::kCoordinatorStarts);
      break;
    case EventKind::kCancelRequested:
      add(Meter::kCancelRequests, static_cast<std::uint32_t>(event.reason));
      break;
    case EventKind::kRecovered:
      add(Meter::kCoordinatorRestarts);
      break;
    case EventKind::kSettingsChanged:
      add(Meter::kSettingsChanges);
      break;
    case EventKind::kProbeFailed:
      add(Meter::kProbeFailures);
      break;
  }
  commit_journal(segment_->judge_meters(), journal);
}

void Recorder::write(EventData event) {
  CoordinatorRecord& coordinator = segment_->coordinator();
  event.time_ns = wall_clock_ns();
  // relaxed: this coordinator is the only writer
  const std::uint64_t sequence =
      std::max<std::uint64_t>(1, coordinator.next_event.load(std::memory_order_relaxed));
  EventRecord& record = segment_->event(sequence % segment_->capacities().events);
  // release, all three: a reader checks the number before and after the data
  record.sequence.store(0, std::memory_order_release);
  record.data.store(event);
  record.sequence.store(sequence, std::memory_order_release);
  coordinator.next_event.store(sequence + 1, std::memory_order_release);
  count(sequence, event);
  const auto kind = static_cast<std::size_t>(event.kind);
  const auto reason = static_cast<std::size_t>(event.reason);
  if (kind < kEventKindCapacity && reason < kReasonCapacity) {
    coordinator.counters[kind][reason].fetch_add(1, std::memory_order_relaxed);
  }
  coordinator.event_bell.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(coordinator.event_bell);
  log_event(sequence, event);
}

EventData event_about(const BackendView& b, EventKind kind) {
  EventData event;
  event.kind = kind;
  event.pid = static_cast<std::uint32_t>(b.process.pid);
  event.backend = b.ref.index;
  event.generation = b.ref.generation;
  event.exit_status = b.exit_status;
  set_field(&event.model, b.model);
  if (b.stop.generation != b.ref.generation) return event;
  event.reason = b.stop.reason;
  event.age_ns = b.stop.age_ns;
  event.limit_ns = b.stop.limit_ns;
  event.worker_pid = b.stop.worker_pid;
  event.signal = b.stop.signal;
  set_field(&event.tag, field_text(b.stop.tag));
  set_field(&event.text, field_text(b.stop.text));
  return event;
}

std::string describe_process(const BackendView& b) {
  if (b.external()) return "it is external: no process is signalled";
  const pid_t pid = b.process.pid;
  const auto stat = read_stat(pid);
  if (!stat) return "its process is not there";
  std::string text = std::string("state ") + stat->state;
  if (const std::string wchan = first_line(pid, "wchan"); !wchan.empty() && wchan != "0")
    text += ", wchan " + wchan;
  if (const std::string call = first_line(pid, "syscall"); !call.empty()) {
    text += ", syscall " + call.substr(0, call.find(' '));
  }
  text += ", " + std::to_string(stat->threads) + " threads, RSS " + format_size(stat->rss_bytes);
  if (stat->threads > 1) text += "; threads: " + describe_threads(pid);
  return text;
}

}  // namespace modelpool::coordinator
