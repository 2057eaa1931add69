// Whether what an ended backend held of a device is free again: a driver returns memory some time
// after the processes are gone, and until then the place is not free (P3).
//
// By processes, where the driver names them: those of the backend have left its list. Else by free
// bytes: since before the first signal they have risen by three quarters of all that is ending
// there, and by more than the others alone can have given back. What those took that were let in
// since is no loss.
//
// Safety: plain values, pure functions.
//
// Errors: none. What is not known is not back; the caller waits for no longer than `settle`.
#pragma once

#include <cstdint>

#include "base/time.hpp"

namespace modelpool {

enum class Listed { kUnknown, kYes, kNo };

// One backend on one device, whose processes have gone. kNever_ns: not known.
struct Settling {
  Listed listed = Listed::kUnknown;          // has the driver a process of it in its list?
  std::uint64_t held_bytes = 0;              // as it was last known to hold, 0 = not known
  std::uint64_t others_bytes = 0;            // the most that others may have given back meanwhile
  std::uint64_t taken_bytes = 0;             // by those who were let in meanwhile
  std::uint64_t baseline_bytes = kNever_ns;  // free before its first signal
  std::uint64_t free_bytes = kNever_ns;      // free now
};

bool is_back(const Settling& settling);

}  // namespace modelpool
