// Leases of a backend that counts them: READY has the flag kCounted (`parallel`, a permit).
//
// The fast path compares with READY without it and so refuses. These leases are counted and
// published in one hold of the mutex, in the order in which their waiters arrived: the number at
// once is never above `parallel`, whoever dies. Lowering it cuts none. Whoever ends one wakes the
// model's waiters.
//
// Safety: any thread, under the mutex. Allocates nothing after prepare_leases().
//
// Crash: one store, as for any lease. A holder that dies has published or not.
//
// Errors: none.
#pragma once

#include "protocol/leases.hpp"

namespace modelpool {

struct CountedRequest {
  BackendRef backend;
  std::uint64_t model = 0;            // hash
  std::uint64_t arrival = kNever_ns;  // of its waiter row; kNever_ns: it has none
  std::uint64_t limit_ns = 0;         // as of begin_lease
};

// kFull: it serves as many as it takes, or those who came earlier take what is left.
// kNotReady: it counts no more, or is closed: look again.
BeginResult begin_counted_lease(const LockGuard& guard, Worker& worker,
                                const CountedRequest& request, std::string_view tag,
                                LeaseRef* lease);

}  // namespace modelpool
