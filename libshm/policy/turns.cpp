#include "policy/turns.hpp"

#include "policy/line.hpp"

namespace modelpool {
namespace {

constexpr std::uint64_t kShare = 4;  // of the time to spare, that a model in use may take
constexpr std::uint64_t kPauseMax_ns = 10 * kSecond_ns;
constexpr std::uint64_t kPauseShare = 4;  // of both load times

// A load takes a fifth longer than it is known to.
std::uint64_t with_margin(std::uint64_t load_ns) { return add_ns(load_ns, load_ns / 5); }

}  // namespace

Head head_of(const Waiting& first, std::span<const Waiting> waiting, std::uint64_t now_ns) {
  Head head;
  head.first = first;
  head.since_ns = std::min(first.model_since_ns, now_ns);
  head.load_ns = first.load_ns;
  // If a load can meet none of them, it is for those who come after: it takes nobody's time.
  bool can_be_met = false;
  head.deadline_ns = 0;
  for (const Waiting& waiter : waiting) {
    if (waiter.model != first.model || !is_present(waiter, now_ns)) continue;
    if (waiter.deadline_ns < add_ns(now_ns, head.load_ns)) continue;
    head.deadline_ns =
        can_be_met ? std::min(head.deadline_ns, waiter.deadline_ns) : waiter.deadline_ns;
    can_be_met = true;
  }
  return head;
}

std::uint64_t turn_begins_ns(const Head& head, std::uint64_t max_wait_ns) {
  if (head.load_ns == 0) return head.since_ns;
  const std::uint64_t spare_ns =
      age_ns(head.deadline_ns, add_ns(head.since_ns, with_margin(head.load_ns)));
  return add_ns(head.since_ns, std::min(max_wait_ns, spare_ns / kShare));
}

std::uint64_t pause_ends_ns(const Resident& resident, const Head& head, std::uint64_t max_wait_ns) {
  if (resident.in_flight > 0 || resident.interval_ns == 0) return 0;
  if (resident.interval_ns >= resident.load_ns) return 0;
  const std::uint64_t held_ns =
      std::min(kPauseMax_ns, add_ns(resident.load_ns, head.load_ns) / kPauseShare);
  const std::uint64_t pause_ns = add_ns(resident.interval_ns, resident.interval_ns);  // two
  return std::min({add_ns(resident.last_used_ns, pause_ns), add_ns(head.since_ns, held_ns),
                   turn_begins_ns(head, max_wait_ns)});
}

}  // namespace modelpool
