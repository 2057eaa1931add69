#include "explain/words.hpp"

#include <algorithm>

#include "base/duration.hpp"
#include "base/exit_words.hpp"
#include "base/text.hpp"
#include "policy/line.hpp"
#include "protocol/histories.hpp"

namespace modelpool {
namespace {

const PoolSettings kNoSettings;

}  // namespace

const PoolSettings& settings_of(const Snapshot& snapshot) {
  return snapshot.settings ? *snapshot.settings : kNoSettings;
}

bool is_absent(const WaiterView& waiter, std::uint64_t now_ns) {
  return add_ns(waiter.looked_ns, kAbsentAfter_ns) <= now_ns;
}

bool is_full(const BackendView& backend) {
  const std::uint64_t parallel = backend.settings().get(Setting::kParallel);
  return backend.state.state == BackendState::kReady && parallel != 0 &&
         backend.in_flight >= parallel;
}

std::string load_text(const Snapshot& snapshot, const BackendView& backend) {
  const std::string text = std::to_string(backend.in_flight) + " of " +
                           std::to_string(backend.settings().get(Setting::kParallel)) +
                           " requests at once";
  std::uint64_t waiting = 0;
  std::uint64_t since_ns = kNever_ns;
  for (const WaiterView& waiter : snapshot.waiters) {
    if (waiter.model != backend.model) continue;
    ++waiting;
    since_ns = std::min(since_ns, waiter.since_ns);
  }
  if (waiting == 0) return text;
  return text + ", " + count_text(waiting, "request") + (waiting == 1 ? " waits" : " wait") +
         ", the first for " + age_text(snapshot.now_ns, since_ns);
}

bool is_spared_sigkill(const BackendView& backend) {
  const bool was_killed =
      backend.stop.generation == backend.ref.generation && backend.stop.killed_ns != 0;
  return backend.state.state == BackendState::kStopping && !backend.settling() &&
         backend.process.pid > 1 && !backend.external() && !was_killed &&
         backend.settings().get(Setting::kStopGrace) == 0;
}

std::optional<std::string> load_failure(const Segment& segment, const BackendView& backend) {
  const auto history = find_history(segment, backend.model);
  if (!history || history->failed_backend != pack_ref(backend.ref)) return std::nullopt;
  const std::string_view text = before_last_lines(field_text(history->error));
  return escape(with_exit(text, static_cast<std::uint32_t>(history->exit_status)));
}

std::string age_text(std::uint64_t now, std::uint64_t stamp) {
  return stamp == 0 || stamp == kNever_ns ? "-" : format_age(age_ns(now, stamp));
}

}  // namespace modelpool
