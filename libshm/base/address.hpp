// Where a backend answers: the text a loader gave, taken apart.
//
// Safety: pure functions; any thread.
//
// Errors: kInvalid for a text that names no place a client could connect to. The pool takes such
// texts too (an address is for the application to read); then nothing is known of the place.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "modelpool/result.hpp"

namespace modelpool {

// "unix:/path", "host:port", "[::1]:port", the last two also after "http://" and before "/path".
struct Address {
  std::string unix_path;  // empty: host and port
  std::string host;       // without brackets
  int port = 0;
  std::string path;  // behind the port; "" for "/"
};
Result<Address> parse_address(std::string_view text);

// A number of IPv6 in network order, or one of IPv4 as IPv6 maps it ("::ffff:127.0.0.1").
using Ip = std::array<std::uint32_t, 4>;
Ip mapped(std::uint32_t v4);  // in network order
bool is_v4(const Ip& ip);

// The numbers that a connection to the host may go to: several for "localhost" and "*". A wildcard
// is the loopback that reaches it. Empty: only a resolver knows, and none is asked.
std::vector<Ip> numbers_of(std::string_view host);

// The places that a text leads to. Two texts that share one may lead to one listener, as
// "localhost:80", "127.1:80", "0.0.0.0:80" and "*:80" do. A text that is no address stands for
// itself, and so does a host's name.
std::vector<std::string> places_of(std::string_view text);

}  // namespace modelpool
