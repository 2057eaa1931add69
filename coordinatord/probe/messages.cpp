#include "probe/messages.hpp"

#include <array>
#include <cstddef>

#include "base/number.hpp"
#include "base/text.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::array<std::string_view, 3> kOutcomes = {"well", "failed", "unknown"};

// The first line of `text`, which it leaves; nullopt without an end of line.
std::optional<std::string_view> take_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end + 1);
  return line;
}

std::optional<std::uint64_t> take_number(std::string_view& text) {
  const auto line = take_line(text);
  if (!line) return std::nullopt;
  const auto number = parse_count(*line, UINT64_MAX);
  return number ? std::optional(*number) : std::nullopt;
}

// Of UTF-8: no character is cut in two.
std::string first_bytes(const std::string& text, std::size_t max) {
  if (text.size() <= max) return text;
  while (max > 0 && (static_cast<unsigned char>(text[max]) & 0xc0) == 0x80) --max;
  return text.substr(0, max);
}

}  // namespace

std::string format_question(const ProbeQuestion& question) {
  return std::to_string(question.number) + "\n" + std::to_string(question.timeout_ms) + "\n" +
         question.probe + "\n" + question.address;
}

std::optional<ProbeQuestion> parse_question(std::string_view message) {
  const auto number = take_number(message);
  const auto timeout_ms = number ? take_number(message) : std::nullopt;
  const auto probe = timeout_ms ? take_line(message) : std::nullopt;
  if (!probe || *timeout_ms == 0) return std::nullopt;
  return ProbeQuestion{*number, *timeout_ms, std::string(*probe), std::string(message)};
}

std::string format_answer(const ProbeAnswer& answer) {
  return std::to_string(answer.number) + "\n" +
         std::string(kOutcomes[static_cast<std::size_t>(answer.outcome)]) + "\n" +
         first_bytes(answer.text, kProbeTextMax_bytes);
}

std::optional<ProbeAnswer> parse_answer(std::string_view message) {
  const auto number = take_number(message);
  const auto outcome = number ? take_line(message) : std::nullopt;
  if (!outcome || message.size() > kProbeTextMax_bytes || !is_printable_utf8(message))
    return std::nullopt;
  for (std::size_t i = 0; i < kOutcomes.size(); ++i) {
    if (kOutcomes[i] == *outcome)
      return ProbeAnswer{*number, static_cast<ProbeOutcome>(i), std::string(message)};
  }
  return std::nullopt;
}

}  // namespace modelpool::coordinator
