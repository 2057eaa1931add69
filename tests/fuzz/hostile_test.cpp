// Defects that hostile bytes found, one test each.
#include <gtest/gtest.h>

#include "protocol/worker.hpp"
#include "support/pool.hpp"

namespace modelpool::test {
namespace {

// It was reaped in every scan, 64 scans a millisecond, with an event each time.
TEST(HostileBytes, AWorkerRowInNoKnownStateIsReapedOnce) {
  const Scratch scratch;
  const auto segment = make_segment(scratch);
  WorkerRecord& row = segment->worker(3);
  row.state.store(pack_half(9, 2));
  clear_worker_row(*segment, {3, 9}, segment->coordinator_row());
  EXPECT_EQ(row.state.load(), pack_half(9, 0));
}

}  // namespace
}  // namespace modelpool::test
