#include "worker/connection.hpp"

#include <utility>

#include "config/around.hpp"
#include "metrics/metrics.hpp"
#include "worker/apart.hpp"
#include "worker/event_stream.hpp"
#include "worker/held_lease.hpp"
#include "worker/looks.hpp"
#include "worker/orders.hpp"
#include "worker/pages.hpp"
#include "worker/refusals.hpp"

namespace modelpool::serve {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

}  // namespace

Connection::Connection(Service& service, std::size_t gate, std::shared_ptr<Client> client,
                       std::string address)
    : service_(service),
      gate_(gate),
      client_(std::move(client)),
      address_(std::move(address)),
      now_(service.now),
      began_(Clock::now()) {}

Task<> Connection::run() {
  const auto self = shared_from_this();
  if (!co_await client_->handshake()) co_return;
  for (bool goes_on = true; goes_on;) {
    reader_.emplace();
    if (!co_await next_head()) break;
    goes_on = co_await serve() && !client_->has_left();
    end_line();
  }
  phase_ = Phase::kServing;  // nothing is overdue any more
  co_await client_->linger();
}

// Until a whole head has come. False: the connection is at its end.
Task<bool> Connection::next_head() {
  phase_ = client_->input().empty() ? Phase::kIdle : Phase::kHead;
  began_ = Clock::now();
  is_overdue_ = false;
  id_.clear();
  fields_.clear();
  for (;;) {
    if (phase_ == Phase::kIdle && !client_->input().empty()) {
      phase_ = Phase::kHead;
      began_ = Clock::now();
    }
    const auto head = reader_->read_head(client_->input());
    if (!head) {
      begin_line();
      co_await refuse_with(head.error());
      end_line();
      co_return false;
    }
    if (*head > 0) {
      client_->take(*head);
      co_return true;
    }
    const bool is_over = is_overdue_ || service_.ends_idle;
    if (client_->has_left() || (phase_ == Phase::kIdle && is_over)) co_return false;
    if (is_overdue_) {
      begin_line();
      Refusal late = refuse(408, "timeout", "the head did not come within header_timeout").value();
      late.close = true;
      co_await refuse_with(late);
      end_line();
      co_return false;
    }
    client_->read(kHeadMax_bytes + kPipe_bytes);
    co_await client_->wake.wait();
  }
}

void Connection::begin_line() {
  line_ = {};
  line_.client = address_.empty() ? "unix" : address_;
  line_.request_id = id_;
}

void Connection::end_line() {
  const nanoseconds took = Clock::now() - began_;
  line_.total_ms = std::chrono::duration_cast<milliseconds>(took).count();
  now_->log.write(line_);
  HttpRequest counted;
  counted.model = line_.model;
  counted.status = line_.status;
  counted.took = took;
  if (line_.first_byte_ms >= 0) counted.first_byte = milliseconds(line_.first_byte_ms);
  counted.received_bytes = line_.in_bytes;
  counted.sent_bytes = line_.out_bytes;
  service_.pool.count(counted);
}

Task<bool> Connection::serve() {
  now_ = service_.now;
  phase_ = Phase::kServing;
  has_served_ = true;
  const auto& head = reader_->head();
  id_ = request_id_of(head);
  fields_.clear();
  begin_line();
  line_.method = std::string(head.method_string());
  const std::string_view target = head.target();
  line_.path = std::string(target.substr(0, target.find('?')));
  // Who asks whether the door is well has no key: a supervisor, a balancer. Nor has a browser that
  // opens the page; a link to that may stand anywhere.
  const Gate& gate = now_->gates[gate_];
  const AccessRules& rules = !is_look()                 ? gate.rules
                             : is_probe(line_.path)     ? gate.of_probes
                             : is_pool_page(line_.path) ? gate.of_page
                                                        : gate.rules;
  auto admitted = admit(head, rules);
  if (admitted && !admitted->allow_origin.empty()) {
    fields_.emplace_back("Access-Control-Allow-Origin", admitted->allow_origin);
    fields_.emplace_back("Vary", "Origin");
  }
  if (!admitted) co_return co_await refuse_with(admitted.error());
  if (admitted->key != nullptr) line_.key = admitted->key->name;
  if (head.method() == http::verb::options) {
    OwnAnswer preflight{204, "", "", preflight_fields(head, rules)};
    co_return co_await answer(preflight);
  }
  if (line_.path == kLeasesPath && head.method() == http::verb::post)
    co_return co_await lend(admitted->key);
  const SameModel are_same = [this](const std::string& a, const std::string& b) {
    return now_->are_same(a, b);
  };
  auto named = model_in_head(head, are_same);
  if (!named) co_return co_await refuse_with(named.error());
  if (!named->by_path && is_api(line_.path)) co_return co_await serve_api(admitted->key);
  if (auto page = own_answer_to(*named)) co_return co_await answer(*page);
  co_return co_await forward(*admitted, std::move(*named), are_same);
}

