#include "base/address.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/number.hpp"
#include "base/text.hpp"

namespace modelpool {
namespace {

constexpr std::string_view kLocalhost = "localhost";

Ip loopback4() { return mapped(htonl(INADDR_LOOPBACK)); }
Ip loopback6() { return {0, 0, 0, htonl(1)}; }

std::string lower_case(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) {
    return static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  });
  return lower;
}

// Of IPv4, also as "127.1", "0x7f.0.0.1" and "2130706433", which connect as well.
std::optional<in_addr> parse_v4(const std::string& host) {
  in_addr v4{};
  const bool is_number = host.find_first_not_of("0123456789abcdefx.") == std::string::npos;
  if (!is_number || inet_aton(host.c_str(), &v4) != 1) return std::nullopt;
  return v4;
}

std::string text_of(const Ip& ip) {
  char text[INET6_ADDRSTRLEN];
  return inet_ntop(AF_INET6, ip.data(), text, sizeof text);
}

}  // namespace

Ip mapped(std::uint32_t v4) { return {0, 0, htonl(0xffff), v4}; }
bool is_v4(const Ip& ip) { return ip == mapped(ip[3]); }

std::vector<Ip> numbers_of(std::string_view name) {
  std::string host = lower_case(name);
  if (host.size() > 1 && host.ends_with('.')) host.pop_back();  // the root of all names
  const bool is_loopback = host == kLocalhost || host.ends_with("." + std::string(kLocalhost));
  if (is_loopback || host == "*") return {loopback4(), loopback6()};
  if (const auto v4 = parse_v4(host)) {
    return {v4->s_addr == htonl(INADDR_ANY) ? loopback4() : mapped(v4->s_addr)};
  }
  Ip ip{};
  if (inet_pton(AF_INET6, host.c_str(), ip.data()) != 1) return {};
  if (ip == Ip{}) return {loopback6()};
  return {ip == mapped(htonl(INADDR_ANY)) ? loopback4() : ip};
}

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

std::vector<std::string> places_of(std::string_view text) {
  const auto address = parse_address(text);
  if (!address) return {std::string(text)};
  if (!address->unix_path.empty()) {
    return {"unix:" + std::filesystem::path(address->unix_path).lexically_normal().string()};
  }
  const std::string port = " " + std::to_string(address->port) + address->path;
  std::vector<std::string> places;
  for (const Ip& ip : numbers_of(address->host)) places.push_back(text_of(ip) + port);
  if (places.empty()) places.push_back(lower_case(address->host) + port);
  return places;
}

}  // namespace modelpool
