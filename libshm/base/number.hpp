// Numbers written as text.
//
// Safety: pure functions.
//
// Errors: kInvalid, naming the text and what would be right (P13).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "modelpool/result.hpp"

namespace modelpool {

Result<std::uint64_t> parse_count(std::string_view text, std::uint64_t max);

// A number in front of a unit, exactly: "1.5" of "1.5GiB" is 1 and 5/10.
struct Decimal {
  std::uint64_t whole = 0;  // UINT64_MAX: too large, fits nowhere
  std::uint64_t fraction = 0;
  std::uint64_t scale = 1;  // a power of ten, 10^9 at most
};
// Takes a number off the front of `text`; nullopt if none stands there, or one of over 9 decimals.
std::optional<Decimal> take_decimal(std::string_view& text);
// number * unit, rounded up; nullopt if it does not fit. REQUIRES: 0 < unit < 2^63.
std::optional<std::uint64_t> times_unit(const Decimal& number, std::uint64_t unit);

}  // namespace modelpool
