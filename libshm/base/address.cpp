#include "base/address.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/text.hpp"

namespace modelpool {
namespace {

// A host by one name: numeric and canonical, wildcards as the loopback address that reaches them.
std::string canonical_host(std::string host) {
  std::transform(host.begin(), host.end(), host.begin(),
                 [](unsigned char c) { return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c; });
  if (host.size() > 1 && host.ends_with('.')) host.pop_back();  // "localhost."
  if (host == "localhost") return "127.0.0.1";
  in_addr v4{};
  // "127.1", "0x7f.0.0.1", "2130706433" connect as well; nothing but a number does.
  const bool is_number = host.find_first_not_of("0123456789abcdefx.") == std::string::npos;
  if (is_number && inet_aton(host.c_str(), &v4) == 1) {
    char dotted[INET_ADDRSTRLEN];
    host = inet_ntop(AF_INET, &v4, dotted, sizeof dotted);
  }
  in6_addr v6{};
  char text[INET6_ADDRSTRLEN];
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) {
    if (v4.s_addr == htonl(INADDR_ANY)) return "127.0.0.1";
    return inet_ntop(AF_INET, &v4, text, sizeof text);
  }
  if (inet_pton(AF_INET6, host.c_str(), &v6) != 1) return host;
  if (IN6_IS_ADDR_UNSPECIFIED(&v6)) return "::1";
  if (IN6_IS_ADDR_V4MAPPED(&v6)) {
    std::memcpy(&v4, v6.s6_addr + 12, sizeof v4);
    return canonical_host(inet_ntop(AF_INET, &v4, text, sizeof text));
  }
  return inet_ntop(AF_INET6, &v6, text, sizeof text);
}

}  // namespace

Result<Address> parse_address(std::string_view text) {
  const auto unusable = [&](const std::string& why) {
    return fail(Errc::kInvalid, "unable to connect to \"" + escape(text) + "\": " + why +
                                    "; write host:port or unix:/path");
  };
  constexpr std::string_view kUnix = "unix:";
  Address address;
  if (text.starts_with(kUnix)) {
    address.unix_path = text.substr(kUnix.size());
    if (address.unix_path.empty()) return unusable("the path is missing");
    if (address.unix_path.size() >= sizeof(sockaddr_un::sun_path)) {
      return unusable("the path is longer than " +
                      std::to_string(sizeof(sockaddr_un::sun_path) - 1) + " bytes");
    }
    return address;
  }
  std::string_view rest = text;
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!rest.starts_with(scheme)) continue;
    rest.remove_prefix(scheme.size());
    const std::size_t slash = std::min(rest.find('/'), rest.size());
    address.path = rest.substr(slash);
    if (address.path == "/") address.path.clear();
    rest = rest.substr(0, slash);
    break;
  }
  const std::size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos) return unusable("the port is missing");
  const auto port = parse_count(rest.substr(colon + 1), 65535);
  if (!port || *port == 0) return unusable("the port is not a number from 1 to 65535");
  std::string_view host = rest.substr(0, colon);
  if (host.starts_with("[") && host.ends_with("]")) host = host.substr(1, host.size() - 2);
  if (host.empty()) return unusable("the host is missing");
  address.host = host;
  address.port = static_cast<int>(*port);
  return address;
}

std::string place_of(std::string_view text) {
  const auto address = parse_address(text);
  if (!address) return std::string(text);
  if (!address->unix_path.empty()) {
    return "unix:" + std::filesystem::path(address->unix_path).lexically_normal().string();
  }
  return canonical_host(address->host) + " " + std::to_string(address->port) + address->path;
}

}  // namespace modelpool
