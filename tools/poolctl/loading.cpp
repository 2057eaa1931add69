#include "loading.hpp"

#include <poll.h>

#include <algorithm>
#include <chrono>

#include "base/duration.hpp"
#include "base/exit_words.hpp"
#include "base/name.hpp"
#include "base/time.hpp"
#include "pool/inside.hpp"
#include "protocol/histories.hpp"
#include "segment/settings_block.hpp"

namespace modelpool::poolctl {
namespace {

constexpr std::string_view kPort = "{port}";
constexpr int kRowPause_ms = 20;  // between two looks for a free worker row
// How long the exit status of a process that has ended may take to be known.
constexpr std::uint64_t kReapMax_ns = 500 * kMillisecond_ns;

// --- The plan ------------------------------------------------------------------------------------

bool has_port(const std::string& text) { return text.find(kPort) != std::string::npos; }

std::string with_port(std::string text, int port) {
  for (std::size_t at = 0; (at = text.find(kPort, at)) != std::string::npos;) {
    const std::string digits = std::to_string(port);
    text.replace(at, kPort.size(), digits);
    at += digits.size();
  }
  return text;
}

}  // namespace

Result<LoadPlan> make_load_plan(const LoadOptions& options, std::vector<std::string> words) {
  LoadPlan plan;
  auto check = parse_ready_check(options.ready);
  if (!check) return fail(check.error());
  plan.check = std::move(*check);
  plan.argv = std::move(words);
  plan.address = options.address;
  const bool in_words = std::any_of(plan.argv.begin(), plan.argv.end(), has_port);
  if (plan.address.empty()) {
    if (!in_words) {
      return fail(Errc::kInvalid,
                  "unable to load " + escape(options.model) +
                      ": where its backend will answer is unknown; give --address, or use "
                      "{port} in " +
                      options.command);
    }
    plan.address = "127.0.0.1:{port}";
  }
  if (in_words || has_port(plan.address)) {
    auto port = hold_free_port();
    if (!port) return fail(port.error());
    for (std::string& word : plan.argv) word = with_port(std::move(word), port->number());
    const std::string address = with_port(plan.address, port->number());
    if (address != plan.address) plan.port = std::move(*port);
    plan.address = address;
  }
  if (auto ok = check_address(plan.address); !ok) return fail(ok.error());
  if (plan.check.kind != ReadyCheck::Kind::kDelay) {
    auto endpoint = resolve(plan.address);
    if (!endpoint) return fail(endpoint.error());
    plan.endpoint = std::move(*endpoint);
  }
  return plan;
}

namespace {

int exit_code_of(Errc code) {
  switch (code) {
    case Errc::kTimeout:
    case Errc::kQueueFull:
    case Errc::kTableFull:
    case Errc::kAllPinned:
    case Errc::kTooLarge:
    case Errc::kCoolingDown:
    case Errc::kLoadFailed:
    case Errc::kNoCoordinator:
    case Errc::kNotLoaded:
    case Errc::kTicketLost:
    case Errc::kLeaseLost:
    case Errc::kSpawnFailed:
      return kLeaseRefused;
    default:
      return kLeaseFailed;
  }
}

void say(const LoadOptions& options, const std::string& text) {
  if (options.progress) options.progress({});
  complain(text);
}

}  // namespace

int refuse(const LoadOptions& options, const Error& error) {
  say(options, error.text);
  return exit_code_of(error.code);
}

namespace {

int interrupted(const LoadOptions& options, SignalInbox& inbox) {
  const auto taken = inbox.take();
  const int number = taken ? taken->number : SIGTERM;
  say(options, "unable to " + options.verb + " " + escape(options.model) + ": interrupted by " +
                   signal_text(number));
  return kSignalBase + number;
}

// " (exit status 1)", once the process that reaps it has said so; "" if that stays unknown.
std::string how_it_ended(Pool& pool, const std::string& model, pid_t pid) {
  for (const std::uint64_t until = now_ns() + kReapMax_ns; now_ns() < until; poll(nullptr, 0, 5)) {
    const auto snapshot = look_inside(pool);
    if (!snapshot) break;
    for (const BackendView& backend : snapshot->backends) {
      if (backend.process.pid != pid || backend.model != model) continue;
      std::string text = exit_text(backend.exit_status);
      if (text.empty()) continue;
      if (text == "exit status 127") text += ": not found";
      if (text == "exit status 126") text += ": not executable";
      return " (" + text + ")";
    }
  }
  return {};
}

class Load {
 public:
  Load(const LoadOptions& options, Pool& pool, SignalInbox& inbox, std::uint64_t begun_ns)
      : options_(options), pool_(pool), inbox_(inbox), begun_ns_(begun_ns) {}

