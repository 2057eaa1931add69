// Numbers of bytes, as people write and read them.
//
// Safety: pure functions.
//
// Errors: kInvalid, naming the text and what would be right (P13).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "modelpool/result.hpp"

namespace modelpool {

// "512MiB", "1.5GiB", "1024": bytes, a part of a byte rounded up. Units are B, KiB, MiB, GiB, TiB.
Result<std::uint64_t> parse_size(std::string_view text);
std::string format_size_exactly(std::uint64_t bytes);  // "8MiB", "8193KiB": is read back as it is
std::string format_size(std::uint64_t bytes);  // for people: "512MiB", "1.5GiB", one decimal

}  // namespace modelpool
