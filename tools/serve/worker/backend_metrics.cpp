#include "worker/backend_metrics.hpp"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/write.hpp>
#include <exception>
#include <set>
#include <tuple>
#include <utility>

#include "wire/message.hpp"
#include "worker/apart.hpp"
#include "worker/places.hpp"
#include "worker/upstream.hpp"

namespace modelpool::serve {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLook{20};  // between two looks whether another worker is done
// For another worker to ask and to write; one that is stopped takes longer.
constexpr std::chrono::seconds kPatience = 2 * kBackendMetricsLimit;

std::string request_to(const std::string& address, const std::string& key) {
  const std::string host = address.starts_with("unix:") ? "localhost" : address;
  std::string text = "GET /metrics HTTP/1.1\r\nHost: " + host +
                     "\r\nAccept: text/plain; version=0.0.4\r\nConnection: close\r\n";
  if (!key.empty()) text += "Authorization: Bearer " + key + "\r\n";
  return text + "\r\n";
}

// What has come of an answer.
class Answered {
 public:
  // False: it is none that metrics come in.
  bool take(std::string_view bytes) {
    in_ += bytes;
    while (!has_head_) {
      const auto head = reader_.read_head(in_);
      if (!head) return false;
      if (*head == 0) return true;
      in_.erase(0, *head);
      const unsigned status = reader_.head().result_int();
      if (status / 100 == 1 && status != 101) continue;
      const auto& fields = reader_.head();
      if (status != 200 || fields.find(http::field::content_encoding) != fields.end()) return false;
      has_head_ = true;
    }
    while (!in_.empty() && !reader_.is_whole()) {
      Scratch& room = scratch_decoded();
      const auto taken = reader_.read_body(in_, room);
      if (!taken) return false;
      in_.erase(0, taken->in);
      text_.append(room.data(), taken->out);
      untold_bytes_ += taken->out;
      if (text_.size() > kBackendMetricsMax_bytes) return false;
    }
    return true;
  }
  // The connection has ended. False: too early.
  bool end() { return has_head_ && reader_.end_of_input().has_value(); }
  bool is_whole() const { return has_head_ && reader_.is_whole(); }
  std::size_t taken_bytes() { return std::exchange(untold_bytes_, 0); }  // since the last call
  std::string text() { return std::move(text_); }

 private:
  AnswerReader reader_{"GET"};
  std::string in_;
  std::string text_;
  std::size_t untold_bytes_ = 0;
  bool has_head_ = false;
};

}  // namespace

struct BackendMetrics::Round {
  Round(const Executor& executor, std::vector<Asked> asked)
      : all(std::move(asked)), left(all.size()), is_done(executor) {}
  std::vector<Asked> all;
  std::size_t left;
  std::size_t left_bytes = kAllBackendMetricsMax_bytes;
  bool is_over = false;  // what comes now is too late
  Wake is_done;
};

// Ends also where memory runs out: or all would wait for ever.
class BackendMetrics::Renewing {
 public:
  explicit Renewing(BackendMetrics& of) : of_(of) { of_.is_renewing_ = true; }
  Renewing(const Renewing&) = delete;
  Renewing& operator=(const Renewing&) = delete;
  ~Renewing() {
    if (of_.shared_ != nullptr) of_.shared_->end();
    of_.is_renewing_ = false;
    for (Wake* const wake : std::exchange(of_.waiting_, {})) wake->notify();
  }

 private:
  BackendMetrics& of_;
};

bool BackendMetrics::is_fresh() const {
  return since_ != TimePoint() && Clock::now() - since_ < kBackendMetricsKept;
}

void BackendMetrics::take_shared() {
  if (shared_ == nullptr || !shared_->is_newer(since_)) return;
  auto made = shared_->read();
  if (!made) return;
  text_ = std::make_shared<const std::string>(std::move(made->text));
  since_ = made->since;
}

Task<std::shared_ptr<const std::string>> BackendMetrics::text() {
  for (;;) {
    if (!is_fresh()) take_shared();
    if (is_fresh()) co_return text_;
    if (!is_renewing_) break;
    Wake wake(loop_.get_executor());
    waiting_.push_back(&wake);
    co_await wake.wait();
  }
  const Renewing renewing(*this);
  co_await renew();
  co_return text_;
}

