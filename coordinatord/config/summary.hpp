// What holds, for people: every setting of the pool and what each rule changes, with origins, the
// capacities that were given, and the door's tables. Secrets are not shown.
//
// Safety: pure functions.
//
// Errors: none.
#pragma once

#include <string>

#include "config/capacities.hpp"
#include "config/door.hpp"
#include "modelpool/settings.hpp"

namespace modelpool::config {

std::string config_summary(const Settings& settings, const GivenCapacities& capacities = {},
                           const Door& door = {});

}  // namespace modelpool::config
