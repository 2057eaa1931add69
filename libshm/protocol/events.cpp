#include "protocol/events.hpp"

#include <algorithm>

namespace modelpool {

std::vector<EventView> read_events(const Segment& segment, std::uint64_t first) {
  const std::uint64_t capacity = segment.capacities().events;
  // acquire: pairs with the coordinator's store after it wrote the event
  const std::uint64_t next = segment.coordinator().next_event.load(std::memory_order_acquire);
  std::vector<EventView> result;
  if (next == 0) return result;
  const std::uint64_t oldest = next > capacity ? next - capacity : 1;
  for (std::uint64_t sequence = std::max({first, oldest, std::uint64_t{1}}); sequence < next;
       ++sequence) {
    const EventRecord& record = segment.event(sequence % capacity);
    if (record.sequence.load(std::memory_order_acquire) != sequence) continue;
    EventView event{sequence, record.data.load()};
    if (record.sequence.load(std::memory_order_acquire) == sequence) result.push_back(event);
  }
  return result;
}

}  // namespace modelpool
