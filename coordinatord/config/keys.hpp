// The keys of [serve], [[serve.listener]] and [models."NAME"], by what they take: for the readers,
// the summary and the hints.
//
// Safety: plain values and pure functions.
//
// Errors: none.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "config/door.hpp"

namespace modelpool::config {

struct ServeCount {
  std::string_view name;
  std::uint32_t Serve::*member;
  std::uint32_t min;
  std::uint32_t max;
};
inline constexpr std::array<ServeCount, 2> kServeCounts = {{
    {"workers", &Serve::workers, 1, 256},
    {"max_connections", &Serve::max_connections, 1, 1'000'000},
}};

struct ServeSize {
  std::string_view name;
  std::uint64_t Serve::*member;
  std::uint64_t min_bytes;
};
inline constexpr std::array<ServeSize, 4> kServeSizes = {{
    {"body_memory", &Serve::body_memory_bytes, 0},
    {"body_limit", &Serve::body_limit_bytes, 1},
    {"bodies_memory", &Serve::bodies_memory_bytes, 1 << 20},
    {"bodies_disk", &Serve::bodies_disk_bytes, 0},
}};

struct ServeTime {
  std::string_view name;
  std::uint64_t Serve::*member;
};
inline constexpr std::array<ServeTime, 8> kServeTimes = {{
    {"header_timeout", &Serve::header_timeout_ns},
    {"keepalive_timeout", &Serve::keepalive_timeout_ns},
    {"client_timeout", &Serve::client_timeout_ns},
    {"queue_timeout", &Serve::queue_timeout_ns},
    {"request_timeout", &Serve::request_timeout_ns},
    {"shutdown_timeout", &Serve::shutdown_timeout_ns},
    {"drain_timeout_serve", &Serve::drain_timeout_serve_ns},
    {"tunnel_idle", &Serve::tunnel_idle_ns},
}};

struct ServeList {
  std::string_view name;
  std::vector<std::string> Serve::*member;
};
inline constexpr std::array<ServeList, 3> kServeLists = {{
    {"hosts", &Serve::hosts},
    {"cors_origins", &Serve::cors_origins},
    {"trusted_proxies", &Serve::trusted_proxies},
}};

inline constexpr std::array<std::string_view, 8> kServeOthers = {
    "listen", "listener", "auth", "keys", "loading", "body_dir", "access_log", "access_log_format"};
inline constexpr std::array<std::string_view, 5> kListenerKeys = {"address", "auth", "tls", "mode",
                                                                  "group"};
inline constexpr std::array<std::string_view, 3> kTlsKeys = {"cert", "key", "client_ca"};
inline constexpr std::array<std::string_view, 10> kModelKeys = {
    "command", "ready", "address", "aliases", "env",
    "cwd",     "log",   "weights", "preload", "backend_key"};

inline constexpr std::string_view kPreload = "preload";

std::vector<std::string_view> serve_keys();  // all of [serve]

// Is the value of this key, in whatever table, usually a text between quotes?
bool takes_text(std::string_view key);

}  // namespace modelpool::config
