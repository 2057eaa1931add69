// Who may ask: keys, the Origin of a page, the Host that was meant (DNS rebinding), and which
// proxies are believed.
//
// Safety: pure, but read_keys, which reads a file. Keys are compared as SHA-256, all of them each
// time; none is kept or logged.
//
// Errors: 401, 403, 421; of read_keys kInvalid and kPermission, naming the line.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/door.hpp"
#include "modelpool/result.hpp"
#include "wire/message.hpp"

namespace modelpool::serve {

using Sha256 = std::array<std::uint8_t, 32>;
std::optional<Sha256> sha256_of(std::string_view text);  // none: OpenSSL has none

struct Key {
  Sha256 sha256{};
  bool may_steer = false;
  std::string name;  // for the access log; empty: none
};
// Lines of `KEY [use|steer] [name]`; # begins a comment. The file must be 0600 or stricter, ours,
// and have at least one key.
Result<std::vector<Key>> read_keys(const std::string& path);

// What a listener and the config make of a request.
struct AccessRules {
  // kPeer: whoever connected has shown a certificate, so no key is needed.
  config::Auth auth = config::Auth::kDefault;
  bool is_unix = false;
  bool is_loopback = false;                // the listener's address
  std::vector<std::string> host_names;     // the listener's own and `hosts`; a port is ignored
  std::vector<std::string> cors_origins;   // "https://example.org", or "*"
  bool is_for_all_sites = false;           // nothing to do or to read: no Origin is asked for
  const std::vector<Key>* keys = nullptr;  // null: there are none
};

struct Admitted {
  const Key* key = nullptr;  // null: none was needed or given
  std::string allow_origin;  // for Access-Control-Allow-Origin, with Vary; empty: none
};
// Host first, then the key, then the Origin. OPTIONS, which browsers send without a key, needs
// none: the door answers it itself. An HTTP/1.0 request without Host is none of a browser's and
// passes. Where no keys are configured what a request carries as one is the backend's business.
Checked<Admitted> admit(const http::header<true>& head, const AccessRules& rules);
// The door's own answer to OPTIONS: the fields of a preflight's answer.
std::vector<std::pair<std::string, std::string>> preflight_fields(const http::header<true>& head,
                                                                  const AccessRules& rules);

// Is the address (IPv4, IPv6, or IPv4 as ::ffff:) one of these, or in one of these networks
// ("10.0.0.0/8")? What is none of both is in nothing.
bool is_trusted(std::string_view address, const std::vector<std::string>& networks);

}  // namespace modelpool::serve
