#include "base/size.hpp"

#include <array>
#include <optional>
#include <utility>

#include "base/number.hpp"
#include "base/text.hpp"

namespace modelpool {
namespace {

struct SizeUnit {
  std::string_view name;
  std::uint64_t bytes;
};
constexpr std::array<SizeUnit, 5> kSizeUnits = {{
    {"TiB", std::uint64_t{1} << 40},
    {"GiB", std::uint64_t{1} << 30},
    {"MiB", std::uint64_t{1} << 20},
    {"KiB", std::uint64_t{1} << 10},
    {"B", 1},
}};

tl::unexpected<Error> not_a_size(std::string_view text, std::string_view reason) {
  std::string message = "unable to read the size " + quote(text) + ": ";
  message += reason;
  message += "; write it like 512MiB, 1.5GiB, or 1024 for bytes";
  return fail(Errc::kInvalid, std::move(message));
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  std::string_view unit = text;
  const std::optional<Decimal> number = take_decimal(unit);
  if (!number) return not_a_size(text, "a number was expected, of 9 decimals at most");
  if (unit.empty()) unit = "B";
  for (const SizeUnit& known : kSizeUnits) {
    if (known.name != unit) continue;
    if (known.bytes == 1 && number->scale != 1) return not_a_size(text, "a byte is not divided");
    const std::optional<std::uint64_t> bytes = times_unit(*number, known.bytes);
    if (!bytes) return not_a_size(text, "it does not fit into 64 bits");
    return *bytes;
  }
  return not_a_size(text, "the units are B, KiB, MiB, GiB and TiB");
}

std::string format_size(std::uint64_t bytes) {
  for (const SizeUnit& unit : kSizeUnits) {
    // What would round to 1024 of the next unit down, half a tenth below, is one of this.
    if (unit.bytes != 1 && bytes < unit.bytes - unit.bytes / 1024 / 20) continue;
    const std::uint64_t rest = bytes % unit.bytes;
    const std::uint64_t tenths =
        bytes / unit.bytes * 10 + (rest * 10 + unit.bytes / 2) / unit.bytes;
    std::string text = std::to_string(tenths / 10);
    if (tenths % 10 != 0) {
      text += '.';
      text += static_cast<char>('0' + tenths % 10);
    }
    text += unit.name;
    return text;
  }
  return {};
}

std::string format_size_exactly(std::uint64_t bytes) {
  for (const SizeUnit& unit : kSizeUnits) {
    if (bytes % unit.bytes == 0 && (bytes != 0 || unit.bytes == 1))
      return std::to_string(bytes / unit.bytes) + std::string(unit.name);
  }
  return {};
}

}  // namespace modelpool
