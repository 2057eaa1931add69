#include "protocol/waiters.hpp"

#include <algorithm>

#include "base/time.hpp"
#include "protocol/outlook.hpp"

namespace modelpool {

void wake_line(const Segment& segment) {
  prepare_outlook(segment);
  const Outlook outlook = read_outlook(segment, now_ns());
  Room room = outlook.room();
  for (const Waiting& head : outlook.heads) {
    if (room.fits(head)) wake_row(segment, segment.waiter(head.row));
    room.take(head);
  }
}

}  // namespace modelpool
