#include "policy/order.hpp"

#include <vector>

#include "policy/interval.hpp"

namespace modelpool {
namespace {

std::uint64_t clamped(std::uint64_t ns) { return std::clamp(ns, kIntervalMin_ns, kIntervalMax_ns); }

// -1: a goes first; 1: b does; 0: neither, by this alone.
int compare(std::uint64_t a, std::uint64_t b) { return a < b ? -1 : a > b; }

int compare_cost(const Resident& a, const Resident& b, std::uint64_t now_ns) {
  const Worth first = worth_of(a, now_ns);
  const Worth second = worth_of(b, now_ns);
  return costs_less(first, second) ? -1 : costs_less(second, first);
}

int compare_use(const Resident& a, const Resident& b, std::uint64_t) {
  return compare(last_use_ns(a), last_use_ns(b));
}

int compare_size(const Resident& a, const Resident& b, std::uint64_t now_ns) {
  const int larger = compare(b.size_bytes, a.size_bytes);
  return larger != 0 ? larger : compare_use(a, b, now_ns);
}

int compare_by(Eviction by, const Resident& a, const Resident& b, std::uint64_t now_ns) {
  switch (by) {
    case Eviction::kCost:
      return compare_cost(a, b, now_ns);
    case Eviction::kLru:
      return compare_use(a, b, now_ns);
    case Eviction::kSize:
      return compare_size(a, b, now_ns);
  }
  return 0;
}

}  // namespace

void assume_usual_loads(std::span<Resident> residents) {
  const bool any = std::any_of(residents.begin(), residents.end(),
                               [](const Resident& resident) { return resident.external; });
  if (!any) return;
  std::vector<std::uint64_t> loads;
  for (const Resident& resident : residents) {
    if (!resident.external && resident.load_ns != 0) loads.push_back(resident.load_ns);
  }
  if (loads.empty()) return;
  const auto middle = loads.begin() + static_cast<std::ptrdiff_t>(loads.size() / 2);
  std::nth_element(loads.begin(), middle, loads.end());
  for (Resident& resident : residents) {
    if (resident.external) resident.load_ns = *middle;
  }
}

std::uint64_t last_use_ns(const Resident& resident) {
  return std::max(resident.last_used_ns, resident.newest_start_ns);
}

Worth worth_of(const Resident& resident, std::uint64_t now_ns) {
  const std::uint64_t idle_ns = resident.in_flight > 0 ? 0 : age_ns(now_ns, resident.last_used_ns);
  return {clamped(resident.load_ns), clamped(std::max(resident.interval_ns, idle_ns))};
}

bool costs_less(const Worth& a, const Worth& b) {
  __extension__ using Product = unsigned __int128;  // of two values below 2^57
  return Product{a.load_ns} * b.wait_ns < Product{b.load_ns} * a.wait_ns;
}

bool Order::goes_before(const Resident& a, const Resident& b) const {
  const bool a_is_busy = a.in_flight > 0;
  const bool b_is_busy = b.in_flight > 0;
  if (a_is_busy != b_is_busy) return b_is_busy;
  if (a.priority != b.priority) return a.priority < b.priority;
  if (a_is_busy && a.drain_failed_ns != b.drain_failed_ns)
    return a.drain_failed_ns < b.drain_failed_ns;
  if (const int order = compare_by(by, a, b, now_ns); order != 0) return order < 0;
  if (a.ready_ns != b.ready_ns) return a.ready_ns < b.ready_ns;
  return a.ref.index < b.ref.index;
}

}  // namespace modelpool
