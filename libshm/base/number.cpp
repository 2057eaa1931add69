#include "base/number.hpp"

#include <cstddef>
#include <string>

#include "base/text.hpp"

namespace modelpool {
namespace {

constexpr std::size_t kDecimalsMax = 9;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

Result<std::uint64_t> parse_count(std::string_view text, std::uint64_t max) {
  std::uint64_t value = 0;
  bool fits = !text.empty();
  for (const char c : text) {
    if (!is_digit(c)) {
      fits = false;
      break;
    }
    const auto digit = static_cast<std::uint64_t>(c - '0');
    if (value > (UINT64_MAX - digit) / 10) {
      fits = false;
      break;
    }
    value = value * 10 + digit;
  }
  if (fits && value <= max) return value;
  return fail(Errc::kInvalid, "unable to read the number " + quote(text) +
                                  ": a whole number was expected; write one from 0 to " +
                                  std::to_string(max));
}

std::optional<Decimal> take_decimal(std::string_view& text) {
  std::size_t at = 0;
  Decimal number;
  for (; at < text.size() && is_digit(text[at]); ++at) {
    const auto digit = static_cast<std::uint64_t>(text[at] - '0');
    number.whole =
        number.whole > (UINT64_MAX - digit) / 10 ? UINT64_MAX : number.whole * 10 + digit;
  }
  if (at == 0) return std::nullopt;
  if (at < text.size() && text[at] == '.') {
    const std::size_t start = ++at;
    for (; at < text.size() && is_digit(text[at]); ++at) {
      if (at - start == kDecimalsMax) return std::nullopt;
      number.fraction = number.fraction * 10 + static_cast<std::uint64_t>(text[at] - '0');
      number.scale *= 10;
    }
    if (at == start) return std::nullopt;
  }
  text.remove_prefix(at);
  return number;
}

std::optional<std::uint64_t> times_unit(const Decimal& number, std::uint64_t unit) {
  // The unit in two parts, whole scales and a rest, keeps every product within 64 bits.
  const std::uint64_t rest = number.fraction * (unit % number.scale);
  const std::uint64_t part = number.fraction * (unit / number.scale) + rest / number.scale +
                             (rest % number.scale != 0 ? 1 : 0);
  if (number.whole == UINT64_MAX || number.whole > (UINT64_MAX - part) / unit) return std::nullopt;
  return number.whole * unit + part;
}

}  // namespace modelpool
