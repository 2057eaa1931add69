#include "between/control.hpp"

#include <cerrno>
#include <string>

#include "between/door_text.hpp"
#include "between/memory_file.hpp"
#include "between/messages.hpp"

namespace modelpool::serve {

Result<> send_door(const Fd& control, const config::Door& door) {
  const auto file = make_memory_file("poolserve config", write_door(door));
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
  auto door = read_door(read_memory_file(message->fds.front()));
  if (!door) return DoorLost{};
  return std::move(*door);
}

bool say(const Fd& control, std::string_view what) {
  return send_message(control.get(), std::string(what));
}

}  // namespace modelpool::serve
