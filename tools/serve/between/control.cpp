#include "between/control.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <string>

#include "between/door_text.hpp"
#include "between/messages.hpp"

namespace modelpool::serve {
namespace {

// In a file without a name: it may be larger than a message.
Result<Fd> memory_file(const std::string& text) {
  Fd fd(memfd_create("poolserve config", MFD_CLOEXEC));
  if (!fd) return fail_errno(errno, "hand a config to the workers");
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t bytes = write(fd.get(), text.data() + at, text.size() - at);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) return fail_errno(errno, "hand a config to the workers");
    at += static_cast<std::size_t>(bytes);
  }
  return fd;
}

std::string read_all(const Fd& fd) {
  std::string text;
  char part[64 * 1024];
  for (;;) {
    const ssize_t bytes = pread(fd.get(), part, sizeof part, static_cast<off_t>(text.size()));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) return text;
    text.append(part, static_cast<std::size_t>(bytes));
  }
}

}  // namespace

Result<> send_door(const Fd& control, const config::Door& door) {
  const auto file = memory_file(write_door(door));
  if (!file) return fail(file.error());
  if (send_message(control.get(), std::string(kSaysDoor), {file->get()})) return {};
  return fail_errno(errno, "hand a config to a worker");
}

std::variant<NothingSaid, MasterGone, DoorLost, config::Door> receive_control(const Fd& control) {
  const auto message = receive_message(control.get());
  if (!message) {
    if (errno == EMSGSIZE) return DoorLost{};
    if (errno == EAGAIN || errno == EINTR) return NothingSaid{};
    return MasterGone{};
  }
  if (message->text.empty()) return MasterGone{};
  if (message->text != kSaysDoor) return NothingSaid{};
  if (message->fds.size() != 1) return DoorLost{};
  auto door = read_door(read_all(message->fds.front()));
  if (!door) return DoorLost{};
  return std::move(*door);
}

bool say(const Fd& control, std::string_view what) {
  return send_message(control.get(), std::string(what));
}

}  // namespace modelpool::serve
