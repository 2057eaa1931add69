// Where a probe goes and what it asks: an address and a value of the setting `probe`.
//
// Safety: pure functions; any thread.
//
// Errors: kInvalid, why the backend cannot be probed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/address.hpp"

namespace modelpool {

struct ProbeTarget {
  std::string unix_path;    // "@name": an abstract socket; empty: a number and the port
  std::vector<Ip> numbers;  // tried in this order, until one accepts
  int port = 0;
  std::string host;  // as an HTTP request names it
  std::string path;  // of a GET; empty: that it accepts a connection is enough
};

// Nobody is asked for the numbers of a name: a resolver may take long.
Result<ProbeTarget> probe_target(std::string_view address, std::string_view probe);

}  // namespace modelpool
