// Until when the certificates that the config names are valid.
//
// Safety: one thread; they read files and the clock.
//
// Errors: none. A file that cannot be read is for whoever uses it to refuse.
#pragma once

#include <string>

#include "config/door.hpp"

namespace modelpool::serve {

// A line each; "" without TLS.
std::string certificates_text(const config::Door& door);

// Logs those that are not valid, or soon will not be. They are served all the same: refused, a
// warning of clients would become an outage.
void warn_of_certificates(const config::Door& door);

}  // namespace modelpool::serve
