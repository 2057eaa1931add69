// Whether, and when, a backend goes because nobody uses it.
#include "base/duration.hpp"
#include "explain/subject.hpp"
#include "protocol/outlook.hpp"

namespace modelpool::explain {

Verdict explain_idle(const Subject& subject) {
  const BackendView& backend = *subject.backend;
  const std::string rule = reason_name(Reason::kIdle);
  const auto asked = keep_alive_of(backend.keep_alive);
  const std::string from = asked ? " (keep_alive, as an acquire asked)" : "";
  if (idle_limit_ns(resident_of(backend), subject.effective) == kNever_ns) {
    return {rule, "off" + from, kNever_ns};
  }
  if (backend.pinned()) return {rule, pin_text(subject), kNever_ns};
  if (backend.in_flight > 0) {
    const std::string limit =
        asked ? "; then it may be so for " + format_keep_alive(*asked) + from : "";
    return {rule, "not idle: " + count_text(backend.in_flight, "lease") + " in flight" + limit,
            kNever_ns};
  }
  const Finding finding = finding_of(subject, Reason::kIdle, {});
  if (is_kept(subject) && asked != std::uint64_t{0}) {
    const std::uint32_t keep = subject.snapshot.keep();
    return {rule,
            keep == 1
                ? "kept: it would make room last (keep is 1)"
                : "kept: one of the " + std::to_string(keep) + " that would make room last (keep)",
            kNever_ns};
  }
  if (finding.at_ns == kNever_ns) return {rule, "not idle: a waiter is about to use it", kNever_ns};
  const std::uint64_t due = age_ns(finding.at_ns, subject.now());
  return {rule,
          "idle for " + age_text(subject.now(), finding.since_ns) + " of " +
              (asked ? format_keep_alive(*asked) : limit_text(finding.limit_ns)) + from + ": " +
              outcome(subject, "evicted", due, " unless used"),
          due};
}

}  // namespace modelpool::explain
