// Durations and times, as people write and read them.
//
// Safety: pure functions.
//
// Errors: kInvalid, naming the text and what would be right (P13).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/time.hpp"
#include "modelpool/settings.hpp"

namespace modelpool {

inline constexpr std::uint64_t kDurationMax_ns = 10 * 365 * 86'400 * kSecond_ns;

// parse_duration (modelpool/settings.hpp) reads it back; 0 is "off".
std::string format_duration(std::uint64_t duration_ns);
std::string format_age(
    std::uint64_t duration_ns);  // for people: "850ms", "12.3s", "4m10s", "unknown" for kNever_ns
// How long a backend stays when it is idle (`keep_alive`): a duration, 0 = not at all, "off" or
// anything negative ("-1", "-1m") = for ever, which is kNever_ns. Errors: kInvalid.
Result<std::uint64_t> parse_keep_alive(std::string_view text);
std::string format_keep_alive(std::uint64_t keep_ns);  // parse_keep_alive reads it back
std::string format_wall_clock(std::uint64_t wall_ns);  // RFC 3339, UTC, milliseconds

}  // namespace modelpool
