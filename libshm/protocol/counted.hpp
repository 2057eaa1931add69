// Leases of a backend that counts them: READY has the flag kCounted (`parallel`, a permit).
//
// The fast path compares with READY without it and so refuses. These leases are counted and
// published in one hold of the mutex, in the order in which their waiters arrived: the number at
// once is never above `parallel`, whoever dies. Lowering it cuts none.
//
// Who is woken: whoever ends a lease, leaves the line, or clears the words of a dead process wakes
// the first of the model's line himself. Whoever was granted one wakes the next if another may
// begin: a second end may have woken the same waiter.
//
// Safety: any thread. Under the mutex nothing allocates after prepare_leases().
//
// Crash: one store, as for any lease. A holder that dies has published or not. Killed after that,
// before its row is free, it counts twice until the coordinator clears both. Its successor in the
// line, if it was not woken, looks within a second.
//
// Errors: none.
#pragma once

#include "protocol/leases.hpp"
#include "protocol/parallel.hpp"

namespace modelpool {

struct CountedRequest {
  BackendRef backend;
  std::uint64_t model = 0;            // hash
  std::uint64_t arrival = kNever_ns;  // of its waiter row; kNever_ns: it has none
  std::uint64_t limit_ns = 0;         // as of begin_lease
  // Resolved just now; none: known_parallel() knew it.
  std::optional<Parallel> parallel{};
};

struct CountedAnswer {
  // kFull: it serves as many as it takes, or those who came earlier take what is left.
  // kNotReady: it counts no more, is closed, or its settings have changed: look again.
  BeginResult result = BeginResult::kNotReady;
  // Of kFull.
  std::uint32_t in_flight = 0;
  std::uint32_t parallel = 0;
  // It counts no more: whoever waits for it is to be woken.
  bool is_uncounted = false;
};

CountedAnswer begin_counted_lease(const LockGuard& guard, Worker& worker,
                                  const CountedRequest& request, std::string_view tag,
                                  LeaseRef* lease);
// Not under the mutex. For one who was granted a lease, after its row was freed.
void wake_next_if_free(const Segment& segment, BackendRef backend, std::uint64_t model);

// Not under the mutex. Where no coordinator answers: clears the lease words on this backend, and
// the rows in the line of this model, of workers that are proved dead. Their rows of the table stay
// for a coordinator. True: there was one.
bool clear_dead_holders(const Segment& segment, BackendRef backend, std::uint64_t model);

}  // namespace modelpool
