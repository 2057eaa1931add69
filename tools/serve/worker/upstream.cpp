#include "worker/upstream.hpp"

#include <sys/socket.h>

#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <cerrno>
#include <charconv>

namespace modelpool::serve {
namespace {

using Endpoint = asio::generic::stream_protocol::endpoint;
using Answer = std::pair<error_code, std::optional<Socket>>;

constexpr std::string_view kUnix = "unix:";

struct HostPort {
  std::string host;
  std::uint16_t port = 0;
};
std::optional<HostPort> split(std::string_view address) {
  const std::size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  HostPort found{std::string(address.substr(0, colon)), 0};
  const std::string_view digits = address.substr(colon + 1);
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), found.port);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  if (found.host.starts_with('[') && found.host.ends_with(']'))
    found.host = found.host.substr(1, found.host.size() - 2);
  return found;
}

Task<Answer> connect_at(Executor executor, Endpoint endpoint, Clock::duration within) {
  Socket socket(executor);
  error_code error;
  socket.open(endpoint.protocol(), error);
  if (error) co_return Answer{error, std::nullopt};
  {
    const Limit limit(socket, within);
    std::tie(error) = co_await socket.async_connect(endpoint, kTask);
    if (limit.is_over()) error = asio::error::timed_out;
  }
  if (error) co_return Answer{error, std::nullopt};
  error_code ignored;
  socket.non_blocking(true, ignored);
  if (endpoint.protocol().family() != AF_UNIX) {
    socket.set_option(asio::ip::tcp::no_delay(true), ignored);
  }
  co_return Answer{error, std::move(socket)};
}

}  // namespace

Task<Answer> connect_to(Executor executor, const std::string& address, Clock::duration within) {
  if (address.starts_with(kUnix)) {
    const std::string path = address.substr(kUnix.size());
    if (path.size() >= 108) co_return Answer{asio::error::invalid_argument, std::nullopt};
    co_return co_await connect_at(executor, asio::local::stream_protocol::endpoint(path), within);
  }
  const auto where = split(address);
  if (!where) co_return Answer{asio::error::invalid_argument, std::nullopt};
  error_code error;
  const auto number = asio::ip::make_address(where->host, error);
  if (!error)
    co_return co_await connect_at(executor, asio::ip::tcp::endpoint(number, where->port), within);
  asio::ip::basic_resolver<asio::ip::tcp, Executor> resolver(executor);
  const auto [unresolved, found] =
      co_await resolver.async_resolve(where->host, std::to_string(where->port), kTask);
  if (unresolved) co_return Answer{unresolved, std::nullopt};
  Answer answer{asio::error::host_not_found, std::nullopt};
  for (const auto& entry : found) {
    answer = co_await connect_at(executor, entry.endpoint(), within);
    if (!answer.first) break;
  }
  co_return answer;
}

bool is_own_trouble(const error_code& error) {
  using boost::system::errc::errc_t;
  return error == errc_t::too_many_files_open || error == errc_t::too_many_files_open_in_system ||
         error == errc_t::not_enough_memory || error == errc_t::no_buffer_space ||
         error == errc_t::address_not_available;
}

std::optional<Socket> Upstreams::take(const BackendId& backend) {
  const auto found = idle_.find({backend.slot, backend.generation});
  while (found != idle_.end() && !found->second.empty()) {
    Socket socket = std::move(found->second.back().socket);
    found->second.pop_back();
    char byte;
    const ssize_t seen = recv(socket.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (seen < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return socket;
  }
  return std::nullopt;
}

void Upstreams::give_back(const BackendId& backend, Socket socket) {
  std::vector<Idle>& idle = idle_[{backend.slot, backend.generation}];
  if (idle.size() < kIdlePerBackendMax) idle.push_back({std::move(socket), Clock::now()});
}

void Upstreams::close_old(TimePoint now) {
  for (auto of = idle_.begin(); of != idle_.end();) {
    std::erase_if(of->second, [&](const Idle& one) { return now - one.since >= kIdleUpstream; });
    of = of->second.empty() ? idle_.erase(of) : std::next(of);
  }
}

}  // namespace modelpool::serve
