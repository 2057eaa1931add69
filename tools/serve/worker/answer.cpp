#include "worker/answer.hpp"

#include <utility>

namespace modelpool::serve {

bool is_event_stream(const http::header<false>& head) {
  return std::string_view(head[http::field::content_type]).starts_with("text/event-stream");
}

void Answer::begin(const AnswerReader& reader) {
  framing_ = framing_for(client_version(), reader.framing());
  if (!asked_.reader.is_whole()) keep_open_ = false;
  AnswerChanges to = changes(framing_);
  to.content_length = reader.length();
  unsent_head_ = answer_head(reader.head(), to);
  line_.status = static_cast<int>(reader.head().result_int());
  is_events_ = is_event_stream(reader.head());
}

Task<bool> Answer::send(std::string_view piece, bool is_last) {
  const bool is_chunked = framing_ == Framing::kChunked;
  std::string before = std::exchange(unsent_head_, {});
  if (is_chunked && !piece.empty()) before += chunk_size_line(piece.size());
  std::string_view after;
  if (is_chunked) {
    after = piece.empty() ? (is_last ? kLastChunk : "") : is_last ? "\r\n0\r\n\r\n" : "\r\n";
  }
  if (!piece.empty()) is_between_events_ = piece.ends_with("\n\n") || piece.ends_with("\n\r\n");
  is_out_ = true;
  line_.out_bytes += piece.size();
  if (framing_ == Framing::kUntilClose) keep_open_ = false;
  co_return co_await client_.write(before, piece, after);
}

Task<bool> Answer::switch_protocols(const AnswerReader& reader) {
  keep_open_ = false;
  is_out_ = true;
  AnswerChanges to = changes(Framing::kNone);
  to.upgrade = reader.upgrade();
  line_.status = static_cast<int>(reader.head().result_int());
  const std::string head = answer_head(reader.head(), to);
  co_return co_await client_.write(head);
}

void Answer::begin_stream(std::string_view content_type) {
  http::header<false> head;
  head.version(11);
  head.result(http::status::ok);
  head.set(http::field::content_type, content_type);
  head.set(http::field::cache_control, "no-cache");
  framing_ = framing_for(client_version(), Framing::kChunked);
  unsent_head_ = answer_head(head, changes(framing_));
  line_.status = 200;
}

Task<> Answer::comment(std::string text) {
  if (!is_out_ && unsent_head_.empty()) {
    begin_stream("text/event-stream");
    is_events_ = true;
  }
  // A line of the door's own is no part of an event, wherever it comes.
  const bool was_between_events = is_between_events_;
  co_await send(text, false);
  is_between_events_ = was_between_events;
}

Task<> Answer::tell(Refusal refusal) {
  line_.end = refusal.message;
  if (!is_out_) {
    line_.status = refusal.status;
    if (refusal.close || !asked_.reader.is_whole()) keep_open_ = false;
    co_await client_.write(own_answer(answer_of(refusal), changes(Framing::kLength),
                                      asked_.reader.head().method() == http::verb::head));
    co_return;
  }
  keep_open_ = false;
  if (is_events_ && is_between_events_) {
    co_await send("data: " + error_json(refusal) + "\n\n", false);
  } else if (framing_ == Framing::kUntilClose) {
    client_.reset();  // else what there is would be the whole
  }
}

AnswerChanges Answer::changes(Framing framing) const {
  AnswerChanges to;
  to.client_version = client_version();
  to.framing = framing;
  to.keep_open = keep_open_ && framing != Framing::kUntilClose;
  to.fields = asked_.fields;
  to.fields.emplace_back("X-Request-Id", asked_.id);
  to.fields.emplace_back("X-Modelpool-Model", asked_.model->name);
  if (!backend_.empty()) {
    to.fields.emplace_back("X-Modelpool-Wait-Ms", std::to_string(line_.wait_ms));
    to.fields.emplace_back("X-Modelpool-Backend", backend_);
  }
  return to;
}

}  // namespace modelpool::serve
