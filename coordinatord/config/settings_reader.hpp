// Settings as a table of the file gives them: [pool], [[model]], [models."NAME"].
//
// Safety: pure functions.
//
// Errors: go to Problems.
#pragma once

#include <string_view>
#include <vector>

#include "config/document.hpp"
#include "modelpool/settings.hpp"

namespace modelpool::config {

// Keys of a table that are no settings: whoever calls reads them himself.
struct OtherKeys {
  bool is_of_models = false;  // a setting of the whole pool may not stand there
  std::vector<std::string_view> names;

  bool has(std::string_view key) const;
};

void read_settings(const Node& table, const OtherKeys& others, Overrides& overrides,
                   Problems& problems);

}  // namespace modelpool::config