  // 0 and a lease on the loaded backend, or the exit code; then it has complained.
  int run(LoadTicket& ticket, const LoadPlan& plan, Lease* lease) {
    // Otherwise another server's answer would be taken for ours.
    if (plan.port.number() == 0 && plan.check.kind != ReadyCheck::Kind::kDelay &&
        is_listening(plan.endpoint)) {
      return give_back(ticket, kLeaseFailed, "another process already listens on " + plan.address,
                       "choose another --address");
    }
    if (const auto why = plan.program.empty() ? std::nullopt : why_not_runnable(plan.program)) {
      return give_back(ticket, kLeaseFailed,
                       options_.command + " cannot run " + plan.program + ": " + why->reason(),
                       why->advice());
    }
    SpawnOptions spawn;
    spawn.output = options_.log;
    if (auto ok = ticket.spawn(plan.argv, spawn); !ok) {
      static_cast<void>(ticket.give_back());  // nothing is known of the model
      return refuse(options_, ok.error());
    }
    const auto process = ProcessHandle::open(ticket.pid());
    if (!process && process.error().system != ESRCH) {
      static_cast<void>(ticket.give_back());
      return refuse(options_, process.error());
    }
    Listener listener;
    const std::uint64_t until = until_ns();
    const Answer answer = process ? ask(ticket, plan, *process, until, &listener) : Answer::kExited;
    const std::string output = where_output_is(ticket.pid());
    switch (answer) {
      case Answer::kYes:
        return make_ready(ticket, plan, listener, until, lease);
      case Answer::kExited:
        if (listener.by == ListenedBy::kAnother && !options_.any_listener) {
          return give_back(ticket, kLeaseFailed, answers_instead(plan, listener),
                           "choose another --address");
        }
        return fail_load(ticket, output, how_it_ended(pool_, options_.model, ticket.pid()));
      case Answer::kTimedOut: {
        std::string why =
            "not ready at " + plan.address + " (" + options_.ready + ") within " +
            format_duration(options_.has_timeout() ? options_.timeout_ns : now_ns() - begun_ns_);
        if (listener.by == ListenedBy::kAnother) why += ": " + answers_instead(plan, listener);
        return give_back(ticket, kLeaseRefused, why, "raise --timeout; " + output);
      }
      case Answer::kSignal:
        break;
    }
    static_cast<void>(ticket.give_back());
    return interrupted(options_, inbox_);
  }

 private:
  std::function<void()> progress_of(std::string phase) const {
    if (!options_.progress) return {};
    return [this, phase = std::move(phase)] { options_.progress(phase); };
  }

  // --timeout, if it was given, covers the load. Otherwise the pool's load_timeout does, and the
  // coordinator ends what takes longer; without one it is ended here, a moment later.
  std::uint64_t until_ns() const {
    if (options_.has_timeout()) return add_ns(begun_ns_, options_.timeout_ns);
    const std::uint64_t limit =
        resolve_settings(segment_of(pool_), options_.model).get(Setting::kLoadTimeout);
    return limit == 0 ? kNever_ns : add_ns(now_ns(), add_ns(limit, kCoordinatorGrace_ns));
  }

  // While others wait for the model it is loaded for them: they would only begin anew.
  Answer ask(const LoadTicket& ticket, const LoadPlan& plan, const ProcessHandle& process,
             std::uint64_t until, Listener* listener) {
    const Segment& segment = segment_of(pool_);
    std::string token;
    if (const auto found = find_backend(segment, options_.model)) {
      token = segment.token(found->ref.index, found->ref.generation);
    }
    const Question question{plan.check,
                            plan.endpoint,
                            process,
                            {ticket.pid(), ticket.pid(), token},
                            options_.any_listener,
                            inbox_,
                            until,
                            [&] { return options_.has_timeout() && ticket.waiting() > 0; },
                            progress_of("is being loaded, pid " + std::to_string(ticket.pid()))};
    return wait_for_answer(question, listener);
  }

  int make_ready(LoadTicket& ticket, const LoadPlan& plan, const Listener& listener,
                 std::uint64_t until, Lease* lease) {
    ReadyOptions ready;
    ready.size_bytes = options_.size_bytes;
    ready.pinned = options_.pin;
    ready.any_listener = options_.any_listener;
    auto got = ticket.ready(plan.address, ready);
    if (!got) return refuse(options_, got.error());  // a ticket that stays is given back at its end
    if (now_ns() >= until) {
      say(options_, "unable to " + options_.verb + " " + escape(options_.model) +
                        ": not ready at " + plan.address + " (" + options_.ready + ") within " +
                        format_duration(options_.timeout_ns) +
                        "; it is loaded now, for those who wait; raise --timeout");
      return kLeaseRefused;
    }
    if (!options_.any_listener && plan.check.kind != ReadyCheck::Kind::kDelay &&
        listener.by == ListenedBy::kUnknown) {
      say(options_, "note: whether it is the backend of " + escape(options_.model) +
                        " that answers at " + escape(plan.address) +
                        " cannot be told: " + listener.why);
    }
    *lease = std::move(*got);
    return 0;
  }

