#include "between/door_text.hpp"

#include <nlohmann/json.hpp>

namespace modelpool::config {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Listener, address, auth, mode, group, tls_cert, tls_key,
                                   tls_client_ca, line)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ReadyCheck, kind, path)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Model, name, aliases, command, address, ready, env, cwd, log,
                                   weights, preload, backend_key, size_bytes, line)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Serve, listeners, auth, workers, keys_file, hosts, cors_origins,
                                   trusted_proxies, loading_comments, access_log, access_log_json,
                                   max_connections, body_memory_bytes, body_limit_bytes,
                                   bodies_memory_bytes, bodies_disk_bytes, body_dir,
                                   header_timeout_ns, keepalive_timeout_ns, client_timeout_ns,
                                   queue_timeout_ns, request_timeout_ns, shutdown_timeout_ns,
                                   drain_timeout_serve_ns, tunnel_idle_ns)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Door, serve, models)

}  // namespace modelpool::config

namespace modelpool::serve {

// MessagePack: texts may hold any bytes.
std::string write_door(const config::Door& door) {
  std::string text;
  nlohmann::json::to_msgpack(nlohmann::json(door), text);
  return text;
}

Result<config::Door> read_door(std::string_view text) {
  try {
    return nlohmann::json::from_msgpack(text).get<config::Door>();
  } catch (const nlohmann::json::exception& error) {
    return fail(Errc::kInvalid,
                std::string("unable to read a config from poolserve: ") + error.what());
  }
}

}  // namespace modelpool::serve
