// JSON as a command's output.
#pragma once

#include "common.hpp"
#include "json/table_json.hpp"

namespace modelpool::poolctl {

inline void print_json(const Json& json) {
  print(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace modelpool::poolctl
