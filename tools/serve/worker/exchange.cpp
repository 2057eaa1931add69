#include "worker/exchange.hpp"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <tuple>
#include <utility>

#include "worker/life.hpp"
#include "worker/refusals.hpp"

namespace modelpool::serve {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr milliseconds kFirstComment{500};
constexpr seconds kNextComment{10};
constexpr seconds kProgress{1};
// Of a websocket's client that has left, for the backend to take.
constexpr seconds kLastBytes{2};
constexpr int kSendsMax = 2;
constexpr int kLooksMax = 2;
constexpr int kInterimMax = 16;
constexpr std::size_t kFirstRead_bytes = 1024;  // a small answer whole
constexpr std::size_t kRefusalMax_bytes = 16 * 1024;

std::int64_t ms_since(TimePoint then) {
  return std::chrono::duration_cast<milliseconds>(Clock::now() - then).count();
}

bool is_over(TimePoint began, std::uint64_t limit_ns, TimePoint now) {
  return limit_ns != 0 && now - began >= nanoseconds(limit_ns);
}

}  // namespace

Exchange::Exchange(Service& service, const InForce& now, Client& client, Asked& asked,
                   AccessLine& line)
    : service_(service),
      client_(client),
      asked_(asked),
      line_(line),
      config_(now.door->serve),
      answer_(client, asked, line, asked.reader.keeps_open() && !service.is_finishing),
      sender_(service.loop.get_executor(), client, asked, line) {
  if (config_.loading_comments && takes_comments(asked.reader.head(), asked.asked))
    next_comment_ = began_ + kFirstComment;
  if (config_.queue_timeout_ns != 0) deadline_ = began_ + nanoseconds(config_.queue_timeout_ns);
}

Task<bool> Exchange::run() {
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
      co_await answer_.tell(
          refusal_of(place->error(), learned_load_ms(service_.pool, asked_.model->name)));
      break;
    }
    lease_ = std::move(**place);
    if (!placed_) placed_ = Clock::now();
    const Outcome outcome = co_await forward();
    release();
    if (outcome == Outcome::kDone) break;
    if (outcome == Outcome::kBroken) co_return false;
  }
  co_return answer_.keeps_open() && !client_.has_left();
}

// --- The place -----------------------------------------------------------------------------------

Task<std::optional<Result<Lease>>> Exchange::get_place() {
  Places::Asker asker(service_.places, asked_.model, tag_of(asked_.id), deadline_, client_.wake);
  while (!asker.answer()) {
    client_.read(kPipe_bytes);
    if (client_.has_left()) co_return std::nullopt;
    if (next_comment_ && Clock::now() >= *next_comment_) {
      while (*next_comment_ <= Clock::now()) *next_comment_ += kNextComment;
      co_await answer_.comment(words_of_wait());
    } else {
      co_await client_.wake.wait();
    }
  }
  co_return std::move(*asker.answer());
}

std::string Exchange::words_of_wait() const {
  const auto seen = service_.pool.look(asked_.model->name);
  if (seen && seen->backend) {
    const BackendRow& backend = *seen->backend;
    if (backend.state == "reserved" || backend.state == "starting") {
      std::string text =
          ": loading, " + std::to_string(backend.reserved_ms.value_or(0) / 1000) + " s";
      if (seen->history && seen->history->load_ms)
        text += " of about " + std::to_string((*seen->history->load_ms + 999) / 1000) + " s";
      return text + "\n";
    }
  }
  return ": waiting for a place, " + std::to_string(ms_since(began_) / 1000) + " s\n";
}

// --- To the backend ------------------------------------------------------------------------------

