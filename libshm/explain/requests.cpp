// What ends a backend, or asks its users to end a request, while requests are in flight.
#include "base/duration.hpp"
#include "base/probe_target.hpp"
#include "base/text.hpp"
#include "explain/subject.hpp"
#include "protocol/events.hpp"
#include "protocol/outlook.hpp"

namespace modelpool::explain {
namespace {

// The leases of the backend, and the same as the rules see them.
std::vector<const LeaseView*> leases_on(const Subject& subject) {
  std::vector<const LeaseView*> leases;
  for (const LeaseView& lease : subject.snapshot.leases) {
    if (lease.backend == subject.backend->ref) leases.push_back(&lease);
  }
  return leases;
}

}  // namespace

Verdict explain_leases(const Subject& subject, Reason reason) {
  const LeaseRule& rule = *reason_row(reason).lease_rule;
  const std::vector<const LeaseView*> leases = leases_on(subject);
  const Finding finding = finding_of(subject, reason, leases);
  Verdict verdict{reason_name(reason), "off", kNever_ns};
  if (subject.get(rule.setting) != 0) verdict.text = "no lease";
  const bool asks = finding.ask_ns < finding.at_ns;
  const std::uint64_t at = asks ? finding.ask_ns : finding.at_ns;
  if (at == kNever_ns) return verdict;
  verdict.due_ns = age_ns(at, subject.now());
  const LeaseView& lease = *leases[asks ? finding.asked_lease : finding.lease];
  const LeaseLimit limit = rule.limit_of(subject.effective, lease_in_flight(lease));
  verdict.text = age_text(subject.now(), limit.since_ns) + " of " + limit_text(limit.limit_ns) +
                 (lease.tag.empty() ? "" : ", tag " + escape(lease.tag));
  if (lease.cancelled())
    verdict.text += ", asked to end " + age_text(subject.now(), lease.cancel_at_ns) + " ago";
  const char* const end = asks                          ? "its holder is asked to end it"
                          : subject.backend->external() ? "dropped"
                                                        : "killed";
  verdict.text += ": " + outcome(subject, end, verdict.due_ns,
                                 reason == Reason::kBusy ? " unless the lease ends"
                                                         : " unless it makes progress");
  return verdict;
}

Verdict explain_probe(const Subject& subject) {
  const std::string rule = reason_name(Reason::kWedged);
  const BackendView& backend = *subject.backend;
  const std::string_view probe = subject.effective.text(Setting::kProbe);
  const std::uint64_t interval = subject.get(Setting::kProbeInterval);
  const std::uint64_t timeout = subject.get(Setting::kProbeTimeout);
  if (probe.empty()) return {rule, "off: probe is not set", kNever_ns};
  if (interval == 0 || timeout == 0)
    return {rule, "off: probe_interval or probe_timeout is", kNever_ns};
  if (const auto target = probe_target(backend.address, probe); !target)
    return {rule, "not probed: " + target.error().text, kNever_ns};
  const std::string asked =
      escape(probe) + " every " + limit_text(interval) + ", within " + limit_text(timeout) + ": ";
  const std::uint64_t needed = subject.get(Setting::kProbeFailures);
  if (backend.probe_failures == 0) return {rule, asked + "no failure", kNever_ns};
  std::string text = asked + std::to_string(backend.probe_failures) + " failed in a row";
  std::string why;
  for (const EventView& event : read_events(subject.segment, 1)) {
    const bool is_its = event.data.kind == EventKind::kProbeFailed &&
                        event.data.backend == backend.ref.index &&
                        event.data.generation == backend.ref.generation;
    if (is_its) why = field_text(event.data.text);
  }
  if (!why.empty()) text += ", the first: " + escape(why);
  if (needed == 0) return {rule, text + "; it only says so (probe_failures is 0)", kNever_ns};
  text += "; killed at " + std::to_string(needed);
  text += backend.in_flight == 0 ? " since it was last used"
                                 : " only if a lease breaks first_byte_timeout or stall_timeout, "
                                   "or when none is in flight";
  return {rule, text, kNever_ns};
}

Verdict explain_parallel(const Subject& subject) {
  const std::string rule = "parallel";
  if (subject.get(Setting::kParallel) == 0) return {rule, "no limit", kNever_ns};
  return {rule,
          load_text(subject.snapshot, *subject.backend) +
              (is_full(*subject.backend) ? ": full, the next waits in line for it" : ""),
          kNever_ns};
}

}  // namespace modelpool::explain
