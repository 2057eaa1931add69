// Files that the config is, or names.
//
// Safety: reads files; no shared state.
//
// Errors: kInvalid, kSystem: "unable to VERB FILE: reason; what to do".
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "modelpool/result.hpp"

namespace modelpool::config {

inline constexpr std::size_t kConfigMax_bytes = 4 << 20;  // some 1000 bytes for each of 4096 models
inline constexpr std::size_t kSecretMax_bytes = 64 << 10;

// What a regular file holds. `what` is how errors name it: "config /etc/pool.toml".
Result<std::string> read_regular_file(const std::string& path, const std::string& what,
                                      std::size_t max_bytes);

// A secret that a file holds, without the end of its line.
Result<std::string> read_secret(const std::string& path);

Result<> check_file_is_there(const std::string& path);
Result<> check_folder_is_there(const std::string& path);
// Also that nobody but its owner may open it.
Result<> check_file_is_private(const std::string& path);

// A relative name is meant from the folder of the config.
std::string beside(const std::string& config_path, std::string_view name);

}  // namespace modelpool::config
