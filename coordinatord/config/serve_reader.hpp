// [serve] and [[serve.listener]].
//
// Safety: looks whether files that it names are there; no shared state.
//
// Errors: go to Problems.
#pragma once

#include <string>

#include "config/document.hpp"
#include "config/door.hpp"

namespace modelpool::config {

void read_serve(const Node& table, const std::string& config_path, Serve& serve,
                Problems& problems);

}  // namespace modelpool::config
