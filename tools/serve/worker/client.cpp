#include "worker/client.hpp"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/socket_base.hpp>

#include "worker/pieces.hpp"

namespace modelpool::serve {
namespace {

constexpr std::size_t kLingerMax_bytes = 1 << 20;
constexpr std::chrono::seconds kLinger{2};

}  // namespace

Client::Client(Socket socket, std::shared_ptr<asio::ssl::context> tls)
    : wake(socket.get_executor()), context_(std::move(tls)), socket_(std::move(socket)) {
  error_code ignored;
  socket_.non_blocking(true, ignored);
  if (context_) tls_.emplace(socket_, *context_);
}

Task<bool> Client::handshake() {
  if (!tls_) co_return true;
  const auto [error] = co_await tls_->async_handshake(asio::ssl::stream_base::server, kTask);
  if (error) has_left_ = true;
  co_return !error;
}

void Client::take(std::size_t bytes) {
  begin_ += bytes;
  if (begin_ < in_.size()) return;
  begin_ = 0;
  if (in_.capacity() > 1024) {
    std::string().swap(in_);
  } else {
    in_.clear();
  }
}

void Client::read(std::size_t limit) {
  limit_ = limit;
  if (is_reading_ || has_left_ || input().size() >= limit_) return;
  is_reading_ = true;
  auto self = shared_from_this();
  if (tls_) {
    if (!tls_in_) tls_in_ = std::make_unique<TlsIn>();
    tls_->async_read_some(asio::buffer(*tls_in_), [self](error_code error, std::size_t bytes) {
      if (bytes > 0) self->in_.append(self->tls_in_->data(), bytes);
      self->took_in(error, bytes);
    });
  } else {
    socket_.async_wait(Socket::wait_read, [self](error_code error) { self->read_now(error); });
  }
}

void Client::read_now(error_code error) {
  std::size_t bytes = 0;
  if (!error) {
    bytes = socket_.read_some(asio::buffer(scratch_read()), error);
    in_.append(scratch_read().data(), bytes);
    if (error == asio::error::would_block) error = {};
  }
  took_in(error, bytes);
}

void Client::took_in(error_code error, std::size_t bytes) {
  is_reading_ = false;
  if (bytes > 0) last_input_ = Clock::now();
  if (error) leaves(error);
  if (has_left_) {
    if (on_left) std::exchange(on_left, nullptr)();
  } else {
    read(limit_);
  }
  listener->notify();
}

void Client::leaves(const error_code& error) {
  const bool has_closed = error == asio::error::eof || error == asio::ssl::error::stream_truncated;
  if (!has_left_ && !has_closed) was_cut_ = true;
  has_left_ = true;
}

void Client::set_peer_timeout(std::chrono::seconds limit) {
  const int fd = socket_.native_handle();
  const auto set = [fd](int level, int name, int value) {
    static_cast<void>(setsockopt(fd, level, name, &value, sizeof value));
  };
  const auto seconds = static_cast<int>(limit.count());
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, std::max(1, seconds / 2));
  set(IPPROTO_TCP, TCP_KEEPINTVL, std::max(1, seconds / 6));
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, seconds * 1000);
}

std::optional<uid_t> Client::user() {
  constexpr auto kNobody = static_cast<uid_t>(-1);  // of a TCP connection
  ucred peer{0, kNobody, 0};
  socklen_t length = sizeof peer;
  static_cast<void>(getsockopt(socket_.native_handle(), SOL_SOCKET, SO_PEERCRED, &peer, &length));
  return peer.uid == kNobody ? std::nullopt : std::optional<uid_t>(peer.uid);
}

Task<bool> Client::write(std::string_view first, std::string_view second, std::string_view third) {
  Pieces left(first, second, third);
  if (tls_) left.keep();
  while (!left.empty() && !has_left_) {
    error_code error;
    std::size_t bytes = 0;
    if (tls_) {
      blocked_since_ = Clock::now();
      std::tie(error, bytes) = co_await tls_->async_write_some(left.buffers(), kTask);
    } else {
      bytes = socket_.write_some(left.buffers(), error);
      if (error == asio::error::would_block) {
        if (!blocked_since_) blocked_since_ = Clock::now();
        left.keep();
        std::tie(error) = co_await socket_.async_wait(Socket::wait_write, kTask);
        bytes = 0;
      }
    }
    if (bytes > 0) blocked_since_.reset();
    if (error) leaves(error);
    left.consume(bytes);
  }
  blocked_since_.reset();
  co_return left.empty() && !has_left_;
}

// What the kernel still holds shrinks when the client reads, long before it takes more of ours.
std::optional<TimePoint> Client::blocked_since() {
  int queued = 0;
  if (blocked_since_ && ioctl(socket_.native_handle(), SIOCOUTQ, &queued) == 0) {
    if (queued < queued_bytes_) blocked_since_ = Clock::now();
    queued_bytes_ = queued;
  }
  return blocked_since_;
}

void Client::hold_unsent(int bytes) {
  error_code ignored;
  socket_.set_option(asio::socket_base::send_buffer_size(bytes), ignored);
}

void Client::look_for_end() {
  pollfd end{socket_.native_handle(), POLLRDHUP, 0};
  if (!is_reading_ && !has_left_ && ::poll(&end, 1, 0) == 1) took_in(asio::error::eof, 0);
}

void Client::abort() {
  has_left_ = true;
  error_code ignored;
  socket_.close(ignored);
  listener->notify();
}

void Client::reset() {
  error_code ignored;
  socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  abort();
}

Task<> Client::linger() {
  if (has_left_) co_return;
  const Limit limit(socket_, kLinger);
  if (tls_) static_cast<void>(co_await tls_->async_shutdown(kTask));
  error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  for (std::size_t seen = 0; !tls_ && !has_left_ && seen < kLingerMax_bytes;) {
    seen += input().size();
    take(input().size());
    read(kPipe_bytes);
    co_await wake.wait();
  }
  abort();
}

}  // namespace modelpool::serve
