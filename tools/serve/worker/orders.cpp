#include "worker/orders.hpp"

#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "worker/apart.hpp"
#include "worker/refusals.hpp"

namespace modelpool::serve {
namespace {

using Json = nlohmann::ordered_json;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr seconds kEvictTimeout{60};      // a drain and a stop with their default limits
constexpr seconds kCoordinatorGrace{10};  // it may be starting again
constexpr milliseconds kLook{20};
constexpr seconds kLookAtCoordinator{1};

std::int64_t ms_since(TimePoint then) {
  return std::chrono::duration_cast<milliseconds>(Clock::now() - then).count();
}

OwnAnswer page(const Json& json) {
  OwnAnswer answer;
  answer.body = json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  return answer;
}

OwnAnswer refused(int status, const char* code, std::string text) {
  return answer_of(refuse(status, code, std::move(text)).value());
}

Json pid_or_null(pid_t pid) { return pid > 0 ? Json(pid) : Json(nullptr); }

class Orders {
 public:
  Orders(Order order, std::string tag, Service& service, std::shared_ptr<const InForce> now,
         Client& client)
      : order_(std::move(order)),
        tag_(std::move(tag)),
        service_(service),
        now_(std::move(now)),
        client_(client),
        model_(now_->name_of(order_.model)) {}

  Task<std::optional<OwnAnswer>> evict();
  OwnAnswer pin(bool pinned);
  Task<std::optional<OwnAnswer>> load();
  Task<OwnAnswer> set();

 private:
  OwnAnswer refused_with(const Error& error) const;
  std::optional<OwnAnswer> end_of_wait(const BackendRow& backend, TimePoint now);
  bool is_judged() const;