// By whichever worker comes first.
Task<> BackendMetrics::renew() {
  if (shared_ == nullptr) co_return co_await make();
  const TimePoint until = Clock::now() + kPatience;
  while (!shared_->begin()) {
    if (Clock::now() >= until) co_return co_await make();
    co_await pause(loop_.get_executor(), kLook);
    take_shared();
    if (is_fresh()) co_return;
  }
  take_shared();
  if (is_fresh()) co_return;
  co_await make();
  shared_->write({*text_, since_});
}

Task<> BackendMetrics::make() {
  const TimePoint begun = Clock::now();
  std::string text = co_await ask_all();
  text_ = std::make_shared<const std::string>(std::move(text));
  since_ = begun;
}

// --- Asking --------------------------------------------------------------------------------------

std::vector<BackendMetrics::Asked> BackendMetrics::ready() const {
  std::vector<Asked> asked;
  std::set<std::string> models;
  const auto seen = pool_.snapshot();
  if (!seen) return asked;
  for (const BackendRow& one : seen->backends) {
    if (one.state != "ready" || one.tenant || one.address == kTenantsAddress) continue;
    if (asked.size() == kBackendMetricsAskedMax || !models.insert(one.model).second) continue;
    const BackendId life{static_cast<std::uint32_t>(one.slot),
                         static_cast<std::uint32_t>(one.generation)};
    asked.push_back({one.address, {}, life, {one.model, {}}});
  }
  return asked;
}

Task<std::string> BackendMetrics::ask_all() {
  const auto round = std::make_shared<Round>(
      loop_.get_executor(), co_await apart(loop_, looks_, [this] { return ready(); }));
  for (std::size_t i = 0; i < round->all.size(); ++i) {
    Asked& one = round->all[i];
    one.request = request_to(one.address, key_of_(one.told.model));
    asio::co_spawn(loop_, ask(loop_.get_executor(), round, i), [round](const std::exception_ptr&) {
      if (--round->left == 0) round->is_done.notify();
    });
  }
  // A name may take longer to be looked up.
  Timer late(loop_.get_executor(), kPatience);
  late.async_wait([round](error_code error) {
    if (!error) round->is_done.notify();
  });
  if (!round->all.empty()) co_await round->is_done.wait();
  round->is_over = true;
  co_return co_await apart(loop_, looks_, [&] {
    const std::vector<Asked> still = ready();
    std::vector<metrics::Told> told;
    for (Asked& one : round->all) {
      const bool lives = std::any_of(still.begin(), still.end(), [&](const Asked& other) {
        return other.backend.slot == one.backend.slot &&
               other.backend.generation == one.backend.generation;
      });
      if (lives) told.push_back(std::move(one.told));
    }
    return metrics::merge(name_, told);
  });
}

// A text that is not whole is none.
Task<> BackendMetrics::ask(Executor executor, std::shared_ptr<Round> round, std::size_t index) {
  Asked& asked = round->all[index];
  const TimePoint until = Clock::now() + kBackendMetricsLimit;
  auto [error, socket] = co_await connect_to(executor, asked.address, kBackendMetricsLimit);
  if (!socket) co_return;
  const Limit limit(*socket, until - Clock::now());
  std::size_t bytes = 0;
  std::tie(error, bytes) = co_await asio::async_write(*socket, asio::buffer(asked.request), kTask);
  if (error) co_return;
  Answered answered;
  while (!answered.is_whole()) {
    std::tie(error) = co_await socket->async_wait(Socket::wait_read, kTask);
    if (error) co_return;
    Scratch& room = scratch_read();
    bytes = socket->read_some(asio::buffer(room), error);
    if (error == asio::error::would_block) continue;
    const bool goes_on =
        error ? error == asio::error::eof && answered.end() : answered.take({room.data(), bytes});
    round->left_bytes -= std::min(round->left_bytes, answered.taken_bytes());
    if (!goes_on || round->left_bytes == 0) co_return;
  }
  if (!round->is_over) asked.told.text = answered.text();
}

}  // namespace modelpool::serve
