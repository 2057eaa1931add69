// How a load, or the life of a backend, comes to its end, or has.
#include "base/duration.hpp"
#include "explain/subject.hpp"
#include "protocol/events.hpp"
#include "protocol/members.hpp"

namespace modelpool::explain {
namespace {

// Of what waits for the coordinator, where none answers.
std::string nobody_ends_it(const Subject& subject) {
  if (subject.judge == JudgeState::kAnswers) return {};
  return "; nobody goes on with that: " +
         explain_absence(subject.segment, look_at_judge(subject.segment, now_ns()), now_ns());
}

}  // namespace

Verdict explain_load(const Subject& subject) {
  const std::string rule = reason_name(Reason::kLoadTimeout);
  const Finding finding = finding_of(subject, Reason::kLoadTimeout, {});
  if (finding.at_ns == kNever_ns) return {rule, "off", kNever_ns};
  const std::uint64_t due = age_ns(finding.at_ns, subject.now());
  return {rule,
          "loading for " + age_text(subject.now(), finding.since_ns) + " of " +
              limit_text(finding.limit_ns) + ": " +
              outcome(subject, "ended", due, " unless it is ready"),
          due};
}

Verdict explain_end(const Subject& subject) {
  const BackendView& backend = *subject.backend;
  const StopRecord& stop = backend.stop;
  std::string text(backend_state_name(backend.state.state));
  if (stop.generation != backend.ref.generation) {
    const auto failure = load_failure(subject.segment, backend);
    text += failure ? ": its load failed: " + *failure : ": its load was given back";
    return {"stop", text + nobody_ends_it(subject), kNever_ns};
  }
  text += " for " + age_text(subject.now(), stop.decided_ns);
  if (stop.signal != 0) text += ", sent " + signal_text(static_cast<int>(stop.signal));
  if (const auto why = field_text(stop.text); !why.empty()) text += ": " + escape(why);
  std::uint64_t due = kNever_ns;
  const std::uint64_t grace = subject.get(Setting::kStopGrace);
  if (backend.settling()) {
    due = age_ns(add_ns(stop.ended_ns, subject.get(Setting::kSettle)), subject.now());
    text += "; its processes are gone; " +
            outcome(subject, "its place is free", due, " (settle), or when its device memory is");
    return {reason_name(stop.reason), text, due};
  }
  const bool is_stopping = backend.state.state == BackendState::kStopping;
  if (is_stopping && stop.signalled_ns != 0 && stop.killed_ns == 0 && grace != 0) {
    due = age_ns(add_ns(stop.signalled_ns, grace), subject.now());
    text += "; " + outcome(subject, "SIGKILL", due, " unless it ends");
  }
  if (backend.left.count != 0) {
    text += "; left: " + left_text(backend.left);
  } else if (backend.overdue) {
    text += "; it does not die of SIGKILL";
  }
  if (backend.overdue) text += "; it keeps its place, but its model may be loaded again";
  if (backend.state.state == BackendState::kEvicting && backend.in_flight > 0) {
    const std::uint64_t limit = subject.get(Setting::kDrainTimeout);
    text += "; " + count_text(backend.in_flight, "lease") + " may finish";
    if (limit != 0) {
      due = age_ns(add_ns(stop.decided_ns, limit), subject.now());
      text += "; " + outcome(subject, "it opens again", due, " (drain_timeout) unless they end");
    }
  }
  if (is_spared_sigkill(backend)) {
    text += "; SIGKILL does not follow, stop_grace is off: end process " +
            std::to_string(backend.process.pid) + ", or set stop_grace";
  }
  if (due == kNever_ns) text += nobody_ends_it(subject);
  return {reason_name(stop.reason), text, due};
}

Verdict explain_request(const Subject& subject) {
  const bool is_forced = (subject.backend->control & kControlForce) != 0;
  return {reason_name(Reason::kRequested),
          "asked for by `poolctl evict`" + std::string(is_forced ? ", leases may be cut: " : ": ") +
              outcome(subject, "evicted", 0, is_forced ? "" : " when its leases end"),
          subject.judge == JudgeState::kAnswers ? 0 : kNever_ns};
}

std::optional<Verdict> explain_last_end(const Subject& subject) {
  std::optional<EventView> last;
  for (const EventView& event : read_events(subject.segment, 1)) {
    const bool is_end =
        event.data.kind == EventKind::kEvicted || event.data.kind == EventKind::kKilled ||
        event.data.kind == EventKind::kExited || event.data.kind == EventKind::kLoadFailed;
    if (is_end && field_text(event.data.model) == subject.model) last = event;
  }
  if (!last) return std::nullopt;
  const EventData& data = last->data;
  std::string text =
      std::string(event_kind_name(data.kind)) + " at " + format_wall_clock(data.time_ns);
  if (data.reason != Reason::kNone) text += " (" + reason_name(data.reason) + ")";
  if (data.age_ns != kNever_ns) {
    text += (reason_row(data.reason).makes_room ? ", unused for " : ", measured ") +
            format_age(data.age_ns);
  }
  if (data.limit_ns != kNever_ns) {
    text += ", limit " + (data.reason == Reason::kIdle ? format_keep_alive(data.limit_ns)
                                                       : format_duration(data.limit_ns));
  }
  if (const auto tag = field_text(data.tag); !tag.empty()) text += ", tag " + escape(tag);
  if (const auto why = field_text(data.text); !why.empty()) text += ": " + escape(why);
  return Verdict{"ended", text, kNever_ns};
}

}  // namespace modelpool::explain
