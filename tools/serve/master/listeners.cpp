#include "master/listeners.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "config/around.hpp"
#include "config/listen.hpp"

namespace modelpool::serve {
namespace {

constexpr int kBacklog = 4096;
constexpr std::string_view kUnix = "unix:";

struct Endpoint {
  sockaddr_storage address{};
  socklen_t bytes = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
  bool operator==(const Endpoint& other) const {
    return bytes == other.bytes && std::memcmp(&address, &other.address, bytes) == 0;
  }
};

bool is_unix(const std::string& address) { return address.starts_with(kUnix); }
std::string path_of(const std::string& address) { return address.substr(kUnix.size()); }

tl::unexpected<Error> cannot_listen(const std::string& address, const std::string& why,
                                    Errc code = Errc::kInvalid) {
  return fail(code, "unable to listen on " + address + ": " + why);
}

Result<Endpoint> endpoint_of_path(const std::string& path) {
  Endpoint endpoint;
  auto& address = reinterpret_cast<sockaddr_un&>(endpoint.address);
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return cannot_listen(std::string(kUnix) + path,
                         "a path has 1 to 107 bytes; choose a shorter one");
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  endpoint.bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return endpoint;
}

Result<Endpoint> endpoint_of(const std::string& text) {
  const auto parsed = config::parse_listen(text);
  if (!parsed) return fail(parsed.error());
  if (!parsed->unix_path.empty()) return endpoint_of_path(parsed->unix_path);
  Endpoint endpoint;
  if (parsed->is_v6) {
    auto& address = reinterpret_cast<sockaddr_in6&>(endpoint.address);
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(parsed->port);
    inet_pton(AF_INET6, parsed->host.c_str(), &address.sin6_addr);
    endpoint.bytes = sizeof address;
  } else {
    auto& address = reinterpret_cast<sockaddr_in&>(endpoint.address);
    address.sin_family = AF_INET;
    address.sin_port = htons(parsed->port);
    inet_pton(AF_INET, parsed->host.c_str(), &address.sin_addr);
    endpoint.bytes = sizeof address;
  }
  return endpoint;
}

std::optional<Endpoint> endpoint_of(const Fd& fd) {
  Endpoint endpoint;
  endpoint.bytes = sizeof endpoint.address;
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&endpoint.address), &endpoint.bytes) != 0)
    return std::nullopt;
  return endpoint;
}

std::string text_of(const Endpoint& endpoint) {
  if (endpoint.get()->sa_family == AF_UNIX) {
    return std::string(kUnix) + reinterpret_cast<const sockaddr_un&>(endpoint.address).sun_path;
  }
  char host[INET6_ADDRSTRLEN] = "";
  if (endpoint.get()->sa_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(endpoint.address);
    inet_ntop(AF_INET6, &v6.sin6_addr, host, sizeof host);
    return std::string("[").append(host) + "]:" + std::to_string(ntohs(v6.sin6_port));
  }
  const auto& v4 = reinterpret_cast<const sockaddr_in&>(endpoint.address);
  inet_ntop(AF_INET, &v4.sin_addr, host, sizeof host);
  return std::string(host) + ":" + std::to_string(ntohs(v4.sin_port));
}

std::string taken_by(const std::string& address) {
  const std::string who = config::who_listens(address);
  return "it is taken" + (who.empty() ? "" : " by " + who) +
         "; stop that, or listen on another address";
}

Result<> set_access(const std::string& path, const config::Listener& listener) {
  if (!listener.group.empty()) {
    const group* found = getgrnam(listener.group.c_str());
    if (found == nullptr) {
      return cannot_listen(listener.address, "there is no group " + config::quoted(listener.group) +
                                                 "; name one of this host");
    }
    if (chown(path.c_str(), static_cast<uid_t>(-1), found->gr_gid) != 0)
      return fail_errno(errno, "give " + path + " to group " + listener.group);
  }
  if (chmod(path.c_str(), listener.mode) != 0) return fail_errno(errno, "set the mode of " + path);
  return {};
}

Result<Fd> open_tcp(const std::string& address, const Endpoint& endpoint) {
  Fd fd(socket(endpoint.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno(errno, "listen on " + address);
  const int yes = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (endpoint.get()->sa_family == AF_INET6)
    setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes);
  if (bind(fd.get(), endpoint.get(), endpoint.bytes) == 0 && listen(fd.get(), kBacklog) == 0)
    return fd;
  if (errno == EADDRINUSE) return cannot_listen(address, taken_by(address), Errc::kSystem);
  return fail_errno(errno, "listen on " + address,
                    errno == EACCES ? "ports below 1024 need CAP_NET_BIND_SERVICE" : "");
}

Result<Fd> open_unix(const config::Listener& listener) {
  const std::string path = path_of(listener.address);
  struct stat info {};
  if (lstat(path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode)) {
      return cannot_listen(listener.address, "a file that is no socket is there; remove it first",
                           Errc::kSystem);
    }
    if (is_listening(path, SOCK_STREAM))
      return cannot_listen(listener.address, taken_by(listener.address), Errc::kSystem);
  }
  return listen_at_path(path, SOCK_STREAM,
                        [&](const std::string& file) { return set_access(file, listener); });
}