  Order order_;
  const std::string tag_;
  Service& service_;
  const std::shared_ptr<const InForce> now_;
  Client& client_;
  const std::string model_;
  const TimePoint began_ = Clock::now();
  TimePoint judged_ = began_;  // when a coordinator was seen last
  TimePoint next_look_ = began_;
};

OwnAnswer Orders::refused_with(const Error& error) const {
  if (error.code == Errc::kNotLoaded && now_->models.find(model_) == now_->models.end())
    return answer_of(no_such_model(model_, *now_->door));
  return answer_of(refusal_of(error, 0));
}

bool Orders::is_judged() const {
  const auto seen = service_.pool.snapshot();
  return seen && seen->status.coordinator.alive.value_or(false) &&
         !seen->status.coordinator.hung_ms;
}

// --- Evict ---------------------------------------------------------------------------------------

// Why it is not waited for any longer, if so.
std::optional<OwnAnswer> Orders::end_of_wait(const BackendRow& backend, TimePoint now) {
  const std::string unable = "unable to evict " + model_ + ": ";
  // The coordinator takes the request back where it cannot be granted.
  if (backend.state == "ready" && !backend.evict_requested) {
    const std::string count = std::to_string(backend.in_flight);
    return refused(409, "in_use",
                   unable + (backend.in_flight > 0
                                 ? "requests in flight, " + count +
                                       ", have not ended within "
                                       "drain_timeout; wait for them, or use \"force\" to cut them"
                                 : "it was used meanwhile; ask again"));
  }
  if (now >= next_look_) {
    next_look_ = now + kLookAtCoordinator;
    if (is_judged()) judged_ = now;
  }
  if (now - judged_ >= kCoordinatorGrace) {
    return refused(503, "no_coordinator",
                   unable + "no coordinatord serves the pool; the request stays until one does");
  }
  const auto limit =
      order_.timeout_ns ? nanoseconds(*order_.timeout_ns) : nanoseconds(kEvictTimeout);
  if (now - began_ >= limit)
    return refused(504, "timeout", unable + "it is not gone yet; the request stays");
  return std::nullopt;
}

Task<std::optional<OwnAnswer>> Orders::evict() {
  const auto before = service_.pool.look(model_);
  auto asked = before ? service_.pool.evict(model_, order_.force)
                      : Result<>(modelpool::fail(before.error()));
  if (!asked) co_return refused_with(asked.error());
  const auto life = before->backend.value_or(BackendRow{});
  pid_t pid = life.pid;
  const bool waits = order_.timeout_ns != 0;
  while (waits) {
    const auto seen = service_.pool.look(model_);
    if (!seen) co_return refused_with(seen.error());
    const auto& backend = seen->backend;
    if (!backend || backend->slot != life.slot || backend->generation != life.generation) break;
    if (backend->pid != 0) pid = backend->pid;
    if (auto end = end_of_wait(*backend, Clock::now())) co_return end;
    client_.read(kPipe_bytes);
    co_await pause(service_.loop.get_executor(), kLook);
    if (client_.has_left()) co_return std::nullopt;
  }
  co_return page({{"model", model_},
                  {"gone", waits},
                  {"pid", pid_or_null(pid)},
                  {"generation", life.generation},
                  {"took_ms", ms_since(began_)}});
}

// --- The others ----------------------------------------------------------------------------------

OwnAnswer Orders::pin(bool pinned) {
  const auto done = pinned ? service_.pool.pin(model_) : service_.pool.unpin(model_);
  // What stands in the settings is no fault of the order.
  const bool is_by_settings = !done && done.error().code == Errc::kInvalid && !pinned &&
                              service_.pool.look(model_).has_value();
  if (is_by_settings) return refused(409, "pinned_by_settings", done.error().text);
  if (!done) return refused_with(done.error());
  return page({{"model", model_}, {"pinned", pinned}});
}

Task<std::optional<OwnAnswer>> Orders::load() {
  const auto found = now_->models.find(model_);
  if (found == now_->models.end()) co_return answer_of(no_such_model(model_, *now_->door));
  const std::uint64_t limit_ns = order_.timeout_ns.value_or(now_->door->serve.queue_timeout_ns);
  const bool is_bounded = order_.timeout_ns || limit_ns != 0;
  const TimePoint deadline = is_bounded ? began_ + nanoseconds(limit_ns) : TimePoint::max();
  Places::Asker asker(service_.places, found->second, tag_, deadline, client_.wake);
  while (!asker.answer()) {
    client_.read(kPipe_bytes);
    if (client_.has_left()) co_return std::nullopt;
    co_await client_.wake.wait();
  }
  const auto seen = service_.pool.look(model_);
  const bool is_known = seen && seen->backend;
  if (!*asker.answer()) {
    const bool has_loaded = seen && seen->history;
    const std::uint64_t load_ms = has_loaded ? seen->history->load_ms.value_or(0) : 0;
    co_return answer_of(refusal_of(asker.answer()->error(), load_ms));
  }
  const Lease& lease = **asker.answer();
  const std::int64_t took_ms = ms_since(began_);
  const bool is_ours = is_known && seen->backend->owner_pid == getpid();
  const bool is_new = is_known && seen->backend->ready_ms.value_or(UINT64_MAX) <=
                                      static_cast<std::uint64_t>(took_ms);
  co_return page({{"model", model_},
                  {"address", lease.address()},
                  {"pid", pid_or_null(lease.pid())},
                  {"loaded_here", is_ours && is_new},
                  {"took_ms", took_ms}});
}

Task<OwnAnswer> Orders::set() {
  const auto done = co_await apart(service_.loop, service_.threads,
                                   [this] { return service_.pool.set(order_.values); });
  if (!done) co_return answer_of(refusal_of(done.error(), 0));
  Json json = Json::object();
  for (const auto& [name, value] : order_.values) json[name] = value;
  co_return page({{"set", std::move(json)}});
}

}  // namespace

Task<std::optional<OwnAnswer>> carry_out(ApiCall call, Order order, std::string tag,
                                         Service& service, std::shared_ptr<const InForce> now,
                                         Client& client) {
  Orders orders(std::move(order), std::move(tag), service, std::move(now), client);
  if (call == ApiCall::kEvict) co_return co_await orders.evict();
  if (call == ApiCall::kLoad) co_return co_await orders.load();
  if (call == ApiCall::kSet) co_return co_await orders.set();
  co_return orders.pin(call == ApiCall::kPin);
}

}  // namespace modelpool::serve
