// What is read of each kind of source.
//
// Safety: reads files; no shared state.
//
// Errors: kInvalid with the place in the source.
#pragma once

#include <string>

#include "import/draft.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

Result<Draft> read_llama_swap(const std::string& path, const std::string& text);
Result<Draft> read_preset(const std::string& path, const std::string& text);
// One file of a model, or of a list of them; `folder` is where the models lie.
Result<> read_localai(const std::string& path, const std::string& text, const std::string& folder,
                      Draft& draft);

// Does the text look like a file of LocalAI's, not of llama-swap's?
bool is_localai(const std::string& text);

tl::unexpected<Error> cannot_import(const std::string& where, const std::string& why);

}  // namespace modelpool::serve
