#include "base/sockets.hpp"

#include <dirent.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "base/process.hpp"

namespace modelpool {
namespace {

constexpr std::uint32_t kListening = 1U << 10;  // TCP_LISTEN, which sockets of AF_UNIX use as well

std::optional<std::uint16_t> port_of(std::string_view address) {
  if (const std::size_t scheme = address.find("://"); scheme != std::string_view::npos) {
    address.remove_prefix(scheme + 3);
  }
  address = address.substr(0, address.find('/'));
  const std::size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const std::string_view digits = address.substr(colon + 1);
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc() || end != digits.data() + digits.size() || port == 0)
    return std::nullopt;
  return port;
}

// Asks the kernel for sockets and hands each answer to `take`. It lists the listening ones alone;
// /proc/net/tcp would walk through every connection of the host.
template <class Request, class Take>
void ask(const Request& request, const Take& take) {
  const Fd link(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!link) return;
  struct {
    nlmsghdr header;
    Request request;
  } message{};
  message.header.nlmsg_len = sizeof message;
  message.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  message.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  message.request = request;
  if (send(link.get(), &message, sizeof message, 0) < 0) return;
  alignas(nlmsghdr) std::array<char, 16384> answers;
  for (;;) {
    const ssize_t got = recv(link.get(), answers.data(), answers.size(), 0);
    if (got <= 0) return;
    auto left = static_cast<std::size_t>(got);
    const char* at = answers.data();
    while (left >= sizeof(nlmsghdr)) {
      nlmsghdr header;
      std::memcpy(&header, at, sizeof header);
      if (header.nlmsg_len < sizeof header || header.nlmsg_len > left) return;
      if (header.nlmsg_type == NLMSG_DONE || header.nlmsg_type == NLMSG_ERROR) return;
      take(std::string_view(at + NLMSG_HDRLEN, header.nlmsg_len - NLMSG_HDRLEN));
      const std::size_t step = std::min<std::size_t>(left, NLMSG_ALIGN(header.nlmsg_len));
      at += step;
      left -= step;
    }
  }
}

SocketInodes tcp_listeners(std::uint16_t port) {
  SocketInodes found;
  for (const int family : {AF_INET, AF_INET6}) {
    inet_diag_req_v2 request{};
    request.sdiag_family = static_cast<__u8>(family);
    request.sdiag_protocol = IPPROTO_TCP;
    request.idiag_states = kListening;
    ask(request, [&](std::string_view answer) {
      inet_diag_msg socket{};
      if (answer.size() < sizeof socket) return;
      std::memcpy(&socket, answer.data(), sizeof socket);
      if (ntohs(socket.id.idiag_sport) == port) found.push_back(socket.idiag_inode);
    });
  }
  return found;
}

// By the file that it is bound to: a path may be spelled in many ways.
SocketInodes unix_listeners(const std::string& path) {
  SocketInodes found;
  struct stat file {};
  if (stat(path.c_str(), &file) != 0 || !S_ISSOCK(file.st_mode)) return found;
  unix_diag_req request{};
  request.sdiag_family = AF_UNIX;
  request.udiag_states = kListening;
  request.udiag_show = UDIAG_SHOW_VFS;
  ask(request, [&](std::string_view answer) {
    unix_diag_msg socket{};
    if (answer.size() < sizeof socket) return;
    std::memcpy(&socket, answer.data(), sizeof socket);
    answer.remove_prefix(NLMSG_ALIGN(sizeof socket));
    while (answer.size() >= sizeof(nlattr)) {
      nlattr attribute{};
      std::memcpy(&attribute, answer.data(), sizeof attribute);
      if (attribute.nla_len < sizeof attribute || attribute.nla_len > answer.size()) return;
      unix_diag_vfs bound{};
      if (attribute.nla_type == UNIX_DIAG_VFS && attribute.nla_len >= NLA_HDRLEN + sizeof bound) {
        std::memcpy(&bound, answer.data() + NLA_HDRLEN, sizeof bound);
        if (bound.udiag_vfs_ino == static_cast<__u32>(file.st_ino))
          found.push_back(socket.udiag_ino);
      }
      answer.remove_prefix(std::min<std::size_t>(answer.size(), NLA_ALIGN(attribute.nla_len)));
    }
  });
  return found;
}

}  // namespace

SocketInodes listening_sockets(std::string_view address) {
  constexpr std::string_view kUnix = "unix:";
  SocketInodes found;
  if (address.starts_with(kUnix)) {
    found = unix_listeners(std::string(address.substr(kUnix.size())));
  } else if (const auto port = port_of(address)) {
    found = tcp_listeners(*port);
  }
  std::sort(found.begin(), found.end());
  return found;
}

bool holds_any_socket(pid_t pid, const SocketInodes& sockets) {
  constexpr std::string_view kSocket = "socket:[";
  const std::string path = "/proc/" + std::to_string(pid) + "/fd";
  const std::unique_ptr<DIR, int (*)(DIR*)> descriptors(opendir(path.c_str()), closedir);
  if (!descriptors) return false;
  while (const dirent* entry = readdir(descriptors.get())) {
    std::array<char, 64> target;
    const ssize_t length =
        readlinkat(dirfd(descriptors.get()), entry->d_name, target.data(), target.size());
    if (length <= 0) continue;
    std::string_view text(target.data(), static_cast<std::size_t>(length));
    if (!text.starts_with(kSocket)) continue;
    text.remove_prefix(kSocket.size());
    std::uint64_t inode = 0;
    std::from_chars(text.data(), text.data() + text.size(), inode);
    if (std::binary_search(sockets.begin(), sockets.end(), inode)) return true;
  }
  return false;
}

}  // namespace modelpool
