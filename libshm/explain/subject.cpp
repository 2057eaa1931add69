#include "explain/subject.hpp"

#include <algorithm>

#include "base/duration.hpp"
#include "base/size.hpp"
#include "policy/fit.hpp"
#include "policy/kept.hpp"
#include "policy/order.hpp"
#include "protocol/outlook.hpp"

namespace modelpool::explain {

std::string limit_text(std::uint64_t limit) { return format_duration(limit); }

std::string outcome(const Subject& subject, std::string_view what, std::uint64_t due,
                    std::string_view condition) {
  std::string text =
      std::string(what) + (due == 0 ? " now" : " in " + format_age(due)) + std::string(condition);
  if (subject.backend->external()) text += "; it is external: no process is signalled";
  if (subject.judge == JudgeState::kAnswers) return text;
  return text + (subject.judge == JudgeState::kDead
                     ? "; but no coordinator is running: nothing is ended until one is"
                     : "; but the coordinator hangs: nothing is ended until it looks again");
}

std::string pin_text(const Subject& subject) {
  const BackendView& backend = *subject.backend;
  if (!backend.pinned_by_settings()) return "exempt: pinned";
  return "exempt: pinned by its settings (" +
         origin_text(settings_of(subject.snapshot).config_path,
                     subject.effective.origin(Setting::kPinned)) +
         ")" + (backend.pinned_by_hand() ? ", and by poolctl pin or its loader" : "");
}

std::string taken_text(const Snapshot& snapshot, const std::vector<Resident>& there) {
  const Limits limits = limits_of(snapshot);
  Amounts held;
  for (const Resident& resident : there) held += resident.holds;
  const auto size = [&held](std::size_t resource) {
    return format_size(static_cast<std::uint64_t>(held[resource]));
  };
  std::string text =
      std::to_string(count_live(there)) +
      (limits.max_backends == 0 ? "" : " of " + std::to_string(limits.max_backends)) +
      " places taken";
  if (limits.max_memory != 0)
    text +=
        ", and " + size(index_of(Resource::kHostBytes)) + " of " + format_size(limits.max_memory);
  if (limits.max_loads != 0)
    text += ", " + std::to_string(held[Resource::kLoads]) + " of " +
            std::to_string(limits.max_loads) + " loads under way";
  for (std::uint32_t d = 0; d < snapshot.devices.size(); ++d) {
    const DeviceLimit& device = limits.device[d];
    if (device.bytes == 0) continue;
    text += ", " + size(index_of_device(d)) + " of " + format_size(device.bytes) + " on " +
            escape(snapshot.devices[d]);
    if (device.foreign != 0) text += " (and others " + format_size(device.foreign) + ")";
  }
  return text;
}

std::vector<Waiting> all_waiting(const Snapshot& snapshot) {
  std::vector<Waiting> waiting;
  for (const WaiterView& waiter : snapshot.waiters) waiting.push_back(waiting_of(waiter));
  std::sort(waiting.begin(), waiting.end(),
            [](const Waiting& a, const Waiting& b) { return a.arrival < b.arrival; });
  return waiting;
}

std::vector<Resident> live_residents(const Snapshot& snapshot) {
  std::vector<Resident> residents;
  for (const BackendView& backend : snapshot.backends) {
    if (backend.live()) residents.push_back(resident_of(backend));
  }
  return residents;
}

std::size_t position_of(const Subject& subject) {
  return static_cast<std::size_t>(subject.backend - subject.snapshot.backends.data());
}

bool is_kept(const Subject& subject) {
  const std::vector<Resident> all = residents_of(subject.snapshot);
  return find_kept(all, subject.snapshot.keep(),
                   room_rules(subject.snapshot, subject.now()).order)[position_of(subject)];
}

Finding finding_of(const Subject& subject, Reason reason,
                   const std::vector<const LeaseView*>& views) {
  std::vector<LeaseInFlight> leases;
  for (const LeaseView* view : views) {
    leases.push_back(lease_in_flight(*view));
  }
  const Resident resident = resident_of(*subject.backend);
  const std::vector<Waiting> waiting = all_waiting(subject.snapshot);
  Case one{resident, subject.effective, leases};
  const Waiting* const waiter = first_waiter_for(waiting, resident.model, subject.now());
  if (waiter != nullptr) one.awaited_until_ns = present_until_ns(*waiter);
  one.kept = is_kept(subject);
  one.limits = limits_of(subject.snapshot);
  return reason_row(reason).judge(one, subject.now());
}

}  // namespace modelpool::explain
