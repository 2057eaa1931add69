// Text that crosses the boundary: checked on the way in, escaped on the way out.
//
// Safety: pure functions.
//
// Errors: kInvalid, naming the text and what would be right (P13).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "modelpool/result.hpp"

namespace modelpool {

bool is_printable_utf8(std::string_view text);
// Printable UTF-8 of `min` to `max` bytes? `what` is its name in the error.
Result<> check_text(std::string_view what, std::string_view text, std::size_t min, std::size_t max);
// "unable to use the model name "x": REASON".
tl::unexpected<Error> unusable(std::string_view what, std::string_view text,
                               std::string_view reason);

// What is not printable UTF-8 becomes \xNN, a backslash \\: safe on a terminal and in JSON.
std::string escape(std::string_view text);
// Escaped, shortened and between double quotes: how a message repeats what it was given.
std::string quote(std::string_view text);

std::string count_text(std::uint64_t count, std::string_view word);  // "1 lease", "2 leases"

}  // namespace modelpool
