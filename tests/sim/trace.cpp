#include "trace.hpp"

#include <cerrno>
#include <cmath>
#include <fstream>
#include <optional>
#include <sstream>

#include "base/text.hpp"
#include "base/time.hpp"
#include "modelpool/settings.hpp"

namespace modelpool::sim {
namespace {

constexpr double kTimeMax_s = 3.2e8;  // ten years
constexpr double kSizeMax_gb = 1e6;

// A number from 0 to `most`, in units of 1 / `scale`.
std::optional<std::uint64_t> take(std::istringstream& words, double most, double scale = 1) {
  double value = 0;
  if (!(words >> value) || !(value >= 0) || value > most) return std::nullopt;
  return static_cast<std::uint64_t>(std::llround(value * scale));
}

// What is wrong with the line, or nothing.
std::string_view read_line(const std::string& line, Trace* trace) {
  std::istringstream words(line);
  std::string kind;
  if (!(words >> kind) || kind[0] == '#') return {};
  if (kind == "k") {
    const auto places = take(words, kMaxBackendsMax);
    if (!places) return "k takes the number of places, 0 to 4095";
    trace->places = static_cast<std::uint32_t>(*places);
  } else if (kind == "m") {
    const auto load = take(words, kTimeMax_s, kSecond_ns);
    const auto size = take(words, kSizeMax_gb, 1e9);
    const auto parallel = take(words, UINT32_MAX);
    const auto rare = take(words, 1);
    if (!load || !size || !parallel || !rare) return "m takes LOAD_S SIZE_GB PARALLEL RARE";
    if (*parallel == 0) return "a backend serves at least one request at once";
    trace->models.push_back({*load, *size, static_cast<std::uint32_t>(*parallel), *rare != 0});
  } else {
    std::istringstream again(line);
    const auto at = take(again, kTimeMax_s, kSecond_ns);
    const auto model = take(again, UINT32_MAX);
    const auto service = take(again, kTimeMax_s, kSecond_ns);
    if (!at || !model || !service) return "a request is T MODEL SERVICE_S";
    if (*model >= trace->models.size()) return "there is no model of that number above";
    if (!trace->requests.empty() && *at < trace->requests.back().at_ns)
      return "it is earlier than the request before";
    trace->requests.push_back({*at, static_cast<std::uint32_t>(*model), *service});
    words.swap(again);
  }
  return words >> kind ? "there is more than belongs on the line" : std::string_view();
}

}  // namespace

Result<Trace> parse_trace(std::string_view text) {
  Trace trace;
  std::istringstream lines{std::string(text)};
  std::string line;
  for (std::uint64_t number = 1; std::getline(lines, line); ++number) {
    if (const auto wrong = read_line(line, &trace); !wrong.empty()) {
      return fail(Errc::kInvalid, "unable to read the trace: line " + std::to_string(number) + " " +
                                      quote(line) + ": " + std::string(wrong));
    }
  }
  return trace;
}

Result<Trace> read_trace(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return fail_errno(errno, "read " + escape(path));
  return parse_trace(text.str());
}

}  // namespace modelpool::sim
