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

#include <boost/beast/http/message.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "wire/asked_model.hpp"
#include "wire/heads.hpp"
#include "wire/message.hpp"
#include "worker/access_log.hpp"
#include "worker/body.hpp"
#include "worker/client.hpp"
#include "worker/pieces.hpp"
#include "worker/service.hpp"

namespace modelpool::serve {

// A request as it was received.
struct Asked {
  RequestReader& reader;
  NamedByHead named;
  AskedModel asked;
  std::shared_ptr<const config::Model> model;
  Body& body;
  std::string id;
  std::string client;  // its address; empty: a Unix socket
  bool client_is_trusted = false;
  bool key_was_ours = false;
  std::vector<std::pair<std::string, std::string>> fields;  // of every answer to it
  TimePoint began = Clock::now();
};

class Exchange {
 public:
  // `now` is what was in force when the request came, and stays until this is gone.
  Exchange(Service& service, const InForce& now, Client& client, Asked& asked, AccessLine& line);
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  Task<bool> run();  // may another request follow on the connection?
  void tick(TimePoint now);

 private:
  enum class End { kNone, kClientLeft, kClientSlow, kBadBody, kCancelled, kOverdue, kBackend };
  enum class Outcome { kDone, kLookAgain, kBroken };

  Task<std::optional<Result<Lease>>> get_place();
  Task<Outcome> forward();
  void send_request();
  Task<> send_more();
  Task<bool> send_rest();
  std::string_view read_upstream(error_code& error);
  Task<Outcome> relay(AnswerReader& reader);
  Task<Outcome> relay_body(AnswerReader& reader);
  Task<> tell_refusal_of_backend(AnswerReader& reader);
  void begin_answer(const AnswerReader& reader);
  Task<bool> send(std::string_view piece, bool is_last);
  Task<> comment();
  Task<> tell(const Refusal& refusal);
  Refusal what_happened(bool was_connected) const;
  Task<bool> life_is_over();
  bool may_be_reused(const AnswerReader& reader) const;
  void abort(End end);
  std::string request_text(const std::string& address) const;
  AnswerChanges changes(Framing framing) const;
  int client_version() const;
  std::uint64_t learned_load_ms() const;

  Service& service_;
  Client& client_;
  Asked& asked_;
  AccessLine& line_;
  const config::Serve& config_;
  const bool streams_;  // the request's body comes while it is forwarded, and cannot be repeated
  TimePoint deadline_;  // of the place
  std::optional<TimePoint> next_comment_;
  TimePoint next_progress_;

  Lease lease_;
  BackendId backend_;
  std::optional<Socket> upstream_;
  std::string request_head_;
  std::string first_size_line_;  // of a body in chunks
  std::optional<Pieces> unsent_request_;
  std::string in_;  // of the backend: its head, and what came with it
  std::string unsent_head_;
  Framing framing_ = Framing::kNone;  // to the client
  int looks_ = 0;                     // at backends
  int sends_ = 0;                     // of the request, or of a part of it
  bool was_reused_ = false;
  bool has_connected_ = false;
  bool got_bytes_ = false;  // of an answer
  bool is_sending_ = false;
  bool was_sent_ = false;
  bool head_is_out_ = false;
  bool is_events_ = false;  // the answer is a stream of events
  bool is_between_events_ = true;
  std::string broken_by_;  // what the backend sent is no answer: why
  std::optional<Refusal> bad_body_;
  std::optional<TimePoint> wants_body_since_;  // of the client
  bool keep_open_ = false;
  std::string substituted_;  // the body's model, where an alias is replaced
  Wake sender_wake_;
  End end_ = End::kNone;
};

}  // namespace modelpool::serve
