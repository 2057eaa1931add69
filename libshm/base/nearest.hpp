// "Did you mean": the known name that was probably meant by a wrong one.
//
// Safety: pure functions.
//
// Errors: none.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace modelpool {

// How many characters must be added, taken, replaced or swapped with the next to make `b` of `a`.
std::size_t edit_distance(std::string_view a, std::string_view b);

// The entry of `known` that was probably meant, or "" if none is near. Dashes are underscores.
std::string_view nearest_name(std::string_view given, const std::vector<std::string_view>& known);

// "; did you mean NAME?", or "" if none is near.
std::string did_you_mean(std::string_view given, const std::vector<std::string_view>& known);

// "there is no such setting; did you mean NAME?", or where the settings are listed.
std::string no_such_setting(std::string_view given);

}  // namespace modelpool
