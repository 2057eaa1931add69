// Where a backend answers: the text a loader gave, taken apart.
//
// Safety: pure functions; any thread.
//
// Errors: kInvalid for a text that names no place a client could connect to. The pool takes such
// texts too (an address is for the application to read); then nothing is known of the place.
#pragma once

#include <string>
#include <string_view>

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

// Equal for two texts that lead to one listener: "localhost:80", "127.0.0.1:80" and "0.0.0.0:80"
// do. A text that is no address stands for itself.
std::string place_of(std::string_view text);

}  // namespace modelpool
