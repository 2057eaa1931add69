#include "base/probe_target.hpp"

#include <algorithm>
#include <utility>

#include "base/text.hpp"
#include "base/text_values.hpp"

namespace modelpool {

Result<ProbeTarget> probe_target(std::string_view text, std::string_view probe) {
  const auto not_probed = [&](const std::string& why) {
    return fail(Errc::kInvalid, "unable to probe \"" + escape(text) + "\": " + why);
  };
  auto request = parse_probe(probe);
  if (probe.empty() || !request) return not_probed("probe is none of GET /PATH and tcp");
  const auto address = parse_address(text);
  if (!address) return not_probed("it is neither host:port nor unix:/path");
  ProbeTarget target;
  target.path = std::move(request->path);
  if (!address->unix_path.empty()) {
    target.unix_path = address->unix_path;
    target.host = "localhost";
    return target;
  }
  if (text.starts_with("https://") && !target.path.empty())
    return not_probed("a GET speaks no TLS; set probe = \"tcp\"");
  target.numbers = numbers_of(address->host);
  if (target.numbers.empty())
    return not_probed("its host is a name that a resolver would have to be asked for");
  const bool is_v6 = address->host.find(':') != std::string::npos;
  target.port = address->port;
  target.host =
      (is_v6 ? "[" + address->host + "]" : address->host) + ":" + std::to_string(address->port);
  const bool is_plain = std::all_of(target.host.begin(), target.host.end(),
                                    [](char c) { return c > ' ' && c < 127; });
  if (!is_plain) return not_probed("its host is no name that an HTTP request may carry");
  return target;
}

}  // namespace modelpool
