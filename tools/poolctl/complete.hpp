// What may stand where the cursor is in a line of poolctl: for the shells' completion
// (tools/completion). It is read from the same description as --help.
//
// Safety: one thread. Looks at the pool that the line names, as any command that only looks (P12).
//
// Errors: a pool that is not there or cannot be used has no models to offer.
#pragma once

#include <string>
#include <vector>

#include "common.hpp"

namespace modelpool::poolctl {

// `words`: the line without "poolctl", up to the cursor; the last one is being typed, and may be
// empty. The answer's first line says what is expected: "words", and then each in a line of its
// own, a tab and what it means; "files"; "directories"; or "command", which begins behind "--".
std::string complete(const CLI::App& root, Context context, const std::vector<std::string>& words);

}  // namespace modelpool::poolctl
