#include "config/serve_reader.hpp"

#include <arpa/inet.h>
#include <grp.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "base/number.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "config/files.hpp"
#include "config/keys.hpp"
#include "config/listen.hpp"
#include "config/values.hpp"

namespace modelpool::config {
namespace {

constexpr std::string_view kAddressLike = "\"127.0.0.1:8080\"";
constexpr std::string_view kAuthWords[] = {"none", "keys", "peer"};

std::optional<Auth> read_auth(const Member& member, Problems& problems) {
  const auto word = read_choice(member, {std::begin(kAuthWords), std::end(kAuthWords)}, problems);
  if (!word) return std::nullopt;
  return std::array{Auth::kNone, Auth::kKeys, Auth::kPeer}[*word];
}

// "10.0.0.0/8", "fd00::/8", or an address.
bool is_network(const std::string& text) {
  const std::size_t slash = std::min(text.find('/'), text.size());
  const std::string number = text.substr(0, slash);
  in6_addr ignored{};
  const bool is_v4 = inet_pton(AF_INET, number.c_str(), &ignored) == 1;
  if (!is_v4 && inet_pton(AF_INET6, number.c_str(), &ignored) != 1) return false;
  return slash == text.size() || parse_count(text.substr(slash + 1), is_v4 ? 32 : 128);
}

// "https://chat.example" as a browser sends it: no path, not even a slash.
bool is_origin(std::string_view text) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!text.starts_with(scheme)) continue;
    text.remove_prefix(scheme.size());
    return !text.empty() && text.find_first_of("/?#@ ") == std::string_view::npos;
  }
  return false;
}

class ServeReader {
 public:
  ServeReader(const std::string& config_path, Serve& serve, Problems& problems)
      : config_path_(config_path), serve_(serve), problems_(problems) {}

  void read(const Node& table) {
    for (const Member& member : table.members) read_key(member);
    // `auth` of [serve] is that of its `listen`, wherever it stands.
    for (Listener& listener : listen_) {
      listener.auth = serve_.auth;
      serve_.listeners.push_back(std::move(listener));
    }
    if (listen_.empty()) check_auth_without_listen();
    check_that_bodies_fit(table);
    std::stable_sort(serve_.listeners.begin(), serve_.listeners.end(),
                     [](const Listener& a, const Listener& b) { return a.line < b.line; });
    for (auto& [line, reason] : find_listener_problems(serve_))
      problems_.add({line, 0}, std::move(reason));
  }

 private:
  // It is that of the default, and of what --listen says.
  void check_auth_without_listen() {
    Serve alone;
    alone.keys_file = serve_.keys_file;
    alone.listeners = {default_listener(serve_)};
    for (auto& problem : find_listener_problems(alone))
      problems_.add(auth_at_, std::move(problem.reason));
  }

  // The largest that is not refused would never have room.
  void check_that_bodies_fit(const Node& table) {
    const auto check = [&](std::uint64_t largest, std::string_view room, std::uint64_t bytes) {
      if (largest <= bytes) return;
      Position at;
      for (const std::string_view key :
           {"body_memory", "body_limit", "bodies_memory", "bodies_disk"}) {
        const Node* const given = table.find(key);
        if (given != nullptr) at = std::max(at, given->at);
      }
      problems_.add(at, "a body of " + format_size_exactly(largest) + " never fits into " +
                            std::string(room) + ", " + format_size_exactly(bytes) + "; raise " +
                            std::string(room) + ", or lower body_limit");
    };
    check(std::min(serve_.body_memory_bytes, serve_.body_limit_bytes), "bodies_memory",
          serve_.bodies_memory_bytes);
    if (serve_.body_limit_bytes > serve_.body_memory_bytes)
      check(serve_.body_limit_bytes, "bodies_disk", serve_.bodies_disk_bytes);
  }

