#include "protocol/waiters.hpp"

#include <algorithm>

#include "base/time.hpp"
#include "protocol/outlook.hpp"

namespace modelpool {

void wake_line(const Segment& segment) {
  prepare_outlook(segment);
  const Outlook outlook = read_outlook(segment, now_ns());
  const std::size_t served = std::min<std::size_t>(outlook.places(), outlook.heads.size());
  for (const Waiting& head : outlook.heads.first(served)) {
    wake_row(segment, segment.waiter(head.row));
  }
}

}  // namespace modelpool