Result<Fd> open_listener(const config::Listener& listener) {
  if (is_unix(listener.address)) return open_unix(listener);
  const auto endpoint = endpoint_of(listener.address);
  if (!endpoint) return fail(endpoint.error());
  return open_tcp(listener.address, *endpoint);
}

// Taken by the text that it was asked for, or else by what it is bound to.
OpenSocket take_present(const config::Listener& listener, std::vector<OpenSocket>& present) {
  const auto endpoint = endpoint_of(listener.address);
  const auto found = std::find_if(present.begin(), present.end(), [&](const OpenSocket& one) {
    return one.address == listener.address ||
           (endpoint && endpoint_of(one.fd) == std::optional<Endpoint>(*endpoint));
  });
  if (found == present.end()) return {};
  OpenSocket taken = std::move(*found);
  present.erase(found);
  return taken;
}

std::string bound_to(const std::string& address, const Fd& fd) {
  if (is_unix(address)) return address;
  const auto endpoint = endpoint_of(fd);
  return endpoint ? text_of(*endpoint) : address;
}

}  // namespace

std::vector<OpenSocket> sockets_of_systemd() {
  std::vector<OpenSocket> sockets;
  const int count = sd_listen_fds(/*unset_environment=*/1);
  for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + count; ++fd) {
    OpenSocket one{"", Fd(fd)};
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    if (const auto endpoint = endpoint_of(one.fd)) one.address = text_of(*endpoint);
    sockets.push_back(std::move(one));
  }
  return sockets;
}

Result<std::vector<OpenListener>> open_listeners(const std::vector<config::Listener>& wanted,
                                                 std::vector<OpenSocket>& present) {
  std::vector<OpenListener> open;
  std::vector<std::string> taken;  // what each was called in `present`; empty: opened
  for (const config::Listener& listener : wanted) {
    OpenSocket socket = take_present(listener, present);
    taken.push_back(socket.address);
    if (!socket.fd) {
      auto opened = open_listener(listener);
      if (!opened) {
        for (std::size_t i = 0; i < open.size(); ++i) {
          if (taken[i].empty()) {
            remove_file(open[i]);
          } else {
            present.push_back({taken[i], std::move(open[i].fd)});
          }
        }
        return fail(opened.error());
      }
      socket.fd = std::move(*opened);
    }
    open.push_back({listener, std::move(socket.fd)});
  }
  return open;
}

Result<> set_access(const config::Listener& listener) {
  return is_unix(listener.address) ? set_access(path_of(listener.address), listener) : Result<>();
}

std::string bound_to(const OpenListener& listener) {
  return bound_to(listener.where.address, listener.fd);
}
std::string bound_to(const OpenSocket& socket) { return bound_to(socket.address, socket.fd); }

void remove_file(const OpenListener& listener) {
  if (is_unix(listener.where.address)) unlink(path_of(listener.where.address).c_str());
}

Result<Fd> listen_at_path(const std::string& path, int type, const PrepareFile& prepare) {
  const std::string temporary = path + "." + std::to_string(getpid());
  const auto endpoint = endpoint_of_path(temporary);
  if (!endpoint) return fail(endpoint.error());
  Fd fd(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno(errno, "listen on " + path);
  unlink(temporary.c_str());
  const mode_t before = umask(0177);
  const bool bound = bind(fd.get(), endpoint->get(), endpoint->bytes) == 0;
  const int error = errno;
  umask(before);
  if (!bound) return fail_errno(error, "listen on " + path);
  Result<> ready = prepare ? prepare(temporary) : Result<>();
  if (ready && (listen(fd.get(), kBacklog) != 0 || rename(temporary.c_str(), path.c_str()) != 0))
    ready = fail_errno(errno, "listen on " + path);
  if (ready) return fd;
  unlink(temporary.c_str());
  return fail(ready.error());
}

bool is_listening(const std::string& path, int type) {
  const auto endpoint = endpoint_of_path(path);
  const Fd fd(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // EAGAIN: its line is full, so somebody has it.
  return endpoint && fd &&
         (connect(fd.get(), endpoint->get(), endpoint->bytes) == 0 || errno == EAGAIN);
}

Fd duplicate(const Fd& fd) { return Fd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3)); }

}  // namespace modelpool::serve
