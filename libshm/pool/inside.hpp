// What lies behind the handles that applications hold: the segment of a Pool, the rows that a Lease
// and a LoadTicket name. For the library, its bindings, the tools and the tests; not installed.
//
// Safety: as of the handles. REQUIRES, of segment_of and its like: a Pool that was not moved from.
//
// Errors: kClosed.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string_view>
#include <type_traits>

#include "modelpool/pool.hpp"
#include "protocol/acquisition.hpp"
#include "protocol/snapshot.hpp"

namespace modelpool {

// The one friend of the handles.
struct Inside {
  static std::shared_ptr<Segment> shared_segment(const Pool& pool);
  static const Segment& segment(const Pool& pool);
  static Result<Snapshot> snapshot(const Pool& pool);
  static Result<const HalfWord*> wake_word(Pool& pool);
  // As of AcquisitionOptions.
  struct Begin {
    bool wake_worker = false;
    bool is_a_try = false;
    bool only_tries = false;
  };
  static Result<PendingAcquire> begin_acquire(Pool& pool, std::string_view model, Deadline deadline,
                                              const AcquireOptions& options, Begin how);
  template <class Answer, bool is_a_try>
  static Result<Answer> acquire(Pool& pool, std::string_view model, Deadline deadline,
                                const AcquireOptions& options);
  static Result<Grant> wait_for(Pool& pool, std::string_view model, Deadline deadline,
                                const AcquireOptions& options, bool is_a_try);
  static void remember(std::uint64_t hash, const Lease& lease);
};

// The segment that has the pool's name, or had it last; usable after Pool::close, too.
inline std::shared_ptr<Segment> shared_segment_of(const Pool& pool) {
  return Inside::shared_segment(pool);
}
inline const Segment& segment_of(const Pool& pool) { return Inside::segment(pool); }
// Everything, as it lies in the segment (Pool::snapshot has what applications see of it).
inline Result<Snapshot> look_inside(const Pool& pool) { return Inside::snapshot(pool); }

// For one helper thread that serves many waits: the word of this process's row that wakers bump for
// waits that others poll.
inline Result<const HalfWord*> wake_word_of(Pool& pool) { return Inside::wake_word(pool); }

// Before a wait that others count: what is not loaded was not refused.
Result<Grant> acquire_if_loaded(Pool& pool, std::string_view model, AcquireOptions options);

// A lease as its acquire was to make it. What cannot be done of that is not done.
Lease as_asked(Lease lease, bool cancellable, const std::function<void()>& on_cancel);

// AcquireOptions::keep_alive as backends have it.
std::uint32_t keep_alive_word(const std::optional<Duration>& keep_alive);

// Whose bytes the handles hold.
static_assert(sizeof(LeaseRef) == 24 && std::is_trivially_copyable_v<LeaseRef> &&
              offsetof(LeaseRef, worker) == 0);
static_assert(sizeof(TicketRef) == 16 && std::is_trivially_copyable_v<TicketRef> &&
              offsetof(TicketRef, worker) == 0);

}  // namespace modelpool