  void read_key(const Member& member) {
    const auto is = [&member](const auto& info) { return info.name == member.key; };
    if (const auto* count = std::find_if(kServeCounts.begin(), kServeCounts.end(), is);
        count != kServeCounts.end()) {
      if (const auto value = read_count(member, count->min, count->max, problems_))
        serve_.*count->member = static_cast<std::uint32_t>(*value);
    } else if (const auto* size = std::find_if(kServeSizes.begin(), kServeSizes.end(), is);
               size != kServeSizes.end()) {
      if (const auto value = read_size(member, size->min_bytes, problems_))
        serve_.*size->member = *value;
    } else if (const auto* time = std::find_if(kServeTimes.begin(), kServeTimes.end(), is);
               time != kServeTimes.end()) {
      if (const auto value = read_time(member, problems_)) serve_.*time->member = *value;
    } else if (member.key == "listen") {
      read_listen(member);
    } else if (member.key == "listener") {
      read_listeners(member);
    } else if (member.key == "auth") {
      auth_at_ = member.at;
      if (const auto auth = read_auth(member, problems_)) serve_.auth = *auth;
    } else if (member.key == "hosts") {
      read_list(member, "[\"models.example\"]", serve_.hosts, [](const std::string& host) {
        return host.find_first_of("/: ") == std::string::npos;
      });
    } else if (member.key == "cors_origins") {
      read_list(member, "[\"https://chat.example\"]", serve_.cors_origins, is_origin);
    } else if (member.key == "trusted_proxies") {
      read_list(member, "[\"10.0.0.0/8\", \"::1\"]", serve_.trusted_proxies, is_network);
    } else if (member.key == "loading") {
      if (const auto word = read_choice(member, {"comments", "off"}, problems_))
        serve_.loading_comments = *word == 0;
    } else if (member.key == "access_log_format") {
      if (const auto word = read_choice(member, {"text", "json"}, problems_))
        serve_.access_log_json = *word == 1;
    } else if (member.key == "access_log") {
      if (auto name = read_text(member, "\"-\" (stderr), \"off\" or \"access.log\"", problems_)) {
        serve_.access_log = *name == "off" ? "" : *name == "-" ? "-" : beside(config_path_, *name);
      }
    } else if (member.key == "keys") {
      if (auto path = read_path(member, "\"keys.txt\"", check_file_is_private))
        serve_.keys_file = std::move(*path);
    } else if (member.key == "body_dir") {
      if (auto path = read_path(member, "\"/var/tmp\"", check_folder_is_there))
        serve_.body_dir = std::move(*path);
    } else {
      report_unknown_key(member, serve_keys(), problems_);
    }
  }

  std::optional<std::string> read_path(const Member& member, std::string_view like,
                                       Result<> (*check)(const std::string&)) {
    const auto name = read_text(member, like, problems_);
    if (!name) return std::nullopt;
    std::string path = beside(config_path_, *name);
    if (const Result<> usable = check(path); !usable) {
      problems_.add(member.value.at, member.key + ": " + as_reason(usable.error().text));
    }
    return path;
  }

  template <class IsValid>
  void read_list(const Member& member, std::string_view like, std::vector<std::string>& list,
                 IsValid is_valid) {
    auto texts = read_texts(member, like, problems_);
    if (!texts) return;
    for (const std::string& text : *texts) {
      if (is_valid(text)) continue;
      problems_.add(member.value.at, member.key + " has " + quote(text) + " in it; write it like " +
                                         std::string(like));
    }
    list = std::move(*texts);
  }

  void read_listen(const Member& member) {
    const auto add = [this](const std::string& address, Position at) {
      if (const auto usable = parse_listen(address); !usable) {
        problems_.add(at, as_reason(usable.error().text));
        return;
      }
      Listener listener;
      listener.address = address;
      listener.line = at.line;
      listen_.push_back(std::move(listener));
    };
    const auto texts = read_texts(member, "[" + std::string(kAddressLike) + "]", problems_);
    if (!texts) return;
    for (std::size_t i = 0; i < texts->size(); ++i) {
      add((*texts)[i], member.value.items.empty() ? member.value.at : member.value.items[i].at);
    }
  }

  void read_listeners(const Member& member) {
    if (!member.value.is(Node::Kind::kArray)) {
      problems_.add(member.at, "listener is " + std::string(kind_name(member.value)) +
                                   "; write each as [[serve.listener]], with two brackets");
      return;
    }
    for (const Node& item : member.value.items) {
      if (item.is(Node::Kind::kTable)) {
        read_listener(item);
      } else {
        problems_.add(item.at, "listener has " + std::string(kind_name(item)) +
                                   " in it; write each as [[serve.listener]]");
      }
    }
  }

