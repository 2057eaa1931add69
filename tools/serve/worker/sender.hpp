// Sends a request to its backend: at once what the kernel takes, the rest beside the answer.
//
// A body that is not here yet comes from the client meanwhile, a piece at a time.
//
// Safety: the loop's thread. Socket and lease stay while is_sending().
//
// Crash: the backend sees a request that breaks off.
//
// Errors: a bad body; another one shows in the answer, or in its want.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "modelpool/pool.hpp"
#include "wire/refusal.hpp"
#include "worker/access_log.hpp"
#include "worker/asked.hpp"
#include "worker/client.hpp"
#include "worker/io.hpp"
#include "worker/pieces.hpp"

namespace modelpool::serve {

class RequestSender {
 public:
  RequestSender(const Executor& executor, Client& client, Asked& asked, AccessLine& line);
  RequestSender(const RequestSender&) = delete;
  RequestSender& operator=(const RequestSender&) = delete;

  // Of a body that comes while it is sent; such a request cannot be repeated.
  bool streams() const { return streams_; }

  // A client whose body is bad is told by `on_bad_body`. Its end wakes the client's waiter.
  void start(Socket& upstream, Lease& lease, std::function<void()> on_bad_body);
  void stop();  // the socket was closed: it ends at its next turn
  bool is_sending() const { return is_sending_; }
  bool was_sent() const { return was_sent_; }
  const std::optional<Refusal>& bad_body() const { return bad_body_; }
  // Since when it waits for the client.
  std::optional<TimePoint> wants_body_since() const { return wants_body_since_; }

 private:
  std::string head_text(const std::string& address) const;
  Task<> send_more();
  Task<bool> send_rest();

  Client& client_;
  Asked& asked_;
  AccessLine& line_;
  const bool streams_;
  std::string substituted_;  // the body's model, where an alias is replaced

  Socket* upstream_ = nullptr;
  Lease* lease_ = nullptr;
  std::function<void()> on_bad_body_;
  std::string head_;
  std::string first_size_line_;  // of a body in chunks
  std::optional<Pieces> unsent_;
  bool is_sending_ = false;
  bool was_sent_ = false;
  bool is_stopped_ = false;
  std::optional<Refusal> bad_body_;
  std::optional<TimePoint> wants_body_since_;
  Wake wake_;
};

}  // namespace modelpool::serve
