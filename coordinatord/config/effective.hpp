// What the settings of a file say for one model.
//
// Safety: pure function.
//
// Errors: empty for settings that have no room in a pool.
#pragma once

#include <string>
#include <string_view>

#include "modelpool/settings.hpp"

namespace modelpool::config {

std::string effective_text(const Settings& settings, std::string_view model, Setting id);

}  // namespace modelpool::config
