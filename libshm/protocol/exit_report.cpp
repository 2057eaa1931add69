#include "protocol/exit_report.hpp"

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/exit_words.hpp"
#include "base/kinds.hpp"
#include "base/model_log.hpp"
#include "base/process.hpp"
#include "protocol/events.hpp"
#include "protocol/kept_output.hpp"

namespace modelpool {
namespace {

constexpr std::size_t kReportMax_bytes = 2048;
constexpr std::string_view kEnded = "it has ended, how is not known";

struct End {
  std::string model;
  std::uint32_t packed_exit = 0;  // 0: not known
  std::string log;                // the path of its log, "" = none
  std::string event_text;         // "" while its record tells
};

// From the backend's record, which is its own until its slot is free.
std::optional<End> end_in_record(const Segment& segment, BackendRef ref) {
  const BackendRecord& record = segment.backend(ref.index);
  End end;
  end.model = record.model.load();
  end.log = read_log_note(record.log.load()).path;
  // acquire: written by whoever reaped the process
  const std::uint64_t exit = record.exit_status.load(std::memory_order_acquire);
  if (high_half(exit) == ref.generation) end.packed_exit = low_half(exit);
  const ProcessIdentity process{static_cast<pid_t>(record.pid.load(std::memory_order_acquire)),
                                record.start_ticks.load(std::memory_order_acquire),
                                record.pidfd_inode.load(std::memory_order_acquire)};
  const bool has_ended = end.packed_exit != 0 || process_liveness(process) == Liveness::kDead;
  if (!has_ended || load_state(segment, ref.index).generation != ref.generation)
    return std::nullopt;
  return end;
}

// From the event of its end. Its log is known to be its own if the model had no life after it.
std::optional<End> end_in_events(const Segment& segment, BackendRef ref) {
  std::optional<End> end;
  for (const EventView& event : read_events(segment, 1)) {
    const EventData& e = event.data;
    const std::string_view model = field_text(e.model);
    if (e.backend == ref.index && e.generation == ref.generation && e.exit_status != 0) {
      end = End{std::string(model), e.exit_status, {}, std::string(field_text(e.text))};
      const std::string dir = log_dir_of(segment);
      const auto log =
          dir.empty() ? Result<ModelLog>(fail(Errc::kInvalid, "")) : ModelLog::look(dir, model);
      if (log) end->log = log->path();
    } else if (end && model == end->model && e.pid != 0) {
      end->log.clear();
    }
  }
  return end;
}

std::vector<std::string> lines_of(const Segment& segment, BackendRef ref, const End& end) {
  if (end.log.empty()) return {};
  const auto log = ModelLog::open(end.log, end.model);
  if (!log) return {};
  std::vector<std::string> lines = last_lines(*log, kLastLinesMax);
  // A next life may have begun the log anew; looked at after it was read.
  const auto next = find_backend(segment, end.model);
  if (next && next->ref != ref) return {};
  return lines;
}

}  // namespace

std::string exit_report(const Segment& segment, BackendRef ref) {
  if (ref.generation == 0 || ref.index >= segment.capacities().backends) return {};
  std::optional<End> end = end_in_record(segment, ref);
  if (!end && load_state(segment, ref.index).generation != ref.generation)
    end = end_in_events(segment, ref);
  if (!end) return {};
  const std::vector<std::string> lines = lines_of(segment, ref, *end);
  std::string text = exit_text(end->packed_exit);
  if (text.empty()) text = kEnded;
  // Whether the kernel killed it for memory its loader or the coordinator would know.
  const std::string words = exit_words(end->packed_exit, MemoryKills::Rise::kNone, lines);
  if (!words.empty()) text += ": " + words;
  if (lines.empty() && has_last_lines(end->event_text)) {
    return text + end->event_text.substr(before_last_lines(end->event_text).size());
  }
  return with_last_lines(text, lines, kReportMax_bytes);
}

}  // namespace modelpool
