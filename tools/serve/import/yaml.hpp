// What both readers of YAML need of it.
//
// Safety: pure functions.
//
// Errors: none.
#pragma once

#include <yaml-cpp/yaml.h>

#include <optional>
#include <string>

namespace modelpool::serve {

// A number, a text or a truth as it is written; "" if it is none.
inline std::string scalar(const YAML::Node& node) {
  return node.IsDefined() && node.IsScalar() ? node.Scalar() : "";
}

inline std::optional<bool> truth(const YAML::Node& node) {
  bool value = false;
  if (!node.IsDefined() || !node.IsScalar() || !YAML::convert<bool>::decode(node, value))
    return std::nullopt;
  return value;
}

inline std::string place(const std::string& path, const YAML::Mark& mark) {
  if (mark.is_null()) return path;
  return path + ":" + std::to_string(mark.line + 1) + ":" + std::to_string(mark.column + 1);
}

}  // namespace modelpool::serve
