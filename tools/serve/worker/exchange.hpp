// One request at its model: a place, the backend's answer, and what goes wrong on the way.
//
// A request is sent again, once, if no byte of an answer came and its backend did not accept, had
// ended the connection that was kept, or its life is over.
//
// Safety: the loop's thread. While run() waits, tick() and the client's end reach it.
//
// Crash: the lease ends with the worker (P6).
//
// Errors: told to the client: as an answer, or once a head was sent as an event, or by an end that
// is no end of the message.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "modelpool/pool.hpp"
#include "wire/message.hpp"
#include "worker/access_log.hpp"
#include "worker/answer.hpp"
#include "worker/asked.hpp"
#include "worker/client.hpp"
#include "worker/sender.hpp"
#include "worker/service.hpp"
#include "worker/tunnel.hpp"

namespace modelpool::serve {

class Exchange {
 public:
  // `now` is what was in force when the request came, and stays until this is gone.
  Exchange(Service& service, const InForce& now, Client& client, Asked& asked, AccessLine& line);
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  Task<bool> run();  // may another request follow on the connection?
  void tick(TimePoint now);

 private:
  enum class End {
    kNone,
    kClientLeft,
    kClientSlow,
    kBadBody,
    kCancelled,
    kOverdue,
    kBackend,
    kIdle,
    kBodyLate
  };
  enum class Outcome { kDone, kLookAgain, kBroken };

  Task<std::optional<Result<Lease>>> get_place();
  std::string words_of_wait() const;
  Task<Outcome> forward();
  Task<> connect();
  Task<Outcome> relay(AnswerReader& reader);
  Task<Outcome> relay_body(AnswerReader& reader);
  Task<Outcome> relay_websocket(const AnswerReader& reader);
  std::string_view read_upstream(error_code& error);
  bool may_be_reused(const AnswerReader& reader) const;
  void release();
  Task<> tell_refusal_of_backend(AnswerReader& reader);
  Refusal what_happened() const;
  void abort(End end);

  Service& service_;
  Client& client_;
  Asked& asked_;
  AccessLine& line_;
  const config::Serve& config_;
  const TimePoint began_ = Clock::now();
  TimePoint deadline_ = TimePoint::max();  // of the place
  std::optional<TimePoint> placed_;        // when the first one was had
  std::optional<TimePoint> next_comment_;
  TimePoint next_progress_;

  Answer answer_;
  Lease lease_;
  BackendId backend_;
  std::optional<Socket> upstream_;
  RequestSender sender_;
  Tunnel* tunnel_ = nullptr;
  std::string in_;  // of the backend: its head, and what came with it
  error_code connect_error_;
  int looks_ = 0;  // at backends
  int sends_ = 0;  // of the request, or of a part of it
  bool was_reused_ = false;
  bool has_connected_ = false;
  bool got_bytes_ = false;  // of an answer
  std::string broken_by_;   // what the backend sent is no answer: why
  End end_ = End::kNone;
};

}  // namespace modelpool::serve
