#include "wire/access.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

#include "between/fd.hpp"
#include "wire/tokens.hpp"

namespace modelpool::serve {
namespace {

constexpr std::size_t kKeysFileMax_bytes = 1 << 20;
constexpr std::size_t kKeyMax_bytes = 1024;
constexpr std::size_t kOfferedMax = 16;  // keys in one request
constexpr std::size_t kAllowHeadersMax_bytes = 1024;

using Strings = std::vector<std::string>;
using IpBytes = std::array<std::uint8_t, 16>;  // IPv4 is ::ffff:a.b.c.d

std::optional<IpBytes> read_ip(std::string_view text) {
  // A zone is of an IPv6 address alone, and has no dot: else it is a name.
  const std::size_t zone = text.find('%');
  if (zone != std::string_view::npos &&
      (text.find(':') == std::string_view::npos || text.find('.', zone) != std::string_view::npos))
    return std::nullopt;
  const std::string address(text.substr(0, zone));
  IpBytes ip{};
  if (inet_pton(AF_INET6, address.c_str(), ip.data()) == 1) return ip;
  if (inet_pton(AF_INET, address.c_str(), ip.data() + 12) != 1) return std::nullopt;
  ip[10] = ip[11] = 0xff;
  return ip;
}

bool is_v4(const IpBytes& ip) {
  constexpr std::array<std::uint8_t, 12> kMapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  return std::equal(kMapped.begin(), kMapped.end(), ip.begin());
}

// Of "host:port", "[v6]:port" and these without a port.
std::string_view without_port(std::string_view host) {
  if (!host.empty() && host.front() == '[') {
    const std::size_t end = host.find(']');
    return end == std::string_view::npos ? host : host.substr(1, end - 1);
  }
  const std::size_t colon = host.find(':');
  if (colon == std::string_view::npos || host.find(':', colon + 1) != std::string_view::npos) {
    return host;  // a bare IPv6 address has several
  }
  return host.substr(0, colon);
}

std::string_view host_name(std::string_view host) {
  host = without_port(host);
  if (host.size() > 1 && host.back() == '.') host.remove_suffix(1);
  return host;
}

// The only value of a field; nullopt: none, or several.
std::optional<std::string_view> only(const http::header<true>& head, std::string_view name) {
  const auto range = head.equal_range({name.data(), name.size()});
  if (range.first == range.second || std::next(range.first) != range.second) return std::nullopt;
  return view(range.first->value());
}

bool has(const http::header<true>& head, std::string_view name) {
  return head.find({name.data(), name.size()}) != head.end();
}

// What the request carries as keys, each once.
std::vector<std::string_view> offered_keys(const http::header<true>& head) {
  std::vector<std::string_view> keys;
  for (const auto& field : head) {
    const std::string_view name = view(field.name_string());
    std::string_view value = view(field.value());
    if (field.name() == http::field::authorization) {
      if (!begins_with_word(value, "Bearer ")) continue;
      value = trimmed(value.substr(7));
    } else if (!same_word(name, "x-api-key") && !same_word(name, "api-key")) {
      continue;
    }
    if (std::find(keys.begin(), keys.end(), value) != keys.end()) continue;
    if (keys.size() < kOfferedMax) keys.push_back(value);
  }
  return keys;
}

// Looks at all keys, whichever fits.
const Key* find_key(std::string_view offered, const std::vector<Key>& keys) {
  const auto digest = sha256_of(offered);
  const Key* found = nullptr;
  for (const Key& key : keys) {
    const bool is_it =
        digest && CRYPTO_memcmp(digest->data(), key.sha256.data(), digest->size()) == 0;
    if (is_it) found = &key;
  }
  return found;
}

tl::unexpected<Refusal> no_key(const std::string& reason) {
  auto refusal = refuse(401, "invalid_api_key", "unable to serve the request: " + reason);
  refusal.value().wants_key = true;
  return refusal;
}

Checked<const Key*> check_key(const http::header<true>& head, const AccessRules& rules) {
  const std::vector<std::string_view> offered =
      rules.keys != nullptr ? offered_keys(head) : std::vector<std::string_view>();
  if (offered.size() > 1) return no_key("it has several keys; send one");
  const Key* key = offered.empty() ? nullptr : find_key(offered.front(), *rules.keys);
  if (key != nullptr) return key;
  const bool trusts = rules.auth == config::Auth::kNone || rules.auth == config::Auth::kPeer ||
                      (rules.auth == config::Auth::kDefault && rules.keys == nullptr &&
                       (rules.is_loopback || rules.is_unix));
  if (trusts || head.method() == http::verb::options) return nullptr;
  return no_key(offered.empty() ? "it has no key; send Authorization: Bearer KEY"
                                : "its key is not one of those known here");
}

Checked<> check_host(const http::header<true>& head, const AccessRules& rules) {
  if (rules.is_unix || !has(head, "Host")) return {};
  const auto field = only(head, "Host");
  const std::string_view name = field ? host_name(*field) : std::string_view();
  if (read_ip(name)) return {};
  const bool is_name = !name.empty() && field->front() != '[';
  if (is_name && same_word(name, "localhost")) return {};
  for (const std::string& known : rules.host_names) {
    if (is_name && same_word(host_name(known), name)) return {};
  }
  return refuse(421, "misdirected_request",
                "unable to serve the host \"" + std::string(name.substr(0, 255)) +
                    "\": it is no name of this door; add it to `hosts`");
}

// Is the page of this origin one that we served, whichever of http and https a proxy made of it?
bool is_same_origin(std::string_view origin, std::string_view host) {
  std::string_view default_port;
  if (begins_with_word(origin, "http://")) {
    origin.remove_prefix(7);
    default_port = ":80";
  } else if (begins_with_word(origin, "https://")) {
    origin.remove_prefix(8);
    default_port = ":443";
  } else {
    return false;
  }
  const auto without_default = [&](std::string_view text) {
    return ends_with(text, default_port) && without_port(text).size() < text.size()
               ? text.substr(0, text.size() - default_port.size())
               : text;
  };
  return !host.empty() && same_word(without_default(origin), without_default(host));
}

struct Page {
  bool is_foreign = false;
  std::string_view allowed_origin;  // empty: none was sent, or it may not read
};
Page page_of(const http::header<true>& head, const AccessRules& rules) {
  Page page;
  const bool is_cross_site =
      has(head, "Sec-Fetch-Site") &&
      same_word(only(head, "Sec-Fetch-Site").value_or("cross-site"), "cross-site");
  page.is_foreign = is_cross_site;
  if (!has(head, "Origin")) return page;
  const auto origin = only(head, "Origin");
  page.is_foreign = true;
  if (!origin || origin->empty()) return page;
  const bool is_listed =
      std::any_of(rules.cors_origins.begin(), rules.cors_origins.end(),
                  [&](const auto& listed) { return listed == "*" || same_word(listed, *origin); });
  const bool is_same =
      !is_cross_site && is_same_origin(*origin, only(head, "Host").value_or(std::string_view()));
  page.is_foreign = !is_listed && !is_same;
  if (!page.is_foreign) page.allowed_origin = *origin;
  return page;
}

// KEY [use|steer] [name]
Result<Key> read_key(std::string_view line) {
  std::string blanks(line);
  std::replace(blanks.begin(), blanks.end(), '\t', ' ');
  std::vector<std::string_view> words = members(blanks, ' ');
  const auto comment = std::find_if(words.begin(), words.end(),
                                    [](std::string_view word) { return word.front() == '#'; });
  words.erase(comment, words.end());
  const auto is_graphic = [](char c) { return c > ' ' && c < 0x7f; };
  const std::string_view text = words.front();
  if (text.size() > kKeyMax_bytes || !std::all_of(text.begin(), text.end(), is_graphic)) {
    return fail(Errc::kInvalid, "a key is 1 to 1024 printable ASCII characters");
  }
  Key key;
  std::size_t next = 1;
  if (next < words.size() && (words[next] == "use" || words[next] == "steer")) {
    key.may_steer = words[next++] == "steer";
  }
  if (next < words.size()) key.name = words[next++];
  if (next < words.size()) return fail(Errc::kInvalid, "write KEY [use|steer] [name]");
  if (!is_utf8(key.name) || std::any_of(key.name.begin(), key.name.end(), is_control)) {
    return fail(Errc::kInvalid, "the name of a key is printable UTF-8");
  }
  const auto digest = sha256_of(text);
  if (!digest) return fail(Errc::kSystem, "OpenSSL has no SHA-256");
  key.sha256 = *digest;
  return key;
}

Result<std::string> read_private_file(const std::string& path) {
  const std::string what = "read the keys of " + path;
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (!file || fstat(file.get(), &status) != 0) return fail_errno(errno, what);
  const auto refuse_file = [&](Errc code, const char* reason) {
    return fail(code, "unable to " + what + ": " + reason);
  };
  if (!S_ISREG(status.st_mode)) return refuse_file(Errc::kInvalid, "it is no file");
  if (status.st_uid != geteuid()) {
    return refuse_file(Errc::kPermission, "it belongs to another user; chown it");
  }
  if ((status.st_mode & 077) != 0) {
    return refuse_file(Errc::kPermission, "it is open to others; chmod 600 it");
  }
  std::string text(kKeysFileMax_bytes + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t count = read(file.get(), text.data() + size, text.size() - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(errno, what);
    if (count == 0) break;
    size += static_cast<std::size_t>(count);
  }
  if (size > kKeysFileMax_bytes) return refuse_file(Errc::kInvalid, "it has more than 1 MiB");
  text.resize(size);
  return text;
}

}  // namespace

std::optional<Sha256> sha256_of(std::string_view text) {
  Sha256 digest{};
  if (EVP_Digest(text.data(), text.size(), digest.data(), nullptr, EVP_sha256(), nullptr) != 1) {
    return std::nullopt;
  }
  return digest;
}

Result<std::vector<Key>> read_keys(const std::string& path) {
  const auto text = read_private_file(path);
  if (!text) return fail(text.error());
  std::vector<Key> keys;
  std::size_t number = 0;
  for (std::string_view rest = *text; !rest.empty();) {
    ++number;
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (trimmed(line).empty() || trimmed(line).front() == '#') continue;
    const auto invalid = [&](const std::string& reason) {
      return fail(Errc::kInvalid, "unable to read the keys of " + path + ": line " +
                                      std::to_string(number) + ": " + reason);
    };
    auto key = read_key(line);
    if (!key) return invalid(key.error().text);
    if (std::any_of(keys.begin(), keys.end(),
                    [&](const Key& known) { return known.sha256 == key->sha256; })) {
      return invalid("its key stands further up already; remove one");
    }
    keys.push_back(std::move(*key));
  }
  if (keys.empty()) {
    return fail(Errc::kInvalid, "unable to read the keys of " + path +
                                    ": it has none; write a line KEY [use|steer] [name]");
  }
  return keys;
}

Checked<Admitted> admit(const http::header<true>& head, const AccessRules& rules) {
  if (const auto host = check_host(head, rules); !host) return tl::unexpected(host.error());
  const auto key = check_key(head, rules);
  if (!key) return tl::unexpected(key.error());
  const Page page = page_of(head, rules);
  if (page.is_foreign && *key == nullptr && !rules.is_for_all_sites) {
    return refuse(403, "foreign_origin",
                  "unable to serve a page of another site: list its origin in `cors_origins`, or "
                  "send a key");
  }
  return Admitted{*key, std::string(page.allowed_origin)};
}

std::vector<std::pair<std::string, std::string>> preflight_fields(const http::header<true>& head,
                                                                  const AccessRules& rules) {
  const std::string methods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
  std::vector<std::pair<std::string, std::string>> fields{
      {"Allow", methods},
      {"Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}};
  const Page page = page_of(head, rules);
  if (page.allowed_origin.empty()) return fields;
  fields.emplace_back("Access-Control-Allow-Origin", page.allowed_origin);
  fields.emplace_back("Access-Control-Allow-Methods", methods);
  std::string names = "Authorization, Content-Type";
  if (const auto asked = only(head, "Access-Control-Request-Headers")) {
    const auto list = members(*asked);
    if (!list.empty() && asked->size() <= kAllowHeadersMax_bytes &&
        std::all_of(list.begin(), list.end(), is_token)) {
      names = *asked;
    }
  }
  fields.emplace_back("Access-Control-Allow-Headers", names);
  if (only(head, "Access-Control-Request-Private-Network") == "true") {
    fields.emplace_back("Access-Control-Allow-Private-Network", "true");
  }
  fields.emplace_back("Access-Control-Max-Age", "600");
  return fields;
}

bool is_trusted(std::string_view address, const std::vector<std::string>& networks) {
  const auto ip = read_ip(address);
  if (!ip) return false;
  for (const std::string_view network : networks) {
    const std::size_t slash = network.find('/');
    const auto base = read_ip(network.substr(0, slash));
    if (!base) continue;
    std::size_t bits = 128;
    if (slash != std::string_view::npos) {
      const bool is_short = network.substr(0, slash).find(':') == std::string_view::npos;
      const auto length = plain_number(network.substr(slash + 1));
      if (!length || *length > (is_short ? 32 : 128)) continue;
      bits = *length + (is_short ? 96 : 0);
    }
    // ::/0 is all of IPv6 and nothing of IPv4.
    bool is_in = bits >= 96 || !is_v4(*ip);
    for (std::size_t bit = 0; bit < bits && is_in; ++bit) {
      is_in = (((*ip)[bit / 8] ^ (*base)[bit / 8]) >> (7 - bit % 8) & 1) == 0;
    }
    if (is_in) return true;
  }
  return false;
}

}  // namespace modelpool::serve
