// Asking the holder of an overdue lease to end it: the words in the second line of a lease record.
//
//   holder:  flags = cancellable                             once its lease is published
//   judge:   at = never; start, word = those of the lease    word seq_cst; never cleared
//            at = now
//            row.cancels += 1; row.wake += 1, futex wake     seq_cst
//   holder:  woken, or a second later: are word and start my lease's own?
//
// Neither side touches the lease's word for that, so a lease that ends meanwhile has ended, and the
// next one in its cell has another start or another word.
//
// Safety: any thread. REQUIRES, of what takes a LeaseRef: its lease has not ended. No lock, and but
// for ask_holder no system call. Nothing of it is on the hot path.
//
// Crash: a judge killed before the word has asked nobody, and killed before the time has begun no
// grace; the next one asks, or asks again. Killed before the wake it has asked a holder who looks
// within kLookEvery_ns, and the next judge goes on from the words.
// What a dead worker said stays in its row until the row's next owner uses the cell.
//
// Errors: none.
#pragma once

#include <string>

#include "protocol/leases.hpp"

namespace modelpool {

// A lease as its own words name it. Its word comes again when the sequence wraps, not with this
// start.
struct LeaseName {
  std::uint64_t word = 0;
  std::uint64_t start_ns = 0;
};

// The judge asks. The caller has read both in this cell just now.
void ask_holder(const Segment& segment, std::uint32_t row, std::uint32_t cell,
                const LeaseName& lease);

// The holder says that he can end the request when asked to.
void say_cancellable(const LeaseRef& lease);
LeaseName name_of(const LeaseRef& lease);
// Has the judge asked?
bool is_asked(const LeaseRef& lease);
// Why, and what happens otherwise, in words; "" if it was not asked. Reads settings.
std::string why_asked(const LeaseRef& lease);

}  // namespace modelpool
