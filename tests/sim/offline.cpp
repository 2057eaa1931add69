#include "offline.hpp"

#include <algorithm>
#include <functional>
#include <optional>
#include <queue>

namespace modelpool::sim {
namespace {

// The cheapest flow from the first node to the last; arcs lead from lower to higher ones.
class Flow {
 public:
  explicit Flow(std::size_t nodes) : arcs_from_(nodes), potential_(nodes) {}

  void add(std::size_t from, std::size_t to, std::int64_t capacity, std::int64_t cost) {
    arcs_from_[from].push_back(arcs_.size());
    arcs_.push_back({to, capacity, cost});
    arcs_from_[to].push_back(arcs_.size());
    arcs_.push_back({from, 0, -cost});  // back
  }

  // Of at most so many units: no more than make it cheaper.
  std::int64_t least_cost(std::int64_t units) {
    find_first_potentials();
    std::int64_t sum = 0;
    while (units > 0 && find_paths()) {
      const std::int64_t cost = potential_.back() - potential_.front();
      if (cost >= 0) break;
      std::int64_t most = units;
      for (std::size_t node = last(); node != 0; node = from(node))
        most = std::min(most, arcs_[arc_to_[node]].capacity);
      for (std::size_t node = last(); node != 0; node = from(node)) {
        arcs_[arc_to_[node]].capacity -= most;
        arcs_[arc_to_[node] ^ 1].capacity += most;
      }
      sum += cost * most;
      units -= most;
    }
    return sum;
  }

 private:
  struct Arc {
    std::size_t to;
    std::int64_t capacity;  // that is left
    std::int64_t cost;
  };
  static constexpr std::int64_t kFar = INT64_MAX / 2;

  std::size_t last() const { return arcs_from_.size() - 1; }
  std::size_t from(std::size_t node) const { return arcs_[arc_to_[node] ^ 1].to; }

  void find_first_potentials() {
    std::fill(potential_.begin(), potential_.end(), kFar);
    potential_[0] = 0;
    for (std::size_t node = 0; node < arcs_from_.size(); ++node) {
      for (const std::size_t i : arcs_from_[node]) {
        const Arc& arc = arcs_[i];
        if (arc.capacity > 0)
          potential_[arc.to] = std::min(potential_[arc.to], potential_[node] + arc.cost);
      }
    }
  }

  // Dijkstra, by costs less the difference of potentials, which are not negative. Afterwards the
  // potentials are the distances.
  bool find_paths() {
    std::vector<std::int64_t> distance(arcs_from_.size(), kFar);
    arc_to_.assign(arcs_from_.size(), 0);
    using Reached = std::pair<std::int64_t, std::size_t>;
    std::priority_queue<Reached, std::vector<Reached>, std::greater<>> reached;
    distance[0] = 0;
    reached.push({0, 0});
    while (!reached.empty()) {
      const auto [far, node] = reached.top();
      reached.pop();
      if (far > distance[node]) continue;
      for (const std::size_t i : arcs_from_[node]) {
        const Arc& arc = arcs_[i];
        if (arc.capacity == 0) continue;
        const std::int64_t next = far + arc.cost + potential_[node] - potential_[arc.to];
        if (next >= distance[arc.to]) continue;
        distance[arc.to] = next;
        arc_to_[arc.to] = i;
        reached.push({next, arc.to});
      }
    }
    for (std::size_t node = 0; node < distance.size(); ++node)
      potential_[node] += std::min(distance[node], distance[last()]);
    return distance[last()] < kFar;
  }

  std::vector<Arc> arcs_;  // each with the one back behind it
  std::vector<std::vector<std::size_t>> arcs_from_;
  std::vector<std::int64_t> potential_;
  std::vector<std::size_t> arc_to_;  // by which each node was reached
};

template <class Cost>
std::uint64_t least(const Trace& trace, Cost cost_of) {
  // Of requests to one model in a row only the first may need a load.
  std::vector<std::uint32_t> wanted;
  for (const TraceRequest& request : trace.requests) {
    if (wanted.empty() || wanted.back() != request.model) wanted.push_back(request.model);
  }
  std::int64_t sum = 0;
  const auto others =
      static_cast<std::int64_t>(trace.places == 0 ? trace.models.size() : trace.places - 1);
  Flow flow(wanted.size() + 1);
  std::vector<std::optional<std::size_t>> before(trace.models.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const auto cost = static_cast<std::int64_t>(cost_of(trace.models[wanted[i]]));
    sum += cost;
    flow.add(i, i + 1, std::max<std::int64_t>(others, 1), 0);
    if (before[wanted[i]]) flow.add(*before[wanted[i]] + 1, i, 1, -cost);
    before[wanted[i]] = i;
  }
  return static_cast<std::uint64_t>(sum + flow.least_cost(others));
}

}  // namespace

LeastLoads least_loads(const Trace& trace) {
  return {least(trace, [](const TraceModel&) { return 1u; }),
          least(trace, [](const TraceModel& model) { return model.load_ns; })};
}

}  // namespace modelpool::sim
