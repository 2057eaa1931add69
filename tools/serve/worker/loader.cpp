#include "worker/loader.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <exception>
#include <optional>
#include <utility>

#include "wire/message.hpp"
#include "worker/apart.hpp"
#include "worker/sockets.hpp"
#include "worker/upstream.hpp"

namespace modelpool::serve {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kThreads = 4;  // loads at once whose start may wait
constexpr milliseconds kFirstPause{20};
constexpr milliseconds kLongestPause{500};
constexpr milliseconds kProbe{5'000};
// A server that is not the pool's to start answers at once, or is not there.
constexpr std::chrono::seconds kExternal{10};
// Between the end of a process and the note of how it ended.
constexpr milliseconds kExitSeen{500};
constexpr std::string_view kPort = "{port}";
constexpr std::string_view kSocket = "{socket}";

std::string replaced(std::string text, std::string_view what, const std::string& with) {
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size())
    text.replace(at, what.size(), with);
  return text;
}

bool mentions(const config::Model& model, std::string_view what) {
  if (model.address.find(what) != std::string::npos) return true;
  for (const std::string& word : model.command) {
    if (word.find(what) != std::string::npos) return true;
  }
  for (const auto& [name, value] : model.env) {
    if (value.find(what) != std::string::npos) return true;
  }
  return false;
}

enum class Health { kReady, kNotYet };

// Nothing is known of the model: this process, or the host, is out of something.
bool is_own_trouble(const Error& error) {
  return error.system == EMFILE || error.system == ENFILE || error.system == ENOMEM ||
         error.system == EAGAIN;
}

// What an answer of GET /health means where nothing was said: one that does not know it is ready
// once it listens.
Health health_of(const config::ReadyCheck& check, std::optional<unsigned> status) {
  if (check.kind == config::ReadyCheck::Kind::kHttp)
    return status && *status / 100 == 2 ? Health::kReady : Health::kNotYet;
  if (!status) return Health::kReady;  // it listens, and does not speak HTTP
  const bool knows_it = *status != 404 && *status != 405 && *status != 501;
  return !knows_it || *status / 100 == 2 ? Health::kReady : Health::kNotYet;
}

// The status of an answer to GET; nothing if it is none of HTTP.
Task<std::optional<unsigned>> ask(Socket& socket, std::string path) {
  const std::string question =
      "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  const auto [unsent, sent] = co_await asio::async_write(socket, asio::buffer(question), kTask);
  if (unsent) co_return std::nullopt;
  AnswerReader reader("GET");
  std::string bytes;
  std::array<char, 4096> room;
  for (;;) {
    const auto [error, some] = co_await socket.async_read_some(asio::buffer(room), kTask);
    bytes.append(room.data(), some);
    const auto head = reader.read_head(bytes);
    if (!head || (error && *head == 0)) co_return std::nullopt;
    if (*head > 0) co_return reader.head().result_int();
  }
}

Task<Health> probe(Executor executor, const config::ReadyCheck& check, std::string address) {
  auto [error, socket] = co_await connect_to(executor, address);
  if (error || !socket) co_return Health::kNotYet;
  if (check.kind == config::ReadyCheck::Kind::kTcp) co_return Health::kReady;
  const Limit limit(*socket, kProbe);
  const std::string path = check.kind == config::ReadyCheck::Kind::kHttp ? check.path : "/health";
  const auto status = co_await ask(*socket, path);
  co_return limit.is_over() ? Health::kNotYet : health_of(check, status);
}

}  // namespace

struct Loader::Plan {
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string address;

  void fill(std::string_view what, const std::string& with) {
    for (std::string& word : argv) word = replaced(std::move(word), what, with);
    for (std::string& word : env) word = replaced(std::move(word), what, with);
    address = replaced(std::move(address), what, with);
  }
};

Loader::Loader(Loop& loop, Pool& pool, std::string sockets_dir, std::uint64_t open_files)
    : loop_(loop),
      pool_(pool),
      sockets_dir_(std::move(sockets_dir)),
      open_files_(open_files),
      threads_(kThreads) {}

void Loader::stop() { threads_.join(); }

Result<Loader::Plan> Loader::plan_for(const config::Model& model) {
  Plan plan;
  plan.argv = model.command;
  for (const auto& [name, value] : model.env) plan.env.push_back(name + "=" + value);
  plan.address = model.address;
  if (mentions(model, kPort)) {
    const auto port = free_port();
    if (!port) return fail(port.error());
    const std::string digits = std::to_string(*port);
    plan.fill(kPort, digits);
    if (plan.address.empty()) plan.address = "127.0.0.1:" + digits;
  }
  if (mentions(model, kSocket)) {
    const auto seen = pool_.look(model.name);
    if (!seen) return fail(seen.error());
    if (!seen->backend)
      return fail(Errc::kTicketLost, "the load of " + model.name + " was ended by others");
    const std::string path =
        socket_of(sockets_dir_, {static_cast<std::uint32_t>(seen->backend->slot),
                                 static_cast<std::uint32_t>(seen->backend->generation)});
    plan.fill(kSocket, path);
    if (plan.address.empty()) plan.address = "unix:" + path;
    unlink(path.c_str());  // of an earlier pool
  }
  return plan;
}

