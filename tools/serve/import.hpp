// Files of other servers as a pool.toml: llama-swap's config, llama.cpp's --models-preset, a folder
// of LocalAI's models. Every key of the source is mapped, or named as not carried over.
//
// Safety: reads files and, where the source names variables of it, the environment.
//
// Errors: kInvalid, kSystem: "unable to import FILE: reason; what to do".
#pragma once

#include <string>
#include <vector>

#include "import/draft.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

struct Imported {
  std::string text;               // of a pool.toml that both programs accept
  std::vector<ImportedKey> keys;  // in the source's order

  std::string report() const;  // a line for each that is not carried over, and how many are
};

// By what lies at the path: a folder is LocalAI's, *.ini a preset, *.yaml llama-swap's or a model
// of LocalAI's.
Result<Imported> import_config(const std::string& path);

}  // namespace modelpool::serve
