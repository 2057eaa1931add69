#include "config/around.hpp"

#include <sys/sysinfo.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/proc.hpp"
#include "base/size.hpp"
#include "base/sockets.hpp"
#include "base/text.hpp"

namespace modelpool::config {
namespace {

bool can_run(const std::string& path) {
  return access(path.c_str(), X_OK) == 0 && std::filesystem::is_regular_file(path);
}

}  // namespace

std::string quoted(std::string_view text) { return quote(text); }
std::string size_text(std::uint64_t bytes) { return format_size_exactly(bytes); }

std::string find_program(const std::string& name) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink(own_proc_path("exe"), error);
  if (!error && self.is_absolute()) {
    if (std::string beside = (self.parent_path() / name).string(); can_run(beside)) return beside;
  }
  const char* const path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  while (!rest.empty()) {
    const std::string_view folder = rest.substr(0, rest.find(':'));
    if (std::string found = std::string(folder) + "/" + name; !folder.empty() && can_run(found))
      return found;
    rest.remove_prefix(std::min(rest.size(), folder.size() + 1));
  }
  return {};
}

std::string who_listens(const std::string& address) {
  const auto parsed = parse_address(address);
  if (!parsed) return {};
  const SocketInodes wanted = listening_sockets(*parsed);
  if (wanted.empty()) return {};
  for (const pid_t pid : list_pids().value_or(std::vector<pid_t>())) {
    const auto held = sockets_held(pid, wanted);
    if (!held || held->empty()) continue;
    const auto stat = read_stat(pid);
    return (stat ? escape(stat->command) : "a process") + " (pid " + std::to_string(pid) + ")";
  }
  return {};
}

std::vector<std::string> command_line_of(pid_t pid) {
  std::vector<std::string> words;
  const std::string text = read_proc(pid, "cmdline").value_or("");
  for (std::size_t at = 0; at < text.size();) {
    words.emplace_back(text.c_str() + at);
    at += words.back().size() + 1;
  }
  return words;
}

std::string folder_of(pid_t pid) {
  std::error_code error;
  return std::filesystem::read_symlink(proc_path(pid, "cwd"), error).string();
}

std::uint64_t total_memory_bytes() {
  struct sysinfo info {};
  return sysinfo(&info) == 0 ? std::uint64_t{info.totalram} * info.mem_unit : 0;
}

}  // namespace modelpool::config
