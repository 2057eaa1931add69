#include "base/listener.hpp"

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "base/process.hpp"
#include "base/text.hpp"

namespace modelpool {
namespace {

using Inodes = std::set<std::uint64_t>;

constexpr int kAncestorsMax = 64;  // parents are read one at a time, and they may change

Listener unknown(std::string why) { return {ListenedBy::kUnknown, std::move(why), 0, {}}; }

std::string proc(pid_t pid, const char* name) {
  return "/proc/" + std::to_string(pid) + "/" + name;
}

// --- Listening sockets ---------------------------------------------------------------------------

using Ip = std::array<std::uint32_t, 4>;  // as /proc/net prints its words; IPv4 is mapped into it

Ip mapped(in_addr v4) {
  Ip ip{};
  ip[2] = htonl(0xffff);
  ip[3] = v4.s_addr;
  return ip;
}

bool is_any(const Ip& ip) { return ip == Ip{} || ip == mapped({htonl(INADDR_ANY)}); }
bool is_v4(const Ip& ip) { return ip[0] == 0 && ip[1] == 0 && ip[2] == htonl(0xffff); }

// The addresses that a host means; empty if it is no number.
std::vector<Ip> numbers_of(const std::string& host) {
  in_addr v4{};
  in6_addr v6{};
  if (host == "localhost") return {mapped({htonl(INADDR_LOOPBACK)}), Ip{0, 0, 0, htonl(1)}};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) {
    return {mapped(v4.s_addr == htonl(INADDR_ANY) ? in_addr{htonl(INADDR_LOOPBACK)} : v4)};
  }
  if (inet_pton(AF_INET6, host.c_str(), &v6) != 1) return {};
  Ip ip;
  std::memcpy(ip.data(), &v6, sizeof ip);
  return {ip == Ip{} ? Ip{0, 0, 0, htonl(1)} : ip};
}

// Could a socket of this host be bound to it?
bool is_of_this_host(const Ip& ip) {
  const int family = is_v4(ip) ? AF_INET : AF_INET6;
  const Fd probe(socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_addr.s_addr = ip[3];
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  std::memcpy(&v6.sin6_addr, ip.data(), sizeof ip);
  return probe && (family == AF_INET
                       ? bind(probe.get(), reinterpret_cast<const sockaddr*>(&v4), sizeof v4)
                       : bind(probe.get(), reinterpret_cast<const sockaddr*>(&v6), sizeof v6)) == 0;
}

struct TcpRow {
  Ip ip;
  int port;
  std::uint64_t inode;
};

constexpr unsigned kListen = 10;  // TCP_LISTEN

// Of one family, from the kernel's socket diagnostics, which look at listening sockets only;
// nullopt where that is not to be had.
std::optional<std::vector<TcpRow>> ask_for_listeners(int family) {
  const Fd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  const timeval at_most{1, 0};  // the kernel answers at once
  struct {
    nlmsghdr header;
    inet_diag_req_v2 request;
  } question{};
  question.header.nlmsg_len = sizeof question;
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  question.request.sdiag_family = static_cast<std::uint8_t>(family);
  question.request.sdiag_protocol = IPPROTO_TCP;
  question.request.idiag_states = 1u << kListen;
  if (!fd || setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &at_most, sizeof at_most) != 0 ||
      send(fd.get(), &question, sizeof question, 0) != static_cast<ssize_t>(sizeof question)) {
    return std::nullopt;
  }
  std::vector<TcpRow> rows;
  alignas(nlmsghdr) std::array<char, 16384> answer;
  for (;;) {
    const ssize_t got = recv(fd.get(), answer.data(), answer.size(), 0);
    if (got <= 0) return std::nullopt;
    auto left = static_cast<unsigned>(got);
    for (auto* message = reinterpret_cast<nlmsghdr*>(answer.data()); NLMSG_OK(message, left);
         message = NLMSG_NEXT(message, left)) {
      if (message->nlmsg_type == NLMSG_DONE) return rows;
      if (message->nlmsg_type != SOCK_DIAG_BY_FAMILY) return std::nullopt;
      inet_diag_msg socket{};
      std::memcpy(&socket, NLMSG_DATA(message), sizeof socket);
      TcpRow row{{}, ntohs(socket.id.idiag_sport), socket.idiag_inode};
      if (family == AF_INET) {
        row.ip = mapped({socket.id.idiag_src[0]});
      } else {
        std::memcpy(row.ip.data(), socket.id.idiag_src, sizeof row.ip);
      }
      rows.push_back(row);
    }
  }
}

// The same from /proc/net/tcp or tcp6, for which the kernel walks through all connections.
std::optional<std::vector<TcpRow>> read_listeners(int family) {
  const bool is_v6 = family == AF_INET6;
  std::ifstream table(is_v6 ? "/proc/self/net/tcp6" : "/proc/self/net/tcp");
  std::string line;
  if (!std::getline(table, line)) return std::nullopt;  // the names of the columns
  std::vector<TcpRow> rows;
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
    TcpRow row{{}, static_cast<int>(port), inode};
    const std::size_t words = is_v6 ? 4 : 1;
    for (std::size_t i = 0; i < words; ++i) {
      const std::string word(address + 8 * i, 8);
      row.ip[4 - words + i] = static_cast<std::uint32_t>(std::stoul(word, nullptr, 16));
    }
    if (!is_v6) row.ip[2] = htonl(0xffff);
    rows.push_back(row);
  }
  return rows;
}

std::optional<std::vector<TcpRow>> listeners(int family) {
  auto rows = ask_for_listeners(family);
  return rows ? rows : read_listeners(family);
}