Task<Exchange::Outcome> Exchange::forward() {
  backend_ = lease_.backend();
  line_.backend = std::to_string(backend_.slot) + "." + std::to_string(backend_.generation);
  answer_.set_backend(line_.backend);
  in_.clear();
  end_ = client_.has_left() ? End::kClientLeft : End::kNone;
  ++looks_;
  client_.on_left = [this] { abort(End::kClientLeft); };
  if (!sender_.streams()) client_.read(kPipe_bytes);
  co_await connect();
  has_connected_ = upstream_ && end_ == End::kNone;
  Outcome outcome = Outcome::kBroken;
  if (has_connected_) {
    ++sends_;
    sender_.start(*upstream_, lease_, [this] { abort(End::kBadBody); });
    AnswerReader reader(asked_.reader.head().method_string());
    outcome = co_await relay(reader);
    if (sender_.is_sending()) abort(End::kBackend);
    while (sender_.is_sending()) co_await client_.wake.wait();
  }
  upstream_.reset();
  client_.on_left = nullptr;
  if (outcome != Outcome::kBroken || end_ == End::kClientLeft || end_ == End::kClientSlow) {
    if (outcome == Outcome::kBroken) line_.end = "the client left";
    co_return outcome;
  }
  if (end_ == End::kNone || end_ == End::kBackend) {
    const bool may_repeat = looks_ < kLooksMax && sends_ < kSendsMax && !got_bytes_ &&
                            !sender_.streams() && !is_own_trouble(connect_error_);
    const BackendLife life(lease_);
    const bool is_over = co_await life.is_over(service_.loop.get_executor());
    if (may_repeat && (is_over || was_reused_ || !has_connected_)) co_return Outcome::kLookAgain;
  }
  const Refusal refusal = what_happened();
  co_await answer_.tell(refusal);
  co_return Outcome::kDone;
}

Task<> Exchange::connect() {
  connect_error_ = {};
  upstream_ = service_.upstreams.take(backend_);
  was_reused_ = upstream_.has_value();
  if (was_reused_) co_return;
  const BackendLife life(lease_);
  const std::string address = lease_.address();
  std::tie(connect_error_, upstream_) = co_await connect_to(service_.loop.get_executor(), address);
  // Its port may be another process's by now.
  if (life.has_ended()) upstream_.reset();
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
      if (status == 101 && asked_.wants_websocket() && same_word(reader.upgrade(), "websocket"))
        co_return co_await relay_websocket(reader);
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
  if (!sender_.is_sending()) asked_.body.drop();
  if (answer_.is_events() &&
      (reader.head().result() != http::status::ok || !is_event_stream(reader.head()))) {
    co_await tell_refusal_of_backend(reader);
    co_return Outcome::kDone;
  }
  if (!answer_.is_events()) answer_.begin(reader);
  co_return co_await relay_body(reader);
}

