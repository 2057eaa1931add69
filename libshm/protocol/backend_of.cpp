#include "protocol/backend_of.hpp"

#include "base/proc.hpp"
#include "protocol/slots.hpp"

namespace modelpool {

std::optional<BackendRef> find_backend_of(const Segment& segment, const ProcessIdentity& process,
                                          pid_t group, pid_t session) {
  for (std::uint32_t i = 0; i < segment.backends_reached(); ++i) {
    const StateWord state = load_state(segment, i);
    if (state.state < BackendState::kStarting || !is_live(state.state)) continue;
    const BackendRecord& record = segment.backend(i);
    const ProcessIdentity first{static_cast<pid_t>(record.pid.load(std::memory_order_acquire)),
                                record.start_ticks.load(std::memory_order_acquire),
                                record.pidfd_inode.load(std::memory_order_acquire)};
    const auto number = static_cast<pid_t>(record.group.load(std::memory_order_acquire));
    if (first.pid <= 1) continue;
    bool is_its = first.is(process);
    if (!is_its && number != 0 && (group == number || session == number)) {
      const auto stat = read_stat(number);  // unless the number is somebody else's by now
      is_its = !stat || stat->start_ticks == first.start_ticks;
    }
    if (is_its && load_state(segment, i).generation == state.generation) {
      return BackendRef{i, state.generation};
    }
  }
  return std::nullopt;
}

}  // namespace modelpool
