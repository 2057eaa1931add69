// Leases: publish, then validate. The hot path of the library.
//
//   begin:  fields; word = (generation, backend, sequence)        seq_cst
//           backend.state is READY(generation)?                   seq_cst; else clear and look again
//   end:    last-used = max(itself, now), once a tick its interval; word = 0    seq_cst
//           coordinator waits for this backend?  ring             seq_cst
//   evict:  state READY(g) -> EVICTING(g, epoch)                  seq_cst
//           scan every lease word                                 seq_cst
//
// In the one total order of these, either the scan sees the publication or the validation sees
// EVICTING; both cannot miss (P2). Each seq_cst here is needed: with release/acquire both miss, on
// real hardware, thousands of times a minute.
//
// Safety: any thread of the owning process. No lock, and no system call but the vDSO clock, unless
// the coordinator is to be rung (it waits for the end of a lease, or the lease has a limit of its
// own). Writes only to cache lines of the own row, and to the doorbell when it rings. In a forked
// child the inherited handles do nothing.
//
// Hits are counted by each thread for itself, and added to the row's meters at its first request of
// a clock tick, when it ends, and when the worker's last handle goes.
//
// Crash: a word left by a dead worker is cleared by the coordinator, or by the next program of the
// same process that attaches. Whoever clears it stamps last-used first. Hits that SIGKILL finds not
// yet added are lost: of each thread those of its last tick with a request.
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
  std::uint32_t watched = 0;  // 1: CancelWatch knows it
};

enum class BeginResult { kGranted, kNotReady, kNoCell, kFull };  // kFull: counted.hpp

// Publishes and validates. limit_ns: the request's own busy timeout, 0 = none.
BeginResult begin_lease(Worker& worker, BackendRef backend, std::uint64_t limit_ns,
                        std::string_view tag, LeaseRef* lease);
// Tells the coordinator of a lease whose own limit ends before it would look. After the
// publication.
void ring_for_limit(const Segment& segment, std::uint64_t limit_ns);
// Makes room for what this thread keeps, so that a publication under the mutex allocates nothing.
void prepare_leases(Worker& worker);
// Publishes only: the loader's own lease, before it makes its backend READY.
BeginResult publish_lease(Worker& worker, BackendRef backend, std::uint64_t limit_ns,
                          std::string_view tag, LeaseRef* lease);
// Granted leases count as hits of their model, until this says that the last one of this thread is
// none.
void uncount_hit(const LeaseRef& lease);
void end_lease(const LeaseRef& lease);
// Takes back a publication that was not validated: not a use of the backend.
void withdraw_lease(const LeaseRef& lease);
void record_progress(const LeaseRef& lease);
void set_no_limit(const LeaseRef& lease);  // no busy timeout, the settings' neither
// The evict side's scan: does any lease word name this backend? To be called after the CAS that
// closed it. Rows and cells are skipped only on words their owners stored seq_cst before
// publishing.
bool any_lease_names(const Segment& segment, BackendRef backend);
// The coordinator's side of what the end of a lease reads, and the begin of one with a limit. To be
// called before the scan that relies on them.
void store_wanted(const Segment& segment, std::uint64_t backends);  // bit (backend & 63)
void store_horizon(const Segment& segment, std::uint64_t at_ns);
// The latest use any worker recorded, 0 if none.
std::uint64_t latest_use_ns(const Segment& segment, std::uint32_t backend);

}  // namespace modelpool