bool Connection::is_look() const {
  const auto method = reader_->head().method();
  return method == http::verb::get || method == http::verb::head;
}

std::optional<OwnAnswer> Connection::own_answer_to(const NamedByHead& named) const {
  if (named.by_path) return std::nullopt;
  const std::string& path = line_.path;
  if ((is_probe(path) || is_pool_page(path)) && !is_look()) {
    Refusal refusal = refuse(405, "method_not_allowed", path + " is only looked at: GET").value();
    refusal.allow = "GET, HEAD";
    return answer_of(refusal);
  }
  if (!is_look()) return std::nullopt;
  if (auto page = own_page(path, *now_->door, service_.pool)) return page;
  if (named.model || reader_->framing() != Framing::kNone) return std::nullopt;
  return answer_of(refuse(404, "not_found",
                          "there is nothing at " + path +
                              "; POST a request with a \"model\" to /v1/chat/completions and its "
                              "like, or ask /m/NAME/...; GET /v1/models lists the models")
                       .value());
}

Task<bool> Connection::serve_api(const Key* key) {
  auto asked = read_api(reader_->head(), key == nullptr || key->may_steer);
  if (!asked) co_return co_await refuse_with(asked.error());
  asked->model = now_->name_of(asked->model);
  asked->events.model = now_->name_of(asked->events.model);
  if (asked->events.follows) {
    const bool is_head = reader_->head().method() == http::verb::head;
    co_await stream_events(service_, asked->events, is_head, *client_, changes(false), line_);
    co_return false;
  }
  if (asked->call == ApiCall::kBackendMetrics) {
    const auto told = co_await service_.backend_metrics.text();
    const OwnAnswer page{200, metrics::kContentType, *told, {}};
    co_return co_await answer(page);
  }
  if (!asked->is_order()) {
    std::optional<std::uint64_t> connections;
    if (service_.balance != nullptr) connections = service_.balance->sum();
    const auto seen = co_await apart(service_.loop, service_.looks,
                                     [&] { return look(*asked, service_.pool, connections); });
    co_return co_await answer(seen);
  }
  Body body(now_->door->serve, service_.held);
  const BodyLimit limit{.bytes = kOrderMax_bytes, .is_order = true};
  if (auto received = co_await receive(body, limit); !received)
    co_return co_await refuse_with(received.error());
  if (!reader_->is_whole()) co_return false;
  auto order = read_order(asked->call, body.whole());
  if (!order) co_return co_await refuse_with(order.error());
  line_.model = now_->name_of(order->model);
  const auto done =
      co_await carry_out(asked->call, std::move(*order), tag_of(id_), service_, now_, *client_);
  // Not as done && ...: GCC 12 asks for what is behind it all the same where that waits.
  if (done) co_return co_await answer(*done);
  line_.end = "the client left";
  co_return false;
}

// A lease that lives as long as this connection.
Task<bool> Connection::lend(const Key* key) {
  if (auto ok = check_wish_head(reader_->head()); !ok) co_return co_await refuse_with(ok.error());
  Body body(now_->door->serve, service_.held);
  const BodyLimit limit{.bytes = kLeaseWishMax_bytes, .is_order = true};
  if (auto received = co_await receive(body, limit); !received)
    co_return co_await refuse_with(received.error());
  if (!reader_->is_whole()) co_return false;
  auto wish = read_lease_wish(body.whole());
  if (!wish) co_return co_await refuse_with(wish.error());
  auto found = HeldLease::model_for(*wish, *now_);
  if (!found) co_return co_await refuse_with(found.error());
  Asked asked{*reader_, {},    {},    std::move(*found), body,  id_,
              address_, false, false, fields_,           began_};
  HeldLease lease(service_, *now_, *client_, asked, std::move(*wish), key, line_);
  if (auto ok = co_await lease.run(); !ok) co_return co_await refuse_with(ok.error());
  co_return false;
}

Task<bool> Connection::forward(const Admitted& admitted, NamedByHead named,
                               const SameModel& are_same) {
  const config::Serve& config = now_->door->serve;
  const bool may_stream = named.model.has_value();
  Body body(config, service_.held);
  const BodyLimit limit{.bytes = config.body_limit_bytes, .may_stream = may_stream};
  if (auto received = co_await receive(body, limit); !received)
    co_return co_await refuse_with(received.error());
  if (client_->has_left() && !reader_->is_whole()) co_return false;
  // Of a body that is not here yet nothing can be said: its head named the model.
  auto asked = reader_->is_whole()
                   ? find_asked_model(reader_->head(), named, body.whole(), are_same)
                   : Checked<AskedModel>(AskedModel{*named.model, 0, 0, false, false});
  if (!asked) co_return co_await refuse_with(asked.error());
  const auto found = now_->models.find(asked->name);
  if (found == now_->models.end())
    co_return co_await refuse_with(no_such_model(asked->name, *now_->door));
  Asked request{
      *reader_, std::move(named),        std::move(*asked), found->second, body, id_, address_,
      false,    admitted.key != nullptr, fields_,           began_};
  request.client_is_trusted = !address_.empty() && is_trusted(address_, config.trusted_proxies);
  Exchange exchange(service_, *now_, *client_, request, line_);
  exchange_ = &exchange;
  const bool goes_on = co_await exchange.run();
  exchange_ = nullptr;
  co_return goes_on && reader_->is_whole();
}

