#include "worker/places.hpp"

#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <utility>
#include <vector>

namespace modelpool::serve {
namespace {

// Of the one wait of a model: those who ask have their own deadlines, and the wait keeps its place
// in the line while any of them is there.
constexpr std::chrono::hours kWait{24 * 30};

std::string seconds_text(Clock::duration length) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(length).count()) + " s";
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
    auto attempt = pool_.try_acquire(name, kWait, options_of(asker));
    if (!attempt) {
      asker.answer_ = modelpool::fail(attempt.error());
      return;
    }
    if (auto* lease = std::get_if<Lease>(&*attempt)) {
      asker.answer_ = std::move(*lease);
      return;
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
  found->second.model = asker.model_;
  found->second.askers.push_back(&asker);
}

void Places::leave(Asker& asker) {
  const auto found = queues_.find(asker.model_->name);
  if (found == queues_.end()) return;
  std::erase(found->second.askers, &asker);
  if (found->second.askers.empty() && !found->second.is_loading) queues_.erase(found);
}

void Places::look() {
  std::vector<std::string> names;
  for (const auto& [name, queue] : queues_) {
    if (queue.pending) names.push_back(name);
  }
  for (const std::string& name : names) advance(name);
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
    queue.tag = queue.askers.front()->tag_;
    auto attempt = pool_.try_acquire(queue.model->name, kWait, options_of(*queue.askers.front()));
    if (!attempt) {
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
  if (!polled) {
    answer_all(queue, polled.error());
  } else if (auto* lease = std::get_if<Lease>(&**polled)) {
    give(queue, std::move(*lease));
  } else {
    begin_load(queue, std::move(std::get<LoadTicket>(**polled)));
  }
  return true;
}

// To the first. Who began the wait may have left: then the lease has its tag, and is given up for
// one with the right tag, if that can be had while the first still holds the backend.
void Places::give(Queue& queue, Lease lease) {
  Asker& first = *queue.askers.front();
  queue.askers.pop_front();
  if (queue.tag != first.tag_) {
    auto own = pool_.try_acquire(queue.model->name, std::chrono::seconds(0), options_of(first));
    if (own && std::holds_alternative<Lease>(*own)) lease = std::move(std::get<Lease>(*own));
  }
  answer(first, std::move(lease));
}

void Places::begin_load(Queue& queue, LoadTicket ticket) {
  queue.is_loading = true;
  ++loads_;
  // Who waits asked under the config of then.
  if (auto now = model_now_(queue.model->name)) queue.model = std::move(now);
  loader_.load(
      std::move(ticket), queue.model,
      [this, name = queue.model->name](Result<Lease> lease) { loaded(name, std::move(lease)); });
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
  std::vector<std::string> empty;
  for (auto& [name, queue] : queues_) {
    std::deque<Asker*> left;
    for (Asker* asker : std::exchange(queue.askers, {})) {
      if (now < asker->deadline_) {
        left.push_back(asker);
        continue;
      }
      answer(*asker, modelpool::fail(Errc::kTimeout,
                                     "unable to get a place for " + name + " within " +
                                         seconds_text(now - asker->since_) +
                                         (queue.is_loading
                                              ? ": it is still being loaded; ask again, or raise "
                                                "queue_timeout"
                                              : ": every place is taken; `poolctl explain` says by "
                                                "whom, queue_timeout how long requests wait")));
    }
    queue.askers = std::move(left);
    if (queue.askers.empty() && !queue.is_loading) empty.push_back(name);
  }
  for (const std::string& name : empty) queues_.erase(name);
}

}  // namespace modelpool::serve
