// poolctl load: load a model without a request.
#include "base/duration.hpp"
#include "base/name.hpp"
#include "base/time.hpp"
#include "json.hpp"
#include "loading.hpp"
#include "progress.hpp"

namespace modelpool::poolctl {
namespace {

void print_loaded(const Context& context, const LoadOptions& options, const Loaded& loaded,
                  std::uint64_t took_ns) {
  const pid_t pid = loaded.lease.pid();
  if (context.json) {
    print_json({{"model", json_text(options.model)},
                {"address", json_text(loaded.lease.address())},
                {"pid", json_pid(pid)},
                {"loaded_here", loaded.here},
                {"took_ms", json_ms(took_ns)}});
    return;
  }
  print(escape(options.model) + " is loaded" +
        (loaded.here ? " in " + format_age(took_ns) : " already") + ", at " +
        escape(loaded.lease.address()) + (pid == 0 ? "" : ", pid " + std::to_string(pid)) + "\n");
}

int load(const Context& context, LoadOptions options, const std::vector<std::string>& command) {
  if (command.empty()) {
    complain("unable to load " + escape(options.model) +
             ": there is no COMMAND; write -- COMMAND... at the end");
    return kLeaseFailed;
  }
  if (auto ok = check_tag(options.tag); !ok) {
    complain(ok.error().text);
    return kLeaseFailed;
  }
  auto plan = make_load_plan(options, command);
  if (!plan) {
    complain(plan.error().text);
    return kLeaseFailed;
  }
  if (const auto why = why_not_runnable(plan->argv[0]))
    return complain_not_run(plan->argv[0], *why);

  SignalInbox inbox;
  Progress progress(options.model);
  options.progress = [&progress](const std::string& phase) { progress.tell(phase); };
  const std::uint64_t begun_ns = now_ns();
  Loaded loaded;
  if (const int code = obtain(context, options, &*plan, inbox, &loaded); code != 0) return code;
  progress.clear();
  print_loaded(context, options, loaded, age_ns(now_ns(), begun_ns));
  return kDone;
}

}  // namespace

void add_load(CLI::App& root, Context& context, const std::vector<std::string>& command_line) {
  const auto options = std::make_shared<LoadOptions>();
  options->verb = "load";
  options->command = "COMMAND";
  CLI::App* command = add_command(
      root, context, "load",
      "Load MODEL without a request, by running COMMAND if nobody has loaded it",
      "Write COMMAND and its arguments after --. {port} in them and in --address becomes a free "
      "port.\n"
      "COMMAND runs in a session of its own, with stdout and stderr appended to --log; it "
      "outlives\n"
      "poolctl: the pool's timeouts and limits end it, or poolctl evict. It is run without a "
      "shell;\n"
      "write sh -c '...' for one.\n\n"
      "Waits for a place, as a request does, until the model is ready, and says meanwhile on "
      "stderr\n"
      "what it waits for. If another process loads the model, or has, that is waited for and "
      "COMMAND\n"
      "is not run. At the end it prints where the model answers; the time it was loaded counts as "
      "its\n"
      "last use.\n\n"
      "--ready, --timeout and when a load fails: see poolctl lease --help.\n\n"
      "Exit codes: 0 it is loaded; 124 timed out or refused (queue full, load failed...); 125 "
      "poolctl\n"
      "failed or was used wrongly; 126 COMMAND could not run; 127 it was not found; 128+N ended "
      "by\n"
      "signal N.\n\n"
      "Examples:\n"
      "  poolctl load llama-3-8b --ready http:/health -- llama-server --port {port} -m llama.gguf\n"
      "  poolctl load embedder --pin --size 1GiB --timeout 5m -- embed --listen 127.0.0.1:{port}\n"
      "  poolctl load tts --address unix:/tmp/tts.sock --keep-alive 1h -- tts --socket "
      "/tmp/tts.sock\n",
      [&context, options, &command_line] { return load(context, *options, command_line); });
  // CLI11 never sees COMMAND.
  set_usage(command, "Usage: poolctl load MODEL [OPTIONS] -- COMMAND...\n");
  add_model(command, &options->model);
  add_load_options(command, options, nullptr);
  add_wait_options(command, options);
}

}  // namespace modelpool::poolctl
