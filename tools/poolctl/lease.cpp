// poolctl lease: run a command while it holds a lease, loading the model first if need be.
#include <sys/eventfd.h>

#include <algorithm>
#include <array>

#include "base/name.hpp"
#include "loading.hpp"

namespace modelpool::poolctl {
namespace {

struct Options : LoadOptions {
  std::string start;
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
  LoadPlan plan;
  if (options.may_load) {
    auto made = make_load_plan(options, {options.start});
    if (!made) return misused(made.error());
    plan = std::move(*made);
    const std::string line = plan.argv[0];
    plan.program = program_of(line);
    plan.argv = {"sh", "-c", shell_line(line)};
  }
  if (const auto why = why_not_runnable(command[0])) return complain_not_run(command[0], *why);

  SignalInbox inbox;
  Loaded held;
  if (const int code = obtain(context, options, &plan, inbox, &held); code != 0) return code;
  const std::string pid = held.lease.pid() == 0 ? "" : std::to_string(held.lease.pid());
  // Without it an overdue COMMAND costs the backend, and everybody else's requests there.
  const Fd asked(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (asked) static_cast<void>(held.lease.notify_cancel(asked.get()));
  const int code =
      run_command(command,
                  {"MODELPOOL_MODEL=" + options.model, "MODELPOOL_ADDRESS=" + held.lease.address(),
                   "MODELPOOL_PID=" + pid},
                  inbox, asked.get(),
                  [&held] { complain("COMMAND is told to end: " + held.lease.cancel_reason()); });
  if (auto lives = held.lease.progress(); !lives && lives.error().code == Errc::kLeaseLost)
    complain(lives.error().text);
  return code;
}

}  // namespace

void add_lease(CLI::App& root, Context& context, const std::vector<std::string>& command_line) {
  const auto options = std::make_shared<Options>();
  options->verb = "lease";
  options->command = "--start";
  options->may_load = false;
  CLI::App* command = add_command(
      root, context, "lease",
      "Run COMMAND while holding a lease on MODEL, as flock(1) does with a lock",
      "Write COMMAND and its arguments after --. It finds MODELPOOL_MODEL, MODELPOOL_ADDRESS and\n"
      "MODELPOOL_PID (empty for an external backend) in its environment. SIGINT, SIGTERM, SIGHUP,\n"
      "SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to it; it is killed if poolctl is killed. When "
      "the\n"
      "request takes longer than the pool allows, COMMAND gets SIGTERM first; the backend is "
      "killed "
      "only\n"
      "if that does not end it in time (on_overdue).\n\n"
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
        options->may_load = true;
      },
      "Load the model with this command line if need be");
  add_load_options(command, options, start);
  add_wait_options(command, options);
  add_duration(command, "--busy-timeout", &options->busy_timeout_ns,
               "Kill the backend if this lease lasts longer (the pool's rules only)", true);
}

}  // namespace modelpool::poolctl
