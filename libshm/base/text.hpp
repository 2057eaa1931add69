// Names and numbers that cross the boundary as text: checked on the way in, escaped on the way out.
//
// Safety: pure functions.
//
// Errors: kInvalid, naming the text and what would be right (P13).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "modelpool/result.hpp"

namespace modelpool {

inline constexpr std::size_t kModelNameMax_bytes = 255;
inline constexpr std::size_t kAddressMax_bytes = 255;
inline constexpr std::size_t kTagMax_bytes = 31;
inline constexpr std::size_t kLabelMax_bytes = 31;
inline constexpr std::size_t kPoolNameMax_bytes = 64;

Result<> check_pool_name(std::string_view name);   // [a-z0-9_-]{1,64}
Result<> check_model_name(std::string_view name);  // 1 to 255 bytes of printable UTF-8
Result<> check_address(std::string_view address);  // 1 to 255 bytes of printable UTF-8, no blanks
Result<> check_tag(std::string_view tag);          // 0 to 31 bytes of printable UTF-8

bool is_printable_utf8(std::string_view text);
// What is not printable UTF-8 becomes \xNN, a backslash \\: safe on a terminal and in JSON.
std::string escape(std::string_view text);
// Escaped, shortened and between double quotes: how a message repeats what it was given.
std::string quote(std::string_view text);

// A model glob: * any run (also empty), ? one character, [abc] [a-z] [!a] one of; \ takes the next
// as it is, a ] that comes first is one of. Matches the whole name, in time that grows with the
// product of both lengths at most. A glob that check_glob refuses is safe to match; what cannot be
// understood of it matches nothing.
Result<> check_glob(std::string_view glob);
bool glob_matches(std::string_view glob, std::string_view name);

Result<std::uint64_t> parse_count(std::string_view text, std::uint64_t max);
// "512MiB", "1.5GiB", "1024": bytes, a part of a byte rounded up. Units are B, KiB, MiB, GiB, TiB.
Result<std::uint64_t> parse_size(std::string_view text);
std::string format_size(std::uint64_t bytes);  // for people: "512MiB", "1.5GiB", one decimal

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
