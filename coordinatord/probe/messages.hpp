// What the coordinator and modelpool-probe say to each other: one message a question, one an
// answer, over a socket that keeps them apart (SOCK_SEQPACKET).
//
//   question  NUMBER \n TIMEOUT_MS \n PROBE \n ADDRESS
//   answer    NUMBER \n well | failed | unknown \n TEXT
//
// Safety: pure functions.
//
// Errors: nullopt for what is no message. Each side takes the other's for input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace modelpool::coordinator {

inline constexpr std::size_t kMessageMax_bytes = 2048;
inline constexpr std::size_t kProbeTextMax_bytes = 200;

struct ProbeQuestion {
  std::uint64_t number = 0;  // names it in the answer
  std::uint64_t timeout_ms = 0;
  std::string probe;    // "GET /health", "tcp"
  std::string address;  // as a loader gave it
};

enum class ProbeOutcome {
  kWell,
  kFailed,   // the backend does not answer, or not well
  kUnknown,  // it could not be asked: that is nothing against it
};

struct ProbeAnswer {
  std::uint64_t number = 0;
  ProbeOutcome outcome = ProbeOutcome::kUnknown;
  std::string text;  // why it is not well; printable
};

std::string format_question(const ProbeQuestion& question);
std::optional<ProbeQuestion> parse_question(std::string_view message);
std::string format_answer(const ProbeAnswer& answer);
std::optional<ProbeAnswer> parse_answer(std::string_view message);

}  // namespace modelpool::coordinator
