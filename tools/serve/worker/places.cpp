#include "worker/places.hpp"

#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <utility>

namespace modelpool::serve {
namespace {

// The one wait of a model has the deadline of the first who asks, for the judge plans with it, and
// a little more: who asks is told by tick, and the wait keeps its place for the others.
constexpr std::chrono::seconds kSlack{5};
constexpr int kSmoothing = 8;

std::string seconds_text(Clock::duration length) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(length).count()) + " s";
}

// A tenant that came by a connection is a backend without a process, which answers nobody.
Result<Lease> of_a_model(Lease lease) {
  if (lease.address() != kTenantsAddress) return lease;
  return modelpool::fail(Errc::kNotLoaded,
                         "unable to get a place for " + lease.model() +
                             ": a tenant has this name, by a connection to a door; wait for its "
                             "end, or use another name");
}

Deadline outlasting(TimePoint deadline) {
  if (deadline == TimePoint::max()) return std::chrono::nanoseconds(Duration::kMax_ns);
  return std::max(deadline - Clock::now(), Clock::duration::zero()) + kSlack;
}

}  // namespace

Places::Asker::Asker(Places& places, std::shared_ptr<const config::Model> model, std::string tag,
                     TimePoint deadline, Wake& wake)
    : places_(places),
      model_(std::move(model)),
      tag_(std::move(tag)),
      deadline_(deadline),
      wake_(wake) {
  places_.ask(*this);
}

Places::Asker::~Asker() {
  if (!answer_) places_.leave(*this);
}

Result<> Places::start() {
  auto fd = pool_.wait_fd();
  if (!fd) return modelpool::fail(fd.error());
  asio::co_spawn(loop_, follow(*fd), asio::detached);
  return {};
}

Task<> Places::follow(int fd) {
  // A descriptor of its own: the pool closes the other.
  asio::posix::basic_stream_descriptor<Executor> bell(loop_.get_executor(), dup(fd));
  for (;;) {
    const auto [error] = co_await bell.async_wait(bell.wait_read, kTask);
    if (error) co_return;
    std::uint64_t rung;
    static_cast<void>(::read(fd, &rung, sizeof rung));
    look();
  }
}

AcquireOptions Places::options_of(const Asker& asker) const {
  AcquireOptions options;
  options.tag = asker.tag_;
  options.expected_bytes = asker.model_->size_bytes;
  options.cancellable = true;
  return options;
}

void Places::ask(Asker& asker) {
  const std::string& name = asker.model_->name;
  const auto found = queues_.find(name);
  if (found == queues_.end()) {
    auto attempt = pool_.try_acquire(name, outlasting(asker.deadline_), options_of(asker));
    if (!attempt) {
      asker.answer_ = modelpool::fail(attempt.error());
      return;
    }
    if (auto* lease = std::get_if<Lease>(&*attempt)) {
      asker.answer_ = of_a_model(std::move(*lease));
      return;
    }
    if (std::holds_alternative<PendingAcquire>(*attempt)) {
      if (auto full = refusal_of_full(name, nullptr)) {
        asker.answer_ = modelpool::fail(*full);
        return;
      }
    }
    Queue& queue = queues_[name];
    queue.model = asker.model_;
    queue.askers.push_back(&asker);
    queue.tag = asker.tag_;
    if (auto* ticket = std::get_if<LoadTicket>(&*attempt)) {
      begin_load(queue, std::move(*ticket));
    } else {
      queue.pending.emplace(std::move(std::get<PendingAcquire>(*attempt)));
    }
    return;
  }
  Queue& queue = found->second;
  if (auto full = refusal_of_full(name, &queue)) {
    asker.answer_ = modelpool::fail(*full);
    return;
  }
  queue.model = asker.model_;
  queue.askers.push_back(&asker);
}

// When whoever waits here now will have been served is when it is worth asking again.
std::optional<Error> Places::refusal_of_full(const std::string& name, const Queue* queue) {
  std::size_t waiting = 0;
  for (const auto& [other, one] : queues_) waiting += one.askers.size();
  const auto seen = pool_.look(name);
  if (!seen || waiting < seen->max_waiters) return std::nullopt;
  Error error{Errc::kQueueFull,
              "unable to get a place for " + name + ": " + std::to_string(waiting) +
                  " requests are waiting here already (max_waiters)",
              0, 0};
  if (queue == nullptr) return error;
  const auto time = queue->between * static_cast<std::int64_t>(queue->askers.size());
  error.retry_after_ns = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(time).count());
  return error;
}

void Places::leave(Asker& asker) {
  const auto found = queues_.find(asker.model_->name);
  if (found == queues_.end()) return;
  std::erase(found->second.askers, &asker);
  follow_first(found->second);
  if (found->second.askers.empty() && !found->second.is_loading) queues_.erase(found);
}

void Places::follow_first(Queue& queue) {
  if (!queue.pending || queue.askers.empty()) return;
  const Asker& first = *queue.askers.front();
  queue.pending->set_deadline(outlasting(first.deadline_));
  if (queue.pending->set_tag(first.tag_)) queue.tag = first.tag_;
}

void Places::look() {
  std::vector<std::string> names;
  for (const auto& [name, queue] : queues_) {
    if (queue.pending) names.push_back(name);
  }
  for (const std::string& name : names) advance(name);
  for (Wake* wake : listeners_) wake->notify();
}