void Loader::load(LoadTicket ticket, std::shared_ptr<const config::Model> model, Done done) {
  const std::string name = model->name;
  asio::co_spawn(
      loop_, run(std::move(ticket), std::move(model)),
      [name, done = std::move(done)](const std::exception_ptr& thrown, Result<Lease> lease) {
        if (!thrown) return done(std::move(lease));
        done(modelpool::fail(Errc::kSystem, "unable to load " + name + ": out of memory"));
      });
}

Task<Result<Lease>> Loader::run(LoadTicket ticket, std::shared_ptr<const config::Model> model) {
  auto plan = plan_for(*model);
  if (!plan) {
    static_cast<void>(co_await apart(loop_, threads_, [&] { return ticket.give_back(); }));
    co_return modelpool::fail(plan.error());
  }
  if (!plan->argv.empty()) {
    SpawnOptions options;
    options.env = plan->env;
    options.cwd = model->cwd;
    options.output = model->log;
    options.open_files = open_files_;
    const auto spawned =
        co_await apart(loop_, threads_, [&] { return ticket.spawn(plan->argv, options); });
    if (!spawned && spawned.error().code == Errc::kTicketLost)
      co_return modelpool::fail(spawned.error());
    if (!spawned && is_own_trouble(spawned.error())) {
      static_cast<void>(co_await apart(loop_, threads_, [&] { return ticket.give_back(); }));
      co_return modelpool::fail(spawned.error());
    }
    if (!spawned) co_return co_await failed(ticket, *model, spawned.error().text);
  }
  co_return co_await wait_until_ready(ticket, *model, *plan);
}

Task<Result<Lease>> Loader::wait_until_ready(LoadTicket& ticket, const config::Model& model,
                                             const Plan& plan) {
  const bool is_external = plan.argv.empty();
  const auto executor = loop_.get_executor();
  bool has_ended = false;
  bool is_watched = false;
  Timer between(executor);  // two questions
  asio::posix::basic_stream_descriptor<Executor> process(executor);
  if (!is_external) {
    const int fd = static_cast<int>(syscall(SYS_pidfd_open, ticket.pid(), 0));
    if (fd < 0 && errno != ESRCH) {
      const Error error{Errc::kSystem, "unable to watch the backend of " + model.name, errno, 0};
      static_cast<void>(co_await apart(loop_, threads_, [&] { return ticket.give_back(); }));
      co_return modelpool::fail(error);
    }
    has_ended = fd < 0;
    if (fd >= 0) {
      process.assign(fd);
      is_watched = true;
      process.async_wait(process.wait_read, [&](error_code error) {
        is_watched = false;
        has_ended = !error;
        between.cancel();
      });
    }
  }
  const TimePoint began = Clock::now();
  std::string another;  // why an answer did not count
  std::optional<Result<Lease>> result;
  for (milliseconds length = kFirstPause; !result;
       length = std::min(length * 3 / 2, kLongestPause)) {
    if (has_ended) {
      // Named: GCC 12 destroys temporaries of a condition twice where they wait.
      std::string reason = "it ended before it was ready";
      co_await wait_for_exit_words(ticket);
      if (!another.empty()) reason += "; " + another;
      result = co_await failed(ticket, model, std::move(reason));
    } else if (co_await probe(executor, model.ready, plan.address) == Health::kReady &&
               !has_ended) {
      ReadyOptions options;
      options.external = is_external;
      auto ready =
          co_await apart(loop_, threads_, [&] { return ticket.ready(plan.address, options); });
      if (ready || ready.error().code == Errc::kTicketLost) {
        result.emplace(std::move(ready));
      } else {
        another = ready.error().text;
      }
    } else if (is_external && Clock::now() - began > kExternal) {
      result = co_await failed(ticket, model, "nothing answers at " + plan.address);
    }
    if (result || has_ended) continue;
    between.expires_after(length);
    co_await between.async_wait(kTask);
  }
  // Its handler looks at what lies here.
  error_code ignored;
  process.cancel(ignored);
  between.expires_at(TimePoint::max());
  while (is_watched) co_await between.async_wait(kTask);
  co_return std::move(*result);
}

Task<Result<Lease>> Loader::failed(LoadTicket& ticket, const config::Model& model,
                                   std::string reason) {
  const auto told = co_await apart(loop_, threads_, [&] { return ticket.fail(reason); });
  if (!told && told.error().code == Errc::kTicketLost) co_return modelpool::fail(told.error());
  Error error{Errc::kLoadFailed, "unable to load " + model.name, 0, 0};
  // The pool adds how it ended, and the last it wrote.
  if (const auto seen = pool_.look(model.name); seen && seen->history) {
    error.retry_after_ns = seen->history->cooling_down_ms.value_or(0) * 1'000'000;
    if (!seen->history->last_error.empty()) reason = seen->history->last_error;
    if (!seen->history->exit.empty()) error.text += " (" + seen->history->exit + ")";
  }
  error.text += ": " + reason;
  co_return modelpool::fail(error);
}

// It has ended; how, is noted a moment later by who reaps it.
Task<> Loader::wait_for_exit_words(const LoadTicket& ticket) {
  const TimePoint until = Clock::now() + kExitSeen;
  while (ticket.exit_words().empty() && Clock::now() < until)
    co_await pause(loop_.get_executor(), kFirstPause);
}

void Loader::give_back(LoadTicket ticket) {
  asio::post(threads_, [held = std::make_shared<LoadTicket>(std::move(ticket))] {
    static_cast<void>(held->give_back());
  });
}

}  // namespace modelpool::serve
