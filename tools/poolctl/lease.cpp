// poolctl lease: run a command while it holds a lease, loading the model first if need be.
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <optional>

#include "answer.hpp"
#include "base/duration.hpp"
#include "base/name.hpp"
#include "base/port.hpp"
#include "base/time.hpp"
#include "command.hpp"
#include "json/event_json.hpp"
#include "pool/inside.hpp"
#include "protocol/histories.hpp"
#include "segment/settings_block.hpp"

namespace modelpool::poolctl {
namespace {

constexpr std::string_view kPort = "{port}";
constexpr int kRowPause_ms = 20;  // between two looks for a free worker row
// How long the exit status of a process that has ended may take to be known.
constexpr std::uint64_t kReapMax_ns = 500 * kMillisecond_ns;

struct Options {
  std::string model;
  std::string start;
  std::string address;
  std::string ready = "tcp";
  std::string log;
  std::string tag;
  std::uint64_t timeout_ns = kNever_ns;  // not given
  bool has_timeout() const { return timeout_ns != kNever_ns; }
  std::uint64_t busy_timeout_ns = 0;
  std::optional<Duration> keep_alive;
  std::uint64_t size_bytes = 0;
  bool pin = false;
  bool any_listener = false;
};

// How to load the model: START and the address with a port filled in.
struct Plan {
  std::string start;
  std::string address;
  ReadyCheck check;
  Endpoint endpoint;
  HeldPort port;  // of the address, if it was picked here
};

// --- The shell's line ----------------------------------------------------------------------------

bool is_blank(char c) { return c == ' ' || c == '\t'; }

std::string_view first_word(std::string_view line) {
  const std::size_t start = std::min(line.find_first_not_of(" \t"), line.size());
  line.remove_prefix(start);
  return line.substr(0, line.find_first_of(" \t\n"));
}

bool is_assignment(std::string_view word) {
  const std::size_t equals = word.find('=');
  if (equals == 0 || equals == std::string_view::npos || (word[0] >= '0' && word[0] <= '9')) {
    return false;
  }
  return std::all_of(word.begin(), word.begin() + static_cast<std::ptrdiff_t>(equals), [](char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  });
}

// Is there more than one command in it: && || ; | & ( ) or a new line, outside of quotes?
bool is_list(std::string_view line) {
  char quote = 0;
  char before = ' ';
  for (std::size_t i = 0; i < line.size(); before = line[i], ++i) {
    const char c = line[i];
    if (c == '\\' && quote != '\'') {
      ++i;
      if (i == line.size()) break;
    } else if (quote != 0) {
      if (c == quote) quote = 0;
    } else if (c == '\'' || c == '"') {
      quote = c;
    } else if (c == '#' && (is_blank(before) || before == '\n')) {
      return line.find('\n', i) != std::string_view::npos;
    } else if (c == '&' && (before == '>' || before == '<')) {
      continue;  // 2>&1
    } else if (c == ';' || c == '&' || c == '|' || c == '(' || c == ')' || c == '\n') {
      return true;
    }
  }
  return false;
}

bool is_of_shell(std::string_view word) {
  constexpr std::array<std::string_view, 16> kOfTheShell = {
      ".",    ":",      "!",   "{",    "alias",  "cd",    "command", "eval",
      "exec", "export", "set", "trap", "ulimit", "umask", "unset",   "wait"};
  return std::find(kOfTheShell.begin(), kOfTheShell.end(), word) != kOfTheShell.end();
}

// What sh runs so that the program takes its place, wherever that can be: its PID is the backend's
// then, and nothing stands between it and a signal.
std::string shell_line(const std::string& start) {
  if (is_list(start)) return start;
  std::string_view rest = start;
  std::string_view word = first_word(rest);
  const bool sets_any = is_assignment(word);
  while (is_assignment(word)) {
    rest.remove_prefix(static_cast<std::size_t>(word.end() - rest.begin()));
    word = first_word(rest);
  }
  if (word.empty() || is_of_shell(word)) return start;
  return (sets_any ? "exec env " : "exec ") + start;
}

// The program that the shell will execute; "" where that cannot be told without a shell.
std::string program_of(std::string_view line) {
  const auto is_plain = [](std::string_view word) {
    return word.find_first_of("$`'\"\\*?[]{}~<>#!") == std::string_view::npos;
  };
  if (is_list(line)) return {};
  for (bool is_first = true;; is_first = false) {
    const std::string_view word = first_word(line);
    if (word.empty() || !is_plain(word) || word.starts_with("PATH=")) return {};
    if (!is_assignment(word) && !(is_first && word == "exec")) {
      return is_of_shell(word) ? std::string() : std::string(word);
    }
    line.remove_prefix(static_cast<std::size_t>(word.end() - line.begin()));
  }
}

// --- The plan ------------------------------------------------------------------------------------

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
    auto port = hold_free_port();
    if (!port) return fail(port.error());
    plan.start = with_port(std::move(plan.start), port->number());
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
  Load(const Options& options, Pool& pool, SignalInbox& inbox, std::uint64_t begun_ns)
      : options_(options), pool_(pool), inbox_(inbox), begun_ns_(begun_ns) {}

