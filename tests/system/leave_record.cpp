// Leaves a READY backend as a coordinator of a newer version leaves it that is killed: EVICTING or
// STOPPING, with a stop record whose reason is a number. Usage: leave_record DIR MODEL
// evicting|stopping REASON. While no coordinator runs.
#include <cstdint>
#include <exception>
#include <iostream>
#include <string>

#include "base/time.hpp"
#include "pool/inside.hpp"
#include "protocol/slots.hpp"
#include "segment/segment.hpp"

namespace modelpool {
namespace {

int leave(const std::string& dir, const std::string& model, bool is_stopping,
          std::uint32_t reason) {
  const auto segment = Segment::attach("default", {dir, false, {}, nullptr});
  if (!segment) {
    std::cerr << segment.error().text << '\n';
    return 1;
  }
  const auto found = find_backend(**segment, model);
  if (!found || found->state.state != BackendState::kReady) {
    std::cerr << model << " is not ready\n";
    return 1;
  }
  // acquire: of the coordinator that has ended
  const auto epoch =
      static_cast<std::uint32_t>((*segment)->coordinator().epoch.load(std::memory_order_acquire));
  StopRecord stop;
  stop.generation = found->ref.generation;
  stop.reason = static_cast<Reason>(reason);
  stop.decided_ns = now_ns();
  if (is_stopping) stop.stopping_ns = stop.decided_ns;
  BackendRecord& record = (*segment)->backend(found->ref.index);
  record.stop.publish(stop);
  const StateWord closed{found->ref.generation, StateWord::owner_of_epoch(epoch),
                         BackendState::kEvicting};
  const StateWord stopping{found->ref.generation, 0, BackendState::kStopping};
  record.state.store((is_stopping ? stopping : closed).pack());
  return 0;
}

}  // namespace
}  // namespace modelpool

int main(int argc, char** argv) {
  try {
    const std::string state = argc == 5 ? argv[3] : "";
    if (state != "evicting" && state != "stopping") {
      std::cerr << "usage: leave_record DIR MODEL evicting|stopping REASON\n";
      return 2;
    }
    return modelpool::leave(argv[1], argv[2], state == "stopping",
                            static_cast<std::uint32_t>(std::stoul(argv[4])));
  } catch (const std::exception& error) {
    std::cerr << "leave_record: " << error.what() << '\n';
    return 1;
  }
}
