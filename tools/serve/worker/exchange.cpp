#include "worker/exchange.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "worker/refusals.hpp"

namespace modelpool::serve {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr milliseconds kFirstComment{500};
constexpr seconds kNextComment{10};
constexpr seconds kProgress{1};
// How long a process may take to end after its connections, and the pool to see it.
constexpr milliseconds kDeath{50};
constexpr milliseconds kDeathSeen{2'000};
constexpr milliseconds kLook{10};
constexpr int kSendsMax = 2;
constexpr int kLooksMax = 3;  // where none was accepted
constexpr int kInterimMax = 16;
constexpr std::size_t kFirstRead_bytes = 1024;  // a small answer whole
constexpr std::size_t kRefusalMax_bytes = 16 * 1024;

std::int64_t ms_since(TimePoint then) {
  return std::chrono::duration_cast<milliseconds>(Clock::now() - then).count();
}

bool is_event_stream(const http::header<false>& head) {
  return std::string_view(head[http::field::content_type]).starts_with("text/event-stream");
}

// Nothing for a server that is not the pool's, and for one that has gone.
Fd process_of(const Lease& lease) {
  return lease.pid() > 0 ? Fd(static_cast<int>(syscall(SYS_pidfd_open, lease.pid(), 0))) : Fd();
}

bool has_ended(const Fd& process, const Lease& lease) {
  pollfd end{process.get(), POLLIN, 0};
  if (process) return ::poll(&end, 1, 0) == 1;
  return lease.pid() > 0 && kill(lease.pid(), 0) != 0;
}

TimePoint earlier(TimePoint began, std::uint64_t a_ns, std::uint64_t b_ns) {
  TimePoint first = TimePoint::max();
  for (const std::uint64_t ns : {a_ns, b_ns}) {
    if (ns != 0) first = std::min(first, began + nanoseconds(ns));
  }
  return first;
}

}  // namespace

Exchange::Exchange(Service& service, const InForce& now, Client& client, Asked& asked,
                   AccessLine& line)
    : service_(service),
      client_(client),
      asked_(asked),
      line_(line),
      config_(now.door->serve),
      streams_(!asked.reader.is_whole()),
      deadline_(earlier(asked.began, config_.queue_timeout_ns, config_.request_timeout_ns)),
      sender_wake_(service.loop.get_executor()) {
  if (config_.loading_comments && takes_comments(asked.reader.head(), asked.asked))
    next_comment_ = asked.began + kFirstComment;
  if (asked.asked.value_bytes > 0 && asked.asked.name != asked.model->name)
    substituted_ = written_model(asked.asked, asked.model->name);
}

Task<bool> Exchange::run() {
  keep_open_ = asked_.reader.keeps_open() && !service_.is_finishing;
  line_.model = asked_.model->name;
  for (;;) {
    const TimePoint from = Clock::now();
    auto place = co_await get_place();
    line_.wait_ms = std::max<std::int64_t>(line_.wait_ms, 0) + ms_since(from);
    if (!place) {
      line_.end = "the client left";
      co_return false;
    }
    if (!*place) {
      co_await tell(refusal_of(place->error(), learned_load_ms()));
      break;
    }
    lease_ = std::move(**place);
    const Outcome outcome = co_await forward();
    lease_.release();
    if (outcome == Outcome::kDone) break;
    if (outcome == Outcome::kBroken) co_return false;
  }
  co_return keep_open_ && !client_.has_left();
}

// --- The place -----------------------------------------------------------------------------------

Task<std::optional<Result<Lease>>> Exchange::get_place() {
  Places::Asker asker(service_.places, asked_.model, tag_of(asked_.id), deadline_, client_.wake);
  while (!asker.answer()) {
    client_.read(kPipe_bytes);
    if (client_.has_left()) co_return std::nullopt;
    if (next_comment_ && Clock::now() >= *next_comment_) {
      co_await comment();
    } else {
      co_await client_.wake.wait();
    }
  }
  co_return std::move(*asker.answer());
}

Task<> Exchange::comment() {
  next_comment_ = Clock::now() + kNextComment;
  if (!head_is_out_ && unsent_head_.empty()) {
    http::header<false> head;
    head.version(11);
    head.result(http::status::ok);
    head.set(http::field::content_type, "text/event-stream");
    head.set(http::field::cache_control, "no-cache");
    framing_ = framing_for(client_version(), Framing::kChunked);
    unsent_head_ = answer_head(head, changes(framing_));
    line_.status = 200;
    is_events_ = true;
  }
  std::string text =
      ": waiting for a place, " + std::to_string(ms_since(asked_.began) / 1000) + " s\n";
  if (const auto seen = service_.pool.look(asked_.model->name); seen && seen->backend) {
    const BackendRow& backend = *seen->backend;
    if (backend.state == "reserved" || backend.state == "starting") {
      text = ": loading, " + std::to_string(backend.reserved_ms.value_or(0) / 1000) + " s";
      if (seen->history && seen->history->load_ms)
        text += " of about " + std::to_string((*seen->history->load_ms + 999) / 1000) + " s";
      text += "\n";
    }
  }
  // A line of the door's own is no part of an event, wherever it comes.
  const bool was_between_events = is_between_events_;
  co_await send(text, false);
  is_between_events_ = was_between_events;
}

std::uint64_t Exchange::learned_load_ms() const {
  const auto seen = service_.pool.look(asked_.model->name);
  return seen && seen->history ? seen->history->load_ms.value_or(0) : 0;
}

// --- To the backend ------------------------------------------------------------------------------

Task<Exchange::Outcome> Exchange::forward() {
  backend_ = lease_.backend();
  const std::string address = lease_.address();
  line_.backend = std::to_string(backend_.slot) + "." + std::to_string(backend_.generation);
  in_.clear();
  was_sent_ = has_connected_ = false;
  end_ = client_.has_left() ? End::kClientLeft : End::kNone;
  ++looks_;
  client_.on_left = [this] { abort(End::kClientLeft); };
  if (!streams_) client_.read(kPipe_bytes);
  upstream_ = service_.upstreams.take(backend_);
  was_reused_ = upstream_.has_value();
  if (!upstream_) {
    const Fd process = process_of(lease_);
    error_code error;
    std::tie(error, upstream_) = co_await connect_to(service_.loop.get_executor(), address);
    // Its port may be another process's by now.
    if (has_ended(process, lease_)) upstream_.reset();
  }
  Outcome outcome = Outcome::kBroken;
  if (upstream_ && end_ == End::kNone) {
    has_connected_ = true;
    ++sends_;
    request_head_ = request_text(address);
    send_request();
    AnswerReader reader(asked_.reader.head().method_string());
    outcome = co_await relay(reader);
    if (is_sending_) abort(End::kBackend);
    while (is_sending_) co_await client_.wake.wait();
    upstream_.reset();
  }
  client_.on_left = nullptr;
  if (outcome != Outcome::kBroken || end_ == End::kClientLeft || end_ == End::kClientSlow) {
    if (outcome == Outcome::kBroken) line_.end = "the client left";
    co_return outcome;
  }
  if (end_ == End::kNone || end_ == End::kBackend) {
    const bool may_repeat = looks_ < kLooksMax && sends_ < kSendsMax && !got_bytes_ && !streams_;
    const bool is_over = co_await life_is_over();
    if (may_repeat && (is_over || was_reused_ || !has_connected_)) co_return Outcome::kLookAgain;
  }
  const Refusal refusal = what_happened(has_connected_);
  co_await tell(refusal);
  co_return Outcome::kDone;
}

std::string Exchange::request_text(const std::string& address) const {
  RequestChanges to;
  to.target = asked_.named.target;
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
  to.backend_key = asked_.model->backend_key;
  return request_head(asked_.reader.head(), to, asked_.key_was_ours);
}

// At once, if the kernel takes it; the rest beside the answer.
void Exchange::send_request() {
  const std::string_view body = asked_.body.whole();
  if (streams_ && asked_.reader.framing() == Framing::kChunked && !body.empty()) {
    first_size_line_ = chunk_size_line(body.size());
    unsent_request_.emplace(request_head_, first_size_line_, body, "\r\n");
  } else if (!substituted_.empty()) {
    unsent_request_.emplace(request_head_, body.substr(0, asked_.asked.value_at), substituted_,
                            body.substr(asked_.asked.value_at + asked_.asked.value_bytes));
  } else {
    unsent_request_.emplace(request_head_, body);
  }
  error_code error;
  unsent_request_->consume(upstream_->write_some(unsent_request_->buffers(), error));
  was_sent_ = unsent_request_->empty() && !streams_;
  // Another error: the answer tells, or its want.
  is_sending_ = !was_sent_ && (!error || error == asio::error::would_block);
  if (is_sending_) asio::co_spawn(service_.loop, send_more(), asio::detached);
}

Task<> Exchange::send_more() {
  const auto [error, bytes] =
      co_await asio::async_write(*upstream_, unsent_request_->buffers(), kTask);
  was_sent_ = !error;
  if (!error && streams_) was_sent_ = co_await send_rest();
  is_sending_ = false;
  client_.wake.notify();
}

// What still comes of the body, piece by piece.
Task<bool> Exchange::send_rest() {
  const bool is_chunked = asked_.reader.framing() == Framing::kChunked;
  std::string room(kPipe_bytes, '\0');
  client_.listener = &sender_wake_;
  bool ok = true;
  while (ok && !asked_.reader.is_whole() && end_ == End::kNone) {
    const auto taken = asked_.reader.read_body(client_.input(), room);
    if (!taken) {
      bad_body_ = taken.error();
      abort(End::kBadBody);
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
      static_cast<void>(lease_.progress());
    } else if (taken->in == 0) {
      client_.read(kPipe_bytes);
      if (client_.has_left()) {
        abort(End::kClientLeft);
        break;
      }
      wants_body_since_ = Clock::now();
      co_await sender_wake_.wait();
      wants_body_since_.reset();
    }
  }
  client_.listener = &client_.wake;
  const bool is_sent = ok && end_ == End::kNone && asked_.reader.is_whole();
  if (is_sent) client_.read(kPipe_bytes);
  co_return is_sent;
}

// --- From the backend ----------------------------------------------------------------------------

// What there is, until the next wait.
std::string_view Exchange::read_upstream(error_code& error) {
  Scratch& room = scratch_read();
  const std::size_t bytes = upstream_->read_some(asio::buffer(room), error);
  if (error == asio::error::would_block) error = {};
  if (bytes > 0) static_cast<void>(lease_.progress());
  return {room.data(), bytes};
}

Task<Exchange::Outcome> Exchange::relay(AnswerReader& reader) {
  for (int interim = 0;;) {
    auto head = reader.read_head(in_);
    if (!head) {
      broken_by_ = head.error().message;
      co_return Outcome::kBroken;
    }
    if (*head > 0) {
      in_.erase(0, *head);
      const unsigned status = reader.head().result_int();
      if (status / 100 != 1) break;
      // Interim answers are the backend's own affair; nobody asked for another protocol.
      if (status == 101 || ++interim > kInterimMax) {
        broken_by_ = "it answers " + std::to_string(status) + ", and no more than that";
        co_return Outcome::kBroken;
      }
      continue;
    }
    // Tried before it is waited for, which saves a call of the kernel where the answer is quick.
    const std::size_t had = in_.size();
    in_.resize(had + kFirstRead_bytes);
    const auto [error, bytes] = co_await upstream_->async_read_some(asio::buffer(in_) + had, kTask);
    in_.resize(had + bytes);
    if (bytes > 0) {
      got_bytes_ = true;
      static_cast<void>(lease_.progress());
    }
    if (error) co_return Outcome::kBroken;
  }
  if (line_.first_byte_ms < 0) line_.first_byte_ms = ms_since(asked_.began);
  if (!is_sending_) asked_.body.drop();
  if (is_events_ &&
      (reader.head().result() != http::status::ok || !is_event_stream(reader.head()))) {
    co_await tell_refusal_of_backend(reader);
    co_return Outcome::kDone;
  }
  if (!is_events_) begin_answer(reader);
  co_return co_await relay_body(reader);
}

void Exchange::begin_answer(const AnswerReader& reader) {
  framing_ = framing_for(client_version(), reader.framing());
  if (!asked_.reader.is_whole()) keep_open_ = false;
  AnswerChanges to = changes(framing_);
  to.content_length = reader.length();
  unsent_head_ = answer_head(reader.head(), to);
  line_.status = static_cast<int>(reader.head().result_int());
  is_events_ = is_event_stream(reader.head());
}

// Each piece is decoded whole, and sent or kept by the client, before the next wait.
Task<Exchange::Outcome> Exchange::relay_body(AnswerReader& reader) {
  std::string_view bytes = in_;
  for (;;) {
    if (!bytes.empty() || !unsent_head_.empty() || reader.is_whole()) {
      Scratch& room = scratch_decoded();
      const auto taken = reader.read_body(bytes, room);
      if (!taken) {
        broken_by_ = taken.error().message;
        co_return Outcome::kBroken;
      }
      const bool is_last = reader.is_whole();
      if (is_last) {
        // The backend has done its part, whatever the client takes its time for.
        if (may_be_reused(reader) && taken->in == bytes.size())
          service_.upstreams.give_back(backend_, std::move(*upstream_));
        lease_.release();
      }
      if (!co_await send({room.data(), taken->out}, is_last)) {
        abort(End::kClientLeft);
        co_return Outcome::kBroken;
      }
      if (is_last) co_return Outcome::kDone;
    }
    in_ = std::string();
    bytes = {};
    auto [error] = co_await upstream_->async_wait(Socket::wait_read, kTask);
    if (!error) bytes = read_upstream(error);
    // Only its own end is the end of what has no other; ours is not.
    const bool is_end = error == asio::error::eof && end_ == End::kNone && reader.end_of_input();
    if (error && !is_end) co_return Outcome::kBroken;
  }
}

// Not where a backend that reads or writes more laxly than it should would leave something behind
// for the next request: a body it never read, or one that it sent unasked.
bool Exchange::may_be_reused(const AnswerReader& reader) const {
  if (!reader.keeps_open() || !was_sent_ || is_sending_) return false;
  const auto method = asked_.reader.head().method();
  const auto status = reader.head().result();
  const bool asks_with_body =
      method == http::verb::post || method == http::verb::put || method == http::verb::patch;
  return method != http::verb::head && status != http::status::no_content &&
         status != http::status::not_modified &&
         (asks_with_body || asked_.reader.framing() == Framing::kNone);
}

Task<bool> Exchange::send(std::string_view piece, bool is_last) {
  const bool is_chunked = framing_ == Framing::kChunked;
  std::string before = std::exchange(unsent_head_, {});
  if (is_chunked && !piece.empty()) before += chunk_size_line(piece.size());
  std::string_view after;
  if (is_chunked) {
    after = piece.empty() ? (is_last ? kLastChunk : "") : is_last ? "\r\n0\r\n\r\n" : "\r\n";
  }
  if (!piece.empty()) is_between_events_ = piece.ends_with("\n\n") || piece.ends_with("\n\r\n");
  head_is_out_ = true;
  line_.out_bytes += piece.size();
  if (framing_ == Framing::kUntilClose) keep_open_ = false;
  co_return co_await client_.write(before, piece, after);
}

// --- What went wrong -----------------------------------------------------------------------------

// Its answer cannot follow a head that is out: as an event, with what it said.
Task<> Exchange::tell_refusal_of_backend(AnswerReader& reader) {
  std::string said;
  std::string room(4096, '\0');
  while (said.size() < kRefusalMax_bytes && !reader.is_whole()) {
    const auto taken = reader.read_body(in_, room);
    if (!taken) break;
    in_.erase(0, taken->in);
    said.append(room, 0, taken->out);
    if (taken->in > 0 || taken->out > 0) continue;
    const auto [error, bytes] = co_await upstream_->async_read_some(asio::buffer(room), kTask);
    in_.append(room, 0, bytes);
    if (error) break;
  }
  const unsigned status = reader.head().result_int();
  co_await tell(refuse(static_cast<int>(status), "backend_refused",
                       "the backend answered " + std::to_string(status) + ": " + said)
                    .value());
}

Task<> Exchange::tell(const Refusal& refusal) {
  line_.end = refusal.message;
  if (!head_is_out_) {
    line_.status = refusal.status;
    if (refusal.close || !asked_.reader.is_whole()) keep_open_ = false;
    co_await client_.write(own_answer(answer_of(refusal), changes(Framing::kLength),
                                      asked_.reader.head().method() == http::verb::head));
    co_return;
  }
  keep_open_ = false;
  if (is_events_ && is_between_events_)
    co_await send("data: " + error_json(refusal) + "\n\n", false);
}

Refusal Exchange::what_happened(bool was_connected) const {
  const std::string& model = asked_.model->name;
  if (end_ == End::kCancelled)
    return refuse(503, "cancelled", "the request was ended: " + lease_.cancel_reason()).value();
  if (end_ == End::kOverdue)
    return refuse(504, "timeout", "the request took longer than request_timeout").value();
  if (end_ == End::kBadBody && bad_body_) return *bad_body_;
  const std::string words = lease_.exit_words();
  std::string text = "the backend of " + model;
  if (!words.empty()) {
    text += " ended: " + words;
  } else if (!was_connected) {
    text += " accepts no connection";
  } else if (!broken_by_.empty()) {
    text += " sent what is no answer: " + broken_by_;
  } else {
    text += got_bytes_ ? " broke off its answer" : " closed the connection without an answer";
  }
  return refuse(502, "backend_failed", std::move(text)).value();
}

// Is the backend no more? Its connections end a moment before its process does, and the pool sees
// that a moment later.
Task<bool> Exchange::life_is_over() {
  const Fd process = process_of(lease_);
  const TimePoint began = Clock::now();
  for (;;) {
    const auto progress = lease_.progress();
    if (!progress && progress.error().code == Errc::kLeaseLost) co_return true;
    if (Clock::now() - began > (has_ended(process, lease_) ? kDeathSeen : kDeath)) co_return false;
    co_await pause(service_.loop.get_executor(), kLook);
  }
}

void Exchange::abort(End end) {
  if (end_ == End::kNone) end_ = end;
  error_code ignored;
  if (upstream_) upstream_->close(ignored);
  sender_wake_.notify();
}

void Exchange::tick(TimePoint now) {
  if (!lease_) {
    if (next_comment_ && now >= *next_comment_) client_.wake.notify();
  } else {
    if (lease_.cancelled()) abort(End::kCancelled);
    if (config_.request_timeout_ns != 0 &&
        now >= asked_.began + nanoseconds(config_.request_timeout_ns))
      abort(End::kOverdue);
  }
  if (client_.input().size() >= kPipe_bytes) client_.look_for_end();
  auto blocked = client_.blocked_since();
  if (!blocked && wants_body_since_) blocked = std::max(*wants_body_since_, client_.last_input());
  if (!blocked) return;
  // It takes no bytes, so it cannot be told; and the backend is not to wait for it.
  if (end_ == End::kCancelled || end_ == End::kOverdue) client_.abort();
  if (lease_ && now >= next_progress_) {
    next_progress_ = now + kProgress;
    static_cast<void>(lease_.progress());
  }
  if (config_.client_timeout_ns != 0 && now - *blocked >= nanoseconds(config_.client_timeout_ns)) {
    line_.end = "the client took or sent no byte for client_timeout";
    abort(End::kClientSlow);
    client_.abort();
  }
}

AnswerChanges Exchange::changes(Framing framing) const {
  AnswerChanges to;
  to.client_version = client_version();
  to.framing = framing;
  to.keep_open = keep_open_ && framing != Framing::kUntilClose;
  to.fields = asked_.fields;
  to.fields.emplace_back("X-Request-Id", asked_.id);
  to.fields.emplace_back("X-Modelpool-Model", asked_.model->name);
  if (lease_) {
    to.fields.emplace_back("X-Modelpool-Wait-Ms", std::to_string(line_.wait_ms));
    to.fields.emplace_back("X-Modelpool-Backend", line_.backend);
  }
  return to;
}

int Exchange::client_version() const { return static_cast<int>(asked_.reader.head().version()); }

}  // namespace modelpool::serve
