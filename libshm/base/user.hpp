// Users by name, as messages name them.
//
// Safety: any thread. Asks the system's user database, which may read files: for messages only.
#pragma once

#include <sys/types.h>

#include <string>

namespace modelpool {

std::string user_name(uid_t uid);  // "modelpool"; the number if the system knows none

}  // namespace modelpool
