#include "between/meeting.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "between/messages.hpp"

namespace modelpool::serve {
namespace {

constexpr std::string_view kTake = "take 1";
constexpr int kTriesMax = 20;

// "pid 12", "meeting", "lineage" and "listener ADDRESS": a line each; all but the first have a
// descriptor, in that order.
std::optional<Taken> read_answer(Message message) {
  Taken taken;
  std::istringstream lines(message.text);
  auto fd = message.fds.begin();
  for (std::string line; std::getline(lines, line);) {
    const std::string what = line.substr(0, line.find(' '));
    const std::string rest = line.size() > what.size() ? line.substr(what.size() + 1) : "";
    if (what == "pid") {
      taken.from = static_cast<pid_t>(std::strtol(rest.c_str(), nullptr, 10));
      continue;
    }
    if (fd == message.fds.end()) return std::nullopt;
    if (what == "meeting") taken.meeting = std::move(*fd);
    if (what == "lineage") {
      if (auto joined = Lineage::join(std::move(*fd))) taken.lineage = std::move(*joined);
    }
    if (what == "listener") taken.listeners.push_back({rest, std::move(*fd)});
    ++fd;
  }
  if (!taken.meeting || !taken.lineage) return std::nullopt;
  return taken;
}

Fd connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return {};
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd || connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return {};
  return fd;
}

bool is_raised(const Fd& eventfd) {
  pollfd one{eventfd.get(), POLLIN, 0};
  return poll(&one, 1, 0) == 1;
}

bool has_hung_up(int fd) {
  pollfd one{fd, 0, 0};
  return poll(&one, 1, 0) == 1;
}

}  // namespace

std::string door_path(const std::string& segment_path) { return segment_path + ".door"; }

Result<Fd> lock_door(const std::string& door) {
  const std::string path = door + ".lock";
  for (;;) {
    Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) return fail_errno(errno, "open " + path);
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return fail_errno(errno, "lock " + path);
      char pid[16] = "";
      const ssize_t bytes = pread(fd.get(), pid, sizeof pid - 1, 0);
      return fail(Errc::kBusy, "unable to serve this pool: poolserve" +
                                   (bytes > 0 ? " (pid " + std::string(pid) + ")" : "") +
                                   " serves it; stop that first, or name another --pool");
    }
    // Not one that was removed while we waited for it.
    struct stat held {};
    struct stat named {};
    if (fstat(fd.get(), &held) != 0 || stat(path.c_str(), &named) != 0 ||
        held.st_ino != named.st_ino) {
      continue;
    }
    const std::string pid = std::to_string(getpid());
    if (ftruncate(fd.get(), 0) != 0 ||
        pwrite(fd.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
      return fail_errno(errno, "write " + path);
    }
    return fd;
  }
}

Result<std::optional<Taken>> take_over(const std::string& door) {
  // One that is just finishing may take the connection with it; the next one answers.
  for (int i = 0; i < kTriesMax; ++i) {
    const Fd fd = connect_to(door);
    if (!fd) {
      if (errno == ENOENT || errno == ECONNREFUSED) return std::optional<Taken>();
      return fail_errno(errno, "meet those who serve at " + door);
    }
    if (!send_message(fd.get(), std::string(kTake), {})) continue;
    pollfd answer{fd.get(), POLLIN, 0};
    if (poll(&answer, 1, kTakeMax_ms) <= 0) break;
    auto message = receive_message(fd.get());
    if (!message) continue;
    auto taken = read_answer(std::move(*message));
    if (taken) return taken;
  }
  return fail(Errc::kBusy, "unable to take over from those who listen on " + door +
                               ": they do not answer, or are of another version; look at "
                               "processes named poolserve, and end them");
}

Result<Fd> open_meeting(const std::string& door) { return listen_at_path(door, SOCK_SEQPACKET); }

void answer_meeting(int connection, const WorkerStart& start) {
  const auto asked = receive_message(connection);
  if (!asked || asked->text != kTake) return;
  // Who asks has the lock, so its master has died; it may not have noticed yet.
  if (has_hung_up(start.control.get())) finish_takeover(start);
  std::string text = "pid " + std::to_string(getpid()) + "\nmeeting\nlineage\n";
  std::vector<int> fds = {start.meeting.get(), start.lineage->fd().get()};
  for (const OpenListener& listener : start.listeners) {
    text += "listener " + listener.where.address + "\n";
    fds.push_back(listener.fd.get());
  }
  if (fds.size() <= kDescriptorsMax) send_message(connection, text, fds);
}

void finish_takeover(const WorkerStart& start) {
  if (is_retired(start)) return;
  start.lineage->serves(start.generation);
  start.lineage->settles(start.generation);
}

void retire(const Fd& eventfd) {
  const std::uint64_t one = 1;
  static_cast<void>(!write(eventfd.get(), &one, sizeof one));
}

bool is_retired(const WorkerStart& start) {
  return is_raised(start.retire) || start.lineage->is_over(start.generation);
}

bool may_end(const WorkerStart& start) {
  return is_raised(start.retire) || start.lineage->may_end(start.generation);
}

}  // namespace modelpool::serve
