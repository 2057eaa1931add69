// Who may ask: keys, the Origin of a page, the Host that was meant (DNS rebinding).
//
// Safety: pure, but read_keys, which reads a file. Keys are compared as SHA-256; none is logged.
//
// Errors: 401, 403, 421; of read_keys kInvalid and kPermission, naming the line.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/door.hpp"
#include "modelpool/result.hpp"
#include "wire/message.hpp"

namespace modelpool::serve {

struct Key {
  std::array<std::uint8_t, 32> sha256{};
  bool may_steer = false;
  std::string name;  // for the access log; empty: none
};
// Lines of `KEY [use|steer] [name]`; # begins a comment. The file must be 0600 or stricter and ours.
Result<std::vector<Key>> read_keys(const std::string& path);

// What a listener and the config make of a request.
struct AccessRules {
  config::Auth auth = config::Auth::kDefault;
  bool is_unix = false;
  bool is_loopback = false;              // the listener's address
  std::vector<std::string> host_names;   // the listener's own and `hosts`
  std::vector<std::string> cors_origins;
  const std::vector<Key>* keys = nullptr;
};

struct Admitted {
  const Key* key = nullptr;         // null: none was needed or given
  std::string allow_origin;         // for Access-Control-Allow-Origin; empty: none
};
Checked<Admitted> admit(const http::header<true>& head, const AccessRules& rules);
// The door's own answer to OPTIONS: the fields of a preflight's answer.
std::vector<std::pair<std::string, std::string>> preflight_fields(const http::header<true>& head,
                                                                  const AccessRules& rules);

}  // namespace modelpool::serve