  void read_listener(const Node& table) {
    Listener listener;
    listener.line = table.at.line;
    bool has_socket_keys = false;
    for (const Member& member : table.members) {
      if (member.key == "address") {
        if (auto address = read_text(member, kAddressLike, problems_)) {
          listener.line = member.at.line;
          listener.address = std::move(*address);
        }
      } else if (member.key == "auth") {
        if (const auto auth = read_auth(member, problems_)) listener.auth = *auth;
      } else if (member.key == "tls") {
        read_tls(member, listener);
      } else if (member.key == "mode") {
        has_socket_keys = true;
        read_mode(member, listener);
      } else if (member.key == "group") {
        has_socket_keys = true;
        read_group(member, listener);
      } else {
        report_unknown_key(member, {kListenerKeys.begin(), kListenerKeys.end()}, problems_);
      }
    }
    if (table.find("address") == nullptr) {
      problems_.add(table.at, "a [[serve.listener]] without address; add address = " +
                                  std::string(kAddressLike));
      return;
    }
    const auto address = parse_listen(listener.address);
    if (!address) {
      if (!listener.address.empty())
        problems_.add(table.find("address")->at, as_reason(address.error().text));
      return;
    }
    if (address->unix_path.empty() && has_socket_keys) {
      problems_.add({listener.line, 0}, "mode and group belong to a Unix socket, and " +
                                            quote(listener.address) + " is none; remove them");
    }
    if (!address->unix_path.empty() && !listener.tls_cert.empty()) {
      problems_.add({listener.line, 0}, "a Unix socket never leaves this host; remove tls");
    }
    serve_.listeners.push_back(std::move(listener));
  }

  void read_tls(const Member& member, Listener& listener) {
    constexpr std::string_view kLike = "tls = { cert = \"door.pem\", key = \"door.key\" }";
    if (!member.value.is(Node::Kind::kTable)) {
      problems_.add(member.value.at, "tls is " + std::string(kind_name(member.value)) +
                                         "; write it like " + std::string(kLike));
      return;
    }
    for (const Member& file : member.value.members) {
      std::string* const to = file.key == "cert"        ? &listener.tls_cert
                              : file.key == "key"       ? &listener.tls_key
                              : file.key == "client_ca" ? &listener.tls_client_ca
                                                        : nullptr;
      if (to == nullptr) {
        report_unknown_key(file, {kTlsKeys.begin(), kTlsKeys.end()}, problems_);
      } else if (auto path = read_path(file, "\"door.pem\"", check_file_is_there)) {
        *to = std::move(*path);
      }
    }
    for (const char* const needed : {"cert", "key"}) {
      if (member.value.find(needed) == nullptr) {
        problems_.add(member.value.at, "tls has no " + std::string(needed) + "; write it like " +
                                           std::string(kLike));
      }
    }
  }

  // Only as chmod takes it: 660 without quotes would be another number.
  void read_mode(const Member& member, Listener& listener) {
    constexpr unsigned long kModeMax = 0777;
    const std::string& text = member.value.text;
    const bool is_octal = member.value.is(Node::Kind::kString) && !text.empty() &&
                          text.size() <= 4 &&
                          text.find_first_not_of("01234567") == std::string::npos;
    const unsigned long mode = is_octal ? std::strtoul(text.c_str(), nullptr, 8) : kModeMax + 1;
    if (mode > kModeMax) {
      problems_.add(member.value.at,
                    "mode takes what chmod does, between quotes; write it like \"0660\"");
      return;
    }
    listener.mode = static_cast<std::uint32_t>(mode);
  }

  void read_group(const Member& member, Listener& listener) {
    auto name = read_text(member, "\"users\"", problems_);
    if (!name) return;
    if (getgrnam(name->c_str()) == nullptr) {
      problems_.add(member.value.at, "there is no group " + quote(*name) +
                                         "; add it, or correct "
                                         "the name");
    }
    listener.group = std::move(*name);
  }

  const std::string& config_path_;
  Serve& serve_;
  Problems& problems_;
  std::vector<Listener> listen_;
  Position auth_at_;
};

}  // namespace

void read_serve(const Node& table, const std::string& config_path, Serve& serve,
                Problems& problems) {
  ServeReader(config_path, serve, problems).read(table);
}

}  // namespace modelpool::config
