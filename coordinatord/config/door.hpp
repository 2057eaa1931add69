// What poolserve reads of the pool's file: the [serve] table and each [models."NAME"]. Each program
// checks all tables and uses its own.
//
// Safety: plain values.
//
// Errors: none.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "modelpool/settings.hpp"

namespace modelpool::config {

// Who may ask.
enum class Auth {
  kDefault,  // none on loopback without keys, else keys
  kNone,
  kKeys,
  kPeer,  // another door of the fleet: whoever has a certificate of client_ca
};

// Where the door listens.
struct Listener {
  std::string address;  // as written: "127.0.0.1:8080", "[::1]:8080", "unix:/run/x.sock"
  Auth auth = Auth::kDefault;
  std::uint32_t mode = 0600;  // of a Unix socket
  std::string group;          // of a Unix socket; empty: ours
  std::string tls_cert;       // a file; empty: no TLS
  std::string tls_key;
  std::string tls_client_ca;  // empty: clients need no certificate
  std::uint32_t line = 0;     // in the file; 0: from a flag, or by default

  bool operator==(const Listener&) const = default;
};

// When a backend is ready to serve.
struct ReadyCheck {
  enum class Kind {
    kDefault,  // GET /health; a listening socket only after 404, 405, 501 or an answer not of HTTP
    kTcp,
    kHttp,
  };
  Kind kind = Kind::kDefault;
  std::string path;  // kHttp

  bool operator==(const ReadyCheck&) const = default;
};

// How to load one model.
struct Model {
  std::string name;
  std::vector<std::string> aliases;
  std::vector<std::string> command;  // its words; "{port}" and "{socket}" stay. Empty: none
  std::string address;               // may have "{port}"; empty: where {port} or {socket} is
  ReadyCheck ready;
  std::vector<std::pair<std::string, std::string>> env;  // values resolved
  std::string cwd;                                       // empty: the door's
  std::string log;                                       // empty: the pool's log_dir
  std::string weights;                                   // the file or folder they lie in
  std::string backend_key;                               // sent to the backend; empty: none
  bool preload = false;                                  // loaded at the start, in order of lines
  std::uint64_t size_bytes = 0;  // of its weights, where they were found in a folder; 0: unknown
  std::uint32_t line = 0;

  bool operator==(const Model&) const = default;
};

inline constexpr std::uint64_t kSecond_ns = 1'000'000'000;

// The [serve] table; times in nanoseconds, 0 is off.
struct Serve {
  std::vector<Listener> listeners;  // none: the file names none; then default_listener
  Auth auth = Auth::kDefault;       // of `listen`, of --listen and of default_listener
  std::uint32_t workers = 0;        // 0: one a core, at least 2
  std::string keys_file;            // empty: no keys
  std::vector<std::string> hosts;   // further names that a Host field may have
  std::vector<std::string> cors_origins;
  std::vector<std::string> trusted_proxies;  // addresses, or networks as "10.0.0.0/8"
  bool loading_comments = true;              // loading = "comments" | "off"
  std::string access_log;                    // "": none, "-": stderr, else a file
  bool access_log_json = false;              // access_log_format = "text" | "json"
  std::uint32_t max_connections = 10'000;    // of all workers together
  std::uint64_t body_memory_bytes = 1 << 20;
  std::uint64_t body_limit_bytes = 64 << 20;
  std::uint64_t bodies_memory_bytes = 256 << 20;             // of a process
  std::uint64_t bodies_disk_bytes = std::uint64_t{4} << 30;  // of a process
  std::string body_dir = "/var/tmp";                         // where unlinked files go
  std::uint64_t header_timeout_ns = 10 * kSecond_ns;
  std::uint64_t keepalive_timeout_ns = 75 * kSecond_ns;  // between requests of a connection
  std::uint64_t client_timeout_ns = 60 * kSecond_ns;     // without a byte taken or sent by it
  std::uint64_t queue_timeout_ns = 600 * kSecond_ns;     // to get a place, a load included
  std::uint64_t request_timeout_ns = 0;
  std::uint64_t shutdown_timeout_ns = 30 * kSecond_ns;
  std::uint64_t drain_timeout_serve_ns = 3600 * kSecond_ns;
  std::uint64_t tunnel_idle_ns = 600 * kSecond_ns;  // a websocket without a byte either way

  bool operator==(const Serve&) const = default;
};

struct Door {
  Serve serve;
  std::vector<Model> models;  // by name

  bool operator==(const Door&) const = default;
};

}  // namespace modelpool::config
