// Globs of model names: * any run (also empty), ? one character, [abc] [a-z] [!a] one of; \ takes
// the next as it is, a ] that comes first is one of. A glob matches the whole name, in time that
// grows with the product of both lengths at most.
//
// Safety: pure functions.
//
// Errors: kInvalid, naming the glob and what would be right (P13).
#pragma once

#include <string_view>

#include "modelpool/result.hpp"

namespace modelpool {

Result<> check_glob(std::string_view glob);
// Safe also for a glob that check_glob refuses: what cannot be understood of it matches nothing.
bool glob_matches(std::string_view glob, std::string_view name);

}  // namespace modelpool
