#include "policy/settle.hpp"

#include <algorithm>

namespace modelpool {

bool is_back(const Settling& settling) {
  if (settling.listed != Listed::kUnknown) return settling.listed == Listed::kNo;
  const bool is_known = settling.held_bytes != 0 && settling.others_bytes != kNever_ns &&
                        settling.baseline_bytes != kNever_ns && settling.free_bytes != kNever_ns;
  if (!is_known) return false;
  const std::uint64_t all = add_ns(settling.held_bytes, settling.others_bytes);
  const std::uint64_t rise =
      std::max(all - all / 4, add_ns(settling.others_bytes, settling.held_bytes / 2));
  return add_ns(settling.free_bytes, settling.taken_bytes) >= add_ns(settling.baseline_bytes, rise);
}

}  // namespace modelpool