  // 0 and a lease on the loaded backend, or the exit code; then it has complained.
  int run(LoadTicket& ticket, const Plan& plan, Lease* lease) {
    // Otherwise another server's answer would be taken for ours.
    if (plan.port.number() == 0 && plan.check.kind != ReadyCheck::Kind::kDelay &&
        is_listening(plan.endpoint)) {
      return give_back(ticket, kLeaseFailed, "another process already listens on " + plan.address,
                       "choose another --address");
    }
    if (const std::string program = program_of(plan.start); !program.empty()) {
      if (const auto why = why_not_runnable(program)) {
        return give_back(ticket, kLeaseFailed,
                         "--start cannot run " + program + ": " + why->reason(), why->advice());
      }
    }
    SpawnOptions spawn;
    spawn.output = options_.log;
    if (auto ok = ticket.spawn({"sh", "-c", shell_line(plan.start)}, spawn); !ok) {
      static_cast<void>(ticket.give_back());  // nothing is known of the model
      return refuse(ok.error());
    }
    const auto process = ProcessHandle::open(ticket.pid());
    if (!process && process.error().system != ESRCH) {
      static_cast<void>(ticket.give_back());
      return refuse(process.error());
    }
    Listener listener;
    const std::uint64_t until = until_ns();
    const Answer answer = process ? ask(ticket, plan, *process, until, &listener) : Answer::kExited;
    const std::string output = options_.log.empty() ? "give --log FILE to keep its output"
                                                    : "its output is in " + options_.log;
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
    return interrupted(options_.model, inbox_);
  }

 private:
  // --timeout, if it was given, covers the load. Otherwise the pool's load_timeout does, and the
  // coordinator ends what takes longer; without one it is ended here, a moment later.
  std::uint64_t until_ns() const {
    if (options_.has_timeout()) return add_ns(begun_ns_, options_.timeout_ns);
    const std::uint64_t limit =
        resolve_settings(segment_of(pool_), options_.model).get(Setting::kLoadTimeout);
    return limit == 0 ? kNever_ns : add_ns(now_ns(), add_ns(limit, kCoordinatorGrace_ns));
  }

  // While others wait for the model it is loaded for them: they would only begin anew.
  Answer ask(const LoadTicket& ticket, const Plan& plan, const ProcessHandle& process,
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
                            [&] { return options_.has_timeout() && ticket.waiting() > 0; }};
    return wait_for_answer(question, listener);
  }

  int make_ready(LoadTicket& ticket, const Plan& plan, const Listener& listener,
                 std::uint64_t until, Lease* lease) {
    ReadyOptions ready;
    ready.size_bytes = options_.size_bytes;
    ready.pinned = options_.pin;
    ready.any_listener = options_.any_listener;
    auto got = ticket.ready(plan.address, ready);
    if (!got) return refuse(got.error());  // a ticket that stays is given back at its end
    if (now_ns() >= until) {
      complain("unable to lease " + escape(options_.model) + ": not ready at " + plan.address +
               " (" + options_.ready + ") within " + format_duration(options_.timeout_ns) +
               "; it is loaded now, for those who wait; raise --timeout");
      return kLeaseRefused;
    }
    if (!options_.any_listener && plan.check.kind != ReadyCheck::Kind::kDelay &&
        listener.by == ListenedBy::kUnknown) {
      complain("note: whether it is the backend of " + escape(options_.model) +
               " that answers at " + escape(plan.address) + " cannot be told: " + listener.why);
    }
    *lease = std::move(*got);
    return 0;
  }

  std::string answers_instead(const Plan& plan, const Listener& listener) const {
    return "at " + plan.address + " answers process " + std::to_string(listener.pid) + " (" +
           listener.command + "), not the backend";
  }

  // Our own end, or our own fault, and not the model's: who comes next may load it at once.
  int give_back(LoadTicket& ticket, int code, const std::string& reason,
                const std::string& advice) {
    static_cast<void>(ticket.give_back());
    complain("unable to load " + escape(options_.model) + ": " + escape(reason) + "; " +
             escape(advice));
    return code;
  }

  int fail_load(LoadTicket& ticket, const std::string& advice, const std::string& ended) {
    std::string reason = "it ended before it was ready";
    if (auto failed = ticket.fail(reason); !failed) {  // the pool knows how it ended
      // The coordinator ended the load first, and knows why.
      const auto history = find_history(segment_of(pool_), options_.model);
      if (!history || history->failures == 0) {
        complain(failed.error().text);
        return kLeaseRefused;
      }
      reason = field_text(history->error);
    }
    complain("unable to load " + escape(options_.model) + ": " + escape(reason) + ended + "; " +
             escape(advice));
    return kLeaseRefused;
  }

