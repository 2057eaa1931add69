// How the process of a backend ended, and the last that it wrote: for whoever lost a request with
// it.
//
// Safety: any thread; reads only, takes no lock (P12). Reads files of the kernel and the model's
// log.
//
// Crash: reads only. An end whose event was not written yet is told from the backend's record.
//
// Errors: none; "" if it runs, or if nothing is known of its end (P11).
#pragma once

#include <string>

#include "protocol/slots.hpp"

namespace modelpool {

// "exit status 127: the library libx.so is missing; its last lines: A | B". While a lease names the
// backend this is from its record; later from the event of its end, for as long as the pool
// remembers that. Lines are left out where they may be another life's of the model, or this user
// may not read them.
std::string exit_report(const Segment& segment, BackendRef ref);

}  // namespace modelpool
