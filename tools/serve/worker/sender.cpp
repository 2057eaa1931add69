#include "worker/sender.hpp"

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "wire/heads.hpp"

namespace modelpool::serve {

RequestSender::RequestSender(const Executor& executor, Client& client, Asked& asked,
                             AccessLine& line)
    : client_(client),
      asked_(asked),
      line_(line),
      streams_(!asked.reader.is_whole()),
      wake_(executor) {
  if (asked.asked.value_bytes > 0 && asked.asked.name != asked.model->name)
    substituted_ = written_model(asked.asked, asked.model->name);
}

std::string RequestSender::head_text(const std::string& address) const {
  RequestChanges to;
  to.target = written_target(asked_.named, asked_.model->name);
  to.host = address.starts_with("unix:") ? "localhost" : address;
  if (streams_) {
    to.chunked = asked_.reader.framing() == Framing::kChunked;
    if (!to.chunked) to.content_length = asked_.reader.length();
  } else if (asked_.reader.framing() != Framing::kNone) {
    to.content_length = asked_.body.size() - (substituted_.empty() ? 0 : asked_.asked.value_bytes) +
                        substituted_.size();
  }
  to.client = asked_.client;
  to.client_is_trusted = asked_.client_is_trusted;
  to.was_tls = client_.is_tls();
  to.request_id = asked_.id;
  if (asked_.wants_websocket()) to.upgrade = asked_.reader.upgrade();
  to.backend_key = asked_.model->backend_key;
  return request_head(asked_.reader.head(), to, asked_.key_was_ours);
}

void RequestSender::start(Socket& upstream, Lease& lease, std::function<void()> on_bad_body) {
  upstream_ = &upstream;
  lease_ = &lease;
  on_bad_body_ = std::move(on_bad_body);
  is_stopped_ = false;
  head_ = head_text(lease.address());
  const std::string_view body = asked_.body.whole();
  if (streams_ && asked_.reader.framing() == Framing::kChunked && !body.empty()) {
    first_size_line_ = chunk_size_line(body.size());
    unsent_.emplace(head_, first_size_line_, body, "\r\n");
  } else if (!substituted_.empty()) {
    unsent_.emplace(head_, body.substr(0, asked_.asked.value_at), substituted_,
                    body.substr(asked_.asked.value_at + asked_.asked.value_bytes));
  } else {
    unsent_.emplace(head_, body);
  }
  error_code error;
  unsent_->consume(upstream.write_some(unsent_->buffers(), error));
  was_sent_ = unsent_->empty() && !streams_;
  is_sending_ = !was_sent_ && (!error || error == asio::error::would_block);
  if (is_sending_) asio::co_spawn(upstream.get_executor(), send_more(), asio::detached);
}

void RequestSender::stop() {
  is_stopped_ = true;
  wake_.notify();
}

Task<> RequestSender::send_more() {
  const auto [error, bytes] = co_await asio::async_write(*upstream_, unsent_->buffers(), kTask);
  was_sent_ = !error;
  if (!error && streams_) was_sent_ = co_await send_rest();
  is_sending_ = false;
  client_.wake.notify();
}

Task<bool> RequestSender::send_rest() {
  const bool is_chunked = asked_.reader.framing() == Framing::kChunked;
  std::string room(kPipe_bytes, '\0');
  client_.listener = &wake_;
  bool ok = true;
  while (ok && !asked_.reader.is_whole() && !is_stopped_) {
    const auto taken = asked_.reader.read_body(client_.input(), room);
    if (!taken) {
      bad_body_ = taken.error();
      on_bad_body_();
      break;
    }
    client_.take(taken->in);
    line_.in_bytes += taken->out;
    const bool is_whole = asked_.reader.is_whole();
    if (taken->out > 0 || (is_whole && is_chunked)) {
      const std::string size_line =
          is_chunked && taken->out > 0 ? chunk_size_line(taken->out) : std::string();
      const std::string_view after = !is_chunked       ? ""
                                     : taken->out == 0 ? kLastChunk
                                     : is_whole        ? "\r\n0\r\n\r\n"
                                                       : "\r\n";
      const std::array<asio::const_buffer, 3> pieces = {
          asio::buffer(size_line), asio::buffer(room.data(), taken->out), asio::buffer(after)};
      const auto [error, bytes] = co_await asio::async_write(*upstream_, pieces, kTask);
      ok = !error;
      static_cast<void>(lease_->progress());
    } else if (taken->in == 0) {
      client_.read(kPipe_bytes);
      if (client_.has_left()) break;  // the exchange is told by the client itself
      wants_body_since_ = Clock::now();
      co_await wake_.wait();
      wants_body_since_.reset();
    }
  }
  client_.listener = &client_.wake;
  const bool is_sent = ok && !is_stopped_ && asked_.reader.is_whole();
  if (is_sent) client_.read(kPipe_bytes);
  co_return is_sent;
}

}  // namespace modelpool::serve
