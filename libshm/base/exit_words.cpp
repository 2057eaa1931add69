#include "base/exit_words.hpp"

#include <signal.h>

#include <algorithm>

#include "base/kinds.hpp"
#include "base/proc.hpp"
#include "base/utf8.hpp"

namespace modelpool {
namespace {

constexpr std::string_view kLines = "; its last lines: ";
constexpr std::string_view kBetween = " | ";
constexpr std::string_view kCutShort = "...";
constexpr std::size_t kWorthwhile_bytes = 24;  // less of a line says nothing
constexpr std::uint32_t kShellSignalBase = 128;

bool rose(const std::optional<std::uint64_t>& before, const std::optional<std::uint64_t>& now) {
  return before && now && *now > *before;
}

// "libcudart.so.12", of what the dynamic loader of glibc or musl says.
std::string missing_library(const std::vector<std::string>& lines) {
  constexpr std::string_view kMarks[] = {"error while loading shared libraries: ",
                                         "Error loading shared library "};
  for (const std::string& line : lines) {
    for (const std::string_view mark : kMarks) {
      const std::size_t at = line.find(mark);
      if (at == std::string::npos) continue;
      const std::string_view rest = std::string_view(line).substr(at + mark.size());
      return std::string(rest.substr(0, rest.find(':')));
    }
  }
  return {};
}

std::string words_of_signal(std::uint32_t signal, MemoryKills::Rise rise) {
  switch (signal) {
    case SIGKILL:
      switch (rise) {
        case MemoryKills::Rise::kInCgroup:
          return "killed for memory by the kernel, at the limit of its cgroup";
        case MemoryKills::Rise::kOnHost:
          return "killed for memory by the kernel, as it seems: it killed for that meanwhile";
        case MemoryKills::Rise::kNone:
          return {};  // by whom is not known
      }
      return {};
    case SIGSEGV:
    case SIGBUS:
      return "it crashed at a memory access";
    case SIGABRT:
      return "it gave up by itself (abort)";
    case SIGILL:
      return "it crashed at an instruction that this CPU does not have";
    case SIGFPE:
      return "it crashed in a calculation";
    case SIGSYS:
      return "it made a system call that it may not make";
    default:
      return {};
  }
}

std::string words_of_status(std::uint32_t status, const std::vector<std::string>& lines) {
  if (status == 127) {
    const std::string library = missing_library(lines);
    return library.empty() ? "a program or a library that it needs is missing"
                           : "the library " + library + " is missing";
  }
  if (status == 126) return "a program that it needs is not executable";
  return {};
}

}  // namespace

MemoryKills::MemoryKills(pid_t pid) : cgroup_(Cgroup::of(pid)), on_host_(read_memory_kills()) {
  if (cgroup_) in_cgroup_ = cgroup_->memory_kills();
}

MemoryKills::Rise MemoryKills::rise() const {
  if (cgroup_ && rose(in_cgroup_, cgroup_->memory_kills())) return Rise::kInCgroup;
  return rose(on_host_, read_memory_kills()) ? Rise::kOnHost : Rise::kNone;
}

std::string exit_words(std::uint32_t packed_exit, MemoryKills::Rise rise,
                       const std::vector<std::string>& lines) {
  const std::uint32_t status = packed_exit & 0xffff;
  switch (static_cast<ExitKind>(packed_exit >> 16)) {
    case ExitKind::kSignalled:
      return words_of_signal(status, rise);
    case ExitKind::kExited:
      // What a shell makes of the signal that ended its child.
      if (status > kShellSignalBase && status <= kShellSignalBase + 64) {
        const std::string words = words_of_signal(status - kShellSignalBase, rise);
        return words.empty() ? words : "what it ran ended so: " + words;
      }
      return words_of_status(status, lines);
    case ExitKind::kUnknown:
      break;
  }
  return {};
}

bool ran_out_of_memory(std::uint32_t packed_exit, MemoryKills::Rise rise) {
  const bool is_killed = packed_exit == pack_exit(ExitKind::kSignalled, SIGKILL) ||
                         packed_exit == pack_exit(ExitKind::kExited, kShellSignalBase + SIGKILL);
  return is_killed && rise != MemoryKills::Rise::kNone;
}

std::string with_last_lines(std::string_view text, const std::vector<std::string>& lines,
                            std::size_t max_bytes) {
  text = before_last_lines(text);
  std::string end;
  const std::size_t taken = text.size() + kLines.size();
  const std::size_t room = max_bytes - std::min(max_bytes, taken);
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    const std::size_t between = end.empty() ? 0 : kBetween.size();
    if (end.size() + between + line->size() > room) break;
    end.insert(0, *line + std::string(end.empty() ? "" : kBetween));
  }
  if (end.empty() && !lines.empty() && room >= kWorthwhile_bytes) {
    std::size_t whole = 0;  // of characters
    while (whole + decode_any(lines.back(), whole).bytes + kCutShort.size() <= room)
      whole += decode_any(lines.back(), whole).bytes;
    end = lines.back().substr(0, whole) + std::string(kCutShort);
  }
  return std::string(text) + (end.empty() ? "" : std::string(kLines) + end);
}

std::string_view before_last_lines(std::string_view text) {
  return text.substr(0, text.find(kLines));
}

bool has_last_lines(std::string_view text) { return text.find(kLines) != std::string_view::npos; }

std::string with_exit(std::string_view text, std::uint32_t packed_exit) {
  const std::string exit = exit_text(packed_exit);
  if (exit.empty()) return std::string(text);
  const std::string_view begin = before_last_lines(text);
  return std::string(begin) + " (" + exit + ")" + std::string(text.substr(begin.size()));
}

}  // namespace modelpool
