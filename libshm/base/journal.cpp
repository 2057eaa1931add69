#include "base/journal.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "base/fd.hpp"

namespace modelpool {
namespace {

constexpr sockaddr_un kJournal = {AF_UNIX, "/run/systemd/journal/socket"};

}  // namespace

bool stderr_is_journal() {
  const char* const stream = std::getenv("JOURNAL_STREAM");
  struct stat info {};
  if (stream == nullptr || fstat(STDERR_FILENO, &info) != 0) return false;
  return stream == std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino);
}

std::string prefix_lines(std::string_view prefix, std::string_view text) {
  std::string lines;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    lines += prefix;
    lines += text.substr(at, end - at);
    if (end < text.size()) lines += '\n';
    at = end + 1;
  }
  return lines;
}

std::string journal_entry(const JournalFields& fields) {
  std::string entry;
  for (const auto& [name, value] : fields) {
    entry.append(name).append("\n");
    for (std::size_t byte = 0; byte < sizeof(std::uint64_t); ++byte)  // little endian
      entry.push_back(static_cast<char>(std::uint64_t{value.size()} >> (8 * byte) & 0xff));
    entry.append(value).append("\n");
  }
  return entry;
}

bool send_to_journal(std::string_view entry) {
  const Fd out(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  return out && sendto(out.get(), entry.data(), entry.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
                       reinterpret_cast<const sockaddr*>(&kJournal), sizeof kJournal) >= 0;
}

}  // namespace modelpool
