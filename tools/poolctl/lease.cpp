// poolctl lease: run a command while it holds a lease, loading the model first if need be.
#include <poll.h>

#include <algorithm>
#include <chrono>

#include "answer.hpp"
#include "command.hpp"
#include "json/event_json.hpp"
#include "modelpool/pool.hpp"
#include "protocol/histories.hpp"
#include "base/time.hpp"

namespace modelpool::poolctl {
namespace {

constexpr std::string_view kPort = "{port}";
// How long the exit status of a process that has ended may take to be known.
constexpr std::uint64_t kReapMax_ns = 500 * kMillisecond_ns;

struct Options {
  std::string model;
  std::string start;
  std::string address;
  std::string ready = "tcp";
  std::string log;
  std::string tag;
  std::uint64_t timeout_ns = kDefaultTimeout_ns;
  std::uint64_t busy_timeout_ns = 0;
  std::uint64_t size_bytes = 0;
  bool pin = false;
};

// How to load the model: START and the address with a port filled in.
struct Plan {
  std::string start;
  std::string address;
  ReadyCheck check;
  Endpoint endpoint;
  bool port_is_picked = false;
};

std::string with_port(std::string text, int port) {
  for (std::size_t at = 0; (at = text.find(kPort, at)) != std::string::npos;) {
    const std::string digits = std::to_string(port);
    text.replace(at, kPort.size(), digits);
    at += digits.size();
  }
  return text;
}

Result<Plan> make_plan(const Options& options) {
  Plan plan;
  auto check = parse_ready_check(options.ready);
  if (!check) return fail(check.error());
  plan.check = std::move(*check);
  plan.start = options.start;
  plan.address = options.address;
  const bool in_start = options.start.find(kPort) != std::string::npos;
  if (plan.address.empty()) {
    if (!in_start) {
      return fail(Errc::kInvalid,
                  "unable to load " + escape(options.model) +
                      ": where its backend will answer is unknown; give --address, or use "
                      "{port} in --start");
    }
    plan.address = "127.0.0.1:{port}";
  }
  if (in_start || plan.address.find(kPort) != std::string::npos) {
    const int port = pick_port();
    if (port == 0) return fail(Errc::kSystem, "unable to find a free port on 127.0.0.1");
    plan.port_is_picked = plan.address.find(kPort) != std::string::npos;
    plan.start = with_port(std::move(plan.start), port);
    plan.address = with_port(std::move(plan.address), port);
  }
  if (auto ok = check_address(plan.address); !ok) return fail(ok.error());
  if (plan.check.kind != ReadyCheck::Kind::kDelay) {
    auto endpoint = parse_endpoint(plan.address);
    if (!endpoint) return fail(endpoint.error());
    plan.endpoint = std::move(*endpoint);
  }
  return plan;
}

int exit_code_of(Errc code) {
  switch (code) {
    case Errc::kTimeout:
    case Errc::kQueueFull:
    case Errc::kTableFull:
    case Errc::kAllPinned:
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

int refuse(const Error& error) {
  complain(error.text);
  return exit_code_of(error.code);
}

int interrupted(const std::string& model, SignalInbox& inbox) {
  const auto taken = inbox.take();
  const int number = taken ? taken->number : SIGTERM;
  complain("unable to lease " + escape(model) + ": interrupted by " + signal_text(number));
  return kSignalBase + number;
}

// " (exit status 1)", once whoever reaps the process has said so; "" if that stays unknown.
std::string how_it_ended(Pool& pool, const std::string& model, pid_t pid) {
  for (const std::uint64_t until = now_ns() + kReapMax_ns; now_ns() < until; poll(nullptr, 0, 5)) {
    const auto snapshot = pool.snapshot();
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
  Load(const Options& options, Pool& pool, SignalInbox& inbox, std::uint64_t until_ns)
      : options_(options), pool_(pool), inbox_(inbox), until_ns_(until_ns) {}

  // 0 and a lease on the loaded backend, or the exit code; then it has complained.
  int run(LoadTicket& ticket, const Plan& plan, Lease* lease) {
    // Otherwise another server's answer would be taken for ours.
    if (!plan.port_is_picked && plan.check.kind != ReadyCheck::Kind::kDelay &&
        is_listening(plan.endpoint)) {
      return give_up(ticket, "another process already listens on " + plan.address,
                     "choose another --address");
    }
    SpawnOptions spawn;
    spawn.output = options_.log;
    if (auto started = ticket.spawn({"sh", "-c", "exec " + plan.start}, spawn); !started) {
      static_cast<void>(ticket.fail(started.error().text));
      return refuse(started.error());
    }
    const auto process = ProcessHandle::open(ticket.pid());
    Answer answer = Answer::kExited;
    if (process) answer = wait_for_answer(plan.check, plan.endpoint, *process, inbox_, until_ns_);
    const std::string output = options_.log.empty() ? "give --log FILE to keep its output"
                                                    : "its output is in " + options_.log;
    switch (answer) {
      case Answer::kYes: {
        ReadyOptions ready;
        ready.size_bytes = options_.size_bytes;
        ready.pinned = options_.pin;
        auto got = ticket.ready(plan.address, ready);
        if (!got) return refuse(got.error());
        *lease = std::move(*got);
        return 0;
      }
      case Answer::kExited:
        return give_up(ticket, "it ended before it was ready", output,
                       how_it_ended(pool_, options_.model, ticket.pid()));
      // The two that are our own end and not the model's: who comes next may load it at once.
      case Answer::kTimedOut:
        static_cast<void>(ticket.give_back());
        complain("unable to load " + escape(options_.model) + ": not ready at " + plan.address +
                 " (" + options_.ready + ") within " + format_duration(options_.timeout_ns) +
                 "; raise --timeout; " + escape(output));
        return kLeaseRefused;
      case Answer::kSignal:
        break;
    }
    static_cast<void>(ticket.give_back());
    return interrupted(options_.model, inbox_);
  }

 private:
  int give_up(LoadTicket& ticket, std::string reason, const std::string& advice,
              const std::string& ended = {}) {
    if (!ticket.fail(reason + ended)) {
      // The coordinator ended the load first, and knows why.
      const auto history = find_history(pool_.segment(), options_.model);
      if (history && history->error[0] != 0) reason = field_text(history->error);
    }
    complain("unable to load " + escape(options_.model) + ": " + escape(reason) + ended + "; " +
             escape(advice));
    return kLeaseRefused;
  }

  const Options& options_;
  Pool& pool_;
  SignalInbox& inbox_;
  std::uint64_t until_ns_;
};

Result<Grant> acquire(Pool& pool, const Options& options, const SignalInbox& inbox) {
  AcquireOptions asked;
  asked.tag = options.tag;
  asked.busy_timeout = std::chrono::nanoseconds(options.busy_timeout_ns);
  asked.expected_bytes = options.size_bytes;
  // Without time to load it a ticket would only become a failed load.
  asked.may_load = !options.start.empty() && options.timeout_ns > 0;
  const StopOnSignal stop(inbox);
  asked.stop = stop.token();
  auto grant = pool.acquire(options.model, std::chrono::nanoseconds(options.timeout_ns), asked);
  if (!grant && grant.error().code == Errc::kNotLoaded) {
    return fail(Errc::kNotLoaded,
                "unable to lease " + escape(options.model) + ": it is not loaded; " +
                    (options.start.empty() ? "say with --start how to load it"
                                           : "--timeout 0 leaves no time to load it"));
  }
  return grant;
}

int lease(const Context& context, const Options& options, const std::vector<std::string>& command) {
  const auto misused = [](const Error& error) {
    complain(error.text);
    return kLeaseFailed;
  };
  if (command.empty()) {
    complain("unable to lease " + escape(options.model) +
             ": there is no COMMAND; write -- COMMAND... at the end");
    return kLeaseFailed;
  }
  if (auto ok = check_tag(options.tag); !ok) return misused(ok.error());
  Plan plan;
  if (!options.start.empty()) {
    auto made = make_plan(options);
    if (!made) return misused(made.error());
    plan = std::move(*made);
  }
  if (const int why = why_not_runnable(command[0]); why != 0)
    return complain_not_run(command[0], why);

  SignalInbox inbox;
  PoolOptions pool_options;
  pool_options.dir = context.dir;
  pool_options.create = false;
  auto pool = Pool::attach(context.pool, pool_options);
  if (!pool) return refuse(pool.error());

  const std::uint64_t until = add_ns(now_ns(), options.timeout_ns);
  auto grant = acquire(*pool, options, inbox);
  if (!grant) {
    return grant.error().code == Errc::kCancelled ? interrupted(options.model, inbox)
                                                  : refuse(grant.error());
  }
  Lease held;
  if (auto* ticket = std::get_if<LoadTicket>(&*grant)) {
    if (const int code = Load(options, *pool, inbox, until).run(*ticket, plan, &held); code != 0)
      return code;
  } else {
    held = std::move(std::get<Lease>(*grant));
  }

  const std::string pid = held.pid() == 0 ? "" : std::to_string(held.pid());
  const int code = run_command(command,
                               {"MODELPOOL_MODEL=" + options.model,
                                "MODELPOOL_ADDRESS=" + held.address(), "MODELPOOL_PID=" + pid},
                               inbox);
  if (auto lives = held.progress(); !lives && lives.error().code == Errc::kLeaseLost)
    complain(lives.error().text);
  return code;
}

}  // namespace

void add_lease(CLI::App& root, Context& context, const std::vector<std::string>& command_line) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = add_command(
      root, context, "lease",
      "Run COMMAND while holding a lease on MODEL, as flock(1) does with a lock",
      "Write COMMAND and its arguments after --. It finds MODELPOOL_MODEL, MODELPOOL_ADDRESS and\n"
      "MODELPOOL_PID (empty for an external backend) in its environment. SIGINT, SIGTERM, SIGHUP,\n"
      "SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to it; it is killed if poolctl is killed.\n\n"
      "With --start the model is loaded when nobody has: sh -c 'exec CMD', in a session of its "
      "own,\n"
      "with stdout and stderr appended to --log; {port} in CMD and in --address becomes a free "
      "port.\n"
      "The backend outlives poolctl: the pool's timeouts and limits end it, or poolctl evict.\n\n"
      "--ready says how to see that it answers: tcp, a connection is accepted; http:/path, a GET\n"
      "returns 2xx; delay:DURATION, that much time has passed. --timeout covers the wait for a "
      "place\n"
      "and the load.\n\n"
      "Exit codes: that of COMMAND; 128+N if signal N ended it, or poolctl before COMMAND ran;\n"
      "124 timed out or refused (not loaded and no --start, queue full, load failed...);\n"
      "125 poolctl failed or was used wrongly; 126 COMMAND could not run; 127 it was not found.\n\n"
      "Examples:\n"
      "  poolctl lease llama-3-8b -- curl -s http://127.0.0.1:8080/health\n"
      "  poolctl lease whisper --start 'whisper-server --port {port}' --ready http:/health \\\n"
      "      --timeout 5m --size 3GiB -- sh -c 'curl -s \"http://$MODELPOOL_ADDRESS/\"'\n"
      "  poolctl lease tts --start 'tts --socket /tmp/tts.sock' --address unix:/tmp/tts.sock -- "
      "./say hello\n",
      [&context, options, &command_line] { return lease(context, *options, command_line); });
  // CLI11 never sees COMMAND.
  set_usage(command, "Usage: poolctl lease MODEL [OPTIONS] -- COMMAND...\n");
  add_model(command, &options->model);
  CLI::Option* start = add_text(
      command, "--start", "CMD",
      [options](const std::string& text) {
        if (text.find_first_not_of(" \t\n") == std::string::npos) {
          throw BadArgument("unable to start a backend: --start is empty; give its command line");
        }
        options->start = text;
      },
      "Load the model with this command line if need be");
  for (CLI::Option* option :
       {add_text(command, "--address", "ADDRESS", &options->address,
                 "Where the backend answers (127.0.0.1:{port})"),
        add_text(command, "--ready", "CHECK", &options->ready,
                 "How to see that it answers: tcp, http:/path, delay:D (tcp)"),
        add_text(command, "--log", "FILE", &options->log,
                 "File its output is appended to (discarded)"),
        add_size(command, "--size", &options->size_bytes, "Memory the backend needs (unknown)"),
        add_flag(command, "--pin", &options->pin, "Pin the backend when it is loaded here")})
    needs(option, start);
  add_duration(command, "--timeout", &options->timeout_ns,
               "Wait at most this long (30s); 0: do not wait");
  add_duration(command, "--busy-timeout", &options->busy_timeout_ns,
               "Kill the backend if this lease lasts longer (the pool's rules only)", true);
  add_text(command, "--tag", "TEXT", &options->tag, "Text shown with the lease, at most 31 bytes");
}

}  // namespace modelpool::poolctl