// Each piece is decoded whole, and sent or kept by the client, before the next wait.
Task<Exchange::Outcome> Exchange::relay_body(AnswerReader& reader) {
  std::string_view bytes = in_;
  for (;;) {
    if (!bytes.empty() || answer_.has_unsent_head() || reader.is_whole()) {
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
      if (!co_await answer_.send({room.data(), taken->out}, is_last)) {
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

Task<Exchange::Outcome> Exchange::relay_websocket(const AnswerReader& reader) {
  line_.first_byte_ms = ms_since(asked_.began);
  if (!co_await answer_.switch_protocols(reader)) {
    abort(End::kClientLeft);
    co_return Outcome::kBroken;
  }
  Tunnel tunnel(client_, *upstream_, lease_, line_);
  tunnel_ = &tunnel;
  client_.on_left = nullptr;  // the tunnel sees it, behind the last bytes
  co_await tunnel.run(std::exchange(in_, {}));
  tunnel_ = nullptr;
  if (end_ == End::kCancelled) line_.end = what_happened().message;
  if (end_ == End::kIdle) line_.end = "no byte either way for tunnel_idle";
  if (end_ != End::kClientSlow && client_.has_left()) line_.end = "the client left";
  co_return Outcome::kDone;
}

// Not where a backend that reads or writes more laxly than it should would leave something behind
// for the next request: a body it never read, or one that it sent unasked.
bool Exchange::may_be_reused(const AnswerReader& reader) const {
  if (!reader.keeps_open() || !sender_.was_sent() || sender_.is_sending()) return false;
  const auto method = asked_.reader.head().method();
  const auto status = reader.head().result();
  const bool asks_with_body =
      method == http::verb::post || method == http::verb::put || method == http::verb::patch;
  return method != http::verb::head && status != http::status::no_content &&
         status != http::status::not_modified &&
         (asks_with_body || asked_.reader.framing() == Framing::kNone);
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
  const Refusal refusal = refuse(static_cast<int>(status), "backend_refused",
                                 "the backend answered " + std::to_string(status) + ": " + said)
                              .value();
  co_await answer_.tell(refusal);
}

Refusal Exchange::what_happened() const {
  const std::string& model = asked_.model->name;
  if (end_ == End::kCancelled)
    return refuse(503, "cancelled", "the request was ended: " + lease_.cancel_reason()).value();
  if (end_ == End::kOverdue)
    return refuse(504, "timeout", "the request took longer than request_timeout").value();
  if (end_ == End::kBodyLate) {
    Refusal late = refuse(408, "timeout", "no byte of the body came within client_timeout").value();
    late.close = true;
    return late;
  }
  if (end_ == End::kBadBody && sender_.bad_body()) return *sender_.bad_body();
  if (!has_connected_ && is_own_trouble(connect_error_))
    return refuse(503, "system",
                  "unable to connect to the backend of " + model + ": " + connect_error_.message())
        .value();
  const std::string words = lease_.exit_words();
  std::string text = "the backend of " + model;
  if (!words.empty()) {
    text += " ended: " + words;
  } else if (!has_connected_) {
    text += " accepts no connection";
  } else if (!broken_by_.empty()) {
    text += " sent what is no answer: " + broken_by_;
  } else {
    text += got_bytes_ ? " broke off its answer" : " closed the connection without an answer";
  }
  return refuse(502, "backend_failed", std::move(text)).value();
}

void Exchange::release() {
  lease_.release();
  answer_.set_backend({});
}

void Exchange::abort(End end) {
  if (end_ == End::kNone) end_ = end;
  error_code ignored;
  if (upstream_) upstream_->close(ignored);
  sender_.stop();
}

void Exchange::tick(TimePoint now) {
  if (!lease_) {
    if (next_comment_ && now >= *next_comment_) client_.wake.notify();
  } else {
    if (lease_.cancelled()) abort(End::kCancelled);
    if (tunnel_ != nullptr) {
      if (client_.has_left() && now - client_.last_input() >= kLastBytes) abort(End::kClientLeft);
      if (is_over(tunnel_->last_byte(), config_.tunnel_idle_ns, now)) abort(End::kIdle);
    } else if (is_over(*placed_, config_.request_timeout_ns, now)) {
      abort(End::kOverdue);
    }
  }
  if (client_.input().size() >= kPipe_bytes) client_.look_for_end();
  const auto blocked = client_.blocked_since();
  const auto wants_body = sender_.wants_body_since();
  const bool waits_for_client =
      blocked || wants_body || (tunnel_ != nullptr && tunnel_->waits_for_client());
  if (lease_ && waits_for_client && now >= next_progress_) {
    next_progress_ = now + kProgress;
    static_cast<void>(lease_.progress());
  }
  if (wants_body &&
      is_over(std::max(*wants_body, client_.last_input()), config_.client_timeout_ns, now))
    abort(End::kBodyLate);
  if (!blocked) return;
  // It takes no bytes, so it cannot be told; and the backend is not to wait for it.
  if (end_ == End::kCancelled || end_ == End::kOverdue || end_ == End::kIdle) client_.abort();
  if (is_over(*blocked, config_.client_timeout_ns, now)) {
    line_.end = "the client took no byte for client_timeout";
    abort(End::kClientSlow);
    client_.abort();
  }
}

}  // namespace modelpool::serve