// Of the listeners on this port: those that a connection to `ip` reaches. A socket bound to the
// address goes before one bound to all of them.
Inodes reached_by(const std::vector<TcpRow>& rows, const Ip& ip, int port) {
  Inodes exact;
  Inodes any;
  for (const TcpRow& row : rows) {
    if (row.port != port) continue;
    if (row.ip == ip) exact.insert(row.inode);
    // A wildcard of IPv6 usually takes IPv4 too.
    if (is_any(row.ip) && (is_v4(ip) || !is_v4(row.ip))) any.insert(row.inode);
  }
  return exact.empty() ? any : exact;
}

// The path of a listening row of /proc/net/unix, "@name" for an abstract one.
Inodes unix_listeners(const std::string& path) {
  constexpr unsigned kAccepts = 0x10000;  // __SO_ACCEPTCON
  std::ifstream table("/proc/self/net/unix");
  Inodes found;
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

// --- Processes -----------------------------------------------------------------------------------

// Takes the sockets that the process has from `inodes`. False: its descriptors cannot be seen.
bool take_sockets_of(pid_t pid, Inodes* inodes) {
  const std::unique_ptr<DIR, int (*)(DIR*)> fds(opendir(proc(pid, "fd").c_str()), closedir);
  if (!fds) return errno == ENOENT || errno == ESRCH;  // it has ended
  while (const dirent* entry = readdir(fds.get())) {
    char target[64];
    const ssize_t length = readlinkat(dirfd(fds.get()), entry->d_name, target, sizeof target - 1);
    if (length <= 0) continue;
    target[length] = 0;
    unsigned long long inode = 0;
    if (std::sscanf(target, "socket:[%llu]", &inode) == 1) inodes->erase(inode);
  }
  return true;
}

bool has_any_of(pid_t pid, const Inodes& inodes) {
  Inodes left = inodes;
  return take_sockets_of(pid, &left) && left.size() < inodes.size();
}

class Members {
 public:
  explicit Members(const BackendProcesses& backend) : backend_(backend) {
    const auto first = read_stat(backend.first);
    leads_session_ = first && first->session == backend.first;
  }

  bool has(const ProcessStat& stat) const {
    if (stat.pid == backend_.first) return true;
    if (backend_.group != 0 && stat.group == backend_.group) return true;
    if (leads_session_ && stat.session == backend_.first) return true;
    std::optional<ProcessStat> ancestor = stat;
    for (int i = 0; ancestor && ancestor->parent > 1 && i < kAncestorsMax; ++i) {
      if (ancestor->parent == backend_.first) return true;
      ancestor = read_stat(ancestor->parent);
    }
    return !backend_.token.empty() &&
           read_environment(stat.pid, "MODELPOOL_BACKEND") == backend_.token;
  }

 private:
  const BackendProcesses& backend_;
  bool leads_session_ = false;
};

bool is_in_our_network(pid_t pid) {
  struct stat ours {};
  struct stat theirs {};
  return stat("/proc/self/ns/net", &ours) != 0 || stat(proc(pid, "ns/net").c_str(), &theirs) != 0 ||
         ours.st_ino == theirs.st_ino;
}

// Whose the sockets are.
Listener holder_of(Inodes sockets, const BackendProcesses& backend) {
  take_sockets_of(backend.first, &sockets);  // most backends are one process
  if (sockets.empty()) return {ListenedBy::kBackend, {}, 0, {}};
  if (!is_in_our_network(backend.first)) return unknown("its process has a network of its own");
  const auto pids = list_pids();
  if (!pids) return unknown("/proc cannot be listed");
  const Members members(backend);
  std::vector<ProcessStat> others;
  for (const pid_t pid : *pids) {
    const auto stat = read_stat(pid);
    if (!stat || stat->is_zombie()) continue;
    if (!members.has(*stat)) {
      others.push_back(*stat);
    } else if (!take_sockets_of(pid, &sockets)) {
      return unknown("the descriptors of its process " + std::to_string(pid) + " cannot be seen");
    }
  }
  if (sockets.empty()) return {ListenedBy::kBackend, {}, 0, {}};
  for (const ProcessStat& other : others) {
    if (!has_any_of(other.pid, sockets)) continue;
    // It may have been forked by the backend after its parent was looked at.
    const auto now = read_stat(other.pid);
    if (now && members.has(*now)) return {ListenedBy::kBackend, {}, 0, {}};
    return {ListenedBy::kAnother, {}, other.pid, other.command};
  }
  return unknown("the process that listens there cannot be seen");
}

}  // namespace

Listener find_listener(const Address& address, const BackendProcesses& backend) {
  Inodes sockets;
  if (!address.unix_path.empty()) {
    sockets = unix_listeners(address.unix_path);
    if (sockets.empty()) return unknown("no listening socket goes by that path");
    return holder_of(std::move(sockets), backend);
  }
  const std::vector<Ip> numbers = numbers_of(address.host);
  if (numbers.empty()) return unknown("its host is not a number");
  const auto v4 = listeners(AF_INET);
  const auto v6 = listeners(AF_INET6);
  if (!v4) return unknown("/proc/net/tcp cannot be read");
  std::vector<TcpRow> rows = *v4;
  if (v6) rows.insert(rows.end(), v6->begin(), v6->end());
  bool is_ours = false;
  for (const Ip& ip : numbers) {
    if (!is_of_this_host(ip)) continue;
    is_ours = true;
    sockets.merge(reached_by(rows, ip, address.port));
  }
  if (!is_ours) return unknown("its host is another machine's");
  if (sockets.empty()) return {ListenedBy::kNobody, {}, 0, {}};
  return holder_of(std::move(sockets), backend);
}

}  // namespace modelpool
