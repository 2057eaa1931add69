// One client's connection: bytes in, bytes out, TLS or not, and whether it has left.
//
// Reading goes on by itself while it is wanted and there is room, so that a client that leaves is
// noticed whatever its request waits for.
//
// Safety: the loop's thread. A read in progress keeps the object.
//
// Crash: the kernel closes the connection.
//
// Errors: a client that ended or failed has left; there is nobody to tell.
#pragma once

#include <sys/types.h>

#include <array>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "worker/io.hpp"

namespace modelpool::serve {

class Client : public std::enable_shared_from_this<Client> {
 public:
  Client(Socket socket, std::shared_ptr<asio::ssl::context> tls);

  Task<bool> handshake();  // true without TLS
  bool is_tls() const { return tls_.has_value(); }

  // What came and was not taken yet.
  std::string_view input() const { return std::string_view(in_).substr(begin_); }
  void take(std::size_t bytes);
  // Reads, and goes on until `limit` bytes wait. Wakes whoever waits when something came.
  void read(std::size_t limit);
  bool has_left() const { return has_left_; }
  // It left without having closed: reset, unreachable, or it acknowledges nothing any more.
  bool was_cut() const { return was_cut_; }
  // From now on a client that vanishes is seen to have left when it has acknowledged nothing, be it
  // what was sent or a question of the kernel's, for so long.
  void set_peer_timeout(std::chrono::seconds limit);
  std::optional<uid_t> user();  // who connected, by a Unix socket

  // All of it, or false: it has left. Gathered into one write where the kernel takes it; what it
  // does not take at once is copied: the pieces may go when this waits.
  Task<bool> write(std::string_view first, std::string_view second = {},
                   std::string_view third = {});
  // Since when a write waits and the client has taken no byte.
  std::optional<TimePoint> blocked_since();
  // Where so much waits that nothing more is read: has it closed its side?
  void look_for_end();
  TimePoint last_input() const { return last_input_; }
  // So much the kernel holds of what it was not sent yet.
  void hold_unsent(int bytes);

  void abort();  // nothing more is read or written
  void reset();  // as abort, and the client sees a connection that broke, not one that ended
  // What was sent arrives before the end: no reset by bytes that are not read.
  Task<> linger();

  Wake wake;                      // of the connection's coroutine
  Wake* listener = &wake;         // who is woken when something came
  std::function<void()> on_left;  // called at most once, if set

 private:
  void read_now(error_code error);
  void took_in(error_code error, std::size_t bytes);
  void leaves(const error_code& error);

  using Tls = asio::ssl::stream<Socket&>;
  std::shared_ptr<asio::ssl::context> context_;
  Socket socket_;
  std::optional<Tls> tls_;
  using TlsIn = std::array<char, 4096>;  // small: each connection that waits has one
  std::unique_ptr<TlsIn> tls_in_;
  std::string in_;
  std::size_t begin_ = 0;
  std::size_t limit_ = 0;
  bool is_reading_ = false;
  bool has_left_ = false;
  bool was_cut_ = false;
  std::optional<TimePoint> blocked_since_;
  int queued_bytes_ = 0;  // in the kernel, at the last look
  TimePoint last_input_ = Clock::now();
};

}  // namespace modelpool::serve
