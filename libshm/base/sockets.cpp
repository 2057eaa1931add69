#include "base/sockets.hpp"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string_view>

#include "base/fd.hpp"
#include "base/proc.hpp"

namespace modelpool {
namespace {

constexpr unsigned kListen = 10;  // TCP_LISTEN, which sockets of AF_UNIX use as well

bool is_any(const Ip& ip) { return ip == Ip{} || ip == mapped(htonl(INADDR_ANY)); }

// Asks the kernel's socket diagnostics, which look at listening sockets only, and hands each answer
// to `take`. False: they are not to be had.
template <class Request, class Take>
bool ask(const Request& request, const Take& take) {
  const Fd link(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  const timeval at_most{1, 0};  // the kernel answers at once
  struct {
    nlmsghdr header;
    Request request;
  } question{};
  question.header.nlmsg_len = sizeof question;
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  question.request = request;
  if (!link || setsockopt(link.get(), SOL_SOCKET, SO_RCVTIMEO, &at_most, sizeof at_most) != 0 ||
      send(link.get(), &question, sizeof question, 0) != static_cast<ssize_t>(sizeof question)) {
    return false;
  }
  alignas(nlmsghdr) std::array<char, 16384> answers;
  for (;;) {
    const ssize_t got = recv(link.get(), answers.data(), answers.size(), 0);
    if (got <= 0) return false;
    std::string_view rest(answers.data(), static_cast<std::size_t>(got));
    while (rest.size() >= sizeof(nlmsghdr)) {
      nlmsghdr header;
      std::memcpy(&header, rest.data(), sizeof header);
      if (header.nlmsg_type == NLMSG_DONE) return true;
      const bool is_whole = header.nlmsg_len >= NLMSG_HDRLEN && header.nlmsg_len <= rest.size();
      if (header.nlmsg_type != SOCK_DIAG_BY_FAMILY || !is_whole) return false;
      take(rest.substr(NLMSG_HDRLEN, header.nlmsg_len - NLMSG_HDRLEN));
      rest.remove_prefix(std::min<std::size_t>(rest.size(), NLMSG_ALIGN(header.nlmsg_len)));
    }
  }
}

std::optional<std::vector<TcpListener>> ask_for_tcp(int family) {
  inet_diag_req_v2 request{};
  request.sdiag_family = static_cast<std::uint8_t>(family);
  request.sdiag_protocol = IPPROTO_TCP;
  request.idiag_states = 1U << kListen;
  std::vector<TcpListener> found;
  const bool asked = ask(request, [&](std::string_view answer) {
    inet_diag_msg socket{};
    if (answer.size() < sizeof socket) return;
    std::memcpy(&socket, answer.data(), sizeof socket);
    TcpListener row{{}, ntohs(socket.id.idiag_sport), socket.idiag_inode};
    if (family == AF_INET) {
      row.ip = mapped(socket.id.idiag_src[0]);
    } else {
      std::memcpy(row.ip.data(), socket.id.idiag_src, sizeof row.ip);
    }
    found.push_back(row);
  });
  return asked ? std::optional(std::move(found)) : std::nullopt;
}

// The same from /proc/net/tcp or tcp6, for which the kernel walks through all connections.
std::optional<std::vector<TcpListener>> read_tcp(int family) {
  const bool is_v6 = family == AF_INET6;
  std::ifstream table(own_proc_path(is_v6 ? "net/tcp6" : "net/tcp"));
  std::string line;
  if (!std::getline(table, line)) return std::nullopt;  // the names of the columns
  std::vector<TcpListener> rows;
  while (std::getline(table, line)) {
    char address[33];
    unsigned port = 0;
    unsigned state = 0;
    unsigned long long inode = 0;
    if (std::sscanf(line.c_str(), " %*u: %32[0-9A-F]:%x %*[0-9A-F]:%*x %x %*s %*s %*s %*u %*u %llu",
                    address, &port, &state, &inode) != 4) {
      continue;
    }
    if (state != kListen) break;  // the listening ones come first
    TcpListener row{{}, static_cast<int>(port), inode};
    const std::size_t words = is_v6 ? 4 : 1;
    for (std::size_t i = 0; i < words; ++i) {
      const std::string word(address + 8 * i, 8);
      row.ip[4 - words + i] = static_cast<std::uint32_t>(std::stoul(word, nullptr, 16));
    }
    if (!is_v6) row.ip = mapped(row.ip[3]);
    rows.push_back(row);
  }
  return rows;
}

std::optional<std::vector<TcpListener>> tcp_listeners_of(int family) {
  auto rows = ask_for_tcp(family);
  return rows ? rows : read_tcp(family);
}

// Of an answer about a socket of AF_UNIX: the value of one attribute, or "".
std::string_view attribute_of(std::string_view answer, unsigned type) {
  answer.remove_prefix(std::min<std::size_t>(answer.size(), NLMSG_ALIGN(sizeof(unix_diag_msg))));
  while (answer.size() >= sizeof(nlattr)) {
    nlattr attribute{};
    std::memcpy(&attribute, answer.data(), sizeof attribute);
    if (attribute.nla_len < NLA_HDRLEN || attribute.nla_len > answer.size()) return {};
    if (attribute.nla_type == type)
      return answer.substr(NLA_HDRLEN, attribute.nla_len - NLA_HDRLEN);
    answer.remove_prefix(std::min<std::size_t>(answer.size(), NLA_ALIGN(attribute.nla_len)));
  }
  return {};
}

// From /proc/net/unix, by the name that was bound.
SocketInodes read_unix(const std::string& path) {
  constexpr unsigned kAccepts = 0x10000;  // __SO_ACCEPTCON
  std::ifstream table(own_proc_path("net/unix"));
  SocketInodes found;
  for (std::string line; std::getline(table, line);) {
    unsigned flags = 0;
    unsigned long long inode = 0;
    int at = 0;
    if (std::sscanf(line.c_str(), "%*x: %*x %*x %x %*x %*x %llu %n", &flags, &inode, &at) != 2) {
      continue;
    }
    if ((flags & kAccepts) != 0 && line.substr(static_cast<std::size_t>(at)) == path) {
      found.insert(inode);
    }
  }
  return found;
}

}  // namespace

std::optional<std::vector<TcpListener>> tcp_listeners() {
  auto all = tcp_listeners_of(AF_INET);
  const auto v6 = tcp_listeners_of(AF_INET6);
  if (all && v6) all->insert(all->end(), v6->begin(), v6->end());
  return all;
}

// A socket bound to the address goes before one bound to all of them.
SocketInodes reached_by(const std::vector<TcpListener>& listeners, const Ip& ip, int port) {
  SocketInodes exact;
  SocketInodes any;
  for (const TcpListener& row : listeners) {
    if (row.port != port) continue;
    if (row.ip == ip) exact.insert(row.inode);
    // A wildcard of IPv6 usually takes IPv4 too.
    if (is_any(row.ip) && (is_v4(ip) || !is_v4(row.ip))) any.insert(row.inode);
  }
  return exact.empty() ? any : exact;
}

// A path may be spelled in many ways: the file counts.
SocketInodes unix_listeners(const std::string& path) {
  const bool is_abstract = path.starts_with('@');
  struct stat file {};
  if (!is_abstract && (stat(path.c_str(), &file) != 0 || !S_ISSOCK(file.st_mode))) return {};
  unix_diag_req request{};
  request.sdiag_family = AF_UNIX;
  request.udiag_states = 1U << kListen;
  request.udiag_show = UDIAG_SHOW_VFS | UDIAG_SHOW_NAME;
  SocketInodes found;
  const bool asked = ask(request, [&](std::string_view answer) {
    unix_diag_msg socket{};
    if (answer.size() < sizeof socket) return;
    std::memcpy(&socket, answer.data(), sizeof socket);
    unix_diag_vfs bound{};
    const std::string_view vfs = attribute_of(answer, UNIX_DIAG_VFS);
    if (vfs.size() >= sizeof bound) std::memcpy(&bound, vfs.data(), sizeof bound);
    const std::string_view name = attribute_of(answer, UNIX_DIAG_NAME);
    const bool is_it = is_abstract
                           ? name.starts_with('\0') && name.substr(1) == path.substr(1)
                           : bound.udiag_vfs_ino == static_cast<__u32>(file.st_ino) && !vfs.empty();
    if (is_it) found.insert(socket.udiag_ino);
  });
  return asked ? found : read_unix(path);
}

SocketInodes listening_sockets(const Address& address) {
  if (!address.unix_path.empty()) return unix_listeners(address.unix_path);
  const auto listeners = tcp_listeners();
  if (!listeners) return {};
  SocketInodes found;
  const std::vector<Ip> numbers = numbers_of(address.host);
  for (const Ip& ip : numbers) found.merge(reached_by(*listeners, ip, address.port));
  for (const TcpListener& row : *listeners) {
    if (numbers.empty() && row.port == address.port) found.insert(row.inode);
  }
  return found;
}

std::optional<SocketInodes> sockets_held(pid_t pid, const SocketInodes& wanted) {
  SocketInodes held;
  const bool is_seen = visit_sockets(pid, [&](std::uint64_t inode) {
    if (wanted.contains(inode)) held.insert(inode);
    return held.size() < wanted.size();
  });
  const bool has_ended = errno == ENOENT || errno == ESRCH;
  return is_seen || has_ended ? std::optional(std::move(held)) : std::nullopt;
}

}  // namespace modelpool
