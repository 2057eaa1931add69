#include "base/text.hpp"

#include <array>
#include <utility>

namespace modelpool {
namespace {

constexpr std::size_t kQuoteMax_bytes = 200;
constexpr std::size_t kDecimalsMax = 9;
constexpr std::string_view kHexDigits = "0123456789abcdef";

// One character of UTF-8. `bytes` is 0 where none stands: a byte that starts nothing, a sequence
// that is cut short, longer than needed, a surrogate, or beyond U+10FFFF.
struct Character {
  char32_t code = 0;
  std::size_t bytes = 0;
};

Character decode(std::string_view text, std::size_t at) {
  if (at >= text.size()) return {};
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  if (first < 0x80) return {first, 1};
  // What a lead byte promises: how many bytes, its own bits, and the least code that needs as many.
  std::size_t bytes = 0;
  char32_t code = 0;
  char32_t least = 0;
  if ((first & 0xe0) == 0xc0) {
    bytes = 2, code = first & 0x1f, least = 0x80;
  } else if ((first & 0xf0) == 0xe0) {
    bytes = 3, code = first & 0x0f, least = 0x800;
  } else if ((first & 0xf8) == 0xf0) {
    bytes = 4, code = first & 0x07, least = 0x10000;
  } else {
    return {};
  }
  if (bytes > text.size() - at) return {};
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return {};
    code = code << 6 | (byte(at + i) & 0x3f);
  }
  if (code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return {};
  return {code, bytes};
}

// May it reach a terminal? Controls move the cursor, separators break lines, and the controls of
// writing direction make a name read as another one.
bool is_printable(char32_t code) {
  if (code < 0x20 || (code >= 0x7f && code <= 0x9f)) return false;
  if (code == 0x2028 || code == 0x2029) return false;
  if (code == 0x061c || code == 0x200e || code == 0x200f) return false;
  if ((code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069)) return false;
  if ((code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) == 0xfffe) return false;
  return true;
}

// "unable to use the model name "x": REASON".
tl::unexpected<Error> unusable(std::string_view what, std::string_view text,
                               std::string_view reason) {
  std::string message = "unable to use the ";
  message += what;
  message += ' ' + quote(text) + ": ";
  message += reason;
  return fail(Errc::kInvalid, std::move(message));
}

Result<> check_text(std::string_view what, std::string_view text, std::size_t min,
                    std::size_t max) {
  if (text.size() < min) return unusable(what, text, "it is empty; give one");
  if (text.size() > max) {
    return unusable(
        what, text,
        "it has " + std::to_string(text.size()) + " bytes; shorten it to " + std::to_string(max));
  }
  if (!is_printable_utf8(text)) {
    return unusable(what, text, "it is not printable UTF-8; leave out what is shown as \\x");
  }
  return {};
}

// A byte that belongs to no character counts as one, so that every position moves on.
Character decode_any(std::string_view text, std::size_t at) {
  Character character = decode(text, at);
  if (character.bytes == 0 && at < text.size()) {
    // Outside Unicode, where no character of the other side can equal it.
    character = {char32_t{0x110000} + static_cast<unsigned char>(text[at]), 1};
  }
  return character;
}

// One element of a glob, anything but *, compared with what stands at a position of a name.
struct Step {
  bool valid = false;  // false: the glob ends inside the element
  bool matches = false;
  bool backwards = false;    // a range like [z-a]
  std::size_t next = 0;      // where the glob goes on
  std::size_t consumed = 0;  // bytes of the name
};

// REQUIRES: glob[at] == '['.
Step step_class(std::string_view glob, std::size_t at, Character subject) {
  Step step;
  step.consumed = subject.bytes;
  ++at;
  const bool negated = at < glob.size() && glob[at] == '!';
  if (negated) ++at;
  // One member, its backslash resolved; bytes 0 if the glob ends first.
  const auto take = [glob, &at] {
    if (at < glob.size() && glob[at] == '\\') ++at;
    const Character member = decode_any(glob, at);
    at += member.bytes;
    return member;
  };
  bool found = false;
  for (bool first = true; first || at >= glob.size() || glob[at] != ']'; first = false) {
    const Character low = take();
    if (low.bytes == 0) return step;
    Character high = low;
    if (at + 1 < glob.size() && glob[at] == '-' && glob[at + 1] != ']') {
      ++at;
      high = take();
      if (high.bytes == 0) return step;
    }
    if (low.code > high.code) step.backwards = true;
    if (subject.code >= low.code && subject.code <= high.code) found = true;
  }
  step.valid = true;
  step.next = at + 1;
  step.matches = found != negated && subject.bytes != 0;
  return step;
}

// REQUIRES: at < glob.size() and glob[at] != '*'.
Step step_element(std::string_view glob, std::size_t at, std::string_view name,
                  std::size_t name_at) {
  if (glob[at] == '[') return step_class(glob, at, decode_any(name, name_at));
  Step step;
  if (glob[at] == '?') {
    step.consumed = decode_any(name, name_at).bytes;
    step.matches = step.consumed != 0;
  } else {
    if (glob[at] == '\\' && ++at == glob.size()) return step;
    step.consumed = 1;
    step.matches = name_at < name.size() && name[name_at] == glob[at];
  }
  step.valid = true;
  step.next = at + 1;
  return step;
}

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

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

Result<> check_pool_name(std::string_view name) {
  bool fits = !name.empty() && name.size() <= kPoolNameMax_bytes;
  for (const char c : name) {
    fits = fits && ((c >= 'a' && c <= 'z') || is_digit(c) || c == '_' || c == '-');
  }
  if (fits) return {};
  return unusable("pool name", name, "a pool name is 1 to 64 of a-z, 0-9, _ and -; change it");
}

Result<> check_model_name(std::string_view name) {
  return check_text("model name", name, 1, kModelNameMax_bytes);
}

Result<> check_address(std::string_view address) {
  if (address.find(' ') != std::string_view::npos) {
    return unusable("address", address, "it contains a blank; remove it");
  }
  return check_text("address", address, 1, kAddressMax_bytes);
}

Result<> check_tag(std::string_view tag) { return check_text("tag", tag, 0, kTagMax_bytes); }

bool is_printable_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const Character character = decode(text, at);
    if (character.bytes == 0 || !is_printable(character.code)) return false;
    at += character.bytes;
  }
  return true;
}