  std::string answers_instead(const LoadPlan& plan, const Listener& listener) const {
    return "at " + plan.address + " answers process " + std::to_string(listener.pid) + " (" +
           listener.command + "), not the backend";
  }

  // Our own end, or our own fault, and not the model's: who comes next may load it at once.
  int give_back(LoadTicket& ticket, int code, const std::string& reason,
                const std::string& advice) {
    static_cast<void>(ticket.give_back());
    say(options_,
        "unable to load " + escape(options_.model) + ": " + escape(reason) + "; " + escape(advice));
    return code;
  }

  // How to see what it wrote.
  std::string where_output_is(pid_t pid) {
    if (!options_.log.empty()) return "its output is in " + options_.log;
    if (const auto snapshot = look_inside(pool_)) {
      for (const BackendView& backend : snapshot->backends) {
        if (backend.process.pid == pid && !backend.log.empty())
          return "poolctl logs " + options_.model + " shows its output";
      }
    }
    return "give --log FILE to keep its output";
  }

  int fail_load(LoadTicket& ticket, const std::string& advice, const std::string& ended) {
    const auto failed = ticket.fail("it ended before it was ready");
    // The pool knows more of how it ended, and if the coordinator ended the load first, why.
    const auto history = find_history(segment_of(pool_), options_.model);
    if (!history || history->failures == 0) {
      say(options_,
          failed ? "unable to load " + escape(options_.model) + ": it ended before it was ready"
                 : failed.error().text);
      return kLeaseRefused;
    }
    const std::string reason(field_text(history->error));
    const std::size_t lines = std::min(reason.size(), before_last_lines(reason).size());
    say(options_, "unable to load " + escape(options_.model) + ": " +
                      escape(reason.substr(0, lines)) + ended + escape(reason.substr(lines)) +
                      "; " + escape(advice));
    return kLeaseRefused;
  }

