#include "base/port.hpp"

#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "base/proc.hpp"

namespace modelpool {
namespace {

constexpr int kLowest = 20000;  // well-known ports of servers lie below
constexpr int kHighest = 65535;
constexpr std::size_t kEnough = 512;  // so many candidates outside of the kernel's range will do
constexpr std::size_t kKept = 64;

std::vector<int> candidates() {
  std::vector<int> ports;
  std::ifstream range(sysctl_path("net.ipv4.ip_local_port_range"));
  int first = 0;
  int last = 0;
  const bool known = static_cast<bool>(range >> first >> last);
  for (int port = kLowest; port <= kHighest; ++port) {
    if (!known || port < first || port > last) ports.push_back(port);
  }
  if (ports.size() >= kEnough) return ports;
  ports.clear();
  for (int port = kLowest; port <= kHighest; ++port) ports.push_back(port);
  return ports;
}

std::size_t random_below(std::size_t count) {
  std::uint64_t number = 0;
  if (getrandom(&number, sizeof number, GRND_NONBLOCK) != sizeof number) {
    number = static_cast<std::uint64_t>(getpid()) * 7919;
  }
  return number % count;
}

// Takes the name of the port. 0, or an errno; EADDRINUSE: somebody has it.
int take_name(int port, Fd* name) {
  Fd fd = above_stdio(Fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)));  // it is kept
  if (!fd) return errno;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string text = "modelpool port " + std::to_string(port);
  text.copy(address.sun_path + 1, sizeof address.sun_path - 1);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) return errno;
  *name = std::move(fd);
  return 0;
}

template <class Address>
int try_bind(const Address& address) {
  const Fd fd(socket(reinterpret_cast<const sockaddr*>(&address)->sa_family,
                     SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno;
  return bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ? 0
                                                                                          : errno;
}

// Bound and let go: no connection was made, so nothing lingers. 0, or an errno.
int is_free(int port) {
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(static_cast<std::uint16_t>(port));
  if (const int error = try_bind(v4); error != 0) return error;
  sockaddr_in6 v6{};  // all addresses
  v6.sin6_family = AF_INET6;
  v6.sin6_port = v4.sin_port;
  const int error = try_bind(v6);
  // Without IPv6 in the kernel nobody listens there.
  return error == EAFNOSUPPORT || error == EADDRNOTAVAIL ? 0 : error;
}

// The descriptors of free_port(), each with the low half of its inode: a server that daemonises may
// have closed it, and something else may go by its number now.
std::array<std::atomic<std::uint64_t>, kKept> g_kept{};
std::atomic<std::uint32_t> g_next{0};

std::uint64_t kept_word(int fd) {
  struct stat file {};
  if (fstat(fd, &file) != 0 || !S_ISSOCK(file.st_mode)) return 0;
  return static_cast<std::uint64_t>(fd) << 32 | (file.st_ino & 0xffffffff);
}

}  // namespace

Result<HeldPort> hold_free_port() {
  const std::vector<int> ports = candidates();
  const std::size_t start = random_below(ports.size());
  int error = EADDRINUSE;
  for (std::size_t i = 0; i < ports.size(); ++i) {
    const int port = ports[(start + i) % ports.size()];
    Fd name;
    error = take_name(port, &name);
    if (error == 0) error = is_free(port);
    if (error == 0) return HeldPort(port, std::move(name));
    if (error != EADDRINUSE) break;
  }
  return fail_errno(error, "find a free port");
}

Result<int> free_port() {
  auto held = hold_free_port();
  if (!held) return fail(held.error());
  const int number = held->number();
  const std::uint64_t word = kept_word(held->name_.get());
  if (word == 0) return number;
  static_cast<void>(held->name_.release());
  // acq_rel: each word is taken out by one thread, which closes what it names
  const std::uint64_t before =
      g_kept[g_next.fetch_add(1, std::memory_order_relaxed) % kKept].exchange(
          word, std::memory_order_acq_rel);
  const int oldest = static_cast<int>(before >> 32);
  if (before != 0 && kept_word(oldest) == before) close(oldest);
  return number;
}

}  // namespace modelpool