std::string escape(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Character character = decode(text, at);
    const std::size_t bytes = character.bytes == 0 ? 1 : character.bytes;
    if (character.code == '\\') {
      escaped += "\\\\";
    } else if (character.bytes != 0 && is_printable(character.code)) {
      escaped += text.substr(at, bytes);
    } else {
      for (const char c : text.substr(at, bytes)) {
        const auto byte = static_cast<unsigned char>(c);
        escaped += "\\x";
        escaped += kHexDigits[byte >> 4];
        escaped += kHexDigits[byte & 15];
      }
    }
    at += bytes;
  }
  return escaped;
}

std::string quote(std::string_view text) {
  std::string quoted = "\"";
  if (text.size() <= kQuoteMax_bytes) {
    quoted += escape(text);
  } else {
    // Cut between characters: half of one would be shown as bytes nobody wrote.
    std::size_t end = 0;
    for (std::size_t next = 0; next <= kQuoteMax_bytes; next += decode_any(text, next).bytes) {
      end = next;
    }
    quoted += escape(text.substr(0, end));
    quoted += "...";
  }
  quoted += '"';
  return quoted;
}

Result<> check_glob(std::string_view glob) {
  if (Result<> checked = check_text("model glob", glob, 1, kModelNameMax_bytes); !checked) {
    return checked;
  }
  for (std::size_t at = 0; at < glob.size();) {
    if (glob[at] == '*') {
      ++at;
      continue;
    }
    // Other matchers take [^a] for what is [!a] here; refused rather than read in an unmeant way.
    if (glob.substr(at, 2) == "[^") {
      return unusable("model glob", glob, "write [!...] to exclude, or [\\^...] for a ^");
    }
    const Step step = step_element(glob, at, {}, 0);
    if (!step.valid) {
      return unusable("model glob", glob,
                      glob[at] == '[' ? "a [ is not closed; add a ], or write \\[ for a bracket"
                                      : "it ends in a single \\; write \\\\ for a backslash");
    }
    if (step.backwards) {
      return unusable("model glob", glob, "a range in [] runs backwards; swap its ends");
    }
    at = step.next;
  }
  return {};
}

bool glob_matches(std::string_view glob, std::string_view name) {
  std::size_t glob_at = 0;
  std::size_t name_at = 0;
  // Where to go on after a mismatch: behind the last * with one character more in its run. Earlier
  // ones need no second try, since what lies between two * already matched at its earliest place.
  bool star = false;
  std::size_t star_glob = 0;
  std::size_t star_name = 0;
  while (glob_at < glob.size() || name_at < name.size()) {
    if (glob_at < glob.size() && glob[glob_at] == '*') {
      star = true;
      star_glob = ++glob_at;
      star_name = name_at;
      continue;
    }
    if (glob_at < glob.size()) {
      const Step step = step_element(glob, glob_at, name, name_at);
      if (!step.valid) return false;
      if (step.matches) {
        glob_at = step.next;
        name_at += step.consumed;
        continue;
      }
    }
    if (!star || star_name >= name.size()) return false;
    star_name += decode_any(name, star_name).bytes;
    glob_at = star_glob;
    name_at = star_name;
  }
  return true;
}

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

}  // namespace modelpool
