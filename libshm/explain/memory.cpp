// What a backend holds, and whether it goes for that.
#include "base/duration.hpp"
#include "base/size.hpp"
#include "explain/subject.hpp"
#include "protocol/outlook.hpp"

namespace modelpool::explain {

std::optional<Verdict> explain_pressure(const Subject& subject) {
  const std::uint64_t least = settings_of(subject.snapshot).get(Setting::kMinAvailable);
  if (least == 0) return std::nullopt;
  const std::string limit = "min_available is " + format_size(least) + ": ";
  if (subject.backend->pinned())
    return Verdict{reason_name(Reason::kMemory), pin_text(subject), kNever_ns};
  const std::uint64_t left_ns =
      age_ns(subject.snapshot.coordinator.pressure_until_ns, subject.now());
  if (left_ns != 0) {
    return Verdict{reason_name(Reason::kMemory),
                   limit + "the last eviction for it did not bring its memory back; none for " +
                       "another " + format_age(left_ns),
                   left_ns};
  }
  return Verdict{reason_name(Reason::kMemory),
                 limit + "when less is left, idle backends go one by one, the first in the order " +
                     "below first",
                 kNever_ns};
}

Verdict explain_over_limit(const Subject& subject) {
  const Limits limits = limits_of(subject.snapshot);
  const BackendView& backend = *subject.backend;
  Verdict verdict{reason_name(Reason::kOverLimit), "", kNever_ns};
  bool is_limited = false;
  // "takes 18GiB, at most 20GiB so far, of max_memory 64GiB"
  const auto add = [&](std::uint64_t limit, std::uint64_t takes, std::uint64_t most,
                       const std::string& of) {
    is_limited |= limit != 0;
    if (limit == 0 || takes == 0) return;
    verdict.text += (verdict.text.empty() ? "takes " : ", ") + format_size(takes) +
                    (most > takes ? ", at most " + format_size(most) + " so far," : "") + " of " +
                    of + " " + format_size(limit);
  };
  add(limits.max_memory, backend.measured.host, backend.peak.host, "max_memory");
  for (std::uint32_t d = 0; d < subject.snapshot.devices.size(); ++d) {
    add(limits.device[d].bytes, backend.measured.device[d], backend.peak.device[d],
        escape(subject.snapshot.devices[d]));
  }
  if (!is_limited) verdict.text = "off: there is neither max_memory nor gpu_memory";
  if (is_limited && verdict.text.empty()) verdict.text = "not measured";
  if (!verdict.text.starts_with("takes ")) return verdict;
  verdict.text += ": killed if it takes more than that by itself";
  if (finding_of(subject, Reason::kOverLimit, {}).at_ns != kNever_ns) verdict.due_ns = 0;
  return verdict;
}

std::optional<Verdict> explain_holding(const Subject& subject) {
  std::string text;
  const auto add = [&text](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  if (subject.backend != nullptr) {
    const Resident self = resident_of(*subject.backend);
    const auto size = [&self](std::size_t resource) {
      return format_size(static_cast<std::uint64_t>(self.holds[resource]));
    };
    if (self.holds[Resource::kHostBytes] > 0)
      add(size(index_of(Resource::kHostBytes)) + " of memory");
    for (std::uint32_t d = 0; d < subject.snapshot.devices.size(); ++d) {
      if ((self.devices >> d & 1) == 0) continue;
      const std::string uuid = escape(subject.snapshot.devices[d]);
      add(self.holds[index_of_device(d)] > 0 ? size(index_of_device(d)) + " on " + uuid
                                             : "on " + uuid);
    }
    if (!text.empty() && !(self.size_known && self.device_size_known)) text += " (a guess)";
  }
  if (const std::string_view groups = subject.effective.text(Setting::kGroups); !groups.empty()) {
    text += (text.empty() ? "" : "; ") + ("no other model of " + escape(groups)) +
            " is loaded beside it";
  }
  if (text.empty()) return std::nullopt;
  return Verdict{"holds", text, kNever_ns};
}

}  // namespace modelpool::explain