  const LoadOptions& options_;
  Pool& pool_;
  SignalInbox& inbox_;
  std::uint64_t begun_ns_;
};

bool is_loading(const Segment& segment, const std::string& model) {
  const auto found = find_backend(segment, model);
  return found && (found->state.state == BackendState::kReserved ||
                   found->state.state == BackendState::kStarting);
}

// Its row is one of a few: when many run at once they take turns.
Result<Pool> attach(const Context& context, const SignalInbox& inbox, std::uint64_t until_ns) {
  PoolOptions options;
  options.dir = context.dir;
  options.create = false;
  options.attach_timeout = std::chrono::nanoseconds(0);  // a signal ends the wait here
  for (;;) {
    auto pool = Pool::attach(context.pool, options);
    if (pool || pool.error().code != Errc::kTableFull || now_ns() >= until_ns) return pool;
    pollfd signals{inbox.fd(), POLLIN, 0};
    if (poll(&signals, 1, kRowPause_ms) > 0) return fail(Errc::kCancelled, "interrupted");
  }
}

// As Pool::acquire, and says again and again that it waits.
Result<Grant> acquire_once(Pool& pool, const LoadOptions& options, Duration timeout,
                           const AcquireOptions& asked) {
  if (!options.progress)
    return pool.acquire(options.model, std::chrono::nanoseconds(timeout.count()), asked);
  auto pending =
      pool.begin_acquire(options.model, std::chrono::nanoseconds(timeout.count()), asked);
  if (!pending) return fail(pending.error());
  const std::stop_callback on_stop(asked.stop, [&pending] { pending->cancel(); });
  for (;;) {
    auto polled = pending->poll();
    if (!polled) return fail(polled.error());
    if (polled->has_value()) return std::move(**polled);
    options.progress(is_loading(segment_of(pool), options.model)
                         ? "waits: another process loads it"
                         : "waits for a place; poolctl explain says who has them");
    pending->wait(std::chrono::nanoseconds(kProgressEvery_ns));
  }
}

Result<Grant> acquire(Pool& pool, const LoadOptions& options, const SignalInbox& inbox,
                      std::uint64_t until_ns) {
  AcquireOptions asked;
  asked.tag = options.tag;
  asked.busy_timeout = std::chrono::nanoseconds(options.busy_timeout_ns);
  asked.keep_alive = options.keep_alive;
  asked.expected_bytes = options.size_bytes;
  // Without time to load it a ticket would only become a failed load.
  asked.may_load = options.may_load && (options.timeout_ns > 0 || options.tenant);
  asked.tenant = options.tenant;
  const StopOnSignal stop(inbox);
  asked.stop = stop.token();
  const auto wait = std::chrono::nanoseconds(kDefaultTimeout_ns);
  auto grant =
      acquire_once(pool, options, std::chrono::nanoseconds(age_ns(until_ns, now_ns())), asked);
  // The default is for the wait; a load, somebody else's too, may take as long as the pool lets it.
  while (!grant && grant.error().code == Errc::kTimeout && !options.has_timeout() &&
         is_loading(segment_of(pool), options.model)) {
    grant = acquire_once(pool, options, wait, asked);
  }
  const bool is_there = find_backend(segment_of(pool), options.model).has_value();
  if (!grant && grant.error().code == Errc::kNotLoaded && !is_there) {
    return fail(Errc::kNotLoaded, "unable to " + options.verb + " " + escape(options.model) +
                                      ": it is not loaded; " +
                                      (options.may_load ? "--timeout 0 leaves no time to load it"
                                                        : "say with --start how to load it"));
  }
  return grant;
}

}  // namespace

int ask(const Context& context, const LoadOptions& options, SignalInbox& inbox,
        std::optional<Pool>* pool, Grant* grant) {
  const auto give_up = [&](const Error& error) {
    return error.code == Errc::kCancelled ? interrupted(options, inbox) : refuse(options, error);
  };
  const std::uint64_t until =
      add_ns(now_ns(), options.has_timeout() ? options.timeout_ns : kDefaultTimeout_ns);
  auto attached = attach(context, inbox, until);
  if (!attached) return give_up(attached.error());
  *pool = std::move(*attached);
  auto granted = acquire(**pool, options, inbox, until);
  if (!granted) return give_up(granted.error());
  *grant = std::move(*granted);
  return 0;
}

int obtain(const Context& context, const LoadOptions& options, LoadPlan* plan, SignalInbox& inbox,
           Loaded* loaded) {
  const std::uint64_t begun = now_ns();
  Grant grant;
  if (const int code = ask(context, options, inbox, &loaded->pool, &grant); code != 0) return code;
  auto* ticket = std::get_if<LoadTicket>(&grant);
  if (ticket == nullptr) {
    loaded->lease = std::move(std::get<Lease>(grant));
    return 0;
  }
  const int code = Load(options, *loaded->pool, inbox, begun).run(*ticket, *plan, &loaded->lease);
  if (code != 0) return code;
  plan->port = HeldPort();
  loaded->here = true;
  return 0;
}

void add_load_options(CLI::App* command, const std::shared_ptr<LoadOptions>& options,
                      CLI::Option* needed) {
  for (CLI::Option* option :
       {add_text(command, "--address", "ADDRESS", &options->address,
                 "Where the backend answers (127.0.0.1:{port})"),
        add_text(command, "--ready", "CHECK", &options->ready,
                 "How to see that it answers: tcp, http:/path, delay:D (tcp)"),
        add_text(command, "--log", "FILE", &options->log,
                 "File its output is appended to (the model's in log_dir, poolctl logs)"),
        add_size(command, "--size", &options->size_bytes, "Memory the backend needs (unknown)"),
        add_flag(command, "--pin", &options->pin, "Pin the backend when it is loaded here"),
        add_flag(command, "--any-listener", &options->any_listener,
                 "Take the answer of any process that listens there")})
    if (needed != nullptr) needs(option, needed);
}

void add_timeout(CLI::App* command, const std::shared_ptr<LoadOptions>& options,
                 const std::string& help) {
  add_duration(command, "--timeout", &options->timeout_ns, help);
}

void add_tag(CLI::App* command, const std::shared_ptr<LoadOptions>& options,
             const std::string& help) {
  add_text(command, "--tag", "TEXT", &options->tag, help);
}

void add_wait_options(CLI::App* command, const std::shared_ptr<LoadOptions>& options) {
  add_timeout(command, options,
              "Wait at most this long, load included (30s without the load); 0: do not wait");
  add_text(
      command, "--keep-alive", "DURATION",
      [options](const std::string& text) {
        const auto keep = parse_keep_alive(text);
        if (!keep) throw BadArgument(keep.error().text);
        options->keep_alive = *keep == kNever_ns
                                  ? std::chrono::nanoseconds(-1)
                                  : std::chrono::nanoseconds(static_cast<std::int64_t>(*keep));
      },
      "How long the backend may be idle from now on (as it is); 0: evict it after this lease, off "
      "or -1: never");
  add_tag(command, options, "Text shown with the lease, at most 31 bytes");
}

}  // namespace modelpool::poolctl