Refusal Connection::too_large(const BodyLimit& limit) {
  const std::string size = config::size_text(limit.bytes);
  auto refusal =
      refuse(413, "body_too_large",
             limit.is_order ? "the body is larger than that of an order may be, " + size
                            : "the body is larger than body_limit, " + size +
                                  "; name the model in the path (/m/NAME/...) or query, and it is "
                                  "passed on as it comes")
          .value();
  refusal.close = true;
  return refusal;
}

// The whole body; or, where the model is known already, as much of it as is kept.
Task<Checked<>> Connection::receive(Body& body, const BodyLimit& limit) {
  if (!limit.may_stream && reader_->framing() == Framing::kLength &&
      reader_->length() > limit.bytes)
    co_return tl::unexpected<Refusal>(too_large(limit));
  // A client that has left already is seen below.
  if (reader_->expects_continue()) co_await client_->write(kContinue);
  phase_ = Phase::kBody;
  while (!reader_->is_whole()) {
    Scratch& room = scratch_decoded();
    const auto taken = reader_->read_body(client_->input(), room);
    if (!taken) co_return tl::unexpected<Refusal>(taken.error());
    client_->take(taken->in);
    line_.in_bytes += taken->out;
    if (auto ok = body.append({room.data(), taken->out}); !ok) {
      Refusal refusal = ok.error();
      refusal.close = true;
      co_return tl::unexpected<Refusal>(std::move(refusal));
    }
    if (body.size() > limit.bytes) {
      if (!limit.may_stream) co_return tl::unexpected<Refusal>(too_large(limit));
      break;
    }
    if (taken->in > 0 || reader_->is_whole()) continue;
    if (client_->has_left()) break;
    if (is_overdue_) {
      Refusal late =
          refuse(408, "timeout", "no byte of the body came within client_timeout").value();
      late.close = true;
      co_return tl::unexpected<Refusal>(std::move(late));
    }
    client_->read(kPipe_bytes);
    co_await client_->wake.wait();
  }
  phase_ = Phase::kServing;
  co_return body.finish();
}

Task<bool> Connection::answer(const OwnAnswer& own, bool may_go_on) {
  // What is left of a body that nobody looks at cannot be told from a next request.
  const bool goes_on = may_go_on && reader_->keeps_open() && !service_.is_finishing &&
                       (reader_->is_whole() || reader_->framing() == Framing::kNone);
  line_.status = own.status;
  const bool sent = co_await client_->write(
      own_answer(own, changes(goes_on), reader_->head().method() == http::verb::head));
  line_.out_bytes += own.body.size();
  co_return (sent && goes_on);
}

AnswerChanges Connection::changes(bool keeps_open) const {
  AnswerChanges changes;
  changes.client_version = static_cast<int>(reader_->head().version());
  changes.keep_open = keeps_open;
  changes.fields = fields_;
  if (!id_.empty()) changes.fields.emplace_back("X-Request-Id", id_);
  return changes;
}

Task<bool> Connection::refuse_with(const Refusal& refusal) {
  line_.end = refusal.message;
  co_return co_await answer(answer_of(refusal), !refusal.close);
}

void Connection::end_if_idle() {
  if (phase_ != Phase::kIdle) return;
  is_overdue_ = true;
  client_->wake.notify();
}

void Connection::tick(TimePoint now) {
  const config::Serve& config = now_->door->serve;
  std::uint64_t limit_ns = 0;
  TimePoint since = began_;
  switch (phase_) {
    case Phase::kHandshake:
    case Phase::kHead:
      limit_ns = config.header_timeout_ns;
      break;
    case Phase::kIdle:
      limit_ns = has_served_ ? config.keepalive_timeout_ns : config.header_timeout_ns;
      break;
    case Phase::kBody:
      limit_ns = config.client_timeout_ns;
      since = std::max(began_, client_->last_input());
      break;
    case Phase::kServing:
      if (exchange_ != nullptr) exchange_->tick(now);
      break;
  }
  const auto blocked = client_->blocked_since();
  if (exchange_ == nullptr && blocked && config.client_timeout_ns != 0 &&
      now - *blocked >= nanoseconds(config.client_timeout_ns))
    client_->abort();
  if (limit_ns == 0 || now - since < nanoseconds(limit_ns)) return;
  is_overdue_ = true;
  if (phase_ == Phase::kHandshake) client_->abort();
  client_->wake.notify();
}

}  // namespace modelpool::serve
