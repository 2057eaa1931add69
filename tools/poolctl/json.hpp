// JSON as a command's output.
#pragma once

#include "common.hpp"
#include "json/table_json.hpp"

namespace modelpool::poolctl {

void print_json(const Json& json);

}  // namespace modelpool::poolctl
