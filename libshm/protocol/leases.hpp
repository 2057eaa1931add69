// Leases: publish, then validate. The hot path of the library.
//
//   begin:  fields; word = (generation, backend, sequence)        seq_cst
//           backend.state is READY(generation)?                   seq_cst; else clear and look again
//   end:    last-used = max(itself, now); word = 0                seq_cst
//           coordinator waits for this backend?  ring             seq_cst
//   evict:  state READY(g) -> EVICTING(g, epoch)                  seq_cst
//           scan every lease word                                 seq_cst
//
// In the one total order of these, either the scan sees the publication or the validation sees
// EVICTING; both cannot miss (P2). Each seq_cst here is needed: with release/acquire both miss, on
// real hardware, thousands of times a minute.
//
// Safety: any thread of the owning process. No lock, and no system call but the vDSO clock, unless the
// coordinator is to be rung (it waits for the end of a lease, or the lease has a limit of its own). Writes
// only to cache lines of the own row, and to the doorbell when it rings. In a forked child the inherited
// handles do nothing.
//
// Crash: a word left by a dead worker is cleared by the coordinator, or by the next program of the same
// process that attaches. Whoever clears it stamps last-used first.
//
// Errors: kNoCell when the row's cells are all in use.
#pragma once

#include <cstdint>
#include <string_view>

#include "protocol/worker.hpp"

namespace modelpool {

struct LeaseRef {
  Worker* worker = nullptr;
  BackendRef backend;
  std::uint32_t cell = 0;
};

enum class BeginResult { kGranted, kNotReady, kNoCell };

// Publishes and validates. limit_ns: the request's own busy timeout, 0 = none.
BeginResult begin_lease(Worker& worker, BackendRef backend, std::uint64_t limit_ns,
                        std::string_view tag, LeaseRef* lease);
// Publishes only: the loader's own lease, before it makes its backend READY.
BeginResult publish_lease(Worker& worker, BackendRef backend, std::uint64_t limit_ns,
                          std::string_view tag, LeaseRef* lease);
void end_lease(const LeaseRef& lease);
// Takes back a publication that was not validated: not a use of the backend.
void withdraw_lease(const LeaseRef& lease);
void record_progress(const LeaseRef& lease);
// The evict side's scan: does any lease word name this backend? To be called after the CAS that
// closed it. Rows and cells are skipped only on words their owners stored seq_cst before publishing.
bool any_lease_names(const Segment& segment, BackendRef backend);
// The coordinator's side of what the end of a lease reads, and the begin of one with a limit. To be
// called before the scan that relies on them.
void store_wanted(const Segment& segment, std::uint64_t backends);  // bit (backend & 63)
void store_horizon(const Segment& segment, std::uint64_t at_ns);
// The latest use any worker recorded, 0 if none.
std::uint64_t latest_use_ns(const Segment& segment, std::uint32_t backend);

}  // namespace modelpool
