// The answer to one request as its client gets it: one head, then pieces in the client's framing.
//
// The head goes with the first piece, so that a small answer is one write.
//
// Safety: the loop's thread.
//
// Crash: the client sees an end that is no end of the message.
//
// Errors: false: the client has left.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "wire/heads.hpp"
#include "wire/message.hpp"
#include "wire/refusal.hpp"
#include "worker/access_log.hpp"
#include "worker/asked.hpp"
#include "worker/client.hpp"
#include "worker/io.hpp"

namespace modelpool::serve {

class Answer {
 public:
  Answer(Client& client, const Asked& asked, AccessLine& line, bool keep_open)
      : client_(client), asked_(asked), line_(line), keep_open_(keep_open) {}
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  // Whose answer it is, for X-Modelpool-Backend; empty: the door's own.
  void set_backend(std::string name) { backend_ = std::move(name); }

  // The backend's head.
  void begin(const AnswerReader& reader);
  Task<bool> send(std::string_view piece, bool is_last);
  // 101: what follows is not HTTP.
  Task<bool> switch_protocols(const AnswerReader& reader);
  // A stream of the door's own.
  void begin_stream(std::string_view content_type);
  // A line that clients of server-sent events skip. Without a head it begins a stream of events.
  Task<> comment(std::string text);
  // As an answer; behind a head as an event, and the connection ends without the last chunk.
  Task<> tell(Refusal refusal);

  bool has_unsent_head() const { return !unsent_head_.empty(); }
  bool is_events() const { return is_events_; }
  bool keeps_open() const { return keep_open_; }

 private:
  AnswerChanges changes(Framing framing) const;
  int client_version() const { return static_cast<int>(asked_.reader.head().version()); }

  Client& client_;
  const Asked& asked_;
  AccessLine& line_;
  bool keep_open_;
  std::string backend_;
  Framing framing_ = Framing::kNone;
  std::string unsent_head_;
  bool is_out_ = false;     // the head
  bool is_events_ = false;  // it is a stream of events
  bool is_between_events_ = true;
};

bool is_event_stream(const http::header<false>& head);

}  // namespace modelpool::serve
