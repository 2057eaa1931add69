#include "notify.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/name.hpp"
#include "base/text.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::size_t kStatusMax_bytes = 1024;

Result<> check_descriptor(int fd) {
  const auto unusable = [fd](const std::string& reason) {
    return fail(Errc::kInvalid, "unable to notify on descriptor " + std::to_string(fd) + ": " +
                                    reason +
                                    "; --notify-fd takes the one that the service's "
                                    "notification-fd names, 3 or above");
  };
  if (fd <= STDERR_FILENO) return unusable("0, 1 and 2 are taken");
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return unusable(errno == EBADF ? "it is not open" : std::strerror(errno));
  if ((flags & O_ACCMODE) == O_RDONLY || (flags & O_PATH) != 0) return unusable("it is read-only");
  return {};
}

Result<> check_address(const std::string& address) {
  const bool known = address.size() >= 2 && (address[0] == '/' || address[0] == '@');
  if (known && address.size() < sizeof(sockaddr_un::sun_path)) return {};
  return fail(Errc::kInvalid, "unable to notify the supervisor: NOTIFY_SOCKET is " +
                                  quote(address) +
                                  ", neither a path nor an abstract name of at most 107 bytes");
}

socklen_t fill_address(const std::string& address, sockaddr_un& socket_address) {
  socket_address = {};
  socket_address.sun_family = AF_UNIX;
  std::memcpy(socket_address.sun_path, address.data(), address.size());
  if (address[0] == '@') socket_address.sun_path[0] = '\0';
  // A path ends with its NUL, an abstract name with its length.
  const std::size_t bytes = address.size() + (address[0] == '/' ? 1 : 0);
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + bytes);
}

// A write to a descriptor of any kind that raises no SIGPIPE: the signal goes to the thread that
// wrote, so it can be held back and taken here.
void write_quietly(int fd, std::string_view text) {
  sigset_t pipe_only;
  sigset_t before;
  sigset_t pending;
  sigemptyset(&pipe_only);
  sigaddset(&pipe_only, SIGPIPE);
  sigpending(&pending);
  const bool was_pending = sigismember(&pending, SIGPIPE) == 1;
  pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
  ssize_t written;
  do {
    written = write(fd, text.data(), text.size());
  } while (written < 0 && errno == EINTR);
  if (written < 0 && errno == EPIPE && !was_pending) {
    const timespec at_once{};
    sigtimedwait(&pipe_only, nullptr, &at_once);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// One line without anything that systemd would take for another assignment.
std::string status_line(std::string_view text) {
  text = text.substr(0, kStatusMax_bytes);
  return "STATUS=" + (is_printable_utf8(text) ? std::string(text) : escape(text)) + "\n";
}

}  // namespace

Result<Notifier> Notifier::make(int notify_fd) {
  Notifier notifier;
  if (notify_fd != -1) {
    if (Result<> usable = check_descriptor(notify_fd); !usable) return fail(usable.error());
    notifier.notify_fd_.reset(notify_fd);
    fcntl(notify_fd, F_SETFD, FD_CLOEXEC);
  }

  std::uint64_t watchdog_us = 0;
  // Also checks that WATCHDOG_PID is this process. Garbage there is no watchdog.
  if (sd_watchdog_enabled(1, &watchdog_us) > 0) {
    notifier.watchdog_interval_ns_ = std::max<std::uint64_t>(1, watchdog_us / 2) * kMicrosecond_ns;
  }

  const char* address = std::getenv("NOTIFY_SOCKET");
  if (address != nullptr && *address != '\0') {
    notifier.address_ = address;
    unsetenv("NOTIFY_SOCKET");
    if (Result<> known = check_address(notifier.address_); !known) return fail(known.error());
    notifier.socket_.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!notifier.socket_) return fail_errno(errno, "open a socket to the supervisor");
    const timeval wait{0, static_cast<suseconds_t>(kNotifyWaitMax_ns / kMicrosecond_ns)};
    setsockopt(notifier.socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
  }
  return notifier;
}

void Notifier::ready(std::string_view text) {
  if (notify_fd_) {
    write_quietly(notify_fd_.get(), "\n");
    notify_fd_.reset();
  }
  announce("READY=1\n" + status_line(text));
}

void Notifier::status(std::string_view text) { send(status_line(text), Patience::kNone); }

void Notifier::watchdog() { send("WATCHDOG=1\n", Patience::kSome); }

void Notifier::reloading() {
  announce("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(now_ns() / kMicrosecond_ns) + "\n");
}

void Notifier::stopping(std::string_view text) { announce("STOPPING=1\n" + status_line(text)); }

// A state counts until the next one: only the latest is owed.
void Notifier::announce(std::string state) {
  owed_.clear();
  if (!send(state, Patience::kSome)) owed_ = std::move(state);
}

bool Notifier::send(std::string_view message, Patience patience) {
  if (!socket_) return true;
  const std::string whole = owed_ + std::string(message);
  sockaddr_un address;
  const socklen_t bytes = fill_address(address_, address);
  const int flags = MSG_NOSIGNAL | (patience == Patience::kNone ? MSG_DONTWAIT : 0);
  ssize_t sent;
  do {
    sent = sendto(socket_.get(), whole.data(), whole.size(), flags,
                  reinterpret_cast<const sockaddr*>(&address), bytes);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return false;  // nobody is there, or nobody reads
  owed_.clear();
  return true;
}

}  // namespace modelpool::coordinator
