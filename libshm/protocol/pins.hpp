// Pins: by people (a control bit) and by a model's settings. Either is enough, and neither takes
// the other's away.
//
// Safety: any thread, lock-free.
//
// Crash: the bit is one CAS.
//
// Errors: kInvalid, naming the setting that still pins it.
#pragma once

#include "protocol/slots.hpp"

namespace modelpool {

// Takes people's pin away. The caller rings. Errors: kInvalid if its settings pin it all the same.
Result<> unpin(const Segment& segment, BackendRef ref);

}  // namespace modelpool
