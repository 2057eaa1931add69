// The names of Asio as poolserve uses it: one loop, one thread, coroutines without exceptions.
//
// Safety: everything here belongs to the thread that runs the loop.
//
// Errors: operations answer (error_code, ...).
#pragma once

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <cstddef>
#include <memory>

namespace modelpool::serve {

namespace asio = boost::asio;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

using Loop = asio::io_context;
using Executor = Loop::executor_type;
template <class T = void>
using Task = asio::awaitable<T, Executor>;
using UseTask = asio::as_tuple_t<asio::use_awaitable_t<Executor>>;
inline constexpr UseTask kTask{asio::use_awaitable_t<Executor>()};

using Socket = asio::basic_stream_socket<asio::generic::stream_protocol, Executor>;
using Timer = asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, Executor>;

// What is held of a stream in one direction; when it is full the other side is not read.
inline constexpr std::size_t kPipe_bytes = 16 * 1024;
// Between two looks at what may be overdue.
inline constexpr std::chrono::milliseconds kTick{250};

// Of the loop's one thread, for what is read and handed on before anything else runs, so that a
// connection that waits holds no buffer. Two: what is read into one is decoded into the other.
using Scratch = std::array<char, kPipe_bytes>;
inline Scratch& scratch_read() {
  static thread_local Scratch bytes;
  return bytes;
}
inline Scratch& scratch_decoded() {
  static thread_local Scratch bytes;
  return bytes;
}

// Wakes the one coroutine that waits; a notify before the wait is kept.
class Wake {
 public:
  explicit Wake(const Executor& executor) : timer_(executor, TimePoint::max()) {}
  void notify() {
    is_set_ = true;
    timer_.cancel();
  }
  Task<> wait() {
    while (!is_set_) co_await timer_.async_wait(kTask);
    is_set_ = false;
  }

 private:
  Timer timer_;
  bool is_set_ = false;
};

// Closes a socket when its time is over, unless it is destroyed before.
class Limit {
 public:
  Limit(Socket& socket, Clock::duration length)
      : on_(std::make_shared<On>(On{&socket, false})), timer_(socket.get_executor(), length) {
    timer_.async_wait([on = on_](error_code error) {
      if (error || on->socket == nullptr) return;
      on->is_over = true;
      error_code ignored;
      on->socket->close(ignored);
    });
  }
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;
  ~Limit() { on_->socket = nullptr; }
  bool is_over() const { return on_->is_over; }

 private:
  struct On {
    Socket* socket;
    bool is_over;
  };
  std::shared_ptr<On> on_;
  Timer timer_;
};

inline Task<> pause(const Executor& executor, std::chrono::milliseconds length) {
  Timer timer(executor, length);
  co_await timer.async_wait(kTask);
}

}  // namespace modelpool::serve
