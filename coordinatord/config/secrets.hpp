// Values that may be secrets: a text in which "${NAME}" is a variable of this program's
// environment, or { file = "PATH" }, what a file holds.
//
// Safety: reads files and the environment; no shared state.
//
// Errors: go to Problems.
#pragma once

#include <optional>
#include <string>

#include "config/document.hpp"

namespace modelpool::config {

// The environment is of who uses the value: another program leaves "${NAME}" as it is, and asks for
// no file.
enum class Variables { kResolved, kLeft };

class SecretReader {
 public:
  SecretReader(std::string config_path, Variables variables)
      : config_path_(std::move(config_path)), variables_(variables) {}

  const std::string& config_path() const { return config_path_; }
  // nullopt after it was told why.
  std::optional<std::string> read(const Member& member, Problems& problems) const;

 private:
  std::optional<std::string> with_variables(const Member& member, Problems& problems) const;

  std::string config_path_;
  Variables variables_;
};

}  // namespace modelpool::config
