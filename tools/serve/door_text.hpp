// A config as a text, between a master and workers of the same build.
//
// Safety: pure functions. The text holds secrets: it never has a name in a file system.
//
// Errors: kInvalid for a text that write_door did not make.
#pragma once

#include <string>
#include <string_view>

#include "config/door.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

std::string write_door(const config::Door& door);
Result<config::Door> read_door(std::string_view text);

}  // namespace modelpool::serve
