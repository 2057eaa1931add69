#include "config/listen.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <filesystem>

#include "base/number.hpp"
#include "base/text.hpp"
#include "config/problems.hpp"

namespace modelpool::config {
namespace {

constexpr std::uint64_t kPortMax = 65'535;
constexpr std::string_view kUnix = "unix:";

tl::unexpected<Error> unusable_address(std::string_view text, const std::string& why) {
  return fail(Errc::kInvalid, "unable to listen at " + quote(text) + ": " + why +
                                  "; write 127.0.0.1:8080, [::1]:8080 or unix:/run/door.sock");
}

bool is_any(const ListenAddress& address) {
  return address.host == "0.0.0.0" || address.host == "::";
}

// Would the kernel refuse the second?
bool collide(const ListenAddress& a, const ListenAddress& b) {
  if (!a.unix_path.empty() || !b.unix_path.empty()) return a.unix_path == b.unix_path;
  if (a.port != b.port || a.port == 0 || a.is_v6 != b.is_v6) return false;
  return a.host == b.host || is_any(a) || is_any(b);
}

Result<ListenAddress> parse_unix(std::string_view text) {
  ListenAddress address;
  const std::filesystem::path path(text.substr(kUnix.size()));
  if (!path.is_absolute()) return unusable_address(text, "the path does not begin with /");
  address.unix_path = path.lexically_normal().string();
  if (!path.has_filename()) return unusable_address(text, "the path names a folder");
  if (address.unix_path.size() >= sizeof(sockaddr_un::sun_path)) {
    return unusable_address(text, "the path is longer than " +
                                      std::to_string(sizeof(sockaddr_un::sun_path) - 1) + " bytes");
  }
  address.is_local = true;
  return address;
}

}  // namespace

Result<ListenAddress> parse_listen(std::string_view text) {
  if (!is_printable_utf8(text) || text.find(' ') != std::string_view::npos)
    return unusable_address(text, "it has a blank or a control character in it");
  if (text.starts_with(kUnix)) return parse_unix(text);
  ListenAddress address;
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return unusable_address(text, "the port is missing");
  const std::string_view digits = text.substr(colon + 1);
  const auto port = parse_count(digits, kPortMax);
  if (!port) return unusable_address(text, "the port is not a number from 0 to 65535");
  address.port = static_cast<std::uint16_t>(*port);
  std::string host(text.substr(0, colon));
  if (host.empty()) {
    return unusable_address(text, "the host is missing (0.0.0.0 is every address of this host)");
  }
  if (host == "localhost") host = "127.0.0.1";
  char buffer[INET6_ADDRSTRLEN];
  if (in_addr v4{}; inet_pton(AF_INET, host.c_str(), &v4) == 1) {
    address.host = inet_ntop(AF_INET, &v4, buffer, sizeof buffer);
    address.is_local = ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET;
    return address;
  }
  if (host.find(':') != std::string::npos && host.front() != '[')
    return unusable_address(text, "a number of IPv6 stands in brackets");
  if (host.size() < 2 || host.front() != '[' || host.back() != ']')
    return unusable_address(text, "the host is not a number, and no resolver is asked");
  in6_addr v6{};
  if (inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &v6) != 1)
    return unusable_address(text, "what stands in brackets is no number of IPv6");
  if (IN6_IS_ADDR_V4MAPPED(&v6)) {
    return unusable_address(text, "a number of IPv4 is written without brackets");
  }
  address.is_v6 = true;
  address.host = inet_ntop(AF_INET6, &v6, buffer, sizeof buffer);
  address.is_local = IN6_IS_ADDR_LOOPBACK(&v6);
  return address;
}

Listener default_listener(const Serve& serve) {
  Listener listener;
  listener.address = "127.0.0.1:8080";
  listener.auth = serve.auth;
  return listener;
}

std::vector<ListenerProblem> find_listener_problems(const Serve& serve) {
  std::vector<ListenerProblem> problems;
  if (serve.listeners.size() > kListenersMax) {
    problems.push_back({serve.listeners[kListenersMax].line,
                        "there are " + std::to_string(serve.listeners.size()) +
                            " addresses to listen at, and more than " +
                            std::to_string(kListenersMax) + " are not possible; remove some"});
  }
  std::vector<std::pair<const Listener*, ListenAddress>> seen;
  for (const Listener& listener : serve.listeners) {
    const auto add = [&](std::string reason) {
      problems.push_back({listener.line, std::move(reason)});
    };
    auto parsed = parse_listen(listener.address);
    if (!parsed) {
      add(as_reason(parsed.error().text));
      continue;
    }
    for (const auto& [other, address] : seen) {
      if (!collide(address, *parsed)) continue;
      add("cannot listen at " + quote(listener.address) + " twice" +
          (other->address == listener.address ? "" : ": " + quote(other->address) + " is there") +
          (other->line == 0 ? "" : ", first in line " + std::to_string(other->line)) +
          "; remove one");
      break;
    }
    const bool has_keys = !serve.keys_file.empty();
    if (listener.auth == Auth::kKeys && !has_keys) {
      add(quote(listener.address) +
          " asks for keys and there are none; add keys = \"FILE\" to [serve]");
    } else if (listener.auth == Auth::kPeer && listener.tls_client_ca.empty()) {
      add(quote(listener.address) +
          " is for peers, who are known by certificates; add tls = { cert, key, client_ca }");
    } else if (listener.auth == Auth::kDefault && !has_keys && !parsed->is_local) {
      add("whoever reaches " + quote(listener.address) +
          " could use and evict every model; add keys = \"FILE\" to [serve], or auth = \"none\" if "
          "that is meant");
    }
    seen.emplace_back(&listener, std::move(*parsed));
  }
  return problems;
}

Result<> check_listeners(const Serve& serve) {
  const auto problems = find_listener_problems(serve);
  if (problems.empty()) return {};
  return fail(Errc::kInvalid, "unable to listen: " + problems.front().reason);
}

}  // namespace modelpool::config
