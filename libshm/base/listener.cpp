#include "base/listener.hpp"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "base/fd.hpp"
#include "base/proc.hpp"
#include "base/sockets.hpp"

namespace modelpool {
namespace {

constexpr int kAncestorsMax = 64;  // parents are read one at a time, and they may change

Listener unknown(std::string why) { return {ListenedBy::kUnknown, std::move(why), 0, {}}; }

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
  const auto ours = own_namespace("net");
  const auto its = read_namespace(pid, "net");
  return !ours || !its || ours == its;
}

// Takes what the process holds from `sockets`. False: its descriptors cannot be seen.
bool take_sockets_of(pid_t pid, SocketInodes* sockets) {
  const auto held = sockets_held(pid, *sockets);
  if (!held) return false;
  for (const std::uint64_t inode : *held) sockets->erase(inode);
  return true;
}

// Whose the sockets are.
Listener holder_of(SocketInodes sockets, const BackendProcesses& backend) {
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
    const auto held = sockets_held(other.pid, sockets);
    if (!held || held->empty()) continue;
    // It may have been forked by the backend after its parent was looked at.
    const auto now = read_stat(other.pid);
    if (now && members.has(*now)) return {ListenedBy::kBackend, {}, 0, {}};
    return {ListenedBy::kAnother, {}, other.pid, other.command};
  }
  return unknown("the process that listens there cannot be seen");
}

}  // namespace

Listener find_listener(const Address& address, const BackendProcesses& backend) {
  SocketInodes sockets;
  if (!address.unix_path.empty()) {
    sockets = unix_listeners(address.unix_path);
    if (sockets.empty()) return unknown("no listening socket goes by that path");
    return holder_of(std::move(sockets), backend);
  }
  const std::vector<Ip> numbers = numbers_of(address.host);
  if (numbers.empty()) return unknown("its host is not a number");
  const auto listeners = tcp_listeners();
  if (!listeners) return unknown("the listening sockets cannot be listed");
  bool is_ours = false;
  for (const Ip& ip : numbers) {
    if (!is_of_this_host(ip)) continue;
    is_ours = true;
    sockets.merge(reached_by(*listeners, ip, address.port));
  }
  if (!is_ours) return unknown("its host is another machine's");
  if (sockets.empty()) return {ListenedBy::kNobody, {}, 0, {}};
  return holder_of(std::move(sockets), backend);
}

}  // namespace modelpool
