// The pool's settings as published now, kept by each thread until they change.
//
// Safety: any thread. Allocates at a thread's first call only.
#pragma once

#include "segment/segment.hpp"

namespace modelpool {

// nullptr while the pool never had any. Valid until the thread's next call.
const Settings* current_settings(const Segment& segment);

}  // namespace modelpool