  const Options& options_;
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

Result<Grant> acquire(Pool& pool, const Options& options, const SignalInbox& inbox,
                      std::uint64_t until_ns) {
  AcquireOptions asked;
  asked.tag = options.tag;
  asked.busy_timeout = std::chrono::nanoseconds(options.busy_timeout_ns);
  asked.keep_alive = options.keep_alive;
  asked.expected_bytes = options.size_bytes;
  // Without time to load it a ticket would only become a failed load.
  asked.may_load = !options.start.empty() && options.timeout_ns > 0;
  const StopOnSignal stop(inbox);
  asked.stop = stop.token();
  const auto wait = std::chrono::nanoseconds(kDefaultTimeout_ns);
  auto grant =
      pool.acquire(options.model, std::chrono::nanoseconds(age_ns(until_ns, now_ns())), asked);
  // The default is for the wait; a load, somebody else's too, may take as long as the pool lets it.
  while (!grant && grant.error().code == Errc::kTimeout && !options.has_timeout() &&
         is_loading(segment_of(pool), options.model)) {
    grant = pool.acquire(options.model, wait, asked);
  }
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
  if (const auto why = why_not_runnable(command[0])) return complain_not_run(command[0], *why);

  SignalInbox inbox;
  const auto give_up = [&](const Error& error) {
    return error.code == Errc::kCancelled ? interrupted(options.model, inbox) : refuse(error);
  };
  const std::uint64_t begun = now_ns();
  const std::uint64_t until =
      add_ns(begun, options.has_timeout() ? options.timeout_ns : kDefaultTimeout_ns);
  auto pool = attach(context, inbox, until);
  if (!pool) return give_up(pool.error());
  auto grant = acquire(*pool, options, inbox, until);
  if (!grant) return give_up(grant.error());
  Lease held;
  if (auto* ticket = std::get_if<LoadTicket>(&*grant)) {
    const int code = Load(options, *pool, inbox, begun).run(*ticket, plan, &held);
    if (code != 0) return code;
    plan.port = HeldPort();
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
      "With --start the model is loaded when nobody has: sh -c 'CMD', in a session of its own, "
      "with\n"
      "stdout and stderr appended to --log. A single command takes the shell's place; so it may\n"
      "begin with NAME=VALUE, and in 'cd DIR && exec SERVER' it is good to write exec. {port} in "
      "CMD\n"
      "and in --address becomes a free port. The backend outlives poolctl: the pool's timeouts "
      "and\n"
      "limits end it, or poolctl evict.\n\n"
      "--ready says how to see that it answers: tcp, a connection is accepted; http:/path, a GET\n"
      "returns 2xx; delay:DURATION, that much time has passed. An answer counts if it is the "
      "backend's\n"
      "own processes that listen there; with --any-listener, any process does (a "
      "container's proxy).\n\n"
      "--timeout covers the wait for a place and the load. Without it the wait is 30s and the "
      "load\n"
      "may take the pool's load_timeout. A load that takes longer is ended, without a cool-down, "
      "but\n"
      "for those who wait for the model by then: it goes on for them.\n\n"
      "--keep-alive takes the place of the model's idle_timeout, from now on, for everybody; the "
      "last\n"
      "one that is asked for wins. It ends with the backend.\n\n"
      "A load fails, and the model cools down, when its process ends before it is ready. What "
      "poolctl\n"
      "was told wrong (a program that cannot be run, a --log that cannot be opened, an --address "
      "that\n"
      "is taken) fails nothing and ends with 125; what a list of commands cannot run is the "
      "shell's to\n"
      "say, and fails the load.\n\n"
      "Exit codes: that of COMMAND; 128+N if signal N ended it, or poolctl before COMMAND ran;\n"
      "124 timed out or refused (not loaded and no --start, queue full, load failed...);\n"
      "125 poolctl failed or was used wrongly; 126 COMMAND could not run; 127 it was not found.\n\n"
      "Examples:\n"
      "  poolctl lease llama-3-8b -- curl -s http://127.0.0.1:8080/health\n"
      "  poolctl lease whisper --start 'whisper-server --port {port}' --ready http:/health \\\n"
      "      --timeout 5m --size 3GiB -- sh -c 'curl -s \"http://$MODELPOOL_ADDRESS/\"'\n"
      "  poolctl lease big --start 'CUDA_VISIBLE_DEVICES=1 server --port {port}' -- ./ask\n"
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
        add_flag(command, "--pin", &options->pin, "Pin the backend when it is loaded here"),
        add_flag(command, "--any-listener", &options->any_listener,
                 "Take the answer of any process that listens there")})
    needs(option, start);
  add_duration(command, "--timeout", &options->timeout_ns,
               "Wait at most this long, load included (30s without the load); 0: do not wait");
  add_duration(command, "--busy-timeout", &options->busy_timeout_ns,
               "Kill the backend if this lease lasts longer (the pool's rules only)", true);
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
  add_text(command, "--tag", "TEXT", &options->tag, "Text shown with the lease, at most 31 bytes");
}

}  // namespace modelpool::poolctl
