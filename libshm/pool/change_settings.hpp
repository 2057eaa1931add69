// Changing the settings of a pool.
//
// Safety: any thread.
//
// Crash: all or none: published by one store under the mutex.
//
// Errors: kInvalid, naming the setting and what it takes; kBusy.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "segment/segment.hpp"

namespace modelpool {

// What `poolctl set` gives, none twice.
Result<std::vector<SettingEntry>> parse_changes(
    const std::vector<std::pair<std::string, std::string>>& values, Origin origin);
// Changes the pool's settings under the mutex, all or none, and lets everyone know.
Result<> change_settings(const Segment& segment,
                         const std::vector<std::pair<std::string, std::string>>& values,
                         Origin origin);

}  // namespace modelpool
