#include "worker/tunnel.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/write.hpp>
#include <string_view>
#include <tuple>

namespace modelpool::serve {

Tunnel::Tunnel(Client& client, Socket& upstream, Lease& lease, AccessLine& line)
    : client_(client),
      upstream_(upstream),
      lease_(lease),
      line_(line),
      wake_(upstream.get_executor()) {}

Task<> Tunnel::run(std::string first) {
  client_.listener = &wake_;
  asio::co_spawn(upstream_.get_executor(), send_up(), asio::detached);
  std::string_view bytes = first;
  for (error_code error; !error;) {
    if (!bytes.empty()) {
      passed(true);
      line_.out_bytes += bytes.size();
      if (!co_await client_.write(bytes)) break;
    }
    std::tie(error) = co_await upstream_.async_wait(Socket::wait_read, kTask);
    if (error) break;
    const std::size_t count = upstream_.read_some(asio::buffer(scratch_read()), error);
    if (error == asio::error::would_block) error = {};
    bytes = {scratch_read().data(), count};
  }
  is_over_ = true;
  error_code ignored;
  upstream_.close(ignored);
  wake_.notify();
  while (is_sending_) co_await client_.wake.wait();
  client_.listener = &client_.wake;
}

Task<> Tunnel::send_up() {
  while (!is_over_) {
    const std::string piece(client_.input().substr(0, kPipe_bytes));
    if (piece.empty()) {
      if (client_.has_left()) break;
      client_.read(kPipe_bytes);
      co_await wake_.wait();
      continue;
    }
    client_.take(piece.size());
    client_.read(kPipe_bytes);
    passed(false);
    line_.in_bytes += piece.size();
    // Another end than the client's is for the other direction to see.
    const auto [error, bytes] = co_await asio::async_write(upstream_, asio::buffer(piece), kTask);
    if (error) break;
  }
  error_code ignored;
  if (client_.has_left()) upstream_.close(ignored);
  is_sending_ = false;
  client_.wake.notify();
}

void Tunnel::passed(bool from_backend) {
  waits_for_client_ = from_backend;
  last_byte_ = Clock::now();
  static_cast<void>(lease_.progress());
}

}  // namespace modelpool::serve
