#include "worker/service.hpp"

#include <openssl/err.h>
#include <openssl/x509err.h>

#include <boost/asio/ip/address.hpp>

namespace modelpool::serve {
namespace {

constexpr std::string_view kUnix = "unix:";

bool is_of_another_certificate(const error_code& error) {
  const auto code = static_cast<unsigned long>(error.value());
  return ERR_GET_LIB(code) == ERR_LIB_X509 && ERR_GET_REASON(code) == X509_R_KEY_VALUES_MISMATCH;
}

Result<std::shared_ptr<asio::ssl::context>> tls_of(const config::Listener& listener) {
  if (listener.tls_cert.empty()) return std::shared_ptr<asio::ssl::context>();
  auto tls = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
  const auto unable = [&](const std::string& file, const error_code& error) {
    return fail(Errc::kInvalid, "unable to read " + file + " for the listener " + listener.address +
                                    ": " + error.message());
  };
  error_code error;
  tls->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_tlsv1 |
                       asio::ssl::context::no_tlsv1_1,
                   error);
  tls->use_certificate_chain_file(listener.tls_cert, error);
  if (error) return unable(listener.tls_cert, error);
  const std::string& key = listener.tls_key.empty() ? listener.tls_cert : listener.tls_key;
  tls->use_private_key_file(key, asio::ssl::context::pem, error);
  if (error && !is_of_another_certificate(error)) return unable(key, error);
  // One of another kind (RSA, EC) was taken without a word.
  if (error || SSL_CTX_check_private_key(tls->native_handle()) != 1) {
    ERR_clear_error();
    return fail(Errc::kInvalid, "unable to use " + key + " for the listener " + listener.address +
                                    ": it is not the key of " + listener.tls_cert +
                                    "; name the one that belongs to it");
  }
  // Idle connections hold no buffers.
  SSL_CTX_set_mode(tls->native_handle(), SSL_MODE_RELEASE_BUFFERS);
  if (listener.tls_client_ca.empty()) return tls;
  // Each connection shows its certificate: a session that goes on would vouch for one that has
  // expired since.
  SSL_CTX_set_session_cache_mode(tls->native_handle(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(tls->native_handle(), SSL_OP_NO_TICKET);
  SSL_CTX_set_num_tickets(tls->native_handle(), 0);
  tls->load_verify_file(listener.tls_client_ca, error);
  if (error) return unable(listener.tls_client_ca, error);
  tls->set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert, error);
  return tls;
}

// "[::1]:8080" -> "::1"
std::string host_of(const std::string& address) {
  std::string host = address.substr(0, address.rfind(':'));
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  return host;
}

}  // namespace

// All but the log.
Result<std::shared_ptr<InForce>> InForce::read(const std::shared_ptr<const config::Door>& door,
                                               const std::vector<config::Listener>& listeners) {
  auto made = std::make_shared<InForce>();
  made->door = door;
  if (!door->serve.keys_file.empty()) {
    auto keys = read_keys(door->serve.keys_file);
    if (!keys) return fail(keys.error());
    made->keys = std::move(*keys);
  }
  for (const config::Listener& listener : listeners) {
    Gate gate;
    gate.rules.auth = listener.auth;
    gate.rules.is_unix = listener.address.starts_with(kUnix);
    if (!gate.rules.is_unix) {
      const std::string host = host_of(listener.address);
      error_code error;
      const auto number = asio::ip::make_address(host, error);
      gate.rules.is_loopback = error ? host == "localhost" : number.is_loopback();
      gate.rules.host_names.push_back(host);
    }
    for (const std::string& name : door->serve.hosts) gate.rules.host_names.push_back(name);
    gate.rules.cors_origins = door->serve.cors_origins;
    if (!made->keys.empty()) gate.rules.keys = &made->keys;
    gate.of_probes = gate.rules;
    gate.of_probes.auth = config::Auth::kNone;
    gate.of_page = gate.of_probes;
    gate.of_page.is_for_all_sites = true;
    auto tls = tls_of(listener);
    if (!tls) return fail(tls.error());
    gate.tls = std::move(*tls);
    made->gates.push_back(std::move(gate));
  }
  for (const config::Model& model : door->models) {
    const auto shared = std::shared_ptr<const config::Model>(door, &model);
    made->models[model.name] = shared;
    for (const std::string& alias : model.aliases) made->models[alias] = shared;
  }
  return made;
}

Result<std::shared_ptr<InForce>> InForce::make(const std::shared_ptr<const config::Door>& door,
                                               const std::vector<config::Listener>& listeners) {
  auto made = read(door, listeners);
  if (!made) return fail(made.error());
  auto log = AccessLog::open(door->serve);
  if (!log) return fail(log.error());
  (*made)->log = std::move(*log);
  return made;
}

Result<> InForce::check(const std::shared_ptr<const config::Door>& door) {
  if (const auto made = read(door, door->serve.listeners); !made) return fail(made.error());
  return AccessLog::check(door->serve);
}

bool InForce::are_same(const std::string& a, const std::string& b) const {
  const auto one = models.find(a);
  const auto other = models.find(b);
  return a == b || (one != models.end() && other != models.end() && one->second == other->second);
}

const std::string& InForce::name_of(const std::string& name) const {
  const auto found = models.find(name);
  return found == models.end() ? name : found->second->name;
}

}  // namespace modelpool::serve
