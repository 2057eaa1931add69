#include "worker/worker.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <tuple>
#include <unordered_set>
#include <vector>

#include "between/control.hpp"
#include "between/meeting.hpp"
#include "between/open_files.hpp"
#include "worker/connection.hpp"
#include "worker/service.hpp"
#include "worker/sockets.hpp"

namespace modelpool::serve {
namespace {

using Descriptor = asio::posix::basic_stream_descriptor<Executor>;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr milliseconds kHeldBack{5};    // between two looks of a worker that is ahead
constexpr milliseconds kNoAccept{100};  // after an accept that failed
constexpr milliseconds kLastToAnswer{1'000};
constexpr milliseconds kNewcomer{5'000};     // to say what it wants
constexpr milliseconds kSuccessors{1'000};   // to say that they go on without their master
constexpr std::chrono::seconds kSockets{2};  // between two looks for those of backends that ended

void complain(const std::string& text) { std::fprintf(stderr, "poolserve: %s\n", text.c_str()); }

// "10.0.0.7" of whoever connected; empty: a Unix socket.
std::string address_of(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return {};
  if (storage.ss_family != AF_INET && storage.ss_family != AF_INET6) return {};
  asio::ip::tcp::endpoint endpoint;
  std::memcpy(endpoint.data(), &storage, length);
  endpoint.resize(length);
  return endpoint.address().to_string();
}

Fd accepted_from(Descriptor& listening) {
  return Fd(accept4(listening.native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
}

class Worker {
 public:
  Worker(Loop& loop, WorkerStart& start, Pool& pool, std::string sockets_dir)
      : loop_(loop),
        start_(start),
        pool_(pool),
        sockets_dir_(std::move(sockets_dir)),
        loader_(loop, pool, sockets_dir_, start.backend_files),
        places_(loop, pool, loader_, [this](const std::string& name) { return model_of(name); }),
        upstreams_(loop.get_executor()),
        events_(loop, pool),
        backend_metrics_(loop, pool, start.pool, looks_, start.backend_metrics.get(),
                         [this](const std::string& name) { return key_of(name); }),
        service_{loop,
                 pool,
                 places_,
                 upstreams_,
                 events_,
                 backend_metrics_,
                 loader_.threads(),
                 looks_,
                 start.balance.get(),
                 nullptr,
                 {}} {}

  Result<> begin();
  void end() {
    loader_.stop();
    events_.stop();
    looks_.join();
  }

 private:
  Task<> accept_from(std::size_t gate);
  void close_sockets();
  Task<> meet();
  Task<> answer_newcomer(Fd accepted);
  Task<> follow_master();
  Task<> follow_signals();
  std::shared_ptr<const config::Model> model_of(const std::string& name) const {
    const auto found = service_.now->models.find(name);
    return found == service_.now->models.end() ? nullptr : found->second;
  }
  std::string key_of(const std::string& name) const {
    const auto model = model_of(name);
    return model == nullptr ? "" : model->backend_key;
  }
  Task<> preload();
  Task<> tick();
  void take(std::size_t gate, Fd fd);
  void finish(std::uint64_t within_ns);
  void follow_retirement(TimePoint now);
  bool is_final() const { return service_.ends_idle || may_end(start_); }
  void count();
  Result<> put_in_force(const std::shared_ptr<const config::Door>& door);
  template <class T>
  void spawn(Task<T> task) {
    // Without it the worker would go on as half of one: the master starts a whole one.
    asio::co_spawn(loop_, std::move(task), [](const std::exception_ptr& thrown) {
      if (thrown) std::rethrow_exception(thrown);
    });
  }

  Loop& loop_;
  WorkerStart& start_;
  Pool& pool_;
  const std::string sockets_dir_;
  Loader loader_;
  Places places_;
  Upstreams upstreams_;
  EventFeed events_;
  asio::thread_pool looks_{1};
  BackendMetrics backend_metrics_;
  Service service_;
  std::vector<std::unique_ptr<Descriptor>> listening_;  // by listener; then the door
  std::unordered_set<Connection*> connections_;
  std::optional<TimePoint> end_by_;  // set: finishing
  bool is_retired_ = false;
  std::optional<TimePoint> master_gone_;
};

Result<> Worker::put_in_force(const std::shared_ptr<const config::Door>& door) {
  raise_open_files(door->serve.max_connections);
  std::vector<config::Listener> listeners;
  std::vector<std::size_t> dropped;
  // What the file says now of a listener that stays. Other certificates are for other workers: a
  // connection that is open already has not shown one.
  for (const OpenListener& listener : start_.listeners) {
    config::Listener one = listener.where;
    bool stays = service_.now == nullptr;
    for (const config::Listener& given : door->serve.listeners) {
      if (given.address != one.address || given.tls_client_ca != one.tls_client_ca) continue;
      one = given;
      stays = true;
    }
    if (!stays) {
      one.tls_cert.clear();
      dropped.push_back(listeners.size());
    }
    listeners.push_back(std::move(one));
  }
  auto made = InForce::make(door, listeners);
  if (!made) return fail(made.error());
  // Its certificate may be gone.
  for (const std::size_t gate : dropped) (*made)->gates[gate].tls = service_.now->gates[gate].tls;
  service_.now = std::move(*made);
  return {};
}

Result<> Worker::begin() {
  const auto copy_of = [this](const Fd& fd) {
    return std::make_unique<Descriptor>(loop_.get_executor(), dup(fd.get()));
  };
  if (auto ok = put_in_force(start_.door); !ok) return ok;
  if (auto ok = places_.start(); !ok) return ok;
  for (OpenListener& one : start_.listeners) listening_.push_back(copy_of(one.fd));
  listening_.push_back(copy_of(start_.meeting));
  for (std::size_t gate = 0; gate < start_.listeners.size(); ++gate) spawn(accept_from(gate));
  spawn(meet());
  if (start_.control) spawn(follow_master());
  spawn(follow_signals());
  if (start_.preloads) spawn(preload());
  spawn(tick());
  return {};
}

// --- Accepting -----------------------------------------------------------------------------------

void Worker::count() {
  if (start_.balance != nullptr)
    start_.balance->set(start_.index, static_cast<std::uint32_t>(connections_.size()));
}

Task<> Worker::accept_from(std::size_t gate) {
  Descriptor& listener = *listening_[gate];
  for (;;) {
    const auto [error] = co_await listener.async_wait(Descriptor::wait_read, kTask);
    if (error) co_return;
    while (end_by_ && listener.is_open()) co_await pause(loop_.get_executor(), kTick);
    const auto mine = static_cast<std::uint32_t>(connections_.size());
    const Balance* balance = start_.balance.get();
    const bool is_full =
        (balance == nullptr ? mine : balance->sum()) >= service_.now->door->serve.max_connections;
    if (is_full || (balance != nullptr && balance->is_ahead(mine))) {
      co_await pause(loop_.get_executor(), kHeldBack);
      if (is_full) continue;
    }
    if (!listener.is_open()) co_return;
    Fd accepted = accepted_from(listener);
    if (accepted) {
      take(gate, std::move(accepted));
    } else if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
      // For want of descriptors, or the master has closed the socket for all.
      co_await pause(loop_.get_executor(), kNoAccept);
    }
    // One a turn: others of this loop, and other workers, come between.
    co_await asio::post(loop_.get_executor(), kTask);
  }
}

void Worker::take(std::size_t gate, Fd fd) {
  const std::string address = address_of(fd.get());
  Socket socket(loop_.get_executor());
  sockaddr_storage local{};
  socklen_t length = sizeof local;
  getsockname(fd.get(), reinterpret_cast<sockaddr*>(&local), &length);
  error_code error;
  socket.assign(asio::generic::stream_protocol(local.ss_family, 0), fd.get(), error);
  if (error) return;
  static_cast<void>(fd.release());
  if (!address.empty()) socket.set_option(asio::ip::tcp::no_delay(true), error);
  auto client = std::make_shared<Client>(std::move(socket), service_.now->gates[gate].tls);
  auto connection = std::make_shared<Connection>(service_, gate, std::move(client), address);
  connections_.insert(connection.get());
  count();
  asio::co_spawn(loop_, connection->run(), [this, connection](const std::exception_ptr& thrown) {
    connections_.erase(connection.get());
    count();
    if (thrown) complain("a connection was dropped for want of memory");
  });
}

// One after the other: the first may need what the second would take.
Task<> Worker::preload() {
  const auto door = service_.now->door;
  std::vector<const config::Model*> wanted;
  for (const config::Model& model : door->models) {
    if (model.preload) wanted.push_back(&model);
  }
  std::sort(wanted.begin(), wanted.end(), [](const config::Model* a, const config::Model* b) {
    return std::tie(a->line, a->name) < std::tie(b->line, b->name);
  });
  for (const config::Model* model : wanted) {
    Wake wake(loop_.get_executor());
    Places::Asker asker(places_, std::shared_ptr<const config::Model>(door, model), "preload",
                        TimePoint::max(), wake);
    while (!asker.answer()) co_await wake.wait();
    if (!*asker.answer()) complain(asker.answer()->error().text);
  }
}

// A poolserve that comes later asks here for the sockets.
Task<> Worker::meet() {
  Descriptor& door = *listening_.back();
  for (;;) {
    const auto [error] = co_await door.async_wait(Descriptor::wait_read, kTask);
    if (error) co_return;
    // One after which others have begun is asked only where nobody else answers: those others have
    // died, or not yet come so far.
    if (end_by_ || !start_.lineage->is_newest(start_.generation))
      co_await pause(loop_.get_executor(), kLastToAnswer);
    if (!door.is_open()) co_return;
    // All of them: those before it may have died while they waited.
    while (Fd accepted = accepted_from(door)) spawn(answer_newcomer(std::move(accepted)));
    // For want of descriptors, or the master has closed the socket for all.
    if (errno != EAGAIN) co_await pause(loop_.get_executor(), kNoAccept);
  }
}

// Those who serve have them. Nobody is to wait at one that only those hold who finish, nor a
// poolserve to be told of it.
void Worker::close_sockets() {
  if (!service_.ends_idle) finish(service_.now->door->serve.drain_timeout_serve_ns);
  error_code ignored;
  for (const auto& one : listening_) one->close(ignored);
  for (OpenListener& one : start_.listeners) one.fd.reset();
  start_.meeting.reset();
}

Task<> Worker::answer_newcomer(Fd accepted) {
  Socket newcomer(loop_.get_executor());
  error_code error;
  newcomer.assign(asio::generic::stream_protocol(AF_UNIX, 0), dup(accepted.get()), error);
  if (error) co_return;
  const Limit limit(newcomer, kNewcomer);
  std::tie(error) = co_await newcomer.async_wait(Socket::wait_read, kTask);
  if (!error && !limit.is_over()) answer_meeting(accepted.get(), start_);
}

// --- Ending --------------------------------------------------------------------------------------

void Worker::finish(std::uint64_t within_ns) {
  const TimePoint until = within_ns == 0 ? TimePoint::max() : Clock::now() + nanoseconds(within_ns);
  end_by_ = std::min(end_by_.value_or(TimePoint::max()), until);
  service_.is_finishing = true;
  events_.wake_all();  // those who follow come again, to a worker that stays
}

void Worker::follow_retirement(TimePoint now) {
  const bool is_retired = serve::is_retired(start_);
  // The master that put others in its place has died, and they do not say that they are there.
  if (is_retired && !may_end(start_) && master_gone_ && now - *master_gone_ >= kSuccessors)
    start_.lineage->take_back(start_.generation);
  if (is_retired == is_retired_) return;
  is_retired_ = is_retired;
  if (is_retired) {
    finish(0);                       // its time begins when that is final
  } else if (!service_.ends_idle) {  // nor told by a signal
    end_by_.reset();
    service_.is_finishing = false;
  }
}

Task<> Worker::follow_signals() {
  asio::basic_signal_set<Executor> signals(loop_.get_executor(), SIGTERM);
  for (;;) {
    const auto [error, number] = co_await signals.async_wait(kTask);
    if (error) co_return;
    finish(service_.now->door->serve.shutdown_timeout_ns);
    service_.ends_idle = true;
    for (Connection* connection : connections_) connection->end_if_idle();
  }
}

Task<> Worker::follow_master() {
  Descriptor master(loop_.get_executor(), dup(start_.control.get()));
  say(start_.control, kSaysReady);
  for (;;) {
    const auto [error] = co_await master.async_wait(Descriptor::wait_read, kTask);
    if (error) co_return;
    auto message = receive_control(start_.control);
    if (std::holds_alternative<MasterGone>(message)) break;
    if (std::holds_alternative<DoorLost>(message)) {
      // It would go on with the old one: a new worker has the new one from its start.
      complain(
          "a new config could not be taken, perhaps for want of descriptors; this worker ends");
      kill(getpid(), SIGTERM);
    }
    if (auto* door = std::get_if<config::Door>(&message)) {
      auto ok = put_in_force(std::make_shared<const config::Door>(std::move(*door)));
      if (!ok) complain(ok.error().text);
      say(start_.control, kSaysDoor);
    }
  }
  master_gone_ = Clock::now();
  // Not one that its master ended: those before it were to go on.
  if (!end_by_) finish_takeover(start_);
}

Task<> Worker::tick() {
  for (TimePoint next_look;;) {
    co_await pause(loop_.get_executor(), kTick);
    const TimePoint now = Clock::now();
    for (Connection* connection : connections_) connection->tick(now);
    places_.tick(now);
    events_.tick(now);
    upstreams_.close_old(now);
    if (now >= next_look) {
      next_look = now + kSockets;
      remove_old_sockets(sockets_dir_, pool_);
    }
    follow_retirement(now);
    if (!end_by_ || !is_final()) continue;
    if (start_.meeting) close_sockets();
    const bool is_done = connections_.empty() && places_.loads() == 0;
    if (is_done || now >= *end_by_) loop_.stop();
  }
}

int fail_with(const Error& error) {
  complain(error.text);
  return 1;
}

}  // namespace

int run_worker(WorkerStart start) {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);  // of the terminal: the master is told, and tells
  signal(SIGINT, SIG_IGN);
  auto pool = Pool::attach(start.pool, {.dir = start.dir, .create = false});
  if (!pool) return fail_with(pool.error());
  const auto seen = pool->snapshot();
  if (!seen) return fail_with(seen.error());
  const std::string& path = seen->status.path;
  Loop loop(1);
  Worker worker(loop, start, *pool, path + ".backends");
  if (auto begun = worker.begin(); !begun) return fail_with(begun.error());
  loop.run();
  worker.end();
  // Coroutines that were cut still refer to what would be destroyed here.
  pool->close();
  std::fflush(nullptr);
  _exit(0);
}

}  // namespace modelpool::serve
