#include "base/duration.hpp"

#include <time.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <utility>

#include "base/number.hpp"
#include "base/text.hpp"

namespace modelpool {
namespace {

constexpr std::uint64_t kMinute_ns = 60 * kSecond_ns;
constexpr std::uint64_t kHour_ns = 60 * kMinute_ns;
constexpr std::uint64_t kDay_ns = 24 * kHour_ns;

struct Unit {
  std::string_view name;
  std::uint64_t ns;
};
constexpr std::array<Unit, 5> kUnits = {{
    {"d", kDay_ns},
    {"h", kHour_ns},
    {"m", kMinute_ns},
    {"s", kSecond_ns},
    {"ms", kMillisecond_ns},
}};

tl::unexpected<Error> not_a_duration(std::string_view text, std::string_view reason) {
  std::string message = "unable to read the duration " + quote(text) + ": ";
  message += reason;
  message += "; write it like 500ms, 30s, 15m, 2h, 1h30m or off";
  return fail(Errc::kInvalid, std::move(message));
}

// "1.5" and "s" of 1500 ms: exact, without trailing zeros.
std::string format_exactly(std::uint64_t ns, const Unit& unit) {
  std::string text = std::to_string(ns / unit.ns);
  if (std::uint64_t rest = ns % unit.ns; rest != 0) {
    text += '.';
    for (std::uint64_t digit = unit.ns / 10; rest != 0; digit /= 10) {
      text += static_cast<char>('0' + rest / digit);
      rest %= digit;
    }
  }
  text += unit.name;
  return text;
}

}  // namespace

Result<std::uint64_t> parse_duration(std::string_view text) {
  if (text == "off" || text == "0") return 0;
  std::uint64_t total = 0;
  std::size_t next_unit = 0;  // units go down, each once: "30m1h" is more likely a slip than meant
  std::string_view rest = text;
  do {
    const std::optional<Decimal> number = take_decimal(rest);
    if (!number) return not_a_duration(text, "a number was expected, of 9 decimals at most");
    std::size_t length = 0;
    while (length < rest.size() && rest[length] >= 'a' && rest[length] <= 'z') ++length;
    const std::string_view name = rest.substr(0, length);
    if (rest.empty()) return not_a_duration(text, "a unit is missing");
    std::size_t unit = next_unit;
    while (unit < kUnits.size() && kUnits[unit].name != name) ++unit;
    if (unit == kUnits.size()) {
      return not_a_duration(text, "the units are d, h, m, s and ms, the longer before the shorter");
    }
    const std::optional<std::uint64_t> part = times_unit(*number, kUnits[unit].ns);
    if (!part || *part > kDurationMax_ns - total) {
      return not_a_duration(text, "it is longer than 10 years");
    }
    total += *part;
    next_unit = unit + 1;
    rest.remove_prefix(length);
  } while (!rest.empty());
  return total;
}

std::string format_duration(std::uint64_t duration_ns) {
  if (duration_ns == 0) return "off";
  std::string text;
  for (const Unit& unit :
       {kUnits[1], kUnits[2]}) {  // hours and minutes: no days, as people set them
    if (duration_ns < unit.ns) continue;
    text += std::to_string(duration_ns / unit.ns);
    text += unit.name;
    duration_ns %= unit.ns;
  }
  if (duration_ns != 0)
    text += format_exactly(duration_ns, kUnits[duration_ns < kSecond_ns ? 4 : 3]);
  return text;
}

Result<std::uint64_t> parse_keep_alive(std::string_view text) {
  if (text == "off") return kNever_ns;
  const bool is_negative = text.starts_with('-');
  const std::string_view length = text.substr(is_negative ? 1 : 0);
  const bool is_number =
      !length.empty() && length.find_first_not_of("0123456789") == std::string_view::npos;
  if (is_negative && is_number) return kNever_ns;
  const auto parsed = parse_duration(length);
  if (!parsed || length == "off") {
    return not_a_duration(text, parsed ? "off has no sign" : "it is no duration");
  }
  return is_negative ? kNever_ns : *parsed;
}

std::string format_keep_alive(std::uint64_t keep_ns) {
  if (keep_ns == kNever_ns) return "off";
  return keep_ns == 0 ? "0" : format_duration(keep_ns);
}

std::string format_age(std::uint64_t duration_ns) {
  if (duration_ns == kNever_ns) return "unknown";
  // Cut, not rounded: an age never reads as more than it is.
  const auto whole = [duration_ns](std::uint64_t unit) {
    return std::to_string(duration_ns / unit);
  };
  const auto rest = [duration_ns](std::uint64_t of, std::uint64_t unit) {
    return std::to_string(duration_ns % of / unit);
  };
  if (duration_ns < kSecond_ns) return whole(kMillisecond_ns) + "ms";
  if (duration_ns < kMinute_ns) {
    return whole(kSecond_ns) + "." + rest(kSecond_ns, kSecond_ns / 10) + "s";
  }
  if (duration_ns < kHour_ns) return whole(kMinute_ns) + "m" + rest(kMinute_ns, kSecond_ns) + "s";
  if (duration_ns < kDay_ns) return whole(kHour_ns) + "h" + rest(kHour_ns, kMinute_ns) + "m";
  return whole(kDay_ns) + "d" + rest(kDay_ns, kHour_ns) + "h";
}

std::string format_wall_clock(std::uint64_t wall_ns) {
  const time_t seconds = static_cast<time_t>(wall_ns / kSecond_ns);
  tm date{};
  gmtime_r(&seconds, &date);  // cannot fail: 64 bits of nanoseconds end in the year 2554
  char text[80];
  std::snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", date.tm_year + 1900,
                date.tm_mon + 1, date.tm_mday, date.tm_hour, date.tm_min, date.tm_sec,
                static_cast<int>(wall_ns % kSecond_ns / kMillisecond_ns));
  return text;
}

}  // namespace modelpool
