// What the values of several settings together make impossible: found before they are in force.
//
// Safety: pure function.
//
// Errors: kInvalid, naming the line and what to do.
#pragma once

#include <string>

#include "modelpool/settings.hpp"

namespace modelpool::config {

// Only models that are named in full are looked at: whom a glob means is not known.
Result<> check_together(const std::string& path, const Settings& settings);

}  // namespace modelpool::config
