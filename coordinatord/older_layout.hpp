// A pool of another layout goes on under the coordinatord of that layout, which an upgrade, and the
// way back, keeps beside the new one: libexec/modelpool/N/coordinatord. Its models stay loaded and
// its workers judged until they have ended; only then a pool of today's layout can take the name.
#pragma once

#include "options.hpp"

namespace modelpool::coordinator {

// Executes that program with the same arguments, and returns only if there is nothing to execute:
// no such pool or program. Errors: kIncompatible if it cannot be executed, kSystem if it may be
// later.
Result<> execute_older_coordinator(const Options& options, char** argv);

}  // namespace modelpool::coordinator
