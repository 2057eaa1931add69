// Models of a folder: every *.gguf in it and in its subfolders, started with llama-server.
//
// A model is called as its file without ".gguf". Shards (NAME-00001-of-00005.gguf) are one model,
// called NAME and loaded by the first. Files mmproj*.gguf are none: the only one of a folder is
// given to each model in it.
//
// Safety: reads directories; no shared state.
//
// Errors: kInvalid, naming the files: two of one name, a shard that is missing, no model at all,
// too many; or that the program is not found. kSystem if a folder cannot be read.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "config/door.hpp"
#include "modelpool/result.hpp"

namespace modelpool::config {

inline constexpr std::size_t kFolderDepthMax = 8;
inline constexpr std::size_t kFolderModelsMax = 4096;
inline constexpr std::size_t kFolderFilesMax = 100'000;  // looked at

// By name. `program` are the first words of each command: found by its path, or in PATH.
Result<std::vector<Model>> find_models(const std::string& folder,
                                       const std::vector<std::string>& program = {"llama-server"});

// Beside those that the door has. kInvalid if a name is there twice.
Result<> add_models(std::vector<Model> found, Door& door);

}  // namespace modelpool::config