void Places::advance(const std::string& name) {
  const auto found = queues_.find(name);
  if (found == queues_.end()) return;
  while (step(found->second)) {
  }
  if (found->second.askers.empty() && !found->second.is_loading) queues_.erase(found);
}

bool Places::step(Queue& queue) {
  if (queue.askers.empty() || queue.is_loading) return false;
  if (!queue.pending) {
    const Asker& first = *queue.askers.front();
    queue.tag = first.tag_;
    auto attempt =
        pool_.try_acquire(queue.model->name, outlasting(first.deadline_), options_of(first));
    if (!attempt && attempt.error().code == Errc::kQueueFull) {
      return false;  // these stood in line already: asked again by tick, until their time is over
    } else if (!attempt) {
      answer_all(queue, attempt.error());
    } else if (auto* lease = std::get_if<Lease>(&*attempt)) {
      give(queue, std::move(*lease));
    } else if (auto* ticket = std::get_if<LoadTicket>(&*attempt)) {
      begin_load(queue, std::move(*ticket));
    } else {
      queue.pending.emplace(std::move(std::get<PendingAcquire>(*attempt)));
      return false;
    }
    return true;
  }
  auto polled = queue.pending->poll();
  if (polled && !polled->has_value()) return false;
  queue.pending.reset();
  if (!polled && polled.error().code == Errc::kTimeout) {
    // This process stood still for longer than a wait outlasts who asks.
    expire(queue, Clock::now());
  } else if (!polled) {
    answer_all(queue, polled.error());
  } else if (auto* lease = std::get_if<Lease>(&**polled)) {
    give(queue, std::move(*lease));
  } else {
    begin_load(queue, std::move(std::get<LoadTicket>(**polled)));
  }
  return true;
}

// To the first. Who began the load may have left: then the lease has its tag, and is given up for
// one with the right tag, if that can be had while the first still holds the backend.
void Places::give(Queue& queue, Lease lease) {
  Asker& first = *queue.askers.front();
  queue.askers.pop_front();
  const TimePoint now = Clock::now();
  if (queue.given && queue.between == Clock::duration::zero()) queue.between = now - *queue.given;
  if (queue.given) queue.between += (now - *queue.given - queue.between) / kSmoothing;
  queue.given = now;
  if (queue.tag != first.tag_) {
    auto own = pool_.try_acquire(queue.model->name, std::chrono::seconds(0), options_of(first));
    if (own && std::holds_alternative<Lease>(*own)) lease = std::move(std::get<Lease>(*own));
  }
  answer(first, of_a_model(std::move(lease)));
}

void Places::begin_load(Queue& queue, LoadTicket ticket) {
  const std::string name = queue.model->name;
  // Who waits asked under the config of then; what has the name now may be another model.
  auto now = model_now_(name);
  if (!now || now->name != name) {
    loader_.give_back(std::move(ticket));
    answer_all(queue, {Errc::kNotLoaded,
                       "unable to load " + name + ": the config has no such model any more", 0, 0});
    return;
  }
  queue.model = std::move(now);
  queue.is_loading = true;
  ++loads_;
  loader_.load(std::move(ticket), queue.model,
               [this, name](Result<Lease> lease) { loaded(name, std::move(lease)); });
}

void Places::loaded(const std::string& name, Result<Lease> lease) {
  --loads_;
  const auto found = queues_.find(name);
  if (found == queues_.end()) return;
  Queue& queue = found->second;
  queue.is_loading = false;
  if (lease && !queue.askers.empty()) {
    give(queue, std::move(*lease));
  } else if (!lease && lease.error().code != Errc::kTicketLost) {
    answer_all(queue, lease.error());
  }
  // A ticket that was lost: the pool knows whether that was a failure, or another may load.
  advance(name);
}

void Places::answer(Asker& asker, Result<Lease> result) {
  asker.answer_.emplace(std::move(result));
  asker.wake_.notify();
}

void Places::answer_all(Queue& queue, const Error& error) {
  for (Asker* asker : std::exchange(queue.askers, {})) answer(*asker, modelpool::fail(error));
}

void Places::tick(TimePoint now) {
  std::vector<std::string> names;
  for (auto& [name, queue] : queues_) {
    expire(queue, now);
    if (queue.askers.empty() || !queue.pending) names.push_back(name);
  }
  for (const std::string& name : names) advance(name);
}

void Places::expire(Queue& queue, TimePoint now) {
  const auto is_over = [now](const Asker* asker) { return asker->deadline_ <= now; };
  const auto over = std::stable_partition(queue.askers.begin(), queue.askers.end(),
                                          [&](const Asker* asker) { return !is_over(asker); });
  if (over == queue.askers.end()) return;
  for (auto at = over; at != queue.askers.end(); ++at) {
    answer(**at, modelpool::fail(
                     Errc::kTimeout,
                     "unable to get a place for " + queue.model->name + " within " +
                         seconds_text(now - (*at)->since_) +
                         (queue.is_loading
                              ? ": it is still being loaded; ask again, or raise queue_timeout"
                              : ": every place is taken; `poolctl explain` says by whom, "
                                "queue_timeout how long requests wait")));
  }
  queue.askers.erase(over, queue.askers.end());
  follow_first(queue);
}

}  // namespace modelpool::serve
