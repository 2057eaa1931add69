#include "explain/explain.hpp"

#include <utility>

#include "explain/subject.hpp"
#include "protocol/outlook.hpp"
#include "rows/rows.hpp"

namespace modelpool {
namespace explain {
namespace {

// Nobody has a lease on it.
std::vector<Verdict> explain_tenant(const Subject& subject) {
  return {{"tenant",
           "ends with its command, or with process " + std::to_string(subject.backend->owner_pid) +
               ", which runs it; it serves nobody, and an acquire of its name is refused",
           kNever_ns},
          explain_over_limit(subject),
          explain_room(subject)};
}

std::vector<Verdict> explain_ready(const Subject& subject) {
  std::vector<Verdict> verdicts{explain_leases(subject, Reason::kBusy),
                                explain_leases(subject, Reason::kFirstByte),
                                explain_leases(subject, Reason::kStall),
                                explain_probe(subject),
                                explain_over_limit(subject),
                                explain_idle(subject)};
  if (const auto pressure = explain_pressure(subject)) verdicts.push_back(*pressure);
  verdicts.push_back(explain_room(subject));
  verdicts.push_back(explain_parallel(subject));
  return verdicts;
}

std::vector<Verdict> judge_state(const Subject& subject) {
  if (subject.backend == nullptr) {
    std::vector<Verdict> verdicts{explain_admission(subject)};
    for (Verdict& place : explain_places(subject)) verdicts.push_back(std::move(place));
    if (const auto end = explain_last_end(subject)) verdicts.push_back(*end);
    return verdicts;
  }
  switch (subject.backend->state.state) {
    case BackendState::kReserved:
    case BackendState::kStarting:
      return {explain_load(subject)};
    case BackendState::kReady:
      // Somebody asked for its end: no rule says more.
      if ((subject.backend->control & kControlEvict) != 0) return {explain_request(subject)};
      return subject.backend->tenant() ? explain_tenant(subject) : explain_ready(subject);
    case BackendState::kFree:
    case BackendState::kEvicting:
    case BackendState::kStopping:
    case BackendState::kGone:
      break;
  }
  return {explain_end(subject)};
}

std::vector<Verdict> judge(const Subject& subject) {
  std::vector<Verdict> verdicts = judge_state(subject);
  if (const auto holds = explain_holding(subject)) verdicts.push_back(*holds);
  for (Verdict& waiter : explain_absent_waiters(subject)) verdicts.push_back(std::move(waiter));
  return verdicts;
}

std::optional<std::uint64_t> ms_of(std::uint64_t ns) {
  if (ns == kNever_ns) return std::nullopt;
  return ns / kMillisecond_ns;
}

}  // namespace
}  // namespace explain

Explanation explain_model(const Segment& segment, const Snapshot& snapshot, std::string_view model,
                          JudgeState judge, bool is_copy) {
  const BackendView* const backend = snapshot.find_model(model);
  const explain::Subject subject{
      segment,
      snapshot,
      std::string(model),
      backend,
      find_history(segment, model),
      resolve_settings(segment, model, backend != nullptr ? &backend->overrides : nullptr),
      judge,
      is_copy};
  Explanation result;
  result.model = shown(model);
  if (backend != nullptr) {
    result.is_loaded = resident_of(*backend).can_be_closed();
    result.backend = backend_row(snapshot, *backend);
  }
  const std::string& config = settings_of(snapshot).config_path;
  for (const SettingInfo& info : kSettings) {
    const Effective& effective = subject.effective;
    result.settings.push_back({std::string(info.name), shown(effective.shown(info.id)),
                               shown(origin_text(config, effective.origin(info.id))),
                               shown(effective.rule(info.id))});
  }
  for (const explain::Verdict& verdict : explain::judge(subject))
    result.verdicts.push_back({verdict.rule, shown(verdict.text), explain::ms_of(verdict.due_ns)});
  if (subject.history) result.history = model_row(snapshot.now_ns, model, *subject.history);
  return result;
}

}  // namespace modelpool
